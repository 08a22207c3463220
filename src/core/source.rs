//! The life of one source: fetching, live, renewing, capped, rotating, retiring, ended.
//!
//! This file holds the state and the rules that need nothing but it; the engine joins them with tokens,
//! names and handles. Invariants:
//! - at most one read in flight, at most two generations;
//! - the end of a generation is a comparison with `now`, never the work of a timer;
//! - a failed renewal never mints: only [`Bucket`] lets a mint through.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::bucket::Bucket;
use crate::core::effect::{Credential, Minting, ReadRequest, Urgency};
use crate::core::error::Failure;
use crate::core::name::{FileId, GenerationId, HandleId, IdentityId, Ino, LeaseId, RequestId, Ticket};
use crate::core::time::{BootTime, Chance, UnixTime, scaled};

/// One Vault read with one identity, and how its values are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceSpec {
    /// Who reads it.
    pub identity: IdentityId,
    /// What is read.
    pub request: ReadRequest,
    /// How long it is kept.
    pub policy: SourcePolicy,
    /// Whether a directory shows its fields as files, besides the declared files.
    pub fields: bool,
}

/// How long a source's values are kept and what keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourcePolicy {
    /// Whether its lease is renewed.
    pub renew: Renew,
    /// For how long a KV value is fresh.
    pub max_age: Duration,
    /// For how much longer it is served while Vault can't be asked, and for how long old handles live on.
    pub grace: Duration,
    /// How long after the last open a lease counts as in use; `None`: two lease durations.
    pub idle_timeout: Option<Duration>,
    /// What becomes of a lease that is not in use any more.
    pub on_idle: OnIdle,
}

/// When a lease is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renew {
    /// While it is open, or was lately.
    InUse,
    /// Used or not.
    Always,
    /// Used or not, from the mount on: what ends is fetched again by itself.
    Required,
    /// Never: it lapses.
    Never,
}

/// What becomes of a lease that is not in use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnIdle {
    /// It is not renewed, and so lapses.
    Lapse,
    /// It is given back at once.
    Revoke,
}

/// The bytes of a file, as far as the core must know them.
pub trait Body {
    /// How many bytes there are.
    fn size(&self) -> u64;
    /// Whether two bodies hold the same bytes; tells a changed KV secret that has no version.
    fn same_as(&self, other: &Self) -> bool;
}

/// What one body belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Piece {
    /// A declared file.
    File(FileId),
    /// A field that a directory shows.
    Field(String),
    /// All values, as they came: what a file of several sources is composed of.
    Values,
}

/// An answer of Vault, rendered.
#[derive(Debug)]
pub struct Fetched<B> {
    /// The clock before the request was sent.
    pub sent: BootTime,
    /// The wall clock at the answer, for `mtime` where Vault names no better time.
    pub received: UnixTime,
    /// What kind of thing it is.
    pub kind: FetchedKind,
    /// The bytes of each file; a file that can't be rendered has its own failure.
    pub bodies: BTreeMap<Piece, Result<Arc<B>, Failure>>,
}

/// What kind of thing an answer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchedKind {
    /// A KV secret.
    Kv {
        /// KV v2: its version.
        version: Option<u64>,
        /// KV v2: when the version was written.
        created: Option<UnixTime>,
        /// KV v2: when the version will be deleted.
        deleted: Option<BootTime>,
    },
    /// Minted under a lease.
    Leased {
        /// The lease.
        lease: LeaseId,
        /// What was granted, from `sent` on.
        duration: Duration,
        /// Whether it can be renewed.
        renewable: bool,
    },
    /// Reading it mints nothing: Vault itself replaces it in place, without overlap (a static role's
    /// password).
    Static {
        /// How long until Vault means to replace it, from `sent` on, rounded to the nearest second.
        ttl: Duration,
        /// When it became valid.
        rotated: UnixTime,
    },
    /// Neither.
    Other {
        /// Whether reading again makes a new one.
        minted: bool,
        /// When it stops being valid.
        ends: Option<BootTime>,
    },
}

/// What keeps a generation valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Validity {
    /// Reading again costs nothing: fresh until then, and a grace longer.
    Kv {
        /// KV v2: its version.
        version: Option<u64>,
        /// Until when it is served without asking.
        fresh_until: BootTime,
        /// When Vault will delete it.
        deleted: BootTime,
    },
    /// Reading again costs nothing, and shows the next one only once this one has ended.
    Static {
        /// Until when it is served without asking.
        fresh_until: BootTime,
        /// When it counts as replaced.
        ends: BootTime,
    },
    /// A lease.
    Leased(Lease),
    /// It has its own end and nothing can move it (a certificate).
    Fixed {
        /// When to replace it, if it is in use.
        replace: BootTime,
    },
}

/// A lease and what happens to it next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Vault's name of it.
    pub id: LeaseId,
    /// What was granted at first; asked for at each renewal.
    pub duration: Duration,
    /// The clock before the last grant was asked for.
    pub granted: BootTime,
    /// When Vault ends it at the latest: counted from the answer, and as if a renewal whose answer is not
    /// there had been granted.
    pub expires: BootTime,
    /// What happens next.
    pub next: Next,
    /// Whether renewing it can help: Vault says so, and it has not reached its cap.
    pub renewable: bool,
    /// When it is asked about, in case it was revoked in Vault.
    pub look_up: LookUp,
}

/// What happens next to a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Next {
    /// Renew it then.
    Renew {
        /// When.
        at: BootTime,
    },
    /// A renewal is on its way.
    Renewing {
        /// Which.
        #[serde(skip)]
        request: RequestId,
        /// The clock before it was sent.
        sent: BootTime,
        /// When Vault ends the lease at the latest if nothing comes of it.
        otherwise: BootTime,
    },
    /// It can't be extended: replace it then.
    Rotate {
        /// When.
        at: BootTime,
    },
}

/// When a lease is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LookUp {
    /// Then.
    At(BootTime),
    /// The question is on its way.
    InFlight(#[serde(skip)] RequestId),
    /// Vault does not let this token ask.
    NotAllowed,
}

/// One result of a source.
#[derive(Debug)]
pub struct Generation<B> {
    /// Which one.
    pub id: GenerationId,
    /// The token that obtained it; it never outlives that.
    pub with: Credential,
    /// For `mtime`.
    pub issued: UnixTime,
    /// What keeps it valid.
    pub validity: Validity,
    /// Its own end, the token's aside.
    pub end: BootTime,
    /// When it is asked about again while a program has it open: a little before it would count as stale, and
    /// not all files of one moment at once. For what is free to read.
    pub ask: BootTime,
    /// The bytes of each file.
    pub bodies: BTreeMap<Piece, Result<Arc<B>, Failure>>,
    /// How many bytes they are in all.
    pub bytes: u64,
    /// Who has it open.
    pub handles: BTreeSet<HandleId>,
}

impl<B: Body> Generation<B> {
    /// A fresh generation.
    pub fn new(
        id: GenerationId,
        with: Credential,
        fetched: Fetched<B>,
        policy: &SourcePolicy,
        settings: &LeaseSettings,
        chance: Chance,
    ) -> Generation<B> {
        let Fetched { sent, received, kind, bodies } = fetched;
        let bytes = bodies.values().flatten().map(|body| body.size()).sum();
        let early = chance.between(0.9, 1.0, id.0);
        let (validity, end, issued) = match kind {
            FetchedKind::Kv { version, created, deleted } => {
                let (fresh_until, deleted) = (sent + policy.max_age, deleted.unwrap_or(BootTime::NEVER));
                let end = (fresh_until + policy.grace).min(deleted);
                (Validity::Kv { version, fresh_until, deleted }, end, created)
            }
            FetchedKind::Leased { lease, duration, renewable } => {
                let next = if renewable && policy.renew != Renew::Never {
                    Next::Renew { at: renewal_time(sent, duration, chance, id) }
                } else {
                    Next::Rotate { at: sent + scaled(duration, chance.between(0.66, 0.80, id.0)) }
                };
                // Leases of one moment are not asked about in one moment.
                let first = scaled(settings.revocation_check, chance.between(0.5, 1.0, !id.0));
                let look_up = LookUp::At(sent + first);
                let (granted, expires) = (sent, sent + duration);
                let lease = Lease { id: lease, duration, granted, expires, next, renewable, look_up };
                (Validity::Leased(lease), lease_end(sent, duration), None)
            }
            FetchedKind::Static { ttl, rotated } => {
                let ends = static_end(sent, ttl);
                let fresh_until = (sent + policy.max_age.min(settings.revocation_check)).min(ends);
                let end = (fresh_until + policy.grace).min(ends);
                (Validity::Static { fresh_until, ends }, end, Some(rotated))
            }
            FetchedKind::Other { minted: false, ends: None } => {
                let fresh_until = sent + policy.max_age;
                let validity = Validity::Kv { version: None, fresh_until, deleted: BootTime::NEVER };
                (validity, fresh_until + policy.grace, None)
            }
            FetchedKind::Other { minted, ends } => {
                let end = ends.unwrap_or(BootTime::NEVER);
                let replace = match minted {
                    false => end,
                    true if end == BootTime::NEVER => end,
                    true => sent + scaled(end.since(sent), chance.between(0.66, 0.80, id.0)),
                };
                (Validity::Fixed { replace }, end, None)
            }
        };
        let issued = issued.unwrap_or(received);
        let handles = BTreeSet::new();
        let mut new = Generation { id, with, issued, validity, end, ask: end, bodies, bytes, handles };
        if let Some(fresh_until) = new.fresh_until() {
            new.ask = sent + scaled(fresh_until.since(sent), early);
        }
        new
    }

    /// Whether `other` shows the same secret: the same version, or the same bytes.
    pub fn shows_the_same(&self, other: &Generation<B>) -> bool {
        let same_kind = match (&self.validity, &other.validity) {
            (Validity::Kv { version: mine, .. }, Validity::Kv { version: theirs, .. }) => mine == theirs,
            (Validity::Static { .. }, Validity::Static { .. }) => self.issued == other.issued,
            _ => false,
        };
        same_kind
            && self.bodies.len() == other.bodies.len()
            && self.bodies.iter().zip(&other.bodies).all(|((piece, body), (other_piece, other_body))| {
                piece == other_piece
                    && match (body, other_body) {
                        (Ok(body), Ok(other)) => body.same_as(other),
                        (Err(failure), Err(other)) => failure == other,
                        _ => false,
                    }
            })
    }

    /// The bytes of one file, or why there are none; `None` if there is nothing of it.
    pub fn body_of(&self, piece: &Piece) -> Option<Result<&Arc<B>, &Failure>> {
        self.bodies.get(piece).map(Result::as_ref)
    }

    /// Whether it may be served without asking Vault.
    pub fn is_fresh(&self, now: BootTime) -> bool {
        self.fresh_until().is_none_or(|until| now < until)
    }

    /// Until when it is served without asking Vault, if it is asked again before its end at all.
    pub fn fresh_until(&self) -> Option<BootTime> {
        match &self.validity {
            Validity::Kv { fresh_until, .. } | Validity::Static { fresh_until, .. } => Some(*fresh_until),
            Validity::Leased(_) | Validity::Fixed { .. } => None,
        }
    }

    /// Whether it costs nothing to read it again: a KV secret, a static role's password.
    pub fn is_free(&self) -> bool {
        self.fresh_until().is_some()
    }

    /// Its natural end: what Vault itself has set and no renewal moves.
    pub fn natural_end(&self) -> BootTime {
        match &self.validity {
            Validity::Kv { deleted: end, .. } | Validity::Static { ends: end, .. } => *end,
            Validity::Leased(_) => BootTime::NEVER,
            Validity::Fixed { .. } => self.end,
        }
    }

    /// Its lease, if it has one.
    pub fn lease(&self) -> Option<&Lease> {
        match &self.validity {
            Validity::Leased(lease) => Some(lease),
            Validity::Kv { .. } | Validity::Static { .. } | Validity::Fixed { .. } => None,
        }
    }

    /// Its lease, if it has one.
    pub fn lease_mut(&mut self) -> Option<&mut Lease> {
        match &mut self.validity {
            Validity::Leased(lease) => Some(lease),
            Validity::Kv { .. } | Validity::Static { .. } | Validity::Fixed { .. } => None,
        }
    }
}

/// What all leases of a mount have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseSettings {
    /// How often leases in use are looked up.
    pub revocation_check: Duration,
    /// The longest that a caller waits.
    pub read_timeout: Duration,
}

/// The longest that Vault may still honour what counts as over here.
pub const LONGEST_MARGIN: Duration = Duration::from_secs(2);

/// When a lease counts as over: a little before Vault ends it, so that no dead credential is shown. The
/// margin is 2 % of the lease, at least 100 ms, at most 2 s.
pub fn lease_end(sent: BootTime, duration: Duration) -> BootTime {
    let margin = scaled(duration, 0.02).clamp(Duration::from_millis(100), LONGEST_MARGIN);
    sent + duration.saturating_sub(margin)
}

/// When a static role's password counts as replaced. Vault rounds its `ttl` to the nearest second
/// (measured with OpenBao 2.7), so it may be half a second less than it says.
pub fn static_end(sent: BootTime, ttl: Duration) -> BootTime {
    sent + ttl.saturating_sub(Duration::from_millis(500))
}

/// When to renew a lease: between half and two thirds of it, so that many leases of one moment do not
/// come back in one.
pub fn renewal_time(sent: BootTime, duration: Duration, chance: Chance, id: GenerationId) -> BootTime {
    sent + scaled(duration, chance.between(0.50, 0.66, id.0))
}

/// Whether Vault granted less than was asked, so that `max_ttl` is near (it is no error there).
pub fn is_capped(granted: Duration, asked: Duration) -> bool {
    granted + Duration::from_secs(1) < asked
}

/// The read of a source that is wanted or on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetch {
    /// None.
    Idle,
    /// Wanted; it waits for a token, or for its bucket until `not_before`.
    Queued {
        /// Whether it may mint.
        minting: Minting,
        /// Who waits.
        urgency: Urgency,
        /// Not before that.
        not_before: BootTime,
    },
    /// On its way.
    InFlight {
        /// Which request.
        request: RequestId,
        /// With which token.
        with: Credential,
        /// Whether it may mint.
        minting: Minting,
        /// Who waits.
        urgency: Urgency,
        /// Since when.
        since: BootTime,
    },
}

/// A source and what is known of it.
#[derive(Debug)]
pub struct Source<B> {
    /// What it is.
    pub spec: SourceSpec,
    /// Stays although nothing uses it: the configuration names it.
    pub declared: bool,
    /// What opens get.
    pub current: Option<Generation<B>>,
    /// What handles opened before a rotation still read.
    pub previous: Option<Generation<B>>,
    /// The read on its way.
    pub fetch: Fetch,
    /// The read on its way is slow: whoever can be shown a stale value has been shown it.
    pub slow: bool,
    /// Callers that wait for it.
    pub waiters: BTreeSet<Ticket>,
    /// When a program last opened one of its files.
    pub last_open: Option<BootTime>,
    /// Why the last read failed; none after a success.
    pub failure: Option<Failure>,
    /// Why the last renewal failed; none after a success.
    pub renewal_failure: Option<Failure>,
    /// Whether reading it mints, once known.
    pub mints: Option<bool>,
    /// Its names that the kernel may hold.
    pub nodes: BTreeSet<Ino>,
    /// Mints that the engine wants by itself.
    pub upkeep_mints: Bucket,
    /// Mints that programs wait for.
    pub reader_mints: Bucket,
    /// It is served by another engine than KV, and reading it has minted nothing.
    pub free_elsewhere: bool,
    /// Since when Vault is about to replace what it shows in place, and has not done so.
    pub replacing_since: Option<BootTime>,
    /// The duration of its last lease, or for how long Vault leaves it as it is; tells how long it counts
    /// as in use.
    pub lease_duration: Duration,
    /// How long that lease could be used at all: its token may end before it. For the bucket.
    pub usable: Duration,
    /// Reads that failed in a row.
    pub failures: u32,
    /// Nobody asks again by himself before that.
    pub not_before: BootTime,
}

impl<B: Body> Source<B> {
    /// A source that nobody asked for yet.
    pub fn new(spec: SourceSpec, declared: bool) -> Source<B> {
        let mints = match spec.request.engine {
            crate::core::effect::EngineHint::Kv1 | crate::core::effect::EngineHint::Kv2 => Some(false),
            crate::core::effect::EngineHint::Other => Some(true),
            crate::core::effect::EngineHint::Auto => spec.request.params.is_some().then_some(true),
        };
        Source {
            spec,
            declared,
            current: None,
            previous: None,
            fetch: Fetch::Idle,
            slow: false,
            waiters: BTreeSet::new(),
            last_open: None,
            failure: None,
            renewal_failure: None,
            mints,
            nodes: BTreeSet::new(),
            upkeep_mints: Bucket::FULL,
            reader_mints: Bucket::FULL,
            free_elsewhere: false,
            replacing_since: None,
            lease_duration: Duration::ZERO,
            usable: Duration::ZERO,
            failures: 0,
            not_before: BootTime(0),
        }
    }

    /// Whether a program has it open, on either generation.
    pub fn is_open(&self) -> bool {
        [&self.current, &self.previous].into_iter().flatten().any(|one| !one.handles.is_empty())
    }

    /// Whether a program uses it: it is open, or was lately, or is to be kept in any case.
    pub fn in_use(&self, now: BootTime) -> bool {
        matches!(self.spec.policy.renew, Renew::Always | Renew::Required)
            || self.is_open()
            || self.idle_from().is_some_and(|idle| now < idle)
    }

    /// From when on it does not count as in use, unless it is open or opened again.
    pub fn idle_from(&self) -> Option<BootTime> {
        let idle_timeout = self.spec.policy.idle_timeout.unwrap_or(self.lease_duration.saturating_mul(2));
        Some(self.last_open? + idle_timeout)
    }

    /// The generation with this id, if it is still there.
    pub fn generation(&self, id: GenerationId) -> Option<&Generation<B>> {
        [&self.current, &self.previous].into_iter().flatten().find(|one| one.id == id)
    }

    /// The generation with this id, if it is still there.
    pub fn generation_mut(&mut self, id: GenerationId) -> Option<&mut Generation<B>> {
        [&mut self.current, &mut self.previous].into_iter().flatten().find(|one| one.id == id)
    }

    /// Asks the bucket for a mint: one per second where a program waits for it, one per tenth of a lease
    /// where the engine itself wants it.
    ///
    /// # Errors
    /// When to ask again.
    pub fn take_mint(&mut self, now: BootTime, urgency: Urgency) -> Result<(), BootTime> {
        let shortest = Duration::from_secs(1);
        match urgency {
            Urgency::Reader => self.reader_mints.take(now, shortest),
            Urgency::Renewal | Urgency::Background => {
                self.upkeep_mints.take(now, (self.usable / 10).max(shortest))
            }
        }
    }

    /// The mint that was taken has made nothing.
    pub fn put_mint_back(&mut self, urgency: Urgency) {
        match urgency {
            Urgency::Reader => self.reader_mints.put_back(),
            Urgency::Renewal | Urgency::Background => self.upkeep_mints.put_back(),
        }
    }

    /// Whether anything but its declaration keeps it.
    pub fn is_idle(&self) -> bool {
        self.current.is_none()
            && self.previous.is_none()
            && self.fetch == Fetch::Idle
            && self.waiters.is_empty()
            && self.nodes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_lease_counts_as_over_a_little_before_vault_ends_it() {
        for (lease, margin_ms) in [(1, 100), (10, 200), (20, 400), (60, 1200), (100, 2000), (3600, 2000)] {
            let end = lease_end(BootTime(0), S * lease);
            assert_eq!(end, BootTime(0) + S * lease - Duration::from_millis(margin_ms), "{lease} s");
        }
    }

    #[test]
    fn a_lease_shorter_than_its_margin_is_over_at_once() {
        assert_eq!(lease_end(BootTime(7), Duration::from_millis(50)), BootTime(7));
    }

    #[test]
    fn a_grant_of_a_second_less_is_rounding_and_not_the_cap() {
        assert!(!is_capped(S * 19, S * 20));
        assert!(is_capped(S * 18, S * 20));
        assert!(!is_capped(S * 25, S * 20));
    }
}

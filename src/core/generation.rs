//! One result of a source: its values, what keeps it valid, and its end.
//!
//! Invariant: the end of a generation is a comparison with `now`, never the work of a timer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::effect::Credential;
use crate::core::error::Failure;
use crate::core::name::{FileId, GenerationId, HandleId, LeaseId, RequestId};
use crate::core::policy::{LeaseSettings, Renew, SourcePolicy, lease_end, renewal_time, static_end};
use crate::core::time::{BootTime, Chance, UnixTime, scaled};

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

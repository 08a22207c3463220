//! The life of one source: fetching, live, renewing, capped, rotating, retiring, ended.
//!
//! This file holds the state and the rules that need nothing but it; the engine joins them with tokens,
//! names and handles. Invariants:
//! - at most one read in flight, at most two generations;
//! - a failed renewal never mints: only [`Bucket`] lets a mint through.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::core::bucket::Bucket;
use crate::core::effect::{Credential, Minting, ReadRequest, Urgency};
use crate::core::error::Failure;
use crate::core::generation::{Body, Generation};
use crate::core::name::{GenerationId, IdentityId, Ino, RequestId, Ticket, TokenId};
use crate::core::policy::{Renew, SourcePolicy};
use crate::core::time::BootTime;

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
    /// The token that its last read with a dead one went out with.
    pub lost_with: Option<TokenId>,
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
            lost_with: None,
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

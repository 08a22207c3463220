//! Reads of sources: who may cause one, what becomes of its answer.

use crate::core::effect::{Credential, Effect, End, Minting, Report, Urgency};
use crate::core::engine::late::SLOW;
use crate::core::engine::publishing::Taken;
use crate::core::engine::tokens::Loss;
use crate::core::engine::waiting::Start;
use crate::core::engine::{Effects, Engine};
use crate::core::error::{Failure, Fault, FsError};
use crate::core::generation::{Body, Fetched, FetchedKind, Generation};
use crate::core::identity::{LoginState, backoff_ceiling};
use crate::core::name::{GenerationId, IdentityId, RequestId, SourceId};
use crate::core::source::Fetch;
use crate::core::sources::Sources;
use crate::core::time::{BootTime, Moment, scaled};

/// What a caller is told whose time is over.
pub(super) const SILENCE: &str = "Vault did not answer within read-timeout; the request is still under way";

/// As [`SILENCE`], while Vault is about to replace a static role's password.
const REPLACING: &str =
    "Vault is about to replace this static role's password and has not done so within read-timeout";

/// What became of a read.
#[derive(Debug)]
pub enum FetchResult<B> {
    /// The secret.
    Secret(Fetched<B>),
    /// It is no KV secret, and the read was not allowed to mint: nothing was read.
    WouldMint,
    /// It failed.
    Failed(Failure),
}

/// How a source stands for a caller who wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    /// It can be shown, or there is nothing to show without minting.
    Ready,
    /// A read is on its way.
    Waiting,
    /// It can't be shown.
    Failed(FsError),
}

impl<B: Body> Engine<B> {
    /// A caller wants a file. Starts the reads that are needed and allowed; returns those that are on their way.
    ///
    /// # Errors
    /// The first source that can't be shown.
    pub(super) fn demand_all(
        &mut self,
        at: Moment,
        sources: &Sources,
        minting: Minting,
        start: Start,
        fx: &mut Effects,
    ) -> Result<Vec<SourceId>, FsError> {
        let mut waiting = Vec::new();
        if minting == Minting::Forbidden && self.takes_an_open(at.now, sources) {
            return Ok(waiting);
        }
        for id in sources.iter() {
            let start = match start {
                // It was there when the other one was asked for, and is over by now.
                Start::No if sources.are_several() && self.is_over_meanwhile(at.now, id) => Start::Yes,
                start => start,
            };
            match self.demand(at, id, minting, start, fx) {
                Demand::Ready => {}
                Demand::Waiting => waiting.push(id),
                Demand::Failed(error) => return Err(error),
            }
        }
        Ok(waiting)
    }

    /// Whether a file can't be shown before somebody opens it: that takes a credential that is not there.
    pub(super) fn takes_an_open(&self, now: BootTime, sources: &Sources) -> bool {
        let mints = |id: SourceId| self.sources.get(&id).is_some_and(|source| source.mints == Some(true));
        sources.iter().any(|id| mints(id) && self.live(now, id).is_none())
    }

    fn is_over_meanwhile(&self, now: BootTime, id: SourceId) -> bool {
        let failed = self.sources.get(&id).is_none_or(|source| source.failure.is_some());
        !failed && self.live(now, id).is_none()
    }

    /// A caller wants a source. Starts a read where one is needed and allowed.
    pub(super) fn demand(
        &mut self,
        at: Moment,
        id: SourceId,
        minting: Minting,
        start: Start,
        fx: &mut Effects,
    ) -> Demand {
        let live = self.live(at.now, id).map(|generation| generation.is_fresh(at.now));
        let Some(source) = self.sources.get(&id) else { return Demand::Failed(FsError::NoSuchName) };
        if live == Some(true) || (minting == Minting::Forbidden && source.mints == Some(true)) {
            return Demand::Ready;
        }
        match source.fetch {
            // What may still be shown does not wait for a Vault that is slow to confirm it, or does not
            // answer at all.
            Fetch::InFlight { since, .. }
                if live.is_some() && (!self.vault_answers || at.now >= since + SLOW) =>
            {
                return Demand::Ready;
            }
            Fetch::InFlight { .. } => return Demand::Waiting,
            Fetch::Idle if live.is_some() && at.now < source.not_before => return Demand::Ready,
            Fetch::Queued { .. } if start == Start::No => return Demand::Waiting,
            Fetch::Queued { .. } | Fetch::Idle => {}
        }
        if start == Start::Yes {
            let in_passing = live.is_some() && !self.vault_answers;
            let urgency = if in_passing { Urgency::Background } else { Urgency::Reader };
            let no_token = self.start_fetch(at, id, minting, urgency, fx);
            match no_token {
                None if in_passing => return Demand::Ready,
                None => return Demand::Waiting,
                // A login that just failed is not repeated for each caller.
                Some(failure) if live.is_none() => return Demand::Failed(failure.fault.situation()),
                Some(_) => return Demand::Ready,
            }
        }
        match (live, &source.failure) {
            // Past its max-age and Vault can't be asked: stale, until its grace is over.
            (Some(_), _) => Demand::Ready,
            (None, Some(failure)) => Demand::Failed(failure.fault.situation()),
            (None, None) => Demand::Failed(FsError::Unusable),
        }
    }

    /// Starts a read, or queues it until there is a token and its bucket lets it through. Returns a
    /// failure if there is no token and none is on its way.
    pub(super) fn start_fetch(
        &mut self,
        at: Moment,
        id: SourceId,
        minting: Minting,
        urgency: Urgency,
        fx: &mut Effects,
    ) -> Option<Failure> {
        let source = self.sources.get(&id)?;
        if self.stopping {
            return None;
        }
        if self.is_shut(id) {
            return Some(Failure::new(Fault::Refused, "it is locked"));
        }
        let identity = source.spec.identity;
        let minting = match source.fetch {
            // The next look at a password that Vault is about to replace is not hurried.
            Fetch::Queued { not_before, .. } if source.replacing_since.is_some() && at.now < not_before => {
                return None;
            }
            Fetch::Queued { minting: Minting::Allowed, .. } => Minting::Allowed,
            Fetch::Queued { .. } | Fetch::Idle if source.free_elsewhere => Minting::Allowed,
            Fetch::Queued { .. } | Fetch::Idle => minting,
            Fetch::InFlight { .. } => return None,
        };
        let Some(with) = self.identity(identity).credential(at.now) else {
            if let LoginState::Failed { failure, again } = &self.identity(identity).login
                && at.now < *again
            {
                let failure = failure.clone();
                self.note_failure(at, id, failure.clone());
                return Some(failure);
            }
            self.log_in(identity, fx);
            self.identity_mut(identity).waiting_sources.insert(id);
            self.queue_fetch(id, minting, urgency, BootTime::NEVER);
            return None;
        };
        let source = self.sources.get_mut(&id)?;
        if source.mints == Some(true)
            && minting == Minting::Allowed
            && let Err(not_before) = source.take_mint(at.now, urgency)
        {
            self.queue_fetch(id, minting, urgency, not_before);
            return None;
        }
        self.send_read(at, id, with, minting, urgency, fx);
        None
    }

    pub(super) fn queue_fetch(
        &mut self,
        id: SourceId,
        minting: Minting,
        urgency: Urgency,
        not_before: BootTime,
    ) {
        if let Some(source) = self.sources.get_mut(&id) {
            source.fetch = Fetch::Queued { minting, urgency, not_before };
        }
        self.touch_source(id);
    }

    fn send_read(
        &mut self,
        at: Moment,
        id: SourceId,
        with: Credential,
        minting: Minting,
        urgency: Urgency,
        fx: &mut Effects,
    ) {
        let request = self.request();
        let Some(source) = self.sources.get_mut(&id) else { return };
        source.fetch = Fetch::InFlight { request, with, minting, urgency, since: at.now };
        source.slow = false;
        let (read, fields) = (source.spec.request.clone(), source.spec.fields);
        fx.push(Effect::Read { request, source: id, with, read, fields, minting, urgency });
        self.touch_source(id);
    }

    /// A login is there, or the bucket has filled: queued reads go out.
    pub(super) fn resume_fetch(&mut self, at: Moment, id: SourceId, fx: &mut Effects) {
        let Some(Fetch::Queued { minting, urgency, .. }) = self.sources.get(&id).map(|source| source.fetch)
        else {
            return;
        };
        if self.start_fetch(at, id, minting, urgency, fx).is_some() {
            self.give_up_fetch(at, id, fx);
        }
    }

    /// A queued read can't go out: those who wait are told why.
    pub(super) fn give_up_fetch(&mut self, at: Moment, id: SourceId, fx: &mut Effects) {
        if let Some(source) = self.sources.get_mut(&id) {
            source.fetch = Fetch::Idle;
        }
        self.touch_source(id);
        self.wake_waiters_of_source(at, id, Start::No, fx);
    }

    /// A read has come back.
    pub fn fetched(
        &mut self,
        at: Moment,
        id: SourceId,
        request: RequestId,
        with: Credential,
        result: FetchResult<B>,
    ) -> Effects {
        self.run(at, |engine, fx| engine.take_fetched(at, id, request, with, result, fx)).1
    }

    fn take_fetched(
        &mut self,
        at: Moment,
        id: SourceId,
        request: RequestId,
        with: Credential,
        result: FetchResult<B>,
        fx: &mut Effects,
    ) {
        let expected = self.sources.get(&id).and_then(|source| match source.fetch {
            Fetch::InFlight { request: expected, minting, .. } if expected == request => Some(minting),
            Fetch::InFlight { .. } | Fetch::Queued { .. } | Fetch::Idle => None,
        });
        let Some(minting) = expected.filter(|_| !self.stopping) else {
            if expected.is_some() {
                self.fetch_is_over(id);
            }
            self.refuse_late(at, id, with, result, fx);
            return;
        };
        match result {
            FetchResult::Secret(fetched) if self.is_shut(id) => {
                self.fetch_is_over(id);
                self.refuse_late(at, id, with, FetchResult::Secret(fetched), fx);
                self.drop_if_idle(id);
            }
            FetchResult::Secret(fetched) if self.is_about_to_be_replaced(at, id, &fetched) => {
                self.await_replacement(at, id, fx);
            }
            FetchResult::Secret(fetched) => {
                // Until the secret is taken over, its read keeps the source.
                let taken = self.take_secret(at, id, with, fetched, fx);
                self.fetch_is_over(id);
                let again = taken == Taken::CameTooLate
                    && self.start_fetch(at, id, minting, Urgency::Reader, fx).is_none();
                if !again {
                    self.wake_waiters_of_source(at, id, Start::No, fx);
                }
            }
            FetchResult::WouldMint => {
                self.fetch_is_over(id);
                if let Some(source) = self.sources.get_mut(&id) {
                    source.mints = Some(true);
                    if source.current.as_ref().is_some_and(Generation::is_free) {
                        let reason = "another engine serves its path by now: open it anew";
                        self.note_failure(at, id, Failure::new(Fault::Refused, reason));
                    }
                }
                // Programs that opened it meanwhile want more than those that only looked.
                self.wake_waiters_of_source(at, id, Start::Yes, fx);
            }
            FetchResult::Failed(failure) => {
                if failure.fault.made_nothing() {
                    self.put_mint_back(id);
                }
                self.fetch_is_over(id);
                self.take_failure(at, id, with, minting, failure, fx);
            }
        }
        self.drop_unused_tokens(with.identity, fx);
    }

    /// The read on its way has minted nothing: failures must not keep the next one waiting.
    fn put_mint_back(&mut self, id: SourceId) {
        if let Some(source) = self.sources.get_mut(&id)
            && source.mints == Some(true)
            && let Fetch::InFlight { minting: Minting::Allowed, urgency, .. } = source.fetch
        {
            source.put_mint_back(urgency);
        }
    }

    fn fetch_is_over(&mut self, id: SourceId) {
        if let Some(source) = self.sources.get_mut(&id) {
            source.fetch = Fetch::Idle;
        }
        self.touch_source(id);
    }

    /// An answer that nobody waits for any more: what it minted is revoked.
    fn refuse_late(
        &mut self,
        at: Moment,
        id: SourceId,
        with: Credential,
        result: FetchResult<B>,
        fx: &mut Effects,
    ) {
        if let FetchResult::Secret(Fetched { kind: FetchedKind::Leased { lease, duration, .. }, .. }) = result
        {
            let shown = self.sources.get(&id).is_some_and(|source| {
                let generations = [&source.current, &source.previous].into_iter().flatten();
                generations.filter_map(|one| one.lease()).any(|one| one.id == lease)
            });
            if shown {
                // The answer that was taken, once more.
                return;
            }
            // A token that the user gave outlives our use of it, and so do its leases.
            let known = self.identity(with.identity).token(with.token).is_some();
            let with = if known { Some(with) } else { self.identity(with.identity).credential(at.now) };
            let Some(with) = with else { return };
            fx.push(Effect::Report(Report::LateCredential { source: id }));
            self.retire(at, id, lease, with, at.now + duration, fx);
        }
    }

    fn take_failure(
        &mut self,
        at: Moment,
        id: SourceId,
        with: Credential,
        minting: Minting,
        failure: Failure,
        fx: &mut Effects,
    ) {
        let fault = failure.fault;
        // Not twice in a row: whatever failed before, an outage for one, says nothing of the next token. Of the
        // tokens that were there together all may be lost together, the newest one first.
        let is_lost = |known: &Failure| known.fault == Fault::TokenLost;
        let again = fault == Fault::TokenLost
            && self.sources.get(&id).is_some_and(|source| {
                !source.failure.as_ref().is_some_and(is_lost)
                    || source.lost_with.is_some_and(|newer| with.token < newer)
            });
        if fault == Fault::TokenLost {
            self.lose_token(at, with, Loss::Told, fx);
            if let Some(source) = self.sources.get_mut(&id) {
                source.lost_with = Some(with.token);
            }
        }
        self.fail(at, id, failure, fx);
        if again && self.start_fetch(at, id, minting, Urgency::Reader, fx).is_none() {
            // Those who wait get what the next token brings.
            return;
        }
        self.renew_instead(id);
        // Vault has spoken: what it does not give any more is not shown any more.
        let gone = matches!(fault, Fault::NotFound | Fault::Denied);
        if gone {
            let source = self.sources.get(&id);
            let shown = source.into_iter().flat_map(|source| [&source.current, &source.previous]).flatten();
            let free: Vec<GenerationId> = shown.filter(|one| one.is_free()).map(|one| one.id).collect();
            for which in free {
                self.end_generation(at, id, which, End::GoneInVault, fx);
            }
        }
        self.wake_waiters_of_source(at, id, Start::No, fx);
    }

    /// Notes a failure, and tells the operator unless it is the one that he was just told.
    pub(super) fn fail(&mut self, at: Moment, id: SourceId, failure: Failure, fx: &mut Effects) {
        self.report_failure(id, &failure, fx);
        self.note_failure(at, id, failure);
    }

    fn report_failure(&self, id: SourceId, failure: &Failure, fx: &mut Effects) {
        let Some(source) = self.sources.get(&id) else { return };
        if source.failure.as_ref().is_none_or(|known| known.fault != failure.fault) {
            let (path, declared) = (source.spec.request.path.clone(), source.declared);
            let failure = failure.clone();
            fx.push(Effect::Report(Report::FetchFailed { source: id, path, declared, failure }));
        }
    }

    /// A caller's time is over while a read is on its way: that is the reason until the read is back.
    pub(super) fn note_silence(&mut self, id: SourceId, fx: &mut Effects) {
        if self.sources.get(&id).is_none_or(|source| source.fetch == Fetch::Idle) {
            return;
        }
        let replacing = self.sources.get(&id).is_some_and(|source| source.replacing_since.is_some());
        let failure = Failure::new(Fault::TimedOut, if replacing { REPLACING } else { SILENCE });
        self.report_failure(id, &failure, fx);
        if let Some(source) = self.sources.get_mut(&id) {
            source.failure = Some(failure);
        }
    }

    /// Remembers why a read failed, and does not let the engine itself ask again too soon: nor so late that what is
    /// shown would end although it could have been confirmed or replaced.
    pub(super) fn note_failure(&mut self, at: Moment, id: SourceId, failure: Failure) {
        let remaining = self.live(at.now, id).map(|shown| self.end_of(shown).since(at.now));
        let Some(source) = self.sources.get_mut(&id) else { return };
        source.failures = source.failures.saturating_add(1);
        let soonest = backoff_ceiling(1);
        let ceiling = backoff_ceiling(source.failures);
        let ceiling = remaining.map_or(ceiling, |remaining| ceiling.min((remaining / 4).max(soonest)));
        let pause = scaled(ceiling, at.chance.between(0.3, 1.0, u64::from(id.0)));
        source.not_before = at.now + failure.retry_after.map_or(pause, |asked| asked.max(pause));
        source.failure = Some(failure);
        self.touch_source(id);
    }

    /// Sources that wait for this identity's token.
    pub(super) fn resume_all(&mut self, at: Moment, identity: IdentityId, fx: &mut Effects) {
        let (sources, lists) = {
            let identity = self.identity_mut(identity);
            (std::mem::take(&mut identity.waiting_sources), std::mem::take(&mut identity.waiting_lists))
        };
        for id in sources {
            self.resume_fetch(at, id, fx);
        }
        for ino in lists {
            self.resume_list(at, ino, fx);
        }
    }
}

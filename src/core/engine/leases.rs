//! Leases: renewed while in use, replaced before they end, looked up, revoked.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::effect::{Credential, Effect, End, Minting, Report, Urgency};
use crate::core::engine::tokens::Loss;
use crate::core::engine::wakes::WakeKey;
use crate::core::engine::{Effects, Engine};
use crate::core::error::{Failure, Fault};
use crate::core::generation::{Body, Generation, LookUp, Next, Validity};
use crate::core::identity::backoff_ceiling;
use crate::core::name::{GenerationId, LeaseId, RequestId, SourceId};
use crate::core::policy::{OnIdle, Renew, is_capped, lease_end, renewal_time};
use crate::core::source::{Fetch, Source};
use crate::core::time::{BootTime, Moment, scaled};

/// The longest pause between two tries to renew a lease. It is no shorter so that, after an outage, the
/// leases of many mounts do not all come back in one moment; what remains of them allows it.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// What a renewal granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The clock before the request was sent.
    pub sent: BootTime,
    /// How long from then.
    pub duration: Duration,
    /// Whether it can be renewed again.
    pub renewable: bool,
}

/// A lease that is to be revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Retiring {
    pub(super) source: SourceId,
    pub(super) with: Credential,
    pub(super) expires: BootTime,
    pub(super) state: Revocation,
    #[serde(default)]
    pub(super) attempts: u32,
}

/// How far a revocation is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Revocation {
    /// On its way.
    InFlight,
    /// Tried again then.
    Again(BootTime),
    /// Vault does not let this token revoke.
    Refused(Failure),
}

impl Retiring {
    pub(super) fn wake(&self) -> Option<BootTime> {
        match self.state {
            Revocation::Again(at) => Some(at.min(self.expires)),
            Revocation::InFlight | Revocation::Refused(_) => Some(self.expires),
        }
    }

    /// Whether it still takes this token to revoke it.
    pub(super) fn needs(&self, with: Credential) -> bool {
        self.with == with && !matches!(self.state, Revocation::Refused(_))
    }
}

impl<B: Body> Engine<B> {
    /// When a source must be looked at again.
    pub(super) fn source_wake(&self, now: BootTime, id: SourceId) -> Option<BootTime> {
        let source = self.sources.get(&id)?;
        let generations = [&source.current, &source.previous];
        let ends = generations.iter().filter_map(|one| one.as_ref().map(|one| self.end_of(one)));
        let queued = match source.fetch {
            Fetch::Queued { not_before, .. } => Some(not_before),
            Fetch::Idle | Fetch::InFlight { .. } => None,
        };
        let look_ups = generations.iter().filter_map(|one| self.look_up_time(now, source, one.as_ref()?));
        ends.chain(queued)
            .chain(self.upkeep_time(now, id))
            .chain(look_ups)
            .chain(self.stale_answer_time(now, id))
            .chain(giving_up_time(source))
            .chain(self.unpin_time(id))
            .min()
    }

    /// When something must be done to keep a source as it is wanted.
    pub(super) fn upkeep_time(&self, now: BootTime, id: SourceId) -> Option<BootTime> {
        let source = self.sources.get(&id)?;
        let Some(current) = &source.current else {
            let kept = match source.spec.policy.renew {
                Renew::Required => true,
                Renew::Always => source.last_open.is_some(),
                // A static role has a new password by now.
                Renew::InUse => source.free_elsewhere && source.in_use(now),
                Renew::Never => false,
            };
            let wanted = kept && !self.stopping && !self.is_shut(id);
            return (wanted && source.fetch == Fetch::Idle).then_some(source.not_before);
        };
        let replaceable = source.fetch == Fetch::Idle && !self.stopping;
        match &current.validity {
            Validity::Kv { fresh_until, .. } | Validity::Static { fresh_until, .. } => {
                let kept = source.is_open() || source.spec.policy.renew == Renew::Required;
                let ask = current.ask.min(*fresh_until);
                (replaceable && kept).then(|| ask.max(source.not_before))
            }
            Validity::Fixed { replace } => {
                (replaceable && source.in_use(now) && source.spec.policy.renew != Renew::Never)
                    .then(|| (*replace).max(source.not_before))
            }
            Validity::Leased(_) if source.spec.policy.renew == Renew::Never || !source.in_use(now) => None,
            Validity::Leased(lease) => match lease.next {
                Next::Renew { at } => Some(at),
                Next::Renewing { .. } => None,
                Next::Rotate { at } => replaceable.then(|| at.max(source.not_before)),
            },
        }
    }

    /// A source is due: ends first, then whatever keeps it.
    pub(super) fn source_due(&mut self, at: Moment, id: SourceId, fx: &mut Effects) {
        let Some(source) = self.sources.get(&id) else { return };
        let over: Vec<(GenerationId, End)> = [&source.current, &source.previous]
            .into_iter()
            .flatten()
            .filter_map(|one| Some((one.id, self.is_over(at.now, one)?)))
            .collect();
        for (which, why) in over {
            self.end_generation(at, id, which, why, fx);
        }
        self.end_unread(at, id, fx);
        self.answer_with_stale(at, id, fx);
        let Some(source) = self.sources.get(&id) else { return };
        if let Some(current) = &source.current
            && giving_up_time(source).is_some_and(|due| at.now >= due)
        {
            self.end_generation(at, id, current.id, End::Unused, fx);
        }
        let Some(source) = self.sources.get(&id) else { return };
        if let Fetch::Queued { not_before, .. } = source.fetch
            && at.now >= not_before
        {
            self.resume_fetch(at, id, fx);
        }
        self.look_up_due(at, id, fx);
        if self.upkeep_time(at.now, id).is_some_and(|due| at.now >= due) {
            self.keep_up(at, id, fx);
        }
    }

    fn keep_up(&mut self, at: Moment, id: SourceId, fx: &mut Effects) {
        let request = self.request();
        let Some(source) = self.sources.get_mut(&id) else { return };
        let renews = source.current.as_mut().and_then(|current| {
            let with = current.with;
            let lease = current.lease_mut()?;
            matches!(lease.next, Next::Renew { .. }).then_some((with, lease))
        });
        if let Some((with, lease)) = renews {
            lease.next = Next::Renewing { request, sent: at.now, otherwise: lease.expires };
            lease.expires = lease.expires.max(at.now + lease.duration);
            let (lease, increment) = (lease.id.clone(), lease.duration);
            fx.push(Effect::RenewLease { request, source: id, with, lease, increment });
            return;
        }
        let (minting, urgency) = match &source.current {
            Some(current) if current.is_free() => (Minting::Forbidden, Urgency::Background),
            Some(_) => (Minting::Allowed, Urgency::Renewal),
            None => (Minting::Allowed, Urgency::Background),
        };
        // Without a token its failure is noted, and with it when to come back.
        let _ = self.start_fetch(at, id, minting, urgency, fx);
    }

    /// When a generation's lease is looked up: while its source is in use, every `revocation-check`. What
    /// nobody has opened for longer than that is asked about less often, after as long again as it has not been
    /// opened; and at once when it is opened, since nobody sees it before.
    fn look_up_time(&self, now: BootTime, source: &Source<B>, one: &Generation<B>) -> Option<BootTime> {
        match one.lease()?.look_up {
            LookUp::At(due) if source.is_open() => Some(due),
            LookUp::At(due) if source.in_use(now) => {
                let asked = due - self.settings.leases.revocation_check;
                let unopened = source.last_open.map_or(Duration::ZERO, |last| asked.since(last));
                Some(due.max(asked + unopened))
            }
            LookUp::At(_) | LookUp::InFlight(_) | LookUp::NotAllowed => None,
        }
    }

    fn look_up_due(&mut self, at: Moment, id: SourceId, fx: &mut Effects) {
        let Some(source) = self.sources.get(&id) else { return };
        let due: Vec<GenerationId> = [&source.current, &source.previous]
            .into_iter()
            .flatten()
            .filter(|one| self.look_up_time(at.now, source, one).is_some_and(|time| at.now >= time))
            .map(|one| one.id)
            .collect();
        for which in due {
            let request = self.request();
            let Some(generation) = self.sources.get_mut(&id).and_then(|source| source.generation_mut(which))
            else {
                continue;
            };
            let with = generation.with;
            let Some(lease) = generation.lease_mut() else { continue };
            lease.look_up = LookUp::InFlight(request);
            fx.push(Effect::LookUpLease { request, source: id, with, lease: lease.id.clone() });
        }
    }

    /// A renewal has come back.
    pub fn lease_renewed(
        &mut self,
        at: Moment,
        id: SourceId,
        request: RequestId,
        result: Result<Granted, Failure>,
    ) -> Effects {
        self.run(at, |engine, fx| {
            let asked = |current: &Generation<B>| {
                current.lease().is_some_and(
                    |lease| matches!(lease.next, Next::Renewing { request: one, .. } if one == request),
                )
            };
            let current = engine.sources.get(&id).and_then(|source| source.current.as_ref());
            let Some(current) = current.filter(|current| asked(current)) else { return };
            if let Some(why) = engine.is_over(at.now, current) {
                // Readers were told that it has ended: a late grant does not bring it back.
                let which = current.id;
                engine.end_generation(at, id, which, why, fx);
                return;
            }
            engine.wakes.touch(WakeKey::Source(id));
            let Some(source) = engine.sources.get_mut(&id) else { return };
            let Some(current) = &mut source.current else { return };
            match result {
                Ok(granted) => {
                    let capped = take_grant(current, granted, at);
                    source.renewal_failure = None;
                    if capped {
                        fx.push(Effect::Report(Report::LeaseCapped { source: id }));
                    }
                }
                Err(failure) => engine.take_renewal_failure(at, id, failure, fx),
            }
        })
        .1
    }

    fn take_renewal_failure(&mut self, at: Moment, id: SourceId, failure: Failure, fx: &mut Effects) {
        let Some(source) = self.sources.get_mut(&id) else { return };
        let Some(current) = &mut source.current else { return };
        let (which, with, end) = (current.id, current.with, current.end);
        source.renewal_failure = Some(failure.clone());
        let remaining = end.since(at.now);
        let Some(lease) = current.lease_mut() else { return };
        if let Next::Renewing { otherwise, .. } = lease.next
            && failure.fault.made_nothing()
        {
            lease.expires = otherwise;
        }
        let third = lease.duration / 3;
        match failure.fault {
            Fault::LeaseGone | Fault::NotFound => {
                self.end_generation(at, id, which, End::GoneInVault, fx);
                return;
            }
            Fault::TokenLost => {
                self.lose_token(at, with, Loss::Told, fx);
                return;
            }
            // The lease lives; only it can't be extended. It is replaced when a third remains.
            Fault::NotRenewable | Fault::Denied | Fault::Refused => {
                lease.renewable = false;
                let early = scaled(third, at.chance.between(0.8, 1.0, which.0));
                lease.next = Next::Rotate { at: (end - early).max(at.now) };
            }
            Fault::TimedOut
            | Fault::Unreachable
            | Fault::Sealed
            | Fault::NoLeader
            | Fault::RateLimited
            | Fault::ServerError
            | Fault::Unusable
            | Fault::OutOfMemory => {
                lease.next = if remaining > third {
                    let pause = scaled(remaining / 4, at.chance.between(0.5, 1.0, which.0));
                    let pause =
                        pause.max(Duration::from_millis(250)).max(failure.retry_after.unwrap_or_default());
                    Next::Renew { at: at.now + pause.min(LONGEST_PAUSE) }
                } else {
                    Next::Rotate { at: at.now }
                };
            }
        }
        fx.push(Effect::Report(Report::RenewalFailed { source: id, failure }));
    }

    /// A replacement failed while the lease still lives: renewing is tried again meanwhile, where it can
    /// help.
    pub(super) fn renew_instead(&mut self, id: SourceId) {
        let Some(source) = self.sources.get(&id) else { return };
        let not_before = source.not_before;
        // With an earlier token it can't help: the lease ends with that.
        let helps = source.current.as_ref().is_some_and(|current| self.is_of_current_token(current.with));
        let Some(source) = self.sources.get_mut(&id).filter(|_| helps) else { return };
        if let Some(lease) = source.current.as_mut().and_then(Generation::lease_mut)
            && lease.renewable
            && matches!(lease.next, Next::Rotate { .. })
        {
            lease.next = Next::Renew { at: not_before };
        }
    }

    /// The answer to the question whether a lease still lives.
    pub fn lease_looked_up(
        &mut self,
        at: Moment,
        id: SourceId,
        request: RequestId,
        result: Result<Granted, Failure>,
    ) -> Effects {
        self.run(at, |engine, fx| {
            let check = engine.settings.leases.revocation_check;
            let Some(source) = engine.sources.get_mut(&id) else { return };
            let asked = |one: &&mut Generation<B>| {
                one.lease().is_some_and(|lease| lease.look_up == LookUp::InFlight(request))
            };
            let Some(generation) =
                [&mut source.current, &mut source.previous].into_iter().flatten().find(asked)
            else {
                return;
            };
            engine.wakes.touch(WakeKey::Source(id));
            let (which, with) = (generation.id, generation.with);
            let own_end = generation.end;
            let Some(lease) = generation.lease_mut() else { return };
            lease.look_up = LookUp::At(at.now + scaled(check, at.chance.between(0.9, 1.1, which.0)));
            match result {
                Ok(granted) => {
                    // Asked before the last grant, it says nothing of that; and the question may have been
                    // long on its way: counted from the answer, the end is the latest that is possible.
                    let latest = lease_end(at.now, granted.duration);
                    if lease.granted <= granted.sent && latest + Duration::from_secs(1) < own_end {
                        // Somebody shortened it: believe Vault.
                        let soon = renewal_time(granted.sent, granted.duration, at.chance, which);
                        match &mut lease.next {
                            Next::Renew { at } | Next::Rotate { at } => *at = soon.min(*at),
                            Next::Renewing { .. } => {}
                        }
                        generation.end = lease_end(granted.sent, granted.duration);
                        engine.invalidate(id, fx);
                    }
                }
                Err(failure) => match failure.fault {
                    Fault::LeaseGone | Fault::NotFound => {
                        engine.end_generation(at, id, which, End::GoneInVault, fx);
                    }
                    Fault::TokenLost => engine.lose_token(at, with, Loss::Told, fx),
                    Fault::Denied => lease.look_up = LookUp::NotAllowed,
                    Fault::NotRenewable
                    | Fault::TimedOut
                    | Fault::Unreachable
                    | Fault::Sealed
                    | Fault::NoLeader
                    | Fault::RateLimited
                    | Fault::ServerError
                    | Fault::Refused
                    | Fault::Unusable
                    | Fault::OutOfMemory => {}
                },
            }
        })
        .1
    }

    /// A lease that nobody may read any more is given back.
    pub(super) fn retire(
        &mut self,
        at: Moment,
        source: SourceId,
        lease: LeaseId,
        with: Credential,
        expires: BootTime,
        fx: &mut Effects,
    ) {
        let died_with_its_token = self.identity(with.identity).token(with.token).is_none();
        // An answer that comes twice brings its lease twice.
        if at.now >= expires || died_with_its_token || self.retiring.contains_key(&lease) {
            return;
        }
        let state = Revocation::InFlight;
        self.retiring.insert(lease.clone(), Retiring { source, with, expires, state, attempts: 0 });
        self.wakes.touch(WakeKey::Lease(lease.clone()));
        fx.push(Effect::RevokeLease { with, lease });
    }

    /// A revocation has come back.
    pub fn lease_revoked(&mut self, at: Moment, lease: &LeaseId, result: Result<(), Failure>) -> Effects {
        self.run(at, |engine, fx| {
            let Some(retiring) = engine.retiring.get_mut(lease) else { return };
            engine.wakes.touch(WakeKey::Lease(lease.clone()));
            let with = retiring.with;
            match result {
                Ok(()) => {
                    engine.retiring.remove(lease);
                }
                Err(failure) => match failure.fault {
                    Fault::LeaseGone | Fault::NotFound | Fault::TokenLost => {
                        engine.retiring.remove(lease);
                    }
                    Fault::Denied | Fault::Refused | Fault::NotRenewable => {
                        let end = retiring.expires;
                        retiring.state = Revocation::Refused(failure.clone());
                        let lease = lease.clone();
                        fx.push(Effect::Report(Report::RevocationFailed { lease, end, failure }));
                    }
                    Fault::TimedOut
                    | Fault::Unreachable
                    | Fault::Sealed
                    | Fault::NoLeader
                    | Fault::RateLimited
                    | Fault::ServerError
                    | Fault::Unusable
                    | Fault::OutOfMemory => {
                        retiring.attempts += 1;
                        let salt =
                            lease.0.bytes().fold(0, |salt: u64, byte| salt.rotate_left(5) ^ u64::from(byte));
                        let ceiling = backoff_ceiling(retiring.attempts);
                        let pause = scaled(ceiling, at.chance.between(0.3, 1.0, salt));
                        let pause = pause.max(failure.retry_after.unwrap_or_default());
                        retiring.state = Revocation::Again(at.now + pause);
                    }
                },
            }
            engine.drop_unused_tokens(with.identity, fx);
        })
        .1
    }

    /// A lease that is being revoked is due: it is over, or tried again.
    pub(super) fn retiring_due(&mut self, at: Moment, lease: &LeaseId, fx: &mut Effects) {
        let Some(retiring) = self.retiring.get_mut(lease) else { return };
        let with = retiring.with;
        if at.now >= retiring.expires {
            self.retiring.remove(lease);
        } else if matches!(retiring.state, Revocation::Again(again) if at.now >= again) {
            retiring.state = Revocation::InFlight;
            fx.push(Effect::RevokeLease { with, lease: lease.clone() });
        }
        self.drop_unused_tokens(with.identity, fx);
    }
}

/// When a lease that nobody uses is given back, if that is wanted.
fn giving_up_time<B: Body>(source: &Source<B>) -> Option<BootTime> {
    let policy = &source.spec.policy;
    if policy.on_idle != OnIdle::Revoke || policy.renew == Renew::Always || source.is_open() {
        return None;
    }
    let lease = source.current.as_ref()?.lease()?;
    let never_opened = || lease.granted + policy.idle_timeout.unwrap_or(lease.duration.saturating_mul(2));
    Some(source.idle_from().unwrap_or_else(never_opened))
}

/// Takes over what was granted. Returns whether the lease has reached its cap.
fn take_grant<B: Body>(generation: &mut Generation<B>, granted: Granted, at: Moment) -> bool {
    let id = generation.id;
    let end = lease_end(granted.sent, granted.duration);
    let Some(lease) = generation.lease_mut() else { return false };
    let capped = is_capped(granted.duration, lease.duration) || !granted.renewable;
    lease.granted = granted.sent;
    lease.expires = at.now + granted.duration;
    lease.renewable = !capped;
    lease.next = if capped {
        // Replaced now, spread over a fifth of what remains so that many do not come in one moment.
        let spread = scaled(end.since(at.now), at.chance.between(0.0, 0.2, id.0));
        Next::Rotate { at: at.now + spread }
    } else {
        Next::Renew { at: renewal_time(granted.sent, granted.duration, at.chance, id) }
    };
    generation.end = end;
    capped
}

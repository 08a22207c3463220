//! When Vault is slow, silent, or late: what may still be shown is shown without waiting for it, and the next
//! password of a static role is waited for.

use std::time::Duration;

use crate::core::effect::{Minting, Urgency};
use crate::core::engine::waiting::Start;
use crate::core::engine::{Effects, Engine};
use crate::core::generation::{Body, Fetched, FetchedKind};
use crate::core::name::SourceId;
use crate::core::policy::static_end;
use crate::core::source::Fetch;
use crate::core::time::{BootTime, Moment, scaled};

/// After that long a read that is on its way keeps nobody waiting who can be shown a stale value.
pub(super) const SLOW: Duration = Duration::from_secs(1);

/// How often Vault is asked for the next password of a static role that it is about to replace.
const REPLACING_POLL: Duration = Duration::from_millis(150);

/// For how long such a password is shown that Vault should have replaced, and has not.
pub(super) const REPLACING_SHOWN: Duration = Duration::from_millis(250);

impl<B: Body> Engine<B> {
    /// Vault has stopped answering, or answers again. While it does not, what may still be shown is shown
    /// without waiting for it.
    pub fn vault_answers(&mut self, at: Moment, answers: bool) -> Effects {
        self.run(at, |engine, fx| {
            engine.vault_answers = answers;
            if answers {
                engine.log_in_again(at);
                return;
            }
            let waited_for = engine.sources.iter().filter(|(_, source)| !source.waiters.is_empty());
            let stale: Vec<SourceId> =
                waited_for.map(|(id, _)| *id).filter(|id| engine.live(at.now, *id).is_some()).collect();
            for id in stale {
                engine.wake_waiters_of_source(at, id, Start::No, fx);
            }
        })
        .1
    }

    /// Callers who have waited long enough for a read that is on its way are shown what may still be shown.
    pub(super) fn answer_with_stale(&mut self, at: Moment, id: SourceId, fx: &mut Effects) {
        if self.stale_answer_time(at.now, id).is_some_and(|due| at.now >= due) {
            if let Some(source) = self.sources.get_mut(&id) {
                source.slow = true;
            }
            self.wake_waiters_of_source(at, id, Start::No, fx);
        }
    }

    /// When callers who wait for a read that is on its way are shown what may still be shown.
    pub(super) fn stale_answer_time(&self, now: BootTime, id: SourceId) -> Option<BootTime> {
        let source = self.sources.get(&id).filter(|source| !source.slow && !source.waiters.is_empty())?;
        match source.fetch {
            Fetch::InFlight { since, .. } => self.live(now, id).map(|_| since + SLOW),
            Fetch::Queued { .. } | Fetch::Idle => None,
        }
    }

    /// Whether a static role's password is one that Vault should have replaced by now. It looks at its roles
    /// every few seconds only, so that takes up to 5 s (measured with OpenBao 2.7). Most of `read-timeout` is
    /// waited for the next one; what is still there then is shown for a moment each time it is asked for.
    pub(super) fn is_about_to_be_replaced(&self, at: Moment, id: SourceId, fetched: &Fetched<B>) -> bool {
        let FetchedKind::Static { ttl, .. } = fetched.kind else { return false };
        let Some(source) = self.sources.get(&id) else { return false };
        let patience = self.settings.leases.read_timeout * 3 / 4;
        at.now >= static_end(fetched.sent, ttl)
            && source.replacing_since.is_none_or(|since| at.now < since + patience)
    }

    /// Asks again soon, as long as somebody wants it.
    pub(super) fn await_replacement(&mut self, at: Moment, id: SourceId, fx: &mut Effects) {
        let Some(source) = self.sources.get_mut(&id) else { return };
        source.replacing_since.get_or_insert(at.now);
        let urgency = match source.waiters.is_empty() {
            true if !source.in_use(at.now) => return self.give_up_fetch(at, id, fx),
            true => Urgency::Background,
            false => Urgency::Reader,
        };
        let pause = scaled(REPLACING_POLL, at.chance.between(0.8, 1.2, u64::from(id.0)));
        self.queue_fetch(id, Minting::Allowed, urgency, at.now + pause);
    }
}

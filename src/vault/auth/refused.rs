//! Credentials that Vault has refused: not shown to it again and again, for it may lock the account for
//! everybody who uses it. But their place is looked at every second, so that better ones are found soon.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::core::error::{Failure, Fault};
use crate::secret::SecretBytes;

/// How soon the place of credentials is looked at again.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// How long Vault's word is taken for good where nothing locks: a node that lags behind may not know them yet.
const BELIEVED: Duration = Duration::from_secs(30);

/// A lockout counts failures that are less than 15 minutes apart, and comes with the fifth (the `user_lockout`
/// defaults of Vault and OpenBao).
const LOCKOUT_FORGETS: Duration = Duration::from_secs(16 * 60);

/// What repeated failures lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lockout {
    /// Nothing.
    Never,
    /// The account is locked, of AppRoles and users.
    Threatens,
}

/// The last credentials that were given in vain.
#[derive(Default)]
pub(in crate::vault) struct Refused(Mutex<Option<Refusal>>);

struct Refusal {
    credentials: u64,
    failure: Failure,
    /// How often Vault has refused them.
    times: u32,
    /// `None`: they can't become better.
    until: Option<Instant>,
}

impl Refused {
    /// Why these credentials need not be tried, if they were tried already.
    pub fn reason(&self, credentials: u64) -> Option<Failure> {
        let last = self.last();
        let known = last.as_ref().filter(|last| last.credentials == credentials)?;
        known.until.is_none_or(|until| Instant::now() < until).then(|| known.failure.clone())
    }

    /// They were refused, and can't become better.
    pub fn for_good(&self, credentials: u64, failure: Failure) -> Failure {
        self.remember(credentials, failure, |_| None)
    }

    /// They were refused if the failure says so, and may be taken later.
    pub fn note(&self, credentials: u64, failure: Failure, lockout: Lockout) -> Failure {
        if !matches!(failure.fault, Fault::Denied | Fault::TokenLost) {
            return failure;
        }
        self.remember(credentials, failure, |times| {
            let slowly = lockout == Lockout::Threatens && times > 1;
            Some(Instant::now() + if slowly { LOCKOUT_FORGETS } else { BELIEVED })
        })
    }

    /// They are worth a try: somebody has asked for it.
    pub fn forget(&self) {
        *self.last() = None;
    }

    fn remember(
        &self,
        credentials: u64,
        failure: Failure,
        until: impl FnOnce(u32) -> Option<Instant>,
    ) -> Failure {
        let failure = Failure { retry_after: Some(LOOK), ..failure };
        let mut last = self.last();
        let before =
            last.as_ref().filter(|last| last.credentials == credentials).map_or(0, |last| last.times);
        let times = before.saturating_add(1);
        *last = Some(Refusal { credentials, failure: failure.clone(), times, until: until(times) });
        failure
    }

    fn last(&self) -> MutexGuard<'_, Option<Refusal>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells credentials from others without keeping them.
pub(super) fn fingerprint<'a>(credentials: impl IntoIterator<Item = &'a SecretBytes>) -> u64 {
    credentials.into_iter().fold(0, |all, one| all.rotate_left(7) ^ one.fingerprint())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied() -> Failure {
        Failure::new(Fault::Denied, "refused")
    }

    async fn later(minutes: u64) {
        tokio::time::advance(Duration::from_secs(60 * minutes)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn other_credentials_are_tried_at_once_and_the_same_ones_later() {
        let refused = Refused::default();
        assert_eq!(refused.note(1, denied(), Lockout::Never).retry_after, Some(LOOK));
        assert!(refused.reason(1).is_some());
        assert!(refused.reason(2).is_none());
        later(1).await;
        assert!(refused.reason(1).is_none());
        refused.note(1, denied(), Lockout::Never);
        later(1).await;
        assert!(refused.reason(1).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_that_could_be_locked_are_repeated_once_and_then_seldom() {
        let refused = Refused::default();
        refused.note(1, denied(), Lockout::Threatens);
        later(1).await;
        assert!(refused.reason(1).is_none());
        for _ in 0..3 {
            refused.note(1, denied(), Lockout::Threatens);
            later(15).await;
            assert!(refused.reason(1).is_some(), "Vault's counter still runs");
            later(1).await;
            assert!(refused.reason(1).is_none());
        }
        refused.note(1, denied(), Lockout::Threatens);
        refused.forget();
        assert!(refused.reason(1).is_none(), "somebody asked for it");
    }

    #[tokio::test(start_paused = true)]
    async fn what_says_nothing_of_the_credentials_is_not_remembered() {
        let refused = Refused::default();
        let down = Failure::new(Fault::Unreachable, "down");
        assert_eq!(refused.note(1, down.clone(), Lockout::Threatens), down);
        assert!(refused.reason(1).is_none());
        refused.for_good(1, denied());
        later(600).await;
        assert!(refused.reason(1).is_some());
    }
}

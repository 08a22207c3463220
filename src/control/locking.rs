//! What a daemon answers about locks: it locks first and writes it down then, so that a full disk keeps
//! nobody from locking.

use crate::control::ServiceHandler;
use crate::control::handler::{Ending, rfc3339};
use crate::control::protocol::{LockReport, LockedReport, Refusal, Reply, StillLocked, UnlockedReport};
use crate::core::locks::{Lock, Scope};
use crate::driver::clock::Clock;

/// The longest reason, in characters: it is shown in one line.
const REASON_MAX: usize = 1000;

impl<C: Clock> ServiceHandler<C> {
    pub(super) async fn lock(&self, names: &[String], reason: &str, uid: u32) -> Reply {
        let Some(reason) = in_one_line(reason) else { return Reply::Refused(Refusal::NotUnderstood) };
        let scopes = match self.scopes(names) {
            Ok(scopes) => scopes,
            Err(refusal) => return Reply::Refused(refusal),
        };
        let lock = Lock { reason, uid, since: self.service.clock().wall() };
        let writing = self.locks.lock().await;
        // Locked first, and written down while Vault revokes: a daemon that is killed then must know of it.
        let (revocation, unsaved) =
            tokio::join!(biased; self.end(Ending::Lock(&scopes, &lock)), self.save(&writing));
        drop(writing);
        let names: Vec<String> = scopes.iter().map(|scope| scope.as_str().to_owned()).collect();
        tracing::warn!(names = shown(&names), uid, reason = lock.reason, "locked");
        Reply::Locked(LockedReport { names, revocation, unsaved })
    }

    pub(super) async fn unlock(&self, names: &[String], uid: u32) -> Reply {
        // What the mount does not show any more may still be locked.
        let scopes = match names {
            [] => Ok(vec![Scope::Everything]),
            names => names.iter().map(|name| Scope::new(name).map_err(|_| name.clone())).collect(),
        };
        let scopes: Vec<Scope> = match scopes {
            Ok(scopes) => scopes,
            Err(name) => return Reply::Refused(Refusal::UnknownName { name }),
        };
        let writing = self.locks.lock().await;
        let gone = self.service.call(|engine, at| engine.unlock(at, &scopes));
        let unsaved = self.save(&writing).await;
        drop(writing);
        let still_locked = self.service.look(|engine, _| {
            let wider = |scope: &Scope| {
                let (by, _) = engine.locks().covering(scope.as_str())?;
                Some(StillLocked { name: scope.as_str().to_owned(), by: by.as_str().to_owned() })
            };
            scopes.iter().filter_map(wider).collect()
        });
        let unlocked: Vec<String> = gone.iter().map(|scope| scope.as_str().to_owned()).collect();
        if !unlocked.is_empty() {
            tracing::warn!(names = shown(&unlocked), uid, "unlocked");
        }
        Reply::Unlocked(UnlockedReport { unlocked, still_locked, unsaved })
    }

    /// What is locked.
    pub(super) fn lock_reports(&self) -> Vec<LockReport> {
        let report = |(scope, lock): (&Scope, &Lock)| LockReport {
            name: scope.as_str().to_owned(),
            reason: lock.reason.clone(),
            uid: lock.uid,
            since: rfc3339(lock.since),
        };
        self.service.look(|engine, _| engine.locks().iter().map(report).collect())
    }

    fn scopes(&self, names: &[String]) -> Result<Vec<Scope>, Refusal> {
        self.service.look(|engine, _| engine.scopes(names)).map_err(|name| Refusal::UnknownName { name })
    }

    /// Writes down what is locked now. Returns why that failed, if it did.
    async fn save(&self, store: &crate::control::LockStore) -> Option<String> {
        let locks = self.service.look(|engine, _| engine.locks().clone());
        let store = store.clone();
        let stored = tokio::task::spawn_blocking(move || store.store(&locks)).await;
        let trouble = stored.unwrap_or_else(|error| Err(error.to_string())).err()?;
        tracing::error!(reason = trouble, "what is locked would not survive a restart");
        Some(trouble)
    }
}

/// A reason in one line; `None` if nothing is left of it.
fn in_one_line(reason: &str) -> Option<String> {
    let line: String = reason.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
    let line: String = line.trim().chars().take(REASON_MAX).collect();
    (!line.is_empty()).then_some(line)
}

fn shown(names: &[String]) -> String {
    let shown = names.iter().map(|name| if name.is_empty() { "everything" } else { name.as_str() });
    shown.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_of_bounded_length() {
        assert_eq!(in_one_line(" key\nleaked\u{1b}[2J "), Some("key leaked [2J".to_owned()));
        assert_eq!(in_one_line(" \n\t"), None);
        assert_eq!(in_one_line(&"ü".repeat(2000)).unwrap().chars().count(), REASON_MAX);
    }
}

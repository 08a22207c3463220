//! Engines in trouble, each by itself: one whose database is down, or whose quota is used up, is left
//! alone for a while, and the others go on.
//!
//! Pure: events in, a verdict out. Several 500s in a row hold back what is wanted of an engine, for a
//! short, growing pause; then one request is let through to try. A 429 holds it back for as long as it
//! asks. What Vault says of one request (400, 403, 404) never counts.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::core::error::{Failure, Fault};
use crate::core::identity::backoff_ceiling;
use crate::core::time::{BootTime, scaled};
use crate::driver::queue::Mount;

/// 500s in a row after which an engine is left alone.
const FAILURES: u32 = 3;
/// The longest pause that nobody asked for.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// The engines in trouble; nothing is kept of the others.
#[derive(Debug, Default)]
pub(super) struct Mounts(BTreeMap<Mount, Trouble>);

#[derive(Debug, Default)]
struct Trouble {
    /// 500s in a row.
    failures: u32,
    /// Pauses since the engine last answered.
    pauses: u32,
    hold: Option<Hold>,
}

#[derive(Debug)]
struct Hold {
    until: BootTime,
    why: Failure,
    /// A request is under way that tries whether the engine is well again.
    trial: bool,
}

/// As what a request is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// As any other.
    Usual,
    /// To try whether the engine is well again; the others wait for its outcome.
    Trial,
}

/// Why nothing is sent to an engine now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// What the engine said last.
    pub why: Failure,
    /// Until when it is held back; then one may try.
    pub until: BootTime,
}

impl Mounts {
    /// Whether a request may be sent; what becomes of it must be told to [`Mounts::note`]: of a trial at
    /// once, of any other when it is not repeated any more.
    ///
    /// # Errors
    /// The engine is left alone now.
    pub fn admit(&mut self, mount: &Mount, now: BootTime) -> Result<Admission, Held> {
        let Some(hold) = self.0.get_mut(mount).and_then(|trouble| trouble.hold.as_mut()) else {
            return Ok(Admission::Usual);
        };
        if now < hold.until || hold.trial {
            return Err(Held { why: hold.why.clone(), until: hold.until.max(now) });
        }
        // Of a quota, each request takes its own part; of an engine that fails, one is enough to know.
        hold.trial = hold.why.fault == Fault::ServerError;
        Ok(if hold.trial { Admission::Trial } else { Admission::Usual })
    }

    /// Notes what became of a request; `chance` is in `0..1`.
    pub fn note(&mut self, mount: &Mount, now: BootTime, failure: Option<&Failure>, chance: f64) {
        let Some(failure) = failure else {
            self.0.remove(mount);
            return;
        };
        match failure.fault {
            Fault::ServerError => self.failed(mount, now, failure, chance),
            Fault::RateLimited => {
                let trouble = self.0.entry(mount.clone()).or_default();
                let pause = trouble.next_pause(chance);
                let until = now + failure.retry_after.unwrap_or_default() + pause;
                // Those under way when the quota was used up come back with it one after the other.
                let until = trouble.hold.as_ref().map_or(until, |hold| hold.until.max(until));
                trouble.hold = Some(Hold { until, why: failure.clone(), trial: false });
            }
            // It says nothing of the engine: the next one may try.
            Fault::TimedOut | Fault::Unreachable | Fault::Sealed => {
                if let Some(hold) = self.0.get_mut(mount).and_then(|trouble| trouble.hold.as_mut()) {
                    hold.trial = false;
                }
            }
            Fault::NotFound
            | Fault::Denied
            | Fault::TokenLost
            | Fault::LeaseGone
            | Fault::NotRenewable
            | Fault::Refused
            | Fault::Unusable
            | Fault::OutOfMemory => {
                self.0.remove(mount);
            }
        }
    }

    fn failed(&mut self, mount: &Mount, now: BootTime, failure: &Failure, chance: f64) {
        let trouble = self.0.entry(mount.clone()).or_default();
        trouble.failures = trouble.failures.saturating_add(1);
        if trouble.failures >= FAILURES {
            let until = now + failure.retry_after.unwrap_or_default() + trouble.next_pause(chance);
            trouble.hold = Some(Hold { until, why: failure.clone(), trial: false });
        }
    }
}

impl Trouble {
    fn next_pause(&mut self, chance: f64) -> Duration {
        self.pauses = self.pauses.saturating_add(1);
        scaled(backoff_ceiling(self.pauses + 1).min(LONGEST_PAUSE), chance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn mount(path: &str) -> Mount {
        Mount { namespace: None, path: path.to_owned() }
    }

    fn at(milliseconds: u64) -> BootTime {
        BootTime(milliseconds * 1_000_000)
    }

    fn broken() -> Failure {
        Failure::new(Fault::ServerError, "the database is down")
    }

    fn failing(database: &Mount) -> Mounts {
        let mut mounts = Mounts::default();
        for _ in 0..3 {
            assert_eq!(mounts.admit(database, at(0)), Ok(Admission::Usual));
            mounts.note(database, at(0), Some(&broken()), 1.0);
        }
        mounts
    }

    #[test]
    fn an_engine_that_fails_is_left_alone_with_its_reason_and_the_others_go_on() {
        let database = mount("database");
        let mut mounts = failing(&database);
        assert_eq!(mounts.admit(&database, at(1)), Err(Held { why: broken(), until: at(500) }));
        assert_eq!(mounts.admit(&mount("secret"), at(1)), Ok(Admission::Usual));
        let elsewhere = Mount { namespace: Some("team-a".to_owned()), ..database };
        assert_eq!(mounts.admit(&elsewhere, at(1)), Ok(Admission::Usual));
    }

    #[test]
    fn one_request_tries_and_an_answer_ends_it() {
        let database = mount("database");
        let mut mounts = failing(&database);
        assert_eq!(mounts.admit(&database, at(500)), Ok(Admission::Trial));
        assert!(mounts.admit(&database, at(501)).is_err(), "one is enough to know");
        mounts.note(&database, at(502), None, 1.0);
        assert_eq!(mounts.admit(&database, at(503)), Ok(Admission::Usual));
        assert_eq!(mounts.admit(&database, at(503)), Ok(Admission::Usual));
    }

    #[test]
    fn each_try_that_fails_makes_the_pause_longer_up_to_four_seconds() {
        let database = mount("database");
        let (mut mounts, mut now) = (failing(&database), at(0));
        let mut pauses = Vec::new();
        for _ in 0..6 {
            let held = mounts.admit(&database, now).unwrap_err();
            pauses.push(held.until.since(now).as_millis());
            now = held.until;
            assert_eq!(mounts.admit(&database, now), Ok(Admission::Trial));
            mounts.note(&database, now, Some(&broken()), 1.0);
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 4000, 4000]);
    }

    #[test]
    fn a_try_that_never_got_there_leaves_the_next_one_to_try() {
        let database = mount("database");
        let mut mounts = failing(&database);
        assert_eq!(mounts.admit(&database, at(500)), Ok(Admission::Trial));
        mounts.note(&database, at(501), Some(&Failure::new(Fault::Unreachable, "")), 1.0);
        assert_eq!(mounts.admit(&database, at(502)), Ok(Admission::Trial));
    }

    #[test]
    fn what_vault_says_of_one_request_is_an_answer() {
        for fault in [Fault::NotFound, Fault::Denied, Fault::Refused] {
            let database = mount("database");
            let mut mounts = Mounts::default();
            for _ in 0..5 {
                mounts.note(&database, at(0), Some(&broken()), 1.0);
                mounts.note(&database, at(0), Some(&broken()), 1.0);
                mounts.note(&database, at(0), Some(&Failure::new(fault, "")), 1.0);
            }
            assert_eq!(mounts.admit(&database, at(0)), Ok(Admission::Usual));
        }
    }

    #[test]
    fn a_quota_is_left_alone_for_as_long_as_it_asks() {
        let kv = mount("secret");
        let mut mounts = Mounts::default();
        let limited = Failure { retry_after: Some(7 * S), ..Failure::new(Fault::RateLimited, "quota") };
        mounts.note(&kv, at(0), Some(&limited), 0.0);
        assert!(mounts.admit(&kv, at(6_999)).is_err());
        assert_eq!(mounts.admit(&kv, at(7_000)), Ok(Admission::Usual));
        assert_eq!(mounts.admit(&kv, at(7_000)), Ok(Admission::Usual), "a quota has room for more than one");
        let silent = Failure { retry_after: None, ..limited };
        mounts.note(&kv, at(7_001), Some(&silent), 1.0);
        assert_eq!(mounts.admit(&kv, at(7_001)).unwrap_err().until, at(8_001), "a growing pause");
    }
}

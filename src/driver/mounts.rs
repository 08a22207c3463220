//! Engines in trouble, each by itself: one whose database is down, or whose quota is used up, is left
//! alone for a while, and the others go on.
//!
//! Pure: events in, a verdict out. Several 500s in a row hold back what is wanted of an engine, for a
//! short, growing pause; then one request is let through to try. A 429 holds its path back for as long as
//! it asks, and several in a row the whole engine: quotas are of either kind. What Vault says of one
//! request (400, 403, 404) never counts.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::core::error::{Failure, Fault};
use crate::core::identity::backoff_ceiling;
use crate::core::name::VaultPath;
use crate::core::time::{BootTime, scaled};
use crate::driver::queue::Mount;

/// 500s, or 429s, in a row after which an engine is left alone.
const FAILURES: u32 = 3;
/// The longest pause that nobody asked for.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// How long a path that had a quota is remembered after its time.
const REMEMBERED: Duration = Duration::from_secs(60);

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The engine.
    pub mount: Mount,
    /// The path, as the user wrote it.
    pub path: VaultPath,
}

/// The engines in trouble; nothing is kept of the others.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    mounts: BTreeMap<Mount, Trouble>,
    /// Paths with a quota that is used up, in their namespaces.
    paths: BTreeMap<(Option<String>, VaultPath), Trouble>,
}

#[derive(Debug, Default)]
struct Trouble {
    /// 500s and 429s in a row.
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
    pub fn admit(&mut self, target: &Target, now: BootTime) -> Result<Admission, Held> {
        let of_path = self.paths.get_mut(&target.key()).and_then(|trouble| trouble.hold.as_mut());
        if let Some(hold) = of_path {
            hold.admit(now)?;
        }
        match self.mounts.get_mut(&target.mount).and_then(|trouble| trouble.hold.as_mut()) {
            Some(hold) => hold.admit(now),
            None => Ok(Admission::Usual),
        }
    }

    /// Notes what became of a request; `chance` is in `0..1`.
    pub fn note(&mut self, target: &Target, now: BootTime, failure: Option<&Failure>, chance: f64) {
        match failure.map(|failure| (failure.fault, failure)) {
            Some((Fault::ServerError | Fault::NoLeader, failure)) => {
                self.failed(target, now, failure, chance)
            }
            Some((Fault::RateLimited, failure)) => {
                // Perhaps nobody asks for these ever again.
                let is_kept = |hold: &Hold| now < hold.until + REMEMBERED;
                self.paths.retain(|_, trouble| trouble.hold.as_ref().is_some_and(is_kept));
                self.paths.entry(target.key()).or_default().hold(now, failure, chance);
                self.failed(target, now, failure, chance);
            }
            // It says nothing of the engine: the next one may try.
            Some((Fault::TimedOut | Fault::Unreachable | Fault::Sealed, _)) => {
                if let Some(hold) = self.mounts.get_mut(&target.mount).and_then(|one| one.hold.as_mut()) {
                    hold.trial = false;
                }
            }
            None
            | Some((
                Fault::NotFound
                | Fault::Denied
                | Fault::TokenLost
                | Fault::LeaseGone
                | Fault::NotRenewable
                | Fault::Refused
                | Fault::Unusable
                | Fault::OutOfMemory,
                _,
            )) => {
                self.mounts.remove(&target.mount);
                self.paths.remove(&target.key());
            }
        }
    }

    fn failed(&mut self, target: &Target, now: BootTime, failure: &Failure, chance: f64) {
        let trouble = self.mounts.entry(target.mount.clone()).or_default();
        trouble.failures = trouble.failures.saturating_add(1);
        if trouble.failures >= FAILURES {
            trouble.hold(now, failure, chance);
        }
    }
}

impl Target {
    fn key(&self) -> (Option<String>, VaultPath) {
        (self.mount.namespace.clone(), self.path.clone())
    }
}

impl Hold {
    fn admit(&mut self, now: BootTime) -> Result<Admission, Held> {
        if now < self.until || self.trial {
            return Err(Held { why: self.why.clone(), until: self.until.max(now) });
        }
        // Of a quota, each request takes its own part; of an engine that fails, one is enough to know.
        self.trial = matches!(self.why.fault, Fault::ServerError | Fault::NoLeader);
        Ok(if self.trial { Admission::Trial } else { Admission::Usual })
    }
}

impl Trouble {
    fn hold(&mut self, now: BootTime, why: &Failure, chance: f64) {
        let until = now + why.retry_after.unwrap_or_default() + self.next_pause(chance);
        // Requests that were under way together come back one after the other.
        let until = self.hold.as_ref().map_or(until, |hold| hold.until.max(until));
        self.hold = Some(Hold { until, why: why.clone(), trial: false });
    }

    fn next_pause(&mut self, chance: f64) -> Duration {
        self.pauses = self.pauses.saturating_add(1);
        scaled(backoff_ceiling(self.pauses + 1).min(LONGEST_PAUSE), chance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn target(mount: &str, path: &str) -> Target {
        let mount =
            Mount { identity: crate::core::name::IdentityId(0), namespace: None, path: mount.to_owned() };
        Target { mount, path: VaultPath::new(path).unwrap() }
    }

    fn engine(mount: &str) -> Target {
        target(mount, &format!("{mount}/creds/app"))
    }

    fn at(milliseconds: u64) -> BootTime {
        BootTime(milliseconds * 1_000_000)
    }

    fn broken() -> Failure {
        Failure::new(Fault::ServerError, "the database is down")
    }

    fn failing(database: &Target) -> Mounts {
        let mut mounts = Mounts::default();
        for _ in 0..3 {
            assert_eq!(mounts.admit(database, at(0)), Ok(Admission::Usual));
            mounts.note(database, at(0), Some(&broken()), 1.0);
        }
        mounts
    }

    #[test]
    fn an_engine_that_fails_is_left_alone_with_its_reason_and_the_others_go_on() {
        let database = engine("database");
        let mut mounts = failing(&database);
        assert_eq!(mounts.admit(&database, at(1)), Err(Held { why: broken(), until: at(500) }));
        assert_eq!(mounts.admit(&engine("secret"), at(1)), Ok(Admission::Usual));
        let mut elsewhere = database;
        elsewhere.mount.namespace = Some("team-a".to_owned());
        assert_eq!(mounts.admit(&elsewhere, at(1)), Ok(Admission::Usual));
    }

    #[test]
    fn one_request_tries_and_an_answer_ends_it() {
        let database = engine("database");
        let mut mounts = failing(&database);
        assert_eq!(mounts.admit(&database, at(500)), Ok(Admission::Trial));
        assert!(mounts.admit(&database, at(501)).is_err(), "one is enough to know");
        mounts.note(&database, at(502), None, 1.0);
        assert_eq!(mounts.admit(&database, at(503)), Ok(Admission::Usual));
        assert_eq!(mounts.admit(&database, at(503)), Ok(Admission::Usual));
    }

    #[test]
    fn each_try_that_fails_makes_the_pause_longer_up_to_four_seconds() {
        let database = engine("database");
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
        let database = engine("database");
        let mut mounts = failing(&database);
        assert_eq!(mounts.admit(&database, at(500)), Ok(Admission::Trial));
        mounts.note(&database, at(501), Some(&Failure::new(Fault::Unreachable, "")), 1.0);
        assert_eq!(mounts.admit(&database, at(502)), Ok(Admission::Trial));
    }

    #[test]
    fn what_vault_says_of_one_request_is_an_answer() {
        for fault in [Fault::NotFound, Fault::Denied, Fault::Refused] {
            let database = engine("database");
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
        let kv = target("secret", "secret/a");
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

    #[test]
    fn the_quota_of_a_path_is_no_quota_of_its_engine_unless_others_meet_it_too() {
        let paths = ["secret/a", "secret/b", "secret/c", "secret/d"].map(|path| target("secret", path));
        let limited = Failure { retry_after: Some(7 * S), ..Failure::new(Fault::RateLimited, "quota") };
        let mut mounts = Mounts::default();
        for path in &paths[..2] {
            mounts.note(path, at(0), Some(&limited), 0.0);
            assert!(mounts.admit(path, at(1)).is_err());
        }
        assert_eq!(mounts.admit(&paths[3], at(1)), Ok(Admission::Usual));
        mounts.note(&paths[2], at(0), Some(&limited), 0.0);
        assert!(mounts.admit(&paths[3], at(1)).is_err());
        assert_eq!(mounts.admit(&paths[3], at(7_000)), Ok(Admission::Usual));
    }
}

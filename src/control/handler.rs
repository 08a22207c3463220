//! What a daemon answers on its control socket.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot};

use crate::control::explaining::{Lore, next_report};
use crate::control::listener::{Farewell, Handler};
use crate::control::lock_store::LockStore;
use crate::control::protocol::{
    Ask, FileReport, IdentityReport, Instant, LeaseReport, LostLoginReport, ProtectionReport, RefreshReport,
    RefreshedFile, Refusal, Reply, RevokeReport, StatusReport, VaultReport,
};
use crate::core::effect::{Answer, Outcome};
use crate::core::engine::{FileStatus, IdentityStatus, Kind, Retirement, Status};
use crate::core::error::FsError;
use crate::core::identity::LostLogin;
use crate::core::locks::{Lock, Scope};
use crate::core::name::{IdentityId, Ino, LeaseId};
use crate::core::time::{BootTime, UnixTime};
use crate::driver::clock::Clock;
use crate::driver::{Health, LOGIN_LOST, Reply as Waiter, Service};
use crate::sys;

/// How long a revocation is waited for.
const REVOCATION: Duration = Duration::from_secs(5);

/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// What a daemon says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Its configuration.
    pub config: PathBuf,
    /// Names of the identities, by number.
    pub identities: Vec<String>,
    /// The nodes of Vault.
    pub addresses: Vec<String>,
    /// What this system lacks, a sentence each.
    pub losses: Vec<String>,
    /// What the process that serves it has given up.
    pub protections: Vec<ProtectionReport>,
    /// When it was mounted.
    pub started: UnixTime,
    /// The daemon's process.
    pub pid: u32,
    /// The binary that the next server is started from, if there is somebody who starts one.
    pub program: Option<PathBuf>,
    /// The unit of systemd that starts it, if it is one that does.
    pub unit: Option<String>,
    /// The user whom the daemon runs as.
    pub user: String,
}

/// Whether somebody goes on where a server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Successor {
    /// Its keeper starts another one.
    Comes,
    /// It ends the mount.
    None,
}

/// Answers for a running daemon.
pub struct ServiceHandler<C> {
    /// The way to the engine and the driver.
    pub service: Service<C>,
    /// What the daemon says of itself.
    pub info: MountInfo,
    /// What it can tell of policies and of the configuration.
    pub lore: Box<dyn Lore>,
    /// What keeps its locks.
    pub locks: tokio::sync::Mutex<LockStore>,
    /// Gets how the daemon is asked to end.
    pub ends: mpsc::UnboundedSender<Farewell>,
    /// Whether there is somebody who starts a successor.
    pub successor: Successor,
}

/// Why generations end.
#[derive(Clone, Copy)]
pub(super) enum Ending<'a> {
    /// These files are revoked.
    Revoke(&'a [Ino]),
    /// These names are locked.
    Lock(&'a [Scope], &'a Lock),
}

impl<C: Clock> Handler for ServiceHandler<C> {
    async fn answer(&self, ask: Ask, uid: u32) -> Reply {
        match ask {
            Ask::Status => Reply::Status(Box::new(self.status())),
            Ask::Revoke { names } => match self.select(&names) {
                Ok(files) => Reply::Revoked(self.end(Ending::Revoke(&files)).await),
                Err(refusal) => Reply::Refused(refusal),
            },
            Ask::Refresh { names } => match self.select(&names) {
                Ok(files) => Reply::Refreshed(self.refresh(&files).await),
                Err(refusal) => Reply::Refused(refusal),
            },
            Ask::Lock { names, reason } => self.lock(&names, &reason, uid).await,
            Ask::Unlock { names } => self.unlock(&names, uid).await,
            Ask::Explain { name } => self.explain(&name),
            Ask::Wait { names, patience_ms } => self.wait(&names, Duration::from_millis(patience_ms)).await,
            Ask::Unmount => {
                // Before the answer: a successor must know it, should this process die meanwhile.
                self.service.look(|engine, _| engine.will_stop());
                Reply::Stopping { pid: self.info.pid }
            }
            Ask::HandOver => match self.successor {
                Successor::Comes => Reply::HandingOver { pid: self.info.pid },
                Successor::None => Reply::Refused(Refusal::NoSuccessor),
            },
        }
    }

    fn end(&self, farewell: Farewell) {
        // It may be about to end already.
        let _ = self.ends.send(farewell);
    }
}

impl<C: Clock> ServiceHandler<C> {
    fn select(&self, names: &[String]) -> Result<Vec<Ino>, Refusal> {
        self.service.look(|engine, _| engine.select(names)).map_err(|name| Refusal::UnknownName { name })
    }

    fn status(&self) -> StatusReport {
        let times = self.times();
        let Status { files, identities, memory, unrevoked: _, lost_logins } =
            self.service.look(|engine, now| engine.status(now));
        let refused: Vec<Retirement> =
            self.retirements().into_values().filter(Retirement::is_refused).collect();
        StatusReport {
            mount_point: self.info.mount_point.display().to_string(),
            config: self.info.config.display().to_string(),
            pid: self.info.pid,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: rfc3339(self.info.started),
            vault: VaultReport {
                addresses: self.info.addresses.clone(),
                down_for_seconds: match self.service.health() {
                    Health::Well => None,
                    Health::Shaky { since } | Health::Down { since } => {
                        Some(times.now.since(since).as_secs())
                    }
                },
            },
            identities: identities.into_iter().map(|one| self.identity_report(one, &times)).collect(),
            files: files.into_iter().map(|file| self.file_report(file, &times)).collect(),
            locks: self.lock_reports(),
            memory,
            unrevoked: refused.into_iter().map(|one| self.lease_report(one, &times)).collect(),
            lost_logins: lost_logins
                .into_iter()
                .map(|(id, lost)| self.lost_login(id, lost, &times))
                .collect(),
            losses: self.losses(),
            program: self.info.program.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            unit: self.info.unit.clone().unwrap_or_default(),
            user: self.info.user.clone(),
            protections: self.info.protections.clone(),
        }
    }

    fn identity_report(&self, status: IdentityStatus, times: &Times) -> IdentityReport {
        let IdentityStatus { identity, logged_in, expires, error, duration, kept, used } = status;
        let expires = expires.map(|end| times.instant(end));
        IdentityReport {
            name: self.identity(identity),
            logged_in,
            expires,
            error,
            duration_seconds: duration.map(|span| span.as_secs()),
            kept,
            used,
        }
    }

    fn lost_login(&self, id: IdentityId, lost: LostLogin, times: &Times) -> LostLoginReport {
        let expires = lost.expires.filter(|end| *end != BootTime::NEVER).map(|end| times.instant(end));
        LostLoginReport { identity: self.identity(id), expires, reason: LOGIN_LOST.to_owned() }
    }

    pub(super) fn file_report(&self, status: FileStatus, times: &Times) -> FileReport {
        let duration = match (status.kind, status.issued, status.expires) {
            (Some(Kind::OwnEnd), Some(issued), Some(end)) => Some(times.between(issued, end)),
            _ => status.duration.map(|span| span.as_secs()),
        };
        FileReport {
            name: status.name,
            state: status.state.name().to_owned(),
            path: status.path,
            identity: self.identity(status.identity),
            size: status.size,
            version: status.version,
            issued: status.issued.map(rfc3339),
            expires: status.expires.map(|end| times.instant(end)),
            lease: status.lease.map(|lease| lease.0),
            readers: status.readers,
            error: status.error,
            vanished: status.vanished,
            required: status.required,
            kind: status.kind.map(|kind| kind_word(kind).to_owned()),
            duration_seconds: duration,
            next: next_report(status.next, times),
        }
    }

    fn lease_report(&self, one: Retirement, times: &Times) -> LeaseReport {
        let path = self.service.look(|engine, _| engine.path_of(one.debt.source)).unwrap_or_default();
        LeaseReport {
            lease: one.debt.lease.0,
            path,
            expires: times.instant(one.debt.expires),
            reason: one.refused.unwrap_or_else(|| "Vault has not answered yet; it is tried again".to_owned()),
        }
    }

    pub(super) fn identity(&self, id: IdentityId) -> String {
        self.info.identities.get(id.0 as usize).cloned().unwrap_or_else(|| id.0.to_string())
    }

    /// What the system lacks, and what has turned out to be lacking since.
    fn losses(&self) -> Vec<String> {
        let mut losses = self.info.losses.clone();
        let locking = sys::locking();
        if !locking.all_pages && locking.refused > 0 {
            losses.push(format!(
                "the system refused to lock {} pages with secrets, so they may have been swapped out: raise \
                 RLIMIT_MEMLOCK (LimitMEMLOCK= of the service)",
                locking.refused
            ));
        }
        if let Some(full) = self.service.unkept() {
            losses.push(format!(
                "no state can be kept, a restart logs in anew: {full} (RLIMIT_MEMLOCK, LimitMEMLOCK= of the service)"
            ));
        }
        if self.service.look(|engine, _| engine.openers_are_hidden()) {
            losses.push(
                "the process of a program that opened files could not be seen in /proc (hidepid, or another pid \
                 namespace): files that it reads one after the other may be of two generations when a rotation \
                 falls in between"
                    .to_owned(),
            );
        }
        losses
    }

    /// Ends generations and waits a moment for Vault to confirm it.
    pub(super) async fn end(&self, ending: Ending<'_>) -> RevokeReport {
        let (ended, mine) = self.service.call(|engine, at| {
            let before = engine.retirements(at.now);
            let (ended, effects) = match ending {
                Ending::Revoke(files) => engine.revoke(at, files),
                Ending::Lock(scopes, lock) => engine.lock(at, scopes, lock),
            };
            let mut mine = engine.retirements(at.now);
            mine.retain(|lease, _| !before.contains_key(lease));
            ((ended, mine), effects)
        });
        let mine: BTreeSet<LeaseId> = mine.into_keys().collect();
        let pending = |left: &BTreeMap<LeaseId, Retirement>| {
            mine.iter().any(|lease| left.get(lease).is_some_and(|one| !one.is_refused()))
        };
        let settled = async {
            while pending(&self.retirements()) {
                tokio::time::sleep(LOOK).await;
            }
        };
        // What is not settled then is reported as what it is.
        let _ = tokio::time::timeout(REVOCATION, settled).await;
        let mut left = self.retirements();
        left.retain(|lease, _| mine.contains(lease));
        let revoked = mine.iter().filter(|lease| !left.contains_key(lease)).map(|lease| lease.0.clone());
        let (revoked, times) = (revoked.collect(), self.times());
        let unrevoked = left.into_values().map(|one| self.lease_report(one, &times)).collect();
        RevokeReport { ended, revoked, unrevoked }
    }

    fn retirements(&self) -> BTreeMap<LeaseId, Retirement> {
        self.service.look(|engine, now| engine.retirements(now))
    }

    async fn refresh(&self, files: &[Ino]) -> RefreshReport {
        let outcomes = self.service.call(|engine, at| engine.refresh(at, files));
        // All of them at first, so that none is answered late because another one was waited for.
        let waiting: Vec<_> =
            outcomes.into_iter().map(|(ino, outcome)| (ino, self.expect(outcome))).collect();
        let mut failed = BTreeMap::new();
        let mut refreshed = Vec::new();
        for (ino, answer) in waiting {
            let result = match answer {
                Expected::Now(result) => result,
                // The driver is gone: the mount has ended.
                Expected::Later(answer) => answer.await.unwrap_or(Err(FsError::Stopping)),
            };
            refreshed.push(ino);
            if let Err(situation) = result {
                failed.insert(ino, situation);
            }
        }
        let mut reasons: BTreeMap<String, String> = match failed.is_empty() {
            true => BTreeMap::new(),
            false => {
                let status = self.service.look(|engine, now| engine.status(now));
                status.files.into_iter().filter_map(|file| Some((file.name, file.error?))).collect()
            }
        };
        let files = refreshed.into_iter().map(|ino| {
            let name = self.service.look(|engine, _| engine.file_name(ino));
            let error = failed
                .get(&ino)
                .map(|situation| reasons.remove(&name).unwrap_or_else(|| situation.to_string()));
            RefreshedFile { name, error }
        });
        RefreshReport { files: files.collect() }
    }

    fn expect(&self, outcome: Outcome<Answer>) -> Expected {
        match outcome {
            Outcome::Done(result) => Expected::Now(result),
            Outcome::Wait(ticket) => {
                let (sender, answer) = oneshot::channel();
                self.service.wait(ticket, Box::new(Waiting(sender)));
                Expected::Later(answer)
            }
            // An operator is not asked for groups.
            Outcome::NeedGroups | Outcome::NeedProcess => Expected::Now(Err(FsError::CallerDenied)),
        }
    }

    pub(super) fn times(&self) -> Times {
        Times { now: self.service.clock().now(), wall: self.service.clock().wall() }
    }
}

enum Expected {
    Now(Result<Answer, FsError>),
    Later(oneshot::Receiver<Result<Answer, FsError>>),
}

/// A refresh that waits for the driver's answer.
struct Waiting(oneshot::Sender<Result<Answer, FsError>>);

impl Waiter for Waiting {
    fn answer(self: Box<Self>, answer: Result<Answer, FsError>) {
        // Whoever asked may have gone.
        let _ = self.0.send(answer);
    }
}

/// Both clocks, read at once.
pub(super) struct Times {
    pub(super) now: BootTime,
    pub(super) wall: UnixTime,
}

fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Kv => "kv",
        Kind::Static => "static",
        Kind::Lease => "lease",
        Kind::OwnEnd => "own-end",
    }
}

impl Times {
    /// From an instant of the wall clock to one of the clock of leases, in seconds.
    fn between(&self, from: UnixTime, to: BootTime) -> u64 {
        let to = UnixTime::of(to, self.now, self.wall);
        u64::try_from(to.seconds.saturating_sub(from.seconds)).unwrap_or(0)
    }

    pub(super) fn instant(&self, end: BootTime) -> Instant {
        let left = end.since(self.now);
        let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
        let at = UnixTime { seconds: self.wall.seconds.saturating_add(seconds), nanoseconds: 0 };
        Instant { in_seconds: left.as_secs(), at: rfc3339(at) }
    }
}

/// An instant as RFC 3339, in whole seconds.
pub(super) fn rfc3339(time: UnixTime) -> String {
    // The last second of the year 9999: what is later can't be written.
    let seconds = u64::try_from(time.seconds).unwrap_or(0).min(253_402_300_799);
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_as_a_span_and_as_an_instant() {
        let times =
            Times { now: BootTime(5_000_000_000), wall: UnixTime { seconds: 1_767_323_045, nanoseconds: 7 } };
        let end = BootTime(65_900_000_000);
        assert_eq!(times.instant(end), Instant { in_seconds: 60, at: "2026-01-02T03:05:05Z".to_owned() });
        let over = Instant { in_seconds: 0, at: "2026-01-02T03:04:05Z".to_owned() };
        assert_eq!(times.instant(BootTime(1)), over);
    }

    #[test]
    fn an_instant_that_no_calendar_has_is_written_all_the_same() {
        assert_eq!(rfc3339(UnixTime { seconds: i64::MAX, nanoseconds: 0 }), "9999-12-31T23:59:59Z");
        assert_eq!(rfc3339(UnixTime { seconds: -1, nanoseconds: 0 }), "1970-01-01T00:00:00Z");
    }
}

//! What an operator asks: how things stand, revoke, refresh, stop.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::core::access::{Caller, Verdict, may_read};
use crate::core::effect::{Answer, Credential, Effect, End, Outcome};
use crate::core::engine::composing::{Showing, View};
use crate::core::engine::explain::{Kind, Upcoming};
use crate::core::engine::leases::{Retiring, Revocation};
use crate::core::engine::waiting::Operation;
use crate::core::engine::wakes::WakeKey;
use crate::core::engine::{Effects, Engine};
use crate::core::error::{Failure, FsError};
use crate::core::generation::{Body, Generation, Next, Validity};
use crate::core::identity::{Identity, LoginState, LostLogin, TokenNext};
use crate::core::name::{GenerationId, HandleId, IdentityId, Ino, LeaseId, SourceId, Ticket};
use crate::core::policy::Renew;
use crate::core::source::{Fetch, Source};
use crate::core::time::{BootTime, Moment, UnixTime};
use crate::core::tree::Node;

/// How a file stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing was fetched yet, or what was is over.
    Idle,
    /// It can be read.
    Live,
    /// It can be read, and is being extended.
    Renewing,
    /// It can be read, but Vault could not be asked whether it is still right.
    Stale,
    /// It can't be read: the last try failed.
    Failed,
    /// An operator locked it.
    Locked,
}

impl State {
    /// Its name, as in `user.leasefs.state`.
    pub fn name(self) -> &'static str {
        match self {
            State::Idle => "idle",
            State::Live => "live",
            State::Renewing => "renewing",
            State::Stale => "stale",
            State::Failed => "failed",
            State::Locked => "locked",
        }
    }
}

/// How one file stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStatus {
    /// Its name.
    pub name: String,
    /// How it stands.
    pub state: State,
    /// What it reads; of several secrets all paths, with a comma in between.
    pub path: String,
    /// Who reads it.
    pub identity: IdentityId,
    /// Bytes, if it can be read.
    pub size: Option<u64>,
    /// KV v2: which version; none of several secrets.
    pub version: Option<u64>,
    /// When the current generation was issued.
    pub issued: Option<UnixTime>,
    /// When it ends, if nothing extends it.
    pub expires: Option<BootTime>,
    /// Its lease; of several secrets that of the one that ends first.
    pub lease: Option<LeaseId>,
    /// How many handles are open, on both generations.
    pub readers: usize,
    /// Why the last try failed.
    pub error: Option<String>,
    /// The name is gone with its lease.
    pub vanished: bool,
    /// It is kept live from the mount on, and waited for.
    pub required: bool,
    /// What keeps it valid.
    pub kind: Option<Kind>,
    /// How long its lease was granted for.
    pub duration: Option<Duration>,
    /// What happens to it next, by itself.
    pub next: Upcoming,
}

/// How one identity stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityStatus {
    /// Which one.
    pub identity: IdentityId,
    /// Whether it has a token.
    pub logged_in: bool,
    /// When the token ends; `None`: never, or there is none.
    pub expires: Option<BootTime>,
    /// Why the last login failed.
    pub error: Option<String>,
    /// How long the token was granted for at first.
    pub duration: Option<Duration>,
    /// Whether it is going to be extended, or replaced by a new one of our own.
    pub kept: bool,
    /// Whether anything is read with it.
    pub used: bool,
}

/// How a mount stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Each file that is declared or that a program has looked at, by name.
    pub files: Vec<FileStatus>,
    /// Each identity.
    pub identities: Vec<IdentityStatus>,
    /// Bytes of secrets and lists kept.
    pub memory: u64,
    /// Leases that could not be revoked and live on in Vault.
    pub unrevoked: Vec<Debt>,
    /// Logins of servers before this one whose tokens, if any were issued, may live.
    pub lost_logins: Vec<(IdentityId, LostLogin)>,
}

/// A lease that lives on in Vault though nobody here uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debt {
    /// Which.
    pub lease: LeaseId,
    /// What it was for.
    pub source: SourceId,
    /// The token that obtained it.
    pub with: Credential,
    /// When it ends by itself.
    pub expires: BootTime,
}

/// A lease that is being given back while the mount goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retirement {
    /// Which, and until when.
    pub debt: Debt,
    /// Why Vault will not revoke it for us; `None`: it is tried until it succeeds.
    pub refused: Option<String>,
}

impl Retirement {
    /// Whether nothing more is tried.
    pub fn is_refused(&self) -> bool {
        self.refused.is_some()
    }
}

/// What is to be given back when the mount ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// Tokens that leasefs logged in for: revoking them ends all of their leases.
    pub tokens: Vec<Credential>,
    /// All leases that live.
    pub leases: Vec<Debt>,
    /// Reads that may mint and are still on their way.
    pub minting: Vec<(SourceId, Credential)>,
}

/// The extended attributes of a file.
pub const XATTRS: [&str; 6] = [
    "user.leasefs.source",
    "user.leasefs.state",
    "user.leasefs.version",
    "user.leasefs.issued",
    "user.leasefs.expires",
    "user.leasefs.error",
];

/// The value of an extended attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XattrValue {
    /// As it is.
    Text(String),
    /// To be shown as RFC 3339.
    Unix(UnixTime),
    /// To be shown as RFC 3339, once turned into a wall-clock time.
    Boot(BootTime),
}

impl<B: Body> Engine<B> {
    /// Why the last read of a source failed; nothing after a success.
    pub fn failure_of(&self, id: SourceId) -> Option<&Failure> {
        self.sources.get(&id)?.failure.as_ref()
    }

    /// How everything stands.
    pub fn status(&self, now: BootTime) -> Status {
        let mut files: Vec<FileStatus> = self
            .tree
            .slots()
            .filter(|(_, slot)| matches!(slot.node, Node::File(_) | Node::Field(_)))
            .filter_map(|(ino, _)| self.file_status(now, ino))
            .collect();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let identities = self
            .identities
            .iter()
            .map(|identity| {
                let token = identity.current().filter(|token| now < token.end);
                IdentityStatus {
                    identity: identity.id,
                    logged_in: token.is_some(),
                    expires: token.map(|token| token.end).filter(|end| *end != BootTime::NEVER),
                    error: match &identity.login {
                        LoginState::Failed { failure, .. } => Some(failure.reason.clone()),
                        LoginState::Idle | LoginState::InFlight(_) => None,
                    },
                    duration: token.and_then(|token| token.ttl),
                    kept: token.is_some_and(|token| match token.next {
                        TokenNext::Renew(_) | TokenNext::Renewing(_) => true,
                        // A given one is replaced only if somebody puts another one in its place.
                        TokenNext::Replace(_) => token.ours,
                        TokenNext::Nothing => token.end == BootTime::NEVER,
                    }),
                    used: self.sources.values().any(|source| source.spec.identity == identity.id)
                        || self.trees.iter().any(|tree| tree.identity == identity.id),
                }
            })
            .collect();
        let unrevoked = self
            .retiring
            .iter()
            .filter(|(_, one)| matches!(one.state, Revocation::Refused(_)) && now < one.expires)
            .map(|(lease, one)| Debt {
                lease: lease.clone(),
                source: one.source,
                with: one.with,
                expires: one.expires,
            })
            .collect();
        let lost = |identity: &Identity| {
            let (id, living) = (identity.id, identity.lost_logins.iter().filter(|lost| lost.may_live(now)));
            living.map(|lost| (id, *lost)).collect::<Vec<_>>()
        };
        let lost_logins = self.identities.iter().flat_map(lost).collect();
        Status { files, identities, memory: self.memory, unrevoked, lost_logins }
    }

    pub(super) fn file_status(&self, now: BootTime, ino: Ino) -> Option<FileStatus> {
        let view = self.file_of(ino)?;
        let sources: Vec<&Source<B>> =
            view.sources.iter().map(|id| self.sources.get(&id)).collect::<Option<_>>()?;
        let lock = self.lock_of(ino);
        let showing = self.showing(now, &view).filter(|_| lock.is_none());
        let live = showing.as_ref();
        // What ends first decides when the file does.
        let decides = live.and_then(|showing| {
            showing.parts.iter().map(|(id, one)| (*id, *one)).min_by_key(|(_, one)| self.end_of(one))
        });
        let one = decides.map(|(_, one)| one);
        let paths: Vec<&str> = sources.iter().map(|source| source.spec.request.path.as_str()).collect();
        Some(FileStatus {
            name: self.tree.path(ino),
            state: lock.map_or_else(|| self.state_of(now, &sources, live), |_| State::Locked),
            path: paths.join(", "),
            identity: sources.first()?.spec.identity,
            size: live.and_then(Showing::bytes).map(|body| body.size()),
            version: one.filter(|_| !view.sources.are_several()).and_then(version_of),
            issued: live.and_then(Showing::issued),
            expires: one.map(|one| self.end_of(one)).filter(|end| *end != BootTime::NEVER),
            lease: one.and_then(|one| one.lease().map(|lease| lease.id.clone())),
            readers: self.readers_of(ino, &sources),
            error: match lock {
                Some(lock) => Some(lock.reason.clone()),
                None => error_of(&sources, live).map(|failure| failure.reason.clone()),
            },
            vanished: self.vanished.contains_key(&ino),
            required: sources.iter().any(|source| source.spec.policy.renew == Renew::Required),
            kind: one.map(Kind::of),
            duration: one.and_then(|one| one.lease().map(|lease| lease.duration)),
            next: self.upcoming(now, decides.map_or(view.sources.first(), |(id, _)| id)),
        })
    }

    /// How many handles of a file read something.
    fn readers_of(&self, ino: Ino, sources: &[&Source<B>]) -> usize {
        let generations = sources.iter().flat_map(|source| [&source.current, &source.previous]).flatten();
        let handles: BTreeSet<HandleId> = generations.flat_map(|one| one.handles.iter().copied()).collect();
        let of_file = |handle: &HandleId| self.handles.file(*handle).is_some_and(|file| file.ino == ino);
        handles.into_iter().filter(of_file).count()
    }

    fn state_of(&self, now: BootTime, sources: &[&Source<B>], live: Option<&Showing<'_, B>>) -> State {
        let failed = sources.iter().any(|source| source.failure.is_some());
        let Some(showing) = live else {
            let failed = sources.iter().any(|source| source.failure.is_some() && !self.has_live(now, source));
            return if failed { State::Failed } else { State::Idle };
        };
        let renews = |one: &Generation<B>| {
            one.lease().is_some_and(|lease| matches!(lease.next, Next::Renewing { .. }))
        };
        let renewing = showing.parts.iter().any(|(_, one)| renews(one))
            || sources.iter().any(|source| source.fetch != Fetch::Idle);
        let fresh = showing.parts.iter().all(|(_, one)| one.is_fresh(now));
        match showing.body {
            Some(Err(_)) => State::Failed,
            None if sources.len() == 1 => State::Failed,
            // Of several secrets it may not be composed yet.
            Some(Ok(_)) | None if renewing => State::Renewing,
            Some(Ok(_)) | None if !fresh && failed => State::Stale,
            Some(Ok(_)) | None => State::Live,
        }
    }

    fn has_live(&self, now: BootTime, source: &Source<B>) -> bool {
        source.current.as_ref().is_some_and(|current| now < self.end_of(current))
    }

    /// The value of an extended attribute, for a caller who may read the file, or the file in a directory
    /// that it is about.
    pub fn xattr(&self, now: BootTime, caller: &Caller, ino: Ino, name: &str) -> Outcome<XattrValue> {
        let Some(View { rule, .. }) = self.file_of(ino) else {
            return self.directory_xattr(now, caller, ino, name);
        };
        match may_read(caller, &rule) {
            Verdict::NeedGroups => return Outcome::NeedGroups,
            Verdict::Deny => return Outcome::Done(Err(FsError::CallerDenied)),
            Verdict::Allow => {}
        }
        let Some(status) = self.file_status(now, ino) else {
            return Outcome::Done(Err(FsError::NoSuchAttribute));
        };
        let value = match name {
            "user.leasefs.source" => Some(XattrValue::Text(status.path)),
            "user.leasefs.state" => Some(XattrValue::Text(status.state.name().to_owned())),
            "user.leasefs.version" => status.version.map(|version| XattrValue::Text(version.to_string())),
            "user.leasefs.issued" => status.issued.map(XattrValue::Unix),
            "user.leasefs.expires" => status.expires.map(XattrValue::Boot),
            "user.leasefs.error" => status.error.map(XattrValue::Text),
            _ => None,
        };
        Outcome::Done(value.ok_or(FsError::NoSuchAttribute))
    }

    /// The names of the extended attributes that have a value now, for a caller who may read the file.
    pub fn xattr_names(&self, now: BootTime, caller: &Caller, ino: Ino) -> Outcome<Vec<String>> {
        if self.file_of(ino).is_none() {
            return self.directory_xattr_names(now, caller, ino);
        }
        let mut names = Vec::new();
        for name in XATTRS {
            match self.xattr(now, caller, ino, name) {
                Outcome::Done(Ok(_)) => names.push(name.to_owned()),
                Outcome::NeedGroups => return Outcome::NeedGroups,
                Outcome::Done(Err(_)) | Outcome::Wait(_) | Outcome::NeedProcess => {}
            }
        }
        Outcome::Done(Ok(names))
    }

    /// The leases that are being given back or could not be, and live on in Vault.
    pub fn retirements(&self, now: BootTime) -> BTreeMap<LeaseId, Retirement> {
        let living = self.retiring.iter().filter(|(_, one)| now < one.expires);
        let retirement = |(lease, one): (&LeaseId, &Retiring)| {
            let debt =
                Debt { lease: lease.clone(), source: one.source, with: one.with, expires: one.expires };
            let refused = match &one.state {
                Revocation::Refused(failure) => Some(failure.reason.clone()),
                Revocation::InFlight | Revocation::Again(_) => None,
            };
            (lease.clone(), Retirement { debt, refused })
        };
        living.map(retirement).collect()
    }

    /// The name of a file or directory in the mount.
    pub fn file_name(&self, ino: Ino) -> String {
        self.tree.path(ino)
    }

    /// The files that an operator means: these names, or what is below them; none: all.
    ///
    /// # Errors
    /// The first name that is not in the tree.
    pub fn select(&self, names: &[String]) -> Result<Vec<Ino>, String> {
        let mut files: Vec<(String, Ino)> = self
            .tree
            .slots()
            .filter(|(_, slot)| matches!(slot.node, Node::File(_) | Node::Field(_)))
            .map(|(ino, _)| (self.tree.path(ino), ino))
            .collect();
        files.sort();
        if names.is_empty() {
            return Ok(files.into_iter().map(|(_, ino)| ino).collect());
        }
        let mut selected = Vec::new();
        for name in names {
            let name = name.trim_matches('/');
            let below = format!("{name}/");
            let before = selected.len();
            // They are sorted, so what is below a name stands together.
            let first = files.partition_point(|(path, _)| path.as_str() < name);
            let exact = files[first..].iter().take_while(|(path, _)| path == name);
            let first_below = files.partition_point(|(path, _)| path < &below);
            let all_below = files[first_below..].iter().take_while(|(path, _)| path.starts_with(&below));
            selected.extend(exact.chain(all_below).map(|(_, ino)| *ino));
            if selected.len() == before && self.tree.find(name).is_none() {
                return Err(name.to_owned());
            }
        }
        Ok(selected)
    }

    /// Ends the generations of these files, here and in Vault. The next open fetches anew.
    pub fn revoke(&mut self, at: Moment, files: &[Ino]) -> (usize, Effects) {
        self.run(at, |engine, fx| {
            let views: Vec<View> = files.iter().filter_map(|ino| engine.file_of(*ino)).collect();
            let sources: BTreeSet<SourceId> = views.iter().flat_map(|view| view.sources.iter()).collect();
            let sources: Vec<SourceId> = sources.into_iter().collect();
            let ended = engine.generations_of(&sources);
            for (id, which) in &ended {
                engine.end_generation(at, *id, *which, End::Revoked, fx);
            }
            ended.len()
        })
    }

    /// Fetches these files now, as if their generations were over; names that had vanished come back.
    /// Each source is fetched once; the ticket of each file is answered when its source is done.
    pub fn refresh(&mut self, at: Moment, files: &[Ino]) -> (Vec<(Ino, Outcome<Answer>)>, Effects) {
        self.run(at, |engine, fx| {
            let mut outcomes = Vec::new();
            for ino in files {
                let Some(View { sources, .. }) = engine.file_of(*ino) else { continue };
                if engine.lock_of(*ino).is_some() {
                    outcomes.push((*ino, Outcome::Done(Err(FsError::Locked))));
                    continue;
                }
                if engine.stopping {
                    outcomes.push((*ino, Outcome::Done(Err(FsError::Stopping))));
                    continue;
                }
                if engine.vanished.remove(ino).is_some()
                    && let Some(slot) = engine.tree.slot(*ino)
                {
                    fx.push(Effect::InvalidateListing(slot.parent));
                }
                let started = sources.iter().map(|id| engine.start_refresh(at, id, fx));
                // All of them are asked, whatever becomes of one.
                let failed = started.collect::<Vec<_>>().into_iter().flatten().next();
                let outcome = match failed {
                    Some(failure) => Outcome::Done(Err(failure.fault.situation())),
                    None => engine.wait_for_fetch(*ino, &sources, Operation::Refresh),
                };
                outcomes.push((*ino, outcome));
            }
            outcomes
        })
    }

    fn start_refresh(&mut self, at: Moment, id: SourceId, fx: &mut Effects) -> Option<Failure> {
        match self.sources.get(&id).map(|source| source.fetch) {
            Some(Fetch::Idle) => {
                let minting = crate::core::effect::Minting::Allowed;
                self.start_fetch(at, id, minting, crate::core::effect::Urgency::Reader, fx)
            }
            Some(Fetch::Queued { .. } | Fetch::InFlight { .. }) | None => None,
        }
    }

    /// The mount is to end, whatever becomes of this process: nothing is fetched any more, and a successor goes
    /// straight on to [`Engine::stop`].
    pub fn will_stop(&mut self) {
        self.stopping = true;
    }

    /// Whether the mount is to end.
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// The mount ends: all bytes go, callers that wait are told, and what is left to be given back is
    /// returned. Nothing is fetched any more; what still arrives is added to `leases` by asking again.
    pub fn stop(&mut self, at: Moment) -> (Settlement, Effects) {
        self.run(at, |engine, fx| {
            engine.stopping = true;
            for index in 0..engine.identities.len() {
                engine.touch_identity(IdentityId(index as u32));
            }
            let waiting: Vec<Ticket> = std::mem::take(&mut engine.waiting).into_keys().collect();
            for ticket in waiting {
                fx.push(Effect::Answer { ticket, answer: Err(FsError::Stopping) });
            }
            for (id, source) in engine.sources.iter_mut() {
                source.waiters.clear();
                if matches!(source.fetch, Fetch::Queued { .. }) {
                    source.fetch = Fetch::Idle;
                }
                engine.wakes.touch(WakeKey::Source(*id));
            }
            let ending: Vec<(SourceId, GenerationId)> = engine
                .sources
                .iter()
                .flat_map(|(id, source)| {
                    [&source.current, &source.previous].into_iter().flatten().map(|one| (*id, one.id))
                })
                .collect();
            for (id, which) in ending {
                engine.end_generation(at, id, which, End::Stopped, fx);
            }
            // They are given back all at once, by whoever carries the settlement out.
            fx.list.retain(|effect| !matches!(effect, Effect::RevokeLease { .. }));
            engine.settlement(at.now)
        })
    }

    /// What is still to be given back after [`Engine::stop`].
    pub fn settlement(&self, now: BootTime) -> Settlement {
        let tokens = self
            .identities
            .iter()
            .flat_map(|identity| {
                let ours = identity.tokens.iter().filter(|token| token.ours && now < token.end);
                ours.map(|token| Credential { identity: identity.id, token: token.id })
            })
            .collect();
        let leases = self
            .retiring
            .iter()
            .filter(|(_, one)| now < one.expires)
            .map(|(lease, one)| Debt {
                lease: lease.clone(),
                source: one.source,
                with: one.with,
                expires: one.expires,
            })
            .collect();
        let minting = self
            .sources
            .iter()
            .filter(|(_, source)| source.mints != Some(false))
            .filter_map(|(id, source)| match source.fetch {
                Fetch::InFlight { with, .. } => Some((*id, with)),
                Fetch::Idle | Fetch::Queued { .. } => None,
            })
            .collect();
        Settlement { tokens, leases, minting }
    }
}

pub(super) fn error_of<'a, B: Body>(
    sources: &[&'a Source<B>],
    live: Option<&Showing<'a, B>>,
) -> Option<&'a Failure> {
    let own = live.and_then(|showing| showing.body?.err());
    let of_reads = || sources.iter().find_map(|source| source.failure.as_ref());
    let of_renewals = || sources.iter().find_map(|source| source.renewal_failure.as_ref());
    own.or_else(of_reads).or_else(of_renewals)
}

fn version_of<B: Body>(generation: &Generation<B>) -> Option<u64> {
    match &generation.validity {
        Validity::Kv { version, .. } => *version,
        Validity::Static { .. } | Validity::Leased(_) | Validity::Fixed { .. } => None,
    }
}

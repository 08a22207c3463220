//! Whether files can be read now: what a mount waits for before it says that it is ready, and what
//! `leasefs wait` waits for.

use crate::core::effect::{Effect, Minting, ReadRequest, Urgency};
use crate::core::engine::composing::View;
use crate::core::engine::control::State;
use crate::core::engine::{Effects, Engine};
use crate::core::error::{Failure, FsError};
use crate::core::generation::{Body, Piece};
use crate::core::locks::Scope;
use crate::core::name::{Ino, SourceId};
use crate::core::policy::Renew;
use crate::core::source::{Fetch, SourceSpec};
use crate::core::sources::Sources;
use crate::core::time::{BootTime, Moment};
use crate::core::tree::Node;

/// How a file stands for somebody who waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// Its name; that of a directory of fields stands for all of them.
    pub name: String,
    /// How it stands.
    pub state: State,
    /// Why it can't be read.
    pub error: Option<String>,
    /// Whether it is worth waiting for.
    pub outlook: Outlook,
}

/// Whether what is not there may come by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// It is there, is being fetched, or Vault was not able to answer.
    Open,
    /// Vault has refused it, or it is locked: nothing changes until somebody does something.
    Refused,
}

impl Readiness {
    /// Whether an open would be answered from memory.
    pub fn is_live(&self) -> bool {
        match self.state {
            State::Live | State::Renewing | State::Stale => true,
            State::Idle | State::Failed | State::Locked => false,
        }
    }
}

/// Something that is waited for.
#[derive(Clone, Debug)]
struct Wanted {
    name: String,
    sources: Sources,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    /// A file that has a number.
    File(Ino),
    /// A file of a tree that the kernel does not know yet.
    Unseen(String),
    /// All fields of a secret.
    Fields,
}

impl<B: Body> Engine<B> {
    /// How everything stands that is required.
    pub fn required(&self, now: BootTime) -> Vec<Readiness> {
        self.all_required().iter().map(|wanted| self.readiness(now, wanted)).collect()
    }

    /// How these files stand, or all below these directories; none: what is required. What is named and not
    /// live is fetched, unless that failed a moment ago; what is required is fetched by itself.
    ///
    /// # Errors
    /// The first name that the mount does not show.
    pub fn want(&mut self, at: Moment, names: &[String]) -> (Result<Vec<Readiness>, String>, Effects) {
        self.run(at, |engine, fx| {
            if names.is_empty() {
                return Ok(engine.required(at.now));
            }
            let mut wanted = Vec::new();
            let mut unknown = None;
            for name in names {
                match engine.wanted(name) {
                    Some(more) => wanted.extend(more),
                    None => unknown = unknown.or_else(|| Some(name.clone())),
                }
            }
            // One name that is wrong, and nothing is done for the others.
            for one in wanted.iter().filter(|_| unknown.is_none()) {
                if !engine.readiness(at.now, one).is_live() {
                    engine.fetch_wanted(at, one, fx);
                }
            }
            let readiness = wanted.iter().map(|one| engine.readiness(at.now, one)).collect();
            for one in &wanted {
                one.sources.iter().for_each(|id| engine.drop_if_idle(id));
            }
            unknown.map_or(Ok(readiness), Err)
        })
    }

    fn is_required(&self, id: SourceId) -> bool {
        self.sources.get(&id).is_some_and(|source| source.spec.policy.renew == Renew::Required)
    }

    /// Declared files and directories; names below a tree may be no more than somebody's guess.
    fn all_required(&self) -> Vec<Wanted> {
        let files = self.tree.slots().filter_map(|(ino, slot)| match &slot.node {
            Node::File(id) => Some((ino, self.files[id.0 as usize].sources.clone())),
            Node::Directory | Node::Field(_) | Node::FieldDirectory(_) | Node::TreeDirectory(_) => None,
        });
        let required = |sources: &Sources| sources.iter().any(|id| self.is_required(id));
        let files = files.filter(|(_, sources)| required(sources)).map(|(ino, sources)| Wanted {
            name: self.tree.path(ino),
            sources,
            what: What::File(ino),
        });
        let dirs = self.wanted_dirs().filter(|wanted| required(&wanted.sources));
        in_order(files.chain(dirs))
    }

    /// All files that have a number, and all directories of fields, by name.
    fn nameable(&self) -> Vec<Wanted> {
        let files = self.tree.slots().filter_map(|(ino, _)| {
            let View { sources, .. } = self.file_of(ino)?;
            Some(Wanted { name: self.tree.path(ino), sources, what: What::File(ino) })
        });
        in_order(files.chain(self.wanted_dirs()))
    }

    fn wanted_dirs(&self) -> impl Iterator<Item = Wanted> {
        self.field_dirs.iter().map(|dir| Wanted {
            name: dir.name.as_str().to_owned(),
            sources: Sources::one(dir.source),
            what: What::Fields,
        })
    }

    /// What a name means; `None` if the mount does not show it.
    fn wanted(&mut self, name: &str) -> Option<Vec<Wanted>> {
        let scope = Scope::new(name).ok()?;
        let wanted: Vec<Wanted> =
            self.nameable().into_iter().filter(|wanted| scope.covers(&wanted.name)).collect();
        if !wanted.is_empty() || self.tree.find(scope.as_str()).is_some() {
            return Some(wanted);
        }
        Some(vec![self.unseen(scope.as_str())?])
    }

    /// A field of a secret below a tree, or of a directory of fields, that nobody has looked up.
    fn unseen(&mut self, path: &str) -> Option<Wanted> {
        let (source, field) = self.unseen_field(path)?;
        Some(Wanted { name: path.to_owned(), sources: Sources::one(source), what: What::Unseen(field) })
    }

    /// As [`Engine::unseen`]: the secret and its field. The caller drops the source if it stays idle.
    pub(super) fn unseen_field(&mut self, path: &str) -> Option<(SourceId, String)> {
        let (directory, field) = path.rsplit_once('/')?;
        let source = match self.field_dirs.iter().find(|dir| dir.name.as_str() == directory) {
            Some(dir) => dir.source,
            None => {
                let below = |name: &str| directory.strip_prefix(name)?.strip_prefix('/').map(str::to_owned);
                let (tree, rest) =
                    self.trees.iter().find_map(|tree| Some((tree, below(tree.name.as_str())?)))?;
                let spec = SourceSpec {
                    identity: tree.identity,
                    request: ReadRequest {
                        path: tree.prefix.join(&rest).ok()?,
                        params: None,
                        version: None,
                        engine: tree.engine,
                    },
                    policy: tree.policy,
                    fields: true,
                };
                self.source_for(spec)
            }
        };
        Some((source, field.to_owned()))
    }

    fn readiness(&self, now: BootTime, wanted: &Wanted) -> Readiness {
        let (state, error) = self.standing(now, wanted);
        Readiness {
            name: wanted.name.clone(),
            state,
            error,
            outlook: self.outlook(now, state, &wanted.sources),
        }
    }

    fn outlook(&self, now: BootTime, state: State, sources: &Sources) -> Outlook {
        match state {
            State::Live | State::Renewing | State::Stale | State::Idle => Outlook::Open,
            State::Locked => Outlook::Refused,
            State::Failed => {
                let of = |id: SourceId| (self.failure_of(id), self.live(now, id).is_some());
                let may_pass = |(failure, lives): (Option<&Failure>, bool)| match failure {
                    Some(failure) => failure.fault.may_pass(),
                    None => !lives,
                };
                let mut failing =
                    sources.iter().map(of).filter(|(failure, lives)| failure.is_some() || !lives);
                match failing.next() {
                    Some(first) if may_pass(first) && failing.all(may_pass) => Outlook::Open,
                    // The secrets are there, and have not got what the file shows.
                    Some(_) | None => Outlook::Refused,
                }
            }
        }
    }

    fn standing(&self, now: BootTime, wanted: &Wanted) -> (State, Option<String>) {
        if let Some((_, lock)) = self.locks.covering(&wanted.name) {
            return (State::Locked, Some(lock.reason.clone()));
        }
        let state = match &wanted.what {
            What::File(ino) if self.vanished.contains_key(ino) => {
                return (State::Idle, Some(FsError::Vanished.to_string()));
            }
            What::File(ino) => {
                let status = self.file_status(now, *ino);
                return status.map_or((State::Idle, None), |status| (status.state, status.error));
            }
            What::Unseen(field) => match self.live(now, wanted.sources.first()) {
                Some(one) if !one.bodies.contains_key(&Piece::Field(field.clone())) => {
                    return (State::Failed, Some(format!("the secret has no field {field:?}")));
                }
                live => live.map(|_| State::Live),
            },
            What::Fields => self.live(now, wanted.sources.first()).map(|_| State::Live),
        };
        let failure = self.failure_of(wanted.sources.first()).filter(|_| state.is_none());
        let idle = if failure.is_some() { State::Failed } else { State::Idle };
        (state.unwrap_or(idle), failure.map(|failure| failure.reason.clone()))
    }

    fn fetch_wanted(&mut self, at: Moment, wanted: &Wanted, fx: &mut Effects) {
        if self.locks.covering(&wanted.name).is_some() || self.stopping {
            return;
        }
        if let What::File(ino) = wanted.what
            && self.vanished.remove(&ino).is_some()
            && let Some(slot) = self.tree.slot(ino)
        {
            fx.push(Effect::InvalidateListing(slot.parent));
        }
        let minting = match wanted.what {
            What::File(_) => Minting::Allowed,
            What::Unseen(_) | What::Fields => Minting::Forbidden,
        };
        for id in wanted.sources.iter() {
            let Some(source) = self.sources.get(&id) else { continue };
            let rests = at.now < source.not_before || source.fetch != Fetch::Idle;
            if !rests && self.live(at.now, id).is_none() {
                // Without a token its failure is noted, and with it when to come back.
                let _ = self.start_fetch(at, id, minting, Urgency::Reader, fx);
            }
        }
    }
}

fn in_order(wanted: impl Iterator<Item = Wanted>) -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> = wanted.collect();
    wanted.sort_by(|a, b| a.name.cmp(&b.name));
    wanted
}

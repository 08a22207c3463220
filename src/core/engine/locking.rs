//! Names that an operator has locked: what they showed ends, and nothing is fetched for them until they are
//! unlocked.
//!
//! Invariants: *shut*: a source all of whose names are locked is never read, whoever wants it;
//! *verdict first*: a lock is looked at before anything is asked for. A locked file can still be looked at:
//! it has no size, and its attributes say why.

use crate::core::effect::{Answer, End};
use crate::core::engine::waiting::{Attempt, Operation, Start};
use crate::core::engine::{Effects, Engine};
use crate::core::error::FsError;
use crate::core::generation::Body;
use crate::core::locks::{Lock, Locks, Scope};
use crate::core::name::{GenerationId, Ino, SourceId, Ticket};
use crate::core::source::{Fetch, SourceSpec};
use crate::core::time::Moment;
use crate::core::tree::{Node, TreeSpec};

impl<B: Body> Engine<B> {
    /// The locks of an earlier life of this mount; to be called before anything else.
    pub fn restore_locks(&mut self, locks: Locks) {
        self.locks = locks;
    }

    /// What is locked.
    pub fn locks(&self) -> &Locks {
        &self.locks
    }

    /// What an operator means by these names; none: the whole mount. A name below a tree need not be known
    /// yet.
    ///
    /// # Errors
    /// The first name that the mount will never show.
    pub fn scopes(&self, names: &[String]) -> Result<Vec<Scope>, String> {
        if names.is_empty() {
            return Ok(vec![Scope::Everything]);
        }
        let scope = |name: &String| {
            let scope = Scope::new(name).ok().filter(|scope| self.may_show(scope.as_str()));
            scope.ok_or_else(|| name.clone())
        };
        names.iter().map(scope).collect()
    }

    fn may_show(&self, path: &str) -> bool {
        let dirs = self.field_dirs.iter().map(|dir| &dir.name);
        let mut growing = dirs.chain(self.trees.iter().map(|tree| &tree.name));
        self.tree.find(path).is_some() || growing.any(|name| Scope::Name(name.clone()).covers(path))
    }

    /// Locks names: what they show ends, here and in Vault, and callers that wait for them are told. Returns
    /// how many generations ended.
    pub fn lock(&mut self, at: Moment, scopes: &[Scope], lock: &Lock) -> (usize, Effects) {
        self.run(at, |engine, fx| {
            engine.locks.lock(scopes, lock);
            let touched = engine.sources_of(scopes);
            for id in &touched {
                engine.call_off_fetch(*id);
            }
            let locked = engine.lists.keys().copied().filter(|ino| engine.lock_of(*ino).is_some());
            for ino in locked.collect::<Vec<_>>() {
                if let Some(list) = engine.lists.get_mut(&ino) {
                    list.call_off();
                }
            }
            let mut ended = engine.generations_of(&touched);
            ended.sort();
            for (id, which) in &ended {
                engine.end_generation(at, *id, *which, End::Locked, fx);
            }
            engine.answer_locked(at, fx);
            for id in touched {
                engine.drop_if_idle(id);
            }
            ended.len()
        })
    }

    /// Unlocks names and what is below them. Returns which locks went.
    pub fn unlock(&mut self, at: Moment, scopes: &[Scope]) -> (Vec<Scope>, Effects) {
        self.run(at, |engine, fx| {
            let gone = engine.locks.unlock(scopes);
            for id in engine.sources_of(&gone) {
                // What is to be kept is fetched by its wake.
                engine.touch_source(id);
                engine.invalidate(id, fx);
            }
            gone
        })
    }

    /// The lock that covers a file or directory.
    pub(super) fn lock_of(&self, ino: Ino) -> Option<&Lock> {
        if self.locks.is_empty() {
            return None;
        }
        self.locks.covering(&self.tree.path(ino)).map(|(_, lock)| lock)
    }

    /// The lock that covers a name in a directory, whether or not the name is there.
    pub(super) fn lock_of_child(&self, parent: Ino, name: &str) -> Option<&Lock> {
        if self.locks.is_empty() {
            return None;
        }
        let parent = self.tree.path(parent);
        let path = if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") };
        self.locks.covering(&path).map(|(_, lock)| lock)
    }

    /// Whether every name that shows something of a source is locked.
    pub(super) fn is_shut(&self, id: SourceId) -> bool {
        if self.locks.is_empty() {
            return false;
        }
        let names = self.names_and_directories_of(id);
        !names.is_empty() && names.iter().all(|name| self.locks.covering(name).is_some())
    }

    /// What an operation on a locked name comes to; `None` if it is not locked, or needs nothing that a lock
    /// forbids.
    pub(super) fn attempt_locked(&mut self, at: Moment, ino: Ino, operation: Operation) -> Option<Attempt> {
        self.lock_of(ino)?;
        let result = match (&self.tree.slot(ino)?.node, operation) {
            (Node::File(_) | Node::Field(_), Operation::OpenDirectory { .. }) => return None,
            (Node::Directory, _) => return None,
            (_, Operation::Attributes { .. }) => self.attributes(at.now, ino).map(Answer::Attributes),
            (Node::File(_) | Node::Field(_), Operation::Open { .. } | Operation::Refresh) => {
                Err(FsError::Locked)
            }
            (Node::FieldDirectory(_) | Node::TreeDirectory(_), Operation::OpenDirectory { .. }) => {
                Err(FsError::Locked)
            }
            (
                Node::FieldDirectory(_) | Node::TreeDirectory(_),
                Operation::Open { .. } | Operation::Refresh,
            ) => {
                return None;
            }
        };
        Some(Attempt::Done(result))
    }

    /// A read that has not gone out yet, and that nobody may have caused any more.
    fn call_off_fetch(&mut self, id: SourceId) {
        if self.is_shut(id)
            && let Some(source) = self.sources.get_mut(&id)
            && matches!(source.fetch, Fetch::Queued { .. })
        {
            source.fetch = Fetch::Idle;
        }
        self.touch_source(id);
    }

    /// Those who wait for what is locked now need not wait any longer.
    fn answer_locked(&mut self, at: Moment, fx: &mut Effects) {
        let waiting = self.waiting.iter().filter(|(_, one)| self.lock_of(one.ino()).is_some());
        let tickets: Vec<Ticket> = waiting.map(|(ticket, _)| *ticket).collect();
        for ticket in tickets {
            self.wait_for_nothing(ticket);
            self.try_again(at, ticket, Start::No, fx);
        }
    }

    /// The sources of which something lies in one of these scopes, in order.
    fn sources_of(&self, scopes: &[Scope]) -> Vec<SourceId> {
        let touches = |name: &String| scopes.iter().any(|scope| scope.touches(name));
        let touched = |id: &SourceId| self.names_and_directories_of(*id).iter().any(touches);
        self.sources.keys().copied().filter(touched).collect()
    }

    pub(super) fn generations_of(&self, sources: &[SourceId]) -> Vec<(SourceId, GenerationId)> {
        let source = |id: &SourceId| Some((*id, self.sources.get(id)?));
        let generations = sources.iter().filter_map(source).flat_map(|(id, source)| {
            [&source.current, &source.previous].into_iter().flatten().map(move |one| (id, one.id))
        });
        generations.collect()
    }

    /// The files of a source, and the directories that show its fields.
    fn names_and_directories_of(&self, id: SourceId) -> Vec<String> {
        let mut names = self.names_of(id);
        if let Some(source) = self.sources.get(&id) {
            names.extend(self.trees.iter().filter_map(|tree| directory_in(tree, &source.spec)));
        }
        names
    }
}

/// The directory in which a tree shows the fields of a source, if it does.
pub(super) fn directory_in(tree: &TreeSpec, source: &SourceSpec) -> Option<String> {
    let request = &source.request;
    let plain = request.params.is_none() && request.version.is_none() && request.engine == tree.engine;
    let rest = request.path.as_str().strip_prefix(tree.prefix.as_str())?;
    (plain && source.identity == tree.identity && rest.starts_with('/'))
        .then(|| format!("{}{rest}", tree.name))
}

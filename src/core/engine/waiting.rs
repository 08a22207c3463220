//! Callers that wait for Vault: each has a ticket and is answered once.

use crate::core::access::Opener;
use crate::core::effect::{Answer, Effect, Minting, Outcome};
use crate::core::engine::composing::View;
use crate::core::engine::{Effects, Engine};
use crate::core::error::FsError;
use crate::core::generation::Body;
use crate::core::name::{Ino, SourceId, Ticket};
use crate::core::source::Fetch;
use crate::core::sources::Sources;
use crate::core::time::Moment;
use crate::core::tree::Node;

/// What a caller waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// OPEN of a file.
    Open {
        /// The kernel's number of it.
        request: u64,
        /// Who opens it.
        by: Opener,
    },
    /// GETATTR of a file or directory.
    Attributes {
        /// Who looks.
        by: Opener,
    },
    /// OPENDIR.
    OpenDirectory {
        /// The kernel's number of it.
        request: u64,
    },
    /// An operator's refresh of a file.
    Refresh,
}

/// A caller that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    ino: Ino,
    operation: Operation,
    /// Where its ticket is kept.
    on: On,
}

impl Waiting {
    /// Which file or directory it is about.
    pub(super) fn ino(&self) -> Ino {
        self.ino
    }
}

/// Whether a try may start a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// The caller has just come.
    Yes,
    /// The read that it waited for is over: whatever is there now is the answer.
    No,
}

/// How far an operation got.
pub(super) enum Attempt {
    /// Answer now.
    Done(Result<Answer, FsError>),
    /// Something is on its way.
    Pending(On),
}

/// What an operation waits for, all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct On {
    /// Reads.
    pub(super) sources: Vec<SourceId>,
    /// A list, of this directory.
    pub(super) list: Option<Ino>,
}

impl<B: Body> Engine<B> {
    /// Tries an operation for a caller who may do it; lets it wait where it must.
    pub(super) fn begin(
        &mut self,
        at: Moment,
        ino: Ino,
        operation: Operation,
        fx: &mut Effects,
    ) -> Outcome<Answer> {
        if self.stopping {
            return Outcome::Done(Err(FsError::Stopping));
        }
        match self.attempt(at, ino, operation, Start::Yes, fx) {
            Attempt::Done(result) => {
                self.drop_unused_secret(ino);
                Outcome::Done(result)
            }
            Attempt::Pending(on) => {
                let ticket = Ticket(self.fresh_id());
                self.wait_on(ticket, ino, operation, on);
                Outcome::Wait(ticket)
            }
        }
    }

    /// Lets an operator wait for the reads of a file's sources that are on their way.
    pub(super) fn wait_for_fetch(
        &mut self,
        ino: Ino,
        sources: &Sources,
        operation: Operation,
    ) -> Outcome<Answer> {
        let ticket = Ticket(self.fresh_id());
        let on = On { sources: sources.iter().collect(), list: None };
        self.wait_on(ticket, ino, operation, on);
        Outcome::Wait(ticket)
    }

    fn wait_on(&mut self, ticket: Ticket, ino: Ino, operation: Operation, on: On) {
        for id in &on.sources {
            self.touch_source(*id);
            if let Some(source) = self.sources.aside(id) {
                source.waiters.insert(ticket);
            }
        }
        if let Some(list) = on.list.and_then(|ino| self.lists.get_mut(&ino)) {
            list.waiters.insert(ticket);
        }
        match self.waiting.get_mut(&ticket) {
            // Of several that it waited for, the others may still have it.
            Some(Waiting { on: before, .. }) => {
                before.sources.extend(on.sources);
                before.sources.sort_unstable();
                before.sources.dedup();
                before.list = on.list.or(before.list);
            }
            None => drop(self.waiting.insert(ticket, Waiting { ino, operation, on })),
        }
    }

    fn attempt(
        &mut self,
        at: Moment,
        ino: Ino,
        operation: Operation,
        start: Start,
        fx: &mut Effects,
    ) -> Attempt {
        if self.vanished.contains_key(&ino) && operation != Operation::Refresh {
            return Attempt::Done(Err(FsError::Vanished));
        }
        if let Some(attempt) = self.attempt_locked(at, ino, operation) {
            return attempt;
        }
        let Some(slot) = self.tree.slot(ino) else { return Attempt::Done(Err(FsError::NumberUnknown)) };
        match (&slot.node, operation) {
            (Node::File(_) | Node::Field(_), Operation::OpenDirectory { .. }) => {
                Attempt::Done(Err(FsError::NotADirectory))
            }
            (Node::File(_) | Node::Field(_), _) => self.attempt_file(at, ino, operation, start, fx),
            (_, Operation::Open { .. } | Operation::Refresh) => Attempt::Done(Err(FsError::IsADirectory)),
            (_, Operation::Attributes { .. } | Operation::OpenDirectory { .. }) => {
                self.attempt_directory(at, ino, operation, start, fx)
            }
        }
    }

    fn attempt_file(
        &mut self,
        at: Moment,
        ino: Ino,
        operation: Operation,
        start: Start,
        fx: &mut Effects,
    ) -> Attempt {
        let Some(view) = self.file_of(ino) else {
            return Attempt::Done(Err(FsError::NoSuchName));
        };
        let minting = match operation {
            Operation::Open { .. } | Operation::Refresh => Minting::Allowed,
            Operation::Attributes { .. } | Operation::OpenDirectory { .. } => Minting::Forbidden,
        };
        if operation == Operation::Refresh {
            // What may still be shown is no answer to it.
            let is_under_way =
                |id: &SourceId| self.sources.get(id).is_some_and(|source| source.fetch != Fetch::Idle);
            let under_way: Vec<SourceId> = view.sources.iter().filter(is_under_way).collect();
            if !under_way.is_empty() {
                return Attempt::Pending(On { sources: under_way, list: None });
            }
        }
        let demand = self.demand_all(at, &view.sources, minting, start, fx);
        match demand {
            Ok(sources) if !sources.is_empty() => Attempt::Pending(On { sources, list: None }),
            Err(error) if operation != Operation::Refresh => Attempt::Done(Err(error)),
            Ok(_) | Err(_) => Attempt::Done(match operation {
                Operation::Open { request, by } => {
                    self.open_file(at, ino, view, (request, by), fx).map(Answer::Opened)
                }
                Operation::Refresh => self.refreshed(at, &view, demand.err(), fx),
                Operation::Attributes { by } => self.file_attributes(at, ino, by, fx).map(Answer::Attributes),
                Operation::OpenDirectory { .. } => {
                    self.file_attributes(at, ino, Opener::NOBODY, fx).map(Answer::Attributes)
                }
            }),
        }
    }

    /// Whether what came in has what this file shows.
    fn refreshed(
        &mut self,
        at: Moment,
        view: &View,
        failed: Option<FsError>,
        fx: &mut Effects,
    ) -> Result<Answer, FsError> {
        // What was there before may live on; the refresh has failed all the same.
        let failure = view.sources.iter().find_map(|id| self.failure_of(id));
        if let Some(error) = failure.map(|failure| failure.fault.situation()).or(failed) {
            return Err(error);
        }
        let Some(showing) = self.showing(at.now, view) else { return Ok(Answer::Refreshed) };
        if view.composed().is_some() {
            let parts = showing.named();
            return self.compose(at, view, &parts, fx).map(|_| Answer::Refreshed);
        }
        match showing.body {
            Some(Err(failure)) => Err(failure.fault.situation()),
            Some(Ok(_)) | None => Ok(Answer::Refreshed),
        }
    }

    fn attempt_directory(
        &mut self,
        at: Moment,
        ino: Ino,
        operation: Operation,
        start: Start,
        fx: &mut Effects,
    ) -> Attempt {
        match self.demand_directory(at, ino, start, fx) {
            Ok(Some(on)) => Attempt::Pending(on),
            Err(error) => Attempt::Done(Err(error)),
            Ok(None) => Attempt::Done(match operation {
                Operation::OpenDirectory { request } => {
                    self.open_directory(at.now, ino, request).map(Answer::DirectoryOpened)
                }
                Operation::Open { .. } | Operation::Attributes { .. } | Operation::Refresh => {
                    self.directory_attributes(at.now, ino).map(Answer::Attributes)
                }
            }),
        }
    }

    /// What a source's waiters waited for is over.
    pub(super) fn wake_waiters_of_source(
        &mut self,
        at: Moment,
        id: SourceId,
        start: Start,
        fx: &mut Effects,
    ) {
        let Some(source) = self.sources.aside(&id) else { return };
        for ticket in std::mem::take(&mut source.waiters) {
            self.try_again(at, ticket, start, fx);
        }
        self.drop_if_idle(id);
    }

    /// What the waiters of a directory's list waited for is over.
    pub(super) fn wake_waiters_of_list(&mut self, at: Moment, ino: Ino, fx: &mut Effects) {
        let Some(list) = self.lists.get_mut(&ino) else { return };
        for ticket in std::mem::take(&mut list.waiters) {
            self.try_again(at, ticket, Start::No, fx);
        }
        self.drop_unused_secret(ino);
        self.drop_unheld_list(ino);
    }

    /// A caller waits for nothing that is on its way: it is to be tried again, or answered.
    pub(super) fn wait_for_nothing(&mut self, ticket: Ticket) {
        let Some(Waiting { on, .. }) = self.waiting.get(&ticket).cloned() else { return };
        for id in on.sources {
            if let Some(source) = self.sources.aside(&id) {
                source.waiters.remove(&ticket);
            }
        }
        if let Some(list) = on.list.and_then(|ino| self.lists.get_mut(&ino)) {
            list.waiters.remove(&ticket);
        }
    }

    pub(super) fn try_again(&mut self, at: Moment, ticket: Ticket, start: Start, fx: &mut Effects) {
        let Some(Waiting { ino, operation, .. }) = self.waiting.get(&ticket).cloned() else { return };
        match self.attempt(at, ino, operation, start, fx) {
            Attempt::Pending(on) => self.wait_on(ticket, ino, operation, on),
            Attempt::Done(answer) => {
                self.wait_for_nothing(ticket);
                self.waiting.remove(&ticket);
                fx.push(Effect::Answer { ticket, answer });
            }
        }
    }

    /// A caller's time is over: it gets what may still be shown (a stale KV secret), or a time-out. What
    /// it waited for goes on without it.
    pub fn give_up(&mut self, at: Moment, ticket: Ticket) -> Effects {
        self.run(at, |engine, fx| {
            engine.wait_for_nothing(ticket);
            let Some(Waiting { ino, operation, .. }) = engine.waiting.remove(&ticket) else { return };
            match engine.file_of(ino) {
                Some(view) => view.sources.iter().for_each(|id| engine.note_silence(id, fx)),
                None => engine.note_silent_directory(ino, fx),
            }
            let gone = engine.vanished.contains_key(&ino);
            let stale = engine.file_of(ino).filter(|view| !gone && engine.showing(at.now, view).is_some());
            let answer = match (operation, stale) {
                (Operation::Open { request, by }, Some(view)) => {
                    engine.open_file(at, ino, view, (request, by), fx).map(Answer::Opened)
                }
                (Operation::Attributes { by }, Some(_)) => {
                    engine.file_attributes(at, ino, by, fx).map(Answer::Attributes)
                }
                (
                    Operation::Open { .. }
                    | Operation::Attributes { .. }
                    | Operation::OpenDirectory { .. }
                    | Operation::Refresh,
                    _,
                ) => Err(FsError::TimedOut),
            };
            fx.push(Effect::Answer { ticket, answer });
        })
        .1
    }
}

//! The lists of trees' directories: asked for by whoever wants one, kept for a short time, dropped for
//! others. What a directory shows of them is `directories`' business.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::core::effect::{Credential, Effect, Report};
use crate::core::engine::fetching::{Demand, SILENCE};
use crate::core::engine::tokens::Loss;
use crate::core::engine::waiting::Start;
use crate::core::engine::{Effects, Engine};
use crate::core::error::{Failure, Fault, FsError};
use crate::core::generation::Body;
use crate::core::identity::LoginState;
use crate::core::listing::{Keys, Listing};
use crate::core::name::{Ino, RequestId, Ticket, TokenId, VaultPath};
use crate::core::time::{BootTime, Moment};
use crate::core::tree::{Node, TreeDirectory};

/// The list of one directory of a tree.
#[derive(Debug, Default)]
pub(super) struct List {
    shown: Option<Shown>,
    fetch: ListFetch,
    pub(super) waiters: BTreeSet<Ticket>,
    failure: Option<Failure>,
    /// The token that its last request with a dead one went out with.
    lost_with: Option<TokenId>,
}

impl List {
    /// Whether its request is on its way with this token.
    pub(super) fn needs(&self, with: Credential) -> bool {
        matches!(self.fetch, ListFetch::InFlight { with: used, .. } if used == with)
    }

    /// Whether nobody waits for it and nothing is on its way.
    fn is_unused(&self) -> bool {
        self.waiters.is_empty() && self.fetch == ListFetch::Idle
    }

    /// What it shows, and what its names are joined to; nothing before the first answer.
    pub(super) fn shown(&self) -> Option<(&Arc<Listing>, &VaultPath)> {
        self.shown.as_ref().map(|shown| (&shown.listing, &shown.below))
    }

    /// Until when it need not be asked for again.
    pub(super) fn fresh_until(&self) -> Option<BootTime> {
        self.shown.as_ref().map(|shown| shown.fresh_until)
    }

    /// A caller's time is over: if a request is on its way, that is the reason until it is back.
    pub(super) fn note_silence(&mut self) {
        if self.fetch != ListFetch::Idle {
            self.failure = Some(Failure::new(Fault::TimedOut, SILENCE));
        }
    }

    /// A request that has not gone out yet is not wanted any more.
    pub(super) fn call_off(&mut self) {
        if self.fetch == ListFetch::Queued {
            self.fetch = ListFetch::Idle;
        }
    }

    /// How many bytes are kept of it.
    pub(super) fn bytes(&self) -> u64 {
        self.shown.as_ref().map_or(0, |shown| shown.bytes)
    }
}

#[derive(Clone, Debug)]
struct Shown {
    below: VaultPath,
    listing: Arc<Listing>,
    fresh_until: BootTime,
    bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ListFetch {
    #[default]
    Idle,
    Queued,
    InFlight {
        request: RequestId,
        with: Credential,
    },
}

impl<B: Body> Engine<B> {
    /// A caller wants the list of a directory. Starts a request where one is needed and allowed.
    pub(super) fn demand_list(
        &mut self,
        at: Moment,
        ino: Ino,
        directory: &TreeDirectory,
        start: Start,
        fx: &mut Effects,
    ) -> Demand {
        let list = self.lists.entry(ino).or_default();
        if list.shown.as_ref().is_some_and(|shown| at.now < shown.fresh_until) {
            return Demand::Ready;
        }
        match (list.fetch, start) {
            (ListFetch::InFlight { .. } | ListFetch::Queued, _) => Demand::Waiting,
            (ListFetch::Idle, Start::Yes) => self.start_list(at, ino, directory, fx),
            (ListFetch::Idle, Start::No) => match &list.failure {
                Some(failure) => Demand::Failed(failure.fault.situation()),
                // A list-max-age shorter than the way to the caller.
                None if list.shown.is_some() => Demand::Ready,
                None => Demand::Failed(FsError::Unusable),
            },
        }
    }

    fn start_list(&mut self, at: Moment, ino: Ino, directory: &TreeDirectory, fx: &mut Effects) -> Demand {
        if self.stopping {
            return Demand::Failed(FsError::Stopping);
        }
        let spec = &self.trees[directory.tree.0 as usize];
        let (identity, engine) = (spec.identity, spec.engine);
        let (state, demand) = match self.identity(identity).credential(at.now) {
            Some(with) => {
                let request = self.request();
                fx.push(Effect::List {
                    request,
                    directory: ino,
                    with,
                    prefix: directory.path.clone(),
                    engine,
                });
                (ListFetch::InFlight { request, with }, Demand::Waiting)
            }
            None => match &self.identity(identity).login {
                LoginState::Failed { failure, again } if at.now < *again => {
                    (ListFetch::Idle, Demand::Failed(failure.fault.situation()))
                }
                LoginState::Failed { .. } | LoginState::Idle | LoginState::InFlight(_) => {
                    self.log_in(identity, fx);
                    self.identity_mut(identity).waiting_lists.insert(ino);
                    (ListFetch::Queued, Demand::Waiting)
                }
            },
        };
        self.lists.entry(ino).or_default().fetch = state;
        demand
    }

    /// A token is there: a queued list goes out.
    pub(super) fn resume_list(&mut self, at: Moment, ino: Ino, fx: &mut Effects) {
        let Some(Node::TreeDirectory(directory)) = self.tree.slot(ino).map(|slot| slot.node.clone()) else {
            if let Some(list) = self.lists.get_mut(&ino) {
                list.fetch = ListFetch::Idle;
            }
            self.wake_waiters_of_list(at, ino, fx);
            return;
        };
        if self.lists.get(&ino).is_some_and(|list| list.fetch == ListFetch::Queued) {
            let _ = self.start_list(at, ino, &directory, fx);
        }
    }

    /// No token can be had: those who wait for the list are told why.
    pub(super) fn give_up_list(&mut self, at: Moment, ino: Ino, failure: Failure, fx: &mut Effects) {
        if let Some(list) = self.lists.get_mut(&ino) {
            list.fetch = ListFetch::Idle;
            list.failure = Some(failure);
        }
        self.wake_waiters_of_list(at, ino, fx);
    }

    /// A list has come back. `sent` is the clock before the request was sent.
    pub fn listed(
        &mut self,
        at: Moment,
        ino: Ino,
        request: RequestId,
        with: Credential,
        sent: BootTime,
        result: Result<Keys, Failure>,
    ) -> Effects {
        self.run(at, |engine, fx| {
            let Some(list) = engine.lists.get_mut(&ino) else { return };
            if list.fetch != (ListFetch::InFlight { request, with }) {
                return;
            }
            list.fetch = ListFetch::Idle;
            let directory = match engine.tree.slot(ino).map(|slot| &slot.node) {
                Some(Node::TreeDirectory(directory)) => Some(directory.clone()),
                _ => None,
            };
            let result = result.and_then(|keys| engine.take_keys(at, ino, sent, keys, fx));
            let again = match (result, directory) {
                (Ok(0), _) | (_, None) => false,
                (Ok(count), Some(TreeDirectory { path: prefix, .. })) => {
                    fx.push(Effect::Report(Report::NamesSkipped { prefix, count }));
                    false
                }
                (Err(failure), Some(directory)) => engine.list_failed(at, ino, &directory, with, failure, fx),
            };
            if !again {
                engine.wake_waiters_of_list(at, ino, fx);
            }
            engine.drop_unused_tokens(with.identity, fx);
        })
        .1
    }

    /// Notes a failure, and tells the operator unless it is the one that he was just told. Whether the list is
    /// asked for again: those who wait get what the next token brings, but not twice in a row, as with secrets.
    fn list_failed(
        &mut self,
        at: Moment,
        ino: Ino,
        directory: &TreeDirectory,
        with: Credential,
        failure: Failure,
        fx: &mut Effects,
    ) -> bool {
        let fault = failure.fault;
        if fault == Fault::TokenLost {
            self.lose_token(at, with, Loss::Told, fx);
        }
        let Some(list) = self.lists.get_mut(&ino) else { return false };
        let known = list.failure.replace(failure.clone());
        let newer = if fault == Fault::TokenLost { list.lost_with.replace(with.token) } else { None };
        if known.as_ref().is_none_or(|known| known.fault != fault) {
            fx.push(Effect::Report(Report::ListFailed { prefix: directory.path.clone(), failure }));
        }
        fault == Fault::TokenLost
            && (known.is_none_or(|known| known.fault != Fault::TokenLost)
                || newer.is_some_and(|newer| with.token < newer))
            && self.start_list(at, ino, directory, fx) == Demand::Waiting
    }

    /// Takes over a list. Returns how many names can't be shown.
    fn take_keys(
        &mut self,
        at: Moment,
        ino: Ino,
        sent: BootTime,
        keys: Keys,
        fx: &mut Effects,
    ) -> Result<usize, Failure> {
        let listing = Listing::new(keys.names.iter().map(String::as_str));
        let bytes = listing.bytes();
        self.drop_shown(ino);
        // All secrets may go to make room.
        if !self.make_room(at, &[], bytes, fx) {
            let reason =
                "no memory left under max-memory for this list: raise it, or mirror a smaller prefix";
            return Err(Failure::new(Fault::OutOfMemory, reason));
        }
        let skipped = listing.skipped;
        self.memory += bytes;
        let list = self.lists.entry(ino).or_default();
        list.failure = None;
        let fresh_until = sent + self.settings.list_max_age;
        list.shown = Some(Shown { below: keys.below, listing: Arc::new(listing), fresh_until, bytes });
        Ok(skipped)
    }

    /// Why the last list of a directory failed.
    pub(super) fn list_failure(&self, ino: Ino) -> Option<&Failure> {
        self.lists.get(&ino)?.failure.as_ref()
    }

    fn drop_shown(&mut self, ino: Ino) {
        if let Some(shown) = self.lists.get_mut(&ino).and_then(|list| list.shown.take()) {
            self.memory -= shown.bytes;
        }
    }

    /// Lists that nobody waits for and that are past their age make room.
    pub(super) fn drop_old_lists(&mut self, now: BootTime) {
        let old: Vec<Ino> = self
            .lists
            .iter()
            .filter(|(_, list)| list.is_unused())
            .filter(|(_, list)| list.shown.as_ref().is_some_and(|shown| now >= shown.fresh_until))
            .map(|(ino, _)| *ino)
            .collect();
        for ino in old {
            self.drop_shown(ino);
        }
    }

    /// Forgets the list of a directory, unless somebody waits for it or it is on its way.
    pub(super) fn drop_list(&mut self, ino: Ino) {
        if self.lists.get(&ino).is_some_and(List::is_unused) {
            self.drop_shown(ino);
            self.lists.remove(&ino);
        }
    }

    /// Forgets the list of a directory that the kernel gave back while it was on its way.
    pub(super) fn drop_unheld_list(&mut self, ino: Ino) {
        if !matches!(self.tree.slot(ino).map(|slot| &slot.node), Some(Node::TreeDirectory(_))) {
            self.drop_list(ino);
        }
    }
}

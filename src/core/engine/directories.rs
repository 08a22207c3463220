//! Directories whose names come from Vault: trees, and the fields of a secret.
//!
//! GETATTR and OPENDIR of such a directory wait until its contents are known; the kernel asks for the
//! attributes of a directory before it looks a name up in it, so LOOKUP finds the contents and never
//! waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::core::access::Rule;
use crate::core::effect::{
    Attributes, Credential, DirectoryOpened, Effect, Minting, NodeType, ReadRequest, Report,
};
use crate::core::engine::fetching::{Demand, SILENCE};
use crate::core::engine::tokens::Loss;
use crate::core::engine::waiting::{On, Start};
use crate::core::engine::{Effects, Engine, LONG};
use crate::core::error::{Failure, Fault, FsError};
use crate::core::handles::{DirectoryEntry, OpenDirectory};
use crate::core::identity::LoginState;
use crate::core::listing::{Keys, Listed, Listing, field_names, is_file_name};
use crate::core::name::{Ino, RequestId, SourceId, Ticket, TreeId, VaultPath};
use crate::core::source::{Body, Piece, SourceSpec, Validity};
use crate::core::time::{BootTime, Moment};
use crate::core::tree::{Field, Node, OnExpiry, TreeDirectory, TreeSpec};

/// The list of one directory of a tree.
#[derive(Debug, Default)]
pub(super) struct List {
    shown: Option<Shown>,
    fetch: ListFetch,
    pub(super) waiters: BTreeSet<Ticket>,
    failure: Option<Failure>,
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

/// The node of a tree's root: Vault is asked for the folder alone.
pub(super) fn root_of(index: usize, spec: &TreeSpec) -> Node {
    Node::TreeDirectory(TreeDirectory {
        tree: TreeId(index as u32),
        path: spec.prefix.clone(),
        folder: true,
        secret: false,
    })
}

impl<B: Body> Engine<B> {
    /// A caller wants the contents of a directory. Nothing to wait for: `Ok(None)`.
    ///
    /// # Errors
    /// What kept Vault from telling; where a folder and a secret share the name, one of them is enough.
    pub(super) fn demand_directory(
        &mut self,
        at: Moment,
        ino: Ino,
        start: Start,
        fx: &mut Effects,
    ) -> Result<Option<On>, FsError> {
        let (list, source) = match self.tree.slot(ino).map(|slot| slot.node.clone()) {
            None => return Err(FsError::NoSuchName),
            Some(Node::File(_) | Node::Field(_)) => return Err(FsError::NotADirectory),
            Some(Node::Directory) => return Ok(None),
            Some(Node::FieldDirectory(index)) => {
                let source = self.field_dirs[index].source;
                (None, Some(self.demand_fields(at, source, start, fx)))
            }
            Some(Node::TreeDirectory(directory)) => {
                let list = directory.folder.then(|| self.demand_list(at, ino, &directory, start, fx));
                let source = directory.secret.then(|| {
                    let source = self.secret_of(&directory);
                    self.demand_fields(at, source, start, fx)
                });
                (list, source)
            }
        };
        let on = On {
            list: (list == Some(Demand::Waiting)).then_some(ino),
            source: match source {
                Some((Demand::Waiting, id)) => Some(id),
                _ => None,
            },
        };
        if on != On::default() {
            return Ok(Some(on));
        }
        match (list, source.map(|(demand, _)| demand)) {
            (Some(Demand::Failed(error)), None | Some(Demand::Failed(_))) => Err(error),
            (None, Some(Demand::Failed(error))) => Err(error),
            _ => Ok(None),
        }
    }

    /// The fields of a secret as names: only of what can be read without minting.
    fn demand_fields(
        &mut self,
        at: Moment,
        id: SourceId,
        start: Start,
        fx: &mut Effects,
    ) -> (Demand, SourceId) {
        let demand = match self.demand(at, id, Minting::Forbidden, start, fx) {
            Demand::Ready if self.live(at.now, id).is_none() => {
                let reason =
                    "its fields can't be listed without minting a credential: declare them with `names`";
                self.note_failure(at, id, Failure::new(Fault::Refused, reason));
                Demand::Failed(FsError::Unusable)
            }
            demand => demand,
        };
        (demand, id)
    }

    /// The source that reads the secret of a tree's directory.
    fn secret_of(&mut self, directory: &TreeDirectory) -> SourceId {
        let spec = &self.trees[directory.tree.0 as usize];
        let request =
            ReadRequest { path: directory.path.clone(), params: None, version: None, engine: spec.engine };
        self.source_for(SourceSpec { identity: spec.identity, request, policy: spec.policy, fields: true })
    }

    pub(super) fn known_secret_of(&self, directory: &TreeDirectory) -> Option<SourceId> {
        let spec = &self.trees[directory.tree.0 as usize];
        let request =
            ReadRequest { path: directory.path.clone(), params: None, version: None, engine: spec.engine };
        self.by_read.get(&(spec.identity, request)).copied()
    }

    fn demand_list(
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
            let prefix = match engine.tree.slot(ino).map(|slot| &slot.node) {
                Some(Node::TreeDirectory(directory)) => Some(directory.path.clone()),
                _ => None,
            };
            let result = result.and_then(|keys| engine.take_keys(at, ino, sent, keys, fx));
            match (result, prefix) {
                (Ok(0), _) | (_, None) => {}
                (Ok(count), Some(prefix)) => fx.push(Effect::Report(Report::NamesSkipped { prefix, count })),
                (Err(failure), Some(prefix)) => {
                    if failure.fault == Fault::TokenLost {
                        engine.lose_token(at, with, Loss::Told, fx);
                    }
                    if let Some(list) = engine.lists.get_mut(&ino) {
                        list.failure = Some(failure.clone());
                    }
                    fx.push(Effect::Report(Report::ListFailed { prefix, failure }));
                }
            }
            engine.wake_waiters_of_list(at, ino, fx);
            engine.drop_unused_tokens(with.identity, fx);
        })
        .1
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
        // No source has this number: all may go to make room.
        if !self.make_room(at, SourceId(u32::MAX), bytes, fx) {
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

    /// A caller's time is over while the list of a directory is on its way, or the secret whose fields it
    /// shows.
    pub(super) fn note_silent_directory(&mut self, ino: Ino, fx: &mut Effects) {
        if let Some(list) = self.lists.get_mut(&ino).filter(|list| list.fetch != ListFetch::Idle) {
            list.failure = Some(Failure::new(Fault::TimedOut, SILENCE));
        }
        if let Some((source, _, _)) = self.fields_in(ino) {
            self.note_silence(source, fx);
        }
    }

    /// Why the last list of a directory failed.
    pub(super) fn list_failure(&self, ino: Ino) -> Option<&Failure> {
        self.lists.get(&ino)?.failure.as_ref()
    }

    /// The names that a directory shows now, as far as they are known.
    pub(super) fn names_in(&self, now: BootTime, ino: Ino) -> Vec<String> {
        let declared = self.tree.declared_children(ino).map(|(name, _)| name.to_owned());
        let listing = self.entries_in(ino).unwrap_or_default();
        let fields = self.field_nodes(now, ino, &listing.entries).into_keys();
        declared.chain(listing.entries.keys().cloned()).chain(fields).collect()
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

    /// A name that the kernel does not hold any more.
    pub(super) fn forget_node(&mut self, ino: Ino, node: &Node) {
        match node {
            Node::Field(field) => {
                if let Some(source) = self.sources.get_mut(&field.source) {
                    source.nodes.remove(&ino);
                }
                self.drop_if_idle(field.source);
            }
            Node::TreeDirectory(_) => self.drop_list(ino),
            Node::Directory | Node::File(_) | Node::FieldDirectory(_) => {}
        }
    }

    fn drop_list(&mut self, ino: Ino) {
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

    /// Forgets the secret of a tree's directory, once nothing uses it.
    pub(super) fn drop_unused_secret(&mut self, ino: Ino) {
        if let Some(Node::TreeDirectory(directory)) = self.tree.slot(ino).map(|slot| &slot.node)
            && let Some(source) = self.known_secret_of(directory)
        {
            self.drop_if_idle(source);
        }
    }

    /// The secret whose fields a directory shows, and who may read them.
    fn fields_in(&self, ino: Ino) -> Option<(SourceId, Rule, OnExpiry)> {
        match &self.tree.slot(ino)?.node {
            Node::FieldDirectory(index) => {
                let spec = &self.field_dirs[*index];
                Some((spec.source, spec.rule, spec.on_expiry))
            }
            Node::TreeDirectory(directory) if directory.secret => {
                let spec = &self.trees[directory.tree.0 as usize];
                Some((self.known_secret_of(directory)?, spec.rule, spec.on_expiry))
            }
            Node::TreeDirectory(_) | Node::Directory | Node::File(_) | Node::Field(_) => None,
        }
    }

    fn entries_in(&self, ino: Ino) -> Option<Arc<Listing>> {
        Some(Arc::clone(&self.lists.get(&ino)?.shown.as_ref()?.listing))
    }

    fn entry_node(&self, ino: Ino, name: &str, listed: Listed) -> Option<Node> {
        match &self.tree.slot(ino)?.node {
            Node::TreeDirectory(directory) => Some(Node::TreeDirectory(TreeDirectory {
                tree: directory.tree,
                path: self.lists.get(&ino)?.shown.as_ref()?.below.join(name).ok()?,
                folder: listed.folder,
                secret: listed.secret,
            })),
            Node::Directory | Node::File(_) | Node::FieldDirectory(_) | Node::Field(_) => None,
        }
    }

    /// The fields that a directory shows now, by the names that they show under.
    fn field_nodes(
        &self,
        now: BootTime,
        ino: Ino,
        entries: &BTreeMap<String, Listed>,
    ) -> BTreeMap<String, Node> {
        let Some((source, rule, on_expiry)) = self.fields_in(ino) else { return BTreeMap::new() };
        let Some(generation) = self.live(now, source) else { return BTreeMap::new() };
        let fields = generation.bodies.keys().filter_map(|piece| match piece {
            Piece::Field(field) => Some(field.as_str()),
            Piece::File(_) => None,
        });
        field_names(fields, entries)
            .into_iter()
            .map(|(name, field)| {
                (name, Node::Field(Field { source, field: field.to_owned(), rule, on_expiry }))
            })
            .collect()
    }

    /// Finds a name in a directory whose names come from Vault, and gives it its number.
    pub(super) fn place_child(&mut self, now: BootTime, parent: Ino, name: &str) -> Result<Ino, FsError> {
        match self.tree.slot(parent).map(|slot| &slot.node) {
            None | Some(Node::Directory) => return Err(FsError::NoSuchName),
            Some(Node::File(_) | Node::Field(_)) => return Err(FsError::NotADirectory),
            Some(Node::FieldDirectory(_) | Node::TreeDirectory(_)) => {}
        }
        let listing = self.entries_in(parent).unwrap_or_default();
        let node = match listing.entries.get(name) {
            Some(listed) => self.entry_node(parent, name, *listed),
            None => {
                let field = self.field_nodes(now, parent, &listing.entries).remove(name);
                field.or_else(|| self.unread_field(now, parent, name))
            }
        };
        let node = node.ok_or(FsError::NoSuchName)?;
        let source = match &node {
            Node::Field(field) => Some(field.source),
            Node::Directory | Node::File(_) | Node::FieldDirectory(_) | Node::TreeDirectory(_) => None,
        };
        let placed = self.place_known(parent, name, node);
        if let (Err(_), Some(source)) = (&placed, source) {
            self.drop_if_idle(source);
        }
        placed
    }

    /// Gives a name that an open directory shows its number. What stands there by now stays.
    pub(super) fn place_shown(&mut self, parent: Ino, name: &str, node: Node) -> Result<Ino, FsError> {
        let ino = self.tree.number(parent, name);
        let stands = self.tree.slot(ino).is_some_and(|slot| slot.parent == parent && slot.name == name);
        if stands && !self.vanished.contains(&ino) {
            return Ok(ino);
        }
        self.place_known(parent, name, node)
    }

    /// A name in a directory whose secret is not at hand, though the kernel need not ask for the directory
    /// again: it made room for others, or was ended. It may be a field, so its GETATTR finds out. What
    /// starts with `#` may be another field than its name says, and is not guessed.
    fn unread_field(&mut self, now: BootTime, parent: Ino, name: &str) -> Option<Node> {
        if !is_file_name(name) || name.starts_with('#') {
            return None;
        }
        let (source, rule, on_expiry) = match self.tree.slot(parent).map(|slot| slot.node.clone()) {
            Some(Node::TreeDirectory(directory)) if directory.secret => {
                if directory.folder && self.entries_in(parent).is_none() {
                    return None;
                }
                let source = self.secret_of(&directory);
                let spec = &self.trees[directory.tree.0 as usize];
                (source, spec.rule, spec.on_expiry)
            }
            _ => self.fields_in(parent)?,
        };
        // Of a secret that is at hand all fields are known.
        let unread = self.live(now, source).is_none();
        unread.then(|| Node::Field(Field { source, field: name.to_owned(), rule, on_expiry }))
    }

    /// Gives a name that a directory shows its number.
    pub(super) fn place_known(&mut self, parent: Ino, name: &str, node: Node) -> Result<Ino, FsError> {
        if self.vanished.contains(&self.tree.number(parent, name)) {
            return Err(FsError::Vanished);
        }
        if let Some(ino) = self.tree.declared_child(parent, name) {
            return Ok(ino);
        }
        let source = match &node {
            Node::Field(field) if !self.sources.contains_key(&field.source) => {
                return Err(FsError::NoSuchName);
            }
            Node::Field(field) => Some(field.source),
            Node::Directory | Node::File(_) | Node::FieldDirectory(_) | Node::TreeDirectory(_) => None,
        };
        self.unplace_other(parent, name, &node);
        let ino = self.tree.place(parent, name, node).map_err(|_| FsError::NoSuchName)?;
        if let Some(source) = source.and_then(|id| self.sources.get_mut(&id)) {
            source.nodes.insert(ino);
        }
        Ok(ino)
    }

    /// A name that stood for something of another kind lets go of that.
    fn unplace_other(&mut self, parent: Ino, name: &str, node: &Node) {
        let ino = self.tree.number(parent, name);
        let Some(slot) = self.tree.slot(ino).filter(|slot| slot.parent == parent && slot.name == name) else {
            return;
        };
        let same_kind = match (&slot.node, node) {
            (Node::Field(before), Node::Field(after)) => before.source == after.source,
            (before, after) => std::mem::discriminant(before) == std::mem::discriminant(after),
        };
        if !same_kind {
            let before = slot.node.clone();
            self.forget_node(ino, &before);
        }
    }

    /// Until when the contents of a directory need not be asked for again.
    pub(super) fn contents_until(&self, now: BootTime, ino: Ino) -> BootTime {
        let (folder, secret) = match self.tree.slot(ino).map(|slot| &slot.node) {
            Some(Node::TreeDirectory(directory)) => (directory.folder, directory.secret),
            Some(Node::FieldDirectory(_)) => (false, true),
            Some(Node::Directory | Node::File(_) | Node::Field(_)) | None => return now + LONG,
        };
        let list = folder.then(|| {
            let shown = self.lists.get(&ino).and_then(|list| list.shown.as_ref());
            shown.map_or(now, |shown| shown.fresh_until)
        });
        let fields = secret.then(|| {
            let generation = self.fields_in(ino).and_then(|(source, _, _)| self.live(now, source));
            generation.map_or(now, |one| match &one.validity {
                Validity::Kv { fresh_until, .. } => (*fresh_until).min(self.end_of(one)),
                Validity::Leased(_) | Validity::Fixed { .. } => self.end_of(one),
            })
        });
        [list, fields].into_iter().flatten().min().unwrap_or(now)
    }

    /// What is known of a directory.
    pub(super) fn directory_attributes(&mut self, now: BootTime, ino: Ino) -> Result<Attributes, FsError> {
        let owner = match self.tree.slot(ino).map(|slot| &slot.node) {
            None => return Err(FsError::NoSuchName),
            Some(Node::File(_) | Node::Field(_)) => return Err(FsError::NotADirectory),
            Some(Node::Directory) => self.directory,
            Some(Node::FieldDirectory(index)) => self.field_dirs[*index].rule,
            Some(Node::TreeDirectory(directory)) => self.trees[directory.tree.0 as usize].rule,
        };
        let rule = Rule { mode: self.directory.mode, ..owner };
        let is_declared = self.tree.is_declared_directory(ino);
        let ttl = if is_declared { LONG } else { self.contents_until(now, ino).since(now).min(LONG) };
        let mtime = self.settings.mounted;
        Ok(Attributes { ino, node_type: NodeType::Directory, size: 0, mtime, rule, ttl })
    }

    /// Opens a directory whose contents are known.
    pub(super) fn open_directory(&mut self, now: BootTime, ino: Ino) -> Result<DirectoryOpened, FsError> {
        let slot = self.tree.slot(ino).ok_or(FsError::NoSuchName)?;
        let parent = slot.parent;
        let mut entries = BTreeMap::new();
        for (name, child) in self.tree.declared_children(ino) {
            if let Some(slot) = self.tree.slot(child).filter(|_| !self.vanished.contains(&child)) {
                entries.insert(name.to_owned(), slot.node.clone());
            }
        }
        if let Some(listing) = self.entries_in(ino) {
            for (name, listed) in &listing.entries {
                if let Some(node) = self.entry_node(ino, name, *listed) {
                    entries.insert(name.clone(), node);
                }
            }
        }
        let listing = self.entries_in(ino).unwrap_or_default();
        entries.extend(self.field_nodes(now, ino, &listing.entries));
        let path = self.tree.path(ino);
        let entries = entries
            .into_iter()
            .map(|(name, node)| DirectoryEntry { ino: self.tree.number_in(&path, &name), name, node })
            .filter(|entry| !self.vanished.contains(&entry.ino))
            .collect();
        let handle = self.handles.open_directory(OpenDirectory { ino, parent, entries });
        // The kernel may keep a listing that changes only when we say so.
        Ok(DirectoryOpened { handle, cache: self.tree.is_declared_directory(ino) })
    }
}

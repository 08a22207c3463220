//! Directories whose names come from Vault: trees, and the fields of a secret.
//!
//! GETATTR and OPENDIR of such a directory wait until its contents are known; the kernel asks for the
//! attributes of a directory before it looks a name up in it, so LOOKUP finds the contents and never
//! waits.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::access::Rule;
use crate::core::effect::{Attributes, DirectoryOpened, Minting, NodeType, ReadRequest};
use crate::core::engine::fetching::Demand;
use crate::core::engine::lists::List;
use crate::core::engine::waiting::{On, Start};
use crate::core::engine::{Effects, Engine, LONG};
use crate::core::error::{Failure, Fault, FsError};
use crate::core::generation::{Body, Piece};
use crate::core::handles::{DirectoryEntry, OpenDirectory};
use crate::core::listing::{Listed, Listing, field_names, is_file_name};
use crate::core::name::{Ino, SourceId, TreeId};
use crate::core::source::SourceSpec;
use crate::core::time::{BootTime, Moment};
use crate::core::tree::{Field, Node, OnExpiry, TreeDirectory, TreeSpec};

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
            None => return Err(FsError::NumberUnknown),
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
            sources: match source {
                Some((Demand::Waiting, id)) => vec![id],
                _ => Vec::new(),
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
    pub(super) fn secret_of(&mut self, directory: &TreeDirectory) -> SourceId {
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

    /// A caller's time is over while the list of a directory is on its way, or the secret whose fields it
    /// shows.
    pub(super) fn note_silent_directory(&mut self, ino: Ino, fx: &mut Effects) {
        if let Some(list) = self.lists.get_mut(&ino) {
            list.note_silence();
        }
        if let Some((source, _, _)) = self.fields_in(ino) {
            self.note_silence(source, fx);
        }
    }

    /// The names that a directory shows now, as far as they are known.
    pub(super) fn names_in(&self, now: BootTime, ino: Ino) -> Vec<String> {
        let declared = self.tree.declared_children(ino).map(|(name, _)| name.to_owned());
        let listing = self.entries_in(ino).unwrap_or_default();
        let fields = self.field_nodes(now, ino, &listing.entries).into_keys();
        declared.chain(listing.entries.keys().cloned()).chain(fields).collect()
    }

    /// A name that the kernel does not hold any more.
    pub(super) fn forget_node(&mut self, ino: Ino, node: &Node) {
        match node {
            Node::Field(field) => {
                if let Some(source) = self.sources.aside(&field.source) {
                    source.nodes.remove(&ino);
                }
                self.drop_if_idle(field.source);
            }
            Node::TreeDirectory(_) => self.drop_list(ino),
            Node::Directory | Node::File(_) | Node::FieldDirectory(_) => {}
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
        self.lists.get(&ino)?.shown().map(|(listing, _)| Arc::clone(listing))
    }

    fn entry_node(&self, ino: Ino, name: &str, listed: Listed) -> Option<Node> {
        match &self.tree.slot(ino)?.node {
            Node::TreeDirectory(directory) => Some(Node::TreeDirectory(TreeDirectory {
                tree: directory.tree,
                path: self.lists.get(&ino)?.shown()?.1.join(name).ok()?,
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
            Piece::File(_) | Piece::Values => None,
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
            None => return Err(FsError::NumberUnknown),
            Some(Node::Directory) => return Err(FsError::NoSuchName),
            Some(Node::File(_) | Node::Field(_)) => return Err(FsError::NotADirectory),
            Some(Node::FieldDirectory(_) | Node::TreeDirectory(_)) => {}
        }
        if self.is_unlisted(now, parent) {
            // A field of this name may show under another one, beside an entry that has it. What stands there
            // goes on standing there.
            let ino = self.tree.number(parent, name);
            let stands = self.tree.is_at(ino, parent, name);
            return if stands { Ok(ino) } else { Err(FsError::ContentsUnknown) };
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

    /// Whether the kernel may believe that it need not ask what a directory of a tree holds, because a
    /// predecessor told it, and we don't know: Vault has not answered yet.
    fn is_unlisted(&self, now: BootTime, ino: Ino) -> bool {
        now < self.unlisted_until
            && self.entries_in(ino).is_none()
            && self.list_failure(ino).is_none()
            && matches!(self.tree.slot(ino).map(|slot| &slot.node), Some(Node::TreeDirectory(one)) if one.folder)
    }

    /// Gives a name that an open directory shows its number. What stands there by now stays.
    pub(super) fn place_shown(&mut self, parent: Ino, name: &str, node: Node) -> Result<Ino, FsError> {
        let ino = self.tree.number(parent, name);
        if self.tree.is_at(ino, parent, name) && !self.vanished.contains_key(&ino) {
            return Ok(ino);
        }
        self.place_known(parent, name, node)
    }

    /// A name in a directory whose secret is not at hand, though the kernel need not ask for the directory
    /// again: it made room for others, or was ended. It may be a field, so its GETATTR finds out. What
    /// starts with `#` may be another field than its name says, and is not guessed; nor is what is locked.
    fn unread_field(&mut self, now: BootTime, parent: Ino, name: &str) -> Option<Node> {
        if !is_file_name(name) || name.starts_with('#') {
            return None;
        }
        let known = self.tree.slot(self.tree.number(parent, name)).is_some();
        if !known && self.lock_of_child(parent, name).is_some() {
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
        if self.vanished.contains_key(&self.tree.number(parent, name)) {
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
        if let Some(source) = source.and_then(|id| self.sources.aside(&id)) {
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
        let list = folder.then(|| self.lists.get(&ino).and_then(List::fresh_until).unwrap_or(now));
        let fields = secret.then(|| {
            let generation = self.fields_in(ino).and_then(|(source, _, _)| self.live(now, source));
            generation.map_or(now, |one| {
                let end = self.end_of(one);
                one.fresh_until().unwrap_or(end).min(end)
            })
        });
        [list, fields].into_iter().flatten().min().unwrap_or(now)
    }

    /// What is known of a directory.
    pub(super) fn directory_attributes(&mut self, now: BootTime, ino: Ino) -> Result<Attributes, FsError> {
        let owner = match self.tree.slot(ino).map(|slot| &slot.node) {
            None => return Err(FsError::NumberUnknown),
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
    pub(super) fn open_directory(
        &mut self,
        now: BootTime,
        ino: Ino,
        request: u64,
    ) -> Result<DirectoryOpened, FsError> {
        let slot = self.tree.slot(ino).ok_or(FsError::NumberUnknown)?;
        let parent = slot.parent;
        let entries = self.entries_now(now, ino);
        let handle = self.handles.open_directory(OpenDirectory { ino, parent, entries, request });
        // The kernel may keep a listing that changes only when we say so.
        Ok(DirectoryOpened { handle, cache: self.tree.is_declared_directory(ino) })
    }

    /// The entries of a directory whose contents are known.
    pub(super) fn entries_now(&self, now: BootTime, ino: Ino) -> Vec<DirectoryEntry> {
        let mut entries = BTreeMap::new();
        for (name, child) in self.tree.declared_children(ino) {
            if let Some(slot) = self.tree.slot(child).filter(|_| !self.vanished.contains_key(&child)) {
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
        entries
            .into_iter()
            .map(|(name, node)| DirectoryEntry { ino: self.tree.number_in(&path, &name), name, node })
            .filter(|entry| !self.vanished.contains_key(&entry.ino))
            .collect()
    }
}

//! Names that the kernel holds, what is open, and what the kernel must forget.

use std::collections::BTreeMap;

use crate::core::effect::Effect;
use crate::core::engine::composing::View;
use crate::core::engine::restoring::NO_SOURCE;
use crate::core::engine::restoring::cells::{Cells, Meanings};
use crate::core::engine::{Effects, Engine};
use crate::core::generation::{Body, Piece};
use crate::core::handles::{DirectoryEntry, OpenDirectory, OpenFile};
use crate::core::name::{FileName, GenerationId, HandleId, Ino, SourceId};
use crate::core::sources::Sources;
use crate::core::state::{NameCell, NodeCell, OpenDirectoryCell, OpenFileCell};
use crate::core::time::{BootTime, Moment};
use crate::core::tree::{Field, Node, Told, TreeDirectory};

/// A size that no file has: whatever a file turns out to have is another one, and the kernel must be told.
const SOME_OTHER_SIZE: Told = Told { size: u64::MAX, until: BootTime::NEVER };

impl<B: Body> Engine<B> {
    /// Names below trees and directories of fields, each after the directory that it lies in.
    pub(super) fn restore_names(&mut self, cells: &mut Cells<B>, known: &Meanings) {
        let mut below: BTreeMap<Ino, Vec<(Ino, NameCell<'static>)>> = BTreeMap::new();
        for (ino, cell) in std::mem::take(&mut cells.names) {
            below.entry(cell.parent).or_default().push((ino, cell));
        }
        let mut parents: Vec<Ino> =
            below.keys().copied().filter(|ino| self.tree.slot(*ino).is_some()).collect();
        while let Some(parent) = parents.pop() {
            for (ino, cell) in below.remove(&parent).into_iter().flatten() {
                if self.tree.number(parent, &cell.name) != ino {
                    continue;
                }
                if self.restore_name(parent, &cell, known).is_some() && below.contains_key(&ino) {
                    parents.push(ino);
                }
            }
        }
        for ino in std::mem::take(&mut cells.vanished) {
            // With another configuration it may be one that comes back.
            if self.tree.slot(ino).is_none() || self.vanishes(ino) {
                self.vanished.insert(ino, ());
            }
        }
        let files: Vec<Ino> = self.files_of_tree().collect();
        for ino in files {
            self.tree.tell(ino, Some(SOME_OTHER_SIZE));
        }
    }

    fn restore_name(&mut self, parent: Ino, cell: &NameCell<'_>, known: &Meanings) -> Option<Ino> {
        let secret = match self.tree.slot(parent).map(|slot| &slot.node) {
            Some(Node::TreeDirectory(directory)) if directory.secret => Some(directory.clone()),
            _ => None,
        };
        if let (NodeCell::Field { source, .. }, Some(directory)) = (&cell.node, secret)
            && !known.sources.contains_key(source)
        {
            // It is read anew when somebody wants it.
            self.secret_of(&directory);
        }
        let node = self.restored_node(parent, &cell.node, known)?;
        let source = match &node {
            Node::Field(field) => Some(field.source),
            Node::Directory | Node::File(_) | Node::FieldDirectory(_) | Node::TreeDirectory(_) => None,
        };
        if source.is_some_and(|id| !self.sources.contains_key(&id)) {
            return None;
        }
        let ino = self.tree.restore(parent, &cell.name, node, cell.lookups).ok()?;
        if let Some(source) = source.and_then(|id| self.sources.aside(&id)) {
            source.nodes.insert(ino);
        }
        Some(ino)
    }

    /// What a name in this directory stands for now; `None` if the directory does not show its like any more.
    fn restored_node(&self, parent: Ino, cell: &NodeCell<'_>, known: &Meanings) -> Option<Node> {
        // Of a directory that has become a field meanwhile the kernel may still hold what was in it.
        let mut directory = parent;
        while let Some(Node::Field(_)) = self.tree.slot(directory).map(|slot| &slot.node) {
            directory = self.tree.slot(directory)?.parent;
        }
        match (&self.tree.slot(directory)?.node, cell) {
            (Node::FieldDirectory(index), NodeCell::Field { field, .. }) => {
                let spec = self.field_dirs.get(*index)?;
                let (source, field) = (spec.source, field.clone().into_owned());
                Some(Node::Field(Field { source, field, rule: spec.rule, on_expiry: spec.on_expiry }))
            }
            (Node::TreeDirectory(directory), _) if !known.trees.contains(&directory.tree) => None,
            (Node::TreeDirectory(one), NodeCell::Field { source, field }) => {
                let spec = self.trees.get(one.tree.0 as usize)?;
                let source = known.sources.get(source).copied();
                let source = source.or_else(|| self.known_secret_of(one).filter(|_| directory == parent));
                let source = source.unwrap_or(NO_SOURCE);
                let field = field.clone().into_owned();
                Some(Node::Field(Field { source, field, rule: spec.rule, on_expiry: spec.on_expiry }))
            }
            (Node::TreeDirectory(directory), NodeCell::Directory { path, folder, secret }) => {
                Some(Node::TreeDirectory(TreeDirectory {
                    tree: directory.tree,
                    path: path.clone().into_owned(),
                    folder: *folder,
                    secret: *secret,
                }))
            }
            (Node::FieldDirectory(_), NodeCell::Directory { .. })
            | (Node::Directory | Node::File(_) | Node::Field(_), _) => None,
        }
    }

    /// What is open. A handle of what is gone stays: its reads fail, and its RELEASE is known.
    pub(super) fn restore_handles(
        &mut self,
        at: Moment,
        cells: &mut Cells<B>,
        known: &Meanings,
        fx: &mut Effects,
    ) {
        for (id, cell) in std::mem::take(&mut cells.files) {
            let file = self.restored_file(at, &cell, known, fx);
            if file.body.is_some() {
                self.reads(id, &file);
            }
            self.handles.restore_file(id, file);
        }
        for (id, cell) in std::mem::take(&mut cells.directories) {
            let OpenDirectoryCell { ino, parent, request, entries } = cell;
            let entries = match entries {
                None if self.tree.is_declared_directory(ino) => self.entries_now(at.now, ino),
                None => Vec::new(),
                Some(entries) => {
                    let shown = entries.into_iter().filter_map(|(name, node)| {
                        let node = self.restored_node(ino, &node, known)?;
                        let name = name.into_owned();
                        Some(DirectoryEntry { ino: self.tree.number(ino, &name), name, node })
                    });
                    shown.collect()
                }
            };
            self.handles.restore_directory(id, OpenDirectory { ino, parent, entries, request });
        }
    }

    /// Notes that a handle reads its generations.
    fn reads(&mut self, id: HandleId, file: &OpenFile<B>) {
        for (source, generation) in &file.parts {
            let source = self.sources.aside(source);
            if let Some(generation) = source.and_then(|one| one.generation_mut(*generation)) {
                generation.handles.insert(id);
            }
        }
        if let Some(composed) = file.composed() {
            self.note_composed_open(id, composed, &file.parts);
        }
    }

    fn restored_file(
        &mut self,
        at: Moment,
        cell: &OpenFileCell<'_>,
        known: &Meanings,
        fx: &mut Effects,
    ) -> OpenFile<B> {
        let OpenFileCell { ino, source, piece, generation, more, request } = cell;
        let parts = [(*source, *generation)].into_iter().chain(more.iter().copied());
        let meant = |(then, which)| Some((*known.sources.get(&then)?, which));
        let view = parts.clone().map(meant).collect::<Option<Vec<_>>>().and_then(|parts| {
            let sources = Sources::several(parts.iter().map(|(source, _)| *source))?;
            Some((self.restored_view(sources, piece, known)?, parts))
        });
        let Some((view, parts)) = view else {
            let (piece, parts) = (piece.clone().into_owned(), vec![(NO_SOURCE, *generation)]);
            return OpenFile { ino: *ino, parts, piece, body: None, request: *request };
        };
        let is_there = |(source, which): &(SourceId, GenerationId)| {
            self.sources.get(source).is_some_and(|one| one.generation(*which).is_some())
        };
        let body = match parts.iter().all(is_there) {
            true => self.compose(at, &view, &parts, fx).ok(),
            false => None,
        };
        OpenFile { ino: *ino, parts, piece: view.piece, body, request: *request }
    }

    /// What a handle shows that was opened on this; `None` if that is not shown any more, or in another way.
    fn restored_view(&self, sources: Sources, piece: &Piece, known: &Meanings) -> Option<View> {
        let (piece, rule) = match piece {
            Piece::File(then) => {
                let now = known.files.get(then)?;
                let file = &self.files[now.id.0 as usize];
                let same = file.sources == sources && (now.same || !sources.are_several());
                (same.then_some(Piece::File(now.id))?, file.rule)
            }
            piece @ (Piece::Field(_) | Piece::Values) => (piece.clone(), self.directory),
        };
        Some(View { sources, piece, rule })
    }

    /// What the kernel believes of files, of directories whose contents are not known any more, and of names
    /// that are gone: what a predecessor meant to tell it may not have left.
    pub(super) fn forget_in_kernel(&self, cells: &Cells<B>, fx: &mut Effects) {
        for (ino, slot) in self.tree.slots() {
            fx.push(match slot.node {
                Node::Directory => Effect::InvalidateListing(ino),
                Node::File(_) | Node::Field(_) | Node::FieldDirectory(_) | Node::TreeDirectory(_) => {
                    Effect::Invalidate(ino)
                }
            });
        }
        for ino in self.vanished.keys() {
            if let Some(slot) = self.tree.slot(*ino) {
                fx.push(Effect::InvalidateName { parent: slot.parent, name: slot.name.clone() });
            }
        }
        let files = cells.layout.files.iter().map(|file| (&file.name, true));
        let others = cells.layout.names().map(|name| (name, false)).skip(cells.layout.files.len());
        for (name, was_file) in files.chain(others) {
            if let Some((parent, name)) = self.gone_name(name, was_file) {
                fx.push(Effect::InvalidateName { parent, name });
            }
        }
    }

    /// The name itself, or the first directory on the way to it, that is not there any more or is of another kind.
    fn gone_name(&self, name: &FileName, was_file: bool) -> Option<(Ino, String)> {
        let mut parent = Ino::ROOT;
        let mut segments = name.segments().peekable();
        while let Some(segment) = segments.next() {
            let is_file = was_file && segments.peek().is_none();
            let ino = self.tree.declared_child(parent, segment);
            let node = ino.and_then(|ino| self.tree.slot(ino)).map(|slot| &slot.node);
            match (ino, node) {
                (Some(ino), Some(node)) if matches!(node, Node::File(_)) == is_file => parent = ino,
                _ => return Some((parent, segment.to_owned())),
            }
        }
        None
    }

    fn files_of_tree(&self) -> impl Iterator<Item = Ino> {
        let files = self.tree.slots().filter(|(_, slot)| matches!(slot.node, Node::File(_) | Node::Field(_)));
        files.map(|(ino, _)| ino)
    }
}

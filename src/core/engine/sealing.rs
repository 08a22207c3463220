//! The state is written out, cell by cell, for a successor of this process.
//!
//! Not written: callers that wait (the kernel asks again for them), the lists of trees (they are fetched again),
//! what is locked (that has a store of its own), what was composed (it is composed again of the same values), the sizes that the kernel was told (a successor takes all of
//! them for wrong). Invariants, which the model checks after each call:
//! - *changes are enough*: all changes together give the same cells as [`Engine::write_all`];
//! - *bodies once*: the bytes of a generation are handed over when it is there, and again when they go.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::core::effect::{Credential, Minting};
use crate::core::engine::Engine;
use crate::core::engine::restoring::NO_SOURCE;
use crate::core::generation::{Body, Generation};
use crate::core::handles::{OpenDirectory, OpenFile};
use crate::core::identity::Identity;
use crate::core::name::{GenerationId, IdentityId, SourceId};
use crate::core::source::{Fetch, Source};
use crate::core::state::{
    Content, GenerationCell, IdentityCell, Key, LayoutCell, NameCell, NodeCell, NumbersCell,
    OpenDirectoryCell, OpenFileCell, PieceCell, SourceCell, write as json,
};
use crate::core::tree::{Node, Slot};

/// Numbers are given away in blocks of that many: only a new block is written down.
const BLOCK: u64 = 4096;

/// What is known of the cells that were handed over.
#[derive(Debug)]
pub(super) struct Sealing {
    /// Whether changes are remembered at all: somebody wants them.
    followed: bool,
    layout: LayoutCell,
    layout_is_written: bool,
    end_is_written: bool,
    numbers: Option<NumbersCell>,
    /// The generations whose bytes were handed over, and in how many pieces.
    bodies: BTreeMap<SourceId, Vec<(GenerationId, u32)>>,
    /// Cells of a predecessor that are no more.
    stale: BTreeSet<Key>,
}

impl Sealing {
    /// Nothing was handed over.
    pub(super) fn new(layout: LayoutCell) -> Sealing {
        Sealing {
            followed: false,
            layout,
            layout_is_written: false,
            end_is_written: false,
            numbers: None,
            bodies: BTreeMap::new(),
            stale: BTreeSet::new(),
        }
    }

    pub(super) fn layout(&self) -> &LayoutCell {
        &self.layout
    }

    /// The bytes of a generation are in their cells already.
    pub(super) fn note_bodies(&mut self, source: SourceId, generation: GenerationId, pieces: u32) {
        self.bodies.entry(source).or_default().push((generation, pieces));
    }

    /// These cells of a predecessor are to go.
    pub(super) fn note_stale(&mut self, keys: BTreeSet<Key>) {
        self.stale = keys;
    }
}

type Write<'a, B> = dyn FnMut(&Key, Option<Content<'_, B>>) + 'a;

impl<B: Body> Engine<B> {
    /// Hands over each cell that may have changed since the last call; `None`: it is gone. The first call hands
    /// over all of them. To be called after each call that changes something, before anything that depends on it
    /// leaves the process.
    pub fn write_changes(&mut self, write: &mut Write<'_, B>) {
        if !self.sealing.followed {
            self.follow();
        }
        for key in std::mem::take(&mut self.sealing.stale) {
            write(&key, None);
        }
        if !self.sealing.layout_is_written {
            self.sealing.layout_is_written = true;
            write(&Key::Layout, Some(Content::Plain(json(&self.sealing.layout))));
        }
        if self.stopping && !std::mem::replace(&mut self.sealing.end_is_written, true) {
            write(&Key::Stopping, Some(Content::Plain(json(&()))));
        }
        let numbers = self.numbers();
        if self.sealing.numbers.replace(numbers) != Some(numbers) {
            write(&Key::Numbers, Some(Content::Plain(json(&numbers))));
        }
        for id in self.sources.take_changes() {
            self.write_bodies(id, write);
            write(&Key::Source(id), self.sources.get(&id).map(|one| Content::Plain(source_cell(one))));
        }
        for id in self.changed_identities.take() {
            write(&Key::Identity(id), Some(Content::Plain(identity_cell(self.identity(id)))));
        }
        for lease in self.retiring.take_changes() {
            let content = self.retiring.get(&lease).map(|one| Content::Plain(json(one)));
            write(&Key::Lease(lease), content);
        }
        let (files, directories) = self.handles.take_changes();
        for id in files {
            write(&Key::File(id), self.handles.file(id).map(|one| Content::Plain(file_cell(one))));
        }
        for id in directories {
            let cell = self.handles.directory(id).map(|one| self.directory_cell(one));
            write(&Key::Directory(id), cell.map(Content::Plain));
        }
        for ino in self.tree.take_changes() {
            write(&Key::Name(ino), self.tree.slot(ino).and_then(name_cell).map(Content::Plain));
        }
        for key in self.visitors.take_changes() {
            let content = self.visitors.get(&key).map(|one| Content::Plain(json(one)));
            write(&Key::Visitor { source: key.0, process: key.1 }, content);
        }
        for ino in self.vanished.take_changes() {
            let content = self.vanished.contains_key(&ino).then(|| Content::Plain(json(&())));
            write(&Key::Vanished(ino), content);
        }
    }

    /// Hands over all cells, whether or not they have changed.
    pub fn write_all(&self, write: &mut dyn FnMut(&Key, Content<'_, B>)) {
        write(&Key::Layout, Content::Plain(json(&self.sealing.layout)));
        write(&Key::Numbers, Content::Plain(json(&self.numbers())));
        if self.stopping {
            write(&Key::Stopping, Content::Plain(json(&())));
        }
        for (id, source) in self.sources.iter() {
            for generation in [&source.current, &source.previous].into_iter().flatten() {
                write_generation(generation, &mut |key, content| write(key, content));
            }
            write(&Key::Source(*id), Content::Plain(source_cell(source)));
        }
        for identity in &self.identities {
            write(&Key::Identity(identity.id), Content::Plain(identity_cell(identity)));
        }
        for (lease, retiring) in self.retiring.iter() {
            write(&Key::Lease(lease.clone()), Content::Plain(json(retiring)));
        }
        for (id, file) in self.handles.files() {
            write(&Key::File(id), Content::Plain(file_cell(file)));
        }
        for (id, directory) in self.handles.directories() {
            write(&Key::Directory(id), Content::Plain(self.directory_cell(directory)));
        }
        for (ino, slot) in self.tree.slots() {
            if let Some(cell) = name_cell(slot) {
                write(&Key::Name(ino), Content::Plain(cell));
            }
        }
        for ((source, process), visitor) in self.visitors.iter() {
            write(&Key::Visitor { source: *source, process: *process }, Content::Plain(json(visitor)));
        }
        for ino in self.vanished.keys() {
            write(&Key::Vanished(*ino), Content::Plain(json(&())));
        }
    }

    /// From now on changes are remembered; everything counts as changed.
    pub(super) fn follow(&mut self) {
        self.sealing.followed = true;
        self.sources.follow();
        self.changed_identities.follow((0..self.identities.len()).map(|index| IdentityId(index as u32)));
        self.retiring.follow();
        self.handles.follow();
        self.tree.follow();
        self.vanished.follow();
        self.visitors.follow();
    }

    /// The bytes of generations that are new, and which are gone.
    fn write_bodies(&mut self, id: SourceId, write: &mut Write<'_, B>) {
        let source = self.sources.get(&id);
        let known = self.sealing.bodies.entry(id).or_default();
        known.retain(|(which, pieces)| {
            let lives = source.is_some_and(|source| source.generation(*which).is_some());
            if !lives {
                write(&Key::Pieces(*which), None);
                for piece in 0..*pieces {
                    write(&Key::Body { generation: *which, piece }, None);
                }
            }
            lives
        });
        let generations = source.into_iter().flat_map(|source| [&source.current, &source.previous]);
        for generation in generations.flatten() {
            if known.iter().all(|(which, _)| *which != generation.id) {
                known.push((generation.id, generation.bodies.len() as u32));
                write_generation(generation, &mut |key, content| write(key, Some(content)));
            }
        }
        if known.is_empty() {
            self.sealing.bodies.remove(&id);
        }
    }

    /// A successor gives no number away that was given away before: a late RELEASE would close what it did not
    /// open, and a body would be taken for another one.
    fn numbers(&self) -> NumbersCell {
        let next_block = |number: u64| (number / BLOCK + 1) * BLOCK;
        NumbersCell {
            ids: next_block(self.last_id),
            handles: next_block(self.handles.next_number()),
            source: self.last_source,
        }
    }

    fn directory_cell(&self, directory: &OpenDirectory) -> Vec<u8> {
        let OpenDirectory { ino, parent, entries, request } = directory;
        // Of what is declared the successor knows the names.
        let entries = (!self.tree.is_declared_directory(*ino)).then(|| {
            let entry = entries.iter();
            entry.filter_map(|one| Some((Cow::Borrowed(one.name.as_str()), node_cell(&one.node)?))).collect()
        });
        json(&OpenDirectoryCell { ino: *ino, parent: *parent, request: *request, entries })
    }
}

fn write_generation<B: Body>(generation: &Generation<B>, write: &mut dyn FnMut(&Key, Content<'_, B>)) {
    let pieces = generation.bodies.iter().map(|(piece, body)| PieceCell {
        piece: Cow::Borrowed(piece),
        failure: body.as_ref().err().map(Cow::Borrowed),
    });
    write(&Key::Pieces(generation.id), Content::Plain(json(&pieces.collect::<Vec<_>>())));
    for (piece, body) in generation.bodies.values().enumerate() {
        if let Ok(body) = body {
            write(&Key::Body { generation: generation.id, piece: piece as u32 }, Content::Body(body));
        }
    }
}

fn source_cell<B: Body>(source: &Source<B>) -> Vec<u8> {
    // All fields by name, so that one that is added later is thought of here.
    let Source {
        spec,
        declared: _,
        current,
        previous,
        fetch,
        slow: _,
        waiters: _,
        last_open,
        failure,
        renewal_failure,
        mints,
        nodes: _,
        upkeep_mints,
        reader_mints,
        free_elsewhere,
        replacing_since,
        lease_duration,
        usable,
        lost_with: _,
        failures,
        not_before,
    } = source;
    json(&SourceCell {
        identity: spec.identity,
        read: Cow::Borrowed(&spec.request),
        fields: spec.fields,
        current: current.as_ref().map(generation_cell),
        previous: previous.as_ref().map(generation_cell),
        minting: minting_with(fetch, *mints),
        last_open: *last_open,
        failure: failure.as_ref().map(Cow::Borrowed),
        renewal_failure: renewal_failure.as_ref().map(Cow::Borrowed),
        mints: *mints,
        upkeep_mints: *upkeep_mints,
        reader_mints: *reader_mints,
        free_elsewhere: *free_elsewhere,
        replacing_since: *replacing_since,
        lease_duration: *lease_duration,
        usable: *usable,
        failures: *failures,
        not_before: *not_before,
    })
}

fn minting_with(fetch: &Fetch, mints: Option<bool>) -> Option<Credential> {
    match fetch {
        Fetch::InFlight { with, minting: Minting::Allowed, .. } if mints != Some(false) => Some(*with),
        Fetch::InFlight { .. } | Fetch::Queued { .. } | Fetch::Idle => None,
    }
}

fn generation_cell<B: Body>(generation: &Generation<B>) -> GenerationCell<'_> {
    let Generation { id, with, issued, validity, end, ask, bodies: _, bytes: _, handles: _ } = generation;
    GenerationCell {
        id: *id,
        with: *with,
        issued: *issued,
        validity: Cow::Borrowed(validity),
        end: *end,
        ask: *ask,
    }
}

fn identity_cell(identity: &Identity) -> Vec<u8> {
    let Identity {
        id: _,
        tokens,
        login,
        failed_logins,
        last_fault,
        anew,
        lost_logins,
        waiting_sources: _,
        waiting_lists: _,
    } = identity;
    json(&IdentityCell {
        tokens: Cow::Borrowed(tokens),
        login: Cow::Borrowed(login),
        failed_logins: *failed_logins,
        last_fault: *last_fault,
        anew: *anew,
        lost_logins: Cow::Borrowed(lost_logins),
    })
}

fn file_cell<B>(file: &OpenFile<B>) -> Vec<u8> {
    let OpenFile { ino, parts, piece, body: _, request } = file;
    // A handle reads something.
    let (source, generation) = parts.first().copied().unwrap_or((NO_SOURCE, GenerationId(0)));
    json(&OpenFileCell {
        ino: *ino,
        source,
        piece: Cow::Borrowed(piece),
        generation,
        more: parts.get(1..).unwrap_or_default().to_vec(),
        request: *request,
    })
}

fn name_cell(slot: &Slot) -> Option<Vec<u8>> {
    if slot.is_declared() {
        return None;
    }
    let (parent, lookups) = (slot.parent, slot.lookups());
    let name = Cow::Borrowed(slot.name.as_str());
    Some(json(&NameCell { parent, name, node: node_cell(&slot.node)?, lookups }))
}

/// What a name that is not declared stands for.
fn node_cell(node: &Node) -> Option<NodeCell<'_>> {
    match node {
        Node::Field(field) => {
            Some(NodeCell::Field { source: field.source, field: Cow::Borrowed(&field.field) })
        }
        Node::TreeDirectory(directory) => Some(NodeCell::Directory {
            path: Cow::Borrowed(&directory.path),
            folder: directory.folder,
            secret: directory.secret,
        }),
        Node::Directory | Node::File(_) | Node::FieldDirectory(_) => None,
    }
}

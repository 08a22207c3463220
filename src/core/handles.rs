//! Open files and directories: what each one reads. Numbers are never used again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::core::generation::Piece;
use crate::core::name::{FileId, GenerationId, HandleId, Ino, SourceId};
use crate::core::tracked::Changes;
use crate::core::tree::Node;

/// An open file.
#[derive(Debug)]
pub struct OpenFile<B> {
    /// Which file.
    pub ino: Ino,
    /// Which results it reads, one of each of its sources, in order.
    pub parts: Vec<(SourceId, GenerationId)>,
    /// Which part of them.
    pub piece: Piece,
    /// The bytes, until the first of the results ends.
    pub body: Option<Arc<B>>,
    /// The kernel's number of the OPEN; 0 if unknown.
    pub request: u64,
}

impl<B> OpenFile<B> {
    /// The file that several sources make, if it is one.
    pub fn composed(&self) -> Option<FileId> {
        match self.piece {
            Piece::File(file) if self.parts.len() > 1 => Some(file),
            Piece::File(_) | Piece::Field(_) | Piece::Values => None,
        }
    }

    /// The results that it reads, in order.
    pub fn generations(&self) -> Vec<GenerationId> {
        self.parts.iter().map(|(_, generation)| *generation).collect()
    }
}

/// An entry of an open directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Its number.
    pub ino: Ino,
    /// Its name.
    pub name: String,
    /// What it stands for.
    pub node: Node,
}

/// An open directory: the names at the time that it was opened, without `.` and `..`.
#[derive(Debug)]
pub struct OpenDirectory {
    /// Which directory.
    pub ino: Ino,
    /// Its parent.
    pub parent: Ino,
    /// Its names.
    pub entries: Vec<DirectoryEntry>,
    /// The kernel's number of the OPENDIR; 0 if unknown.
    pub request: u64,
}

/// All that is open.
#[derive(Debug)]
pub struct Handles<B> {
    files: HashMap<HandleId, OpenFile<B>>,
    directories: HashMap<HandleId, OpenDirectory>,
    next: u64,
    /// Those of a predecessor, by the kernel's number of the request.
    restored: BTreeMap<u64, OpenKind>,
    changed_files: Changes<HandleId>,
    changed_directories: Changes<HandleId>,
}

/// What is open, and under which number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenKind {
    /// A file.
    File(HandleId),
    /// A directory.
    Directory(HandleId),
}

impl<B> Handles<B> {
    /// Nothing is open.
    pub fn new() -> Handles<B> {
        Handles {
            files: HashMap::new(),
            directories: HashMap::new(),
            next: 1,
            restored: BTreeMap::new(),
            changed_files: Changes::new(),
            changed_directories: Changes::new(),
        }
    }

    fn number(&mut self) -> HandleId {
        let id = HandleId(self.next);
        self.next += 1;
        id
    }

    /// Opens a file.
    pub fn open(&mut self, file: OpenFile<B>) -> HandleId {
        let id = self.number();
        self.changed_files.mark(id);
        self.files.insert(id, file);
        id
    }

    /// Opens a directory.
    pub fn open_directory(&mut self, directory: OpenDirectory) -> HandleId {
        let id = self.number();
        self.changed_directories.mark(id);
        self.directories.insert(id, directory);
        id
    }

    /// An open file.
    pub fn file(&self, id: HandleId) -> Option<&OpenFile<B>> {
        self.files.get(&id)
    }

    /// An open directory.
    pub fn directory(&self, id: HandleId) -> Option<&OpenDirectory> {
        self.directories.get(&id)
    }

    /// Closes a file.
    pub fn close(&mut self, id: HandleId) -> Option<OpenFile<B>> {
        let file = self.files.remove(&id)?;
        self.changed_files.mark(id);
        self.restored.remove(&file.request);
        Some(file)
    }

    /// Closes a directory.
    pub fn close_directory(&mut self, id: HandleId) {
        if let Some(directory) = self.directories.remove(&id) {
            self.changed_directories.mark(id);
            self.restored.remove(&directory.request);
        }
    }

    /// Takes the bytes away from a handle whose generation has ended. It is not written out: that the generation
    /// is gone says as much.
    pub fn wipe(&mut self, id: HandleId) {
        if let Some(file) = self.files.get_mut(&id) {
            file.body = None;
        }
    }

    /// A handle of a predecessor, and the number that follows all that were ever used.
    pub(crate) fn restore_file(&mut self, id: HandleId, file: OpenFile<B>) {
        if file.request != 0 {
            self.restored.insert(file.request, OpenKind::File(id));
        }
        self.restore_number(id.0.saturating_add(1));
        self.files.insert(id, file);
    }

    /// As [`Handles::restore_file`], for a directory.
    pub(crate) fn restore_directory(&mut self, id: HandleId, directory: OpenDirectory) {
        if directory.request != 0 {
            self.restored.insert(directory.request, OpenKind::Directory(id));
        }
        self.restore_number(id.0.saturating_add(1));
        self.directories.insert(id, directory);
    }

    /// The next number is this one or a later one.
    pub(crate) fn restore_number(&mut self, next: u64) {
        self.next = self.next.max(next);
    }

    /// The number that the next handle gets.
    pub(crate) fn next_number(&self) -> u64 {
        self.next
    }

    /// The handle of a predecessor that a request with this number opened.
    pub(crate) fn take_restored(&mut self, request: u64) -> Option<OpenKind> {
        self.restored.remove(&request)
    }

    /// From now on it is remembered what is opened and closed.
    pub(crate) fn follow(&mut self) {
        self.changed_files.follow(self.files.keys().copied());
        self.changed_directories.follow(self.directories.keys().copied());
    }

    /// The files, and the directories, that were opened or closed since the last call.
    pub(crate) fn take_changes(&mut self) -> (BTreeSet<HandleId>, BTreeSet<HandleId>) {
        (self.changed_files.take(), self.changed_directories.take())
    }

    /// All open files, in no order.
    pub fn files(&self) -> impl Iterator<Item = (HandleId, &OpenFile<B>)> {
        self.files.iter().map(|(id, file)| (*id, file))
    }

    /// All open directories, in no order.
    pub fn directories(&self) -> impl Iterator<Item = (HandleId, &OpenDirectory)> {
        self.directories.iter().map(|(id, directory)| (*id, directory))
    }

    /// How many files are open.
    pub fn open_files(&self) -> usize {
        self.files.len()
    }
}

impl<B> Default for Handles<B> {
    fn default() -> Handles<B> {
        Handles::new()
    }
}

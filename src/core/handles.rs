//! Open files and directories: what each one reads. Numbers are never used again.

use std::collections::HashMap;
use std::sync::Arc;

use crate::core::name::{GenerationId, HandleId, Ino, SourceId};
use crate::core::source::Piece;
use crate::core::tree::Node;

/// An open file.
#[derive(Debug)]
pub struct OpenFile<B> {
    /// Which file.
    pub ino: Ino,
    /// What it shows.
    pub source: SourceId,
    /// Which part of it.
    pub piece: Piece,
    /// Which result.
    pub generation: GenerationId,
    /// The bytes, until the generation ends.
    pub body: Option<Arc<B>>,
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
}

/// All that is open.
#[derive(Debug)]
pub struct Handles<B> {
    files: HashMap<HandleId, OpenFile<B>>,
    directories: HashMap<HandleId, OpenDirectory>,
    next: u64,
}

impl<B> Handles<B> {
    /// Nothing is open.
    pub fn new() -> Handles<B> {
        Handles { files: HashMap::new(), directories: HashMap::new(), next: 1 }
    }

    fn number(&mut self) -> HandleId {
        let id = HandleId(self.next);
        self.next += 1;
        id
    }

    /// Opens a file.
    pub fn open(&mut self, file: OpenFile<B>) -> HandleId {
        let id = self.number();
        self.files.insert(id, file);
        id
    }

    /// Opens a directory.
    pub fn open_directory(&mut self, directory: OpenDirectory) -> HandleId {
        let id = self.number();
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
        self.files.remove(&id)
    }

    /// Closes a directory.
    pub fn close_directory(&mut self, id: HandleId) {
        self.directories.remove(&id);
    }

    /// Takes the bytes away from a handle whose generation has ended.
    pub fn wipe(&mut self, id: HandleId) {
        if let Some(file) = self.files.get_mut(&id) {
            file.body = None;
        }
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

//! Names and inode numbers: what is where, and under which number the kernel knows it.
//!
//! Invariants:
//! - a number depends on the path alone, so a successor of this process derives the same ones;
//! - no two names share a number: a name whose number is taken is left out and counted;
//! - declared names stay for good; names below a tree stay while the kernel holds them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::core::access::Rule;
use crate::core::effect::EngineHint;
use crate::core::name::{FileId, FileName, IdentityId, Ino, SourceId, TreeId, VaultPath};
use crate::core::policy::SourcePolicy;
use crate::core::sources::Sources;
use crate::core::time::BootTime;
use crate::core::tracked::Changes;

/// A declared file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSpec {
    /// Its name.
    pub name: FileName,
    /// What it shows: of one source its own rendering, of several what is composed of their values.
    pub sources: Sources,
    /// Who may read it.
    pub rule: Rule,
    /// What becomes of it when its generation ends.
    pub on_expiry: OnExpiry,
}

/// A directory whose files are the fields of one KV secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldDirSpec {
    /// Its name.
    pub name: FileName,
    /// What it shows.
    pub source: SourceId,
    /// Who may read the files; the directory adds the search bits.
    pub rule: Rule,
    /// What becomes of the files when their generation ends.
    pub on_expiry: OnExpiry,
}

/// A mirrored KV prefix: directories, and a directory of fields for each secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeSpec {
    /// Its name.
    pub name: FileName,
    /// Who reads it.
    pub identity: IdentityId,
    /// The prefix, without a slash at the end.
    pub prefix: VaultPath,
    /// Which KV it is.
    pub engine: EngineHint,
    /// How long its secrets are kept.
    pub policy: SourcePolicy,
    /// Who may read the files.
    pub rule: Rule,
    /// What becomes of them when their generation ends.
    pub on_expiry: OnExpiry,
}

/// What becomes of a file when its generation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExpiry {
    /// The next open fetches anew.
    Refetch,
    /// The name goes too.
    Vanish,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory of declared names.
    Directory,
    /// A declared file.
    File(FileId),
    /// A directory whose files are the fields of one secret; an index into the declared ones.
    FieldDirectory(usize),
    /// A directory of a tree.
    TreeDirectory(TreeDirectory),
    /// A field of a secret, shown as a file.
    Field(Field),
}

/// A directory of a tree: a KV folder, a KV secret, or both under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeDirectory {
    /// Of which tree.
    pub tree: TreeId,
    /// Its path in Vault.
    pub path: VaultPath,
    /// Vault lists a folder of this name.
    pub folder: bool,
    /// Vault lists a secret of this name.
    pub secret: bool,
}

/// A field of a secret, shown as a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Which secret.
    pub source: SourceId,
    /// The field's name in Vault.
    pub field: String,
    /// Who may read it.
    pub rule: Rule,
    /// What becomes of it when its generation ends.
    pub on_expiry: OnExpiry,
}

/// What the kernel was last told of a file's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The size.
    pub size: u64,
    /// Until when the kernel believes it. It remembers it for longer, and shows it to those who don't ask.
    pub until: BootTime,
}

/// A name in the tree.
#[derive(Clone, Debug)]
pub struct Slot {
    /// The directory that it is in; the root is its own parent.
    pub parent: Ino,
    /// Its name there.
    pub name: String,
    /// What it stands for.
    pub node: Node,
    /// What the kernel believes of its size.
    pub told: Option<Told>,
    /// References that the kernel holds; counted for names that aren't declared.
    lookups: u64,
    /// Declared names stay.
    declared: bool,
}

impl Slot {
    /// How many references the kernel holds.
    pub fn lookups(&self) -> u64 {
        self.lookups
    }

    /// Whether the configuration names it.
    pub fn is_declared(&self) -> bool {
        self.declared
    }
}

/// All names.
#[derive(Debug)]
pub struct Tree {
    slots: HashMap<Ino, Slot>,
    /// The names of each directory of declared names, in order.
    children: HashMap<Ino, BTreeMap<String, Ino>>,
    /// Names that are not declared and may have changed.
    changes: Changes<Ino>,
}

/// Why a name can't be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Another name has the same number.
    Collision,
    /// The name is there already, or one of its directories is a file.
    Taken,
}

impl Tree {
    /// A tree of nothing but the root.
    pub fn new() -> Tree {
        let root = Slot {
            parent: Ino::ROOT,
            name: String::new(),
            node: Node::Directory,
            told: None,
            lookups: 0,
            declared: true,
        };
        Tree {
            slots: HashMap::from([(Ino::ROOT, root)]),
            children: HashMap::from([(Ino::ROOT, BTreeMap::new())]),
            changes: Changes::new(),
        }
    }

    /// Adds a declared name, and the directories on the way to it.
    ///
    /// # Errors
    /// The name is taken, or its number is.
    pub fn declare(&mut self, name: &FileName, node: Node) -> Result<Ino, Refused> {
        let mut parent = Ino::ROOT;
        let mut segments = name.segments().peekable();
        while let Some(segment) = segments.next() {
            let last = segments.peek().is_none();
            let known = self.children.get(&parent).and_then(|names| names.get(segment)).copied();
            parent = match known {
                Some(_) if last => return Err(Refused::Taken),
                Some(ino) if self.children.contains_key(&ino) => ino,
                Some(_) => return Err(Refused::Taken),
                None => {
                    let node = if last { node.clone() } else { Node::Directory };
                    self.insert_declared(parent, segment, node)?
                }
            };
        }
        Ok(parent)
    }

    fn insert_declared(&mut self, parent: Ino, name: &str, node: Node) -> Result<Ino, Refused> {
        let is_directory = node == Node::Directory;
        let ino = self.insert(parent, name, node, true)?;
        self.children.entry(parent).or_default().insert(name.to_owned(), ino);
        if is_directory {
            self.children.insert(ino, BTreeMap::new());
        }
        Ok(ino)
    }

    /// Adds a name below a tree or a field directory, or renews what it stands for.
    ///
    /// # Errors
    /// The number is taken by another name.
    pub fn place(&mut self, parent: Ino, name: &str, node: Node) -> Result<Ino, Refused> {
        self.insert(parent, name, node, false)
    }

    fn insert(&mut self, parent: Ino, name: &str, node: Node, declared: bool) -> Result<Ino, Refused> {
        let ino = self.number(parent, name);
        if !declared {
            self.changes.mark(ino);
        }
        match self.slots.get_mut(&ino) {
            Some(slot) if slot.parent == parent && slot.name == name && slot.declared == declared => {
                slot.node = node;
                Ok(ino)
            }
            Some(_) => Err(Refused::Collision),
            None => {
                let slot = Slot { parent, name: name.to_owned(), node, told: None, lookups: 0, declared };
                self.slots.insert(ino, slot);
                Ok(ino)
            }
        }
    }

    /// The number of `name` in `parent`, whether or not the name exists.
    pub fn number(&self, parent: Ino, name: &str) -> Ino {
        self.number_in(&self.path(parent), name)
    }

    /// The number of `name` in the directory with this path.
    pub fn number_in(&self, path: &str, name: &str) -> Ino {
        number_of(&format!("{path}/{name}"))
    }

    /// What stands under a number.
    pub fn slot(&self, ino: Ino) -> Option<&Slot> {
        self.slots.get(&ino)
    }

    /// Adds a name below a tree or a field directory that a predecessor knew, with the kernel's references.
    ///
    /// # Errors
    /// The number is taken by another name.
    pub(crate) fn restore(
        &mut self,
        parent: Ino,
        name: &str,
        node: Node,
        lookups: u64,
    ) -> Result<Ino, Refused> {
        let ino = self.place(parent, name, node)?;
        if let Some(slot) = self.slots.get_mut(&ino) {
            slot.lookups = lookups;
        }
        Ok(ino)
    }

    /// From now on it is remembered which names that are not declared may have changed.
    pub(crate) fn follow(&mut self) {
        let undeclared = self.slots.iter().filter(|(_, slot)| !slot.declared);
        self.changes.follow(undeclared.map(|(ino, _)| *ino));
    }

    /// The names that are not declared and may have changed since the last call.
    pub(crate) fn take_changes(&mut self) -> BTreeSet<Ino> {
        self.changes.take()
    }

    /// Whether this name stands under this number.
    pub fn is_at(&self, ino: Ino, parent: Ino, name: &str) -> bool {
        self.slots.get(&ino).is_some_and(|slot| slot.parent == parent && slot.name == name)
    }

    /// Notes what the kernel believes of a size.
    pub fn tell(&mut self, ino: Ino, told: Option<Told>) {
        if let Some(slot) = self.slots.get_mut(&ino) {
            slot.told = told;
        }
    }

    /// The number of a declared name.
    pub fn declared_child(&self, parent: Ino, name: &str) -> Option<Ino> {
        self.children.get(&parent)?.get(name).copied()
    }

    /// The declared names of a directory, in order.
    pub fn declared_children(&self, parent: Ino) -> impl Iterator<Item = (&str, Ino)> {
        self.children.get(&parent).into_iter().flatten().map(|(name, ino)| (name.as_str(), *ino))
    }

    /// Whether a directory holds declared names alone.
    pub fn is_declared_directory(&self, ino: Ino) -> bool {
        self.children.contains_key(&ino)
    }

    /// The kernel holds one more reference to a name.
    pub fn remember(&mut self, ino: Ino) {
        if let Some(slot) = self.slots.get_mut(&ino) {
            slot.lookups += 1;
            if !slot.declared {
                self.changes.mark(ino);
            }
        }
    }

    /// The kernel gives back references; returns what stood there if the name is gone now.
    pub fn forget(&mut self, ino: Ino, count: u64) -> Option<Slot> {
        let slot = self.slots.get_mut(&ino)?;
        slot.lookups = slot.lookups.saturating_sub(count);
        if !slot.declared {
            self.changes.mark(ino);
        }
        self.drop_unheld(ino)
    }

    /// Drops a name that is not declared and that the kernel does not hold.
    pub fn drop_unheld(&mut self, ino: Ino) -> Option<Slot> {
        let slot = self.slots.get(&ino)?;
        if slot.declared || slot.lookups > 0 {
            return None;
        }
        self.changes.mark(ino);
        self.slots.remove(&ino)
    }

    /// The path of a name from the root, without a leading slash; empty for the root.
    pub fn path(&self, ino: Ino) -> String {
        let mut names = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT {
            let Some(slot) = self.slots.get(&at) else { break };
            names.push(slot.name.as_str());
            at = slot.parent;
        }
        names.reverse();
        names.join("/")
    }

    /// The number of a path from the root, if all of it is there.
    pub fn find(&self, path: &str) -> Option<Ino> {
        let path = path.trim_matches('/');
        if path.is_empty() {
            return Some(Ino::ROOT);
        }
        path.split('/').try_fold(Ino::ROOT, |parent, name| {
            self.declared_child(parent, name).or_else(|| {
                let ino = self.number(parent, name);
                self.slots.get(&ino).filter(|slot| slot.parent == parent && slot.name == name).map(|_| ino)
            })
        })
    }

    /// All names, in no order.
    pub fn slots(&self) -> impl Iterator<Item = (Ino, &Slot)> {
        self.slots.iter().map(|(ino, slot)| (*ino, slot))
    }

    /// How many names the kernel holds that are not declared.
    pub fn undeclared(&self) -> usize {
        self.slots.values().filter(|slot| !slot.declared).count()
    }
}

impl Default for Tree {
    fn default() -> Tree {
        Tree::new()
    }
}

/// FNV-1a with 64 bits (RFC 9923), away from the numbers 0 and 1, which FUSE keeps for itself.
fn number_of(path: &str) -> Ino {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let hash = path.bytes().fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    Ino(hash.max(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> FileName {
        FileName::new(text).unwrap()
    }

    #[test]
    fn a_number_depends_on_the_path_alone() {
        let mut one = Tree::new();
        let mut other = Tree::new();
        let a = one.declare(&name("db/password"), Node::File(FileId(0))).unwrap();
        other.declare(&name("x"), Node::File(FileId(0))).unwrap();
        let b = other.declare(&name("db/password"), Node::File(FileId(1))).unwrap();
        assert_eq!(a, b);
        assert_eq!(one.path(a), "db/password");
        assert_eq!(one.find("db/password"), Some(a));
        assert_eq!(one.find("db/other"), None);
    }

    #[test]
    fn a_file_can_not_be_a_directory_too() {
        let mut tree = Tree::new();
        tree.declare(&name("db"), Node::File(FileId(0))).unwrap();
        assert_eq!(tree.declare(&name("db/password"), Node::File(FileId(1))), Err(Refused::Taken));
        assert_eq!(tree.declare(&name("db"), Node::File(FileId(1))), Err(Refused::Taken));
    }

    #[test]
    fn undeclared_names_go_with_the_kernel_s_last_reference() {
        let mut tree = Tree::new();
        let field = Node::Field(Field {
            source: SourceId(0),
            field: "k".into(),
            rule: Rule { uid: 0, gid: 0, mode: crate::core::access::Mode(0o400) },
            on_expiry: OnExpiry::Refetch,
        });
        let ino = tree.place(Ino::ROOT, "k", field.clone()).unwrap();
        tree.remember(ino);
        tree.remember(ino);
        assert_eq!(tree.place(Ino::ROOT, "k", field).unwrap(), ino, "placing again keeps the references");
        assert!(tree.forget(ino, 1).is_none());
        assert!(tree.forget(ino, 1).is_some());
        assert!(tree.slot(ino).is_none());
        let declared = tree.declare(&name("d"), Node::Directory).unwrap();
        assert!(tree.forget(declared, 100).is_none(), "declared names stay");
    }
}

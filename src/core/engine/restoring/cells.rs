//! The cells of a predecessor, sorted and read, and what their numbers mean in the new layout.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::core::access::Process;
use crate::core::engine::leases::Retiring;
use crate::core::name::{FileId, GenerationId, HandleId, IdentityId, Ino, LeaseId, SourceId, TreeId};
use crate::core::pins::Visitor;
use crate::core::state::{
    IdentityCell, Key, LayoutCell, NameCell, NumbersCell, OpenDirectoryCell, OpenFileCell, PieceCell,
    RestoreError, SourceCell, Stored, read,
};

/// All cells, by kind.
#[derive(Debug)]
pub(super) struct Cells<B> {
    /// Which cells there are, tokens aside.
    pub(super) keys: BTreeSet<Key>,
    pub(super) layout: LayoutCell,
    pub(super) numbers: NumbersCell,
    pub(super) sources: BTreeMap<SourceId, SourceCell<'static>>,
    pub(super) pieces: BTreeMap<GenerationId, Vec<PieceCell<'static>>>,
    pub(super) bodies: BTreeMap<(GenerationId, u32), Arc<B>>,
    pub(super) identities: BTreeMap<IdentityId, IdentityCell<'static>>,
    pub(super) leases: BTreeMap<LeaseId, Retiring>,
    pub(super) files: BTreeMap<HandleId, OpenFileCell<'static>>,
    pub(super) directories: BTreeMap<HandleId, OpenDirectoryCell<'static>>,
    pub(super) names: BTreeMap<Ino, NameCell<'static>>,
    pub(super) vanished: BTreeSet<Ino>,
    pub(super) visitors: BTreeMap<(SourceId, Process), Visitor>,
    pub(super) stopping: bool,
}

impl<B> Cells<B> {
    /// Reads them all.
    ///
    /// # Errors
    /// The first one that can't be read, or that there is no [`Key::Layout`] to read the others by.
    pub(super) fn new(cells: impl IntoIterator<Item = (Key, Stored<B>)>) -> Result<Cells<B>, RestoreError> {
        let mut keys = BTreeSet::new();
        let (mut layout, mut numbers) = (None, NumbersCell::default());
        let (mut sources, mut pieces, mut bodies) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (mut identities, mut leases) = (BTreeMap::new(), BTreeMap::new());
        let (mut files, mut directories) = (BTreeMap::new(), BTreeMap::new());
        let (mut names, mut vanished) = (BTreeMap::new(), BTreeSet::new());
        let mut visitors = BTreeMap::new();
        let mut stopping = false;
        for (key, stored) in cells {
            let text = match (&key, stored) {
                (Key::Token(_), _) => continue,
                (Key::Body { generation, piece }, Stored::Body(body)) => {
                    bodies.insert((*generation, *piece), body);
                    keys.insert(key);
                    continue;
                }
                (Key::Body { .. }, Stored::Plain(_)) | (_, Stored::Body(_)) => {
                    return Err(RestoreError::Kind(key));
                }
                (_, Stored::Plain(text)) => text,
            };
            match &key {
                Key::Layout => layout = Some(read(&key, &text)?),
                Key::Numbers => numbers = read(&key, &text)?,
                Key::Source(id) => drop(sources.insert(*id, read(&key, &text)?)),
                Key::Pieces(id) => drop(pieces.insert(*id, read(&key, &text)?)),
                Key::Identity(id) => drop(identities.insert(*id, read(&key, &text)?)),
                Key::Lease(id) => drop(leases.insert(id.clone(), read(&key, &text)?)),
                Key::File(id) => drop(files.insert(*id, read(&key, &text)?)),
                Key::Directory(id) => drop(directories.insert(*id, read(&key, &text)?)),
                Key::Name(ino) => drop(names.insert(*ino, read(&key, &text)?)),
                Key::Visitor { source, process } => {
                    drop(visitors.insert((*source, *process), read(&key, &text)?));
                }
                Key::Vanished(ino) => {
                    vanished.insert(*ino);
                }
                Key::Stopping => stopping = true,
                // Left out above.
                Key::Token(_) | Key::Body { .. } => {}
            }
            keys.insert(key);
        }
        let layout = layout.ok_or(RestoreError::Missing(Key::Layout))?;
        Ok(Cells {
            keys,
            layout,
            numbers,
            sources,
            pieces,
            bodies,
            identities,
            leases,
            files,
            directories,
            names,
            vanished,
            visitors,
            stopping,
        })
    }

    /// A number above those of all generations, tokens and whatever else shares them.
    pub(super) fn last_id(&self) -> u64 {
        let generations = self.pieces.keys().map(|id| id.0);
        let tokens = self.identities.values().flat_map(|one| one.tokens.iter()).map(|token| token.id.0);
        generations.chain(tokens).chain([self.numbers.ids]).max().unwrap_or_default()
    }
}

/// What a predecessor's numbers mean now.
#[derive(Debug)]
pub(super) struct Meanings {
    /// Identities that are still there, and log in as they did.
    pub(super) identities: BTreeMap<IdentityId, IdentityId>,
    /// Files that are still there.
    pub(super) files: BTreeMap<FileId, FileNow>,
    /// Trees, by their new number, that mirror what they did.
    pub(super) trees: BTreeSet<TreeId>,
    /// Sources that are still shown.
    pub(super) sources: BTreeMap<SourceId, SourceId>,
}

/// What has become of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileNow {
    pub(super) id: FileId,
    /// Whether it shows its source as it did.
    pub(super) same: bool,
}

impl Meanings {
    /// Matches everything but sources, by names and labels.
    pub(super) fn new(then: &LayoutCell, now: &LayoutCell) -> Meanings {
        let labels = now.identities.iter().enumerate().rev();
        let by_label: BTreeMap<&String, u32> = labels.map(|(index, label)| (label, index as u32)).collect();
        let by_name: BTreeMap<_, _> =
            now.files.iter().enumerate().map(|(index, file)| (&file.name, (index as u32, file))).collect();
        let mut taken = BTreeSet::new();
        let identities = then.identities.iter().enumerate().filter_map(|(index, label)| {
            let id = *by_label.get(label)?;
            taken.insert(id).then_some((IdentityId(index as u32), IdentityId(id)))
        });
        let identities: BTreeMap<IdentityId, IdentityId> = identities.collect();
        let files = then.files.iter().enumerate().filter_map(|(index, file)| {
            let (id, one) = by_name.get(&file.name)?;
            let now = FileNow { id: FileId(*id), same: one.rendering == file.rendering };
            Some((FileId(index as u32), now))
        });
        let mirrors = |tree: &&crate::core::state::TreeCell| {
            then.trees.iter().any(|one| {
                identities.get(&one.identity) == Some(&tree.identity)
                    && (&one.name, &one.prefix, one.engine) == (&tree.name, &tree.prefix, tree.engine)
            })
        };
        let trees = now.trees.iter().enumerate().filter(|(_, tree)| mirrors(tree));
        Meanings {
            files: files.collect(),
            trees: trees.map(|(index, _)| TreeId(index as u32)).collect(),
            sources: BTreeMap::new(),
            identities,
        }
    }
}

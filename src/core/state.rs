//! The engine's state as cells that a successor of this process reads back: their keys, and what is in them.
//!
//! Everything but bodies is JSON without any secret, so that a newer program reads what an older one wrote:
//! a field that is added later has a default, one that is not known is ignored. Numbers of sources, identities
//! and files in cells are those of the writer; its [`Key::Layout`] says what they stand for.
//!
//! Invariant: *never an old state for the present*: what is in flight is written as such, and what a reader can't
//! make sense of is an error, not a guess.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::core::access::Process;
use crate::core::bucket::Bucket;
use crate::core::effect::{Credential, EngineHint, ReadRequest};
use crate::core::engine::{Effects, Engine, Layout, LayoutError};
use crate::core::error::{Failure, Fault};
use crate::core::generation::{Piece, Validity};
use crate::core::identity::{LoginState, LostLogin, Token};
use crate::core::name::{FileName, GenerationId, HandleId, IdentityId, Ino, LeaseId, SourceId, VaultPath};
use crate::core::time::{BootTime, UnixTime};

/// What a cell is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Key {
    /// What the numbers in other cells stand for.
    Layout,
    /// Up to where numbers may have been given away.
    Numbers,
    /// A source and its generations.
    Source(SourceId),
    /// Of which files a generation has bytes.
    Pieces(GenerationId),
    /// The bytes of one of them.
    Body {
        /// Of which generation.
        generation: GenerationId,
        /// The place of the file in [`Key::Pieces`].
        piece: u32,
    },
    /// An identity, its tokens themselves aside.
    Identity(IdentityId),
    /// A token; the driver's, who writes and reads it.
    Token(Credential),
    /// A lease that is being given back.
    Lease(LeaseId),
    /// An open file.
    File(HandleId),
    /// An open directory.
    Directory(HandleId),
    /// A name that is not declared and that the kernel holds.
    Name(Ino),
    /// A name that has vanished.
    Vanished(Ino),
    /// Who has opened what of a source, where that matters.
    Visitor {
        /// Of which source.
        source: SourceId,
        /// Who.
        process: Process,
    },
    /// The mount ends: there only then.
    Stopping,
}

/// What is in a cell, to be written.
#[derive(Debug)]
pub enum Content<'a, B> {
    /// JSON without any secret.
    Plain(Vec<u8>),
    /// The bytes of a file.
    Body(&'a Arc<B>),
}

/// What is in a cell, as it was read.
#[derive(Debug)]
pub enum Stored<B> {
    /// JSON.
    Plain(Vec<u8>),
    /// The bytes of a file.
    Body(Arc<B>),
}

/// What a successor begins with.
#[derive(Debug)]
pub struct Restored<B> {
    /// The engine. [`Engine::start`] is to be called as on a new one, and [`Engine::restore_locks`] before it.
    pub engine: Engine<B>,
    /// What is to be done at once; it needs the tokens.
    pub effects: Effects,
    /// The tokens that the engine knows: under which number each was stored, and which it has now. All others
    /// are to be dropped, those of `forsaken` aside.
    pub tokens: BTreeMap<Credential, Credential>,
    /// What identities had that the configuration does not know any more.
    pub forsaken: Vec<Forsaken>,
}

/// A token whose identity is not in the configuration any more, or logs in in another way. The engine does not
/// know it; it is the driver's to give back what it obtained, as far as it can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forsaken {
    /// The token, as it was stored.
    pub with: Credential,
    /// Whether leasefs logged in for it, and so revokes it, which ends its leases too.
    pub ours: bool,
    /// When Vault ends it.
    pub expires: BootTime,
    /// The leases that it obtained.
    pub leases: Vec<LeaseId>,
}

/// Why cells can't be read back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Two names of the new layout clash.
    #[error("{0}")]
    Layout(#[from] LayoutError),
    /// The text of a cell is not what its key says.
    #[error("the stored state can't be used: {key:?}: {why}")]
    Unreadable {
        /// Which cell.
        key: Key,
        /// What is wrong with it.
        why: String,
    },
    /// A cell that another one names is not there.
    #[error("the stored state can't be used: {0:?} is missing")]
    Missing(Key),
    /// A cell holds bytes of a file where its key says text, or the other way round.
    #[error("the stored state can't be used: {0:?} is of another kind")]
    Kind(Key),
}

/// What the numbers of a layout stand for, and what the kernel may have been told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayoutCell {
    /// Labels.
    pub(crate) identities: Vec<String>,
    pub(crate) files: Vec<FileCell>,
    #[serde(default)]
    pub(crate) field_dirs: Vec<FileName>,
    #[serde(default)]
    pub(crate) trees: Vec<TreeCell>,
    #[serde(default)]
    pub(crate) list_max_age: Duration,
    /// Identities whose token somebody else has made.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) given: BTreeSet<IdentityId>,
}

/// A declared file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileCell {
    pub(crate) name: FileName,
    pub(crate) rendering: String,
}

/// A mirrored prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TreeCell {
    pub(crate) name: FileName,
    pub(crate) identity: IdentityId,
    pub(crate) prefix: VaultPath,
    pub(crate) engine: EngineHint,
}

impl LayoutCell {
    pub(crate) fn new(layout: &Layout) -> LayoutCell {
        let rendering = |index: usize| layout.renderings.get(index).cloned().unwrap_or_default();
        let files = layout.files.iter().enumerate();
        LayoutCell {
            identities: layout.identities.clone(),
            files: files
                .map(|(index, file)| FileCell { name: file.name.clone(), rendering: rendering(index) })
                .collect(),
            field_dirs: layout.field_dirs.iter().map(|dir| dir.name.clone()).collect(),
            trees: layout
                .trees
                .iter()
                .map(|tree| TreeCell {
                    name: tree.name.clone(),
                    identity: tree.identity,
                    prefix: tree.prefix.clone(),
                    engine: tree.engine,
                })
                .collect(),
            list_max_age: layout.settings.list_max_age,
            given: layout.given.clone(),
        }
    }

    /// All names that are declared.
    pub(crate) fn names(&self) -> impl Iterator<Item = &FileName> {
        let files = self.files.iter().map(|file| &file.name);
        files.chain(&self.field_dirs).chain(self.trees.iter().map(|tree| &tree.name))
    }
}

/// Numbers above all that may have been given away. They go up in large steps, so that this is written seldom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NumbersCell {
    /// Of generations, tokens, requests, tickets.
    #[serde(default)]
    pub(crate) ids: u64,
    #[serde(default)]
    pub(crate) handles: u64,
    /// The last one of a source that is not declared.
    #[serde(default)]
    pub(crate) source: u32,
}

/// A source. How it is kept is the configuration's business; who has it open, and under which names, other cells
/// say.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SourceCell<'a> {
    pub(crate) identity: IdentityId,
    pub(crate) read: Cow<'a, ReadRequest>,
    /// Whether its fields were rendered as files of their own.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) fields: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<GenerationCell<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) previous: Option<GenerationCell<'a>>,
    /// A read is on its way that may mint, with this token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) minting: Option<Credential>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_open: Option<BootTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<Cow<'a, Failure>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) renewal_failure: Option<Cow<'a, Failure>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mints: Option<bool>,
    #[serde(default = "Bucket::full", skip_serializing_if = "Bucket::is_full")]
    pub(crate) upkeep_mints: Bucket,
    #[serde(default = "Bucket::full", skip_serializing_if = "Bucket::is_full")]
    pub(crate) reader_mints: Bucket,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) free_elsewhere: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) replacing_since: Option<BootTime>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) lease_duration: Duration,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) usable: Duration,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) failures: u32,
    #[serde(default = "since_ever")]
    pub(crate) not_before: BootTime,
}

/// A generation, without its bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct GenerationCell<'a> {
    pub(crate) id: GenerationId,
    pub(crate) with: Credential,
    pub(crate) issued: UnixTime,
    pub(crate) validity: Cow<'a, Validity>,
    pub(crate) end: BootTime,
    pub(crate) ask: BootTime,
}

/// One file of a generation: its bytes are in a cell of their own, unless it can't be shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PieceCell<'a> {
    pub(crate) piece: Cow<'a, Piece>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<Cow<'a, Failure>>,
}

/// An identity.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct IdentityCell<'a> {
    pub(crate) tokens: Cow<'a, [Token]>,
    pub(crate) login: Cow<'a, LoginState>,
    #[serde(default)]
    pub(crate) failed_logins: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_fault: Option<Fault>,
    #[serde(default)]
    pub(crate) anew: bool,
    #[serde(default, skip_serializing_if = "is_empty")]
    pub(crate) lost_logins: Cow<'a, [LostLogin]>,
}

/// An open file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct OpenFileCell<'a> {
    pub(crate) ino: Ino,
    pub(crate) source: SourceId,
    pub(crate) piece: Cow<'a, Piece>,
    pub(crate) generation: GenerationId,
    /// The other sources of a file that shows several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) more: Vec<(SourceId, GenerationId)>,
    #[serde(default)]
    pub(crate) request: u64,
}

/// An open directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct OpenDirectoryCell<'a> {
    pub(crate) ino: Ino,
    pub(crate) parent: Ino,
    #[serde(default)]
    pub(crate) request: u64,
    /// Its entries, unless they are declared ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) entries: Option<Vec<(Cow<'a, str>, NodeCell<'a>)>>,
}

/// A name that is not declared.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NameCell<'a> {
    pub(crate) parent: Ino,
    pub(crate) name: Cow<'a, str>,
    pub(crate) node: NodeCell<'a>,
    pub(crate) lookups: u64,
}

/// What a name that is not declared stands for. Who may read it, and the rest, follows from the configuration of
/// the directory that it lies in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum NodeCell<'a> {
    Field { source: SourceId, field: Cow<'a, str> },
    Directory { path: Cow<'a, VaultPath>, folder: bool, secret: bool },
}

/// The text of a cell.
pub(crate) fn write(cell: &impl Serialize) -> Vec<u8> {
    // No type here fails to be written: keys of maps are texts. What can't be written can't be read, and says so.
    serde_json::to_vec(cell).unwrap_or_default()
}

/// What the text of a cell says.
pub(crate) fn read<T: DeserializeOwned>(key: &Key, text: &[u8]) -> Result<T, RestoreError> {
    serde_json::from_slice(text)
        .map_err(|error| RestoreError::Unreadable { key: key.clone(), why: error.to_string() })
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_empty(list: &[LostLogin]) -> bool {
    list.is_empty()
}

fn since_ever() -> BootTime {
    BootTime(0)
}

//! What the configuration declares in the tree. (Names and inode numbers follow.)

use crate::core::access::Rule;
use crate::core::effect::EngineHint;
use crate::core::name::{FileName, IdentityId, SourceId, VaultPath};
use crate::core::source::SourcePolicy;

/// A declared file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSpec {
    /// Its name.
    pub name: FileName,
    /// What it shows.
    pub source: SourceId,
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

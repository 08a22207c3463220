//! Names and ids: small types so that two arguments of one kind can't be swapped.
//!
//! A name that exists as one of these types is valid: whoever holds a [`FileName`] or a [`VaultPath`]
//! need not look for `..`, empty segments or NUL again.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest name of one directory entry that Linux takes, in bytes (`NAME_MAX`, limits.h).
pub const NAME_MAX: usize = 255;

/// The number of a file or directory in the mount; derived from its path alone (see `core/tree.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ino(pub u64);

impl Ino {
    /// The mount's root directory; FUSE fixes its number.
    pub const ROOT: Ino = Ino(1);
}

/// An open file or directory; never used twice in the life of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HandleId(pub u64);

/// A caller that waits for Vault; its reply lies with the driver until the engine answers this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// One source, that is one Vault read with one identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SourceId(pub u32);

/// One result of a source; never used twice in the life of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GenerationId(pub u64);

/// One request to Vault that the engine waits for; an answer to another number is late and is not used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// One way to log in; an index into the identities of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IdentityId(pub u32);

/// One token that an identity obtained or was given; the token itself never enters the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenId(pub u64);

/// A declared file; an index into the files of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileId(pub u32);

/// One `[tree]` of the configuration; an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeId(pub u32);

/// Vault's name of a lease. It is no secret: it is printed so that an operator can revoke it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseId(pub String);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is not a [`FileName`] or a [`VaultPath`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing is left of it.
    #[error("is empty")]
    Empty,
    /// It begins with `/`.
    #[error("is absolute: leave out the leading \"/\"")]
    Absolute,
    /// Two slashes in a row, or one at the end.
    #[error("has an empty segment: write single slashes and none at the end")]
    EmptySegment,
    /// A segment is `.` or `..`.
    #[error("has a \".\" or \"..\" in it: write the path without it")]
    Dots,
    /// A NUL or another control character.
    #[error("has a control character in it")]
    Control,
    /// A segment is longer than [`NAME_MAX`].
    #[error("has a segment of more than 255 bytes")]
    TooLong,
}

/// The name of a file or directory in the mount, relative to its root, such as `db/password`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct FileName(String);

impl FileName {
    /// Takes a relative path with single slashes.
    ///
    /// # Errors
    /// What is wrong with it; each segment must be a name that Linux takes.
    pub fn new(text: &str) -> Result<FileName, NameError> {
        check_segments(text)?;
        if text.split('/').any(|segment| segment.len() > NAME_MAX) {
            return Err(NameError::TooLong);
        }
        Ok(FileName(text.to_owned()))
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names of the directories on the way, then the last name.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

impl TryFrom<String> for FileName {
    type Error = NameError;

    fn try_from(text: String) -> Result<FileName, NameError> {
        FileName::new(&text)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A logical path in Vault, as a user writes it: mount point first, no `/v1/` before it, such as
/// `database/creds/agent`. A KV v2 path may be given with or without its `data/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct VaultPath(String);

impl VaultPath {
    /// Takes a path without a leading slash; one slash at the end is dropped.
    ///
    /// # Errors
    /// What is wrong with it. `.` and `..` are refused since URL libraries drop them silently.
    pub fn new(text: &str) -> Result<VaultPath, NameError> {
        let text = text.strip_suffix('/').unwrap_or(text);
        check_segments(text)?;
        Ok(VaultPath(text.to_owned()))
    }

    /// The whole path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its segments, first the first one of the mount point.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// The path of an entry below this one.
    ///
    /// # Errors
    /// As [`VaultPath::new`], for a name that KV takes and a path can't carry.
    pub fn join(&self, name: &str) -> Result<VaultPath, NameError> {
        check_segments(name)?;
        Ok(VaultPath(format!("{}/{name}", self.0)))
    }
}

impl TryFrom<String> for VaultPath {
    type Error = NameError;

    fn try_from(text: String) -> Result<VaultPath, NameError> {
        VaultPath::new(&text)
    }
}

impl fmt::Display for VaultPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn check_segments(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.starts_with('/') {
        return Err(NameError::Absolute);
    }
    for segment in text.split('/') {
        match segment {
            "" => return Err(NameError::EmptySegment),
            "." | ".." => return Err(NameError::Dots),
            _ => {}
        }
    }
    if text.chars().any(char::is_control) {
        return Err(NameError::Control);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_tree_are_refused() {
        for (text, error) in [
            ("", NameError::Empty),
            ("/etc/passwd", NameError::Absolute),
            ("a//b", NameError::EmptySegment),
            ("a/", NameError::EmptySegment),
            ("a/../b", NameError::Dots),
            ("./a", NameError::Dots),
            ("a\0b", NameError::Control),
        ] {
            assert_eq!(FileName::new(text), Err(error), "{text:?}");
        }
        assert_eq!(FileName::new(&"x".repeat(256)), Err(NameError::TooLong));
        assert!(FileName::new("db/pass word%?").is_ok());
    }

    #[test]
    fn a_vault_path_may_end_in_one_slash_and_may_be_longer_than_a_file_name() {
        assert_eq!(VaultPath::new("secret/a/").unwrap().as_str(), "secret/a");
        assert!(VaultPath::new(&format!("secret/{}", "x".repeat(300))).is_ok());
        assert_eq!(VaultPath::new("secret//a"), Err(NameError::EmptySegment));
        let path = VaultPath::new("secret/a").unwrap();
        assert_eq!(path.join("b c").unwrap().as_str(), "secret/a/b c");
        assert_eq!(path.join(".."), Err(NameError::Dots));
    }
}

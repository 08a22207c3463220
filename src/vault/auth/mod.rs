//! Login methods, one per file, and the files and variables that credentials come from.

pub(super) mod approle;
pub(super) mod credential;
pub(super) mod token;

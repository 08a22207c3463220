//! What the server of a command says to its supervisor.

use serde::{Deserialize, Serialize};

/// What the server says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// The tree is mounted, and these required files are not there yet.
    Waiting {
        /// Which, and why.
        files: Vec<Missing>,
    },
    /// The tree is mounted, and all that is required is there.
    Ready,
    /// Somebody else ended the mount.
    Ended,
    /// It can't serve, or could not end well.
    Failed {
        /// The exit code that says so.
        code: u8,
        /// What to print.
        message: String,
    },
}

/// A required file that is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Its name in the tree.
    pub name: String,
    /// Why, if something was tried.
    pub why: Option<String>,
    /// Whether it may still come by itself.
    pub may_come: bool,
}

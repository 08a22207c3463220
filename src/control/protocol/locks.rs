//! The words about locks.

use serde::{Deserialize, Serialize};

use crate::control::protocol::RevokeReport;

/// A lock that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockReport {
    /// The name that is locked with all that is below it; empty: the whole mount.
    pub name: String,
    /// What the operator said.
    pub reason: String,
    /// Who locked it.
    pub uid: u32,
    /// Since when, as RFC 3339.
    pub since: String,
}

/// What a lock did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockedReport {
    /// What is locked now, of what was asked for; empty: the whole mount.
    pub names: Vec<String>,
    /// What became of what they showed.
    pub revocation: RevokeReport,
    /// Why the lock would not survive a restart of the daemon; `None`: it would.
    pub unsaved: Option<String>,
}

/// What an unlock did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnlockedReport {
    /// The locks that went; an empty name: that of the whole mount.
    pub unlocked: Vec<String>,
    /// Names that are locked all the same.
    pub still_locked: Vec<StillLocked>,
    /// Why the locks would be back after a restart of the daemon; `None`: they would not.
    pub unsaved: Option<String>,
}

/// A name that a wider lock covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StillLocked {
    /// Which.
    pub name: String,
    /// The name that is locked; empty: the whole mount.
    pub by: String,
}

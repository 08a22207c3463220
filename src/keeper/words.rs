//! What a server says to its keeper, and what the keeper says when it is over.

use std::io;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::fuse::mount_point::MountError;

/// What a server says to its keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// It answers.
    Serves,
    /// Something for systemd, which listens to the keeper alone.
    Notify {
        /// As sd_notify(3) has it.
        state: String,
    },
    /// All is given back: the mount can be taken away.
    GivenBack,
    /// It ends for a successor and has given nothing back.
    HandOver,
    /// It can't serve, or could not end well.
    Failed {
        /// The exit code that says so.
        code: u8,
        /// What to print.
        message: String,
    },
}

/// Why a mount is kept no longer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeeperError {
    /// The server said so.
    #[error("{message}")]
    Server {
        /// The exit code that says so.
        code: u8,
        /// What it said.
        message: String,
    },
    /// No server came to serve.
    #[error(
        "{tries} servers in a row ended before they served, the last one with code {code}: look for the reason in the log; the leases in use end with their tokens"
    )]
    GivenUp {
        /// How many.
        tries: u32,
        /// How the last one ended.
        code: u8,
    },
    /// The mount could not be taken away.
    #[error("{0}")]
    Mount(#[from] MountError),
    /// The system refused something basic.
    #[error("{what}: {}", io::Error::from_raw_os_error(*errno))]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        errno: i32,
    },
}

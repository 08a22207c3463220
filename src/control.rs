//! The Unix socket of a mount: what an operator asks of a running daemon, and what it answers.
//!
//! The socket lies in a directory of its own, never in the mount and never where containers look. A
//! request is one line of JSON, and so is the answer. Nothing here ever carries a byte of a secret.
//!
//! | file | responsibility |
//! | --- | --- |
//! | `protocol.rs` | the words, and lines of bounded length |
//! | `place.rs` | where the socket of a mount lies |
//! | `listener.rs` | the daemon's end: who may ask, for how long |
//! | `handler.rs` | what a daemon answers |
//! | `locking.rs` | what it answers about locks |
//! | `lock_store.rs` | the file that keeps them |
//! | `waiting.rs` | what it answers to those who wait |
//! | `explaining.rs` | what it answers about one name |
//! | `client.rs` | the command's end |

mod client;
mod explaining;
mod handler;
mod listener;
mod lock_store;
mod locking;
mod place;
pub mod protocol;
mod waiting;

use std::path::{Path, PathBuf};

use thiserror::Error;

pub use client::{AskError, Client};
pub use explaining::Lore;
pub use handler::{MountInfo, ServiceHandler, Successor, rfc3339};
pub use listener::{Farewell, Handler, Listener};
pub use lock_store::{LockStore, LockStoreError};
pub use place::ControlDirectory;

/// Why a mount has no control socket. Each says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ControlError {
    /// A user other than root needs a directory of their own.
    #[error(
        "there is no directory for the control socket: {}, and there is no {}: log in instead of using su, have \
         root run \"loginctl enable-linger USER\" for a user without a session, as in cron, or set \
         XDG_RUNTIME_DIR to a directory that is this user's alone, for leasefs and for whoever asks it",
        named_in_vain(named), usual.display()
    )]
    NoDirectory {
        /// What the variable says, though the directory is not that user's.
        named: Option<PathBuf>,
        /// Where systemd makes it.
        usual: PathBuf,
    },
    /// Somebody else could put sockets into the directory.
    #[error("{} belongs to another user, or others may write to it: remove it, or make it yours alone", path.display())]
    UnsafeDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// The directory, its lock or the socket can't be made.
    #[error("can't make {}: {trouble}: check the directory it is in", path.display())]
    NotMade {
        /// What was to be made.
        path: PathBuf,
        /// What the system said.
        trouble: String,
    },
    /// The directory's name leaves no room for that of a socket.
    #[error("{} is too long a name for a socket's directory: set XDG_RUNTIME_DIR to a shorter one", path.display())]
    TooLong {
        /// The directory.
        path: PathBuf,
    },
    /// A daemon listens there already.
    #[error("{} is served already{}: use it, or end it with \"leasefs unmount {}\"", mount_point.display(), by(*pid), mount_point.display())]
    AlreadyServed {
        /// The mount point.
        mount_point: PathBuf,
        /// The daemon, if the kernel says.
        pid: Option<i32>,
    },
}

fn named_in_vain(directory: &Option<PathBuf>) -> String {
    match directory {
        Some(directory) => {
            format!("XDG_RUNTIME_DIR is {}, which is not a directory of this user's", directory.display())
        }
        None => "XDG_RUNTIME_DIR is not set".to_owned(),
    }
}

/// Opens the control socket of a mount. `mount_point` is absolute and without symlinks, as
/// [`crate::fuse::session::Mounted::path`] gives it. Needs no runtime yet.
///
/// # Errors
/// [`ControlError`].
pub fn listen(mount_point: &Path) -> Result<Listener, ControlError> {
    ControlDirectory::own()?.listen(mount_point)
}

fn by(pid: Option<i32>) -> String {
    pid.map(|pid| format!(" by process {pid}")).unwrap_or_default()
}

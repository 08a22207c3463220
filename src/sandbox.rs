//! What the process that serves a mount gives up once it has its FUSE device, and can't get back: root's user,
//! capabilities, files, ports, other processes, system calls.
//!
//! | file | responsibility |
//! | --- | --- |
//! | `protections.rs` | what is in force, to be told |
//! | `privileges.rs` | user, capabilities, no-new-privs |
//! | `files.rs` | which files are needed later, and which of them were replaced since |
//! | `domain.rs` | Landlock: files, ports, other processes |
//! | `calls.rs` | seccomp: the list of system calls, and how it was made |
//!
//! Invariants: *one thread*: each protection holds for the thread that asked for it and those that it starts
//! later, so a process with more is refused; *all or told*: what the kernel lacks, or the configuration leaves
//! out, is in [`Protections`]; anything else that fails is an error, and the process must not go on.
//!
//! A process in here can't mount, unmount, start programs or trace others: some of that would end it at once.

mod calls;
mod domain;
mod files;
mod privileges;
mod protections;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::config::plan::{MountPlan, Protection};
use crate::sandbox::domain::Domain;
use crate::sandbox::files::Needs;
use crate::sys::{self, MemoryLock};

pub use crate::config::plan::Account as Identity;
pub use files::credentials;
pub use protections::{Entry, Protections, State};

/// Where the process goes on reading and writing, besides what the plan names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// The configuration, if it is read again.
    pub config: Option<PathBuf>,
    /// The directory of the control socket, if there is one.
    pub control: Option<PathBuf>,
    /// The directory that locks are stored in, if there is one; it is made if it is not there.
    pub locks: Option<PathBuf>,
    /// A directory that it removes at its end, if there is one.
    pub mount_point: Option<PathBuf>,
    /// What becomes of files that are beside much else.
    pub crowd: Crowd,
}

/// How files are read that may be replaced and lie in a directory that is shared with much else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Crowd {
    /// As long as they are not replaced: then a successor has to read them.
    #[default]
    Pinned,
    /// With all that is in their directory, since nobody comes after this process.
    Open,
}

/// Why the process could not be shut in. It must end, as it may be half in.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// Protections hold for single threads.
    #[error("the process has {count} threads, and can be shut in only while it has one")]
    Threads {
        /// How many.
        count: usize,
    },
    /// Only root can become somebody else.
    #[error(
        "it can't become user {uid}: it is not root: start it as root or as that user (`User=` of a unit of \
         systemd), or leave server-user out"
    )]
    NotRoot {
        /// Who it was to be.
        uid: u32,
    },
    /// The system refused it.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Landlock is there and can't be used.
    #[error("Landlock: {trouble}: write landlock-files = false in [mount.protections] to go without")]
    Landlock {
        /// What the system said.
        trouble: String,
    },
    /// Seccomp is there and can't be used.
    #[error("seccomp: {trouble}: write seccomp = false in [mount.protections] to go without")]
    Seccomp {
        /// What the system said.
        trouble: String,
    },
}

/// What is to be given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    off: BTreeSet<Protection>,
    identity: Option<Identity>,
    needs: Needs,
    locks: Option<PathBuf>,
    ports: BTreeSet<u16>,
}

impl Plan {
    /// For the process that serves this mount. Looks at the paths of credentials as they are now, so that a
    /// symlink's target can be read as well.
    pub fn of(plan: &MountPlan, places: &Places, identity: Option<Identity>) -> Plan {
        Plan {
            off: plan.mount.unprotected.clone(),
            identity,
            needs: Needs::of(plan, places),
            locks: places.locks.clone(),
            ports: domain::ports(&plan.vault.addresses),
        }
    }

    /// Gives it up. To be called with the FUSE device and the control socket open, everything mounted, memory
    /// locked, and before any thread is started and any secret is in memory; clients of Vault can be made before
    /// or after. What is missing is logged.
    ///
    /// Without capabilities even root reads no file that its mode bits keep from root, such as another user's
    /// with mode 0400.
    ///
    /// # Errors
    /// [`SandboxError`].
    pub fn enter(self) -> Result<Protections, SandboxError> {
        let Plan { off, identity, needs, locks, ports } = self;
        let count = sys::privilege::threads().map_err(system("threads can't be counted"))?;
        if count != 1 {
            return Err(SandboxError::Threads { count });
        }
        if let Some(locks) = &locks {
            // Whether it worked is told when something is locked.
            let _ = files::make_private(locks);
        }
        let mut protections = Protections::default();
        let drops = !off.contains(&Protection::Capabilities) || identity.is_some();
        if drops
            && sys::locking().all_pages
            && let MemoryLock::SecretPagesOnly { reason } = sys::keep_memory_locked()
        {
            protections.note_loss(reason);
        }
        // While everything can still be opened by its name.
        let domain = Domain::prepare(&off, &needs, &ports)?;
        privileges::give_up(&off, identity.as_ref(), &mut protections)?;
        domain.enter(&off, &mut protections)?;
        calls::filter(&off, &mut protections)?;
        protections.note_pinned(needs.pinned());
        for Entry { name, state } in protections.iter() {
            if let State::Missing { reason } = state {
                tracing::warn!(protection = name, reason, "a protection is missing");
            }
        }
        Ok(protections)
    }
}

fn system(what: &'static str) -> impl Fn(io::Error) -> SandboxError {
    move |source| SandboxError::System { what, source }
}

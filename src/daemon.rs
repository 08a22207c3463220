//! Puts it all together: an ordered start, signals, an ordered stop.
//!
//! [`run`] mounts for everybody and keeps the mount; a process of its own serves it ([`serve`]), and another one
//! goes on if that dies. [`serve_command`] mounts and serves the tree of a single command.
//!
//! Start of a server: read the configuration, lock memory, take the control socket, read what is locked, take up
//! what the last server has left, serve, log in. The mount is there before Vault is asked, so that a host boots
//! whether or not Vault does; only what is required is waited for until the mount counts as ready. Stop: drop
//! all bytes, give back leases and tokens in bounded time, unmount.

mod command;
mod ground;
mod herald;
mod heritage;
mod lore;
mod readiness;
mod record;
mod reload;
mod server;
mod stand;
pub mod unit;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sd_notify::NotifyState;
use tokio::runtime::Runtime;

use crate::config::plan::{Account, Format, IdentityPlan, Method, MountPlan, VaultPlan};
use crate::config::{self, Complaints, Environment};
use crate::control::{ControlDirectory, ControlError, LockStoreError};
use crate::core::compose::Compose;
use crate::core::engine::{Engine, Layout, LayoutError, Settings};
use crate::core::name::{FileId, IdentityId, SourceId};
use crate::core::policy::LeaseSettings;
use crate::core::time::UnixTime;
use crate::daemon::herald::notify_systemd;
use crate::daemon::record::Record;
use crate::driver::compose::Composer;
use crate::driver::{self, Names};
use crate::fuse::mount_point::{MountError, MountPoint};
use crate::fuse::session::{self, Kept, MountOptions};
use crate::fuse::sharing::SharedParent;
use crate::keeper::{Keeper, KeeperError, Papers, Program, Word};
use crate::sandbox;
use crate::sealed::Sealed;
use crate::secret::SecretBytes;
use crate::sys::{self, secret_memory};
use crate::vault::client::{Client, ClientError};

pub use crate::sandbox::SandboxError;
pub use crate::sealed::End;
pub use command::{CommandMount, serve_command};
pub use ground::Ended;
pub use server::{ServerPapers, serve};

/// What is kept besides secrets takes so much of the state at most, in bytes: 10,000 leases in use take a third.
const BOOKS: usize = 32 << 20;

/// What to mount where.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// Where to mount.
    pub mount_point: PathBuf,
    /// Whether the mount point is made if it is not there.
    pub origin: MountPointOrigin,
    /// Overrides the configuration's `allow-other`.
    pub allow_other: Option<bool>,
    /// What containers that bind the parent of the mount point see.
    pub parent: Parent,
}

/// What becomes of the directory that holds the mount point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Parent {
    /// It stays as it is.
    #[default]
    AsItIs,
    /// Mounts in it appear wherever it was bound, also later.
    Shared,
}

/// Where the name of a mount point comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountPointOrigin {
    /// The user named it, so it must be there.
    Named,
    /// It follows from the name of the configuration: it is made.
    Derived,
}

/// Why a mount could not be made, or ended badly.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration is wrong; one line for each complaint.
    #[error("the configuration can't be used:\n{0}")]
    Config(#[from] Complaints),
    /// Two names clash.
    #[error("{0}")]
    Layout(#[from] LayoutError),
    /// No client for Vault could be made of the configuration.
    #[error("{0}")]
    Client(#[from] ClientError),
    /// The mount could not be made or taken away.
    #[error("{0}")]
    Mount(#[from] MountError),
    /// The control socket could not be taken.
    #[error("{0}")]
    Control(#[from] ControlError),
    /// What was locked can't be told.
    #[error("{0}")]
    Locks(#[from] LockStoreError),
    /// The mount point could not be made.
    #[error("{}: can't be made ({why}): make the directory, or name another one", .path.display())]
    MountPoint {
        /// Which.
        path: PathBuf,
        /// What the system said.
        why: std::io::ErrorKind,
    },
    /// The control socket would be in what containers bind.
    #[error(
        "{} is to be bound into containers, and {} is in it, which is for the host alone: mount in a directory \
         of its own, such as {}/agent/secrets",
        parent.display(), control.display(), parent.display()
    )]
    ControlInReach {
        /// The parent of the mount point.
        parent: PathBuf,
        /// Where the control sockets lie.
        control: PathBuf,
    },
    /// The system refused something basic, such as a thread or a descriptor.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The mount could not be kept.
    #[error("{0}")]
    Keeper(#[from] KeeperError),
    /// The server could not give up what it does not need.
    #[error("the server can't be shut in: {0}")]
    Sandbox(#[from] SandboxError),
    /// systemd keeps no mount for the unit.
    #[error("there is no mount to serve: the lines before this one say why it could not be made")]
    NotKept,
    /// Only root becomes somebody else.
    #[error("[mount] server-user is for mounts of root's: leave it out, or run as root")]
    ServerUserWithoutRoot,
    /// The server would find a credential shut.
    #[error(
        "{} can't be read by user {user}, who is to serve the mount ([mount] server-user): let that user read it, \
         or leave server-user out", path.display()
    )]
    CredentialShut {
        /// The file.
        path: PathBuf,
        /// The user.
        user: String,
    },
    /// systemd does not start a unit anew.
    #[error("systemd does not restart {unit}: {said}")]
    NotRestarted {
        /// Which.
        unit: String,
        /// What it says.
        said: String,
    },
    /// What the keeper has handed over can't be used.
    #[error("the record of the mount can't be read ({why}): unmount, then mount again")]
    Record {
        /// What is wrong with it.
        why: std::io::ErrorKind,
    },
    /// The kernel's connection broke.
    #[error("the connection to the kernel broke (error {errno}): all leases were revoked; mount again")]
    Broken {
        /// What the system said.
        errno: i32,
    },
}

/// Mounts and keeps the mount until a signal, an unmount or an operator ends it. `program` is started to serve
/// it; `serving` is called once the tree answers. `source` is what the list of mounts shows.
///
/// # Errors
/// [`DaemonError`]; nothing stays behind.
pub fn run(
    source: &str,
    options: &Options,
    program: &Program,
    serving: impl FnOnce(),
) -> Result<(), DaemonError> {
    let keeper = Keeper::new()?;
    // The parent goes back to what it was after the mount that is in it.
    let Prepared { mount, papers, shared: _shared } = prepare(source, options)?;
    let mut serving = Some(serving);
    let kept = keeper.keep(mount, &papers, program, |word| match word {
        Word::Serves => {
            if let Some(serving) = serving.take() {
                serving();
            }
        }
        Word::Notify { state } => notify_systemd(&[NotifyState::Custom(state.trim_end())]),
        Word::GivenBack | Word::HandOver | Word::Failed { .. } => {}
    });
    // A server that is not root can't remove its socket.
    ControlDirectory::own()?.tidy();
    Ok(kept?)
}

/// A mount that nobody serves yet, and what its servers need.
struct Prepared {
    mount: Kept,
    papers: Papers,
    shared: Option<SharedParent>,
}

/// Mounts.
fn prepare(source: &str, options: &Options) -> Result<Prepared, DaemonError> {
    let environment = Environment::from_process();
    let plan = config::load(&options.config, &environment)?;
    if options.origin == MountPointOrigin::Derived {
        make_mount_point(&options.mount_point)?;
    }
    let allow_other = options.allow_other.unwrap_or(plan.mount.allow_other);
    // All that can be wrong with it is found before anything is mounted.
    check_server_user(&plan)?;
    ControlDirectory::own()?;
    let mounted = sys::unix_time();
    drop(Client::new(&plan.vault, &plan.identities)?);
    drop(Engine::<SecretBytes>::new(layout(&plan, mounted), composer(&plan))?);
    let point = MountPoint::take(&options.mount_point)?;
    let shared = match options.parent {
        Parent::Shared => Some(share_parent(&point)?),
        Parent::AsItIs => None,
    };
    let (uid, gid) = sys::effective_ids();
    let mount = session::mount_from(source, point, &MountOptions { uid, gid, allow_other })?.keep()?;
    // As it is called from anywhere, as far as that can be told.
    let config = options.config.canonicalize().unwrap_or_else(|_| options.config.clone());
    let record = Record::new(mount.seat(), config, (uid, gid), environment.home, mounted);
    let (state, requests) = memory(plan.mount.max_memory);
    let record = record.write().map_err(system("the mount can't be described"))?;
    let papers = Papers { record, state, requests };
    Ok(Prepared { mount, papers, shared })
}

/// Whether the user who is to serve the mount can, as far as that can be told. What is not there yet may come.
fn check_server_user(plan: &MountPlan) -> Result<(), DaemonError> {
    let Some(Account { uid, gid, groups }) = &plan.mount.server_user else { return Ok(()) };
    if sys::effective_ids().0 != 0 {
        return Err(DaemonError::ServerUserWithoutRoot);
    }
    let files = sandbox::credentials(plan);
    let is_shut = |path: &&Path| {
        File::open(path).is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    };
    let shut = sys::privilege::look_as(*uid, *gid, groups, || {
        let first = files.iter().position(is_shut);
        first.map_or(0, |index| u8::try_from(index + 1).unwrap_or(u8::MAX - 1))
    });
    let user = sys::privilege::user_name(*uid);
    match shut.map_err(system("another user's rights can't be told"))? {
        0 => Ok(()),
        u8::MAX => Err(SandboxError::NotRoot { uid: *uid }.into()),
        number => {
            let path = files.get(usize::from(number) - 1).map(|path| path.to_path_buf());
            Err(DaemonError::CredentialShut { path: path.unwrap_or_default(), user })
        }
    }
}

/// Lets containers that bind the parent of the mount point see the mount whenever it comes.
fn share_parent(point: &MountPoint) -> Result<SharedParent, DaemonError> {
    let control = ControlDirectory::own()?.path().to_owned();
    match point.path().parent() {
        Some(parent) if control.starts_with(parent) => {
            Err(DaemonError::ControlInReach { parent: parent.to_owned(), control })
        }
        Some(_) | None => Ok(SharedParent::make(point)?),
    }
}

/// Memory for the state; where there is none, for what must be known of the kernel's requests alone. The server
/// says what is missing.
fn memory(max_memory: u64) -> (Option<OwnedFd>, Option<OwnedFd>) {
    let wanted = Sealed::memory_for(usize::try_from(max_memory).unwrap_or(usize::MAX / 8) + BOOKS);
    // The server has less rights than this process, and the same limit.
    let _ = sys::privilege::lift_memory_limit();
    let size = sys::memory_lock_limit().map_or(wanted, |limit| wanted.min(limit / 2));
    // What no server could map is as good as none.
    let state =
        Some(size).filter(|size| *size >= Sealed::LEAST).and_then(|size| secret_memory::create(size).ok());
    match state {
        Some(state) => (Some(state), None),
        None => (None, secret_memory::create_ordinary(secret_memory::SHARED).ok()),
    }
}

fn system(what: &'static str) -> impl Fn(std::io::Error) -> DaemonError {
    move |source| DaemonError::System { what, source }
}

fn runtime() -> Result<Runtime, DaemonError> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().map_err(system("no runtime could be made"))
}

fn locked_in_part(reason: &str) -> String {
    format!("only the pages of secrets are locked in memory: {reason}")
}

/// A bug must not leave a mount that nobody serves: the process ends, and the kernel cuts the mount.
fn end_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic);
        std::process::abort();
    }));
}

fn make_mount_point(path: &Path) -> Result<(), DaemonError> {
    // One that is inside a leasefs is not to be touched; whatever else is wrong is said later.
    if let Err(error @ MountError::Inside { .. }) = MountPoint::locate(path) {
        return Err(error.into());
    }
    // An existing one is looked at by `MountPoint::take`, without touching a dead mount.
    match std::fs::create_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists && !path.is_symlink() => {
            Err(DaemonError::MountPoint { path: path.to_owned(), why: error.kind() })
        }
        _ => Ok(()),
    }
}

/// What the engine shows of a plan.
pub fn layout(plan: &MountPlan, mounted: UnixTime) -> Layout {
    Layout {
        identities: plan.identities.iter().map(|identity| identity_label(plan, identity)).collect(),
        given: given_tokens(plan),
        sources: plan.sources.clone(),
        files: plan.files.iter().map(|file| file.spec.clone()).collect(),
        renderings: plan.files.iter().map(|file| format!("{:?}", file.format)).collect(),
        field_dirs: plan.field_dirs.clone(),
        trees: plan.trees.clone(),
        directory: plan.directory,
        settings: Settings {
            max_memory: plan.mount.max_memory,
            list_max_age: plan.mount.list_max_age,
            leases: LeaseSettings {
                revocation_check: plan.mount.revocation_check,
                read_timeout: plan.vault.read_timeout,
            },
            mounted,
        },
    }
}

/// What makes the files of several secrets.
pub fn composer(plan: &MountPlan) -> Arc<dyn Compose<SecretBytes>> {
    Arc::new(Composer::new(plan))
}

/// Identities that don't log in, since a token is all that they are given.
fn given_tokens(plan: &MountPlan) -> BTreeSet<IdentityId> {
    let identities = (0..).map(IdentityId).zip(&plan.identities);
    let given = identities.filter(|(_, identity)| matches!(identity.method, Method::Token { .. }));
    given.map(|(id, _)| id).collect()
}

/// All of an identity's configuration that decides who it logs in as. No secret: those have no place there.
fn identity_label(plan: &MountPlan, identity: &IdentityPlan) -> String {
    let VaultPlan { addresses, namespace, .. } = &plan.vault;
    format!("{identity:?} in {namespace:?} of {addresses:?}")
}

/// What the driver does of a plan.
pub fn driver_settings(plan: &MountPlan) -> driver::Settings {
    let mut rendering: HashMap<SourceId, Vec<(FileId, Format)>> = HashMap::new();
    let mut values = HashSet::new();
    for (index, file) in plan.files.iter().enumerate() {
        let sources = &file.spec.sources;
        if sources.are_several() {
            values.extend(sources.iter());
        } else {
            let shown = (FileId(index as u32), file.format.clone());
            rendering.entry(sources.first()).or_default().push(shown);
        }
    }
    driver::Settings {
        read_timeout: plan.vault.read_timeout,
        rendering,
        values,
        names: Names { identities: plan.identities.iter().map(|identity| identity.name.clone()).collect() },
    }
}

// The engine of a real mount holds real secrets.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Engine<SecretBytes>>();
};

//! Puts it all together: an ordered start, signals, an ordered stop.
//!
//! Start: read the configuration, lock memory, take the control socket, read what is locked, mount, serve,
//! log in. The mount
//! is there before Vault is asked, so that a host boots whether or not Vault does; only what is required is
//! waited for until the mount counts as ready. Stop: drop all bytes, give back leases and tokens in bounded
//! time, unmount.
//!
//! [`run`] serves a mount for everybody, until a signal comes; [`serve_command`] one for a single command,
//! until its supervisor is done with it.

mod command;
mod lore;
mod readiness;
mod reload;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc};

use crate::config::plan::{Format, MountPlan};
use crate::config::{self, Complaints, Environment};
use crate::control::{
    self, ControlDirectory, ControlError, Listener, LockStore, LockStoreError, MountInfo, ServiceHandler,
};
use crate::core::engine::{Engine, Layout, LayoutError, Settings};
use crate::core::locks::Locks;
use crate::core::name::{FileId, SourceId};
use crate::core::source::LeaseSettings;
use crate::daemon::lore::PlanLore;
use crate::driver::clock::SystemClock;
use crate::driver::{self, Driver, Names, Service, Unrevoked};
use crate::fuse::adapter::{Adapter, Wiring};
use crate::fuse::mount_point::{MountError, MountPoint};
use crate::fuse::notify::Notices;
use crate::fuse::session::{self, MountOptions, Mounted, SessionEnd, Unmounted};
use crate::fuse::sharing::SharedParent;
use crate::secret::SecretBytes;
use crate::sys::{self, BootTimer, MemoryLock};
use crate::vault::client::{Client, ClientError};

pub use command::{CommandMount, serve_command};

/// For how long leases and tokens are given back at the end.
const REVOCATION_PATIENCE: Duration = Duration::from_secs(10);

/// For how long a busy mount is served after it was detached.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(1);

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
    /// The kernel's connection broke.
    #[error("the connection to the kernel broke (error {errno}): all leases were revoked; mount again")]
    Broken {
        /// What the system said.
        errno: i32,
    },
}

/// Mounts and serves until a signal, an unmount or an operator ends it.
///
/// # Errors
/// [`DaemonError`]; nothing stays behind.
pub fn run(options: &Options) -> Result<(), DaemonError> {
    run_from(session::SOURCE, options, || {})
}

/// As [`run`], with the source that the list of mounts shows. `serving` is called once the tree is mounted
/// and answers.
///
/// # Errors
/// As [`run`].
pub fn run_from(source: &str, options: &Options, serving: impl FnOnce()) -> Result<(), DaemonError> {
    end_on_panic();
    sys::forbid_core_dumps().map_err(system("core dumps can't be forbidden"))?;
    let plan = config::load(&options.config, &Environment::from_process())?;
    for warning in &plan.warnings {
        tracing::warn!("{warning}");
    }
    let mut losses = Vec::new();
    if let MemoryLock::SecretPagesOnly { reason } = sys::lock_memory() {
        tracing::warn!(reason, "only the pages of secrets are locked in memory");
        losses.push(locked_in_part(&reason));
    }
    if options.origin == MountPointOrigin::Derived {
        make_mount_point(&options.mount_point)?;
    }
    let allow_other = options.allow_other.unwrap_or(plan.mount.allow_other);
    // As it is called from anywhere, as far as that can be told.
    let config = options.config.canonicalize().unwrap_or_else(|_| options.config.clone());
    let mut ground = Ground::check(plan, config, source, &options.mount_point, allow_other, losses)?;
    if options.parent == Parent::Shared {
        ground.share_parent()?;
    }
    runtime()?.block_on(async {
        // Before there is a mount: a signal must never end the process without taking the mount away.
        let mut terminate = signal(SignalKind::terminate()).map_err(system("signals can't be caught"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(system("signals can't be caught"))?;
        let hangup = signal(SignalKind::hangup()).map_err(system("signals can't be caught"))?;
        let told = async {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let listener = control::listen(ground.point.path())?;
        let locks = LockStore::usual(ground.point.path());
        let announce = |service, mount_point| {
            serving();
            readiness::announce(service, mount_point)
        };
        let farewell = || notify_systemd(sd_notify::NotifyState::Stopping);
        ground.serve(Some(listener), locks, told, Some(hangup), announce, farewell).await
    })
}

/// All that is checked before anything is mounted.
struct Ground {
    plan: MountPlan,
    /// What `leasefs status` calls the configuration.
    config: PathBuf,
    /// What the list of mounts shows as the source.
    source: String,
    point: MountPoint,
    client: Client,
    engine: Engine<SecretBytes>,
    allow_other: bool,
    losses: Vec<String>,
    shared: Option<SharedParent>,
}

impl Ground {
    fn check(
        plan: MountPlan,
        config: PathBuf,
        source: &str,
        mount_point: &Path,
        allow_other: bool,
        losses: Vec<String>,
    ) -> Result<Ground, DaemonError> {
        let point = MountPoint::take(mount_point)?;
        let client = Client::new(&plan.vault, &plan.identities)?;
        let engine = Engine::new(layout(&plan))?;
        let source = source.to_owned();
        Ok(Ground { plan, config, source, point, client, engine, allow_other, losses, shared: None })
    }

    /// Lets containers that bind the parent of the mount point see the mount whenever it comes.
    fn share_parent(&mut self) -> Result<(), DaemonError> {
        let control = ControlDirectory::own()?.path().to_owned();
        match self.point.path().parent() {
            Some(parent) if control.starts_with(parent) => {
                return Err(DaemonError::ControlInReach { parent: parent.to_owned(), control });
            }
            Some(_) | None => {}
        }
        self.shared = Some(SharedParent::make(&self.point)?);
        Ok(())
    }

    /// Mounts, serves until `told` says that it is over and by whom, or somebody takes the mount away; then
    /// gives everything back. `announce` runs from the moment on that the mount is there, `farewell` before
    /// anything ends. With each `hangup` every identity logs in anew.
    async fn serve<A: Future<Output = ()> + Send + 'static>(
        self,
        listener: Option<Listener>,
        locks: LockStore,
        told: impl Future<Output = &'static str>,
        mut hangup: Option<Signal>,
        announce: impl FnOnce(Service<SystemClock>, PathBuf) -> A,
        farewell: impl FnOnce(),
    ) -> Result<(), DaemonError> {
        // Dropped last, after the mount that is in it.
        let Ground { plan, config, source, point, client, mut engine, allow_other, mut losses, shared } =
            self;
        let _shared = shared;
        engine.restore_locks(locks.load()?);
        report_locks(engine.locks());
        let (service, inbox) = Service::new(engine, SystemClock);
        let wiring = Arc::new(Wiring::default());
        let (uid, gid) = sys::effective_ids();
        let (tell_end, mut session_end) = mpsc::unbounded_channel();
        let device = session::mount_from(&source, point, &MountOptions { uid, gid, allow_other })?;
        let adapter = Adapter::new(service.clone(), Arc::clone(&wiring));
        let mounted = device.serve(adapter, plan.mount.threads, move |end| {
            // Nobody listens any more when the end was asked for.
            let _ = tell_end.send(end);
        })?;
        let (notices, notifier) =
            Notices::start(mounted.notifier()).map_err(system("no thread could be started"))?;
        wiring.connect(notices.clone());
        losses.extend(wiring.missing().iter().map(|feature| format!("this kernel lacks {feature}")));
        let timer = BootTimer::new().map_err(system("no timer could be made"))?;
        let lore = Box::new(PlanLore::new(&plan, client.clone()));
        let driver = Driver::new(service.clone(), inbox, timer, client, notices, driver_settings(&plan));
        let driving = tokio::spawn(driver.run());
        let stop = Arc::new(Notify::new());
        let handler = ServiceHandler {
            service: service.clone(),
            info: mount_info(&plan, config, mounted.path(), losses),
            lore,
            locks: tokio::sync::Mutex::new(locks),
            stop: Arc::clone(&stop),
        };
        let answering = listener.map(|listener| tokio::spawn(listener.serve(handler)));
        let announcing = tokio::spawn(announce(service.clone(), mounted.path().to_owned()));
        let terminal = reload::Terminal::find();
        tokio::pin!(told);
        let end = loop {
            tokio::select! {
                who = &mut told => { tracing::info!("stopping: {who}"); break None }
                () = stop.notified() => { tracing::info!("stopping: asked by `leasefs unmount`"); break None }
                end = session_end.recv() => break end,
                () = hung_up(&mut hangup) => {
                    if terminal.is_gone() {
                        tracing::info!("stopping: the terminal was closed");
                        break None;
                    }
                    tokio::spawn(reload::log_in_anew(service.clone(), announcing.abort_handle()));
                }
            }
        };
        announcing.abort();
        farewell();
        let unrevoked = service.stop(REVOCATION_PATIENCE).await;
        let result = take_away(mounted, end).await;
        // The driver has ended with the stop; the thread that notifies ends with its last sender.
        let _ = driving.await;
        drop(notifier);
        if let Some(answering) = answering {
            answering.abort();
        }
        report_end(&unrevoked);
        result
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

/// Waits for the next SIGHUP, for ever where none is listened to.
async fn hung_up(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
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

/// Unmounts, unless the mount is gone already.
async fn take_away(mounted: Mounted, end: Option<SessionEnd>) -> Result<(), DaemonError> {
    let broken = match end {
        Some(SessionEnd::Unmounted) => {
            tracing::info!("unmounted by somebody else");
            None
        }
        Some(SessionEnd::Aborted) => {
            tracing::warn!("the connection was cut from outside; the dead mount is taken away");
            None
        }
        Some(SessionEnd::Failed { errno }) => Some(errno),
        Some(SessionEnd::Asked) | None => None,
    };
    // The session is served by threads of its own, so that a busy mount can still be answered.
    let unmounted = tokio::task::spawn_blocking(move || mounted.unmount(UNMOUNT_PATIENCE)).await;
    match unmounted {
        Ok(Ok(Unmounted::Clean)) | Err(_) => {}
        Ok(Ok(Unmounted::Detached)) => tracing::info!("the mount was in use; it was detached"),
        Ok(Ok(Unmounted::Aborted | Unmounted::StillHeld)) => {
            tracing::warn!(
                "the mount is still in use: its users get \"transport endpoint is not connected\""
            );
        }
        Ok(Err(error)) => return Err(error.into()),
    }
    match broken {
        Some(errno) => Err(DaemonError::Broken { errno }),
        None => Ok(()),
    }
}

fn report_end(unrevoked: &[Unrevoked]) {
    if unrevoked.is_empty() {
        tracing::info!("all leases were given back");
    } else {
        tracing::warn!(count = unrevoked.len(), "leases live on in Vault; each one is named above");
    }
}

fn report_locks(locks: &Locks) {
    for (scope, lock) in locks.iter() {
        let name = if scope.as_str().is_empty() { "everything" } else { scope.as_str() };
        tracing::warn!(name, reason = lock.reason, uid = lock.uid, since = %lock.since, "is locked");
    }
}

fn notify_systemd(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(false, &[state]) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

fn mount_info(plan: &MountPlan, config: PathBuf, mount_point: &Path, losses: Vec<String>) -> MountInfo {
    MountInfo {
        mount_point: mount_point.to_owned(),
        config,
        identities: plan.identities.iter().map(|identity| identity.name.clone()).collect(),
        addresses: plan.vault.addresses.clone(),
        losses,
        started: sys::unix_time(),
        pid: std::process::id(),
    }
}

/// What the engine shows of a plan.
pub fn layout(plan: &MountPlan) -> Layout {
    Layout {
        identities: plan.identities.len(),
        sources: plan.sources.clone(),
        files: plan.files.iter().map(|file| file.spec.clone()).collect(),
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
            mounted: sys::unix_time(),
        },
    }
}

/// What the driver does of a plan.
pub fn driver_settings(plan: &MountPlan) -> driver::Settings {
    let mut rendering: HashMap<SourceId, Vec<(FileId, Format)>> = HashMap::new();
    for (index, file) in plan.files.iter().enumerate() {
        rendering.entry(file.spec.source).or_default().push((FileId(index as u32), file.format.clone()));
    }
    driver::Settings {
        read_timeout: plan.vault.read_timeout,
        rendering,
        names: Names { identities: plan.identities.iter().map(|identity| identity.name.clone()).collect() },
    }
}

// The engine of a real mount holds real secrets.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Engine<SecretBytes>>();
};

//! A mount without a kernel whose control socket is served: what commands are told.

use std::path::{Path, PathBuf};

use leasefs::control::protocol::{
    Ask, Needs, ProtectionReport, RefreshedFile, Reply, RevokeReport, StatusReport,
};
use leasefs::control::{
    AskError, Client, ControlDirectory, Farewell, LockStore, Lore, MountInfo, ServiceHandler, Successor,
};
use leasefs::core::effect::ReadRequest;
use leasefs::core::name::IdentityId;
use leasefs::core::time::UnixTime;
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::conversation::World;
use super::fake_vault::FakeVault;

/// Where it pretends to be mounted.
pub const MOUNT_POINT: &str = "/run/leasefs/a mount-point";

/// A world whose control socket is served.
pub struct Served {
    /// The engine, the driver and the Vault.
    pub world: World,
    /// Gets how the daemon is asked to end.
    pub ends: tokio::sync::mpsc::UnboundedReceiver<Farewell>,
    /// Holds the socket and the locks.
    pub directory: TempDir,
    /// The listener.
    pub serving: JoinHandle<std::io::Result<()>>,
}

impl Served {
    /// Starts one; `config` as for [`World::start`].
    pub fn start(config: &str, vault: FakeVault) -> Served {
        let world = World::start(config, vault);
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let (tell, ends) = tokio::sync::mpsc::unbounded_channel();
        let info = MountInfo {
            mount_point: PathBuf::from(MOUNT_POINT),
            config: PathBuf::from("/etc/leasefs/agent.toml"),
            identities: vec!["default".to_owned()],
            addresses: vec!["http://127.0.0.1:8200".to_owned()],
            losses: vec!["this kernel lacks mmap".to_owned()],
            protections: vec![ProtectionReport {
                name: "seccomp".to_owned(),
                state: "on".to_owned(),
                reason: None,
            }],
            started: UnixTime { seconds: 1_700_000_000, nanoseconds: 0 },
            pid: 4711,
            program: None,
            unit: None,
            user: "agent".to_owned(),
        };
        let locks = Mutex::new(lock_store(&directory));
        let lore = Box::new(Ignorant);
        let (service, successor) = (world.service(), Successor::Comes);
        let handler = ServiceHandler { service, info, lore, locks, ends: tell, successor };
        let listener = control_directory(&directory).listen(Path::new(MOUNT_POINT)).expect("a socket");
        let serving = tokio::spawn(listener.serve(handler));
        Served { world, ends, directory, serving }
    }

    /// Asks as a command does.
    pub async fn ask(&self, ask: Ask) -> Result<Reply, AskError> {
        let directory = control_directory(&self.directory);
        let asking = move || {
            let mount_point = Some(Path::new(MOUNT_POINT));
            Client::connect_in(&[directory], mount_point)?.ask(ask)
        };
        tokio::task::spawn_blocking(asking).await.expect("asking does not panic")
    }

    /// `leasefs status`.
    pub async fn status(&self) -> StatusReport {
        match self.ask(Ask::Status).await {
            Ok(Reply::Status(report)) => *report,
            other => panic!("no status: {other:?}"),
        }
    }

    /// `leasefs revoke`.
    pub async fn revoke(&self, names: &[&str]) -> RevokeReport {
        match self.ask(Ask::Revoke { names: owned(names) }).await {
            Ok(Reply::Revoked(report)) => report,
            other => panic!("nothing was revoked: {other:?}"),
        }
    }

    /// `leasefs refresh`.
    pub async fn refresh(&self, names: &[&str]) -> Vec<RefreshedFile> {
        match self.ask(Ask::Refresh { names: owned(names) }).await {
            Ok(Reply::Refreshed(report)) => report.files,
            other => panic!("nothing was refreshed: {other:?}"),
        }
    }
}

/// Knows nothing of policies and of configurations.
struct Ignorant;

impl Lore for Ignorant {
    fn needs(&self, _identity: IdentityId, _request: &ReadRequest) -> Option<Needs> {
        None
    }

    fn shows(&self, _file: &str) -> Option<String> {
        None
    }
}

/// Names as a request has them.
pub fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Where the sockets of a test lie.
pub fn control_directory(directory: &TempDir) -> ControlDirectory {
    ControlDirectory::at(directory.path().join("control"))
}

/// Where the locks of a test are kept.
pub fn lock_store(directory: &TempDir) -> LockStore {
    LockStore::within(&directory.path().join("state"), Path::new(MOUNT_POINT))
}

//! Serves the tree of a single command: its supervisor says when it is over, by word or by dying.
//!
//! Runs in a process of its own, in the namespace that the supervisor has made, and with all that was
//! checked before: the configuration is read outside, where the owners of files can still be told.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;

use crate::config::plan::MountPlan;
use crate::control::{self, LockStore};
use crate::core::engine::{Outlook, Readiness};
use crate::daemon::ground::{Calls, Ground};
use crate::daemon::herald::Herald;
use crate::daemon::{DaemonError, end_on_panic, locked_in_part, runtime, system};
use crate::driver::Service;
use crate::driver::clock::SystemClock;
use crate::fuse::session;
use crate::link::{self, ServerEnd};
use crate::run::words::{Missing, Word};
use crate::sys::{self, MemoryLock};

/// How often it is looked at what is there.
const LOOK: Duration = Duration::from_millis(20);

/// The tree of a command.
#[derive(Clone, Debug)]
pub struct CommandMount {
    /// What to show.
    pub plan: MountPlan,
    /// What `leasefs status` calls its configuration.
    pub config: PathBuf,
    /// Where.
    pub mount_point: PathBuf,
    /// What keeps its locks.
    pub locks: LockStore,
}

/// Mounts, tells the supervisor what is there, and serves until the supervisor is done or gone. Then gives
/// everything back.
///
/// # Errors
/// [`DaemonError`]; nothing stays behind.
pub fn serve_command(mount: CommandMount, link: ServerEnd<Word>) -> Result<(), DaemonError> {
    end_on_panic();
    let CommandMount { plan, config, mount_point, locks } = mount;
    let mut losses = Vec::new();
    if let MemoryLock::SecretPagesOnly { reason } = sys::lock_memory() {
        // The rule for users other than root, and nothing that the user of a command could act on.
        tracing::info!(reason, "only the pages of secrets are locked in memory");
        losses.push(locked_in_part(&reason));
    }
    let allow_other = plan.mount.allow_other;
    let ground = Ground::check(plan, config, session::SOURCE, &mount_point, allow_other, losses)?;
    runtime()?.block_on(async {
        let stream = link.into_stream().and_then(UnixStream::from_std).map_err(system("no supervisor"))?;
        let stream = Arc::new(stream);
        let supervisor = Arc::clone(&stream);
        let over = async move {
            is_over(&supervisor).await;
            "the command has ended"
        };
        // Another command may be shown its tree at the same path, in a namespace of its own: then only the
        // first one can be asked how it is.
        let listener = control::listen(ground.path())
            .inspect_err(|error| tracing::info!(%error, "this tree has no control socket"))
            .ok();
        let calls = Calls { told: over, hangup: None };
        let herald = Arc::new(Herald::to_systemd());
        ground.serve(listener, locks, calls, herald, |service, _| report(service, stream)).await?;
        Ok(())
    })
}

/// Returns when the supervisor is done, or gone. It never says anything: whatever comes is its end.
pub(super) async fn is_over(supervisor: &UnixStream) {
    while supervisor.readable().await.is_ok() {
        match supervisor.try_read(&mut [0; 1]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// Says what is missing, each time that it changes, until nothing is.
async fn report(service: Service<SystemClock>, supervisor: Arc<UnixStream>) {
    let mut said = None;
    while said != Some(Word::Ready) {
        let required = service.look(|engine, now| engine.required(now));
        let files: Vec<Missing> = required.into_iter().filter(|file| !file.is_live()).map(missing).collect();
        let word = if files.is_empty() { Word::Ready } else { Word::Waiting { files } };
        if said.as_ref() != Some(&word) && !say(&supervisor, &word).await {
            return;
        }
        said = Some(word);
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether somebody may have heard it.
async fn say(supervisor: &UnixStream, word: &Word) -> bool {
    let Ok(line) = link::line(word) else { return false };
    let mut rest = line.as_bytes();
    while !rest.is_empty() {
        if supervisor.writable().await.is_err() {
            return false;
        }
        match supervisor.try_write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
    }
    true
}

fn missing(file: Readiness) -> Missing {
    Missing { name: file.name, why: file.error, may_come: file.outlook == Outlook::Open }
}

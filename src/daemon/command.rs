//! Serves the tree of a single command: its supervisor says when it is over, by word or by dying.
//!
//! Runs in a process of its own, in the namespace that the supervisor has made, and with all that was
//! checked before: the configuration is read outside, where the owners of files can still be told.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;

use crate::config::plan::{Account, MountPlan};
use crate::control::{ControlDirectory, LockStore};
use crate::core::engine::{Outlook, Readiness};
use crate::daemon::ground::{Calls, Ground};
use crate::daemon::herald::Herald;
use crate::daemon::heritage::Heritage;
use crate::daemon::stand::Stand;
use crate::daemon::{
    DaemonError, check_server_user, composer, end_on_panic, layout, locked_in_part, runtime, system,
};
use crate::driver::Service;
use crate::driver::clock::SystemClock;
use crate::fuse::kept::Unanswered;
use crate::fuse::mount_point::MountPoint;
use crate::fuse::session::{self, MountOptions};
use crate::link::{self, ServerEnd};
use crate::run::words::{Missing, Word};
use crate::sandbox::{self, Crowd, Places};
use crate::sys::{self, MemoryLock, namespace};

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
    check_server_user(&plan)?;
    let mut losses = Vec::new();
    if let MemoryLock::SecretPagesOnly { reason } = sys::lock_memory() {
        // The rule for users other than root, and nothing that the user of a command could act on.
        tracing::info!(reason, "only the pages of secrets are locked in memory");
        losses.push(locked_in_part(&reason));
    }
    let stand = take_place(&plan, &mount_point)?;
    // Another command may be shown its tree at the same path, in a namespace of its own: then only the first one
    // can be asked how it is.
    let control = ControlDirectory::own().and_then(|directory| {
        let listener = directory.listen(stand.path())?;
        Ok((directory, listener))
    });
    let control = control.inspect_err(|error| tracing::info!(%error, "this tree has no control socket")).ok();
    let locks = match &plan.mount.server_user {
        Some(Account { uid, gid, .. }) => {
            control.iter().try_for_each(|(_, listener)| listener.hand_to(*uid))?;
            locks.of_server(Some((*uid, *gid)))?
        }
        None => locks,
    };
    let user = sys::privilege::user_name(
        plan.mount.server_user.as_ref().map_or(sys::effective_ids().0, |user| user.uid),
    );
    let places = Places {
        config: None,
        control: control.as_ref().map(|(directory, _)| directory.path().to_owned()),
        locks: locks.path().and_then(|path| path.parent().map(Path::to_owned)),
        mount_point: Some(mount_point),
        crowd: Crowd::Open,
    };
    let protections = sandbox::Plan::of(&plan, &places, plan.mount.server_user.clone()).enter()?;
    losses.extend(protections.losses().map(str::to_owned));
    let mounted = sys::unix_time();
    let heritage = Heritage::none(layout(&plan, mounted), composer(&plan))?;
    let ground =
        Ground::new(plan, config, stand, heritage, mounted, losses)?.protected(protections).run_by(user);
    runtime()?.block_on(async {
        let stream = link.into_stream().and_then(UnixStream::from_std).map_err(system("no supervisor"))?;
        let stream = Arc::new(stream);
        let supervisor = Arc::clone(&stream);
        let over = async move {
            is_over(&supervisor).await;
            "the command has ended"
        };
        let listener = control.map(|(_, listener)| listener);
        let calls = Calls { told: over, hangup: None };
        let herald = Arc::new(Herald::to_systemd());
        ground.serve(listener, locks, calls, herald, |service, _| report(service, stream)).await?;
        Ok(())
    })
}

/// Mounts, for all who are in this namespace, and leaves it for one in which the mount is not: a process that is shut
/// in can't unmount, and here nothing keeps it from removing the mount point. The mount goes with the last process
/// that sees it, and answers no longer than this process.
fn take_place(plan: &MountPlan, mount_point: &Path) -> Result<Stand, DaemonError> {
    let (uid, gid) = sys::effective_ids();
    let options = MountOptions { uid, gid, allow_other: plan.mount.allow_other };
    let kept = session::mount(MountPoint::take(mount_point)?, &options)?.keep()?;
    let device = kept.device().try_clone().map_err(system("the device can't be shared"))?;
    let seat = kept.seat();
    namespace::own_mounts().map_err(system("the server can't have mounts of its own"))?;
    namespace::detach(&seat.path).map_err(system("the server can't leave its own tree"))?;
    kept.leave();
    Ok(Stand { seat, device, unanswered: Unanswered::None })
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

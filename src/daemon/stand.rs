//! Where a server stands: at a mount of its own, or at one that a keeper holds. Either is served the same way;
//! they end differently.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::daemon::DaemonError;
use crate::daemon::herald::Herald;
use crate::driver::clock::SystemClock;
use crate::fuse::adapter::Adapter;
use crate::fuse::kept::{Seat, Unanswered};
use crate::fuse::mount_point::{MountError, MountPoint};
use crate::fuse::notify::Notices;
use crate::fuse::session::{self, MountOptions, Mounted, Serving, SessionEnd, Unmounted};
use crate::keeper::Word;

/// For how long a busy mount is served after it was detached.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(1);

/// For how long the keeper may take to end a session; it has less patience itself.
const KEEPER_PATIENCE: Duration = Duration::from_secs(10);

/// A mount that is to be served.
pub(super) enum Stand {
    /// It is made now.
    New { point: MountPoint, source: String, options: MountOptions },
    /// Somebody else holds it.
    Kept { seat: Seat, device: OwnedFd, unanswered: Unanswered },
}

/// A mount that is being served.
pub(super) enum Served {
    Own(Mounted),
    Kept { seat: Seat, serving: Serving },
}

impl Stand {
    /// Where it is, or will be.
    pub(super) fn path(&self) -> &Path {
        match self {
            Stand::New { point, .. } => point.path(),
            Stand::Kept { seat, .. } => &seat.path,
        }
    }

    /// Serves from now on. `ended` is called when the session is over, for whatever reason. Returns the numbers of
    /// requests that got an error since the server that had begun them is gone, too.
    pub(super) fn serve(
        self,
        file_system: Adapter<SystemClock>,
        threads: usize,
        ended: impl FnOnce(SessionEnd) + Send + 'static,
    ) -> Result<(Served, Vec<u64>), MountError> {
        match self {
            Stand::New { point, source, options } => {
                let device = session::mount_from(&source, point, &options)?;
                Ok((Served::Own(device.serve(file_system, threads, ended)?), Vec::new()))
            }
            Stand::Kept { seat, device, unanswered } => {
                let (serving, swept) = seat.take(&device, file_system, threads, unanswered, ended)?;
                if !swept.is_empty() {
                    tracing::info!(count = swept.len(), "calls that the last server had begun get EINTR");
                }
                Ok((Served::Kept { seat, serving }, swept))
            }
        }
    }
}

impl Served {
    pub(super) fn path(&self) -> PathBuf {
        match self {
            Served::Own(mounted) => mounted.path().to_owned(),
            Served::Kept { seat, .. } => seat.path.clone(),
        }
    }

    /// Starts the thread that tells the kernel what to forget.
    pub(super) fn notices(&self) -> io::Result<(Notices, JoinHandle<()>)> {
        Notices::start(match self {
            Served::Own(mounted) => mounted.notifier(),
            Served::Kept { serving, .. } => serving.notifier(),
        })
    }

    /// Everything was given back: ends the mount, unless it is gone already.
    pub(super) async fn take_away(self, end: Option<SessionEnd>, herald: &Herald) -> Result<(), DaemonError> {
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
        match self {
            Served::Own(mounted) => {
                let unmounted = tokio::task::spawn_blocking(move || mounted.unmount(UNMOUNT_PATIENCE)).await;
                report(unmounted.unwrap_or(Ok(Unmounted::Clean)))?;
            }
            Served::Kept { serving, .. } => {
                serving.expect_end();
                if herald.say(&Word::GivenBack) {
                    let over = move || serving.is_over_within(KEEPER_PATIENCE);
                    // Whatever comes of it: the end of this process ends the session.
                    let _ = tokio::task::spawn_blocking(over).await;
                }
            }
        }
        match broken {
            Some(errno) => Err(DaemonError::Broken { errno }),
            None => Ok(()),
        }
    }
}

fn report(unmounted: Result<Unmounted, MountError>) -> Result<(), MountError> {
    match unmounted? {
        Unmounted::Clean => {}
        Unmounted::Detached => tracing::info!("the mount was in use; it was detached"),
        Unmounted::Aborted | Unmounted::StillHeld => {
            tracing::warn!(
                "the mount is still in use: its users get \"transport endpoint is not connected\""
            );
        }
    }
    Ok(())
}

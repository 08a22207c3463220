//! Where a server stands: at a mount that a keeper holds, or that nobody holds since it goes with those who see it.

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
use crate::fuse::mount_point::MountError;
use crate::fuse::notify::Notices;
use crate::fuse::session::{Serving, SessionEnd};
use crate::keeper::Word;

/// For how long the keeper may take to end a session; it has less patience itself.
const KEEPER_PATIENCE: Duration = Duration::from_secs(10);

/// A mount that is to be served.
pub(super) struct Stand {
    pub seat: Seat,
    pub device: OwnedFd,
    pub unanswered: Unanswered,
}

/// A mount that is being served.
pub(super) struct Served {
    seat: Seat,
    serving: Serving,
}

impl Stand {
    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.seat.path
    }

    /// Serves from now on. `ended` is called when the session is over, for whatever reason. Returns the numbers of
    /// requests that got an error since the server that had begun them is gone, too.
    pub(super) fn serve(
        self,
        file_system: Adapter<SystemClock>,
        threads: usize,
        ended: impl FnOnce(SessionEnd) + Send + 'static,
    ) -> Result<(Served, Vec<u64>), MountError> {
        let Stand { seat, device, unanswered } = self;
        let (serving, swept) = seat.take(&device, file_system, threads, unanswered, ended)?;
        if !swept.is_empty() {
            tracing::info!(count = swept.len(), "calls that the last server had begun get EINTR");
        }
        Ok((Served { seat, serving }, swept))
    }
}

impl Served {
    pub(super) fn path(&self) -> PathBuf {
        self.seat.path.clone()
    }

    /// Starts the thread that tells the kernel what to forget.
    pub(super) fn notices(&self) -> io::Result<(Notices, JoinHandle<()>)> {
        Notices::start(self.serving.notifier())
    }

    /// Everything was given back: has the keeper take the mount away, if there is one. Else it ends with this process.
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
        let Served { serving, .. } = self;
        serving.expect_end();
        if herald.say(&Word::GivenBack) {
            // The session is served by threads of its own, so that a busy mount can still be answered.
            let over = move || serving.is_over_within(KEEPER_PATIENCE);
            // Whatever comes of it: the end of this process ends the session.
            let _ = tokio::task::spawn_blocking(over).await;
        }
        match broken {
            Some(errno) => Err(DaemonError::Broken { errno }),
            None => Ok(()),
        }
    }
}

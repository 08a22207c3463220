//! How a server takes its seat at a mount that another process holds.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use fuser::Filesystem;
use serde::{Deserialize, Serialize};

use crate::fuse::handshake::{Agreement, Handshake, Sweep, resend, sweep};
use crate::fuse::mount_point::{MountError, errno};
use crate::fuse::session::{Serving, SessionEnd, config};

/// What a server must know of a mount that another process holds, beside its device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// Where it is mounted: absolute, without symlinks.
    pub path: PathBuf,
    /// Its number in `/sys/fs/fuse/connections`.
    pub connection: u32,
    /// What was agreed with the kernel.
    pub handshake: Handshake,
}

/// What becomes of the requests that the server before this one has read and not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// There was no server before.
    None,
    /// The kernel sends them again.
    Resent,
    /// They are answered with `EINTR`.
    Swept {
        /// The highest number that a request had.
        highest: u64,
    },
}

/// How far around the highest number requests are looked for. A request waits for 30 s at most, in which a
/// busy mount gets half a million others; 64 may have been read that nobody began to work on.
const SWEPT: (u64, u64) = (1 << 20, 128);

impl Seat {
    /// Serves from now on, with `threads` threads. `ended` is called once, in a thread of the session, when the
    /// session is over, for whatever reason; it must not block. Returns the numbers of requests that were swept,
    /// too.
    ///
    /// # Errors
    /// [`MountError::NotServed`].
    pub fn take<F: Filesystem>(
        &self,
        device: &OwnedFd,
        file_system: F,
        threads: usize,
        unanswered: Unanswered,
        ended: impl FnOnce(SessionEnd) + Send + 'static,
    ) -> Result<(Serving, Vec<u64>), MountError> {
        let not_served =
            |error: std::io::Error| MountError::NotServed { path: self.path.clone(), errno: errno(&error) };
        let (session, agreement) =
            self.handshake.resume(device, file_system, config(threads)).map_err(not_served)?;
        if agreement == Agreement::Earlier {
            tracing::info!(
                "what this version would agree on with the kernel takes effect with the next mount"
            );
        }
        let swept = match unanswered {
            Unanswered::None => Vec::new(),
            Unanswered::Resent => {
                resend(&session).map_err(not_served)?;
                Vec::new()
            }
            Unanswered::Swept { highest } => {
                sweep(&session, Sweep { highest, below: SWEPT.0, above: SWEPT.1 })
            }
        };
        let serving = Serving::start(session, self.path.clone(), self.connection, ended);
        Ok((serving.map_err(not_served)?, swept))
    }
}

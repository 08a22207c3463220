//! The daemon's end of the control socket: who may ask, how much, for how long.
//!
//! Invariants: *own users only*: root and the daemon's own user are answered, whatever the mode of the
//! socket is; *bounded*: a request has at most [`REQUEST_MAX`] bytes and [`IDLE`] to arrive, an answer has
//! [`IDLE`] to be taken, and at most [`CONNECTIONS`] are open at once; *tidy*: the socket goes with its
//! listener, unless somebody else's has taken its place.

use std::fs;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::control::ControlError;
use crate::control::protocol::{Ask, REQUEST_MAX, Refusal, Reply, Response, VERSION, line, parse_request};
use crate::sys;

/// How long a connection may be idle.
const IDLE: Duration = Duration::from_secs(10);

/// Connections at once; more wait.
const CONNECTIONS: usize = 16;

/// What a daemon answers.
pub trait Handler: Send + Sync + 'static {
    /// The answer to a request of this user. May wait, in bounded time.
    fn answer(&self, ask: Ask, uid: u32) -> impl Future<Output = Reply> + Send;
    /// The answer to [`Ask::Unmount`] or [`Ask::HandOver`] was sent: the daemon may end. Must not block.
    fn end(&self, farewell: Farewell);
}

/// What a daemon that ends leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// Nothing: all is given back and the mount is taken away.
    Nothing,
    /// Everything, for its successor.
    Everything,
}

/// An open control socket. Dropped, it is removed.
#[derive(Debug)]
pub struct Listener {
    /// Taken by [`Listener::serve`].
    socket: Option<StdListener>,
    path: PathBuf,
    /// Device and inode number of what lies at `path` since it was made.
    identity: (u64, u64),
}

impl Listener {
    /// Opens the socket at `path`; to be called by one process at a time.
    pub(super) fn bind(path: &Path, mount_point: &Path) -> Result<Listener, ControlError> {
        let not_made =
            |error: io::Error| ControlError::NotMade { path: path.to_owned(), trouble: error.to_string() };
        let socket = match StdListener::bind(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                if let Some(pid) = daemon_at(path) {
                    return Err(ControlError::AlreadyServed { mount_point: mount_point.to_owned(), pid });
                }
                fs::remove_file(path).map_err(not_made)?;
                StdListener::bind(path).map_err(not_made)?
            }
            result => result.map_err(not_made)?,
        };
        let identity = identity(path).map_err(not_made)?;
        let listener = Listener { socket: Some(socket), path: path.to_owned(), identity };
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(not_made)?;
        Ok(listener)
    }

    /// Lets another user connect to it, whom this process is about to become.
    ///
    /// # Errors
    /// [`ControlError::NotMade`].
    pub fn hand_to(&self, uid: u32) -> Result<(), ControlError> {
        lchown(&self.path, Some(uid), None)
            .map_err(|error| ControlError::NotMade { path: self.path.clone(), trouble: error.to_string() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Answers requests until it is dropped. Must run inside a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// What the system says when the socket can't be used; single connections never end it.
    pub async fn serve(mut self, handler: impl Handler) -> io::Result<()> {
        let Some(socket) = self.socket.take() else { return Ok(()) };
        socket.set_nonblocking(true)?;
        let socket = UnixListener::from_std(socket)?;
        let (handler, places) = (Arc::new(handler), Arc::new(Semaphore::new(CONNECTIONS)));
        let mut connections = JoinSet::new();
        loop {
            // Never closed, so this can't fail.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
            let stream = tokio::select! {
                accepted = socket.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "a connection to the control socket was lost");
                        // Too many open files, mostly: to try again at once would only keep the machine busy.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            };
            let handler = Arc::clone(&handler);
            connections.spawn(async move {
                // A client that goes away, early or late, is no news.
                let _ = converse(stream, &*handler).await;
                drop(place);
            });
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether a user may ask a daemon: root, and the user whom the daemon runs as.
#[must_use]
fn may_ask(peer: u32, daemon: u32) -> bool {
    peer == 0 || peer == daemon
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

/// The daemon that listens at a path: its process, if the kernel says; `None` if nobody listens.
fn daemon_at(path: &Path) -> Option<Option<i32>> {
    match StdStream::connect(path) {
        Ok(stream) => Some(sys::peer(&stream).ok().map(|peer| peer.pid)),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => None,
        // Not a socket, not ours, or so busy that its queue is full: nothing to be removed unseen.
        Err(_) => Some(None),
    }
}

/// Whether the daemon that made a socket is gone.
pub(super) fn is_dead(path: &Path) -> bool {
    daemon_at(path).is_none()
}

/// Answers the requests of one connection until it is closed, idle or misused.
async fn converse(mut stream: UnixStream, handler: &impl Handler) -> io::Result<()> {
    let (uid, _) = sys::effective_ids();
    let peer = sys::peer(&stream)?.uid;
    if !may_ask(peer, uid) {
        return send(&mut stream, Reply::Refused(Refusal::NotAllowed { uid })).await;
    }
    let mut stream = BufReader::new(stream);
    loop {
        let mut request = Vec::new();
        let mut bounded = (&mut stream).take(REQUEST_MAX as u64);
        let read = timeout(IDLE, bounded.read_until(b'\n', &mut request)).await?;
        if read? == 0 {
            return Ok(());
        }
        if !request.ends_with(b"\n") {
            // Too long, or broken off: what follows can't be told from the rest of it.
            return send(&mut stream, Reply::Refused(Refusal::NotUnderstood)).await;
        }
        let reply = match parse_request(&request) {
            Ok(ask) => handler.answer(ask, peer).await,
            Err(refusal) => Reply::Refused(refusal),
        };
        let farewell = match reply {
            Reply::Stopping { .. } => Some(Farewell::Nothing),
            Reply::HandingOver { .. } => Some(Farewell::Everything),
            _ => None,
        };
        let sent = send(&mut stream, reply).await;
        if let Some(farewell) = farewell {
            handler.end(farewell);
        }
        sent?;
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), reply: Reply) -> io::Result<()> {
    let line = line(&Response { v: VERSION, reply });
    timeout(IDLE, stream.write_all(&line)).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_daemons_own_user_may_ask_and_nobody_else() {
        for (peer, daemon, may) in [
            (0, 0, true),
            (0, 1000, true),
            (1000, 1000, true),
            (1001, 1000, false),
            (1000, 0, false),
            (u32::MAX, 0, false),
        ] {
            assert_eq!(may_ask(peer, daemon), may, "{peer} asks {daemon}");
        }
    }
}

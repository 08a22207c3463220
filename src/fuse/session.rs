//! Mounting, serving and unmounting. The mount is made here, or by [`crate::fuse::fusermount`] for whoever may not,
//! but not by fuser, so that its type is `fuse.leasefs`; fuser then speaks the protocol on the device.
//!
//! Invariants: *nothing stays behind*: whatever fails half way, or is dropped, takes the mount away
//! again; *bounded end*: [`Mounted::unmount`] returns, whoever keeps files open.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fuser::{Errno, Filesystem, InitFlags, KernelConfig, Notifier, Session, SessionACL};

use crate::fuse::fusermount::{self, NotGone};
use crate::fuse::handshake::Handshake;
use crate::fuse::kept::Seat;
use crate::fuse::mount_point::{MountError, MountPoint, errno, is, is_absent};
use crate::fuse::mountinfo::{self, MountEntry};
use crate::fuse::refusal::{DEVICE, DeviceDenial};
use crate::sys::{self, Unmount, privilege};

/// The type of the mount, as `findmnt -t` and `mount.fuse.leasefs` know it.
pub const FILE_SYSTEM_TYPE: &str = "fuse.leasefs";

/// What `findmnt` shows as the source if nobody says more.
pub const SOURCE: &str = "leasefs";

/// How to mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// The user that the mount belongs to.
    pub uid: u32,
    /// The group that the mount belongs to.
    pub gid: u32,
    /// Whether others may reach the mount at all; the mode bits of its files hold in any case.
    pub allow_other: bool,
}

impl MountOptions {
    /// The options as the kernel reads them (Documentation/filesystems/fuse).
    fn data(&self, device: &OwnedFd) -> String {
        let MountOptions { uid, gid, allow_other } = self;
        let fd = device.as_raw_fd();
        let allow_other = if *allow_other { ",allow_other" } else { "" };
        format!("fd={fd},rootmode=40000,user_id={uid},group_id={gid}{allow_other},default_permissions")
    }
}

/// A mount that nobody serves yet: calls into it wait. Dropped, it is taken away again.
pub struct Device {
    fd: OwnedFd,
    attached: Attached,
}

/// Mounts. The mount is read-only and without devices, programs and set-uid bits. Its source is `leasefs`.
///
/// # Errors
/// [`MountError::NoFuse`], [`MountError::DeviceDenied`], [`MountError::NotPermitted`],
/// [`MountError::Unprivileged`], [`MountError::Refused`].
pub fn mount(point: MountPoint, options: &MountOptions) -> Result<Device, MountError> {
    mount_from(SOURCE, point, options)
}

/// As [`mount`], with a source of one's own: `mount -a` and `findmnt` compare it with that of `/etc/fstab`.
///
/// # Errors
/// As [`mount`].
pub fn mount_from(source: &str, point: MountPoint, options: &MountOptions) -> Result<Device, MountError> {
    let path = point.path().to_owned();
    let fd = if privilege::may_mount() {
        mount_directly(source, &path, options)?
    } else {
        fusermount::mount(source, &path, options.allow_other)?
    };
    let attached = Attached::find(path.clone()).map_err(|error| {
        // Without its number the mount could not be taken away safely later.
        let _ = fusermount::unmount(&path, Unmount::Lazy);
        MountError::Refused { path, errno: errno(&error) }
    })?;
    Ok(Device { fd, attached })
}

/// For whoever may call mount(2).
fn mount_directly(source: &str, path: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let refused = |error: &io::Error| MountError::Refused { path: path.to_owned(), errno: errno(error) };
    let device =
        OpenOptions::new().read(true).write(true).open(DEVICE).map_err(|error| match error.kind() {
            _ if is_absent(&error) => MountError::NoFuse,
            ErrorKind::PermissionDenied => MountError::DeviceDenied(DeviceDenial::find()),
            _ => refused(&error),
        })?;
    let fd = OwnedFd::from(device);
    sys::mount_read_only(source, path, FILE_SYSTEM_TYPE, &options.data(&fd)).map_err(|error| match error
        .kind()
    {
        _ if is(&error, Errno::ENODEV) => MountError::NoFuse,
        ErrorKind::PermissionDenied => MountError::NotPermitted,
        _ => refused(&error),
    })?;
    Ok(fd)
}

impl Device {
    /// Shakes hands with the kernel and serves from then on, with `threads` threads. `ended` is called
    /// once, in a thread of the session, when the session is over, for whatever reason; it must not block.
    ///
    /// # Errors
    /// [`MountError::NotServed`]; the mount is gone then.
    pub fn serve<F: Filesystem>(
        self,
        file_system: F,
        threads: usize,
        ended: impl FnOnce(SessionEnd) + Send + 'static,
    ) -> Result<Mounted, MountError> {
        let Device { fd, attached } = self;
        let not_served = |error: io::Error| attached.not_served(&error);
        let session =
            Session::from_fd(file_system, fd, SessionACL::All, config(threads)).map_err(not_served)?;
        let serving =
            Serving::start(session, attached.path.clone(), attached.connection, ended).map_err(not_served)?;
        Ok(Mounted { attached, serving })
    }

    /// Shakes hands with the kernel and leaves the serving to others.
    ///
    /// # Errors
    /// [`MountError::NotServed`]; the mount is gone then.
    pub fn keep(self) -> Result<Kept, MountError> {
        let Device { fd, attached } = self;
        let handshake = Handshake::with_kernel(&fd).map_err(|error| attached.not_served(&error))?;
        Ok(Kept { fd, attached, handshake })
    }
}

/// How fuser is to serve.
pub(super) fn config(threads: usize) -> fuser::Config {
    let mut config = fuser::Config::default();
    config.n_threads = Some(threads.max(1));
    config
}

/// A mount that this process holds and others serve. Dropped, it is taken away.
pub struct Kept {
    fd: OwnedFd,
    attached: Attached,
    handshake: Handshake,
}

impl Kept {
    /// The device, for whoever serves it.
    pub fn device(&self) -> &OwnedFd {
        &self.fd
    }

    /// Leaves the mount where it is, for whoever has got the device.
    pub fn leave(mut self) {
        self.attached.gone = true;
    }

    /// What a server must know of it.
    pub fn seat(&self) -> Seat {
        Seat {
            path: self.attached.path.clone(),
            connection: self.attached.connection,
            handshake: self.handshake.clone(),
        }
    }

    /// Takes the mount away, lazily if it is in use.
    ///
    /// # Errors
    /// [`MountError::NotUnmounted`].
    pub fn detach(&mut self) -> Result<Unmounted, MountError> {
        self.attached.detach()
    }

    /// Ends the connection: who still uses the mount gets `ENOTCONN`.
    ///
    /// # Errors
    /// What the system says; without `/sys` it can't be done.
    pub fn abort(&self) -> io::Result<()> {
        abort(self.attached.connection)
    }
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// [`Mounted::unmount`] was called, or the [`Mounted`] was dropped.
    Asked,
    /// Somebody else unmounted it.
    Unmounted,
    /// Somebody cut the connection; the mount point is dead and still there.
    Aborted,
    /// The device could not be read, or a handler panicked.
    Failed {
        /// What the system said.
        errno: i32,
    },
}

/// What became of a mount that was to be taken away.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmounted {
    /// It is gone.
    Clean,
    /// It was in use: its name went at once, the rest when the last user let go.
    Detached,
    /// It was still in use when patience ended: its users get `ENOTCONN` from now on.
    Aborted,
    /// It is still in use and the connection could not be cut, since `/sys/fs/fuse/connections` is not
    /// there or not ours. It goes on being answered; the kernel cuts it when this process ends.
    StillHeld,
}

/// A session that serves, in threads of its own.
pub struct Serving {
    notifier: Notifier,
    asked: Arc<AtomicBool>,
    over: Receiver<()>,
    /// `None` once the session is over or given up.
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    /// Starts the threads. `ended` is called once, in one of them, when the session is over.
    pub(super) fn start<F: Filesystem>(
        session: Session<F>,
        path: PathBuf,
        connection: u32,
        ended: impl FnOnce(SessionEnd) + Send + 'static,
    ) -> io::Result<Serving> {
        let notifier = session.notifier();
        let asked = Arc::new(AtomicBool::new(false));
        let (tell, over) = mpsc::channel();
        let watch = Watch { asked: Arc::clone(&asked), path, connection };
        let thread = thread::Builder::new().name("leasefs-session".to_owned()).spawn(move || {
            let end = watch.why(session.run());
            // Nobody listens if the mount was given up after it would not end.
            let _ = tell.send(());
            ended(end);
        })?;
        Ok(Serving { notifier, asked, over, thread: Some(thread) })
    }

    /// What tells the kernel to forget; for [`crate::fuse::notify`].
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// The mount is being taken away: from now on its end was asked for.
    pub fn expect_end(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// Whether it ended in that time.
    pub fn is_over_within(&self, patience: Duration) -> bool {
        self.over.recv_timeout(patience) != Err(RecvTimeoutError::Timeout)
    }
}

/// A mount that is being served. Dropped, it is unmounted.
pub struct Mounted {
    attached: Attached,
    serving: Serving,
}

impl Mounted {
    /// Where it is mounted: absolute, without symlinks.
    pub fn path(&self) -> &Path {
        &self.attached.path
    }

    /// Its number in `/sys/fs/fuse/connections`.
    pub fn connection(&self) -> u32 {
        self.attached.connection
    }

    /// What tells the kernel to forget; for [`crate::fuse::notify`].
    pub fn notifier(&self) -> Notifier {
        self.serving.notifier()
    }

    /// Takes the mount away, lazily if it is in use. If it still is after `patience`, its connection is
    /// cut. Blocks for `patience` and a second at most; requests must go on being answered meanwhile.
    ///
    /// # Errors
    /// [`MountError::NotUnmounted`]: it goes on being served.
    pub fn unmount(mut self, patience: Duration) -> Result<Unmounted, MountError> {
        self.end(patience)
    }

    fn end(&mut self, patience: Duration) -> Result<Unmounted, MountError> {
        let Some(thread) = self.serving.thread.take() else { return Ok(Unmounted::Clean) };
        self.serving.expect_end();
        let asked = &self.serving.asked;
        let how = self.attached.detach().inspect_err(|_| asked.store(false, Ordering::Relaxed))?;
        let how = if self.serving.is_over_within(patience) {
            how
        } else if abort(self.attached.connection).is_ok() && self.serving.is_over_within(AFTER_ABORT) {
            Unmounted::Aborted
        } else {
            return Ok(Unmounted::StillHeld);
        };
        // It has nothing left to do but to call `ended`; a panic in there was printed already.
        let _ = thread.join();
        Ok(how)
    }
}

/// How long to wait for users when nobody said.
const DROP_PATIENCE: Duration = Duration::from_millis(500);

/// The session ends at once when the connection was cut; this is for a machine under load.
const AFTER_ABORT: Duration = Duration::from_secs(1);

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.end(DROP_PATIENCE) {
            tracing::warn!(%error, "left behind");
        }
    }
}

/// What can be seen of a mount when its session is over.
struct Watch {
    asked: Arc<AtomicBool>,
    path: PathBuf,
    connection: u32,
}

impl Watch {
    fn why(&self, result: io::Result<()>) -> SessionEnd {
        match result {
            _ if self.asked.load(Ordering::Relaxed) => SessionEnd::Asked,
            Err(error) => SessionEnd::Failed { errno: errno(&error) },
            Ok(()) => {
                let here =
                    |entry: &MountEntry| entry.path == self.path && is_connection(entry, self.connection);
                match mountinfo::mounts() {
                    Ok(mounts) if mounts.iter().any(here) => SessionEnd::Aborted,
                    Ok(_) | Err(_) => SessionEnd::Unmounted,
                }
            }
        }
    }
}

/// A mount of ours in the tree. Dropped, it is taken away lazily.
struct Attached {
    path: PathBuf,
    connection: u32,
    /// Whether it was taken away, or is not ours to take any more.
    gone: bool,
}

impl Attached {
    /// The mount that was just made at a path.
    fn find(path: PathBuf) -> io::Result<Attached> {
        let mounts = mountinfo::mounts()?;
        match mountinfo::topmost(&mounts, &path) {
            Some(entry) if entry.kind == FILE_SYSTEM_TYPE => {
                Ok(Attached { connection: entry.device.1, path, gone: false })
            }
            Some(_) | None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn not_served(&self, error: &io::Error) -> MountError {
        MountError::NotServed { path: self.path.clone(), errno: errno(error) }
    }

    /// Takes the mount away, unless somebody did or mounted something over it.
    fn detach(&mut self) -> Result<Unmounted, MountError> {
        let failed = |path: &Path, error: &io::Error| MountError::NotUnmounted {
            path: path.to_owned(),
            errno: errno(error),
        };
        if std::mem::replace(&mut self.gone, true) {
            return Ok(Unmounted::Clean);
        }
        let mounts = mountinfo::mounts().map_err(|error| failed(&self.path, &error))?;
        if !mountinfo::topmost(&mounts, &self.path).is_some_and(|top| is_connection(top, self.connection)) {
            return Ok(Unmounted::Clean);
        }
        let (result, how) = match fusermount::unmount(&self.path, Unmount::Idle) {
            Err(NotGone::Busy) => (fusermount::unmount(&self.path, Unmount::Lazy), Unmounted::Detached),
            result => (result, Unmounted::Clean),
        };
        match result {
            Ok(()) => Ok(how),
            // Somebody was faster.
            Err(NotGone::NotThere) => Ok(Unmounted::Clean),
            Err(not_gone) => Err(not_gone.into_error(&self.path)),
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            tracing::warn!(%error, "left behind");
        }
    }
}

fn is_connection(entry: &MountEntry, connection: u32) -> bool {
    entry.kind == FILE_SYSTEM_TYPE && entry.device == (0, connection)
}

/// Cuts a FUSE connection (Documentation/filesystems/fuse, "The control filesystem").
fn abort(connection: u32) -> io::Result<()> {
    fs::write(format!("/sys/fs/fuse/connections/{connection}/abort"), "1")
}

/// Something that leasefs wants of the kernel and that older kernels lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelFeature {
    /// Look-ups in one directory don't wait for each other.
    ParallelLookups,
    /// A listing brings the attributes along.
    ListingsWithAttributes,
    /// Files that are read directly can be mapped too.
    MappedFiles,
}

impl KernelFeature {
    const ALL: [KernelFeature; 3] =
        [KernelFeature::ParallelLookups, KernelFeature::ListingsWithAttributes, KernelFeature::MappedFiles];

    fn flags(self) -> InitFlags {
        match self {
            KernelFeature::ParallelLookups => InitFlags::FUSE_PARALLEL_DIROPS,
            KernelFeature::ListingsWithAttributes => {
                InitFlags::FUSE_DO_READDIRPLUS | InitFlags::FUSE_READDIRPLUS_AUTO
            }
            KernelFeature::MappedFiles => InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        }
    }
}

impl fmt::Display for KernelFeature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KernelFeature::ParallelLookups => "parallel look-ups (Linux 4.7)",
            KernelFeature::ListingsWithAttributes => "listings with attributes (Linux 3.9)",
            KernelFeature::MappedFiles => "mmap of files (Linux 6.6)",
        })
    }
}

/// Asks the kernel for what leasefs wants, inside `Filesystem::init`. Returns what it does not have.
#[must_use]
pub fn negotiate(config: &mut KernelConfig) -> Vec<KernelFeature> {
    KernelFeature::ALL
        .into_iter()
        .filter(|feature| config.add_capabilities(feature.flags()).is_err())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_asked_to_check_the_mode_bits_always_and_to_let_others_in_if_told() {
        let fd = OwnedFd::from(fs::File::open("/dev/null").unwrap());
        let number = fd.as_raw_fd();
        let data = |allow_other| MountOptions { uid: 7, gid: 8, allow_other }.data(&fd);
        assert_eq!(
            data(true),
            format!("fd={number},rootmode=40000,user_id=7,group_id=8,allow_other,default_permissions")
        );
        assert_eq!(
            data(false),
            format!("fd={number},rootmode=40000,user_id=7,group_id=8,default_permissions")
        );
    }
}

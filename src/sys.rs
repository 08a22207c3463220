//! System calls: callers and peers, daemons, mounting; in files of their own clocks, memory, descriptors,
//! processes, namespaces and privileges.
//!
//! Only here is there `unsafe`, and only here is libc called. It decides nothing: what to lock, mount or wait
//! for is the caller's business.
#![expect(
    unsafe_code,
    reason = "memory locking and mapping, the page size, timers in tokio and fork have no safe wrapper that does \
              what is needed"
)]

mod clock;
pub mod descriptors;
pub mod errand;
mod memory;
pub mod namespace;
pub mod privilege;
pub mod process;
pub mod secret_memory;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::core::access::Process;

pub use clock::{BootTimer, boot_time, unix_time};
pub use memory::{
    LockedRange, Locking, MemoryLock, forbid_core_dumps, keep_memory_locked, lock_memory, lock_range,
    locking, memory_lock_limit, unlock_range,
};

// ---- Callers ----

/// The supplementary groups of a thread, as host gids; empty if it is gone or can't be looked at. Only
/// inside the handler of one of its requests is the number sure to mean the same thread.
pub fn supplementary_groups(thread: u32) -> Vec<u32> {
    fs::read_to_string(format!("/proc/{thread}/status"))
        .ok()
        .and_then(|status| {
            Some(status_field(&status, "Groups")?.split_whitespace().flat_map(str::parse).collect())
        })
        .unwrap_or_default()
}

/// The process that a thread is of, and when it began; `None` if it may not be seen.
pub fn process_of(thread: u32) -> Option<Process> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let number = status_field(&status, "Tgid")?.trim().parse().ok()?;
    let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    // What stands in brackets is a name that the process has chosen; the start is the 20th word after it.
    let (_, rest) = stat.rsplit_once(')')?;
    let start = rest.split_whitespace().nth(19)?.parse().ok()?;
    Some(Process { number, start })
}

/// The environment that a process was started with; nothing if it may not be seen.
pub fn environment_of(pid: u32) -> Option<Vec<(OsString, OsString)>> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).ok().filter(|bytes| !bytes.is_empty())?;
    let variable = |text: &[u8]| {
        let at = text.iter().position(|byte| *byte == b'=')?;
        let part = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        Some((part(&text[..at]), part(&text[at + 1..])))
    };
    Some(bytes.split(|byte| *byte == 0).filter_map(variable).collect())
}

/// The value of one line of `/proc/T/status` (proc_pid_status(5)).
fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

/// The effective uid and gid of this process.
pub fn effective_ids() -> (u32, u32) {
    (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
}

// ---- Files ----

/// A file that is locked; dropped, it is unlocked.
#[must_use]
#[derive(Debug)]
pub struct LockedFile {
    _lock: Flock<File>,
}

/// Locks a file for this process alone, and waits for whoever has locked it (flock(2)).
///
/// # Errors
/// What flock(2) says.
pub fn lock_file(file: File) -> io::Result<LockedFile> {
    match Flock::lock(file, FlockArg::LockExclusive) {
        Ok(lock) => Ok(LockedFile { _lock: lock }),
        Err((_, errno)) => Err(errno.into()),
    }
}

// ---- Sockets ----

/// The process at the other end of a Unix socket, as it was when that end was connected, or when it began
/// to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its number; it may have ended since.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
}

/// Who is at the other end of a Unix socket (unix(7), `SO_PEERCRED`).
///
/// # Errors
/// What getsockopt(2) says.
pub fn peer(socket: &impl AsFd) -> io::Result<Peer> {
    let credentials = getsockopt(socket, PeerCredentials)?;
    Ok(Peer { pid: credentials.pid(), uid: credentials.uid() })
}

// ---- Processes ----

/// Which of two processes this one is, after [`fork`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forked {
    /// The one that was there before.
    Parent {
        /// The other one's number.
        child: i32,
    },
    /// The new one.
    Child,
}

/// Makes a second process that goes on from here (fork(2)).
///
/// # Errors
/// What fork(2) says; `EBUSY` if there are other threads, which would not exist in the child while what
/// they hold stayed locked there; what reading `/proc` gives.
pub fn fork() -> io::Result<Forked> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::ErrorKind::ResourceBusy.into());
    }
    // SAFETY: this is the only thread, so the child finds everything as the parent left it.
    match unsafe { nix::unistd::fork()? } {
        nix::unistd::ForkResult::Parent { child } => Ok(Forked::Parent { child: child.as_raw() }),
        nix::unistd::ForkResult::Child => Ok(Forked::Child),
    }
}

/// Leaves the terminal, and the signals that it sends, to others (setsid(2)).
///
/// # Errors
/// What setsid(2) says: `EPERM` for the leader of a process group.
pub fn leave_session() -> io::Result<()> {
    nix::unistd::setsid()?;
    Ok(())
}

/// A standard stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard input.
    Input,
    /// Standard output.
    Output,
    /// Standard error.
    Error,
}

/// Puts `/dev/null` in the place of a standard stream.
///
/// # Errors
/// What open(2) or dup2(2) says.
pub fn silence(stream: Stream) -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    match stream {
        Stream::Input => nix::unistd::dup2_stdin(null)?,
        Stream::Output => nix::unistd::dup2_stdout(null)?,
        Stream::Error => nix::unistd::dup2_stderr(null)?,
    }
    Ok(())
}

/// Moves this process into the mount namespace that a file of `/proc/PID/ns` stands for (setns(2)).
///
/// # Errors
/// What open(2) or setns(2) says: `EINVAL` if the file is none, or if there are other threads.
pub fn enter_mount_namespace(file: &Path) -> io::Result<()> {
    Ok(nix::sched::setns(File::open(file)?, CloneFlags::CLONE_NEWNS)?)
}

// ---- Mounts ----

/// Mounts a file system that holds no devices, no programs and nothing to write (mount(2)).
///
/// # Errors
/// What mount(2) says.
pub fn mount_read_only(source: &str, at: &Path, kind: &str, data: &str) -> io::Result<()> {
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    Ok(nix::mount::mount(Some(source), at, Some(kind), flags, Some(data))?)
}

/// Shows a directory at its own path once more, as a mount of its own, without what is mounted below it
/// (mount(2), `MS_BIND`).
///
/// # Errors
/// What mount(2) says.
pub fn bind_onto_itself(directory: &Path) -> io::Result<()> {
    let none = None::<&str>;
    Ok(nix::mount::mount(Some(directory), directory, none, MsFlags::MS_BIND, none)?)
}

/// Whether a mount tells others of what is mounted below it (mount_namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// It does (`MS_SHARED`).
    Shared,
    /// It does not, and is told what it was told before (`MS_SLAVE`).
    Slave,
}

/// Changes the topmost mount at a path, and none below it.
///
/// # Errors
/// What mount(2) says: `EINVAL` if nothing is mounted there.
pub fn set_propagation(at: &Path, propagation: Propagation) -> io::Result<()> {
    let none = None::<&str>;
    let flags = match propagation {
        Propagation::Shared => MsFlags::MS_SHARED,
        Propagation::Slave => MsFlags::MS_SLAVE,
    };
    Ok(nix::mount::mount(none, at, none, flags, none)?)
}

/// How to unmount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// Only if nothing uses it.
    Idle,
    /// The name goes at once, the rest when nothing uses it any more (`MNT_DETACH`).
    Lazy,
}

/// Takes away the topmost mount at a path, without following a symlink (umount2(2)).
///
/// # Errors
/// What umount2(2) says: `EBUSY` while it is in use, `EINVAL` if nothing is mounted there.
pub fn unmount(at: &Path, how: Unmount) -> io::Result<()> {
    let flags = match how {
        Unmount::Idle => MntFlags::UMOUNT_NOFOLLOW,
        Unmount::Lazy => MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH,
    };
    Ok(nix::mount::umount2(at, flags)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_field_is_found_by_its_whole_name() {
        let status = "Name:\tGroups: 7\nNgid:\t0\nGroups:\t4 24 27 \nCapEff:\t0000000000004000\n";
        assert_eq!(status_field(status, "Groups"), Some("\t4 24 27 "));
        assert_eq!(status_field(status, "Group"), None);
    }

    #[test]
    fn groups_of_a_thread_that_is_gone_are_none() {
        assert!(supplementary_groups(u32::MAX).is_empty());
        assert!(supplementary_groups(0).is_empty());
    }
}

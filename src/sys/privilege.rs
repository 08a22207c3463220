//! What a process may do by who it is: its user, its groups, what a program that it starts could gain.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use crate::sys::process::{self, Fork};

/// How many threads this process has.
///
/// # Errors
/// What reading `/proc` gives.
pub fn threads() -> io::Result<usize> {
    Ok(fs::read_dir("/proc/self/task")?.count())
}

/// Whether this process is root where it lives: all three of its user ids are looked at.
///
/// # Errors
/// What getresuid(2) says.
pub fn is_root() -> io::Result<bool> {
    let ids = nix::unistd::getresuid()?;
    Ok([ids.real, ids.effective, ids.saved].into_iter().any(Uid::is_root))
}

/// Sees to it that no program started by this thread gains anything by a set-uid bit or by capabilities of
/// its file (prctl(2), `PR_SET_NO_NEW_PRIVS`). Can't be undone.
///
/// # Errors
/// What prctl(2) says; nothing on any Linux since 3.5.
pub fn forbid_new_privileges() -> io::Result<()> {
    Ok(prctl::set_no_new_privs()?)
}

/// Whether [`forbid_new_privileges`] holds, here or for whoever started this process. A `/proc` is not needed.
pub fn new_privileges_are_forbidden() -> bool {
    prctl::get_no_new_privs().unwrap_or(false)
}

/// The bit of CAP_SYS_ADMIN in the `Cap…` lines of `/proc/T/status` (capabilities(7)).
const CAP_SYS_ADMIN: u32 = 21;

/// Whether this process may mount, in the user namespace that it is in.
pub fn may_mount() -> bool {
    has_capability("CapEff", CAP_SYS_ADMIN)
}

/// Whether a program that this process starts could come to be allowed to mount, by a set-uid bit; true if that
/// can't be told.
pub fn may_come_to_mount() -> bool {
    !Path::new("/proc/self/status").exists() || has_capability("CapBnd", CAP_SYS_ADMIN)
}

/// Whether a capability is in one of this thread's sets, such as `CapEff` (proc_pid_status(5)).
pub(super) fn has_capability(set: &str, bit: u32) -> bool {
    fs::read_to_string("/proc/thread-self/status")
        .ok()
        .and_then(|status| u64::from_str_radix(super::status_field(&status, set)?.trim(), 16).ok())
        .is_some_and(|found| found >> bit & 1 == 1)
}

/// Whether this user may write to a file, as a set-uid program that he starts sees it: by the real user
/// (access(2)).
pub fn may_write(path: &Path) -> bool {
    nix::unistd::access(path, nix::unistd::AccessFlags::W_OK).is_ok()
}

/// Whether this user may execute a file (access(2)).
pub fn may_execute(path: &Path) -> bool {
    nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
}

/// Becomes another user for good: real, effective and saved ids, and these supplementary groups alone. Of
/// root's capabilities none stays, but those in the inheritable set (capabilities(7)). The process can be
/// dumped by its user again: see [`crate::sys::forbid_core_dumps`].
///
/// # Errors
/// What setgroups(2), setresgid(2) or setresuid(2) says: `EPERM` without CAP_SETGID or CAP_SETUID, or where a
/// user namespace forbids it; `EINVAL` for a number that the namespace doesn't know.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    Ok(setresuid(uid, uid, uid)?)
}

/// For how long another user may take to look at something.
const PATIENCE: Duration = Duration::from_secs(10);

/// Looks at something as another user does, in a process of its own. Returns what `look` returns, or
/// [`u8::MAX`] if that process could not become this user. This process must have one thread and may change users.
///
/// # Errors
/// What fork(2) says; `TimedOut` if it takes longer than a system that is well would.
pub fn look_as(uid: u32, gid: u32, groups: &[u32], look: impl FnOnce() -> u8) -> io::Result<u8> {
    let child = match process::fork()? {
        Fork::Parent { child } => nix::unistd::Pid::from_raw(child.0),
        Fork::Child => {
            let code = become_user(uid, gid, groups).map_or(u8::MAX, |()| look());
            std::process::exit(i32::from(code));
        }
    };
    let deadline = super::boot_time() + PATIENCE;
    loop {
        match waitpid(child, Some(WaitPidFlag::WNOHANG))? {
            WaitStatus::Exited(_, code) => return Ok(u8::try_from(code).unwrap_or(u8::MAX)),
            WaitStatus::StillAlive if super::boot_time() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            WaitStatus::StillAlive => {
                // Whatever it waits for, a dead disk mostly, this process does not.
                process::send(process::Pid(child.as_raw()), process::Signal::KILL)?;
                return Err(io::ErrorKind::TimedOut.into());
            }
            _ => return Ok(u8::MAX),
        }
    }
}

/// The name of a user; its number where it has none.
pub fn user_name(uid: u32) -> String {
    let user = nix::unistd::User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}

/// Lifts the limit of locked memory for good (setrlimit(2), `RLIMIT_MEMLOCK`).
///
/// # Errors
/// `EPERM` without CAP_SYS_RESOURCE.
pub fn lift_memory_limit() -> io::Result<()> {
    Ok(setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY)?)
}

//! Namespaces of mounts and users, and mounts inside them.

use std::io;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;

/// Gives this process a list of mounts of its own (unshare(2), `CLONE_NEWNS`).
///
/// # Errors
/// What unshare(2) says: `EPERM` without CAP_SYS_ADMIN.
pub fn own_mounts() -> io::Result<()> {
    Ok(nix::sched::unshare(CloneFlags::CLONE_NEWNS)?)
}

/// Gives this process, which must have one thread, users and mounts of its own (unshare(2), `CLONE_NEWUSER`).
/// It has all capabilities in there, until it executes a program as another user than 0.
///
/// # Errors
/// What unshare(2) says: `EPERM` where it is forbidden, `ENOSPC` where a limit is reached.
pub fn own_users_and_mounts() -> io::Result<()> {
    Ok(nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?)
}

/// Lets mounts of the namespace that this one was made of appear here, and none of here there
/// (mount_namespaces(7), `MS_SLAVE`).
///
/// # Errors
/// What mount(2) says.
pub fn keep_mounts_here() -> io::Result<()> {
    let none = None::<&str>;
    Ok(nix::mount::mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?)
}

/// Shows a file or directory at another path too (mount(2), `MS_BIND`).
///
/// # Errors
/// What mount(2) says: `ENOTDIR` if one is a file and the other a directory.
pub fn bind(source: &Path, at: &Path) -> io::Result<()> {
    let none = None::<&str>;
    Ok(nix::mount::mount(Some(source), at, none, MsFlags::MS_BIND, none)?)
}

/// Takes the topmost mount at a path out of this namespace, whoever uses it; symlinks are followed.
///
/// # Errors
/// What umount2(2) says: `EINVAL` if nothing is mounted there.
pub fn detach(at: &Path) -> io::Result<()> {
    Ok(nix::mount::umount2(at, MntFlags::MNT_DETACH)?)
}

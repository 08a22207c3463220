//! Whether a directory can be mounted on, and why not.
//!
//! Must never touch a path that something is mounted on before the list of mounts has said what it is: a
//! FUSE file system without a daemon can make any system call hang.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use fuser::Errno;
use thiserror::Error;

use crate::fuse::fusermount::{self, NotGone};
use crate::fuse::mountinfo::{self, MountEntry};
use crate::fuse::refusal::{DeviceDenial, Refusal};
use crate::fuse::session::FILE_SYSTEM_TYPE;
use crate::sys::Unmount;

/// Why there is no mount, or no end of one. Each says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MountError {
    /// The list of mounts can't be read.
    #[error("can't read the list of mounts ({}): mount /proc", text(*errno))]
    NoMountList {
        /// What the system said.
        errno: i32,
    },
    /// A leasefs is mounted there, and its daemon is there or may be.
    #[error("leasefs serves {path} already: use it, or end it with \"leasefs unmount {path}\"", path = path.display())]
    Served {
        /// The mount point.
        path: PathBuf,
    },
    /// A leasefs is mounted there and its daemon is gone.
    #[error("the leasefs on {path} has lost its daemon: run \"leasefs unmount {path}\", then mount again", path = path.display())]
    Dead {
        /// The mount point.
        path: PathBuf,
    },
    /// Something else is mounted there.
    #[error("a file system of type {kind} is mounted on {path}: unmount it or choose another directory", path = path.display())]
    Occupied {
        /// The mount point.
        path: PathBuf,
        /// The type of what is mounted.
        kind: String,
    },
    /// There is nothing.
    #[error("{path} does not exist: run \"mkdir -p {path}\"", path = path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// It is a file or a device.
    #[error("{path} is not a directory: choose an empty directory", path = path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// It would be below a mount of leasefs, whose daemon would be asked for each name on the way.
    #[error("{path} is inside the leasefs on {mount}: name a directory outside of it", path = path.display(), mount = mount.display())]
    Inside {
        /// The path.
        path: PathBuf,
        /// The other mount point.
        mount: PathBuf,
    },
    /// The root of everything can't be shown to containers as a parent.
    #[error("/ has no parent that could be shared: choose another directory")]
    NoParent,
    /// To share the parent would hide another mount.
    #[error("can't share {path}, as there is a mount below it ({below}): give this one a parent directory of its own, or run \"mount --rbind {path} {path} && mount --make-shared {path}\" while nothing is mounted there", path = path.display(), below = below.display())]
    MountsBelow {
        /// The parent.
        path: PathBuf,
        /// One that is mounted below it.
        below: PathBuf,
    },
    /// The parent can't be shared.
    #[error("can't share {path} with containers: {}: run as root of the host, or without --shared", text(*errno), path = path.display())]
    NotShared {
        /// The parent.
        path: PathBuf,
        /// What mount(2) said.
        errno: i32,
    },
    /// Something is in it.
    #[error("{path} is not empty and the mount would hide what is in it: choose an empty directory", path = path.display())]
    NotEmpty {
        /// The path.
        path: PathBuf,
    },
    /// The path, or a directory on the way to it, can't be looked at.
    #[error("can't look at {path}: {}: check the path and its permissions", text(*errno), path = path.display())]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// What the system said.
        errno: i32,
    },
    /// The kernel has no FUSE.
    #[error("there is no /dev/fuse: run \"modprobe fuse\", or give the container \"--device /dev/fuse\"")]
    NoFuse,
    /// The device can't be opened by this user.
    #[error("{0}")]
    DeviceDenied(DeviceDenial),
    /// The system does not let this process mount, though it has the capability.
    #[error("may not mount: run as root, or use \"leasefs run\", which mounts in a user namespace")]
    NotPermitted,
    /// An ordinary user can't mount here.
    #[error("can't mount: {0}")]
    Unprivileged(#[from] Refusal),
    /// The kernel refused the mount for another reason.
    #[error("can't mount on {path}: {}: look at the end of \"dmesg\"", text(*errno), path = path.display())]
    Refused {
        /// The mount point.
        path: PathBuf,
        /// What mount(2) or open(2) said.
        errno: i32,
    },
    /// The mount was made and could not be served.
    #[error("can't serve {path}: {}: try again, with fewer threads if memory is short", text(*errno), path = path.display())]
    NotServed {
        /// The mount point.
        path: PathBuf,
        /// What the system said.
        errno: i32,
    },
    /// The mount could not be taken away.
    #[error("can't unmount {path}: {}: run \"umount -l {path}\" as root", text(*errno), path = path.display())]
    NotUnmounted {
        /// The mount point.
        path: PathBuf,
        /// What umount2(2) said.
        errno: i32,
    },
    /// An ordinary user can't take the mount away.
    #[error("can't unmount {path}: {refusal}", path = path.display())]
    UnmountRefused {
        /// The mount point.
        path: PathBuf,
        /// Why.
        refusal: Refusal,
    },
}

/// What systemd and autofs put in the place of a mount that is made when it is used.
const AUTOMOUNT: &str = "autofs";

/// A directory that can be mounted on: absolute, no symlink, empty, and nothing mounted on it but what waits
/// for a mount there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint(PathBuf);

impl MountPoint {
    /// Looks whether a path can be mounted on. Symlinks are followed; relative paths start at the working
    /// directory.
    ///
    /// # Errors
    /// [`MountError`], from `NoMountList` to `Unreadable`.
    pub fn check(path: &Path) -> Result<MountPoint, MountError> {
        let mounts = mountinfo::mounts().map_err(|error| MountError::NoMountList { errno: errno(&error) })?;
        let path = resolve(path, &mounts)?;
        match mountinfo::topmost(&mounts, &path) {
            // Somebody wants to use the mount and waits for it; whoever looks inside would wait as well.
            Some(entry) if entry.kind == AUTOMOUNT => return Ok(MountPoint(path)),
            Some(entry) => return Err(refuse(entry)),
            None => {}
        }
        let found = fs::metadata(&path).map_err(|error| unreadable(&path, &error))?;
        if !found.is_dir() {
            return Err(MountError::NotADirectory { path });
        }
        match fs::read_dir(&path).map_err(|error| unreadable(&path, &error))?.next() {
            None => Ok(MountPoint(path)),
            Some(_) => Err(MountError::NotEmpty { path }),
        }
    }

    /// As [`MountPoint::check`], but a leasefs there that has lost its daemon is taken away first.
    ///
    /// # Errors
    /// [`MountError`], from `NoMountList` to `Unreadable` but not `Dead`; [`MountError::NotUnmounted`],
    /// [`MountError::UnmountRefused`].
    pub fn take(path: &Path) -> Result<MountPoint, MountError> {
        loop {
            let dead = match MountPoint::check(path) {
                Err(MountError::Dead { path }) => path,
                result => return result,
            };
            // Each turn takes one away, and nobody can open what is in it any more.
            match fusermount::unmount(&dead, Unmount::Lazy) {
                // Somebody was faster.
                Ok(()) | Err(NotGone::NotThere) => {}
                Err(not_gone) => return Err(not_gone.into_error(&dead)),
            }
            tracing::warn!(mount_point = %dead.display(), "a leasefs without its daemon was taken away");
        }
    }

    /// The name that a mount point has in the list of mounts: absolute and without symlinks. What is
    /// mounted there is not touched, so that it may hang.
    ///
    /// # Errors
    /// [`MountError::NoMountList`], [`MountError::Inside`], [`MountError::Missing`],
    /// [`MountError::NotADirectory`], [`MountError::Unreadable`].
    pub fn locate(path: &Path) -> Result<PathBuf, MountError> {
        let mounts = mountinfo::mounts().map_err(|error| MountError::NoMountList { errno: errno(&error) })?;
        resolve(path, &mounts)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// The errno of an error of the system; `EIO` if it has none.
pub(crate) fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or_else(|| Errno::EIO.into())
}

/// Whether an error of the system is this one.
pub(super) fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.into())
}

/// Whether an error of opening a device says that there is none.
pub(super) fn is_absent(error: &io::Error) -> bool {
    [Errno::ENOENT, Errno::ENODEV, Errno::ENXIO].into_iter().any(|errno| is(error, errno))
}

fn text(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

fn unreadable(path: &Path, error: &io::Error) -> MountError {
    let path = path.to_owned();
    match error.kind() {
        ErrorKind::NotFound => MountError::Missing { path },
        ErrorKind::NotADirectory => MountError::NotADirectory { path },
        _ => MountError::Unreadable { path, errno: errno(error) },
    }
}

/// As many as the kernel follows (path_resolution(7)).
const MAX_SYMLINKS: usize = 40;

/// The absolute path without symlinks. No mount of leasefs on the way is touched, nor any mount at the end, since
/// each name is looked up in the list of mounts before it is looked at. What comes last need not exist.
fn resolve(path: &Path, mounts: &[MountEntry]) -> Result<PathBuf, MountError> {
    let typed = std::path::absolute(path).map_err(|error| unreadable(path, &error))?;
    let mut found = PathBuf::from("/");
    let mut rest = names(&typed);
    let mut symlinks = 0;
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            found.pop();
            continue;
        }
        let here = found.join(&name);
        if let Some(entry) = mountinfo::topmost(mounts, &here) {
            if entry.kind == FILE_SYSTEM_TYPE && !rest.is_empty() {
                return Err(MountError::Inside { path: typed, mount: here });
            }
            // Something mounted is no symlink.
            found = here;
            continue;
        }
        match fs::read_link(&here) {
            Ok(target) => {
                symlinks += 1;
                if symlinks > MAX_SYMLINKS {
                    return Err(MountError::Unreadable { path: typed, errno: Errno::ELOOP.into() });
                }
                if target.is_absolute() {
                    found = PathBuf::from("/");
                }
                let mut names = names(&target);
                names.append(&mut rest);
                rest = names;
            }
            // Not a symlink.
            Err(error) if is(&error, Errno::EINVAL) => found = here,
            // Whoever looks next says what there is.
            Err(_) if rest.is_empty() => found = here,
            Err(error) => return Err(unreadable(&typed, &error)),
        }
    }
    Ok(found)
}

/// The names in a path, from left to right.
fn names(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    });
    names.collect()
}

fn refuse(entry: &MountEntry) -> MountError {
    let path = entry.path.clone();
    if entry.kind != FILE_SYSTEM_TYPE {
        return MountError::Occupied { path, kind: entry.kind.clone() };
    }
    if is_dead(&path) { MountError::Dead { path } } else { MountError::Served { path } }
}

/// How long a daemon that is there may take to answer one statfs(2).
const PROBE: Duration = Duration::from_secs(1);

/// Whether a FUSE file system has lost its daemon: then each call that asks it gives ENOTCONN at once. A
/// `stat` would not do, since the kernel keeps attributes longer than daemons live; statfs(2) always asks.
/// It is called in a thread of its own: a daemon that is there and does not answer holds up that thread
/// alone, and counts as alive.
pub(super) fn is_dead(path: &Path) -> bool {
    let (answer, answered) = mpsc::channel();
    let path = path.to_owned();
    let probe = thread::Builder::new().name("leasefs-probe".to_owned()).spawn(move || {
        let dead = nix::sys::statvfs::statvfs(&path) == Err(nix::errno::Errno::ENOTCONN);
        // Nobody listens any more if it took too long.
        let _ = answer.send(dead);
    });
    probe.is_ok() && answered.recv_timeout(PROBE).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn check(path: &Path) -> Result<PathBuf, MountError> {
        MountPoint::check(path).map(|point| point.path().to_owned())
    }

    #[test]
    fn an_empty_directory_will_do_by_any_of_its_names() {
        let base = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(base.path()).unwrap().join("real dir");
        fs::create_dir(&real).unwrap();
        symlink("real dir", base.path().join("link")).unwrap();
        symlink("link", base.path().join("link-to-link")).unwrap();
        symlink(&real, base.path().join("absolute-link")).unwrap();
        for name in ["real dir", "real dir/", "real dir/.", "link", "link/", "link-to-link", "absolute-link"]
        {
            assert_eq!(check(&base.path().join(name)), Ok(real.clone()), "{name}");
        }
        fs::create_dir(real.join("below")).unwrap();
        symlink(real.join("below/.."), base.path().join("dots")).unwrap();
        assert_eq!(check(&base.path().join("dots")), Err(MountError::NotEmpty { path: real }));
    }

    #[test]
    fn what_can_not_be_mounted_on_is_named() {
        let base = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(base.path()).unwrap();
        let file = base.join("file");
        fs::write(&file, "x").unwrap();
        symlink("missing", base.join("dangling")).unwrap();
        symlink("loop", base.join("loop")).unwrap();
        let missing = base.join("missing");
        assert_eq!(check(&missing), Err(MountError::Missing { path: missing.clone() }));
        assert_eq!(check(&base.join("dangling")), Err(MountError::Missing { path: missing }));
        assert_eq!(check(&file), Err(MountError::NotADirectory { path: file.clone() }));
        assert_eq!(check(&file.join("x")), Err(MountError::NotADirectory { path: file.join("x") }));
        assert_eq!(check(&base), Err(MountError::NotEmpty { path: base.clone() }));
        let looped = base.join("loop");
        assert_eq!(
            check(&looped),
            Err(MountError::Unreadable { path: looped.clone(), errno: Errno::ELOOP.into() })
        );
        assert!(matches!(check(Path::new("/")), Err(MountError::Occupied { .. })));
        assert!(
            matches!(check(Path::new("/proc/")), Err(MountError::Occupied { kind, .. }) if kind == "proc")
        );
    }

    #[test]
    fn a_message_says_what_to_do() {
        let path = PathBuf::from("/run/x");
        let error = MountError::Refused { path: path.clone(), errno: Errno::EIO.into() };
        assert_eq!(
            error.to_string(),
            "can't mount on /run/x: Input/output error (os error 5): look at the end of \"dmesg\""
        );
        assert!(MountError::Missing { path }.to_string().contains("mkdir -p /run/x"));
    }
}

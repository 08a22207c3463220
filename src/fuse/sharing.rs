//! Lets containers that bind the parent directory of a mount point see what is mounted there later, on systems
//! where mounts are not shared from the start, as they are under systemd (mount_namespaces(7)).
//!
//! Invariants: *hides nothing*: a directory with a mount below it is never covered; *leaves nothing*: what was
//! made here is undone when [`SharedParent`] is dropped, unless somebody else has come to use it.

use std::io;
use std::path::{Path, PathBuf};

use crate::fuse::mount_point::{MountError, MountPoint, errno};
use crate::fuse::mountinfo;
use crate::sys::{self, Propagation, Unmount};

/// The parent directory of a mount point, which tells its mounts to whoever has bound it. Drop it after the mount.
#[derive(Debug)]
pub struct SharedParent {
    path: PathBuf,
    made: Made,
}

/// What was not so before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    Nothing,
    /// The directory is a mount of its own now.
    Mount,
    /// The directory was a mount and is shared now.
    Shared,
}

impl SharedParent {
    /// Shares it, unless it is.
    ///
    /// # Errors
    /// [`MountError::NoMountList`], [`MountError::NoParent`], [`MountError::MountsBelow`],
    /// [`MountError::NotShared`].
    pub fn make(point: &MountPoint) -> Result<SharedParent, MountError> {
        let mounts = mountinfo::mounts().map_err(|error| MountError::NoMountList { errno: errno(&error) })?;
        let path = point.path().parent().ok_or(MountError::NoParent)?.to_owned();
        let own = mountinfo::topmost(&mounts, &path);
        if own.or_else(|| mountinfo::containing(&mounts, &path)).is_some_and(|mount| mount.shared) {
            return Ok(SharedParent { path, made: Made::Nothing });
        }
        let refused = |path: &Path, error: &io::Error| MountError::NotShared {
            path: path.to_owned(),
            errno: errno(error),
        };
        if own.is_some() {
            sys::set_propagation(&path, Propagation::Shared).map_err(|error| refused(&path, &error))?;
            return Ok(SharedParent { path, made: Made::Shared });
        }
        if let Some(below) = mounts.iter().find(|mount| mount.path.starts_with(&path)) {
            return Err(MountError::MountsBelow { below: below.path.clone(), path });
        }
        sys::bind_onto_itself(&path).map_err(|error| refused(&path, &error))?;
        // From here on it is taken away again, whatever fails.
        let parent = SharedParent { path, made: Made::Mount };
        sys::set_propagation(&parent.path, Propagation::Shared)
            .map_err(|error| refused(&parent.path, &error))?;
        Ok(parent)
    }

    /// Which directory it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SharedParent {
    fn drop(&mut self) {
        let undone = match self.made {
            Made::Nothing => Ok(()),
            Made::Mount => sys::unmount(&self.path, Unmount::Idle),
            Made::Shared => sys::set_propagation(&self.path, Propagation::Slave),
        };
        if let Err(error) = undone {
            tracing::info!(directory = %self.path.display(), %error, "stays shared");
        }
    }
}

//! Finds the daemon that a command means by the mount point that the user typed.

use std::path::{Path, PathBuf};

use crate::cli::exit::CommandError;
use crate::cli::mount::{MOUNT_POINTS, plain_name};
use crate::control::{AskError, Client};
use crate::fuse::mount_point::{MountError, MountPoint};

/// Connects to the daemon of a mount: of the directory that was named, or of `/run/leasefs/NAME`; without
/// a name to the only one there is.
///
/// # Errors
/// [`CommandError::Ask`], [`CommandError::Mount`].
pub(super) fn connect(typed: Option<&Path>) -> Result<Client, CommandError> {
    let Some(typed) = typed else { return Ok(Client::connect(None)?) };
    let mut first = None;
    for mount_point in mount_points(typed)? {
        match Client::connect(Some(&mount_point)) {
            Err(error @ AskError::NotServed { .. }) => first = first.or(Some(error)),
            result => return Ok(result?),
        }
    }
    Err(first.unwrap_or(AskError::NotServed { mount_point: typed.to_owned() }).into())
}

/// The mount points that may be meant, the likeliest first.
///
/// # Errors
/// [`CommandError::Mount`].
pub(super) fn mount_points(typed: &Path) -> Result<Vec<PathBuf>, CommandError> {
    let located = MountPoint::locate(typed).or_else(|error| match error {
        // Nothing can be mounted there, and to say that nothing is served there says enough.
        MountError::Missing { .. } | MountError::NotADirectory { .. } => Ok(typed.to_owned()),
        error => Err(error),
    })?;
    let mut found = vec![located];
    if let Some(name) = plain_name(typed) {
        found.push(Path::new(MOUNT_POINTS).join(name));
    }
    Ok(found)
}

//! Finds the daemon that a command means by the mount point that the user typed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::exit::CommandError;
use crate::cli::mount::{MOUNT_POINTS, plain_name};
use crate::control::protocol::{Ask, Reply, StatusReport};
use crate::control::{AskError, Client, ControlDirectory};
use crate::fuse::mount_point::{MountError, MountPoint};
use crate::fuse::mountinfo::{self, MountEntry};
use crate::fuse::session::FILE_SYSTEM_TYPE;
use crate::sys;

/// For how long a mount that nobody answers for is given the time to start its next server.
const SUCCESSION: Duration = Duration::from_secs(1);

/// How often it is tried meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// Connects to the daemon of a mount: of the directory that was named, or of `/run/leasefs/NAME`; without
/// a name to the only one there is. A mount whose server has just died is waited for.
///
/// # Errors
/// [`CommandError::Ask`], [`CommandError::Mount`].
pub(super) fn connect(typed: Option<&Path>) -> Result<Client, CommandError> {
    let deadline = sys::boot_time() + SUCCESSION;
    loop {
        match connect_now(typed) {
            Err(CommandError::Ask(AskError::NotServed { .. } | AskError::NoMount))
                if sys::boot_time() < deadline && is_mounted(typed)? =>
            {
                std::thread::sleep(LOOK);
            }
            result => return result,
        }
    }
}

/// Asks what may be asked twice: if the server dies before it has answered, its successor is asked. Returns who has
/// answered as well.
///
/// # Errors
/// As [`connect`], and [`CommandError::Ask`].
pub(super) fn ask(typed: Option<&Path>, ask: &Ask) -> Result<(Client, Reply), CommandError> {
    let deadline = sys::boot_time() + SUCCESSION;
    loop {
        let mut client = connect(typed)?;
        match client.ask(ask.clone()) {
            Err(AskError::Closed) if sys::boot_time() < deadline => std::thread::sleep(LOOK),
            reply => return Ok((client, reply?)),
        }
    }
}

/// How a mount stands.
///
/// # Errors
/// As [`ask`].
pub(super) fn status(typed: Option<&Path>) -> Result<StatusReport, CommandError> {
    match ask(typed, &Ask::Status)? {
        (_, Reply::Status(report)) => Ok(*report),
        _ => Err(AskError::OtherVersion.into()),
    }
}

/// Whether there is a mount that a successor may be about to serve.
///
/// # Errors
/// [`CommandError::Mount`].
pub(super) fn is_mounted(typed: Option<&Path>) -> Result<bool, CommandError> {
    let Ok(mounts) = mountinfo::mounts() else { return Ok(false) };
    let of = typed.map(mount_points).transpose()?;
    let meant = |path: &PathBuf| of.as_ref().is_none_or(|paths| paths.contains(path));
    Ok(mounts.iter().any(|entry| entry.kind == FILE_SYSTEM_TYPE && meant(&entry.path)))
}

fn connect_now(typed: Option<&Path>) -> Result<Client, CommandError> {
    let Some(typed) = typed else { return Ok(Client::connect(None)?) };
    let mut first = None;
    for mount_point in mount_points(typed)? {
        let answer = match other_owner(&mount_point) {
            Some(uid) => Client::connect_in(&[ControlDirectory::of_user(uid)], Some(&mount_point)),
            None => Client::connect(Some(&mount_point)),
        };
        match answer {
            Err(error @ AskError::NotServed { .. }) => first = first.or(Some(error)),
            result => return Ok(result?),
        }
    }
    Err(first.unwrap_or(AskError::NotServed { mount_point: typed.to_owned() }).into())
}

/// For root: the user whom a mount belongs to, as the kernel says, if that is another one.
fn other_owner(mount_point: &Path) -> Option<u32> {
    let mounts = mountinfo::mounts().ok()?;
    let owner = mountinfo::topmost(&mounts, mount_point)
        .filter(|entry| entry.kind == FILE_SYSTEM_TYPE)
        .and_then(MountEntry::owner)?;
    (sys::effective_ids().0 == 0 && owner != 0).then_some(owner)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_name_may_be_a_directory_here_or_the_name_of_a_mount() {
        let here = std::env::current_dir().unwrap();
        let found = mount_points(Path::new("no-such-name")).unwrap();
        assert_eq!(found, [here.join("no-such-name"), PathBuf::from("/run/leasefs/no-such-name")]);
        assert_eq!(mount_points(Path::new("/no/such/name")).unwrap(), [PathBuf::from("/no/such/name")]);
    }
}

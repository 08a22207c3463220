//! `leasefs unmount`: ends a mount, as SIGTERM to its daemon does.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::cli::daemon_of::{ask, mount_points};
use crate::cli::exit::{CommandError, Exit};
use crate::cli::output::{clean, print};
use crate::control::AskError;
use crate::control::protocol::{Ask, Reply};
use crate::fuse::fusermount;
use crate::fuse::mount_point::MountError;
use crate::fuse::mountinfo;
use crate::fuse::session::FILE_SYSTEM_TYPE;
use crate::sys::{self, Unmount};

/// How long a daemon may take to revoke and to unmount.
const PATIENCE: Duration = Duration::from_secs(45);

/// How often the list of mounts is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(25);

/// Revokes every lease of a mount and takes it away.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  leasefs unmount /run/leasefs/agent
  leasefs unmount agent                 the same

A mount whose daemon has died is detached.")]
pub struct UnmountArgs {
    /// The mount point, or the NAME of /run/leasefs/NAME
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: PathBuf,
}

/// Asks, and waits until the mount is gone.
///
/// # Errors
/// [`CommandError`].
pub fn run(args: &UnmountArgs) -> Result<Exit, CommandError> {
    let (client, reply) = match ask(Some(&args.mount_point), &Ask::Unmount) {
        Err(CommandError::Ask(error @ AskError::NotServed { .. })) => {
            return detach_dead(&args.mount_point, error);
        }
        result => result?,
    };
    let Reply::Stopping { .. } = reply else {
        return Err(AskError::OtherVersion.into());
    };
    let mount_point = client.mount_point();
    let deadline = sys::boot_time() + PATIENCE;
    while is_mounted(mount_point)? {
        if sys::boot_time() >= deadline {
            let (mount_point, seconds) = (mount_point.to_owned(), PATIENCE.as_secs());
            return Err(CommandError::StillMounted { mount_point, seconds });
        }
        std::thread::sleep(LOOK);
    }
    Ok(Exit::Ok)
}

/// Detaches a mount that nobody serves any more.
fn detach_dead(typed: &Path, not_served: AskError) -> Result<Exit, CommandError> {
    for mount_point in mount_points(typed)? {
        if !is_mounted(&mount_point)? {
            continue;
        }
        fusermount::unmount(&mount_point, Unmount::Lazy)
            .map_err(|not_gone| not_gone.into_error(&mount_point))?;
        let shown = mount_point.display().to_string();
        print(&format!(
            "no daemon answered for {}, so it was detached; leases it had may live on\n",
            clean(&shown)
        ))?;
        return Ok(Exit::Ok);
    }
    Err(not_served.into())
}

/// Whether a leasefs is mounted there, served or not.
fn is_mounted(mount_point: &Path) -> Result<bool, CommandError> {
    let mounts = mountinfo::mounts()
        .map_err(|error| MountError::NoMountList { errno: error.raw_os_error().unwrap_or_default() })?;
    Ok(mounts.iter().any(|entry| entry.path == mount_point && entry.kind == FILE_SYSTEM_TYPE))
}

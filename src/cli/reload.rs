//! `leasefs reload`: lets a mount go on with its configuration as it is on the disk now.

use std::path::PathBuf;

use clap::Args;

use crate::cli::daemon_of;
use crate::cli::exit::{CommandError, Exit};
use crate::cli::output::{clean, print};
use crate::cli::upgrade::successor_of;
use crate::control::AskError;
use crate::control::protocol::{Ask, ReloadReport, Reply};

/// Reads the configuration of a mount anew, and has every identity log in with what its files hold now. Files that
/// stay keep their leases and stay open; what is gone from the configuration is revoked. A configuration that can't
/// be used changes nothing.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  leasefs reload /run/leasefs/agent
  leasefs reload agent                 the same

SIGHUP to the daemon does the same, and so does \"systemctl reload leasefs@agent\". It ends with 78 if the
configuration can't be used; \"leasefs status\" says why as well.")]
pub struct ReloadArgs {
    /// The mount point, or the NAME of /run/leasefs/NAME; may be left out if there is only one
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: Option<PathBuf>,
}

/// Asks for it, and waits until the successor answers.
///
/// # Errors
/// [`CommandError`].
pub fn run(args: &ReloadArgs) -> Result<Exit, CommandError> {
    let mut client = daemon_of::connect(args.mount_point.as_deref())?;
    let old = client.status()?;
    let mount_point = PathBuf::from(&old.mount_point);
    let Reply::Reloading { .. } = client.ask(Ask::Reload)? else {
        return Err(AskError::OtherVersion.into());
    };
    let new = successor_of(&old, &mount_point)?;
    in_force(new.reload, mount_point)?;
    print(&format!("{}: reloaded {}\n", clean(&new.mount_point), clean(&new.config)))?;
    Ok(Exit::Ok)
}

/// Whether a successor has taken the new configuration.
///
/// # Errors
/// [`CommandError::NotReloaded`].
pub(super) fn in_force(reload: Option<ReloadReport>, mount_point: PathBuf) -> Result<(), CommandError> {
    match reload.and_then(|reload| reload.error) {
        Some(why) => {
            let why: Vec<String> = why.lines().map(clean).collect();
            Err(CommandError::NotReloaded { mount_point, why: why.join("\n") })
        }
        None => Ok(()),
    }
}

//! `leasefs unit`: the parts of the systemd unit that need root. Nobody else calls it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::cli::exit::{CommandError, Exit};
use crate::cli::mount::{MOUNT_POINTS, config_of};
use crate::config::{self, Environment};
use crate::control::protocol::{Ask, FixedReport, Reply, StatusReport};
use crate::control::{AskError, Client};
use crate::daemon::unit::{self, Ending, Future};
use crate::daemon::{self, DaemonError, Fixed, MountPointOrigin, Options, Parent};
use crate::sys;

/// Where the unit mounts, if it is not `/run/leasefs/NAME`; it is made if it is not there.
const MOUNT_POINT: &str = "LEASEFS_MOUNTPOINT";

/// For how long a server may take until it has handed over.
const PATIENCE: Duration = Duration::from_secs(15);

/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(10);

/// What the systemd unit does as root; for `leasefs@.service` alone.
#[derive(Args, Debug)]
pub struct UnitArgs {
    /// Which part
    #[command(subcommand)]
    pub part: Part,
}

/// A part of the unit.
#[derive(Subcommand, Debug)]
pub enum Part {
    /// Before the server starts: mounts, unless systemd keeps the mount
    Mount(OfUnit),
    /// Instead of the server: reads the configuration, and has the server hand over to one that uses it
    Reload(OfUnit),
    /// Before the server is stopped: has it hand over, if another one will be started
    Stop(OfUnit),
    /// After the server has ended: takes the mount away, unless another one will be started
    Unmount(OfUnit),
}

/// Which unit.
#[derive(Args, Debug)]
pub struct OfUnit {
    /// The NAME of leasefs@NAME.service
    pub name: String,
}

impl OfUnit {
    fn unit(&self) -> String {
        format!("leasefs@{}.service", self.name)
    }

    fn options(&self) -> Options {
        Options {
            config: config_of(&self.name),
            mount_point: std::env::var_os(MOUNT_POINT)
                .map_or_else(|| Path::new(MOUNT_POINTS).join(&self.name), PathBuf::from),
            origin: MountPointOrigin::Derived,
            allow_other: None,
            parent: Parent::AsItIs,
        }
    }
}

/// Does a part.
///
/// # Errors
/// [`CommandError`].
pub fn run(args: &UnitArgs) -> Result<Exit, CommandError> {
    match &args.part {
        Part::Mount(of) => unit::mount(&of.options(), &of.unit())?,
        Part::Reload(of) => reload(of)?,
        Part::Stop(of) => stop(of)?,
        Part::Unmount(of) => {
            let variable = |name| std::env::var(name).unwrap_or_default();
            let ending = Ending { result: variable("SERVICE_RESULT"), status: variable("EXIT_STATUS") };
            if unit::future(&of.unit(), &ending)? == Future::Ends {
                unit::unmount(&of.options().mount_point, &of.unit())?;
            }
        }
    }
    Ok(Exit::Ok)
}

/// A server that is only started anew keeps everything for its successor, if that could use it.
fn stop(of: &OfUnit) -> Result<(), CommandError> {
    let options = of.options();
    if !unit::restarts(&of.unit())? {
        return Ok(());
    }
    let mut client = Client::connect(Some(&options.mount_point))?;
    if let Err(error) = can_serve(&options, &client.status()?) {
        tracing::warn!(%error, "the next server can't go on with that configuration: everything is given back");
        return Ok(());
    }
    let Reply::HandingOver { pid } = client.ask(Ask::HandOver)? else { return Ok(()) };
    wait_for_end_of(pid);
    Ok(())
}

/// Has the server hand over to one with the configuration as it is now, if that can be used. Ends when the old
/// server has: whoever uses the mount from then on is answered by the new one, whose start systemd begins only
/// after this command.
fn reload(of: &OfUnit) -> Result<(), CommandError> {
    let options = of.options();
    let mut client = Client::connect(Some(&options.mount_point))?;
    if let Err(error) = can_serve(&options, &client.status()?) {
        client.ask(Ask::NotReloaded { why: error.to_string() })?;
        return Err(CommandError::NotReloaded { mount_point: options.mount_point, why: error.to_string() });
    }
    let Reply::Reloading { pid } = client.ask(Ask::Reload)? else {
        return Err(AskError::OtherVersion.into());
    };
    if !wait_for_end_of(pid) {
        let seconds = PATIENCE.as_secs();
        return Err(CommandError::NoSuccessor { mount_point: options.mount_point, seconds });
    }
    Ok(())
}

/// Whether a server that is started now would serve the mount with the configuration as it is now.
fn can_serve(options: &Options, status: &StatusReport) -> Result<(), DaemonError> {
    let plan = config::load(&options.config, &Environment::from_process())?;
    match &status.fixed {
        Some(FixedReport { allow_other, max_memory }) => {
            let fixed = Fixed { allow_other: *allow_other, max_memory: *max_memory };
            daemon::judge(&plan, &options.config, &fixed, sys::unix_time())
        }
        None => Ok(()),
    }
}

/// Whether it has ended in time.
fn wait_for_end_of(pid: u32) -> bool {
    let deadline = sys::boot_time() + PATIENCE;
    while Path::new(&format!("/proc/{pid}")).exists() {
        if sys::boot_time() >= deadline {
            return false;
        }
        std::thread::sleep(LOOK);
    }
    true
}

//! `leasefs unit`: the parts of the systemd unit that need root. Nobody else calls it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::cli::exit::{CommandError, Exit};
use crate::cli::mount::{MOUNT_POINTS, config_of};
use crate::config::{self, Environment};
use crate::control::Client;
use crate::control::protocol::{Ask, Reply};
use crate::daemon::unit::{self, Ending, Future};
use crate::daemon::{MountPointOrigin, Options, Parent};
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
    if let Err(complaints) = config::load(&options.config, &Environment::from_process()) {
        tracing::warn!(%complaints, "the next server can't use the configuration: everything is given back");
        return Ok(());
    }
    let mut client = Client::connect(Some(&options.mount_point))?;
    let Reply::HandingOver { pid } = client.ask(Ask::HandOver)? else { return Ok(()) };
    let deadline = sys::boot_time() + PATIENCE;
    while Path::new(&format!("/proc/{pid}")).exists() && sys::boot_time() < deadline {
        std::thread::sleep(LOOK);
    }
    Ok(())
}

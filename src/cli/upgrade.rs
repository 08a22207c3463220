//! `leasefs upgrade`: lets a newer binary go on with a mount.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Args;

use crate::cli::daemon_of;
use crate::cli::exit::{CommandError, Exit};
use crate::cli::output::{clean, print};
use crate::control::protocol::{Ask, Reply, StatusReport};
use crate::control::{AskError, ControlDirectory};
use crate::daemon::unit;
use crate::sys;

/// How long it may take until the successor answers: a server that hands over waits for what is being minted.
const PATIENCE: Duration = Duration::from_secs(45);

/// How often it is looked for meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// Lets the binary that is installed now go on with a mount: same leases, same open files. Nothing is minted,
/// revoked or closed, and nobody who uses the mount notices more than a short wait.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  leasefs upgrade /run/leasefs/agent
  leasefs upgrade agent                 the same

Put the new binary where the old one was (with rename(2), as package managers do), then run this. The
configuration is read anew, too. Before anything is changed the new binary must accept it, as
\"leasefs check --offline\" does. Where systemd keeps the mount, root has it restart the unit, which does the
same.")]
pub struct UpgradeArgs {
    /// The mount point, or the NAME of /run/leasefs/NAME; may be left out if there is only one
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: Option<PathBuf>,
}

/// Checks, asks for it, and waits until the successor answers.
///
/// # Errors
/// [`CommandError`].
pub fn run(args: &UpgradeArgs) -> Result<Exit, CommandError> {
    let mut client = daemon_of::connect(args.mount_point.as_deref()).map_err(named_unit)?;
    let old = client.status().map_err(|error| named_unit(error.into()))?;
    if old.program.is_empty() {
        return Err(AskError::NoSuccessor.into());
    }
    if !old.unit.is_empty() && sys::effective_ids().0 != 0 {
        return Err(CommandError::UnitNotAllowed { unit: old.unit });
    }
    accepts(Path::new(&old.program), &old)?;
    let mount_point = PathBuf::from(&old.mount_point);
    if !old.unit.is_empty() {
        // It starts what the unit says, with what systemd gives it.
        unit::restart(&old.unit)?;
    } else if !matches!(client.ask(Ask::HandOver)?, Reply::HandingOver { .. }) {
        return Err(AskError::OtherVersion.into());
    }
    let new = successor_of(&old, &mount_point)?;
    print(&format!(
        "{}: leasefs {} (process {}) has handed over to leasefs {} (process {})\n",
        clean(&new.mount_point),
        clean(&old.version),
        old.pid,
        clean(&new.version),
        new.pid
    ))?;
    Ok(Exit::Ok)
}

/// Whoever may not ask the server of a unit is told what to run instead.
fn named_unit(error: CommandError) -> CommandError {
    match &error {
        CommandError::Ask(AskError::NotAllowed { mount_point })
            if ControlDirectory::of_units().has(mount_point) =>
        {
            let name = mount_point.file_name().unwrap_or_default().to_string_lossy();
            CommandError::UnitNotAllowed { unit: format!("leasefs@{name}.service") }
        }
        _ => error,
    }
}

/// Whether the binary can serve this mount. In the environment of the server, as far as we may see it: its
/// configuration may depend on that.
fn accepts(program: &Path, old: &StatusReport) -> Result<(), CommandError> {
    let mut check = Command::new(program);
    check.args(["--log-level", "error", "check", "--offline"]).arg(&old.config).stdin(Stdio::null());
    if let Some(variables) = sys::environment_of(old.pid) {
        check.env_clear().envs(variables);
    }
    let output = check
        .output()
        .map_err(|error| CommandError::NotExecuted { command: program.as_os_str().to_owned(), error })?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stderr, output.stdout].concat();
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<String> = said.lines().map(clean).filter(|line| !line.is_empty()).collect();
    Err(CommandError::NotAccepted { program: program.to_owned(), said: lines.join("\n") })
}

/// Waits until another process answers.
fn successor_of(old: &StatusReport, mount_point: &Path) -> Result<StatusReport, CommandError> {
    let deadline = sys::boot_time() + PATIENCE;
    loop {
        let status = daemon_of::status(Some(mount_point));
        match status {
            Ok(status) if status.pid != old.pid => return Ok(status),
            Err(error) if !daemon_of::is_mounted(Some(mount_point))? => return Err(error),
            // It is about to end, or its successor is about to begin.
            Ok(_) | Err(_) if sys::boot_time() < deadline => std::thread::sleep(LOOK),
            Ok(_) | Err(_) => {
                let seconds = PATIENCE.as_secs();
                return Err(CommandError::NoSuccessor { mount_point: mount_point.to_owned(), seconds });
            }
        }
    }
}

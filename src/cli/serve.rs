//! `leasefs serve`: what `leasefs mount` starts to serve its mount, and starts again when it has died.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;

use clap::Args;

use crate::cli::exit::{CommandError, Exit, of_daemon};
use crate::config::{self, Environment};
use crate::daemon::{self, DaemonError, End, Ended, ServerPapers, unit};
use crate::keeper::Program;

/// Serves a mount that another process holds; for `leasefs mount` alone.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Logs to where a daemon in the background does
    #[arg(long)]
    pub background: bool,
    /// Takes the descriptors that systemd has kept for the unit
    #[arg(long)]
    pub systemd: bool,
    /// What is asked why there is no mount, if there is none
    #[arg(long, value_name = "CONFIG", requires = "systemd")]
    pub config: Option<PathBuf>,
    /// The number of the descriptor of the FUSE device
    #[arg(long, value_name = "NUMBER", required_unless_present = "systemd")]
    pub device: Option<RawFd>,
    /// The same of what is written down of the mount
    #[arg(long, value_name = "NUMBER", required_unless_present = "systemd")]
    pub record: Option<RawFd>,
    /// The same of the sealed state
    #[arg(long, value_name = "NUMBER")]
    pub state: Option<RawFd>,
    /// The same of what is kept of the kernel's requests, where there is no sealed state
    #[arg(long, value_name = "NUMBER")]
    pub requests: Option<RawFd>,
    /// The same of the link to the keeper
    #[arg(long, value_name = "NUMBER")]
    pub keeper: Option<RawFd>,
    /// The server before this one was killed from outside
    #[arg(long)]
    pub killed: bool,
}

/// Where a server logs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Log {
    /// Standard error, at a level.
    StandardError,
    /// Wherever a daemon in the background does.
    Background,
}

/// How this binary is started as a server.
///
/// # Errors
/// [`CommandError::Runtime`]: it can't be found.
pub(super) fn program(log: Log, level: &str) -> Result<Program, CommandError> {
    let path: PathBuf = std::env::current_exe().map_err(CommandError::Runtime)?;
    let mut arguments: Vec<OsString> = vec!["--log-level".into(), level.into(), "serve".into()];
    if log == Log::Background {
        arguments.push("--background".into());
    }
    Ok(Program { path, arguments })
}

/// Serves until it is told to end.
///
/// # Errors
/// [`CommandError`].
pub fn run(args: &ServeArgs) -> Result<Exit, CommandError> {
    let predecessor = if args.killed { End::Kill } else { End::Fault };
    let papers = match (args.device, args.record) {
        (Some(device), Some(record)) if !args.systemd => {
            let ServeArgs { state, requests, keeper, .. } = *args;
            ServerPapers { device, record, state, requests, keeper, predecessor }
        }
        _ => match unit::kept_papers() {
            Ok(papers) => papers,
            Err(DaemonError::NotKept) => return Ok(why_not_kept(args)),
            Err(error) => return Err(error.into()),
        },
    };
    match daemon::serve(papers, |error| of_daemon(error) as u8) {
        // The keeper has printed it.
        Err(error) if papers.keeper.is_some() => Ok(of_daemon(&error)),
        Ok(Ended::HandedOver) if papers.keeper.is_none() => Ok(Exit::Temporary),
        result => Ok(result.map(|_| Exit::Ok)?),
    }
}

/// There is no mount: why, has been told by the part of the unit that could not make it. The exit code says whether
/// it is the configuration.
fn why_not_kept(args: &ServeArgs) -> Exit {
    let environment = Environment::from_process();
    match args.config.as_ref().map(|config| config::load(config, &environment)) {
        Some(Err(_)) => Exit::Config,
        Some(Ok(_)) | None => {
            tracing::error!("{}", DaemonError::NotKept);
            Exit::CantCreate
        }
    }
}

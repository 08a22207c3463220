//! The command line: what can be typed, and what each command prints.
//!
//! A command returns how it ended and prints nothing on standard error; [`main`] does, in one form:
//! `leasefs: what happened: what to do`. `run` alone has things to say before it ends.

mod background;
pub mod check;
mod daemon_of;
pub mod exit;
pub mod explain;
pub mod generate;
pub mod init;
pub mod lock;
mod log;
pub mod mount;
mod mount_helper;
mod operator;
mod output;
pub mod policy;
pub mod refresh;
pub mod revoke;
pub mod run;
pub mod serve;
pub mod status;
mod syslog;
pub mod unit;
pub mod unmount;
pub mod upgrade;
pub mod wait;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::cli::exit::{CommandError, Exit};

/// Vault secrets as files that live no longer than their lease.
#[derive(Parser, Debug)]
#[command(name = "leasefs", version, max_term_width = 100, propagate_version = true)]
#[command(after_help = "\
Examples:
  leasefs init secret/agents/ >./agent.toml
  leasefs check ./agent.toml
  leasefs mount ./agent.toml /mnt/agent
  leasefs status /mnt/agent
  leasefs run --config ./agent.toml -- ./agent

\"leasefs COMMAND --help\" says more about each.")]
pub struct Cli {
    /// What to log: error, warn, info, debug or trace [default: info; of `run`, warn]
    #[arg(long, global = true, env = "LEASEFS_LOG", value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Mounts secrets as files and serves them in the foreground
    Mount(mount::MountArgs),
    /// Runs a command that has a tree of its own, which ends with it
    Run(run::RunArgs),
    /// Shows how a mount stands
    Status(status::StatusArgs),
    /// Ends what files show, here and in Vault; the next open fetches anew
    Revoke(revoke::RevokeArgs),
    /// Fetches files now
    Refresh(refresh::RefreshArgs),
    /// Revokes files and lets nobody open them until they are unlocked
    Lock(lock::LockArgs),
    /// Lets locked files be opened again
    Unlock(lock::UnlockArgs),
    /// Says everything about one file or directory, and what to do
    Explain(explain::ExplainArgs),
    /// Waits until a mount serves and files can be read
    Wait(wait::WaitArgs),
    /// Lets the binary that is installed now go on with a mount
    Upgrade(upgrade::UpgradeArgs),
    /// Revokes every lease of a mount and takes it away
    Unmount(unmount::UnmountArgs),
    /// Says what of a configuration would work, without minting anything
    Check(check::CheckArgs),
    /// Prints the least Vault policy that a configuration needs
    Policy(policy::PolicyArgs),
    /// Prints a configuration for what a KV prefix holds
    Init(init::InitArgs),
    /// Serves a mount that another process holds; `leasefs mount` starts it
    #[command(hide = true)]
    Serve(serve::ServeArgs),
    /// What the systemd unit does as root; the unit calls it
    #[command(hide = true)]
    Unit(unit::UnitArgs),
    /// Makes man pages and completions, for packages and for those who have the binary alone
    #[command(hide = true)]
    Generate(generate::GenerateArgs),
}

/// Does what the arguments say, or what mount(8) wants if it is called by a name of its own. Prints errors;
/// never panics.
#[must_use]
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    match arguments.first() {
        Some(program) if mount_helper::is_called(program) => mount_helper::main(arguments),
        Some(_) | None => command(arguments),
    }
}

fn command(arguments: Vec<OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing can be done about a closed terminal.
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Ok.into(),
                _ => Exit::Usage.into(),
            };
        }
    };
    let level = cli.log_level.as_deref().unwrap_or(match cli.command {
        Command::Run(_) => log::OF_RUN,
        _ => log::DEFAULT,
    });
    let started = match &cli.command {
        Command::Serve(args) if args.background => log::start_daemon().map(|log| background::let_go(&log)),
        _ => log::start(level),
    };
    let result = started.and_then(|()| run(&cli.command, level));
    result.unwrap_or_else(|error| {
        say(&error);
        error.exit().into()
    })
}

/// Prints something on standard error.
fn say(what: impl std::fmt::Display) {
    // Nothing can be done about a closed terminal.
    let _ = writeln!(io::stderr(), "leasefs: {what}");
}

fn run(command: &Command, level: &str) -> Result<ExitCode, CommandError> {
    let exit = match command {
        Command::Run(args) => return run::run(args),
        Command::Mount(args) => mount::run(args, level),
        Command::Serve(args) => serve::run(args),
        Command::Unit(args) => unit::run(args),
        Command::Status(args) => status::run(args),
        Command::Revoke(args) => revoke::run(args),
        Command::Refresh(args) => refresh::run(args),
        Command::Lock(args) => lock::lock(args),
        Command::Unlock(args) => lock::unlock(args),
        Command::Explain(args) => explain::run(args),
        Command::Wait(args) => wait::run(args),
        Command::Upgrade(args) => upgrade::run(args),
        Command::Unmount(args) => unmount::run(args),
        Command::Check(args) => check::run(args),
        Command::Policy(args) => policy::run(args),
        Command::Init(args) => init::run(args),
        Command::Generate(args) => generate::run(args),
    };
    exit.map(ExitCode::from)
}

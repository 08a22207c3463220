//! `/sbin/mount.leasefs` and `/sbin/mount.fuse.leasefs`: how mount(8), `/etc/fstab` and systemd's mount units
//! mount. The same binary under another name; it ends once the tree serves, and a daemon goes on.
//!
//! Exit codes are those of mount(8), not of sysexits(3).

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use crate::cli::background::{self, Process, Word};
use crate::cli::exit::{CommandError, Exit};
use crate::cli::log;
use crate::cli::mount::{self, Chosen, Unknown};
use crate::cli::output::print;
use crate::cli::serve::{self, Log};
use crate::config::{self, Environment};
use crate::daemon::{self, MountPointOrigin, Options};
use crate::fuse::mount_point::MountPoint;
use crate::fuse::session::FILE_SYSTEM_TYPE;
use crate::sys;

/// What mount(8) ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum MountExit {
    /// It is mounted and serves.
    Ok = 0,
    /// Wrong arguments, or not allowed.
    Invocation = 1,
    /// The system refused something basic.
    System = 2,
    /// A mistake in leasefs.
    Internal = 4,
    /// It could not be mounted.
    Failed = 32,
}

impl From<Exit> for MountExit {
    fn from(exit: Exit) -> MountExit {
        match exit {
            Exit::Ok => MountExit::Ok,
            Exit::Usage | Exit::NotAllowed => MountExit::Invocation,
            Exit::System => MountExit::System,
            Exit::Internal => MountExit::Internal,
            Exit::NotWell
            | Exit::Critical
            | Exit::Unknown
            | Exit::Unavailable
            | Exit::CantCreate
            | Exit::Io
            | Exit::Temporary
            | Exit::Config
            | Exit::NotExecutable
            | Exit::NoCommand => MountExit::Failed,
        }
    }
}

impl From<MountExit> for ExitCode {
    fn from(exit: MountExit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Mounts secrets of Vault as files, for mount(8).
#[derive(Parser, Debug)]
#[command(
    name = "mount.leasefs",
    version,
    after_help = "\
Examples:
  mount -t leasefs /etc/leasefs/agent.toml /mnt/agent
  mount -t leasefs agent /mnt/agent                      the same
  agent  /mnt/agent  leasefs  noauto,nofail,_netdev  0 0   in /etc/fstab

\"umount /mnt/agent\" revokes every lease and ends it."
)]
struct HelperArgs {
    /// The configuration file, or the NAME of /etc/leasefs/NAME.toml
    #[arg(value_name = "SOURCE")]
    source: PathBuf,
    /// An empty directory
    #[arg(value_name = "MOUNTPOINT")]
    mount_point: PathBuf,
    /// Options, separated by commas, as "leasefs mount" has them
    #[arg(short = 'o', value_name = "OPTIONS", value_delimiter = ',')]
    options: Vec<String>,
    /// Leaves out options that are not known
    #[arg(short = 's')]
    sloppy: bool,
    /// Looks whether it could be mounted, and does not
    #[arg(short = 'f')]
    fake: bool,
    /// Accepted: there is no /etc/mtab to write
    #[arg(short = 'n')]
    no_mtab: bool,
    /// Says what was done
    #[arg(short = 'v')]
    verbose: bool,
    /// Mounts in another mount namespace, a file such as /proc/PID/ns/mnt
    #[arg(short = 'N', value_name = "NAMESPACE")]
    namespace: Option<PathBuf>,
    /// Accepted: there is only one type
    #[arg(short = 't', value_name = "TYPE")]
    kind: Option<String>,
}

/// What can be typed, for its page in the manual.
pub(super) fn definition() -> clap::Command {
    HelperArgs::command()
}

/// Whether a program was called by one of the names that mount(8) knows it by.
pub(super) fn is_called(program: &OsStr) -> bool {
    let name = Path::new(program).file_name();
    name.is_some_and(|name| name == "mount.leasefs" || name == "mount.fuse.leasefs")
}

/// Does what mount(8) asks for. Prints errors; never panics.
pub(super) fn main(arguments: Vec<OsString>) -> ExitCode {
    let args = match HelperArgs::try_parse_from(arguments) {
        Ok(args) => args,
        Err(error) => {
            // Nothing can be done about a closed terminal.
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => MountExit::Ok.into(),
                _ => MountExit::Invocation.into(),
            };
        }
    };
    run(&args).unwrap_or_else(|error| {
        complain(&error.to_string());
        MountExit::from(error.exit()).into()
    })
}

fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "mount.leasefs: {message}");
}

fn run(args: &HelperArgs) -> Result<ExitCode, CommandError> {
    let options = request(args)?;
    if let Some(namespace) = &args.namespace {
        sys::enter_mount_namespace(namespace).map_err(|error| {
            CommandError::Usage(format!(
                "-N {}: {error}: name a file such as /proc/PID/ns/mnt",
                namespace.display()
            ))
        })?;
    }
    if args.fake {
        config::load(&options.config, &Environment::from_process())?;
        MountPoint::check(&options.mount_point)?;
        return Ok(MountExit::Ok.into());
    }
    match background::start()? {
        Process::Daemon(word) => Ok(serve(args, &options, word).into()),
        Process::Failed { exit, message } => {
            complain(&message);
            Ok(ExitCode::from(exit.unwrap_or(MountExit::Internal as u8)))
        }
        Process::Starter { daemon } => {
            if args.verbose {
                let (config, mount_point) = (options.config.display(), options.mount_point.display());
                print(&format!(
                    "{config} is mounted on {mount_point}, type {FILE_SYSTEM_TYPE}, process {daemon}\n"
                ))?;
            }
            Ok(MountExit::Ok.into())
        }
    }
}

/// What is mounted where. Paths are made absolute, since the daemon has no directory of its own.
fn request(args: &HelperArgs) -> Result<Options, CommandError> {
    let unknown = if args.sloppy { Unknown::Ignored } else { Unknown::Refused };
    let Chosen { allow_other, parent } = mount::chosen(&args.options, unknown)?;
    let config = match mount::plain_name(&args.source) {
        Some(name) => mount::config_of(name),
        None => args.source.clone(),
    };
    let absolute = |path: &Path| {
        std::path::absolute(path)
            .map_err(|error| CommandError::Usage(format!("{}: {error}: name a path", path.display())))
    };
    let (config, mount_point) = (absolute(&config)?, absolute(&args.mount_point)?);
    Ok(Options { config, mount_point, origin: MountPointOrigin::Named, allow_other, parent })
}

/// The daemon, from its beginning to its end.
fn serve(args: &HelperArgs, options: &Options, word: Word) -> MountExit {
    // Whoever is served first gets the word: the starter if it fails, or the log later.
    let word = Cell::new(Some(word));
    let result = log::start_daemon().and_then(|log| {
        let serving = || {
            if let Some(word) = word.take() {
                word.serves(&log);
            }
        };
        let program = serve::program(Log::Background, log::DEFAULT)?;
        Ok(daemon::run(&args.source.to_string_lossy(), options, &program, serving)?)
    });
    match result {
        Ok(()) => MountExit::Ok,
        Err(error) => {
            let exit = MountExit::from(error.exit());
            match word.take() {
                Some(word) => word.fails(exit as u8, &error.to_string()),
                None => tracing::error!("{error}"),
            }
            exit
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(arguments: &[&str]) -> HelperArgs {
        HelperArgs::try_parse_from([&["mount.leasefs"], arguments].concat()).unwrap()
    }

    #[test]
    fn it_is_called_by_its_names_alone() {
        for (program, called) in [
            ("/sbin/mount.leasefs", true),
            ("mount.fuse.leasefs", true),
            ("/usr/bin/leasefs", false),
            ("umount.leasefs", false),
            ("", false),
        ] {
            assert_eq!(is_called(OsStr::new(program)), called, "{program}");
        }
    }

    #[test]
    fn a_name_stands_for_its_configuration_and_a_path_for_itself() {
        let config = |source| request(&args(&[source, "/mnt/a"])).unwrap().config;
        assert_eq!(config("agent"), Path::new("/etc/leasefs/agent.toml"));
        assert_eq!(config("/srv/agent.toml"), Path::new("/srv/agent.toml"));
        assert_eq!(config("agent.toml"), std::env::current_dir().unwrap().join("agent.toml"));
    }

    #[test]
    fn the_arguments_of_mount_are_understood_in_its_order() {
        let parsed = args(&["agent", "/mnt/a", "-sfnv", "-o", "ro,x-y,allow_other", "-t", "fuse.leasefs"]);
        assert!(parsed.sloppy && parsed.fake && parsed.no_mtab && parsed.verbose);
        assert_eq!(request(&parsed).unwrap().allow_other, Some(true));
    }

    #[test]
    fn an_unknown_option_is_refused_unless_the_user_does_not_care() {
        let error = request(&args(&["a", "/b", "-o", "rw,uid=7"])).unwrap_err();
        assert_eq!(MountExit::from(error.exit()), MountExit::Invocation);
        assert!(error.to_string().contains("uid=7"), "{error}");
        assert!(request(&args(&["a", "/b", "-s", "-o", "rw,uid=7"])).is_ok());
    }

    #[test]
    fn the_numbers_are_those_of_mount() {
        for (exit, number) in
            [(Exit::Ok, 0), (Exit::Usage, 1), (Exit::System, 2), (Exit::Internal, 4), (Exit::Config, 32)]
        {
            assert_eq!(MountExit::from(exit) as u8, number, "{exit:?}");
        }
    }
}

//! What went wrong with a command, and the exit code that says so: the numbers of sysexits(3).

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use thiserror::Error;

use crate::config::Complaints;
use crate::control::{AskError, ControlError};
use crate::core::error::{Failure, Fault};
use crate::daemon::{DaemonError, SandboxError};
use crate::fuse::mount_point::MountError;
use crate::fuse::refusal::Refusal;
use crate::keeper::KeeperError;
use crate::run::namespace::NamespaceError;
use crate::run::scene::SceneError;
use crate::run::supervisor::StartError;
use crate::vault::client::ClientError;

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// All is well.
    Ok = 0,
    /// The command did its work and found, or left, something that is not as it should be.
    NotWell = 1,
    /// `status --check` alone: something is at fault.
    Critical = 2,
    /// `status --check` alone: nobody can tell.
    Unknown = 3,
    /// The arguments are wrong (`EX_USAGE`).
    Usage = 64,
    /// Vault, or the daemon, can't be reached (`EX_UNAVAILABLE`).
    Unavailable = 69,
    /// A mistake in leasefs itself (`EX_SOFTWARE`).
    Internal = 70,
    /// The system refused what should have been possible (`EX_OSERR`).
    System = 71,
    /// Something can't be made: a mount, a socket (`EX_CANTCREAT`).
    CantCreate = 73,
    /// A file can't be read or written (`EX_IOERR`).
    Io = 74,
    /// It may go well a moment later (`EX_TEMPFAIL`).
    Temporary = 75,
    /// The user may not (`EX_NOPERM`).
    NotAllowed = 77,
    /// The configuration is wrong (`EX_CONFIG`).
    Config = 78,
    /// `run` alone: the command can't be executed, as a shell has it.
    NotExecutable = 126,
    /// `run` alone: there is no such command, as a shell has it.
    NoCommand = 127,
}

impl Exit {
    /// All but those of a command that was not executed.
    const ALL: [Exit; 13] = [
        Exit::Ok,
        Exit::NotWell,
        Exit::Critical,
        Exit::Unknown,
        Exit::Usage,
        Exit::Unavailable,
        Exit::Internal,
        Exit::System,
        Exit::CantCreate,
        Exit::Io,
        Exit::Temporary,
        Exit::NotAllowed,
        Exit::Config,
    ];

    /// What a process of leasefs meant by its exit code.
    fn from_code(code: u8) -> Exit {
        Exit::ALL.into_iter().find(|exit| *exit as u8 == code).unwrap_or(Exit::Internal)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command could not do its work.
#[derive(Debug, Error)]
pub enum CommandError {
    /// An argument that is well-formed and of no use.
    #[error("{0}")]
    Usage(String),
    /// The configuration is wrong; one line for each complaint.
    #[error("the configuration can't be used:\n{0}")]
    Config(#[from] Complaints),
    /// The configuration is sound, and wants what the engines of Vault don't have.
    #[error("{0}")]
    AtOdds(String),
    /// Vault did not answer as it should have.
    #[error("{}", .0.reason)]
    Vault(Failure),
    /// There is nothing to make a configuration of.
    #[error("{prefix} holds nothing that can be shown{why}: write a secret there first, or correct the path")]
    NothingThere {
        /// As it was given.
        prefix: String,
        /// In brackets, or empty.
        why: String,
    },
    /// No client can be made of the configuration.
    #[error("{0}")]
    Client(#[from] ClientError),
    /// There is no mount, or no end of one.
    #[error("{0}")]
    Mount(#[from] MountError),
    /// There is no control socket.
    #[error("{0}")]
    Control(#[from] ControlError),
    /// The mount could not be made, or ended badly.
    #[error("{0}")]
    Daemon(#[from] DaemonError),
    /// The daemon could not be asked.
    #[error("{0}")]
    Ask(#[from] AskError),
    /// The mount would not go away in time.
    #[error(
        "{} is still mounted after {seconds} seconds: see what uses it (\"fuser -m\"), or run \"umount -l\"",
        mount_point.display()
    )]
    StillMounted {
        /// The mount point.
        mount_point: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A binary can't go on with a mount.
    #[error("nothing was changed: {} would not serve this mount:\n{said}", program.display())]
    NotAccepted {
        /// The binary.
        program: PathBuf,
        /// What it said.
        said: String,
    },
    /// A unit of systemd keeps the mount, and another user asks for it.
    #[error(
        "{unit} of systemd keeps this mount: run \"systemctl restart {unit}\" as root, which does the same"
    )]
    UnitNotAllowed {
        /// The unit.
        unit: String,
    },
    /// Nobody went on with a mount.
    #[error(
        "no server has taken over {} within {seconds} seconds: look at the log of its daemon",
        mount_point.display()
    )]
    NoSuccessor {
        /// The mount point.
        mount_point: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The daemon that was watched has ended.
    #[error("the leasefs on {} has ended, so there is nothing more to watch", mount_point.display())]
    Ended {
        /// The mount point.
        mount_point: PathBuf,
    },
    /// What was waited for did not come in time; a line for each file.
    #[error("{0}")]
    StillWaiting(String),
    /// The user ended it.
    #[error("interrupted: what was logged in for was revoked")]
    Interrupted,
    /// There is no namespace for a command's tree.
    #[error("{0}")]
    Namespace(#[from] NamespaceError),
    /// A command was not started.
    #[error("{0}")]
    Start(#[from] StartError),
    /// A command can't be shown what it was promised.
    #[error("{0}")]
    Scene(#[from] SceneError),
    /// In a namespace of users there is nobody else.
    #[error(
        "{name} belongs to another user or group, and without root the command's tree can show this user's \
         files alone: leave out `owner` and `group`, or run as root"
    )]
    ForeignOwner {
        /// Its name in the tree, or what it is.
        name: String,
    },
    /// The directory of a command's tree can't be made.
    #[error("no directory can be made for the tree: {0}: name one with --at")]
    NoPlace(io::Error),
    /// A command that there is not, or that is none.
    #[error("{}: {error}", command.display())]
    NotExecuted {
        /// As it was typed.
        command: OsString,
        /// What the system said.
        error: io::Error,
    },
    /// What the command prints can't be written.
    #[error("can't write the output: {0}: check where it goes")]
    Output(io::Error),
    /// The runtime, or a signal handler, can't be set up.
    #[error("the system has no room for another process: {0}: try again")]
    Runtime(io::Error),
}

impl CommandError {
    /// The code that it ends the process with.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            CommandError::Usage(_) => Exit::Usage,
            CommandError::Config(_) | CommandError::NotAccepted { .. } | CommandError::AtOdds(_) => {
                Exit::Config
            }
            CommandError::Vault(failure) => of_failure(failure),
            CommandError::NothingThere { .. } => Exit::NotWell,
            CommandError::NoSuccessor { .. } => Exit::Temporary,
            CommandError::UnitNotAllowed { .. } => Exit::NotAllowed,
            CommandError::Client(error) => of_client(error),
            CommandError::Mount(error) => of_mount(error),
            CommandError::Control(error) => of_control(error),
            CommandError::Daemon(error) => of_daemon(error),
            CommandError::Ask(error) => of_ask(error),
            CommandError::Ended { .. } => Exit::Unavailable,
            CommandError::StillMounted { .. } | CommandError::StillWaiting(_) | CommandError::Interrupted => {
                Exit::Temporary
            }
            CommandError::Namespace(_) => Exit::NotAllowed,
            CommandError::Start(error) => of_start(error),
            CommandError::Scene(_) | CommandError::NoPlace(_) => Exit::CantCreate,
            CommandError::ForeignOwner { .. } => Exit::Config,
            CommandError::NotExecuted { error, .. } => match error.kind() {
                io::ErrorKind::NotFound => Exit::NoCommand,
                _ => Exit::NotExecutable,
            },
            CommandError::Output(_) => Exit::Io,
            CommandError::Runtime(_) => Exit::System,
        }
    }
}

fn of_failure(failure: &Failure) -> Exit {
    match failure.fault {
        Fault::TimedOut | Fault::Unreachable | Fault::Sealed | Fault::NoLeader | Fault::RateLimited => {
            Exit::Unavailable
        }
        Fault::Denied | Fault::TokenLost => Exit::NotAllowed,
        Fault::NotFound
        | Fault::LeaseGone
        | Fault::NotRenewable
        | Fault::ServerError
        | Fault::Refused
        | Fault::Unusable
        | Fault::OutOfMemory => Exit::NotWell,
    }
}

fn of_start(error: &StartError) -> Exit {
    match error {
        StartError::Server { code, .. } => Exit::from_code(*code),
        StartError::ServerDied => Exit::Internal,
        StartError::Missing { .. } | StartError::Interrupted { .. } => Exit::Temporary,
        StartError::System { .. } => Exit::System,
    }
}

/// What a daemon ends with.
pub(super) fn of_daemon(error: &DaemonError) -> Exit {
    match error {
        DaemonError::Config(_)
        | DaemonError::Layout(_)
        | DaemonError::CredentialShut { .. }
        | DaemonError::Sandbox(SandboxError::NotRoot { .. }) => Exit::Config,
        DaemonError::ServerUserWithoutRoot => Exit::NotAllowed,
        DaemonError::NotRestarted { .. } => Exit::Unavailable,
        DaemonError::Client(error) => of_client(error),
        DaemonError::Mount(error) => of_mount(error),
        DaemonError::Control(error) => of_control(error),
        // Somebody may put the file right while it is tried again.
        DaemonError::Locks(_) => Exit::Io,
        DaemonError::MountPoint { .. } | DaemonError::ControlInReach { .. } | DaemonError::NotKept => {
            Exit::CantCreate
        }
        DaemonError::Keeper(KeeperError::Server { code, .. }) => Exit::from_code(*code),
        DaemonError::Keeper(KeeperError::GivenUp { .. }) | DaemonError::Record { .. } => Exit::Internal,
        DaemonError::Keeper(KeeperError::Mount(error)) => of_mount(error),
        DaemonError::Keeper(KeeperError::System { .. })
        | DaemonError::Sandbox(
            SandboxError::Threads { .. }
            | SandboxError::System { .. }
            | SandboxError::Landlock { .. }
            | SandboxError::Seccomp { .. },
        )
        | DaemonError::System { .. }
        | DaemonError::Broken { .. } => Exit::System,
    }
}

fn of_client(error: &ClientError) -> Exit {
    match error {
        ClientError::NoAddress
        | ClientError::BadAddress { .. }
        | ClientError::Unreadable { .. }
        | ClientError::NoCertificate { .. }
        | ClientError::BadClientCertificate { .. }
        | ClientError::BadServerName { .. }
        | ClientError::Tls => Exit::Config,
    }
}

fn of_mount(error: &MountError) -> Exit {
    match error {
        MountError::Unreadable { errno, .. }
        | MountError::NotUnmounted { errno, .. }
        | MountError::NotShared { errno, .. }
            if io::Error::from_raw_os_error(*errno).kind() == io::ErrorKind::PermissionDenied =>
        {
            Exit::NotAllowed
        }
        MountError::NoMountList { .. } | MountError::Unreadable { .. } | MountError::NotUnmounted { .. } => {
            Exit::System
        }
        MountError::Served { .. }
        | MountError::Dead { .. }
        | MountError::Occupied { .. }
        | MountError::Missing { .. }
        | MountError::NotADirectory { .. }
        | MountError::NotEmpty { .. }
        | MountError::Inside { .. }
        | MountError::NoParent
        | MountError::MountsBelow { .. }
        | MountError::NotShared { .. }
        | MountError::NoFuse
        | MountError::Refused { .. }
        | MountError::NotServed { .. } => Exit::CantCreate,
        MountError::DeviceDenied(_) | MountError::NotPermitted => Exit::NotAllowed,
        MountError::Unprivileged(refusal) | MountError::UnmountRefused { refusal, .. } => of_refusal(refusal),
    }
}

fn of_refusal(refusal: &Refusal) -> Exit {
    match refusal {
        Refusal::NotExecutable { .. }
        | Refusal::NoNewPrivileges { .. }
        | Refusal::NotSetUid { .. }
        | Refusal::NoSetUidThere { .. }
        | Refusal::CapabilityTaken
        | Refusal::NotOwned { .. }
        | Refusal::NotWritable { .. }
        | Refusal::OthersNotAllowed
        | Refusal::AppArmor { .. }
        | Refusal::OfAnother { .. } => Exit::NotAllowed,
        Refusal::NotInstalled { .. }
        | Refusal::TooMany { .. }
        | Refusal::FileSystem { .. }
        | Refusal::NoName { .. }
        | Refusal::TookTooLong { .. }
        | Refusal::NotRun { .. }
        | Refusal::Said { .. } => Exit::CantCreate,
    }
}

fn of_control(error: &ControlError) -> Exit {
    match error {
        ControlError::NoDirectory { .. }
        | ControlError::UnsafeDirectory { .. }
        | ControlError::NotMade { .. }
        | ControlError::TooLong { .. }
        | ControlError::AlreadyServed { .. } => Exit::CantCreate,
    }
}

fn of_ask(error: &AskError) -> Exit {
    match error {
        AskError::NotServed { .. } | AskError::NoMount => Exit::Unavailable,
        AskError::SeveralMounts { .. } | AskError::UnknownName { .. } => Exit::Usage,
        AskError::NotAllowed { .. } => Exit::NotAllowed,
        AskError::NoSuccessor => Exit::Unavailable,
        AskError::TimedOut => Exit::Temporary,
        AskError::Closed | AskError::Broken { .. } => Exit::Io,
        AskError::OtherVersion => Exit::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_sysexits() {
        for (exit, number) in [
            (Exit::Ok, 0),
            (Exit::NotWell, 1),
            (Exit::Critical, 2),
            (Exit::Unknown, 3),
            (Exit::Usage, 64),
            (Exit::Unavailable, 69),
            (Exit::Internal, 70),
            (Exit::System, 71),
            (Exit::CantCreate, 73),
            (Exit::Io, 74),
            (Exit::Temporary, 75),
            (Exit::NotAllowed, 77),
            (Exit::Config, 78),
        ] {
            assert_eq!(exit as u8, number, "{exit:?}");
            assert_eq!(Exit::from_code(number), exit);
        }
    }

    #[test]
    fn who_may_not_and_what_is_not_there_are_told_apart() {
        let path = PathBuf::from("/run/x");
        for (error, exit) in [
            (CommandError::from(MountError::NotPermitted), Exit::NotAllowed),
            (MountError::Missing { path: path.clone() }.into(), Exit::CantCreate),
            (MountError::NotUnmounted { path: path.clone(), errno: 1 }.into(), Exit::NotAllowed),
            (MountError::NotUnmounted { path: path.clone(), errno: 5 }.into(), Exit::System),
            (AskError::NoMount.into(), Exit::Unavailable),
            (AskError::NotAllowed { mount_point: path.clone() }.into(), Exit::NotAllowed),
            (AskError::TimedOut.into(), Exit::Temporary),
            (ClientError::NoAddress.into(), Exit::Config),
            (ControlError::AlreadyServed { mount_point: path, pid: Some(7) }.into(), Exit::CantCreate),
        ] {
            assert_eq!(error.exit(), exit, "{error}");
        }
    }
}

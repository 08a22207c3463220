//! `leasefs wait`: until files can be read.
//!
//! It asks the control socket and never touches the mount, so that a mount that hangs can't hang it. One
//! question is answered within about a second; between two of them everything may have changed, also the
//! daemon.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::cli::daemon_of;
use crate::cli::exit::{CommandError, Exit};
use crate::cli::output::{clean, span};
use crate::control::AskError;
use crate::control::protocol::{Ask, Reply, WaitReport, WaitedFile};
use crate::core::time::BootTime;
use crate::sys;

/// The longest that an answer waits.
const ROUND: Duration = Duration::from_secs(1);

/// How long it rests between two questions.
const PAUSE: Duration = Duration::from_millis(200);

/// How much longer than it was asked to wait an answer may take.
const SLACK: Duration = Duration::from_secs(2);

/// Waits until the mount serves and files can be read.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  leasefs wait agent                                   until all files with `required = true` are there
  leasefs wait /run/leasefs/agent db/password --timeout 30s
  ExecStartPre=leasefs wait agent db tls               in the unit of what reads them

A daemon that is not there yet is waited for. Named files that nobody has opened are fetched; below a tree a
file may be named, too. It ends with 0 once all are there, with 75 and the reasons if they are not in time.")]
pub struct WaitArgs {
    /// The mount point, or the NAME of /run/leasefs/NAME
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: PathBuf,
    /// Files, or directories for all that is below them; default those that are required
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// How long to wait at most
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

/// What is waited for at the moment.
enum Lack {
    /// Nothing.
    Nothing,
    /// The daemon: why it can't be asked.
    Daemon(AskError),
    /// These files.
    Files(Vec<WaitedFile>),
}

/// Waits.
///
/// # Errors
/// [`CommandError::StillWaiting`] when the time is over; others at once.
pub fn run(args: &WaitArgs) -> Result<Exit, CommandError> {
    let began = sys::boot_time();
    let deadline = began + args.timeout;
    let mut progress = Progress::start(began);
    loop {
        let now = sys::boot_time();
        let lack = ask(&args.mount_point, &args.names, deadline.since(now))?;
        let lack = match lack {
            Lack::Nothing => return Ok(Exit::Ok),
            lack => lack,
        };
        let now = sys::boot_time();
        if now >= deadline {
            drop(progress);
            return Err(CommandError::StillWaiting(reasons(&lack, args.timeout)));
        }
        progress.show(now, &in_short(&lack));
        std::thread::sleep(PAUSE.min(deadline.since(now)));
    }
}

/// Asks once.
fn ask(mount_point: &Path, names: &[String], patience: Duration) -> Result<Lack, CommandError> {
    let asked = daemon_of::connect(Some(mount_point)).and_then(|mut client| {
        client.be_patient(patience.min(ROUND) + SLACK)?;
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        Ok(client.ask(Ask::Wait { names: names.to_vec(), patience_ms })?)
    });
    match asked {
        Ok(Reply::Waited(report)) => Ok(lack_of(report)),
        Ok(_) => Err(AskError::OtherVersion.into()),
        // It is about to come, or about to go and to be replaced.
        Err(CommandError::Ask(
            error @ (AskError::NotServed { .. }
            | AskError::NoMount
            | AskError::Closed
            | AskError::Broken { .. }
            | AskError::TimedOut),
        )) => Ok(Lack::Daemon(error)),
        Err(error) => Err(error),
    }
}

fn lack_of(report: WaitReport) -> Lack {
    let missing: Vec<WaitedFile> = report.missing().cloned().collect();
    if missing.is_empty() { Lack::Nothing } else { Lack::Files(missing) }
}

/// One line for a terminal.
fn in_short(lack: &Lack) -> String {
    match lack {
        Lack::Nothing => String::new(),
        Lack::Daemon(_) => "the daemon".to_owned(),
        Lack::Files(files) => match files.as_slice() {
            [] => String::new(),
            [file] => line(file),
            [file, more @ ..] => format!("{} and {} more", line(file), more.len()),
        },
    }
}

/// All that is missing, for the message at the end.
fn reasons(lack: &Lack, timeout: Duration) -> String {
    let head = format!("not ready after {}", humantime::format_duration(timeout));
    match lack {
        Lack::Nothing => head,
        Lack::Daemon(error) => format!("{head}: {error}"),
        Lack::Files(files) => {
            files.iter().fold(format!("{head}:"), |text, file| format!("{text}\n{}", line(file)))
        }
    }
}

fn line(file: &WaitedFile) -> String {
    let why = match (&file.error, file.state.as_str()) {
        (Some(reason), "locked") => format!("it is locked: {}", clean(reason)),
        (Some(reason), _) => clean(reason),
        (None, _) => "it has not been fetched yet".to_owned(),
    };
    format!("{}: {why}", clean(&file.name))
}

/// One line on a terminal that says what is waited for; taken away when it is dropped.
pub(super) struct Progress {
    began: BootTime,
    is_shown: bool,
}

impl Progress {
    /// Shows nothing yet.
    pub(super) fn start(began: BootTime) -> Progress {
        Progress { began, is_shown: false }
    }

    /// Says that `what` is waited for, in the place of what it said before.
    pub(super) fn show(&mut self, now: BootTime, what: &str) {
        let mut out = io::stderr();
        if !out.is_terminal() {
            return;
        }
        self.is_shown = true;
        let line = format!("waiting for {what} ({})", span(now.since(self.began).as_secs()));
        // A line that wraps could not be taken away.
        let line: String = line.chars().take(crate::cli::output::width().saturating_sub(1)).collect();
        // Nothing can be done about a closed terminal.
        let _ = write!(out, "\r\u{1b}[K{line}").and_then(|()| out.flush());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            let _ = write!(io::stderr(), "\r\u{1b}[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, state: &str, error: Option<&str>) -> WaitedFile {
        let error = error.map(str::to_owned);
        WaitedFile { name: name.to_owned(), live: state == "live", state: state.to_owned(), error }
    }

    #[test]
    fn what_is_missing_is_told_with_each_reason() {
        let files = vec![
            file("a", "live", None),
            file("b", "failed", Some("Vault is\nsealed")),
            file("c", "locked", Some("incident 12")),
            file("d", "idle", None),
        ];
        let lack = lack_of(WaitReport { files });
        assert_eq!(in_short(&lack), "b: Vault is sealed and 2 more");
        assert_eq!(
            reasons(&lack, Duration::from_secs(90)),
            "not ready after 1m 30s:\nb: Vault is sealed\nc: it is locked: incident 12\n\
             d: it has not been fetched yet"
        );
    }

    #[test]
    fn nothing_is_missing_when_all_are_live_or_none_is_required() {
        assert!(matches!(lack_of(WaitReport { files: vec![file("a", "live", None)] }), Lack::Nothing));
        assert!(matches!(lack_of(WaitReport { files: Vec::new() }), Lack::Nothing));
    }
}

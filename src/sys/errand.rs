//! A program of the system that does one thing for this process and ends: run to its end in bounded time, and what
//! it says is kept.
//!
//! Invariant: *bounded*: it is waited for as long as the caller says and a moment longer, whatever it does.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, killpg, sigprocmask};
use nix::unistd::Pid;

use crate::core::time::BootTime;
use crate::sys::{boot_time, process};

/// The longest text that is kept, in bytes; the rest is read and dropped.
const LONGEST: usize = 4096;

/// How often it is looked whether a program has ended that says nothing more.
const LOOK: Duration = Duration::from_millis(2);

/// How long a program that was killed may take to be gone. One that waits for a dead disk or server does not go:
/// it is left behind.
const AFTER_KILL: Duration = Duration::from_millis(500);

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Errand {
    /// By itself.
    Done {
        /// Whether its exit code was 0.
        success: bool,
        /// What it wrote to standard error.
        said: String,
    },
    /// It was killed, since it took too long.
    TookTooLong,
}

/// Runs a program that reads and prints nothing. It is in a process group of its own, so that Ctrl-C does not
/// reach it, and no signal is blocked in it.
///
/// # Errors
/// What fork(2), execve(2) or reading from it says.
pub fn run(command: &mut Command, patience: Duration) -> io::Result<Errand> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    let unblock = || Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?);
    // SAFETY: it runs between fork and exec, makes one system call, and neither allocates nor takes a lock.
    unsafe { command.pre_exec(unblock) };
    let deadline = boot_time() + patience;
    let mut child = command.spawn()?;
    let said = match child.stderr.take() {
        Some(stream) => listen(stream, deadline),
        None => Ok(String::new()),
    };
    let result = match said {
        Ok(said) => ended_by(&mut child, deadline).map(|status| (status, said)),
        Err(error) => Err(error),
    };
    match result {
        Ok((Some(status), said)) => Ok(Errand::Done { success: status.success(), said }),
        Ok((None, _)) => {
            kill(&mut child);
            Ok(Errand::TookTooLong)
        }
        Err(error) => {
            kill(&mut child);
            Err(error)
        }
    }
}

/// What comes until the end of the stream or the deadline.
fn listen(mut stream: ChildStderr, deadline: BootTime) -> io::Result<String> {
    fcntl(&stream, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let mut said = Vec::new();
    let mut buffer = [0; 512];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => said.extend(buffer[..count].iter().take(LONGEST.saturating_sub(said.len()))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let now = boot_time();
                if now >= deadline {
                    break;
                }
                process::wait_for(&[stream.as_fd()], Some(deadline.since(now)))?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&said).into_owned())
}

fn ended_by(child: &mut Child, deadline: BootTime) -> io::Result<Option<ExitStatus>> {
    loop {
        match child.try_wait()? {
            None if boot_time() < deadline => thread::sleep(LOOK),
            ended => return Ok(ended),
        }
    }
}

/// Kills it and whatever it has started in its group, and waits for it, unless it does not die.
fn kill(child: &mut Child) {
    // A set-uid program that its user has started can be signalled by that user (kill(2)). One that is gone is
    // what was wanted.
    let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
    let deadline = boot_time() + AFTER_KILL;
    let _ = ended_by(child, deadline);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str, patience: Duration) -> Errand {
        run(Command::new("/bin/sh").args(["-c", line]), patience).unwrap()
    }

    #[test]
    fn what_it_says_is_kept_and_its_code_is_told() {
        let long = Duration::from_secs(20);
        let done = |success, said: &str| Errand::Done { success, said: said.to_owned() };
        assert_eq!(shell("echo told; echo why >&2; exit 3", long), done(false, "why\n"));
        assert_eq!(shell("exec 2>&-; sleep 0.1", long), done(true, ""));
        let Errand::Done { success: true, said } = shell("head -c 9999 /dev/zero >&2", long) else {
            panic!()
        };
        assert_eq!(said.len(), LONGEST);
    }

    #[test]
    fn whatever_takes_too_long_is_killed_with_what_it_has_started() {
        let short = Duration::from_millis(50);
        for line in ["sleep 1000", "exec 2>&-; sleep 1000", "sleep 1000 & wait", "trap '' TERM; sleep 1000"] {
            let begun = boot_time();
            assert_eq!(shell(line, short), Errand::TookTooLong, "{line}");
            assert!(boot_time().since(begun) < Duration::from_secs(5), "{line}");
        }
    }

    #[test]
    fn what_can_not_be_started_is_an_error() {
        let error = run(&mut Command::new("/nonexistent"), Duration::from_secs(1)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}

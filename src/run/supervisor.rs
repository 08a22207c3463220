//! The process that the user started: it starts the command, passes signals on, and waits for its end and for
//! that of all its children.
//!
//! The command stays in this process's group, so that the terminal is its own and a shell sees one job. What
//! the terminal sends has reached the command already and is not passed on. When a stop of the terminal's
//! stops the command, this process stops too, and goes on with it.
//!
//! Invariants: *one thread*: the command is told of this process's death, which the kernel notes by thread;
//! *the server goes last*: it is told to end when no process of the command is left.

use std::io;
use std::os::fd::AsFd;
use std::process::{Child, Command};
use std::time::Duration;

use thiserror::Error;

use crate::core::time::BootTime;
use crate::link::{self, LinkState, ServerEnd, SupervisorEnd};
use crate::run::words::{Missing, Word};
use crate::sys;
use crate::sys::process::{self, Arrival, Change, CoreLimit, Fork, Origin, Pid, Signal, Signals};

/// How long processes that were asked to end may take before they are made to.
const GRACE: Duration = Duration::from_secs(5);

/// How long the server may take to give everything back: twice what it takes at most.
const LAST_PATIENCE: Duration = Duration::from_secs(30);

/// How often something is looked at that tells nobody when it changes.
const LOOK: Duration = Duration::from_millis(50);

/// How often the wait for what is required is shown; a shorter one is not.
const SHOWN: Duration = Duration::from_millis(300);

/// What becomes of processes that the command leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftovers {
    /// They are waited for.
    Awaited,
    /// They are ended.
    Killed,
}

/// Why the command was not started.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StartError {
    /// The server can't serve.
    #[error("{message}")]
    Server {
        /// The exit code that says so.
        code: u8,
        /// What it says.
        message: String,
    },
    /// The server has gone without a word.
    #[error("the process that was to serve the tree has died: look for it in the system's log")]
    ServerDied,
    /// What is required did not come.
    #[error("the command was not started: {}", reasons(files))]
    Missing {
        /// What, and why.
        files: Vec<Missing>,
    },
    /// Somebody ended it.
    #[error("the command was not started: interrupted by signal {}", signal.0)]
    Interrupted {
        /// By what.
        signal: Signal,
    },
    /// The system refused something basic.
    #[error("{what}: {}: try again", io::Error::from_raw_os_error(*errno))]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        errno: i32,
    },
}

fn reasons(files: &[Missing]) -> String {
    let reason = |file: &Missing| {
        let why = file.why.as_deref().unwrap_or("it was not fetched in time");
        format!("{}: {why}", file.name)
    };
    match files {
        [] => "the tree was not mounted in time".to_owned(),
        [file] => reason(file),
        files => files
            .iter()
            .fold("not all files are there:".to_owned(), |text, file| format!("{text}\n{}", reason(file))),
    }
}

/// Why the tree was gone before the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The server died.
    Died,
    /// Somebody unmounted it.
    Unmounted,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Its exit code: 128 and the number of the signal, if one ended it.
    pub code: u8,
    /// Whether it was ended since its tree was gone.
    pub loss: Option<Loss>,
}

/// The running server, and all that its supervisor waits for.
#[derive(Debug)]
pub struct Supervisor {
    server: Pid,
    /// `None` once it was waited for.
    server_code: Option<u8>,
    link: SupervisorEnd<Word>,
    signals: Signals,
    core: CoreLimit,
}

impl Supervisor {
    /// Starts the server in a process of its own: `serve` runs there and returns its exit code. This process
    /// must have one thread.
    ///
    /// # Errors
    /// [`StartError::System`].
    pub fn start(serve: impl FnOnce(ServerEnd<Word>) -> u8) -> Result<Supervisor, StartError> {
        let system = |what: &'static str| {
            move |error: io::Error| StartError::System {
                what,
                errno: error.raw_os_error().unwrap_or_default(),
            }
        };
        let core = process::core_limit().map_err(system("the limit of core dumps can't be read"))?;
        sys::forbid_core_dumps().map_err(system("core dumps can't be forbidden"))?;
        process::adopt_orphans().map_err(system("orphans can't be waited for"))?;
        let signals = Signals::catch().map_err(system("signals can't be caught"))?;
        let (link, theirs) = link::pair().map_err(system("no socket can be made"))?;
        match process::fork().map_err(system("no process can be made"))? {
            Fork::Parent { child } => {
                Ok(Supervisor { server: child, server_code: None, link, signals, core })
            }
            Fork::Child => {
                drop(link);
                // It ends when the supervisor does, whatever else it is sent.
                process::ignore_ends();
                let left = signals.release().and_then(|()| process::leave_terminal());
                let code = if left.is_ok() { serve(theirs) } else { 71 };
                std::process::exit(i32::from(code));
            }
        }
    }

    /// Waits until all that is required is there; `show` is told now and then what is not.
    ///
    /// # Errors
    /// [`StartError`]; call [`Supervisor::finish`] all the same.
    pub fn await_ready(
        &mut self,
        patience: Duration,
        mut show: impl FnMut(&[Missing]),
    ) -> Result<(), StartError> {
        let mut shown = sys::boot_time();
        let deadline = shown + patience;
        let mut missing = Vec::new();
        loop {
            let heard = self.link.hear();
            for word in heard.words {
                match word {
                    Word::Ready => return Ok(()),
                    Word::Failed { code, message } => return Err(StartError::Server { code, message }),
                    Word::Ended => return Err(StartError::ServerDied),
                    Word::Waiting { files } => missing = files,
                }
            }
            if heard.state == LinkState::Closed {
                return Err(StartError::ServerDied);
            }
            if missing.iter().any(|file| !file.may_come) || sys::boot_time() >= deadline {
                return Err(StartError::Missing { files: missing });
            }
            if sys::boot_time() >= shown + SHOWN {
                shown = sys::boot_time();
                show(&missing);
            }
            self.doze(Some(SHOWN))?;
            while let Some(Arrival { signal, origin }) = self.signals.next() {
                match signal {
                    Signal::INT | Signal::TERM | Signal::HUP | Signal::QUIT => {
                        return Err(StartError::Interrupted { signal });
                    }
                    Signal::TSTP if origin == Origin::Kernel => stop_too(),
                    _ => {}
                }
            }
        }
    }

    /// Starts the command.
    ///
    /// # Errors
    /// Why it can't be executed.
    pub fn spawn(&mut self, command: &mut Command) -> io::Result<Child> {
        process::as_if_without_us(command, &self.signals, self.core);
        command.spawn()
    }

    /// Waits until no process of the command is left. `tell` is told at once if the tree is lost before.
    ///
    /// # Errors
    /// [`StartError::System`].
    pub fn watch(
        &mut self,
        command: &Child,
        leftovers: Leftovers,
        mut tell: impl FnMut(Loss),
    ) -> Result<Ending, StartError> {
        let pid = Pid(i32::try_from(command.id()).unwrap_or_default());
        let mut watch = Watch { command: pid, code: None, loss: None, end: None, leftovers };
        loop {
            while let Some(change) = process::changed_child() {
                self.note_server(change);
                watch.child_changed(change);
            }
            if watch.loss.is_none()
                && let Some(loss) = self.lost()
            {
                watch.loss = Some(loss);
                tell(loss);
            }
            let left = self.others();
            if let Some(code) = watch.code
                && left.is_empty()
            {
                return Ok(Ending { code, loss: watch.loss });
            }
            let patience = watch.end_what_is_left(&left);
            self.doze(patience)?;
            while let Some(arrival) = self.signals.next() {
                watch.signal_came(arrival);
            }
        }
    }

    /// Tells the server to give everything back and waits for its end, in bounded time. Returns what it could
    /// not do, if it says so.
    pub fn finish(mut self) -> Option<String> {
        self.link.finish();
        let deadline = sys::boot_time() + LAST_PATIENCE;
        let mut trouble = None;
        loop {
            for word in self.link.hear().words {
                if let Word::Failed { message, .. } = word {
                    trouble = Some(message);
                }
            }
            while let Some(change) = process::changed_child() {
                self.note_server(change);
            }
            if self.server_code.is_some() {
                return trouble;
            }
            if sys::boot_time() >= deadline {
                let _ = process::send(self.server, Signal::KILL);
                return Some("the process that serves the tree does not end: it was killed".to_owned());
            }
            // A signal that comes now is too late to matter.
            let _ = self.doze(Some(LOOK));
            while self.signals.next().is_some() {}
        }
    }

    fn note_server(&mut self, change: Change) {
        if let Change::Ended { pid, code, .. } = change
            && pid == self.server
        {
            self.server_code = Some(code);
        }
    }

    /// Whether the server has gone though nobody told it to.
    fn lost(&mut self) -> Option<Loss> {
        let heard = self.link.hear();
        let ended = heard.words.iter().any(|word| matches!(word, Word::Ended | Word::Failed { .. }));
        match (ended, heard.state) {
            (true, _) => Some(Loss::Unmounted),
            (false, LinkState::Closed) => Some(Loss::Died),
            (false, LinkState::Open) => None,
        }
    }

    /// Processes of the command that are this one's children by now.
    fn others(&self) -> Vec<Pid> {
        // Without the kernel's list the command itself is still waited for.
        let mut others = process::children().unwrap_or_default();
        others.retain(|pid| *pid != self.server);
        others
    }

    fn doze(&self, patience: Option<Duration>) -> Result<(), StartError> {
        // The server's end stays readable once it is closed.
        let link_open = self.server_code.is_none();
        let both = [self.signals.as_fd(), self.link.as_fd()];
        let fds = if link_open { &both[..] } else { &both[..1] };
        process::wait_for(fds, patience).map_err(|error| StartError::System {
            what: "nothing can be waited for",
            errno: error.raw_os_error().unwrap_or_default(),
        })
    }
}

/// What is known of a running command.
struct Watch {
    command: Pid,
    /// Once it has ended.
    code: Option<u8>,
    loss: Option<Loss>,
    end: Option<End>,
    leftovers: Leftovers,
}

/// Processes are being ended.
struct End {
    /// When they are made to.
    deadline: BootTime,
    asked: Vec<Pid>,
}

impl Watch {
    fn child_changed(&mut self, change: Change) {
        match change {
            Change::Ended { pid, code, .. } if pid == self.command => self.code = Some(code),
            Change::Stopped { pid, signal } if pid == self.command && stops_the_job(signal) => {
                stop_too();
                let _ = process::send(self.command, Signal::CONT);
            }
            Change::Ended { .. } | Change::Stopped { .. } => {}
        }
    }

    fn signal_came(&mut self, Arrival { signal, origin }: Arrival) {
        match (signal, origin) {
            (Signal::CHLD, _) => {}
            // The terminal has sent it to the command too.
            (_, Origin::Kernel) if self.code.is_none() => {}
            (Signal::TTIN | Signal::TTOU, _) => {}
            _ if self.code.is_none() => {
                // Gone at this very moment: there is nobody to tell.
                let _ = process::send(self.command, signal);
            }
            (Signal::INT | Signal::TERM | Signal::HUP | Signal::QUIT, _) => self.begin_end(),
            _ => {}
        }
    }

    fn begin_end(&mut self) {
        self.end.get_or_insert_with(|| End { deadline: sys::boot_time() + GRACE, asked: Vec::new() });
    }

    /// Ends processes, if that is what is to become of them. Returns how soon to look again.
    fn end_what_is_left(&mut self, left: &[Pid]) -> Option<Duration> {
        let is_over = self.code.is_some() && self.leftovers == Leftovers::Killed;
        if is_over || self.loss.is_some() {
            self.begin_end();
        }
        let end = self.end.as_mut()?;
        let is_late = sys::boot_time() >= end.deadline;
        for pid in left {
            // Each may be gone already.
            if is_late {
                let _ = process::send(*pid, Signal::KILL);
            } else if !end.asked.contains(pid) {
                end.asked.push(*pid);
                let _ = process::send(*pid, Signal::TERM);
                let _ = process::send(*pid, Signal::CONT);
            }
        }
        Some(LOOK)
    }
}

/// Whether a stop of the command is one of its whole job: one of the terminal's, or any as long as there is a
/// terminal from which somebody can let it go on.
fn stops_the_job(signal: Signal) -> bool {
    match signal {
        Signal::TSTP | Signal::TTIN | Signal::TTOU => true,
        Signal::STOP => std::fs::File::open("/dev/tty").is_ok(),
        _ => false,
    }
}

/// Stops this process until somebody lets it go on.
fn stop_too() {
    let _ = process::send(process::own_pid(), Signal::STOP);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(name: &str, why: Option<&str>) -> Missing {
        Missing { name: name.to_owned(), why: why.map(str::to_owned), may_come: true }
    }

    #[test]
    fn a_command_that_was_not_started_has_its_reasons() {
        let one = StartError::Missing { files: vec![missing("db", Some("Vault is sealed"))] };
        assert_eq!(one.to_string(), "the command was not started: db: Vault is sealed");
        let two = StartError::Missing { files: vec![missing("a", Some("no")), missing("b", None)] };
        assert_eq!(
            two.to_string(),
            "the command was not started: not all files are there:\na: no\nb: it was not fetched in time"
        );
    }
}

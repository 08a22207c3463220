//! Processes: forking, signals as data, waiting for children, a program that is started as if by a shell.
//!
//! Invariant: *one thread forks*: a process with more than one can't be forked here.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{self, ForkResult};

/// The number of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(pub i32);

/// The number of a signal (signal(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(pub i32);

impl Signal {
    /// The terminal is gone, or somebody wants it to read its settings again.
    pub const HUP: Signal = Signal(libc::SIGHUP);
    /// Ctrl-C.
    pub const INT: Signal = Signal(libc::SIGINT);
    /// Ctrl-\.
    pub const QUIT: Signal = Signal(libc::SIGQUIT);
    /// The end, without a choice.
    pub const KILL: Signal = Signal(libc::SIGKILL);
    /// The end, please.
    pub const TERM: Signal = Signal(libc::SIGTERM);
    /// A child has changed.
    pub const CHLD: Signal = Signal(libc::SIGCHLD);
    /// On again.
    pub const CONT: Signal = Signal(libc::SIGCONT);
    /// A stop, without a choice.
    pub const STOP: Signal = Signal(libc::SIGSTOP);
    /// Ctrl-Z.
    pub const TSTP: Signal = Signal(libc::SIGTSTP);
    /// It has read from the terminal in the background.
    pub const TTIN: Signal = Signal(libc::SIGTTIN);
    /// It has written to the terminal in the background.
    pub const TTOU: Signal = Signal(libc::SIGTTOU);

    /// All that a process can take note of, but for those that tell of its own mistakes.
    const CAUGHT: [i32; 15] = [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGTERM,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGALRM,
        libc::SIGCHLD,
        libc::SIGCONT,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
        libc::SIGWINCH,
        libc::SIGPWR,
        libc::SIGURG,
    ];
}

// ---- Forking ----

/// Which of the two this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// The process that was there before.
    Parent {
        /// The new one.
        child: Pid,
    },
    /// The new one.
    Child,
}

/// Makes a second process of this one (fork(2)).
///
/// # Errors
/// What fork(2) says, or `EBUSY`: there is more than one thread.
pub fn fork() -> io::Result<Fork> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(Errno::EBUSY.into());
    }
    // SAFETY: there is no other thread whose locks, or whose half-done work, the child could inherit.
    match unsafe { unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Fork::Parent { child: Pid(child.as_raw()) }),
        ForkResult::Child => Ok(Fork::Child),
    }
}

/// The number of this process.
pub fn own_pid() -> Pid {
    Pid(unistd::getpid().as_raw())
}

/// Leaves the terminal, its signals, and the streams that the user gave but for standard error, so that
/// nobody waits for their end.
///
/// # Errors
/// What setsid(2), open(2) or dup2(2) says.
pub fn leave_terminal() -> io::Result<()> {
    unistd::setsid()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    unistd::dup2_stdin(&null)?;
    unistd::dup2_stdout(&null)?;
    Ok(())
}

/// Lets orphans among this process's descendants become its children (prctl(2),
/// `PR_SET_CHILD_SUBREAPER`).
///
/// # Errors
/// What prctl(2) says.
pub fn adopt_orphans() -> io::Result<()> {
    Ok(prctl::set_child_subreaper(true)?)
}

/// The children of this process, those that have ended and were not waited for included
/// (proc_pid_task(5)). Complete, as only this process's own waiting takes one away.
///
/// # Errors
/// What the system says; `NotFound` on kernels without `CONFIG_PROC_CHILDREN`.
pub fn children() -> io::Result<Vec<Pid>> {
    let pid = std::process::id();
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(text.split_whitespace().flat_map(str::parse).map(Pid).collect())
}

// ---- Signals ----

/// Signals that come as data, since this was made.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
    /// What was blocked before.
    before: SigSet,
}

/// A signal that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Which.
    pub signal: Signal,
    /// From where.
    pub origin: Origin,
}

/// Where a signal comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The kernel: a terminal, which sends it to the whole group in its foreground.
    Kernel,
    /// A process, which has sent it to this one or to its group.
    Process,
}

impl Signals {
    /// Catches whatever can be passed on.
    ///
    /// # Errors
    /// What sigprocmask(2) or signalfd(2) says.
    pub fn catch() -> io::Result<Signals> {
        Signals::catch_only(&Signal::CAUGHT.map(Signal))
    }

    /// Catches these.
    ///
    /// # Errors
    /// As [`Signals::catch`].
    pub fn catch_only(signals: &[Signal]) -> io::Result<Signals> {
        let mut caught = SigSet::empty();
        for signal in signals {
            caught.add(nix::sys::signal::Signal::try_from(signal.0)?);
        }
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&caught), Some(&mut before))?;
        let fd = SignalFd::with_flags(&caught, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Signals { fd, before })
    }

    /// The next one that has come. Never blocks.
    pub fn next(&self) -> Option<Arrival> {
        let found = self.fd.read_signal().ok()??;
        let origin = if found.ssi_code > 0 { Origin::Kernel } else { Origin::Process };
        Some(Arrival { signal: Signal(i32::try_from(found.ssi_signo).unwrap_or(0)), origin })
    }

    /// Lets signals do again what they did before; for a child that was forked.
    ///
    /// # Errors
    /// What sigprocmask(2) says.
    pub fn release(self) -> io::Result<()> {
        Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None)?)
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Makes signals that end a process do nothing to this one: it ends when it is told to by other means.
pub fn ignore_ends() {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        // SAFETY: SIG_IGN runs no code of this process.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Sends a signal (kill(2)).
///
/// # Errors
/// What kill(2) says: `ESRCH` if it is gone.
pub fn send(to: Pid, signal: Signal) -> io::Result<()> {
    let signal = nix::sys::signal::Signal::try_from(signal.0)?;
    Ok(nix::sys::signal::kill(unistd::Pid::from_raw(to.0), signal)?)
}

/// Waits until one of these can be read, or the time is over; also returns when a signal interrupts it.
///
/// # Errors
/// What poll(2) says.
pub fn wait_for(fds: &[BorrowedFd<'_>], patience: Option<Duration>) -> io::Result<()> {
    let mut polled: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    let timeout = patience
        .map_or(PollTimeout::NONE, |patience| PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX));
    match nix::poll::poll(&mut polled, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

// ---- Children ----

/// What has become of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It has ended; the code is 128 and the signal's number if one has ended it.
    Ended {
        /// Which.
        pid: Pid,
        /// As a shell has it.
        code: u8,
        /// Whether its memory was written to a core dump.
        dumped: bool,
    },
    /// It was stopped.
    Stopped {
        /// Which.
        pid: Pid,
        /// By what.
        signal: Signal,
    },
}

/// The next change of any child, if there is one (waitpid(2)). Never blocks.
pub fn changed_child() -> Option<Change> {
    loop {
        let pid = |pid: unistd::Pid| Pid(pid.as_raw());
        match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED)) {
            Ok(WaitStatus::Exited(child, code)) => {
                let code = u8::try_from(code & 0xff).unwrap_or(1);
                return Some(Change::Ended { pid: pid(child), code, dumped: false });
            }
            Ok(WaitStatus::Signaled(child, signal, dumped)) => {
                let code = u8::try_from(128 + signal as i32).unwrap_or(u8::MAX);
                return Some(Change::Ended { pid: pid(child), code, dumped });
            }
            Ok(WaitStatus::Stopped(child, signal)) => {
                return Some(Change::Stopped { pid: pid(child), signal: Signal(signal as i32) });
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return None,
            // Nothing that was asked for: the next one.
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}

/// The limit of core dumps, to be given to a program that this process starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreLimit {
    soft: rlim_t,
    hard: rlim_t,
}

/// The limit of core dumps as it is now; ask before [`crate::sys::forbid_core_dumps`].
///
/// # Errors
/// What getrlimit(2) says.
pub fn core_limit() -> io::Result<CoreLimit> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_CORE)?;
    Ok(CoreLimit { soft, hard })
}

/// Lets a program start with the signals and the limit of core dumps that this process was started with. It
/// gets SIGTERM if this process, which must go on having one thread, dies before it.
pub fn as_if_without_us(command: &mut Command, signals: &Signals, core: CoreLimit) {
    let (before, parent) = (signals.before, unistd::getpid());
    let prepare = move || {
        prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)?;
        if unistd::getppid() != parent {
            return Err(Errno::ESRCH.into());
        }
        setrlimit(Resource::RLIMIT_CORE, core.soft, core.hard)?;
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
        Ok(())
    };
    // SAFETY: it runs between fork and exec in a process of one thread; it makes four system calls and
    // neither allocates nor takes a lock.
    unsafe { command.pre_exec(prepare) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_several_threads_is_not_forked() {
        // The runner of the tests has a thread of its own.
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || wait.recv());
        assert_eq!(fork().unwrap_err().raw_os_error(), Some(libc::EBUSY));
        drop(go);
        assert!(other.join().unwrap().is_err());
    }
}

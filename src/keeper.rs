//! Keeps a mount while the servers that answer for it come and go.
//!
//! The keeper holds three descriptors: the device, the record of the mount, and the sealed state, which it
//! never maps. It starts a server with them, passes signals on to it, and starts the next one when it is gone:
//! the kernel keeps what was not answered, and the successor finds the rest in the state. So nobody who uses the
//! mount notices a server that was killed, or replaced by a newer one.
//!
//! Must never read a secret, ask Vault, or wait for anything but its server and signals. Invariants: *one
//! server*: the next one is started when the last one was waited for; *bounded*: a server that does not come to
//! serve is started [`TRIES`] times in a row; *nothing stays behind*: whatever ends the keeper's work ends the
//! mount, and a keeper that is killed takes its server along, which gives everything back.

mod words;

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::fuse::session::{Kept, Unmounted};
use crate::link::{self, ServerEnd, SupervisorEnd};
use crate::sys;
use crate::sys::descriptors::pass_on;
use crate::sys::process::{self, Arrival, Change, CoreLimit, Origin, Pid, Signal, Signals};

pub use words::{KeeperError, Word};

/// How often in a row a server is started that ends before it serves.
const TRIES: u32 = 5;
/// The first pause before a server is started again that did not come to serve; it is doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The exit code of a server that got SIGKILL.
const KILLED: u8 = 128 + 9;
/// For how long a busy mount is served after it was detached; then its connection is cut, and after as long
/// again the server is ended.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is to be started as a server; the descriptors follow its arguments.
#[derive(Clone, Debug)]
pub struct Program {
    /// The binary; looked for anew at each start, so that a newer one is found.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// What a server gets besides the device.
#[derive(Debug)]
pub struct Papers {
    /// Describes the mount.
    pub record: File,
    /// The sealed state, where the system has such memory.
    pub state: Option<OwnedFd>,
    /// Where it has not: what is kept of the kernel's requests.
    pub requests: Option<OwnedFd>,
}

fn system(what: &'static str) -> impl Fn(io::Error) -> KeeperError {
    move |error| KeeperError::System { what, errno: error.raw_os_error().unwrap_or_default() }
}

/// Catches signals from now on: none of them may end this process while there is a mount.
#[derive(Debug)]
pub struct Keeper {
    signals: Signals,
    core: CoreLimit,
    /// What was to end the server, for a successor that takes over at that moment.
    wanted: Option<Signal>,
}

impl Keeper {
    /// To be called before anything is mounted, and before there is another thread.
    ///
    /// # Errors
    /// [`KeeperError::System`].
    pub fn new() -> Result<Keeper, KeeperError> {
        let core = process::core_limit().map_err(system("the limit of core dumps can't be read"))?;
        sys::forbid_core_dumps().map_err(system("core dumps can't be forbidden"))?;
        let caught = [Signal::TERM, Signal::INT, Signal::HUP, Signal::CHLD];
        let signals = Signals::catch_only(&caught).map_err(system("signals can't be caught"))?;
        Ok(Keeper { signals, core, wanted: None })
    }

    /// Keeps a mount until its server has given everything back. `hear` gets what servers say.
    ///
    /// # Errors
    /// [`KeeperError`]; the mount is gone.
    pub fn keep(
        mut self,
        mut mount: Kept,
        papers: &Papers,
        program: &Program,
        mut hear: impl FnMut(&Word),
    ) -> Result<(), KeeperError> {
        let (mut failures, mut killed) = (0, false);
        loop {
            let after = if killed { &["--killed"][..] } else { &[] };
            let mut server = Server::start(&mount, papers, program, after, &self.signals, self.core)
                .map_err(system("the server can't be started"))?;
            let code = self.watch(&mut server, &mut mount, &mut hear)?;
            killed = code == KILLED;
            failures = if server.served { 0 } else { failures + 1 };
            match server.last {
                Some(Last::GivenBack) => return Ok(()),
                Some(Last::Failed { code, message }) => return Err(KeeperError::Server { code, message }),
                Some(Last::HandOver) => {}
                None if failures >= TRIES => return Err(KeeperError::GivenUp { tries: failures, code }),
                None => tracing::warn!(code, "the server has died: the next one takes over"),
            }
            if failures > 0 {
                std::thread::sleep(FIRST_PAUSE * 2_u32.pow(failures - 1));
            }
        }
    }

    /// Waits for a server's end; takes the mount away when it says that it can be. Returns its exit code.
    fn watch(
        &mut self,
        server: &mut Server,
        mount: &mut Kept,
        hear: &mut impl FnMut(&Word),
    ) -> Result<u8, KeeperError> {
        let mut deadline = None;
        loop {
            for word in server.link.hear().words {
                hear(&word);
                match word {
                    Word::Serves => {
                        server.served = true;
                        if let Some(signal) = self.wanted {
                            server.send(signal);
                        }
                    }
                    Word::Notify { .. } => {}
                    Word::HandOver => server.last = Some(Last::HandOver),
                    Word::Failed { code, message } => server.last = Some(Last::Failed { code, message }),
                    Word::GivenBack => {
                        if mount.detach()? == Unmounted::Detached {
                            tracing::info!("the mount was in use; it was detached");
                        }
                        server.last = Some(Last::GivenBack);
                        deadline = Some((sys::boot_time() + PATIENCE, Deadline::Cut));
                    }
                }
            }
            while let Some(change) = process::changed_child() {
                if let Change::Ended { pid, code, dumped } = change
                    && pid == server.pid
                {
                    if dumped {
                        tracing::error!("the server has left a core dump: secrets may be in it");
                    }
                    return Ok(code);
                }
            }
            let now = sys::boot_time();
            if let Some((at, what)) = deadline
                && now >= at
            {
                server.end(mount, what);
                deadline = Some((now + PATIENCE, Deadline::Kill));
            }
            let patience = deadline.map(|(at, _)| at.since(now));
            process::wait_for(&[self.signals.as_fd(), server.link.as_fd()], patience)
                .map_err(system("the server can't be watched"))?;
            while let Some(arrival) = self.signals.next() {
                self.pass_on(arrival, server);
            }
        }
    }

    fn pass_on(&mut self, Arrival { signal, origin }: Arrival, server: &Server) {
        if signal == Signal::CHLD {
            return;
        }
        if signal != Signal::HUP {
            self.wanted = Some(signal);
        }
        // What a terminal sends has reached the server already, but for its end, of which the kernel tells the
        // leader of a session alone. One that does not serve yet would die of it.
        let is_for_both = origin == Origin::Kernel && signal != Signal::HUP;
        if server.served && !is_for_both {
            server.send(signal);
        }
    }
}

/// The last thing that a server has said.
enum Last {
    GivenBack,
    HandOver,
    Failed { code: u8, message: String },
}

struct Server {
    pid: Pid,
    link: SupervisorEnd<Word>,
    served: bool,
    last: Option<Last>,
}

impl Server {
    fn start(
        mount: &Kept,
        papers: &Papers,
        program: &Program,
        after: &[&str],
        signals: &Signals,
        core: CoreLimit,
    ) -> io::Result<Server> {
        let (link, theirs): (_, ServerEnd<Word>) = link::pair()?;
        let mut command = Command::new(&program.path);
        command.args(&program.arguments).args(after);
        let descriptors = [
            ("--device", Some(mount.device().as_fd())),
            ("--record", Some(papers.record.as_fd())),
            ("--state", papers.state.as_ref().map(AsFd::as_fd)),
            ("--requests", papers.requests.as_ref().map(AsFd::as_fd)),
            ("--keeper", Some(theirs.as_fd())),
        ];
        for (name, fd) in descriptors {
            if let Some(fd) = fd {
                command.arg(name).arg(pass_on(&fd)?.to_string());
            }
        }
        process::as_if_without_us(&mut command, signals, core);
        let child = command.spawn()?;
        Ok(Server { pid: Pid(child.id().cast_signed()), link, served: false, last: None })
    }

    /// The mount is in use by somebody who does not let go.
    fn end(&self, mount: &Kept, what: Deadline) {
        let cut = what == Deadline::Cut && mount.abort().is_ok();
        if cut {
            tracing::warn!(
                "the mount is still in use: its users get \"transport endpoint is not connected\""
            );
        } else {
            // It has given everything back; the kernel cuts the connection when the last descriptor is closed.
            let _ = process::send(self.pid, Signal::KILL);
        }
    }

    fn send(&self, signal: Signal) {
        // One that is gone has a successor.
        let _ = process::send(self.pid, signal);
    }
}

/// What is done when patience ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Deadline {
    /// The connection is cut.
    Cut,
    /// The server is ended.
    Kill,
}

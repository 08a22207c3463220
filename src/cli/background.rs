//! A daemon that its starter waits for, until it serves or has failed, and that goes on in the background.
//!
//! Invariants: *before any thread*: the fork comes first, whatever the daemon does; *one word*: the starter
//! ends with what the daemon said, and with a failure if it died without a word; *nothing is held*: once it
//! serves, the daemon holds no stream, session or directory of its starter.

use std::io::{self, PipeReader, PipeWriter, Read, Write};

use crate::cli::exit::CommandError;
use crate::cli::log::Destination;
use crate::sys::{self, Forked, Stream};

/// Which process goes on, and how it stands.
#[must_use]
#[derive(Debug)]
pub(super) enum Process {
    /// The starter; the daemon serves.
    Starter {
        /// The daemon.
        daemon: i32,
    },
    /// The starter; the daemon could not serve.
    Failed {
        /// Its exit code; nothing if it ended without a word.
        exit: Option<u8>,
        /// Why, in words.
        message: String,
    },
    /// The daemon, at its beginning.
    Daemon(Word),
}

/// What the daemon owes its starter.
#[derive(Debug)]
pub(super) struct Word(PipeWriter);

/// Forks. In the starter it returns once the daemon has given its word.
///
/// # Errors
/// [`CommandError::Runtime`]: there can't be another process.
pub(super) fn start() -> Result<Process, CommandError> {
    let (listen, word) = io::pipe().map_err(CommandError::Runtime)?;
    match sys::fork().map_err(CommandError::Runtime)? {
        Forked::Parent { child } => {
            drop(word);
            Ok(hear(listen, child))
        }
        Forked::Child => {
            drop(listen);
            Ok(Process::Daemon(Word(word)))
        }
    }
}

/// Waits for the daemon's word: 0 if it serves, else its exit code and a message.
fn hear(mut listen: PipeReader, daemon: i32) -> Process {
    let mut word = Vec::new();
    // What came before an error is all that there is.
    let _ = listen.read_to_end(&mut word);
    match word.split_first() {
        Some((0, _)) => Process::Starter { daemon },
        Some((exit, message)) => {
            Process::Failed { exit: Some(*exit), message: String::from_utf8_lossy(message).into_owned() }
        }
        None => Process::Failed {
            exit: None,
            message: "the daemon ended without a word: see the system's log".to_owned(),
        },
    }
}

/// Holds no stream of a starter any more but that of the log. A server lets go as it begins, since it has the
/// streams of the daemon that has started it: why it can't serve it says to that one.
pub(super) fn let_go(log: &Destination) {
    let streams = match log {
        // The journal of whoever started it.
        Destination::Journal => &[Stream::Input, Stream::Output][..],
        Destination::Syslog(_) | Destination::StandardError => {
            &[Stream::Input, Stream::Output, Stream::Error]
        }
    };
    for stream in streams {
        // Without /dev/null a stream stays open: that is a nuisance and no danger.
        let _ = sys::silence(*stream);
    }
}

impl Word {
    /// Tells the starter that the daemon serves, and lets go of what the two have in common.
    pub(super) fn serves(mut self, log: &Destination) {
        let_go(log);
        let _ = std::env::set_current_dir("/");
        // Not before: autofs lets whom systemd has started mount by its process group, and Ctrl-C ends a
        // daemon that is still waited for. A child is never the leader of a group, so it can't fail.
        let _ = sys::leave_session();
        // A starter that is gone needs no word.
        let _ = self.0.write_all(&[0]);
    }

    /// Tells the starter why the daemon ends before it serves.
    pub(super) fn fails(mut self, exit: u8, message: &str) {
        let _ = self.0.write_all(&[&[exit], message.as_bytes()].concat());
    }
}

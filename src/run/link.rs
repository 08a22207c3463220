//! What the supervisor and the server say to each other, a line of JSON each.
//!
//! Invariant: *one end, one meaning*: the supervisor closes its end when it is done, and the kernel closes it
//! when the supervisor dies; either way the server gives everything back. The server's end closes with the
//! server, whatever became of it.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};

/// What the server says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// The tree is mounted, and these required files are not there yet.
    Waiting {
        /// Which, and why.
        files: Vec<Missing>,
    },
    /// The tree is mounted, and all that is required is there.
    Ready,
    /// Somebody else ended the mount.
    Ended,
    /// It can't serve, or could not end well.
    Failed {
        /// The exit code that says so.
        code: u8,
        /// What to print.
        message: String,
    },
}

/// A required file that is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Its name in the tree.
    pub name: String,
    /// Why, if something was tried.
    pub why: Option<String>,
    /// Whether it may still come by itself.
    pub may_come: bool,
}

/// A line of the conversation.
///
/// # Errors
/// Never for a [`Word`]; what serde says.
pub fn line(word: &Word) -> io::Result<String> {
    Ok(serde_json::to_string(word)? + "\n")
}

/// The supervisor's end.
#[derive(Debug)]
pub struct SupervisorEnd {
    stream: UnixStream,
    heard: Vec<u8>,
}

/// The server's end. It hears nothing but the end.
#[derive(Debug)]
pub struct ServerEnd(UnixStream);

/// What the supervisor has heard at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// In order.
    pub words: Vec<Word>,
    /// Whether the server is still there.
    pub state: LinkState,
}

/// Whether anything may still be heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// The server is there.
    Open,
    /// The server has ended.
    Closed,
}

/// Both ends; each is close-on-exec.
///
/// # Errors
/// What socketpair(2) says.
pub fn pair() -> io::Result<(SupervisorEnd, ServerEnd)> {
    let (here, there) = UnixStream::pair()?;
    here.set_nonblocking(true)?;
    Ok((SupervisorEnd { stream: here, heard: Vec::new() }, ServerEnd(there)))
}

impl SupervisorEnd {
    /// All that has been said since. Never blocks.
    pub fn hear(&mut self) -> Heard {
        let mut piece = [0; 4096];
        let state = loop {
            match self.stream.read(&mut piece) {
                Ok(0) => break LinkState::Closed,
                Ok(count) => self.heard.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break LinkState::Open,
                Err(_) => break LinkState::Closed,
            }
        };
        let whole = self.heard.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = self.heard.drain(..whole).collect();
        let lines = lines.split(|byte| *byte == b'\n');
        let words = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
        Heard { words, state }
    }

    /// Tells the server to give everything back and to end. Its last words can still be heard.
    pub fn finish(&self) {
        // Closed already if the server is gone.
        let _ = self.stream.shutdown(Shutdown::Write);
    }
}

impl AsFd for SupervisorEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl ServerEnd {
    /// The socket, for a runtime. It does not block.
    ///
    /// # Errors
    /// What fcntl(2) says.
    pub fn into_stream(self) -> io::Result<UnixStream> {
        self.0.set_nonblocking(true)?;
        Ok(self.0)
    }

    /// A second handle on the same end, for last words.
    ///
    /// # Errors
    /// What dup(2) says.
    pub fn again(&self) -> io::Result<ServerEnd> {
        Ok(ServerEnd(self.0.try_clone()?))
    }

    /// Says something. Nothing can be done if nobody listens any more.
    pub fn say(&mut self, word: &Word) {
        let _ = line(word).and_then(|line| self.0.write_all(line.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_arrive_in_order_and_whole_however_they_are_cut() {
        let (mut here, there) = pair().unwrap();
        let missing = Missing { name: "db".to_owned(), why: Some("a\nb".to_owned()), may_come: true };
        let words = [Word::Waiting { files: vec![missing] }, Word::Ready];
        let text: String = words.iter().map(|word| line(word).unwrap()).collect();
        let (first, second) = text.split_at(20);
        (&there.0).write_all(first.as_bytes()).unwrap();
        assert_eq!(here.hear(), Heard { words: Vec::new(), state: LinkState::Open });
        (&there.0).write_all(second.as_bytes()).unwrap();
        drop(there);
        assert_eq!(here.hear(), Heard { words: words.to_vec(), state: LinkState::Closed });
    }

    #[test]
    fn the_server_hears_that_the_supervisor_is_done_and_may_still_speak() {
        let (mut here, mut there) = pair().unwrap();
        here.finish();
        assert_eq!((&there.0).read(&mut [0; 1]).unwrap(), 0);
        let word = Word::Failed { code: 75, message: "late".to_owned() };
        there.say(&word);
        drop(there);
        assert_eq!(here.hear(), Heard { words: vec![word], state: LinkState::Closed });
    }
}

//! Between a server and the process that watches over it, its supervisor: the server says words, a line of
//! JSON each; the supervisor has nothing to say but that it is done.
//!
//! Invariant: *one end, one meaning*: the supervisor closes its end when it is done, and the kernel closes it
//! when the supervisor dies; either way the server gives everything back. The server's end closes with the
//! server, whatever became of it.

use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A line of the conversation.
///
/// # Errors
/// What serde says.
pub fn line(word: &impl Serialize) -> io::Result<String> {
    Ok(serde_json::to_string(word)? + "\n")
}

/// The supervisor's end.
#[derive(Debug)]
pub struct SupervisorEnd<W> {
    stream: UnixStream,
    heard: Vec<u8>,
    words: PhantomData<W>,
}

/// The server's end. It hears nothing but the end.
#[derive(Debug)]
pub struct ServerEnd<W>(UnixStream, PhantomData<W>);

/// What the supervisor has heard at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard<W> {
    /// In order.
    pub words: Vec<W>,
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
pub fn pair<W>() -> io::Result<(SupervisorEnd<W>, ServerEnd<W>)> {
    let (here, there) = UnixStream::pair()?;
    here.set_nonblocking(true)?;
    let here = SupervisorEnd { stream: here, heard: Vec::new(), words: PhantomData };
    Ok((here, ServerEnd(there, PhantomData)))
}

impl<W: DeserializeOwned> SupervisorEnd<W> {
    /// All that has been said since. Never blocks.
    pub fn hear(&mut self) -> Heard<W> {
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
}

impl<W> SupervisorEnd<W> {
    /// Tells the server to give everything back and to end. Its last words can still be heard.
    pub fn finish(&self) {
        // Closed already if the server is gone.
        let _ = self.stream.shutdown(Shutdown::Write);
    }
}

impl<W> AsFd for SupervisorEnd<W> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl<W: Serialize> ServerEnd<W> {
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
    pub fn again(&self) -> io::Result<ServerEnd<W>> {
        Ok(ServerEnd(self.0.try_clone()?, PhantomData))
    }

    /// Says something. Returns whether somebody may hear it; nothing can be done if nobody listens any more.
    pub fn say(&mut self, word: &W) -> bool {
        line(word).and_then(|line| self.0.write_all(line.as_bytes())).is_ok()
    }
}

impl<W> From<OwnedFd> for ServerEnd<W> {
    fn from(fd: OwnedFd) -> ServerEnd<W> {
        ServerEnd(fd.into(), PhantomData)
    }
}

impl<W> AsFd for ServerEnd<W> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
    enum Word {
        Ready,
        Waiting { why: String },
        Failed { code: u8 },
    }

    #[test]
    fn words_arrive_in_order_and_whole_however_they_are_cut() {
        let (mut here, there) = pair::<Word>().unwrap();
        let words = [Word::Waiting { why: "a line\nand another".to_owned() }, Word::Ready];
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
        let (mut here, mut there) = pair::<Word>().unwrap();
        here.finish();
        assert_eq!((&there.0).read(&mut [0; 1]).unwrap(), 0);
        let word = Word::Failed { code: 75 };
        there.say(&word);
        drop(there);
        assert_eq!(here.hear(), Heard { words: vec![word], state: LinkState::Closed });
    }
}

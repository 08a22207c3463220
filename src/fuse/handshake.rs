//! INIT, apart from the server: the mounter shakes hands with the kernel once, and each server is shown the
//! kernel's words again, so that it takes up a device as if it had been the first.
//!
//! fuser shakes hands when a session is made, on whatever descriptor it is given. So it is given one end of a
//! pair of sockets, whose other end plays the kernel; afterwards the device takes the place of that end.
//!
//! Invariant: *one answer*: the kernel is told once what was agreed. A successor that would agree on something
//! else learns that ([`Agreement`]): it takes effect with the next mount.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};

use fuser::{Filesystem, KernelConfig, Request, Session, SessionACL};
use nix::errno::Errno;
use nix::unistd::{read, write};
use serde::{Deserialize, Serialize};

use crate::fuse::session::negotiate;
use crate::sys::descriptors::{packets, put_in_place};

/// `FUSE_INIT` (linux/fuse.h).
const INIT: u32 = 26;
/// The code of `FUSE_NOTIFY_RESEND` (linux/fuse.h).
const NOTIFY_RESEND: i32 = 7;
/// `FUSE_HAS_RESEND` (linux/fuse.h): bit 39 of the flags, so bit 7 of their second half.
const HAS_RESEND: u32 = 1 << 7;
/// `FUSE_INIT_EXT` (linux/fuse.h): the flags have a second half.
const HAS_MORE_FLAGS: u32 = 1 << 30;
/// Where the flags of an INIT request begin: its header has 40 bytes, then come the version and the readahead.
const FLAGS_AT: usize = 40 + 12;
/// The longest message of a handshake, in bytes; the kernel wants room for that much before it says anything
/// (`FUSE_MIN_READ_BUFFER`).
const LONGEST: usize = 8192;
/// The length of the header of an answer or a notice, in bytes.
const HEADER: usize = 16;

/// What the kernel has said and what it was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handshake {
    request: Vec<u8>,
    answer: Vec<u8>,
}

/// What holds between a server and the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// What this version of leasefs wants.
    Same,
    /// What an earlier version has agreed on.
    Earlier,
}

/// Shakes hands and does nothing else.
struct Greeter;

impl Filesystem for Greeter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // What is missing each server finds out by itself.
        let _ = negotiate(config);
        Ok(())
    }
}

impl Handshake {
    /// Waits for the kernel's INIT on a device that was just mounted, and answers it.
    ///
    /// # Errors
    /// What the device says, or `InvalidData`: the kernel speaks another protocol.
    pub fn with_kernel(device: &impl AsFd) -> io::Result<Handshake> {
        let request = receive(device)?;
        let code = request.get(4..8).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
        if code != Some(INIT) {
            return Err(ErrorKind::InvalidData.into());
        }
        let (_, answer) = greet(Greeter, &request, fuser::Config::default())?;
        write(device, &answer)?;
        Ok(Handshake { request, answer })
    }

    /// A session on a device that has shaken hands before.
    ///
    /// # Errors
    /// What the system says.
    pub fn resume<F: Filesystem>(
        &self,
        device: &OwnedFd,
        file_system: F,
        config: fuser::Config,
    ) -> io::Result<(Session<F>, Agreement)> {
        let (session, answer) = greet(file_system, &self.request, config)?;
        put_in_place(device, &session)?;
        Ok((session, if answer == self.answer { Agreement::Same } else { Agreement::Earlier }))
    }

    /// Whether the kernel can send again what was not answered (Linux 6.9).
    pub fn can_resend(&self) -> bool {
        let flags = |at: usize| {
            let bytes = self.request.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u32::from_ne_bytes)
        };
        flags(FLAGS_AT) & HAS_MORE_FLAGS != 0 && flags(FLAGS_AT + 4) & HAS_RESEND != 0
    }
}

/// Has a session made, played the kernel's INIT. Returns its answer as well.
fn greet<F: Filesystem>(
    file_system: F,
    request: &[u8],
    config: fuser::Config,
) -> io::Result<(Session<F>, Vec<u8>)> {
    let (kernel, server) = packets()?;
    write(&kernel, request)?;
    let session = Session::from_fd(file_system, server, SessionACL::All, config)?;
    let answer = receive(&kernel)?;
    Ok((session, answer))
}

fn receive(from: &impl AsFd) -> io::Result<Vec<u8>> {
    let mut message = vec![0; LONGEST];
    loop {
        match read(from, &mut message) {
            Ok(count) => {
                message.truncate(count);
                return Ok(message);
            }
            Err(Errno::EINTR | Errno::ENOENT | Errno::EAGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Has the kernel send again all requests that were read and not answered (Linux 6.9). Before anything is
/// read: what is being worked on would be worked on twice.
///
/// # Errors
/// What the device says.
pub fn resend(device: &impl AsFd) -> io::Result<()> {
    write(device, &message(NOTIFY_RESEND, 0))?;
    Ok(())
}

/// What requests are answered that the kernel can't send again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// The highest number that a request had.
    pub highest: u64,
    /// How many numbers below it are answered.
    pub below: u64,
    /// How many numbers above it: they were read, and nobody began to work on them.
    pub above: u64,
}

/// Answers whatever was read and not answered with `EINTR`, so that nobody waits for ever. Numbers of requests
/// are even (linux/fs/fuse, `FUSE_REQ_ID_STEP`). Returns the numbers that were waiting.
pub fn sweep(device: &impl AsFd, sweep: Sweep) -> Vec<u64> {
    let from = sweep.highest.saturating_sub(sweep.below).max(2) & !1;
    let numbers = (from..=sweep.highest + sweep.above).step_by(2);
    // The kernel says ENOENT of those that nobody waits for.
    numbers.filter(|number| write(device, &message(-(Errno::EINTR as i32), *number)).is_ok()).collect()
}

/// The header of an answer or of a notice, without more (linux/fuse.h, `fuse_out_header`).
fn message(error: i32, unique: u64) -> [u8; HEADER] {
    let mut message = [0; HEADER];
    message[..4].copy_from_slice(&(HEADER as u32).to_ne_bytes());
    message[4..8].copy_from_slice(&error.to_ne_bytes());
    message[8..].copy_from_slice(&unique.to_ne_bytes());
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    /// INIT as Linux 6.9 and later send it; flags of one's own.
    fn init(flags: u32, more: u32) -> Vec<u8> {
        let mut request = vec![0; 104];
        request[..4].copy_from_slice(&104_u32.to_ne_bytes());
        request[4..8].copy_from_slice(&INIT.to_ne_bytes());
        request[8..16].copy_from_slice(&2_u64.to_ne_bytes());
        for (at, value) in [(40, 7), (44, 45), (48, 1 << 17), (FLAGS_AT, flags), (FLAGS_AT + 4, more)] {
            request[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        request
    }

    #[test]
    fn a_successor_agrees_on_the_same_and_then_speaks_on_the_device() {
        let (kernel, device) = packets().unwrap();
        write(&kernel, &init(HAS_MORE_FLAGS, HAS_RESEND)).unwrap();
        let handshake = Handshake::with_kernel(&device).unwrap();
        assert_eq!(receive(&kernel).unwrap(), handshake.answer);
        assert!(handshake.can_resend());
        for _ in 0..2 {
            let (session, agreement) = handshake.resume(&device, Greeter, fuser::Config::default()).unwrap();
            assert_eq!(agreement, Agreement::Same);
            resend(&session).unwrap();
            assert_eq!(receive(&kernel).unwrap(), message(NOTIFY_RESEND, 0));
        }
    }

    #[test]
    fn a_successor_learns_that_an_earlier_agreement_holds() {
        let (kernel, device) = packets().unwrap();
        write(&kernel, &init(HAS_MORE_FLAGS, 0)).unwrap();
        let mut handshake = Handshake::with_kernel(&device).unwrap();
        assert!(!handshake.can_resend());
        handshake.answer[30] ^= 1;
        let (_, agreement) = handshake.resume(&device, Greeter, fuser::Config::default()).unwrap();
        assert_eq!(agreement, Agreement::Earlier);
    }

    #[test]
    fn something_else_than_init_is_refused() {
        let (kernel, device) = packets().unwrap();
        write(&kernel, &[0; 104]).unwrap();
        assert_eq!(
            Handshake::with_kernel(&device).err().map(|error| error.kind()),
            Some(ErrorKind::InvalidData)
        );
    }

    #[test]
    fn a_sweep_answers_even_numbers_around_the_highest() {
        let (kernel, device) = packets().unwrap();
        let swept = sweep(&device, Sweep { highest: 10, below: 4, above: 3 });
        assert_eq!(swept, [6, 8, 10, 12]);
        assert_eq!(receive(&kernel).unwrap(), message(-(Errno::EINTR as i32), 6));
    }
}

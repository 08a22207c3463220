//! Descriptors that go from one process to the next, and files that are nowhere but in memory.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair,
};

/// Lets a program that this process executes have a descriptor, under the same number.
///
/// # Errors
/// What fcntl(2) says.
pub fn pass_on(fd: &impl AsFd) -> io::Result<RawFd> {
    let fd = fd.as_fd();
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(fd.as_raw_fd())
}

/// Opens a plain file that somebody else may have put anything in the place of: no symlink is followed, and nothing
/// that waits is waited for.
///
/// # Errors
/// `ELOOP` for a symlink; `InvalidInput` for whatever else is no plain file; what open(2) says.
pub fn open_itself(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags.bits()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Takes over a descriptor that this process was started with. Programs that it starts won't have it.
///
/// # Errors
/// There is none of this number, or what fcntl(2) says.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number <= libc::STDERR_FILENO {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the number is only asked about; fcntl says whether it is open.
    let flags = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and nothing in this process owns it: it came from outside, and is taken once at the
    // start, from the arguments that name it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Lets the number of one descriptor stand for the file of another one (dup3(2)).
///
/// # Errors
/// What dup3(2) says.
pub fn put_in_place(file: &impl AsFd, place: &impl AsFd) -> io::Result<()> {
    let (from, to) = (file.as_fd().as_raw_fd(), place.as_fd().as_raw_fd());
    // SAFETY: both are open; whoever owns the number `to` owns the new file by it.
    match unsafe { libc::dup3(from, to, OFlag::O_CLOEXEC.bits()) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Two ends of a connection that keeps messages apart, as a device does.
///
/// # Errors
/// What socketpair(2) says.
pub fn packets() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Two ends of a connection over which a program that this process starts can send a descriptor.
///
/// # Errors
/// What socketpair(2) says.
pub fn stream() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?)
}

/// The descriptor that was sent over such a connection (unix(7), `SCM_RIGHTS`). Never waits. Programs that this
/// process executes won't have it.
///
/// # Errors
/// What recvmsg(2) says: `EAGAIN` if nothing was sent yet; `UnexpectedEof`: something else was, or nothing ever
/// will be.
pub fn receive(from: &impl AsFd) -> io::Result<OwnedFd> {
    let mut byte = [0; 1];
    let mut bytes = [IoSliceMut::new(&mut byte)];
    let mut room = nix::cmsg_space!(RawFd);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(from.as_fd().as_raw_fd(), &mut bytes, Some(&mut room), flags)?;
    let mut received: Vec<OwnedFd> = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            // SAFETY: the kernel has just made these descriptors for this message, and nobody else knows them.
            received.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
        }
    }
    // Whatever came besides is closed.
    received.pop().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// A file in memory, for what is no secret.
///
/// # Errors
/// What memfd_create(2) says.
pub fn memory_file(name: &CStr) -> io::Result<File> {
    Ok(File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use super::*;

    #[test]
    fn a_number_can_stand_for_another_file() {
        let (mut one, mut other) = (memory_file(c"one").unwrap(), memory_file(c"other").unwrap());
        other.write_all(b"other").unwrap();
        put_in_place(&other, &one).unwrap();
        one.rewind().unwrap();
        let mut text = String::new();
        one.read_to_string(&mut text).unwrap();
        assert_eq!(text, "other");
    }

    #[test]
    fn a_descriptor_can_be_sent() {
        let (here, there) = stream().unwrap();
        assert_eq!(receive(&here).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let mut file = memory_file(c"sent").unwrap();
        file.write_all(b"text").unwrap();
        let numbers = [file.as_raw_fd()];
        let rights = [nix::sys::socket::ControlMessage::ScmRights(&numbers)];
        let byte = [io::IoSlice::new(b"\0")];
        let number = there.as_raw_fd();
        nix::sys::socket::sendmsg::<()>(number, &byte, &rights, MsgFlags::empty(), None).unwrap();
        let mut received = File::from(receive(&here).unwrap());
        received.rewind().unwrap();
        let mut text = String::new();
        received.read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
        drop(there);
        assert_eq!(receive(&here).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_was_not_inherited_is_refused() {
        assert!(inherited(0).is_err(), "standard input is not ours to take");
        assert!(inherited(1_000_000).is_err());
    }
}

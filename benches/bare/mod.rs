//! The least file system that can be compared with leasefs: one directory of files in memory, and nothing
//! to decide. The kernel is told the same as by leasefs (flags of open files and directories, time-outs,
//! features), so that what differs is what leasefs does between a request and its reply.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, IoctlFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyOpen, Request,
};
use leasefs::fuse::session::{KernelFeature, negotiate};
use leasefs::fuse::{DIRECTORY_FLAGS, FILE_FLAGS, LONG_TIMEOUT};

/// One directory of files in memory.
pub struct BareFs {
    files: Vec<(String, Vec<u8>)>,
    seen: Seen,
}

/// What a test or a benchmark can see of a file system that the session has taken. Clones show the same.
#[derive(Clone, Default)]
pub struct Seen {
    /// How many GETATTR requests were answered.
    pub getattrs: Arc<AtomicU64>,
    /// What the kernel lacks; set by INIT.
    pub missing: Arc<std::sync::Mutex<Vec<KernelFeature>>>,
}

impl BareFs {
    /// A file system with these files, and what can be seen of it.
    pub fn new(files: Vec<(String, Vec<u8>)>) -> (BareFs, Seen) {
        let seen = Seen::default();
        (BareFs { files, seen: seen.clone() }, seen)
    }

    fn content(&self, ino: INodeNo) -> Option<&[u8]> {
        let index = usize::try_from(ino.0.checked_sub(FIRST_FILE)?).ok()?;
        self.files.get(index).map(|(_, content)| content.as_slice())
    }

    fn attributes(&self, ino: INodeNo) -> Option<FileAttr> {
        if ino == INodeNo::ROOT {
            return Some(attributes(ino, FileType::Directory, 0));
        }
        self.content(ino).map(|content| attributes(ino, FileType::RegularFile, content.len() as u64))
    }

    /// The entries of the directory after the first `offset`: their offset, inode, kind and name.
    fn entries(&self, offset: u64) -> impl Iterator<Item = (u64, INodeNo, FileType, &str)> {
        let dots = [".", ".."].map(|name| (INodeNo::ROOT, FileType::Directory, name)).into_iter();
        let files = (FIRST_FILE..)
            .zip(&self.files)
            .map(|(ino, (name, _))| (INodeNo(ino), FileType::RegularFile, name.as_str()));
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        (1..).zip(dots.chain(files)).map(|(next, (ino, kind, name))| (next, ino, kind, name)).skip(skip)
    }
}

/// Inode number of the first file; the others follow.
const FIRST_FILE: u64 = INodeNo::ROOT.0 + 1;

fn attributes(ino: INodeNo, kind: FileType, size: u64) -> FileAttr {
    let (perm, nlink) = if kind == FileType::Directory { (0o555, 2) } else { (0o444, 1) };
    let time = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino,
        size,
        blocks: size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm,
        nlink,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for BareFs {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let missing = negotiate(config);
        *self.seen.missing.lock().map_err(|_| io::Error::other("poisoned"))? = missing;
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.entries(2).find(|(_, _, _, known)| parent == INodeNo::ROOT && name == *known);
        match found.and_then(|(_, ino, _, _)| self.attributes(ino)) {
            Some(attributes) => reply.entry(&LONG_TIMEOUT, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        self.seen.getattrs.fetch_add(1, Ordering::Relaxed);
        match self.attributes(ino) {
            Some(attributes) => reply.attr(&LONG_TIMEOUT, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FILE_FLAGS);
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(content) = self.content(ino) else { return reply.error(Errno::ENOENT) };
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        let to = from.saturating_add(size as usize).min(content.len());
        reply.data(&content[from..to]);
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), DIRECTORY_FLAGS);
    }

    fn readdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        for (next, ino, kind, name) in self.entries(offset) {
            if reply.add(ino, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        for (next, ino, _, name) in self.entries(offset) {
            let Some(attributes) = self.attributes(ino) else { break };
            if reply.add(ino, next, name, &LONG_TIMEOUT, &attributes, Generation(0)) {
                break;
            }
        }
        reply.ok();
    }
}

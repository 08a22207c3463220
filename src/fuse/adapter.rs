//! The only `impl fuser::Filesystem`. Each handler unpacks its request, makes one call of the engine and
//! replies; a reply that must wait for Vault moves to the driver. No handler ever blocks.

use std::ffi::OsStr;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, IoctlFlags,
    KernelConfig, LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyOpen, ReplyXattr, Request,
};

use crate::core::access::{Caller, Groups, ProcessOf};
use crate::core::effect::{Answer, Attributes, DirectoryOpened, NodeType, Opened, Outcome};
use crate::core::engine::{Reader, Room, XattrValue};
use crate::core::error::FsError;
use crate::core::name::{HandleId, Ino};
use crate::core::time::UnixTime;
use crate::driver::clock::Clock;
use crate::driver::{Kernel, Reply, Service};
use crate::fuse::notify::{Notice, Notices};
use crate::fuse::session::{KernelFeature, negotiate};
use crate::fuse::{DIRECTORY_FLAGS, FILE_FLAGS};
use crate::sealed::{InHand, Requests};
use crate::sys;

/// What stands on both sides of the mount: set once it is made.
#[derive(Default)]
pub struct Wiring {
    notices: OnceLock<Notices>,
    missing: OnceLock<Vec<KernelFeature>>,
}

impl Wiring {
    /// Where to hand in notices; call it once, right after the session has begun.
    pub fn connect(&self, notices: Notices) {
        // A second call would change nothing: there is one session.
        let _ = self.notices.set(notices);
    }

    /// What the kernel lacks; empty until INIT.
    pub fn missing(&self) -> &[KernelFeature] {
        self.missing.get().map_or(&[], Vec::as_slice)
    }
}

/// The file system that the kernel sees.
pub struct Adapter<C: Clock> {
    service: Service<C>,
    wiring: Arc<Wiring>,
    requests: Option<Arc<Requests>>,
}

/// How many servers in a row a request may end: then the next one does not touch it.
const CRASHES: u32 = 2;

impl<C: Clock> Adapter<C> {
    /// An adapter for a service.
    pub fn new(service: Service<C>, wiring: Arc<Wiring>) -> Adapter<C> {
        Adapter { service, wiring, requests: None }
    }

    /// Writes down what it has in hand, for a successor.
    #[must_use]
    pub fn noting(self, requests: Option<Arc<Requests>>) -> Adapter<C> {
        Adapter { requests, ..self }
    }

    /// Notes that a request is in hand until what is returned is dropped.
    ///
    /// # Errors
    /// `EIO`: it has ended several servers.
    fn take_up(&self, request: &Request) -> Result<Option<InHand<'_>>, Errno> {
        let Some(requests) = &self.requests else { return Ok(None) };
        let number = request.unique().0;
        if requests.crashes(number) >= CRASHES {
            tracing::error!(number, uid = request.uid(), "a request that has ended several servers gets EIO");
            return Err(Errno::EIO);
        }
        Ok(Some(requests.begin(number)))
    }

    /// Makes a call that needs a verdict; looks up the caller's groups and his process where the outcome depends on
    /// them. He waits for the reply, so his thread's number is still his own.
    fn judged<T>(&self, request: &Request, call: impl Fn(&Caller) -> Outcome<T>) -> Outcome<T> {
        let mut caller = Caller::from(request);
        loop {
            match call(&caller) {
                Outcome::NeedGroups if caller.groups == Groups::Unread => {
                    caller.groups = Groups::Known(sys::supplementary_groups(caller.thread));
                }
                Outcome::NeedProcess if caller.process == ProcessOf::Unread => {
                    caller.process = match sys::process_of(caller.thread) {
                        Some(process) => ProcessOf::Known(process),
                        None => ProcessOf::Hidden,
                    };
                }
                outcome => return outcome,
            }
        }
    }

    /// Replies now, or lets the reply wait with the driver.
    fn finish<T>(&self, outcome: Outcome<T>, reply: Pending, answer: impl FnOnce(T) -> Answer) {
        match outcome {
            Outcome::Done(result) => reply.send(result.map(answer), &self.service, &self.wiring),
            Outcome::Wait(ticket) => {
                let (service, wiring) = (self.service.clone(), Arc::clone(&self.wiring));
                self.service.wait(ticket, Box::new(Waiting { reply, service, wiring }));
            }
            // All was looked up; a verdict that still asks for more is a denial.
            Outcome::NeedGroups | Outcome::NeedProcess => reply.error(FsError::CallerDenied),
        }
    }
}

/// A reply that may have to wait.
enum Pending {
    Open(ReplyOpen),
    OpenDirectory(ReplyOpen),
    Attributes(ReplyAttr),
}

impl Pending {
    fn send<C: Clock>(self, answer: Result<Answer, FsError>, service: &Service<C>, wiring: &Wiring) {
        match (self, answer) {
            (Pending::Open(reply), Ok(Answer::Opened(opened))) => send_opened(reply, opened, service, wiring),
            (
                Pending::OpenDirectory(reply),
                Ok(Answer::DirectoryOpened(DirectoryOpened { handle, cache })),
            ) => {
                let flags = if cache { DIRECTORY_FLAGS } else { FopenFlags::empty() };
                reply.opened(handle.into(), flags);
            }
            (Pending::Attributes(reply), Ok(Answer::Attributes(attributes))) => {
                reply.attr(&attributes.ttl, &file_attr(&attributes));
            }
            (reply, Ok(_)) => reply.error(FsError::Unusable),
            (reply, Err(error)) => reply.error(error),
        }
    }

    fn error(self, error: FsError) {
        match self {
            Pending::Open(reply) | Pending::OpenDirectory(reply) => reply.error(error.into()),
            Pending::Attributes(reply) => reply.error(error.into()),
        }
    }
}

/// Answers OPEN; where the kernel remembers another size, only once it knows the right one.
fn send_opened<C: Clock>(reply: ReplyOpen, opened: Opened, service: &Service<C>, wiring: &Wiring) {
    let Opened { handle, ino, forget_attributes } = opened;
    let Some(notices) = wiring.notices.get().filter(|_| forget_attributes) else {
        return reply.opened(handle.into(), FILE_FLAGS);
    };
    let body = service.look(|engine, now| engine.read(now, handle, Reader::Handle));
    let kernel = notices.clone();
    notices.then(Box::new(move || {
        // Without a body it has ended meanwhile, and all reads will say so.
        if let Ok(body) = body {
            let bytes = body.expose();
            if let Err(error) = kernel.size_now(ino, bytes.len() as u64, bytes.last().copied()) {
                tracing::warn!(%error, "the kernel may show an old size");
            }
        }
        reply.opened(handle.into(), FILE_FLAGS);
    }));
}

/// A reply that waits with the driver.
struct Waiting<C> {
    reply: Pending,
    service: Service<C>,
    wiring: Arc<Wiring>,
}

impl<C: Clock> Reply for Waiting<C> {
    fn answer(self: Box<Self>, answer: Result<Answer, FsError>) {
        self.reply.send(answer, &self.service, &self.wiring);
    }
}

impl Kernel for Notices {
    fn invalidate(&self, ino: Ino) {
        self.send(Notice::Inode(ino));
    }

    fn invalidate_name(&self, parent: Ino, name: String) {
        self.send(Notice::Entry { parent, name });
    }

    fn invalidate_listing(&self, ino: Ino) {
        self.send(Notice::Directory(ino));
    }

    fn afterwards(&self, work: Box<dyn FnOnce() + Send>) {
        self.then(work);
    }
}

impl<C: Clock> Filesystem for Adapter<C> {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // INIT comes once.
        let _ = self.wiring.missing.set(negotiate(config));
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _in_hand = match self.take_up(request) {
            Ok(in_hand) => in_hand,
            Err(errno) => return reply.error(errno),
        };
        let found = match name.to_str() {
            Some(name) => self.service.look(|engine, now| engine.lookup(now, parent.into(), name)),
            // Names in Vault are UTF-8.
            None => Err(FsError::NoSuchName),
        };
        match found {
            Ok(entry) => {
                let attr = file_attr(&entry.attributes);
                reply.entry_with_ttls(&entry.attributes.ttl, &entry.ttl, &attr, Generation(0));
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn forget(&self, _request: &Request, ino: INodeNo, nlookup: u64) {
        self.service.look(|engine, _| engine.forget(ino.into(), nlookup));
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let _in_hand = match self.take_up(request) {
            Ok(in_hand) => in_hand,
            Err(errno) => return reply.error(errno),
        };
        let outcome = self
            .judged(request, |caller| self.service.call(|engine, at| engine.getattr(at, caller, ino.into())));
        self.finish(outcome, Pending::Attributes(reply), Answer::Attributes);
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let _in_hand = match self.take_up(request) {
            Ok(in_hand) => in_hand,
            Err(errno) => return reply.error(errno),
        };
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(FsError::ReadOnly.into());
        }
        let outcome = self
            .judged(request, |caller| self.service.call(|engine, at| engine.open(at, caller, ino.into())));
        self.finish(outcome, Pending::Open(reply), Answer::Opened);
    }

    fn read(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let _in_hand = match self.take_up(request) {
            Ok(in_hand) => in_hand,
            Err(errno) => return reply.error(errno),
        };
        // A read without a lock owner fills the page cache, for a mapping.
        let reader = if lock_owner.is_some() { Reader::Handle } else { Reader::PageCache };
        match self.service.look(|engine, now| engine.read(now, fh.into(), reader)) {
            Ok(body) => {
                let bytes = body.expose();
                let from = usize::try_from(offset).map_or(bytes.len(), |offset| offset.min(bytes.len()));
                let to = from.saturating_add(size as usize).min(bytes.len());
                reply.data(&bytes[from..to]);
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // The kernel takes this as "never ask again".
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _in_hand = match self.take_up(request) {
            Ok(in_hand) => in_hand,
            Err(errno) => return reply.error(errno),
        };
        self.service.call(|engine, at| ((), engine.release(at, HandleId::from(fh))));
        reply.ok();
    }

    fn opendir(&self, request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let _in_hand = match self.take_up(request) {
            Ok(in_hand) => in_hand,
            Err(errno) => return reply.error(errno),
        };
        let outcome = self
            .judged(request, |caller| self.service.call(|engine, at| engine.opendir(at, caller, ino.into())));
        self.finish(outcome, Pending::OpenDirectory(reply), Answer::DirectoryOpened);
    }

    fn readdir(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let _in_hand = match self.take_up(request) {
            Ok(in_hand) => in_hand,
            Err(errno) => return reply.error(errno),
        };
        let result = self.service.look(|engine, _| {
            engine.readdir(fh.into(), offset, |name, ino, node_type, next| {
                room(reply.add(ino.into(), next, file_type(node_type), name))
            })
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error.into()),
        }
    }

    fn readdirplus(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let _in_hand = match self.take_up(request) {
            Ok(in_hand) => in_hand,
            Err(errno) => return reply.error(errno),
        };
        let result = self.service.look(|engine, now| {
            engine.readdirplus(now, fh.into(), offset, |name, attributes, next| {
                let attr = file_attr(attributes);
                room(reply.add(attr.ino, next, name, &attributes.ttl, &attr, Generation(0)))
            })
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error.into()),
        }
    }

    fn releasedir(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let _in_hand = match self.take_up(request) {
            Ok(in_hand) => in_hand,
            Err(errno) => return reply.error(errno),
        };
        self.service.look(|engine, _| engine.releasedir(fh.into()));
        reply.ok();
    }

    fn getxattr(&self, request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let _in_hand = match self.take_up(request) {
            Ok(in_hand) => in_hand,
            Err(errno) => return reply.error(errno),
        };
        let Some(name) = name.to_str().filter(|name| name.starts_with("user.leasefs.")) else {
            return reply.error(Errno::ENODATA);
        };
        let outcome = self.judged(request, |caller| {
            self.service.look(|engine, now| engine.xattr(now, caller, ino.into(), name))
        });
        let value = done(outcome).map(|value| self.text(value));
        reply_sized(reply, size, value.map(String::into_bytes));
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let _in_hand = match self.take_up(request) {
            Ok(in_hand) => in_hand,
            Err(errno) => return reply.error(errno),
        };
        let outcome = self.judged(request, |caller| {
            self.service.look(|engine, now| engine.xattr_names(now, caller, ino.into()))
        });
        let names = done(outcome)
            .map(|names| names.iter().flat_map(|name| [name.as_bytes(), b"\0"].concat()).collect());
        reply_sized(reply, size, names);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        // TCGETS, with which programs ask whether a file is a terminal.
        reply.error(Errno::ENOTTY);
    }
}

impl<C: Clock> Adapter<C> {
    fn text(&self, value: XattrValue) -> String {
        match value {
            XattrValue::Text(text) => text,
            XattrValue::Unix(time) => time.to_string(),
            XattrValue::Boot(at) => {
                let clock = self.service.clock();
                UnixTime::of(at, clock.now(), clock.wall()).to_string()
            }
        }
    }
}

fn done<T>(outcome: Outcome<T>) -> Result<T, FsError> {
    match outcome {
        Outcome::Done(result) => result,
        Outcome::Wait(_) | Outcome::NeedGroups | Outcome::NeedProcess => Err(FsError::CallerDenied),
    }
}

/// The two steps of xattr(7): how long it is, then the value into a buffer of that size.
fn reply_sized(reply: ReplyXattr, size: u32, value: Result<Vec<u8>, FsError>) {
    match value {
        Err(error) => reply.error(error.into()),
        Ok(value) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
    }
}

fn room(full: bool) -> Room {
    if full { Room::Full } else { Room::Left }
}

fn file_type(node_type: NodeType) -> FileType {
    match node_type {
        NodeType::File => FileType::RegularFile,
        NodeType::Directory => FileType::Directory,
    }
}

fn file_attr(attributes: &Attributes) -> FileAttr {
    let time = SystemTime::from(attributes.mtime);
    FileAttr {
        ino: attributes.ino.into(),
        size: attributes.size,
        blocks: attributes.size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(attributes.node_type),
        perm: attributes.rule.mode.0,
        nlink: match attributes.node_type {
            NodeType::File => 1,
            NodeType::Directory => 2,
        },
        uid: attributes.rule.uid,
        gid: attributes.rule.gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

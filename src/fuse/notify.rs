//! The one thread that tells the kernel to forget what it has cached.
//!
//! A notification made inside a handler of LOOKUP or READDIR, or under a lock that a handler wants,
//! deadlocks with the kernel. So [`Notices::send`] only queues, and the thread that notifies holds no
//! lock and serves no request. What must be done before a reply is queued with the reply itself, by
//! [`Notices::then`]; [`Notices::attributes_now`] alone is fine in a handler.
//!
//! Must never wait for anything but the kernel and the next notice.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use fuser::Notifier;

use crate::core::name::Ino;

/// What the kernel is to forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A file's attributes and pages; a mapping of it faults at its next access.
    Inode(Ino),
    /// A file's attributes alone.
    Attributes(Ino),
    /// A name in a directory, known or known to be missing. What is mounted below it is unmounted.
    Entry {
        /// The directory.
        parent: Ino,
        /// The name in it.
        name: String,
    },
    /// A directory's list.
    Directory(Ino),
}

/// What the thread is to do.
enum Item {
    Notice(Notice),
    Then(Box<dyn FnOnce() + Send>),
}

/// How many notices were sent since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoticeCounts {
    /// Taken by the kernel; also those about what it no longer knew.
    pub taken: u64,
    /// Refused by the kernel.
    pub refused: u64,
}

/// Where to hand in notices. Cheap to clone; the thread ends when all clones are dropped.
#[derive(Clone)]
pub struct Notices {
    queue: Sender<Item>,
    kernel: Arc<Counted<Notifier>>,
}

impl Notices {
    /// Starts the thread. Join the handle after the last clone of the `Notices` was dropped.
    ///
    /// # Errors
    /// No thread could be made.
    pub fn start(notifier: Notifier) -> io::Result<(Notices, JoinHandle<()>)> {
        let kernel = Arc::new(Counted::new(notifier));
        let (queue, notices) = mpsc::channel();
        let thread = {
            let kernel = Arc::clone(&kernel);
            thread::Builder::new()
                .name("leasefs-notify".to_owned())
                .spawn(move || kernel.carry_out(&notices))?
        };
        Ok((Notices { queue, kernel }, thread))
    }

    /// Queues a notice and returns at once; fine in any handler and under any lock.
    pub fn send(&self, notice: Notice) {
        // The thread only ends with the last sender, so this can't fail but by a panic over there.
        let _ = self.queue.send(Item::Notice(notice));
    }

    /// Queues work to be done once all notices before it were taken; it must not block.
    pub fn then(&self, work: Box<dyn FnOnce() + Send>) {
        let _ = self.queue.send(Item::Then(work));
    }

    /// Makes the kernel forget a file's attributes before this returns. Only for a handler of OPEN that
    /// is about to answer with a size that the kernel does not know yet, and that holds no lock.
    ///
    /// # Errors
    /// What the kernel said; then it may go on showing the old size.
    pub fn attributes_now(&self, ino: Ino) -> io::Result<()> {
        self.kernel.notify(&Notice::Attributes(ino))
    }

    /// Makes the kernel take over the size of a file before this returns, and ask anew for its other
    /// attributes. An answer to OPEN can't carry a size, and a program that goes by the kernel's without
    /// asking (sendfile, splice) would see an empty file. `last` is the file's last byte; without one it
    /// is empty. Only inside [`Notices::then`]: it may wait for reads that fill the page cache, and so for
    /// their handlers.
    ///
    /// # Errors
    /// What the kernel said; then it may go on believing in the old size.
    pub fn size_now(&self, ino: Ino, size: u64, last: Option<u8>) -> io::Result<()> {
        if let Some(last) = last {
            Kernel::store(&self.kernel.kernel, ino, size.saturating_sub(1), &[last])?;
        }
        // Storing lets a file grow; that it shrank must be asked.
        self.attributes_now(ino)
    }

    /// How many notices were sent since the start.
    pub fn counts(&self) -> NoticeCounts {
        NoticeCounts {
            taken: self.kernel.taken.load(Ordering::Relaxed),
            refused: self.kernel.refused.load(Ordering::Relaxed),
        }
    }
}

/// What is needed of the kernel.
trait Kernel {
    /// FUSE_NOTIFY_INVAL_INODE: `len` bytes from `offset`, 0 bytes being all of the rest; a negative
    /// offset leaves the pages alone.
    fn inval_inode(&self, ino: Ino, offset: i64, len: i64) -> io::Result<()>;
    /// FUSE_NOTIFY_STORE.
    fn store(&self, ino: Ino, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// FUSE_NOTIFY_INVAL_ENTRY.
    fn inval_entry(&self, parent: Ino, name: &str) -> io::Result<()>;
}

impl Kernel for Notifier {
    // fuser itself takes ENOENT for success: the kernel had forgotten it already.
    fn inval_inode(&self, ino: Ino, offset: i64, len: i64) -> io::Result<()> {
        Notifier::inval_inode(self, ino.into(), offset, len)
    }

    fn store(&self, ino: Ino, offset: u64, bytes: &[u8]) -> io::Result<()> {
        Notifier::store(self, ino.into(), offset, bytes)
    }

    fn inval_entry(&self, parent: Ino, name: &str) -> io::Result<()> {
        Notifier::inval_entry(self, parent.into(), OsStr::new(name))
    }
}

struct Counted<K> {
    kernel: K,
    taken: AtomicU64,
    refused: AtomicU64,
}

impl<K: Kernel> Counted<K> {
    fn new(kernel: K) -> Counted<K> {
        Counted { kernel, taken: AtomicU64::new(0), refused: AtomicU64::new(0) }
    }

    fn carry_out(&self, items: &Receiver<Item>) {
        for item in items {
            match item {
                Item::Notice(notice) => {
                    if let Err(error) = self.notify(&notice) {
                        tracing::warn!(?notice, %error, "the kernel refused to forget");
                    }
                }
                Item::Then(work) => work(),
            }
        }
    }

    fn notify(&self, notice: &Notice) -> io::Result<()> {
        let result = match notice {
            Notice::Inode(ino) | Notice::Directory(ino) => self.kernel.inval_inode(*ino, 0, 0),
            Notice::Attributes(ino) => self.kernel.inval_inode(*ino, -1, 0),
            Notice::Entry { parent, name } => self.kernel.inval_entry(*parent, name),
        };
        let count = if result.is_ok() { &self.taken } else { &self.refused };
        count.fetch_add(1, Ordering::Relaxed);
        result
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Writes down what it is told; refuses inode 13.
    struct Scribe(Mutex<Vec<String>>);

    impl Kernel for Scribe {
        fn inval_inode(&self, ino: Ino, offset: i64, len: i64) -> io::Result<()> {
            self.0.lock().unwrap().push(format!("inode {} {offset} {len}", ino.0));
            if ino == Ino(13) { Err(io::ErrorKind::InvalidInput.into()) } else { Ok(()) }
        }

        fn store(&self, ino: Ino, offset: u64, bytes: &[u8]) -> io::Result<()> {
            self.0.lock().unwrap().push(format!("store {} {offset} {}", ino.0, bytes.len()));
            Ok(())
        }

        fn inval_entry(&self, parent: Ino, name: &str) -> io::Result<()> {
            self.0.lock().unwrap().push(format!("entry {} {name}", parent.0));
            Ok(())
        }
    }

    #[test]
    fn notices_are_carried_out_in_order_until_the_last_sender_is_gone() {
        let (queue, notices) = mpsc::channel();
        for notice in [
            Notice::Inode(Ino(2)),
            Notice::Attributes(Ino(3)),
            Notice::Inode(Ino(13)),
            Notice::Entry { parent: Ino(1), name: "db".to_owned() },
            Notice::Directory(Ino(1)),
        ] {
            queue.send(Item::Notice(notice)).unwrap();
        }
        drop(queue);
        let kernel = Counted::new(Scribe(Mutex::default()));
        kernel.carry_out(&notices);
        assert_eq!(
            *kernel.kernel.0.lock().unwrap(),
            ["inode 2 0 0", "inode 3 -1 0", "inode 13 0 0", "entry 1 db", "inode 1 0 0"]
        );
        assert_eq!(kernel.taken.into_inner(), 4);
        assert_eq!(kernel.refused.into_inner(), 1);
    }
}

//! What is written down of a mount for the servers that come: where it is, which configuration is in force, and what
//! the next server is to do. No secret.
//!
//! Invariant: *whole*: whoever is killed while it writes leaves what there was before. A text never overwrites the
//! one that is in force, and a single write of eight bytes puts the new one in its place.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::Kept;
use crate::config::plan::MountPlan;
use crate::core::time::UnixTime;
use crate::daemon::stamps::Stamps;
use crate::fuse::kept::Seat;
use crate::sys::descriptors::memory_file;

/// The version of the form below.
const VERSION: u32 = 2;

/// The longest record, in bytes: the longest configuration, as JSON has it.
const LONGEST: u64 = 256 << 20;

/// Where texts begin: behind where and how long the one in force is, four bytes each.
const HEADER: u64 = 8;

/// What a server must know of a mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    /// Where and how it is mounted.
    pub seat: Seat,
    /// The configuration, absolute.
    pub config: PathBuf,
    /// The user and the group that mounted.
    pub owner: (u32, u32),
    /// The home directory of that user.
    pub home: Option<PathBuf>,
    /// When it was mounted.
    pub mounted: UnixTime,
    /// What no later configuration can change.
    pub fixed: Fixed,
    /// The configuration that is in force.
    pub kept: Kept,
    /// The credential files that its identities have logged in with.
    pub stamps: Stamps,
    /// What the next server is to do.
    pub order: Option<Order>,
    /// What became of the last order.
    pub reload: Option<Reloaded>,
}

/// What belongs to the mount itself, so that it lasts as long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fixed {
    /// What the configuration must say of `allow-other`; `None`: the command line has said it.
    pub allow_other: Option<bool>,
    /// The most that it can say of `max-memory`, in bytes: the state has room for no more.
    pub max_memory: u64,
}

/// What a server that hands over wants of the next one, which goes on with what is in force otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Order {
    /// To read the configuration from the disk.
    Reread,
    /// The same, and to log in where credential files were replaced.
    Reload,
}

/// What became of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reloaded {
    /// When.
    pub at: UnixTime,
    /// Why the configuration on the disk was not taken; `None`: it was.
    pub refused: Option<String>,
}

impl Fixed {
    /// What a plan asks for that a mount which is there can't have, in a sentence each, after its key.
    pub fn refuse(&self, plan: &MountPlan) -> Option<(&'static str, String)> {
        let wanted = plan.mount.allow_other;
        if self.allow_other.is_some_and(|is| is != wanted) {
            let message = format!(
                "is {wanted} now, and who may reach a mount is settled when it is made: write {}, or unmount and \
                 mount again",
                !wanted
            );
            return Some(("mount.allow-other", message));
        }
        (plan.mount.max_memory > self.max_memory).then(|| {
            let message = format!(
                "is more than the memory that was set aside when it was mounted: write {} bytes or less, or unmount \
                 and mount again",
                self.max_memory
            );
            ("mount.max-memory", message)
        })
    }
}

impl Record {
    /// Of a mount that was just made.
    pub(super) fn new(
        seat: Seat,
        config: PathBuf,
        (owner, home): ((u32, u32), Option<PathBuf>),
        mounted: UnixTime,
        fixed: Fixed,
        (kept, stamps): (Kept, Stamps),
    ) -> Record {
        let (order, reload) = (None, None);
        Record { version: VERSION, seat, config, owner, home, mounted, fixed, kept, stamps, order, reload }
    }

    /// Writes it into a file that is nowhere but in memory.
    pub(super) fn write(&self) -> io::Result<File> {
        let file = memory_file(c"leasefs-mount")?;
        put(&file, self)?;
        Ok(file)
    }
}

/// The record, where servers share it.
#[derive(Debug)]
pub(super) struct Book {
    file: File,
    /// What is in it. A change counts once it is written.
    pub record: Record,
    /// A configuration that this server tries, and that comes into force when it serves.
    pub trial: Option<(Kept, Stamps)>,
}

impl Book {
    /// Reads it.
    ///
    /// # Errors
    /// `InvalidData`: it is none, or one of another version.
    pub(super) fn open(file: OwnedFd) -> io::Result<Book> {
        let file = File::from(file);
        let (begin, length) = place(&file)?;
        if u64::from(length) > LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut text = vec![0; length as usize];
        file.read_exact_at(&mut text, u64::from(begin))?;
        let record: Record = serde_json::from_slice(&text)?;
        match record.version {
            VERSION => Ok(Book { file, record, trial: None }),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Leaves an order for the next server. One that can't be left is told; the next one goes on with what is in force.
    pub(super) fn leave(&mut self, order: Order) {
        self.record.order = Some(order);
        self.keep();
    }

    /// Takes the order of the last server, so that nobody gets it again, whatever becomes of this one.
    pub(super) fn take(&mut self, at: UnixTime) -> Option<Order> {
        let order = self.record.order.take()?;
        let refused = Some("the server that tried it has died: look at the log".to_owned());
        self.record.reload = Some(Reloaded { at, refused });
        self.keep();
        Some(order)
    }

    /// The configuration on the disk is not taken.
    pub(super) fn refuse(&mut self, at: UnixTime, why: String) {
        tracing::error!(why, "the configuration was not reloaded: the one in force stays");
        self.trial = None;
        self.record.reload = Some(Reloaded { at, refused: Some(why) });
        self.keep();
    }

    /// This server serves: what it has tried is in force.
    pub(super) fn accept(&mut self, at: UnixTime) {
        if let Some((kept, stamps)) = self.trial.take() {
            tracing::info!("the configuration was reloaded");
            (self.record.kept, self.record.stamps) = (kept, stamps);
            self.record.reload = Some(Reloaded { at, refused: None });
            self.keep();
        }
    }

    fn keep(&self) {
        if let Err(error) = put(&self.file, &self.record) {
            tracing::error!(%error, "the record of the mount can't be written: the next server finds an older one");
        }
    }
}

/// Where the text in force is, and its length.
fn place(file: &File) -> io::Result<(u32, u32)> {
    let mut header = [0; HEADER as usize];
    file.read_exact_at(&mut header, 0)?;
    let [a, b, c, d, e, f, g, h] = header;
    Ok((u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])))
}

/// Writes a text beside the one in force, and then where it is.
fn put(file: &File, record: &Record) -> io::Result<()> {
    let text = serde_json::to_vec(record)?;
    let length = u32::try_from(text.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    if u64::from(length) > LONGEST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let first = HEADER as u32;
    let begin = match place(file) {
        // A file that is new.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => first,
        Err(error) => return Err(error),
        Ok((begin, _)) if begin >= first + length => first,
        Ok((begin, known)) => begin + known,
    };
    file.write_all_at(&text, u64::from(begin))?;
    let [a, b, c, d] = begin.to_ne_bytes();
    let [e, f, g, h] = length.to_ne_bytes();
    file.write_all_at(&[a, b, c, d, e, f, g, h], 0)
}

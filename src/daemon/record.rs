//! What is written down of a mount for the servers that come: no secret, and nothing that changes.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::core::time::UnixTime;
use crate::fuse::kept::Seat;
use crate::sys::descriptors::memory_file;

/// The version of the form below.
const VERSION: u32 = 1;

/// The longest record, in bytes.
const LONGEST: u64 = 1 << 20;

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
}

impl Record {
    pub(super) fn new(
        seat: Seat,
        config: PathBuf,
        owner: (u32, u32),
        home: Option<PathBuf>,
        mounted: UnixTime,
    ) -> Record {
        Record { version: VERSION, seat, config, owner, home, mounted }
    }

    /// Writes it into a file that is nowhere but in memory.
    pub(super) fn write(&self) -> io::Result<File> {
        let mut file = memory_file(c"leasefs-mount")?;
        file.write_all(&serde_json::to_vec(self)?)?;
        Ok(file)
    }

    /// Reads it, wherever somebody has left the file's offset.
    ///
    /// # Errors
    /// `InvalidData`: it is none, or one of another version.
    pub(super) fn read(file: OwnedFd) -> io::Result<Record> {
        let file = File::from(file);
        let length = file.metadata()?.len().min(LONGEST);
        let mut text = vec![0; usize::try_from(length).unwrap_or_default()];
        file.read_exact_at(&mut text, 0)?;
        let record: Record = serde_json::from_slice(&text)?;
        match record.version {
            VERSION => Ok(record),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

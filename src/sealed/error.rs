//! Why a sealed state can't be read, or not be written.

use super::layout::VERSION;
use crate::sys::secret_memory::MemoryError;

/// Why the memory gives no state. After all but the first one `Sealed::format` begins anew.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealedError {
    /// The memory itself can't be used.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Another release of leasefs wrote it, in a way that this one can't read.
    #[error(
        "the sealed state has format {found}, this leasefs reads format {VERSION}: begin with an empty state, or \
         start the leasefs that wrote it"
    )]
    Version {
        /// The format in the memory.
        found: u16,
    },
    /// Something else wrote it.
    #[error("the memory holds something that leasefs did not write: pass memory that leasefs made")]
    Foreign,
    /// Its process could not store all of its state, so that what is in it would be too old.
    #[error(
        "the state was too big for the memory, so its last writer left none: begin with an empty state, in more \
         memory"
    )]
    Unusable,
    /// What is in it contradicts itself: a faulty program wrote to it.
    #[error("the sealed state is damaged ({0}): begin with an empty state")]
    Damaged(#[from] Damage),
}

/// What is wrong with the contents. Offsets count from the end of the page of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The memory has another size than when it was formatted.
    #[error("made for memory of another size")]
    Size,
    /// The word that says which records count.
    #[error("the word that commits is invalid")]
    Commit,
    /// The word that says how far a half was ever used.
    #[error("the reach of a half is invalid")]
    Reach,
    /// The lengths of a record.
    #[error("invalid lengths in the record at {0}")]
    Lengths(usize),
    /// What a record is.
    #[error("the record at {0} is of no kind")]
    Kind(usize),
    /// The contents of a record.
    #[error("wrong checksum of the record at {0}")]
    Checksum(usize),
}

/// The state does not fit. What was committed before counts no more: a successor finds
/// [`SealedError::Unusable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the state takes {needed} bytes and there is room for {room}, somewhat less than half of the memory: make it \
     larger"
)]
pub struct Full {
    /// How many bytes all entries and the one that did not fit would take.
    pub needed: usize,
    /// How many bytes there are for entries.
    pub room: usize,
}

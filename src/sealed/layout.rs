//! Where things lie in the memory, and the words that say so: a header, then two halves of equal size, one of
//! which holds the records. It knows no record.

use std::ops::Range;

use crate::sys::secret_memory::{Area, SHARED};

/// The version of everything in the memory. Another one is refused.
pub(super) const VERSION: u16 = 1;

/// What the header takes.
const HEADER: usize = 4096;

/// The least memory that makes sense: the page of requests, the header and two small halves.
pub(super) const LEAST: usize = SHARED + HEADER + 2 * 4096;

// Words of the header. The commit lies alone on its cache line: it is the one that is stored all the time.
const MARK: usize = 0;
const SIZE: usize = 8;
const COMMIT: usize = 64;
const REACH: [usize; 2] = [128, 136];

/// The reach grows in steps of this, so that it is stored seldom.
const STEP: usize = 4096;

/// The name that starts each mark; the version follows it.
const NAME: u64 = u64::from_be_bytes(*b"LEASEF\0\0");
const NAME_BITS: u64 = !0xffff;
/// In place of a version: the memory is being formatted.
const IN_THE_MAKING: u16 = u16::MAX;

/// The first word of memory that leasefs has written to.
pub(super) fn mark(version: u16) -> u64 {
    NAME | u64::from(version)
}

/// What the first word says about the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nobody has ever written to it.
    Nothing,
    /// Somebody was killed while formatting it.
    Fragment,
    /// This version.
    Current,
    /// Another version.
    Other(u16),
    /// Not ours.
    Foreign,
}

impl Found {
    /// Reads a mark.
    pub(super) fn of(word: u64) -> Found {
        #[expect(clippy::cast_possible_truncation, reason = "the version is the lower half")]
        match (word, word as u16) {
            (0, _) => Found::Nothing,
            _ if word & NAME_BITS != NAME => Found::Foreign,
            (_, IN_THE_MAKING) => Found::Fragment,
            (_, VERSION) => Found::Current,
            (_, other) => Found::Other(other),
        }
    }

    /// What is in an area.
    pub(super) fn in_area(area: &Area) -> Found {
        Found::of(area.load(MARK))
    }
}

/// One of the two halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    First,
    Second,
}

impl Half {
    pub(super) const BOTH: [Half; 2] = [Half::First, Half::Second];

    pub(super) fn other(self) -> Half {
        match self {
            Half::First => Half::Second,
            Half::Second => Half::First,
        }
    }

    pub(super) fn index(self) -> usize {
        match self {
            Half::First => 0,
            Half::Second => 1,
        }
    }
}

/// What a successor is to take for the state: one word, so that storing it is the commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Commit {
    /// The records in the first `length` bytes of a half.
    Records { half: Half, length: usize },
    /// The state is not in here: it became too big.
    Unusable,
}

impl Commit {
    // 40 bits of length in units of 8 bytes, one for the half, one for "unusable", and 22 that check the others: a
    // length that was damaged could end at a record by chance and would then be an older state.
    const LENGTH: u64 = (1 << 40) - 1;
    const SECOND: u64 = 1 << 40;
    const UNUSABLE: u64 = 1 << 41;
    const CHECKED: u64 = (1 << 42) - 1;

    fn encode(self) -> u64 {
        let word = match self {
            Commit::Records { half: Half::First, length } => length as u64 / 8,
            Commit::Records { half: Half::Second, length } => (length as u64 / 8) | Commit::SECOND,
            Commit::Unusable => Commit::UNUSABLE,
        };
        word | Commit::check(word)
    }

    fn decode(word: u64) -> Option<Commit> {
        let length = usize::try_from((word & Commit::LENGTH) * 8).ok()?;
        let commit = match word & (Commit::SECOND | Commit::UNUSABLE) {
            0 => Commit::Records { half: Half::First, length },
            Commit::SECOND => Commit::Records { half: Half::Second, length },
            _ => Commit::Unusable,
        };
        (commit.encode() == word).then_some(commit)
    }

    /// The upper bits of a product with an odd number close to the golden ratio (Knuth's multiplicative hash).
    fn check(word: u64) -> u64 {
        !word.wrapping_mul(0x9e37_79b9_7f4a_7c15) & !Commit::CHECKED
    }
}

/// The header and the halves of an area.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    half: usize,
}

impl Layout {
    pub(super) fn of(area: &Area) -> Layout {
        Layout { half: area.len().saturating_sub(HEADER) / 2 / 8 * 8 }
    }

    /// How many bytes of records a half holds.
    pub(super) fn half(self) -> usize {
        self.half
    }

    /// Where a half begins.
    pub(super) fn start(self, half: Half) -> usize {
        HEADER + half.index() * self.half
    }

    /// The first `length` bytes of a half.
    pub(super) fn range(self, half: Half, length: usize) -> Range<usize> {
        self.start(half)..self.start(half) + length
    }

    /// Begins anew, without records. Whoever is killed in here leaves nothing, or a fragment, never a state.
    pub(super) fn format(self, area: &mut Area) {
        if Found::in_area(area) != Found::Nothing {
            area.store(MARK, mark(IN_THE_MAKING));
            // Whatever another version or a damaged one held, and wherever.
            area.wipe(MARK + 8..area.len());
        }
        area.store(SIZE, area.len() as u64);
        area.store(COMMIT, Commit::Records { half: Half::First, length: 0 }.encode());
        area.store(MARK, mark(VERSION));
    }

    /// Whether the memory still has the size that it was formatted for.
    pub(super) fn has_its_size(area: &Area) -> bool {
        area.load(SIZE) == area.len() as u64
    }

    /// What was committed, unless the word is damaged.
    pub(super) fn commit(self, area: &Area) -> Option<Commit> {
        Commit::decode(area.load(COMMIT)).filter(|commit| match commit {
            Commit::Records { length, .. } => *length <= self.half,
            Commit::Unusable => true,
        })
    }

    /// Makes this the state. All that was written before is there when a successor sees it.
    pub(super) fn set_commit(area: &mut Area, commit: Commit) {
        area.store(COMMIT, commit.encode());
    }

    /// How far from its start a half may hold anything but zeros, unless the word is damaged.
    pub(super) fn reach(self, area: &Area, half: Half) -> Option<usize> {
        usize::try_from(area.load(REACH[half.index()]))
            .ok()
            .filter(|reach| *reach <= self.half && reach.is_multiple_of(8))
    }

    /// Must come before anything is written up to `length`. Takes the present reach and gives the new one.
    pub(super) fn extend_reach(self, area: &mut Area, half: Half, present: usize, length: usize) -> usize {
        if length <= present {
            return present;
        }
        let reach = length.next_multiple_of(STEP).min(self.half);
        area.store(REACH[half.index()], reach as u64);
        reach
    }

    /// Overwrites a half up to its reach, which is none from then on.
    pub(super) fn wipe(self, area: &mut Area, half: Half, reach: usize) {
        if reach > 0 {
            area.wipe(self.range(half, reach));
            area.store(REACH[half.index()], 0);
        }
    }
}

//! One entry in the memory: four words, the key, the value, each filled up to eight bytes.
//!
//! Invariant: *dead before wiped*: a record is marked dead before its key and value are overwritten, and its
//! lengths stay, so that whoever comes next can step over it.

use std::ops::Range;

use super::error::Damage;
use crate::sys::secret_memory::Area;

// Words of a record.
const LENGTHS: usize = 0;
/// The lengths once more, inverted: they are what the way through the records depends on, and the checksum can't
/// tell in a record that is dead.
const AGAIN: usize = 8;
const KIND: usize = 16;
const CHECKSUM: usize = 24;
const HEADER: usize = 32;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// From here on the key has this value.
    Put,
    /// From here on there is no such key.
    Removal,
    /// Nothing: replaced or removed.
    Dead,
}

impl Kind {
    // Words that no flipped bit turns into one another.
    fn encode(self) -> u64 {
        u64::from_le_bytes(match self {
            Kind::Put => *b"an entry",
            Kind::Removal => *b"removal.",
            Kind::Dead => *b"\xff dead \xff",
        })
    }

    fn decode(word: u64) -> Option<Kind> {
        [Kind::Put, Kind::Removal, Kind::Dead].into_iter().find(|kind| kind.encode() == word)
    }
}

/// How many bytes a record takes; `None`: more than can be written down.
pub(super) fn length(key: usize, value: usize) -> Option<usize> {
    // 4 GiB is far beyond any memory that can be locked.
    u32::try_from(key).ok()?;
    u32::try_from(value).ok()?;
    HEADER.checked_add(key.next_multiple_of(8))?.checked_add(value.next_multiple_of(8))
}

/// Where a record lies, and how long its parts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) at: usize,
    key: usize,
    value: usize,
}

impl Place {
    /// Where the record lies once it has been copied to `at`.
    pub(super) fn moved_to(self, at: usize) -> Place {
        Place { at, ..self }
    }

    /// How many bytes the record takes.
    pub(super) fn length(self) -> usize {
        self.payload().end - self.at
    }

    pub(super) fn key(self) -> Range<usize> {
        let start = self.at + HEADER;
        start..start + self.key
    }

    pub(super) fn value(self) -> Range<usize> {
        let start = self.at + HEADER + self.key.next_multiple_of(8);
        start..start + self.value
    }

    fn payload(self) -> Range<usize> {
        self.key().start..self.value().start + self.value.next_multiple_of(8)
    }
}

/// Writes a record at `at`, where there must be room for its [`length`].
pub(super) fn write(area: &mut Area, at: usize, kind: Kind, key: &[u8], value: &[u8]) -> Place {
    let place = Place { at, key: key.len(), value: value.len() };
    let lengths = ((key.len() as u64) << 32) | value.len() as u64;
    area.store(at + LENGTHS, lengths);
    area.store(at + AGAIN, !lengths);
    area.store(at + KIND, kind.encode());
    area.write(place.key().start, key);
    area.write(place.value().start, value);
    area.store(at + CHECKSUM, checksum(area, place));
    place
}

/// Reads the record at `at` of records that end at `end`.
pub(super) fn read(area: &Area, at: usize, end: usize) -> Result<(Place, Kind), Damage> {
    let here = |flaw: fn(usize) -> Damage| flaw(at);
    if end.saturating_sub(at) < HEADER {
        return Err(here(Damage::Lengths));
    }
    let lengths = area.load(at + LENGTHS);
    let key = usize::try_from(lengths >> 32).map_err(|_| here(Damage::Lengths))?;
    let value = usize::try_from(lengths & u64::from(u32::MAX)).map_err(|_| here(Damage::Lengths))?;
    let fits = length(key, value).is_some_and(|length| length <= end - at);
    if !fits || area.load(at + AGAIN) != !lengths {
        return Err(here(Damage::Lengths));
    }
    let place = Place { at, key, value };
    let kind = Kind::decode(area.load(at + KIND)).ok_or(here(Damage::Kind))?;
    if kind != Kind::Dead && area.load(at + CHECKSUM) != checksum(area, place) {
        return Err(here(Damage::Checksum));
    }
    Ok((place, kind))
}

/// Marks a record dead, then overwrites it. May be done again.
pub(super) fn bury(area: &mut Area, place: Place) {
    area.store(place.at + KIND, Kind::Dead.encode());
    area.store(place.at + CHECKSUM, 0);
    area.wipe(place.payload());
}

/// Fletcher's checksum with two sums of 32 bits, over all but itself. It is there for memory that a faulty program
/// has written to: any changed word changes it, it costs an addition or two per word, and the memory can't be
/// torn by a crash, which would ask for more. It is kept in the memory alone and dies with what it sums up.
fn checksum(area: &Area, place: Place) -> u64 {
    const MODULUS: u64 = u32::MAX as u64;
    // So many words that the sums can't overflow before they are reduced.
    const BLOCK: usize = 1 << 15;
    let (mut sum, mut sum_of_sums) = (0, 0);
    let header = area.bytes(place.at..place.at + CHECKSUM);
    let payload = area.bytes(place.payload());
    for part in [header, payload] {
        for block in part.as_chunks::<4>().0.chunks(BLOCK) {
            for word in block {
                sum += u64::from(u32::from_le_bytes(*word));
                sum_of_sums += sum;
            }
            sum %= MODULUS;
            sum_of_sums %= MODULUS;
        }
    }
    (sum_of_sums << 32) | sum
}

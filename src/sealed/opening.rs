//! Reads what a predecessor left, wherever it was killed.
//!
//! Invariant: *look first*: nothing is changed before all of it has been found sound.

use std::collections::HashMap;

use super::error::{Damage, SealedError};
use super::layout::{Commit, Half, Layout};
use super::record::{self, Kind, Place};
use crate::sys::secret_memory::Area;

/// The state as of the last commit.
pub(super) struct Opened {
    pub(super) half: Half,
    pub(super) length: usize,
    pub(super) index: HashMap<Box<[u8]>, Place>,
    pub(super) reach: [usize; 2],
}

/// Reads the state, and overwrites what the predecessor did not come to overwrite.
pub(super) fn read(area: &mut Area, layout: Layout) -> Result<Opened, SealedError> {
    if !Layout::has_its_size(area) {
        return Err(Damage::Size.into());
    }
    let (half, length) = match layout.commit(area).ok_or(Damage::Commit)? {
        Commit::Records { half, length } => (half, length),
        Commit::Unusable => return Err(SealedError::Unusable),
    };
    let reach = |half| layout.reach(area, half).ok_or(Damage::Reach);
    let (reach, reach_of_the_other) = (reach(half)?, reach(half.other())?);
    if reach < length {
        return Err(Damage::Reach.into());
    }
    let Records { index, dead } = walk(area, layout, half, length)?;

    for place in dead {
        record::bury(area, place);
    }
    let start = layout.start(half);
    area.wipe(start + length..start + reach);
    layout.wipe(area, half.other(), reach_of_the_other);
    let reach = match half {
        Half::First => [reach, 0],
        Half::Second => [0, reach],
    };
    Ok(Opened { half, length, index, reach })
}

struct Records {
    index: HashMap<Box<[u8]>, Place>,
    /// In the order in which they must be buried: what a removal removes before the removal.
    dead: Vec<Place>,
}

fn walk(area: &Area, layout: Layout, half: Half, length: usize) -> Result<Records, Damage> {
    let mut records = Records { index: HashMap::new(), dead: Vec::new() };
    let range = layout.range(half, length);
    let mut at = range.start;
    while at < range.end {
        let (place, kind) = record::read(area, at, range.end)?;
        let key = area.bytes(place.key());
        match kind {
            Kind::Put => records.dead.extend(records.index.insert(key.into(), place)),
            Kind::Removal => {
                records.dead.extend(records.index.remove(key));
                records.dead.push(place);
            }
            Kind::Dead => records.dead.push(place),
        }
        at += place.length();
    }
    Ok(records)
}

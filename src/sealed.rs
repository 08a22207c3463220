//! A store of keys and values in memory that outlives the process: what a successor needs to go on.
//!
//! It knows neither what the keys nor what the values mean. Values may be secret: they lie in the given memory
//! alone, never on the heap. Keys are no secrets: an index of them lies on the heap.
//!
//! The memory holds a page of [`Requests`], a header, and two halves, one of which counts. New records are written
//! behind those that count, or, when there is no more room, into the other half, after copies of all live ones;
//! then one word, stored at once, says which half counts, and how much of it.
//!
//! Invariants: *whole commits*: a process that is killed between any two instructions leaves the state of its last
//! commit; *no dead secrets*: when a commit returns, all that it replaced or removed is overwritten, and a
//! successor overwrites what its predecessor did not come to; *no guesses*: what is damaged, was written by another
//! version or could not be stored completely is an error, never a state.

mod error;
mod layout;
mod opening;
mod record;
mod requests;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

pub use error::{Damage, Full, SealedError};
use layout::{Commit, Found, Half, LEAST, Layout};
use record::{Kind, Place};
pub use requests::{End, InHand, Requests};

use crate::sys::secret_memory::{self, Area, SharedPage};

/// The state of one mount, mapped.
pub struct Sealed {
    area: Area,
    layout: Layout,
    requests: Arc<Requests>,
    /// The half that counts, and how much of it.
    half: Half,
    length: usize,
    /// Live entries as of the last commit.
    index: HashMap<Box<[u8]>, Place>,
    batch: Batch,
    /// How far each half may hold anything but zeros.
    reach: [usize; 2],
    /// From what length on a half is left although it has room: its pages would stay for good.
    roomy: usize,
}

/// Up to this length a half is filled however little of it is live, in bytes.
const ROOMY: usize = 1 << 20;

/// What will be committed.
struct Batch {
    /// The half that counts: the batch is appended to it. The other one: the batch is all that will count.
    half: Half,
    /// How much of that half is in use, all records of the batch included.
    length: usize,
    /// In the half that counts: the changes. In the other one: all entries.
    staged: HashMap<Box<[u8]>, Staged>,
    /// Something did not fit.
    full: Option<Full>,
}

enum Staged {
    Put(Place),
    /// With the record that says so, unless the batch is about to move to the other half.
    Removed(Option<Place>),
}

/// How full the memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Live entries as of the last commit.
    pub entries: usize,
    /// What they take, in bytes.
    pub used: usize,
    /// What they may take at most, in bytes. Beyond about half of it, copying them takes most of the time.
    pub room: usize,
}

impl Sealed {
    /// The least memory that makes sense, in bytes.
    pub const LEAST: usize = LEAST;

    /// How large the memory should be for entries of this many bytes altogether ([`Fill::used`]), so that copying
    /// them to make room stays rare.
    pub fn memory_for(used: usize) -> usize {
        LEAST.saturating_add(used.saturating_mul(4))
    }

    /// Maps memory, as made by [`secret_memory::create`], and reads what a predecessor left. Empty memory is
    /// formatted. No other process may have it mapped, and this one may open it once at a time.
    ///
    /// # Errors
    /// Each variant of [`SealedError`]; the memory is then as it was, and [`Sealed::format`] begins anew.
    pub fn open(memory: OwnedFd) -> Result<Sealed, SealedError> {
        let (page, mut area) = secret_memory::map(memory, LEAST)?;
        let layout = Layout::of(&area);
        match Found::in_area(&area) {
            Found::Nothing | Found::Fragment => layout.format(&mut area),
            Found::Current => {}
            Found::Other(found) => return Err(SealedError::Version { found }),
            Found::Foreign => return Err(SealedError::Foreign),
        }
        Sealed::read(Requests::on(page)?, area, layout)
    }

    /// Maps memory and begins with an empty state, whatever it held; all of it is overwritten. What is known of
    /// the kernel's requests stays, if it can be read.
    ///
    /// # Errors
    /// [`SealedError::Memory`].
    pub fn format(memory: OwnedFd) -> Result<Sealed, SealedError> {
        let (page, mut area) = secret_memory::map(memory, LEAST)?;
        let layout = Layout::of(&area);
        layout.format(&mut area);
        let known = Requests::on(SharedPage::clone(&page));
        Sealed::read(known.unwrap_or_else(|_| Requests::anew(page)), area, layout)
    }

    fn read(requests: Arc<Requests>, mut area: Area, layout: Layout) -> Result<Sealed, SealedError> {
        let opening::Opened { half, length, index, reach } = opening::read(&mut area, layout)?;
        let batch = Batch { half, length, staged: HashMap::new(), full: None };
        let roomy = ROOMY.max(2 * length);
        Ok(Sealed { area, layout, requests, half, length, index, batch, reach, roomy })
    }

    /// Live entries as of the last commit, in the order in which they were last put; none after [`Full`]. The
    /// slices point into the memory.
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut places: Vec<Place> = self.index.values().copied().collect();
        places.sort_unstable_by_key(|place| place.at);
        places.into_iter().map(|place| (self.area.bytes(place.key()), self.area.bytes(place.value())))
    }

    /// Sets the value of a key, for a successor to see after [`Sealed::commit`]. What does not fit shows at the
    /// commit.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        if self.batch.full.is_some() {
            return;
        }
        let length = record::length(key.len(), value.len()).unwrap_or(usize::MAX);
        self.unstage(key);
        if self.is_appending() && self.batch.length.saturating_add(length) > self.roomy {
            self.make_room(key);
            self.roomy = ROOMY.max(self.batch.length.saturating_mul(2));
        }
        if !self.fits(length) {
            self.make_room(key);
        }
        if !self.fits(length) {
            // All that is in the half now is live: it has just been put together.
            let needed = self.batch.length.saturating_add(length);
            self.batch.full = Some(Full { needed, room: self.layout.half() });
            return;
        }
        let place = self.append(Kind::Put, key, value, length);
        self.batch.staged.insert(key.into(), Staged::Put(place));
    }

    /// Ends a key, for a successor to see after [`Sealed::commit`].
    pub fn remove(&mut self, key: &[u8]) {
        if self.batch.full.is_some() {
            return;
        }
        self.unstage(key);
        if !self.is_appending() || !self.index.contains_key(key) {
            return;
        }
        match record::length(key.len(), 0).filter(|length| self.fits(*length)) {
            Some(length) => {
                let place = self.append(Kind::Removal, key, &[], length);
                self.batch.staged.insert(key.into(), Staged::Removed(Some(place)));
            }
            // In the other half it takes no record.
            None => self.make_room(key),
        }
    }

    /// Lets a successor see all puts and removals since the last commit; killed meanwhile, all or none of them. Then
    /// overwrites what was replaced or removed. Without any it does nothing.
    ///
    /// # Errors
    /// [`Full`]: the last committed state counts no more, so that no successor takes it for the present, and all
    /// entries are overwritten. Every commit says so until [`Sealed::reset`].
    pub fn commit(&mut self) -> Result<(), Full> {
        if let Some(full) = self.batch.full {
            self.give_up();
            return Err(full);
        }
        if self.is_appending() && self.batch.staged.is_empty() {
            return Ok(());
        }
        let Batch { half, length, .. } = self.batch;
        Layout::set_commit(&mut self.area, Commit::Records { half, length });
        self.length = length;
        if self.is_appending() {
            self.settle_changes();
        } else {
            self.settle_move();
        }
        Ok(())
    }

    /// Begins a batch that replaces the whole state: put all that is live, then commit. Until then a successor finds
    /// what it would have found before. What was put or removed since the last commit is dropped.
    ///
    /// For after [`Full`], when less is live, and for whoever lost track of what is stored.
    pub fn reset(&mut self) {
        self.drop_batch();
        self.batch.half = self.half.other();
        self.batch.length = 0;
        self.batch.full = None;
    }

    /// What is known of the kernel's requests.
    pub fn requests(&self) -> Arc<Requests> {
        Arc::clone(&self.requests)
    }

    /// How full the memory is.
    pub fn fill(&self) -> Fill {
        let used = self.index.values().map(|place| place.length()).sum();
        Fill { entries: self.index.len(), used, room: self.layout.half() }
    }

    fn is_appending(&self) -> bool {
        self.batch.half == self.half
    }

    fn fits(&self, length: usize) -> bool {
        length <= self.layout.half() - self.batch.length
    }

    /// Writes a record behind the others, where there must be room.
    fn append(&mut self, kind: Kind, key: &[u8], value: &[u8], length: usize) -> Place {
        let at = self.layout.start(self.batch.half) + self.batch.length;
        self.grow(length);
        record::write(&mut self.area, at, kind, key, value)
    }

    fn grow(&mut self, length: usize) {
        self.batch.length += length;
        let reach = &mut self.reach[self.batch.half.index()];
        *reach = self.layout.extend_reach(&mut self.area, self.batch.half, *reach, self.batch.length);
    }

    /// Forgets what the batch says about a key, so that it is as it was committed; in the other half: so that it is
    /// gone.
    fn unstage(&mut self, key: &[u8]) {
        if let Some(Staged::Put(place) | Staged::Removed(Some(place))) = self.batch.staged.remove(key) {
            record::bury(&mut self.area, place);
        }
    }

    /// Without what is dead or about to be, and without an entry that is about to be put or removed.
    fn make_room(&mut self, without: &[u8]) {
        if self.is_appending() {
            self.batch.staged.insert(without.into(), Staged::Removed(None));
            self.move_over();
        } else {
            self.close_up();
        }
    }

    /// Copies all that is live after the batch to the other half, where there is always room for it, since it fit
    /// here.
    fn move_over(&mut self) {
        let mut live: Vec<(Box<[u8]>, Place)> = self
            .index
            .iter()
            .filter(|(key, _)| !self.batch.staged.contains_key(*key))
            .map(|(key, place)| (key.clone(), *place))
            .collect();
        live.extend(self.batch.staged.drain().filter_map(|(key, staged)| match staged {
            Staged::Put(place) => Some((key, place)),
            Staged::Removed(_) => None,
        }));
        live.sort_unstable_by_key(|(_, place)| place.at);
        let here = self.layout.range(self.half, self.batch.length);
        self.batch.half = self.half.other();
        self.batch.length = 0;
        for (key, place) in live {
            let moved = place.moved_to(self.layout.start(self.batch.half) + self.batch.length);
            self.grow(place.length());
            self.area.copy(place.at, moved.at, place.length());
            self.batch.staged.insert(key, Staged::Put(moved));
        }
        // The records of the batch have moved, and do not count here.
        self.area.wipe(here.start + self.length..here.end);
    }

    /// Moves the records in the half that does not count yet together.
    fn close_up(&mut self) {
        let mut places: Vec<&mut Place> = self
            .batch
            .staged
            .values_mut()
            .filter_map(|staged| match staged {
                Staged::Put(place) => Some(place),
                Staged::Removed(_) => None,
            })
            .collect();
        places.sort_unstable_by_key(|place| place.at);
        let range = self.layout.range(self.batch.half, self.batch.length);
        let mut at = range.start;
        for place in places {
            self.area.copy(place.at, at, place.length());
            *place = place.moved_to(at);
            at += place.length();
        }
        self.area.wipe(at..range.end);
        self.batch.length = at - range.start;
    }

    /// After a commit in the half that counts.
    fn settle_changes(&mut self) {
        for (key, staged) in self.batch.staged.drain() {
            match staged {
                Staged::Put(place) => {
                    if let Some(replaced) = self.index.insert(key, place) {
                        record::bury(&mut self.area, replaced);
                    }
                }
                Staged::Removed(removal) => {
                    // The entry before the record that says it is gone: without that one it would be back.
                    for dead in self.index.remove(&key).into_iter().chain(removal) {
                        record::bury(&mut self.area, dead);
                    }
                }
            }
        }
    }

    /// After a commit in the other half.
    fn settle_move(&mut self) {
        let left = self.half;
        self.half = self.batch.half;
        let entries = self.batch.staged.drain().filter_map(|(key, staged)| match staged {
            Staged::Put(place) => Some((key, place)),
            Staged::Removed(_) => None,
        });
        self.index.clear();
        self.index.extend(entries);
        self.wipe(left);
    }

    fn wipe(&mut self, half: Half) {
        self.layout.wipe(&mut self.area, half, self.reach[half.index()]);
        self.reach[half.index()] = 0;
    }

    /// Nothing counts any more.
    fn give_up(&mut self) {
        Layout::set_commit(&mut self.area, Commit::Unusable);
        self.index.clear();
        self.batch.staged.clear();
        self.length = 0;
        self.batch.length = 0;
        for half in Half::BOTH {
            self.wipe(half);
        }
    }

    /// Overwrites the records of the batch.
    fn drop_batch(&mut self) {
        self.batch.staged.clear();
        if self.is_appending() {
            let range = self.layout.range(self.half, self.batch.length);
            self.area.wipe(range.start + self.length..range.end);
            self.batch.length = self.length;
        } else {
            self.wipe(self.batch.half);
            self.batch.length = 0;
        }
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        self.drop_batch();
    }
}

#[cfg(test)]
mod tests;

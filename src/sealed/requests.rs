//! What a successor must know of the kernel's requests: the highest number ever seen, and which handlers were at
//! work when the process ended.
//!
//! Invariants: *counted once*: each end of a process counts once for a request, even if the successor is killed
//! while it takes stock; *harmless when full*: a handler without a free slot works, it is just not counted.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::SealedError;
use super::layout::{Found, VERSION, mark};
use crate::sys::secret_memory::{self, SharedPage};

/// Handlers that are known at once.
const SLOTS: usize = 64;

/// The kernel's mark of a request that it sends again (`FUSE_UNIQUE_RESEND` of linux/fuse.h).
const RESENT: u64 = 1 << 63;

/// How much the end of a process counts for what it had in hand: so many for a fault of its own, one for a kill
/// from outside. The latter says next to nothing about a request, unless it happens again and again: what takes
/// all memory ends like that, too.
const FAULT: u64 = 4;
const KILL: u64 = 1;

/// How a process ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// By a fault of its own, as far as is known.
    #[default]
    Fault,
    /// It was killed from outside (SIGKILL).
    Kill,
}

// Words of the page.
const MARK: usize = 0;
const HIGHEST: usize = 8;
/// Which bank counts: the lowest bit.
const RUN: usize = 16;
const BANKS: [usize; 2] = [64, 64 + BANK];
/// A bank: what is in hand, then pairs of a request and how often it was in hand when a process ended.
const BANK: usize = 3 * SLOTS;

/// A page of atomics that is shared with the successors.
pub struct Requests {
    page: SharedPage,
}

impl Requests {
    /// Maps memory for requests alone, where there is no memory for a [`super::Sealed`]; ordinary memory will do.
    ///
    /// # Errors
    /// [`SealedError::Memory`], [`SealedError::Version`], [`SealedError::Foreign`]; then [`Requests::format`]
    /// begins anew.
    pub fn open(memory: OwnedFd) -> Result<Arc<Requests>, SealedError> {
        Requests::on(secret_memory::map(memory, 0)?.0)
    }

    /// Maps memory for requests alone and forgets what it held.
    ///
    /// # Errors
    /// [`SealedError::Memory`].
    pub fn format(memory: OwnedFd) -> Result<Arc<Requests>, SealedError> {
        Ok(Requests::anew(secret_memory::map(memory, 0)?.0))
    }

    /// What is on the page.
    pub(super) fn on(page: SharedPage) -> Result<Arc<Requests>, SealedError> {
        match Found::of(page.words()[MARK].load(Ordering::Acquire)) {
            Found::Current => Ok(Arc::new(Requests { page })),
            Found::Nothing | Found::Fragment => Ok(Requests::anew(page)),
            Found::Other(found) => Err(SealedError::Version { found }),
            Found::Foreign => Err(SealedError::Foreign),
        }
    }

    /// Forgets what is on the page.
    pub(super) fn anew(page: SharedPage) -> Arc<Requests> {
        // The mark goes first and comes last: killed in between, a successor begins anew too.
        for word in page.words() {
            word.store(0, Ordering::Release);
        }
        page.words()[MARK].store(mark(VERSION), Ordering::Release);
        Arc::new(Requests { page })
    }

    /// A handler begins with a request; it is over when the value is dropped. Never waits. The kernel gives no
    /// request the number 0, so that one is not noted.
    pub fn begin(&self, unique: u64) -> InHand<'_> {
        let unique = unique & !RESENT;
        if unique == 0 {
            return InHand { slot: None, counted: None };
        }
        self.word(HIGHEST).fetch_max(unique, Ordering::AcqRel);
        let bank = self.bank();
        // Numbers follow each other, so most begin at a slot of their own. They count by two.
        let first = usize::try_from(unique / 2 % SLOTS as u64).unwrap_or(0);
        let slot = (0..SLOTS).map(|step| self.word(bank + (first + step) % SLOTS)).find(|slot| {
            // Looked at before: an exchange that fails takes the cache line from its owner too.
            slot.load(Ordering::Relaxed) == 0
                && slot.compare_exchange(0, unique, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        });
        let count = self.counts(bank).find(|(counted, _)| counted.load(Ordering::Acquire) == unique);
        InHand { slot, counted: count.map(|(counted, _)| counted) }
    }

    /// The highest number of a request that was ever begun, without the kernel's mark; 0: none.
    pub fn highest(&self) -> u64 {
        self.word(HIGHEST).load(Ordering::Acquire)
    }

    /// Counts what the predecessor had in hand when it ended in this way, and clears the slots. Call it once at the start, before
    /// any handler begins.
    ///
    /// A count ends when a handler of the request gets to its end; a process that ends before it begins with the
    /// request changes nothing.
    pub fn take_stock(&self, end: End) {
        let weight = match end {
            End::Fault => FAULT,
            End::Kill => KILL,
        };
        let run = self.word(RUN).load(Ordering::Acquire);
        let (old, new) = (self.bank(), bank_of(run.wrapping_add(1)));
        for word in new..new + BANK {
            self.word(word).store(0, Ordering::Release);
        }
        let in_hand: Vec<u64> = (old..old + SLOTS)
            .map(|slot| self.word(slot).load(Ordering::Acquire))
            .filter(|u| *u != 0)
            .collect();
        let counted = self
            .counts(old)
            .map(|(counted, count)| (counted.load(Ordering::Acquire), count.load(Ordering::Acquire)));
        let counted: Vec<(u64, u64)> = counted.filter(|(counted, _)| *counted != 0).collect();
        let before =
            |unique| counted.iter().find(|(counted, _)| *counted == unique).map_or(0, |(_, count)| *count);
        let again = in_hand.iter().map(|unique| (*unique, before(*unique).saturating_add(weight)));
        // What was not reached again keeps its count, as long as there is room.
        let waiting = counted.iter().copied().filter(|(counted, _)| !in_hand.contains(counted));
        for ((counted, count), (unique, crashes)) in self.counts(new).zip(again.chain(waiting)) {
            count.store(crashes, Ordering::Release);
            counted.store(unique, Ordering::Release);
        }
        // All at once: killed before, the next one does the same again; afterwards, the old bank is of no account.
        self.word(RUN).store(run.wrapping_add(1), Ordering::Release);
    }

    /// How often in a row a process ended by a fault while it had this request in hand; four kills from outside count
    /// as one fault. From 2 on a handler should not try again, but answer `EIO`.
    pub fn crashes(&self, unique: u64) -> u32 {
        let unique = unique & !RESENT;
        let bank = self.bank();
        let count =
            self.counts(bank).find(|(counted, _)| counted.load(Ordering::Acquire) == unique && unique != 0);
        count.map_or(0, |(_, count)| u32::try_from(count.load(Ordering::Acquire) / FAULT).unwrap_or(u32::MAX))
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        &self.page.words()[index]
    }

    fn bank(&self) -> usize {
        bank_of(self.word(RUN).load(Ordering::Acquire))
    }

    /// The pairs of a bank: a request, or 0, and its count.
    fn counts(&self, bank: usize) -> impl Iterator<Item = (&AtomicU64, &AtomicU64)> {
        let (pairs, _) = self.page.words()[bank + SLOTS..bank + BANK].as_chunks::<2>();
        pairs.iter().map(|[counted, count]| (counted, count))
    }
}

fn bank_of(run: u64) -> usize {
    BANKS[usize::from(run % 2 == 1)]
}

/// A request that a handler works on. Dropped: it got to its end, so it is not what ends the process; unless it
/// is dropped by a panic, which may well be what ends it.
#[must_use]
pub struct InHand<'a> {
    /// `None`: all slots were taken.
    slot: Option<&'a AtomicU64>,
    /// Where it is counted, if it was in hand when a process ended.
    counted: Option<&'a AtomicU64>,
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for word in [self.counted, self.slot].into_iter().flatten() {
            word.store(0, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::secret_memory::create_ordinary;

    /// The process with these handlers at work ends, and the next one takes stock.
    fn end_with(memory: &OwnedFd, in_hand: &[u64]) -> Arc<Requests> {
        let requests = Requests::open(memory.try_clone().unwrap()).unwrap();
        for unique in in_hand {
            std::mem::forget(requests.begin(*unique));
        }
        drop(requests);
        let requests = Requests::open(memory.try_clone().unwrap()).unwrap();
        requests.take_stock(End::Fault);
        requests
    }

    fn counts(requests: &Requests, uniques: &[u64]) -> Vec<u32> {
        uniques.iter().map(|unique| requests.crashes(*unique)).collect()
    }

    #[test]
    fn the_highest_number_is_known_to_the_successor() {
        let memory = create_ordinary(secret_memory::SHARED).unwrap();
        let requests = Requests::open(memory.try_clone().unwrap()).unwrap();
        assert_eq!(requests.highest(), 0);
        for unique in [4, 900, 6 | RESENT, 0] {
            drop(requests.begin(unique));
        }
        drop(requests);
        assert_eq!(end_with(&memory, &[]).highest(), 900);
    }

    #[test]
    fn what_was_in_hand_is_counted_at_each_end() {
        let memory = create_ordinary(secret_memory::SHARED).unwrap();
        assert_eq!(counts(&end_with(&memory, &[2, 4]), &[2, 4, 6, 0]), [1, 1, 0, 0]);
        // Sent again, with the kernel's mark.
        assert_eq!(counts(&end_with(&memory, &[4 | RESENT, 6]), &[2, 4, 6]), [1, 2, 1]);
        assert_eq!(end_with(&memory, &[4]).crashes(4 | RESENT), 3);
    }

    #[test]
    fn a_handler_that_gets_to_its_end_ends_the_count() {
        let memory = create_ordinary(secret_memory::SHARED).unwrap();
        let requests = end_with(&memory, &[2, 4]);
        drop(requests.begin(4 | RESENT));
        assert_eq!(counts(&requests, &[2, 4]), [1, 0]);
        drop(requests);
        assert_eq!(counts(&end_with(&memory, &[2, 4]), &[2, 4]), [2, 1]);
    }

    #[test]
    fn kills_from_outside_count_little() {
        let memory = create_ordinary(secret_memory::SHARED).unwrap();
        let requests = Requests::open(memory.try_clone().unwrap()).unwrap();
        for kills in 1..=8 {
            std::mem::forget(requests.begin(2));
            requests.take_stock(End::Kill);
            assert_eq!(requests.crashes(2), kills / 4);
        }
    }

    #[test]
    fn an_end_before_any_handler_changes_nothing() {
        let memory = create_ordinary(secret_memory::SHARED).unwrap();
        assert_eq!(end_with(&memory, &[2]).crashes(2), 1);
        assert_eq!(end_with(&memory, &[]).crashes(2), 1);
        assert_eq!(end_with(&memory, &[2]).crashes(2), 2);
    }

    #[test]
    fn an_end_while_stock_is_taken_counts_nothing_twice() {
        let memory = create_ordinary(secret_memory::SHARED).unwrap();
        drop(end_with(&memory, &[2]));
        let requests = Requests::open(memory.try_clone().unwrap()).unwrap();
        std::mem::forget(requests.begin(2));
        let run = requests.word(RUN).load(Ordering::Acquire);
        requests.take_stock(End::Fault);
        // As if the last store had not been made.
        requests.word(RUN).store(run, Ordering::Release);
        requests.take_stock(End::Fault);
        assert_eq!(requests.crashes(2), 2);
    }

    #[test]
    fn a_panic_in_a_handler_is_no_end_of_it() {
        let memory = create_ordinary(secret_memory::SHARED).unwrap();
        let requests = Requests::open(memory.try_clone().unwrap()).unwrap();
        let panicked = std::thread::scope(|scope| {
            let handler = scope.spawn(|| {
                let _in_hand = requests.begin(2);
                std::panic::resume_unwind(Box::new("what ends the process"));
            });
            handler.join().is_err()
        });
        assert!(panicked);
        drop(requests);
        assert_eq!(end_with(&memory, &[]).crashes(2), 1);
    }

    #[test]
    fn more_handlers_than_slots_are_harmless() {
        let memory = create_ordinary(secret_memory::SHARED).unwrap();
        let all: Vec<u64> = (1..=100).map(|number| number * 2).collect();
        let requests = end_with(&memory, &all);
        let counted = counts(&requests, &all);
        assert_eq!(counted.iter().filter(|count| **count == 1).count(), SLOTS);
        assert_eq!(requests.highest(), 200);
        let in_hand: Vec<InHand<'_>> = all.iter().map(|unique| requests.begin(*unique)).collect();
        drop(in_hand);
        assert!(counts(&requests, &all).iter().all(|count| *count == 0));
        drop(requests);
        let requests = end_with(&memory, &[]);
        assert!(counts(&requests, &all).iter().all(|count| *count == 0), "all slots are free");
    }

    #[test]
    fn threads_never_share_a_slot() {
        let memory = create_ordinary(secret_memory::SHARED).unwrap();
        let requests = Requests::open(memory.try_clone().unwrap()).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let requests = &requests;
                scope.spawn(move || {
                    for round in 0..2_000 {
                        let held: [InHand<'_>; 12] = std::array::from_fn(|nth| {
                            requests.begin(2 * (1 + thread + 8 * (round * 12 + nth as u64)))
                        });
                        assert!(held.iter().flat_map(|held| held.slot).all(|slot| {
                            let unique = slot.load(Ordering::Acquire);
                            (unique / 2 - 1) % 8 == thread
                        }));
                    }
                });
            }
        });
        assert_eq!(requests.highest(), 2 * 8 * 2_000 * 12);
        let bank = requests.bank();
        assert!((bank..bank + SLOTS).all(|slot| requests.word(slot).load(Ordering::Acquire) == 0));
    }

    #[test]
    fn another_version_is_refused_and_can_be_formatted() {
        let memory = create_ordinary(secret_memory::SHARED).unwrap();
        let requests = end_with(&memory, &[2]);
        requests.word(MARK).store(mark(7), Ordering::Release);
        drop(requests);
        let error = Requests::open(memory.try_clone().unwrap()).err();
        assert_eq!(error, Some(SealedError::Version { found: 7 }));
        let requests = Requests::format(memory.try_clone().unwrap()).unwrap();
        assert_eq!((requests.highest(), requests.crashes(2)), (0, 0));
        drop(requests);
        drop(end_with(&memory, &[]));
    }
}

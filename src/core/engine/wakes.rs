//! When the engine must be woken for what: at most one wake for each thing.

use std::collections::{BTreeMap, BTreeSet};

use crate::core::name::{IdentityId, LeaseId, SourceId};
use crate::core::time::BootTime;

/// What is due.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum WakeKey {
    /// Tokens come first: what they end, ends for their reason.
    Identity(IdentityId),
    /// A source.
    Source(SourceId),
    /// A lease that is being revoked.
    Lease(LeaseId),
}

/// All wakes, in order of time.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    by_time: BTreeSet<(BootTime, WakeKey)>,
    by_key: BTreeMap<WakeKey, BootTime>,
    touched: BTreeSet<WakeKey>,
}

impl Wakes {
    /// The earliest.
    pub(super) fn first(&self) -> Option<BootTime> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// How many are pending for one thing; anything but none or one is a fault.
    pub(super) fn count(&self, key: &WakeKey) -> usize {
        self.by_time.iter().filter(|(_, one)| one == key).count()
    }

    /// Takes out what is due.
    pub(super) fn take_due(&mut self, now: BootTime) -> BTreeSet<WakeKey> {
        let mut due = BTreeSet::new();
        while let Some((at, key)) = self.by_time.pop_first() {
            if at > now {
                self.by_time.insert((at, key));
                break;
            }
            self.by_key.remove(&key);
            due.insert(key);
        }
        due
    }

    /// Something changed: its wake must be set anew at the end of the call.
    pub(super) fn touch(&mut self, key: WakeKey) {
        self.touched.insert(key);
    }

    /// What was touched since.
    pub(super) fn take_touched(&mut self) -> BTreeSet<WakeKey> {
        std::mem::take(&mut self.touched)
    }

    /// Sets the one wake of a thing, or takes it away.
    pub(super) fn set(&mut self, key: WakeKey, at: Option<BootTime>) {
        if let Some(before) = self.by_key.remove(&key) {
            self.by_time.remove(&(before, key.clone()));
        }
        if let Some(at) = at.filter(|at| *at != BootTime::NEVER) {
            self.by_key.insert(key.clone(), at);
            self.by_time.insert((at, key));
        }
    }
}

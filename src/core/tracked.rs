//! Maps that remember which of their entries may have changed, so that these alone are written out.
//!
//! Invariant: *no way around*: whoever can change an entry has it marked, except by [`Tracked::aside`], whose
//! callers vouch for what they change. Nothing is remembered before [`Changes::follow`] is called.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;

/// The keys of what may have changed since they were last taken.
#[derive(Debug)]
pub(crate) struct Changes<K> {
    followed: bool,
    keys: BTreeSet<K>,
}

impl<K: Ord> Changes<K> {
    /// Nothing is remembered yet.
    pub(crate) fn new() -> Changes<K> {
        Changes { followed: false, keys: BTreeSet::new() }
    }

    /// From now on changes are remembered. All of these count as changed.
    pub(crate) fn follow(&mut self, all: impl IntoIterator<Item = K>) {
        self.followed = true;
        self.keys.extend(all);
    }

    /// Something may have changed.
    pub(crate) fn mark(&mut self, key: K) {
        if self.followed {
            self.keys.insert(key);
        }
    }

    /// What may have changed since the last call.
    pub(crate) fn take(&mut self) -> BTreeSet<K> {
        std::mem::take(&mut self.keys)
    }
}

/// A map that remembers which of its entries may have changed.
#[derive(Debug)]
pub(crate) struct Tracked<K, V> {
    entries: BTreeMap<K, V>,
    changes: Changes<K>,
}

impl<K: Ord + Clone, V> Tracked<K, V> {
    /// An empty one.
    pub(crate) fn new() -> Tracked<K, V> {
        Tracked::from(BTreeMap::new())
    }

    /// From now on changes are remembered. All entries count as changed.
    pub(crate) fn follow(&mut self) {
        self.changes.follow(self.entries.keys().cloned());
    }

    /// An entry, to be changed.
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let entry = self.entries.get_mut(key)?;
        self.changes.mark(key.clone());
        Some(entry)
    }

    /// An entry, of which only that is changed that is not written out.
    pub(crate) fn aside(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key)
    }

    /// All entries, to be changed.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        for key in self.entries.keys() {
            self.changes.mark(key.clone());
        }
        self.entries.iter_mut()
    }

    /// Adds an entry, or replaces it.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.changes.mark(key.clone());
        self.entries.insert(key, value)
    }

    /// Takes an entry out.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let gone = self.entries.remove(key)?;
        self.changes.mark(key.clone());
        Some(gone)
    }

    /// What may have changed since the last call.
    pub(crate) fn take_changes(&mut self) -> BTreeSet<K> {
        self.changes.take()
    }
}

impl<K: Ord, V> From<BTreeMap<K, V>> for Tracked<K, V> {
    fn from(entries: BTreeMap<K, V>) -> Tracked<K, V> {
        Tracked { entries, changes: Changes::new() }
    }
}

/// To look at it.
impl<K, V> Deref for Tracked<K, V> {
    type Target = BTreeMap<K, V>;

    fn deref(&self) -> &BTreeMap<K, V> {
        &self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(map: &mut Tracked<u32, u32>) -> Vec<u32> {
        map.take_changes().into_iter().collect()
    }

    #[test]
    fn nothing_is_remembered_before_somebody_wants_it() {
        let mut map = Tracked::new();
        map.insert(1, 10);
        map.insert(2, 20);
        map.remove(&1);
        assert!(taken(&mut map).is_empty());
        map.follow();
        assert_eq!(taken(&mut map), [2], "what is there then");
    }

    #[test]
    fn whatever_may_have_changed_is_remembered_once() {
        let mut map = Tracked::from(BTreeMap::from([(1, 10), (2, 20), (3, 30), (4, 40)]));
        map.follow();
        taken(&mut map);
        *map.get_mut(&1).unwrap() += 1;
        *map.get_mut(&1).unwrap() += 1;
        *map.aside(&2).unwrap() += 1;
        map.remove(&3);
        map.insert(5, 50);
        assert_eq!(map.get_mut(&9), None);
        assert_eq!(map.remove(&9), None);
        assert_eq!(map.get(&4), Some(&40));
        assert_eq!(taken(&mut map), [1, 3, 5]);
        assert!(taken(&mut map).is_empty());
        for (_, value) in map.iter_mut() {
            *value += 1;
        }
        assert_eq!(taken(&mut map), [1, 2, 4, 5]);
    }
}

//! Which faults there were and when, and so which failures a program may have seen.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What a program uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// Opens, lists or measures what is read from KV.
    Kv,
    /// Opens credentials with a lease.
    Credential,
    /// Reads a KV file that it holds open, or has mapped.
    HeldKv,
    /// Reads a credential that it holds open.
    HeldCredential,
}

/// A fault's name, and what programs may be told because of it.
pub type Sky = (&'static str, &'static [(Use, &'static [i32])]);

/// All faults so far.
#[derive(Default)]
pub struct Weather(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    spells: Vec<Spell>,
    told: BTreeMap<(&'static str, Use, i32), u64>,
}

struct Spell {
    sky: Sky,
    from: Instant,
    until: Option<Instant>,
}

impl Weather {
    /// From now on there is this fault.
    pub fn turns(&self, sky: Sky) {
        self.inner().spells.push(Spell { sky, from: Instant::now(), until: None });
    }

    /// Everything works again.
    pub fn clears(&self) {
        let now = Instant::now();
        self.inner().spells.iter_mut().filter(|spell| spell.until.is_none()).for_each(|spell| {
            spell.until = Some(now);
        });
    }

    /// Whether this failure of a call that began then is one that a fault since accounts for.
    ///
    /// # Errors
    /// What is wrong.
    pub fn judge(&self, used: Use, began: Instant, error: &io::Error) -> Result<(), String> {
        let errno = error.raw_os_error().unwrap_or_default();
        let mut inner = self.inner();
        let since = |spell: &&Spell| spell.until.is_none_or(|until| began <= until);
        let accounts =
            |spell: &&Spell| spell.sky.1.iter().any(|(of, errnos)| *of == used && errnos.contains(&errno));
        match inner.spells.iter().rev().filter(since).find(accounts).map(|spell| spell.sky.0) {
            Some(name) => {
                *inner.told.entry((name, used, errno)).or_default() += 1;
                Ok(())
            }
            None => {
                let now = Instant::now();
                let of = |spell: &Spell| {
                    let ago = |at: Instant| now.duration_since(at);
                    format!("{} {:.1?} ago until {:.1?}", spell.sky.0, ago(spell.from), spell.until.map(ago))
                };
                let last: Vec<String> = inner.spells.iter().rev().take(2).map(of).collect();
                Err(format!("{used:?}: {error}, which no fault accounts for; the last ones: {last:?}"))
            }
        }
    }

    /// Whether a fault in which this use may fail has been there since then.
    pub fn was_bad_for(&self, used: Use, since: Instant) -> bool {
        let bad = |spell: &Spell| {
            spell.until.is_none_or(|until| since <= until) && spell.sky.1.iter().any(|(of, _)| *of == used)
        };
        self.inner().spells.iter().any(bad)
    }

    /// Whether this fault has been there since then.
    pub fn was(&self, sky: Sky, since: Instant) -> bool {
        let inner = self.inner();
        let mut those = inner.spells.iter().filter(|spell| spell.sky.0 == sky.0);
        those.any(|spell| spell.until.is_none_or(|until| since <= until))
    }

    /// How often which fault came.
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for spell in &self.inner().spells {
            *counts.entry(spell.sky.0).or_default() += 1;
        }
        counts
    }

    /// What was told during which fault, and how often.
    pub fn told(&self) -> BTreeMap<(&'static str, Use, i32), u64> {
        self.inner().told.clone()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

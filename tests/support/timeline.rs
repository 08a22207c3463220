//! What a secret has held and when, so that a reader can tell an old value from one that is too old.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// All values that were written to one secret, in their order: each names itself.
pub struct Timeline {
    name: String,
    writes: Mutex<Vec<Write>>,
}

#[derive(Clone, Copy)]
struct Write {
    began: Instant,
    /// Nothing while it is under way, and if it is not known whether it was done.
    ended: Option<Instant>,
}

impl Timeline {
    /// Of a secret that has its first value, [`Timeline::value`] of 0.
    pub fn new(name: &str) -> Timeline {
        let now = Instant::now();
        let first = Write { began: now, ended: Some(now) };
        Timeline { name: name.to_owned(), writes: Mutex::new(vec![first]) }
    }

    /// Less than a page, whole only if all of it is there, and of different lengths.
    pub fn value(&self, version: usize) -> String {
        format!("<{} {version}>", self.name).repeat(1 + version * 7 % 60)
    }

    /// Writes the next value by `write`, which says whether it was done for sure.
    pub fn write(&self, write: impl FnOnce(String) -> bool) {
        let version = {
            let mut writes = self.writes();
            writes.push(Write { began: Instant::now(), ended: None });
            writes.len() - 1
        };
        if write(self.value(version)) {
            self.writes()[version].ended = Some(Instant::now());
        }
    }

    /// That `found` is a whole value, and that none has replaced it for longer than `bound` before `asked`,
    /// which is when the reader began. Returns which one it is.
    ///
    /// # Errors
    /// What is wrong.
    pub fn judge(&self, found: &[u8], asked: Instant, bound: Duration) -> Result<usize, String> {
        let text = String::from_utf8_lossy(found);
        let version = text.split('>').next().and_then(|first| first.rsplit(' ').next()?.parse().ok());
        let whole = version
            .filter(|version| *version < self.writes().len() && self.value(*version).as_bytes() == found);
        let version = whole.ok_or_else(|| format!("WRONG BYTES in {}: {text:?}", self.name))?;
        self.judge_version(version, asked, bound).map(|()| version)
    }

    /// The same for what a mapping shows: its length is what the file was long when it was mapped, and its page
    /// shows the value of the moment when it was read; so that may be cut to the size of another value.
    ///
    /// # Errors
    /// What is wrong.
    pub fn judge_mapped(&self, found: &[u8], asked: Instant, bound: Duration) -> Result<(), String> {
        let versions = self.writes().len();
        let cut = |version: &usize| {
            let value = self.value(*version);
            value.len() > found.len()
                && value.as_bytes().starts_with(found)
                && self.judge_version(*version, asked, bound).is_ok()
        };
        if (0..versions).rev().any(|version| cut(&version)) {
            return self.judge_size(found.len() as u64, asked, bound);
        }
        self.judge(found, asked, bound).map(drop)
    }

    /// The same for a size, which must be that of a value.
    ///
    /// # Errors
    /// What is wrong.
    pub fn judge_size(&self, size: u64, asked: Instant, bound: Duration) -> Result<(), String> {
        let versions = self.writes().len();
        let fits = |version: &usize| {
            self.value(*version).len() as u64 == size && self.judge_version(*version, asked, bound).is_ok()
        };
        match (0..versions).rev().any(|version| fits(&version)) {
            true => Ok(()),
            false => Err(format!("{}: no value of late has {size} bytes", self.name)),
        }
    }

    /// Whether another value has been written, or may have been.
    pub fn was_replaced(&self, version: usize) -> bool {
        version + 1 < self.writes().len()
    }

    fn judge_version(&self, version: usize, asked: Instant, bound: Duration) -> Result<(), String> {
        let replaced = self.writes()[version + 1..].iter().filter_map(|write| write.ended).min();
        match replaced.map(|replaced| asked.saturating_duration_since(replaced)) {
            Some(since) if since > bound => {
                Err(format!("{}: value {version} is shown {since:.1?} after it was replaced", self.name))
            }
            _ => Ok(()),
        }
    }

    fn writes(&self) -> std::sync::MutexGuard<'_, Vec<Write>> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

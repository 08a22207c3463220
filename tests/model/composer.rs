//! Makes the files of several sources, and keeps the books on what was made of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use leasefs::core::compose::Compose;
use leasefs::core::error::{Failure, Fault};
use leasefs::core::generation::Piece;
use leasefs::core::name::FileId;

use crate::world::TestBody;

/// Every composed body that is held: of which answers, and its size.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Mutex<(u64, BTreeMap<u64, Entry>)>>);

/// One composed body.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The answers that it was made of.
    pub issues: Vec<usize>,
    /// How many bytes it has.
    pub size: u64,
}

impl Ledger {
    /// All that are held.
    pub fn held(&self) -> Vec<Entry> {
        self.0.lock().expect("no test has panicked with it").1.values().cloned().collect()
    }

    fn note(&self, entry: Entry) -> Note {
        let mut books = self.0.lock().expect("no test has panicked with it");
        books.0 += 1;
        let number = books.0;
        books.1.insert(number, entry);
        Note { ledger: self.clone(), number }
    }
}

/// Stands in the books until it is dropped.
#[derive(Debug)]
pub struct Note {
    ledger: Ledger,
    number: u64,
}

impl Drop for Note {
    fn drop(&mut self) {
        if let Ok(mut books) = self.ledger.0.lock() {
            books.1.remove(&self.number);
        }
    }
}

/// Some values can't be joined: every thirteenth of them.
fn can_not_be_joined(content: u64) -> bool {
    content % 13 == 12
}

/// The value of a file that is made of these.
pub fn joined(contents: impl Iterator<Item = u64>) -> u64 {
    contents.fold(0, |all, one| all * 31 + one)
}

/// How many bytes a composed file has.
pub fn size_of(content: u64, file: FileId) -> Option<u64> {
    (!can_not_be_joined(content)).then_some(30 + (content * 5 + u64::from(file.0)) % 50)
}

impl Compose<TestBody> for Ledger {
    fn compose(&self, file: FileId, parts: &[Arc<TestBody>]) -> Result<TestBody, Failure> {
        assert!(parts.iter().all(|part| part.piece == Piece::Values), "made of something else: {parts:?}");
        let content = joined(parts.iter().map(|part| part.content));
        let size = size_of(content, file)
            .ok_or_else(|| Failure::new(Fault::Unusable, "the model can't join these values"))?;
        let issues: Vec<usize> = parts.iter().flat_map(|part| part.issues.iter().copied()).collect();
        let paths: Vec<&str> = parts.iter().map(|part| part.path.as_str()).collect();
        let note = Some(self.note(Entry { issues: issues.clone(), size }));
        Ok(TestBody { issues, path: paths.join("+"), content, piece: Piece::File(file), size, note })
    }
}

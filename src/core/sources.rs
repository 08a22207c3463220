//! What a file shows: one source, or several in an order that means something to whoever renders it.
//!
//! Invariant: *never empty*: a file shows something.

use crate::core::name::SourceId;

/// The sources of a file, in order. One may stand there twice, under two names of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    first: SourceId,
    more: Vec<SourceId>,
}

impl Sources {
    /// One source.
    pub fn one(id: SourceId) -> Sources {
        Sources { first: id, more: Vec::new() }
    }

    /// Several sources, in order; `None` if there are none.
    pub fn several(ids: impl IntoIterator<Item = SourceId>) -> Option<Sources> {
        let mut ids = ids.into_iter();
        Some(Sources { first: ids.next()?, more: ids.collect() })
    }

    /// The first one.
    pub fn first(&self) -> SourceId {
        self.first
    }

    /// Whether it takes more than one part to make the file.
    pub fn are_several(&self) -> bool {
        !self.more.is_empty()
    }

    /// Whether this is one of them.
    pub fn contains(&self, id: SourceId) -> bool {
        self.iter().any(|one| one == id)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = SourceId> + '_ {
        std::iter::once(self.first).chain(self.more.iter().copied())
    }

    /// The same, by other numbers.
    #[must_use]
    pub fn map(&self, mut number: impl FnMut(SourceId) -> SourceId) -> Sources {
        Sources { first: number(self.first), more: self.more.iter().map(|id| number(*id)).collect() }
    }
}

impl From<SourceId> for Sources {
    fn from(id: SourceId) -> Sources {
        Sources::one(id)
    }
}

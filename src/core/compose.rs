//! Files of several sources: the bytes that are made of a generation of each, kept as long as all of them live.
//!
//! Invariants: *one result*: all handles on the same generations share it; *dropped with the first*: when one of
//! the generations ends, what was made of it goes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::core::error::{Failure, Fault};
use crate::core::generation::Body;
use crate::core::name::{FileId, GenerationId, HandleId};

/// Makes the bytes of a file of several sources. The same parts give the same bytes, for as long as the file's
/// text in [`Layout::renderings`](crate::core::engine::Layout::renderings) is the same: a successor goes by that.
pub trait Compose<B>: fmt::Debug + Send + Sync {
    /// The bytes of a file; `parts` are the values of its sources, in the order of
    /// [`FileSpec::sources`](crate::core::tree::FileSpec::sources). Pure: no I/O, no clock, nothing kept.
    ///
    /// # Errors
    /// Why these values can't be shown as that file.
    fn compose(&self, file: FileId, parts: &[Arc<B>]) -> Result<B, Failure>;
}

/// For mounts in which every file shows one source.
#[derive(Clone, Copy, Debug)]
pub struct NothingToCompose;

impl<B> Compose<B> for NothingToCompose {
    fn compose(&self, _: FileId, _: &[Arc<B>]) -> Result<B, Failure> {
        let reason = "this file shows several secrets, and nothing here can join them";
        Err(Failure::new(Fault::Unusable, reason))
    }
}

/// What was made, by file and generations.
#[derive(Debug)]
pub(crate) struct Composed<B> {
    results: BTreeMap<(FileId, Vec<GenerationId>), Composition<B>>,
}

/// One result.
#[derive(Debug)]
pub(crate) struct Composition<B> {
    /// The bytes, or why there are none.
    pub(crate) body: Result<Arc<B>, Failure>,
    /// Who has it open.
    pub(crate) handles: BTreeSet<HandleId>,
}

impl<B> Composition<B> {
    /// The bytes, or why there are none.
    pub(crate) fn as_ref(&self) -> Result<&Arc<B>, &Failure> {
        self.body.as_ref()
    }
}

impl<B: Body> Composed<B> {
    /// Nothing was made.
    pub(crate) fn new() -> Composed<B> {
        Composed { results: BTreeMap::new() }
    }

    /// What was made of these generations.
    pub(crate) fn find(&self, file: FileId, of: &[GenerationId]) -> Option<&Composition<B>> {
        self.results.get(&(file, of.to_vec()))
    }

    /// Keeps a result. Returns how many bytes it takes.
    pub(crate) fn keep(&mut self, file: FileId, of: Vec<GenerationId>, body: Result<Arc<B>, Failure>) -> u64 {
        let bytes = size_of_body(&body);
        let handles = BTreeSet::new();
        self.results.insert((file, of), Composition { body, handles });
        bytes
    }

    /// Somebody has opened a result.
    pub(crate) fn open(&mut self, file: FileId, of: &[GenerationId], handle: HandleId) {
        if let Some(result) = self.results.get_mut(&(file, of.to_vec())) {
            result.handles.insert(handle);
        }
    }

    /// A handle is closed. Returns whether nobody has its result open now.
    pub(crate) fn close(&mut self, file: FileId, of: &[GenerationId], handle: HandleId) -> bool {
        self.results.get_mut(&(file, of.to_vec())).is_some_and(|result| {
            result.handles.remove(&handle);
            result.handles.is_empty()
        })
    }

    /// Drops what these do not keep. Returns how many bytes that frees.
    pub(crate) fn retain(
        &mut self,
        mut keep: impl FnMut(FileId, &[GenerationId], &Composition<B>) -> bool,
    ) -> u64 {
        let mut freed = 0;
        self.results.retain(|(file, of), result| {
            let kept = keep(*file, of, result);
            if !kept {
                freed += size_of_body(&result.body);
            }
            kept
        });
        freed
    }
}

fn size_of_body<B: Body>(body: &Result<Arc<B>, Failure>) -> u64 {
    body.as_ref().map_or(0, |body| body.size())
}

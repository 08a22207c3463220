//! What a file shows now: a live generation of each of its sources, and the bytes that are made of them.
//!
//! A file of one source has its bytes in the generation. One of several sources is composed when it is opened or
//! its attributes are asked for; LOOKUP, READDIR and READDIRPLUS never compose. Invariants: *first end*: it ends
//! with the first of its sources; *in the books*: what is kept of it counts in `max-memory`.

use std::sync::Arc;

use crate::core::access::{Opener, Rule};
use crate::core::compose::Composition;
use crate::core::effect::{Effect, Report};
use crate::core::engine::{Effects, Engine};
use crate::core::error::{Failure, Fault, FsError};
use crate::core::generation::{Body, Generation, Piece};
use crate::core::handles::OpenFile;
use crate::core::name::{FileId, GenerationId, HandleId, Ino, SourceId};
use crate::core::sources::Sources;
use crate::core::time::{BootTime, Moment, UnixTime};
use crate::core::tree::Node;

/// What a file shows, and who may read it.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) sources: Sources,
    /// Which part of its source; of several, the file that they make.
    pub(super) piece: Piece,
    pub(super) rule: Rule,
}

impl View {
    /// The file that several sources make.
    pub(super) fn composed(&self) -> Option<FileId> {
        match self.piece {
            Piece::File(file) if self.sources.are_several() => Some(file),
            Piece::File(_) | Piece::Field(_) | Piece::Values => None,
        }
    }
}

/// What a file shows now.
pub(super) struct Showing<'a, B> {
    /// A generation of each of its sources, in order; all live.
    pub(super) parts: Vec<(SourceId, &'a Generation<B>)>,
    /// Its bytes or why there are none; `None`: the generation has nothing of it, or it was not composed yet.
    pub(super) body: Option<Result<&'a Arc<B>, &'a Failure>>,
}

impl<'a, B: Body> Showing<'a, B> {
    /// Its bytes, if it has some.
    pub(super) fn bytes(&self) -> Option<&'a Arc<B>> {
        self.body?.ok()
    }

    /// When the latest of its parts was issued.
    pub(super) fn issued(&self) -> Option<UnixTime> {
        self.parts.iter().map(|(_, one)| one.issued).max()
    }

    /// The generations, in order.
    pub(super) fn ids(&self) -> Vec<GenerationId> {
        self.parts.iter().map(|(_, one)| one.id).collect()
    }

    /// As a handle names them.
    pub(super) fn named(&self) -> Vec<(SourceId, GenerationId)> {
        self.parts.iter().map(|(source, one)| (*source, one.id)).collect()
    }
}

impl<B: Body> Engine<B> {
    /// What a file shows: its sources, its part of them, and who may read it.
    pub(super) fn file_of(&self, ino: Ino) -> Option<View> {
        match &self.tree.slot(ino)?.node {
            Node::File(id) => {
                let file = &self.files[id.0 as usize];
                Some(View { sources: file.sources.clone(), piece: Piece::File(*id), rule: file.rule })
            }
            Node::Field(field) => {
                let (sources, piece) = (Sources::one(field.source), Piece::Field(field.field.clone()));
                Some(View { sources, piece, rule: field.rule })
            }
            Node::Directory | Node::FieldDirectory(_) | Node::TreeDirectory(_) => None,
        }
    }

    /// What opens of a file get now; `None` if one of its sources has nothing that lives.
    pub(super) fn showing(&self, now: BootTime, view: &View) -> Option<Showing<'_, B>> {
        self.showing_to(now, view, Opener::NOBODY)
    }

    /// As [`Engine::showing`], for a process that may not have ended its round.
    pub(super) fn showing_to(&self, now: BootTime, view: &View, by: Opener) -> Option<Showing<'_, B>> {
        let shown = |id| self.live(now, id).map(|current| self.kept_for(now, id, by).unwrap_or(current));
        let parts = view.sources.iter().map(|id| Some((id, shown(id)?)));
        let mut showing = Showing { parts: parts.collect::<Option<Vec<_>>>()?, body: None };
        showing.body = match view.composed() {
            Some(file) => self.composed.find(file, &showing.ids()).map(Composition::as_ref),
            None => showing.parts.first().and_then(|(_, one)| one.body_of(&view.piece)),
        };
        Some(showing)
    }

    /// Until when what a file shows need not be asked for again.
    pub(super) fn fresh_until(&self, showing: &Showing<'_, B>) -> BootTime {
        let until = showing.parts.iter().map(|(_, one)| {
            let end = self.end_of(one);
            one.fresh_until().unwrap_or(end).min(end)
        });
        until.min().unwrap_or(BootTime::NEVER)
    }

    /// The bytes of a file all of whose sources live, composed if they were not yet.
    ///
    /// # Errors
    /// What `open` says: it can't be shown, or there is no room for it.
    pub(super) fn compose(
        &mut self,
        at: Moment,
        view: &View,
        parts: &[(SourceId, GenerationId)],
        fx: &mut Effects,
    ) -> Result<Arc<B>, FsError> {
        let Some(file) = view.composed() else {
            let (source, generation) = parts.first().ok_or(FsError::Unusable)?;
            let source = self.sources.get(source).ok_or(FsError::Unusable)?;
            let body = source.generation(*generation).and_then(|one| one.body_of(&view.piece));
            return found(body.ok_or(FsError::NoSuchSecret)?);
        };
        let ids: Vec<GenerationId> = parts.iter().map(|(_, generation)| *generation).collect();
        if let Some(known) = self.composed.find(file, &ids) {
            return found(known.as_ref());
        }
        let composed = self.composed_of(file, parts);
        let bytes = composed.as_ref().map_or(0, |body| body.size());
        let keep: Vec<SourceId> = parts.iter().map(|(source, _)| *source).collect();
        if !self.make_room(at, &keep, bytes, fx) {
            return Err(FsError::OutOfMemory);
        }
        if let Err(failure) = &composed {
            self.report_unusable(parts, failure, fx);
        }
        let result = found(composed.as_ref());
        self.memory += self.composed.keep(file, ids, composed);
        result
    }

    fn composed_of(&self, file: FileId, parts: &[(SourceId, GenerationId)]) -> Result<Arc<B>, Failure> {
        let values = |(source, generation): &(SourceId, GenerationId)| {
            let generation = self.sources.get(source)?.generation(*generation)?;
            Some(generation.body_of(&Piece::Values)?.map(Arc::clone).map_err(Failure::clone))
        };
        let missing = || Failure::new(Fault::Unusable, "the values of one of its secrets are not there");
        let parts = parts.iter().map(|part| values(part).unwrap_or_else(|| Err(missing())));
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        self.composer.compose(file, &parts).map(Arc::new)
    }

    fn report_unusable(&self, parts: &[(SourceId, GenerationId)], failure: &Failure, fx: &mut Effects) {
        let Some((id, _)) = parts.first() else { return };
        let Some(source) = self.sources.get(id) else { return };
        let (path, declared) = (source.spec.request.path.clone(), source.declared);
        fx.push(Effect::Report(Report::FetchFailed {
            source: *id,
            path,
            declared,
            failure: failure.clone(),
        }));
    }

    /// What the page cache gets of an open file: what opens get now. What was not composed yet is composed and not
    /// kept.
    pub(super) fn current_body(&self, now: BootTime, file: &OpenFile<B>) -> Option<Arc<B>> {
        let parts = file.parts.iter().map(|(id, _)| Some((*id, self.live(now, *id)?.id)));
        let parts = parts.collect::<Option<Vec<_>>>()?;
        match file.composed() {
            Some(id) => {
                let ids: Vec<GenerationId> = parts.iter().map(|(_, generation)| *generation).collect();
                match self.composed.find(id, &ids) {
                    Some(known) => known.body.as_ref().ok().cloned(),
                    None => self.composed_of(id, &parts).ok(),
                }
            }
            None => {
                let (source, generation) = parts.first()?;
                let generation = self.sources.get(source)?.generation(*generation)?;
                generation.body_of(&file.piece)?.ok().cloned()
            }
        }
    }

    /// A program has opened what is made of these generations.
    pub(super) fn note_composed_open(
        &mut self,
        handle: HandleId,
        file: FileId,
        parts: &[(SourceId, GenerationId)],
    ) {
        let ids: Vec<GenerationId> = parts.iter().map(|(_, generation)| *generation).collect();
        self.composed.open(file, &ids, handle);
    }

    /// A handle is closed: what it read goes with it, unless it is what opens get, or others read it.
    pub(super) fn note_composed_close(&mut self, handle: HandleId, closed: &OpenFile<B>) {
        let Some(file) = closed.composed() else { return };
        if self.composed.close(file, &closed.generations(), handle) {
            self.drop_outdated(file);
        }
    }

    /// What was made of generations that opens don't get any more goes, unless somebody reads it.
    pub(super) fn drop_outdated(&mut self, file: FileId) {
        let current: Vec<Option<GenerationId>> = self.files[file.0 as usize]
            .sources
            .iter()
            .map(|id| self.sources.get(&id).and_then(|source| Some(source.current.as_ref()?.id)))
            .collect();
        self.memory -= self.composed.retain(|one, of, result| {
            one != file
                || !result.handles.is_empty()
                || of.iter().copied().map(Some).eq(current.iter().copied())
        });
    }

    /// As [`Engine::drop_outdated`], for all files that a source has a part in.
    pub(super) fn drop_outdated_of(&mut self, id: SourceId) {
        for file in self.files_composed_of(id) {
            self.drop_outdated(file);
        }
    }

    fn files_composed_of(&self, id: SourceId) -> Vec<FileId> {
        let Some(source) = self.sources.get(&id) else { return Vec::new() };
        let files = source.nodes.iter().filter_map(|ino| match self.tree.slot(*ino)?.node {
            Node::File(file) => Some(file),
            Node::Directory | Node::Field(_) | Node::FieldDirectory(_) | Node::TreeDirectory(_) => None,
        });
        files.filter(|file| self.files[file.0 as usize].sources.are_several()).collect()
    }

    /// Whether a file that several sources make has a part of this one.
    pub(super) fn needs_values(&self, id: SourceId) -> bool {
        !self.files_composed_of(id).is_empty()
    }

    /// A generation has ended, and with it what was made of it. The other generations that went into it are not
    /// read any more by those who had it open.
    pub(super) fn end_composed(
        &mut self,
        at: Moment,
        ended: &Generation<B>,
        lapsed: Lapsed,
        fx: &mut Effects,
    ) {
        self.memory -= self.composed.retain(|_, of, _| !of.contains(&ended.id));
        let mut others: Vec<(SourceId, GenerationId, HandleId)> = Vec::new();
        for handle in &ended.handles {
            let parts = self.handles.file(*handle).map_or(&[][..], |file| &file.parts);
            let rest = parts.iter().filter(|(_, generation)| *generation != ended.id);
            others.extend(rest.map(|(source, generation)| (*source, *generation, *handle)));
        }
        for (id, which, handle) in others {
            let Some(source) = self.sources.get_mut(&id) else { continue };
            if lapsed == Lapsed::Yes {
                source.last_open = source.last_open.max(Some(at.now));
            }
            if let Some(generation) = source.generation_mut(which) {
                generation.handles.remove(&handle);
            }
            self.touch_source(id);
            self.end_unread(at, id, fx);
        }
    }

    /// Makes room: what was composed and nobody has open can be composed again.
    pub(super) fn drop_unopened(&mut self) {
        self.memory -= self.composed.retain(|_, _, result| !result.handles.is_empty());
    }
}

/// Whether a generation ended because its time was over, so that its readers can't know it yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lapsed {
    Yes,
    No,
}

fn found<B>(body: Result<&Arc<B>, &Failure>) -> Result<Arc<B>, FsError> {
    body.map(Arc::clone).map_err(|failure| failure.fault.situation())
}

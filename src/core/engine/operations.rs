//! What the kernel asks: one method for each request.
//!
//! A verdict comes before any effect. LOOKUP, READ, READDIR and READDIRPLUS never wait.

use std::sync::Arc;

use crate::core::access::{Caller, Opener, Verdict, may_read};
use crate::core::effect::{Answer, Attributes, DirectoryOpened, End, Entry, NodeType, Opened, Outcome};
use crate::core::engine::composing::View;
use crate::core::engine::waiting::Operation;
use crate::core::engine::{Effects, Engine, LONG};
use crate::core::error::FsError;
use crate::core::generation::Body;
use crate::core::handles::{DirectoryEntry, OpenFile, OpenKind};
use crate::core::name::{HandleId, Ino, SourceId};
use crate::core::time::{BootTime, Moment};
use crate::core::tree::{Node, Told};

/// Who reads: a program through its handle, or the kernel for a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// read(2) and its kin: gets what its handle was opened for.
    Handle,
    /// The page cache, which is one for all handles: gets the current generation or nothing.
    PageCache,
}

impl<B: Body> Engine<B> {
    /// LOOKUP: never waits and judges nobody, since the kernel shares names among users. The kernel
    /// holds one more reference to what is found.
    pub fn lookup(&mut self, now: BootTime, parent: Ino, name: &str) -> Result<Entry, FsError> {
        let ino = match self.tree.declared_child(parent, name) {
            Some(ino) => ino,
            None => match self.place_child(now, parent, name) {
                // Nobody asks whether it is there.
                Err(FsError::NoSuchName | FsError::NumberUnknown | FsError::ContentsUnknown)
                    if self.lock_of_child(parent, name).is_some() =>
                {
                    return Err(FsError::Locked);
                }
                placed => placed?,
            },
        };
        if self.vanished.contains_key(&ino) {
            return Err(FsError::Vanished);
        }
        let attributes = self.attributes(now, ino)?;
        self.tree.remember(ino);
        Ok(Entry { ttl: self.name_ttl(now, ino), attributes })
    }

    /// FORGET: the kernel gives back `count` references.
    pub fn forget(&mut self, ino: Ino, count: u64) {
        if let Some(gone) = self.tree.forget(ino, count) {
            self.forget_node(ino, &gone.node);
        }
    }

    /// GETATTR. A KV file that the caller may read is fetched, so that its size is true; a directory of a
    /// tree is listed, so that the LOOKUPs that follow need not wait.
    pub fn getattr(&mut self, at: Moment, caller: &Caller, ino: Ino) -> (Outcome<Attributes>, Effects) {
        self.run(at, |engine, fx| {
            // Not by way of the attributes: those count as told to the kernel.
            let rule = match engine.file_of(ino) {
                Some(view) if engine.wants_process_to_look(at.now, caller, &view) => {
                    return Outcome::NeedProcess;
                }
                Some(view) => view.rule,
                None => match engine.directory_attributes(at.now, ino) {
                    Ok(attributes) => attributes.rule,
                    Err(error) => return Outcome::Done(Err(error)),
                },
            };
            match may_read(caller, &rule) {
                Verdict::NeedGroups => Outcome::NeedGroups,
                Verdict::Deny => Outcome::Done(engine.attributes(at.now, ino)),
                Verdict::Allow => engine
                    .begin(at, ino, Operation::Attributes { by: caller.opener() }, fx)
                    .narrow(|answer| match answer {
                        Answer::Attributes(attributes) => Some(attributes),
                        _ => None,
                    }),
            }
        })
    }

    /// OPEN for reading.
    pub fn open(&mut self, at: Moment, caller: &Caller, ino: Ino) -> (Outcome<Opened>, Effects) {
        self.run(at, |engine, fx| {
            let Some(view) = engine.file_of(ino) else {
                engine.close_unknown(at, caller.request, fx);
                let is_there = engine.tree.slot(ino).is_some();
                let error = if is_there { FsError::IsADirectory } else { FsError::NumberUnknown };
                return Outcome::Done(Err(error));
            };
            let verdict = may_read(caller, &view.rule);
            if verdict != Verdict::NeedGroups {
                engine.close_unknown(at, caller.request, fx);
            }
            match verdict {
                Verdict::NeedGroups => Outcome::NeedGroups,
                Verdict::Deny => Outcome::Done(Err(FsError::CallerDenied)),
                Verdict::Allow if engine.wants_process(caller, &view) => Outcome::NeedProcess,
                Verdict::Allow => {
                    engine.note_hidden(&view, caller.opener());
                    let operation = Operation::Open { request: caller.request, by: caller.opener() };
                    engine.begin(at, ino, operation, fx).narrow(|answer| match answer {
                        Answer::Opened(opened) => Some(opened),
                        _ => None,
                    })
                }
            }
        })
    }

    /// Opens the current generations for a caller who may read the file, or those that its process has pinned.
    pub(super) fn open_file(
        &mut self,
        at: Moment,
        ino: Ino,
        view: View,
        (request, by): (u64, Opener),
        fx: &mut Effects,
    ) -> Result<Opened, FsError> {
        let choices = self.choose(at.now, ino, &view, by).ok_or(FsError::Unusable)?;
        let parts: Vec<_> = choices.iter().map(|choice| (choice.source, choice.generation)).collect();
        let body = self.compose(at, &view, &parts, fx)?;
        let size = body.size();
        let told = self.tree.slot(ino).and_then(|slot| slot.told);
        let forget_attributes = told.is_none_or(|told| told.size != size);
        if forget_attributes {
            self.tree.tell(ino, Some(Told { size, until: at.now }));
        }
        let composed = view.composed();
        let file = OpenFile { ino, parts: parts.clone(), piece: view.piece, body: Some(body), request };
        let handle = self.handles.open(file);
        if let Some(file) = composed {
            self.note_composed_open(handle, file, &parts);
        }
        for (id, which) in parts {
            if let Some(source) = self.sources.get_mut(&id) {
                source.last_open = Some(at.now);
                if let Some(generation) = source.generation_mut(which) {
                    generation.handles.insert(handle);
                }
            }
            self.touch_source(id);
        }
        for choice in choices {
            self.note_visit(at.now, choice, by);
        }
        Ok(Opened { handle, ino, forget_attributes })
    }

    /// READ: the bytes that this handle was opened for, as long as they live.
    ///
    /// # Errors
    /// `BadHandle`, or `GenerationEnded`.
    pub fn read(&self, now: BootTime, handle: HandleId, reader: Reader) -> Result<Arc<B>, FsError> {
        let file = self.handles.file(handle).ok_or(FsError::BadHandle)?;
        if self.lock_of(file.ino).is_some() {
            return Err(FsError::GenerationEnded);
        }
        if reader == Reader::PageCache {
            return self.current_body(now, file).ok_or(FsError::GenerationEnded);
        }
        for (source, generation) in &file.parts {
            let source = self.sources.get(source).ok_or(FsError::GenerationEnded)?;
            let generation = source.generation(*generation).ok_or(FsError::GenerationEnded)?;
            if now >= self.end_of(generation) {
                return Err(FsError::GenerationEnded);
            }
        }
        file.body.clone().ok_or(FsError::GenerationEnded)
    }

    /// RELEASE: the last descriptor of a handle is closed.
    pub fn release(&mut self, at: Moment, handle: HandleId) -> Effects {
        self.run(at, |engine, fx| {
            engine.close(at, handle, fx);
        })
        .1
    }

    fn close(&mut self, at: Moment, handle: HandleId, fx: &mut Effects) {
        let Some(file) = self.handles.close(handle) else { return };
        self.note_composed_close(handle, &file);
        for (id, which) in file.parts {
            self.touch_source(id);
            // Who has a generation open is told by the handles.
            let Some(source) = self.sources.aside(&id) else { continue };
            if let Some(generation) = source.generation_mut(which) {
                generation.handles.remove(&handle);
            }
            self.end_unread(at, id, fx);
            self.drop_if_idle(id);
        }
    }

    /// What a newer generation has replaced goes with its last handle, and its last pin.
    pub(super) fn end_unread(&mut self, at: Moment, id: SourceId, fx: &mut Effects) {
        let previous = self.sources.get(&id).and_then(|source| source.previous.as_ref());
        if let Some(which) = previous.filter(|one| !self.is_kept(at.now, id, one)).map(|one| one.id) {
            self.end_generation(at, id, which, End::Replaced, fx);
        }
    }

    /// A request that a predecessor had begun was answered with an error: what it may have opened is closed.
    pub fn failed(&mut self, at: Moment, request: u64) -> Effects {
        self.run(at, |engine, fx| engine.close_unknown(at, request, fx)).1
    }

    /// The kernel sends an OPEN or OPENDIR again that a predecessor has answered: the answer was lost on its way,
    /// and nobody knows the handle.
    fn close_unknown(&mut self, at: Moment, request: u64, fx: &mut Effects) {
        match self.handles.take_restored(request) {
            Some(OpenKind::File(handle)) => self.close(at, handle, fx),
            Some(OpenKind::Directory(handle)) => self.handles.close_directory(handle),
            None => {}
        }
    }

    /// OPENDIR: a directory of a tree is listed now, if its list is not fresh.
    pub fn opendir(&mut self, at: Moment, caller: &Caller, ino: Ino) -> (Outcome<DirectoryOpened>, Effects) {
        self.run(at, |engine, fx| {
            let rule = match engine.directory_attributes(at.now, ino) {
                Ok(attributes) => attributes.rule,
                Err(error) => {
                    engine.close_unknown(at, caller.request, fx);
                    return Outcome::Done(Err(error));
                }
            };
            let verdict = may_read(caller, &rule);
            if verdict != Verdict::NeedGroups {
                engine.close_unknown(at, caller.request, fx);
            }
            match verdict {
                Verdict::NeedGroups => Outcome::NeedGroups,
                Verdict::Deny => Outcome::Done(Err(FsError::CallerDenied)),
                Verdict::Allow => {
                    let operation = Operation::OpenDirectory { request: caller.request };
                    engine.begin(at, ino, operation, fx).narrow(|answer| match answer {
                        Answer::DirectoryOpened(opened) => Some(opened),
                        _ => None,
                    })
                }
            }
        })
    }

    /// READDIR: hands the entries from `offset` on to `add`, with the offset that follows each one, until
    /// `add` says that it is full. `.` and `..` come first.
    ///
    /// # Errors
    /// `BadHandle`.
    pub fn readdir(
        &self,
        handle: HandleId,
        offset: u64,
        mut add: impl FnMut(&str, Ino, NodeType, u64) -> Room,
    ) -> Result<(), FsError> {
        let directory = self.handles.directory(handle).ok_or(FsError::BadHandle)?;
        let dots = [(".", directory.ino), ("..", directory.parent)]
            .map(|(name, ino)| (name, ino, NodeType::Directory));
        let entries =
            directory.entries.iter().map(|entry| (entry.name.as_str(), entry.ino, node_type(&entry.node)));
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, (name, ino, node_type)) in dots.into_iter().chain(entries).enumerate().skip(from) {
            if add(name, ino, node_type, index as u64 + 1) == Room::Full {
                break;
            }
        }
        Ok(())
    }

    /// READDIRPLUS: as READDIR, with what LOOKUP would say of each entry. The kernel holds a reference to
    /// each one that `add` took, `.` and `..` aside.
    ///
    /// # Errors
    /// `BadHandle`.
    pub fn readdirplus(
        &mut self,
        now: BootTime,
        handle: HandleId,
        offset: u64,
        mut add: impl FnMut(&str, &Attributes, u64) -> Room,
    ) -> Result<(), FsError> {
        let directory = self.handles.directory(handle).ok_or(FsError::BadHandle)?;
        let (ino, parent) = (directory.ino, directory.parent);
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, (name, ino)) in [(".", ino), ("..", parent)].into_iter().enumerate().skip(from) {
            let attributes = self.attributes(now, ino)?;
            if add(name, &attributes, index as u64 + 1) == Room::Full {
                return Ok(());
            }
        }
        let mut index = from.saturating_sub(2);
        loop {
            let directory = self.handles.directory(handle).ok_or(FsError::BadHandle)?;
            let Some(DirectoryEntry { ino: child, name, node }) = directory.entries.get(index).cloned()
            else {
                return Ok(());
            };
            index += 1;
            // A name that meanwhile went is left out; so is one whose number another name took.
            if self.place_shown(ino, &name, node).is_err() {
                continue;
            }
            let told = self.tree.slot(child).and_then(|slot| slot.told);
            let Ok(mut attributes) = self.attributes(now, child) else { continue };
            attributes.ttl = attributes.ttl.min(self.name_ttl(now, child));
            if add(&name, &attributes, index as u64 + 2) == Room::Full {
                self.tree.tell(child, told);
                if let Some(gone) = self.tree.drop_unheld(child) {
                    self.forget_node(child, &gone.node);
                }
                return Ok(());
            }
            self.tree.remember(child);
        }
    }

    /// RELEASEDIR.
    pub fn releasedir(&mut self, handle: HandleId) {
        self.handles.close_directory(handle);
    }

    /// What is known of a name, without asking anybody.
    pub(super) fn attributes(&mut self, now: BootTime, ino: Ino) -> Result<Attributes, FsError> {
        match self.tree.slot(ino).map(|slot| &slot.node) {
            None => Err(FsError::NumberUnknown),
            Some(Node::File(_) | Node::Field(_)) => {
                // An unresolved file has a size of 0 here; only `getattr` has its errors.
                let view = self.file_of(ino).ok_or(FsError::NoSuchName)?;
                Ok(self.known_attributes(now, ino, &view, Opener::NOBODY))
            }
            Some(Node::Directory | Node::FieldDirectory(_) | Node::TreeDirectory(_)) => {
                self.directory_attributes(now, ino)
            }
        }
    }

    /// The attributes of a file whose sources have been asked.
    ///
    /// # Errors
    /// What `open` would say, if this file of the generations can't be shown.
    pub(super) fn file_attributes(
        &mut self,
        at: Moment,
        ino: Ino,
        by: Opener,
        fx: &mut Effects,
    ) -> Result<Attributes, FsError> {
        let view = self.file_of(ino).ok_or(FsError::NumberUnknown)?;
        if self.lock_of(ino).is_none()
            && let Some(parts) = self.showing_to(at.now, &view, by).map(|showing| showing.named())
        {
            self.compose(at, &view, &parts, fx)?;
        }
        Ok(self.known_attributes(at.now, ino, &view, by))
    }

    fn known_attributes(&mut self, now: BootTime, ino: Ino, view: &View, by: Opener) -> Attributes {
        let showing = self.showing_to(now, view, by).filter(|_| self.lock_of(ino).is_none());
        let shown = showing.as_ref().and_then(|showing| {
            // Past its max-age the next stat asks Vault again.
            Some((showing.bytes()?.size(), showing.issued()?, self.fresh_until(showing)))
        });
        // The kernel keeps one size for all, and each process is to see its own.
        let split = view.sources.iter().any(|id| self.is_split(now, id));
        let (size, mtime, ttl) = match shown {
            Some((size, issued, _)) if split => (size, issued, std::time::Duration::ZERO),
            Some((size, issued, until)) => (size, issued, until.since(now).min(LONG)),
            // Nothing but an open can change it, and that makes the kernel forget the size first.
            None if self.takes_an_open(now, &view.sources) => (0, self.settings.mounted, LONG),
            None => (0, self.settings.mounted, std::time::Duration::ZERO),
        };
        self.tree.tell(ino, Some(Told { size, until: now + ttl }));
        Attributes { ino, node_type: NodeType::File, size, mtime, rule: view.rule, ttl }
    }

    fn name_ttl(&self, now: BootTime, ino: Ino) -> std::time::Duration {
        match self.tree.slot(ino) {
            Some(slot) if self.tree.is_declared_directory(slot.parent) => LONG,
            Some(slot) => self.contents_until(now, slot.parent).since(now).min(LONG),
            None => std::time::Duration::ZERO,
        }
    }
}

/// Whether there is room for another directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// The entry was taken.
    Left,
    /// It was not: the buffer is full.
    Full,
}

fn node_type(node: &Node) -> NodeType {
    match node {
        Node::File(_) | Node::Field(_) => NodeType::File,
        Node::Directory | Node::FieldDirectory(_) | Node::TreeDirectory(_) => NodeType::Directory,
    }
}

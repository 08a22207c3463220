//! The engine: one method for each file operation, each completion and the tick of time.
//!
//! Invariants, which `tests/model.rs` checks on random histories:
//! - no byte of a generation is handed out at or after its end, or after its token's end;
//! - at most one read of a source is in flight, and at most two generations of it are there;
//! - a caller who may not read causes no effect, and nothing is fetched for a locked name;
//! - each source, identity and retiring lease that must be looked at again has exactly one wake;
//! - a ticket is answered exactly once.
//!
//! The parts: `operations` (what the kernel asks), `waiting` (callers that wait), `fetching` (reads),
//! `publishing` (what becomes of an answer), `late` (what is done while Vault is slow or silent), `leases`, `tokens`, `directories` (trees), `lists` (what Vault lists), `control` (what an operator asks),
//! `composing` (files of several sources), `pinning` (who has opened what), `locking` (what an operator forbids), `explain` (everything about a name), `readiness` (what is waited
//! for), `reasons` (what a directory says of its names), `sealing` (the state is written out) and
//! `restoring` (a successor reads it back).

mod census;
mod composing;
mod control;
mod directories;
mod explain;
mod fetching;
mod late;
mod leases;
mod lists;
mod locking;
mod operations;
mod pinning;
mod publishing;
mod readiness;
mod reasons;
mod restoring;
mod sealing;
mod tokens;
mod waiting;
mod wakes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::core::access::{Process, Rule};
use crate::core::compose::{Compose, Composed};
use crate::core::effect::{Credential, Effect, End, ReadRequest, Report};
use crate::core::generation::{Body, Generation, Validity};
use crate::core::handles::Handles;
use crate::core::identity::Identity;
use crate::core::locks::Locks;
use crate::core::name::{
    FileId, FileName, GenerationId, IdentityId, Ino, LeaseId, RequestId, SourceId, Ticket, TokenId,
};
use crate::core::pins::Visitor;
use crate::core::policy::{LONGEST_MARGIN, LeaseSettings};
use crate::core::source::{Source, SourceSpec};
use crate::core::state::LayoutCell;
use crate::core::time::{BootTime, Moment, UnixTime};
use crate::core::tracked::{Changes, Tracked};
use crate::core::tree::{FieldDirSpec, FileSpec, Node, OnExpiry, Refused, Tree, TreeSpec};

pub use census::Census;
use composing::Lapsed;
pub use control::{
    Debt, FileStatus, IdentityStatus, Retirement, Settlement, State, Status, XATTRS, XattrValue,
};
pub use explain::{Details, Held, Kind, Origin, Subject, Upcoming};
pub use fetching::FetchResult;
pub use leases::Granted;
use leases::Retiring;
use lists::List;
pub use operations::{Reader, Room};
pub use readiness::{Outlook, Readiness};
use sealing::Sealing;
use waiting::Waiting;
use wakes::{WakeKey, Wakes};

/// What a mount shows, and within which limits.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Who logs in: of each identity a text that differs if it is another one, or logs in in another way. An
    /// [`IdentityId`] is an index.
    pub identities: Vec<String>,
    /// Those of them whose token somebody else has made: their logins make none.
    pub given: BTreeSet<IdentityId>,
    /// Declared sources; a [`SourceId`] is an index.
    pub sources: Vec<SourceSpec>,
    /// Declared files; a [`FileId`] is an index.
    pub files: Vec<FileSpec>,
    /// How each file shows its sources: a text that differs if the bytes may; in the order of `files`.
    pub renderings: Vec<String>,
    /// Directories of one secret's fields.
    pub field_dirs: Vec<FieldDirSpec>,
    /// Mirrored prefixes.
    pub trees: Vec<TreeSpec>,
    /// Owner, group and mode of directories that have none of their own.
    pub directory: Rule,
    /// Limits.
    pub settings: Settings,
}

/// Limits of a mount.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bytes of secrets and lists kept at most.
    pub max_memory: u64,
    /// How long the list of a tree's directory is good.
    pub list_max_age: Duration,
    /// What all leases have in common.
    pub leases: LeaseSettings,
    /// The time that files without a generation show.
    pub mounted: UnixTime,
}

/// How long the kernel may keep what does not change by itself.
pub const LONG: Duration = Duration::from_secs(24 * 3600);

/// What lives on in Vault for no longer than that after its end here is left to lapse.
const SOON_OVER: Duration = LONGEST_MARGIN.saturating_add(Duration::from_secs(1));

/// What a call asks of its caller, in order.
#[must_use]
#[derive(Debug, Default)]
pub struct Effects {
    /// Things to do.
    pub list: Vec<Effect>,
    /// [`Engine::tick`] must be called then; earlier than any instant that was announced since the last
    /// tick.
    pub wake: Option<BootTime>,
}

impl Effects {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty() && self.wake.is_none()
    }

    fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }
}

/// The engine of one mount.
#[derive(Debug)]
pub struct Engine<B> {
    settings: Settings,
    directory: Rule,
    files: Vec<FileSpec>,
    field_dirs: Vec<FieldDirSpec>,
    trees: Vec<TreeSpec>,
    tree: Tree,
    sources: Tracked<SourceId, Source<B>>,
    by_read: BTreeMap<(IdentityId, ReadRequest), SourceId>,
    identities: Vec<Identity>,
    changed_identities: Changes<IdentityId>,
    handles: Handles<B>,
    composer: Arc<dyn Compose<B>>,
    composed: Composed<B>,
    /// Who has opened what, where that matters.
    visitors: Tracked<(SourceId, Process), Visitor>,
    /// When pins may be over; a pin that was made longer has a later one, too.
    pin_ends: pinning::Ends,
    openers_are_hidden: bool,
    lists: BTreeMap<Ino, List>,
    waiting: BTreeMap<Ticket, Waiting>,
    retiring: Tracked<LeaseId, Retiring>,
    vanished: Tracked<Ino, ()>,
    locks: Locks,
    wakes: Wakes,
    /// The earliest wake that the caller was told of since the last tick.
    announced: Option<BootTime>,
    memory: u64,
    last_id: u64,
    last_source: u32,
    vault_answers: bool,
    stopping: bool,
    /// Until when the kernel may look names up in directories of trees that it has asked a predecessor for.
    unlisted_until: BootTime,
    sealing: Sealing,
}

/// Why a layout can't be mounted though each part of it is right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {}", match .why {
    Refused::Collision => "its inode number is that of another name: rename one of them",
    Refused::Taken => "the name is declared twice, or is a file and a directory at once",
})]
pub struct LayoutError {
    /// Which name.
    pub name: FileName,
    /// What is wrong with it.
    pub why: Refused,
}

impl<B: Body> Engine<B> {
    /// An engine that has not asked for anything yet. `composer` makes the files of several sources.
    ///
    /// # Errors
    /// Two names clash.
    pub fn new(layout: Layout, composer: Arc<dyn Compose<B>>) -> Result<Engine<B>, LayoutError> {
        let description = LayoutCell::new(&layout);
        let Layout {
            identities,
            sources: specs,
            files,
            renderings: _,
            field_dirs,
            trees,
            directory,
            settings,
            given: _,
        } = layout;
        let mut tree = Tree::new();
        let mut sources = BTreeMap::new();
        let mut by_read = BTreeMap::new();
        for (index, spec) in specs.into_iter().enumerate() {
            let id = SourceId(index as u32);
            by_read.insert((spec.identity, spec.request.clone()), id);
            sources.insert(id, Source::new(spec, true));
        }
        let mut declare = |name: &FileName, node| {
            tree.declare(name, node).map_err(|why| LayoutError { name: name.clone(), why })
        };
        for (index, file) in files.iter().enumerate() {
            let ino = declare(&file.name, Node::File(FileId(index as u32)))?;
            for id in file.sources.iter() {
                if let Some(source) = sources.get_mut(&id) {
                    source.nodes.insert(ino);
                }
            }
        }
        for (index, dir) in field_dirs.iter().enumerate() {
            declare(&dir.name, Node::FieldDirectory(index))?;
        }
        for (index, spec) in trees.iter().enumerate() {
            declare(&spec.name, directories::root_of(index, spec))?;
        }
        Ok(Engine {
            settings,
            directory,
            files,
            field_dirs,
            trees,
            tree,
            sources: Tracked::from(sources),
            by_read,
            identities: (0..identities.len()).map(|index| Identity::new(IdentityId(index as u32))).collect(),
            changed_identities: Changes::new(),
            handles: Handles::new(),
            composer,
            composed: Composed::new(),
            visitors: Tracked::new(),
            pin_ends: pinning::Ends::new(),
            openers_are_hidden: false,
            lists: BTreeMap::new(),
            waiting: BTreeMap::new(),
            retiring: Tracked::new(),
            vanished: Tracked::new(),
            locks: Locks::default(),
            wakes: Wakes::default(),
            announced: None,
            memory: 0,
            last_id: 0,
            last_source: 0,
            vault_answers: true,
            stopping: false,
            unlisted_until: BootTime(0),
            sealing: Sealing::new(description),
        })
    }

    /// What is opened from now on gets numbers from this one on. The kernel may still have handles open that a
    /// predecessor has numbered and that nobody knows any more: those numbers must not stand for anything else.
    pub fn number_handles_from(&mut self, first: u64) {
        self.handles.restore_number(first);
    }

    /// When [`Engine::tick`] must be called next.
    pub fn next_wake(&self) -> Option<BootTime> {
        self.wakes.first()
    }

    /// Time passes: everything that is due is done.
    pub fn tick(&mut self, at: Moment) -> Effects {
        // What is still due after it was looked at must not keep the caller busy.
        let soonest = at.now + Duration::from_millis(1);
        self.announced = None;
        self.run_until(at, soonest, |engine, fx| {
            // Each key once: one that is due again at once comes with the next tick.
            let due = engine.wakes.take_due(at.now);
            for key in due {
                match &key {
                    WakeKey::Source(id) => engine.source_due(at, *id, fx),
                    WakeKey::Identity(id) => engine.identity_due(at, *id, fx),
                    WakeKey::Lease(lease) => engine.retiring_due(at, lease, fx),
                }
                engine.wakes.touch(key);
            }
        })
        .1
    }

    /// Runs a call and then sees to the wakes that it changed.
    fn run<T>(&mut self, at: Moment, call: impl FnOnce(&mut Self, &mut Effects) -> T) -> (T, Effects) {
        self.run_until(at, at.now, call)
    }

    /// As [`Engine::run`]; no wake that it sets comes before `soonest`.
    fn run_until<T>(
        &mut self,
        at: Moment,
        soonest: BootTime,
        call: impl FnOnce(&mut Self, &mut Effects) -> T,
    ) -> (T, Effects) {
        let mut effects = Effects::default();
        let outcome = call(self, &mut effects);
        for key in self.wakes.take_touched() {
            let wake = match &key {
                WakeKey::Source(id) => self.source_wake(at.now, *id),
                WakeKey::Identity(id) => self.identity_wake(*id),
                WakeKey::Lease(lease) => self.retiring.get(lease).and_then(Retiring::wake),
            };
            self.wakes.set(key, wake.map(|wake| wake.max(soonest)));
        }
        // A wake that was announced is not taken back: a file that is opened and closed over and over
        // must not keep whoever ticks busy with it.
        if let Some(wake) = self.next_wake()
            && self.announced.is_none_or(|announced| wake < announced)
        {
            effects.wake = Some(wake);
            self.announced = Some(wake);
        }
        (outcome, effects)
    }

    fn fresh_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn request(&mut self) -> RequestId {
        RequestId(self.fresh_id())
    }

    fn touch_source(&mut self, id: SourceId) {
        self.wakes.touch(WakeKey::Source(id));
    }

    fn touch_identity(&mut self, id: IdentityId) {
        self.wakes.touch(WakeKey::Identity(id));
    }

    fn identity(&self, id: IdentityId) -> &Identity {
        &self.identities[id.0 as usize]
    }

    fn identity_mut(&mut self, id: IdentityId) -> &mut Identity {
        self.changed_identities.mark(id);
        &mut self.identities[id.0 as usize]
    }

    /// When a generation counts as over: its own end or its token's.
    fn end_of(&self, generation: &Generation<B>) -> BootTime {
        generation.end.min(self.identity(generation.with.identity).end_of(generation.with.token))
    }

    /// Why a generation is over, if it is.
    fn is_over(&self, now: BootTime, generation: &Generation<B>) -> Option<End> {
        if now >= generation.end {
            return Some(End::Lapsed);
        }
        (now >= self.end_of(generation)).then_some(End::TokenGone)
    }

    /// Whether this is the token that its identity's next request is sent with.
    fn is_of_current_token(&self, with: Credential) -> bool {
        self.identity(with.identity).current().is_some_and(|token| token.id == with.token)
    }

    /// What opens of a source get now, if anything.
    fn live(&self, now: BootTime, id: SourceId) -> Option<&Generation<B>> {
        let current = self.sources.get(&id)?.current.as_ref()?;
        (now < self.end_of(current)).then_some(current)
    }

    /// Ends a generation: the bytes are dropped, the kernel forgets them, a lease that still lives is
    /// revoked.
    fn end_generation(&mut self, at: Moment, id: SourceId, which: GenerationId, why: End, fx: &mut Effects) {
        let Some(source) = self.sources.get_mut(&id) else { return };
        let is_current = source.current.as_ref().is_some_and(|one| one.id == which);
        let slot = if is_current { &mut source.current } else { &mut source.previous };
        let Some(generation) = slot.take_if(|one| one.id == which) else { return };
        self.memory -= generation.bytes;
        if why == End::Lapsed && !generation.handles.is_empty() {
            // Programs that hold it can't know yet: what replaced it is kept until they look again.
            source.last_open = source.last_open.max(Some(at.now));
        }
        for handle in &generation.handles {
            self.handles.wipe(*handle);
        }
        let lapsed = if why == End::Lapsed { Lapsed::Yes } else { Lapsed::No };
        self.end_composed(at, &generation, lapsed, fx);
        self.forget_readers(at.now, id, which);
        if is_current {
            let vanishes = match why {
                End::Replaced | End::Locked | End::Evicted | End::Stopped => false,
                End::Lapsed if generation.is_free() => at.now >= generation.natural_end(),
                End::Lapsed | End::Unused | End::GoneInVault | End::TokenGone | End::Revoked => true,
            };
            self.invalidate(id, fx);
            if vanishes {
                self.vanish(id, fx);
            }
        }
        if why != End::Replaced {
            let leased = generation.lease().is_some();
            fx.push(Effect::Report(Report::Ended { source: id, leased, why }));
        }
        match (generation.validity, why) {
            (
                Validity::Leased(lease),
                End::Replaced | End::Unused | End::Evicted | End::Revoked | End::Locked | End::Stopped,
            ) => {
                self.retire(at, id, lease.id, generation.with, lease.expires, fx);
            }
            // The answer was long on its way, or a renewal may have been granted all the same.
            (Validity::Leased(lease), End::Lapsed) if lease.expires > generation.end + SOON_OVER => {
                self.retire(at, id, lease.id, generation.with, lease.expires, fx);
            }
            (Validity::Leased(_), End::Lapsed | End::GoneInVault | End::TokenGone) => {}
            (Validity::Kv { .. } | Validity::Static { .. } | Validity::Fixed { .. }, _) => {}
        }
        if matches!(why, End::Unused | End::Evicted | End::Revoked | End::Locked)
            && let Some(source) = self.sources.get_mut(&id)
        {
            // The next open fetches anew, and nothing before it.
            source.last_open = None;
        }
        self.drop_unused_tokens(generation.with.identity, fx);
        self.touch_source(id);
        self.drop_if_idle(id);
    }

    /// The kernel forgets bytes and sizes of all files of a source.
    fn invalidate(&self, id: SourceId, fx: &mut Effects) {
        if let Some(source) = self.sources.get(&id) {
            fx.list.extend(source.nodes.iter().copied().map(Effect::Invalidate));
        }
    }

    /// The kernel forgets the sizes that it believes of the files of a source. Of a source that had
    /// nothing to show it holds nothing else, and what it does not hold must not be taken from it: the
    /// answer that brings it the true size may be on its way, and the kernel would drop that.
    fn invalidate_sizes(&self, now: BootTime, id: SourceId, fx: &mut Effects) {
        let Some(source) = self.sources.get(&id) else { return };
        let believed =
            |ino: &Ino| self.tree.slot(*ino).and_then(|slot| slot.told).is_some_and(|told| now < told.until);
        fx.list.extend(source.nodes.iter().copied().filter(believed).map(Effect::Invalidate));
    }

    /// The names of a source go, where the configuration wants that.
    fn vanish(&mut self, id: SourceId, fx: &mut Effects) {
        let Some(source) = self.sources.get(&id) else { return };
        let going: Vec<Ino> = source.nodes.iter().copied().filter(|ino| self.vanishes(*ino)).collect();
        for ino in going {
            let Some(slot) = self.tree.slot(ino) else { continue };
            fx.push(Effect::InvalidateName { parent: slot.parent, name: slot.name.clone() });
            fx.push(Effect::InvalidateListing(slot.parent));
            self.vanished.insert(ino, ());
        }
    }

    fn vanishes(&self, ino: Ino) -> bool {
        match self.tree.slot(ino).map(|slot| &slot.node) {
            Some(Node::File(file)) => self.files[file.0 as usize].on_expiry == OnExpiry::Vanish,
            Some(Node::Field(field)) => field.on_expiry == OnExpiry::Vanish,
            Some(Node::Directory | Node::FieldDirectory(_) | Node::TreeDirectory(_)) | None => false,
        }
    }

    /// Forgets a source that only a tree brought in, once nothing uses it.
    fn drop_if_idle(&mut self, id: SourceId) {
        if let Some(source) = self.sources.get(&id)
            && !source.declared
            && source.is_idle()
        {
            self.by_read.remove(&(source.spec.identity, source.spec.request.clone()));
            self.sources.remove(&id);
        }
    }

    /// The source that reads this, made if there is none.
    fn source_for(&mut self, spec: SourceSpec) -> SourceId {
        let key = (spec.identity, spec.request.clone());
        if let Some(id) = self.by_read.get(&key) {
            return *id;
        }
        // A source that the driver doesn't know from the configuration shows its fields.
        self.last_source = free_after(self.last_source, |id| self.sources.contains_key(&SourceId(id)));
        let id = SourceId(self.last_source);
        self.by_read.insert(key, id);
        self.sources.insert(id, Source::new(spec, false));
        id
    }

    /// Tokens that are no longer the current one go when nothing needs them any more.
    fn drop_unused_tokens(&mut self, id: IdentityId, fx: &mut Effects) {
        let tokens = &self.identity(id).tokens;
        let Some((_, earlier)) = tokens.split_last().filter(|(_, earlier)| !earlier.is_empty()) else {
            return;
        };
        let unused: Vec<(TokenId, bool)> = earlier
            .iter()
            .filter(|token| !self.token_is_needed(Credential { identity: id, token: token.id }))
            .map(|token| (token.id, token.ours))
            .collect();
        for (token, ours) in unused {
            self.identity_mut(id).tokens.retain(|one| one.id != token);
            let with = Credential { identity: id, token };
            fx.push(if ours { Effect::RevokeToken { with } } else { Effect::DropToken { with } });
            self.touch_identity(id);
        }
    }

    fn token_is_needed(&self, with: Credential) -> bool {
        self.retiring.values().any(|lease| lease.needs(with))
            || self.lists.values().any(|list| list.needs(with))
            || self.sources.values().any(|source| {
                [&source.current, &source.previous].into_iter().flatten().any(|one| one.with == with)
                    || matches!(source.fetch, crate::core::source::Fetch::InFlight { with: used, .. } if used == with)
            })
    }

    /// How many bytes of secrets and lists are kept.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// The names of a source, for messages: its declared files first.
    pub fn names_of(&self, id: SourceId) -> Vec<String> {
        let Some(source) = self.sources.get(&id) else { return Vec::new() };
        let mut names: Vec<String> = source.nodes.iter().map(|ino| self.tree.path(*ino)).collect();
        let dirs =
            self.field_dirs.iter().filter(|dir| dir.source == id).map(|dir| dir.name.as_str().to_owned());
        names.extend(dirs);
        names.sort();
        names
    }

    /// What a source reads, for messages.
    pub fn path_of(&self, id: SourceId) -> Option<String> {
        self.sources.get(&id).map(|source| source.spec.request.path.as_str().to_owned())
    }
}

/// The number after `last` that is not taken; from the highest on it begins anew. The highest is kept free:
/// it stands for no source.
fn free_after(last: u32, taken: impl Fn(u32) -> bool) -> u32 {
    let mut next = last;
    loop {
        next = if next >= u32::MAX - 1 { 0 } else { next + 1 };
        if !taken(next) {
            return next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sources_never_share_a_number_however_long_the_mount_lives() {
        assert_eq!(free_after(0, |id| id < 7), 7, "after those of the configuration");
        assert_eq!(free_after(9, |id| id == 10), 11);
        assert_eq!(free_after(u32::MAX - 1, |id| id < 7), 7, "begun anew");
    }
}

//! The engine is replaced by a successor that reads its cells, as after a kill.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use leasefs::core::effect::{Effect, Outcome};
use leasefs::core::engine::{Engine, Layout, Reader};
use leasefs::core::error::FsError;
use leasefs::core::name::{HandleId, Ino, SourceId};
use leasefs::core::state::{Content, Forsaken, Key, Restored, Stored};
use serde_json::Value;

use crate::driver::Step;
use crate::world::{Asked, TestBody, World};

/// A cell of the engine's state, as the sealed memory has it.
#[derive(Clone, Debug)]
pub enum Cell {
    Plain(Vec<u8>),
    Body(Weak<TestBody>),
}

impl Cell {
    fn new(content: &Content<'_, TestBody>) -> Cell {
        match content {
            Content::Plain(text) => Cell::Plain(text.clone()),
            Content::Body(body) => Cell::Body(Arc::downgrade(body)),
        }
    }

    fn is(&self, other: &Cell) -> bool {
        match (self, other) {
            (Cell::Plain(one), Cell::Plain(other)) => one == other,
            (Cell::Body(one), Cell::Body(other)) => one.ptr_eq(other),
            (Cell::Plain(_) | Cell::Body(_), _) => false,
        }
    }

    fn show(&self) -> String {
        match self {
            Cell::Plain(text) => String::from_utf8_lossy(text).into_owned(),
            Cell::Body(body) => format!("{body:?}"),
        }
    }
}

/// All cells of an engine.
pub fn all_cells(engine: &Engine<TestBody>) -> BTreeMap<Key, Cell> {
    let mut all = BTreeMap::new();
    engine.write_all(&mut |key, content| {
        let before = all.insert(key.clone(), Cell::new(&content));
        assert!(before.is_none(), "{key:?} is written twice");
    });
    all
}

/// The same cells.
fn assert_same(one: &BTreeMap<Key, Cell>, other: &BTreeMap<Key, Cell>, what: &str) {
    for key in one.keys().chain(other.keys()) {
        let same = match (one.get(key), other.get(key)) {
            (Some(one), Some(other)) => one.is(other),
            _ => false,
        };
        let show = |cells: &BTreeMap<Key, Cell>| cells.get(key).map(Cell::show);
        assert!(same, "{what}: {key:?}: {:?}, but {:?}", show(one), show(other));
    }
}

/// Whether some answers of the predecessor did not reach the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Losses {
    /// None.
    None,
    /// Some, to OPEN and OPENDIR.
    Some,
}

impl World {
    /// The engine's changes are written out; with those before they make up its whole state.
    pub fn seal(&mut self) {
        let cells = &mut self.cells;
        self.engine.write_changes(&mut |key, content| {
            match content {
                Some(content) => cells.insert(key.clone(), Cell::new(&content)),
                None => cells.remove(key),
            };
        });
        self.calls += 1;
        if self.calls.is_multiple_of(self.compared_every) {
            assert_same(&self.cells, &all_cells(&self.engine), "the changes are not the state");
        }
    }

    pub fn stored(&self) -> Vec<(Key, Stored<TestBody>)> {
        let stored = |(key, cell): (&Key, &Cell)| {
            let stored = match cell {
                Cell::Plain(text) => Stored::Plain(text.clone()),
                Cell::Body(body) => Stored::Body(body.upgrade().expect("its cell is there")),
            };
            (key.clone(), stored)
        };
        self.cells.iter().map(stored).collect()
    }

    /// The process is killed and a successor goes on, with the same configuration.
    pub fn handover(&mut self) {
        self.hand_over(Losses::None);
    }

    /// As [`World::handover`]; `losses` says whether answers were on their way to the kernel.
    pub fn hand_over(&mut self, losses: Losses) {
        let before = all_cells(&self.engine);
        let status = self.engine.status(self.now);
        let census = self.engine.census();
        let forsaken = self.replace_engine(self.layout.clone());
        assert!(forsaken.is_empty(), "{forsaken:?}");
        let after = all_cells(&self.engine);
        kept_cells_are_the_same(&before, &after);
        for (then, now) in status.files.iter().zip(&self.engine.status(self.now).files) {
            // What was composed and nobody has open is composed again when it is asked for.
            let again = then.path.contains(", ") && now.size.is_none();
            let size = if again { None } else { then.size };
            assert_eq!(
                (&then.name, size, then.version, then.issued, then.expires, &then.lease, then.readers),
                (&now.name, now.size, now.version, now.issued, now.expires, &now.lease, now.readers)
            );
            assert_eq!((then.vanished, then.kind), (now.vanished, now.kind), "{}", then.name);
        }
        let now = self.engine.census();
        assert_eq!((census.names, census.open_files), (now.names, now.open_files));
        self.resend(losses);
    }

    /// As [`World::handover`], with any configuration, and nothing sent again.
    pub fn replace_engine(&mut self, layout: Layout) -> Vec<Forsaken> {
        self.seal();
        let (at, locks) = (self.at(), self.engine.locks().clone());
        let restored = Engine::restore(layout.clone(), Arc::new(self.ledger.clone()), at, self.stored())
            .expect("it was just written");
        let Restored { mut engine, effects, tokens, forsaken } = restored;
        engine.restore_locks(locks);
        self.say(|| "handover".to_owned());
        // What the predecessor had on its way is lost, on the way there or back.
        let mut events = std::mem::take(&mut self.events);
        for event in &mut events {
            if let Step::Arrive { way_back, .. } = &mut event.step {
                *way_back = None;
            }
        }
        events.retain(|event| matches!(event.step, Step::Arrive { .. }) && self.rng.bool());
        self.events = events;
        self.in_flight.clear();
        self.notices.clear();
        let known = std::mem::take(&mut self.tokens);
        let ends = std::mem::take(&mut self.token_ends);
        for (then, now) in tokens {
            self.tokens.insert(now, known[&then]);
            self.token_ends.insert(now, ends[&then]);
        }
        (self.engine, self.layout) = (engine, layout);
        for effect in &effects.list {
            assert!(!matches!(effect, Effect::Read { .. } | Effect::LogIn { .. }), "{effect:?} at once");
        }
        self.take(effects);
        let living: Vec<bool> =
            self.engine.status(self.now).identities.iter().map(|one| one.logged_in).collect();
        let at = self.at();
        let fx = self.engine.start(at);
        for effect in &fx.list {
            match effect {
                Effect::LogIn { identity, .. } => {
                    let is_needed = !living[identity.0 as usize] || self.anew;
                    assert!(is_needed, "{identity:?} has a token and logs in");
                }
                other => panic!("{other:?} at the start"),
            }
        }
        self.take(fx);
        forsaken
    }

    /// The kernel sends again what was not answered, as far as it knows.
    fn resend(&mut self, losses: Losses) {
        let waiting = std::mem::take(&mut self.waiting);
        let lost = |rng: &mut fastrand::Rng| losses == Losses::Some && rng.u8(..8) == 0;
        let unknown: Vec<HandleId> = self.handles.keys().copied().filter(|_| lost(&mut self.rng)).collect();
        for handle in unknown {
            let Some(held) = self.handles.remove(&handle) else { continue };
            let reads = self.engine.read(self.now, handle, Reader::Handle);
            assert_ne!(reads.err(), Some(FsError::BadHandle), "the successor knows it");
            self.open_again(held.who, held.ino, held.request);
            let reads = self.engine.read(self.now, handle, Reader::Handle);
            assert_eq!(reads.err(), Some(FsError::BadHandle), "nobody knows it, and it stays open");
        }
        let unknown: Vec<HandleId> =
            self.directories.keys().copied().filter(|_| lost(&mut self.rng)).collect();
        for handle in unknown {
            let Some((ino, who, request)) = self.directories.remove(&handle) else { continue };
            let _ = self.opendir_as(who, ino, request);
            let add = |_: &str, _, _, _| leasefs::core::engine::Room::Left;
            assert_eq!(self.engine.readdir(handle, 0, add), Err(FsError::BadHandle));
        }
        for waiter in waiting.into_values() {
            match waiter.asked {
                Asked::Open => self.open_again(waiter.who, waiter.ino, waiter.request),
                Asked::Attributes => drop(self.getattr_as(waiter.who, waiter.ino, waiter.request)),
                Asked::Directory => drop(self.opendir_as(waiter.who, waiter.ino, waiter.request)),
                // His connection is broken.
                Asked::Refresh => {}
            }
        }
    }
}

impl World {
    /// An OPEN that comes again: a credential that lives is shown, and no other one is asked for.
    fn open_again(&mut self, who: u8, ino: Ino, request: u64) {
        let path = self.path(ino);
        let status = self.engine.status(self.now);
        let lives = status.files.iter().any(|file| file.name == path && file.lease.is_some());
        let outcome = self.open_as(who, ino, request);
        if lives {
            assert!(matches!(outcome, Outcome::Done(_)), "{path} lives and its open waits");
            assert!(!self.last.iter().any(|effect| matches!(effect, Effect::Read { .. })));
        }
    }
}

/// What is open may name a source that was forgotten before, or had nothing but a read on its way: nothing is shown
/// of it.
fn without_forgotten(before: &BTreeMap<Key, Cell>, key: &Key, cell: &Cell) -> Cell {
    let (Key::Directory(_) | Key::File(_), Cell::Plain(text)) = (key, cell) else { return cell.clone() };
    let mut value: Value = serde_json::from_slice(text).expect("it was just written");
    let is_known = |source: &Value| {
        let id = source.as_u64().and_then(|id| u32::try_from(id).ok());
        id.is_some_and(|id| before.contains_key(&Key::Source(SourceId(id))))
    };
    if !is_known(&value["source"]) {
        value["source"] = Value::Null;
    }
    for entry in value["entries"].as_array_mut().into_iter().flatten() {
        if let Some(source) = entry.pointer_mut("/1/Field/source") {
            *source = Value::Null;
        }
    }
    Cell::Plain(value.to_string().into_bytes())
}

/// Handles, names and bytes are written by the successor as they were by its predecessor.
fn kept_cells_are_the_same(before: &BTreeMap<Key, Cell>, after: &BTreeMap<Key, Cell>) {
    let kept = |cells: &BTreeMap<Key, Cell>| -> BTreeMap<Key, Cell> {
        let kept = cells.iter().filter(|(key, _)| match key {
            Key::Layout
            | Key::Pieces(_)
            | Key::Body { .. }
            | Key::File(_)
            | Key::Directory(_)
            | Key::Name(_)
            | Key::Vanished(_)
            | Key::Stopping => true,
            Key::Numbers
            | Key::Source(_)
            | Key::Identity(_)
            | Key::Token(_)
            | Key::Lease(_)
            | Key::Visitor { .. } => false,
        });
        kept.map(|(key, cell)| (key.clone(), without_forgotten(before, key, cell))).collect()
    };
    assert_same(&kept(before), &kept(after), "the successor has another state");
}

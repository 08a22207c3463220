//! Who has opened which generation, and which one a process gets whose round has not ended (`core/pins.rs`).
//!
//! Only sources of several files, and those whose readers somebody wants to know, remember who opens them; it
//! takes a look at `/proc`. Invariants: *bounded*: no source remembers more than
//! [`PROCESSES`](crate::core::pins::PROCESSES); *a pin keeps nothing from its end*: what is over, revoked, locked,
//! or replaced a second time goes as ever.

use std::collections::{BTreeMap, BTreeSet};

use crate::core::access::{Caller, Opener, Process, ProcessOf};
use crate::core::effect::{Effect, Report};
use crate::core::engine::composing::View;
use crate::core::engine::{Effects, Engine};
use crate::core::generation::{Body, Generation};
use crate::core::name::{GenerationId, Ino, SourceId};
use crate::core::pins::{ALL_PROCESSES, PROCESSES, Pin, Visitor};
use crate::core::policy::Readers;
use crate::core::time::{BootTime, Moment};

/// What an open of one source gets, and what is to be remembered if it succeeds.
pub(super) struct Choice {
    pub(super) source: SourceId,
    pub(super) generation: GenerationId,
    pin: Option<Pin>,
}

/// What is known of pins that have an end, so that they are forgotten in time.
pub(super) type Ends = BTreeSet<(BootTime, SourceId, Process)>;

impl<B: Body> Engine<B> {
    /// Whether it must be known which process opens a file.
    pub(super) fn wants_process(&self, caller: &Caller, view: &View) -> bool {
        caller.process == ProcessOf::Unread
            && caller.thread != 0
            && view.sources.iter().any(|id| self.remembers(id))
    }

    /// Whether it must be known which process asks for the size of a file: some get another one than others.
    pub(super) fn wants_process_to_look(&self, now: BootTime, caller: &Caller, view: &View) -> bool {
        self.wants_process(caller, view) && view.sources.iter().any(|id| self.is_split(now, id))
    }

    /// Whether a program has opened a file whose process could not be seen, though it matters: it got what was
    /// current.
    pub fn openers_are_hidden(&self) -> bool {
        self.openers_are_hidden
    }

    /// Remembers that a process can't be seen.
    pub(super) fn note_hidden(&mut self, view: &View, by: Opener) {
        self.openers_are_hidden |= by.process.is_none() && view.sources.iter().any(|id| self.remembers(id));
    }

    fn remembers(&self, id: SourceId) -> bool {
        self.has_pins(id) || self.remembers_readers(id)
    }

    /// Whether files of a source are to match each other: it has several, or a part in one.
    fn has_pins(&self, id: SourceId) -> bool {
        let Some(source) = self.sources.get(&id) else { return false };
        let several = source.spec.fields || source.nodes.len() > 1;
        !source.spec.policy.pin.is_zero() && several
    }

    fn remembers_readers(&self, id: SourceId) -> bool {
        self.sources.get(&id).is_some_and(|source| source.spec.policy.readers == Readers::Remembered)
    }

    /// Which generations an open gets now; `None` if a source has nothing that lives.
    pub(super) fn choose(&self, now: BootTime, ino: Ino, view: &View, by: Opener) -> Option<Vec<Choice>> {
        view.sources.iter().map(|id| self.choose_one(now, ino, id, by)).collect()
    }

    fn choose_one(&self, now: BootTime, ino: Ino, id: SourceId, by: Opener) -> Option<Choice> {
        let current = self.live(now, id)?.id;
        let plain = Choice { source: id, generation: current, pin: None };
        let Some(process) = by.process.filter(|_| self.has_pins(id)) else { return Some(plain) };
        let before = self.visitors.get(&(id, process)).and_then(|visitor| visitor.pin.as_ref());
        let span = self.sources.get(&id)?.spec.policy.pin;
        let lives = |which| self.lives(now, id, which);
        let (generation, pin) = Pin::open(before, by.thread, ino, current, lives, (now, span));
        Some(Choice { source: id, generation, pin: Some(pin) })
    }

    /// Which generation of a source a caller would get who goes on with its round.
    pub(super) fn kept_for(&self, now: BootTime, id: SourceId, by: Opener) -> Option<&Generation<B>> {
        let pin = self.visitors.get(&(id, by.process?))?.pin.as_ref()?;
        let which = pin.kept(now, by.thread).filter(|which| self.lives(now, id, *which))?;
        self.sources.get(&id)?.generation(which)
    }

    fn lives(&self, now: BootTime, id: SourceId, which: GenerationId) -> bool {
        let generation = self.sources.get(&id).and_then(|source| source.generation(which));
        generation.is_some_and(|one| now < self.end_of(one))
    }

    /// A process has opened a file.
    pub(super) fn note_visit(&mut self, now: BootTime, choice: Choice, by: Opener) {
        let Choice { source, generation, pin } = choice;
        let Some(process) = by.process.filter(|_| self.remembers(source)) else { return };
        self.forget_visitors(now);
        if let Some(pin) = &pin {
            self.pin_ends.insert((pin.until(), source, process));
        }
        let key = (source, process);
        if !self.visitors.contains_key(&key) {
            self.make_room_for_visitor(source);
            self.visitors.insert(key, Visitor::new(now));
        }
        if let Some(visitor) = self.visitors.get_mut(&key) {
            visitor.note(now, generation, pin);
        }
    }

    /// Pins that are over are forgotten, and whom nobody wants to know.
    fn forget_visitors(&mut self, now: BootTime) {
        while let Some((until, source, process)) = self.pin_ends.first().copied().filter(|one| one.0 <= now) {
            self.pin_ends.remove(&(until, source, process));
            let key = (source, process);
            let over = |visitor: &Visitor| visitor.pin.as_ref().is_none_or(|pin| pin.until() <= now);
            if !self.visitors.get(&key).is_some_and(over) {
                continue;
            }
            let is_reader = self.visitors.get(&key).is_some_and(|visitor| !visitor.opened.is_empty());
            if !is_reader || !self.remembers_readers(source) {
                self.visitors.remove(&key);
            } else if let Some(visitor) = self.visitors.get_mut(&key) {
                visitor.pin = None;
            }
        }
    }

    fn visitors_of(&self, id: SourceId) -> impl Iterator<Item = (Process, &Visitor)> {
        let (first, last) = ALL_PROCESSES;
        self.visitors.range((id, first)..=(id, last)).map(|((_, process), visitor)| (*process, visitor))
    }

    fn make_room_for_visitor(&mut self, id: SourceId) {
        if self.visitors_of(id).count() < PROCESSES {
            return;
        }
        let oldest = self.visitors_of(id).min_by_key(|(_, visitor)| visitor.last).map(|(process, _)| process);
        if let Some(process) = oldest {
            self.visitors.remove(&(id, process));
        }
    }

    /// Until when pins keep a generation that opens don't get any more.
    pub(super) fn pinned_until(&self, id: SourceId, which: GenerationId) -> Option<BootTime> {
        self.visitors_of(id).filter_map(|(_, visitor)| visitor.keeps_until(which)).max()
    }

    /// Whether somebody reads a generation, or has not ended a round with it.
    pub(super) fn is_kept(&self, now: BootTime, id: SourceId, one: &Generation<B>) -> bool {
        !one.handles.is_empty() || self.pinned_until(id, one.id).is_some_and(|until| now < until)
    }

    /// Whether opens of a source get different generations, each caller his own.
    pub(super) fn is_split(&self, now: BootTime, id: SourceId) -> bool {
        let previous = self.sources.get(&id).and_then(|source| source.previous.as_ref());
        previous.is_some_and(|one| {
            now < self.end_of(one) && self.pinned_until(id, one.id).is_some_and(|until| now < until)
        })
    }

    /// When what pins alone keep goes.
    pub(super) fn unpin_time(&self, id: SourceId) -> Option<BootTime> {
        let previous = self.sources.get(&id)?.previous.as_ref().filter(|one| one.handles.is_empty())?;
        Some(self.pinned_until(id, previous.id).unwrap_or(BootTime(0)))
    }

    /// What pins alone keep makes room.
    pub(super) fn drop_pinned(&mut self, at: Moment, fx: &mut Effects) {
        let unread = |(id, source): (&SourceId, &crate::core::source::Source<B>)| {
            let previous = source.previous.as_ref().filter(|one| one.handles.is_empty())?;
            Some((*id, previous.id))
        };
        for (id, which) in self.sources.iter().filter_map(unread).collect::<Vec<_>>() {
            self.end_generation(at, id, which, crate::core::effect::End::Replaced, fx);
        }
    }

    /// A newer generation has taken the place of this one: whoever has opened it may want to know.
    pub(super) fn report_rotation(&self, id: SourceId, replaced: GenerationId, fx: &mut Effects) {
        if !self.remembers_readers(id) {
            return;
        }
        let opened = self.visitors_of(id).filter(|(_, visitor)| visitor.opened.contains(&replaced));
        let readers = opened.map(|(process, _)| process).collect();
        fx.push(Effect::Report(Report::Rotated { source: id, readers }));
    }

    /// A generation has ended: nobody is a reader of it any more.
    pub(super) fn forget_readers(&mut self, now: BootTime, id: SourceId, ended: GenerationId) {
        let touched: Vec<Process> = self
            .visitors_of(id)
            .filter(|(_, visitor)| visitor.opened.contains(&ended))
            .map(|(process, _)| process)
            .collect();
        for process in touched {
            let key = (id, process);
            let Some(visitor) = self.visitors.get_mut(&key) else { continue };
            visitor.opened.retain(|one| *one != ended);
            let over = visitor.pin.as_ref().is_none_or(|pin| pin.until() <= now);
            if visitor.opened.is_empty() && over {
                self.visitors.remove(&key);
            }
        }
    }

    /// What a predecessor knew of those who had opened something.
    pub(super) fn restore_visitors(
        &mut self,
        visitors: BTreeMap<(SourceId, Process), Visitor>,
        meaning: &BTreeMap<SourceId, SourceId>,
    ) {
        for ((then, process), visitor) in visitors {
            let Some(id) = meaning.get(&then).copied().filter(|id| self.sources.contains_key(id)) else {
                continue;
            };
            if let Some(pin) = &visitor.pin {
                self.pin_ends.insert((pin.until(), id, process));
            }
            self.visitors.insert((id, process), visitor);
        }
    }
}

//! What becomes of a secret that has come: it is shown from now on, taken for the one that is shown already,
//! or refused; and the room that it needs.
//!
//! Invariants: all files of a source change in one step; never more than two generations of it; never more
//! bytes than `max-memory`.

use std::time::Duration;

use crate::core::effect::{Credential, Effect, End, Report};
use crate::core::engine::late::REPLACING_SHOWN;
use crate::core::engine::{Effects, Engine};
use crate::core::error::{Failure, Fault};
use crate::core::generation::{Body, Fetched, FetchedKind, Generation, Piece, Validity};
use crate::core::name::{GenerationId, Ino, SourceId};
use crate::core::policy::Renew;
use crate::core::time::{BootTime, Moment};

/// What is said of a secret that can't be shown any more.
const CAME_TOO_LATE: &str = "what Vault gave out was over before it arrived: ask for longer leases or tokens";

/// What became of a secret that has come.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is shown, or can't be.
    Settled,
    /// It is worth another try, if this was not one already: its token was over before it arrived, or what costs
    /// nothing to read was so long on its way that it is too old.
    CameTooLate,
}

impl<B: Body> Engine<B> {
    pub(super) fn take_secret(
        &mut self,
        at: Moment,
        id: SourceId,
        with: Credential,
        fetched: Fetched<B>,
        fx: &mut Effects,
    ) -> Taken {
        let generation_id = GenerationId(self.fresh_id());
        let leases = self.settings.leases;
        let Some(source) = self.sources.get_mut(&id) else { return Taken::Settled };
        let (from_kv, sent) = (matches!(fetched.kind, FetchedKind::Kv { .. }), fetched.sent);
        let mut generation =
            Generation::new(generation_id, with, fetched, &source.spec.policy, &leases, at.chance);
        source.mints = Some(!generation.is_free());
        source.free_elsewhere = generation.is_free() && !from_kv;
        if let Some(lease) = generation.lease_mut() {
            source.lease_duration = lease.duration;
            lease.expires = at.now + lease.duration;
        }
        let mut not_before = BootTime(0);
        if let Validity::Static { fresh_until, ends } = &mut generation.validity {
            if at.now < *ends {
                source.replacing_since = None;
                source.lease_duration = source.lease_duration.max(ends.since(sent));
            } else {
                // Vault does not get on with it: the longer, the less often it is asked.
                let since = source.replacing_since.unwrap_or(at.now);
                not_before = at.now + (at.now.since(since) / 4).min(Duration::from_secs(30));
                let shown = sent + REPLACING_SHOWN;
                (*fresh_until, *ends, generation.end) = (shown, shown, shown);
            }
        }
        let end = self.end_of(&generation);
        // A token that was lost meanwhile says nothing of how long the next one lets a lease live.
        if let Some(source) = self.sources.get_mut(&id)
            && let Some(lease) = generation.lease()
            && end > lease.granted
        {
            source.usable = end.since(lease.granted).min(lease.duration);
        }
        if at.now >= end {
            let source = self.sources.get(&id);
            let twice_in_a_row = source.is_some_and(|source| {
                source.failure.as_ref().is_some_and(|known| known.reason == CAME_TOO_LATE)
            });
            let waited_for = source.is_some_and(|source| !source.waiters.is_empty());
            let came_too_late =
                !twice_in_a_row && (at.now < generation.end || (generation.is_free() && waited_for));
            self.reject(at, id, generation, Failure::new(Fault::Unusable, CAME_TOO_LATE), fx);
            return if came_too_late { Taken::CameTooLate } else { Taken::Settled };
        }
        let current = self.sources.get(&id).and_then(|source| source.current.as_ref());
        let unchanged = current
            .is_some_and(|current| at.now < self.end_of(current) && current.shows_the_same(&generation));
        if unchanged {
            self.extend(id, generation, fx);
        } else if self.make_room_for(at, id, generation.bytes, fx) {
            self.publish(at, id, generation, fx);
        } else {
            let reason = format!(
                "no memory left under max-memory ({} bytes): raise it, or show fewer files",
                self.settings.max_memory
            );
            self.reject(at, id, generation, Failure::new(Fault::OutOfMemory, reason), fx);
            return Taken::Settled;
        }
        self.move_source(at, id, fx);
        if let Some(source) = self.sources.get_mut(&id) {
            source.failure = None;
            source.renewal_failure = None;
            source.failures = 0;
            source.not_before = not_before;
        }
        Taken::Settled
    }

    /// A result that can't be shown: its lease is given back.
    fn reject(
        &mut self,
        at: Moment,
        id: SourceId,
        generation: Generation<B>,
        failure: Failure,
        fx: &mut Effects,
    ) {
        if let Validity::Leased(lease) = generation.validity {
            self.retire(at, id, lease.id, generation.with, lease.expires, fx);
        }
        self.fail(at, id, failure, fx);
    }

    /// The same secret as before: its time goes on, its bytes and its `mtime` stay.
    fn extend(&mut self, id: SourceId, newer: Generation<B>, fx: &mut Effects) {
        let Some(source) = self.sources.get_mut(&id) else { return };
        let Some(current) = &mut source.current else { return };
        current.validity = newer.validity;
        current.end = newer.end;
        current.ask = newer.ask;
        current.with = newer.with;
        self.drop_unused_tokens(newer.with.identity, fx);
    }

    /// A new generation for all files of the source, in one step.
    fn publish(&mut self, at: Moment, id: SourceId, generation: Generation<B>, fx: &mut Effects) {
        let Some(source) = self.sources.get(&id) else { return };
        let rotated = source.current.as_ref().map(|one| one.id);
        if let Some(replaced) = rotated {
            self.report_rotation(id, replaced, fx);
        }
        let shown: Vec<Ino> =
            source.nodes.iter().copied().filter(|ino| !self.vanished.contains_key(ino)).collect();
        // What nobody has open goes; of two that are open, the older one.
        let older = source.previous.as_ref().map(|one| one.id);
        let replaced = source.current.as_ref();
        match replaced.map(|one| (one.id, self.is_over(at.now, one), !self.is_kept(at.now, id, one))) {
            Some((which, Some(over), _)) => self.end_generation(at, id, which, over, fx),
            Some((which, None, true)) => self.end_generation(at, id, which, End::Replaced, fx),
            Some((_, None, false)) => {
                if let Some(older) = older {
                    self.end_generation(at, id, older, End::Replaced, fx);
                }
            }
            None => {}
        }
        let end = self.end_of(&generation);
        let lease = generation.lease().map(|lease| lease.id.clone());
        let Some(source) = self.sources.get_mut(&id) else { return };
        self.memory += generation.bytes;
        let is_replaced = source.current.is_some();
        if let Some(mut replaced) = source.current.take() {
            match replaced.validity {
                Validity::Kv { .. } => {
                    replaced.end = replaced.end.min(at.now + source.spec.policy.grace);
                }
                // Its password is dead.
                Validity::Static { .. } => replaced.end = replaced.end.min(at.now),
                Validity::Leased(_) | Validity::Fixed { .. } => {}
            }
            source.previous = Some(replaced);
        }
        source.current = Some(generation);
        // Names that its end took away just now stay; those that were gone come back by a refresh alone.
        for ino in shown {
            self.vanished.remove(&ino);
        }
        if is_replaced {
            self.invalidate(id, fx);
        } else {
            self.invalidate_sizes(at.now, id, fx);
        }
        self.drop_outdated_of(id);
        fx.push(Effect::Report(Report::Published { source: id, lease, end }));
        self.report_bodies(id, fx);
    }

    /// A declared file that can't be rendered is the operator's business, though its secret is there.
    fn report_bodies(&self, id: SourceId, fx: &mut Effects) {
        let Some(source) = self.sources.get(&id) else { return };
        let bodies = source.current.iter().flat_map(|one| &one.bodies);
        for failure in bodies.filter_map(|(piece, body)| match piece {
            Piece::File(_) => body.as_ref().err(),
            Piece::Field(_) | Piece::Values => None,
        }) {
            let (path, declared) = (source.spec.request.path.clone(), source.declared);
            let failure = failure.clone();
            fx.push(Effect::Report(Report::FetchFailed { source: id, path, declared, failure }));
        }
    }

    /// As [`Engine::make_room`], for a generation of this source: what it replaces goes in any case.
    fn make_room_for(&mut self, at: Moment, id: SourceId, bytes: u64, fx: &mut Effects) -> bool {
        let Some(source) = self.sources.get(&id) else { return false };
        // As `publish` chooses it.
        let goes = match &source.current {
            Some(current)
                if !self.is_kept(at.now, id, current) || self.is_over(at.now, current).is_some() =>
            {
                current.bytes
            }
            Some(_) => source.previous.as_ref().map_or(0, |one| one.bytes),
            None => 0,
        };
        let more = bytes.saturating_sub(goes);
        self.make_room(at, &[id], more, fx)
    }

    /// Makes room for `bytes` more: the least recently opened KV secrets without handles go first.
    /// Returns whether there is room now.
    pub(super) fn make_room(&mut self, at: Moment, keep: &[SourceId], bytes: u64, fx: &mut Effects) -> bool {
        if bytes > self.settings.max_memory {
            return false;
        }
        if self.memory + bytes > self.settings.max_memory {
            self.drop_old_lists(at.now);
            self.drop_unopened();
        }
        if self.memory + bytes > self.settings.max_memory {
            self.drop_pinned(at, fx);
        }
        while self.memory + bytes > self.settings.max_memory {
            let oldest = self
                .sources
                .iter()
                .filter(|(id, _)| !keep.contains(id))
                .filter_map(|(id, source)| {
                    let current = source.current.as_ref()?;
                    let kept = source.spec.policy.renew == Renew::Required;
                    let evictable = current.is_free() && current.handles.is_empty() && !kept;
                    evictable.then_some((source.last_open, *id, current.id))
                })
                .min();
            match oldest {
                Some((_, id, which)) => self.end_generation(at, id, which, End::Evicted, fx),
                None => return false,
            }
        }
        true
    }
}

//! A successor reads back what a predecessor wrote, and goes on from there, be it with another configuration.
//!
//! Nothing is matched by its number: a source goes by its identity and what it reads, a file by its name, an
//! identity by its label. What was in flight is due again; only a read that may have minted is not, and is told
//! of. Invariants:
//! - *whole generations*: one of which a file would show something else, or nothing, ends and is given back;
//! - *nothing is forgotten*: each lease goes on, is given back, or is in [`Restored::forsaken`];
//! - *every number resolves*: a handle of what is gone stays, and its reads fail.

mod cells;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::core::compose::Compose;
use crate::core::effect::{Change, Credential, Effect, Report};
use crate::core::engine::leases::{Retiring, Revocation};
use crate::core::engine::restoring::cells::{Cells, Meanings};
use crate::core::engine::wakes::WakeKey;
use crate::core::engine::{Effects, Engine, Layout, locking};
use crate::core::error::Failure;
use crate::core::generation::{Body, Generation, LookUp, Next, Piece, Validity};
use crate::core::identity::{Identity, LoginState, LostLogin, TokenNext};
use crate::core::name::{GenerationId, IdentityId, Ino, LeaseId, SourceId};
use crate::core::source::{Source, SourceSpec};
use crate::core::sources::Sources;
use crate::core::state::{
    Forsaken, GenerationCell, IdentityCell, Key, RestoreError, Restored, SourceCell, Stored,
};
use crate::core::time::{BootTime, Moment};
use crate::core::tree::Node;

/// Stands for a source that nothing shows any more.
pub(super) const NO_SOURCE: SourceId = SourceId(u32::MAX);

/// The bytes of a generation's files, or why there are none.
type Bodies<B> = BTreeMap<Piece, Result<Arc<B>, Failure>>;

impl<B: Body> Engine<B> {
    /// The engine that a predecessor's cells describe, with this layout. Cells of tokens need not be among them.
    ///
    /// # Errors
    /// [`RestoreError`]: a cell that can't be read, or that is missing; or two names of the layout clash.
    pub fn restore(
        layout: Layout,
        composer: Arc<dyn Compose<B>>,
        at: Moment,
        cells: impl IntoIterator<Item = (Key, Stored<B>)>,
    ) -> Result<Restored<B>, RestoreError> {
        let mut cells = Cells::new(cells)?;
        let mut engine = Engine::new(layout, composer)?;
        let mut known = Meanings::new(&cells.layout, engine.sealing.layout());
        engine.stopping = cells.stopping;
        engine.last_id = cells.last_id();
        engine.last_source = cells.numbers.source;
        engine.handles.restore_number(cells.numbers.handles);
        let believed = cells.layout.list_max_age.max(engine.settings.list_max_age);
        engine.unlisted_until = at.now + believed;
        let (parts, effects) = engine.run(at, |engine, fx| {
            let (tokens, mut forsaken) = engine.restore_identities(at, &cells, &known, fx);
            engine.restore_sources(at, &mut cells, &mut known, &mut forsaken, fx)?;
            engine.restore_leases(at, &mut cells, &known, &mut forsaken);
            engine.restore_names(&mut cells, &known);
            engine.restore_handles(at, &mut cells, &known, fx);
            engine.restore_visitors(std::mem::take(&mut cells.visitors), &known.sources);
            engine.settle_restored(at, fx);
            engine.forget_in_kernel(&cells, fx);
            Ok::<_, RestoreError>((tokens, forsaken))
        });
        let (tokens, forsaken) = parts?;
        let mut keys = BTreeSet::new();
        engine.write_all(&mut |key, _| {
            keys.insert(key.clone());
        });
        let stale = cells.keys.into_iter().filter(|key| !keys.contains(key)).collect();
        engine.sealing.note_stale(stale);
        engine.follow();
        Ok(Restored { engine, effects, tokens, forsaken: forsaken.into_values().collect() })
    }

    /// Identities that are still there, with their tokens. Returns those tokens, and those of the others.
    fn restore_identities(
        &mut self,
        at: Moment,
        cells: &Cells<B>,
        known: &Meanings,
        fx: &mut Effects,
    ) -> (BTreeMap<Credential, Credential>, BTreeMap<Credential, Forsaken>) {
        let (mut tokens, mut forsaken) = (BTreeMap::new(), BTreeMap::new());
        for (then, cell) in &cells.identities {
            let lost = matches!(*cell.login, LoginState::InFlight(_)) && !cells.layout.given.contains(then);
            if let Some(now) = known.identities.get(then) {
                for token in cell.tokens.iter() {
                    let (then, now) = (*then, *now);
                    tokens.insert(
                        Credential { identity: then, token: token.id },
                        Credential { identity: now, token: token.id },
                    );
                }
                *self.identity_mut(*now) = restored_identity(at.now, *now, cell);
                if lost {
                    let lost = LostLogin { found: at.now, expires: None };
                    self.identity_mut(*now).lost_logins.push(lost);
                    fx.push(Effect::Report(Report::LoginLost { identity: Some(*now) }));
                }
                self.touch_identity(*now);
                continue;
            }
            if lost {
                fx.push(Effect::Report(Report::LoginLost { identity: None }));
            }
            let living: Vec<_> = cell.tokens.iter().filter(|token| at.now < token.expires).collect();
            for token in &living {
                let with = Credential { identity: *then, token: token.id };
                let (ours, expires) = (token.ours, token.expires);
                forsaken.insert(with, Forsaken { with, ours, expires, leases: Vec::new() });
            }
            if !living.is_empty() {
                let label = cells.layout.identities.get(then.0 as usize).cloned().unwrap_or_default();
                fx.push(Effect::Report(Report::IdentityGone { label, tokens: living.len() }));
            }
        }
        (tokens, forsaken)
    }

    /// Sources that are still shown, with what they have; the others' leases are given back.
    fn restore_sources(
        &mut self,
        at: Moment,
        cells: &mut Cells<B>,
        known: &mut Meanings,
        forsaken: &mut BTreeMap<Credential, Forsaken>,
        fx: &mut Effects,
    ) -> Result<(), RestoreError> {
        let mut stored = std::mem::take(&mut cells.sources);
        // First those that keep their number, so that no other one is given it.
        let declared = self.sources.len();
        let keeps = |id: &SourceId| id.0 as usize >= declared;
        let (keeping, others): (Vec<SourceId>, Vec<SourceId>) = stored.keys().copied().partition(keeps);
        for then in keeping.into_iter().chain(others) {
            let Some(mut cell) = stored.remove(&then) else { continue };
            if let Some(with) = cell.minting {
                self.report_possibly_lost(cells, &cell, with, fx);
            }
            let generations = [cell.current.take(), cell.previous.take()];
            let Some(identity) = known.identities.get(&cell.identity).copied() else {
                for generation in generations.into_iter().flatten() {
                    let lease = lease_of(&generation.validity);
                    if let (Some(one), Some(lease)) = (forsaken.get_mut(&generation.with), &lease) {
                        one.leases.push(lease.clone());
                    }
                    report_dropped(&cell, lease, Change::IdentityGone, fx);
                }
                continue;
            };
            let Some(now) = self.restored_source(then, keeps(&then), identity, &cell) else {
                for generation in generations.into_iter().flatten() {
                    self.drop_stored(at, NO_SOURCE, identity, &cell, generation, Change::SourceGone, fx);
                }
                continue;
            };
            known.sources.insert(then, now);
            let [current, previous] = generations;
            if let Some(source) = self.sources.get_mut(&now) {
                take_over(source, &cell);
            }
            if let Some(generation) = previous {
                self.restore_generation(
                    at,
                    cells,
                    known,
                    now,
                    identity,
                    &cell,
                    generation,
                    Rank::Previous,
                    fx,
                )?;
            }
            if let Some(generation) = current {
                self.restore_generation(
                    at,
                    cells,
                    known,
                    now,
                    identity,
                    &cell,
                    generation,
                    Rank::Current,
                    fx,
                )?;
            }
            self.touch_source(now);
        }
        Ok(())
    }

    fn report_possibly_lost(
        &self,
        cells: &Cells<B>,
        cell: &SourceCell<'_>,
        with: Credential,
        fx: &mut Effects,
    ) {
        let tokens = cells.identities.get(&with.identity).map(|identity| identity.tokens.iter());
        if let Some(token) = tokens.into_iter().flatten().find(|token| token.id == with.token) {
            let (path, end) = (cell.read.path.clone(), token.expires);
            fx.push(Effect::Report(Report::PossiblyLost { path, end }));
        }
    }

    /// Which source reads this now: a declared one, or one that a tree shows.
    fn restored_source(
        &mut self,
        then: SourceId,
        keeps_number: bool,
        identity: IdentityId,
        cell: &SourceCell<'_>,
    ) -> Option<SourceId> {
        let request = cell.read.clone().into_owned();
        if let Some(id) = self.by_read.get(&(identity, request.clone())) {
            return Some(*id);
        }
        let tree = self.trees.iter().find_map(|tree| {
            let spec = SourceSpec { identity, request: request.clone(), policy: tree.policy, fields: true };
            locking::directory_in(tree, &spec).is_some().then_some(spec)
        })?;
        if keeps_number && !self.sources.contains_key(&then) {
            self.by_read.insert((identity, request), then);
            self.sources.insert(then, Source::new(tree, false));
            return Some(then);
        }
        Some(self.source_for(tree))
    }

    #[expect(clippy::too_many_arguments, reason = "it is what is known of a stored generation")]
    fn restore_generation(
        &mut self,
        at: Moment,
        cells: &mut Cells<B>,
        known: &Meanings,
        id: SourceId,
        identity: IdentityId,
        cell: &SourceCell<'_>,
        stored: GenerationCell<'static>,
        rank: Rank,
        fx: &mut Effects,
    ) -> Result<(), RestoreError> {
        let which = stored.id;
        let (bodies, numbering) = match self.restored_bodies(cells, known, id, which)? {
            Ok(bodies) => bodies,
            Err(why) => {
                self.drop_stored(at, id, identity, cell, stored, why, fx);
                return Ok(());
            }
        };
        let pieces = bodies.len() as u32;
        let is_complete = self.is_complete(id, cell.fields, &bodies);
        let generation = restored_generation(at.now, identity, stored, bodies);
        if numbering == Numbering::Same {
            self.sealing.note_bodies(id, which, pieces);
        }
        self.memory += generation.bytes;
        let Some(source) = self.sources.get_mut(&id) else { return Ok(()) };
        match rank {
            Rank::Current if is_complete => source.current = Some(generation),
            Rank::Previous => source.previous = Some(generation),
            Rank::Current => {
                // Who has it open goes on reading; who opens the new file must get it.
                let older = source.previous.replace(generation);
                let path = cell.read.path.clone();
                fx.push(Effect::Report(Report::Dropped { path, lease: None, why: Change::FileAdded }));
                if let Some(older) = older {
                    self.memory -= older.bytes;
                    if let Validity::Leased(lease) = older.validity {
                        self.retire(at, id, lease.id, older.with, lease.expires, fx);
                    }
                }
            }
        }
        Ok(())
    }

    /// The bytes of a stored generation, each under what shows it now.
    ///
    /// # Errors
    /// A cell is missing. Inside: what has changed so that not all of them can be shown.
    fn restored_bodies(
        &self,
        cells: &mut Cells<B>,
        known: &Meanings,
        id: SourceId,
        which: GenerationId,
    ) -> Result<Result<(Bodies<B>, Numbering), Change>, RestoreError> {
        let key = Key::Pieces(which);
        let pieces = cells.pieces.remove(&which).ok_or(RestoreError::Missing(key))?;
        let (mut bodies, mut numbering) = (Bodies::new(), Numbering::Same);
        for (number, cell) in pieces.into_iter().enumerate() {
            let piece = match cell.piece.into_owned() {
                Piece::File(then) => match known.files.get(&then) {
                    Some(now) if self.files[now.id.0 as usize].sources != Sources::one(id) => {
                        return Ok(Err(Change::FileGone));
                    }
                    Some(now) if !now.same => return Ok(Err(Change::Rendering)),
                    Some(now) => {
                        if now.id != then {
                            numbering = Numbering::Other;
                        }
                        Piece::File(now.id)
                    }
                    None => return Ok(Err(Change::FileGone)),
                },
                Piece::Field(_) if !self.sources.get(&id).is_some_and(|one| one.spec.fields) => {
                    return Ok(Err(Change::FileGone));
                }
                // They can be shown in any way; what is composed of them is no business of the generation.
                Piece::Values if !self.needs_values(id) => {
                    numbering = Numbering::Other;
                    continue;
                }
                piece @ (Piece::Field(_) | Piece::Values) => piece,
            };
            let body = match cell.failure {
                Some(failure) => Err(failure.into_owned()),
                None => {
                    let key = (which, number as u32);
                    let missing = Key::Body { generation: which, piece: key.1 };
                    Ok(cells.bodies.remove(&key).ok_or(RestoreError::Missing(missing))?)
                }
            };
            bodies.insert(piece, body);
        }
        Ok(Ok((bodies, numbering)))
    }

    /// Whether a generation has what every declared file of its source shows, and every field where a directory
    /// shows those.
    fn is_complete(&self, id: SourceId, had_fields: bool, bodies: &Bodies<B>) -> bool {
        let Some(source) = self.sources.get(&id) else { return true };
        let has = |ino: &Ino| match self.tree.slot(*ino).map(|slot| &slot.node) {
            Some(Node::File(file)) if self.files[file.0 as usize].sources.are_several() => {
                bodies.contains_key(&Piece::Values)
            }
            Some(Node::File(file)) => bodies.contains_key(&Piece::File(*file)),
            Some(Node::Directory | Node::Field(_) | Node::FieldDirectory(_) | Node::TreeDirectory(_))
            | None => true,
        };
        (had_fields || !source.spec.fields) && source.nodes.iter().all(has)
    }

    /// A stored generation that is not shown any more.
    #[expect(clippy::too_many_arguments, reason = "it is what is known of a stored generation")]
    fn drop_stored(
        &mut self,
        at: Moment,
        id: SourceId,
        identity: IdentityId,
        cell: &SourceCell<'_>,
        stored: GenerationCell<'_>,
        why: Change,
        fx: &mut Effects,
    ) {
        report_dropped(cell, lease_of(&stored.validity), why, fx);
        if let Validity::Leased(lease) = stored.validity.into_owned() {
            let with = Credential { identity, ..stored.with };
            self.retire(at, id, lease.id, with, lease.expires, fx);
        }
    }

    /// Leases that were being given back.
    fn restore_leases(
        &mut self,
        at: Moment,
        cells: &mut Cells<B>,
        known: &Meanings,
        forsaken: &mut BTreeMap<Credential, Forsaken>,
    ) {
        for (lease, mut one) in std::mem::take(&mut cells.leases) {
            let Some(identity) = known.identities.get(&one.with.identity) else {
                if let Some(forsaken) = forsaken.get_mut(&one.with) {
                    forsaken.leases.push(lease);
                }
                continue;
            };
            one.with.identity = *identity;
            one.source = known.sources.get(&one.source).copied().unwrap_or(NO_SOURCE);
            if one.state == Revocation::InFlight {
                one.state = Revocation::Again(at.now);
            }
            self.wakes.touch(WakeKey::Lease(lease.clone()));
            self.retiring.insert(lease, Retiring { ..one });
        }
    }

    /// What has no use with this layout goes, and what is due has its wake.
    fn settle_restored(&mut self, at: Moment, fx: &mut Effects) {
        for id in self.sources.keys().copied().collect::<Vec<_>>() {
            self.end_unread(at, id, fx);
            self.touch_source(id);
            self.drop_if_idle(id);
        }
        for index in 0..self.identities.len() {
            let id = IdentityId(index as u32);
            self.drop_unused_tokens(id, fx);
            self.touch_identity(id);
        }
        // There may be less room than there was.
        self.make_room(at, &[], 0, fx);
    }
}

/// Whether a generation is what opens get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rank {
    Current,
    Previous,
}

/// Whether a generation's files have the numbers that they are stored under. If not, it is written anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Numbering {
    Same,
    Other,
}

fn restored_identity(now: BootTime, id: IdentityId, cell: &IdentityCell<'_>) -> Identity {
    let mut identity = Identity::new(id);
    identity.tokens = cell.tokens.to_vec();
    for token in &mut identity.tokens {
        if let TokenNext::Renewing(_) = token.next {
            token.next = TokenNext::Renew(now);
        }
    }
    identity.login = match cell.login.as_ref() {
        // Its token, should there be one, is nobody's, and is told of. A login is due again by whatever wanted it.
        LoginState::InFlight(_) => LoginState::Idle,
        other => other.clone(),
    };
    identity.failed_logins = cell.failed_logins;
    identity.last_fault = cell.last_fault;
    identity.anew = cell.anew;
    identity.lost_logins = cell.lost_logins.to_vec();
    identity.lost_logins.retain(|lost| lost.may_live(now));
    identity
}

fn take_over<B>(source: &mut Source<B>, cell: &SourceCell<'_>) {
    source.last_open = cell.last_open;
    source.failure = cell.failure.as_deref().cloned();
    source.renewal_failure = cell.renewal_failure.as_deref().cloned();
    source.mints = cell.mints;
    source.upkeep_mints = cell.upkeep_mints;
    source.reader_mints = cell.reader_mints;
    source.free_elsewhere = cell.free_elsewhere;
    source.replacing_since = cell.replacing_since;
    source.lease_duration = cell.lease_duration;
    source.usable = cell.usable;
    source.failures = cell.failures;
    source.not_before = cell.not_before;
}

fn restored_generation<B: Body>(
    now: BootTime,
    identity: IdentityId,
    stored: GenerationCell<'_>,
    bodies: Bodies<B>,
) -> Generation<B> {
    let GenerationCell { id, with, issued, validity, end, ask } = stored;
    let mut validity = validity.into_owned();
    if let Validity::Leased(lease) = &mut validity {
        // It may have been granted: `expires` stays the latest end that is possible.
        if let Next::Renewing { .. } = lease.next {
            lease.next = Next::Renew { at: now };
        }
        if let LookUp::InFlight(_) = lease.look_up {
            lease.look_up = LookUp::At(now);
        }
    }
    let bytes = bodies.values().flatten().map(|body| body.size()).sum();
    let with = Credential { identity, ..with };
    Generation { id, with, issued, validity, end, ask, bodies, bytes, handles: BTreeSet::new() }
}

fn lease_of(validity: &Validity) -> Option<LeaseId> {
    match validity {
        Validity::Leased(lease) => Some(lease.id.clone()),
        Validity::Kv { .. } | Validity::Static { .. } | Validity::Fixed { .. } => None,
    }
}

fn report_dropped(cell: &SourceCell<'_>, lease: Option<LeaseId>, why: Change, fx: &mut Effects) {
    let path = cell.read.path.clone();
    fx.push(Effect::Report(Report::Dropped { path, lease, why }));
}

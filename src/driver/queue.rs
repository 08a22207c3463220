//! Who may send a request now: places, and who waits for one. Pure: no waiting, no clock.
//!
//! Invariants: of each identity at most 16 requests are under way, 14 of them at most are no renewals, 8 at most
//! go to KV, two at most mint per engine (a database makes accounts no faster in parallel): whatever becomes of
//! the requests of one, those of another have their places. A free place goes to the most urgent of those who can
//! use it, and among equals to who came first. Who waits holds nothing.
//!
//! Nobody starves: whoever waits longest is overtaken by at most [`OVERTAKINGS`] others in a row and then
//! comes next. After an outage what nobody waits for is let in slowly at first: [`Queue::slow_down`].

use std::collections::{BTreeMap, BTreeSet};

use crate::core::effect::Urgency;
use crate::core::name::IdentityId;

/// Requests under way at most.
const IN_ALL: usize = 16;
/// Of these, how many others than renewals.
const NO_RENEWALS: usize = 14;
/// Of these, how many to KV.
const KV: usize = 8;
/// Of these, how many that mint, per engine.
const MINTING: usize = 2;
/// How many may be served in a row before who waits longest.
const OVERTAKINGS: u32 = 8;
/// How many steps it takes until what nobody waits for is let in without a limit.
const RAMP: u32 = 90;
/// How many of them the first step lets in; twice as many every [`DOUBLED_AFTER`] steps.
const FIRST_STEP: u32 = 2;
/// See [`FIRST_STEP`].
const DOUBLED_AFTER: u32 = 10;

/// An engine, as one identity sees it: where it is mounted, in which namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mount {
    pub identity: IdentityId,
    pub namespace: Option<String>,
    pub path: String,
}

/// What kind of request it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    /// Reads and lists of KV.
    Kv,
    /// Reads that may mint, of one engine.
    Mint(Mount),
    /// Everything about leases, tokens and mounts.
    Upkeep,
}

/// One who came for a place; later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Entry(u64);

/// Whether what nobody waits for is let in slowly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Pace {
    /// No.
    #[default]
    Free,
    /// At this step of the ramp; so many may still start in it.
    Ramp { step: u32, left: u32 },
}

/// The places and the queues before them.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Never more than [`IN_ALL`] of each.
    busy: BTreeMap<IdentityId, Vec<(Entry, Lane, Urgency)>>,
    waiting: BTreeMap<(Urgency, IdentityId, Lane), BTreeSet<Entry>>,
    last: u64,
    overtakings: u32,
    pace: Pace,
}

impl Queue {
    /// Someone comes; a place is theirs once [`Queue::grant`] says so.
    pub fn enter(&mut self, identity: IdentityId, lane: Lane, urgency: Urgency) -> Entry {
        self.last += 1;
        let entry = Entry(self.last);
        self.waiting.entry((urgency, identity, lane)).or_default().insert(entry);
        entry
    }

    /// Someone is done, or waits no longer.
    pub fn leave(&mut self, entry: Entry) {
        self.busy.retain(|_, entries| {
            entries.retain(|(one, ..)| *one != entry);
            !entries.is_empty()
        });
        self.waiting.retain(|_, entries| {
            entries.remove(&entry);
            !entries.is_empty()
        });
    }

    /// The next who may start; to be called until there is none.
    pub fn grant(&mut self) -> Option<Entry> {
        let startable = self
            .waiting
            .iter()
            .filter(|((urgency, identity, lane), _)| self.has_room(*identity, lane, *urgency));
        let heads = startable.filter_map(|(queue, entries)| Some((*entries.first()?, queue)));
        let heads: Vec<(Entry, &(Urgency, IdentityId, Lane))> = heads.collect();
        let longest = heads.iter().min_by_key(|(entry, _)| *entry)?;
        let most_urgent = heads.iter().min_by_key(|(entry, queue)| (queue.0, *entry))?;
        let chosen = if self.overtakings >= OVERTAKINGS { longest } else { most_urgent };
        let overtakings = if chosen.0 == longest.0 { 0 } else { self.overtakings + 1 };
        let (entry, queue) = (chosen.0, chosen.1.clone());
        self.overtakings = overtakings;
        if let (Urgency::Background, Pace::Ramp { left, .. }) = (queue.0, &mut self.pace) {
            *left = left.saturating_sub(1);
        }
        if let Some(entries) = self.waiting.get_mut(&queue) {
            entries.remove(&entry);
            if entries.is_empty() {
                self.waiting.remove(&queue);
            }
        }
        let (urgency, identity, lane) = queue;
        self.busy.entry(identity).or_default().push((entry, lane, urgency));
        Some(entry)
    }

    /// All who wait are sent away.
    pub fn dismiss(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.waiting).into_values().flatten().collect()
    }

    /// From now on what nobody waits for is let in slowly, and faster with each [`Queue::step`]. Returns
    /// whether these steps must be started.
    pub fn slow_down(&mut self) -> Start {
        let start = if self.pace == Pace::Free { Start::Needed } else { Start::UnderWay };
        self.pace = Pace::Ramp { step: 0, left: FIRST_STEP };
        start
    }

    /// A step of the ramp. Returns whether there is another one.
    pub fn step(&mut self) -> Ramp {
        self.pace = match self.pace {
            Pace::Ramp { step, .. } if step + 1 < RAMP => {
                Pace::Ramp { step: step + 1, left: FIRST_STEP << ((step + 1) / DOUBLED_AFTER) }
            }
            Pace::Ramp { .. } | Pace::Free => Pace::Free,
        };
        if self.pace == Pace::Free { Ramp::Over } else { Ramp::GoesOn }
    }

    fn has_room(&self, identity: IdentityId, lane: &Lane, urgency: Urgency) -> bool {
        let all = self.busy.get(&identity).map_or(&[][..], Vec::as_slice);
        let busy =
            |which: &dyn Fn(&(Entry, Lane, Urgency)) -> bool| all.iter().filter(|one| which(one)).count();
        let in_lane = busy(&|(_, one, _)| one == lane);
        let lane_has_room = match lane {
            Lane::Kv => in_lane < KV,
            Lane::Mint(_) => in_lane < MINTING,
            Lane::Upkeep => true,
        };
        let urgency_has_room = match (urgency, self.pace) {
            (Urgency::Renewal, _) => true,
            (Urgency::Background, Pace::Ramp { left: 0, .. }) => false,
            (Urgency::Reader | Urgency::Background, _) => {
                busy(&|(_, _, one)| *one != Urgency::Renewal) < NO_RENEWALS
            }
        };
        all.len() < IN_ALL && lane_has_room && urgency_has_room
    }
}

/// Whether somebody must call [`Queue::step`] from now on.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    Needed,
    UnderWay,
}

/// Whether the ramp has come to its end.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ramp {
    GoesOn,
    Over,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IdentityId = IdentityId(1);
    const OTHER: IdentityId = IdentityId(2);

    fn mint(path: &str) -> Lane {
        Lane::Mint(Mount { identity: ONE, namespace: None, path: path.to_owned() })
    }

    fn enter_many(queue: &mut Queue, count: usize, lane: &Lane, urgency: Urgency) -> Vec<Entry> {
        (0..count).map(|_| queue.enter(ONE, lane.clone(), urgency)).collect()
    }

    fn grants(queue: &mut Queue) -> Vec<Entry> {
        std::iter::from_fn(|| queue.grant()).collect()
    }

    #[test]
    fn each_kind_has_its_limit_and_two_places_are_kept_for_renewals() {
        let mut queue = Queue::default();
        enter_many(&mut queue, 20, &Lane::Kv, Urgency::Reader);
        assert_eq!(grants(&mut queue).len(), 8, "KV");
        for path in ["a", "b"] {
            enter_many(&mut queue, 5, &mint(path), Urgency::Reader);
            assert_eq!(grants(&mut queue).len(), 2, "minting at {path}");
        }
        enter_many(&mut queue, 9, &Lane::Upkeep, Urgency::Background);
        assert_eq!(grants(&mut queue).len(), 2, "the rest of fourteen");
        enter_many(&mut queue, 9, &Lane::Upkeep, Urgency::Renewal);
        assert_eq!(grants(&mut queue).len(), 2, "sixteen in all");
    }

    #[test]
    fn renewals_may_take_every_place() {
        let mut queue = Queue::default();
        enter_many(&mut queue, 20, &Lane::Upkeep, Urgency::Renewal);
        assert_eq!(grants(&mut queue).len(), 16);
    }

    #[test]
    fn the_most_urgent_is_next_and_among_equals_who_came_first() {
        let mut queue = Queue::default();
        enter_many(&mut queue, 16, &Lane::Upkeep, Urgency::Renewal);
        let busy = grants(&mut queue);
        let background = enter_many(&mut queue, 2, &Lane::Upkeep, Urgency::Background);
        let readers = enter_many(&mut queue, 2, &Lane::Upkeep, Urgency::Reader);
        let renewals = enter_many(&mut queue, 2, &Lane::Upkeep, Urgency::Renewal);
        busy.into_iter().for_each(|entry| queue.leave(entry));
        assert_eq!(grants(&mut queue), [renewals, readers, background].concat());
    }

    #[test]
    fn who_waits_for_one_engine_keeps_nobody_from_another() {
        let mut queue = Queue::default();
        let slow = enter_many(&mut queue, 9, &mint("slow"), Urgency::Reader);
        let other = enter_many(&mut queue, 1, &mint("other"), Urgency::Background);
        assert_eq!(grants(&mut queue), [slow[0], slow[1], other[0]]);
    }

    #[test]
    fn who_waits_longest_is_not_overtaken_for_ever() {
        let mut queue = Queue::default();
        enter_many(&mut queue, 8, &Lane::Kv, Urgency::Reader);
        let mut busy = grants(&mut queue);
        let background = queue.enter(ONE, Lane::Kv, Urgency::Background);
        let mut overtakers = 0;
        loop {
            queue.enter(ONE, Lane::Kv, Urgency::Reader);
            queue.leave(busy.remove(0));
            let next = queue.grant().unwrap();
            if next == background {
                break;
            }
            overtakers += 1;
            busy.push(next);
        }
        assert_eq!(overtakers, OVERTAKINGS);
    }

    #[test]
    fn who_leaves_the_queue_gets_no_place_and_frees_none() {
        let mut queue = Queue::default();
        let entries = enter_many(&mut queue, 10, &Lane::Kv, Urgency::Reader);
        assert_eq!(grants(&mut queue), entries[..8]);
        queue.leave(entries[8]);
        assert_eq!(queue.grant(), None);
        queue.leave(entries[0]);
        assert_eq!(grants(&mut queue), [entries[9]]);
        queue.leave(entries[0]);
        assert_eq!(queue.grant(), None, "a place is given back once");
    }

    #[test]
    fn who_is_sent_away_has_waited_for_nothing_and_places_in_use_stay() {
        let mut queue = Queue::default();
        let entries = enter_many(&mut queue, 10, &Lane::Kv, Urgency::Reader);
        assert_eq!(grants(&mut queue).len(), 8);
        assert_eq!(queue.dismiss(), entries[8..]);
        queue.enter(ONE, Lane::Kv, Urgency::Reader);
        assert_eq!(queue.grant(), None, "eight are still under way");
    }

    #[test]
    fn after_an_outage_readers_go_first_and_the_rest_comes_faster_with_each_step() {
        let mut queue = Queue::default();
        assert_eq!(queue.slow_down(), Start::Needed);
        let mut let_in = Vec::new();
        loop {
            enter_many(&mut queue, 2000, &Lane::Upkeep, Urgency::Background);
            let reader = queue.enter(ONE, Lane::Kv, Urgency::Reader);
            assert_eq!(queue.grant(), Some(reader));
            queue.leave(reader);
            let mut count = 0;
            while let Some(entry) = queue.grant().filter(|_| count < 1500) {
                queue.leave(entry);
                count += 1;
            }
            let_in.push(count);
            queue.dismiss();
            if queue.step() == Ramp::Over {
                break;
            }
        }
        assert_eq!(let_in.len(), RAMP as usize);
        assert_eq!((let_in[0], let_in[9], let_in[10], let_in[89]), (2, 2, 4, 512));
        assert!(let_in.iter().sum::<u32>() > 10_000);
        assert_eq!(queue.slow_down(), Start::Needed);
        assert_eq!(queue.slow_down(), Start::UnderWay, "another outage starts it over");
    }

    #[test]
    fn the_places_of_one_identity_are_not_those_of_another() {
        let mut queue = Queue::default();
        for lane in [Lane::Kv, mint("database"), Lane::Upkeep] {
            for urgency in [Urgency::Reader, Urgency::Renewal, Urgency::Background] {
                enter_many(&mut queue, 30, &lane, urgency);
            }
        }
        assert_eq!(grants(&mut queue).len(), 16);
        let other = Mount { identity: OTHER, namespace: None, path: "database".to_owned() };
        let lanes = [Lane::Kv, Lane::Mint(other), Lane::Upkeep];
        let entries = lanes.map(|lane| queue.enter(OTHER, lane, Urgency::Background));
        assert_eq!(grants(&mut queue), entries);
    }
}

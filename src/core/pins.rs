//! Files that belong together: a process that has opened one of them gets the others of the same generation,
//! though a newer one is there by now.
//!
//! What a process reads of a source comes in rounds: a certificate, then its key. A thread that opens a file for
//! the second time has begun a new round, with what is current. A thread that has opened nothing yet goes on
//! with the round that began last, since some programs read each file in another thread. Where threads share
//! rounds in earnest (one opens a file again before it has seen all that the process has opened), nothing tells
//! where a round begins: all of them keep their generation until the process has opened nothing for as long as a
//! pin lasts. Invariants: *bounded*: a round without an open is over after `pin`, and a process has at most
//! [`THREADS`] of them; *no way back*: a new round never gets an older generation than the one before it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::access::Process;
use crate::core::name::{GenerationId, Ino};
use crate::core::time::BootTime;

/// As many threads of a process are told apart.
pub const THREADS: usize = 64;

/// As many processes of a source are remembered; the one that has opened nothing for the longest time goes.
pub const PROCESSES: usize = 1024;

/// What a process has opened of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Visitor {
    /// The generations, as long as they live; for whoever must be told of the next one.
    #[serde(default)]
    pub opened: Vec<GenerationId>,
    /// Its rounds.
    #[serde(default)]
    pub pin: Option<Pin>,
    /// When it last opened something.
    pub last: BootTime,
}

/// The rounds of one process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The generation of the round that began last.
    latest: GenerationId,
    /// The round of each thread.
    rounds: BTreeMap<u32, Round>,
    /// All files that were opened.
    seen: BTreeSet<Ino>,
    /// Its threads share rounds.
    #[serde(default)]
    shared: bool,
}

/// What a thread opens that belongs together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Round {
    generation: GenerationId,
    opened: BTreeSet<Ino>,
    until: BootTime,
}

impl Pin {
    /// What a thread gets that opens a file now, and what is to be remembered if it does. `lives` says whether a
    /// generation can still be shown.
    pub fn open(
        before: Option<&Pin>,
        thread: u32,
        ino: Ino,
        current: GenerationId,
        lives: impl Fn(GenerationId) -> bool,
        (now, span): (BootTime, Duration),
    ) -> (GenerationId, Pin) {
        let mut pin = before.map_or_else(|| Pin::new(current), |before| before.pruned(now));
        if pin.rounds.is_empty() {
            pin = Pin::new(current);
        }
        let is_only = pin.rounds.keys().all(|one| *one == thread);
        if let Some(round) = pin.rounds.get_mut(&thread)
            && round.opened.contains(&ino)
        {
            pin.shared |= !is_only && round.opened != pin.seen;
            round.opened.clear();
            if !pin.shared {
                (round.generation, pin.latest) = (current, current);
            }
        }
        let chosen = pin.chosen(thread);
        let generation = if lives(chosen) { chosen } else { current };
        if generation != chosen {
            pin.latest = generation;
        }
        let fresh = Round { generation, opened: BTreeSet::new(), until: now };
        let round = pin.rounds.entry(thread).or_insert(fresh);
        if round.generation != generation {
            (round.generation, round.opened) = (generation, BTreeSet::new());
        }
        round.opened.insert(ino);
        round.until = now + span;
        pin.seen.insert(ino);
        if pin.rounds.len() > THREADS
            && let Some(first) = pin.rounds.iter().min_by_key(|(_, round)| round.until).map(|(one, _)| *one)
        {
            pin.rounds.remove(&first);
        }
        (generation, pin)
    }

    fn new(current: GenerationId) -> Pin {
        Pin { latest: current, rounds: BTreeMap::new(), seen: BTreeSet::new(), shared: false }
    }

    /// Without the rounds that are over.
    fn pruned(&self, now: BootTime) -> Pin {
        let mut pin = self.clone();
        // Threads that share rounds have one pin in common.
        if !pin.shared || self.until() <= now {
            pin.rounds.retain(|_, round| now < round.until);
        }
        pin
    }

    fn chosen(&self, thread: u32) -> GenerationId {
        match self.rounds.get(&thread) {
            Some(round) if !self.shared => round.generation,
            Some(_) | None => self.latest,
        }
    }

    /// What a thread would get that goes on with its round; `None` if it has none.
    pub fn kept(&self, now: BootTime, thread: u32) -> Option<GenerationId> {
        (now < self.until()).then(|| self.pruned(now).chosen(thread))
    }

    /// When all of it is over.
    pub fn until(&self) -> BootTime {
        self.rounds.values().map(|round| round.until).max().unwrap_or(BootTime(0))
    }

    /// Until when it keeps a generation.
    pub fn keeps_until(&self, generation: GenerationId) -> Option<BootTime> {
        if self.shared {
            return (self.latest == generation).then(|| self.until());
        }
        let rounds = self.rounds.values().filter(|round| round.generation == generation);
        let latest = (self.latest == generation).then(|| self.until());
        rounds.map(|round| round.until).chain(latest).max()
    }
}

impl Visitor {
    /// One that has opened nothing yet.
    pub fn new(now: BootTime) -> Visitor {
        Visitor { opened: Vec::new(), pin: None, last: now }
    }

    /// Notes an open, with what [`Pin::open`] says is to be remembered.
    pub fn note(&mut self, now: BootTime, generation: GenerationId, pin: Option<Pin>) {
        if !self.opened.contains(&generation) {
            self.opened.push(generation);
        }
        self.pin = pin;
        self.last = now;
    }

    /// Until when its pin keeps a generation.
    pub fn keeps_until(&self, generation: GenerationId) -> Option<BootTime> {
        self.pin.as_ref()?.keeps_until(generation)
    }
}

/// The lowest and the highest process, to look all of them up.
pub(crate) const ALL_PROCESSES: (Process, Process) =
    (Process { number: 0, start: 0 }, Process { number: u32::MAX, start: u64::MAX });

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_secs(5);
    const CRT: Ino = Ino(10);
    const KEY: Ino = Ino(11);

    /// One process, and the generations that live.
    struct Scene {
        pin: Option<Pin>,
        now: BootTime,
        living: Vec<u64>,
    }

    impl Scene {
        fn new() -> Scene {
            Scene { pin: None, now: BootTime(0), living: vec![1] }
        }

        fn pass(&mut self, seconds: u64) {
            self.now = self.now + Duration::from_secs(seconds);
        }

        fn rotate(&mut self) {
            let next = self.living.last().unwrap() + 1;
            self.living.push(next);
            if self.living.len() > 2 {
                self.living.remove(0);
            }
        }

        fn open(&mut self, thread: u32, ino: Ino) -> u64 {
            let current = GenerationId(*self.living.last().unwrap());
            let lives = |one: GenerationId| self.living.contains(&one.0);
            let (got, pin) = Pin::open(self.pin.as_ref(), thread, ino, current, lives, (self.now, SPAN));
            self.pin = Some(pin);
            got.0
        }
    }

    #[test]
    fn a_rotation_between_two_files_is_not_seen() {
        let mut scene = Scene::new();
        assert_eq!(scene.open(1, CRT), 1);
        scene.rotate();
        assert_eq!(scene.open(1, KEY), 1);
        assert_eq!((scene.open(1, CRT), scene.open(1, KEY)), (2, 2), "the next round");
    }

    #[test]
    fn a_round_that_begins_with_any_file_is_whole() {
        let mut scene = Scene::new();
        for (first, second) in [(CRT, KEY), (KEY, CRT), (CRT, KEY)] {
            let got = scene.open(1, first);
            scene.rotate();
            assert_eq!(scene.open(1, second), got);
        }
    }

    #[test]
    fn the_same_file_again_and_again_shows_each_rotation() {
        let mut scene = Scene::new();
        for generation in 1..10 {
            assert_eq!(scene.open(1, CRT), generation);
            scene.rotate();
        }
    }

    #[test]
    fn a_pin_is_over_when_nothing_was_opened_for_its_time() {
        let mut scene = Scene::new();
        scene.open(1, CRT);
        scene.rotate();
        scene.pass(4);
        assert_eq!(scene.open(1, KEY), 1);
        scene.pass(4);
        assert_eq!(scene.open(1, Ino(12)), 1, "each open makes it longer");
        scene.pass(5);
        assert_eq!(scene.open(1, Ino(13)), 2);
    }

    #[test]
    fn what_has_ended_is_not_kept() {
        let mut scene = Scene::new();
        scene.open(1, CRT);
        scene.rotate();
        scene.rotate();
        assert_eq!(scene.open(1, KEY), 3);
    }

    #[test]
    fn another_thread_goes_on_with_the_round_that_began_last() {
        let mut scene = Scene::new();
        assert_eq!(scene.open(1, CRT), 1);
        scene.rotate();
        assert_eq!(scene.open(2, KEY), 1);
        // The threads have changed their parts: nobody opens anything again.
        assert_eq!((scene.open(1, KEY), scene.open(2, CRT)), (1, 1));
    }

    #[test]
    fn threads_that_read_whole_rounds_go_on_each_at_its_own_pace() {
        let mut scene = Scene::new();
        for thread in 1..4 {
            assert_eq!((scene.open(thread, CRT), scene.open(thread, KEY)), (1, 1));
        }
        assert_eq!(scene.open(1, CRT), 1);
        scene.rotate();
        assert_eq!((scene.open(2, CRT), scene.open(1, KEY), scene.open(2, KEY)), (2, 1, 2));
        scene.rotate();
        assert_eq!((scene.open(3, CRT), scene.open(3, KEY), scene.open(1, CRT)), (3, 3, 3));
    }

    #[test]
    fn threads_that_share_rounds_keep_their_generation_until_they_pause() {
        let mut scene = Scene::new();
        let load = |scene: &mut Scene, threads: [u32; 2]| {
            let got = scene.open(threads[0], CRT);
            assert_eq!(scene.open(threads[1], KEY), got);
            got
        };
        assert_eq!(load(&mut scene, [1, 2]), 1);
        assert_eq!(load(&mut scene, [1, 2]), 1);
        scene.rotate();
        for threads in [[2, 1], [3, 1], [1, 3], [2, 3]] {
            assert_eq!(load(&mut scene, threads), 1, "{threads:?}");
        }
        scene.pass(5);
        assert_eq!(load(&mut scene, [1, 3]), 2);
    }

    #[test]
    fn what_a_pin_keeps_is_known_with_its_end() {
        let mut scene = Scene::new();
        scene.open(1, CRT);
        scene.rotate();
        let keeps = |scene: &Scene, one| scene.pin.as_ref().unwrap().keeps_until(GenerationId(one));
        assert_eq!(keeps(&scene, 1), Some(BootTime(0) + SPAN));
        assert_eq!(keeps(&scene, 2), None);
        scene.open(1, CRT);
        assert_eq!((keeps(&scene, 1), keeps(&scene, 2)), (None, Some(BootTime(0) + SPAN)));
    }

    #[test]
    fn a_process_has_no_more_rounds_than_are_told_apart() {
        let mut scene = Scene::new();
        for thread in 0..1000 {
            scene.open(thread, CRT);
        }
        assert_eq!(scene.pin.unwrap().rounds.len(), THREADS);
    }
}

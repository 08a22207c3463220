//! Everything at once, for half a minute or for as long as one wants: programs that use a mount in every way,
//! one fault after another, and servers that come and go. What may fail fails as the contract says, nothing hangs,
//! no byte is wrong, and at the end leasefs holds what it held at the beginning. With a real kernel, a real OpenBao
//! and a real PostgreSQL.
//!
//! `LEASEFS_SOAK_MINUTES` is for how long; `LEASEFS_SOAK_SEED` repeats the order of faults of another run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may panic, read the clock, and say what it has measured"
)]

mod faults;
mod scene;
#[allow(dead_code, reason = "each test file uses a part of it")]
#[path = "../support/mod.rs"]
mod support;
mod uses;

use std::env;
use std::thread;
use std::time::{Duration, Instant};

use faults::Fault;
use scene::{Holdings, Scene};
use support::load::Tally;
use support::vitals::{Vitals, growth_in_a_minute};

/// How long the load runs before anything is measured.
const WARM_UP: Duration = Duration::from_secs(4);

/// How much more memory a server may take at the end than at the start, in KiB: what the allocator keeps of a
/// burst of requests. It does not grow with time; a leak does.
const NOISE: u64 = 8 << 10;

/// How much a server may grow in a minute, in KiB, where it was watched for longer than [`WATCHED`]: a leak of
/// 16 bytes a request would be ten times as much.
const GROWTH: f64 = 32.0;

/// A slope says nothing before.
const WATCHED: Duration = Duration::from_secs(240);

fn minutes() -> Option<f64> {
    env::var("LEASEFS_SOAK_MINUTES").ok().map(|minutes| minutes.parse().expect("minutes are a number"))
}

fn seed() -> u64 {
    let given = env::var("LEASEFS_SOAK_SEED").ok();
    given.map_or_else(|| fastrand::u64(..), |seed| seed.parse().expect("a seed is a number"))
}

#[test]
fn nothing_is_left_of_faults_and_restarts_under_load() {
    let seed = seed();
    println!("LEASEFS_SOAK_SEED={seed}");
    let mut chance = fastrand::Rng::with_seed(seed);
    let span = minutes().map_or(Duration::ZERO, |minutes| Duration::from_secs_f64(minutes * 60.0));
    let scene = Scene::new();
    let load = uses::put_under_load(&scene);
    thread::sleep(WARM_UP);
    assert_unharmed(&scene.end(load), &scene);
    let before = scene.holdings_at_rest();
    let load = uses::put_under_load(&scene);
    let mut watched = Watched { began: Instant::now(), samples: Vec::new(), told: 0 };
    let mut rounds = 0;
    while rounds == 0 || watched.began.elapsed() < span {
        let mut faults = Fault::ALL;
        chance.shuffle(&mut faults);
        for fault in faults {
            let at = watched.began.elapsed();
            // In the middle of a long run one server goes through everything, so that it is seen to grow.
            let spared = at > span / 3 && at < span * 2 / 3 && fault.replaces_the_server();
            if spared || (rounds > 0 && at > span) {
                continue;
            }
            fault.happen(&scene, &mut chance);
            watched.look(&scene);
            let hung = load.hung();
            assert!(hung.is_empty(), "these hang: {hung:?}\n{}", scene.log());
            watched.tell_of_failures(&load.tally(), &scene);
        }
        rounds += 1;
        let (at, server, _) = watched.samples[watched.samples.len() - 1];
        let Tally { calls, failed, .. } = load.tally();
        println!("round {rounds}, {at:.0?}: {calls} calls, {failed} wrong; {server:?}");
    }
    let took = watched.began.elapsed();
    let tally = scene.end(load);
    let after = scene.holdings_at_rest();
    println!("{rounds} rounds in {took:.0?}, {} calls, {} wrong", tally.calls, tally.failed);
    println!("{:#?}", tally.of_each);
    println!("the longest took {:?} ({})", tally.worst.0, tally.worst.1);
    println!("faults: {:?}", scene.weather.counts());
    println!("told: {:?}", scene.weather.told());
    watched.tell(&before, &after);
    assert_unharmed(&tally, &scene);
    assert_eq!(after.in_vault, before.in_vault, "{}", scene.log());
    assert_eq!((after.names, &after.readers), (before.names, &before.readers), "{}", scene.log());
    for (now, then) in [(after.server, before.server), (after.keeper, before.keeper)] {
        assert_eq!(now.descriptors, then.descriptors, "{}", scene.log());
        // The runtime keeps one for what blocks, for ten seconds.
        assert!(now.threads <= then.threads + 1, "{now:?} was {then:?}");
        assert!(now.resident <= then.resident + NOISE, "{now:?} was {then:?}");
    }
    watched.assert_flat();
    scene.stop();
}

#[track_caller]
fn assert_unharmed(tally: &Tally, scene: &Scene) {
    assert_eq!(tally.failed, 0, "of {} calls: {:#?}\n{}", tally.calls, tally.failures, scene.log());
}

/// What was measured between faults.
struct Watched {
    began: Instant,
    samples: Vec<(Duration, Vitals, Vitals)>,
    /// Failures that were printed.
    told: usize,
}

impl Watched {
    /// A failure is printed when it happens, and what leasefs has logged until then; the run goes on.
    fn tell_of_failures(&mut self, tally: &Tally, scene: &Scene) {
        let new = &tally.failures[self.told..];
        if !new.is_empty() {
            println!("{:.0?}: {new:#?}\n{}", self.began.elapsed(), scene.log());
        }
        self.told = tally.failures.len();
    }

    fn look(&mut self, scene: &Scene) {
        let (server, keeper) = scene.vitals();
        self.samples.push((self.began.elapsed(), server, keeper));
    }

    /// What the last two thirds of the life of the server that was watched longest have shown, in KiB.
    fn longest(&self) -> Vec<(Duration, u64)> {
        let mut longest: &[(Duration, Vitals, Vitals)] = &[];
        for life in self.samples.chunk_by(|one, next| one.1.pid == next.1.pid) {
            let span = |life: &[(Duration, Vitals, Vitals)]| match life {
                [(first, ..), .., (last, ..)] => *last - *first,
                _ => Duration::ZERO,
            };
            if span(life) >= span(longest) {
                longest = life;
            }
        }
        let settled = &longest[longest.len() / 3..];
        settled.iter().map(|(at, server, _)| (*at, server.resident)).collect()
    }

    /// The same of the keeper.
    fn of_the_keeper(&self) -> Vec<(Duration, u64)> {
        let settled = &self.samples[self.samples.len() / 3..];
        settled.iter().map(|(at, _, keeper)| (*at, keeper.resident)).collect()
    }

    fn assert_flat(&self) {
        for (whose, samples) in [("server", self.longest()), ("keeper", self.of_the_keeper())] {
            let [(first, _), .., (last, _)] = samples[..] else { continue };
            if last - first < WATCHED {
                continue;
            }
            let growth = growth_in_a_minute(&samples).expect("samples over minutes");
            assert!(growth < GROWTH, "the {whose} grows by {growth:.1} KiB a minute: {samples:?}");
        }
    }

    fn tell(&self, before: &Holdings, after: &Holdings) {
        println!("                          at the start   at the end");
        let row = |what: &str, then: u64, now: u64| println!("{what:<24} {then:>13} {now:>12}");
        for (whose, then, now) in
            [("server", before.server, after.server), ("keeper", before.keeper, after.keeper)]
        {
            row(&format!("{whose}: resident KiB"), then.resident, now.resident);
            row(&format!("{whose}: locked KiB"), then.locked, now.locked);
            row(&format!("{whose}: descriptors"), then.descriptors as u64, now.descriptors as u64);
            row(&format!("{whose}: threads"), then.threads, now.threads);
        }
        row("secrets and lists, bytes", before.memory, after.memory);
        row("names known", before.names as u64, after.names as u64);
        for (what, then) in &before.in_vault {
            row(what, *then as u64, after.in_vault.get(what).map_or(0, |count| *count as u64));
        }
        for (whose, samples) in [("server watched longest", self.longest()), ("keeper", self.of_the_keeper())]
        {
            if let ([(first, _), .., (last, _)], Some(growth)) = (&samples[..], growth_in_a_minute(&samples))
            {
                println!("the {whose}: {growth:+.1} KiB a minute over {:.0?}", *last - *first);
            }
        }
    }
}

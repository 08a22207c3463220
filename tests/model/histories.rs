//! Random histories.

use std::cell::Cell;
use std::time::Duration;

use leasefs::core::effect::Outcome;
use leasefs::core::error::Fault;
use leasefs::core::name::{HandleId, Ino, LeaseId};
use leasefs::core::policy::{OnIdle, Readers, Renew, SourcePolicy};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};

use crate::checks;
use crate::handover::Losses;
use crate::layout::{LOCKS, NAMES, VISITS, layout, vault, with_composed};
use crate::vault::Engine;
use crate::world::{Pace, Weather, World};

/// One step of a history; numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Step {
    Lookup {
        parent: u8,
        name: u8,
    },
    Forget {
        node: u8,
    },
    Getattr {
        who: u8,
        node: u8,
    },
    Open {
        who: u8,
        node: u8,
    },
    OpenDeclared {
        file: u8,
    },
    Visit {
        who: u8,
        path: u8,
    },
    Release {
        handle: u8,
    },
    Opendir {
        who: u8,
        node: u8,
    },
    Readdirplus {
        handle: u8,
        offset: u8,
        room: u8,
    },
    Releasedir {
        handle: u8,
    },
    Xattrs {
        who: u8,
        node: u8,
    },
    GiveUp {
        ticket: u8,
    },
    Refresh {
        files: u8,
    },
    RefreshAll,
    Revoke {
        files: u8,
    },
    Lock {
        name: u8,
    },
    Unlock {
        name: u8,
    },
    Advance {
        span: u8,
        pace: Pace,
    },
    Notify,
    Tick,
    Vault(Happening),
    Answers(bool),
    LogInAnew,
    Handover,
    Thread(u8),
    /// A program opens two files of one source.
    Pair {
        who: u8,
        pair: u8,
        refreshed: bool,
    },
}

/// What happens on the other side.
#[derive(Clone, Debug)]
enum Happening {
    Down(u8),
    Up,
    Revise { path: u8 },
    Remove { path: u8 },
    PlanDeletion { path: u8, span: u8 },
    Deny { path: u8 },
    AllowAll,
    RevokeLease { lease: u8 },
    RevokeToken { token: u8 },
    NewUserToken { ttl: u8 },
    LeasesDenied(bool),
    RenewalsFail(u8),
    Relist { prefix: u8, keys: u8 },
}

fn pace() -> impl Strategy<Value = Pace> {
    prop_oneof![6 => Just(Pace::Prompt), 2 => Just(Pace::Late), 1 => Just(Pace::Asleep)]
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    prop_oneof![
        2 => any::<u8>().prop_map(Down),
        6 => Just(Up),
        4 => any::<u8>().prop_map(|path| Revise { path }),
        1 => any::<u8>().prop_map(|path| Remove { path }),
        1 => any::<(u8, u8)>().prop_map(|(path, span)| PlanDeletion { path, span }),
        1 => any::<u8>().prop_map(|path| Deny { path }),
        2 => Just(AllowAll),
        2 => any::<u8>().prop_map(|lease| RevokeLease { lease }),
        1 => any::<u8>().prop_map(|token| RevokeToken { token }),
        1 => any::<u8>().prop_map(|ttl| NewUserToken { ttl }),
        1 => any::<bool>().prop_map(LeasesDenied),
        1 => any::<u8>().prop_map(RenewalsFail),
        1 => any::<(u8, u8)>().prop_map(|(prefix, keys)| Relist { prefix, keys }),

    ]
}

fn step() -> impl Strategy<Value = Step> {
    use Step::*;
    prop_oneof![
        6 => any::<(u8, u8)>().prop_map(|(parent, name)| Lookup { parent, name }),
        2 => any::<u8>().prop_map(|node| Forget { node }),
        6 => any::<(u8, u8)>().prop_map(|(who, node)| Getattr { who, node }),
        6 => any::<(u8, u8)>().prop_map(|(who, node)| Open { who, node }),
        6 => any::<u8>().prop_map(|file| OpenDeclared { file }),
        8 => any::<(u8, u8)>().prop_map(|(who, path)| Visit { who, path }),
        5 => any::<u8>().prop_map(|handle| Release { handle }),
        3 => any::<(u8, u8)>().prop_map(|(who, node)| Opendir { who, node }),
        3 => any::<(u8, u8, u8)>().prop_map(|(handle, offset, room)| Readdirplus { handle, offset, room }),
        2 => any::<u8>().prop_map(|handle| Releasedir { handle }),
        1 => any::<(u8, u8)>().prop_map(|(who, node)| Xattrs { who, node }),
        2 => any::<u8>().prop_map(|ticket| GiveUp { ticket }),
        1 => any::<u8>().prop_map(|files| Refresh { files }),
        1 => Just(RefreshAll),
        1 => any::<u8>().prop_map(|files| Revoke { files }),
        1 => any::<u8>().prop_map(|name| Lock { name }),
        2 => any::<u8>().prop_map(|name| Unlock { name }),
        14 => (any::<u8>(), pace()).prop_map(|(span, pace)| Advance { span, pace }),
        2 => Just(Notify),
        2 => Just(Tick),
        5 => happening().prop_map(Vault),
        1 => any::<bool>().prop_map(Answers),
        1 => Just(LogInAnew),
        2 => Just(Handover),
        2 => any::<u8>().prop_map(Thread),
        6 => any::<(u8, u8, bool)>().prop_map(|(who, pair, refreshed)| Pair { who, pair, refreshed }),
    ]
}

/// From a millisecond to an hour, by powers.
fn span(number: u8) -> Duration {
    Duration::from_secs_f64(0.001 * 3_600_000f64.powf(f64::from(number) / 255.0))
}

fn pick<T: Copy>(from: impl Iterator<Item = T>, number: u8) -> Option<T> {
    let all: Vec<T> = from.collect();
    (!all.is_empty()).then(|| all[usize::from(number) % all.len()])
}

fn world(seed: u64) -> World {
    let mut rng = fastrand::Rng::with_seed(seed);
    let seconds = Duration::from_secs;
    let mut policy_rng = rng.fork();
    let policy = move || SourcePolicy {
        renew: [Renew::InUse, Renew::InUse, Renew::InUse, Renew::Always, Renew::Required, Renew::Never]
            [policy_rng.usize(..6)],
        max_age: [seconds(1), seconds(60), seconds(60)][policy_rng.usize(..3)],
        grace: [seconds(0), seconds(5), seconds(60)][policy_rng.usize(..3)],
        idle_timeout: [None, Some(seconds(0)), Some(seconds(30))][policy_rng.usize(..3)],
        on_idle: [OnIdle::Lapse, OnIdle::Lapse, OnIdle::Revoke][policy_rng.usize(..3)],
        pin: [seconds(0), seconds(1), seconds(5), seconds(60)][policy_rng.usize(..4)],
        readers: [Readers::Forgotten, Readers::Remembered][policy_rng.usize(..2)],
    };
    let max_memory = [150, 600, 1 << 20, 1 << 20][rng.usize(..4)];
    let lease = seconds([5, 20, 60, 600][rng.usize(..4)]);
    let max = lease * [1, 2, 5][rng.usize(..3)];
    let ttl = seconds([10, 60, 600, 3600, 3600, 36_000][rng.usize(..6)]);
    let mut layout = layout(policy, max_memory);
    if rng.u32(..3) > 0 {
        layout = with_composed(layout);
    }
    if layout.trees[0].policy.renew == Renew::Required {
        // Names that nobody declared can't be required.
        layout.trees[0].policy.renew = Renew::InUse;
    }
    let mut vault = vault((lease, max), (ttl, ttl * [1, 2, 4][rng.usize(..3)]));
    vault.token_renewable &= rng.bool();
    let mut world = World::new(layout, vault, rng.u64(..));
    world.weather = if rng.u32(..3) == 0 { Weather::Fair } else { Weather::Foul };
    world
}

/// Runs one history to its end. Returns how many steps it had.
fn run(seed: u64, steps: &[Step]) {
    let mut world = world(seed);
    world.start();
    for file in world.files() {
        let _ = world.walk(&file);
    }
    for name in ["fields", "cloud.d", "kv"] {
        let _ = world.walk(name);
    }
    for step in steps {
        perform(&mut world, step);
    }
    end(world);
}

/// Everything is given back and the mount ends, at once or after a rest.
fn end(mut world: World) {
    if world.rng.bool() {
        rest(&mut world);
    }
    world.stop();
    for name in world.files() {
        if let Ok(ino) = world.walk(&name) {
            assert!(checks::done(world.open(3, ino)).is_err(), "{name} opens after the end");
        }
    }
    let files = world.engine.select(&[]).expect("all files");
    assert!(world.refresh(&files).iter().all(|(_, outcome)| checks::done(outcome.clone()).is_err()));
    for _ in 0..4 {
        world.advance(world.now + Duration::from_secs(30), Pace::Prompt);
        let settlement = world.engine.settlement(world.now);
        checks::all_is_settled(&world, &settlement);
    }
    world.notify();
    checks::nothing_is_left(&world);
}

/// Nobody uses the mount any more, and the weather is fair: nothing undeclared may be left.
fn rest(world: &mut World) {
    world.weather = Weather::Fair;
    world.vault.down = None;
    for handle in world.handles.keys().copied().collect::<Vec<_>>() {
        world.release(handle);
    }
    for handle in world.directories.keys().copied().collect::<Vec<_>>() {
        world.releasedir(handle);
    }
    for ticket in world.waiting.keys().copied().collect::<Vec<_>>() {
        world.give_up(ticket);
    }
    for handle in world.handles.keys().copied().collect::<Vec<_>>() {
        world.release(handle);
    }
    world.pass(Duration::from_secs(1));
    while world.kernel.keys().copied().collect::<Vec<_>>().into_iter().any(|ino| world.forget(ino)) {}
    for _ in 0..4 {
        world.pass(Duration::from_secs(60));
    }
    checks::nothing_leaks(world);
}

fn perform(world: &mut World, step: &Step) {
    let node = |world: &World, number| pick(world.kernel.keys().copied(), number).unwrap_or(Ino::ROOT);
    let files = |world: &World, mask: u8| -> Vec<Ino> {
        let files = world.engine.select(&[]).expect("all files").into_iter().enumerate();
        files.filter(|(index, _)| mask >> (index % 8) & 1 == 1).map(|(_, ino)| ino).collect()
    };
    match step {
        Step::Lookup { parent, name } => {
            let parent = node(world, *parent);
            let _ = world.lookup(parent, NAMES[usize::from(*name) % NAMES.len()]);
        }
        Step::Forget { node: number } => {
            let ino = node(world, *number);
            world.forget(ino);
        }
        Step::Getattr { who, node: number } => {
            let ino = node(world, *number);
            let _ = world.getattr(*who, ino);
        }
        Step::Open { who, node: number } => {
            let ino = node(world, *number);
            let _ = world.open(*who, ino);
        }
        Step::OpenDeclared { file } => {
            let files = world.files();
            if let Ok(ino) = world.walk(&files[usize::from(*file) % files.len()]) {
                let _ = world.open(0, ino);
            }
        }
        Step::Visit { who, path } => visit(world, *who, VISITS[usize::from(*path) % VISITS.len()]),
        Step::Release { handle } => {
            let handle: Option<HandleId> = pick(world.handles.keys().copied(), *handle);
            if let Some(handle) = handle {
                world.release(handle);
            }
        }
        Step::Opendir { who, node: number } => {
            let ino = node(world, *number);
            let _ = world.opendir(*who, ino);
        }
        Step::Readdirplus { handle, offset, room } => {
            if let Some(handle) = pick(world.directories.keys().copied(), *handle) {
                world.readdir(handle);
                world.readdirplus(handle, u64::from(*offset % 8), usize::from(*room % 10));
            }
        }
        Step::Releasedir { handle } => {
            if let Some(handle) = pick(world.directories.keys().copied(), *handle) {
                world.releasedir(handle);
            }
        }
        Step::Xattrs { who, node: number } => {
            let ino = node(world, *number);
            world.xattrs(*who, ino);
        }
        Step::GiveUp { ticket } => {
            if let Some(ticket) = pick(world.waiting.keys().copied(), *ticket) {
                world.give_up(ticket);
            }
        }
        Step::Refresh { files: mask } => {
            let files = files(world, *mask);
            world.refresh(&files);
        }
        Step::RefreshAll => {
            let files = files(world, 0xff);
            world.refresh(&files);
        }
        Step::Revoke { files: mask } => {
            let files = files(world, *mask);
            world.revoke(&files);
        }
        Step::Lock { name } => world.lock(LOCKS[usize::from(*name) % LOCKS.len()]),
        Step::Unlock { name } => world.unlock(LOCKS[usize::from(*name) % LOCKS.len()]),
        Step::Advance { span: number, pace } => world.advance(world.now + span(*number), *pace),
        Step::Notify => world.notify(),
        Step::Tick => world.tick(),
        Step::Vault(happening) => happen(world, happening),
        Step::Answers(answers) => {
            let at = world.at();
            let fx = world.engine.vault_answers(at, *answers);
            world.take(fx);
        }
        Step::LogInAnew => world.log_in_anew(),
        Step::Handover => world.hand_over(Losses::Some),
        Step::Thread(number) => {
            world.thread = [1, 1, 1, 2][usize::from(*number) % 4];
            world.hidden = *number >= 240;
        }
        Step::Pair { who, pair, refreshed } => {
            let (first, second) = PAIRS[usize::from(*pair) % PAIRS.len()];
            visit(world, *who, first);
            if *refreshed && let Ok(ino) = world.walk(first) {
                world.refresh(&[ino]);
                world.advance(world.now + Duration::from_millis(60), Pace::Prompt);
            }
            visit(world, *who, second);
        }
    }
}

/// Files of one source.
const PAIRS: [(&str, &str); 5] = [
    ("db/password", "db/dsn"),
    ("db/dsn", "db/password"),
    ("fields/k1", "fields/k2"),
    ("kv/a/k1", "kv/a/k2"),
    ("weather.json", "db/mixed"),
];

/// A program walks to a file as the kernel does, with time for the answers.
fn visit(world: &mut World, who: u8, path: &str) {
    let mut ino = Ino::ROOT;
    for name in path.split('/') {
        let outcome = world.getattr(who, ino);
        if matches!(outcome, Outcome::Wait(_)) {
            world.advance(world.now + Duration::from_millis(60), Pace::Prompt);
        }
        match world.lookup(ino, name) {
            Ok(found) => ino = found,
            Err(_) => return,
        }
    }
    let _ = world.open(who, ino);
}

fn happen(world: &mut World, happening: &Happening) {
    let now = world.now;
    let vault = &mut world.vault;
    let path = |vault: &crate::vault::Vault, number: u8| -> String {
        let all: Vec<&String> = vault.paths.keys().collect();
        all[usize::from(number) % all.len()].clone()
    };
    match happening {
        Happening::Down(fault) => {
            let faults = [
                Fault::Unreachable,
                Fault::Sealed,
                Fault::TimedOut,
                Fault::ServerError,
                Fault::RateLimited,
                Fault::Unusable,
                Fault::Refused,
            ];
            vault.down = Some(faults[usize::from(*fault) % faults.len()]);
        }
        Happening::Up => vault.down = None,
        Happening::Revise { path: number } => {
            let path = path(vault, *number);
            match vault.paths.get_mut(&path) {
                Some(Engine::Kv1 { content, exists }) => (*content, *exists) = (*content + 1, true),
                Some(Engine::Kv2 { version, exists, deleted, fields }) => {
                    (*version, *exists, *deleted) = (*version + 1, true, None);
                    if *version % 3 == 0 {
                        fields.push(format!("k{version}"));
                    }
                }
                _ => {}
            }
        }
        Happening::Remove { path: number } => {
            let path = path(vault, *number);
            if let Some(Engine::Kv1 { exists, .. } | Engine::Kv2 { exists, .. }) = vault.paths.get_mut(&path)
            {
                *exists = false;
            }
        }
        Happening::PlanDeletion { path: number, span: until } => {
            let path = path(vault, *number);
            if let Some(Engine::Kv2 { deleted, version, .. }) = vault.paths.get_mut(&path) {
                *deleted = Some(now + span(*until));
                *version += 1;
            }
        }
        Happening::Deny { path: number } => {
            let path = path(vault, *number);
            vault.denied.insert(path);
        }
        Happening::AllowAll => vault.denied.clear(),
        Happening::RevokeLease { lease } => {
            let living = vault.leases.keys().filter(|lease| vault.lease_lives(now, lease)).cloned();
            let all: Vec<LeaseId> = living.collect();
            if !all.is_empty()
                && let Some(one) = vault.leases.get_mut(&all[usize::from(*lease) % all.len()])
            {
                one.revoked = Some(now);
            }
        }
        Happening::RevokeToken { token } => {
            let all: Vec<u64> =
                vault.tokens.keys().copied().filter(|one| vault.token_lives(now, *one)).collect();
            if let Some(token) = pick(all.into_iter(), *token) {
                vault.revoke_token(now, token);
                if token == vault.user_token {
                    vault.user_token = vault.mint_token(now, None, false);
                }
            }
        }
        Happening::NewUserToken { ttl } => {
            let ttl = Duration::from_secs(5) + span(*ttl);
            vault.user_token = vault.mint_token(now, Some((ttl, ttl * 2)), false);
        }
        Happening::LeasesDenied(denied) => vault.leases_denied = *denied,
        Happening::RenewalsFail(fault) => {
            let faults = [None, None, Some(Fault::TimedOut), Some(Fault::ServerError), Some(Fault::Denied)];
            vault.renewals_fail = faults[usize::from(*fault) % faults.len()];
        }
        Happening::Relist { prefix, keys } => {
            let prefix = ["tree", "tree/same", "tree/folder"][usize::from(*prefix % 3)];
            let all = ["same", "same/", "a", "folder/", "x", "x/", "k1", "deep"];
            let keys = all.into_iter().enumerate().filter(|(index, _)| keys >> index & 1 == 1);
            vault.lists.insert(prefix.to_owned(), keys.map(|(_, key)| key.to_owned()).collect());
        }
    }
}

#[test]
fn random_histories_keep_the_invariants() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let cases = number("LEASEFS_MODEL_CASES").unwrap_or(64);
    let max_shrink_iters = number("LEASEFS_MODEL_SHRINK").unwrap_or(3_000);
    let config = Config { cases, failure_persistence: None, max_shrink_iters, ..Config::default() };
    let operations = Cell::new(0);
    let strategy = (any::<u64>(), prop::collection::vec(step(), 1..120));
    let result = TestRunner::new(config).run(&strategy, |(seed, steps)| {
        run(seed, &steps);
        operations.set(operations.get() + steps.len());
        Ok(())
    });
    eprintln!("{cases} histories, {} operations", operations.get());
    if let Err(TestError::Fail(reason, (seed, steps))) = result {
        crate::world::TRACE.store(true, std::sync::atomic::Ordering::Relaxed);
        eprintln!("{reason}: once more, with a trace of seed {seed}, {steps:?}");
        run(seed, &steps);
        panic!("{reason}, the first time alone");
    }
}

/// Fair weather, every wake on time, somebody who opens the file again and again: it always opens, and a
/// credential is minted about once per `max_ttl`.
#[test]
fn use_without_pause() {
    let hour = Duration::from_secs(3600);
    for (seed, lease, token) in [
        (1, (hour, hour * 24), (hour * 24 * 32, hour * 24 * 32)),
        (2, (Duration::from_secs(60), hour), (hour * 24 * 32, hour * 24 * 32)),
        (3, (Duration::from_secs(600), hour), (hour * 2, hour * 6)),
        (4, (Duration::from_secs(20), Duration::from_secs(100)), (Duration::from_secs(600), hour)),
    ] {
        for file in ["db/password", "cloud", "weather.json"] {
            opens_for_days(seed, lease, token, file);
        }
    }
}

fn opens_for_days(seed: u64, lease: (Duration, Duration), token: (Duration, Duration), name: &str) {
    let layout = layout(|| crate::layout::DEFAULT, 1 << 20);
    let mut world = World::new(layout, vault(lease, token), seed);
    world.compared_every = 100;
    world.start();
    world.pass(Duration::from_secs(1));
    let ino = world.walk(name).expect("a declared name");
    let days = lease.1 * 12;
    let (begin, mut open) = (world.now, None);
    let end = begin + days;
    while world.now < end {
        let outcome = world.open(0, ino);
        let handle = match outcome {
            Outcome::Wait(ticket) => {
                world.pass(Duration::from_millis(20));
                match world.answers.get(&ticket) {
                    Some(Ok(leasefs::core::effect::Answer::Opened(opened))) => opened.handle,
                    other => panic!("{name} of {lease:?} at {:?}: {other:?}", world.now.since(begin)),
                }
            }
            outcome => checks::done(outcome).expect("it is in use").handle,
        };
        if let Some(before) = open.replace(handle) {
            world.release(before);
        }
        let pause = world.rng.f64();
        world.pass(lease.0.mul_f64(0.2 + pause));
    }
    let reads = world.reads.values().sum::<usize>();
    let passed = world.now.since(begin).as_secs_f64();
    // Each credential is replaced with at most two fifths of it left, or when its token is.
    let credential = match name {
        "cloud" => lease.0.as_secs_f64(),
        _ => lease.1.as_secs_f64().min(token.1.as_secs_f64() / 2.0),
    };
    let expected = passed / credential;
    if name != "weather.json" {
        assert!((reads as f64) < expected * 2.0 + 3.0, "{name} of {lease:?}: {reads} mints, not {expected}");
    }
}

//! Files of several sources: one story each.

use leasefs::core::effect::{Answer, Effect, End, Outcome};
use leasefs::core::engine::{Reader, State};
use leasefs::core::error::{Fault, FsError};
use leasefs::core::name::{HandleId, Ino, SourceId};

use crate::composer::joined;
use crate::layout::{DATABASE, DEFAULT, WEATHER, layout, vault, with_composed};
use crate::scenarios::{HOUR, MS, S, ended, ino, only_lease, open, read, reads, try_open, try_open_ino};
use crate::vault::Engine as VaultEngine;
use crate::world::{Weather, World};

/// Leases of 100 s that last an hour at most, and files of several sources.
fn world() -> World {
    world_with(1 << 20)
}

fn world_with(memory: u64) -> World {
    let layout = with_composed(layout(|| DEFAULT, memory));
    let mut world = World::new(layout, vault((100 * S, HOUR), (1000 * HOUR, 1000 * HOUR)), 1);
    world.start();
    world.pass(20 * MS);
    world
}

/// The value that a file of these sources has now.
fn current(world: &World, sources: &[SourceId]) -> u64 {
    joined(sources.iter().map(|source| world.issues[world.current[source]].content))
}

const MIXED: [SourceId; 2] = [DATABASE, WEATHER];

fn refresh(world: &mut World, name: &str) {
    let file = ino(world, name);
    world.refresh(&[file]);
    world.pass(20 * MS);
}

fn revise_the_weather(world: &mut World) {
    let Some(VaultEngine::Kv2 { version, .. }) = world.vault.paths.get_mut("secret/weather") else {
        panic!("it is KV")
    };
    *version += 1;
}

fn size_of(world: &mut World, file: Ino) -> u64 {
    match world.getattr(0, file) {
        Outcome::Done(Ok(attributes)) => attributes.size,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_open_waits_until_all_sources_are_there_and_asks_for_each_once() {
    let mut world = world();
    world.weather = Weather::Slow(50 * MS, 50 * MS);
    let file = ino(&mut world, "db/mixed");
    let waits = |world: &mut World| match world.open(0, file) {
        Outcome::Wait(ticket) => ticket,
        other => panic!("{other:?}"),
    };
    let tickets = [waits(&mut world), waits(&mut world)];
    assert_eq!(reads(&world), 2, "one of each source");
    world.pass(10 * S);
    for ticket in tickets {
        let Some(Ok(Answer::Opened(opened))) = world.answers.get(&ticket) else {
            panic!("{:?}", world.answers.get(&ticket))
        };
        let read = world.engine.read(world.now, opened.handle, Reader::Handle).unwrap();
        assert_eq!(read.content, current(&world, &MIXED));
    }
    assert_eq!(world.ledger.held().len(), 1, "they share what was composed");
    let sent = world.sent.len();
    assert!(matches!(world.open(0, file), Outcome::Done(Ok(_))));
    assert_eq!(world.sent.len(), sent);
}

#[test]
fn one_source_that_fails_is_an_answer_at_once() {
    let mut world = world();
    world.vault.paths.remove("secret/weather");
    assert_eq!(try_open(&mut world, "db/mixed"), Err(FsError::NoSuchSecret));
    assert!(try_open(&mut world, "db/password").is_ok());
}

#[test]
fn it_ends_with_the_first_of_its_sources() {
    let mut world = world();
    let (mixed, weather) = (open(&mut world, "db/mixed"), open(&mut world, "weather.json"));
    let password = ino(&mut world, "db/password");
    world.revoke(&[password]);
    assert_eq!(read(&world, mixed), Err(FsError::GenerationEnded));
    assert!(world.engine.read(world.now, mixed, Reader::PageCache).is_err());
    assert!(read(&world, weather).is_ok(), "the other one goes on");
    assert_eq!(world.ledger.held().len(), 0);
    let again = open(&mut world, "db/mixed");
    assert_eq!(read(&world, again), Ok(current(&world, &MIXED)));
}

#[test]
fn a_rotation_of_one_makes_a_new_file_for_new_opens() {
    let mut world = world();
    let old = open(&mut world, "db/mixed");
    let (first, lease) = (read(&world, old).unwrap(), only_lease(&world));
    refresh(&mut world, "db/password");
    let new = open(&mut world, "db/mixed");
    assert_eq!(read(&world, old), Ok(first));
    assert_eq!(read(&world, new), Ok(current(&world, &MIXED)));
    assert_ne!(read(&world, new), Ok(first));
    assert!(world.vault.lease_lives(world.now, &lease), "somebody reads it");
    world.release(old);
    world.pass(20 * MS);
    assert!(!world.vault.lease_lives(world.now, &lease), "given back with its last handle");
    assert_eq!(ended(&world, End::Revoked), 0);
    assert_eq!(world.ledger.held().len(), 1, "what nobody reads any more is not kept");
}

#[test]
fn what_is_replaced_is_read_by_handles_until_the_first_part_ends() {
    let mut world = world();
    let old = open(&mut world, "db/mixed");
    let lease = only_lease(&world);
    refresh(&mut world, "db/password");
    revise_the_weather(&mut world);
    refresh(&mut world, "weather.json");
    assert!(read(&world, old).is_ok());
    // Of KV that was replaced handles have a grace of a minute.
    world.pass(70 * S);
    assert_eq!(read(&world, old), Err(FsError::GenerationEnded));
    assert!(!world.vault.lease_lives(world.now, &lease), "nobody can read it any more");
}

#[test]
fn use_of_it_keeps_each_of_its_sources() {
    let mut world = world();
    let handle = open(&mut world, "db/mixed");
    world.pass(1000 * S);
    assert!(read(&world, handle).is_ok(), "its lease was renewed");
    assert!(world.sent.iter().any(|effect| matches!(effect, Effect::RenewLease { .. })));
}

#[test]
fn looking_composes_only_what_needs_no_credential() {
    let mut world = world();
    let (mixed, both) = (ino(&mut world, "db/mixed"), ino(&mut world, "both.json"));
    for file in [mixed, both] {
        let _ = world.getattr(0, file);
        world.pass(20 * MS);
    }
    assert_eq!(size_of(&mut world, mixed), 0);
    assert!(size_of(&mut world, both) > 0);
    assert!(!world.reads.contains_key(&DATABASE), "nothing was minted");
    let handle = open(&mut world, "db/mixed");
    let size = world.engine.read(world.now, handle, Reader::Handle).unwrap().size;
    assert_eq!(size_of(&mut world, mixed), size);
}

#[test]
fn status_tells_of_all_its_sources() {
    let mut world = world();
    open(&mut world, "db/mixed");
    let status = world.engine.status(world.now);
    let file = |name: &str| status.files.iter().find(|file| file.name == name).unwrap();
    let (mixed, password, weather) = (file("db/mixed"), file("db/password"), file("weather.json"));
    assert_eq!(mixed.path, "database/creds/app, secret/weather");
    assert_eq!(mixed.expires, [password.expires, weather.expires].into_iter().flatten().min());
    assert_eq!(mixed.issued, [password.issued, weather.issued].into_iter().flatten().max());
    assert_eq!((mixed.state, mixed.readers, password.readers), (State::Live, 1, 0));
    world.vault.down = Some(Fault::Unreachable);
    refresh(&mut world, "db/mixed");
    let status = world.engine.status(world.now);
    let mixed = status.files.iter().find(|file| file.name == "db/mixed").unwrap();
    assert!(mixed.error.is_some(), "{mixed:?}");
    let details = world.engine.explain(world.now, "db/mixed").unwrap();
    assert_eq!(details.origin.unwrap().more.len(), 1);
    assert_eq!(details.held.len(), 2);
}

#[test]
fn a_lock_of_it_shuts_it_and_ends_what_it_shows() {
    let mut world = world();
    let handle = open(&mut world, "db/mixed");
    world.lock("db/mixed");
    assert_eq!(read(&world, handle), Err(FsError::GenerationEnded));
    assert_eq!(try_open(&mut world, "db/mixed"), Err(FsError::Locked));
    assert!(try_open(&mut world, "db/password").is_ok());
    world.unlock("db/mixed");
    assert!(try_open(&mut world, "db/mixed").is_ok());
}

#[test]
fn what_does_not_fit_is_not_composed() {
    // Room for the parts, and not for what is made of them.
    let mut world = world_with(150);
    let mixed = ino(&mut world, "db/mixed");
    let outcome = try_open_ino(&mut world, mixed);
    assert_eq!(outcome, Err(FsError::OutOfMemory));
    assert!(world.engine.memory() <= 150);
}

#[test]
fn a_successor_goes_on_with_what_was_open() {
    let mut world = world();
    let old = open(&mut world, "db/mixed");
    refresh(&mut world, "db/password");
    let handles: [HandleId; 2] = [old, open(&mut world, "db/mixed")];
    let shown = handles.map(|handle| read(&world, handle));
    let sent = world.sent.len();
    world.handover();
    world.pass(S);
    world.handover();
    assert_eq!(handles.map(|handle| read(&world, handle)), shown);
    assert_eq!(world.sent.len(), sent, "{:?}", &world.sent[sent..]);
    assert_eq!(world.ledger.held().len(), 2);
}

#[test]
fn a_successor_that_shows_it_in_another_way_ends_its_handles_and_nothing_else() {
    let mut world = world();
    let (mixed, password) = (open(&mut world, "db/mixed"), open(&mut world, "db/password"));
    let lease = only_lease(&world);
    let mut layout = world.layout.clone();
    let index = layout.files.iter().position(|file| file.name.as_str() == "db/mixed").unwrap();
    layout.renderings[index] = "in another way".to_owned();
    world.is_reconfigured = true;
    assert!(world.replace_engine(layout).is_empty());
    assert_eq!(read(&world, mixed), Err(FsError::GenerationEnded));
    assert!(read(&world, password).is_ok());
    assert!(world.vault.lease_lives(world.now, &lease));
    let sent = world.sent.len();
    open(&mut world, "db/mixed");
    assert_eq!(world.sent.len(), sent, "of the same values");
}

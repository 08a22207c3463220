//! Files that belong together and rotations in between: one story each.

use std::time::Duration;

use leasefs::core::access::Process;
use leasefs::core::effect::{Attributes, Outcome, Report};
use leasefs::core::error::FsError;
use leasefs::core::policy::{Readers, SourcePolicy};

use crate::layout::{DATABASE, DEFAULT, layout, vault, with_composed};
use crate::scenarios::{HOUR, MS, S, ino, only_lease, open, read, try_open};
use crate::world::World;

const PINNED: SourcePolicy =
    SourcePolicy { pin: Duration::from_secs(5), readers: Readers::Remembered, ..DEFAULT };

fn world() -> World {
    world_with(1 << 20)
}

fn world_with(memory: u64) -> World {
    let layout = with_composed(layout(|| PINNED, memory));
    let mut world = World::new(layout, vault((100 * S, HOUR), (1000 * HOUR, 1000 * HOUR)), 1);
    world.start();
    world.pass(20 * MS);
    world
}

/// What a file of the database shows to a program that opens it, reads it and closes it.
fn look(world: &mut World, name: &str) -> u64 {
    let handle = open(world, name);
    let content = read(world, handle).unwrap();
    world.release(handle);
    content
}

fn rotate(world: &mut World) {
    let file = ino(world, "db/password");
    world.refresh(&[file]);
    world.pass(20 * MS);
}

fn attributes(world: &mut World, who: u8, name: &str) -> Attributes {
    let file = ino(world, name);
    match world.getattr(who, file) {
        Outcome::Done(Ok(attributes)) => attributes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_second_file_is_of_the_generation_of_the_first() {
    let mut world = world();
    let first = look(&mut world, "db/password");
    let lease = only_lease(&world);
    rotate(&mut world);
    assert_eq!(look(&mut world, "db/dsn"), first);
    assert!(world.vault.lease_lives(world.now, &lease), "it is no use if it is dead");
    world.pass(6 * S);
    assert!(!world.vault.lease_lives(world.now, &lease), "given back when the pin is over");
    assert_ne!(look(&mut world, "db/dsn"), first);
}

#[test]
fn a_program_that_reads_in_a_loop_sees_each_rotation() {
    let mut world = world();
    let mut seen = Vec::new();
    for _ in 0..5 {
        let password = look(&mut world, "db/password");
        rotate(&mut world);
        assert_eq!(look(&mut world, "db/dsn"), password);
        seen.push(password);
        world.pass(2 * S);
    }
    seen.dedup();
    assert_eq!(seen.len(), 5, "{seen:?}");
}

#[test]
fn others_get_what_is_current() {
    let mut world = world();
    let first = look(&mut world, "db/password");
    rotate(&mut world);
    let dsn = ino(&mut world, "db/dsn");
    let Outcome::Done(Ok(opened)) = world.open(1, dsn) else { panic!("it is there") };
    assert_ne!(read(&world, opened.handle), Ok(first));
}

#[test]
fn a_third_generation_ends_the_first_pinned_or_not() {
    let mut world = world();
    let first = look(&mut world, "db/password");
    rotate(&mut world);
    world.pass(2 * S);
    rotate(&mut world);
    let third = look(&mut world, "db/dsn");
    assert_ne!(third, first);
    assert_eq!(look(&mut world, "db/password"), third);
}

#[test]
fn a_revocation_ends_what_is_pinned() {
    let mut world = world();
    let first = look(&mut world, "db/password");
    rotate(&mut world);
    let file = ino(&mut world, "db/password");
    world.revoke(&[file]);
    world.pass(20 * MS);
    world.pass(S);
    assert_ne!(look(&mut world, "db/password"), first);
    assert!(world.vault.leases.keys().filter(|lease| world.vault.lease_lives(world.now, lease)).count() <= 1);
}

#[test]
fn each_process_sees_the_size_of_what_it_gets() {
    let mut world = world();
    let handle = open(&mut world, "db/password");
    let size = |world: &World, handle| {
        world.engine.read(world.now, handle, leasefs::core::engine::Reader::Handle).unwrap().size
    };
    let first = size(&world, handle);
    rotate(&mut world);
    let password = ino(&mut world, "db/password");
    let Outcome::Done(Ok(opened)) = world.open(3, password) else { panic!("it is there") };
    let second = size(&world, opened.handle);
    assert_ne!(first, second, "the story needs two sizes");
    for (who, shown) in [(0, first), (3, second), (0, first)] {
        let attributes = attributes(&mut world, who, "db/password");
        assert_eq!((attributes.size, attributes.ttl), (shown, Duration::ZERO), "{who}");
    }
    world.release(handle);
    world.pass(6 * S);
    let attributes = attributes(&mut world, 0, "db/password");
    assert_eq!(attributes.size, second);
    assert!(attributes.ttl > S);
}

#[test]
fn a_file_of_several_sources_is_made_of_the_pinned_one() {
    let mut world = world();
    look(&mut world, "db/password");
    let issue = world.current[&DATABASE];
    rotate(&mut world);
    let mixed = open(&mut world, "db/mixed");
    assert!(world.handles[&mixed].issues.contains(&issue));
}

#[test]
fn a_process_that_can_not_be_seen_gets_what_is_current_and_an_operator_is_told() {
    let mut world = world();
    world.hidden = true;
    let first = look(&mut world, "db/password");
    let lease = only_lease(&world);
    assert!(world.engine.openers_are_hidden());
    rotate(&mut world);
    assert!(!world.vault.lease_lives(world.now, &lease), "nobody is known who needs it");
    assert_ne!(look(&mut world, "db/dsn"), first);
}

#[test]
fn a_successor_knows_the_pins() {
    let mut world = world();
    let first = look(&mut world, "db/password");
    world.handover();
    rotate(&mut world);
    world.handover();
    assert_eq!(look(&mut world, "db/dsn"), first);
    world.pass(6 * S);
    assert_ne!(look(&mut world, "db/dsn"), first);
}

#[test]
fn what_a_pin_alone_keeps_makes_room() {
    // Room for the parts of two generations, and not for a third one.
    let mut world = world_with(400);
    look(&mut world, "db/password");
    rotate(&mut world);
    for name in ["weather.json", "plain", "cloud", "all.json", "tls/tls.crt"] {
        let _ = try_open(&mut world, name);
    }
    let password = try_open(&mut world, "db/password");
    assert_ne!(password, Err(FsError::OutOfMemory));
    assert!(world.engine.memory() <= 400);
}

#[test]
fn whoever_has_opened_a_generation_is_told_of_with_its_successor() {
    let mut world = world();
    look(&mut world, "db/password");
    let dsn = ino(&mut world, "db/dsn");
    assert!(matches!(world.open(1, dsn), Outcome::Done(Ok(_))));
    let rotations = |world: &World| -> Vec<Vec<Process>> {
        let rotated = world.reports.iter().filter_map(|report| match report {
            Report::Rotated { source: DATABASE, readers } => Some(readers.clone()),
            _ => None,
        });
        rotated.collect()
    };
    let process = |who: u32| Process { number: 100 + who, start: 7 };
    world.handover();
    rotate(&mut world);
    assert_eq!(rotations(&world), [vec![process(0), process(1)]]);
    world.pass(6 * S);
    look(&mut world, "db/password");
    rotate(&mut world);
    assert_eq!(rotations(&world)[1..], [vec![process(0)]], "who has not opened it is not told again");
}

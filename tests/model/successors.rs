//! A successor goes on where its predecessor was killed: one story each.

use std::sync::Arc;
use std::time::Duration;

use leasefs::core::effect::{Answer, Effect, End, NodeType, Outcome, Report};
use leasefs::core::engine::{Engine, Room};
use leasefs::core::error::FsError;
use leasefs::core::name::{HandleId, Ino};
use leasefs::core::policy::{Renew, SourcePolicy};
use leasefs::core::state::{Key, RestoreError, Stored};
use leasefs::core::time::{Chance, Moment};

use crate::layout::{DATABASE, DEFAULT, ROLE};
use crate::scenarios::{
    HOUR, MS, S, count, ended, ino, only_lease, open, read, reads, try_open, try_open_ino, visit, world,
    world_with,
};
use crate::vault::Engine as VaultEngine;
use crate::world::{Pace, TestBody, Weather, World};

fn is_log_in(effect: &Effect) -> bool {
    matches!(effect, Effect::LogIn { .. })
}

fn possibly_lost(world: &World) -> usize {
    world.reports.iter().filter(|one| matches!(one, Report::PossiblyLost { .. })).count()
}

/// What an OPEN that was sent again came to, after a moment for Vault's answer.
fn opened_again(world: &mut World) -> HandleId {
    world.pass(20 * MS);
    let handles: Vec<HandleId> = world.handles.keys().copied().collect();
    assert_eq!(handles.len(), 1);
    handles[0]
}

#[test]
fn what_lives_goes_on_and_nothing_is_asked_of_vault() {
    let mut world = world();
    let handles = ["db/password", "weather.json", "plain", "cloud"].map(|name| open(&mut world, name));
    let shown = handles.map(|handle| read(&world, handle));
    let sent = world.sent.len();
    world.handover();
    world.pass(S);
    world.handover();
    assert_eq!(handles.map(|handle| read(&world, handle)), shown);
    for name in ["db/password", "db/dsn", "weather.json", "plain", "cloud"] {
        let file = ino(&mut world, name);
        assert!(matches!(world.open(0, file), Outcome::Done(Ok(_))), "{name}");
    }
    assert_eq!(world.sent.len(), sent, "{:?}", &world.sent[sent..]);
}

fn ino_of(world: &World, path: &str) -> Ino {
    let found = world.kernel.keys().find(|ino| world.path(**ino) == path);
    found.copied().expect("the kernel knows it")
}

#[test]
fn handles_of_both_generations_go_on_until_they_are_closed() {
    let mut world = world();
    let old = open(&mut world, "db/password");
    let first = read(&world, old).unwrap();
    let lease = only_lease(&world);
    let file = ino(&mut world, "db/password");
    world.refresh(&[file]);
    world.pass(20 * MS);
    let new = open(&mut world, "db/dsn");
    let second = read(&world, new).unwrap();
    assert_ne!(first, second);
    world.handover();
    assert_eq!((read(&world, old), read(&world, new)), (Ok(first), Ok(second)));
    world.pass(300 * S);
    world.handover();
    assert_eq!(
        (read(&world, old).is_ok(), read(&world, new)),
        (false, Ok(second)),
        "the older one has ended"
    );
    assert!(!world.vault.lease_lives(world.now, &lease));
    assert_eq!(world.reads[&DATABASE], 2);
}

#[test]
fn the_older_generation_is_given_back_when_its_last_handle_is_closed_by_the_successor() {
    let mut world = world();
    let old = open(&mut world, "db/password");
    let lease = only_lease(&world);
    let file = ino(&mut world, "db/password");
    world.refresh(&[file]);
    world.pass(20 * MS);
    world.handover();
    if world.handles.contains_key(&old) {
        world.release(old);
    }
    world.pass(S);
    assert!(!world.vault.lease_lives(world.now, &lease));
    assert_eq!(ended(&world, End::Replaced), 0, "that is no news");
}

#[test]
fn a_name_in_a_tree_resolves_though_the_successor_never_looked_it_up() {
    let mut world = world();
    let known = visit(&mut world, "kv/a/k1").unwrap();
    let sent = reads(&world);
    world.handover();
    assert!(matches!(world.open(0, known), Outcome::Done(Ok(_))));
    assert_eq!(reads(&world), sent, "its secret is at hand");
    // The kernel has been told what the directory holds, and need not ask again before it looks a name up.
    let kv = ino_of(&world, "kv");
    assert_eq!(world.lookup(kv, "a"), Ok(ino_of(&world, "kv/a")), "it stands where it stood");
    assert_eq!(world.lookup(kv, "same"), Err(FsError::ContentsUnknown), "it may be there");
    assert_eq!(world.lookup(kv, "none"), Err(FsError::ContentsUnknown), "nobody knows yet");
    // So it begins anew, and asks first.
    assert!(visit(&mut world, "kv/same/k1").is_ok());
    assert_eq!(world.lookup(kv, "none"), Err(FsError::NoSuchName));
}

#[test]
fn a_name_is_no_field_before_it_is_known_whether_it_is_an_entry() {
    let mut world = world();
    let handle = visit(&mut world, "kv/same/x/k1").and_then(|ino| try_open_ino(&mut world, ino)).unwrap();
    let (same, entry) = (ino_of(&world, "kv/same"), ino_of(&world, "kv/same/x"));
    visit(&mut world, "kv/same/#x").unwrap();
    let _ = world.open(0, ino_of(&world, "kv/same/#x"));
    world.pass(20 * MS);
    world.handover();
    // The secret is at hand and has a field of this name; the list is not.
    assert_eq!(world.lookup(same, "x"), Ok(entry));
    assert_eq!(world.kernel[&entry].node_type, NodeType::Directory);
    assert!(read(&world, handle).is_ok());
}

#[test]
fn what_was_in_a_directory_that_has_become_a_field_resolves() {
    let mut world = world();
    let below = visit(&mut world, "kv/same/x/k1").unwrap();
    let handle = try_open_ino(&mut world, below).unwrap();
    world.vault.lists.insert("tree/same".into(), Vec::new());
    world.pass(40 * S);
    visit(&mut world, "kv/same/x").unwrap();
    assert_eq!(world.kernel[&ino_of(&world, "kv/same/x")].node_type, NodeType::File);
    world.handover();
    assert_eq!(read(&world, handle), Ok(1));
    assert!(matches!(world.open(0, below), Outcome::Done(Ok(_)) | Outcome::Wait(_)));
}

#[test]
fn a_folder_that_can_not_be_listed_shows_the_fields_of_its_secret_to_the_successor_too() {
    let mut world = world();
    visit(&mut world, "kv/same/k1").unwrap();
    world.vault.lists.clear();
    world.vault.denied.insert("tree/same".into());
    world.handover();
    let same = ino_of(&world, "kv/same");
    if let Outcome::Wait(_) = world.getattr(0, same) {
        world.pass(20 * MS);
    }
    assert_ne!(world.lookup(same, "k1"), Err(FsError::ContentsUnknown), "Vault has answered");
}

#[test]
fn an_open_directory_of_a_tree_shows_what_it_showed() {
    let mut world = world();
    let kv = visit(&mut world, "kv").unwrap();
    let Outcome::Wait(_) = world.getattr(0, kv) else { panic!("its list is not there") };
    world.pass(20 * MS);
    let Outcome::Done(Ok(handle)) = world.opendir(0, kv) else { panic!("its list is there") };
    let names = world.readdir(handle);
    let root = match world.opendir(0, Ino::ROOT) {
        Outcome::Done(Ok(handle)) => handle,
        other => panic!("{other:?}"),
    };
    let in_root = world.readdir(root);
    world.vault.lists.insert("tree".into(), vec!["other".into()]);
    // Nothing is sent again, so both handles stay.
    world.replace_engine(world.layout.clone());
    assert_eq!(world.readdir(handle), names);
    assert_eq!(world.readdir(root), in_root);
    world.readdirplus(handle, 2, 10);
    world.releasedir(handle);
    world.releasedir(root);
    assert_eq!(world.engine.readdir(handle, 0, |_, _, _, _| Room::Left), Err(FsError::BadHandle));
}

#[test]
fn a_minting_read_that_was_under_way_may_be_lost_and_is_told_of() {
    let mut world = world();
    let file = ino(&mut world, "db/password");
    world.weather = Weather::Slow(S, S);
    let Outcome::Wait(_) = world.open(0, file) else { panic!("nothing is there") };
    world.pass(500 * MS);
    world.weather = Weather::Fair;
    world.handover();
    assert_eq!(possibly_lost(&world), 1);
    let handle = opened_again(&mut world);
    assert!(read(&world, handle).is_ok());
    assert_eq!(world.reads[&DATABASE], 2, "the one that was lost, and the one that came");
    world.handover();
    assert_eq!((possibly_lost(&world), world.reads[&DATABASE]), (1, 2), "told once");
}

#[test]
fn a_read_of_kv_that_was_under_way_is_asked_again_and_nothing_can_be_lost() {
    let mut world = world();
    let file = ino(&mut world, "plain");
    world.weather = Weather::Slow(S, S);
    let Outcome::Wait(_) = world.open(0, file) else { panic!("nothing is there") };
    world.weather = Weather::Fair;
    world.handover();
    let handle = opened_again(&mut world);
    assert_eq!((read(&world, handle), possibly_lost(&world)), (Ok(1), 0));
}

#[test]
fn a_renewal_under_way_is_asked_again() {
    let mut world = world();
    let handle = open(&mut world, "db/password");
    let first = read(&world, handle);
    world.pass(45 * S);
    world.weather = Weather::Slow(20 * S, 20 * S);
    let renewals = |world: &World| count(world, |one| matches!(one, Effect::RenewLease { .. }));
    while renewals(&world) == 0 {
        world.pass(S);
    }
    world.weather = Weather::Fair;
    world.replace_engine(world.layout.clone());
    assert_eq!(renewals(&world), 1);
    world.pass(20 * MS);
    assert_eq!(renewals(&world), 2, "at once");
    world.pass(200 * S);
    assert_eq!((read(&world, handle), world.reads[&DATABASE]), (first, 1));
}

#[test]
fn a_lease_whose_renewal_was_lost_with_its_asker_is_given_back_when_it_lapses() {
    let mut world = world();
    open(&mut world, "db/password");
    world.pass(45 * S);
    // It reaches Vault, and nobody hears of it.
    world.weather = Weather::Slow(MS, 100 * S);
    world.pass(25 * S);
    world.vault.down = Some(leasefs::core::error::Fault::Unreachable);
    world.replace_engine(world.layout.clone());
    world.pass(35 * S);
    assert_eq!(ended(&world, End::Lapsed), 1);
    world.vault.down = None;
    world.weather = Weather::Fair;
    world.pass(60 * S);
    assert!(world.vault.leases.keys().all(|lease| !world.vault.lease_lives(world.now, lease)));
}

#[test]
fn a_revocation_under_way_is_asked_again() {
    let mut world = world();
    open(&mut world, "db/password");
    let (file, lease) = (ino_of(&world, "db/password"), only_lease(&world));
    world.weather = Weather::Slow(HOUR, S);
    world.revoke(&[file]);
    world.weather = Weather::Fair;
    world.events.clear();
    world.replace_engine(world.layout.clone());
    assert_eq!(world.engine.census().retiring, 1);
    world.pass(20 * MS);
    assert!(!world.vault.lease_lives(world.now, &lease));
    assert_eq!(world.engine.census().retiring, 0);
}

#[test]
fn a_look_up_under_way_is_asked_again() {
    let mut world = world();
    let handle = open(&mut world, "db/password");
    world.weather = Weather::Slow(HOUR, S);
    let look_ups = |world: &World| count(world, |one| matches!(one, Effect::LookUpLease { .. }));
    while look_ups(&world) == 0 {
        world.pass(S);
    }
    world.weather = Weather::Fair;
    world.vault.leases.values_mut().for_each(|lease| lease.revoked = Some(world.now));
    world.replace_engine(world.layout.clone());
    world.pass(20 * MS);
    assert_eq!(read(&world, handle), Err(FsError::GenerationEnded));
}

#[test]
fn a_token_that_was_being_renewed_is_renewed_and_no_login_is_needed() {
    let mut world = world_with(DEFAULT, [HOUR, HOUR], [100 * S, 10 * HOUR], 1 << 20);
    let handle = open(&mut world, "db/password");
    let logins = count(&world, is_log_in);
    let renewals = |world: &World| count(world, |one| matches!(one, Effect::RenewToken { .. }));
    world.weather = Weather::Slow(HOUR, S);
    while renewals(&world) == 0 {
        world.pass(S);
    }
    world.weather = Weather::Fair;
    world.replace_engine(world.layout.clone());
    world.pass(20 * MS);
    assert_eq!((renewals(&world), count(&world, is_log_in)), (2, logins));
    world.pass(300 * S);
    assert!(read(&world, handle).is_ok());
    assert_eq!(count(&world, is_log_in), logins);
}

#[test]
fn a_login_under_way_is_tried_again() {
    let layout = crate::layout::layout(|| DEFAULT, 1 << 20);
    let mut world = World::new(layout, crate::layout::vault((HOUR, HOUR), (HOUR, HOUR)), 1);
    world.weather = Weather::Slow(HOUR, S);
    world.start();
    world.weather = Weather::Fair;
    world.handover();
    assert_eq!(count(&world, is_log_in), 4, "both identities, by both processes");
    world.pass(20 * MS);
    assert!(try_open(&mut world, "db/password").is_ok());
}

#[test]
fn a_login_under_way_is_told_of_until_its_token_must_be_over() {
    let layout = crate::layout::layout(|| DEFAULT, 1 << 20);
    let mut world = World::new(layout, crate::layout::vault((HOUR, HOUR), (HOUR, HOUR)), 1);
    let lost = |world: &World| -> Vec<_> {
        let lost = world.engine.status(world.now).lost_logins;
        lost.into_iter()
            .map(|(identity, lost)| (identity, lost.expires.map(|end| end.since(world.now))))
            .collect()
    };
    world.weather = Weather::Slow(10 * HOUR, S);
    world.start();
    assert_eq!(lost(&world), []);
    world.handover();
    assert_eq!(lost(&world), [(ROLE, None)], "the user's own token is not issued by a login");
    world.weather = Weather::Fair;
    world.handover();
    assert_eq!(lost(&world), [(ROLE, None), (ROLE, None)], "one more of the same kind");
    let told = world.reports.iter().filter(|one| matches!(one, Report::LoginLost { identity: Some(ROLE) }));
    assert_eq!(told.count(), 2);
    world.pass(20 * MS);
    let ends = lost(&world);
    assert!(ends.iter().all(|(_, left)| left.is_some_and(|left| left <= HOUR)), "{ends:?}");
    world.handover();
    assert_eq!(lost(&world).len(), 2, "a login that has come back is not lost");
    world.pass(HOUR + S);
    assert_eq!(lost(&world), []);
}

#[test]
fn a_login_of_an_identity_that_is_gone_is_told_of_too() {
    let layout = crate::layout::layout(|| DEFAULT, 1 << 20);
    let mut world = World::new(layout, crate::layout::vault((HOUR, HOUR), (HOUR, HOUR)), 1);
    world.weather = Weather::Slow(HOUR, S);
    world.start();
    let mut other = world.layout.clone();
    other.identities[0] = "another role".to_owned();
    world.replace_engine(other);
    let told = world.reports.iter().filter(|one| matches!(one, Report::LoginLost { identity: None }));
    assert_eq!(told.count(), 1);
    assert!(world.engine.status(world.now).lost_logins.is_empty());
}

#[test]
fn a_successor_goes_on_to_stop_whatever_its_predecessor_had_come_to() {
    for had_stopped in [false, true] {
        let mut world = world();
        let handle = open(&mut world, "db/password");
        let lease = only_lease(&world);
        match had_stopped {
            false => world.engine.will_stop(),
            true => drop(world.stop()),
        }
        world.handover();
        assert!(world.engine.is_stopping());
        let (logins, fetched) = (count(&world, is_log_in), reads(&world));
        // It answers until all is given back, and asks for nothing any more.
        assert_eq!(read(&world, handle).is_ok(), !had_stopped);
        let file = ino(&mut world, "weather.json");
        assert_eq!(world.open(0, file), Outcome::Done(Err(FsError::Stopping)));
        world.pass(S);
        world.handover();
        let settlement = world.stop();
        let is_owed = settlement.leases.iter().any(|debt| debt.lease == lease);
        assert_ne!(
            is_owed,
            !world.vault.lease_lives(world.now, &lease),
            "it is given back, or is going to be"
        );
        assert_eq!(settlement.tokens.len(), 1, "{settlement:?}");
        assert_eq!((count(&world, is_log_in), reads(&world)), (logins, fetched));
        assert_eq!(read(&world, handle), Err(FsError::GenerationEnded));
    }
}

#[test]
fn a_login_that_an_operator_wanted_anew_is_tried_again_though_a_token_lives() {
    let mut world = world();
    let logins = count(&world, is_log_in);
    world.weather = Weather::Slow(HOUR, S);
    world.log_in_anew();
    world.weather = Weather::Fair;
    world.handover();
    world.pass(20 * MS);
    assert_eq!(count(&world, is_log_in), logins + 4);
    world.anew = false;
    world.handover();
    assert_eq!(count(&world, is_log_in), logins + 4, "it has gone well");
}

#[test]
fn a_login_that_was_refused_is_not_repeated_by_each_successor() {
    let mut world = world();
    world.vault.down = Some(leasefs::core::error::Fault::Denied);
    world.log_in_anew();
    world.pass(20 * MS);
    let logins = count(&world, is_log_in);
    for _ in 0..5 {
        world.handover();
        world.pass(20 * MS);
    }
    assert_eq!(count(&world, is_log_in), logins, "it may lock the account");
}

#[test]
fn what_ended_while_nobody_served_is_not_shown() {
    let mut world = world();
    let handles = ["db/password", "weather.json"].map(|name| open(&mut world, name));
    world.advance(world.now + 300 * S, Pace::Asleep);
    world.replace_engine(world.layout.clone());
    assert_eq!(handles.map(|handle| read(&world, handle)), [Err(FsError::GenerationEnded); 2]);
    assert!(try_open(&mut world, "db/password").is_ok());
}

#[test]
fn a_handle_that_nobody_was_told_of_is_closed_when_its_open_comes_again() {
    let mut world = world();
    let file = ino(&mut world, "db/password");
    open(&mut world, "db/password");
    let Outcome::Done(Ok(opened)) = world.open(0, file) else { panic!("it is live") };
    let request = world.handles[&opened.handle].request;
    world.replace_engine(world.layout.clone());
    world.handles.remove(&opened.handle);
    let Outcome::Done(Ok(again)) = world.open_as(0, file, request) else { panic!("it is live") };
    assert_eq!(read(&world, opened.handle), Err(FsError::BadHandle));
    assert!(again.handle > opened.handle, "numbers are not used again");
    assert_eq!(world.engine.census().open_files, 2);
    // By the same number: that one was opened by this process, and somebody has it.
    let _ = world.open_as(0, file, request);
    assert_eq!(world.engine.census().open_files, 3);
}

#[test]
fn a_handle_that_nobody_was_told_of_is_closed_though_its_name_is_a_directory_by_now() {
    let mut world = world();
    let file = visit(&mut world, "kv/same/k1").unwrap();
    let handle = try_open_ino(&mut world, file).unwrap();
    let request = world.handles[&handle].request;
    world.vault.lists.insert("tree/same".into(), vec!["k1/".into()]);
    world.pass(40 * S);
    visit(&mut world, "kv/same/k1").unwrap();
    world.replace_engine(world.layout.clone());
    world.handles.remove(&handle);
    assert_eq!(world.open_as(0, file, request), Outcome::Done(Err(FsError::IsADirectory)));
    assert_eq!(read(&world, handle), Err(FsError::BadHandle));
}

#[test]
fn the_number_of_a_handle_that_was_closed_is_not_used_again() {
    let mut world = world();
    let handle = open(&mut world, "plain");
    world.release(handle);
    world.handover();
    assert!(open(&mut world, "plain") > handle);
}

#[test]
fn a_name_that_has_vanished_stays_away() {
    let mut world = world();
    let handle = open(&mut world, "db/dsn");
    world.release(handle);
    let parent = ino_of(&world, "db");
    world.revoke(&[ino_of(&world, "db/dsn")]);
    assert_eq!(world.lookup(parent, "dsn"), Err(FsError::Vanished));
    world.handover();
    assert_eq!(world.lookup(parent, "dsn"), Err(FsError::Vanished));
    world.refresh(&[ino_of(&world, "db/dsn")]);
    world.pass(20 * MS);
    assert!(world.lookup(parent, "dsn").is_ok());
}

#[test]
fn a_required_file_is_kept_by_the_successor_too() {
    let kept = SourcePolicy { renew: Renew::Required, ..DEFAULT };
    let mut world = world_with(kept, [20 * S, 20 * S], [1000 * HOUR, 1000 * HOUR], 1 << 20);
    for _ in 0..10 {
        world.pass(10 * S);
        world.handover();
        assert!(matches!(open_now(&mut world, "db/password"), Ok(Ok(_))));
    }
}

fn open_now(world: &mut World, name: &str) -> Result<Result<Answer, FsError>, ()> {
    let file = ino(world, name);
    match world.open(0, file) {
        Outcome::Done(result) => Ok(result.map(Answer::Opened)),
        Outcome::Wait(_) | Outcome::NeedGroups | Outcome::NeedProcess => Err(()),
    }
}

#[test]
fn the_bucket_is_no_fuller_for_the_successor() {
    let mut world = world();
    world
        .vault
        .paths
        .insert("database/creds/app".into(), VaultEngine::Dynamic { lease: S, max: S, renewable: false });
    let file = ino(&mut world, "db/password");
    for _ in 0..100 {
        let _ = world.open(0, file);
        world.pass(50 * MS);
        world.revoke(&[file]);
        world.handover();
    }
    let passed = 5;
    assert!(world.reads[&DATABASE] <= 3 + passed, "{} in {passed} s", world.reads[&DATABASE]);
}

/// A world in which there is something of everything, and its cells.
fn full() -> (World, Vec<(Key, Stored<TestBody>)>) {
    let mut world = world();
    for name in ["db/password", "weather.json", "plain", "tls/tls.crt", "cloud", "all.json"] {
        open(&mut world, name);
    }
    let file = visit(&mut world, "kv/a/k1").unwrap();
    let _ = world.open(0, file);
    for path in ["kv", "kv/a", "db"] {
        let directory = ino_of(&world, path);
        let _ = world.opendir(0, directory);
    }
    world.pass(20 * MS);
    world.weather = Weather::Slow(HOUR, S);
    let files = ["db/dsn", "plain"].map(|name| ino(&mut world, name));
    world.refresh(&files);
    world.revoke(&files);
    world.seal();
    let cells = world.stored();
    for kind in ["Lease", "Vanished", "Name", "Directory", "File", "Body", "Pieces", "Source", "Identity"] {
        assert!(cells.iter().any(|(key, _)| format!("{key:?}").starts_with(kind)), "no {kind}");
    }
    (world, cells)
}

fn restore(world: &World, cells: Vec<(Key, Stored<TestBody>)>) -> Result<Engine<TestBody>, RestoreError> {
    let at = Moment { now: world.now, chance: Chance(1) };
    Engine::restore(world.layout.clone(), Arc::new(world.ledger.clone()), at, cells)
        .map(|restored| restored.engine)
}

fn with(world: &World, at: usize, change: impl Fn(&str) -> String) -> Option<Vec<(Key, Stored<TestBody>)>> {
    let mut cells = world.stored();
    let Stored::Plain(text) = &mut cells[at].1 else { return None };
    *text = change(std::str::from_utf8(text).unwrap()).into_bytes();
    Some(cells)
}

#[test]
fn a_cell_that_can_not_be_read_is_an_error_that_names_it() {
    let (world, cells) = full();
    for (at, (key, _)) in cells.iter().enumerate() {
        // What is in it does not matter.
        if matches!(key, Key::Vanished(_)) {
            continue;
        }
        for broken in ["", "{", "\"x\"", "[1", "\u{0}", "{\"ids\":-1,\"login\":7}"] {
            let Some(cells) = with(&world, at, |_| broken.to_owned()) else { continue };
            match restore(&world, cells) {
                Err(RestoreError::Unreadable { key: named, why }) => {
                    assert_eq!(named, *key);
                    assert!(!why.is_empty());
                }
                other => panic!("{key:?} {broken:?}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_cell_without_some_of_its_fields_or_of_its_end_is_read_or_refused() {
    let (world, cells) = full();
    for (at, (key, stored)) in cells.iter().enumerate() {
        let Stored::Plain(text) = stored else { continue };
        let text = String::from_utf8(text.clone()).unwrap();
        for end in (0..text.len()).step_by(7) {
            if let Some(cells) = with(&world, at, |text| text[..end].to_owned()) {
                assert!(restore(&world, cells).is_err() || matches!(key, Key::Vanished(_)), "{key:?}");
            }
        }
        let Ok(serde_json::Value::Object(fields)) = serde_json::from_str(&text) else { continue };
        for name in fields.keys() {
            let mut less = fields.clone();
            less.remove(name);
            let less = serde_json::Value::Object(less).to_string();
            let cells = with(&world, at, |_| less.clone()).unwrap();
            if let Err(error) = restore(&world, cells) {
                assert!(error.to_string().contains(name.as_str()), "{key:?}: {error}");
            }
        }
    }
}

#[test]
fn a_field_that_a_newer_program_wrote_is_ignored() {
    let (world, cells) = full();
    let newer = |text: &str| text.replacen('{', "{\"newer\":{\"than\":[\"this\"]},", 1);
    let all = cells.into_iter().map(|(key, stored)| match stored {
        Stored::Plain(text) if text.starts_with(b"{") => {
            let text = newer(std::str::from_utf8(&text).unwrap());
            (key, Stored::Plain(text.into_bytes()))
        }
        other => (key, other),
    });
    let all: Vec<_> = all.collect();
    assert!(restore(&world, all).is_ok());
}

#[test]
fn a_cell_that_is_missing_is_an_error_or_nothing_that_panics() {
    let (world, cells) = full();
    for (at, (key, _)) in cells.iter().enumerate() {
        let mut less = world.stored();
        less.remove(at);
        match (key, restore(&world, less)) {
            (Key::Layout | Key::Pieces(_) | Key::Body { .. }, result) => {
                assert_eq!(result.err(), Some(RestoreError::Missing(key.clone())));
            }
            (_, Ok(mut engine)) => {
                let at = Moment { now: world.now, chance: Chance(1) };
                let _ = engine.start(at);
                let _ = engine.tick(at);
                let _ = engine.status(at.now);
            }
            (_, Err(error)) => panic!("without {key:?}: {error}"),
        }
    }
    let none: Vec<(Key, Stored<TestBody>)> = Vec::new();
    assert_eq!(restore(&world, none).err(), Some(RestoreError::Missing(Key::Layout)));
}

#[test]
fn bytes_where_text_belongs_are_refused() {
    let (world, cells) = full();
    let body = cells.iter().find_map(|(_, stored)| match stored {
        Stored::Body(body) => Some(body.clone()),
        Stored::Plain(_) => None,
    });
    for at in 0..cells.len() {
        let mut wrong = world.stored();
        wrong[at].1 = match &wrong[at].1 {
            Stored::Plain(_) => Stored::Body(body.clone().unwrap()),
            Stored::Body(_) => Stored::Plain(b"{}".to_vec()),
        };
        assert_eq!(restore(&world, wrong).err(), Some(RestoreError::Kind(cells[at].0.clone())));
    }
}

#[test]
fn bytes_are_written_once() {
    let mut world = world();
    let handle = open(&mut world, "db/password");
    let mut written = Vec::new();
    let file = ino_of(&world, "db/password");
    for _ in 0..3 {
        let at = world.at();
        let (Outcome::Done(Ok(opened)), _) = world.engine.open(at, &crate::world::caller(0, false, 0), file)
        else {
            panic!("it is live")
        };
        world.engine.write_changes(&mut |key, _| written.push(key.clone()));
        let _ = world.engine.release(at, opened.handle);
        world.engine.write_changes(&mut |key, _| written.push(key.clone()));
    }
    let of = |pick: fn(&Key) -> bool| written.iter().filter(|key| pick(key)).count();
    assert_eq!(of(|key| matches!(key, Key::File(_))), 6, "{written:?}");
    assert_eq!(of(|key| matches!(key, Key::Source(_))), 3, "a close is in the handle's cell: {written:?}");
    assert_eq!(written.len(), 9, "{written:?}");
    written.clear();
    let _ = world.engine.lookup(world.now, ino_of(&world, "db"), "password");
    let _ = read(&world, handle);
    world.engine.write_changes(&mut |key, _| written.push(key.clone()));
    assert!(written.is_empty(), "{written:?}");
}

#[test]
fn a_long_time_of_handovers_leaks_nothing() {
    let mut world = world();
    for _ in 0..30 {
        for name in ["db/password", "weather.json", "plain"] {
            let handle = open(&mut world, name);
            world.handover();
            if world.handles.contains_key(&handle) {
                world.release(handle);
            }
            for handle in world.handles.keys().copied().collect::<Vec<_>>() {
                world.release(handle);
            }
        }
        world.pass(Duration::from_secs(7));
    }
    world.pass(HOUR);
    let census = world.engine.census();
    assert_eq!((census.open_files, census.retiring, census.names, world.engine.memory()), (0, 0, 0, 0));
    let left: Vec<&Key> = world.cells.keys().collect();
    let plain = |key: &&&Key| {
        matches!(key, Key::Layout | Key::Numbers | Key::Source(_) | Key::Identity(_) | Key::Vanished(_))
    };
    assert_eq!(left.iter().filter(plain).count(), left.len(), "{left:?}");
}

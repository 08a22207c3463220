//! One story each, told in full.

use std::time::Duration;

use leasefs::core::effect::{Answer, Effect, End, Minting, Outcome, Report};
use leasefs::core::engine::Reader;
use leasefs::core::error::{Fault, FsError};
use leasefs::core::name::{HandleId, Ino, LeaseId};
use leasefs::core::policy::SourcePolicy;

use crate::layout::{CLOUD, DATABASE, DEFAULT, WEATHER, layout, vault};
use crate::vault::Engine;
use crate::world::{Pace, Weather, World};

pub const MS: Duration = Duration::from_millis(1);
pub const S: Duration = Duration::from_secs(1);
pub const HOUR: Duration = Duration::from_secs(3600);

/// A world that has logged in, with leases and tokens of these lengths and maxima.
pub fn world_with(policy: SourcePolicy, lease: [Duration; 2], token: [Duration; 2], memory: u64) -> World {
    let layout = layout(|| policy, memory);
    let mut world = World::new(layout, vault((lease[0], lease[1]), (token[0], token[1])), 1);
    world.start();
    world.pass(20 * MS);
    world
}

/// Leases of 100 s that last an hour at most; tokens that last.
pub fn world() -> World {
    world_with(DEFAULT, [100 * S, HOUR], [1000 * HOUR, 1000 * HOUR], 1 << 20)
}

pub fn ino(world: &mut World, name: &str) -> Ino {
    world.walk(name).unwrap()
}

/// What opening a file comes to, after a moment for Vault's answer.
pub fn try_open(world: &mut World, name: &str) -> Result<HandleId, FsError> {
    let ino = ino(world, name);
    try_open_ino(world, ino)
}

pub fn try_open_ino(world: &mut World, ino: Ino) -> Result<HandleId, FsError> {
    match world.open(0, ino) {
        Outcome::Done(result) => result.map(|opened| opened.handle),
        Outcome::Wait(ticket) => {
            world.pass(20 * MS);
            match world.answers.get(&ticket).cloned().expect("Vault answers at once") {
                Ok(Answer::Opened(opened)) => Ok(opened.handle),
                Ok(other) => panic!("{other:?}"),
                Err(error) => Err(error),
            }
        }
        Outcome::NeedGroups | Outcome::NeedProcess => panic!("the owner needs no groups"),
    }
}

pub fn open(world: &mut World, name: &str) -> HandleId {
    try_open(world, name).unwrap()
}

/// Which value a handle reads now.
pub fn read(world: &World, handle: HandleId) -> Result<u64, FsError> {
    world.engine.read(world.now, handle, Reader::Handle).map(|body| body.content)
}

/// Walks into a directory of a tree or of fields, as the kernel does.
pub fn visit(world: &mut World, path: &str) -> Result<Ino, FsError> {
    let mut at = Ino::ROOT;
    for name in path.split('/') {
        if let Outcome::Wait(ticket) = world.getattr(0, at) {
            world.pass(20 * MS);
            assert!(world.answers.contains_key(&ticket));
        }
        at = world.lookup(at, name)?;
    }
    Ok(at)
}

pub fn count(world: &World, pick: impl Fn(&Effect) -> bool) -> usize {
    world.sent.iter().filter(|effect| pick(effect)).count()
}

pub fn reads(world: &World) -> usize {
    count(world, |effect| matches!(effect, Effect::Read { .. }))
}

pub fn ended(world: &World, end: End) -> usize {
    world.reports.iter().filter(|one| matches!(one, Report::Ended { why, .. } if *why == end)).count()
}

pub fn only_lease(world: &World) -> LeaseId {
    let mut living = world.vault.leases.keys().filter(|lease| world.vault.lease_lives(world.now, lease));
    let lease = living.next().expect("a lease").clone();
    assert_eq!(living.next(), None);
    lease
}

#[test]
fn a_planned_login_moves_what_is_in_use_and_shows_no_dead_byte() {
    let mut world = world_with(DEFAULT, [HOUR, 20 * HOUR], [HOUR, HOUR], 1 << 20);
    let (database, weather) = (open(&mut world, "db/password"), open(&mut world, "weather.json"));
    let first = read(&world, database).unwrap();
    for _ in 0..120 {
        world.pass(60 * S);
        let again = open(&mut world, "db/password");
        assert!(read(&world, again).is_ok());
        world.release(again);
    }
    assert_eq!(read(&world, database), Err(FsError::GenerationEnded), "the first token is long over");
    assert_eq!(read(&world, weather), Ok(1), "the same version, confirmed with each new token");
    let again = open(&mut world, "db/password");
    assert_ne!(read(&world, again), Ok(first));
    let mints = world.reads[&DATABASE];
    assert!((3..=6).contains(&mints), "one for each token in two hours: {mints}");
    assert_eq!(ended(&world, End::TokenGone), 1, "all but the handle of the first had moved before");
    assert!(world.engine.census().tokens <= 3, "earlier tokens are given back");
}

#[test]
fn a_lost_token_ends_all_that_it_obtained_at_once() {
    let mut world = world();
    let handles = ["db/password", "weather.json", "cloud"].map(|name| open(&mut world, name));
    revoke_the_tokens(&mut world);
    world.pass(61 * S);
    assert_eq!(
        handles.map(|handle| read(&world, handle).is_ok()),
        [false, false, true],
        "another's token lives"
    );
    assert!(ended(&world, End::TokenGone) >= 2);
    let again = open(&mut world, "db/password");
    assert!(read(&world, again).is_ok(), "the identity has logged in again");
}

#[test]
fn after_an_outage_too_a_reader_gets_what_the_next_token_brings() {
    let mut world = world();
    world.vault.down = Some(Fault::Unreachable);
    assert_eq!(try_open(&mut world, "weather.json"), Err(FsError::VaultDown));
    world.vault.down = None;
    revoke_the_tokens(&mut world);
    let handle = try_open(&mut world, "weather.json");
    assert!(handle.is_ok(), "not told that the last token has died: {handle:?}");
}

/// All tokens of the first identity die in Vault.
fn revoke_the_tokens(world: &mut World) {
    let dead: Vec<u64> =
        world.tokens.iter().filter(|(with, _)| with.identity.0 == 0).map(|(_, one)| *one).collect();
    for token in dead {
        world.vault.revoke_token(world.now, token);
    }
}

#[test]
fn a_reader_gets_what_the_next_token_brings_though_two_have_died_together() {
    let mut world = world();
    // The earlier token is kept for the leases that it has obtained.
    open(&mut world, "db/password");
    world.log_in_anew();
    world.pass(20 * MS);
    assert!(world.engine.census().tokens > 2, "two of the first identity, and that of another");
    revoke_the_tokens(&mut world);
    let handle = try_open(&mut world, "weather.json");
    assert!(handle.is_ok(), "{handle:?}");
    world.log_in_anew();
    world.pass(20 * MS);
    revoke_the_tokens(&mut world);
    assert!(visit(&mut world, "kv/folder/deep").is_ok());
}

#[test]
fn what_was_too_long_on_its_way_is_read_again() {
    // What arrives is good for two seconds, and a caller waits for five.
    let policy = SourcePolicy { max_age: S, grace: S, ..DEFAULT };
    let mut world = world_with(policy, [100 * S, HOUR], [1000 * HOUR, 1000 * HOUR], 1 << 20);
    let ino = ino(&mut world, "weather.json");
    // What failed before, for another reason, says nothing of it.
    world.vault.down = Some(Fault::Unreachable);
    assert_eq!(try_open_ino(&mut world, ino), Err(FsError::VaultDown));
    world.vault.down = None;
    world.weather = Weather::Slow(2 * S, S);
    let Outcome::Wait(ticket) = world.open(0, ino) else { panic!("nothing is there") };
    world.weather = Weather::Fair;
    world.pass(4 * S);
    let answer = world.answers.get(&ticket).cloned();
    assert!(matches!(answer, Some(Ok(Answer::Opened(_)))), "{answer:?}");
}

#[test]
fn a_list_is_asked_for_again_with_the_next_token_and_its_failure_is_told_once() {
    let mut world = world();
    world.vault.down = Some(Fault::Unreachable);
    for _ in 0..5 {
        assert!(visit(&mut world, "kv/folder").is_err());
    }
    let told = |report: &&Report| matches!(report, Report::ListFailed { .. });
    assert_eq!(world.reports.iter().filter(told).count(), 1);
    world.vault.down = None;
    revoke_the_tokens(&mut world);
    assert!(visit(&mut world, "kv/folder/deep").is_ok(), "not told that the last token has died");
}

#[test]
fn a_lease_revoked_upstream_is_shown_no_longer_than_the_check_takes() {
    let mut world = world();
    let handle = open(&mut world, "db/password");
    world.pass(5 * S);
    let lease = only_lease(&world);
    world.vault.leases.get_mut(&lease).unwrap().revoked = Some(world.now);
    world.pass(35 * S);
    assert_eq!(read(&world, handle), Err(FsError::GenerationEnded));
    assert_eq!(ended(&world, End::GoneInVault), 1);
    let again = open(&mut world, "db/password");
    assert!(read(&world, again).is_ok());
}

#[test]
fn renewals_that_fail_for_a_while_mint_nothing_before_a_third_is_left() {
    let mut world = world();
    let handle = open(&mut world, "db/password");
    world.vault.renewals_fail = Some(Fault::ServerError);
    world.pass(66 * S);
    assert_eq!(world.reads[&DATABASE], 1);
    assert!(count(&world, |effect| matches!(effect, Effect::RenewLease { .. })) >= 1);
    world.pass(20 * S);
    assert_eq!(world.reads[&DATABASE], 2, "a third was left");
    assert!(read(&world, handle).is_ok(), "the old one lives on for who has it open");
}

#[test]
fn renewals_that_recover_mint_nothing_at_all() {
    let mut world = world();
    let handle = open(&mut world, "db/password");
    world.vault.renewals_fail = Some(Fault::TimedOut);
    world.pass(60 * S);
    world.vault.renewals_fail = None;
    world.pass(300 * S);
    assert_eq!(world.reads[&DATABASE], 1);
    assert!(read(&world, handle).is_ok());
}

#[test]
fn somebody_who_opens_turns_would_mint_into_a_minting_read() {
    let mut world = world();
    let ino = ino(&mut world, "db/password");
    world.weather = Weather::Slow(50 * MS, 50 * MS);
    let Outcome::Wait(looks) = world.getattr(0, ino) else { panic!("nobody knows yet whether it is KV") };
    let Outcome::Wait(opens) = world.open(0, ino) else { panic!("nothing is there") };
    assert_eq!(reads(&world), 1, "one read for both");
    assert!(matches!(world.sent.last(), Some(Effect::Read { minting: Minting::Forbidden, .. })));
    world.pass(110 * MS);
    assert!(matches!(world.sent.last(), Some(Effect::Read { minting: Minting::Allowed, .. })));
    assert!(matches!(&world.answers[&looks], Ok(Answer::Attributes(attributes)) if attributes.size == 0));
    world.pass(110 * MS);
    assert!(matches!(&world.answers[&opens], Ok(Answer::Opened(_))));
    assert!(matches!(world.getattr(0, ino), Outcome::Done(Ok(attributes)) if attributes.size > 0));
}

#[test]
fn a_vanished_name_comes_back_by_refresh_alone() {
    let mut world = world();
    let dsn = ino(&mut world, "db/dsn");
    let handle = open(&mut world, "db/dsn");
    world.revoke(&[dsn]);
    assert_eq!(read(&world, handle), Err(FsError::GenerationEnded));
    assert_eq!(world.walk("db/dsn"), Err(FsError::Vanished));
    assert_eq!(world.getattr(0, dsn), Outcome::Done(Err(FsError::Vanished)));
    assert_eq!(world.open(0, dsn), Outcome::Done(Err(FsError::Vanished)));
    open(&mut world, "db/password");
    assert_eq!(
        world.walk("db/dsn"),
        Err(FsError::Vanished),
        "that another file of its source lives is no reason"
    );
    world.refresh(&[dsn]);
    world.pass(20 * MS);
    let again = open(&mut world, "db/dsn");
    assert!(read(&world, again).is_ok());
}

#[test]
fn rotation_gives_the_new_credential_to_new_opens_and_keeps_the_old_handles() {
    let mut world = world_with(DEFAULT, [100 * S, 200 * S], [1000 * HOUR, 1000 * HOUR], 1 << 20);
    let old = open(&mut world, "db/password");
    let first = read(&world, old).unwrap();
    while world.reads[&DATABASE] == 1 {
        world.pass(S);
    }
    world.pass(S);
    let new = open(&mut world, "db/password");
    let second = read(&world, new).unwrap();
    assert_ne!(first, second);
    assert_eq!(read(&world, old), Ok(first));
    assert_eq!(world.engine.read(world.now, old, Reader::PageCache).map(|body| body.content), Ok(second));
    let lease = LeaseId(format!("database/creds/app/{first}"));
    assert!(world.vault.lease_lives(world.now, &lease));
    world.release(old);
    world.pass(20 * MS);
    assert!(!world.vault.lease_lives(world.now, &lease), "nobody reads it any more");
    assert_eq!(read(&world, new), Ok(second));
}

#[test]
fn stale_kv_is_served_for_its_grace_while_vault_fails_and_then_no_more() {
    let mut world = world();
    let handle = open(&mut world, "weather.json");
    world.vault.down = Some(Fault::Unreachable);
    world.pass(100 * S);
    assert_eq!(read(&world, handle), Ok(1));
    let late = open(&mut world, "weather.json");
    assert_eq!(read(&world, late), Ok(1));
    world.pass(25 * S);
    assert_eq!(read(&world, handle), Err(FsError::GenerationEnded));
    assert_eq!(try_open(&mut world, "weather.json"), Err(FsError::VaultDown));
    world.vault.down = None;
    world.pass(S);
    assert!(try_open(&mut world, "weather.json").is_ok());
}

#[test]
fn kv_deleted_in_vault_ends_as_soon_as_vault_says_so() {
    let mut world = world();
    let handle = open(&mut world, "weather.json");
    if let Some(Engine::Kv2 { exists, .. }) = world.vault.paths.get_mut("secret/weather") {
        *exists = false;
    }
    world.pass(53 * S);
    assert_eq!(read(&world, handle), Ok(1), "not asked again before nine tenths of max-age");
    world.pass(8 * S);
    assert_eq!(read(&world, handle), Err(FsError::GenerationEnded));
    assert_eq!(try_open(&mut world, "weather.json"), Err(FsError::NoSuchSecret));
}

#[test]
fn replaced_kv_stays_for_its_grace_on_old_handles() {
    let mut world = world();
    let old = open(&mut world, "weather.json");
    if let Some(Engine::Kv2 { version, .. }) = world.vault.paths.get_mut("secret/weather") {
        *version = 2;
    }
    world.pass(61 * S);
    let new = open(&mut world, "weather.json");
    assert_eq!((read(&world, old), read(&world, new)), (Ok(1), Ok(2)));
    world.pass(61 * S);
    assert_eq!((read(&world, old), read(&world, new)), (Err(FsError::GenerationEnded), Ok(2)));
}

#[test]
fn what_vault_does_not_give_any_more_ends_on_older_handles_too() {
    let policy = SourcePolicy { grace: HOUR, ..DEFAULT };
    let mut world = world_with(policy, [100 * S, HOUR], [1000 * HOUR, 1000 * HOUR], 1 << 20);
    let old = open(&mut world, "weather.json");
    let deletion = world.now + 90 * S;
    if let Some(Engine::Kv2 { version, deleted, .. }) = world.vault.paths.get_mut("secret/weather") {
        (*version, *deleted) = (2, Some(deletion));
    }
    world.pass(91 * S);
    assert_eq!(read(&world, old), Ok(1), "for its grace");
    assert_eq!(try_open(&mut world, "weather.json"), Err(FsError::NoSuchSecret));
    assert_eq!(read(&world, old), Err(FsError::GenerationEnded));
}

#[test]
fn of_three_versions_that_are_open_the_oldest_goes() {
    let mut world = world_with(
        SourcePolicy { grace: HOUR, ..DEFAULT },
        [100 * S, HOUR],
        [1000 * HOUR, 1000 * HOUR],
        1 << 20,
    );
    let mut handles = Vec::new();
    for next in 2..=4 {
        handles.push(open(&mut world, "weather.json"));
        if let Some(Engine::Kv2 { version, .. }) = world.vault.paths.get_mut("secret/weather") {
            *version = next;
        }
        world.pass(61 * S);
    }
    let seen: Vec<_> = handles.iter().map(|handle| read(&world, *handle)).collect();
    assert_eq!(seen, [Err(FsError::GenerationEnded), Err(FsError::GenerationEnded), Ok(3)]);
}

#[test]
fn the_least_recently_opened_kv_without_handles_makes_room() {
    let mut world = world_with(DEFAULT, [100 * S, HOUR], [1000 * HOUR, 1000 * HOUR], 145);
    for name in ["weather.json", "plain"] {
        let handle = open(&mut world, name);
        world.release(handle);
        world.pass(S);
    }
    let kept = open(&mut world, "plain");
    // 27 and 27 bytes are there; two files of one credential need more than the rest.
    let handle = open(&mut world, "db/password");
    assert!(read(&world, handle).is_ok() && read(&world, kept).is_ok());
    assert_eq!(ended(&world, End::Evicted), 1);
    let evicted = world.reports.iter().find_map(|report| match report {
        Report::Ended { source, why: End::Evicted, .. } => Some(*source),
        _ => None,
    });
    assert_eq!(evicted, Some(WEATHER));
}

#[test]
fn what_comes_after_its_reader_has_given_up_is_shown_and_what_comes_too_late_is_revoked() {
    let mut world = world();
    let ino = ino(&mut world, "cloud");
    world.weather = Weather::Slow(10 * S, 2 * S);
    let Outcome::Wait(ticket) = world.open(0, ino) else { panic!("nothing is there") };
    world.pass(6 * S);
    assert_eq!(world.answers[&ticket], Err(FsError::TimedOut));
    world.weather = Weather::Fair;
    world.pass(10 * S);
    let handle = open(&mut world, "cloud");
    assert_eq!(world.reads[&CLOUD], 1, "the read went on without its reader");
    world.release(handle);
    world.revoke(&[ino]);
    world.pass(S);

    world.weather = Weather::Slow(20 * S, 20 * S);
    let _ = world.open(0, ino);
    world.weather = Weather::Fair;
    world.pass(35 * S);
    only_lease(&world);
    world.pass(10 * S);
    assert!(world.reports.iter().any(|report| matches!(report, Report::LateCredential { .. })));
    assert!(world.vault.leases.keys().all(|lease| !world.vault.lease_lives(world.now, lease)));
}

#[test]
fn a_timer_that_is_late_shows_nothing_dead() {
    let mut world = world();
    let handle = open(&mut world, "cloud");
    world.advance(world.now + 99 * S, Pace::Asleep);
    assert_eq!(read(&world, handle), Err(FsError::GenerationEnded));
    assert!(world.engine.memory() > 0, "nobody has ticked yet");
    world.tick();
    assert_eq!(world.engine.memory(), 0);
}

//! What once went wrong in the engine, each with the least that shows it.

use std::time::Duration;

use leasefs::core::effect::{Effect, End, Outcome, Report};
use leasefs::core::error::{Fault, FsError};
use leasefs::core::name::Ino;
use leasefs::core::policy::{Renew, SourcePolicy};

use crate::checks;
use crate::layout::{CLOUD, DATABASE, DEFAULT, WEATHER};
use crate::scenarios::{
    HOUR, MS, S, count, ended, ino, only_lease, open, read, reads, try_open, visit, world, world_with,
};
use crate::vault::Engine;
use crate::world::{Pace, Weather};

const LONG: [Duration; 2] = [HOUR.saturating_mul(1000), HOUR.saturating_mul(1000)];
const KEPT: SourcePolicy = SourcePolicy { renew: Renew::Always, ..DEFAULT };

#[test]
fn a_renewal_granted_after_the_end_brings_nothing_back() {
    let mut world = world();
    let handle = open(&mut world, "db/password");
    world.pass(45 * S);
    world.weather = Weather::Slow(S, 25 * S);
    world.pass(25 * S);
    // The renewal was granted at Vault; its answer and the timer come when the lease was over here.
    world.advance(world.now + 33 * S, Pace::Asleep);
    assert_eq!(read(&world, handle), Err(FsError::GenerationEnded));
    world.weather = Weather::Fair;
    world.advance(world.now, Pace::Late);
    assert_eq!(read(&world, handle), Err(FsError::GenerationEnded));
    world.pass(S);
    assert!(
        world.vault.leases.keys().all(|lease| !world.vault.lease_lives(world.now, lease)),
        "it is revoked"
    );
}

#[test]
fn a_token_renewed_after_its_end_brings_nothing_back_and_is_revoked() {
    let mut world = world_with(DEFAULT, [HOUR, HOUR], [100 * S, HOUR], 1 << 20);
    let handle = open(&mut world, "db/password");
    world.pass(45 * S);
    world.weather = Weather::Slow(S, 25 * S);
    world.pass(25 * S);
    world.advance(world.now + 33 * S, Pace::Asleep);
    assert_eq!(read(&world, handle), Err(FsError::GenerationEnded));
    world.weather = Weather::Fair;
    world.advance(world.now, Pace::Late);
    assert_eq!(read(&world, handle), Err(FsError::GenerationEnded));
    world.pass(S);
    let living = world.vault.tokens.values().filter(|one| one.ours && one.revoked.is_none()).count();
    assert_eq!(living, 1, "the new one");
}

#[test]
fn a_lease_whose_renewal_was_never_answered_is_revoked_when_it_lapses() {
    let mut world = world();
    let handle = open(&mut world, "db/password");
    world.pass(45 * S);
    world.weather = Weather::Slow(30 * S, 100 * S);
    world.pass(50 * S);
    world.weather = Weather::Fair;
    world.pass(10 * S);
    assert_eq!(read(&world, handle), Err(FsError::GenerationEnded));
    assert!(world.vault.leases.keys().all(|lease| !world.vault.lease_lives(world.now, lease)));
}

#[test]
fn what_an_earlier_token_brings_in_after_the_login_moves_too() {
    let mut world = world_with(DEFAULT, [20 * HOUR, 20 * HOUR], [100 * S, 100 * S], 1 << 20);
    world.pass(49 * S);
    let file = ino(&mut world, "db/password");
    world.weather = Weather::Slow(20 * S, S);
    let Outcome::Wait(_) = world.open(0, file) else { panic!("nothing is there") };
    world.weather = Weather::Fair;
    world.pass(25 * S);
    assert_eq!(world.tokens.len(), 3, "a login came in between");
    for _ in 0..600 {
        let handle = open(&mut world, "db/password");
        assert!(read(&world, handle).is_ok());
        world.release(handle);
        world.pass(S);
    }
    assert_eq!(ended(&world, End::TokenGone), 0);
}

#[test]
fn a_replacement_that_fails_does_not_stay_with_the_earlier_token() {
    let mut world = world_with(DEFAULT, [20 * HOUR, 20 * HOUR], [1000 * S, 1000 * S], 1 << 20);
    let handle = open(&mut world, "db/password");
    while world.engine.census().tokens < 3 {
        world.pass(S);
    }
    world.vault.denied.insert("database/creds/app".into());
    while !world.reports.iter().any(|report| matches!(report, Report::FetchFailed { .. })) {
        world.pass(S);
    }
    world.vault.denied.clear();
    world.release(handle);
    while world.now.0 < 1_990_000_000_000 {
        world.pass(S);
    }
    open(&mut world, "db/password");
    world.pass(20 * S);
    assert_eq!(ended(&world, End::TokenGone), 0);
}

#[test]
fn a_look_up_asked_before_a_renewal_does_not_shorten_the_lease() {
    let mut world = world();
    let handle = open(&mut world, "db/password");
    world.pass(29 * S);
    // Asked at 30 s, answered at 59 s: Vault looked at 31 s, and the lease may have been renewed since.
    world.weather = Weather::Slow(S, 28 * S);
    world.pass(5 * S);
    world.weather = Weather::Fair;
    world.pass(300 * S);
    assert!(read(&world, handle).is_ok());
    assert_eq!(world.reads[&DATABASE], 1);
}

#[test]
fn a_look_up_that_was_long_on_its_way_does_not_shorten_the_lease() {
    let mut world = world();
    let handle = open(&mut world, "db/password");
    world.vault.renewals_fail = Some(Fault::Unusable);
    world.pass(29 * S);
    world.weather = Weather::Slow(28 * S, S);
    world.pass(5 * S);
    world.weather = Weather::Fair;
    world.pass(45 * S);
    assert!(read(&world, handle).is_ok(), "the lease has 20 s left");
}

#[test]
fn a_shortened_lease_is_replaced_before_it_ends() {
    let mut world = world_with(DEFAULT, [HOUR, 20 * HOUR], LONG, 1 << 20);
    let handle = open(&mut world, "db/password");
    world.pass(S);
    let lease = only_lease(&world);
    let short = world.now + 120 * S;
    let one = world.vault.leases.get_mut(&lease).unwrap();
    (one.promised, one.expires) = (Some(one.expires), short);
    world.pass(200 * S);
    assert!(read(&world, handle).is_ok(), "it was renewed in time");
}

#[test]
fn an_answer_that_comes_twice_is_not_revoked() {
    let mut world = world();
    world.twice = true;
    let handle = open(&mut world, "db/password");
    world.pass(2 * S);
    assert!(read(&world, handle).is_ok());
    only_lease(&world);
}

#[test]
fn an_opener_is_not_in_the_way_of_the_stop() {
    let mut world = world();
    let files = ["db/password", "cloud", "weather.json"].map(|name| ino(&mut world, name));
    world.weather = Weather::Slow(S, S);
    for file in files {
        assert!(matches!(world.open(0, file), Outcome::Wait(_)));
    }
    assert!(!world.stop().minting.is_empty());
    assert!(
        world.refresh(&files).iter().all(|(_, outcome)| *outcome == Outcome::Done(Err(FsError::Stopping)))
    );
    world.weather = Weather::Fair;
    world.pass(10 * S);
    checks::nothing_is_left(&world);
    let settlement = world.engine.settlement(world.now);
    checks::all_is_settled(&world, &settlement);
}

#[test]
fn after_the_stop_nothing_keeps_the_caller_busy() {
    let mut world = world_with(DEFAULT, [100 * S, HOUR], [100 * S, 100 * S], 1 << 20);
    let cloud = ino(&mut world, "cloud");
    // The bucket is empty: one read is queued.
    for _ in 0..3 {
        let _ = world.open(0, cloud);
        world.pass(20 * MS);
        world.revoke(&[cloud]);
    }
    world.stop();
    world.pass(400 * S);
}

#[test]
fn sources_that_are_always_kept_do_not_push_each_other_out_for_ever() {
    let mut world = world_with(KEPT, [100 * S, HOUR], LONG, 50);
    for name in ["weather.json", "plain"] {
        let handle = open(&mut world, name);
        world.release(handle);
    }
    let before = reads(&world);
    world.pass(30 * S);
    assert_eq!(reads(&world), before);
}

#[test]
fn a_revoked_source_that_is_always_kept_rests_until_its_next_open() {
    let mut world = world_with(KEPT, [100 * S, HOUR], LONG, 1 << 20);
    let handle = open(&mut world, "db/password");
    world.release(handle);
    let file = ino(&mut world, "db/password");
    world.revoke(&[file]);
    world.pass(300 * S);
    assert_eq!(world.reads[&DATABASE], 1);
}

#[test]
fn results_without_room_are_asked_for_ever_more_slowly() {
    let mut world = world_with(KEPT, [10 * S, HOUR], LONG, 1 << 20);
    let handle = open(&mut world, "cloud");
    world.layout.settings.max_memory = 1 << 20;
    world.release(handle);
    world.vault.paths.insert("cloud/creds/app".into(), Engine::Certificate { ttl: Some(Duration::ZERO) });
    world.pass(300 * S);
    assert!(world.reads[&CLOUD] < 40, "{} results that were over when they came", world.reads[&CLOUD]);
}

#[test]
fn a_changed_secret_takes_the_room_of_the_one_that_it_replaces() {
    let mut world = world_with(DEFAULT, [100 * S, HOUR], LONG, 60);
    let handle = open(&mut world, "weather.json");
    world.release(handle);
    for next in 2..5 {
        if let Some(Engine::Kv2 { version, .. }) = world.vault.paths.get_mut("secret/weather") {
            *version = next;
        }
        world.pass(61 * S);
        let handle = open(&mut world, "weather.json");
        assert_eq!(read(&world, handle), Ok(next));
        world.release(handle);
    }
}

#[test]
fn a_kv_path_that_another_engine_serves_by_now_is_not_asked_again_and_again() {
    let policy = SourcePolicy { grace: HOUR, ..DEFAULT };
    let mut world = world_with(policy, [100 * S, HOUR], LONG, 1 << 20);
    open(&mut world, "weather.json");
    let dynamic = Engine::Dynamic { lease: 100 * S, max: HOUR, renewable: true };
    world.vault.paths.insert("secret/weather".into(), dynamic);
    world.pass(180 * S);
    assert!(reads(&world) < 30, "{}", reads(&world));
    let handle = open(&mut world, "weather.json");
    assert!(read(&world, handle).is_ok());
    assert!(world.minting.contains_key(&WEATHER));
}

#[test]
fn a_token_that_is_over_when_it_arrives_is_a_login_that_failed() {
    let mut world = world_with(DEFAULT, [100 * S, HOUR], [50 * MS, 50 * MS], 1 << 20);
    world.pass(10 * S);
    let logins = count(&world, |effect| matches!(effect, Effect::LogIn { .. }));
    assert!(logins < 5, "{logins}");
    assert!(world.reports.iter().any(|report| matches!(report, Report::LoginFailed { .. })));
}

#[test]
fn a_token_that_lapses_by_our_clock_is_revoked() {
    let mut world = world_with(DEFAULT, [HOUR, HOUR], [100 * S, 100 * S], 1 << 20);
    world.vault.down = Some(Fault::Sealed);
    world.advance(world.now + 99 * S, Pace::Prompt);
    assert!(world.vault.tokens.values().any(|one| one.ours && one.revoked.is_some()));
}

#[test]
fn a_secret_of_a_tree_is_dropped_when_nobody_can_log_in() {
    let mut world = world_with(DEFAULT, [100 * S, HOUR], [100 * S, 100 * S], 1 << 20);
    let secret = visit(&mut world, "kv/a").unwrap();
    world.vault.down = Some(Fault::Unreachable);
    world.pass(120 * S);
    for _ in 0..3 {
        let _ = world.getattr(0, secret);
        world.pass(S);
    }
    world.pass(10 * S);
    assert_eq!(world.engine.census().sources, world.layout.sources.len());
}

#[test]
fn a_list_that_waited_for_a_login_when_its_directory_was_forgotten_is_not_stuck() {
    let mut world = world_with(DEFAULT, [100 * S, HOUR], [100 * S, 100 * S], 1 << 20);
    let folder = visit(&mut world, "kv/folder").unwrap();
    world.vault.down = Some(Fault::Unreachable);
    world.pass(100 * S);
    world.vault.down = None;
    world.weather = Weather::Slow(20 * S, S);
    while world.engine.census().tokens > 1 {
        world.pass(S);
    }
    world.pass(10 * S);
    let Outcome::Wait(ticket) = world.getattr(0, folder) else { panic!("there is no token") };
    world.give_up(ticket);
    assert!(world.forget(folder));
    world.weather = Weather::Fair;
    world.pass(30 * S);
    assert!(world.engine.census().lists <= 1);
    assert!(visit(&mut world, "kv/folder/deep").is_ok());
}

#[test]
fn what_a_secret_of_a_tree_was_worth_is_booked_though_nobody_holds_it() {
    let mut world = world();
    let secret = visit(&mut world, "kv/a").unwrap();
    assert!(visit(&mut world, "kv/a/k1").is_ok());
    let field = world.lookup(secret, "k1").unwrap();
    world.pass(61 * S);
    if let Some(Engine::Kv2 { version, .. }) = world.vault.paths.get_mut("tree/a") {
        *version = 2;
    }
    world.weather = Weather::Slow(3 * S, 3 * S);
    let Outcome::Wait(ticket) = world.getattr(0, secret) else { panic!("it is stale") };
    world.give_up(ticket);
    assert!(world.forget(field));
    world.weather = Weather::Fair;
    // The answer replaces a generation of a secret that has neither names nor readers.
    world.pass(200 * S);
    assert_eq!(world.engine.memory(), world.engine.census().list_bytes);
}

#[test]
fn a_vanished_field_leaves_no_node_behind() {
    let mut world = world();
    let dir = ino(&mut world, "fields");
    let field = visit(&mut world, "fields/k1").unwrap();
    let Outcome::Done(Ok(listing)) = world.opendir(0, dir) else { panic!("it is fresh") };
    world.revoke(&[field]);
    assert!(world.forget(field));
    open(&mut world, "all.json");
    assert_eq!(world.lookup(dir, "k1"), Err(FsError::Vanished));
    world.readdirplus(listing, 0, 10);
    assert_eq!(world.lookup(dir, "k1"), Err(FsError::Vanished));
    assert_eq!(world.engine.census().names, usize::from(world.kernel.values().any(|node| node.name == "k2")));
}

#[test]
fn a_name_that_became_a_directory_lets_go_of_the_secret_that_it_was_a_field_of() {
    let mut world = world();
    let field = visit(&mut world, "kv/same/k1").unwrap();
    world.vault.lists.insert("tree/same".into(), vec!["k1".into()]);
    world.pass(31 * S);
    assert_eq!(visit(&mut world, "kv/same/k1"), Ok(field));
    while world.kernel.keys().copied().collect::<Vec<Ino>>().into_iter().any(|ino| world.forget(ino)) {}
    world.pass(200 * S);
    checks::nothing_leaks(&world);
}

#[test]
fn a_verdict_is_not_something_that_the_kernel_was_told() {
    let mut world = world();
    let file = ino(&mut world, "weather.json");
    let handle = open(&mut world, "weather.json");
    assert!(
        matches!(world.getattr(0, file), Outcome::Done(Ok(_))),
        "the kernel believes the size of version 1"
    );
    world.release(handle);
    world.deaf = true;
    if let Some(Engine::Kv2 { version, .. }) = world.vault.paths.get_mut("secret/weather") {
        *version = 2;
    }
    world.refresh(&[file]);
    world.pass(20 * MS);
    // `getattr` asks for the groups first; then the open finds that the kernel must forget.
    let caller = crate::world::caller(1, false, 0);
    let at = leasefs::core::time::Moment { now: world.now, chance: leasefs::core::time::Chance(1) };
    let (outcome, _) = world.engine.getattr(at, &caller, file);
    assert_eq!(outcome, Outcome::NeedGroups);
    assert!(matches!(world.open(0, file), Outcome::Done(Ok(opened)) if opened.forget_attributes));
}

#[test]
fn an_entry_that_did_not_fit_is_not_something_that_the_kernel_was_told() {
    let mut world = world();
    let field = visit(&mut world, "kv/a/k1").unwrap();
    let dir = world.kernel[&field].parent;
    let Outcome::Done(Ok(listing)) = world.opendir(0, dir) else { panic!("it is fresh") };
    world.deaf = true;
    if let Some(Engine::Kv2 { version, .. }) = world.vault.paths.get_mut("tree/a") {
        *version = 2;
    }
    world.refresh(&[field]);
    world.pass(20 * MS);
    world.readdirplus(listing, 2, 0);
    assert!(matches!(world.open(0, field), Outcome::Done(Ok(opened)) if opened.forget_attributes));
}

#[test]
fn opens_that_failed_while_vault_was_down_do_not_empty_the_bucket() {
    let mut world = world_with(DEFAULT, [HOUR, HOUR], LONG, 1 << 20);
    let handle = open(&mut world, "cloud");
    world.release(handle);
    let file = ino(&mut world, "cloud");
    world.revoke(&[file]);
    world.vault.down = Some(Fault::Unreachable);
    for _ in 0..5 {
        assert_eq!(try_open(&mut world, "cloud"), Err(FsError::VaultDown));
        world.pass(S);
    }
    world.vault.down = None;
    open(&mut world, "cloud");
}

#[test]
fn a_wake_for_what_is_over_comes_at_once() {
    let mut world = world();
    open(&mut world, "cloud");
    world.pass(60 * S);
    let file = ino(&mut world, "cloud");
    world.vault.down = Some(Fault::Unreachable);
    world.refresh(&[file]);
    // The failure and the timer come late and at one moment.
    world.advance(world.now + 99 * S, Pace::Late);
    assert_eq!(ended(&world, End::Lapsed), 1);
}

#[test]
fn a_list_on_its_way_keeps_the_token_that_it_was_asked_with() {
    let mut world = world_with(DEFAULT, [100 * S, HOUR], [100 * S, 100 * S], 1 << 20);
    let kv = ino(&mut world, "kv");
    world.pass(49 * S);
    world.weather = Weather::Slow(20 * S, S);
    let Outcome::Wait(ticket) = world.getattr(0, kv) else { panic!("nothing is there") };
    world.weather = Weather::Fair;
    let before = world.engine.census().tokens;
    for _ in 0..20 {
        world.advance(world.now + S, Pace::Late);
    }
    assert!(world.engine.census().tokens > before, "the earlier token is still there");
    world.give_up(ticket);
    world.pass(10 * S);
    assert!(!world.reports.iter().any(|report| matches!(report, Report::ListFailed { .. })));
    assert_eq!(world.engine.census().tokens, before);
}

//! Engine and driver in conversation with a scripted Vault, under paused time: days of lease life and whole
//! outages in milliseconds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may panic and read the clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::time::Duration;

use futures::future::join_all;
use leasefs::core::engine::State;
use leasefs::core::error::{Failure, Fault, FsError};
use leasefs::core::name::IdentityId;
use support::conversation::{World, pass};
use support::fake_vault::{FakeIdentity, FakeVault, Op, Role, Step};
use tokio::time::Instant;

const S: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

const DATABASE: &str = "
[file.user]
secret = \"database/creds/app#username\"
[file.password]
secret = \"database/creds/app#password\"
";

const WEATHER: &str = "
[file.weather]
secret = \"secret/weather#key\"
";

fn database(ttl: Duration, max_ttl: Duration) -> FakeVault {
    database_for(FakeIdentity::login(24 * 365 * HOUR, &[""]), ttl, max_ttl)
}

fn database_for(identity: FakeIdentity, ttl: Duration, max_ttl: Duration) -> FakeVault {
    let vault = FakeVault::new(vec![identity]);
    vault.mount("database", "database");
    vault.add_role("database/creds/app", Role { ttl, max_ttl, renewable: true });
    vault
}

fn weather() -> FakeVault {
    let vault = FakeVault::new(vec![FakeIdentity::root()]);
    vault.mount_kv("secret", 2);
    vault.write_kv("secret/weather", r#"{"key":"one"}"#);
    vault
}

/// A request that is never answered, as the client reports it after its own time-out.
fn frozen(after: Duration) -> Step {
    Step { delay: after, failure: Some(Failure::new(Fault::TimedOut, "no answer")) }
}

#[tokio::test(start_paused = true)]
async fn however_many_wait_one_credential_is_minted() {
    let world = World::start(DATABASE, database(HOUR, HOUR));
    world.vault.script(Op::Read, None, Some(Step::slow(2 * S)));
    let opens = join_all((0..200).map(|_| world.cat("password"))).await;
    let first = opens[0].as_ref().unwrap();
    assert!(opens.iter().all(|open| open.as_ref() == Ok(first)));
    assert_eq!(world.vault.counts().minted, 1);
    world.cat("user").await.unwrap();
    assert_eq!(world.vault.counts().minted, 1, "both files are one source");
}

#[tokio::test(start_paused = true)]
async fn a_lease_in_use_lives_for_days_and_mints_once_per_max_ttl() {
    let world = World::start(DATABASE, database(MINUTE, HOUR));
    let began = Instant::now();
    while began.elapsed() < 48 * HOUR {
        world.cat("password").await.unwrap();
        pass(30 * S).await;
    }
    let minted = world.vault.counts().minted;
    assert!((48..=56).contains(&minted), "two days of one-hour leases: {minted}");
    assert!(world.vault.live_leases().len() <= 2);
}

#[tokio::test(start_paused = true)]
async fn an_open_handle_alone_keeps_its_lease() {
    let world = World::start(DATABASE, database(MINUTE, 24 * HOUR));
    let handle = world.open("password").await.unwrap();
    let text = world.read(handle).unwrap();
    pass(12 * HOUR).await;
    assert_eq!(world.read(handle), Ok(text));
    assert_eq!(world.vault.counts().minted, 1);
}

#[tokio::test(start_paused = true)]
async fn a_handle_held_past_a_rotation_keeps_the_next_credential_until_its_program_looks_again() {
    let world = World::start(DATABASE, database(15 * MINUTE, HOUR));
    let handle = world.open("password").await.unwrap();
    pass(HOUR + 20 * MINUTE).await;
    assert_eq!(world.read(handle), Err(FsError::GenerationEnded));
    world.close(handle);
    world.cat("password").await.unwrap();
    assert_eq!(world.vault.counts().minted, 2, "the second one was renewed meanwhile");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_nobody_uses_lapses() {
    let world = World::start(DATABASE, database(MINUTE, 24 * HOUR));
    world.cat("password").await.unwrap();
    assert!(world.memory() > 0);
    pass(10 * MINUTE).await;
    assert_eq!(world.state("password"), State::Idle);
    assert_eq!(world.memory(), 0, "its bytes are gone");
    assert!(world.was_forgotten("password"));
    assert!(world.vault.live_leases().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_mints_nothing_until_the_end_is_near() {
    let world = World::start(DATABASE, database(HOUR, 24 * HOUR));
    let handle = world.open("password").await.unwrap();
    world.vault.script(Op::RenewLease, None, Some(Step::fault(Fault::ServerError)));
    // It is renewed at 66 % at the latest, and a third remains at 40 minutes.
    pass(39 * MINUTE + 45 * S).await;
    assert!(world.vault.count(Op::RenewLease) >= 1);
    assert_eq!(world.vault.counts().minted, 1);
    // When a third remains it is replaced; the handle goes on reading what it opened.
    pass(20 * MINUTE).await;
    assert_eq!(world.vault.counts().minted, 2);
    assert!(world.read(handle).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_database_that_is_down_costs_no_storm_of_accounts() {
    let world = World::start(DATABASE, database(10 * S, HOUR));
    let _handle = world.open("password").await.unwrap();
    world.vault.script(Op::RenewLease, None, Some(Step::fault(Fault::ServerError)));
    pass(15 * S).await;
    let minted = world.vault.counts().minted;
    assert!(minted <= 4, "{minted} accounts in 15 s of failing renewals");
}

#[tokio::test(start_paused = true)]
async fn revoked_in_vault_is_noticed_within_the_revocation_check() {
    let world =
        World::start(&format!("[mount]\nrevocation-check = \"30s\"\n{DATABASE}"), database(HOUR, HOUR));
    let handle = world.open("password").await.unwrap();
    world.vault.revoke_upstream(&world.vault.live_leases()[0]);
    pass(34 * S).await;
    assert_eq!(world.read(handle), Err(FsError::GenerationEnded));
    assert_ne!(world.state("password"), State::Live);
}

#[tokio::test(start_paused = true)]
async fn unreachable_is_said_at_once_and_over_soon_after_the_server_is_back() {
    let world = World::start(WEATHER, weather());
    assert_eq!(world.cat("weather").await.unwrap(), "one");
    world.vault.go_down(Fault::Unreachable);
    // Past max-age and grace nothing may be shown any more.
    pass(3 * MINUTE).await;
    for _ in 0..5 {
        assert_eq!(world.cat("weather").await, Err(FsError::VaultDown));
    }
    let asked = world.vault.count(Op::Read);
    assert_eq!(world.cat("weather").await, Err(FsError::VaultDown));
    assert_eq!(world.vault.count(Op::Read), asked, "the breaker is open: nothing is asked");
    world.vault.come_back();
    pass(3 * S).await;
    assert_eq!(world.cat("weather").await.unwrap(), "one");
}

#[tokio::test(start_paused = true)]
async fn a_sealed_vault_is_down_too() {
    let world = World::start(WEATHER, weather());
    world.vault.script(Op::Read, None, Some(Step::fault(Fault::Sealed)));
    assert_eq!(world.cat("weather").await, Err(FsError::VaultDown));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_the_read_timeout() {
    let world = World::start(WEATHER, weather());
    world.vault.script(Op::Read, None, Some(frozen(10 * S)));
    let began = Instant::now();
    assert_eq!(world.cat("weather").await, Err(FsError::TimedOut));
    assert_eq!(began.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_stale_value_is_served_within_its_grace_and_then_no_more() {
    let world = World::start(WEATHER, weather());
    world.cat("weather").await.unwrap();
    world.vault.script(Op::Read, None, Some(frozen(10 * S)));
    pass(61 * S).await;
    let began = Instant::now();
    assert_eq!(world.cat("weather").await.unwrap(), "one");
    assert!(began.elapsed() <= 5 * S);
    // What is known to be slow is not waited for again.
    pass(2 * S).await;
    let began = Instant::now();
    assert_eq!(world.cat("weather").await.unwrap(), "one");
    assert!(began.elapsed() < S);
    pass(60 * S).await;
    assert!(world.cat("weather").await.is_err());
    assert_eq!(world.memory(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_error_is_tried_again_for_kv_and_not_for_what_may_mint() {
    let world = World::start(WEATHER, weather());
    world.vault.script_once(Op::Read, None, Step::fault(Fault::ServerError));
    assert_eq!(world.cat("weather").await.unwrap(), "one");
    assert_eq!(world.vault.count(Op::Read), 2);

    let world = World::start(DATABASE, database(HOUR, HOUR));
    world.vault.script(Op::Read, None, Some(Step::fault(Fault::ServerError)));
    assert_eq!(world.cat("password").await, Err(FsError::Unusable));
    assert_eq!(world.vault.count(Op::Read), 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_version_is_published_and_an_old_handle_lives_a_grace_longer() {
    let world = World::start(WEATHER, weather());
    let old = world.open("weather").await.unwrap();
    world.vault.write_kv("secret/weather", r#"{"key":"two"}"#);
    pass(61 * S).await;
    assert_eq!(world.cat("weather").await.unwrap(), "two");
    assert_eq!(world.read(old).unwrap(), "one");
    pass(61 * S).await;
    assert_eq!(world.read(old), Err(FsError::GenerationEnded));
}

#[tokio::test(start_paused = true)]
async fn a_held_handle_never_ends_while_the_secret_is_unchanged() {
    let world = World::start(WEATHER, weather());
    let handle = world.open("weather").await.unwrap();
    for _ in 0..120 {
        pass(MINUTE).await;
        assert_eq!(world.read(handle).unwrap(), "one");
    }
    assert!(world.vault.count(Op::Read) <= 130, "once per max-age");
}

#[tokio::test(start_paused = true)]
async fn deleted_in_vault_is_gone_here() {
    let world = World::start(WEATHER, weather());
    let handle = world.open("weather").await.unwrap();
    world.vault.delete_kv("secret/weather");
    pass(62 * S).await;
    assert_eq!(world.read(handle), Err(FsError::GenerationEnded));
    assert_eq!(world.cat("weather").await, Err(FsError::NoSuchSecret));
    assert_eq!(world.memory(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_token_lost_ends_what_it_obtained_and_the_next_open_brings_a_new_one() {
    let world = World::start(DATABASE, database(HOUR, 24 * HOUR));
    let handle = world.open("password").await.unwrap();
    world.vault.revoke_all_tokens();
    pass(35 * S).await;
    assert_eq!(world.read(handle), Err(FsError::GenerationEnded));
    assert!(world.cat("password").await.is_ok());
    assert_eq!(world.vault.count(Op::Login), 2);
}

#[tokio::test(start_paused = true)]
async fn a_reader_who_meets_a_dead_token_waits_for_the_next_one() {
    let vault = FakeVault::new(vec![FakeIdentity::login(HOUR, &[""])]);
    vault.mount_kv("secret", 2);
    vault.write_kv("secret/weather", r#"{"key":"one"}"#);
    let world = World::start(WEATHER, vault);
    pass(S).await;
    world.vault.revoke_all_tokens();
    assert_eq!(world.cat("weather").await.unwrap(), "one");
    assert_eq!(world.vault.count(Op::Login), 2);
}

#[tokio::test(start_paused = true)]
async fn short_tokens_are_replaced_without_a_reader_noticing() {
    let mut identity = FakeIdentity::login(MINUTE, &[""]);
    identity.ttl = Some(MINUTE);
    let world = World::start(DATABASE, database_for(identity, 30 * S, HOUR));
    world.vault.script(Op::RenewSelf, None, Some(Step::fault(Fault::NotRenewable)));
    let began = Instant::now();
    while began.elapsed() < HOUR {
        world.cat("password").await.unwrap();
        pass(S).await;
    }
    let logins = world.vault.count(Op::Login);
    assert!((60..=140).contains(&logins), "an hour of one-minute tokens: {logins}");
}

#[tokio::test(start_paused = true)]
async fn a_login_that_fails_is_said_and_tried_again() {
    let vault = database(HOUR, HOUR);
    vault.refuse_logins(IdentityId(0), true);
    let world = World::start(DATABASE, vault);
    pass(S).await;
    assert_eq!(world.cat("password").await, Err(FsError::VaultDenied));
    world.vault.refuse_logins(IdentityId(0), false);
    pass(40 * S).await;
    assert!(world.cat("password").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_end_gives_everything_back() {
    let world = World::start(DATABASE, database(HOUR, HOUR));
    let handle = world.open("password").await.unwrap();
    assert!(world.stop().await.is_empty());
    assert_eq!(world.read(handle), Err(FsError::GenerationEnded));
    assert!(world.vault.live_leases().is_empty());
    assert_eq!(world.vault.count(Op::RevokeSelf), 1);
    assert_eq!(world.vault.count(Op::RevokeLease), 0, "the token takes its leases with it");
}

#[tokio::test(start_paused = true)]
async fn a_given_token_stays_and_what_it_may_not_revoke_is_named() {
    let mut identity = FakeIdentity::root();
    identity.grants = vec!["database/".to_owned()];
    let world = World::start(DATABASE, database_for(identity, HOUR, HOUR));
    world.cat("password").await.unwrap();
    let lease = world.vault.live_leases()[0].clone();
    let unrevoked = world.stop().await;
    assert_eq!(unrevoked.len(), 1);
    assert_eq!(unrevoked[0].lease.as_ref(), Some(&lease.0));
    assert!(unrevoked[0].seconds > Some(3000));
    assert_eq!(world.vault.count(Op::RevokeSelf), 0);
}

#[tokio::test(start_paused = true)]
async fn the_end_comes_in_bounded_time_though_vault_is_frozen() {
    let world = World::start(DATABASE, database(HOUR, HOUR));
    world.cat("password").await.unwrap();
    for op in Op::ALL {
        world.vault.script(op, None, Some(frozen(HOUR)));
    }
    let began = Instant::now();
    let unrevoked = world.stop().await;
    assert!(began.elapsed() <= 10 * S);
    assert_eq!(unrevoked.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_mint_under_way_at_the_end_leaves_no_lease() {
    let world = World::start(DATABASE, database(HOUR, HOUR));
    world.vault.script(Op::Read, None, Some(Step::slow(2 * S)));
    tokio::join!(async { assert_eq!(world.cat("password").await, Err(FsError::Stopping)) }, async {
        pass(S).await;
        world.stop().await;
    });
    assert_eq!(world.vault.counts().minted, 1);
    assert!(world.vault.live_leases().is_empty());
}

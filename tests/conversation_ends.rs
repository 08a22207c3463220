//! How generations end and what keeps them, in conversation with a scripted Vault under paused time: static
//! roles, stale values, leases that nobody uses, tokens that are lost.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may panic and read the clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::time::Duration;

use leasefs::core::engine::State;
use leasefs::core::error::{Fault, FsError};
use leasefs::core::name::IdentityId;
use support::conversation::{World, pass};
use support::fake_vault::{FakeIdentity, FakeVault, Op, Role, Step};
use tokio::time::Instant;

const S: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

const FIXED: &str = "
[file.password]
secret = \"database/static-creds/app#password\"
";

/// A server whose static role is replaced every `period`, and `late` after the time that it tells.
fn fixed(period: Duration, late: Duration) -> FakeVault {
    let vault = FakeVault::new(vec![FakeIdentity::root()]);
    vault.mount("database", "database");
    vault.add_static_role("database/static-creds/app", period, late);
    vault
}

fn database(keys: &str, ttl: Duration, max_ttl: Duration) -> (String, FakeVault) {
    let vault = FakeVault::new(vec![FakeIdentity::login(24 * 365 * HOUR, &[""])]);
    vault.mount("database", "database");
    vault.add_role("database/creds/app", Role { ttl, max_ttl, renewable: true });
    (format!("[file.password]\nsecret = \"database/creds/app#password\"\n{keys}\n"), vault)
}

fn weather(keys: &str) -> (String, FakeVault) {
    let vault = FakeVault::new(vec![FakeIdentity::root()]);
    vault.mount_kv("secret", 2);
    vault.write_kv("secret/weather", r#"{"key":"one"}"#);
    (format!("[file.weather]\nsecret = \"secret/weather#key\"\n{keys}\n"), vault)
}

/// Which password Vault has at `since` + now, if it is replaced as [`fixed`] says.
fn current(began: Instant, period: Duration, late: Duration) -> String {
    let turn = began.elapsed().saturating_sub(late).as_nanos() / period.as_nanos();
    format!("password-{turn}")
}

#[tokio::test(start_paused = true)]
async fn a_static_role_never_shows_the_old_password_and_soon_the_new_one() {
    for late in [Duration::ZERO, 400 * MS, 3 * S] {
        let (began, period) = (Instant::now(), 20 * S);
        let world = World::start(FIXED, fixed(period, late));
        while began.elapsed() < 10 * period {
            let asked = Instant::now();
            let shown = world.cat("password").await.unwrap();
            assert_eq!(shown, current(began, period, late), "after {:?}", began.elapsed());
            assert!(asked.elapsed() <= late + S + 500 * MS, "{:?} until {shown}", asked.elapsed());
            pass(37 * MS).await;
        }
        let reads = world.vault.count(Op::Read);
        assert!(reads < 600, "{reads} reads in ten periods");
    }
}

#[tokio::test(start_paused = true)]
async fn a_static_role_that_vault_is_very_late_to_replace_is_shown_for_moments() {
    let (began, period, late) = (Instant::now(), 20 * S, 10 * S);
    let world = World::start(FIXED, fixed(period, late));
    while began.elapsed() < 4 * period {
        let asked = Instant::now();
        let handle = world.open("password").await.unwrap();
        assert!(asked.elapsed() < 5 * S, "within read-timeout");
        let shown = world.read(handle).unwrap();
        let a_moment_ago = began + 250 * MS;
        assert!(
            [began, a_moment_ago].iter().any(|began| shown == current(*began, period, late)),
            "{shown} after {:?}",
            began.elapsed()
        );
        world.close(handle);
        pass(100 * MS).await;
    }
}

#[tokio::test(start_paused = true)]
async fn handles_on_a_static_role_end_before_their_password_does() {
    let period = 20 * S;
    let world = World::start(FIXED, fixed(period, 400 * MS));
    let handle = world.open("password").await.unwrap();
    pass(19 * S).await;
    assert!(world.read(handle).is_ok());
    pass(S).await;
    assert_eq!(world.read(handle), Err(FsError::GenerationEnded));
    pass(1400 * MS).await;
    assert_eq!(world.state("password"), State::Live, "fetched anew, since it was in use");
    assert_eq!(world.cat("password").await.unwrap(), "password-1");
}

#[tokio::test(start_paused = true)]
async fn a_static_role_that_is_rotated_by_hand_is_noticed_within_revocation_check() {
    let vault = fixed(HOUR, Duration::ZERO);
    let world = World::start(FIXED, vault);
    let handle = world.open("password").await.unwrap();
    pass(10 * S).await;
    world.vault.rotate("database/static-creds/app");
    pass(31 * S).await;
    assert_eq!(world.read(handle), Err(FsError::GenerationEnded), "the old password is dead at once");
    assert_eq!(world.cat("password").await.unwrap(), "password-1");
}

#[tokio::test(start_paused = true)]
async fn looking_at_a_static_role_shows_its_size_and_mints_nothing() {
    let world = World::start(FIXED, fixed(HOUR, Duration::ZERO));
    assert_eq!(world.stat("password").await.unwrap(), "password-0".len() as u64);
    pass(2 * MINUTE).await;
    assert_eq!(world.stat("password").await.unwrap(), "password-0".len() as u64);
}

#[tokio::test(start_paused = true)]
async fn a_stale_value_is_shown_after_a_second_at_the_latest_while_vault_hangs() {
    let (config, vault) = weather("max-age = \"10s\"\ngrace = \"1h\"");
    let world = World::start(&config, vault);
    world.cat("weather").await.unwrap();
    pass(MINUTE).await;
    world.vault.script(Op::Read, None, Some(Step::slow(10 * S)));
    let began = Instant::now();
    assert_eq!(world.cat("weather").await.unwrap(), "one");
    assert!(began.elapsed() <= S + 10 * MS, "{:?}", began.elapsed());
    let began = Instant::now();
    assert_eq!(world.cat("weather").await.unwrap(), "one");
    assert_eq!(began.elapsed(), Duration::ZERO, "while the same request is under way");
}

#[tokio::test(start_paused = true)]
async fn a_stale_value_is_shown_at_once_while_vault_is_known_not_to_answer() {
    let (config, vault) = weather("max-age = \"10s\"\ngrace = \"1h\"");
    let world = World::start(&config, vault);
    world.cat("weather").await.unwrap();
    pass(MINUTE).await;
    world.service().call(|engine, at| ((), engine.vault_answers(at, false)));
    world.vault.script(Op::Read, None, Some(Step::slow(10 * S)));
    let began = Instant::now();
    for _ in 0..100 {
        assert_eq!(world.cat("weather").await.unwrap(), "one");
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    pass(MS).await;
    assert_eq!(world.vault.count(Op::Read), 2, "one request in passing");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_nobody_uses_is_given_back_where_that_is_wanted() {
    let (config, vault) = database("on-idle = \"revoke\"\nidle-timeout = \"5m\"", HOUR, 24 * HOUR);
    let world = World::start(&config, vault);
    let handle = world.open("password").await.unwrap();
    pass(6 * MINUTE).await;
    assert_eq!(world.vault.live_leases().len(), 1, "it is open");
    world.close(handle);
    pass(S).await;
    assert!(world.vault.live_leases().is_empty());
    assert_eq!((world.state("password"), world.memory()), (State::Idle, 0));
    world.cat("password").await.unwrap();
    pass(4 * MINUTE).await;
    assert_eq!(world.vault.live_leases().len(), 1, "opened lately");
    pass(2 * MINUTE).await;
    assert!(world.vault.live_leases().is_empty());
    assert_eq!(world.vault.counts().minted, 2);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_nobody_opens_is_looked_up_ever_more_rarely_and_at_once_when_it_is_opened() {
    let (config, vault) = database("", 8 * HOUR, 24 * HOUR);
    let world = World::start(&config, vault);
    world.cat("password").await.unwrap();
    pass(2 * MINUTE).await;
    let asked = world.vault.count(Op::LookUpLease);
    assert!((2..=4).contains(&asked), "every 30 s at first: {asked}");
    pass(4 * HOUR).await;
    let asked = world.vault.count(Op::LookUpLease) - asked;
    assert!((3..=12).contains(&asked), "four hours without an open: {asked}");
    let lease = world.vault.live_leases().remove(0);
    world.vault.revoke_upstream(&lease);
    let _ = world.cat("password").await;
    pass(50 * MS).await;
    world.cat("password").await.unwrap();
    assert_eq!(world.vault.counts().minted, 2, "the revocation was noticed with the first open");
}

#[tokio::test(start_paused = true)]
async fn what_a_lost_token_took_away_is_fetched_anew_spread_out() {
    let vault = FakeVault::new(vec![FakeIdentity::login(24 * 365 * HOUR, &[""])]);
    vault.mount("database", "database");
    let mut config = "[defaults]\nrenew = \"always\"\n".to_owned();
    for role in 0..200 {
        let path = format!("database/creds/app-{role}");
        vault.add_role(&path, Role { ttl: HOUR, max_ttl: 24 * HOUR, renewable: true });
        config += &format!("[file.\"f{role}\"]\nsecret = \"{path}#password\"\n");
    }
    let world = World::start(&config, vault);
    for role in 0..200 {
        world.cat(&format!("f{role}")).await.unwrap();
    }
    pass(10 * MINUTE).await;
    let (logins, minted) = (world.vault.count(Op::Login), world.vault.counts().minted);
    world.vault.revoke_all_tokens();
    // The next look-up of any lease meets the dead token.
    while world.vault.count(Op::Login) == logins {
        pass(10 * MS).await;
    }
    let mut peak = 0;
    let mut before = minted;
    for _ in 0..60 {
        pass(S).await;
        let now = world.vault.counts().minted;
        peak = peak.max(now - before);
        before = now;
    }
    assert_eq!(before - minted, 200, "all are there again");
    assert!(peak <= 50, "{peak} in a second");
    assert_eq!(world.vault.count(Op::Login), logins + 1);
}

#[tokio::test(start_paused = true)]
async fn many_renewals_that_failed_do_not_come_back_in_one_moment() {
    let vault = FakeVault::new(vec![FakeIdentity::login(24 * 365 * HOUR, &[""])]);
    vault.mount("database", "database");
    let mut config = "[defaults]\nrenew = \"always\"\n".to_owned();
    for role in 0..500 {
        let path = format!("database/creds/app-{role}");
        vault.add_role(&path, Role { ttl: HOUR, max_ttl: 30 * 24 * HOUR, renewable: true });
        config += &format!("[file.\"f{role}\"]\nsecret = \"{path}#password\"\n");
    }
    let world = World::start(&config, vault);
    for role in 0..500 {
        world.cat(&format!("f{role}")).await.unwrap();
    }
    pass(29 * MINUTE).await;
    world.vault.script(Op::RenewLease, None, Some(Step::fault(Fault::ServerError)));
    pass(9 * MINUTE).await;
    world.vault.script(Op::RenewLease, None, None);
    let mut peak = 0;
    let mut before = world.vault.counts().renewed;
    for _ in 0..1200 {
        pass(S).await;
        let now = world.vault.counts().renewed;
        peak = peak.max(now - before);
        before = now;
    }
    assert!(before >= 500, "all were renewed: {before}");
    assert!(peak <= 20, "{peak} in a second");
    assert_eq!(world.vault.counts().minted, 500);
}

#[tokio::test(start_paused = true)]
async fn a_reload_replaces_a_token_and_what_it_obtained_without_a_failing_read() {
    let (config, vault) = database("", 10 * MINUTE, HOUR);
    let world = World::start(&config, vault);
    let first = world.cat("password").await.unwrap();
    let handle = world.open("password").await.unwrap();
    world.log_in_anew();
    pass(S).await;
    assert_eq!(world.vault.count(Op::Login), 2);
    let began = Instant::now();
    while began.elapsed() < 6 * MINUTE {
        world.cat("password").await.unwrap();
        pass(S).await;
    }
    assert_ne!(world.cat("password").await.unwrap(), first, "it was replaced by one of the new token");
    world.close(handle);
    pass(S).await;
    assert_eq!(world.vault.counts().minted, 2);
    assert_eq!(world.vault.live_leases().len(), 1, "the first one ended with its token");
    assert_eq!(world.vault.live_tokens(), 1, "the old token was given back");
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_fails_leaves_the_old_token_in_use_and_is_tried_again() {
    let (config, vault) = database("", MINUTE, HOUR);
    let world = World::start(&config, vault);
    let first = world.cat("password").await.unwrap();
    world.vault.refuse_logins(IdentityId(0), true);
    world.log_in_anew();
    pass(S).await;
    assert!(world.login_error().unwrap().contains("refused"), "{:?}", world.login_error());
    for _ in 0..20 {
        pass(30 * S).await;
        assert_eq!(world.cat("password").await.as_ref(), Ok(&first), "the old token renews its lease");
    }
    world.vault.refuse_logins(IdentityId(0), false);
    pass(MINUTE).await;
    assert_eq!(world.login_error(), None);
    assert!(world.cat("password").await.is_ok());
    assert_eq!(world.vault.live_tokens(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reload_with_the_same_token_as_before_replaces_nothing() {
    let (config, vault) = weather("");
    let world = World::start(&config, vault);
    world.cat("weather").await.unwrap();
    let reads = world.vault.count(Op::Read);
    world.log_in_anew();
    pass(S).await;
    world.cat("weather").await.unwrap();
    assert_eq!(world.vault.count(Op::Read), reads, "what is held is fresh");
}

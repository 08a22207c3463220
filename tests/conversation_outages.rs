//! Outages as conversations: every way in which Vault can fail, who waits for how long meanwhile, what the
//! server is asked, and how fast it is over. Under paused time.
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
use leasefs::core::error::{Failure, Fault, FsError};
use leasefs::driver::Health;
use support::conversation::{World, pass};
use support::fake_vault::{FakeIdentity, FakeVault, Op, Role, Step};
use tokio::time::Instant;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// The default of `read-timeout`.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Two KV secrets and a database credential.
const AGENT: &str = "
[file.weather]
secret = \"secret/weather#key\"
[file.other]
secret = \"secret/other#key\"
[file.password]
secret = \"database/creds/app#password\"
";

fn vault() -> FakeVault {
    let vault = FakeVault::new(vec![FakeIdentity::root()]);
    vault.mount_kv("secret", 2);
    vault.write_kv("secret/weather", r#"{"key":"sun"}"#);
    vault.write_kv("secret/other", r#"{"key":"other"}"#);
    vault.mount("database", "database");
    vault.add_role("database/creds/app", Role { ttl: HOUR, max_ttl: 24 * HOUR, renewable: true });
    vault
}

/// KV secrets `secret/0` and so on, each a file of that number with a `max-age` of a minute.
fn many(count: usize) -> (String, FakeVault) {
    let vault = FakeVault::new(vec![FakeIdentity::root()]);
    vault.mount_kv("secret", 2);
    let mut config = "[defaults]\nmax-age = \"1m\"\ngrace = \"30m\"\n".to_owned();
    for number in 0..count {
        vault.write_kv(&format!("secret/{number}"), r#"{"key":"value"}"#);
        config.push_str(&format!("[file.\"{number}\"]\nsecret = \"secret/{number}#key\"\n"));
    }
    (config, vault)
}

fn after(delay: Duration, fault: Fault) -> Step {
    Step { delay, failure: Some(Failure::new(fault, format!("scripted: {fault:?}"))) }
}

fn everything(vault: &FakeVault, step: &Step) {
    for op in Op::ALL {
        vault.script(op, None, Some(step.clone()));
    }
}

/// What `work` brings, and how long it took.
async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let began = Instant::now();
    let outcome = work.await;
    (outcome, began.elapsed())
}

fn requests(vault: &FakeVault) -> u64 {
    vault.counts().requests.values().sum()
}

#[tokio::test(start_paused = true)]
async fn however_vault_fails_nobody_waits_long_and_it_is_over_soon_after() {
    for (outage, step) in [
        ("unreachable", after(Duration::ZERO, Fault::Unreachable)),
        ("its name does not resolve", after(2 * S, Fault::Unreachable)),
        ("refuses TLS", after(20 * MS, Fault::Unreachable)),
        ("breaks off in its answers", after(300 * MS, Fault::Unreachable)),
        ("sealed", after(5 * MS, Fault::Sealed)),
        ("frozen", after(10 * S, Fault::TimedOut)),
        ("frozen for ever", after(1000 * HOUR, Fault::TimedOut)),
        ("slower than anybody waits", Step::slow(20 * S)),
    ] {
        let world = World::start(AGENT, vault());
        assert_eq!(world.cat("weather").await.unwrap(), "sun", "{outage}");
        let handle = world.open("weather").await.unwrap();
        everything(&world.vault, &step);
        let down = Instant::now();
        let asked_before = requests(&world.vault);

        // What is cached is there at once, and who wants what is not waits for read-timeout at most.
        let ((), ()) = tokio::join!(
            async {
                let (other, waited) = timed(world.cat("other")).await;
                let error = other.unwrap_err();
                assert!(matches!(error, FsError::VaultDown | FsError::TimedOut), "{outage}: {error:?}");
                assert!(waited <= READ_TIMEOUT, "{outage}: {waited:?}");
            },
            async {
                pass(MS).await;
                let (cached, waited) = timed(world.cat("weather")).await;
                assert_eq!((cached.as_deref(), waited), (Ok("sun"), Duration::ZERO), "{outage}");
            }
        );

        // Once it is known, it is said at once, however many come.
        pass((down + 30 * S).duration_since(Instant::now())).await;
        assert!(matches!(world.service().health(), Health::Down { .. }), "{outage}");
        let mut health_asked = world.vault.count(Op::Health);
        let asked = requests(&world.vault) - health_asked;
        while down.elapsed() < 55 * S {
            let (misses, waited) = timed(join_all((0..20).map(|_| world.cat("other")))).await;
            assert!(misses.iter().all(|miss| *miss == Err(FsError::VaultDown)), "{outage}: {misses:?}");
            assert_eq!(waited, Duration::ZERO, "{outage}");
            assert_eq!(world.read(handle).as_deref(), Ok("sun"), "{outage}");
            pass(100 * MS).await;
        }
        assert_eq!(requests(&world.vault) - world.vault.count(Op::Health), asked, "{outage}: asked in vain");
        health_asked = world.vault.count(Op::Health) - health_asked;
        assert!((3..=50).contains(&health_asked), "{outage}: {health_asked} questions in 25 s");
        assert!(asked - asked_before <= 20, "{outage}: {}", asked - asked_before);

        // Past max-age, within its grace.
        pass((down + 65 * S).duration_since(Instant::now())).await;
        let (stale, waited) = timed(world.cat("weather")).await;
        assert_eq!((stale.as_deref(), waited), (Ok("sun"), Duration::ZERO), "{outage}");

        world.vault.come_back();
        let (_, over) = timed(async {
            while world.cat("other").await.is_err() {
                pass(50 * MS).await;
            }
        })
        .await;
        assert!(over <= 5 * S, "{outage}: over after {over:?}");
        assert_eq!(world.service().health(), Health::Well, "{outage}");
        // What was shown stale is confirmed, and the handle goes on.
        pass(35 * S).await;
        assert_eq!(world.read(handle).as_deref(), Ok("sun"), "{outage}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_held_goes_on_if_vault_is_back_a_moment_before_its_grace_is_over() {
    let (config, vault) = many(20);
    let config = config.replace("\"1m\"", "\"1s\"").replace("\"30m\"", "\"30s\"");
    let world = World::start(&config, vault);
    let names: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    let handles = world.open_all(&names).await.unwrap();
    // It is asked in vain so often that the next pause would be longer than what is left.
    everything(&world.vault, &after(5 * MS, Fault::Unreachable));
    pass(26 * S).await;
    world.vault.come_back();
    for _ in 0..100 {
        pass(100 * MS).await;
        for (name, handle) in names.iter().zip(&handles) {
            assert_eq!(world.read(*handle).as_deref(), Ok("value"), "{name}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_its_health_is_good_and_it_is_not_asked_over_and_over_all_the_same() {
    let world = World::start(AGENT, vault());
    world.cat("weather").await.unwrap();
    world.vault.script(Op::Read, None, Some(Step::fault(Fault::NoLeader)));
    let began = Instant::now();
    let asked = world.vault.count(Op::Read);
    while began.elapsed() < MINUTE {
        let (miss, waited) = timed(world.cat("password")).await;
        assert_eq!((miss, waited), (Err(FsError::VaultDown), Duration::ZERO));
        pass(20 * MS).await;
    }
    let asked = world.vault.count(Op::Read) - asked;
    assert!((10..=120).contains(&asked), "{asked} requests in a minute, of 3000 opens");
    world.vault.come_back();
    pass(3 * S).await;
    assert!(world.cat("password").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_engine_whose_database_is_down_fails_by_itself_and_at_once() {
    let world = World::start(AGENT, vault());
    let step = Step::fault(Fault::ServerError);
    world.vault.script(Op::Read, Some("database/creds/app"), Some(step));
    for _ in 0..3 {
        assert_eq!(world.cat("password").await, Err(FsError::Unusable));
    }
    let asked = |world: &World| {
        let asked = world.vault.asked();
        asked.iter().filter(|asked| asked.op == Op::Read && asked.key.starts_with("database")).count()
    };
    assert_eq!(asked(&world), 3);
    let began = Instant::now();
    while began.elapsed() < MINUTE {
        let (miss, waited) = timed(world.cat("password")).await;
        assert_eq!((miss, waited), (Err(FsError::Unusable), Duration::ZERO));
        assert_eq!(world.error("password").as_deref(), Some("scripted: ServerError"));
        assert_eq!(world.cat("other").await.as_deref(), Ok("other"), "the other engine goes on");
        pass(20 * MS).await;
    }
    let in_vain = asked(&world);
    assert!((10..=80).contains(&in_vain), "{in_vain} requests in a minute, of 3000 opens");
    assert_eq!(world.service().health(), Health::Well);
    world.vault.script(Op::Read, Some("database/creds/app"), None);
    let (_, over) = timed(async {
        while world.cat("password").await.is_err() {
            pass(50 * MS).await;
        }
    })
    .await;
    assert!(over <= 5 * S, "over after {over:?}");
}

#[tokio::test(start_paused = true)]
async fn one_secret_that_vault_cannot_read_condemns_no_engine() {
    let world = World::start(AGENT, vault());
    world.vault.script(Op::Read, Some("secret/weather"), Some(Step::fault(Fault::ServerError)));
    for _ in 0..2 {
        assert_eq!(world.cat("weather").await, Err(FsError::Unusable));
    }
    assert_eq!(world.cat("other").await.as_deref(), Ok("other"));
    assert_eq!(world.vault.count(Op::Read), 7, "each of them is tried three times");
}

#[tokio::test(start_paused = true)]
async fn a_quota_is_left_alone_for_as_long_as_it_asks_and_who_can_wait_waits() {
    let limited = |seconds| Step {
        delay: Duration::ZERO,
        failure: Some(Failure {
            retry_after: Some(S * seconds),
            ..Failure::new(Fault::RateLimited, "rate limit quota exceeded")
        }),
    };
    let world = World::start(AGENT, vault());
    world.vault.script_once(Op::Read, None, limited(2));
    let (opens, waited) = timed(join_all(["weather", "other"].map(|name| world.cat(name)))).await;
    assert!(opens.iter().all(Result::is_ok), "{opens:?}");
    assert!((2 * S..READ_TIMEOUT).contains(&waited), "{waited:?}");
    assert!(world.vault.count(Op::Read) <= 3);

    let world = World::start(AGENT, vault());
    world.vault.script(Op::Read, None, Some(limited(7)));
    let began = Instant::now();
    while began.elapsed() < 19 * 100 * MS {
        let (miss, waited) = timed(world.cat("other")).await;
        assert_eq!((miss, waited), (Err(FsError::Unusable), Duration::ZERO));
        assert_eq!(world.error("other").as_deref(), Some("rate limit quota exceeded"));
        pass(50 * MS).await;
    }
    world.vault.come_back();
    pass(3 * S).await;
    assert_eq!(world.vault.count(Op::Read), 1);
    let (read, waited) = timed(world.cat("other")).await;
    assert_eq!(read.as_deref(), Ok("other"));
    assert!((S..4 * S).contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_quota_that_says_no_time_starts_no_storm() {
    let (config, vault) = many(200);
    let world = World::start(&config, vault);
    let names: Vec<String> = (0..200).map(|number| number.to_string()).collect();
    world.vault.script(Op::Read, None, Some(Step::fault(Fault::RateLimited)));
    let began = Instant::now();
    while began.elapsed() < 30 * S {
        let (opens, waited) = timed(join_all(names.iter().map(|name| world.cat(name)))).await;
        // Who waits for the quota may wait in vain.
        let failed = [Err(FsError::Unusable), Err(FsError::TimedOut)];
        assert!(opens.iter().all(|open| failed.contains(open)), "{opens:?}");
        assert!(waited <= READ_TIMEOUT);
        pass(100 * MS).await;
    }
    let asked = world.vault.count(Op::Read);
    assert!(asked <= 400, "{asked} requests in half a minute, for 200 files that are opened all the time");
    world.vault.come_back();
    pass(5 * S).await;
    for name in &names {
        world.cat(name).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_lags_for_a_moment_is_not_noticed() {
    let world = World::start(AGENT, vault());
    // As the client says it after its own tries.
    world.vault.script_once(Op::Read, None, after(600 * MS, Fault::ServerError));
    let (read, waited) = timed(world.cat("other")).await;
    assert_eq!(read.as_deref(), Ok("other"));
    assert!(waited < S, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_read_that_hangs_is_given_up_and_the_next_one_is_not_held() {
    let world = World::start(AGENT, vault());
    world.vault.script_once(Op::Read, None, Step::slow(HOUR));
    let (read, waited) = timed(world.cat("other")).await;
    assert_eq!((read, waited), (Err(FsError::TimedOut), READ_TIMEOUT));
    pass(READ_TIMEOUT + MS).await;
    assert_eq!(world.vault.counts().abandoned.get(&Op::Read), Some(&1));
    assert_eq!(world.cat("other").await.as_deref(), Ok("other"));
}

#[tokio::test(start_paused = true)]
async fn what_hung_in_an_outage_says_nothing_once_it_is_over() {
    let world = World::start(AGENT, vault());
    world.cat("password").await.unwrap();
    // Two requests hang, and the server is back while they do.
    world.vault.script(Op::Read, None, Some(Step::slow(HOUR)));
    let hanging = tokio::time::timeout(S, join_all(["weather", "other"].map(|name| world.cat(name)))).await;
    assert!(hanging.is_err());
    world.vault.come_back();
    pass(S).await;
    assert_eq!(world.vault.count(Op::Health), 0);
    world.refresh("password");
    pass(S).await;
    assert_eq!(world.vault.counts().minted, 2, "an answer");
    pass(10 * S).await;
    assert_eq!(world.service().health(), Health::Well, "they were asked before it");
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_served_before_what_nobody_waits_for() {
    let (config, vault) = many(40);
    let world = World::start(&config, vault);
    for number in 0..30 {
        world.open(&number.to_string()).await.unwrap();
    }
    // All thirty are confirmed in the background now, eight at once, two seconds each.
    world.vault.script(Op::Read, None, Some(Step::slow(2 * S)));
    let began = Instant::now();
    while world.vault.asked().iter().filter(|asked| asked.op == Op::Read).count() < 30 + 8 {
        pass(10 * MS).await;
        assert!(began.elapsed() < 2 * MINUTE);
    }
    let names: Vec<String> = (30..38).map(|number| number.to_string()).collect();
    let opens = join_all(names.iter().map(|name| world.cat(name))).await;
    assert!(opens.iter().all(Result::is_ok), "{opens:?}");
    let asked = world.vault.asked();
    let reads: Vec<&str> =
        asked.iter().filter(|asked| asked.op == Op::Read).map(|asked| asked.key.as_str()).collect();
    let next: Vec<&str> = reads[38..46].to_vec();
    let readers: Vec<String> = (30..38).map(|number| format!("secret/{number}")).collect();
    assert_eq!(next, readers);
    pass(20 * S).await;
    assert!(world.vault.count(Op::Read) >= 68, "the others had their turn");
    assert_eq!(world.vault.peak(Op::Read), 8);
}

#[tokio::test(start_paused = true)]
async fn a_house_full_of_slow_requests_keeps_no_renewal_waiting() {
    let (kv, vault) = many(20);
    let mut config = kv;
    for engine in ["a", "b", "c", "d"] {
        vault.mount(engine, "database");
        for role in 0..4 {
            let path = format!("{engine}/creds/{role}");
            vault.add_role(&path, Role { ttl: MINUTE, max_ttl: HOUR, renewable: true });
            config.push_str(&format!("[file.\"{engine}{role}\"]\nsecret = \"{path}#password\"\n"));
        }
    }
    let world = World::start(&config, vault);
    let handle = world.open("d0").await.unwrap();
    pass(25 * S).await;
    world.vault.script(Op::Read, None, Some(Step::slow(9 * S)));
    let mut names: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    names.extend(["a", "b", "c"].iter().flat_map(|engine| (0..4).map(move |role| format!("{engine}{role}"))));
    let began = Instant::now();
    tokio::join!(
        async {
            while began.elapsed() < 20 * S {
                join_all(names.iter().map(|name| world.cat(name))).await;
            }
        },
        pass(20 * S)
    );
    assert_eq!(world.vault.peak(Op::Read), 14, "the house was full");
    assert!(world.vault.count(Op::RenewLease) >= 1);
    assert!(world.read(handle).is_ok());
}

#[tokio::test(start_paused = true)]
async fn thousands_of_files_come_back_after_an_outage_without_a_burst() {
    const FILES: usize = 2_000;
    let (config, vault) = many(FILES);
    let world = World::start(&config, vault);
    let names: Vec<String> = (0..FILES).map(|number| number.to_string()).collect();
    world.open_all(&names).await.unwrap();
    everything(&world.vault, &Step::fault(Fault::Unreachable));
    let asked = requests(&world.vault);
    pass(2 * MINUTE).await;
    let in_vain = requests(&world.vault) - asked;
    assert!(in_vain <= 300, "{in_vain} requests in two minutes");
    everything(&world.vault, &Step::slow(5 * MS));
    while world.service().health() != Health::Well {
        pass(10 * MS).await;
    }
    let back = Instant::now();
    pass(90 * S).await;
    let mut by_second = vec![0; 91];
    let asked = world.vault.asked();
    for read in asked.iter().filter(|asked| asked.op == Op::Read && asked.at >= back) {
        by_second[(read.at - back).as_secs() as usize] += 1;
    }
    println!("reads in each second after the return: {by_second:?}");
    assert!(by_second[0] <= 50, "{by_second:?}");
    assert!(by_second[1] <= 100, "{by_second:?}");
    assert!(by_second[2] <= 200, "{by_second:?}");
    let all: usize = by_second[..60].iter().sum();
    assert!(all >= FILES, "{all} within a minute: {by_second:?}");
    assert_eq!(world.vault.peak(Op::Read), 8);
}

#[tokio::test(start_paused = true)]
async fn days_with_an_outage_every_hour_cost_no_lease() {
    let world = World::start(AGENT, vault());
    let handle = world.open("password").await.unwrap();
    let text = world.read(handle).unwrap();
    for hour in 0..23 {
        pass(58 * MINUTE).await;
        let kind = [Fault::Unreachable, Fault::Sealed, Fault::TimedOut][hour % 3];
        world.vault.go_down(kind);
        pass(2 * MINUTE).await;
        world.vault.come_back();
        assert_eq!(world.read(handle).as_ref(), Ok(&text), "hour {hour}");
    }
    assert_eq!(world.vault.counts().minted, 1);
}

#[tokio::test(start_paused = true)]
async fn a_login_that_vault_is_too_ill_for_is_made_soon_after() {
    let vault = vault();
    everything(&vault, &Step::fault(Fault::Unreachable));
    let world = World::start(AGENT, vault);
    pass(5 * MINUTE).await;
    assert_eq!(world.cat("other").await, Err(FsError::VaultDown));
    let logins = world.vault.count(Op::Login);
    assert!(logins <= 10, "{logins} logins in five minutes");
    world.vault.come_back();
    pass(8 * S).await;
    assert_eq!(world.cat("other").await.as_deref(), Ok("other"));
}

//! Locks, asked for over the control socket of a mount without a kernel.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may panic and read the clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs;
use std::time::Duration;

use leasefs::control::AskError;
use leasefs::control::protocol::{Ask, LockedReport, Reply, StillLocked, UnlockedReport};
use leasefs::core::engine::State;
use leasefs::core::error::FsError;
use leasefs::core::locks::Scope;
use support::fake_vault::{FakeIdentity, FakeVault, Op, Role, Step};
use support::served::{Served, lock_store, owned};

const CONFIG: &str = "
[file.\"db/user\"]
secret = \"database/creds/app#username\"
renew = \"always\"
[file.\"db/password\"]
secret = \"database/creds/app#password\"
renew = \"always\"
[file.weather]
secret = \"secret/weather#key\"
[tree.kv]
secret = \"secret/agents/\"
";

const HOUR: Duration = Duration::from_secs(3600);

fn start() -> Served {
    let vault = FakeVault::new(vec![FakeIdentity::login(24 * HOUR, &[""])]);
    vault.mount("database", "database");
    vault.add_role("database/creds/app", Role { ttl: HOUR, max_ttl: HOUR, renewable: true });
    vault.mount_kv("secret", 2);
    vault.write_kv("secret/weather", r#"{"key":"sunny"}"#);
    Served::start(CONFIG, vault)
}

async fn lock(served: &Served, names: &[&str]) -> LockedReport {
    match served.ask(Ask::Lock { names: owned(names), reason: "incident 12".to_owned() }).await {
        Ok(Reply::Locked(report)) => report,
        other => panic!("nothing was locked: {other:?}"),
    }
}

async fn unlock(served: &Served, names: &[&str]) -> UnlockedReport {
    match served.ask(Ask::Unlock { names: owned(names) }).await {
        Ok(Reply::Unlocked(report)) => report,
        other => panic!("nothing was unlocked: {other:?}"),
    }
}

#[tokio::test]
async fn a_locked_file_ends_here_and_in_vault_and_nobody_has_it_fetched() {
    let served = start();
    let handle = served.world.open("db/password").await.unwrap();
    let lease = served.world.vault.live_leases()[0].0.clone();
    let report = lock(&served, &["db"]).await;
    assert_eq!(report.names, ["db"]);
    assert_eq!((report.revocation.ended, report.revocation.revoked), (1, vec![lease]));
    assert_eq!(report.unsaved, None);
    assert_eq!(served.world.read(handle), Err(FsError::GenerationEnded));
    let asked = served.world.vault.count(Op::Read);
    assert_eq!(served.world.cat("db/password").await, Err(FsError::Locked));
    assert_eq!(served.world.cat("db/user").await, Err(FsError::Locked));
    let refreshed = served.refresh(&["db"]).await;
    assert!(refreshed.iter().all(|file| file.error.as_deref() == Some("incident 12")), "{refreshed:?}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(served.world.vault.count(Op::Read), asked, "not even though it says renew = \"always\"");
    assert_eq!(served.world.state("db/user"), State::Locked);
    let status = served.status().await;
    assert_eq!((status.locks[0].name.as_str(), status.locks[0].reason.as_str()), ("db", "incident 12"));
    assert_eq!(served.world.cat("weather").await.unwrap(), "sunny", "a neighbour is as well as ever");

    assert_eq!(unlock(&served, &[]).await.unlocked, ["db"]);
    served.world.cat("db/password").await.unwrap();
}

#[tokio::test]
async fn a_file_that_shares_its_secret_with_a_locked_one_is_fetched_anew() {
    let served = start();
    let handle = served.world.open("db/user").await.unwrap();
    lock(&served, &["db/password"]).await;
    assert_eq!(served.world.read(handle), Err(FsError::GenerationEnded), "they shared a lease");
    served.world.cat("db/user").await.unwrap();
    assert_eq!(served.world.vault.counts().minted, 2);
    assert_eq!(served.world.cat("db/password").await, Err(FsError::Locked));
    let status = served.status().await;
    let password = status.files.iter().find(|file| file.name == "db/password").unwrap();
    assert_eq!((password.state.as_str(), password.size, password.lease.clone()), ("locked", None, None));
}

#[tokio::test]
async fn those_who_wait_are_told_at_once_and_what_comes_late_is_revoked() {
    let served = start();
    served.world.vault.script(Op::Read, None, Some(Step::slow(Duration::from_millis(400))));
    let (opened, report) = tokio::join!(served.world.cat("db/password"), async {
        while served.world.vault.count(Op::Read) < 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        lock(&served, &["db"]).await
    });
    assert_eq!(opened, Err(FsError::Locked));
    assert_eq!(report.revocation.ended, 0);
    while served.world.vault.counts().minted < 1 || !served.world.vault.live_leases().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(served.world.memory(), 0);
    assert_eq!(served.world.state("db/password"), State::Locked);
}

#[tokio::test]
async fn a_name_below_a_tree_can_be_locked_before_anybody_has_seen_it_and_a_misspelt_one_can_not() {
    let served = start();
    assert_eq!(lock(&served, &["kv/billing/key", "/weather/"]).await.names, ["kv/billing/key", "weather"]);
    for name in ["wether", "db/pass", "../x", "weather/x"] {
        let ask = Ask::Lock { names: owned(&["db", name]), reason: "x".to_owned() };
        let refused = served.ask(ask).await.unwrap_err();
        assert_eq!(refused, AskError::UnknownName { name: name.to_owned() });
    }
    served.world.cat("db/user").await.unwrap();
    let empty = Ask::Lock { names: Vec::new(), reason: " \n".to_owned() };
    assert_eq!(served.ask(empty).await, Err(AskError::OtherVersion));
}

#[tokio::test]
async fn an_unlock_says_which_wider_lock_is_left() {
    let served = start();
    lock(&served, &[]).await;
    lock(&served, &["weather"]).await;
    let report = unlock(&served, &["weather"]).await;
    assert_eq!(report.unlocked, ["weather"]);
    let still = StillLocked { name: "weather".to_owned(), by: String::new() };
    assert_eq!(report.still_locked, [still]);
    assert_eq!(served.world.cat("weather").await, Err(FsError::Locked));
    assert_eq!(unlock(&served, &[]).await.unlocked, [""]);
    assert_eq!(served.world.cat("weather").await.unwrap(), "sunny");
}

#[tokio::test]
async fn what_is_locked_is_written_down_and_one_that_can_not_be_is_locked_all_the_same() {
    let served = start();
    lock(&served, &["db", "weather"]).await;
    unlock(&served, &["weather"]).await;
    let stored = lock_store(&served.directory).load().unwrap();
    let names: Vec<&str> = stored.iter().map(|(scope, _)| scope.as_str()).collect();
    assert_eq!(names, ["db"]);
    assert_eq!(stored.covering("db/x").unwrap().0, &Scope::new("db").unwrap());
    let path = lock_store(&served.directory).path().unwrap();
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let report = lock(&served, &["weather"]).await;
    assert!(report.unsaved.unwrap().contains("can't be written"));
    assert_eq!(served.world.cat("weather").await, Err(FsError::Locked));
}

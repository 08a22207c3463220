//! What is required is there without anybody opening it, and is waited for: engine, driver and a scripted
//! Vault under paused time, and a served control socket.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may panic and read the clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::time::Duration;

use leasefs::control::AskError;
use leasefs::control::protocol::{Ask, Reply, WaitedFile};
use leasefs::core::engine::{Readiness, State};
use leasefs::core::error::Fault;
use support::conversation::{World, pass};
use support::fake_vault::{FakeIdentity, FakeVault, Op, Role};
use support::served::{Served, owned};

const S: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

const CONFIG: &str = "
[file.password]
secret = \"database/creds/app#password\"
required = true
[file.weather]
secret = \"secret/weather#key\"
required = true
[file.idle]
secret = \"secret/idle#key\"
[file.absent]
secret = \"secret/absent#key\"
[dir.fields]
secret = \"secret/weather\"
[tree.kv]
secret = \"secret/agents/\"
";

fn vault() -> FakeVault {
    let vault = FakeVault::new(vec![FakeIdentity::login(24 * 365 * HOUR, &[""])]);
    vault.mount("database", "database");
    vault.add_role("database/creds/app", Role { ttl: MINUTE, max_ttl: HOUR, renewable: true });
    vault.mount_kv("secret", 2);
    for name in ["weather", "idle", "agents/billing", "agents/deep/search"] {
        vault.write_kv(&format!("secret/{name}"), r#"{"key":"one","other":"two"}"#);
    }
    vault
}

fn required(world: &World) -> Vec<Readiness> {
    world.service().look(|engine, now| engine.required(now))
}

fn is_ready(world: &World) -> bool {
    required(world).iter().all(Readiness::is_live)
}

#[tokio::test(start_paused = true)]
async fn what_is_required_is_fetched_and_kept_though_nobody_opens_it() {
    let world = World::start(CONFIG, vault());
    pass(S).await;
    let names: Vec<String> = required(&world).into_iter().map(|file| file.name).collect();
    assert_eq!(names, ["fields", "password", "weather"], "fields shows the secret that weather requires");
    assert!(is_ready(&world));
    assert_eq!(world.state("idle"), State::Idle);
    for _ in 0..300 {
        pass(MINUTE).await;
        assert!(is_ready(&world));
    }
    let minted = world.vault.counts().minted;
    assert!((5..=7).contains(&minted), "five hours, one mint for each max_ttl: {minted}");
    assert_eq!(world.state("idle"), State::Idle);
    world.vault.write_kv("secret/weather", r#"{"key":"two"}"#);
    pass(2 * MINUTE).await;
    let asked = world.vault.count(Op::Read);
    assert_eq!(world.cat("weather").await.unwrap(), "two");
    assert_eq!(world.vault.count(Op::Read), asked, "it was asked for at its max-age already");
}

#[tokio::test(start_paused = true)]
async fn what_is_required_comes_back_by_itself_and_never_in_a_storm() {
    let world = World::start(CONFIG, vault());
    pass(S).await;
    let lease = world.vault.live_leases()[0].clone();
    world.vault.revoke_upstream(&lease);
    pass(MINUTE).await;
    assert!(is_ready(&world), "looked up, found gone, fetched again");
    assert_eq!(world.vault.counts().minted, 2);
    world.vault.go_down(Fault::Unreachable);
    pass(HOUR).await;
    assert!(!is_ready(&world));
    let minted = world.vault.counts().minted;
    world.vault.come_back();
    pass(MINUTE).await;
    assert!(is_ready(&world));
    assert_eq!(world.vault.counts().minted, minted + 1);
}

#[tokio::test(start_paused = true)]
async fn a_vault_that_is_down_at_the_start_is_asked_until_it_answers() {
    let fake = vault();
    fake.go_down(Fault::Sealed);
    let world = World::start(CONFIG, fake);
    pass(10 * MINUTE).await;
    assert!(required(&world).iter().all(|file| file.state == State::Failed && file.error.is_some()));
    let reads = world.vault.count(Op::Login) + world.vault.count(Op::Read);
    assert!(reads < 400, "{reads} requests in ten minutes");
    world.vault.come_back();
    pass(MINUTE).await;
    assert!(is_ready(&world));
    assert_eq!(world.vault.counts().minted, 1);
}

async fn wait(served: &Served, names: &[&str]) -> Vec<WaitedFile> {
    match served.ask(Ask::Wait { names: owned(names), patience_ms: 1000 }).await {
        Ok(Reply::Waited(report)) => report.files,
        other => panic!("nobody waited: {other:?}"),
    }
}

#[tokio::test]
async fn a_wait_fetches_what_it_names_once_and_nothing_else() {
    let served = Served::start(CONFIG, vault());
    let files = wait(&served, &[]).await;
    assert!(files.iter().all(|file| file.live), "{files:?}");
    assert_eq!(files.len(), 3);
    let asked = served.world.vault.count(Op::Read);
    for _ in 0..3 {
        let [file] = wait(&served, &["idle"]).await.try_into().unwrap();
        assert!(file.live && file.state == "live", "{file:?}");
    }
    assert_eq!(served.world.vault.count(Op::Read), asked + 1);
    let refused =
        served.ask(Ask::Wait { names: owned(&["idle", "idel"]), patience_ms: 1000 }).await.unwrap_err();
    assert_eq!(refused, AskError::UnknownName { name: "idel".to_owned() });
}

#[tokio::test]
async fn a_wait_for_what_does_not_come_has_its_reason_and_does_not_hammer() {
    let served = Served::start(CONFIG, vault());
    wait(&served, &[]).await;
    let asked = served.world.vault.count(Op::Read);
    for _ in 0..3 {
        let [file] = wait(&served, &["absent"]).await.try_into().unwrap();
        assert!(!file.live);
        assert!(file.error.unwrap().contains("secret/"), "the reason names the path");
    }
    let more = served.world.vault.count(Op::Read) - asked;
    assert!((1..=8).contains(&more), "{more} reads in three seconds");
}

#[tokio::test]
async fn files_below_a_tree_are_waited_for_though_nobody_has_looked_there() {
    let served = Served::start(CONFIG, vault());
    let names = ["kv/billing/key", "kv/deep/search/other", "fields/key"];
    let files = wait(&served, &names).await;
    assert!(files.iter().all(|file| file.live), "{files:?}");
    assert_eq!(files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>(), names);
    let [file] = wait(&served, &["kv/billing/nothing"]).await.try_into().unwrap();
    assert!(file.error.unwrap().contains("no field \"nothing\""));
    // Neither what is not there nor what is wrong leaves anything behind in the engine.
    let sources = || served.world.service().look(|engine, _| engine.census().sources);
    let before = sources();
    let wrong = Ask::Wait { names: owned(&["kv/deep/key", "wrong"]), patience_ms: 0 };
    served.ask(wrong).await.unwrap_err();
    served.ask(Ask::Explain { name: "kv/never/seen".to_owned() }).await.unwrap();
    assert_eq!(sources(), before);
    let refused =
        served.ask(Ask::Wait { names: owned(&["kv/billing"]), patience_ms: 1000 }).await.unwrap_err();
    assert_eq!(refused, AskError::UnknownName { name: "kv/billing".to_owned() });
}

#[tokio::test]
async fn a_wait_causes_nothing_for_a_locked_file() {
    let served = Served::start(CONFIG, vault());
    wait(&served, &[]).await;
    let names = owned(&["idle", "password", "kv"]);
    served.ask(Ask::Lock { names, reason: "incident".to_owned() }).await.unwrap();
    let asked = served.world.vault.count(Op::Read);
    for name in ["idle", "password", "kv/billing/key"] {
        let [file] = wait(&served, &[name]).await.try_into().unwrap();
        assert_eq!(
            (file.live, file.state.as_str(), file.error.as_deref()),
            (false, "locked", Some("incident"))
        );
    }
    assert_eq!(served.world.vault.count(Op::Read), asked);
    served.ask(Ask::Unlock { names: Vec::new() }).await.unwrap();
    assert!(wait(&served, &[]).await.iter().all(|file| file.live), "what is required comes back by itself");
}

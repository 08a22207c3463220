//! Each kind of token on a real mount, with a real OpenBao and a real PostgreSQL: periodic, batch, limited in
//! life or in uses, dead and replaced.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may panic, and compares with the wall clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use support::mount::{Mount, eventually};
use support::scenarios::{run_together, scenarios};
use support::world::{World, try_read};

#[test]
fn tokens() {
    let world = World::start();
    let rules = r#"path "database/creds/*" { capabilities = ["read"] }"#;
    world.wait(world.bao.write_policy("given", rules));
    run_together(
        &world,
        &scenarios![
            a_token_with_few_uses_is_refused_with_a_reason_and_not_used_up,
            a_login_for_tokens_with_few_uses_is_refused_and_leaves_none_behind,
            a_dead_token_is_asked_about_seldom_and_a_living_one_taken_within_seconds,
            a_token_that_replaces_a_longer_one_is_taken_when_the_user_says_so,
            a_periodic_token_is_renewed_for_good,
            a_batch_token_is_replaced_before_it_ends,
            a_token_with_an_explicit_end_is_replaced_before_it_comes,
        ],
    );
}

fn mount(world: &World, identity: &str, role: &str) -> Mount {
    let config = format!(
        "[vault]\naddress = \"{}\"\n{identity}[file.user]\nsecret = \"database/creds/{role}#username\"\n\
         [file.password]\nsecret = \"database/creds/{role}#password\"\n",
        world.bao.address()
    );
    Mount::start(&config, &[])
}

fn token(world: &World, mut options: Value) -> String {
    options["policies"] = json!(["given"]);
    world.wait(world.bao.create_token(options))
}

fn from_file(path: &Path) -> String {
    format!("[identity.default]\nmethod = \"token\"\ntoken-file = \"{}\"\n", path.display())
}

fn a_token_with_few_uses_is_refused_with_a_reason_and_not_used_up(world: &World) {
    let few = token(world, json!({"num_uses": 5, "ttl": "1h"}));
    let path = world.bao.secret_file("few.token", &few);
    let mount = mount(world, &from_file(&path), "few");
    mount.wait_for_log("num_uses");
    thread::sleep(Duration::from_secs(4));
    assert_eq!(try_read(&mount, "user"), Err(libc::EACCES));
    let facts = world.wait(world.bao.call("POST", "auth/token/lookup", Some(json!({"token": few}))));
    assert_eq!(facts["data"]["num_uses"], json!(4), "one look-up was all that it was used for");
}

fn a_login_for_tokens_with_few_uses_is_refused_and_leaves_none_behind(world: &World) {
    let identity = world.approle("uses", json!({"token_ttl": "1h", "token_num_uses": 3}));
    let mount = mount(world, &identity, "uses");
    mount.wait_for_log("token_num_uses");
    eventually(Duration::from_secs(3), || world.accessors("uses").is_empty()).expect("it was revoked");
}

fn a_dead_token_is_asked_about_seldom_and_a_living_one_taken_within_seconds(world: &World) {
    world.role("dead", 60, 180);
    let path = world.bao.secret_file("dead.token", "s.thisTokenNeverLived");
    let mount = mount(world, &from_file(&path), "dead");
    mount.wait_for_log("login failed");
    assert_eq!(try_read(&mount, "user"), Err(libc::EACCES));
    thread::sleep(Duration::from_secs(3));
    assert_eq!(mount.log().matches("login failed").count(), 1, "said once:\n{}", mount.log());
    fs::write(&path, token(world, json!({"ttl": "1h"}))).unwrap();
    eventually(Duration::from_secs(4), || try_read(&mount, "user").is_ok()).expect("the living one is taken");
}

fn a_token_that_replaces_a_longer_one_is_taken_when_the_user_says_so(world: &World) {
    world.role("shorter", 60, 180);
    let path = world.bao.secret_file("shorter.token", &token(world, json!({"ttl": "1h"})));
    let mount = mount(world, &from_file(&path), "shorter");
    let user = mount.read("user").unwrap();
    let granted = || {
        let (_, text) = mount.command(&["status", &mount.root().display().to_string(), "--json"]);
        let status: Value = serde_json::from_str(&text).unwrap();
        status["identities"][0]["duration_seconds"].as_u64()
    };
    let hour = granted().unwrap();
    assert!((3500..=3600).contains(&hour), "{hour}");
    // The same token once more: nothing changes, and nothing is issued for it.
    mount.signal(nix::sys::signal::Signal::SIGHUP);
    mount.wait_for_log("reloading");
    thread::sleep(Duration::from_millis(500));
    assert_eq!((granted(), mount.read("user").unwrap()), (Some(hour), user));
    assert_eq!(world.leases("shorter").len(), 1);
    fs::write(&path, token(world, json!({"ttl": "10m"}))).unwrap();
    mount.signal(nix::sys::signal::Signal::SIGHUP);
    eventually(Duration::from_secs(5), || granted().is_some_and(|granted| granted <= 600))
        .expect("it is taken");
    mount.read("user").unwrap();
}

/// Reads the credential for a while; it must never fail, and work in PostgreSQL.
fn use_it(world: &World, mount: &Mount, span: Duration) -> usize {
    let start = Instant::now();
    let mut users = std::collections::BTreeSet::new();
    while start.elapsed() < span {
        users.insert(mount.read("user").unwrap_or_else(|error| panic!("{error}\n{}", mount.log())));
        thread::sleep(Duration::from_millis(50));
    }
    let (user, password) = (mount.read("user").unwrap(), mount.read("password").unwrap());
    assert!(world.postgres.admits(&user, &password) || mount.read("user").unwrap() != user);
    users.len()
}

fn a_periodic_token_is_renewed_for_good(world: &World) {
    world.role("periodic", 60, 180);
    let periodic = token(world, json!({"period": "3s"}));
    let path = world.bao.secret_file("periodic.token", &periodic);
    let mount = mount(world, &from_file(&path), "periodic");
    assert_eq!(use_it(world, &mount, Duration::from_secs(8)), 1, "the same credential all the time");
}

fn a_batch_token_is_replaced_before_it_ends(world: &World) {
    world.role("batch", 60, 180);
    let identity = world.approle("batch", json!({"token_type": "batch", "token_ttl": "4s"}));
    let mount = mount(world, &identity, "batch");
    assert!(use_it(world, &mount, Duration::from_secs(9)) >= 2, "its credentials end with it");
}

fn a_token_with_an_explicit_end_is_replaced_before_it_comes(world: &World) {
    world.role("explicit", 60, 180);
    let options = json!({"token_ttl": "2s", "token_explicit_max_ttl": "5s"});
    let identity = world.approle("explicit", options);
    let mount = mount(world, &identity, "explicit");
    assert!(use_it(world, &mount, Duration::from_secs(9)) >= 2);
    eventually(Duration::from_secs(5), || world.accessors("explicit").len() <= 2).expect("none stays behind");
}

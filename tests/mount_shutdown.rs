//! How a mount ends: everything is given back, in bounded time, and what can't be is named. With a real
//! OpenBao and a real PostgreSQL; all scenarios run at once and share the servers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may panic, and measures time"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;
use serde_json::json;

use support::mount::{Mount, eventually};
use support::scenarios::{run_together, scenarios};
use support::tcp::{State, Wire};
use support::world::{World, try_read};

/// For what should take a moment.
const SOON: Duration = Duration::from_secs(3);

/// Vault itself revokes the leases of a dead token after it has said that the token is dead.
const REVOCATION: Duration = Duration::from_secs(10);

#[test]
fn shutdown() {
    let world = World::start();
    run_together(
        &world,
        &scenarios![
            a_vault_that_hangs_delays_the_end_for_a_bounded_time_and_the_leases_are_named,
            a_mint_that_outlasts_the_end_with_a_given_token_is_told_of,
            a_mint_that_outlasts_the_end_dies_with_the_token_that_leasefs_logged_in_for,
            a_mint_on_its_way_with_a_given_token_is_given_back,
            sigterm_gives_back_leases_and_token,
            sigint_gives_back_leases_and_token,
            an_outside_umount_gives_back_leases_and_token,
            an_outside_lazy_umount_gives_back_leases_and_token,
            a_cut_connection_gives_back_leases_and_token,
            a_terminal_that_is_closed_ends_what_was_started_on_it,
            a_second_signal_changes_nothing,
            a_token_that_may_not_revoke_leaves_leases_that_are_named_and_lives_on,
            a_given_token_that_may_revoke_gives_back_its_leases_and_lives_on,
            both_generations_are_given_back,
            a_busy_mount_is_detached_and_its_readers_get_estale,
            a_mount_of_kv_alone_ends_without_a_trace,
            a_mount_that_never_read_anything_gives_back_its_token,
            a_vault_that_is_gone_does_not_delay_the_end_and_the_leases_are_named,
            a_mint_on_its_way_is_given_back,
            programs_that_wait_are_told_at_once,
        ],
    );
}

fn a_terminal_that_is_closed_ends_what_was_started_on_it(world: &World) {
    world.role("terminal", 60, 180);
    let identity = world.approle("terminal", json!({"token_ttl": "1h"}));
    let directory = tempfile::tempdir().unwrap();
    let (path, root) = (directory.path().join("config.toml"), directory.path().join("mnt"));
    fs::write(&path, config(world.bao.address(), "terminal", &identity)).unwrap();
    fs::create_dir(&root).unwrap();
    let line = format!("{} mount {} {}", env!("CARGO_BIN_EXE_leasefs"), path.display(), root.display());
    // It makes a terminal, which goes with it.
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--command", &line, "/dev/null"]).env("STATE_DIRECTORY", directory.path());
    let mut terminal = terminal
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("this test needs script: run `make deps`");
    let read = eventually(SOON, || fs::read_to_string(root.join("user")).is_ok_and(|user| !user.is_empty()));
    terminal.kill().unwrap();
    terminal.wait().unwrap();
    let is_mounted = || fs::read_to_string("/proc/self/mountinfo").unwrap().contains(root.to_str().unwrap());
    let gone = eventually(SOON, || !is_mounted());
    if gone.is_none() {
        let _ = umount2(&root, MntFlags::MNT_DETACH);
    }
    assert_eq!((read, gone), (Some(()), Some(())));
    world.wait_until_nothing_is_left_of("terminal", REVOCATION);
}

/// `user` and `password` of the credentials at a path.
fn config_of(address: &str, path: &str, identity: &str) -> String {
    let file = |name: &str, field: &str| format!("[file.\"{name}\"]\nsecret = \"{path}#{field}\"\n");
    let files = file("user", "username") + &file("password", "password");
    format!("[vault]\naddress = \"{address}\"\n{identity}{files}")
}

fn config(address: &str, role: &str, identity: &str) -> String {
    config_of(address, &format!("database/creds/{role}"), identity)
}

/// A mount with an AppRole and an account.
fn with_account(world: &World, role: &str) -> (Mount, String) {
    world.role(role, 60, 180);
    let identity = world.approle(role, json!({"token_ttl": "1h"}));
    let mount = Mount::start(&config(world.bao.address(), role, &identity), &[]);
    let user = mount.read("user").unwrap();
    assert!(world.postgres.admits(&user, &mount.read("password").unwrap()));
    assert_eq!((world.leases(role).len(), world.accounts(role), world.accessors(role).len()), (1, 1, 1));
    (mount, user)
}

/// That it ended well, unmounted, and gave everything back.
fn gave_everything_back(world: &World, mut mount: Mount, role: &str) {
    let status = mount.wait();
    assert_eq!(status.code(), Some(0), "{}", mount.log());
    assert!(!mount.is_mounted());
    assert_eq!(world.accessors(role), [""; 0], "its token is dead");
    world.wait_until_nothing_is_left_of(role, REVOCATION);
    assert!(mount.log().contains("all leases were given back"), "{}", mount.log());
    assert!(!mount.log().contains("lives on"), "{}", mount.log());
}

fn sigterm_gives_back_leases_and_token(world: &World) {
    let (mount, _) = with_account(world, "term");
    mount.signal(Signal::SIGTERM);
    gave_everything_back(world, mount, "term");
}

fn sigint_gives_back_leases_and_token(world: &World) {
    let (mount, _) = with_account(world, "int");
    mount.signal(Signal::SIGINT);
    gave_everything_back(world, mount, "int");
}

fn an_outside_umount_gives_back_leases_and_token(world: &World) {
    let (mount, _) = with_account(world, "umount");
    let status = Command::new("umount").arg(mount.root()).status().unwrap();
    assert!(status.success());
    gave_everything_back(world, mount, "umount");
}

fn an_outside_lazy_umount_gives_back_leases_and_token(world: &World) {
    let (mount, _) = with_account(world, "lazy");
    let file = File::open(mount.path("user")).unwrap();
    umount2(&mount.root(), MntFlags::MNT_DETACH).unwrap();
    assert!(!mount.is_mounted());
    assert!(file.read_at(&mut [0; 100], 0).is_ok(), "who has it open goes on");
    assert_eq!(world.accounts("lazy"), 1);
    // The kernel ends the session with the last user.
    drop(file);
    gave_everything_back(world, mount, "lazy");
}

fn a_cut_connection_gives_back_leases_and_token(world: &World) {
    let (mount, _) = with_account(world, "abort");
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let root = mount.root();
    let line = table.lines().find(|line| line.contains(root.to_str().unwrap())).unwrap();
    let number = line.split(' ').nth(2).unwrap().strip_prefix("0:").unwrap();
    let control = "/sys/fs/fuse/connections";
    if !fs::exists(format!("{control}/{number}")).unwrap() {
        let mounted = Command::new("mount").args(["-t", "fusectl", "fusectl", control]).status().unwrap();
        assert!(mounted.success(), "this test needs {control}");
    }
    fs::write(format!("{control}/{number}/abort"), "1").unwrap();
    gave_everything_back(world, mount, "abort");
}

fn a_second_signal_changes_nothing(world: &World) {
    let (mount, _) = with_account(world, "twice");
    mount.signal(Signal::SIGTERM);
    mount.signal(Signal::SIGTERM);
    mount.signal(Signal::SIGINT);
    gave_everything_back(world, mount, "twice");
}

fn a_token_that_may_not_revoke_leaves_leases_that_are_named_and_lives_on(world: &World) {
    world.role("plain", 60, 180);
    world.wait(world.bao.write_policy("plain", r#"path "database/creds/*" { capabilities = ["read"] }"#));
    let token = world.wait(world.bao.create_token(json!({"ttl": "1h", "policies": ["plain"]})));
    let mount = Mount::start(&config(world.bao.address(), "plain", ""), &[("VAULT_TOKEN", token.as_str())]);
    let user = mount.read("user").unwrap();
    let lease = world.lease("plain");
    let start = Instant::now();
    let (status, log) = mount.stop();
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert_eq!(status.code(), Some(0), "{log}");
    let line = log.lines().find(|line| line.contains("could not be revoked and lives on")).expect(&log);
    assert!(line.contains(&lease), "{line}");
    assert!(line.contains("lives_for_s=5") || line.contains("lives_for_s=60"), "{line}");
    assert!(!log.contains("given back"), "{log}");
    assert!(!log.contains(&token), "{log}");
    assert!(world.facts(&lease).is_some());
    assert_eq!(world.accounts("plain"), 1, "{user}");
    let body = json!({"token": token});
    let (status, _) = world.wait(world.bao.try_call("POST", "auth/token/lookup", Some(body))).unwrap();
    assert_eq!(status, 200, "the user's token is left alone");
}

fn a_given_token_that_may_revoke_gives_back_its_leases_and_lives_on(world: &World) {
    world.role("allowed", 60, 180);
    let token = given_token(world);
    let mount = Mount::start(&config(world.bao.address(), "allowed", ""), &[("VAULT_TOKEN", token.as_str())]);
    mount.read("user").unwrap();
    let (status, log) = mount.stop();
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!((world.leases("allowed").len(), world.accounts("allowed")), (0, 0), "at once");
    assert!(log.contains("all leases were given back"), "{log}");
    let body = json!({"token": token});
    let (status, _) = world.wait(world.bao.try_call("POST", "auth/token/lookup", Some(body))).unwrap();
    assert_eq!(status, 200, "the user's token is left alone");
}

fn both_generations_are_given_back(world: &World) {
    world.role("both", 4, 4);
    let token = given_token(world);
    let mount = Mount::start(&config(world.bao.address(), "both", ""), &[("VAULT_TOKEN", token.as_str())]);
    let file = File::open(mount.path("user")).unwrap();
    let rotated = eventually(Duration::from_secs(5), || world.leases("both").len() == 2);
    assert!(rotated.is_some(), "{}", mount.log());
    let (status, log) = mount.stop();
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!((world.leases("both").len(), world.accounts("both")), (0, 0), "{log}");
    drop(file);
}

fn a_busy_mount_is_detached_and_its_readers_get_estale(world: &World) {
    let (mount, _) = with_account(world, "busy");
    // Another process has the file open, and its directory as its own.
    let program = r#"exec 3<"$1"; cd "${1%/*}"; echo opened; read -r never_comes"#;
    let mut reader = Command::new("/bin/sh")
        .args(["-c", program, "reader"])
        .arg(mount.path("user"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(reader.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "opened\n");
    let file = File::open(mount.path("password")).unwrap();
    let read = || match file.read_at(&mut [0; 100], 0) {
        Ok(count) => Ok(count),
        Err(error) => Err(error.raw_os_error().unwrap()),
    };
    assert!(read().is_ok_and(|count| count > 0));
    let start = Instant::now();
    mount.signal(Signal::SIGTERM);
    let mut seen = Vec::new();
    while !seen.contains(&Err(libc::ENOTCONN)) {
        let result = read();
        if seen.last() != Some(&result) {
            seen.push(result);
        }
        assert!(start.elapsed() < Duration::from_secs(15), "{seen:?}");
        thread::sleep(Duration::from_millis(2));
    }
    // A read that is on its way when the connection is cut gets ECONNABORTED.
    seen.retain(|result| result.is_err_and(|errno| errno != libc::ECONNABORTED));
    assert_eq!(seen, [Err(libc::ESTALE), Err(libc::ENOTCONN)], "no bytes again after the end");
    gave_everything_back(world, mount, "busy");
    drop(reader.stdin.take());
    reader.wait().unwrap();
}

fn a_mount_of_kv_alone_ends_without_a_trace(world: &World) {
    world.wait(world.bao.write_kv2("secret", "shutdown", json!({"key": "value"})));
    let identity = world.approle("kvonly", json!({"token_ttl": "1h"}));
    let config = format!(
        "[vault]\naddress = \"{}\"\n{identity}[file.\"key\"]\nsecret = \"secret/shutdown#key\"\n",
        world.bao.address()
    );
    let mount = Mount::start(&config, &[]);
    assert_eq!(mount.read("key").unwrap(), "value");
    assert_eq!(world.accessors("kvonly").len(), 1);
    let start = Instant::now();
    mount.signal(Signal::SIGTERM);
    gave_everything_back(world, mount, "kvonly");
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

fn a_mount_that_never_read_anything_gives_back_its_token(world: &World) {
    world.role("unread", 60, 180);
    let identity = world.approle("unread", json!({"token_ttl": "1h"}));
    let mount = Mount::start(&config(world.bao.address(), "unread", &identity), &[]);
    mount.wait_for_log("logged in");
    mount.signal(Signal::SIGTERM);
    gave_everything_back(world, mount, "unread");
}

/// A mount by way of a wire, with an account.
fn over_a_wire(world: &World, role: &str) -> (Mount, Wire, String) {
    world.role(role, 60, 180);
    let identity = world.approle(role, json!({"token_ttl": "1h"}));
    let wire = Wire::to(world.bao.address());
    let mount = Mount::start(&config(wire.address(), role, &identity), &[]);
    mount.read("user").unwrap();
    (mount, wire, world.lease(role))
}

fn is_named(log: &str, lease: &str) {
    let line = log.lines().find(|line| line.contains("could not be revoked and lives on")).expect(log);
    assert!(line.contains(lease) && line.contains("lives_for_s="), "{line}");
    assert!(log.contains("token could not be revoked"), "{log}");
}

fn a_vault_that_hangs_delays_the_end_for_a_bounded_time_and_the_leases_are_named(world: &World) {
    let (mount, wire, lease) = over_a_wire(world, "frozen");
    let file = File::open(mount.path("user")).unwrap();
    wire.set(State::Frozen);
    let start = Instant::now();
    mount.signal(Signal::SIGTERM);
    let gone = eventually(Duration::from_millis(500), || {
        file.read_at(&mut [0; 100], 0).is_err_and(|error| error.raw_os_error() == Some(libc::ESTALE))
    });
    assert!(gone.is_some(), "the bytes do not wait for Vault");
    drop(file);
    let mut mount = mount;
    let status = mount.wait();
    let took = start.elapsed();
    assert!(took < Duration::from_secs(13), "{took:?}");
    assert_eq!(status.code(), Some(0), "{}", mount.log());
    assert!(!mount.is_mounted());
    is_named(&mount.log(), &lease);
    println!("ended after {took:?}");
    wire.set(State::Open);
}

fn a_vault_that_is_gone_does_not_delay_the_end_and_the_leases_are_named(world: &World) {
    let (mount, wire, lease) = over_a_wire(world, "gone");
    wire.set(State::Cut);
    let start = Instant::now();
    let (status, log) = mount.stop();
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    assert_eq!(status.code(), Some(0), "{log}");
    is_named(&log, &lease);
    assert!(world.facts(&lease).is_some());
}

/// A token that the user gives, which may read credentials and revoke leases.
fn given_token(world: &World) -> String {
    let rules = r#"path "+/creds/*" { capabilities = ["read"] }
                   path "sys/leases/revoke" { capabilities = ["update"] }"#;
    world.wait(world.bao.write_policy("given", rules));
    world.wait(world.bao.create_token(json!({"ttl": "1h", "policies": ["given"]})))
}

/// Begins to read `user`, stops the mount while that is on its way, and returns what the reader got and
/// for how long it waited after the signal.
fn stopped_while_reading(mount: &Mount) -> (Result<String, i32>, Duration) {
    thread::scope(|scope| {
        let reading = scope.spawn(|| (try_read(mount, "user"), Instant::now()));
        thread::sleep(Duration::from_millis(500));
        assert!(!reading.is_finished(), "it waits:\n{}", mount.log());
        let stopped = Instant::now();
        mount.signal(Signal::SIGTERM);
        let (result, answered) = reading.join().unwrap();
        (result, answered - stopped)
    })
}

fn programs_that_wait_are_told_at_once(world: &World) {
    world.slow_role("waiting", 1.5);
    let identity = world.approle("waiting", json!({"token_ttl": "1h"}));
    let mut mount = Mount::start(&config_of(world.bao.address(), "waiting/creds/waiting", &identity), &[]);
    mount.wait_for_log("logged in");
    let start = Instant::now();
    let (result, waited) = stopped_while_reading(&mount);
    assert_eq!(result, Err(libc::ESTALE));
    assert!(waited < Duration::from_millis(500), "{waited:?}");
    mount.wait();
    let took = start.elapsed();
    assert!(took < Duration::from_millis(3300), "it waits for the account and no longer: {took:?}");
    gave_everything_back(world, mount, "waiting");
}

fn a_mint_on_its_way_is_given_back(world: &World) {
    world.role("minting", 60, 180);
    let identity = world.approle("minting", json!({"token_ttl": "1h"}));
    let wire = Wire::to(world.bao.address());
    let mount = Mount::start(&config(wire.address(), "minting", &identity), &[]);
    mount.wait_for_log("logged in");
    // The answers are late: the account is there before leasefs knows.
    wire.set(State::Slow(Duration::from_millis(700)));
    assert_eq!(stopped_while_reading(&mount).0, Err(libc::ESTALE));
    gave_everything_back(world, mount, "minting");
}

fn a_mint_on_its_way_with_a_given_token_is_given_back(world: &World) {
    world.slow_role("givenmnt", 5.0);
    let token = given_token(world);
    let mut mount = Mount::start(
        &config_of(world.bao.address(), "givenmnt/creds/givenmnt", ""),
        &[("VAULT_TOKEN", token.as_str())],
    );
    mount.wait_for_log("logged in");
    assert_eq!(stopped_while_reading(&mount).0, Err(libc::ESTALE));
    assert_eq!(mount.wait().code(), Some(0), "{}", mount.log());
    assert!(mount.log().contains("all leases were given back"), "{}", mount.log());
    assert_eq!((world.leases("givenmnt").len(), world.accounts("givenmnt")), (0, 0), "{}", mount.log());
}

fn a_mint_that_outlasts_the_end_dies_with_the_token_that_leasefs_logged_in_for(world: &World) {
    world.slow_role("outlasts", 6.0);
    let identity = world.approle("outlasts", json!({"token_ttl": "1h"}));
    let mut mount = Mount::start(&config_of(world.bao.address(), "outlasts/creds/outlasts", &identity), &[]);
    mount.wait_for_log("logged in");
    let start = Instant::now();
    assert_eq!(stopped_while_reading(&mount).0, Err(libc::ESTALE));
    assert_eq!(mount.wait().code(), Some(0), "{}", mount.log());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(world.accessors("outlasts"), [""; 0], "its token is dead");
    // OpenBao makes accounts in a transaction: whether one is there shows once it has ended.
    thread::sleep(Duration::from_secs(7).saturating_sub(start.elapsed()));
    world.wait_until_nothing_is_left_of("outlasts", REVOCATION);
}

fn a_mint_that_outlasts_the_end_with_a_given_token_is_told_of(world: &World) {
    world.slow_role("toolong", 12.0);
    let token = given_token(world);
    let mut mount = Mount::start(
        &config_of(world.bao.address(), "toolong/creds/toolong", ""),
        &[("VAULT_TOKEN", token.as_str())],
    );
    mount.wait_for_log("logged in");
    let start = Instant::now();
    assert_eq!(stopped_while_reading(&mount).0, Err(libc::ESTALE));
    assert_eq!(mount.wait().code(), Some(0), "{}", mount.log());
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
    let log = mount.log();
    assert!(!log.contains("all leases were given back"), "{log}");
    let line = log.lines().find(|line| line.contains("was still on its way")).expect(&log);
    assert!(line.contains("toolong/creds/toolong"), "{line}");
}

//! Leases on a real mount, with a real OpenBao and a real PostgreSQL: how long bytes live, what keeps them,
//! and that there are none after the end. All scenarios run at once and share the servers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may panic, and compares with the wall clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use support::mount::{Mount, eventually};
use support::scenarios::{run_together, scenarios};
use support::tcp::{State, Wire};
use support::world::{World, attribute, instant, reason, try_read};

/// Longer than anything here should take that isn't the life of a lease.
const SOON: Duration = Duration::from_secs(3);

#[test]
fn leases() {
    let world = World::start();
    run_together(
        &world,
        &scenarios![
            tokens_are_renewed_and_replaced_without_a_reader_noticing,
            a_lease_is_renewed_while_a_handle_is_open_and_lapses_when_nothing_uses_it,
            renew_always_keeps_a_lease_that_nobody_uses,
            renew_never_lets_it_lapse_and_no_byte_is_read_after_its_end,
            at_max_ttl_the_next_account_comes_first_and_the_last_close_revokes_the_old_one,
            a_handle_that_stays_open_ends_with_its_lease_while_new_opens_go_on,
            a_lease_revoked_in_vault_is_noticed_within_revocation_check,
            a_lease_shortened_in_vault_ends_with_it,
            a_token_revoked_in_vault_ends_all_that_it_obtained,
            a_vanishing_name_goes_with_its_lease,
            a_kv_secret_deleted_in_vault_ends_its_handles,
            a_kv_secret_replaced_in_vault_leaves_old_handles_a_grace,
            a_kv_secret_is_fresh_for_max_age_and_keeps_its_mtime_while_unchanged,
            a_kv_version_with_a_deletion_time_ends_by_then,
            kv_is_served_stale_while_vault_is_cut_off_and_not_after_its_grace,
            kv_is_served_stale_while_vault_hangs_and_not_after_its_grace,
            a_lease_that_cannot_be_renewed_ends_on_time_while_vault_is_cut_off,
            two_files_of_one_source_show_one_account,
            a_given_token_that_ends_takes_its_secrets_with_it,
            a_better_token_in_the_file_is_taken_before_the_old_one_ends,
            a_token_that_dies_while_a_read_is_on_its_way_is_replaced_at_once,
            a_token_that_ends_while_vault_hangs_takes_its_secrets_with_it,
        ],
    );
}

fn mount(world: &World, mount_table: &str, files: &str) -> Mount {
    let config = format!("[vault]\naddress = \"{}\"\n[mount]\n{mount_table}\n{files}", world.bao.address());
    Mount::start(&config, &[("VAULT_TOKEN", world.bao.root_token())])
}

/// `user` and `password` of a role, with more keys for both.
fn credential(role: &str, keys: &str) -> String {
    let file = |name: &str, field: &str| {
        format!("[file.\"{name}\"]\nsecret = \"database/creds/{role}#{field}\"\n{keys}\n")
    };
    file("user", "username") + &file("password", "password")
}

/// Reads an open file from its start.
fn held(file: &File) -> Result<String, i32> {
    let mut bytes = [0; 4096];
    match file.read_at(&mut bytes, 0) {
        Ok(count) => Ok(String::from_utf8(bytes[..count].to_vec()).unwrap()),
        Err(error) => Err(error.raw_os_error().unwrap()),
    }
}

/// Reads an open file again and again until that fails. Returns the last moment at which it is known to
/// have given bytes, the errno, and checks that it is always the same bytes and the same end.
fn read_until_the_end(file: &File, patience: Duration) -> (SystemTime, i32) {
    let first = held(file).unwrap();
    assert!(!first.is_empty());
    let deadline = Instant::now() + patience;
    let mut last = SystemTime::now();
    loop {
        // The clock before the read: what the read shows, it showed then or later.
        let before = SystemTime::now();
        match held(file) {
            Ok(bytes) => {
                assert_eq!(bytes, first, "a handle shows one generation");
                last = before;
            }
            Err(errno) => {
                for _ in 0..20 {
                    assert_eq!(held(file), Err(errno), "an end is an end");
                }
                return (last, errno);
            }
        }
        assert!(Instant::now() < deadline, "it can still be read after {patience:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn seconds_before(moment: SystemTime, end: SystemTime) -> f64 {
    end.duration_since(moment).map_or_else(|late| -late.duration().as_secs_f64(), |early| early.as_secs_f64())
}

#[track_caller]
fn soon(what: &str, condition: impl FnMut() -> bool) {
    within(SOON, what, condition);
}

#[track_caller]
fn within(patience: Duration, what: &str, condition: impl FnMut() -> bool) {
    assert!(eventually(patience, condition).is_some(), "not within {patience:?}: {what}");
}

fn two_files_of_one_source_show_one_account(world: &World) {
    world.role("pair", 60, 180);
    let files = credential("pair", "")
        + "[file.\"login.json\"]\nsecret = \"database/creds/pair\"\n[dir.\"login\"]\n\
           secret = \"database/creds/pair\"\nnames = { username = \"name\", password = \"pass\" }\n";
    let mount = mount(world, "", &files);
    for name in ["user", "password", "login.json", "login/name"] {
        assert_eq!(fs::metadata(mount.path(name)).unwrap().len(), 0);
    }
    assert_eq!(world.leases("pair"), [""; 0], "looking does not mint");
    let (user, password) = (mount.read("user").unwrap(), mount.read("password").unwrap());
    assert!(world.postgres.admits(&user, &password));
    let json: serde_json::Value = serde_json::from_str(&mount.read("login.json").unwrap()).unwrap();
    assert_eq!(json, json!({"username": user, "password": password}));
    assert_eq!(mount.read("login/name").unwrap(), user);
    assert_eq!(mount.read("login/pass").unwrap(), password);
    assert_eq!(fs::metadata(mount.path("password")).unwrap().len(), password.len() as u64);
    world.lease("pair");
    assert_eq!(world.accounts("pair"), 1);
    assert_eq!(attribute(&mount, "user", "state"), "live");
    assert_eq!(attribute(&mount, "user", "source"), "database/creds/pair");
    let left = humantime::parse_rfc3339(&attribute(&mount, "user", "expires")).unwrap();
    assert!((50.0..=60.0).contains(&seconds_before(SystemTime::now(), left)), "{left:?}");
}

fn a_lease_is_renewed_while_a_handle_is_open_and_lapses_when_nothing_uses_it(world: &World) {
    world.role("renewed", 3, 60);
    let mount = mount(world, "", &credential("renewed", "idle-timeout = \"1s\""));
    let file = File::open(mount.path("user")).unwrap();
    let user = held(&file).unwrap();
    let lease = world.lease("renewed");
    let first = world.facts(&lease).unwrap();
    let mut renewals = Vec::new();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(7) {
        let facts = world.facts(&lease).expect("it lives");
        assert!(facts.expires > SystemTime::now());
        renewals.extend(facts.renewed);
        assert_eq!(held(&file), Ok(user.clone()));
        thread::sleep(Duration::from_millis(100));
    }
    renewals.dedup();
    assert!((2..=5).contains(&renewals.len()), "a renewal at half to two thirds of 3 s: {renewals:?}");
    assert!(*renewals.last().unwrap() > first.expires);
    assert_eq!(world.lease("renewed"), lease, "nothing was minted");
    drop(file);
    let closed = SystemTime::now();
    let mut last = None;
    within(Duration::from_millis(4700), "the lease lapses", || {
        let facts = world.facts(&lease);
        last = facts.or(last);
        facts.is_none()
    });
    let renewed = last.and_then(|facts| facts.renewed).unwrap();
    assert!(seconds_before(renewed, closed) > -1.2, "renewed after its idle-timeout");
    assert_eq!(attribute(&mount, "user", "state"), "idle");
    assert_eq!(fs::metadata(mount.path("user")).unwrap().len(), 0);
    let next = mount.read("user").unwrap();
    assert_ne!(next, user, "the next open fetches anew");
}

fn renew_always_keeps_a_lease_that_nobody_uses(world: &World) {
    world.role("always", 3, 60);
    let mount = mount(world, "", &credential("always", "renew = \"always\"\nidle-timeout = \"1s\""));
    let user = mount.read("user").unwrap();
    let lease = world.lease("always");
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(7) {
        let facts = world.facts(&lease).expect("it lives");
        assert!(facts.expires > SystemTime::now());
        thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(world.lease("always"), lease);
    assert_eq!(mount.read("user").unwrap(), user);
}

fn renew_never_lets_it_lapse_and_no_byte_is_read_after_its_end(world: &World) {
    world.role("never", 3, 60);
    let mount = mount(world, "", &credential("never", "renew = \"never\""));
    let file = File::open(mount.path("password")).unwrap();
    let lease = world.lease("never");
    let expires = world.facts(&lease).unwrap().expires;
    let (last, errno) = read_until_the_end(&file, Duration::from_secs(5));
    assert_eq!(errno, libc::ESTALE);
    let early = seconds_before(last, expires);
    assert!((0.0..0.6).contains(&early), "the last byte was read {early} s before the lease's end");
    world.wait_until_nothing_is_left_of("never", SOON);
    assert_eq!(fs::metadata(mount.path("password")).unwrap().len(), 0);
    let next = mount.read("password").unwrap();
    assert!(world.postgres.admits(&mount.read("user").unwrap(), &next));
    assert_ne!(world.lease("never"), lease);
    assert_eq!(held(&file), Err(libc::ESTALE), "a new generation does not revive an old handle");
}

fn at_max_ttl_the_next_account_comes_first_and_the_last_close_revokes_the_old_one(world: &World) {
    world.role("capped", 4, 9);
    let mount = mount(world, "", &credential("capped", ""));
    let file = File::open(mount.path("user")).unwrap();
    let (user, password) = (held(&file).unwrap(), mount.read("password").unwrap());
    let lease = world.lease("capped");
    let minted = SystemTime::now();
    let deadline = Instant::now() + Duration::from_secs(12);
    let next = loop {
        let next = mount.read("user").expect("every open works");
        if next != user {
            break next;
        }
        assert_eq!(held(&file), Ok(user.clone()));
        assert!(Instant::now() < deadline, "no new generation:\n{}", mount.log());
        thread::sleep(Duration::from_millis(10));
    };
    let old = world.facts(&lease).expect("the old lease outlives the change");
    let (age, left) =
        (-seconds_before(SystemTime::now(), minted), seconds_before(SystemTime::now(), old.expires));
    assert!(age > 5.0, "it was kept for as long as it could be renewed: {age} s");
    assert!(left > 0.0, "{left} s");
    assert_eq!(held(&file), Ok(user.clone()), "the old handle goes on");
    assert!(world.postgres.admits(&user, &password));
    let next_password = mount.read("password").unwrap();
    assert_ne!(next_password, password, "all files of the source change in one step");
    assert!(world.postgres.admits(&next, &next_password));
    assert_eq!(world.leases("capped").len(), 2);
    drop(file);
    let closed = Instant::now();
    soon("the old lease is revoked", || world.facts(&lease).is_none());
    soon("the old account is gone", || !world.postgres.admits(&user, &password));
    println!("revoked {:?} after the close, with {left:.1} s left", closed.elapsed());
    assert!(world.postgres.admits(&next, &next_password));
    assert_eq!(mount.read("user").unwrap(), next);
}

fn a_handle_that_stays_open_ends_with_its_lease_while_new_opens_go_on(world: &World) {
    world.role("stays", 5, 5);
    let mount = mount(world, "", &credential("stays", ""));
    let file = File::open(mount.path("user")).unwrap();
    let user = held(&file).unwrap();
    let lease = world.lease("stays");
    thread::scope(|scope| {
        let reading = scope.spawn(|| read_until_the_end(&file, Duration::from_secs(8)));
        let ending = scope.spawn(|| World::last_end(|| world.facts(&lease).map(|facts| facts.expires)));
        let mut seen = vec![user.clone()];
        while !reading.is_finished() {
            seen.push(mount.read("user").expect("every open works"));
            assert!(world.leases("stays").len() <= 2);
            thread::sleep(Duration::from_millis(20));
        }
        seen.dedup();
        assert_eq!(seen.len(), 2, "one account before the other, and neither comes back: {seen:?}");
        let (last, errno) = reading.join().unwrap();
        assert_eq!(errno, libc::ESTALE);
        let early = seconds_before(last, ending.join().unwrap());
        assert!((0.0..1.0).contains(&early), "the last byte was read {early} s before the lease's end");
    });
}

fn a_lease_revoked_in_vault_is_noticed_within_revocation_check(world: &World) {
    world.role("revoked", 60, 180);
    let mount = mount(world, "revocation-check = \"1s\"", &credential("revoked", ""));
    let file = File::open(mount.path("user")).unwrap();
    let user = held(&file).unwrap();
    thread::sleep(Duration::from_millis(300));
    world.wait(world.bao.revoke_lease(&world.lease("revoked")));
    let revoked = SystemTime::now();
    let (last, errno) = read_until_the_end(&file, Duration::from_secs(3));
    assert_eq!(errno, libc::ESTALE);
    let late = -seconds_before(last, revoked);
    assert!(late < 1.6, "still shown {late} s after it was revoked, with a check every 1.1 s at most");
    assert_ne!(mount.read("user").unwrap(), user);
    assert!(mount.log().contains("revoked or deleted in Vault"), "{}", mount.log());
}

fn a_lease_shortened_in_vault_ends_with_it(world: &World) {
    world.role("shorter", 60, 180);
    let mount = mount(world, "revocation-check = \"1s\"", &credential("shorter", "renew = \"never\"\n"));
    let file = File::open(mount.path("user")).unwrap();
    let lease = world.lease("shorter");
    // An increment below what remains shortens it.
    let body = json!({"lease_id": lease, "increment": 4});
    world.wait(world.bao.call("POST", "sys/leases/renew", Some(body)));
    let expires = world.facts(&lease).unwrap().expires;
    assert!(seconds_before(SystemTime::now(), expires) < 4.5);
    let (last, errno) = read_until_the_end(&file, Duration::from_secs(6));
    assert_eq!(errno, libc::ESTALE);
    let early = seconds_before(last, expires);
    assert!((0.0..1.6).contains(&early), "the last byte was read {early} s before the lease's end");
}

fn a_token_revoked_in_vault_ends_all_that_it_obtained(world: &World) {
    world.role("orphan", 60, 180);
    world.wait(world.bao.write_kv2("secret", "orphan", json!({"key": "value"})));
    let identity = world.approle("orphan", json!({"token_ttl": "1h"}));
    let files = identity
        + &credential("orphan", "")
        + "[file.\"key\"]\nsecret = \"secret/orphan#key\"\nmax-age = \"1h\"\n";
    let mount = mount(world, "revocation-check = \"1s\"", &files);
    let (user, key) = (File::open(mount.path("user")).unwrap(), File::open(mount.path("key")).unwrap());
    let before = held(&user).unwrap();
    assert_eq!(held(&key), Ok("value".to_owned()));
    let accessors = world.accessors("orphan");
    assert_eq!(accessors.len(), 1);
    world.revoke_accessor(&accessors[0]);
    let revoked = SystemTime::now();
    let (last, errno) = read_until_the_end(&user, Duration::from_secs(3));
    assert_eq!(errno, libc::ESTALE);
    assert!(-seconds_before(last, revoked) < 1.6);
    assert_eq!(held(&key), Err(libc::ESTALE), "KV that the token had read ends, too");
    let after = mount.read("user").expect("it logs in again by itself");
    assert_ne!(after, before);
    assert_eq!(mount.read("key").unwrap(), "value");
    assert_eq!(world.accessors("orphan").len(), 1);
    soon("nothing is left of the first token", || world.accounts("orphan") == 1);
}

fn a_vanishing_name_goes_with_its_lease(world: &World) {
    world.role("vanish", 2, 60);
    let files = "[file.\"db/user\"]\nsecret = \"database/creds/vanish#username\"\nrenew = \"never\"\n\
                 on-expiry = \"vanish\"\n\
                 [file.\"db/other\"]\nsecret = \"secret/vanish#key\"\non-expiry = \"vanish\"\n";
    world.wait(world.bao.write_kv2("secret", "vanish", json!({"key": "value"})));
    let mount = mount(world, "", files);
    let names = || {
        let entries = fs::read_dir(mount.path("db")).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["other", "user"]);
    let file = File::open(mount.path("db/user")).unwrap();
    assert_eq!(mount.read("db/other").unwrap(), "value");
    let expires = world.facts(&world.lease("vanish")).unwrap().expires;
    let (_, errno) = read_until_the_end(&file, Duration::from_secs(4));
    assert_eq!(errno, libc::ESTALE);
    // The kernel is told at once; this is for a machine under load.
    within(Duration::from_millis(200), "the name goes", || names() == ["other"]);
    assert_eq!(fs::metadata(mount.path("db/user")).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    assert_eq!(try_read(&mount, "db/user"), Err(libc::ENOENT));
    assert!(seconds_before(SystemTime::now(), expires) > -0.5);
    soon("the lease is over", || world.leases("vanish").is_empty());
    thread::sleep(Duration::from_millis(300));
    assert_eq!(try_read(&mount, "db/user"), Err(libc::ENOENT), "it stays away");
    assert_eq!(world.leases("vanish"), [""; 0], "a name that is gone mints nothing");
    world.wait(world.bao.delete("secret/metadata/vanish"));
    assert_eq!(mount.read("db/other").unwrap(), "value", "fresh for a minute");
}

/// A file `key` of `secret/NAME#key`.
fn kv(name: &str, keys: &str) -> String {
    format!("[file.\"key\"]\nsecret = \"secret/{name}#key\"\n{keys}\n")
}

fn a_kv_secret_deleted_in_vault_ends_its_handles(world: &World) {
    world.wait(world.bao.write_kv2("secret", "deleted", json!({"key": "value"})));
    let mount = mount(world, "", &kv("deleted", "max-age = \"1s\"\ngrace = \"20s\""));
    let file = File::open(mount.path("key")).unwrap();
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(held(&file), Ok("value".to_owned()), "revalidated while it is open");
    world.wait(world.bao.delete("secret/data/deleted"));
    let deleted = SystemTime::now();
    let (last, errno) = read_until_the_end(&file, Duration::from_secs(3));
    assert_eq!(errno, libc::ESTALE);
    let late = -seconds_before(last, deleted);
    assert!(late < 1.3, "still shown {late} s after it was deleted");
    assert_eq!(try_read(&mount, "key"), Err(libc::ENOENT));
    assert_eq!(fs::metadata(mount.path("key")).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    assert!(reason(&mount, "key").contains("was deleted at"), "{}", mount.log());
    world.wait(world.bao.write_kv2("secret", "deleted", json!({"key": "again"})));
    assert_eq!(mount.read("key").unwrap(), "again");
}

fn a_kv_secret_replaced_in_vault_leaves_old_handles_a_grace(world: &World) {
    world.wait(world.bao.write_kv2("secret", "replaced", json!({"key": "first"})));
    let mount = mount(world, "", &kv("replaced", "max-age = \"1s\"\ngrace = \"2s\""));
    let file = File::open(mount.path("key")).unwrap();
    let before = fs::metadata(mount.path("key")).unwrap();
    assert_eq!(attribute(&mount, "key", "version"), "1");
    world.wait(world.bao.write_kv2("secret", "replaced", json!({"key": "the second"})));
    let mut published = None;
    thread::scope(|scope| {
        let reading = scope.spawn(|| read_until_the_end(&file, Duration::from_secs(5)));
        within(Duration::from_millis(1500), "the new version is there", || {
            published = Some(SystemTime::now());
            mount.read("key").unwrap() == "the second"
        });
        let after = fs::metadata(mount.path("key")).unwrap();
        assert_eq!(after.len(), 10);
        assert!((after.mtime(), after.mtime_nsec()) > (before.mtime(), before.mtime_nsec()));
        assert_eq!(attribute(&mount, "key", "version"), "2");
        let (last, errno) = reading.join().unwrap();
        assert_eq!(errno, libc::ESTALE);
        let lived = -seconds_before(last, published.unwrap());
        assert!((1.7..2.3).contains(&lived), "the old version lived {lived} s longer, its grace is 2 s");
    });
    assert_eq!(mount.read("key").unwrap(), "the second");
}

fn a_kv_secret_is_fresh_for_max_age_and_keeps_its_mtime_while_unchanged(world: &World) {
    world.wait(world.bao.write_kv2("secret", "fresh", json!({"key": "first"})));
    let wire = Wire::to(world.bao.address());
    let config =
        format!("[vault]\naddress = \"{}\"\n{}", wire.address(), kv("fresh", "max-age = \"1500ms\""));
    let mount = Mount::start(&config, &[("VAULT_TOKEN", world.bao.root_token())]);
    let asking = Instant::now();
    assert_eq!(mount.read("key").unwrap(), "first");
    let answered = Instant::now();
    let mtime = |mount: &Mount| {
        let facts = fs::metadata(mount.path("key")).unwrap();
        (facts.mtime(), facts.mtime_nsec())
    };
    let before = mtime(&mount);
    wire.set(State::Frozen);
    while asking.elapsed() < Duration::from_millis(1300) {
        assert_eq!(mount.read("key").unwrap(), "first");
        thread::sleep(Duration::from_millis(20));
    }
    wire.set(State::Open);
    thread::sleep(Duration::from_millis(1600).saturating_sub(answered.elapsed()));
    let asked = mount.log().matches("asked Vault").count();
    assert_eq!(mount.read("key").unwrap(), "first");
    assert_eq!(mtime(&mount), before, "asked again, and unchanged");
    assert!(mount.log().matches("asked Vault").count() > asked, "past its max-age, an open asks Vault");
    world.wait(world.bao.write_kv2("secret", "fresh", json!({"key": "second"})));
    assert_eq!(mount.read("key").unwrap(), "first", "within max-age nobody asks");
    thread::sleep(Duration::from_millis(1600));
    assert_eq!(mount.read("key").unwrap(), "second");
    assert!(mtime(&mount) > before);
}

fn a_kv_version_with_a_deletion_time_ends_by_then(world: &World) {
    let metadata = json!({"delete_version_after": "3s"});
    world.wait(world.bao.call("POST", "secret/metadata/brief", Some(metadata)));
    world.wait(world.bao.write_kv2("secret", "brief", json!({"key": "value"})));
    let mount = mount(world, "", &kv("brief", "max-age = \"1h\""));
    let file = File::open(mount.path("key")).unwrap();
    let facts = world.wait(world.bao.call("GET", "secret/metadata/brief", None));
    let ends = instant(&facts["data"]["versions"]["1"]["deletion_time"]).unwrap();
    let (last, errno) = read_until_the_end(&file, Duration::from_secs(5));
    assert_eq!(errno, libc::ESTALE);
    let early = seconds_before(last, ends);
    assert!((0.0..0.6).contains(&early), "the last byte was read {early} s before its deletion");
    soon("it is gone", || try_read(&mount, "key") == Err(libc::ENOENT));
}

fn kv_is_served_stale_while_vault_is_cut_off_and_not_after_its_grace(world: &World) {
    world.wait(world.bao.write_kv2("secret", "stale", json!({"key": "value"})));
    let wire = Wire::to(world.bao.address());
    let keys = "max-age = \"1s\"\ngrace = \"2s\"";
    let config = format!("[vault]\naddress = \"{}\"\n{}", wire.address(), kv("stale", keys));
    let mount = Mount::start(&config, &[("VAULT_TOKEN", world.bao.root_token())]);
    let asking = Instant::now();
    let file = File::open(mount.path("key")).unwrap();
    let answered = Instant::now();
    wire.set(State::Cut);
    while asking.elapsed() < Duration::from_millis(2700) {
        assert_eq!(mount.read("key").unwrap(), "value");
        assert_eq!(held(&file), Ok("value".to_owned()));
        if answered.elapsed() > Duration::from_millis(1500) {
            assert_eq!(attribute(&mount, "key", "state"), "stale");
            assert!(!attribute(&mount, "key", "error").is_empty());
        }
        thread::sleep(Duration::from_millis(50));
    }
    soon("its grace ends", || held(&file) == Err(libc::ESTALE));
    let lived = answered.elapsed().as_secs_f64();
    assert!(lived < 3.3, "its max-age and its grace are 3 s: {lived} s");
    let asked = Instant::now();
    assert_eq!(try_read(&mount, "key"), Err(libc::EHOSTDOWN));
    assert!(asked.elapsed() < Duration::from_secs(1), "what is known to be down is said at once");
    wire.set(State::Open);
    soon("it is read again", || try_read(&mount, "key") == Ok("value".to_owned()));
    assert_eq!(attribute(&mount, "key", "state"), "live");
    assert_eq!(held(&file), Err(libc::ESTALE));
}

fn kv_is_served_stale_while_vault_hangs_and_not_after_its_grace(world: &World) {
    world.wait(world.bao.write_kv2("secret", "hangs", json!({"key": "value"})));
    let wire = Wire::to(world.bao.address());
    let keys = "max-age = \"1s\"\ngrace = \"3s\"";
    let config =
        format!("[vault]\naddress = \"{}\"\nread-timeout = \"1s\"\n{}", wire.address(), kv("hangs", keys));
    let mount = Mount::start(&config, &[("VAULT_TOKEN", world.bao.root_token())]);
    let asking = Instant::now();
    assert_eq!(mount.read("key").unwrap(), "value");
    let answered = Instant::now();
    wire.set(State::Frozen);
    thread::sleep(Duration::from_millis(1100));
    let mut slowest = Duration::ZERO;
    while asking.elapsed() < Duration::from_millis(2900) {
        let asked = Instant::now();
        assert_eq!(mount.read("key").unwrap(), "value", "stale is better than nothing, for a while");
        slowest = slowest.max(asked.elapsed());
        thread::sleep(Duration::from_millis(20));
    }
    assert!(slowest < Duration::from_millis(1400), "nobody waits longer than read-timeout: {slowest:?}");
    thread::sleep(Duration::from_millis(4050).saturating_sub(answered.elapsed()));
    let errno = try_read(&mount, "key").expect_err("its grace is over");
    assert!([libc::ETIMEDOUT, libc::EHOSTDOWN].contains(&errno), "{errno}");
    wire.set(State::Open);
    soon("it is read again", || try_read(&mount, "key") == Ok("value".to_owned()));
}

fn a_lease_that_cannot_be_renewed_ends_on_time_while_vault_is_cut_off(world: &World) {
    world.role("cutoff", 4, 60);
    let wire = Wire::to(world.bao.address());
    let config = format!("[vault]\naddress = \"{}\"\n{}", wire.address(), credential("cutoff", ""));
    let mount = Mount::start(&config, &[("VAULT_TOKEN", world.bao.root_token())]);
    let file = File::open(mount.path("user")).unwrap();
    let expires = world.facts(&world.lease("cutoff")).unwrap().expires;
    wire.set(State::Cut);
    let (last, errno) = read_until_the_end(&file, Duration::from_secs(6));
    assert_eq!(errno, libc::ESTALE);
    let early = seconds_before(last, expires);
    assert!((0.0..1.0).contains(&early), "the last byte was read {early} s before the lease's end");
    assert_eq!(try_read(&mount, "user"), Err(libc::EHOSTDOWN));
    wire.set(State::Open);
    soon("it is read again", || try_read(&mount, "user").is_ok());
    soon("the first lease is over in Vault, too", || world.leases("cutoff").len() == 1);
}

fn tokens_are_renewed_and_replaced_without_a_reader_noticing(world: &World) {
    world.role("moving", 30, 60);
    world.wait(world.bao.write_kv2("secret", "moving", json!({"key": "value"})));
    let identity = world.approle("moving", json!({"token_ttl": "4s", "token_max_ttl": "9s"}));
    let files = identity + &credential("moving", "") + &kv("moving", "max-age = \"1s\"\ngrace = \"1s\"");
    let mount = mount(world, "", &files);
    let (mut users, mut tokens, mut slowest) = (Vec::new(), Vec::new(), Duration::ZERO);
    let start = Instant::now();
    let mut round = 0;
    while start.elapsed() < Duration::from_secs(22) {
        let asked = Instant::now();
        let user = try_read(&mount, "user");
        let key = try_read(&mount, "key");
        slowest = slowest.max(asked.elapsed());
        let at = start.elapsed();
        let user = user.unwrap_or_else(|errno| panic!("user: errno {errno} after {at:?}:\n{}", mount.log()));
        assert_eq!(key, Ok("value".to_owned()), "after {at:?}:\n{}", mount.log());
        if round % 10 == 0 {
            let alive = format!("select count(*) from pg_roles where rolname = '{user}'");
            assert_eq!(world.postgres.query(&alive), "1", "what is shown works");
            tokens.extend(world.accessors("moving"));
        }
        users.push(user);
        round += 1;
        thread::sleep(Duration::from_millis(100).saturating_sub(asked.elapsed()));
    }
    users.dedup();
    tokens.sort();
    tokens.dedup();
    println!("{} tokens, {} accounts, slowest round {slowest:?}", tokens.len(), users.len());
    assert!((3..=6).contains(&tokens.len()), "22 s with at most 9 s each: {}\n{}", tokens.len(), mount.log());
    assert!(users.len() <= tokens.len() + 1, "an account moves with its token, no more: {}", users.len());
    assert!(mount.log().contains("logged in"), "{}", mount.log());
    within(Duration::from_secs(6), "replaced tokens are revoked", || world.accessors("moving").len() == 1);
    within(Duration::from_secs(6), "so are their leases", || world.accounts("moving") == 1);
}

/// A token that the user gives and that lives for some seconds, in a file.
fn brief_token(world: &World, seconds: u32) -> (PathBuf, String) {
    world.wait(world.bao.write_policy("given", r#"path "database/creds/*" { capabilities = ["read"] }"#));
    let life = format!("{seconds}s");
    let brief = json!({"ttl": life, "explicit_max_ttl": life, "policies": ["given"]});
    let token = world.wait(world.bao.create_token(brief));
    (world.bao.secret_file(&format!("given-{seconds}.token"), &token), token)
}

fn token_file(path: &Path) -> String {
    format!("[identity.default]\nmethod = \"token\"\ntoken-file = \"{}\"\n", path.display())
}

fn a_given_token_that_ends_takes_its_secrets_with_it(world: &World) {
    world.role("given", 60, 180);
    let (path, token) = brief_token(world, 3);
    let mount = mount(world, "", &(token_file(&path) + &credential("given", "")));
    let file = File::open(mount.path("user")).unwrap();
    thread::scope(|scope| {
        let ending = scope.spawn(|| {
            World::last_end(|| {
                let body = json!({"token": token});
                let answer = world.wait(world.bao.try_call("POST", "auth/token/lookup", Some(body)));
                instant(&answer.unwrap().1["data"]["expire_time"])
            })
        });
        let (last, errno) = read_until_the_end(&file, Duration::from_secs(6));
        assert_eq!(errno, libc::ESTALE);
        let early = seconds_before(last, ending.join().unwrap());
        assert!((0.0..1.0).contains(&early), "the last byte was read {early} s before the token's end");
    });
    assert_eq!(try_read(&mount, "user"), Err(libc::EACCES), "{}", mount.log());
    soon("nothing is left in Vault", || world.accounts("given") == 0);
    assert!(attribute(&mount, "user", "error").contains("token"), "{}", attribute(&mount, "user", "error"));
}

fn a_better_token_in_the_file_is_taken_before_the_old_one_ends(world: &World) {
    world.role("better", 60, 180);
    let (path, _) = brief_token(world, 5);
    let mount = mount(world, "", &(token_file(&path) + &credential("better", "")));
    let first = mount.read("user").unwrap();
    fs::copy(brief_token(world, 600).0, &path).unwrap();
    let start = Instant::now();
    let mut last = first.clone();
    while start.elapsed() < Duration::from_secs(7) {
        last = mount.read("user").unwrap_or_else(|error| panic!("{error}\n{}", mount.log()));
        thread::sleep(Duration::from_millis(50));
    }
    assert_ne!(last, first);
    assert!(world.postgres.admits(&last, &mount.read("password").unwrap()));
    soon("the first token's account is gone with it", || world.accounts("better") == 1);
}

fn a_token_that_dies_while_a_read_is_on_its_way_is_replaced_at_once(world: &World) {
    world.role("dying", 60, 180);
    let identity = world.approle("dying", json!({"token_ttl": "1h"}));
    let wire = Wire::to(world.bao.address());
    let config = format!("[vault]\naddress = \"{}\"\n{identity}{}", wire.address(), credential("dying", ""));
    let mount = Mount::start(&config, &[]);
    mount.wait_for_log("logged in");
    wire.set(State::Frozen);
    thread::scope(|scope| {
        let reading = scope.spawn(|| try_read(&mount, "user"));
        thread::sleep(Duration::from_millis(300));
        world.revoke_accessor(&world.accessors("dying")[0]);
        wire.set(State::Open);
        let user = reading.join().unwrap();
        assert!(user.is_ok(), "{user:?}\n{}", mount.log());
    });
    assert_eq!(world.accounts("dying"), 1);
    assert_eq!(world.accessors("dying").len(), 1);
}

fn a_token_that_ends_while_vault_hangs_takes_its_secrets_with_it(world: &World) {
    world.role("hung", 60, 180);
    let identity = world.approle("hung", json!({"token_ttl": "3s", "token_max_ttl": "1h"}));
    let wire = Wire::to(world.bao.address());
    let config = format!(
        "[vault]\naddress = \"{}\"\nread-timeout = \"1s\"\n{identity}{}",
        wire.address(),
        credential("hung", "")
    );
    let mount = Mount::start(&config, &[]);
    let file = File::open(mount.path("user")).unwrap();
    let token = world.token(&world.accessors("hung")[0]).unwrap();
    let ends = instant(&token["expire_time"]).unwrap();
    wire.set(State::Frozen);
    let (last, errno) = read_until_the_end(&file, Duration::from_secs(5));
    assert_eq!(errno, libc::ESTALE);
    let early = seconds_before(last, ends);
    assert!((0.0..1.6).contains(&early), "the last byte was read {early} s before the token's end");
    let asked = Instant::now();
    let errno = try_read(&mount, "user").unwrap_err();
    assert!([libc::ETIMEDOUT, libc::EHOSTDOWN].contains(&errno), "{errno}");
    assert!(asked.elapsed() < Duration::from_millis(1500));
    wire.set(State::Open);
    within(Duration::from_secs(6), "it is read again", || try_read(&mount, "user").is_ok());
}

//! OpenBao itself fails, or the database behind one of its engines: sealed, frozen, started anew, throttled.
//! All scenarios run at once; those that hurt the whole server have one of their own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may panic, and compares with the wall clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs::File;
use std::thread;
use std::time::{Duration, Instant};

use libc::{EHOSTDOWN, EIO, ESTALE, ETIMEDOUT};
use nix::sys::signal::Signal;
use serde_json::json;

use support::mount::{Mount, eventually};
use support::outage::{
    self, AT_ONCE, BACK, Outage, READ_TIMEOUT, content, credential, held, is_back, is_down, kv,
    misses_fail_in_time, status, status_tells, timed, while_reading,
};
use support::scenarios::{run_together, scenarios};
use support::tcp::{State, Wire};
use support::world::{World, attribute, reason, try_read};

#[test]
fn outages_of_the_server() {
    let world = World::start();
    run_together(
        &world,
        &scenarios![
            a_renewal_that_fails_because_the_database_is_down_keeps_the_lease,
            a_database_that_is_down_fails_its_own_secrets_alone,
            a_database_that_hangs_fails_its_own_secrets_alone_and_mints_once,
            a_server_that_starts_anew_finds_its_leases_and_nothing_is_minted,
            a_server_that_forgets_everything_is_logged_in_to_once,
            a_sealed_server,
            a_server_that_is_stopped_in_its_tracks,
            a_quota_without_retry_after,
            a_quota_with_retry_after_is_given_its_time,
        ],
    );
}

fn a_sealed_server(world: &World) {
    let world = &world.beside();
    let wire = Wire::to(world.bao.address());
    let identity = world.approle("sealed", json!({"token_ttl": "1h"}));
    let _mount = outage::weather(&Outage {
        world,
        wire: &wire,
        name: "sealed",
        identity: &identity,
        errnos: &[EHOSTDOWN],
        reason: "sealed",
        begin: &|| world.wait(world.bao.seal()),
        end: &|| world.wait(world.bao.unseal()),
    });
    assert_eq!(world.accessors("sealed").len(), 1, "one login, before the outage");
}

fn a_server_that_is_stopped_in_its_tracks(world: &World) {
    let world = &world.beside();
    let wire = Wire::to(world.bao.address());
    let identity = world.approle("stopped", json!({"token_ttl": "1h"}));
    let _mount = outage::weather(&Outage {
        world,
        wire: &wire,
        name: "stopped",
        identity: &identity,
        errnos: &[ETIMEDOUT],
        reason: "did not answer",
        begin: &|| world.bao.signal(Signal::SIGSTOP),
        end: &|| world.bao.signal(Signal::SIGCONT),
    });
    assert_eq!(world.accessors("stopped").len(), 1, "one login, before the outage");
}

fn a_server_that_starts_anew_finds_its_leases_and_nothing_is_minted(world: &World) {
    let world = &world.beside_on_disk();
    let wire = Wire::to(world.bao.address());
    let identity = world.approle("anew", json!({"token_ttl": "1h"}));
    let _mount = outage::weather(&Outage {
        world,
        wire: &wire,
        name: "anew",
        identity: &identity,
        errnos: &[EHOSTDOWN],
        reason: "Vault at",
        begin: &|| world.bao.stop(),
        end: &|| {
            world.bao.start_again();
            world.wait(world.bao.wait_for_kv());
        },
    });
    assert_eq!(world.accessors("anew").len(), 1, "one login, before the outage");
}

fn a_server_that_forgets_everything_is_logged_in_to_once(world: &World) {
    let world = &world.beside();
    world.role("forgets", 60, 600);
    let identity = world.approle("forgets", json!({"token_ttl": "1h"}));
    let files =
        identity + &credential("forgets") + &kv(world, "forgets", "held", "max-age = \"1s\"\ngrace = \"1h\"");
    let role_id = world.wait(world.bao.call("GET", "auth/approle/role/forgets/role-id", None));
    let role_id = role_id["data"]["role_id"].clone();
    let secret_id = std::fs::read_to_string(world.bao.directory().join("forgets.secret-id")).unwrap();
    let wire = Wire::to(world.bao.address());
    let mount = outage::mount(wire.address(), &files);
    let (user, key) = (File::open(mount.path("user")).unwrap(), File::open(mount.path("held")).unwrap());
    let before = held(&user).unwrap();
    assert_eq!(held(&key), Ok(content("held")));

    wire.set(State::Refused);
    world.bao.stop();
    while_reading(&mount, &[("user", &before)], || thread::sleep(Duration::from_secs(1)));
    world.bao.start_again();
    world.wait(world.bao.wait_for_kv());
    world.equip();
    world.role("forgets", 60, 600);
    // The same role as before; its token is gone all the same, and its leases with it.
    world.approle("forgets", json!({"token_ttl": "1h"}));
    let role = "auth/approle/role/forgets";
    world.wait(world.bao.call("POST", &format!("{role}/role-id"), Some(json!({"role_id": role_id}))));
    let again = json!({"secret_id": secret_id.trim()});
    world.wait(world.bao.call("POST", &format!("{role}/custom-secret-id"), Some(again)));
    kv(world, "forgets", "held", "");
    let logins = mount.log().matches("auth/approle/login").count();
    let (lookups, mounts) = (count(&mount, "auth/token/lookup-self"), count(&mount, "internal/ui/mounts"));
    wire.set(State::Open);

    // A look-up of the lease, or a revalidation, is the first that is denied.
    let ended = eventually(BACK, || held(&user) == Err(ESTALE) && held(&key) == Err(ESTALE));
    assert!(ended.is_some(), "what the dead token obtained is still shown\n{}", mount.log());
    let after = is_back(&mount, "user");
    assert_ne!(after, before);
    assert_eq!(mount.read("held").unwrap(), content("held"));
    assert!(world.postgres.admits(&after, &mount.read("password").unwrap()));
    thread::sleep(Duration::from_secs(2));
    assert_eq!(count(&mount, "auth/approle/login") - logins, 1, "one new login\n{}", mount.log());
    let asked = count(&mount, "auth/token/lookup-self") - lookups;
    assert_eq!(asked, 1, "one look-up of the token\n{}", mount.log());
    assert!(count(&mount, "internal/ui/mounts") - mounts <= 3, "{}", mount.log());
    assert_eq!(world.accessors("forgets").len(), 1);
    assert_eq!(world.leases("forgets").len(), 1);
    assert_eq!(mount.read("user").unwrap(), after);
    // The first account is still in the database: the server that made it does not know it any more.
    assert_eq!(world.accounts("forgets"), 2);
}

/// How many requests the daemon has logged that have this in them.
fn count(mount: &Mount, fragment: &str) -> usize {
    mount.log().lines().filter(|line| line.contains("asked Vault") && line.contains(fragment)).count()
}

/// A database engine of its own, `NAME/creds/NAME`, over a wire to PostgreSQL, and the files of its role.
fn database(world: &World, name: &str, ttl: u64) -> (Wire, String) {
    let wire = Wire::to(&format!("127.0.0.1:{}", world.postgres.port()));
    world.wait(async {
        world.postgres.connect_over(&world.bao, name, wire.port()).await;
        let (ttl, max_ttl) = (Duration::from_secs(ttl), Duration::from_secs(600));
        world.postgres.add_role(&world.bao, name, name, ttl, max_ttl).await;
    });
    let files = credential(name).replace("database/", &format!("{name}/"));
    (wire, files)
}

fn a_renewal_that_fails_because_the_database_is_down_keeps_the_lease(world: &World) {
    let (wire, files) = database(world, "keeps", 15);
    let mount = outage::mount(world.bao.address(), &files);
    let handle = File::open(mount.path("user")).unwrap();
    let (user, password) = (mount.read("user").unwrap(), mount.read("password").unwrap());
    let lease = world.lease("keeps");
    let expires = world.facts(&lease).unwrap().expires;
    wire.set(State::Refused);
    while_reading(&mount, &[("user", &user), ("password", &password)], || {
        mount.wait_for_log("the lease could not be renewed");
        assert_eq!(world.facts(&lease).unwrap().expires, expires, "the database is down");
        assert_eq!(attribute(&mount, "user", "state"), "live");
        assert!(!is_down(&mount), "Vault itself answers:\n{}", status(&mount));
        wire.set(State::Open);
    });
    while_reading(&mount, &[("user", &user), ("password", &password)], || {
        let renewed = || world.facts(&lease).is_some_and(|facts| facts.expires > expires);
        let renewed = eventually(Duration::from_secs(8), renewed);
        assert!(renewed.is_some(), "not renewed after the database's return\n{}", mount.log());
    });
    assert_eq!(held(&handle), Ok(user.clone()));
    assert_eq!(world.lease("keeps"), lease, "nothing was minted");
    assert_eq!(world.accounts("keeps"), 1);
    assert!(world.postgres.admits(&user, &password));
}

fn a_database_that_is_down_fails_its_own_secrets_alone(world: &World) {
    let (wire, mut files) = database(world, "dbdown", 60);
    for name in ["kv-0", "kv-1", "kv-2"] {
        files += &kv(world, "dbdown", name, "");
    }
    let mount = outage::mount(world.bao.address(), &files);
    wire.set(State::Refused);
    let kv_0 = mount.read("kv-0").unwrap();
    while_reading(&mount, &[("kv-0", &kv_0)], || {
        misses_fail_in_time(&mount, &["user", "password"], &[EIO]);
        status_tells(&mount, "user", "status 500");
        for _ in 0..6 {
            let (took, told) = timed(|| try_read(&mount, "user"));
            assert_eq!(told, Err(EIO), "{}", mount.log());
            assert!(took < READ_TIMEOUT, "{took:?}");
        }
        // An engine that fails, however often, says nothing of the others.
        for name in ["kv-1", "kv-2"] {
            assert_eq!(mount.read(name).unwrap(), content(name), "{}", mount.log());
        }
        assert!(!is_down(&mount), "{}", status(&mount));
    });
    wire.set(State::Open);
    let user = is_back(&mount, "user");
    assert!(world.postgres.admits(&user, &mount.read("password").unwrap()));
    thread::sleep(Duration::from_secs(1));
    assert_eq!(world.leases("dbdown").len(), 1, "{}", mount.log());
    assert_eq!(world.accounts("dbdown"), 1);
}

fn a_database_that_hangs_fails_its_own_secrets_alone_and_mints_once(world: &World) {
    let (wire, mut files) = database(world, "dbhangs", 60);
    for name in ["kv-0", "kv-1"] {
        files += &kv(world, "dbhangs", name, "");
    }
    let mount = outage::mount(world.bao.address(), &files);
    let kv_0 = mount.read("kv-0").unwrap();
    wire.set(State::Frozen);
    while_reading(&mount, &[("kv-0", &kv_0)], || {
        // However many want it: one request is under way, and nobody waits longer than he should.
        misses_fail_in_time(&mount, &["user", "password", "user", "password"], &[ETIMEDOUT]);
        status_tells(&mount, "user", "did not answer within read-timeout");
        assert_eq!(mount.read("kv-1").unwrap(), content("kv-1"));
        assert!(!is_down(&mount), "{}", status(&mount));
    });
    wire.set(State::Open);
    let user = is_back(&mount, "user");
    assert!(world.postgres.admits(&user, &mount.read("password").unwrap()));
    thread::sleep(Duration::from_secs(1));
    assert_eq!(count(&mount, "path=\"dbhangs/creds/dbhangs\""), 1, "{}", mount.log());
    assert_eq!(world.leases("dbhangs").len(), 1);
    assert_eq!(world.accounts("dbhangs"), 1);
}

/// A KV engine of its own with a quota that is used up, and a mount of some of its files.
struct Throttled {
    mount: Mount,
    wire: Wire,
    handle: File,
}

impl Throttled {
    /// The quota lets two requests through in half a minute.
    fn start(world: &World, name: &str) -> Throttled {
        world.wait(world.bao.enable_kv2(name));
        let mut files = String::new();
        for (file, keys) in [("fresh", "max-age = \"1h\""), ("stale", "max-age = \"1s\"\ngrace = \"1h\"")]
            .into_iter()
            .chain(["miss-0", "miss-1", "miss-2"].map(|miss| (miss, "")))
        {
            world.wait(world.bao.write_kv2(name, file, json!({"key": content(file)})));
            files += &format!("[file.\"{file}\"]\nsecret = \"{name}/{file}#key\"\n{keys}\n");
        }
        files += &kv(world, name, "elsewhere", "");
        let wire = Wire::to(world.bao.address());
        let mount = outage::mount(wire.address(), &files);
        assert_eq!(mount.read("fresh").unwrap(), content("fresh"));
        let handle = File::open(mount.path("stale")).unwrap();
        let quota = json!({"path": format!("{name}/"), "rate": 2, "interval": "30s"});
        world.wait(world.bao.call("POST", &format!("sys/quotas/rate-limit/{name}"), Some(quota)));
        for _ in 0..2 {
            let path = format!("{name}/data/fresh");
            let _ = world.wait(world.bao.try_call("GET", &path, None));
        }
        Throttled { mount, wire, handle }
    }

    /// What must hold with and without `Retry-After`.
    fn is_weathered(&self, world: &World, name: &str) {
        let Throttled { mount, handle, .. } = self;
        let (fresh, stale) = (content("fresh"), content("stale"));
        while_reading(mount, &[("fresh", &fresh)], || {
            misses_fail_in_time(mount, &["miss-0", "miss-1"], &[EIO]);
            status_tells(mount, "miss-0", "rate limit");
            assert!(!is_down(mount), "Vault answers:\n{}", status(mount));
            assert_eq!(mount.read("elsewhere").unwrap(), content("elsewhere"), "the quota is of one engine");
            thread::sleep(Duration::from_secs(1));
            let (took, read) = timed(|| try_read(mount, "stale"));
            assert_eq!(read, Ok(stale.clone()));
            assert!(took < READ_TIMEOUT + AT_ONCE, "{took:?}");
        });
        assert_eq!(held(handle), Ok(stale), "{}", mount.log());
        assert_eq!(attribute(mount, "stale", "state"), "stale");
        world.wait(world.bao.delete(&format!("sys/quotas/rate-limit/{name}")));
    }
}

fn a_quota_without_retry_after(world: &World) {
    let throttled = Throttled::start(world, "quota");
    throttled.is_weathered(world, "quota");
    assert_eq!(is_back(&throttled.mount, "miss-2"), content("miss-2"));
    let live = || attribute(&throttled.mount, "stale", "state") == "live";
    assert!(eventually(BACK, live).is_some(), "{}", throttled.mount.log());
}

fn a_quota_with_retry_after_is_given_its_time(world: &World) {
    // The headers are an option of the whole server.
    let world = &world.beside();
    let headers = json!({"enable_rate_limit_response_headers": true});
    world.wait(world.bao.call("POST", "sys/quotas/config", Some(headers)));
    let throttled = Throttled::start(world, "later");
    let Throttled { mount, wire, handle } = &throttled;
    let (took, told) = timed(|| try_read(mount, "miss-0"));
    assert_eq!(told, Err(EIO), "{}", mount.log());
    assert!(took < READ_TIMEOUT + AT_ONCE, "{took:?}");
    // Asked to come back after half a minute, nobody comes back earlier by himself.
    thread::sleep(Duration::from_secs(2));
    let (asked, began) = (count(mount, "later/data/stale"), Instant::now());
    while began.elapsed() < Duration::from_secs(3) {
        assert_eq!(held(handle), Ok(content("stale")));
        thread::sleep(Duration::from_millis(20));
    }
    let asked = count(mount, "later/data/stale") - asked;
    assert!(asked <= 1, "asked {asked} times although told to wait\n{}", mount.log());
    assert!(wire.connections() < 60, "{}", wire.connections());
    throttled.is_weathered(world, "later");
    assert!(reason(mount, "miss-0").contains("rate limit"), "{}", reason(mount, "miss-0"));
}

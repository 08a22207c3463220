//! The network between a mount and a real OpenBao fails, in every way that a network can. All scenarios run
//! at once and share the servers, each over a wire of its own.
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
use serde_json::json;

use support::mount::{Mount, eventually};
use support::outage::{
    self, BACK, Outage, READ_TIMEOUT, content, credential, held, is_back, kv, misses_fail_in_time,
    misses_soon_fail_at_once, status_tells, timed, while_reading,
};
use support::scenarios::{run_together, scenarios};
use support::tcp::{State, Wire};
use support::world::{World, attribute, try_read};

#[test]
fn outages_of_the_network() {
    let world = World::start();
    run_together(
        &world,
        &scenarios![
            a_lease_whose_renewal_falls_into_an_outage_is_read_without_a_gap,
            a_port_that_is_closed,
            a_connection_that_breaks_at_once,
            a_connection_that_is_reset_in_mid_body,
            a_connection_on_which_nothing_moves,
            an_answer_that_comes_byte_by_byte,
            an_answer_that_is_no_http,
            a_name_that_does_not_resolve,
            a_mount_that_starts_during_an_outage_is_well_after_it,
            a_stale_secret_is_served_until_its_grace_ends,
            the_return_of_the_server_brings_no_burst,
            a_handle_on_an_unchanged_secret_never_ends,
        ],
    );
}

fn a_port_that_is_closed(world: &World) {
    weather(world, "closed", State::Refused, &[EHOSTDOWN], "refused");
}

fn a_connection_that_breaks_at_once(world: &World) {
    weather(world, "cut", State::Cut, &[EHOSTDOWN], "broke before");
}

fn a_connection_that_is_reset_in_mid_body(world: &World) {
    weather(world, "reset", State::Reset, &[EHOSTDOWN], "broke before");
}

fn a_connection_on_which_nothing_moves(world: &World) {
    weather(world, "frozen", State::Frozen, &[ETIMEDOUT], "did not answer");
}

fn an_answer_that_comes_byte_by_byte(world: &World) {
    weather(world, "trickle", State::Trickle(Duration::from_secs(2)), &[ETIMEDOUT], "did not answer");
}

fn an_answer_that_is_no_http(world: &World) {
    weather(world, "garbage", State::Garbage, &[EHOSTDOWN, EIO], "Vault at");
}

/// Brings the wire into this state and back.
fn weather(world: &World, name: &str, state: State, errnos: &[i32], reason: &str) {
    let wire = Wire::to(world.bao.address());
    let (begin, end) = (|| wire.set(state), || wire.set(State::Open));
    let _mount = outage::weather(&Outage {
        world,
        wire: &wire,
        name,
        identity: "",
        errnos,
        reason,
        begin: &begin,
        end: &end,
    });
}

/// A mount over a wire, with the root token.
fn mount(wire: &Wire, files: &str) -> Mount {
    outage::mount(wire.address(), files)
}

fn a_name_that_does_not_resolve(world: &World) {
    let files = kv(world, "resolve", "miss-0", "") + &kv(world, "resolve", "miss-1", "");
    // RFC 6761: never resolved.
    let mount = outage::mount("https://vault.invalid:8200", &files);
    misses_fail_in_time(&mount, &["miss-0", "miss-1"], &[EHOSTDOWN, ETIMEDOUT]);
    misses_soon_fail_at_once(&mount, "miss-0");
    status_tells(&mount, "miss-0", "vault.invalid");
}

fn a_lease_whose_renewal_falls_into_an_outage_is_read_without_a_gap(world: &World) {
    world.role("renewal", 18, 600);
    let wire = Wire::to(world.bao.address());
    let mount = mount(&wire, &credential("renewal"));
    let handle = File::open(mount.path("user")).unwrap();
    let (user, password) = (mount.read("user").unwrap(), mount.read("password").unwrap());
    let lease = world.lease("renewal");
    wire.set(State::Refused);
    while_reading(&mount, &[("user", &user), ("password", &password)], || {
        mount.wait_for_log("the lease could not be renewed");
        assert_eq!(attribute(&mount, "user", "state"), "live");
        assert!(
            attribute(&mount, "user", "error").contains("Vault"),
            "{}",
            attribute(&mount, "user", "error")
        );
        wire.set(State::Open);
    });
    let first = world.facts(&lease).unwrap();
    // Renewed, or replaced if the outage has cost so much time that the end came near: never a gap.
    let deadline = Instant::now() + Duration::from_secs(20);
    let kept = || world.facts(&lease).is_some_and(|facts| facts.expires > first.expires);
    while !kept() && mount.read("user").unwrap() == user {
        assert!(Instant::now() < deadline, "neither renewed nor replaced\n{}", mount.log());
        thread::sleep(Duration::from_millis(100));
    }
    let replaced = mount.read("user").unwrap() != user;
    println!("{}", if replaced { "replaced" } else { "renewed" });
    assert!(world.accounts("renewal") <= 1 + usize::from(replaced), "{}", mount.log());
    assert_eq!(held(&handle), Ok(user), "a handle goes on");
    assert!(world.postgres.admits(&mount.read("user").unwrap(), &mount.read("password").unwrap()));
}

fn a_mount_that_starts_during_an_outage_is_well_after_it(world: &World) {
    world.role("starts", 60, 600);
    let identity = world.approle("starts", json!({"token_ttl": "1h"}));
    let files = identity + &credential("starts") + &kv(world, "starts", "secret", "");
    let wire = Wire::to(world.bao.address());
    wire.set(State::Refused);
    let mount = mount(&wire, &files);
    misses_fail_in_time(&mount, &["user", "password", "secret"], &[EHOSTDOWN]);
    status_tells(&mount, "secret", "refused");
    misses_soon_fail_at_once(&mount, "secret");
    wire.set(State::Open);
    assert_eq!(is_back(&mount, "secret"), content("secret"));
    let user = is_back(&mount, "user");
    assert!(world.postgres.admits(&user, &mount.read("password").unwrap()));
    assert_eq!((world.accessors("starts").len(), world.accounts("starts")), (1, 1), "{}", mount.log());
}

fn a_stale_secret_is_served_until_its_grace_ends(world: &World) {
    let files = kv(world, "grace", "stale", "max-age = \"1s\"\ngrace = \"4s\"");
    let wire = Wire::to(world.bao.address());
    let mount = mount(&wire, &files);
    let asking = Instant::now();
    let handle = File::open(mount.path("stale")).unwrap();
    wire.set(State::Reset);
    let served = content("stale");
    // It was fetched after `asking`, so for 5 s from there it may be served.
    while asking.elapsed() < Duration::from_millis(4500) {
        let (took, read) = timed(|| try_read(&mount, "stale"));
        if asking.elapsed() < Duration::from_millis(4800) {
            assert_eq!(read.as_ref(), Ok(&served), "{}", mount.log());
            assert!(took < READ_TIMEOUT, "{took:?}");
        }
        thread::sleep(Duration::from_millis(50));
    }
    let ended = eventually(Duration::from_secs(4), || held(&handle) == Err(ESTALE));
    assert!(ended.is_some(), "it can still be read after its grace");
    assert_eq!(try_read(&mount, "stale"), Err(EHOSTDOWN));
    wire.set(State::Open);
    assert_eq!(is_back(&mount, "stale"), served);
    assert_eq!(held(&handle), Err(ESTALE), "an end is an end");
}

fn the_return_of_the_server_brings_no_burst(world: &World) {
    const HELD: usize = 40;
    const WANTED: usize = 20;
    let name = |kind: &str, index: usize| format!("{kind}-{index}");
    let mut files = String::new();
    for index in 0..HELD {
        files += &kv(world, "burst", &name("held", index), "max-age = \"2s\"\ngrace = \"1h\"");
    }
    for index in 0..WANTED {
        files += &kv(world, "burst", &name("wanted", index), "");
    }
    let wire = Wire::to(world.bao.address());
    let mount = mount(&wire, &files);
    let handles: Vec<File> =
        (0..HELD).map(|index| File::open(mount.path(&name("held", index))).unwrap()).collect();
    wire.set(State::Refused);
    misses_soon_fail_at_once(&mount, "wanted-0");
    // Long enough for each of them to have been due.
    thread::sleep(Duration::from_secs(3));
    let before = wire.connections();
    wire.set(State::Open);
    thread::scope(|scope| {
        for index in 0..WANTED {
            let (mount, name) = (&mount, name("wanted", index));
            scope.spawn(move || assert_eq!(is_back(mount, &name), content(&name)));
        }
    });
    let live = |index: usize| attribute(&mount, &name("held", index), "state") == "live";
    assert!(eventually(BACK, || (0..HELD).all(live)).is_some(), "{}", mount.log());
    let made = wire.connections() - before;
    println!("{made} connections after the return, at most {} at once", wire.most_at_once());
    // Each that is held may have come round again since; nobody asks twice for the same.
    assert!(made <= 3 * HELD + WANTED + 20, "{made} connections after the server's return");
    assert!(wire.most_at_once() <= 24, "16 in flight and those about to close: {}", wire.most_at_once());
    for (index, handle) in handles.iter().enumerate() {
        assert_eq!(held(handle), Ok(content(&name("held", index))));
    }
}

fn a_handle_on_an_unchanged_secret_never_ends(world: &World) {
    let files = kv(world, "handle", "held", "max-age = \"500ms\"\ngrace = \"1s\"");
    let wire = Wire::to(world.bao.address());
    let mount = mount(&wire, &files);
    let handle = File::open(mount.path("held")).unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(6) {
        assert_eq!(held(&handle), Ok(content("held")), "after {:?}\n{}", start.elapsed(), mount.log());
        thread::sleep(Duration::from_millis(5));
    }
    assert!(wire.connections() >= 6, "it was revalidated: {}", wire.connections());
    assert_eq!(attribute(&mount, "held", "state"), "live");
}

//! The server's certificate fails: over, of another authority, for another name, not there at all. The
//! certificates are made by the PKI engine of an OpenBao; another OpenBao shows them.
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
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use libc::{EHOSTDOWN, ETIMEDOUT};
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use support::bao::Bao;
use support::certificates;
use support::mount::{Mount, eventually};
use support::outage::{
    self, BACK, content, held, is_back, is_down, misses_fail_in_time, misses_soon_fail_at_once, status,
    status_tells, while_reading,
};
use support::scenarios::{run_together, scenarios};
use support::server::{ReservedPort, reserved_port};
use support::tcp::{State, Wire};
use support::world::attribute;

/// How long the certificate lives that is over.
const BRIEF: Duration = Duration::from_secs(2);

/// One OpenBao behind several listeners.
struct World {
    bao: Bao,
    good: String,
    over: String,
    other_authority: String,
    other_name: String,
    authority: PathBuf,
    wrong_authority: PathBuf,
    runtime: Runtime,
    _certificates: TempDir,
    _ports: Vec<ReservedPort>,
}

impl World {
    fn start() -> World {
        let runtime = Runtime::new().unwrap();
        let directory = tempfile::tempdir().unwrap();
        runtime.block_on(make_certificates(directory.path()));
        let names = ["good", "over", "other-authority", "other-name"];
        let (addresses, ports): (Vec<_>, Vec<_>) = names.iter().map(|_| reserved_port()).unzip();
        let listener = |(name, address): (&&str, &SocketAddr)| {
            certificates::listener(&address.to_string(), directory.path(), name)
        };
        let listeners: String = names.iter().zip(&addresses).map(listener).collect();
        let bao = runtime.block_on(Bao::start_with_listeners(&listeners));
        let at = |index: usize| format!("https://{}", addresses[index]);
        World {
            bao,
            good: at(0),
            over: at(1),
            other_authority: at(2),
            other_name: at(3),
            authority: directory.path().join("authority.crt"),
            wrong_authority: directory.path().join("wrong-authority.crt"),
            runtime,
            _certificates: directory,
            _ports: ports,
        }
    }

    /// A mount over this wire that trusts this authority, with the files `fresh`, `stale` and `miss-0` to
    /// `miss-3`.
    fn mount(&self, wire: &Wire, authority: &Path, name: &str) -> Mount {
        let mut files = String::new();
        for (file, keys) in [("fresh", "max-age = \"1h\""), ("stale", "max-age = \"1s\"\ngrace = \"1h\"")]
            .into_iter()
            .chain(["miss-0", "miss-1", "miss-2", "miss-3"].map(|miss| (miss, "")))
        {
            let path = format!("{name}/{file}");
            self.runtime.block_on(self.bao.write_kv2("secret", &path, json!({"key": content(file)})));
            files += &format!("[file.\"{file}\"]\nsecret = \"secret/{path}#key\"\n{keys}\n");
        }
        let vault = format!("address = \"{}\"\nca-cert = \"{}\"", wire.address(), authority.display());
        outage::mount_with(&vault, &files)
    }
}

/// Two authorities, and certificates of theirs for this machine: `NAME.crt` with its `NAME.key`.
async fn make_certificates(directory: &Path) {
    let bao = Bao::start().await;
    for (mount, file) in [("pki", "authority"), ("wrong-pki", "wrong-authority")] {
        certificates::make_authority(&bao, mount, directory, file).await;
    }
    let brief = format!("{}s", BRIEF.as_secs());
    for (name, mount, address, ttl) in [
        ("good", "pki", "127.0.0.1", "1h"),
        ("other-authority", "wrong-pki", "127.0.0.1", "1h"),
        ("other-name", "pki", "127.9.9.9", "1h"),
        ("over", "pki", "127.0.0.1", &*brief),
    ] {
        let wanted = json!({"common_name": "vault", "ip_sans": address, "ttl": ttl});
        certificates::make_certificate(&bao, mount, wanted, directory, name).await;
    }
    tokio::time::sleep(BRIEF + Duration::from_secs(1)).await;
}

#[test]
fn outages_of_tls() {
    let world = World::start();
    run_together(
        &world,
        &scenarios![
            a_certificate_that_is_over,
            a_certificate_of_another_authority,
            a_certificate_for_another_name,
            a_server_without_tls,
            a_handshake_that_nobody_answers,
            an_authority_in_the_configuration_that_is_the_wrong_one,
        ],
    );
}

fn a_certificate_that_is_over(world: &World) {
    let wire = Wire::to(&world.good);
    weather(world, &wire, "over", "expired", &|| wire.lead_to(&world.over));
}

fn a_certificate_of_another_authority(world: &World) {
    let wire = Wire::to(&world.good);
    weather(world, &wire, "authority", "UnknownIssuer", &|| wire.lead_to(&world.other_authority));
}

fn a_certificate_for_another_name(world: &World) {
    let wire = Wire::to(&world.good);
    weather(world, &wire, "name", "not valid for name", &|| wire.lead_to(&world.other_name));
}

fn a_server_without_tls(world: &World) {
    let wire = Wire::to(&world.good);
    weather(world, &wire, "plain", "TLS was refused", &|| wire.lead_to(world.bao.address()));
}

fn a_handshake_that_nobody_answers(world: &World) {
    let wire = Wire::to(&world.good);
    weather(world, &wire, "handshake", "Vault", &|| wire.set(State::Frozen));
}

/// Goes through an outage that lasts until the wire leads to the good listener again.
fn weather(world: &World, wire: &Wire, name: &str, reason: &str, begin: &dyn Fn()) {
    let mount = &world.mount(wire, &world.authority, name);
    let (fresh, stale) = (mount.read("fresh").unwrap(), mount.read("stale").unwrap());
    let handle = File::open(mount.path("stale")).unwrap();
    begin();
    while_reading(mount, &[("fresh", &fresh)], || {
        misses_fail_in_time(mount, &["miss-0", "miss-1", "miss-2"], &[EHOSTDOWN, ETIMEDOUT]);
        status_tells(mount, "miss-0", reason);
        misses_soon_fail_at_once(mount, "miss-3");
        assert!(is_down(mount), "{}", status(mount));
    });
    while_reading(mount, &[("stale", &stale)], || thread::sleep(Duration::from_secs(1)));
    assert_eq!(held(&handle), Ok(stale.clone()), "{}", mount.log());
    wire.set(State::Open);
    wire.lead_to(&world.good);
    assert_eq!(is_back(mount, "miss-0"), content("miss-0"));
    for miss in ["miss-1", "miss-2", "miss-3"] {
        assert_eq!(mount.read(miss).unwrap(), content(miss));
    }
    let live = || attribute(mount, "stale", "state") == "live";
    assert!(eventually(BACK, live).is_some(), "{}", mount.log());
    assert_eq!(held(&handle), Ok(stale));
}

fn an_authority_in_the_configuration_that_is_the_wrong_one(world: &World) {
    let wire = Wire::to(&world.good);
    let mount = world.mount(&wire, &world.wrong_authority, "wrong");
    misses_fail_in_time(&mount, &["miss-0", "miss-1"], &[EHOSTDOWN]);
    status_tells(&mount, "miss-0", "UnknownIssuer");
    misses_soon_fail_at_once(&mount, "miss-2");
    let asked = wire.connections();
    thread::sleep(Duration::from_secs(2));
    let asked = wire.connections() - asked;
    assert!(asked <= 12, "{asked} connections in two seconds to a server that isn't trusted");
}

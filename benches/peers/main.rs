//! leasefs beside `bao agent`: both on one OpenBao and one PostgreSQL, at the same time, with roles of the
//! same terms. What is compared is what a program that reads the files notices, and what is left over.
//!
//! `make compare` builds the release binary and runs it for about two minutes. It prints a table and
//! writes `docs/comparison.md`. Needs root, /dev/fuse, OpenBao and PostgreSQL. (The benchmark named
//! `compare`, `make bench`, is another: it compares the cost of reads.)
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a benchmark reads the clock, prints its table and may panic"
)]

mod credentials;
mod end;
mod files;
mod page;
mod side;
#[allow(dead_code, reason = "a benchmark uses a part of what the tests share")]
#[path = "../../tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::thread;

use serde_json::json;
use side::{Peer, Secret, Side};
use support::world::World;

/// One line of the comparison.
pub struct Row {
    /// What is looked at.
    pub what: &'static str,
    /// What each peer did, in the order of [`Peer::ALL`].
    pub seen: [String; 2],
    /// How it is measured.
    pub how: &'static str,
}

/// Runs a measurement on both sides at once.
fn both(sides: &[Side; 2], measure: impl Fn(&Side) -> String + Sync) -> [String; 2] {
    thread::scope(|scope| {
        let running = sides.each_ref().map(|side| scope.spawn(|| measure(side)));
        running.map(|one| one.join().expect("a measurement ends"))
    })
}

fn main() {
    let world = World::start();
    world.postgres.query("create table minted (account text)");
    world.wait(world.bao.write_policy("files", side::POLICY));
    for peer in Peer::ALL {
        for (role, ttl, max_ttl) in credentials::ROLES.into_iter().chain(end::ROLES) {
            side::define_role(&world, &peer.role(role), ttl, max_ttl, side::Renewals::Work);
        }
        for secret in ["kv", files::UNREAD] {
            world.wait(world.bao.write_kv2("secret", &peer.role(secret), json!({"value": files::KV_VALUE})));
        }
    }
    println!("starting both on {} …", world.bao.address());
    let sides = Peer::ALL.map(|peer| {
        let mut shown: Vec<(&str, Secret)> =
            credentials::ROLES.map(|(role, ..)| (role, Secret::Database)).to_vec();
        shown.extend([("kv", Secret::Kv), (files::UNREAD, Secret::Kv)]);
        Side::start(&world, peer, &shown)
    });
    let configs = sides.each_ref().map(Side::config);
    println!("measuring: about two minutes …");
    let mut rows = thread::scope(|scope| {
        // They look at different files, and mostly wait.
        let long = [
            scope.spawn(|| vec![credentials::failing_renewals(&world, &sides)]),
            scope.spawn(|| vec![credentials::revoked(&world, &sides)]),
            scope.spawn(|| credentials::rotation(&world, &sides)),
            scope.spawn(|| vec![files::deleted(&world, &sides)]),
        ];
        long.into_iter().flat_map(|rows| rows.join().expect("a measurement ends")).collect::<Vec<_>>()
    });
    rows.extend(files::on_disk(&sides));
    rows.extend(files::frozen(&world, &sides));
    drop(sides);
    rows.extend(end::ends(&world));
    println!("\n{}", page::table(&rows));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/comparison.md");
    std::fs::write(&path, page::text(&rows, &configs)).expect("the page can be written");
    println!("written: {}", path.display());
}

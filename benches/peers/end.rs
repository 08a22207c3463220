//! The end of the process, asked for and not.

use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::Row;
use crate::credentials::errno;
use crate::side::{Peer, Secret, Side};
use crate::support::world::World;

/// The file of each measurement with its role's `default_ttl` and `max_ttl` in seconds.
pub const ROLES: [(&str, u64, u64); 2] = [("term", 3600, 24 * 3600), ("kill", 3600, 24 * 3600)];

/// How long after the end is looked at what is left.
const AFTER: Duration = Duration::from_secs(3);

/// What is left after SIGTERM and after SIGKILL.
pub fn ends(world: &World) -> Vec<Row> {
    let mut rows = Vec::new();
    for (file, signal, what, what_leases, how) in [
        (
            "term",
            Signal::SIGTERM,
            "3 s after SIGTERM, a reader gets",
            "leases left 3 s after SIGTERM",
            "A process of its own with one credential under a lease of an hour is ended with SIGTERM, as systemd does it.",
        ),
        (
            "kill",
            Signal::SIGKILL,
            "3 s after kill -9, a reader gets",
            "leases left 3 s after kill -9",
            "The same with SIGKILL, and nobody starts it again. The lease then lives until its end in Vault.",
        ),
    ] {
        let sides = Peer::ALL.map(|peer| Side::start(world, peer, &[(file, Secret::Database)]));
        let found = sides.map(|mut side| {
            let credential = side.credential(file).expect("the file can be read");
            side.signal(signal);
            side.wait();
            sleep(AFTER);
            let seen = match side.credential(file) {
                Ok(shown) if shown == credential && shown.lives(world) => "a valid credential".to_owned(),
                Ok(_) => "a dead credential".to_owned(),
                Err(error) => errno(&error),
            };
            let prefix = format!("database/creds/{}", side.peer.role(file));
            (seen, world.wait(world.bao.leases(&prefix)).len().to_string())
        });
        let [(agent, agents), (leasefs, leasefss)] = found;
        rows.push(Row { what, seen: [agent, leasefs], how });
        rows.push(Row {
            what: what_leases,
            seen: [agents, leasefss],
            how: "What OpenBao lists below the role, in the same run.",
        });
    }
    rows
}

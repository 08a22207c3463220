//! The files themselves: where they lie, who may read them, what they show when Vault has nothing to say.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::credentials::{PATIENCE, errno};
use crate::side::{Peer, Side, time_until};
use crate::support::programs::run;
use crate::support::world::World;
use crate::{Row, both};

/// A KV secret that nobody reads before Vault is frozen.
pub const UNREAD: &str = "unread";

/// What the KV secrets hold.
pub const KV_VALUE: &str = "value-of-the-comparison";

/// What is seen after a KV secret was deleted.
pub fn deleted(world: &World, sides: &[Side; 2]) -> Row {
    let seen = both(sides, |side| {
        assert_eq!(side.read("kv").expect("the file can be read").trim_end(), KV_VALUE);
        world.wait(world.bao.delete(&format!("secret/data/{}", side.peer.role("kv"))));
        let mut last = String::new();
        let gone = time_until(PATIENCE, || match side.read("kv") {
            Ok(text) if text.trim_end() == KV_VALUE => false,
            Ok(text) => {
                last = format!("{} bytes of something else", text.len());
                true
            }
            Err(error) => {
                last = errno(&error);
                true
            }
        });
        match gone {
            Some(span) => format!("{last} after {:.0} s", span.as_secs_f64()),
            None => format!("the old value, for more than {} s", PATIENCE.as_secs()),
        }
    });
    Row {
        what: "after a KV secret was deleted, a reader gets",
        seen,
        how: "The current version is deleted; the file is read ten times a second until it shows something else, for at \
              most 90 s. Both are told to ask every 30 s (`static_secret_render_interval`, by default 5 minutes; \
              `max-age`, by default a minute).",
    }
}

/// Mode and place of the files.
pub fn on_disk(sides: &[Side; 2]) -> Vec<Row> {
    let mode = |side: &Side, file: &str| {
        let metadata = std::fs::metadata(side.path(file)).expect("the file is there");
        format!("{:04o}", metadata.permissions().mode() & 0o7777)
    };
    let modes = both(sides, |side| match side.peer {
        Peer::Agent => format!("{}; {} where `perms` says so", mode(side, "kv"), mode(side, "rotate")),
        Peer::Leasefs => mode(side, "rotate"),
    });
    let places = both(sides, |side| {
        let kind = run(Command::new("findmnt").args(["-n", "-o", "FSTYPE", "-T"]).arg(side.path("rotate")));
        match side.peer {
            Peer::Agent => format!("{}: where `destination` is", kind.trim_end()),
            Peer::Leasefs => format!("{}: on no disk", kind.trim_end()),
        }
    });
    vec![
        Row {
            what: "mode of the file",
            seen: modes,
            how: "stat(1). The agent's files get 0644 unless the template says something else; most of those here do. \
                  leasefs shows 0400 unless `mode` says something else.",
        },
        Row {
            what: "file system of the file",
            seen: places,
            how: "findmnt(8). The agent writes to any path; on a tmpfs the bytes lie on no disk unless the machine swaps.",
        },
    ]
}

/// What is seen while Vault answers nothing.
pub fn frozen(world: &World, sides: &[Side; 2]) -> Vec<Row> {
    world.bao.signal(Signal::SIGSTOP);
    let open = |side: &Side, file: &str| {
        let began = Instant::now();
        let read = side.read(file);
        let took = began.elapsed();
        let took = match took {
            _ if took < Duration::from_millis(1) => format!("{} µs", took.as_micros()),
            _ if took < Duration::from_secs(1) => format!("{} ms", took.as_millis()),
            _ => format!("{:.1} s", took.as_secs_f64()),
        };
        match read {
            Ok(text) => format!("{} bytes in {took}", text.len()),
            Err(error) => format!("{} in {took}", errno(&error)),
        }
    };
    let held = both(sides, |side| open(side, "hold"));
    let new = both(sides, |side| open(side, UNREAD));
    world.bao.signal(Signal::SIGCONT);
    vec![
        Row {
            what: "Vault is frozen, the file was opened before: a reader gets",
            seen: held,
            how: "OpenBao is stopped (SIGSTOP). A file that was read before and whose lease lives is read once.",
        },
        Row {
            what: "Vault is frozen, the file was not opened before: a reader gets",
            seen: new,
            how: "A file that no program has opened before is read once. The agent fetched it when it started; leasefs \
                  fetches at the first open, so it has nothing and asks. No reader waits longer than `read-timeout`, 5 s \
                  by default.",
        },
    ]
}

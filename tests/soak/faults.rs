//! Each fault: how it comes and goes, and what programs may be told meanwhile (section 3 of the design).

use std::thread;
use std::time::Duration;

use libc::{EACCES, EHOSTDOWN, EIO, ESTALE, ETIMEDOUT};
use nix::sys::signal::Signal;

use crate::scene::{ROLES, Scene};
use crate::support::mount::eventually;
use crate::support::proxy::Trouble;
use crate::support::weather::{Sky, Use};

/// One thing that goes wrong, or that an operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Killed,
    Upgraded,
    KilledWhileFrozen,
    Frozen,
    Slow,
    Cut,
    Refused,
    Sealed,
    DatabaseDown,
    TokenRevoked,
    LeaseRevoked,
    HungUp,
    Locked,
    Refreshed,
    Revoked,
}

/// Nobody is told anything.
const NOTHING: &[(Use, &[i32])] = &[];

/// Vault can't be asked, and what can't be confirmed or extended meanwhile ends.
const AWAY: &[(Use, &[i32])] = &[
    (Use::Kv, &[ETIMEDOUT, EHOSTDOWN]),
    (Use::Credential, &[ETIMEDOUT, EHOSTDOWN]),
    (Use::HeldKv, &[ESTALE]),
    (Use::HeldCredential, &[ESTALE]),
];

/// As [`AWAY`]; what was asked for comes all the same, later than a short lease lasts, and can't be used.
const FROZEN: &[(Use, &[i32])] = &[
    (Use::Kv, &[ETIMEDOUT, EHOSTDOWN]),
    (Use::Credential, &[ETIMEDOUT, EHOSTDOWN, EIO]),
    (Use::HeldKv, &[ESTALE]),
    (Use::HeldCredential, &[ESTALE]),
];

/// The database can't make, extend or end accounts; KV does not notice.
const NO_DATABASE: &[(Use, &[i32])] =
    &[(Use::Credential, &[EIO, ETIMEDOUT]), (Use::HeldCredential, &[ESTALE])];

/// Whatever was held ends; whoever opens it gets it anew.
const ENDED: &[(Use, &[i32])] = &[(Use::HeldKv, &[ESTALE]), (Use::HeldCredential, &[ESTALE])];

/// A credential ends.
const CREDENTIAL_ENDED: &[(Use, &[i32])] = &[(Use::HeldCredential, &[ESTALE])];

/// Nobody may open anything.
const LOCKED: &[(Use, &[i32])] = &[
    (Use::Kv, &[EACCES]),
    (Use::Credential, &[EACCES]),
    (Use::HeldKv, &[ESTALE]),
    (Use::HeldCredential, &[ESTALE]),
];

impl Fault {
    /// Each one.
    pub const ALL: [Fault; 15] = [
        Fault::Killed,
        Fault::Upgraded,
        Fault::KilledWhileFrozen,
        Fault::Frozen,
        Fault::Slow,
        Fault::Cut,
        Fault::Refused,
        Fault::Sealed,
        Fault::DatabaseDown,
        Fault::TokenRevoked,
        Fault::LeaseRevoked,
        Fault::HungUp,
        Fault::Locked,
        Fault::Refreshed,
        Fault::Revoked,
    ];

    /// Whether another server serves afterwards.
    pub fn replaces_the_server(self) -> bool {
        matches!(self, Fault::Killed | Fault::Upgraded | Fault::KilledWhileFrozen)
    }

    /// Its name, and what programs may be told.
    pub fn sky(self) -> Sky {
        match self {
            Fault::Killed => ("the server killed", NOTHING),
            Fault::Upgraded => ("the server upgraded", NOTHING),
            Fault::KilledWhileFrozen => ("the server killed while OpenBao is frozen", FROZEN),
            Fault::Frozen => ("OpenBao frozen", FROZEN),
            Fault::Slow => ("the wire slow", NOTHING),
            Fault::Cut => ("the wire cut", AWAY),
            Fault::Refused => ("connections refused", AWAY),
            Fault::Sealed => ("OpenBao sealed", AWAY),
            Fault::DatabaseDown => ("PostgreSQL stopped", NO_DATABASE),
            Fault::TokenRevoked => ("the token revoked", ENDED),
            Fault::LeaseRevoked => ("a lease revoked", CREDENTIAL_ENDED),
            Fault::HungUp => ("SIGHUP", NOTHING),
            Fault::Locked => ("locked", LOCKED),
            Fault::Refreshed => ("refreshed", NOTHING),
            Fault::Revoked => ("revoked by command", ENDED),
        }
    }

    /// Lets it come, last a while, and go; returns when all is well again.
    pub fn happen(self, scene: &Scene, chance: &mut fastrand::Rng) {
        let sky = self.sky();
        // Some are over before what is held ends, some not.
        let longest = if chance.u32(..4) == 0 { 7000 } else { 2500 };
        let lasts = Duration::from_millis(chance.u64(500..longest));
        scene.weather.turns(sky);
        self.come(scene, lasts);
        scene.wait_until_well(sky.0);
        scene.weather.clears();
        thread::sleep(Duration::from_millis(chance.u64(200..800)));
    }

    fn come(self, scene: &Scene, lasts: Duration) {
        let Scene { world, proxy, mount, .. } = scene;
        let trouble = |trouble| {
            proxy.trouble(trouble);
            thread::sleep(lasts);
            proxy.recover();
        };
        match self {
            Fault::Killed => drop(mount.wait_for_successor(mount.kill_server())),
            Fault::Upgraded => drop(scene.command("upgrade", &[])),
            Fault::KilledWhileFrozen => {
                world.bao.signal(Signal::SIGSTOP);
                thread::sleep(lasts / 2);
                mount.wait_for_successor(mount.kill_server());
                thread::sleep(lasts / 2);
                world.bao.signal(Signal::SIGCONT);
            }
            Fault::Frozen => {
                world.bao.signal(Signal::SIGSTOP);
                thread::sleep(lasts);
                world.bao.signal(Signal::SIGCONT);
            }
            Fault::Slow => trouble(Trouble::Delay(Duration::from_millis(150))),
            Fault::Cut => trouble(Trouble::Cut),
            Fault::Refused => trouble(Trouble::Refuse),
            Fault::Sealed => {
                world.wait(world.bao.seal());
                thread::sleep(lasts);
                world.wait(world.bao.unseal());
            }
            Fault::DatabaseDown => {
                world.postgres.stop();
                thread::sleep(lasts);
                world.wait(world.postgres.start_again());
                // What is live says nothing of the engine: it must make accounts again.
                let root = mount.root();
                let refresh =
                    || mount.command(&["refresh", root.to_str().unwrap(), "brief", "longer"]).0.success();
                assert!(eventually(Duration::from_secs(20), refresh).is_some(), "{}", scene.log());
            }
            Fault::TokenRevoked => {
                for accessor in world.accessors("soak") {
                    world.revoke_accessor(&accessor);
                }
                // It is noticed by the next request.
                thread::sleep(Duration::from_millis(1500));
            }
            Fault::LeaseRevoked => {
                for lease in ROLES.iter().filter_map(|(role, ..)| world.leases(role).pop()) {
                    world.wait(world.bao.revoke_lease(&lease));
                }
                // It is noticed by the next look.
                thread::sleep(Duration::from_millis(1500));
            }
            Fault::HungUp => {
                let before = world.accessors("soak");
                mount.signal(Signal::SIGHUP);
                let anew = || world.accessors("soak").iter().any(|accessor| !before.contains(accessor));
                assert!(eventually(Duration::from_secs(10), anew).is_some(), "{}", scene.log());
            }
            Fault::Locked => {
                scene.command("lock", &["--reason", "a soak test"]);
                assert_eq!(mount.errno("kv/0"), EACCES, "{}", scene.log());
                thread::sleep(lasts / 4);
                scene.command("unlock", &[]);
            }
            Fault::Refreshed => drop(scene.command("refresh", &[])),
            Fault::Revoked => drop(scene.command("revoke", &[])),
        }
    }
}

//! Credentials of a database: renewals that fail, a revocation, a rotation.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use crate::side::{Credential, LOOK, Renewals, Side, define_role, time_until};
use crate::support::world::World;
use crate::{Row, both};

/// The file of each measurement with its role's `default_ttl` and `max_ttl` in seconds.
pub const ROLES: [(&str, u64, u64); 4] = [RENEW, REVOKE, ROTATE, HOLD];

const RENEW: (&str, u64, u64) = ("renew", 10, 3600);
const REVOKE: (&str, u64, u64) = ("revoke", 3600, 24 * 3600);
const ROTATE: (&str, u64, u64) = ("rotate", 20, 60);
/// Nothing happens to this one.
const HOLD: (&str, u64, u64) = ("hold", 3600, 24 * 3600);

/// For how long renewals fail.
const FAILING: Duration = Duration::from_secs(15);

/// For how long anything is waited for.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Accounts made while renewals fail.
pub fn failing_renewals(world: &World, sides: &[Side; 2]) -> Row {
    let (file, ttl, max_ttl) = RENEW;
    let made = |side: &Side| -> u64 {
        let pattern = format!("v-approle-{}-%", side.peer.role(file));
        let count = format!("select count(*) from minted where account like '{pattern}'");
        world.postgres.query(&count).parse().expect("a number")
    };
    let seen = both(sides, |side| {
        let role = side.peer.role(file);
        let use_it = |span: Duration| {
            let until = Instant::now() + span;
            let mut failed = 0;
            while Instant::now() < until {
                failed += u32::from(side.read(file).is_err());
                sleep(LOOK);
            }
            failed
        };
        use_it(Duration::from_secs(12));
        let before = made(side);
        define_role(world, &role, ttl, max_ttl, Renewals::Fail);
        let failed = use_it(FAILING);
        let during = made(side) - before;
        define_role(world, &role, ttl, max_ttl, Renewals::Work);
        format!("{during}, {failed}")
    });
    Row {
        what: "accounts made while renewals fail for 15 s, and reads that failed meanwhile",
        seen,
        how: "A role with leases of 10 s is changed so that the database fails each renewal and goes on making \
              accounts; after 15 s it is changed back. The accounts are counted in PostgreSQL, which notes each one \
              that is made; the files are read ten times a second. A credential of 10 s has to be replaced at least once in 15 s without renewals.",
    }
}

/// How long a credential that was revoked in Vault can still be read.
pub fn revoked(world: &World, sides: &[Side; 2]) -> Row {
    let (file, ..) = REVOKE;
    let seen = both(sides, |side| {
        let before = side.credential(file).expect("the file can be read");
        let leases = world.wait(world.bao.leases(&format!("database/creds/{}", side.peer.role(file))));
        assert_eq!(leases.len(), 1, "{leases:?}");
        world.wait(world.bao.revoke_lease(&leases[0]));
        assert!(!before.lives(world), "revoked");
        let shown = || side.credential(file).is_ok_and(|credential| credential == before);
        match time_until(PATIENCE, || !shown()) {
            Some(span) => format!("{:.0} s", span.as_secs_f64()),
            None => format!("more than {} s", PATIENCE.as_secs()),
        }
    });
    Row {
        what: "a credential that was revoked in Vault can still be read for",
        seen,
        how: "A lease of an hour is revoked with the root token; the file is read ten times a second until it shows \
              something else, for at most 90 s. The agent asks for a lease again when it renews it, which with an hour's \
              lease is later than that; leasefs looks leases in use up every `revocation-check`, 30 s by default.",
    }
}

/// What is left of a credential when its successor is shown, and what becomes of who has the old one open.
pub fn rotation(world: &World, sides: &[Side; 2]) -> Vec<Row> {
    let seen = both(sides, |side| {
        let (left, held) = rotate(world, side);
        format!("{left}\n{held}")
    });
    let column = |at: usize| seen.each_ref().map(|text| text.lines().nth(at).expect("two lines").to_owned());
    vec![
        Row {
            what: "left of a credential of 20 s when the next one is shown",
            seen: column(0),
            how: "A role with leases of 20 s and a max_ttl of 60 s. A program keeps the file open; another one reads it \
                  ten times a second. When it shows another account for the first time, what OpenBao says of the \
                  lease of the one before, less the time then, is what is left.",
        },
        Row {
            what: "a reader that opened before the rotation reads, at once and after the old one's end",
            seen: column(1),
            how: "The same run: the program that kept the file open reads it from the start, when the next credential is \
                  shown and again when the lease of the old one is over. The database is asked whether what it read \
                  still opens a session.",
        },
    ]
}

fn rotate(world: &World, side: &Side) -> (String, String) {
    let (file, ..) = ROTATE;
    let prefix = format!("database/creds/{}", side.peer.role(file));
    let first = side.credential(file).expect("the file can be read");
    let held = File::open(side.path(file)).expect("the file can be opened");
    let lease = world.wait(world.bao.leases(&prefix)).first().cloned().expect("a lease");
    let mut expires = SystemTime::UNIX_EPOCH;
    let mut asked = Instant::now() - Duration::from_secs(1);
    let changed = time_until(PATIENCE, || {
        if asked.elapsed() >= Duration::from_millis(500) {
            expires = world.facts(&lease).map_or(expires, |facts| facts.expires);
            asked = Instant::now();
        }
        side.credential(file).is_ok_and(|credential| credential != first)
    });
    assert!(changed.is_some(), "no rotation in {PATIENCE:?}");
    let left = expires.duration_since(SystemTime::now()).unwrap_or_default();
    let at_once = read_held(world, &held);
    sleep(left + Duration::from_secs(2));
    let after = read_held(world, &held);
    (format!("{:.0} s", left.as_secs_f64()), format!("{at_once}, then {after}"))
}

fn read_held(world: &World, held: &File) -> String {
    let mut bytes = vec![0; 4096];
    match held.read_at(&mut bytes, 0) {
        Ok(count) => {
            let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
            let lives = Credential::parse(&text).lives(world);
            if lives { "a valid credential".to_owned() } else { "a dead credential".to_owned() }
        }
        Err(error) => errno(&error),
    }
}

/// The name of an error, as programs are told it.
pub fn errno(error: &std::io::Error) -> String {
    let number = error.raw_os_error().expect("an errno");
    format!("{:?}", nix::errno::Errno::from_raw(number))
}

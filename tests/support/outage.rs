//! What every outage of Vault has in common, seen from a mount: what is held is read on, whoever wants
//! something else is told why in bounded time, and afterwards all is well again by itself.
//!
//! All bounds are seconds where the thing itself takes microseconds: they tell "at once" from "waits for
//! Vault", also on a machine under load. How fast it is, `make outages` measures.
#![allow(clippy::print_stdout, reason = "a test says how long readers waited")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use libc::EHOSTDOWN;
use serde_json::json;

use super::bao::ROOT_TOKEN;
use super::mount::{Mount, eventually};
use super::tcp::Wire;
use super::world::{World, attribute, try_read};

/// The `read-timeout` of a mount in these tests.
pub const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// Longer than anything takes that waits for nobody.
pub const AT_ONCE: Duration = Duration::from_secs(1);

/// Longer than a reader waits who waits for Vault.
pub const READ_TIMEOUT_AND_A_BIT: Duration = Duration::from_millis(3500);

/// How soon all is well again after the server's return: its health is asked for every two seconds at most.
pub const BACK: Duration = Duration::from_secs(8);

/// How long a change may take that Vault's absence brings about.
const PATIENCE: Duration = Duration::from_secs(15);

/// One outage of all that Vault does, and what readers are told.
pub struct Outage<'a> {
    /// The servers.
    pub world: &'a World,
    /// The way to OpenBao.
    pub wire: &'a Wire,
    /// At most 8 letters; names the role and the secrets.
    pub name: &'a str,
    /// A table of the configuration; none: the root token.
    pub identity: &'a str,
    /// What is told before the breaker is open.
    pub errnos: &'a [i32],
    /// What `leasefs status` says then.
    pub reason: &'a str,
    /// Brings it about.
    pub begin: &'a dyn Fn(),
    /// Ends it.
    pub end: &'a dyn Fn(),
}

/// Goes through an outage and its end with a secret that is fresh, one that is past its max-age, a
/// credential, and others that nobody has read before.
#[track_caller]
pub fn weather(outage: &Outage<'_>) -> Mount {
    let Outage { world, wire, name, identity, errnos, reason, begin, end } = *outage;
    let misses = ["miss-0", "miss-1", "miss-2", "miss-3"];
    world.role(name, 60, 600);
    let mut files = identity.to_owned() + &credential(name);
    files += &kv(world, name, "fresh", "max-age = \"1h\"");
    files += &kv(world, name, "stale", "max-age = \"1s\"\ngrace = \"1h\"");
    files.extend(misses.map(|miss| kv(world, name, miss, "")));
    let mount = mount(wire.address(), &files);
    let read =
        |file: &str| mount.read(file).unwrap_or_else(|error| panic!("{file}: {error}\n{}", mount.log()));
    let (user, password, fresh, stale) = (read("user"), read("password"), read("fresh"), read("stale"));
    let resident = [("fresh", &*fresh), ("user", &user), ("password", &password)];
    let handles = [("fresh", &fresh), ("stale", &stale), ("user", &user)];
    let handles = handles.map(|(file, want)| (File::open(mount.path(file)).expect("it is held"), want));
    let handles_go_on = || {
        for (handle, want) in &handles {
            assert_eq!(held(handle).as_ref(), Ok(*want), "{}", mount.log());
        }
    };
    let lease = world.lease(name);

    begin();
    while_reading(&mount, &resident, || {
        misses_fail_in_time(&mount, &misses, errnos);
        status_tells(&mount, "miss-0", reason);
        misses_soon_fail_at_once(&mount, "miss-1");
        assert!(is_down(&mount), "{}", status(&mount));
        for miss in misses {
            let (took, told) = timed(|| try_read(&mount, miss));
            assert_eq!(told, Err(EHOSTDOWN), "{miss}");
            assert!(took < AT_ONCE, "{miss}: told after {took:?}, with the breaker open");
        }
    });
    // Now that it is known that nobody answers, nobody waits for a confirmation, either.
    while_reading(&mount, &[("stale", &stale)], || {
        let asked = wire.connections();
        thread::sleep(Duration::from_secs(2));
        let asked = wire.connections() - asked;
        assert!(asked <= 10, "{asked} connections in two seconds, with the breaker open");
    });
    assert_eq!(attribute(&mount, "stale", "state"), "stale");
    handles_go_on();

    let asked = wire.connections();
    end();
    assert_eq!(is_back(&mount, "miss-0"), content("miss-0"));
    for miss in misses {
        assert_eq!(read(miss), content(miss));
    }
    let asked = wire.connections() - asked;
    assert!(asked <= 40, "{asked} connections for four secrets after the server's return");
    assert!(eventually(BACK, || attribute(&mount, "stale", "state") == "live").is_some(), "{}", mount.log());
    assert!(!is_down(&mount), "{}", status(&mount));
    handles_go_on();
    assert_eq!(read("user"), user);
    assert!(world.postgres.admits(&user, &password));
    assert_eq!(world.lease(name), lease, "nothing was lost or minted");
    assert_eq!(world.accounts(name), 1);
    mount
}

/// A mount of these files with these tables, with the root token unless a table says otherwise.
pub fn mount(address: &str, tables: &str) -> Mount {
    mount_with(&format!("address = \"{address}\""), tables)
}

/// The same, with other lines for `[vault]`.
pub fn mount_with(vault: &str, tables: &str) -> Mount {
    let timeout = READ_TIMEOUT.as_secs();
    let mount = "[mount]\nrevocation-check = \"1s\"";
    let config = format!("[vault]\n{vault}\nread-timeout = \"{timeout}s\"\n{mount}\n{tables}");
    Mount::start(&config, &[("VAULT_TOKEN", ROOT_TOKEN)])
}

/// A file NAME of `secret/DIRECTORY/NAME#key`, which is written first.
pub fn kv(world: &World, directory: &str, name: &str, keys: &str) -> String {
    world.wait(world.bao.write_kv2("secret", &format!("{directory}/{name}"), json!({"key": content(name)})));
    format!("[file.\"{name}\"]\nsecret = \"secret/{directory}/{name}#key\"\n{keys}\n")
}

/// What [`kv`] writes.
pub fn content(name: &str) -> String {
    format!("the value of {name}")
}

/// The files `user` and `password` of a role.
pub fn credential(role: &str) -> String {
    let file =
        |name: &str, field: &str| format!("[file.\"{name}\"]\nsecret = \"database/creds/{role}#{field}\"\n");
    file("user", "username") + &file("password", "password")
}

/// Reads an open file from its start.
pub fn held(file: &File) -> Result<String, i32> {
    let mut bytes = [0; 256];
    match file.read_at(&mut bytes, 0) {
        Ok(count) => Ok(String::from_utf8(bytes[..count].to_vec()).expect("text")),
        Err(error) => Err(error.raw_os_error().expect("an errno")),
    }
}

/// Does `work` while these files are read without a break: each time they must be there at once, with these
/// contents.
#[track_caller]
pub fn while_reading<T>(mount: &Mount, resident: &[(&str, &str)], work: impl FnOnce() -> T) -> T {
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut slowest, mut rounds) = (Duration::ZERO, 0);
            while !over.load(Ordering::Relaxed) || rounds == 0 {
                for (name, content) in resident {
                    let (took, read) = timed(|| mount.read(name));
                    let read = read.unwrap_or_else(|error| panic!("{name}: {error}\n{}", mount.log()));
                    assert_eq!(read, *content, "{name}");
                    assert!(took < AT_ONCE, "{name} is resident and took {took:?}\n{}", mount.log());
                    slowest = slowest.max(took);
                }
                rounds += 1;
                thread::sleep(Duration::from_millis(10));
            }
            println!("{rounds} rounds of resident reads, the slowest {slowest:?}");
        });
        let done = {
            let _over = Over(&over);
            work()
        };
        // A failure is printed where it happened.
        assert!(reader.join().is_ok(), "what is resident could not be read during the outage");
        done
    })
}

/// Opens files that aren't cached, all at once: each must fail within `read-timeout` with one of these
/// errnos.
#[track_caller]
pub fn misses_fail_in_time(mount: &Mount, names: &[&str], errnos: &[i32]) {
    thread::scope(|scope| {
        let readers: Vec<_> = names.iter().map(|name| (name, scope.spawn(|| miss(mount, name)))).collect();
        for (name, reader) in readers {
            let (took, errno) = reader.join().expect("it can't be read");
            assert!(errnos.contains(&errno), "{name}: errno {errno}, not of {errnos:?}\n{}", mount.log());
            assert!(took < READ_TIMEOUT_AND_A_BIT, "{name}: told after {took:?}\n{}", mount.log());
        }
    });
}

/// Opens a file that isn't cached until the breaker is open: from then on it fails at once, each time.
#[track_caller]
pub fn misses_soon_fail_at_once(mount: &Mount, name: &str) {
    let fails_at_once = || {
        let (took, errno) = miss(mount, name);
        took < AT_ONCE && errno == EHOSTDOWN
    };
    let opened = eventually(PATIENCE, || (0..5).all(|_| fails_at_once()));
    assert!(opened.is_some(), "{name} still waits, or is told something else\n{}", mount.log());
}

/// Reads a file that was not to be had, until it is there.
#[track_caller]
pub fn is_back(mount: &Mount, name: &str) -> String {
    let mut content = None;
    let (took, back) = timed(|| {
        eventually(BACK, || {
            content = mount.read(name).ok();
            content.is_some()
        })
    });
    assert!(back.is_some(), "{name} can't be read {took:?} after the server's return\n{}", mount.log());
    println!("{name} was read {took:?} after the server's return");
    content.unwrap_or_default()
}

/// What `leasefs status` prints.
pub fn status(mount: &Mount) -> String {
    let root = mount.root();
    let (status, text) = mount.command(&["status", root.to_str().expect("a path is text")]);
    assert!(status.success(), "{text}");
    text
}

/// `leasefs status` has this text in the line of this file.
#[track_caller]
pub fn status_tells(mount: &Mount, name: &str, reason: &str) {
    let text = status(mount);
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(name));
    let line = line.unwrap_or_else(|| panic!("no line of {name} in:\n{text}"));
    assert!(line.contains(reason), "{name}: no {reason:?} in:\n{text}\n{}", mount.log());
}

/// `leasefs status` says that Vault does not answer.
pub fn is_down(mount: &Mount) -> bool {
    status(mount).contains("has not answered for")
}

/// How long it took, and what it came to.
pub fn timed<T>(attempt: impl FnOnce() -> T) -> (Duration, T) {
    let began = Instant::now();
    let outcome = attempt();
    (began.elapsed(), outcome)
}

/// How long a file's failure took, and its errno.
fn miss(mount: &Mount, name: &str) -> (Duration, i32) {
    let (took, read) = timed(|| fs::read(mount.path(name)));
    match read {
        Ok(_) => panic!("{name} could be read\n{}", mount.log()),
        Err(error) => (took, error.raw_os_error().expect("an errno")),
    }
}

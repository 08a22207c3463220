//! Servers with faults: a request that ends each server that takes it up, a state that can't be read, and systems
//! that have no memory for a state. For the first two the binary of a mount is replaced by this program, which the
//! keeper then starts in its place; for the last one it starts the mount. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may panic and read the clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use fuser::{
    FileHandle, Filesystem, INodeNo, KernelConfig, OpenFlags, ReplyAttr, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyOpen, Request,
};
use leasefs::config::{self, Environment};
use leasefs::core::engine::Engine;
use leasefs::core::time::{BootTime, UnixTime};
use leasefs::daemon::{End, composer, layout};
use leasefs::driver::Service;
use leasefs::driver::clock::Clock;
use leasefs::fuse::adapter::{Adapter, Wiring};
use leasefs::fuse::kept::{Seat, Unanswered};
use leasefs::keeper::Word;
use leasefs::link::ServerEnd;
use leasefs::sealed::Sealed;
use leasefs::secret::SecretBytes;
use leasefs::sys::descriptors::{inherited, pass_on};
use leasefs::sys::{self, BootTimer, secret_memory};
use libtest_mimic::{Arguments, Trial};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use serde_json::json;

use support::mount::{Mount, eventually};
use support::world::World;

/// How long anything here may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// Beside the binary of a mount: says what this program is to do when it is started in its place.
const PART: &str = "part";

/// Beside it: the binary that it replaces.
const REAL: &str = "leasefs.real";

/// As the first argument: this program runs what follows, on a kernel that seems to have no memfd_secret(2).
const WITHOUT_SECRET_MEMORY: &str = "--without-secret-memory";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.iter().any(|argument| argument == "--device") {
        return serve(&arguments);
    }
    if arguments.get(1).is_some_and(|argument| argument == WITHOUT_SECRET_MEMORY) {
        return without_secret_memory(&arguments[2..]);
    }
    let trials = [
        ("a_request_that_ends_each_server_gets_eio_and_the_mount_goes_on", fatal as fn()),
        ("a_state_of_another_version_is_told_and_forgotten", || {
            forgotten("version", "the sealed state has format")
        }),
        ("a_damaged_state_is_told_and_forgotten", || forgotten("damage", "")),
        ("without_secret_memory_a_successor_begins_anew", no_secret_memory),
        ("without_memory_to_lock_a_successor_begins_anew", no_memory_to_lock),
        ("with_too_little_memory_to_lock_a_successor_begins_anew", too_little_memory_to_lock),
    ];
    let trials = trials.map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit();
}

// ---- The tests ----

/// The next server is this program in a part; none: the real one.
fn replace(mount: &Mount, part: Option<&str>) {
    let (real, draft) = (mount.directory().join(REAL), mount.directory().join("draft"));
    if !real.exists() {
        fs::copy(mount.program(), &real).unwrap();
    }
    let from = if part.is_some() { std::env::current_exe().unwrap() } else { real };
    fs::write(mount.directory().join(PART), part.unwrap_or_default()).unwrap();
    fs::copy(from, &draft).unwrap();
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&draft, mount.program()).unwrap();
}

fn wait_for_another(mount: &Mount, than: u32) -> u32 {
    let mut found = than;
    let came = eventually(PATIENCE, || {
        found = mount.server().unwrap_or(than);
        found != than
    });
    assert!(came.is_some(), "no successor:\n{}", mount.log());
    found
}

fn fatal() {
    let world = World::start();
    world.wait(world.bao.write_kv2("secret", "one", json!({"key": "value"})));
    let config = format!(
        "[vault]\naddress = \"{}\"\n[file.\"good/file\"]\nsecret = \"secret/one#key\"\n\
         [file.\"fatal/file\"]\nsecret = \"secret/one#key\"\n",
        world.bao.address()
    );
    let mount = Mount::start_copy(&config, &[("VAULT_TOKEN", world.bao.root_token())]);
    replace(&mount, Some("fatal"));
    let first = wait_for_another(&mount, mount.kill_server());
    assert!(fs::metadata(mount.path("good")).unwrap().is_dir());
    let error = fs::metadata(mount.path("fatal")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{}", mount.log());
    assert_eq!(
        mount.log().matches("the server has died").count(),
        3,
        "one kill, two crashes:\n{}",
        mount.log()
    );
    assert!(mount.log().contains("ended several servers"), "{}", mount.log());
    assert!(fs::metadata(mount.path("good")).unwrap().is_dir(), "the mount goes on");
    let served = mount.server();
    assert_ne!(served, Some(first));
    // A new request is a new chance.
    let error = fs::metadata(mount.path("fatal")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{}", mount.log());
    assert_eq!(mount.log().matches("the server has died").count(), 5, "{}", mount.log());
    replace(&mount, None);
    let killed = mount.kill_server();
    assert_eq!(mount.read("fatal/file").unwrap(), "value", "a better server can do it");
    assert_eq!(mount.read("good/file").unwrap(), "value");
    mount.wait_for_successor(killed);
    let (ended, log) = mount.stop();
    assert!(ended.success(), "{log}");
}

fn forgotten(part: &str, word: &str) {
    let world = World::start();
    world.role("forgot", 600, 3600);
    let config = format!("[vault]\naddress = \"{}\"\n", world.bao.address())
        + &world.approle("forgot", json!({"token_ttl": "1h"}))
        + "[file.user]\nsecret = \"database/creds/forgot#username\"\n[file.other]\nsecret = \"secret/other#key\"\n";
    world.wait(world.bao.write_kv2("secret", "other", json!({"key": "of another file"})));
    let mount = Mount::start_copy(&config, &[]);
    // The first handle of all: a server that counts from the beginning again would give its number to another file.
    let file = File::open(mount.path("user")).unwrap();
    let (user, lease) = (mount.read("user").unwrap(), world.lease("forgot"));
    replace(&mount, Some(part));
    let killed = mount.kill_server();
    // This handle is of a server whose state is lost; it fails, and never shows what others have open now.
    let other = File::open(mount.path("other")).unwrap();
    let mut bytes = [0; 256];
    let shown =
        file.read_at(&mut bytes, 0).map(|count| String::from_utf8_lossy(&bytes[..count]).into_owned());
    let errno = shown.map_err(|error| error.raw_os_error());
    assert_eq!(errno, Err(Some(libc::ESTALE)), "{}", mount.log());
    drop(file);
    assert_eq!(
        other.read_at(&mut bytes, 0).unwrap(),
        "of another file".len(),
        "its end is not that of others"
    );
    drop(other);
    let next = mount.read("user").unwrap_or_else(|error| panic!("{error}\n{}", mount.log()));
    assert_ne!(next, user);
    mount.wait_for_successor(killed);
    let log = mount.log();
    let told = log.lines().find(|line| line.contains("what the last server has left can't be used"));
    let told = told.unwrap_or_else(|| panic!("nothing is told:\n{log}"));
    assert!(told.contains("WARN") && told.contains(word), "{told}");
    assert_eq!(world.accessors("forgot").len(), 2, "the first token is known to nobody");
    assert!(world.leases("forgot").contains(&lease), "so is its lease, which ends with it");
    // What follows is kept again.
    let killed = mount.kill_server();
    assert_eq!(mount.read("user").unwrap(), next);
    mount.wait_for_successor(killed);
    let (ended, log) = mount.stop();
    assert!(ended.success(), "{log}");
    assert_eq!(world.leases("forgot"), [lease], "all others are given back");
}

fn no_secret_memory() {
    let program = std::env::current_exe().unwrap();
    stateless(&[program.to_str().unwrap(), WITHOUT_SECRET_MEMORY], "gives no secret memory (memfd_secret)");
}

fn no_memory_to_lock() {
    stateless(&limited("--memlock=4096:4096"), "RLIMIT_MEMLOCK is 4096 bytes");
}

fn too_little_memory_to_lock() {
    stateless(&limited("--memlock=65536:65536"), "the state takes");
}

/// Starts a command with this limit, and without the rights to lock more and to lift it.
fn limited(limit: &str) -> [&str; 4] {
    ["setpriv", "--bounding-set=-ipc_lock,-sys_resource", "prlimit", limit]
}

/// A mount that can leave no state: it works, it says so, and a server that is killed is followed by one that logs
/// in anew. What the first one has obtained ends with its token.
fn stateless(through: &[&str], reason: &str) {
    let world = World::start();
    world.role("anew", 60, 600);
    let large = |index: usize| format!("<{index}>").repeat(400);
    let mut config = format!("[vault]\naddress = \"{}\"\n", world.bao.address())
        + &world.approle("anew", json!({"token_ttl": "8s"}))
        + "[file.user]\nsecret = \"database/creds/anew#username\"\n[tree.tree]\nsecret = \"secret/tree/\"\n";
    for index in 0..20 {
        world.wait(world.bao.write_kv2("secret", &format!("tree/{index}"), json!({"key": large(index)})));
        config += &format!("[file.\"kv/{index}\"]\nsecret = \"secret/tree/{index}#key\"\n");
    }
    let mount = Mount::start_through(through, &config, &[]);
    let all_is_there = || {
        for index in 0..20 {
            for name in [format!("kv/{index}"), format!("tree/{index}/key")] {
                let read = mount.read(&name).map_err(|error| error.to_string());
                assert_eq!(read, Ok(large(index)), "{name}\n{}", mount.log());
            }
        }
    };
    all_is_there();
    let user = mount.read("user").unwrap();
    let (lease, tokens) = (world.lease("anew"), world.accessors("anew"));
    assert_eq!(tokens.len(), 1);
    let told = |status: serde_json::Value| {
        let losses = status["losses"].as_array().unwrap().iter().filter_map(serde_json::Value::as_str);
        let anew = losses.filter(|loss| loss.contains("no state can be kept, a restart logs in anew"));
        anew.map(str::to_owned).collect::<Vec<_>>()
    };
    let is_told = || {
        let losses = told(mount.status().unwrap());
        assert!(matches!(&losses[..], [one] if one.contains(reason)), "{losses:?}\n{}", mount.log());
    };
    is_told();
    let open = ["user", "kv/3", "tree/7/key"].map(|name| File::open(mount.path(name)).unwrap());

    let killed = mount.kill_server();
    let began = std::time::Instant::now();
    for file in &open {
        let read = file.read_at(&mut [0; 16], 0).map_err(|error| error.raw_os_error());
        assert_eq!(read, Err(Some(libc::ESTALE)), "{}", mount.log());
    }
    let next = mount.read("user").unwrap();
    assert_ne!(next, user, "another login, another account");
    all_is_there();
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    mount.wait_for_successor(killed);
    drop(open);
    is_told();
    let known = eventually(PATIENCE, || mount.readers().is_empty());
    assert!(known.is_some(), "nothing is open, known: {:?}", mount.readers());

    // Nobody knows the first token any more, so that nothing keeps it.
    assert!(world.accessors("anew").len() <= 2);
    let over = eventually(PATIENCE, || world.facts(&lease).is_none() && world.token(&tokens[0]).is_none());
    assert!(over.is_some(), "{:?}", world.leases("anew"));
    assert_eq!(mount.read("user").unwrap(), next, "{}", mount.log());
    assert_eq!((world.leases("anew").len(), world.accounts("anew")), (1, 1));
    let (ended, log) = mount.stop();
    assert!(ended.success(), "{log}");
    assert!(log.contains("all leases were given back"), "{log}");
    world.wait_until_nothing_is_left_of("anew", PATIENCE);
    assert_eq!(world.accessors("anew"), [""; 0]);
}

// ---- In the place of a system ----

/// Runs a command to which memfd_secret(2) does not exist.
fn without_secret_memory(command: &[String]) {
    let calls = [(libc::SYS_memfd_secret, Vec::new())].into();
    let architecture = std::env::consts::ARCH.try_into().unwrap();
    let (others, these) = (SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS.cast_unsigned()));
    let filter: BpfProgram =
        SeccompFilter::new(calls, others, these, architecture).unwrap().try_into().unwrap();
    seccompiler::apply_filter(&filter).unwrap();
    let error = Command::new(&command[0]).args(&command[1..]).exec();
    panic!("{error}");
}

// ---- In the place of a server ----

fn serve(arguments: &[String]) {
    let directory: PathBuf = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let part = fs::read_to_string(directory.join(PART)).unwrap();
    match part.as_str() {
        "fatal" => serve_with_a_fault(arguments),
        part => {
            spoil(part, number(arguments, "--state").unwrap());
            // Once.
            fs::write(directory.join(PART), "nothing").unwrap();
            let error = Command::new(directory.join(REAL)).args(&arguments[1..]).exec();
            panic!("{error}");
        }
    }
}

fn number(arguments: &[String], name: &str) -> Option<i32> {
    let at = arguments.iter().position(|argument| argument == name)?;
    arguments.get(at + 1)?.parse().ok()
}

/// Changes the state as if another version had written it, or as if it had been damaged.
fn spoil(part: &str, state: i32) {
    let state = inherited(state).unwrap();
    pass_on(&state).unwrap();
    let map = || {
        let (page, area) = secret_memory::map(state.try_clone().unwrap(), 0)?;
        Ok::<_, secret_memory::MemoryError>((page, area))
    };
    let mut mapped = None;
    let free = eventually(PATIENCE, || {
        mapped = part_of(part).and_then(|_| map().ok());
        mapped.is_some() || part_of(part).is_none()
    });
    assert!(free.is_some(), "the memory of a dead server is not free");
    if let Some((_page, mut area)) = mapped {
        match part {
            "version" => area.store(0, area.load(0) ^ 0x0100),
            _ => {
                // In the first records, which say how everything else is to be understood.
                for at in (4096..4096 + 256).step_by(8) {
                    area.store(at, !area.load(at));
                }
            }
        }
    }
    // The number stays, for the program that follows.
    std::mem::forget(state);
}

fn part_of(part: &str) -> Option<&str> {
    Some(part).filter(|part| *part != "nothing")
}

thread_local! {
    /// Whether this thread is at work on what is fatal.
    static FATAL: Cell<bool> = const { Cell::new(false) };
}

/// The system's clock; asked for the time while something fatal is under way, it ends the process. So it is
/// inside of a handler, wherever that asks for the time.
#[derive(Clone)]
struct FatalClock;

impl Clock for FatalClock {
    type Timer = BootTimer;

    fn now(&self) -> BootTime {
        if FATAL.get() {
            std::process::abort();
        }
        sys::boot_time()
    }

    fn wall(&self) -> UnixTime {
        sys::unix_time()
    }
}

/// All that a walk needs; whoever looks up `fatal` ends the process.
struct Faulty(Adapter<FatalClock>);

impl Filesystem for Faulty {
    fn init(&mut self, request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.0.init(request, config)
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        FATAL.set(name == "fatal");
        self.0.lookup(request, parent, name, reply);
        FATAL.set(false);
    }

    fn forget(&self, request: &Request, ino: INodeNo, nlookup: u64) {
        self.0.forget(request, ino, nlookup);
    }

    fn getattr(&self, request: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        self.0.getattr(request, ino, fh, reply);
    }

    fn opendir(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.0.opendir(request, ino, flags, reply);
    }

    fn readdir(&self, request: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.0.readdir(request, ino, fh, offset, reply);
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.0.readdirplus(request, ino, fh, offset, reply);
    }

    fn releasedir(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.0.releasedir(request, ino, fh, flags, reply);
    }
}

fn serve_with_a_fault(arguments: &[String]) {
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).init();
    let take = |name: &str| -> OwnedFd { inherited(number(arguments, name).unwrap()).unwrap() };
    let record = File::from(take("--record"));
    let mut text = vec![0; usize::try_from(record.metadata().unwrap().len()).unwrap()];
    record.read_exact_at(&mut text, 0).unwrap();
    let record: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let seat: Seat = serde_json::from_value(record["seat"].clone()).unwrap();
    let plan =
        config::load(Path::new(record["config"].as_str().unwrap()), &Environment::from_process()).unwrap();
    let state = take("--state");
    let mut store = None;
    let free = eventually(PATIENCE, || {
        store = Sealed::open(state.try_clone().unwrap()).ok();
        store.is_some()
    });
    assert!(free.is_some(), "the state can't be opened");
    let store = store.unwrap();
    std::mem::forget(state);
    let requests = store.requests();
    let killed = arguments.iter().any(|argument| argument == "--killed");
    requests.take_stock(if killed { End::Kill } else { End::Fault });
    let engine = Engine::<SecretBytes>::new(layout(&plan, sys::unix_time()), composer(&plan)).unwrap();
    let (service, _inbox) = Service::new(engine, FatalClock);
    let adapter = Adapter::new(service, Arc::new(Wiring::default())).noting(Some(requests));
    let device = take("--device");
    let taken = seat.take(&device, Faulty(adapter), plan.mount.threads, Unanswered::Resent, |_| ());
    let (_serving, _) = taken.unwrap();
    let mut keeper: ServerEnd<Word> = ServerEnd::from(take("--keeper"));
    keeper.say(&Word::Serves);
    loop {
        std::thread::park();
    }
}

//! What the process that serves a mount can and can't do any more: each test starts this program anew, as root and
//! as an ordinary user; it shuts itself in with one thread, which a test's own process never has, and then tries.
//! Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may panic, read the clock and print"
)]

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use leasefs::config::plan::{MountPlan, Protection};
use leasefs::config::{self, Environment};
use leasefs::control::{ControlDirectory, LockStore};
use leasefs::core::locks::{Lock, Locks, Scope};
use leasefs::core::time::UnixTime;
use leasefs::sandbox::{Crowd, Identity, Places, Plan, Protections, SandboxError, State};
use leasefs::sys::{self, BootTimer};
use libtest_mimic::{Arguments, Failed, Trial};
use tempfile::TempDir;
use tokio::runtime;

/// Set in the program that shuts itself in: which attempt it makes.
const ATTEMPT: &str = "LEASEFS_TEST_ATTEMPT";

/// The ordinary user.
const USER: u32 = 12_345;

/// A program with the abilities of an attempt.
type Attempt = fn(&Inside);

/// What an attempt has to come to.
#[derive(Clone, Copy)]
enum End {
    /// Nothing that it asserts fails.
    Well,
    /// The kernel ends it for a system call.
    Killed,
    /// It ends itself with this signal.
    Signal(i32),
}

use End::{Killed, Signal, Well};

/// Who makes an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum As {
    Root,
    User,
}

const ATTEMPTS: [(&str, Attempt, End); 23] = [
    ("status_says_what_was_given_up", status_says_what_was_given_up, Well),
    ("a_replaced_credential_can_be_read", a_replaced_credential_can_be_read, Well),
    ("a_credential_behind_replaced_directories_can_be_read", a_credential_behind_links_can_be_read, Well),
    ("a_credential_in_a_shared_directory_is_pinned", a_credential_in_a_shared_directory_is_pinned, Well),
    (
        "where_nobody_comes_after_it_a_shared_directory_stays_open",
        where_nobody_comes_after_it_a_shared_directory_stays_open,
        Well,
    ),
    ("nothing_else_can_be_opened", nothing_else_can_be_opened, Well),
    ("vault_is_reached_by_name_and_nobody_else", vault_is_reached_by_name_and_nobody_else, Well),
    ("no_socket_gets_around_the_ports", no_socket_gets_around_the_ports, Well),
    ("threads_and_the_runtime_start", threads_and_the_runtime_start, Well),
    ("the_control_socket_and_locks_are_kept", the_control_socket_and_locks_are_kept, Well),
    ("groups_of_callers_can_be_told", groups_of_callers_can_be_told, Well),
    ("no_process_can_be_started", no_process_can_be_started, Well),
    ("memory_is_never_written_and_run", memory_is_never_written_and_run, Well),
    ("an_unknown_call_fails_and_does_no_harm", an_unknown_call_fails_and_does_no_harm, Well),
    ("nobody_else_gets_a_signal", nobody_else_gets_a_signal, Well),
    ("with_two_threads_it_is_refused", with_two_threads_it_is_refused, Well),
    ("what_is_switched_off_is_off_and_said", what_is_switched_off_is_off_and_said, Well),
    ("all_can_be_switched_off", all_can_be_switched_off, Well),
    ("only_root_becomes_somebody_else", only_root_becomes_somebody_else, Well),
    ("locked_memory_can_still_grow", locked_memory_can_still_grow, Well),
    ("execve_is_the_end", execve_is_the_end, Killed),
    ("abort_still_ends_it", abort_still_ends_it, Signal(libc::SIGABRT)),
    ("a_dump_is_never_made", a_dump_is_never_made, Signal(libc::SIGABRT)),
];

/// Calls that end the process, whatever their arguments.
const FATAL: [(&str, libc::c_long); 18] = [
    ("execveat", libc::SYS_execveat),
    ("ptrace", libc::SYS_ptrace),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("process_vm_writev", libc::SYS_process_vm_writev),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("mount", libc::SYS_mount),
    ("umount2", libc::SYS_umount2),
    ("open_tree", libc::SYS_open_tree),
    ("move_mount", libc::SYS_move_mount),
    ("fsopen", libc::SYS_fsopen),
    ("chroot", libc::SYS_chroot),
    ("unshare", libc::SYS_unshare),
    ("setns", libc::SYS_setns),
    ("bpf", libc::SYS_bpf),
    ("kexec_load", libc::SYS_kexec_load),
    ("init_module", libc::SYS_init_module),
    ("keyctl", libc::SYS_keyctl),
    ("io_uring_setup", libc::SYS_io_uring_setup),
];

fn main() {
    if let Some(attempt) = std::env::var_os(ATTEMPT) {
        return inside(&attempt.into_string().unwrap());
    }
    let mut trials = Vec::new();
    for who in [As::Root, As::User] {
        let name = |attempt: &str| format!("as_{who:?}::{attempt}").to_lowercase();
        for (attempt, _, end) in ATTEMPTS {
            trials.push(Trial::test(name(attempt), move || make(attempt, who, end)));
        }
        for (call, _) in FATAL {
            trials.push(Trial::test(name(&format!("{call}_is_the_end")), move || make(call, who, Killed)));
        }
    }
    let becomes = "root_becomes_the_user_that_was_asked_for";
    trials.push(Trial::test(becomes, move || make(becomes, As::Root, Well)));
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials);
    drop(PROGRAM.lock().unwrap().take());
    conclusion.exit();
}

// ---- Outside ----

/// The directory with a copy of this program that everybody may execute. Made once: a program that is being
/// written can't be executed, and whatever another thread starts meanwhile holds it open for writing.
static PROGRAM: Mutex<Option<TempDir>> = Mutex::new(None);

fn program() -> PathBuf {
    let mut program = PROGRAM.lock().unwrap();
    let directory = program.get_or_insert_with(|| {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (own, copy) = (std::env::current_exe().unwrap(), directory.path().join("program"));
        fs::hard_link(&own, &copy).or_else(|_| fs::copy(&own, &copy).map(drop)).unwrap();
        directory
    });
    directory.path().join("program")
}

/// Makes an attempt in a process of its own, and replaces its credentials as soon as it is shut in.
fn make(attempt: &str, who: As, end: End) -> Result<(), Failed> {
    let directory = set_up(who);
    let (vault, other) =
        (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port().to_string();
    let mut command = Command::new(program());
    command.env_clear().env(ATTEMPT, attempt).current_dir("/");
    command.env("DIRECTORY", directory.path()).env("VAULT", port(&vault)).env("OTHER", port(&other));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if who == As::User {
        command.uid(USER).gid(USER);
    }
    let mut child = command.spawn().unwrap();
    let mut said = String::new();
    let mut hears = BufReader::new(child.stdout.take().unwrap());
    while hears.read_line(&mut said).unwrap() > 0 {
        if said.ends_with("shut in\n") {
            replace_credentials(directory.path(), who);
            writeln!(child.stdin.take().unwrap(), "replaced").unwrap();
        }
    }
    let (status, trouble) = ended(child);
    let is_expected = match end {
        Well => status.success(),
        Killed => status.signal() == Some(libc::SIGSYS),
        Signal(signal) => status.signal() == Some(signal) && !status.core_dumped(),
    };
    match is_expected {
        true => Ok(()),
        false => Err(format!("{attempt} as {who:?}: {status}\n{said}{trouble}").into()),
    }
}

fn ended(child: Child) -> (ExitStatus, String) {
    let output = child.wait_with_output().unwrap();
    (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// What there is outside, readable for whoever makes the attempt: so that it is the sandbox that forbids.
fn set_up(who: As) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(root, 0o755);
    for name in ["credentials", "shared", "volume", "volume/..1", "control", "locks", "elsewhere"] {
        fs::create_dir(root.join(name)).unwrap();
        own(&root.join(name), who);
        mode(&root.join(name), 0o700);
    }
    mode(&root.join("shared"), 0o1777);
    for name in ["credentials/secret-id", "shared/role-id", "volume/..1/token", "elsewhere/key"] {
        write(&root.join(name), "first", who);
    }
    symlink("..1", root.join("volume/..data")).unwrap();
    symlink("..data/token", root.join("volume/token")).unwrap();
    directory
}

/// As operators do it, and as Kubernetes does it.
fn replace_credentials(root: &Path, who: As) {
    for name in ["credentials/secret-id", "shared/role-id"] {
        let draft = root.join("credentials/draft");
        write(&draft, "second", who);
        fs::rename(draft, root.join(name)).unwrap();
    }
    fs::create_dir(root.join("volume/..2")).unwrap();
    own(&root.join("volume/..2"), who);
    write(&root.join("volume/..2/token"), "second", who);
    symlink("..2", root.join("volume/..draft")).unwrap();
    fs::rename(root.join("volume/..draft"), root.join("volume/..data")).unwrap();
    fs::remove_dir_all(root.join("volume/..1")).unwrap();
}

fn write(path: &Path, text: &str, who: As) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    own(path, who);
}

fn own(path: &Path, who: As) {
    if who == As::User {
        chown(path, Some(USER), Some(USER)).unwrap();
    }
}

// ---- Inside ----

/// The process of an attempt.
struct Inside {
    root: PathBuf,
    /// Where Vault listens, and where somebody else does.
    vault: u16,
    other: u16,
}

fn inside(attempt: &str) {
    let port = |name: &str| std::env::var(name).unwrap().parse().unwrap();
    let root = PathBuf::from(std::env::var_os("DIRECTORY").unwrap());
    let inside = Inside { root, vault: port("VAULT"), other: port("OTHER") };
    if attempt == "root_becomes_the_user_that_was_asked_for" {
        return root_becomes_the_user_that_was_asked_for(&inside);
    }
    match ATTEMPTS.iter().find(|(name, ..)| *name == attempt) {
        Some((_, run, _)) => run(&inside),
        None => {
            let (_, number) = FATAL.iter().find(|(name, _)| *name == attempt).unwrap();
            inside.enter();
            call(*number, [0; 6]).unwrap_err();
        }
    }
}

impl Inside {
    fn plan(&self, more: &str) -> MountPlan {
        let root = self.root.display();
        let text = format!(
            "[vault]\naddress = 'http://localhost:{}'\n{more}\n[identity.default]\nmethod = 'approle'\n\
             role-id-file = '{root}/shared/role-id'\nsecret-id-file = '{root}/credentials/secret-id'\n\
             [identity.other]\nmethod = 'token'\ntoken-file = '{root}/volume/token'\n\
             [file.a]\nsecret = 'kv/a'\n[file.b]\nsecret = 'kv/b'\nidentity = 'other'\n",
            self.vault
        );
        config::parse(&text, Path::new("agent.toml"), &Environment::from_process()).unwrap()
    }

    fn sandbox(&self, more: &str, identity: Option<Identity>) -> Result<Protections, SandboxError> {
        let places = Places {
            config: None,
            control: Some(self.root.join("control")),
            locks: Some(self.root.join("locks/below")),
            ..Places::default()
        };
        Plan::of(&self.plan(more), &places, identity).enter()
    }

    fn enter(&self) -> Protections {
        self.enter_with("")
    }

    fn enter_with(&self, more: &str) -> Protections {
        let protections = self.sandbox(more, None).unwrap();
        self.wait_for_replacement();
        protections
    }

    fn wait_for_replacement(&self) {
        println!("shut in");
        let mut line = String::new();
        io::stdin().read_line(&mut line).unwrap();
        assert_eq!(line, "replaced\n");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn read(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(self.path(name))
    }
}

/// Whatever the kernel says.
fn call(number: libc::c_long, arguments: [usize; 6]) -> io::Result<libc::c_long> {
    let [a, b, c, d, e, f] = arguments;
    #[expect(unsafe_code, reason = "a call that is to fail is made as an intruder makes it")]
    // SAFETY: it fails, or has no effect on what this process goes on to use.
    match unsafe { libc::syscall(number, a, b, c, d, e, f) } {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

fn status(field: &str) -> String {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn is_denied<T>(result: io::Result<T>) {
    assert_eq!(result.err().map(|error| error.kind()), Some(ErrorKind::PermissionDenied));
}

/// Landlock's part on an older kernel is not there, and the test says so by its own state.
fn is_on(protections: &Protections, protection: Protection) -> bool {
    protections.state(protection.name()) == Some(&State::On)
}

fn status_says_what_was_given_up(inside: &Inside) {
    let protections = inside.enter();
    for (field, value) in [
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("CapInh", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
    ] {
        assert_eq!(status(field), value, "{field}");
    }
    let (uid, _) = sys::effective_ids();
    if uid == 0 {
        assert_eq!(status("CapBnd"), "0000000000000000");
    }
    assert_eq!(call(libc::SYS_prctl, [libc::PR_GET_DUMPABLE as usize, 0, 0, 0, 0, 0]).unwrap(), 0);
    let names: Vec<&str> = protections.iter().map(|entry| entry.name).collect();
    assert_eq!(
        names,
        [
            "no-new-privs",
            "user",
            "capabilities",
            "no-core-dumps",
            "landlock-files",
            "landlock-tcp",
            "landlock-scope",
            "seccomp"
        ]
    );
    for name in ["no-new-privs", "capabilities", "no-core-dumps", "landlock-files", "seccomp"] {
        assert_eq!(protections.state(name), Some(&State::On), "{name}");
    }
    assert_eq!(protections.state("user") == Some(&State::On), uid != 0);
}

fn a_replaced_credential_can_be_read(inside: &Inside) {
    inside.enter();
    assert_eq!(inside.read("credentials/secret-id").unwrap(), "second");
    is_denied(File::options().append(true).open(inside.path("credentials/secret-id")));
    is_denied(fs::remove_file(inside.path("credentials/secret-id")));
}

fn a_credential_behind_links_can_be_read(inside: &Inside) {
    inside.enter();
    assert_eq!(inside.read("volume/token").unwrap(), "second");
}

fn a_credential_in_a_shared_directory_is_pinned(inside: &Inside) {
    let protections = inside.sandbox("", None).unwrap();
    assert_eq!(inside.read("shared/role-id").unwrap(), "first");
    assert_eq!(protections.replaced(), None);
    inside.wait_for_replacement();
    is_denied(inside.read("shared/role-id"));
    assert_eq!(protections.replaced(), Some(inside.path("shared/role-id").as_path()));
}

fn where_nobody_comes_after_it_a_shared_directory_stays_open(inside: &Inside) {
    let mount_point = inside.path("elsewhere/tree");
    fs::create_dir_all(&mount_point).unwrap();
    let places = Places { mount_point: Some(mount_point.clone()), crowd: Crowd::Open, ..Places::default() };
    let protections = Plan::of(&inside.plan(""), &places, None).enter().unwrap();
    inside.wait_for_replacement();
    assert_eq!(inside.read("shared/role-id").unwrap(), "second");
    assert_eq!(protections.replaced(), None);
    is_denied(File::open("/root/.bashrc").or_else(|_| File::open("/usr/bin/env")));
    fs::remove_dir(&mount_point).unwrap();
    is_denied(fs::create_dir(&mount_point));
    is_denied(fs::remove_dir(inside.path("locks")));
}

fn nothing_else_can_be_opened(inside: &Inside) {
    fs::read(inside.path("elsewhere/key")).unwrap();
    inside.enter();
    for path in ["/etc/shadow", "/etc/passwd", "/etc", "/root", "/tmp", "/dev/fuse", "/sys/kernel"] {
        is_denied(File::open(path));
    }
    is_denied(inside.read("elsewhere/key"));
    is_denied(fs::read_dir(&inside.root));
    is_denied(fs::write(inside.path("elsewhere/new"), "x"));
    is_denied(fs::write("/tmp/leasefs-sandbox-test", "x"));
    is_denied(fs::create_dir(inside.path("control/new")));
    is_denied(symlink("/etc", inside.path("control/new")));
    is_denied(fs::rename(inside.path("credentials/secret-id"), inside.path("control/new")));
    // Another process's, which it may not trace.
    let parent = std::os::unix::process::parent_id();
    is_denied(fs::read(format!("/proc/{parent}/environ")));
}

fn vault_is_reached_by_name_and_nobody_else(inside: &Inside) {
    let protections = inside.enter();
    TcpStream::connect(("localhost", inside.vault)).unwrap();
    TcpStream::connect(("127.0.0.1", inside.vault)).unwrap();
    if is_on(&protections, Protection::LandlockTcp) {
        is_denied(TcpStream::connect(("127.0.0.1", inside.other)));
        is_denied(TcpListener::bind("127.0.0.1:0"));
    }
    // A name that nobody has is looked for everywhere, and not found: no module, no file is in the way.
    let error = TcpStream::connect(("absent.invalid", inside.vault)).unwrap_err();
    assert!(error.to_string().contains("lookup"), "{error}");
    UdpSocket::bind("127.0.0.1:0").unwrap();
}

fn no_socket_gets_around_the_ports(inside: &Inside) {
    inside.enter();
    let [unix, inet] = [libc::AF_UNIX, libc::AF_INET].map(|family| family as usize);
    let socket = |family: usize, kind: i32, protocol: i32| {
        call(libc::SYS_socket, [family, kind as usize, protocol as usize, 0, 0, 0])
    };
    socket(unix, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0).unwrap();
    let tcp = socket(inet, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0).unwrap() as usize;
    is_denied(socket(inet, libc::SOCK_STREAM, libc::IPPROTO_MPTCP));
    is_denied(socket(inet, libc::SOCK_STREAM, libc::IPPROTO_SCTP));
    is_denied(socket(inet, libc::SOCK_RAW, libc::IPPROTO_ICMP));
    is_denied(socket(libc::AF_PACKET as usize, libc::SOCK_RAW, 0));
    is_denied(socket(libc::AF_VSOCK as usize, libc::SOCK_STREAM, 0));
    is_denied(call(libc::SYS_sendto, [tcp, 0, 0, libc::MSG_FASTOPEN as usize, 0, 0]));
}

fn threads_and_the_runtime_start(inside: &Inside) {
    inside.enter();
    let threads: Vec<_> = (0..4)
        .map(|number| {
            let named = std::thread::Builder::new().name(format!("leasefs-{number}"));
            named.spawn(|| [status("NoNewPrivs"), status("Seccomp")]).unwrap()
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), ["1", "2"]);
    }
    runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let _hangups = signal(SignalKind::hangup()).unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
        BootTimer::new().unwrap().wait_until(sys::boot_time() + Duration::from_millis(2)).await.unwrap();
        let looked_up = tokio::net::lookup_host(("localhost", inside.vault)).await.unwrap();
        assert!(looked_up.count() > 0);
        tokio::net::TcpStream::connect(("localhost", inside.vault)).await.unwrap();
        let path = inside.path("credentials/secret-id");
        let read = tokio::task::spawn_blocking(|| fs::read_to_string(path)).await.unwrap();
        assert_eq!(read.unwrap(), "second");
    });
}

fn the_control_socket_and_locks_are_kept(inside: &Inside) {
    let before = ControlDirectory::at(inside.path("control")).listen(Path::new("/before")).unwrap();
    inside.enter();
    drop(before);
    let _after = ControlDirectory::at(inside.path("control")).listen(Path::new("/after")).unwrap();
    let store = LockStore::within(&inside.path("locks/below"), Path::new("/mount"));
    let since = UnixTime { seconds: 1_700_000_000, nanoseconds: 0 };
    let lock = Lock { reason: "a test".to_owned(), uid: 0, since };
    let locks: Locks = [(Scope::new("db").unwrap(), lock)].into_iter().collect();
    store.store(&locks).unwrap();
    assert_eq!(store.load().unwrap(), locks);
    store.store(&locks).unwrap();
    store.store(&Locks::default()).unwrap();
    assert_eq!(store.load().unwrap(), Locks::default());
}

fn groups_of_callers_can_be_told(inside: &Inside) {
    let parent = std::os::unix::process::parent_id();
    let before = fs::read_to_string(format!("/proc/{parent}/status")).unwrap();
    inside.enter();
    let groups = before.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap();
    let groups: Vec<u32> = groups.split_whitespace().map(|group| group.parse().unwrap()).collect();
    assert_eq!(sys::supplementary_groups(parent), groups);
    assert!(fs::read_to_string("/proc/self/mountinfo").unwrap().contains(" / "));
}

fn no_process_can_be_started(inside: &Inside) {
    inside.enter();
    is_denied(Command::new("/bin/true").spawn());
    is_denied(call(libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0, 0, 0, 0]));
    is_denied(call(libc::SYS_clone, [(libc::CLONE_NEWUSER | libc::SIGCHLD) as usize, 0, 0, 0, 0, 0]));
    let clone3 = call(libc::SYS_clone3, [0; 6]).unwrap_err();
    assert_eq!(clone3.raw_os_error(), Some(libc::ENOSYS), "its callers have to try clone");
}

fn memory_is_never_written_and_run(inside: &Inside) {
    inside.enter();
    let map = |protection: i32| {
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
        call(libc::SYS_mmap, [0, 4096, protection as usize, flags, usize::MAX, 0])
    };
    let page = map(libc::PROT_READ | libc::PROT_WRITE).unwrap() as usize;
    is_denied(map(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC));
    is_denied(map(libc::PROT_READ | libc::PROT_EXEC));
    let run = (libc::PROT_READ | libc::PROT_EXEC) as usize;
    is_denied(call(libc::SYS_mprotect, [page, 4096, run, 0, 0, 0]));
    let name = c"x".as_ptr().addr();
    is_denied(call(libc::SYS_memfd_create, [name, 0, 0, 0, 0, 0]));
}

fn an_unknown_call_fails_and_does_no_harm(inside: &Inside) {
    inside.enter();
    let own = std::process::id() as usize;
    for number in [libc::SYS_setpriority, libc::SYS_inotify_init1, libc::SYS_setuid, libc::SYS_mknodat, 1000]
    {
        is_denied(call(number, [0; 6]));
    }
    // Limits of one's own can be asked for, and that is all.
    let core = libc::RLIMIT_CORE as usize;
    call(libc::SYS_prlimit64, [0, core, 0, 0, 0, 0]).unwrap();
    is_denied(call(libc::SYS_prlimit64, [own, core, 0, 0, 0, 0]));
    is_denied(call(libc::SYS_prlimit64, [0, core, own, 0, 0, 0]));
    is_denied(call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE as usize, 1, 0, 0, 0, 0]));
    is_denied(call(libc::SYS_ioctl, [0, libc::TIOCSTI as usize, 0, 0, 0, 0]));
}

fn nobody_else_gets_a_signal(inside: &Inside) {
    let protections = inside.enter_with("[mount.protections]\nseccomp = false\n");
    let parent = std::os::unix::process::parent_id() as usize;
    call(libc::SYS_kill, [std::process::id() as usize, 0, 0, 0, 0, 0]).unwrap();
    if is_on(&protections, Protection::LandlockScope) {
        is_denied(call(libc::SYS_kill, [parent, 0, 0, 0, 0, 0]));
    }
}

fn with_two_threads_it_is_refused(inside: &Inside) {
    let (end, wait) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || wait.recv());
    let refused = inside.sandbox("", None).unwrap_err();
    assert!(matches!(refused, SandboxError::Threads { count: 2 }), "{refused}");
    assert_eq!(status("NoNewPrivs"), "0");
    drop(end);
    thread.join().unwrap().unwrap_err();
}

fn what_is_switched_off_is_off_and_said(inside: &Inside) {
    let protections = inside.enter_with("[mount.protections]\nseccomp = false\nlandlock-files = false\n");
    assert_eq!(status("Seccomp"), "0");
    assert_eq!(inside.read("elsewhere/key").unwrap(), "first");
    assert_eq!(inside.read("shared/role-id").unwrap(), "second");
    assert_eq!(protections.replaced(), None);
    for name in ["seccomp", "landlock-files"] {
        let reason = format!("{name} = false in [mount.protections]");
        assert_eq!(protections.state(name), Some(&State::Off { reason }));
    }
    if is_on(&protections, Protection::LandlockTcp) {
        is_denied(TcpStream::connect(("127.0.0.1", inside.other)));
    }
    assert!(Command::new("/bin/true").status().unwrap().success());
}

fn all_can_be_switched_off(inside: &Inside) {
    let all: String = Protection::ALL.iter().map(|one| format!("{} = false\n", one.name())).collect();
    let capabilities = status("CapEff");
    let protections = inside.enter_with(&format!("[mount.protections]\n{all}"));
    for protection in Protection::ALL {
        assert!(matches!(protections.state(protection.name()), Some(State::Off { .. })), "{protection:?}");
    }
    assert_eq!((status("CapEff"), status("NoNewPrivs").as_str()), (capabilities, "0"));
    TcpStream::connect(("127.0.0.1", inside.other)).unwrap();
    assert_eq!(inside.read("elsewhere/key").unwrap(), "first");
}

fn only_root_becomes_somebody_else(inside: &Inside) {
    let identity = |uid| Some(Identity { uid, gid: uid, groups: Vec::new() });
    let (uid, _) = sys::effective_ids();
    if uid != 0 {
        let refused = inside.sandbox("", identity(USER + 1)).unwrap_err();
        assert!(matches!(refused, SandboxError::NotRoot { uid } if uid == USER + 1), "{refused}");
    }
    let protections = inside.sandbox("", identity(uid)).unwrap();
    assert_eq!(protections.state("user") == Some(&State::On), uid != 0);
}

fn locked_memory_can_still_grow(inside: &Inside) {
    sys::lock_memory();
    inside.enter();
    // More than the usual limit of locked memory, and stacks of threads.
    let large = vec![1_u8; 64 << 20];
    let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(|| vec![2_u8; 16 << 20].len())).collect();
    assert!(threads.into_iter().all(|thread| thread.join().unwrap() == 16 << 20));
    assert_eq!(large.len(), 64 << 20);
}

fn root_becomes_the_user_that_was_asked_for(inside: &Inside) {
    for name in ["credentials", "credentials/secret-id", "locks"] {
        own(&inside.path(name), As::User);
    }
    sys::lock_memory();
    let identity = Identity { uid: USER, gid: USER, groups: vec![USER + 1] };
    let protections = inside.sandbox("", Some(identity)).unwrap();
    assert_eq!(protections.state("user"), Some(&State::On));
    for field in ["Uid", "Gid"] {
        assert_eq!(status(field), [USER; 4].map(|id| id.to_string()).join(" "));
    }
    assert_eq!(status("Groups"), (USER + 1).to_string());
    assert_eq!((status("CapEff"), status("CapBnd")), ("0000000000000000".into(), "0000000000000000".into()));
    assert_eq!(call(libc::SYS_prctl, [libc::PR_GET_DUMPABLE as usize, 0, 0, 0, 0, 0]).unwrap(), 0);
    assert_eq!(inside.read("credentials/secret-id").unwrap(), "first");
    // Root's: it is no longer root who asks.
    is_denied(inside.read("volume/token"));
    std::thread::spawn(|| vec![2_u8; 64 << 20].len()).join().unwrap();
    inside.wait_for_replacement();
}

fn execve_is_the_end(inside: &Inside) {
    inside.enter();
    let error = Command::new("/bin/true").exec();
    panic!("{error}");
}

fn abort_still_ends_it(inside: &Inside) {
    inside.enter();
    std::process::abort();
}

fn a_dump_is_never_made(inside: &Inside) {
    inside.enter();
    call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE as usize, 1, 0, 0, 0, 0]).unwrap_err();
    std::process::abort();
}

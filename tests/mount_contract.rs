//! What a file does, on a real mount with real servers: the rows of the contract that are not about leases
//! ending by themselves.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may panic and read the clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use support::bao::Bao;
use support::mount::{Mount, eventually};
use support::postgres::Postgres;
use support::programs::{attribute, attributes, run, run_in};
use support::proxy::{Proxy, Trouble};
use tokio::sync::OnceCell;

/// Longer than anything here takes, shorter than anybody's patience.
const PATIENCE: Duration = Duration::from_secs(10);
/// Far more than a call takes that needs nobody, far less than one that waits for Vault.
const AT_ONCE: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// One OpenBao for all tests; each test keeps to paths of its own.
async fn bao() -> &'static Bao {
    static BAO: OnceCell<Bao> = OnceCell::const_new();
    BAO.get_or_init(Bao::start).await
}

/// One PostgreSQL, behind `database/` of the OpenBao. Each test has a role of its own, whose name has at
/// most 8 characters, since an account's name has no more of it.
async fn postgres(role: &str) -> &'static Postgres {
    static POSTGRES: OnceCell<Postgres> = OnceCell::const_new();
    let postgres = POSTGRES
        .get_or_init(|| async {
            let postgres = Postgres::start().await;
            postgres.connect(bao().await, "database").await;
            postgres
        })
        .await;
    assert!(role.len() <= 8, "{role} is cut in the names of its accounts");
    postgres.add_role(bao().await, "database", role, HOUR, HOUR).await;
    postgres
}

/// How many accounts there are that were made for a role.
fn accounts(postgres: &Postgres, role: &str) -> usize {
    let count = format!("select count(*) from pg_roles where rolname like 'v-%-{role}-%'");
    postgres.query(&count).parse().unwrap()
}

/// Mounts `files` of what is at `address`.
fn mount(address: &str, files: &str) -> Mount {
    let config = format!("[vault]\naddress = \"{address}\"\n{files}");
    Mount::start(&config, &[("VAULT_TOKEN", "dev-only-root-token")])
}

fn stop(mount: Mount) {
    let (status, log) = mount.stop();
    assert!(status.success(), "{log}");
}

/// Asserts that what `work` does waits for nobody.
fn at_once<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    assert!(start.elapsed() < AT_ONCE, "{what} took {:?}", start.elapsed());
    result
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dynamic_file_that_two_hundred_open_at_once_is_minted_once() {
    let postgres = postgres("flight").await;
    let proxy = Proxy::start(bao().await.address());
    // Slow enough that all of them wait together.
    proxy.trouble_for("database/creds/", Trouble::Delay(Duration::from_millis(700)));
    let mount = mount(
        &proxy.address(),
        "[file.\"db/username\"]\nsecret = \"database/creds/flight#username\"\n\
         [file.\"db/password\"]\nsecret = \"database/creds/flight#password\"\n",
    );
    let start = Barrier::new(150);
    let read = |name: &str| {
        start.wait();
        mount.read(name).unwrap()
    };
    let (names, passwords) = thread::scope(|scope| {
        let programs: Vec<_> = (0..50)
            .map(|_| Command::new("cat").arg(mount.path("db/username")).stdout(Stdio::piped()).spawn())
            .collect();
        let readers = |name| (0..75).map(|_| scope.spawn(move || read(name))).collect::<Vec<_>>();
        let (names, passwords) = (readers("db/username"), readers("db/password"));
        let joined = |readers: Vec<thread::ScopedJoinHandle<'_, String>>| {
            readers.into_iter().map(|reader| reader.join().unwrap()).collect::<Vec<_>>()
        };
        let (mut names, passwords) = (joined(names), joined(passwords));
        for program in programs {
            let output = program.unwrap().wait_with_output().unwrap();
            assert!(output.status.success());
            names.push(String::from_utf8(output.stdout).unwrap());
        }
        (names, passwords)
    });
    assert_eq!(names.len() + passwords.len(), 200);
    assert!(names.iter().all(|name| *name == names[0]) && passwords.iter().all(|one| *one == passwords[0]));
    assert!(postgres.admits(&names[0], &passwords[0]), "both are of one credential");
    assert_eq!(bao().await.leases("database/creds/flight").await.len(), 1);
    assert_eq!(accounts(postgres, "flight"), 1);
    assert_eq!(proxy.count("GET /v1/database/creds/flight"), 1);
    stop(mount);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_generation_is_opened_without_a_word_to_vault() {
    postgres("silent").await;
    bao().await.write_kv2("secret", "silent", json!({"key": "abc", "other": "x"})).await;
    let proxy = Proxy::start(bao().await.address());
    let mount = mount(
        &proxy.address(),
        "[file.key]\nsecret = \"secret/silent#key\"\n\
         [file.whole]\nsecret = \"secret/silent\"\n\
         [file.db]\nsecret = \"database/creds/silent\"\n",
    );
    let first = ["key", "whole", "db"].map(|name| mount.read(name).unwrap());
    let before = proxy.requests();
    assert_eq!(proxy.count("secret/data/silent"), 1, "both files are of one read: {before:?}");
    for _ in 0..30 {
        assert_eq!(["key", "whole", "db"].map(|name| mount.read(name).unwrap()), first);
    }
    assert_eq!(proxy.requests(), before);
    stop(mount);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_handle_keeps_its_version_whole_while_others_get_the_new_one() {
    let bao = bao().await;
    let (old, new) = ("old ".repeat(50_000), "newer".repeat(30_000));
    bao.write_kv2("secret", "snapshot", json!({"key": old})).await;
    let mount = mount(
        bao.address(),
        "[defaults]\nmax-age = \"200ms\"\n[file.key]\nsecret = \"secret/snapshot#key\"\n",
    );
    let mut handle = File::open(mount.path("key")).unwrap();
    let mut begun = vec![0; 1000];
    handle.read_exact(&mut begun).unwrap();
    bao.write_kv2("secret", "snapshot", json!({"key": new})).await;
    eventually(PATIENCE, || mount.read("key").unwrap() == new).expect("the new version comes");
    let mut rest = String::new();
    handle.read_to_string(&mut rest).unwrap();
    assert_eq!(String::from_utf8(begun).unwrap() + &rest, old);
    let mut again = vec![0; old.len()];
    handle.read_exact_at(&mut again, 0).unwrap();
    assert_eq!(again, old.as_bytes());
    assert_eq!(handle.read_at(&mut [0; 10], old.len() as u64).unwrap(), 0, "and it ends where it ended");
    let newest = File::open(mount.path("key")).unwrap();
    assert_eq!(newest.metadata().unwrap().len(), new.len() as u64);
    stop(mount);
}

/// Maps a file, shared or private, and prints what it sees there each time that it is asked.
const MAPPER: &str = "
import mmap, sys
with open(sys.argv[1], 'rb') as file:
    mapping = mmap.mmap(file.fileno(), 0, flags=getattr(mmap, sys.argv[2]), prot=mmap.PROT_READ)
    for _ in sys.stdin:
        print(mapping[:].decode(), flush=True)
";

#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_shows_the_current_generation_and_faults_after_its_end() {
    let bao = bao().await;
    for flags in ["MAP_SHARED", "MAP_PRIVATE"] {
        bao.write_kv2("secret", "mapped", json!({"key": "first"})).await;
        let mount = mount(
            bao.address(),
            "[defaults]\nmax-age = \"200ms\"\n[file.key]\nsecret = \"secret/mapped#key\"\n",
        );
        let mut child = Command::new("python3")
            .args(["-c", MAPPER])
            .arg(mount.path("key"))
            .arg(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ask = child.stdin.take().unwrap();
        let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut look = || {
            // A child that has died answers nothing.
            ask.write_all(b"\n").ok()?;
            answers.next().map(Result::unwrap)
        };
        assert_eq!(look().as_deref(), Some("first"), "{flags}");
        bao.write_kv2("secret", "mapped", json!({"key": "other"})).await;
        eventually(PATIENCE, || look().as_deref() == Some("other")).expect("the mapping shows the new bytes");
        bao.delete("secret/data/mapped").await;
        eventually(PATIENCE, || look().is_none()).expect("the mapping ends");
        assert_eq!(child.wait().unwrap().signal(), Some(7), "{flags}: SIGBUS");
        stop(mount);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_at_a_tree_mints_nothing() {
    let postgres = postgres("looked").await;
    bao()
        .await
        .write("database/roles/looked2", json!({"db_name": "private", "creation_statements": "no SQL"}))
        .await;
    let proxy = Proxy::start(bao().await.address());
    let mount = mount(
        &proxy.address(),
        "[file.\"db/all\"]\nsecret = \"database/creds/looked\"\n\
         [file.\"db/deep/er/password\"]\nsecret = \"database/creds/looked#password\"\n\
         [dir.\"pair\"]\nsecret = \"database/creds/looked\"\n\
         names = { username = \"user\", password = \"word\" }\n\
         [file.\"posted\"]\nsecret = \"database/creds/looked2#username\"\nengine = \"other\"\n",
    );
    let look = [
        "stat db/all pair/user posted",
        "ls -lR .",
        "ls -la --time-style=full-iso pair",
        "find . -type f -size -1 -newermt 2000-01-01 -ls",
        "du -a .",
        "getfattr -d -R -m - .",
        "test -r db/all -a ! -s db/all",
        "file_count=$(find . -type f | wc -l); test $file_count = 5",
        "python3 -c 'import os; [e.stat() for r, _, f in os.walk(\".\") for e in os.scandir(r)]'",
        "tar -cf /dev/null --no-recursion .",
    ];
    for command in look.iter().chain(&look) {
        run_in(&mount.root(), command);
    }
    assert_eq!(fs::metadata(mount.path("db/all")).unwrap().len(), 0);
    assert_eq!(bao().await.leases("database/creds/looked").await, [] as [String; 0]);
    assert_eq!(accounts(postgres, "looked"), 0);
    assert_eq!(
        proxy.count("database/creds/"),
        proxy.count("/v1/sys/internal/ui/mounts/"),
        "{:?}",
        proxy.requests()
    );
    mount.read("db/all").unwrap();
    assert_eq!(accounts(postgres, "looked"), 1, "the counting works");
    stop(mount);
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_are_true_as_soon_as_a_file_is_open_and_of_kv_even_before() {
    postgres("sizes").await;
    let bao = bao().await;
    bao.write_kv2("secret", "sizes", json!({"key": "12345", "empty": ""})).await;
    let mount = mount(
        bao.address(),
        "[file.key]\nsecret = \"secret/sizes#key\"\nmax-age = \"200ms\"\n\
         [file.empty]\nsecret = \"secret/sizes#empty\"\nmax-age = \"200ms\"\n\
         [file.db]\nsecret = \"database/creds/sizes\"\n",
    );
    assert_eq!(fs::metadata(mount.path("key")).unwrap().len(), 5, "before it was ever opened");
    run_in(&mount.root(), "test -s key && test ! -s empty && test $(stat -c %s key) = 5");
    for text in ["a much longer text than before", "short", "", "1234567"] {
        bao.write_kv2("secret", "sizes", json!({"key": text, "empty": ""})).await;
        eventually(PATIENCE, || read_as_told(&mount.path("key")) == text).expect("the new version comes");
        assert_eq!(fs::metadata(mount.path("key")).unwrap().len(), text.len() as u64);
    }
    assert_eq!(fs::metadata(mount.path("db")).unwrap().len(), 0, "not minted yet");
    let credential = read_as_told(&mount.path("db"));
    assert!(credential.starts_with('{') && credential.ends_with("}\n"), "{credential}");
    assert_eq!(fs::metadata(mount.path("db")).unwrap().len(), credential.len() as u64);
    stop(mount);
}

/// Reads as many bytes as `fstat` tells after the open and then asks for more, as Node and others do. The
/// name was looked at before, so the kernel knows an older size.
fn read_as_told(path: &Path) -> String {
    fs::metadata(path).unwrap();
    let mut file = File::open(path).unwrap();
    let told = file.metadata().unwrap().len();
    let mut bytes = vec![0; usize::try_from(told).unwrap()];
    file.read_exact(&mut bytes).unwrap();
    assert_eq!(file.read(&mut [0; 100]).unwrap(), 0, "{}: longer than {told}", path.display());
    String::from_utf8(bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn mtime_is_when_the_secret_was_written_or_issued() {
    postgres("times").await;
    let bao = bao().await;
    let mounted = SystemTime::now();
    let mount = mount(
        bao.address(),
        "[file.key]\nsecret = \"secret/times#key\"\nmax-age = \"200ms\"\n\
         [file.db]\nsecret = \"database/creds/times\"\n",
    );
    let modified = |name: &str| fs::metadata(mount.path(name)).unwrap().modified().unwrap();
    for version in ["1", "2"] {
        bao.write_kv2("secret", "times", json!({"key": version})).await;
        let metadata = bao.call("GET", "secret/metadata/times", None).await;
        let created = metadata["data"]["versions"][version]["created_time"].as_str().unwrap();
        let created = humantime::parse_rfc3339(created).unwrap();
        eventually(PATIENCE, || modified("key") == created).expect("stat alone shows the change");
        assert_eq!(mount.read("key").unwrap(), version);
        assert_eq!(modified("key"), created);
    }
    assert!(modified("db") >= mounted && modified("db") <= SystemTime::now());
    let before = SystemTime::now();
    mount.read("db").unwrap();
    let issued = modified("db");
    assert!(before <= issued && issued <= SystemTime::now(), "{issued:?}");
    mount.read("db").unwrap();
    assert_eq!(modified("db"), issued, "it is the same credential");
    stop(mount);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_is_frozen_holds_nobody_up_who_does_not_need_it() {
    postgres("frozen").await;
    let bao = bao().await;
    let mut files = String::from("[file.\"dynamic/db\"]\nsecret = \"database/creds/frozen\"\n");
    for number in 0..40 {
        bao.write_kv2("secret", &format!("frozen/{number}"), json!({"key": format!("value {number}")})).await;
        for (name, path) in [("known", "frozen"), ("cold", "unknown")] {
            files += &format!("[file.\"{name}/{number}\"]\nsecret = \"secret/{path}/{number}#key\"\n");
        }
    }
    let proxy = Proxy::start(bao.address());
    let mount = mount(&proxy.address(), &files);
    let known: Vec<String> = (0..40).map(|number| format!("known/{number}")).collect();
    let resident: Vec<String> = known.iter().map(|name| mount.read(name).unwrap()).collect();
    let credential = mount.read("dynamic/db").unwrap();
    proxy.trouble(Trouble::Freeze);
    thread::scope(|scope| {
        let cold: Vec<_> = (0..20)
            .map(|number| {
                let path = mount.path(&format!("cold/{number}"));
                scope.spawn(move || fs::read(path).unwrap_err().raw_os_error())
            })
            .collect();
        eventually(PATIENCE, || proxy.count("secret/data/unknown/") > 0).expect("some wait for Vault");
        let before = proxy.count("");
        for _ in 0..3 {
            at_once("ls", || run_in(&mount.root(), "ls -R > /dev/null; ls cold known dynamic > /dev/null"));
            at_once("stat", || run_in(&mount.root(), "stat known/* dynamic/db > /dev/null; ls -l known >&2"));
            at_once("a resident credential", || assert_eq!(mount.read("dynamic/db").unwrap(), credential));
            for (name, text) in known.iter().zip(&resident) {
                at_once(name, || assert_eq!(mount.read(name).unwrap(), *text));
            }
            at_once("mmap", || {
                run_in(
                    &mount.root(),
                    "python3 -c 'import mmap; f = open(\"known/7\"); print(mmap.mmap(f.fileno(), 0, prot=1)[:])'",
                )
            });
        }
        assert!(
            proxy.requests()[before..]
                .iter()
                .all(|one| one.contains("unknown") || one.contains("sys/health"))
        );
        proxy.recover();
        for reader in cold {
            assert_eq!(reader.join().unwrap(), Some(libc::ENOENT), "the wait ends with Vault's answer");
        }
    });
    stop(mount);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_can_be_written_made_changed_or_removed() {
    let bao = bao().await;
    bao.write_kv2("secret", "rofs", json!({"key": "abc"})).await;
    let mount = mount(bao.address(), "[file.\"d/key\"]\nsecret = \"secret/rofs#key\"\nmode = \"0600\"\n");
    let script = "
import errno, os, sys
os.chdir(sys.argv[1])
flags = [os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND]
attempts = {f'open {flag:o}': lambda flag=flag: os.open('d/key', flag) for flag in flags} | {
    'create': lambda: os.open('d/new', os.O_CREAT | os.O_WRONLY, 0o600),
    'create in a directory of a real file': lambda: os.open('new', os.O_CREAT | os.O_RDONLY),
    'truncate': lambda: os.truncate('d/key', 0),
    'unlink': lambda: os.unlink('d/key'),
    'rename': lambda: os.rename('d/key', 'd/other'),
    'mkdir': lambda: os.mkdir('d/dir'),
    'rmdir': lambda: os.rmdir('d'),
    'chmod': lambda: os.chmod('d/key', 0o644),
    'chown': lambda: os.chown('d/key', 1, 1),
    'utime': lambda: os.utime('d/key', (1, 1)),
    'link': lambda: os.link('d/key', 'd/hard'),
    'symlink': lambda: os.symlink('key', 'd/soft'),
    'mkfifo': lambda: os.mkfifo('d/fifo'),
    'setxattr': lambda: os.setxattr('d/key', 'user.leasefs.state', b'x'),
    'removexattr': lambda: os.removexattr('d/key', 'user.leasefs.state'),
}
for what, attempt in attempts.items():
    try:
        attempt()
        print(what, 'worked')
    except OSError as error:
        if error.errno != errno.EROFS:
            print(what, error)
";
    assert_eq!(run(Command::new("python3").args(["-c", script]).arg(mount.root())), "");
    assert_eq!(mount.read("d/key").unwrap(), "abc");
    stop(mount);
}

#[tokio::test(flavor = "multi_thread")]
async fn extended_attributes_say_how_a_file_stands_to_those_who_may_read_it() {
    postgres("xattrs").await;
    let bao = bao().await;
    bao.write_kv2("secret", "xattrs", json!({"key": "abc"})).await;
    bao.write_kv2("secret", "xattrs", json!({"key": "abc"})).await;
    let mount = mount(
        bao.address(),
        "[defaults]\ndir-mode = \"0555\"\n\
         [file.key]\nsecret = \"secret/xattrs#key\"\nmax-age = \"1h\"\n\
         [file.db]\nsecret = \"database/creds/xattrs\"\n\
         [file.none]\nsecret = \"secret/xattrs-none#key\"\n\
         [file.field]\nsecret = \"secret/xattrs#none\"\nmax-age = \"1h\"\n",
    );
    let (key, db) = (mount.path("key"), mount.path("db"));
    let names = |path: &Path| attributes(path).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(&db), ["source", "state"], "asking mints nothing and fetches nothing");
    assert_eq!(attribute(&db, "state").as_deref(), Some("idle"));
    mount.read("key").unwrap();
    mount.read("db").unwrap();
    assert_eq!(names(&key), ["expires", "issued", "source", "state", "version"]);
    assert_eq!(attribute(&key, "source").as_deref(), Some("secret/xattrs"));
    assert_eq!(attribute(&key, "state").as_deref(), Some("live"));
    assert_eq!(attribute(&key, "version").as_deref(), Some("2"));
    let seconds = |time: SystemTime| humantime::format_rfc3339_seconds(time).to_string();
    let modified = fs::metadata(&key).unwrap().modified().unwrap();
    assert_eq!(attribute(&key, "issued"), Some(seconds(modified)));
    assert_eq!(names(&db), ["expires", "issued", "source", "state"]);
    assert_eq!(attribute(&db, "source").as_deref(), Some("database/creds/xattrs"));
    let expires = humantime::parse_rfc3339(&attribute(&db, "expires").unwrap()).unwrap();
    let left = expires.duration_since(SystemTime::now()).unwrap();
    assert!(left < HOUR && left > HOUR - Duration::from_secs(60), "{left:?}");
    assert_eq!(mount.errno("none"), libc::ENOENT);
    assert!(attribute(&mount.root(), "error.none").unwrap().contains("secret/data/xattrs-none"));
    assert_eq!(mount.errno("field"), libc::ENOENT);
    let told = "what has no mode is told of by its directory";
    assert_eq!(names(&mount.root()), ["error.field", "error.none"], "{told}");
    assert_eq!(attribute(&key, "nonsense"), None);
    assert_eq!(attribute(&mount.root(), "error.key"), None);
    assert_eq!(attribute(&mount.root(), "state"), None);
    // Another user is told nothing, not even which attributes there are.
    let other = "setpriv --reuid 65534 --regid 65534 --clear-groups";
    assert_eq!(run_in(&mount.root(), &format!("{other} getfattr -d -m - key . 2>&1")), "");
    let denied = format!("{other} getfattr -n user.leasefs.source key 2>&1 || true");
    assert!(run_in(&mount.root(), &denied).contains("Permission denied"));
    stop(mount);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_directories_belong_to_whom_the_configuration_says() {
    let bao = bao().await;
    bao.write_kv2("secret", "owners", json!({"key": "abc", "b": "c"})).await;
    let mount = mount(
        bao.address(),
        "[defaults]\nowner = 1234\ngroup = 2345\nmode = \"0440\"\ndir-mode = \"0511\"\n\
         [file.\"d/key\"]\nsecret = \"secret/owners#key\"\n\
         [file.\"d/own\"]\nsecret = \"secret/owners#key\"\nowner = \"nobody\"\ngroup = 7\nmode = \"0604\"\n\
         [dir.fields]\nsecret = \"secret/owners\"\n\
         [tree.kv]\nsecret = \"secret/\"\ngroup = 99\n",
    );
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap().uid.as_raw();
    for (name, mode, uid, gid) in [
        ("", 0o040_511, 1234, 2345),
        ("d", 0o040_511, 1234, 2345),
        ("d/key", 0o100_440, 1234, 2345),
        ("d/own", 0o100_604, nobody, 7),
        ("fields", 0o040_511, 1234, 2345),
        ("fields/b", 0o100_440, 1234, 2345),
        ("kv", 0o040_511, 1234, 99),
        ("kv/owners", 0o040_511, 1234, 99),
        ("kv/owners/key", 0o100_440, 1234, 99),
    ] {
        let found = fs::metadata(mount.path(name)).unwrap();
        assert_eq!((found.permissions().mode(), found.uid(), found.gid()), (mode, uid, gid), "{name:?}");
    }
    stop(mount);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mount_has_its_own_type_and_lets_nothing_be_run_or_written() {
    let mount = mount(bao().await.address(), "[file.x]\nsecret = \"secret/x#y\"\n");
    let shown = run(Command::new("findmnt")
        .args(["-n", "-t", "fuse.leasefs", "-o", "SOURCE,OPTIONS"])
        .arg(mount.root()));
    let (source, options) = shown.trim().split_once(' ').expect("it is there");
    assert_eq!(source, "leasefs");
    for option in ["ro", "nosuid", "nodev", "noexec", "user_id=0", "default_permissions", "allow_other"] {
        assert!(options.split(',').any(|one| one.trim() == option), "{option} in {options}");
    }
    stop(mount);
}

/// Reads a file in every way that Linux has and prints the ways that did not bring the bytes in `want`.
const READER: &str = "
import errno, mmap, os, shutil, sys, tempfile
path, want = sys.argv[1], sys.stdin.buffer.read()
def opened(read):
    fd = os.open(path, os.O_RDONLY)
    try: return read(fd)
    finally: os.close(fd)
def through_a_file(copy):
    def read(fd):
        with tempfile.TemporaryFile() as out:
            while copy(fd, out.fileno()): pass
            out.seek(0)
            return out.read()
    return read
def spliced(fd):
    ours, theirs = os.pipe()
    data = b''
    while count := os.splice(fd, theirs, 1 << 15): data += os.read(ours, count)
    return data
def copy(fd, out):
    try: return os.copy_file_range(fd, out, 1 << 20)
    except OSError as error:
        # Linux copies within one file system only; programs fall back when it says so.
        if error.errno != errno.EXDEV: raise
        return os.write(out, os.read(fd, 1 << 20))
def all_of(read):
    def again(fd):
        data = b''
        while more := read(fd, len(data)): data += more
        return data
    return again
ways = {
    'sendfile': through_a_file(lambda fd, out: os.sendfile(out, fd, None, 1 << 20)),
    'splice': spliced,
    'copy_file_range': through_a_file(copy),
    'read': all_of(lambda fd, at: os.read(fd, 1 << 20)),
    'small reads': all_of(lambda fd, at: os.read(fd, 7)),
    'pread': all_of(lambda fd, at: os.pread(fd, 4096, at)),
    'read of Python': lambda fd: open(path, 'rb').read(),
    'lines of Python': lambda fd: b''.join(open(path, 'rb')),
    'mmap': lambda fd: mmap.mmap(fd, 0, prot=mmap.PROT_READ)[:],
    'private mmap': lambda fd: mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)[:],
    'shutil': lambda fd: open(shutil.copy(path, tempfile.mkdtemp()), 'rb').read(),
}
for way, read in ways.items():
    for turn in 1, 2:
        got = opened(read)
        if got != want: print(f'{way}, turn {turn}: {len(got)} bytes instead of {len(want)}')
";

#[tokio::test(flavor = "multi_thread")]
async fn all_ways_of_reading_bring_the_same_bytes() {
    postgres("ways").await;
    let bao = bao().await;
    let text: String = (0..60_000).map(|number| char::from(b'a' + (number % 26) as u8)).collect();
    bao.write_kv2("secret", "ways", json!({"key": text})).await;
    let mount = mount(
        bao.address(),
        "[file.key]\nsecret = \"secret/ways#key\"\n[file.db]\nsecret = \"database/creds/ways\"\n\
         [file.unread]\nsecret = \"database/creds/ways#username\"\n",
    );
    let in_every_way = |path: &Path, want: &str| {
        let mut child = Command::new("python3")
            .args(["-c", READER])
            .arg(path)
            .env("TMPDIR", mount.directory())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(want.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let trouble = [output.stdout, output.stderr].concat();
        assert_eq!(String::from_utf8_lossy(&trouble), "", "{}", path.display());
        assert!(output.status.success());
    };
    in_every_way(&mount.path("key"), &text);
    // Busybox copies like this, without a look at the size.
    let unread = "import os, sys; fd = os.open('unread', 0); [os.splice(fd, 1, 99) for _ in '12']";
    let pipe = run_in(&mount.root(), &format!("stat unread; python3 -c \"{unread}\" | cat"));
    assert!(pipe.contains("v-token-ways-"), "{pipe}");
    let credential = mount.read("db").unwrap();
    in_every_way(&mount.path("db"), &credential);
    for command in [
        "cat FILE",
        "cp FILE $COPY && cat $COPY",
        "cp --reflink=never --sparse=never FILE $COPY && cat $COPY",
        "tar -cf - FILE | tar -xOf -",
        "dd if=FILE bs=4k status=none",
        "dd if=FILE bs=1M iflag=direct status=none",
        "head -c 1000000 FILE",
        "tail -c +1 FILE",
        "tac FILE | tac",
        "python3 -c 'import sys; sys.stdout.write(open(\"FILE\").read())'",
        "perl -pe 1 FILE",
        "bash -c 'echo -n \"$(<FILE)\"'",
        "sed -n p FILE",
        "base64 FILE | base64 -d",
        "install -m 600 FILE $COPY && cat $COPY",
    ] {
        for (name, want) in [("key", &text), ("db", &credential)] {
            // Below the mount's own directory, so that no copy outlives the test.
            let copies = format!("export TMPDIR={}; COPY=$(mktemp -u)", mount.directory().display());
            let got = run_in(&mount.root(), &format!("{copies}; {}", command.replace("FILE", name)));
            // The shell's substitution takes the last newline away.
            assert_eq!(got.trim_end(), want.trim_end(), "{command} of {name}");
        }
    }
    stop(mount);
}

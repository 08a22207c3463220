//! `leasefs mount` by an ordinary user, through the real fusermount3, with a real OpenBao: who sees the files, how
//! it ends, and what is said where the system does not let it. Needs root, to become that user, and Debian's fuse3.
//!
//! Each test has a mount namespace of its own with a /dev/fuse, a /etc/passwd and a /etc/fuse.conf to its liking;
//! the host's stay as they are.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may panic and read the clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::bao::Bao;
use support::mount::eventually;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(20);

/// The ordinary user, and another one.
const USER: u32 = 12_345;
const OTHER: u32 = 12_346;

const CONFIG: &str = "[file.key]\nsecret = \"secret/user#key\"\n";

/// The length of a secret that fits no state of 64 KiB.
const BIG: usize = 200_000;

/// One OpenBao for all tests of this process; ends with its guard.
fn bao() -> &'static Bao {
    static BAO: LazyLock<(Runtime, Bao)> = LazyLock::new(|| {
        let runtime = Runtime::new().unwrap();
        let bao = runtime.block_on(async {
            let bao = Bao::start().await;
            bao.write_kv2("secret", "user", json!({"key": "v1", "big": "x".repeat(BIG)})).await;
            bao
        });
        (runtime, bao)
    });
    &BAO.1
}

/// A mount namespace, and a directory in which the user has a home, a runtime directory and a mount point.
struct Land {
    directory: TempDir,
    mount_point: String,
    /// Holds the namespace until it is dropped.
    holder: Child,
}

impl Land {
    /// As distributions have it: everybody may open /dev/fuse, the users have names.
    fn new() -> Land {
        Land::with("")
    }

    /// Root runs this line of shell in the namespace at last; `$0` is the directory.
    fn with(line: &str) -> Land {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_leasefs"), directory.path().join("leasefs")).unwrap();
        for name in ["home", "runtime", "mnt"] {
            let path = directory.path().join(name);
            fs::create_dir(&path).unwrap();
            chown(&path, Some(USER), Some(USER)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let line_of = |uid: u32| format!("leasefs-{uid}:x:{uid}:{uid}::/nonexistent:/bin/sh\n");
        fs::write(directory.path().join("passwd"), passwd + &line_of(USER) + &line_of(OTHER)).unwrap();
        let prepare = "cd \"$0\"; mknod -m 666 fuse c 10 229; mount --bind fuse /dev/fuse; \
                       mount --bind passwd /etc/passwd; echo '# nothing' >fuse.conf; \
                       mount --bind fuse.conf /etc/fuse.conf";
        let mut holder = Command::new("unshare")
            .args(["--mount", "sh", "-euc", &format!("{prepare}\n{line}\necho ready; exec cat >/dev/null")])
            .arg(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let mount_point = directory.path().join("mnt").to_str().unwrap().to_owned();
        let land = Land { directory, mount_point, holder };
        assert_eq!(ready, "ready\n", "the namespace can't be made (are you root? is fuse3 installed?)");
        land.write("config.toml", CONFIG);
        land
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file of the user's.
    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        chown(&path, Some(USER), Some(USER)).unwrap();
    }

    /// A program in the namespace, as root, with nothing of the test's environment.
    fn root(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id())).arg("--").arg(program);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir("/");
        command.stdin(Stdio::null());
        command
    }

    /// The same as somebody else, with more options of setpriv(1).
    fn become_with(&self, uid: u32, options: &[&str], program: &str) -> Command {
        let mut command = self.root("setpriv");
        command.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups"]);
        command.args(options).arg("--").arg(program);
        if uid == USER {
            command.env("HOME", self.path("home")).env("XDG_RUNTIME_DIR", self.path("runtime"));
        }
        command
    }

    fn user(&self, program: &str) -> Command {
        self.become_with(USER, &[], program)
    }

    /// `leasefs` as the user.
    fn leasefs(&self, arguments: &[&str]) -> Command {
        let mut command = self.user(self.path("leasefs").to_str().unwrap());
        command.args(arguments);
        command
    }

    /// `leasefs mount` as the user.
    fn mount(&self, options: &[&str]) -> Command {
        self.mount_with(&[], options)
    }

    fn mount_with(&self, setpriv: &[&str], options: &[&str]) -> Command {
        let mut command = self.become_with(USER, setpriv, self.path("leasefs").to_str().unwrap());
        command.arg("mount").args(options).arg(self.path("config.toml")).arg(self.path("mnt"));
        self.with_vault(&mut command);
        command
    }

    fn with_vault(&self, command: &mut Command) {
        command.env("VAULT_ADDR", bao().address()).env("VAULT_TOKEN", bao().root_token());
        command.env("LEASEFS_LOG", "leasefs=debug").env("NO_COLOR", "1");
    }

    /// Starts a daemon and waits until the mount answers.
    fn start(&self, command: &mut Command) -> Daemon<'_> {
        let log = fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let serves = eventually(PATIENCE, || {
            child.try_wait().unwrap().is_some()
                || self.entry().is_some()
                    && self.leasefs(&["status", self.mnt()]).output().unwrap().status.success()
        });
        assert!(serves.is_some() && child.try_wait().unwrap().is_none(), "{}", self.log());
        Daemon { land: self, child }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn mnt(&self) -> &str {
        &self.mount_point
    }

    /// The line of the mount in the namespace's list.
    fn entry(&self) -> Option<String> {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", self.holder.id())).unwrap();
        let at = format!(" {} ", self.mnt());
        table.lines().rfind(|line| line.contains(&at)).map(str::to_owned)
    }

    fn read_as(&self, uid: u32) -> (bool, String) {
        output(self.become_with(uid, &[], "cat").arg(self.path("mnt/key")))
    }

    #[track_caller]
    fn is_read(&self) {
        assert_eq!(self.read_as(USER), (true, "v1".to_owned()), "{}", self.log());
    }

    /// What `leasefs mount` says that must fail with a code and leave nothing behind.
    #[track_caller]
    fn fails(&self, command: &mut Command, code: i32) -> String {
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(code), "{told}");
        assert_eq!(self.entry(), None, "{told}");
        let last = told.lines().last().unwrap_or_default().to_owned();
        assert!(last.starts_with("leasefs: "), "{told}");
        last
    }
}

impl Drop for Land {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        self.holder.wait().unwrap();
    }
}

/// Whether it went well, and all that it printed.
fn output(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// A `leasefs mount` that serves. Dropped, it is ended.
struct Daemon<'a> {
    land: &'a Land,
    child: Child,
}

impl Daemon<'_> {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    fn server(&self) -> Option<u32> {
        let keeper = self.child.id();
        let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// Its exit code.
    fn wait(&mut self) -> Option<i32> {
        let mut code = None;
        eventually(PATIENCE, || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        })
        .unwrap_or_else(|| panic!("it does not end:\n{}", self.land.log()));
        code.unwrap().code()
    }

    #[track_caller]
    fn ended_well(mut self) {
        assert_eq!(self.wait(), Some(0), "{}", self.land.log());
        assert_eq!(self.land.entry(), None, "{}", self.land.log());
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // The namespace takes the mount along.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[test]
fn a_mount_of_an_ordinary_user_is_for_that_user_alone() {
    let land = Land::new();
    let daemon = land.start(&mut land.mount(&[]));
    let entry = land.entry().unwrap();
    assert!(entry.contains(" - fuse.leasefs leasefs ro,"), "{entry}");
    assert!(entry.contains(" ro,nosuid,nodev,noexec"), "{entry}");
    assert!(entry.contains(&format!("user_id={USER},group_id={USER},default_permissions")), "{entry}");
    assert!(!entry.contains("allow_other"), "{entry}");
    land.is_read();
    let (listed, names) = output(land.user("ls").arg(land.path("mnt")));
    assert_eq!((listed, names.as_str()), (true, "key\n"));
    for uid in [OTHER, 0] {
        let (read, told) = land.read_as(uid);
        assert!(!read && told.contains("Permission denied"), "{uid}: {told}");
    }
    let (written, told) = output(land.user("touch").arg(land.path("mnt/new")));
    assert!(!written && told.contains("Read-only file system"), "{told}");
    daemon.signal(Signal::SIGTERM);
    daemon.ended_well();
}

#[test]
fn it_ends_by_unmount_by_fusermount3_by_umount_and_by_signals() {
    let land = Land::new();
    let unmounts: [(&str, Command); 4] = [
        ("leasefs unmount", land.leasefs(&["unmount", land.mnt()])),
        ("fusermount3 -u", arguments(land.user("fusermount3"), &["-u", land.mnt()])),
        ("fusermount3 -uz", arguments(land.user("fusermount3"), &["-uz", land.mnt()])),
        ("umount by root", arguments(land.root("umount"), &[land.mnt()])),
    ];
    for (how, mut unmount) in unmounts {
        let daemon = land.start(&mut land.mount(&[]));
        land.is_read();
        let (done, told) = output(&mut unmount);
        assert!(done, "{how}: {told}");
        daemon.ended_well();
    }
    let daemon = land.start(&mut land.mount(&[]));
    daemon.signal(Signal::SIGINT);
    daemon.ended_well();
}

fn arguments(mut command: Command, arguments: &[&str]) -> Command {
    command.args(arguments);
    command
}

#[test]
fn a_busy_mount_is_detached_and_its_users_are_cut_off() {
    let land = Land::new();
    let daemon = land.start(&mut land.mount(&[]));
    let held = "exec 3<\"$0\"; echo open; read line; cat <&3 2>&1; cat \"$0\" 2>&1; true";
    let mut holder = land.user("sh");
    holder.args(["-c", held]).arg(land.path("mnt/key")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = holder.spawn().unwrap();
    let mut out = BufReader::new(holder.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "open\n");
    let begun = Instant::now();
    daemon.signal(Signal::SIGTERM);
    daemon.ended_well();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    drop(holder.stdin.take());
    let told: Vec<String> = out.lines().map(Result::unwrap).collect();
    assert!(told[0].contains("not connected") || told[0].contains("Stale"), "{told:?}");
    assert!(told.iter().any(|line| line.contains("mnt/key: No such file")), "{told:?}");
    holder.wait().unwrap();
}

#[test]
fn a_server_that_is_killed_has_a_successor() {
    let land = Land::new();
    let daemon = land.start(&mut land.mount(&[]));
    land.is_read();
    for _ in 0..3 {
        let server = daemon.server().unwrap();
        kill(Pid::from_raw(server.cast_signed()), Signal::SIGKILL).unwrap();
        land.is_read();
        assert_ne!(daemon.server(), Some(server));
    }
    daemon.signal(Signal::SIGTERM);
    daemon.ended_well();
}

#[test]
fn a_dead_mount_is_replaced_or_taken_away_by_its_user() {
    let land = Land::new();
    let mut first = land.start(&mut land.mount(&[]));
    let die = |daemon: &mut Daemon<'_>| {
        let server = daemon.server().unwrap();
        daemon.signal(Signal::SIGKILL);
        daemon.wait();
        let gone = || !Path::new(&format!("/proc/{server}")).exists();
        eventually(PATIENCE, gone).expect("a server ends with its keeper");
        assert!(land.entry().is_some());
        let (read, told) = land.read_as(USER);
        assert!(!read && told.contains("not connected"), "{told}");
    };
    die(&mut first);
    let mut second = land.start(&mut land.mount(&[]));
    land.is_read();
    assert!(land.log().contains("a leasefs without its daemon was taken away"), "{}", land.log());
    die(&mut second);
    // Not by somebody else.
    let program = land.path("leasefs");
    let mut others = land.become_with(OTHER, &[], program.to_str().unwrap());
    let (done, told) = output(others.args(["unmount", land.mnt()]));
    assert!(!done && told.contains(&format!("user {USER} has mounted it")), "{told}");
    assert!(land.entry().is_some());
    let (done, told) = output(&mut land.leasefs(&["unmount", land.mnt()]));
    assert!(done && told.contains("it was detached"), "{told}");
    assert_eq!(land.entry(), None);
}

#[test]
fn others_are_let_in_where_root_has_allowed_it() {
    let land = Land::with("echo user_allow_other >fuse.conf");
    land.write("config.toml", &format!("{CONFIG}mode = \"0444\"\n[defaults]\ndir-mode = \"0555\"\n"));
    let daemon = land.start(&mut land.mount(&["-o", "allow_other"]));
    assert!(land.entry().unwrap().contains("allow_other"));
    // The mount point is one of all files on the way: nobody else gets through a directory with mode 0700.
    for uid in [USER, OTHER, 0] {
        assert_eq!(land.read_as(uid), (true, "v1".to_owned()), "{uid}");
    }
    daemon.signal(Signal::SIGTERM);
    daemon.ended_well();
}

#[test]
fn where_root_has_not_allowed_others_it_says_which_line_goes_where() {
    let land = Land::new();
    let told = land.fails(&mut land.mount(&["-o", "allow_other"]), 77);
    assert!(told.contains("add the line \"user_allow_other\" to /etc/fuse.conf"), "{told}");
    land.write("config.toml", &format!("{CONFIG}[mount]\nallow-other = true\n"));
    assert_eq!(land.fails(&mut land.mount(&[]), 77), told);
    let daemon = land.start(&mut land.mount(&["-o", "noallow_other"]));
    land.is_read();
    daemon.signal(Signal::SIGTERM);
    daemon.ended_well();
}

#[test]
fn each_thing_that_keeps_a_user_from_mounting_is_named() {
    let setups: [(&str, i32, &str, &str); 11] = [
        (
            "chmod 600 fuse",
            77,
            "/dev/fuse is not for this user (mode 0600, user 0, group 0)",
            "chmod 666 /dev/fuse",
        ),
        (
            "mkdir dev; mount -t tmpfs none dev; mknod -m 666 dev/null c 1 3; mount --bind dev /dev",
            73,
            "there is no /dev/fuse",
            "modprobe fuse",
        ),
        (
            "cp /usr/bin/fusermount3 plain; chmod 755 plain; mount --bind plain /usr/bin/fusermount3",
            77,
            "/fusermount3 is not set-uid root (mode 0755, user 0, group 0)",
            "chmod 4755",
        ),
        (
            "mount --bind /usr/bin/fusermount3 /usr/bin/fusermount3; \
             mount -o remount,bind,nosuid /usr/bin/fusermount3",
            77,
            "/usr/bin/fusermount3 is mounted nosuid",
            "remount,suid",
        ),
        (
            "cp /usr/bin/fusermount3 group; chmod 4750 group; mount --bind group /usr/bin/fusermount3",
            77,
            "may not execute /usr/bin/fusermount3 (mode 4750",
            "leasefs run",
        ),
        ("chown 0:0 mnt; chmod 755 mnt", 77, "this user may not write to ", "in your home"),
        ("chown 0:0 mnt; chmod 1777 mnt", 77, "belongs to user 0, and has the sticky bit", "in your home"),
        ("echo 'mount_max = 0' >fuse.conf", 73, "there are 0 FUSE mounts or more", "mount_max = NUMBER"),
        ("umount /etc/passwd", 73, "user 12345 has no name", "useradd --uid 12345"),
        (
            "mount -t hugetlbfs none mnt; mkdir mnt/in; chown 12345 mnt/in",
            73,
            "on a file system of type hugetlbfs",
            "choose a directory on another one",
        ),
        (
            "echo '#!/bin/sh\necho a riddle >&2; exit 1' >x; chmod 755 x; mount --bind x /usr/bin/fusermount3",
            73,
            "says: a riddle",
            "leasefs run",
        ),
    ];
    for (setup, code, cause, remedy) in setups {
        let land = Land::with(setup);
        let mut command = land.mount(&[]);
        if setup.contains("hugetlbfs") {
            command = land.leasefs(&["mount"]);
            command.arg(land.path("config.toml")).arg(land.path("mnt/in"));
            land.with_vault(&mut command);
            let (_, told) = output(&mut command);
            assert!(told.contains(cause) && told.contains(remedy), "{setup}: {told}");
            continue;
        }
        let told = land.fails(&mut command, code);
        assert!(told.contains(cause), "{setup}: {told}");
        assert!(told.contains(remedy), "{setup}: {told}");
    }
}

#[test]
fn what_is_taken_from_the_process_itself_is_named() {
    let land = Land::new();
    let told = land.fails(&mut land.mount_with(&["--no-new-privs"], &[]), 77);
    assert!(told.contains("no_new_privs is set for this process") && told.contains("leasefs run"), "{told}");
    let told = land.fails(&mut land.mount_with(&["--bounding-set=-sys_admin"], &[]), 77);
    assert!(told.contains("--cap-add SYS_ADMIN --device /dev/fuse"), "{told}");
    let mut command = land.user("env");
    command.arg("PATH=/nonexistent:.").arg(land.path("leasefs")).arg("mount");
    command.arg(land.path("config.toml")).arg(land.path("mnt"));
    let told = land.fails(&mut command, 73);
    assert!(told.contains("none in PATH (/nonexistent:.): install the package fuse3"), "{told}");
}

#[test]
fn a_fusermount3_that_hangs_is_killed_and_gets_nothing_of_the_environment() {
    let land = Land::with(
        "echo '#!/bin/sh\ntr \"\\\\0\" \"\\\\n\" </proc/$$/environ >'$0'/home/environ; sleep 1000' >x; \
         chmod 755 x; mount --bind x /usr/bin/fusermount3",
    );
    let begun = Instant::now();
    let told = land.fails(&mut land.mount(&[]), 73);
    assert!(told.contains("did not end within 10 seconds and was killed"), "{told}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let environment = fs::read_to_string(land.path("home/environ")).unwrap();
    let mut names: Vec<&str> = environment.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.sort_unstable();
    assert_eq!(names, ["LC_ALL", "PATH", "_FUSE_COMMFD"]);
}

#[test]
fn a_mount_whose_server_can_not_start_is_taken_away() {
    let land = Land::new();
    // Made by somebody else: the server refuses to put its socket there.
    fs::create_dir(land.path("runtime/leasefs-control")).unwrap();
    let told = land.fails(&mut land.mount(&[]), 73);
    assert!(told.contains("belongs to another user"), "{told}");
}

#[test]
fn without_a_session_it_says_where_the_control_socket_could_be() {
    let land = Land::with("mount -t tmpfs none /run; mkdir -p /run/user");
    let told = land.fails(land.mount(&[]).env_remove("XDG_RUNTIME_DIR"), 73);
    assert!(told.contains("XDG_RUNTIME_DIR is not set, and there is no /run/user/12345"), "{told}");
    assert!(told.contains("loginctl enable-linger"), "{told}");
    // As after su: it is that of the user before.
    fs::create_dir(land.path("roots")).unwrap();
    let told = land.fails(land.mount(&[]).env("XDG_RUNTIME_DIR", land.path("roots")), 73);
    assert!(told.contains("/roots, which is not a directory of this user's"), "{told}");
    // With a session elsewhere there is one, whether or not the variable says so.
    let make = "mkdir -m 700 /run/user/12345; chown 12345:12345 /run/user/12345";
    assert!(output(land.root("sh").args(["-euc", make])).0);
    let mut without = land.mount(&[]);
    let log = fs::File::create(land.path("log")).unwrap();
    let mut child = without.env_remove("XDG_RUNTIME_DIR").stderr(log).spawn().unwrap();
    let program = land.path("leasefs");
    for uid in [USER, 0] {
        let mut status = land.become_with(uid, &[], program.to_str().unwrap());
        status.args(["status", land.mnt()]).env_remove("XDG_RUNTIME_DIR");
        eventually(PATIENCE, || output(&mut status).0).unwrap_or_else(|| panic!("{uid}: {}", land.log()));
    }
    let mut unmount = land.root(program.to_str().unwrap());
    let (done, told) = output(unmount.args(["unmount", land.mnt()]));
    assert!(done, "{told}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(land.entry(), None);
}

#[test]
fn a_user_may_mount_what_a_line_of_fstab_says() {
    let land = Land::with(
        "mkdir sbin; mount --bind /usr/sbin sbin; mkdir upper work; mount -t tmpfs none work; \
         mkdir work/u work/w; mount -t overlay -o lowerdir=/usr/sbin,upperdir=work/u,workdir=work/w none /usr/sbin; \
         ln -s \"$0/leasefs\" /usr/sbin/mount.leasefs; \
         echo \"$0/config.toml $0/mnt leasefs noauto,user 0 0\" >fstab; mount --bind fstab /etc/fstab",
    );
    let mut command = land.user("mount");
    land.with_vault(&mut command);
    let (mounted, told) = output(command.arg(land.mnt()));
    assert!(mounted, "{told}");
    let entry = land.entry().unwrap();
    assert!(entry.contains(&format!("user_id={USER}")), "{entry}");
    land.is_read();
    let (ended, told) = output(&mut land.leasefs(&["unmount", land.mnt()]));
    assert!(ended, "{told}");
    assert_eq!(land.entry(), None);
}

#[test]
fn what_a_user_has_locked_stays_locked() {
    let land = Land::new();
    let daemon = land.start(&mut land.mount(&[]));
    let (done, told) = output(&mut land.leasefs(&["lock", land.mnt(), "key", "--reason", "leak"]));
    assert!(done, "{told}");
    daemon.signal(Signal::SIGTERM);
    daemon.ended_well();
    assert!(land.path("home/.local/state/leasefs").is_dir());
    let daemon = land.start(&mut land.mount(&[]));
    let (read, told) = land.read_as(USER);
    assert!(!read && told.contains("Permission denied"), "{told}");
    let (done, told) = output(&mut land.leasefs(&["unlock", land.mnt(), "key"]));
    assert!(done, "{told}");
    land.is_read();
    daemon.signal(Signal::SIGTERM);
    daemon.ended_well();
}

#[test]
fn with_little_memory_to_lock_it_serves_and_says_what_is_lost() {
    let land = Land::new();
    land.write("config.toml", &format!("{CONFIG}[file.big]\nsecret = \"secret/user#big\"\n"));
    let losses = || {
        let (done, status) = output(&mut land.leasefs(&["status", land.mnt(), "--json"]));
        assert!(done, "{status}");
        let status: Value = serde_json::from_str(&status).unwrap();
        status["losses"].as_array().unwrap().iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
    };
    // With 64 KiB there would be a state, but not one that the big secret fits into.
    for (kibibytes, keeps_state) in [(8192, true), (64, false), (0, false)] {
        let limit = format!("--memlock={0}:{0}", kibibytes * 1024);
        let mut command = land.become_with(USER, &[], "prlimit");
        command.args([&limit, "--"]).arg(land.path("leasefs")).arg("mount");
        command.arg(land.path("config.toml")).arg(land.path("mnt"));
        land.with_vault(&mut command);
        let daemon = land.start(&mut command);
        land.is_read();
        for _ in 0..2 {
            let (read, text) = output(land.user("cat").arg(land.path("mnt/big")));
            assert!(read && text.len() == BIG, "{kibibytes} KiB: {text:.200}");
            land.is_read();
            let losses = losses();
            assert!(losses.contains("only the pages of secrets are locked in memory"), "{losses}");
            assert_eq!(losses.contains("no state can be kept"), !keeps_state, "{kibibytes} KiB: {losses}");
            assert_eq!(losses.contains("refused to lock"), kibibytes < 8192, "{kibibytes} KiB: {losses}");
            kill(Pid::from_raw(daemon.server().unwrap().cast_signed()), Signal::SIGKILL).unwrap();
            land.is_read();
        }
        daemon.signal(Signal::SIGTERM);
        daemon.ended_well();
    }
}

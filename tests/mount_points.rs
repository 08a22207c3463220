//! Where leasefs mounts and where it refuses to, each time in a mount namespace of its own, so that nothing of this
//! machine changes. No Vault is there: a mount needs none to be made.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may panic, and reads the clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use leasefs::fuse::mountinfo;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use support::mount::{eventually, leasefs};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a command that is to be refused may take, a probe of one second included.
const AT_ONCE: Duration = Duration::from_secs(4);

const CONFIG: &str = "[vault]\naddress = \"http://127.0.0.1:1\"\n[identity.default]\nmethod = \"token\"\n\
                      token-file = \"/nowhere\"\n[file.a]\nsecret = \"secret/a\"\nengine = \"kv2\"\n";

/// A mount namespace in which nothing is shared, and a directory for it.
struct Space {
    holder: Child,
    directory: TempDir,
    daemons: Vec<Child>,
}

impl Space {
    fn new() -> Space {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("agent.toml"), CONFIG).unwrap();
        symlink(env!("CARGO_BIN_EXE_leasefs"), directory.path().join("mount.leasefs")).unwrap();
        let holder = hold(Command::new("unshare").args(["--mount", "--propagation", "private"]));
        let space = Space { holder, directory, daemons: Vec::new() };
        // The control sockets of this machine's own mounts are not ours to meet.
        space.run("mount -t tmpfs none /run");
        space
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A program in there, in the directory.
    fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--mount").arg("--target").arg(self.holder.id().to_string());
        command.args(["sh", "-euc", "cd \"$0\"; exec \"$@\""]).arg(self.directory.path());
        command.stdin(Stdio::null());
        command
    }

    /// A line of shell in there.
    fn shell(&self, line: &str) -> Output {
        self.enter().args(["sh", "-euc", line]).output().expect("this test needs nsenter: run `make deps`")
    }

    /// A line of shell that must succeed.
    fn run(&self, line: &str) -> String {
        let output = self.shell(line);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// `leasefs mount` with these arguments, in there; `before` stands before the binary.
    fn leasefs(&self, before: &[&str], arguments: &[&str]) -> Command {
        let mut command = self.enter();
        for (name, _) in leasefs().get_envs().filter(|(_, value)| value.is_none()) {
            command.env_remove(name);
        }
        command.args(before).arg(env!("CARGO_BIN_EXE_leasefs")).arg("mount").args(arguments);
        command.env("STATE_DIRECTORY", self.path("state"));
        command
    }

    /// Mounts and waits until it is; which of the daemons it is.
    fn mount(&mut self, arguments: &[&str], at: &str) -> usize {
        let log = File::create(self.path("log")).unwrap();
        let daemon = self.leasefs(&[], arguments).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.daemons.push(daemon);
        let mounted =
            eventually(PATIENCE, || self.kinds(at).last().is_some_and(|kind| kind == "fuse.leasefs"));
        assert!(mounted.is_some(), "{}", fs::read_to_string(self.path("log")).unwrap());
        self.daemons.len() - 1
    }

    /// Tries to mount: exit code and message.
    fn refused(&self, before: &[&str], arguments: &[&str]) -> (i32, String) {
        let start = Instant::now();
        let output = self.leasefs(before, arguments).output().unwrap();
        assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn signal(&self, daemon: usize, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.daemons[daemon].id()).unwrap()), signal).unwrap();
    }

    fn stop(&mut self, daemon: usize) {
        self.signal(daemon, Signal::SIGTERM);
        assert!(self.daemons[daemon].wait().unwrap().success());
    }

    /// What is mounted at a path, the topmost last; touches nothing of it.
    fn kinds(&self, at: &str) -> Vec<String> {
        let at = self.path(at);
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", self.holder.id())).unwrap();
        kinds_in(&table, &at)
    }

    /// Whether the mount at a path is shared.
    fn is_shared(&self, at: &str) -> bool {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", self.holder.id())).unwrap();
        let at = self.path(at);
        let line = table.lines().rfind(|line| line.split(' ').nth(4).map(Path::new) == Some(&at));
        line.is_some_and(|line| line.contains(" shared:"))
    }
}

/// A process that holds a namespace and does nothing.
fn hold(unshare: &mut Command) -> Child {
    let before = fs::read_link("/proc/self/ns/mnt").unwrap();
    let holder = unshare.args(["sleep", "1000"]).spawn().expect("this test needs unshare: run `make deps`");
    let namespace = format!("/proc/{}/ns/mnt", holder.id());
    // It is a sleep only after it has unshared and changed what is shared.
    let is_there = || {
        fs::read_link(&namespace).is_ok_and(|link| link != before)
            && fs::read_to_string(format!("/proc/{}/comm", holder.id())).is_ok_and(|name| name == "sleep\n")
    };
    eventually(PATIENCE, is_there).expect("a namespace");
    holder
}

fn kinds_in(table: &str, at: &Path) -> Vec<String> {
    let lines = table.lines().filter(|line| line.split(' ').nth(4).map(Path::new) == Some(at));
    lines.filter_map(|line| Some(line.split(" - ").nth(1)?.split(' ').next()?.to_owned())).collect()
}

impl Drop for Space {
    fn drop(&mut self) {
        // A daemon in the background has nobody else to end it.
        self.shell("umount --all --lazy --types fuse.leasefs");
        for daemon in self.daemons.iter_mut().chain([&mut self.holder]) {
            drop(daemon.kill());
            drop(daemon.wait());
        }
    }
}

#[test]
fn whoever_has_bound_a_shared_parent_sees_what_is_mounted_there_later() {
    let mut space = Space::new();
    space.run("mkdir -p tenant/one tenant/two");
    let one = space.mount(&["--shared", "agent.toml", "tenant/one"], "tenant/one");
    assert_eq!(space.kinds("tenant").len(), 1, "bound onto itself");
    assert!(space.is_shared("tenant"));
    // As a container does: mounts reach it and none get out of it.
    let holder = space.holder.id().to_string();
    let mut container = hold(Command::new("nsenter").args([
        "--mount",
        "--target",
        &holder,
        "unshare",
        "--mount",
        "--propagation",
        "slave",
    ]));
    let two = space.mount(&["--shared", "agent.toml", "tenant/two"], "tenant/two");
    let seen = || {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", container.id())).unwrap();
        kinds_in(&table, &space.path("tenant/two"))
    };
    assert_eq!(seen(), ["fuse.leasefs"]);
    space.stop(two);
    let seen = fs::read_to_string(format!("/proc/{}/mountinfo", container.id())).unwrap();
    assert!(kinds_in(&seen, &space.path("tenant/two")).is_empty(), "its end reaches it, too");
    container.kill().unwrap();
    container.wait().unwrap();
    assert_eq!(space.kinds("tenant").len(), 1, "the first one has made it and needs it");
    space.stop(one);
    assert!(space.kinds("tenant").is_empty(), "undone");
}

#[test]
fn a_parent_that_is_a_mount_already_is_shared_as_long_as_it_takes() {
    let mut space = Space::new();
    space.run("mkdir own && mount -t tmpfs none own && mkdir own/mnt");
    assert!(!space.is_shared("own"));
    let daemon = space.mount(&["-o", "rw,shared_parent", "agent.toml", "own/mnt"], "own/mnt");
    assert!(space.is_shared("own"));
    space.stop(daemon);
    assert_eq!(space.kinds("own"), ["tmpfs"]);
    assert!(!space.is_shared("own"));
    space.run("mount --make-shared own");
    let daemon = space.mount(&["--shared", "agent.toml", "own/mnt"], "own/mnt");
    space.stop(daemon);
    assert!(space.is_shared("own"), "it was so before");
}

#[test]
fn mount_8_shares_the_parent_by_an_option_of_its_own_name() {
    let space = Space::new();
    space.run("mkdir -p tenant/mnt");
    space.run("STATE_DIRECTORY=$PWD/state ./mount.leasefs agent.toml tenant/mnt -o rw,shared_parent");
    assert!(space.is_shared("tenant"));
    space.run("umount tenant/mnt");
    eventually(PATIENCE, || space.kinds("tenant").is_empty()).expect("undone");
    let (code, told) = space.refused(&[], &["-o", "shared", "agent.toml", "tenant/mnt"]);
    assert_eq!(code, 64);
    assert!(told.contains("shared_parent"), "{told}");
}

#[test]
fn a_dead_daemon_s_shared_parent_is_used_again() {
    let mut space = Space::new();
    space.run("mkdir -p tenant/mnt");
    let killed = space.mount(&["--shared", "agent.toml", "tenant/mnt"], "tenant/mnt");
    space.signal(killed, Signal::SIGKILL);
    space.daemons[killed].wait().unwrap();
    let next = space.mount(&["--shared", "agent.toml", "tenant/mnt"], "tenant/mnt");
    eventually(PATIENCE, || space.shell("ls tenant/mnt").stdout == b"a\n").expect("it serves");
    assert_eq!((space.kinds("tenant").len(), space.kinds("tenant/mnt").len()), (1, 1), "nothing is stacked");
    space.stop(next);
}

#[test]
fn a_parent_that_can_not_be_shared_is_refused_with_what_to_do() {
    let space = Space::new();
    space.run("mkdir -p tenant/mnt tenant/other && mount -t tmpfs none tenant/other");
    let (code, told) = space.refused(&[], &["--shared", "agent.toml", "tenant/mnt"]);
    assert_eq!(code, 73, "EX_CANTCREAT: {told}");
    assert!(told.contains("tenant/other") && told.contains("a parent directory of its own"), "{told}");

    space.run("umount tenant/other");
    let unprivileged = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"];
    let (code, told) = space.refused(&unprivileged, &["--shared", "agent.toml", "tenant/mnt"]);
    assert_eq!(code, 77, "EX_NOPERM: {told}");
    assert!(told.contains("run as root of the host, or without --shared"), "{told}");

    space.run("mkdir /run/secrets");
    let (code, told) = space.refused(&[], &["--shared", "agent.toml", "/run/secrets"]);
    assert_eq!(code, 73, "EX_CANTCREAT: {told}");
    assert!(told.contains("/run/leasefs-control") && told.contains("/run/agent/secrets"), "{told}");
    for parent in ["tenant", "tenant/mnt"] {
        assert!(space.kinds(parent).is_empty(), "nothing stays behind");
    }
}

#[test]
fn a_place_inside_another_leasefs_is_refused_whether_that_lives_hangs_or_is_dead() {
    let mut space = Space::new();
    space.run("mkdir mnt && ln -s mnt/a/b link");
    let other = space.mount(&["agent.toml", "mnt"], "mnt");
    all_inside_are_refused(&space, "it serves");
    space.signal(other, Signal::SIGSTOP);
    all_inside_are_refused(&space, "it hangs");
    space.signal(other, Signal::SIGKILL);
    space.daemons[other].wait().unwrap();
    all_inside_are_refused(&space, "it is dead");
}

fn all_inside_are_refused(space: &Space, state: &str) {
    let reason = format!("is inside the leasefs on {}: name", space.path("mnt").display());
    for place in ["mnt/a", "mnt/a/b/..", "link", "mnt/../mnt/none"] {
        let (code, told) = space.refused(&[], &["agent.toml", place]);
        assert_eq!(code, 73, "EX_CANTCREAT, {state}, {place}: {told}");
        assert!(told.contains(&reason), "{state}, {place}: {told}");
    }
}

#[test]
fn a_second_one_ends_with_a_reason_although_the_first_one_hangs() {
    let mut space = Space::new();
    space.run("mkdir mnt");
    let first = space.mount(&["agent.toml", "mnt"], "mnt");
    for state in ["it serves", "it hangs"] {
        let (code, told) = space.refused(&[], &["agent.toml", "mnt"]);
        assert_eq!(code, 73, "EX_CANTCREAT, {state}: {told}");
        assert!(told.contains("already: use it, or end it with \"leasefs unmount"), "{state}: {told}");
        space.signal(first, Signal::SIGSTOP);
    }
    space.signal(first, Signal::SIGCONT);
    space.stop(first);
    assert!(space.kinds("mnt").is_empty());
}

#[test]
fn this_machine_s_own_mounts_are_as_before() {
    let before = mountinfo::mounts().unwrap();
    let mut space = Space::new();
    space.run("mkdir -p tenant/mnt");
    let daemon = space.mount(&["--shared", "agent.toml", "tenant/mnt"], "tenant/mnt");
    let here = |mounts: Vec<mountinfo::MountEntry>| {
        mounts.into_iter().filter(|mount| mount.path.starts_with(space.directory.path())).collect::<Vec<_>>()
    };
    assert_eq!(here(mountinfo::mounts().unwrap()), here(before));
    space.stop(daemon);
}

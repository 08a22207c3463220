//! A system apart that a real systemd has booted, with leasefs as `make install` brings it or without it: gone
//! with the test, however it ends. Needs root, systemd and overlayfs.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::mount::eventually;
use super::programs::run;

/// How long a boot may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The system, while it runs.
pub struct Machine {
    guard: Child,
    first: u32,
    directory: TempDir,
}

/// The files that it starts with, besides those of the host's `/usr`.
pub struct Tree {
    directory: TempDir,
}

impl Tree {
    /// Nothing at all.
    pub fn bare() -> Tree {
        Tree { directory: tempfile::tempdir().expect("a temporary directory can be made") }
    }

    /// leasefs, installed, and an `/etc` with nothing in it.
    pub fn new() -> Tree {
        let tree = Tree::bare();
        let target = format!("DESTDIR={}", tree.path("/").display());
        let binary = concat!("BINARY=", env!("CARGO_BIN_EXE_leasefs"));
        run(Command::new("make").args(["install", &target, binary]).current_dir(env!("CARGO_MANIFEST_DIR")));
        fs::create_dir_all(tree.path("/etc/systemd/system")).expect("a directory can be made");
        fs::create_dir_all(tree.path("/etc/leasefs")).expect("a directory can be made");
        tree
    }

    /// Where a file of it is.
    pub fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join("tree").join(path.trim_start_matches('/'))
    }

    /// Puts a file into it.
    pub fn write(&self, path: &str, text: &str) {
        write(&self.path(path), text);
    }

    /// Has a unit started at boot, as `systemctl enable` does.
    pub fn enable(&self, unit: &str, file: &str) {
        let wants = self.path("/etc/systemd/system/multi-user.target.wants");
        fs::create_dir_all(&wants).expect("a directory can be made");
        std::os::unix::fs::symlink(file, wants.join(unit)).expect("a link can be made");
    }

    /// Boots it, and waits until everything that is enabled has started.
    pub fn boot(self) -> Machine {
        let directory = self.directory;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/systemd/boot");
        let log = File::create(directory.path().join("log")).expect("a file can be made");
        let mut guard = Command::new(script);
        guard.arg(directory.path()).stdin(Stdio::piped());
        guard.stdout(log.try_clone().expect("a file can be shared")).stderr(log);
        // In a group of its own, Ctrl-C reaches the test alone, and the guard still cleans up.
        let guard = guard.process_group(0).spawn().expect("bash runs");
        let mut machine = Machine { guard, first: 0, directory };
        let booted = eventually(PATIENCE, || {
            machine.first = machine.number().unwrap_or_default();
            let (_, state) = machine.try_run("systemctl is-system-running");
            machine.first != 0 && ["running", "degraded"].contains(&state.trim())
        });
        assert!(booted.is_some(), "systemd does not come up:\n{}", machine.log());
        machine
    }
}

impl Machine {
    fn number(&self) -> Option<u32> {
        fs::read_to_string(self.directory.path().join("pid")).ok()?.trim().parse().ok()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// A line of shell in there.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first.to_string(), "--mount", "--uts", "--ipc", "--cgroup", "--pid"]);
        command.args(["--", "/bin/sh", "-uc", line]).env_clear();
        command.env("PATH", "/usr/sbin:/usr/bin").env("LC_ALL", "C").env("SYSTEMD_PAGER", "");
        command.stdin(Stdio::null());
        command
    }

    /// Runs a line of shell; its exit code and all that it printed.
    pub fn try_run(&self, line: &str) -> (i32, String) {
        let output = self.command(line).output().expect("this test needs nsenter: run `make deps`");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
    }

    /// Runs a line of shell that must succeed; what it printed.
    pub fn run(&self, line: &str) -> String {
        let (code, text) = self.try_run(line);
        assert_eq!(code, 0, "{line}:\n{text}\n{}", self.journal());
        text
    }

    /// Writes a file in there.
    pub fn write(&self, path: &str, text: &str) {
        write(&Path::new(&format!("/proc/{}/root", self.first)).join(path.trim_start_matches('/')), text);
    }

    /// A property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.run(&format!("systemctl show --value --property={name} {unit}")).trim().to_owned()
    }

    /// The type of what is mounted somewhere; nothing mounted: empty. Touches nothing of it.
    pub fn mounted(&self, at: &str) -> String {
        let table = self.run("cat /proc/self/mountinfo");
        let line = table.lines().rfind(|line| line.split(' ').nth(4) == Some(at));
        let kind = line.and_then(|line| line.split(" - ").nth(1)?.split(' ').next());
        kind.unwrap_or_default().to_owned()
    }

    /// All that was logged.
    pub fn journal(&self) -> String {
        self.try_run("journalctl --no-pager --quiet").1
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        drop(self.guard.wait());
    }
}

fn write(path: &Path, text: &str) {
    let parent = path.parent().expect("a file has a directory");
    fs::create_dir_all(parent).expect("a directory can be made");
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

//! A real mount: the `leasefs` binary on a directory of its own, unmounted with the test.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// How long anything here may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// The binary that is tested.
const BINARY: &str = env!("CARGO_BIN_EXE_leasefs");

/// A running `leasefs mount`.
pub struct Mount {
    child: Child,
    directory: TempDir,
}

impl Mount {
    /// Mounts with the text of a configuration and waits until the tree is there. Nothing of the test's
    /// own environment that speaks of Vault reaches the daemon, only `variables`.
    pub fn start(config: &str, variables: &[(&str, &str)]) -> Mount {
        let mut mount = Mount::launch(config, variables);
        mount.wait_until_mounted();
        mount
    }

    /// The same, started by other programs that do something first: this is how their command begins.
    pub fn start_through(programs: &[&str], config: &str, variables: &[(&str, &str)]) -> Mount {
        let directory = prepare(config);
        let child = spawn_through(programs, Path::new(BINARY), directory.path(), variables);
        let mut mount = Mount { child, directory };
        mount.wait_until_mounted();
        mount
    }

    /// The same, with a copy of the binary; [`Mount::program`] says where that is.
    pub fn start_copy(config: &str, variables: &[(&str, &str)]) -> Mount {
        let directory = prepare(config);
        let copy = directory.path().join("leasefs");
        fs::copy(BINARY, &copy).expect("a file can be copied");
        let child = spawn(&copy, directory.path(), variables);
        let mut mount = Mount { child, directory };
        mount.wait_until_mounted();
        mount
    }

    /// The copy of the binary.
    pub fn program(&self) -> PathBuf {
        self.directory.path().join("leasefs")
    }

    /// Ends it as systemd would, and mounts anew with the same configuration and mount point.
    pub fn restart(&mut self, variables: &[(&str, &str)]) {
        self.signal(Signal::SIGTERM);
        self.wait();
        self.restart_after_end(variables);
    }

    /// Mounts anew, once the daemon has ended, with the same configuration and mount point.
    pub fn restart_after_end(&mut self, variables: &[(&str, &str)]) {
        self.child = spawn(Path::new(BINARY), self.directory.path(), variables);
        self.wait_until_mounted();
    }

    fn wait_until_mounted(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.is_mounted() {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                panic!("leasefs ended early with {status}:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "not mounted in time:\n{}", self.log());
            sleep(Duration::from_millis(5));
        }
    }

    /// Starts `leasefs mount` and does not wait; for configurations that it must refuse.
    pub fn launch(config: &str, variables: &[(&str, &str)]) -> Mount {
        let directory = prepare(config);
        let child = spawn(Path::new(BINARY), directory.path(), variables);
        Mount { child, directory }
    }

    /// The mount point.
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    /// The path of a file in the mount.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// The directory that holds the configuration, the log and the mount point.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Reads a whole file of the mount.
    pub fn read(&self, name: &str) -> std::io::Result<String> {
        fs::read_to_string(self.path(name))
    }

    /// The errno that opening and reading a file of the mount gives.
    pub fn errno(&self, name: &str) -> i32 {
        match fs::read(self.path(name)) {
            Ok(content) => panic!("{name} could be read: {} bytes\n{}", content.len(), self.log()),
            Err(error) => error.raw_os_error().expect("an errno"),
        }
    }

    /// What the daemon has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// The process that keeps the mount.
    pub fn keeper(&self) -> u32 {
        self.child.id()
    }

    /// The process that serves it now.
    pub fn pid(&self) -> u32 {
        self.server().unwrap_or_else(|| panic!("nobody serves:\n{}", self.log()))
    }

    /// The process that serves it now, if there is one.
    pub fn server(&self) -> Option<u32> {
        let keeper = self.keeper();
        let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// Kills the process that serves it now; which one that was.
    pub fn kill_server(&self) -> u32 {
        let pid = self.pid();
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).expect("a server can be killed");
        pid
    }

    /// Waits until another process than this one answers; which one.
    #[track_caller]
    pub fn wait_for_successor(&self, of: u32) -> u32 {
        let mut found = None;
        let came = eventually(PATIENCE, || {
            found =
                self.status().and_then(|status| status["pid"].as_u64()).filter(|pid| *pid != u64::from(of));
            found.is_some()
        });
        assert!(came.is_some(), "no successor:\n{}", self.log());
        found.and_then(|pid| u32::try_from(pid).ok()).expect("a pid")
    }

    /// What `leasefs status --json` says; nothing if nobody answers.
    pub fn status(&self) -> Option<Value> {
        let root = self.root();
        let (ended, text) = self.command(&["status", "--json", root.to_str().expect("a UTF-8 path")]);
        ended.success().then(|| serde_json::from_str(&text).expect("JSON"))
    }

    /// How many handles of each file leasefs thinks are open; without those that nobody has open.
    pub fn readers(&self) -> BTreeMap<String, u64> {
        let status = self.status().expect("a server answers");
        let files = status["files"].as_array().expect("files").iter();
        files
            .filter_map(|file| Some((file["name"].as_str()?.to_owned(), file["readers"].as_u64()?)))
            .filter(|(_, readers)| *readers > 0)
            .collect()
    }

    /// Runs a `leasefs` command and returns its exit status and all that it printed.
    pub fn command(&self, arguments: &[&str]) -> (ExitStatus, String) {
        let output = leasefs().args(arguments).output().expect("leasefs can be started");
        let text = [output.stdout, output.stderr].concat();
        (output.status, String::from_utf8_lossy(&text).into_owned())
    }

    /// Whether the mount is in this namespace's table; touches nothing of it.
    pub fn is_mounted(&self) -> bool {
        let root = self.root();
        let table = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        table.lines().any(|line| line.split(' ').nth(4).is_some_and(|path| Path::new(path) == root))
    }

    /// Sends a signal to the daemon.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("a signal can be sent");
    }

    /// Ends it as systemd would, and returns how it ended and what it logged.
    pub fn stop(mut self) -> (ExitStatus, String) {
        self.signal(Signal::SIGTERM);
        let status = self.wait();
        (status, self.log())
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(Instant::now() < deadline, "leasefs does not end:\n{}", self.log());
            sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the log has a line with `text`.
    pub fn wait_for_log(&self, text: &str) {
        eventually(PATIENCE, || self.log().contains(text))
            .unwrap_or_else(|| panic!("no {text:?} in:\n{}", self.log()));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // A dead daemon's mount is taken away below; a child that is gone can't be killed again.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if self.is_mounted() {
            let _ = nix::mount::umount2(&self.root(), nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// The directory of a mount, with a configuration and a mount point.
fn prepare(config: &str) -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    // Other users of a test must be able to reach the mount.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("a mode can be set");
    fs::create_dir(directory.path().join("mnt")).expect("a directory can be made");
    let path = directory.path().join("config.toml");
    let mut file = File::create(&path).expect("a file can be made");
    file.write_all(config.as_bytes()).expect("a file can be written");
    directory
}

/// Starts a daemon for the configuration and the mount point in this directory. What it locks, and what it
/// logs, stays there as well.
fn spawn(program: &Path, directory: &Path, variables: &[(&str, &str)]) -> Child {
    spawn_through(&[], program, directory, variables)
}

fn spawn_through(programs: &[&str], program: &Path, directory: &Path, variables: &[(&str, &str)]) -> Child {
    let mut log = File::options();
    let log = log.create(true).append(true).open(directory.join("log")).expect("a file can be made");
    let words: Vec<&OsStr> = programs.iter().map(OsStr::new).chain([program.as_os_str()]).collect();
    let mut command = without_vault(Path::new(words[0]));
    command.args(&words[1..]).arg("mount").arg(directory.join("config.toml")).arg(directory.join("mnt"));
    command.env("LEASEFS_LOG", "leasefs=debug").env("NO_COLOR", "1");
    command.env("STATE_DIRECTORY", directory.join("state")).envs(variables.iter().copied());
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file can be cloned")).stderr(log);
    command.spawn().expect("leasefs can be started")
}

/// The binary, in an environment without anything of Vault's.
pub fn leasefs() -> Command {
    without_vault(Path::new(BINARY))
}

fn without_vault(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let speaks_of_vault =
            ["VAULT_", "BAO_", "LEASEFS_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix));
        if speaks_of_vault {
            command.env_remove(name);
        }
    }
    command.env("HOME", "/nonexistent");
    command
}

/// Tries until `condition` holds; nothing if it does not within `patience`.
pub fn eventually(patience: Duration, mut condition: impl FnMut() -> bool) -> Option<()> {
    let deadline = Instant::now() + patience;
    loop {
        if condition() {
            return Some(());
        }
        if Instant::now() >= deadline {
            return None;
        }
        sleep(Duration::from_millis(20));
    }
}

//! A child process that can't outlive the test, however the test ends.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::net::TcpSocket;

/// Runs the server, and stops and starts it as it is told on its standard input. When that ends (the test
/// dropped it, or died), it stops the server and removes the directory. `$1` is the signal, `$2` the
/// directory.
const GUARD: &str = r#"
signal=$1 directory=$2; shift 2
start() { "$@" & server=$!; }
stop() {
  [ -n "$server" ] || return
  kill -s "$signal" "$server" 2>/dev/null
  wait "$server" 2>/dev/null
  server=
}
start "$@"
while read -r order; do
  stop
  [ "$order" = stop ] || start "$@"
done
stop
rm -rf "$directory"
"#;

/// How long a server may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a server is told to stop.
#[derive(Clone, Copy, Debug)]
pub enum StopSignal {
    /// Nothing of it is worth a farewell.
    Kill,
    /// It has children of its own to end.
    Interrupt,
}

/// Who runs it.
#[derive(Clone, Copy, Debug)]
pub struct RunAs {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// A running server and its directory.
pub struct Server {
    guard: Child,
    directory: PathBuf,
}

impl Server {
    /// Starts `command` inside `directory`, which goes with it; what it prints goes to `log` there.
    pub fn start<S: AsRef<OsStr>>(
        command: &[S],
        directory: TempDir,
        signal: StopSignal,
        user: Option<RunAs>,
    ) -> Server {
        let directory = directory.keep();
        let log = File::create(directory.join("log")).expect("the server's log can be made");
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(GUARD).arg("guard");
        shell.arg(match signal {
            StopSignal::Kill => "KILL",
            StopSignal::Interrupt => "INT",
        });
        shell.arg(&directory).args(command).current_dir(&directory);
        shell
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", &directory)
            .env("LC_ALL", "C")
            .env("TZ", "UTC");
        // In a group of its own, Ctrl-C reaches the test alone, and the guard still cleans up.
        shell.stdin(Stdio::piped()).stdout(log.try_clone().expect("a file can be shared")).stderr(log);
        shell.process_group(0);
        if let Some(RunAs { uid, gid }) = user {
            shell.uid(uid).gid(gid);
        }
        Server { guard: shell.spawn().expect("/bin/sh runs"), directory }
    }

    /// Where it runs.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Sends a signal to the server itself, not to its guard; SIGSTOP freezes it.
    pub fn signal(&self, signal: Signal) {
        let server = self.pid().expect("it runs");
        kill(Pid::from_raw(server), signal).expect("a signal can be sent");
    }

    /// Ends the server; its directory stays. Returns once it has ended.
    pub fn stop(&self) {
        self.order("stop", |pid| pid.is_none());
    }

    /// Starts it again after [`Server::stop`], with the same command; does not wait until it serves.
    pub fn start_again(&self) {
        self.order("start", |pid| pid.is_some());
    }

    fn order(&self, order: &str, done: impl Fn(Option<i32>) -> bool) {
        let mut guard = self.guard.stdin.as_ref().expect("a guard listens");
        writeln!(guard, "{order}").expect("a guard can be told");
        let deadline = Instant::now() + PATIENCE;
        while !done(self.pid()) {
            assert!(Instant::now() < deadline, "the server does not {order}; it printed:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn pid(&self) -> Option<i32> {
        let guard = self.guard.id();
        let children = fs::read_to_string(format!("/proc/{guard}/task/{guard}/children")).expect("a guard");
        children.split_whitespace().next().and_then(|pid| pid.parse().ok())
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        drop(self.guard.wait());
        drop(fs::remove_dir_all(&self.directory));
    }
}

/// A port of the loopback that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
    listener.local_addr().expect("a listener has an address").port()
}

/// Keeps a port from everybody but a listener that reuses addresses, as most servers do; bound and never
/// listening itself, so until there is one, connections are refused.
pub struct ReservedPort(#[expect(dead_code, reason = "held for its drop")] TcpSocket);

/// A port of the loopback that is ours for as long as it is held: also while a server is down.
pub fn reserved_port() -> (SocketAddr, ReservedPort) {
    let port = TcpSocket::new_v4().expect("a socket");
    port.set_reuseaddr(true).expect("a socket option");
    port.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("the loopback has a free port");
    (port.local_addr().expect("a bound socket has an address"), ReservedPort(port))
}

/// Asks `ready` every 50 ms, for at most a minute.
pub async fn wait_until(what: &str, server: &Server, mut ready: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !ready().await {
        let log = server.log();
        assert!(start.elapsed() < Duration::from_secs(60), "{what} did not come up; it printed:\n{log}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

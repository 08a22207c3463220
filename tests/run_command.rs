//! `leasefs run` with a real server: who sees the tree, what the command gets and does not get, signals, exit
//! codes, and that nothing is left behind. As root and as an ordinary user. Needs root and /dev/fuse.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may panic and read the clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use support::bao::Bao;
use support::mount::{eventually, leasefs};
use support::terminal::Terminal;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(15);

/// The ordinary user.
const USER: u32 = 12_345;

/// A server with a KV secret, and an engine whose credentials have leases. Shared by the tests of a process.
struct Server {
    runtime: Runtime,
    bao: Bao,
    /// May do what a command's tree wants, and give leases back.
    token: String,
}

impl Server {
    fn start() -> Server {
        let runtime = Runtime::new().unwrap();
        let (bao, token) = runtime.block_on(async {
            let bao = Bao::start().await;
            bao.write_kv2("secret", "app", json!({"key": "v1", "other": "v2"})).await;
            bao.call("POST", "sys/auth/approle", Some(json!({"type": "approle"}))).await;
            let rules = r#"path "secret/*" { capabilities = ["read", "list"] }
                           path "rabbit/creds/*" { capabilities = ["read"] }
                           path "sys/leases/revoke" { capabilities = ["update"] }"#;
            bao.write_policy("app", rules).await;
            let token = bao.create_token(json!({"policies": ["app"]})).await;
            (bao, token)
        });
        Server { runtime, bao, token }
    }

    /// The tokens of an AppRole that live.
    fn accessors(&self, role: &str) -> usize {
        self.runtime.block_on(async {
            let all = self.bao.call("LIST", "auth/token/accessors", None).await;
            let mut count = 0;
            for accessor in all["data"]["keys"].as_array().unwrap() {
                let body = json!({ "accessor": accessor });
                let answer = self.bao.try_call("POST", "auth/token/lookup-accessor", Some(body)).await;
                let (_, token) = answer.unwrap();
                count += usize::from(token["data"]["meta"]["role_name"] == json!(role));
            }
            count
        })
    }

    /// An AppRole of its own: its role id and secret id.
    fn approle(&self, name: &str) -> (String, String) {
        let role = self.runtime.block_on(self.bao.create_approle(name, json!({"token_policies": "app"})));
        (role.role_id, fs::read_to_string(role.secret_id_file).unwrap().trim().to_owned())
    }
}

fn server() -> &'static Server {
    // Ends with its guard, when this process does.
    static SERVER: LazyLock<Server> = LazyLock::new(Server::start);
    &SERVER
}

/// `leasefs run` with these options and a line of shell, as root.
fn run(options: &[&str], line: &str) -> Command {
    let mut command = leasefs();
    command.arg("run").args(options).args(["--", "sh", "-uc", line]);
    with_token(&mut command);
    command
}

fn with_token(command: &mut Command) {
    command.env("VAULT_ADDR", server().bao.address()).env("VAULT_TOKEN", &server().token);
    command.stdin(Stdio::null());
}

/// An ordinary user with a home, a binary that they may execute, and a /dev/fuse that they may open, as
/// distributions have it: in a namespace of mounts of its own, so that the host's stays as it is.
struct User {
    directory: TempDir,
}

impl User {
    fn new() -> User {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_leasefs"), directory.path().join("leasefs")).unwrap();
        for name in ["home", "runtime"] {
            let path = directory.path().join(name);
            fs::create_dir(&path).unwrap();
            chown(&path, Some(USER), Some(USER)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        }
        User { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file of theirs.
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(USER), Some(USER)).unwrap();
        path
    }

    /// Runs `before` as root and then, as the user, `leasefs run` with these options and a line of shell.
    fn run(&self, before: &str, options: &[&str], line: &str) -> Command {
        let device = "mknod -m 666 \"$0/fuse\" c 10 229 && mount --bind \"$0/fuse\" /dev/fuse";
        let user =
            format!("exec setpriv --reuid={USER} --regid={USER} --clear-groups \"$0/leasefs\" run \"$@\"");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-euc", &format!("{device}; {before} {user}")]);
        command.arg(self.directory.path()).args(options).args(["--", "sh", "-uc", line]);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.env("HOME", self.path("home")).env("XDG_RUNTIME_DIR", self.path("runtime"));
        with_token(&mut command);
        command
    }
}

#[track_caller]
fn output(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().expect("leasefs itself was killed"), text(stdout), text(stderr))
}

/// What a command printed that must end with 0 and say nothing on standard error.
#[track_caller]
fn printed(command: &mut Command) -> String {
    let (code, stdout, stderr) = output(command);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    stdout
}

/// A running `leasefs run` whose command has printed its first line.
struct Running {
    child: Child,
    first: String,
    rest: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn start(command: &mut Command) -> Running {
        // In a group of its own: what is sent to it is not meant for the test.
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap();
        let mut rest = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        rest.read_line(&mut first).unwrap();
        Running { child, first: first.trim().to_owned(), rest }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// The process that serves: the child in a session of its own.
    fn server(&self) -> Pid {
        let pid = self.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let mut children = children.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap()));
        children.find(|pid| nix::unistd::getsid(Some(*pid)).is_ok_and(|session| session == *pid)).unwrap()
    }

    /// How it ended, and what it printed after its first line.
    fn end(mut self) -> (std::process::ExitStatus, String, String) {
        eventually(PATIENCE, || self.child.try_wait().unwrap().is_some()).expect("it ends");
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.rest.read_to_string(&mut stdout).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        (self.child.wait().unwrap(), stdout, stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(-self.pid().as_raw()), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

fn is_gone(pid: Pid) -> bool {
    // Whatever is left of it may still wait for its parent.
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

const FILE: [&str; 2] = ["--file", "key=secret/app#key"];

#[test]
fn a_command_has_its_files_its_variables_and_its_own_exit_code() {
    let target = tempfile::NamedTempFile::new().unwrap();
    fs::write(target.path(), "what was there").unwrap();
    let bind = format!("key={}", target.path().display());
    let options =
        [&FILE[..], &["--file", "all=secret/app", "--env", "KEY_FILE=key", "--bind", &bind]].concat();
    let line = format!(
        "cat \"$KEY_FILE\"; echo; cat \"$LEASEFS_DIR/all\"; cat {}; echo; echo $KEY_FILE; exit 3",
        target.path().display()
    );
    let (code, stdout, stderr) = output(&mut run(&options, &line));
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines[..3], ["v1", "{\"key\":\"v1\",\"other\":\"v2\"}", "v1"], "{stderr}");
    assert_eq!((code, stderr.as_str()), (3, ""));
    let tree = Path::new(lines[3]).parent().unwrap();
    assert!(tree.starts_with("/run"), "{}", tree.display());
    assert!(!tree.exists(), "its directory goes with it");
    assert_eq!(fs::read_to_string(target.path()).unwrap(), "what was there");
}

#[test]
fn nobody_else_on_the_host_sees_the_tree() {
    let mut command = run(&FILE, "echo \"$LEASEFS_DIR\"; cat \"$LEASEFS_DIR/key\"; read -r never; true");
    let mut running = Running::start(command.stdin(Stdio::piped()));
    let tree = PathBuf::from(&running.first);
    assert!(tree.is_dir(), "the name is taken");
    assert_eq!(fs::read_dir(&tree).unwrap().count(), 0);
    assert_eq!(fs::metadata(&tree).unwrap().mode() & 0o7777, 0o700);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&running.first), "{mounts}");
    // Root can ask how it stands all the same.
    let status = printed(leasefs().arg("status").arg(&tree));
    assert!(status.contains("key"), "{status}");
    drop(running.child.stdin.take());
    let (status, stdout, stderr) = running.end();
    assert_eq!((status.code(), stdout.as_str(), stderr.as_str()), (Some(0), "v1", ""));
}

#[test]
fn a_directory_of_the_users_is_mounted_on_for_the_command_alone() {
    let directory = tempfile::tempdir().unwrap();
    let at = fs::canonicalize(directory.path()).unwrap();
    let options = [&FILE[..], &["--at", at.to_str().unwrap()]].concat();
    let line = format!("cat {}/key; test \"$LEASEFS_DIR\" = {0}", at.display());
    // Two at the same time, each with its own.
    let both = [(); 2].map(|()| run(&options, &line).stdout(Stdio::piped()).spawn().unwrap());
    for one in both {
        let output = one.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"v1"[..]));
    }
    assert!(at.exists(), "it was not ours to remove");
    let missing = [&FILE[..], &["--at", "/no/such/directory"]].concat();
    let (code, _, stderr) = output(&mut run(&missing, "echo never"));
    assert_eq!(code, 73);
    assert!(stderr.contains("mkdir -p /no/such/directory"), "{stderr}");
}

#[test]
fn commands_that_do_not_run_and_signals_have_the_codes_of_a_shell() {
    for (program, code) in
        [("/no/such/command", 127), ("no-such-command-anywhere", 127), ("/etc/passwd", 126)]
    {
        let mut command = leasefs();
        command.arg("run").args(FILE).args(["--", program]);
        with_token(&mut command);
        let (found, stdout, stderr) = output(&mut command);
        assert_eq!((found, stdout.as_str()), (code, ""), "{stderr}");
        assert!(stderr.starts_with(&format!("leasefs: {program}: ")), "{stderr}");
    }
    for (signal, code) in [("TERM", 143), ("KILL", 137)] {
        let (found, _, stderr) = output(&mut run(&FILE, &format!("kill -{signal} $$")));
        assert_eq!((found, stderr.as_str()), (code, ""));
    }
}

#[test]
fn signals_are_passed_on_and_the_command_decides() {
    let traps =
        ["HUP", "INT", "QUIT", "USR1", "USR2", "WINCH"].map(|name| format!("trap 'echo {name}' {name};"));
    let line =
        format!("{} trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.02; done", traps.concat());
    let mut running = Running::start(&mut run(&FILE, &line));
    assert_eq!(running.first, "up");
    for (signal, told) in [
        (Signal::SIGHUP, "HUP"),
        (Signal::SIGINT, "INT"),
        (Signal::SIGQUIT, "QUIT"),
        (Signal::SIGUSR1, "USR1"),
        (Signal::SIGUSR2, "USR2"),
        (Signal::SIGWINCH, "WINCH"),
    ] {
        running.signal(signal);
        let mut heard = String::new();
        running.rest.read_line(&mut heard).unwrap();
        assert_eq!(heard.trim(), told);
    }
    running.signal(Signal::SIGTERM);
    let (status, stdout, stderr) = running.end();
    assert_eq!((status.code(), stdout.as_str(), stderr.as_str()), (Some(7), "bye\n", ""));
}

#[test]
fn it_ends_with_the_last_process_and_its_leases_and_tokens_end_then() {
    let (role_id, secret_id) = server().approle("lasting");
    let options = FILE;
    // The command is long gone when its orphan reads.
    let line = "(sleep 0.7; cat \"$LEASEFS_DIR/key\"; echo late) & echo \"$!\"; exit 4";
    let mut command = run(&options, line);
    command.env_remove("VAULT_TOKEN").env("VAULT_ROLE_ID", role_id).env("BAO_SECRET_ID", secret_id);
    let running = Running::start(&mut command);
    assert_eq!(server().accessors("lasting"), 1);
    let (status, stdout, stderr) = running.end();
    assert_eq!((status.code(), stdout.as_str(), stderr.as_str()), (Some(4), "v1late\n", ""));
    assert_eq!(server().accessors("lasting"), 0, "the token was revoked before it ended");
}

#[test]
fn what_the_command_leaves_running_is_ended_if_it_is_to_be() {
    let options = [&FILE[..], &["--kill-children"]].concat();
    // The grandchild is nobody's direct child until its parent has gone.
    let line = "(sleep 60 & echo $!; wait) & sleep 0.2; exit 5";
    let running = Running::start(&mut run(&options, line));
    let left = Pid::from_raw(running.first.parse().unwrap());
    let (status, _, stderr) = running.end();
    assert_eq!((status.code(), stderr.as_str()), (Some(5), ""));
    assert!(is_gone(left));
    // Without it, a signal ends what is waited for.
    let running = Running::start(&mut run(&FILE, "sleep 60 & echo $!; exit 6"));
    let left = Pid::from_raw(running.first.parse().unwrap());
    std::thread::sleep(Duration::from_millis(100));
    running.signal(Signal::SIGTERM);
    assert_eq!(running.end().0.code(), Some(6));
    assert!(is_gone(left));
}

#[test]
fn the_command_has_no_credentials_unless_it_is_given_them() {
    let user = User::new();
    let home = user.path("home");
    user.write("home/.vault-token", "the token\n");
    let line = "tr '\\0' '\\n' <\"/proc/$$/environ\" | grep -E '^(VAULT|BAO)_' | cut -d= -f1 | sort; \
                cat \"$HOME/.vault-token\"; ls -l /proc/self/fd | grep -cE 'fuse|socket|anon_inode' || true";
    let with_all = |options: &[&str]| {
        let mut command = run(options, line);
        for name in ["VAULT_ROLE_ID", "VAULT_SECRET_ID", "BAO_TOKEN", "BAO_ROLE_ID"] {
            command.env(name, "x");
        }
        command.env("HOME", &home);
        // The token that counts is in no variable.
        command.env_remove("VAULT_TOKEN").env_remove("VAULT_SECRET_ID").env_remove("VAULT_ROLE_ID");
        command.env_remove("BAO_ROLE_ID").env("VAULT_TOKEN", &server().token);
        command
    };
    assert_eq!(printed(&mut with_all(&FILE)), "VAULT_ADDR\n0\n");
    let kept = printed(&mut with_all(&[&FILE[..], &["--keep-vault-env"]].concat()));
    assert_eq!(kept, "BAO_TOKEN\nVAULT_ADDR\nVAULT_TOKEN\nthe token\n0\n");
    assert_eq!(fs::read_to_string(home.join(".vault-token")).unwrap(), "the token\n");
}

#[test]
fn the_token_file_that_is_hidden_from_the_command_is_still_used() {
    let user = User::new();
    fs::create_dir(user.path("roots")).unwrap();
    // The server of root's command has no capability, and reads what the mode bits let root read.
    fs::write(user.path("roots/.vault-token"), &server().token).unwrap();
    user.write("home/.vault-token", &server().token);
    for (mut command, home) in [(run(&FILE, HIDDEN), "roots"), (user.run("", &FILE, HIDDEN), "home")] {
        command.env_remove("VAULT_TOKEN").env("HOME", user.path(home));
        assert_eq!(printed(&mut command), "v10\n");
    }
}

const HIDDEN: &str = "cat \"$LEASEFS_DIR/key\"; wc -c <\"$HOME/.vault-token\"";

#[test]
fn an_ordinary_user_keeps_their_uid_and_gains_nothing() {
    let user = User::new();
    let bound = user.write("home/bound", "what was there");
    let bind = format!("key={}", bound.display());
    let options = [&FILE[..], &["--bind", &bind]].concat();
    let line = "id -u; id -g; stat -c '%u %a' \"$LEASEFS_DIR/key\"; cat \"$HOME/bound\"; echo; \
                grep CapEff /proc/self/status | cut -f2; umount \"$LEASEFS_DIR\" 2>/dev/null || echo no; \
                cat \"/proc/$PPID/environ\" 2>/dev/null || echo no; echo \"$LEASEFS_DIR\"";
    let stdout = printed(&mut user.run("", &options, line));
    let expected = format!("{USER}\n{USER}\n{USER} 400\nv1\n0000000000000000\nno\nno\n");
    let tree = stdout.strip_prefix(&expected).unwrap_or_else(|| panic!("{stdout}")).trim();
    assert!(Path::new(tree).starts_with(user.path("runtime")), "{tree}");
    assert!(!Path::new(tree).exists());
}

#[test]
fn an_ordinary_user_may_use_a_configuration_of_roots_but_show_no_files_of_others() {
    let user = User::new();
    let config = user.path("agent.toml");
    fs::write(&config, "[file.key]\nsecret = \"secret/app#key\"\nrequired = true\n").unwrap();
    let options = ["--config", config.to_str().unwrap(), "--file", "other=secret/app#other"];
    let line = "cat \"$LEASEFS_DIR/key\" \"$LEASEFS_DIR/other\"";
    assert_eq!(printed(&mut user.run("", &options, line)), "v1v2");
    fs::write(&config, "[file.key]\nsecret = \"secret/app#key\"\nowner = \"root\"\n").unwrap();
    let (code, stdout, stderr) = output(&mut user.run("", &options, line));
    assert_eq!((code, stdout.as_str()), (78, ""));
    assert!(stderr.contains("\"key\" belongs to another user"), "{stderr}");
}

#[test]
fn where_user_namespaces_are_forbidden_it_says_why_and_what_to_do() {
    let user = User::new();
    // A namespace in between with a limit of its own, whose root may not mount; the host keeps its limit.
    let between = "echo 0 >/proc/sys/user/max_user_namespaces; \
                   exec setpriv --bounding-set=-sys_admin --inh-caps=-all \"$0\" run \"$@\" -- echo never";
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"]);
    command.args(["unshare", "--user", "--map-root-user", "sh", "-euc", between]);
    command.arg(user.path("leasefs")).args(FILE);
    with_token(&mut command);
    command.env("HOME", user.path("home")).env("XDG_RUNTIME_DIR", user.path("runtime"));
    let (code, stdout, stderr) = output(&mut command);
    assert_eq!((code, stdout.as_str()), (77, ""), "{stderr}");
    assert!(stderr.contains("user.max_user_namespaces is 0: raise it"), "{stderr}");
    assert_eq!(fs::read_dir(user.path("runtime")).unwrap().count(), 0);
}

#[test]
fn a_command_whose_required_files_do_not_come_is_never_started() {
    let (code, stdout, stderr) = output(&mut run(&["--file", "a=secret/none#x"], "echo never"));
    assert_eq!((code, stdout.as_str()), (75, ""));
    assert!(stderr.contains("leasefs: the command was not started: a: "), "{stderr}");
    assert!(stderr.contains("it does not exist in Vault"), "{stderr}");
    // What may come is waited for.
    let mut command = run(&[&FILE[..], &["--timeout", "500ms"]].concat(), "echo never");
    command.env("VAULT_ADDR", "http://127.0.0.1:1");
    let began = std::time::Instant::now();
    let (code, stdout, stderr) = output(&mut command);
    assert!(began.elapsed() >= Duration::from_millis(500));
    assert_eq!((code, stdout.as_str()), (75, ""));
    assert!(stderr.contains("can't be reached"), "{stderr}");
}

/// What `leasefs status --json` says of a tree.
fn status_of(tree: &str, runtime: Option<&Path>) -> serde_json::Value {
    let mut command = leasefs();
    command.args(["status", "--json", tree]);
    if let Some(runtime) = runtime {
        command.uid(USER).gid(USER).env("XDG_RUNTIME_DIR", runtime);
    }
    serde_json::from_str(&printed(&mut command)).unwrap()
}

/// A field of `/proc/T/status`.
fn field(pid: Pid, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim().to_owned()
}

#[test]
fn the_server_of_a_command_is_shut_in_and_the_command_is_not() {
    let user = User::new();
    let line = "echo \"$$ $LEASEFS_DIR\"; read line; cat \"$LEASEFS_DIR/key\"";
    for (mut command, runtime) in
        [(run(&FILE, line), None), (user.run("", &FILE, line), Some(user.path("runtime")))]
    {
        command.stdin(Stdio::piped());
        let mut running = Running::start(&mut command);
        let (pid, tree) = running.first.split_once(' ').unwrap();
        let (pid, server) = (Pid::from_raw(pid.parse().unwrap()), running.server());
        for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
            assert_eq!(field(server, set), "0000000000000000", "{set}");
        }
        assert_eq!((field(server, "NoNewPrivs"), field(server, "Seccomp")), ("1".to_owned(), "2".to_owned()));
        assert_eq!((field(pid, "NoNewPrivs"), field(pid, "Seccomp")), ("0".to_owned(), "0".to_owned()));
        let status = status_of(tree, runtime.as_deref());
        let protections = status["protections"].as_array().unwrap();
        for name in ["no-new-privs", "capabilities", "landlock-files", "seccomp", "no-core-dumps"] {
            let found = protections.iter().find(|one| one["name"] == name).unwrap();
            assert_ne!(found["state"], "off", "{found}");
        }
        // It does not see the tree that it serves.
        let mounts = fs::read_to_string(format!("/proc/{server}/mountinfo")).unwrap();
        assert!(!mounts.contains(tree), "{mounts}");
        running.child.stdin.take().unwrap().write_all(b"\n").unwrap();
        let (status, stdout, stderr) = running.end();
        assert_eq!((status.code(), stdout.as_str(), stderr.as_str()), (Some(0), "v1", ""));
    }
}

#[test]
fn protections_of_a_command_s_server_can_be_switched_off() {
    let user = User::new();
    let config = user.path("agent.toml");
    let text = "[mount.protections]\nseccomp = false\nlandlock-files = false\n[file.key]\n\
                secret = \"secret/app#key\"\n";
    fs::write(&config, text).unwrap();
    let options = ["--config", config.to_str().unwrap()];
    let running = Running::start(&mut run(&options, "echo \"$LEASEFS_DIR\"; exec sleep 1000"));
    assert_eq!(field(running.server(), "Seccomp"), "0");
    assert_eq!(field(running.server(), "NoNewPrivs"), "1");
    let status = status_of(&running.first, None);
    let seccomp = status["protections"].as_array().unwrap().iter().find(|one| one["name"] == "seccomp");
    assert_eq!(seccomp.unwrap()["state"], "off");
    let pid = running.server();
    running.signal(Signal::SIGTERM);
    let (_, _, stderr) = running.end();
    assert!(stderr.contains("is switched off"), "{stderr}");
    assert!(is_gone(pid));
}

#[test]
fn a_credential_beside_much_else_is_read_again_after_it_was_replaced() {
    let user = User::new();
    user.write("home/.vault-token", "hvs.dead");
    let line = "echo up; while ! cat \"$LEASEFS_DIR/late\" 2>/dev/null; do sleep 0.1; done";
    let config = user.path("agent.toml");
    fs::write(&config, "[file.late]\nsecret = \"secret/app#key\"\n").unwrap();
    let mut command = user.run("", &["--config", config.to_str().unwrap()], line);
    command.env_remove("VAULT_TOKEN");
    let running = Running::start(&mut command);
    // As `vault login` does it.
    let draft = user.write("home/.vault-token.tmp", &server().token);
    fs::rename(draft, user.path("home/.vault-token")).unwrap();
    let (status, stdout, stderr) = {
        eventually(3 * PATIENCE, || is_gone(running.pid())).expect("it finds the new token");
        running.end()
    };
    assert_eq!((status.code(), stdout.as_str()), (Some(0), "v1"), "{stderr}");
}

#[test]
fn the_death_of_the_server_ends_the_command_with_a_message() {
    let running = Running::start(&mut run(&FILE, "echo up; while :; do sleep 0.02; done"));
    kill(running.server(), Signal::SIGKILL).unwrap();
    let (status, _, stderr) = running.end();
    assert_eq!(status.code(), Some(70));
    assert!(stderr.starts_with("leasefs: the process that serves the tree has died"), "{stderr}");
}

#[test]
fn the_death_of_the_supervisor_ends_the_command_and_the_server_gives_everything_back() {
    let (role_id, secret_id) = server().approle("bereft");
    let line = "echo \"$$ $LEASEFS_DIR\"; while :; do sleep 0.02; done";
    let mut command = run(&FILE, line);
    command.env_remove("VAULT_TOKEN").env("VAULT_ROLE_ID", role_id).env("VAULT_SECRET_ID", secret_id);
    let running = Running::start(&mut command);
    let (pid, tree) = running.first.split_once(' ').unwrap();
    let (pid, tree, serving) = (Pid::from_raw(pid.parse().unwrap()), PathBuf::from(tree), running.server());
    assert_eq!(server().accessors("bereft"), 1);
    running.signal(Signal::SIGKILL);
    eventually(PATIENCE, || is_gone(pid) && is_gone(serving)).expect("both end");
    assert_eq!(server().accessors("bereft"), 0);
    assert!(!tree.exists());
}

#[test]
fn an_operator_who_unmounts_the_tree_ends_the_command() {
    let running = Running::start(&mut run(&FILE, "echo \"$LEASEFS_DIR\"; while :; do sleep 0.02; done"));
    let (code, stdout, stderr) = output(leasefs().arg("unmount").arg(&running.first));
    assert_eq!(code, 0, "{stdout}{stderr}");
    let (status, _, stderr) = running.end();
    assert_eq!(status.code(), Some(69), "{stderr}");
    assert!(stderr.contains("the tree was taken away"), "{stderr}");
}

#[test]
fn an_interrupt_before_the_start_ends_it_and_nothing_is_started() {
    let mut command = run(&FILE, "echo never");
    command.env("VAULT_ADDR", "http://127.0.0.1:1").stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.process_group(0).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(130), &b""[..]));
}

/// An interactive shell on a terminal of its own.
fn terminal() -> Terminal {
    let mut command = Command::new("script");
    command.args(["-qfec", "bash --norc -i", "/dev/null"]).env("PS1", "").env("TERM", "dumb");
    command.env("LEASEFS", env!("CARGO_BIN_EXE_leasefs"));
    with_token(&mut command);
    Terminal::start(command)
}

#[test]
fn on_a_terminal_it_is_one_job_with_its_command_and_each_key_arrives_once() {
    let mut terminal = terminal();
    let command = "n=0; trap \"n=\\$((n+1)); echo int=\\$n\" INT; trap \"exit 9\" QUIT; \
                   echo \"u\"\"p\"; while :; do sleep 0.05; done";
    terminal.press(&format!("\"$LEASEFS\" run --file key=secret/app#key -- sh -c '{command}'\n"));
    terminal.wait_for("up\r\n");
    terminal.press("\u{1a}");
    terminal.wait_for("Stopped");
    terminal.press("echo shell=$((40+2))\n");
    terminal.wait_for("shell=42");
    terminal.press("fg\n");
    std::thread::sleep(Duration::from_millis(200));
    terminal.press("\u{3}");
    terminal.wait_for("int=1\r\n");
    std::thread::sleep(Duration::from_millis(200));
    assert!(!terminal.seen().contains("int=2\r\n"), "{}", terminal.seen());
    terminal.press("\u{1c}");
    terminal.press("echo code=$?\n");
    terminal.wait_for("code=9\r\n");
}

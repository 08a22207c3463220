//! What an operator's commands say of a real mount with a real OpenBao: waiting, checking, explaining,
//! watching.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may panic and read the clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use support::bao::Bao;
use support::mount::{Mount, leasefs};
use support::proxy::{Proxy, Trouble};
use tokio::sync::OnceCell;

const CONFIG: &str = r#"
[file."weather"]
secret = "secret/weather#key"
[file."absent"]
secret = "secret/absent#key"
[file."tls/tls.key"]
secret = "pki/issue/agent"
field = "private_key"
params = { common_name = "agent.internal" }
[tree."kv"]
secret = "secret/agents/"
"#;

/// One OpenBao for all tests: with KV, and a role whose certificates have leases.
async fn bao() -> &'static Bao {
    static BAO: OnceCell<Bao> = OnceCell::const_new();
    BAO.get_or_init(|| async {
        let bao = Bao::start().await;
        bao.write_kv2("secret", "weather", json!({"key": "sunny-marker"})).await;
        bao.write_kv2("secret", "agents/billing", json!({"key": "abc"})).await;
        bao.enable("pki", "pki", json!({})).await;
        bao.write("pki/root/generate/internal", json!({"common_name": "test"})).await;
        let role = json!({"allow_any_name": true, "generate_lease": true, "ttl": "1h", "max_ttl": "1h"});
        bao.write("pki/roles/agent", role.clone()).await;
        bao.write("pki/roles/waiter", role).await;
        bao
    })
    .await
}

/// Runs `leasefs ARGUMENTS…`, with the mount point for each `MOUNT`; its exit code and what it printed.
fn run(mount: &Mount, arguments: &[&str]) -> (Option<i32>, String) {
    let root = mount.root();
    let root = root.to_str().unwrap();
    let arguments: Vec<&str> = arguments.iter().map(|one| if *one == "MOUNT" { root } else { one }).collect();
    let (status, text) = mount.command(&arguments);
    (status.code(), text)
}

fn mount(address: &str, token: &str, config: &str) -> Mount {
    Mount::start(config, &[("VAULT_ADDR", address), ("VAULT_TOKEN", token)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_is_ready_once_what_is_required_is_there_and_serves_before() {
    let bao = bao().await;
    let proxy = Proxy::start(bao.address());
    proxy.trouble(Trouble::Refuse);
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("notify");
    let systemd = UnixDatagram::bind(&socket).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let config = CONFIG.replace("[file.\"weather\"]", "[file.\"weather\"]\nrequired = true");
    let variables = [
        ("VAULT_ADDR", proxy.address()),
        ("VAULT_TOKEN", bao.root_token().to_owned()),
        ("NOTIFY_SOCKET", socket.to_str().unwrap().to_owned()),
    ];
    let variables: Vec<(&str, &str)> =
        variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mount = Mount::start(&config, &variables);
    let told = || {
        let mut message = [0; 4096];
        let length = systemd.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    let first = told();
    assert!(first.starts_with("STATUS=waiting for 1 of 1 required files; weather: "), "{first}");
    assert_eq!(std::fs::read_dir(mount.root()).unwrap().count(), 4, "it serves all the same");
    let (code, text) = run(&mount, &["wait", "MOUNT", "--timeout", "1s"]);
    assert_eq!(code, Some(75), "{text}");
    assert!(text.starts_with("leasefs: not ready after 1s:\nweather: "), "{text}");
    assert!(!mount.log().contains("mounted and ready"), "{}", mount.log());

    proxy.recover();
    let began = Instant::now();
    while told() != "READY=1\n" {
        assert!(began.elapsed() < Duration::from_secs(20), "{}", mount.log());
    }
    mount.wait_for_log("mounted and ready");
    assert_eq!(run(&mount, &["wait", "MOUNT"]), (Some(0), String::new()));
    assert_eq!(proxy.count("secret/data/weather"), 1);
    assert_eq!(mount.read("weather").unwrap(), "sunny-marker");
    assert_eq!(proxy.count("secret/data/weather"), 1, "the open is answered from memory");
    let (_, status) = run(&mount, &["status", "MOUNT"]);
    let line = status.lines().find(|line| line.starts_with("weather")).unwrap();
    assert!(line.contains("live, required"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_begins_before_its_daemon_and_fetches_what_it_names() {
    let bao = bao().await;
    let config = CONFIG.replace("pki/issue/agent", "pki/issue/waiter");
    let mut mount = mount(bao.address(), bao.root_token(), &config);
    mount.signal(nix::sys::signal::Signal::SIGTERM);
    mount.wait();
    let root = mount.root();
    let waiting = std::thread::spawn(move || {
        let names = ["weather", "tls", "kv/billing/key", "--timeout", "15s"];
        leasefs().arg("wait").arg(root).args(names).output().unwrap()
    });
    std::thread::sleep(Duration::from_millis(400));
    assert!(!waiting.is_finished(), "there is no daemon yet");
    mount.restart_after_end(&[("VAULT_ADDR", bao.address()), ("VAULT_TOKEN", bao.root_token())]);
    let output = waiting.join().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(bao.leases("pki/issue/waiter").await.len(), 1);
    let (code, text) = run(&mount, &["wait", "MOUNT", "absent", "--timeout", "500ms"]);
    assert_eq!(code, Some(75));
    assert!(text.contains("absent: read of secret/data/absent: it does not exist in Vault"), "{text}");
    assert_eq!(run(&mount, &["wait", "MOUNT", "no/such"]).0, Some(64));
    assert_eq!(run(&mount, &["wait", "/nowhere/at-all", "--timeout", "300ms"]).0, Some(75));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_judges_in_the_way_of_monitoring() {
    let bao = bao().await;
    bao.write_policy("weather", r#"path "secret/data/weather" { capabilities = ["read"] }"#).await;
    let options = json!({"policies": ["weather"], "ttl": "4s", "renewable": false});
    let token = bao.create_token(options).await;
    let proxy = Proxy::start(bao.address());
    let config = "[file.weather]\nsecret = \"secret/weather#key\"\nmax-age = \"1s\"\ngrace = \"1m\"\n";
    let mounted = mount(&proxy.address(), bao.root_token(), config);
    assert_eq!(mounted.read("weather").unwrap(), "sunny-marker");
    let (code, text) = run(&mounted, &["status", "MOUNT", "--check"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("LEASEFS OK: 1 file, 1 live | files=1 live=1 "), "{text}");

    proxy.trouble(Trouble::Refuse);
    std::thread::sleep(Duration::from_millis(1100));
    for _ in 0..4 {
        assert_eq!(mounted.read("weather").unwrap(), "sunny-marker");
    }
    let (code, text) = run(&mounted, &["status", "MOUNT", "--check"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.starts_with("LEASEFS WARNING: ") && text.contains("weather is stale"), "{text}");

    assert_eq!(run(&mounted, &["revoke", "MOUNT"]).0, Some(0));
    assert!(mounted.read("weather").is_err());
    let (code, text) = run(&mounted, &["status", "MOUNT", "--check"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.starts_with("LEASEFS CRITICAL: ") && text.contains("weather can't be read"), "{text}");
    proxy.recover();

    let short = mount(bao.address(), &token, config);
    assert_eq!(short.read("weather").unwrap(), "sunny-marker");
    let (code, text) = run(&short, &["status", "MOUNT", "--check", "--warn", "100%"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("the token of identity default ends in"), "{text}");
    let (code, text) = run(&short, &["status", "/nowhere/at-all", "--check"]);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.starts_with("LEASEFS UNKNOWN: no leasefs serves /nowhere/at-all"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_about_a_file_is_on_one_page_and_no_byte_of_its_secret() {
    let bao = bao().await;
    let mount = mount(bao.address(), bao.root_token(), CONFIG);
    let (code, page) = run(&mount, &["explain", "MOUNT", "tls/tls.key"]);
    assert_eq!(code, Some(0), "{page}");
    assert!(page.starts_with("tls/tls.key: idle\n"), "{page}");
    assert!(page.contains("it is fetched when a program opens it"), "{page}");
    let key = mount.read("tls/tls.key").unwrap();
    mount.read("weather").unwrap();
    let lease = bao.leases("pki/issue/agent").await.pop().unwrap();
    let (_, page) = run(&mount, &["explain", "MOUNT", "/tls/tls.key"]);
    for part in [
        "tls/tls.key: live\n",
        "pki/issue/agent",
        "the field \"private_key\"",
        "common_name (their values are not shown)",
        "update on pki/issue/agent",
        "mode 0400",
        "granted for  ",
        "replaced in ",
        lease.as_str(),
    ] {
        assert!(page.contains(part), "{part}\n{page}");
    }
    assert!(!page.contains("agent.internal"), "a parameter's value: {page}");
    assert!(!page.contains(key.lines().nth(1).unwrap()), "{page}");
    let (_, page) = run(&mount, &["explain", "MOUNT", "weather"]);
    assert!(page.contains("read on secret/data/weather") && page.contains("version      1"), "{page}");
    assert!(!page.contains("sunny"), "{page}");

    assert!(mount.read("absent").is_err());
    let (_, page) = run(&mount, &["explain", "MOUNT", "absent"]);
    assert!(page.starts_with("absent: failed\n"), "{page}");
    assert!(page.contains("what to do   write the secret in Vault"), "{page}");
    let (_, json) = run(&mount, &["explain", "MOUNT", "absent", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["origin"]["needs"]["path"], "secret/data/absent");
    assert_eq!(report["file"]["state"], "failed");

    let asked = bao.leases("pki/issue/agent").await.len();
    let (_, page) = run(&mount, &["explain", "MOUNT", "kv"]);
    assert!(page.starts_with("kv: a directory that is listed in Vault\n"), "{page}");
    let (_, page) = run(&mount, &["explain", "MOUNT", "kv/billing/key"]);
    assert!(page.starts_with("kv/billing/key: idle\n") && page.contains("secret/agents/billing"), "{page}");
    assert_eq!(run(&mount, &["lock", "MOUNT", "kv", "--reason", "incident 12"]).0, Some(0));
    let (_, page) = run(&mount, &["explain", "MOUNT", "kv/billing/key"]);
    assert!(page.contains("locked by a lock of kv") && page.contains("incident 12"), "{page}");
    assert!(page.contains("unlock MOUNTPOINT kv"), "{page}");
    assert_eq!(run(&mount, &["explain", "MOUNT", "no/such"]).0, Some(64));
    assert_eq!(bao.leases("pki/issue/agent").await.len(), asked, "explaining fetches nothing");
}

/// Runs a command on a terminal of 60 columns and 12 lines until a text shows, then types something; prints
/// all that came and the exit code.
const ON_A_TERMINAL: &str = r#"
import fcntl, os, pty, select, struct, sys, termios, time
until, typed, command = sys.argv[1].encode(), sys.argv[2].encode(), sys.argv[3:]
pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 60, 0, 0))
    os.execv(command[0], command)
seen, deadline = b"", time.monotonic() + 15
while time.monotonic() < deadline:
    if select.select([terminal], [], [], 0.1)[0]:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:
            break
        if not chunk:
            break
        seen += chunk
    if until and until in seen:
        time.sleep(1.5)
        os.write(terminal, typed)
        until = b""
_, status = os.waitpid(pid, 0)
sys.stdout.buffer.write(seen + b"\nended with %d\n" % os.waitstatus_to_exitcode(status))
"#;

fn on_a_terminal(until: &str, typed: &str, arguments: &[&str]) -> String {
    let mut python = Command::new("python3");
    python.args(["-c", ON_A_TERMINAL, until, typed, env!("CARGO_BIN_EXE_leasefs")]).args(arguments);
    let output = python.output().expect("this test needs python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_counts_down_on_a_terminal_and_gives_it_back() {
    let bao = bao().await;
    let mut mount = mount(bao.address(), bao.root_token(), CONFIG);
    mount.read("weather").unwrap();
    let root = mount.root();
    let root = root.to_str().unwrap();
    for typed in ["q", "\u{3}"] {
        let seen = on_a_terminal("q ends it", typed, &["status", root, "--watch"]);
        assert!(seen.ends_with("ended with 0\n"), "{seen}");
        assert!(seen.matches("q ends it").count() >= 2, "it is drawn again: {seen:?}");
        assert!(seen.contains("\u{1b}[?1049h") && seen.contains("\u{1b}[?1049l"), "{seen:?}");
        assert!(seen.contains("\u{1b}[?25h"), "the cursor is back: {seen:?}");
        let longest = seen.split(['\u{1b}', '\n']).map(|part| part.chars().count()).max();
        assert!(longest.unwrap() <= 70, "{seen:?}");
    }
    let mut watching = leasefs();
    let watching = watching.args(["status", root, "--watch"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let watching = watching.spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1300));
    mount.signal(nix::sys::signal::Signal::SIGTERM);
    mount.wait();
    let output = watching.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    let (blocks, message) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(blocks.matches("NAME").count() >= 2, "{blocks}");
    assert!(!blocks.contains('\u{1b}'), "{blocks}");
    assert_eq!(
        message,
        format!("leasefs: the leasefs on {root} has ended, so there is nothing more to watch\n")
    );
}

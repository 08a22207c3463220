//! Locked files on a real mount with a real OpenBao: what programs see, what stays in Vault, what survives a
//! restart.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may panic and read the clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, PermissionsExt};

use libc::{EACCES, ESTALE};
use serde_json::json;
use support::bao::Bao;
use support::mount::Mount;
use support::programs::attribute;
use tokio::sync::OnceCell;

const CONFIG: &str = r#"
[file."weather"]
secret = "secret/weather#key"
[file."weather.json"]
secret = "secret/weather"
[dir."tls"]
secret = "pki/issue/agent"
params = { common_name = "agent.internal" }
names = { certificate = "tls.crt", private_key = "tls.key" }
renew = "always"
[tree."kv"]
secret = "secret/agents/"
"#;

/// One OpenBao for all tests: with KV, and a role whose certificates have leases.
async fn bao() -> &'static Bao {
    static BAO: OnceCell<Bao> = OnceCell::const_new();
    BAO.get_or_init(|| async {
        let bao = Bao::start().await;
        bao.write_kv2("secret", "weather", json!({"key": "sunny"})).await;
        bao.write_kv2("secret", "agents/billing", json!({"key": "abc", "other": "def"})).await;
        bao.write_kv2("secret", "agents/search", json!({"key": "ghi"})).await;
        bao.enable("pki", "pki", json!({})).await;
        bao.write("pki/root/generate/internal", json!({"common_name": "test"})).await;
        let role = json!({"allow_any_name": true, "generate_lease": true, "ttl": "1h", "max_ttl": "1h"});
        bao.write("pki/roles/agent", role).await;
        bao
    })
    .await
}

fn variables(bao: &Bao) -> [(&str, &str); 2] {
    [("VAULT_ADDR", bao.address()), ("VAULT_TOKEN", bao.root_token())]
}

/// Runs `leasefs COMMAND ROOT ARGUMENTS…`; its exit code and what it printed.
fn run(mount: &Mount, command: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let root = mount.root();
    let (status, text) = mount.command(&[&[command, root.to_str().unwrap()][..], arguments].concat());
    (status.code(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_file_can_be_looked_at_and_not_opened_until_it_is_unlocked() {
    let bao = bao().await;
    let mount = Mount::start(CONFIG, &variables(bao));
    mount.read("tls/tls.key").unwrap();
    let before = bao.leases("pki/issue/agent").await;
    let open = File::open(mount.path("tls/tls.crt")).unwrap();
    let (code, text) = run(&mount, "lock", &["tls", "weather", "--reason", "incident 12"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("locked: tls\nlocked: weather\n"), "{text}");
    assert!(before.iter().any(|lease| text.contains(&format!("revoked in Vault: {lease}"))), "{text}");

    assert_eq!(open.read_at(&mut [0; 8], 0).unwrap_err().raw_os_error(), Some(ESTALE));
    for name in ["tls/tls.key", "tls/tls.crt", "weather"] {
        assert_eq!(mount.errno(name), EACCES, "{name}");
        assert_eq!(fs::metadata(mount.path(name)).unwrap().len(), 0, "{name}");
        assert_eq!(attribute(&mount.path(name), "state").as_deref(), Some("locked"), "{name}");
        assert_eq!(attribute(&mount.path(name), "error").as_deref(), Some("incident 12"), "{name}");
    }
    assert_eq!(attribute(&mount.root(), "error.weather").as_deref(), Some("incident 12"));
    assert!(bao.leases("pki/issue/agent").await.is_empty(), "renew = \"always\" fetches nothing either");
    assert!(mount.read("weather.json").unwrap().contains("sunny"), "the same secret, another file");
    assert_eq!(mount.errno("weather"), EACCES);
    let names: Vec<_> =
        fs::read_dir(mount.path("tls")).unwrap().map(|one| one.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let (_, status) = run(&mount, "status", &[]);
    assert!(status.contains("LOCKED") && status.contains("incident 12"), "{status}");
    let (code, text) = run(&mount, "refresh", &["tls"]);
    assert!(code == Some(1) && text.contains("incident 12"), "{text}");

    let (code, text) = run(&mount, "unlock", &["tls/tls.key"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("still locked: tls/tls.key, since tls is"), "{text}");
    let (code, text) = run(&mount, "unlock", &[]);
    assert_eq!((code, text.as_str()), (Some(0), "unlocked: tls\nunlocked: weather\n"));
    assert_eq!(mount.read("weather").unwrap(), "sunny");
    assert_eq!(fs::metadata(mount.path("weather")).unwrap().len(), 5);
    mount.read("tls/tls.key").unwrap();
    let mut again = open;
    assert!(again.read(&mut [0; 8]).is_err(), "what was open before stays at its end");
    let (status, log) = mount.stop();
    assert!(status.success(), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_survives_a_restart_also_for_names_that_nobody_has_seen_yet() {
    let bao = bao().await;
    let mut mount = Mount::start(CONFIG, &variables(bao));
    assert_eq!(mount.read("kv/search/key").unwrap(), "ghi");
    let (code, text) =
        run(&mount, "lock", &["kv/billing", "weather.json", "--reason", "moved to the new host"]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(mount.errno("kv/billing/key"), EACCES);

    mount.restart(&variables(bao));
    assert!(mount.log().contains("moved to the new host"), "{}", mount.log());
    assert_eq!(mount.errno("weather.json"), EACCES);
    assert_eq!(attribute(&mount.path("weather.json"), "error").as_deref(), Some("moved to the new host"));
    assert_eq!(mount.errno("kv/billing/key"), EACCES);
    assert_eq!(fs::read_dir(mount.path("kv/billing")).unwrap_err().raw_os_error(), Some(EACCES));
    assert_eq!(mount.read("kv/search/key").unwrap(), "ghi");
    assert_eq!(mount.read("weather").unwrap(), "sunny");

    let (code, text) = run(&mount, "unlock", &[]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(mount.read("kv/billing/key").unwrap(), "abc");
    mount.restart(&variables(bao));
    assert_eq!(mount.read("kv/billing/other").unwrap(), "def");
    assert!(mount.read("weather.json").unwrap().contains("sunny"));
    let (status, log) = mount.stop();
    assert!(status.success(), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_that_can_not_be_understood_keep_the_mount_away_and_the_message_says_what_to_do() {
    let bao = bao().await;
    let mut mount = Mount::start(CONFIG, &variables(bao));
    assert_eq!(run(&mount, "lock", &["--reason", "all of it"]).0, Some(0));
    let state = mount.directory().join("state");
    let file = fs::read_dir(&state).unwrap().next().unwrap().unwrap().path();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("all of it"), "{text}");
    mount.signal(nix::sys::signal::Signal::SIGTERM);
    mount.wait();
    fs::write(&file, &text[..text.len() / 2]).unwrap();
    let mut again = support::mount::leasefs();
    again.arg("mount").arg(mount.directory().join("config.toml")).arg(mount.root());
    again.env("STATE_DIRECTORY", &state).envs(variables(bao));
    let output = again.output().unwrap();
    assert_eq!(output.status.code(), Some(74));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains(file.to_str().unwrap()) && message.contains("remove it"), "{message}");
    assert!(!mount.is_mounted());
    fs::remove_file(&file).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_can_not_be_stored_is_in_force_and_the_command_says_so() {
    let bao = bao().await;
    let mount = Mount::start(CONFIG, &variables(bao));
    // Nobody may put anything into its directory any more.
    let state = mount.directory().join("state");
    support::mount::eventually(std::time::Duration::from_secs(5), || state.is_dir())
        .expect("it is made at the start");
    nix::mount::mount(Some("none"), &state, Some("tmpfs"), nix::mount::MsFlags::MS_RDONLY, None::<&str>)
        .unwrap();
    let (code, text) = run(&mount, "lock", &["weather", "--reason", "incident"]);
    assert_eq!(code, Some(1), "{text}");
    nix::mount::umount(&state).unwrap();
    assert!(text.contains("not after a restart"), "{text}");
    assert_eq!(mount.errno("weather"), EACCES);
}

//! The commands that ask a running daemon, on a real mount with a real OpenBao.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may panic and read the clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::bao::Bao;
use support::mount::Mount;

const CONFIG: &str = r#"
[file."weather"]
secret = "secret/weather#key"
[file."absent"]
secret = "secret/absent#key"
[file."misspelt"]
secret = "secret/weather#keys"
[dir."tls"]
secret = "pki/issue/agent"
params = { common_name = "agent.internal" }
names = { certificate = "tls.crt", private_key = "tls.key" }
"#;

/// A server with a secret, and a role whose certificates have leases.
async fn bao() -> Bao {
    let bao = Bao::start().await;
    bao.write_kv2("secret", "weather", json!({"key": "sunny"})).await;
    bao.enable("pki", "pki", json!({})).await;
    bao.write("pki/root/generate/internal", json!({"common_name": "test"})).await;
    let role = json!({"allow_any_name": true, "generate_lease": true, "ttl": "1h", "max_ttl": "1h"});
    bao.write("pki/roles/agent", role).await;
    bao
}

fn mount(bao: &Bao, token: &str) -> Mount {
    Mount::start(CONFIG, &[("VAULT_ADDR", bao.address()), ("VAULT_TOKEN", token)])
}

#[tokio::test]
async fn status_revoke_refresh_and_unmount_do_what_they_say() {
    let bao = bao().await;
    let mount = mount(&bao, bao.root_token());
    let root = mount.root();
    let root = root.to_str().unwrap();
    assert_eq!(mount.read("weather").unwrap(), "sunny");
    mount.read("tls/tls.key").unwrap();
    assert_eq!(bao.leases("pki/issue/agent").await.len(), 1);

    let (status, text) = mount.command(&["status", root]);
    assert!(status.success(), "{text}");
    assert!(text.lines().any(|line| line.starts_with("weather") && line.contains("live")), "{text}");
    let (_, json) = mount.command(&["status", root, "--json"]);
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["pid"], mount.pid());
    let files = report["files"].as_array().unwrap();
    let key = files.iter().find(|file| file["name"] == "tls/tls.key").unwrap();
    let lease = key["lease"].as_str().unwrap().to_owned();
    assert_eq!(bao.leases("pki/issue/agent").await, std::slice::from_ref(&lease));

    let (status, text) = mount.command(&["revoke", root, "tls"]);
    assert!(status.success(), "{text}");
    assert!(text.contains(&lease), "{text}");
    assert!(bao.leases("pki/issue/agent").await.is_empty());

    bao.write_kv2("secret", "weather", json!({"key": "windy"})).await;
    let (status, text) = mount.command(&["refresh", root, "weather"]);
    assert!(status.success(), "{text}");
    assert_eq!(mount.read("weather").unwrap(), "windy");
    let (status, text) = mount.command(&["refresh", root, "absent"]);
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("secret/data/absent"), "the reason names the path: {text}");
    let (status, text) = mount.command(&["refresh", root, "misspelt"]);
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("the secret has no field \"keys\""), "{text}");
    let (status, text) = mount.command(&["refresh", root, "no/such/file"]);
    assert_eq!(status.code(), Some(64), "{text}");

    let (status, text) = mount.command(&["unmount", root]);
    assert!(status.success(), "{text}");
    assert!(!mount.is_mounted());
    let mut mount = mount;
    assert_eq!(mount.wait().code(), Some(0), "{}", mount.log());
    let (status, _) = mount.command(&["status", root]);
    assert_eq!(status.code(), Some(69));
}

#[tokio::test]
async fn a_lease_that_an_ordinary_token_may_not_revoke_is_printed_by_id() {
    let bao = bao().await;
    bao.write_policy("ordinary", r#"path "pki/issue/agent" { capabilities = ["update"] }"#).await;
    let token = bao.create_token(json!({"policies": ["ordinary"], "ttl": "1h"})).await;
    let mount = mount(&bao, &token);
    let root = mount.root();
    let root = root.to_str().unwrap();
    mount.read("tls/tls.key").unwrap();
    let lease = bao.leases("pki/issue/agent").await.remove(0);
    let (status, text) = mount.command(&["revoke", root]);
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains(&lease), "{text}");
    let (_, text) = mount.command(&["status", root]);
    assert!(text.contains("live on in Vault") && text.contains(&lease), "{text}");
}

#[tokio::test]
async fn the_mount_of_a_daemon_that_was_killed_can_be_taken_away() {
    let bao = bao().await;
    let mut mount = mount(&bao, bao.root_token());
    mount.signal(Signal::SIGKILL);
    mount.wait();
    let root = mount.root();
    assert!(mount.is_mounted());
    let (status, text) = mount.command(&["unmount", root.to_str().unwrap()]);
    assert!(status.success(), "{text}");
    assert!(text.contains("no daemon"), "{text}");
    assert!(!mount.is_mounted());
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
}

//! `leasefs init`: what it prints for a KV prefix of a real OpenBao passes `leasefs check` as it is, and can be
//! mounted.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may panic and read the clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs;
use std::process::Output;

use serde_json::json;
use support::bao::Bao;
use support::mount::{Mount, leasefs};

fn init(bao: &Bao, arguments: &[&str]) -> Output {
    let mut command = leasefs();
    command.arg("init").args(arguments);
    command.env("VAULT_ADDR", bao.address()).env("VAULT_TOKEN", bao.root_token()).output().unwrap()
}

fn printed(output: &Output) -> String {
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{err}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Checks a configuration that was printed, without any change, and mounts it.
fn check_and_mount(bao: &Bao, config: &str) -> Mount {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("agent.toml");
    fs::write(&file, config).unwrap();
    let checked = leasefs().arg("check").arg(&file).env("VAULT_TOKEN", bao.root_token()).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stdout);
    assert_eq!(
        checked.status.code(),
        Some(0),
        "{config}\n{said}{}",
        String::from_utf8_lossy(&checked.stderr)
    );
    Mount::start(config, &[("VAULT_TOKEN", bao.root_token())])
}

#[tokio::test]
async fn what_a_kv_prefix_holds_is_shown_with_a_file_for_each_field() {
    let bao = Bao::start().await;
    bao.enable_kv1("old").await;
    bao.enable_kv2("team/kv").await;
    for (mount, prefix) in [("secret", "agents/"), ("team/kv", ""), ("secret", "data/")] {
        bao.write_kv2(mount, &format!("{prefix}weather"), json!({"key": "sunny", "unit": "C"})).await;
        bao.write_kv2(mount, &format!("{prefix}weather/deep/down"), json!({"a b": "1", "x/y": "2"})).await;
        bao.write_kv2(mount, &format!("{prefix}odd \"name\" ü %"), json!({"q'\"\\": "3", "n": 4})).await;
        bao.write_kv2(mount, &format!("{prefix}clash"), json!({"in": "5"})).await;
        bao.write_kv2(mount, &format!("{prefix}clash/in"), json!({"in": "6"})).await;
        bao.write_kv2(mount, &format!("{prefix}gone"), json!({"in": "7"})).await;
        bao.delete(&format!("{mount}/data/{prefix}gone")).await;
        bao.write_kv2(mount, &format!("{prefix}hash#tag"), json!({"in": "8"})).await;
    }
    bao.write("old/top", json!({"field": "v1"})).await;
    bao.write("old/deep/down", json!({"field": "v1 too"})).await;

    for prefix in ["secret/agents/", "secret/agents", "team/kv", "secret/data/data/"] {
        let config = printed(&init(&bao, &[prefix]));
        for told in ["gone: ", "was deleted", "hash#tag: a # begins"] {
            assert!(config.contains(told), "{told} in\n{config}");
        }
        for value in ["sunny", "\"1\""] {
            assert!(!config.contains(value), "no value is printed:\n{config}");
        }
        let mount = check_and_mount(&bao, &config);
        for (name, content) in [
            ("weather/key", "sunny"),
            ("weather/unit", "C"),
            ("weather/deep/down/a b", "1"),
            ("weather/deep/down/x_y", "2"),
            ("odd \"name\" ü %/q'\"\\", "3"),
            ("odd \"name\" ü %/n", "4"),
            ("clash/#in", "5"),
            ("clash/in/in", "6"),
        ] {
            assert_eq!(mount.read(name).unwrap(), content, "{name} of {prefix}\n{config}");
        }
    }
    let config = printed(&init(&bao, &["old/"]));
    let mount = check_and_mount(&bao, &config);
    assert_eq!(mount.read("top/field").unwrap(), "v1");
    assert_eq!(mount.read("deep/down/field").unwrap(), "v1 too");
}

#[tokio::test]
async fn a_single_secret_is_shown_and_what_is_none_is_said_to_be_none() {
    let bao = Bao::start().await;
    bao.enable("pki", "pki", json!({})).await;
    bao.write_kv2("secret", "agents/weather", json!({"key": "sunny"})).await;
    for prefix in ["secret/agents/weather", "/secret/data/agents/weather/"] {
        let config = printed(&init(&bao, &[prefix, "--identity", "the one"]));
        assert!(config.contains("[identity.\"the one\"]"), "{config}");
        let mount = check_and_mount(&bao, &config);
        assert_eq!(mount.read("key").unwrap(), "sunny");
    }
    for (prefix, code, told) in [
        ("secret/nothing/", 1, "secret/nothing/ holds nothing"),
        ("pki/", 64, "an engine of type pki"),
        ("nowhere/at/all", 77, "nothing is mounted there"),
        ("secret//agents", 64, "has an empty segment"),
        ("", 64, "is empty"),
    ] {
        let output = init(&bao, &[prefix]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{prefix}: {said}");
        assert!(said.contains(told) && output.stdout.is_empty(), "{prefix}: {said}");
    }
    let token = bao.create_token(json!({"policies": ["default"]})).await;
    let mut denied = leasefs();
    denied.args(["init", "secret/agents/"]).env("VAULT_ADDR", bao.address()).env("VAULT_TOKEN", token);
    assert_eq!(denied.output().unwrap().status.code(), Some(77));
}

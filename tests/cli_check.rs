//! `leasefs check` against a real OpenBao: what it says is true, nothing is minted, nothing stays behind.
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

use serde_json::{Value, json};
use support::bao::Bao;
use support::mount::leasefs;
use tempfile::TempDir;
use tokio::sync::OnceCell;

/// One OpenBao for all tests of this file; each has secrets and policies of its own.
async fn bao() -> &'static Bao {
    static BAO: OnceCell<Bao> = OnceCell::const_new();
    BAO.get_or_init(async || {
        let bao = Bao::start().await;
        bao.call("POST", "sys/auth/approle", Some(json!({"type": "approle"}))).await;
        bao.enable("pki", "pki", json!({})).await;
        bao.enable_kv1("old").await;
        bao.write_kv2("secret", "agents/weather", json!({"key": "sunny", "unit": "C"})).await;
        bao.write_kv2("secret", "agents/traffic", json!({"key": "jammed"})).await;
        bao.write("old/thing", json!({"value": "v1"})).await;
        bao
    })
    .await
}

/// A configuration in a file.
struct Config {
    directory: TempDir,
}

impl Config {
    fn new(text: &str) -> Config {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("agent.toml"), text).unwrap();
        Config { directory }
    }

    /// Checks it.
    fn check(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Checked {
        let mut command = leasefs();
        command.arg("check").arg(self.directory.path().join("agent.toml")).args(arguments);
        Checked(command.envs(variables.iter().copied()).output().unwrap())
    }

    /// Checks it with a token.
    fn check_with(&self, bao: &Bao, token: &str) -> Checked {
        self.check(&[], &[("VAULT_ADDR", bao.address()), ("VAULT_TOKEN", token)])
    }
}

/// What a check printed and how it ended.
struct Checked(Output);

impl Checked {
    fn code(&self) -> i32 {
        self.0.status.code().unwrap()
    }

    fn out(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    fn err(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    /// The only line that holds all of these.
    fn line(&self, words: &[&str]) -> String {
        let out = self.out();
        let mut lines = out.lines().filter(|line| words.iter().all(|word| line.contains(word)));
        let line = lines.next().unwrap_or_else(|| panic!("no line with {words:?} in:\n{out}"));
        assert_eq!(lines.next(), None, "in:\n{out}");
        line.to_owned()
    }
}

/// A token with a policy of its own, beside `default`.
async fn token_with(bao: &Bao, policy: &str, rules: &str) -> String {
    bao.write_policy(policy, rules).await;
    bao.create_token(json!({"policies": [policy], "ttl": "1h"})).await
}

async fn accessors(bao: &Bao) -> usize {
    let answer = bao.call("LIST", "auth/token/accessors", None).await;
    answer["data"]["keys"].as_array().map_or(0, Vec::len)
}

const KV: &str = r#"
[file."weather"]
secret = "secret/agents/weather#key"
[file."weather.json"]
secret = "secret/data/agents/weather"
[file."old"]
secret = "old/thing#value"
[tree."kv"]
secret = "secret/agents/"
"#;

const PKI: &str = r#"
[dir."tls"]
secret = "pki/issue/agent"
params = { common_name = "agent.internal" }
names = { certificate = "tls.crt", private_key = "tls.key" }
"#;

#[tokio::test]
async fn what_can_be_read_is_said_to_be_readable_with_its_engine() {
    let bao = bao().await;
    let rules = r#"
        path "secret/data/agents/*" { capabilities = ["read"] }
        path "secret/metadata/agents/*" { capabilities = ["list"] }
        path "old/thing" { capabilities = ["read"] }
    "#;
    let token = token_with(bao, "kv-reader", rules).await;
    let checked = Config::new(KV).check_with(bao, &token);
    assert_eq!(checked.code(), 0, "{}{}", checked.out(), checked.err());
    assert!(checked.line(&["secret/agents/weather "]).contains("kv v2"));
    assert!(checked.line(&["old/thing"]).contains("kv v1"));
    assert!(checked.line(&["secret/agents/ "]).contains("yes"));
    assert!(checked.line(&["default", "token", "renewable"]).contains("kv-reader"));
    assert!(checked.out().ends_with("4 of 4 paths can be read\n"), "{}", checked.out());
    assert!(!checked.out().contains("warning"), "{}", checked.out());
    assert!(!checked.out().contains("sunny"), "a check shows no secret");
}

#[tokio::test]
async fn the_policy_line_that_is_printed_is_the_one_that_was_missing() {
    let bao = bao().await;
    let text = [KV, PKI].concat();
    let config = Config::new(&text);
    // Something on each mount, or Vault would not even name the engines.
    let few = r#"
        path "secret/data/other" { capabilities = ["read"] }
        path "old/other" { capabilities = ["read"] }
        path "pki/other" { capabilities = ["read"] }
    "#;
    let token = token_with(bao, "grows", few).await;
    let mut rules = few.to_owned();
    let checked = config.check_with(bao, &token);
    assert_eq!(checked.code(), 1, "{}{}", checked.out(), checked.err());
    for line in checked.out().lines().filter(|line| !line.starts_with("warning")) {
        let (_, policies) = line.split_once(": add ").unwrap_or_default();
        rules.extend(policies.split(" and ").map(|policy| format!("{}\n", policy.trim_end_matches(','))));
    }
    bao.write_policy("grows", &rules).await;
    let checked = config.check_with(bao, &token);
    assert_eq!(checked.code(), 0, "with\n{rules}\n{}", checked.out());
    assert!(rules.contains(r#"path "pki/issue/agent" { capabilities = ["update"] }"#), "{rules}");
}

#[tokio::test]
async fn a_tree_that_can_be_listed_and_not_read_would_fail() {
    let bao = bao().await;
    let rules = r#"path "secret/metadata/agents/*" { capabilities = ["list"] }
        path "secret/data/agents/traffic" { capabilities = ["read"] }"#;
    let token = token_with(bao, "lists-only", rules).await;
    let checked = Config::new("[tree.kv]\nsecret = \"secret/agents/\"\n").check_with(bao, &token);
    assert_eq!(checked.code(), 1);
    let line = checked.line(&["secret/agents/", "1 of the first 2 secrets may not be read"]);
    assert!(line.contains(r#"path "secret/data/agents/*" { capabilities = ["read"] }"#), "{line}");
}

#[tokio::test]
async fn a_secret_or_a_field_that_is_not_there_is_named() {
    let bao = bao().await;
    let token = token_with(bao, "reads-all", r#"path "secret/data/*" { capabilities = ["read"] }"#).await;
    let config = Config::new(
        r#"
[file."absent"]
secret = "secret/agents/absent#key"
[file."typo"]
secret = "secret/agents/weather#kye"
[file."good"]
secret = "secret/agents/weather#key"
"#,
    );
    let checked = config.check_with(bao, &token);
    assert_eq!(checked.code(), 1);
    assert!(checked.line(&["secret/agents/absent"]).contains("no"), "{}", checked.out());
    let typo = checked.line(&["typo", "no field"]);
    assert!(typo.contains("\"kye\"") && typo.contains("it has \"key\", \"unit\""), "{typo}");
    assert!(!typo.contains("good: "), "{typo}");
}

#[tokio::test]
async fn nothing_is_minted_and_no_token_of_the_check_stays() {
    // Its own, since others make tokens all the time.
    let bao = &Bao::start().await;
    bao.call("POST", "sys/auth/approle", Some(json!({"type": "approle"}))).await;
    bao.enable("pki", "pki", json!({})).await;
    bao.call("POST", "pki/root/generate/internal", Some(json!({"common_name": "test"}))).await;
    let role = json!({"allow_any_name": true, "generate_lease": true, "max_ttl": "1h"});
    bao.write("pki/roles/agent", role).await;
    bao.write_policy("issuer", r#"path "pki/issue/agent" { capabilities = ["update"] }"#).await;
    let approle =
        bao.create_approle("issuer", json!({"token_policies": ["issuer"], "token_ttl": "1h"})).await;
    let config = Config::new(&format!(
        "[identity.default]\nmethod = \"approle\"\nrole-id = \"{}\"\nsecret-id-file = \"{}\"\n{PKI}",
        approle.role_id,
        approle.secret_id_file.display()
    ));
    let certificates = bao.call("LIST", "pki/certs", None).await;
    let before = accessors(bao).await;
    let checked = config.check(&[], &[("VAULT_ADDR", bao.address())]);
    assert_eq!(checked.code(), 0, "{}{}", checked.out(), checked.err());
    assert!(checked.line(&["pki/issue/agent"]).contains("yes"));
    assert!(!checked.out().contains("sys/leases/revoke"), "revoking its own token will do");
    assert_eq!(accessors(bao).await, before);
    assert!(bao.leases("pki/issue/agent").await.is_empty());
    assert_eq!(bao.call("LIST", "pki/certs", None).await["data"], certificates["data"]);
}

#[tokio::test]
async fn a_given_token_that_may_not_revoke_leases_is_warned_of_with_the_line_that_would_allow_it() {
    let bao = bao().await;
    let rules = r#"path "pki/issue/agent" { capabilities = ["update"] }"#;
    let token = token_with(bao, "ordinary", rules).await;
    let checked = Config::new(PKI).check_with(bao, &token);
    assert_eq!(checked.code(), 0, "it would work, but for the end");
    let warning = checked.line(&["warning", "leases can't be revoked"]);
    let line = r#"path "sys/leases/revoke" { capabilities = ["update"] }"#;
    assert!(warning.contains(line), "{warning}");
    assert!(!checked.out().contains("sys/leases/renew"), "the default policy allows it");

    let token = token_with(bao, "ordinary-and-revokes", &format!("{rules}\n{line}")).await;
    assert!(!Config::new(PKI).check_with(bao, &token).out().contains("warning"));
}

#[tokio::test]
async fn tokens_that_do_not_suit_are_warned_of_or_refused() {
    let bao = bao().await;
    let config = Config::new("[file.weather]\nsecret = \"secret/agents/weather#key\"\n");
    let root = config.check_with(bao, bao.root_token());
    assert_eq!(root.code(), 0);
    assert!(root.line(&["warning", "root"]).contains("identity default"), "{}", root.out());

    bao.write_policy("weather", r#"path "secret/data/agents/weather" { capabilities = ["read"] }"#).await;
    let few = bao.create_token(json!({"policies": ["weather"], "num_uses": 50})).await;
    let few = config.check_with(bao, &few);
    assert_eq!(few.code(), 1);
    few.line(&["no login", "num_uses"]);
    let batch = bao.create_token(json!({"policies": ["weather"], "type": "batch", "ttl": "1h"})).await;
    let batch = config.check_with(bao, &batch);
    assert_eq!(batch.code(), 0, "{}", batch.out());
    batch.line(&["warning", "batch token"]);
}

#[tokio::test]
async fn what_the_configuration_says_of_an_engine_is_compared_with_what_vault_says() {
    let bao = bao().await;
    let config = Config::new(
        r#"
[file."old"]
secret = "old/thing#value"
engine = "kv2"
[tree."tls"]
secret = "pki/"
"#,
    );
    let checked = config.check_with(bao, bao.root_token());
    assert_eq!(checked.code(), 1);
    assert!(checked.line(&["old/thing"]).contains("correct `engine`"), "{}", checked.out());
    assert!(checked.line(&["pki/ "]).contains("a tree needs KV"), "{}", checked.out());
}

#[tokio::test]
async fn a_path_without_an_engine_is_found_though_the_policy_allows_it() {
    let bao = bao().await;
    let config = Config::new("[file.\"lost\"]\nsecret = \"nowhere/creds/agent#password\"\n");
    let checked = config.check_with(bao, bao.root_token());
    assert_eq!(checked.code(), 1);
    assert!(checked.line(&["nowhere/creds/agent", "no engine is mounted there"]).contains("no "));
}

#[tokio::test]
async fn a_dead_token_is_the_trouble_and_not_the_paths() {
    let bao = bao().await;
    let checked = Config::new(KV).check_with(bao, "no-such-token");
    assert_eq!(checked.code(), 1);
    assert!(checked.line(&["default", "no login"]).contains("give a new one"), "{}", checked.out());
    assert!(checked.line(&["old/thing"]).contains("can't log in"), "{}", checked.out());
    assert!(!checked.out().contains("no-such-token"));
}

#[tokio::test]
async fn json_holds_all_that_the_tables_say() {
    let bao = bao().await;
    let token =
        token_with(bao, "weather-only", r#"path "secret/data/agents/weather" { capabilities = ["read"] }"#)
            .await;
    let variables = [("VAULT_ADDR", bao.address()), ("VAULT_TOKEN", token.as_str())];
    let checked = Config::new(KV).check(&["--json"], &variables);
    assert_eq!(checked.code(), 1);
    let report: Value = serde_json::from_str(&checked.out()).unwrap();
    assert_eq!(report["identities"][0]["logged-in"], true);
    assert_eq!(report["identities"][0]["kind"], "service");
    let paths = report["paths"].as_array().unwrap();
    let path = |name: &str| paths.iter().find(|one| one["path"] == name).unwrap();
    assert_eq!(path("secret/agents/weather")["readable"], "yes");
    assert_eq!(path("secret/agents/weather")["engine"], "kv v2");
    assert_eq!(path("secret/agents/weather")["files"], json!(["weather"]));
    assert_eq!(path("secret/agents/")["readable"], "no");
    let needs = json!([
        r#"path "secret/metadata/agents/*" { capabilities = ["list"] }"#,
        r#"path "secret/data/agents/*" { capabilities = ["read"] }"#,
    ]);
    assert_eq!(path("secret/agents/")["needs"], needs);
}

#[test]
fn five_mistakes_are_five_complaints_and_vault_is_not_asked() {
    let config = Config::new(
        r#"
[vault]
address = "http://127.0.0.1:1"
[file."a"]
secrets = "secret/a"
[file."../b"]
secret = "secret/b"
[file."c"]
secret = "secret/c"
mode = "9999"
[file."d"]
secret = "secret/d"
max-age = "soon"
[dir."e"]
secret = "pki/issue/e"
params = { ttl = "1h" }
"#,
    );
    let checked = config.check(&[], &[("VAULT_TOKEN", "x")]);
    assert_eq!(checked.code(), 78);
    assert!(checked.err().starts_with("leasefs: "), "{}", checked.err());
    assert!(checked.err().matches("agent.toml:").count() >= 5, "{}", checked.err());
    assert_eq!(checked.out(), "");
    let json = config.check(&["--json"], &[("VAULT_TOKEN", "x")]);
    assert_eq!(json.code(), 78);
    let report: Value = serde_json::from_str(&json.out()).unwrap();
    assert!(report["complaints"].as_array().unwrap().len() >= 5, "{report}");
}

#[test]
fn a_vault_that_is_not_there_is_told_apart_from_one_that_says_no() {
    let config = Config::new(KV);
    let variables = [("VAULT_ADDR", "http://127.0.0.1:1"), ("VAULT_TOKEN", "x")];
    let checked = config.check(&[], &variables);
    assert_eq!(checked.code(), 69, "{}{}", checked.out(), checked.err());
    assert!(checked.line(&["default", "no login"]).contains("127.0.0.1:1"), "{}", checked.out());

    let offline = config.check(&["--offline"], &variables);
    assert_eq!(offline.code(), 0, "{}{}", offline.out(), offline.err());
    assert!(offline.out().contains("4 paths; Vault was not asked"), "{}", offline.out());
}

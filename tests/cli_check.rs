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

#[tokio::test]
async fn rights_that_no_file_needs_are_remarked_on() {
    let bao = bao().await;
    let config = Config::new("[file.weather]\nsecret = \"secret/agents/weather#key\"\n");
    for (policy, rules, told) in [
        (
            "wide-siblings",
            r#"path "secret/data/agents/*" { capabilities = ["read"] }"#,
            "read of secret/data/agents/*",
        ),
        ("wide-mount", r#"path "secret/*" { capabilities = ["read"] }"#, "read of secret/*,"),
        ("wide-all", r#"path "*" { capabilities = ["read"] }"#, "read of *,"),
        (
            "wide-plus",
            r#"path "secret/data/+/weather" { capabilities = ["read"] }"#,
            "read of secret/data/+/weather,",
        ),
        (
            "wide-words",
            r#"path "secret/data/agents/weather" { capabilities = ["read", "update", "sudo"] }"#,
            "also allows sudo, update of secret/data/agents/weather,",
        ),
    ] {
        let checked = config.check_with(bao, &token_with(bao, policy, rules).await);
        assert_eq!(checked.code(), 0, "a remark is no fault: {}", checked.out());
        checked.line(&["warning: identity default", told]);
        assert_eq!(checked.out().matches("warning").count(), 1, "{}", checked.out());
    }
    let exact = r#"path "secret/data/agents/weather" { capabilities = ["read"] }"#;
    assert!(!config.check_with(bao, &token_with(bao, "exact", exact).await).out().contains("warning"));
}

#[tokio::test]
async fn tokens_that_live_longer_than_anyone_needs_them_are_remarked_on() {
    let bao = bao().await;
    bao.write_policy("sky", r#"path "secret/data/agents/weather" { capabilities = ["read"] }"#).await;
    let files = "[file.weather]\nsecret = \"secret/agents/weather#key\"\n";
    let config = Config::new(files);
    let periodic = bao.create_token(json!({"policies": ["sky"], "period": "1h"})).await;
    let periodic = config.check_with(bao, &periodic);
    periodic.line(&["default", "periodic, lives for", "renewable by 1h without an end"]);
    assert!(!periodic.out().contains("warning"), "{}", periodic.out());
    let long = config.check_with(bao, &bao.create_token(json!({"policies": ["sky"]})).await);
    long.line(&["warning: identity default", "a ttl, or a period, of 1h is enough"]);

    let role = bao.create_approle("long", json!({"token_policies": ["sky"]})).await;
    let approle = Config::new(&format!(
        "[identity.default]\nmethod = \"approle\"\nrole-id = \"{}\"\nsecret-id-file = \"{}\"\n{files}",
        role.role_id,
        role.secret_id_file.display()
    ));
    let checked = approle.check(&[], &[("VAULT_ADDR", bao.address())]);
    assert_eq!(checked.code(), 0, "{}", checked.out());
    checked.line(&["warning: identity default", "the role's token_ttl of 1h is enough"]);
}

#[tokio::test]
async fn leases_are_held_against_the_rule_where_the_role_may_be_read() {
    let bao = bao().await;
    let role =
        |ttl: &str| json!({"allow_any_name": true, "generate_lease": true, "ttl": ttl, "max_ttl": "72h"});
    bao.write("pki/roles/short", role("90s")).await;
    bao.write("pki/roles/right", role("1h")).await;
    bao.write("pki/roles/long", role("48h")).await;
    let file = |name: &str| {
        format!(
            "[file.{name}]\nsecret = \"pki/issue/{name}#certificate\"\nparams = {{ common_name = \"a\" }}\n"
        )
    };
    let config = Config::new(&["short", "right", "long", "absent"].map(file).concat());
    let issue = ["short", "right", "long", "absent"]
        .map(|name| format!("path \"pki/issue/{name}\" {{ capabilities = [\"update\"] }}\n"));
    let revoke = "path \"sys/leases/revoke\" { capabilities = [\"update\"] }\n";
    let least = token_with(bao, "issues", &(issue.concat() + revoke)).await;
    let least = config.check_with(bao, &least);
    assert_eq!((least.code(), least.out().contains("warning")), (0, false), "{}", least.out());

    let roles = "path \"pki/roles/*\" { capabilities = [\"read\"] }\n";
    let reads = token_with(bao, "issues-and-reads", &(issue.concat() + revoke + roles)).await;
    let reads = config.check_with(bao, &reads);
    assert_eq!(reads.code(), 1);
    reads.line(&["pki/issue/absent", "no role at pki/roles/absent"]);
    reads.line(&["warning: pki/issue/short", "an outage of Vault of 30s", "default_ttl to 3m or more"]);
    reads.line(&["warning: pki/issue/long", "live for 2days"]);
    assert!(!reads.out().contains("warning: pki/issue/right"), "{}", reads.out());
    assert!(bao.leases("pki/issue/short").await.is_empty(), "nothing was issued");
}

#[tokio::test]
async fn values_that_are_no_texts_are_remarked_on_where_they_are_shown() {
    let bao = bao().await;
    let values = json!({"port": 5432, "on": true, "text": "5432", "list": [1], "hidden": 7});
    bao.write_kv2("secret", "kinds/all", values).await;
    let files = ["port", "on", "text", "list"]
        .map(|field| format!("[file.{field}]\nsecret = \"secret/kinds/all#{field}\"\n"));
    let rules = r#"path "secret/data/kinds/all" { capabilities = ["read"] }"#;
    let checked = Config::new(&files.concat()).check_with(bao, &token_with(bao, "kinds", rules).await);
    assert_eq!(checked.code(), 0);
    checked.line(&["warning: secret/kinds/all", "\"port\"", "a number, which KV may have rounded"]);
    checked.line(&["warning: secret/kinds/all", "\"on\"", "true or false"]);
    checked.line(&["warning: secret/kinds/all", "\"list\"", "a list or an object"]);
    assert_eq!(checked.out().matches("warning").count(), 3, "{}", checked.out());
    assert!(!checked.out().contains("5432"), "a check shows no value: {}", checked.out());
}

#[tokio::test]
async fn an_identity_that_cannot_log_in_has_rows_of_its_own_and_the_others_go_on() {
    let bao = bao().await;
    bao.write_policy("good", r#"path "secret/data/agents/weather" { capabilities = ["read"] }"#).await;
    let role = bao.create_approle("good", json!({"token_policies": ["good"], "token_ttl": "1h"})).await;
    let identity = |name: &str, secret_id: &std::path::Path| {
        format!(
            "[identity.{name}]\nmethod = \"approle\"\nrole-id = \"{}\"\nsecret-id-file = \"{}\"\n\
             [file.{name}]\nidentity = \"{name}\"\nsecret = \"secret/agents/weather#key\"\n",
            role.role_id,
            secret_id.display()
        )
    };
    let wrong = bao.secret_file("wrong.secret-id", "00000000-0000-0000-0000-000000000000");
    let absent = bao.directory().join("absent.secret-id");
    let config = Config::new(
        &(identity("broken", &wrong)
            + &identity("good", &role.secret_id_file)
            + &identity("missing", &absent)),
    );
    let variables = [("VAULT_ADDR", bao.address())];
    let checked = config.check(&[], &variables);
    assert_eq!(checked.code(), 1, "{}{}", checked.out(), checked.err());
    checked.line(&["broken ", "approle", "no login"]);
    checked.line(&["missing ", "approle", "no login", "absent.secret-id"]);
    checked.line(&["good ", "approle", "service, lives for", "renewable"]);
    checked.line(&["secret/agents/weather", "broken ", "no ", "can't log in"]);
    checked.line(&["secret/agents/weather", "kv v2", "good ", "yes"]);
    let report: Value = serde_json::from_str(&config.check(&["--json"], &variables).out()).unwrap();
    let readable: Vec<&str> =
        report["paths"].as_array().unwrap().iter().filter_map(|one| one["readable"].as_str()).collect();
    assert_eq!(readable, ["no", "yes", "no"]);
}

#[test]
fn plain_http_to_another_host_is_remarked_on_even_offline() {
    let text = "[vault]\naddress = \"http://vault.example.internal:8200\"\nallow-http = true\n";
    let checked = Config::new(&(text.to_owned() + KV)).check(&["--offline"], &[("VAULT_TOKEN", "x")]);
    assert_eq!(checked.code(), 0, "{}", checked.err());
    checked.line(&["warning", "http://vault.example.internal:8200", "in the clear"]);
}

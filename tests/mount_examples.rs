//! The configurations that people copy, mounted as they are on a real server that has what they name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, reason = "a test may panic")]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use support::bao::Bao;
use support::mount::Mount;
use support::postgres::Postgres;

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-config").join(name);
    fs::read_to_string(path).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kv_example_shows_a_secret_whole_by_field_and_in_a_tree() {
    let bao = Bao::start().await;
    bao.write_kv2("secret", "agents/weather", json!({"api-key": "k1", "units": "metric"})).await;
    bao.write_kv2("secret", "agents/traffic", json!({"token": "t1"})).await;
    let variables = [("VAULT_ADDR", bao.address()), ("VAULT_TOKEN", bao.root_token())];
    let mount = Mount::start(&example("kv.toml"), &variables);
    assert_eq!(mount.read("weather.json").unwrap(), "{\"api-key\":\"k1\",\"units\":\"metric\"}\n");
    assert_eq!(mount.read("weather/api-key").unwrap(), "k1");
    assert_eq!(mount.read("kv/traffic/token").unwrap(), "t1");
    let mut names: Vec<_> = fs::read_dir(mount.path("kv"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["traffic", "weather"]);
    let (status, log) = mount.stop();
    assert!(status.success(), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_example_logs_in_with_one_account() {
    let (bao, postgres) = tokio::join!(Bao::start(), Postgres::start());
    postgres.connect(&bao, "database").await;
    let (ttl, max_ttl) = (Duration::from_secs(60), Duration::from_secs(180));
    postgres.add_role(&bao, "database", "agent-read-only", ttl, max_ttl).await;
    let variables = [("VAULT_ADDR", bao.address()), ("VAULT_TOKEN", bao.root_token())];
    let mount = Mount::start(&example("database.toml"), &variables);
    let (user, password) = (mount.read("db/username").unwrap(), mount.read("db/password").unwrap());
    assert!(postgres.admits(&user, &password));
    let login: serde_json::Value = serde_json::from_str(&mount.read("db/login.json").unwrap()).unwrap();
    assert_eq!(login, json!({"username": user, "password": password}));
    assert_eq!(bao.leases("database/creds/agent-read-only").await.len(), 1);
    let (status, log) = mount.stop();
    assert!(status.success(), "{log}");
    assert!(bao.leases("database/creds/agent-read-only").await.is_empty());
    assert!(!postgres.admits(&user, &password));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_approle_example_logs_in_over_tls_with_credentials_of_systemd() {
    let bao = Bao::start_tls().await;
    bao.call("POST", "sys/auth/approle", Some(json!({"type": "approle"}))).await;
    bao.write_kv2("secret", "agents/weather", json!({"api-key": "k1"})).await;
    bao.enable("pki", "pki", json!({})).await;
    bao.write("pki/root/generate/internal", json!({"common_name": "test authority"})).await;
    bao.write("pki/roles/agent", json!({"allowed_domains": "example.internal", "allow_subdomains": true}))
        .await;
    let rules = r#"
        path "secret/data/agents/weather" { capabilities = ["read"] }
        path "pki/issue/agent" { capabilities = ["update"] }
    "#;
    bao.write_policy("agent", rules).await;
    let role = bao.create_approle("agent", json!({"token_policies": "agent", "token_ttl": "1m"})).await;
    let credentials = tempfile::tempdir().unwrap();
    fs::write(credentials.path().join("role-id"), &role.role_id).unwrap();
    fs::copy(&role.secret_id_file, credentials.path().join("secret-id")).unwrap();
    // The server's own address in the place of those that the example names.
    let text = example("approle.toml");
    let lines = text.lines().map(|line| match line.starts_with("address = ") {
        true => format!("address = \"{}\"\n", bao.address()),
        false => format!("{line}\n"),
    });
    let authority = bao.plan().ca_cert.unwrap();
    let variables = [
        ("CREDENTIALS_DIRECTORY", credentials.path().to_str().unwrap()),
        ("VAULT_CACERT", authority.to_str().unwrap()),
    ];
    let mount = Mount::start(&lines.collect::<String>(), &variables);
    assert_eq!(mount.read("api-key").unwrap(), "k1");
    assert!(mount.read("tls/tls.crt").unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    assert!(mount.read("tls/tls.key").unwrap().contains("PRIVATE KEY-----"));
    let serials = bao.call("LIST", "pki/certs", None).await;
    // The authority's own, and one for the three files.
    assert_eq!(serials["data"]["keys"].as_array().unwrap().len(), 2);
    let (status, log) = mount.stop();
    assert!(status.success(), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tenants_example_shows_each_tenant_its_secrets_and_nobody_elses() {
    let bao = Bao::start().await;
    bao.call("POST", "sys/auth/approle", Some(json!({"type": "approle"}))).await;
    let secrets = [
        ("billing", "invoices/stripe", json!({"key": "of billing"})),
        ("billing", "reminders/smtp", json!({"user": "u"})),
        ("search", "indexer/index", json!({"token": "of search"})),
        ("search", "crawler/proxy", json!({"password": "p"})),
    ];
    for (tenant, name, secret) in secrets {
        bao.write_kv2("secret", &format!("tenants/{tenant}/agents/{name}"), secret).await;
    }
    // The server's address and the roles' ids in the place of those that the example names.
    let mut text = example("tenants.toml").replace("https://vault.example.internal:8200", bao.address());
    for tenant in ["billing", "search"] {
        let rules = format!(
            "path \"secret/data/tenants/{tenant}/*\" {{ capabilities = [\"read\"] }}\n\
             path \"secret/metadata/tenants/{tenant}/*\" {{ capabilities = [\"list\", \"read\"] }}"
        );
        bao.write_policy(tenant, &rules).await;
        let role = bao.create_approle(tenant, json!({"token_policies": tenant, "token_ttl": "1m"})).await;
        let (before, after) = text.split_once(&format!("[identity.{tenant}]")).unwrap();
        let after =
            after.replacen("role-id = \"", "role-id = \"ID\" # \"", 1).replacen("ID", &role.role_id, 1);
        text = format!("{before}[identity.{tenant}]{after}");
        let path = format!("/etc/leasefs/{tenant}.secret-id");
        text = text.replace(&path, role.secret_id_file.to_str().unwrap());
    }
    // The included files have to be there before the mount is: it starts without them.
    let head = text.split("[defaults]").next().unwrap().replace("include = [\"conf.d/*.toml\"]", "");
    let mount = Mount::start(&head, &[]);
    fs::create_dir(mount.directory().join("conf.d")).unwrap();
    for name in ["conf.d/billing.toml", "conf.d/search.toml"] {
        fs::write(mount.directory().join(name), example(name)).unwrap();
    }
    fs::write(mount.directory().join("config.toml"), &text).unwrap();
    let reload = || {
        fs::read_dir(mount.root()).unwrap();
        mount.command(&["reload", mount.root().to_str().unwrap()])
    };
    let (ended, said) = reload();
    assert!(ended.success(), "{said}\n{}", mount.log());
    assert_eq!(mount.read("billing/stripe-key").unwrap(), "of billing");
    assert_eq!(mount.read("billing/smtp.json").unwrap(), "{\"user\":\"u\"}\n");
    assert_eq!(mount.read("search/index-token").unwrap(), "of search");
    assert_eq!(mount.read("search/crawler/proxy/password").unwrap(), "p");
    let owner = |name: &str| std::os::unix::fs::MetadataExt::uid(&fs::metadata(mount.path(name)).unwrap());
    assert_eq!((owner("billing/stripe-key"), owner("search/index-token")), (2001, 2002));
    // The one reaches for the other's secret: with its own identity Vault says no, with the other's leasefs does.
    let theirs = "\n[file.\"billing/theirs\"]\nsecret = \"secret/tenants/search/agents/indexer/index#token\"\n\
                  engine = \"kv2\"\n";
    fs::write(mount.directory().join("conf.d/billing.toml"), example("conf.d/billing.toml") + theirs)
        .unwrap();
    let (ended, said) = reload();
    assert!(ended.success(), "{said}\n{}", mount.log());
    assert_eq!(mount.errno("billing/theirs"), libc::EACCES);
    let theirs = format!("{}{theirs}identity = \"search\"\n", example("conf.d/billing.toml"));
    fs::write(mount.directory().join("conf.d/billing.toml"), theirs).unwrap();
    let (ended, said) = reload();
    assert_eq!(ended.code(), Some(78), "{said}");
    assert!(said.contains("the identity \"search\" is not granted to this file"), "{said}");
    assert_eq!(mount.errno("billing/theirs"), libc::EACCES);
    assert_eq!(mount.read("search/index-token").unwrap(), "of search");
    let (status, log) = mount.stop();
    assert!(status.success(), "{log}");
}

/// An example with what a test has in the place of what the example names.
fn adapted(name: &str, places: &[(&str, &str)]) -> String {
    places.iter().fold(example(name), |text, (there, here)| {
        assert!(text.contains(there), "{there} in {name}");
        text.replace(there, here)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_the_ways_to_log_in_show_their_secret() {
    let bao = Bao::start_tls().await;
    for method in ["approle", "cert", "userpass"] {
        bao.call("POST", &format!("sys/auth/{method}"), Some(json!({"type": method}))).await;
    }
    bao.write_kv2("secret", "agents/weather", json!({"api-key": "k1"})).await;
    bao.write_policy("agent", r#"path "secret/data/agents/weather" { capabilities = ["read"] }"#).await;
    let policy = json!({"token_policies": "agent"});
    let address = ("https://vault.example.internal:8200", bao.address());
    let authority = bao.plan().ca_cert.unwrap();
    let variables = [("VAULT_CACERT", authority.to_str().unwrap())];
    let shows = |config: String| {
        let mount = Mount::start(&config, &variables);
        assert_eq!(mount.read("api-key").unwrap_or_else(|error| panic!("{error}\n{}", mount.log())), "k1");
        let (status, log) = mount.stop();
        assert!(status.success(), "{log}");
    };

    let token = bao.create_token(json!({"policies": ["agent"], "ttl": "1h"})).await;
    let token = bao.secret_file("agent.token", &token);
    shows(adapted("token.toml", &[address, ("/etc/leasefs/agent.token", token.to_str().unwrap())]));

    let role = bao.create_approle("agent", policy.clone()).await;
    let wrapping = bao.wrap("auth/approle/role/agent/secret-id", json!({})).await;
    let wrapping = bao.secret_file("agent.wrapped", &wrapping);
    let id = ("6c5f5d3a-3a5e-4a53-9d2c-1f0a4f6f0b11", &*role.role_id);
    shows(adapted(
        "wrapped.toml",
        &[address, id, ("/etc/leasefs/agent.wrapped", wrapping.to_str().unwrap())],
    ));

    let user = json!({"password": "a password", "token_policies": "agent"});
    bao.write("auth/userpass/users/agent", user).await;
    let password = bao.secret_file("agent.password", "a password");
    shows(adapted("userpass.toml", &[address, ("/etc/leasefs/agent.password", password.to_str().unwrap())]));

    bao.enable("pki", "pki", json!({})).await;
    let root = bao.write("pki/root/generate/internal", json!({"common_name": "machines"})).await;
    bao.write("pki/roles/host", json!({"allowed_domains": "example.internal", "allow_subdomains": true}))
        .await;
    let names = json!({"certificate": root["data"]["certificate"], "allowed_common_names": "*.example.internal",
        "token_policies": "agent"});
    bao.write("auth/cert/certs/host", names).await;
    let issued =
        bao.write("pki/issue/host", json!({"common_name": "one.example.internal", "ttl": "1h"})).await;
    let certificate = bao.secret_file("host.crt", issued["data"]["certificate"].as_str().unwrap());
    let key = bao.secret_file("host.key", issued["data"]["private_key"].as_str().unwrap());
    shows(adapted(
        "cert.toml",
        &[
            address,
            ("/etc/leasefs/ca.pem", authority.to_str().unwrap()),
            ("/etc/leasefs/host.crt", certificate.to_str().unwrap()),
            ("/etc/leasefs/host.key", key.to_str().unwrap()),
        ],
    ));
}

//! What only a real OpenBao can show: TLS, engines, tokens of every kind, a database that is down.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may panic, and servers take their own time to start"
)]

#[allow(dead_code, reason = "each test binary uses its own part of it")]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use leasefs::config::plan::{ClientCertificate, CredentialSource, IdentityPlan, Method, VaultPlan, Wrapping};
use leasefs::core::effect::{EngineHint, ReadRequest};
use leasefs::core::error::{Failure, Fault};
use leasefs::core::name::{IdentityId, VaultPath};
use leasefs::vault::client::{Client, ClientError};
use leasefs::vault::{Lease, Secret, SecretKind, Token, Vault};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use support::bao::Bao;
use support::postgres::Postgres;

const FIRST: IdentityId = IdentityId(0);

/// One OpenBao for all tests of this file that leave it in order.
async fn bao() -> &'static Bao {
    static BAO: OnceCell<Bao> = OnceCell::const_new();
    BAO.get_or_init(Bao::start).await
}

/// A client whose only identity has this token, logged in.
async fn with_token(bao: &Bao, name: &str, token: &str) -> (Client, Token) {
    let client = bao.client(&[bao.token_identity(name, token)]);
    let token = client.login(FIRST).await.unwrap().token;
    (client, token)
}

async fn as_root(bao: &Bao) -> (Client, Token) {
    with_token(bao, "root", bao.root_token()).await
}

fn reading(path: &str) -> ReadRequest {
    ReadRequest { path: VaultPath::new(path).unwrap(), params: None, version: None, engine: EngineHint::Auto }
}

fn fields(secret: &Secret) -> Value {
    serde_json::from_slice(secret.data.expose()).unwrap()
}

fn failure<T>(outcome: Result<T, Failure>) -> Failure {
    match outcome {
        Ok(_) => panic!("it worked"),
        Err(failure) => failure,
    }
}

fn lease(secret: &Secret) -> Lease {
    match &secret.kind {
        SecretKind::Leased(lease) => lease.clone(),
        other => panic!("{other:?} is no lease"),
    }
}

#[tokio::test]
async fn every_name_that_kv_takes_can_be_read() {
    let bao = bao().await;
    let (client, token) = as_root(bao).await;
    let names =
        ["a b", "100%", "what?", "a:b", "a#b", "%2e%2e", "a+b", "ünïcode", "a\\b", "a&b=c", "data/x", "..."];
    for name in names {
        bao.write_kv2("secret", &format!("names/{name}"), json!({"name": name})).await;
        let path = format!("secret/names/{name}");
        let secret = client.read(&token, &reading(&path)).await.unwrap();
        assert_eq!(fields(&secret), json!({"name": name}));
    }
    let mut listed = client.list(&token, &VaultPath::new("secret/names").unwrap()).await.unwrap();
    listed.sort();
    let mut expected: Vec<&str> =
        names.iter().map(|name| if *name == "data/x" { "data/" } else { name }).collect();
    expected.sort();
    assert_eq!(listed, expected);
}

#[tokio::test]
async fn a_version_knows_when_it_will_be_deleted() {
    let bao = bao().await;
    let (client, token) = as_root(bao).await;
    bao.write("secret/metadata/fleeting", json!({"delete_version_after": "1h"})).await;
    bao.write_kv2("secret", "fleeting", json!({"a": "b"})).await;
    let secret = client.read(&token, &reading("secret/fleeting")).await.unwrap();
    let SecretKind::Kv { version: Some(1), created: Some(created), deletion: Some(deletion) } = secret.kind
    else {
        panic!("{:?}", secret.kind);
    };
    assert_eq!(deletion.seconds - created.seconds, 3600);
}

#[tokio::test]
async fn a_destroyed_version_says_so() {
    let bao = bao().await;
    let (client, token) = as_root(bao).await;
    bao.write_kv2("secret", "destroyed", json!({"a": "b"})).await;
    bao.call("PUT", "secret/destroy/destroyed", Some(json!({"versions": [1]}))).await;
    let failure = failure(client.read(&token, &reading("secret/destroyed")).await);
    assert_eq!(failure.fault, Fault::NotFound);
    assert!(failure.reason.contains("was destroyed"), "{}", failure.reason);
}

#[tokio::test]
async fn a_mount_that_changes_its_kind_is_noticed() {
    let bao = bao().await;
    let (client, token) = as_root(bao).await;
    bao.enable_kv1("changing").await;
    bao.write("changing/a", json!({"version": "one"})).await;
    assert_eq!(
        fields(&client.read(&token, &reading("changing/a")).await.unwrap()),
        json!({"version": "one"})
    );
    bao.delete("sys/mounts/changing").await;
    bao.enable_kv2("changing").await;
    bao.write_kv2("changing", "a", json!({"version": "two"})).await;
    assert_eq!(failure(client.read(&token, &reading("changing/a")).await).fault, Fault::NotFound);
    assert_eq!(
        fields(&client.read(&token, &reading("changing/a")).await.unwrap()),
        json!({"version": "two"})
    );
}

#[tokio::test]
async fn a_certificate_is_minted_by_a_write_and_ends_with_its_validity() {
    let bao = bao().await;
    let (client, token) = as_root(bao).await;
    bao.enable("pki", "pki", json!({})).await;
    bao.write("pki/root/generate/internal", json!({"common_name": "test root", "ttl": "24h"})).await;
    bao.write(
        "pki/roles/agent",
        json!({"allow_any_name": true, "max_ttl": "2h", "key_type": "ec", "key_bits": 256}),
    )
    .await;
    let issue = |params: &[(&str, &str)]| {
        let params = params.iter().map(|&(key, value)| (key.to_owned(), value.to_owned()));
        ReadRequest { params: Some(params.collect::<BTreeMap<_, _>>()), ..reading("pki/issue/agent") }
    };
    let request = issue(&[("common_name", r#""agent.internal""#), ("ttl", r#""1h""#)]);
    let secret = client.read(&token, &request).await.unwrap();
    let SecretKind::Other { minted: true, ttl: Some(ttl) } = secret.kind else {
        panic!("{:?}", secret.kind);
    };
    assert!(ttl <= Duration::from_secs(3600) && ttl > Duration::from_secs(3500), "{ttl:?}");
    assert!(fields(&secret)["private_key"].is_string());

    let read_without = failure(client.read(&token, &reading("pki/issue/agent")).await);
    assert_eq!(read_without.fault, Fault::Refused);
    assert!(read_without.reason.contains("params"), "{}", read_without.reason);
    assert_eq!(failure(client.read(&token, &issue(&[])).await).fault, Fault::Refused);
    let nobody = ReadRequest { path: VaultPath::new("pki/issue/nobody").unwrap(), ..request };
    assert_eq!(failure(client.read(&token, &nobody).await).fault, Fault::NotFound);
}

#[tokio::test]
async fn a_token_without_the_default_policy_is_told_from_a_dead_one() {
    let bao = bao().await;
    bao.write_policy("bare", r#"path "secret/data/bare/*" { capabilities = ["read"] }"#).await;
    bao.write_kv2("secret", "bare/a", json!({"a": "b"})).await;
    bao.call("POST", "sys/auth/bare", Some(json!({"type": "approle"}))).await;
    let role = json!({"token_policies": ["bare"], "token_no_default_policy": true, "bind_secret_id": false,
        "token_bound_cidrs": ["127.0.0.0/8"]});
    bao.call("POST", "auth/bare/role/agent", Some(role)).await;
    let role_id = bao.call("GET", "auth/bare/role/agent/role-id", None).await;
    let method = Method::AppRole {
        auth_path: VaultPath::new("bare").unwrap(),
        role_id: CredentialSource::Literal(role_id["data"]["role_id"].as_str().unwrap().to_owned()),
        secret_id: None,
        wrapping: Wrapping::Plain,
    };
    let client = bao.client(&[IdentityPlan { name: "bare".to_owned(), method, namespace: None }]);
    let token = client.login(FIRST).await.unwrap().token;
    assert!(client.read(&token, &reading("secret/bare/a")).await.is_ok());
    assert_eq!(failure(client.read(&token, &reading("secret/other")).await).fault, Fault::Denied);
    bao.revoke_token(std::str::from_utf8(token.secret().expose()).unwrap()).await;
    assert_eq!(failure(client.read(&token, &reading("secret/other")).await).fault, Fault::TokenLost);
}

#[tokio::test]
async fn tokens_that_cannot_serve_a_mount_are_refused_at_login() {
    let bao = bao().await;
    let bare = bao.create_token(json!({"policies": ["bare"], "no_default_policy": true})).await;
    let counted = bao.create_token(json!({"num_uses": 5})).await;
    for (name, token, told) in [
        ("bare", bare.as_str(), "may not look itself up"),
        ("counted", &counted, "num_uses"),
        ("dead", "s.dead", "is dead"),
    ] {
        let client = bao.client(&[bao.token_identity(name, token)]);
        let failure = failure(client.login(FIRST).await);
        assert!(matches!(failure.fault, Fault::Denied | Fault::TokenLost), "{failure:?}");
        assert!(failure.reason.contains(told), "{}", failure.reason);
        assert!(!failure.reason.contains(token), "{}", failure.reason);
    }
}

#[tokio::test]
async fn a_batch_token_works_and_says_what_it_is() {
    let bao = bao().await;
    let batch = bao.create_token(json!({"type": "batch", "ttl": "1h", "policies": ["default"]})).await;
    let client = bao.client(&[bao.token_identity("batch", &batch)]);
    let login = client.login(FIRST).await.unwrap();
    assert!(login.info.batch && !login.info.renewable);
    assert_eq!(failure(client.renew_self(&login.token).await).fault, Fault::NotRenewable);
    assert_eq!(failure(client.revoke_self(&login.token).await).fault, Fault::Refused);
}

#[tokio::test]
async fn an_identity_reads_from_its_namespace() {
    let bao = bao().await;
    bao.call("POST", "sys/namespaces/team-a", Some(json!({}))).await;
    let client = Client::new(
        &VaultPlan { namespace: Some("team-a".to_owned()), ..bao.plan() },
        &[bao.token_identity("root-in-team", bao.root_token())],
    )
    .unwrap();
    let token = client.login(FIRST).await.unwrap().token;
    assert_eq!(token.namespace(), Some("team-a"));
    bao.call("POST", "team-a/sys/mounts/kv", Some(json!({"type": "kv", "options": {"version": "1"}}))).await;
    bao.write("team-a/kv/a", json!({"of": "team-a"})).await;
    assert_eq!(fields(&client.read(&token, &reading("kv/a")).await.unwrap()), json!({"of": "team-a"}));
    let (elsewhere, token) = as_root(bao).await;
    assert_eq!(failure(elsewhere.read(&token, &reading("kv/a")).await).fault, Fault::NotFound);
}

#[tokio::test]
async fn a_sealed_server_says_so() {
    let bao = Bao::start().await;
    let (client, token) = as_root(&bao).await;
    client.health().await.unwrap();
    bao.call("PUT", "sys/seal", None).await;
    assert_eq!(failure(client.health().await).fault, Fault::Sealed);
    assert_eq!(failure(client.read(&token, &reading("secret/a")).await).fault, Fault::Sealed);
    assert_eq!(failure(client.login(FIRST).await).fault, Fault::Sealed);
}

#[tokio::test]
async fn a_database_that_is_down_is_a_passing_failure() {
    let (bao, postgres) = tokio::join!(Bao::start(), Postgres::start());
    let minute = Duration::from_secs(60);
    postgres.connect(&bao, "db").await;
    postgres.add_role(&bao, "db", "reader", minute, 10 * minute).await;
    let (client, token) = as_root(&bao).await;
    let secret = client.read(&token, &reading("db/creds/reader")).await.unwrap();
    let (held, fields) = (lease(&secret), fields(&secret));
    let (user, password) = (fields["username"].as_str().unwrap(), fields["password"].as_str().unwrap());
    assert!(postgres.admits(user, password));
    assert!(!postgres.admits(user, "another"));

    postgres.refuse_connections();
    let renewed = failure(client.renew_lease(&token, &held.id, minute).await);
    assert_eq!(renewed.fault, Fault::ServerError, "{}", renewed.reason);
    let issued = failure(client.read(&token, &reading("db/creds/reader")).await);
    assert_eq!(issued.fault, Fault::ServerError, "{}", issued.reason);
    let revoked = failure(client.revoke_lease(&token, &held.id).await);
    assert_eq!(revoked.fault, Fault::ServerError, "{}", revoked.reason);

    // The revocation is queued: OpenBao has ended the lease for itself and tries on.
    let left = client.look_up_lease(&token, &held.id).await;
    assert!(matches!(left, Ok(Duration::ZERO) | Err(Failure { fault: Fault::LeaseGone, .. })), "{left:?}");
}

#[tokio::test]
async fn a_role_without_policies_logs_in_and_one_for_few_uses_is_refused() {
    let bao = bao().await;
    bao.call("POST", "sys/auth/approle", Some(json!({"type": "approle"}))).await;
    let plain = bao.create_approle("plain", json!({})).await;
    let few = bao.create_approle("few", json!({"token_num_uses": 3})).await;
    let client = bao.client(&[bao.approle_identity("plain", &plain), bao.approle_identity("few", &few)]);
    assert!(client.login(FIRST).await.is_ok());
    let refused = failure(client.login(IdentityId(1)).await);
    assert!(refused.reason.contains("num_uses"), "{}", refused.reason);
}

#[tokio::test]
async fn a_static_role_says_when_its_password_ends() {
    let (bao, postgres) = tokio::join!(Bao::start(), Postgres::start());
    postgres.connect(&bao, "db").await;
    postgres.add_static_role(&bao, "db", "fixed", Duration::from_secs(3600)).await;
    let (client, token) = as_root(&bao).await;
    let secret = client.read(&token, &reading("db/static-creds/fixed")).await.unwrap();
    let SecretKind::Static { ttl, .. } = secret.kind else {
        panic!("{:?}", secret.kind);
    };
    assert!(ttl <= Duration::from_secs(3600) && ttl > Duration::from_secs(3500), "{ttl:?}");
    assert!(postgres.admits("fixed", fields(&secret)["password"].as_str().unwrap()));
}

#[tokio::test]
async fn tls_trusts_the_configured_ca_and_name_and_no_other() {
    let bao = Bao::start_tls().await;
    let identities = [bao.token_identity("root", bao.root_token())];
    let log_in = async |plan: VaultPlan| Client::new(&plan, &identities).unwrap().login(FIRST).await;
    assert!(log_in(bao.plan()).await.is_ok());
    let named = VaultPlan { tls_server_name: Some("localhost".to_owned()), ..bao.plan() };
    assert!(log_in(named).await.is_ok());

    let strange_name = VaultPlan { tls_server_name: Some("vault.example".to_owned()), ..bao.plan() };
    let strange_ca = VaultPlan { ca_cert: Some(other_ca(&bao).await), ..bao.plan() };
    for plan in [strange_name, strange_ca] {
        let failure = failure(log_in(plan).await);
        assert_eq!(failure.fault, Fault::Unreachable);
        assert!(failure.reason.contains("TLS was refused"), "{}", failure.reason);
    }
}

/// A CA that has nothing to do with the server's certificate.
async fn other_ca(bao: &Bao) -> std::path::PathBuf {
    bao.enable("pki", "pki", json!({})).await;
    let ca =
        bao.write("pki/root/generate/internal", json!({"common_name": "other root", "ttl": "24h"})).await;
    let path = bao.directory().join("other.pem");
    fs::write(&path, ca["data"]["certificate"].as_str().unwrap()).unwrap();
    path
}

#[tokio::test]
async fn certificate_files_that_cannot_be_used_are_named() {
    let bao = bao().await;
    let empty = bao.secret_file("empty.pem", "");
    let absent = bao.directory().join("absent.pem");
    let plan = |ca_cert: Option<&std::path::PathBuf>, pair: Option<&std::path::PathBuf>| VaultPlan {
        addresses: vec!["https://127.0.0.1:1".to_owned()],
        ca_cert: ca_cert.cloned(),
        client_certificate: pair
            .map(|path| ClientCertificate { certificate: path.clone(), key: path.clone() }),
        ..bao.plan()
    };
    let refused = |plan: &VaultPlan| match Client::new(plan, &[]) {
        Ok(_) => panic!("{plan:?} was taken"),
        Err(error) => error,
    };
    assert_eq!(refused(&plan(Some(&empty), None)), ClientError::NoCertificate { path: empty.clone() });
    assert!(matches!(refused(&plan(Some(&absent), None)), ClientError::Unreadable { .. }));
    let bad_pair = ClientError::BadClientCertificate { certificate: empty.clone(), key: empty.clone() };
    assert_eq!(refused(&plan(None, Some(&empty))), bad_pair);
    let no_name = VaultPlan { tls_server_name: Some("10.0.0.1".to_owned()), ..plan(None, None) };
    assert!(matches!(refused(&no_name), ClientError::BadServerName { .. }));
}

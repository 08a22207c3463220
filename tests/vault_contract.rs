//! One body, two servers: what leasefs expects of a Vault is asked of the fake and of a real OpenBao, so
//! that the fake stays honest. What only OpenBao can show is in `vault_openbao.rs`, and what no honest server
//! answers in `vault_http.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may panic, and servers take their own time to start"
)]

#[allow(dead_code, reason = "each test binary uses its own part of it")]
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use leasefs::core::effect::{EngineHint, ReadRequest};
use leasefs::core::error::{Failure, Fault};
use leasefs::core::name::{IdentityId, LeaseId, VaultPath};
use leasefs::vault::client::Client;
use leasefs::vault::{Lease, Secret, SecretKind, Token, Vault};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use support::bao::{AppRole, Bao};
use support::fake_vault::{FakeIdentity, FakeVault, Role};
use support::postgres::Postgres;

/// The user's own token, which may do everything.
const ADMIN: IdentityId = IdentityId(0);
/// An AppRole that may read `kv2/app/` and the database's roles, and nothing else.
const AGENT: IdentityId = IdentityId(1);
/// An AppRole whose secret id is wrong.
const STRANGER: IdentityId = IdentityId(2);

/// What `db/creds/reader` grants.
const TTL: Duration = Duration::from_secs(600);
/// What its leases last at most.
const MAX_TTL: Duration = Duration::from_secs(1200);

/// A server, and an operator's hand on it.
///
/// It has KV at `kv1/` and `kv2/`, and the database roles `db/creds/reader` ([`TTL`], [`MAX_TTL`]).
trait Stage {
    type Server: Vault;

    fn vault(&self) -> &Self::Server;
    async fn write_kv1(&self, name: &str, fields: Value);
    async fn write_kv2(&self, name: &str, fields: Value);
    async fn delete_kv2(&self, name: &str);
    async fn revoke_lease(&self, lease: &LeaseId);
    async fn revoke_token(&self, token: &Token);
}

struct Fake(FakeVault);

impl Stage for Fake {
    type Server = FakeVault;

    fn vault(&self) -> &FakeVault {
        &self.0
    }

    async fn write_kv1(&self, name: &str, fields: Value) {
        self.0.write_kv(&format!("kv1/{name}"), &fields.to_string());
    }

    async fn write_kv2(&self, name: &str, fields: Value) {
        self.0.write_kv(&format!("kv2/{name}"), &fields.to_string());
    }

    async fn delete_kv2(&self, name: &str) {
        self.0.delete_kv(&format!("kv2/{name}"));
    }

    async fn revoke_lease(&self, lease: &LeaseId) {
        self.0.revoke_upstream(lease);
    }

    async fn revoke_token(&self, token: &Token) {
        self.0.revoke_token_upstream(token);
    }
}

async fn fake() -> Fake {
    let agent =
        FakeIdentity::login(Duration::from_secs(3600), &["kv2/data/app/", "kv2/metadata/app/", "db/creds/"]);
    let stranger = FakeIdentity { refused: true, ..agent.clone() };
    let fake = FakeVault::new(vec![FakeIdentity::root(), agent, stranger]);
    fake.mount_kv("kv1", 1);
    fake.mount_kv("kv2", 2);
    fake.mount("db", "database");
    fake.add_role("db/creds/reader", Role { ttl: TTL, max_ttl: MAX_TTL, renewable: true });
    Fake(fake)
}

/// OpenBao and PostgreSQL are started once for all tests of this file; each test has a client of its own.
struct Real {
    servers: &'static Servers,
    client: Client,
}

struct Servers {
    bao: Bao,
    _postgres: Postgres,
    agent: AppRole,
    stranger: AppRole,
}

impl Stage for Real {
    type Server = Client;

    fn vault(&self) -> &Client {
        &self.client
    }

    async fn write_kv1(&self, name: &str, fields: Value) {
        self.servers.bao.write(&format!("kv1/{name}"), fields).await;
    }

    async fn write_kv2(&self, name: &str, fields: Value) {
        self.servers.bao.write_kv2("kv2", name, fields).await;
    }

    async fn delete_kv2(&self, name: &str) {
        self.servers.bao.delete(&format!("kv2/data/{name}")).await;
    }

    async fn revoke_lease(&self, lease: &LeaseId) {
        self.servers.bao.revoke_lease(&lease.0).await;
    }

    async fn revoke_token(&self, token: &Token) {
        self.servers.bao.revoke_token(std::str::from_utf8(token.secret().expose()).unwrap()).await;
    }
}

async fn real() -> Real {
    static SERVERS: OnceCell<Servers> = OnceCell::const_new();
    let servers = SERVERS.get_or_init(start_servers).await;
    let bao = &servers.bao;
    let client = bao.client(&[
        bao.token_identity("admin", bao.root_token()),
        bao.approle_identity("agent", &servers.agent),
        bao.approle_identity("stranger", &servers.stranger),
    ]);
    Real { servers, client }
}

async fn start_servers() -> Servers {
    let (bao, postgres) = tokio::join!(Bao::start(), Postgres::start());
    bao.enable_kv1("kv1").await;
    bao.enable_kv2("kv2").await;
    postgres.connect(&bao, "db").await;
    postgres.add_role(&bao, "db", "reader", TTL, MAX_TTL).await;
    let rules = r#"
        path "kv2/data/app/*" { capabilities = ["read"] }
        path "kv2/metadata/app/*" { capabilities = ["list"] }
        path "db/creds/*" { capabilities = ["read"] }
    "#;
    bao.write_policy("agent", rules).await;
    bao.call("POST", "sys/auth/approle", Some(json!({"type": "approle"}))).await;
    let agent = bao.create_approle("agent", json!({"token_policies": ["agent"], "token_ttl": "1h"})).await;
    let file = bao.secret_file("wrong.secret-id", "11111111-2222-3333-4444-555555555555");
    let stranger = AppRole { secret_id_file: file, ..agent.clone() };
    Servers { bao, _postgres: postgres, agent, stranger }
}

/// Each function below becomes a test on the fake and a test on OpenBao.
macro_rules! on_both_servers {
    ($($name:ident),* $(,)?) => {
        mod on_the_fake {
            $(#[tokio::test(start_paused = true)] async fn $name() { super::$name(&super::fake().await).await; })*
        }
        mod on_openbao {
            $(#[tokio::test] async fn $name() { super::$name(&super::real().await).await; })*
        }
    };
}

on_both_servers! {
    a_kv1_secret_has_no_version_and_no_lease,
    a_kv2_secret_is_read_by_its_logical_and_by_its_api_path,
    a_pinned_version_stays_what_it_was,
    what_never_was_is_not_found,
    a_deleted_version_is_not_found_and_says_so,
    a_list_shows_entries_and_prefixes_and_nothing_if_there_is_none,
    a_policy_that_says_no_is_not_a_dead_token,
    a_dead_token_is_not_a_policy_that_says_no,
    a_dynamic_secret_comes_with_a_lease_and_each_read_mints,
    a_lease_is_renewed_up_to_its_cap_and_no_further,
    a_revoked_lease_is_gone_for_renewal_and_look_up,
    revoking_what_is_gone_already_is_no_error,
    the_default_policy_does_not_revoke_leases,
    a_role_that_does_not_exist_is_not_found,
    a_login_of_our_own_says_so_and_can_be_renewed,
    the_users_own_token_is_not_ours,
    wrong_credentials_are_denied,
    revoke_self_ends_the_token_and_its_leases,
    the_engine_of_a_path_is_named,
    capabilities_are_told_per_path,
    parameters_for_a_kv_secret_are_refused,
    a_healthy_server_says_so,
}

fn path(text: &str) -> VaultPath {
    VaultPath::new(text).unwrap()
}

fn reading(text: &str) -> ReadRequest {
    ReadRequest { path: path(text), params: None, version: None, engine: EngineHint::Auto }
}

fn fields(secret: &Secret) -> Value {
    serde_json::from_slice(secret.data.expose()).unwrap()
}

fn fault<T>(outcome: Result<T, Failure>) -> Fault {
    match outcome {
        Ok(_) => panic!("it worked"),
        Err(failure) => failure.fault,
    }
}

async fn token(stage: &impl Stage, identity: IdentityId) -> Token {
    stage.vault().login(identity).await.unwrap().token
}

async fn leased(stage: &impl Stage, token: &Token) -> (Lease, Value) {
    let secret = stage.vault().read(token, &reading("db/creds/reader")).await.unwrap();
    match &secret.kind {
        SecretKind::Leased(lease) => (lease.clone(), fields(&secret)),
        other => panic!("{other:?} is no lease"),
    }
}

async fn a_kv1_secret_has_no_version_and_no_lease(stage: &impl Stage) {
    stage.write_kv1("plain", json!({"a": "b", "ttl": "5m"})).await;
    let token = token(stage, ADMIN).await;
    let secret = stage.vault().read(&token, &reading("kv1/plain")).await.unwrap();
    assert_eq!(fields(&secret), json!({"a": "b", "ttl": "5m"}));
    assert_eq!(secret.kind, SecretKind::Kv { version: None, created: None, deletion: None });
}

async fn a_kv2_secret_is_read_by_its_logical_and_by_its_api_path(stage: &impl Stage) {
    stage.write_kv2("app/both", json!({"nested": {"list": [1, 2.5, null]}})).await;
    let token = token(stage, AGENT).await;
    for written in ["kv2/app/both", "kv2/data/app/both"] {
        let secret = stage.vault().read(&token, &reading(written)).await.unwrap();
        assert_eq!(fields(&secret), json!({"nested": {"list": [1, 2.5, null]}}));
        let SecretKind::Kv { version: Some(1), created: Some(created), deletion: None } = secret.kind else {
            panic!("{:?}", secret.kind);
        };
        assert!(created.seconds > 1_600_000_000);
    }
}

async fn a_pinned_version_stays_what_it_was(stage: &impl Stage) {
    for number in 1..=3 {
        stage.write_kv2("app/pinned", json!({"number": number})).await;
    }
    let token = token(stage, AGENT).await;
    let pinned = |version| ReadRequest { version, ..reading("kv2/app/pinned") };
    for (version, number) in [(None, 3), (Some(2), 2), (Some(1), 1)] {
        let secret = stage.vault().read(&token, &pinned(version)).await.unwrap();
        assert_eq!(fields(&secret), json!({"number": number}));
    }
    assert_eq!(fault(stage.vault().read(&token, &pinned(Some(9))).await), Fault::NotFound);
}

async fn what_never_was_is_not_found(stage: &impl Stage) {
    let token = token(stage, ADMIN).await;
    for written in ["kv1/never", "kv2/never", "kv2/data/never", "nowhere/at/all"] {
        assert_eq!(fault(stage.vault().read(&token, &reading(written)).await), Fault::NotFound, "{written}");
    }
}

async fn a_deleted_version_is_not_found_and_says_so(stage: &impl Stage) {
    stage.write_kv2("app/deleted", json!({"a": "b"})).await;
    stage.delete_kv2("app/deleted").await;
    let token = token(stage, AGENT).await;
    let failure = stage.vault().read(&token, &reading("kv2/app/deleted")).await.err().unwrap();
    assert_eq!(failure.fault, Fault::NotFound);
    assert!(failure.reason.contains("version 1 was deleted"), "{}", failure.reason);
}

async fn a_list_shows_entries_and_prefixes_and_nothing_if_there_is_none(stage: &impl Stage) {
    for name in ["app/tree/leaf", "app/tree/both", "app/tree/both/inner", "app/tree/odd name%"] {
        stage.write_kv2(name, json!({"a": "b"})).await;
    }
    let token = token(stage, AGENT).await;
    let list = async |prefix: &str| stage.vault().list(&token, &path(prefix)).await;
    assert_eq!(list("kv2/app/tree").await.unwrap(), ["both", "both/", "leaf", "odd name%"]);
    assert_eq!(list("kv2/data/app/tree/both").await.unwrap(), ["inner"]);
    assert_eq!(list("kv2/app/empty").await.unwrap(), [""; 0]);
    assert_eq!(fault(list("kv2/other").await), Fault::Denied);
}

async fn a_policy_that_says_no_is_not_a_dead_token(stage: &impl Stage) {
    stage.write_kv2("other/secret", json!({"a": "b"})).await;
    let token = token(stage, AGENT).await;
    assert_eq!(fault(stage.vault().read(&token, &reading("kv2/other/secret")).await), Fault::Denied);
}

async fn a_dead_token_is_not_a_policy_that_says_no(stage: &impl Stage) {
    stage.write_kv2("app/dead", json!({"a": "b"})).await;
    let token = token(stage, AGENT).await;
    let (lease, _) = leased(stage, &token).await;
    stage.revoke_token(&token).await;
    let vault = stage.vault();
    assert_eq!(fault(vault.read(&token, &reading("kv2/app/dead")).await), Fault::TokenLost);
    assert_eq!(fault(vault.list(&token, &path("kv2/app")).await), Fault::TokenLost);
    assert_eq!(fault(vault.look_up_self(&token).await), Fault::TokenLost);
    assert_eq!(fault(vault.renew_self(&token).await), Fault::TokenLost);
    assert_eq!(fault(vault.renew_lease(&token, &lease.id, TTL).await), Fault::TokenLost);
}

async fn a_dynamic_secret_comes_with_a_lease_and_each_read_mints(stage: &impl Stage) {
    let token = token(stage, AGENT).await;
    let (first, one) = leased(stage, &token).await;
    let (second, other) = leased(stage, &token).await;
    assert_eq!((first.duration, first.renewable), (TTL, true));
    assert!(first.id.0.starts_with("db/creds/reader/"), "{}", first.id);
    assert_ne!(first.id, second.id);
    assert_ne!(one["username"], other["username"]);
    let left = stage.vault().look_up_lease(&token, &first.id).await.unwrap();
    assert!(left <= TTL && left > TTL / 2, "{left:?}");
}

async fn a_lease_is_renewed_up_to_its_cap_and_no_further(stage: &impl Stage) {
    let token = token(stage, AGENT).await;
    let (lease, _) = leased(stage, &token).await;
    let shorter = stage.vault().renew_lease(&token, &lease.id, TTL / 2).await.unwrap();
    assert_eq!(shorter.duration, TTL / 2, "an increment below what remains shortens the lease");
    let capped = stage.vault().renew_lease(&token, &lease.id, 2 * MAX_TTL).await.unwrap();
    assert!(capped.renewable, "a cap is no error");
    assert!(capped.duration <= MAX_TTL && capped.duration > MAX_TTL / 2, "{capped:?}");
}

async fn a_revoked_lease_is_gone_for_renewal_and_look_up(stage: &impl Stage) {
    let token = token(stage, AGENT).await;
    let (lease, _) = leased(stage, &token).await;
    stage.revoke_lease(&lease.id).await;
    assert_eq!(fault(stage.vault().renew_lease(&token, &lease.id, TTL).await), Fault::LeaseGone);
    assert_eq!(fault(stage.vault().look_up_lease(&token, &lease.id).await), Fault::LeaseGone);
}

async fn revoking_what_is_gone_already_is_no_error(stage: &impl Stage) {
    let token = token(stage, ADMIN).await;
    let (lease, _) = leased(stage, &token).await;
    for _ in 0..2 {
        stage.vault().revoke_lease(&token, &lease.id).await.unwrap();
    }
    assert_eq!(fault(stage.vault().look_up_lease(&token, &lease.id).await), Fault::LeaseGone);
}

async fn the_default_policy_does_not_revoke_leases(stage: &impl Stage) {
    let token = token(stage, AGENT).await;
    let (lease, _) = leased(stage, &token).await;
    assert_eq!(fault(stage.vault().revoke_lease(&token, &lease.id).await), Fault::Denied);
}

async fn a_role_that_does_not_exist_is_not_found(stage: &impl Stage) {
    let token = token(stage, AGENT).await;
    assert_eq!(fault(stage.vault().read(&token, &reading("db/creds/nobody")).await), Fault::NotFound);
}

async fn a_login_of_our_own_says_so_and_can_be_renewed(stage: &impl Stage) {
    let login = stage.vault().login(AGENT).await.unwrap();
    let hour = Duration::from_secs(3600);
    assert!(login.info.ours && login.info.renewable && !login.info.batch);
    assert_eq!((login.info.ttl, login.info.num_uses), (Some(hour), 0));
    let looked_up = stage.vault().look_up_self(&login.token).await.unwrap();
    assert!(looked_up.ours && looked_up.renewable);
    assert!(looked_up.ttl.is_some_and(|ttl| ttl <= hour && ttl > hour / 2));
    let renewed = stage.vault().renew_self(&login.token).await.unwrap();
    assert!(renewed.ours && renewed.ttl.is_some_and(|ttl| ttl <= hour && ttl > hour / 2));
}

async fn the_users_own_token_is_not_ours(stage: &impl Stage) {
    let login = stage.vault().login(ADMIN).await.unwrap();
    assert!(!login.info.ours && login.info.ttl.is_none());
    assert_eq!(fault(stage.vault().renew_self(&login.token).await), Fault::NotRenewable);
}

async fn wrong_credentials_are_denied(stage: &impl Stage) {
    assert_eq!(fault(stage.vault().login(STRANGER).await), Fault::Denied);
}

async fn revoke_self_ends_the_token_and_its_leases(stage: &impl Stage) {
    let agent = token(stage, AGENT).await;
    let (lease, _) = leased(stage, &agent).await;
    stage.vault().revoke_self(&agent).await.unwrap();
    assert_eq!(fault(stage.vault().look_up_self(&agent).await), Fault::TokenLost);
    // The leases follow the token, a moment later.
    let admin = token(stage, ADMIN).await;
    for _ in 0..100 {
        match stage.vault().look_up_lease(&admin, &lease.id).await {
            Ok(left) => {
                assert_eq!(left, Duration::ZERO, "it is on its way out");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(failure) => return assert_eq!(failure.fault, Fault::LeaseGone),
        }
    }
    panic!("{} outlived its token", lease.id);
}

async fn the_engine_of_a_path_is_named(stage: &impl Stage) {
    let token = token(stage, AGENT).await;
    let kv = stage.vault().mount_of(&token, &path("kv2/app/anything")).await.unwrap();
    assert_eq!((kv.path.as_str(), kv.kind.as_str(), kv.kv_version), ("kv2", "kv", Some(2)));
    let database = stage.vault().mount_of(&token, &path("db/creds/reader")).await.unwrap();
    assert_eq!((database.kind.as_str(), database.kv_version), ("database", None));
    assert_eq!(fault(stage.vault().mount_of(&token, &path("kv1/plain")).await), Fault::Denied);
}

async fn capabilities_are_told_per_path(stage: &impl Stage) {
    let token = token(stage, AGENT).await;
    let paths = ["kv2/data/app/x".to_owned(), "kv2/data/other".to_owned()];
    let told = stage.vault().capabilities(&token, &paths).await.unwrap();
    assert!(told["kv2/data/app/x"].iter().any(|capability| capability == "read"), "{told:?}");
    assert_eq!(told["kv2/data/other"], ["deny"]);
}

async fn parameters_for_a_kv_secret_are_refused(stage: &impl Stage) {
    stage.write_kv2("app/unharmed", json!({"a": "b"})).await;
    let token = token(stage, ADMIN).await;
    let params = BTreeMap::from([("a".to_owned(), r#""overwritten""#.to_owned())]);
    let write = ReadRequest { params: Some(params), ..reading("kv2/app/unharmed") };
    assert_eq!(fault(stage.vault().read(&token, &write).await), Fault::Refused);
    let secret = stage.vault().read(&token, &reading("kv2/app/unharmed")).await.unwrap();
    assert_eq!(fields(&secret), json!({"a": "b"}));
}

async fn a_healthy_server_says_so(stage: &impl Stage) {
    stage.vault().health().await.unwrap();
}

mod the_fake_itself {
    use leasefs::vault::Origin;
    use tokio::time::Instant;

    use super::support::fake_vault::{Op, Step};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn follows_its_script_and_then_answers_as_usual() {
        let stage = fake().await;
        let fake = stage.vault();
        let token = token(&stage, ADMIN).await;
        stage.write_kv2("app/a", json!({"a": "b"})).await;
        fake.script_once(Op::Read, Some("kv2/app/a"), Step::fault(Fault::Sealed));
        fake.script_once(Op::Read, None, Step::slow(Duration::from_secs(7)));
        assert_eq!(fault(fake.read(&token, &reading("kv2/app/a")).await), Fault::Sealed);
        let start = Instant::now();
        assert!(fake.read(&token, &reading("kv2/app/a")).await.is_ok());
        assert_eq!(start.elapsed(), Duration::from_secs(7));
        fake.go_down(Fault::Unreachable);
        assert_eq!(fault(fake.health().await), Fault::Unreachable);
        fake.come_back();
        assert!(fake.health().await.is_ok());
        assert_eq!((fake.count(Op::Read), fake.count(Op::Health)), (2, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn lets_leases_and_tokens_end_with_the_clock() {
        let stage = fake().await;
        let (admin, agent) = (token(&stage, ADMIN).await, token(&stage, AGENT).await);
        let (lease, _) = leased(&stage, &admin).await;
        assert_eq!(stage.vault().live_leases(), std::slice::from_ref(&lease.id));
        tokio::time::advance(TTL).await;
        assert_eq!(fault(stage.vault().renew_lease(&admin, &lease.id, TTL).await), Fault::LeaseGone);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(fault(stage.vault().look_up_self(&agent).await), Fault::TokenLost);
        assert_eq!(agent.origin(), Origin::Obtained);
    }

    #[tokio::test(start_paused = true)]
    async fn counts_what_was_minted_revoked_and_abandoned() {
        let stage = fake().await;
        let fake = stage.vault();
        let token = token(&stage, AGENT).await;
        let (lease, _) = leased(&stage, &token).await;
        fake.renew_lease(&token, &lease.id, TTL).await.unwrap();
        fake.script_once(Op::Read, None, Step::slow(Duration::from_secs(9)));
        let (second, request) = (Duration::from_secs(1), reading("db/creds/reader"));
        assert!(tokio::time::timeout(second, fake.read(&token, &request)).await.is_err());
        let counts = fake.counts();
        assert_eq!((counts.minted, counts.renewed, counts.revoked), (2, 1, 1));
        assert_eq!(counts.abandoned.get(&Op::Read), Some(&1));
        assert_eq!(fake.live_leases(), [lease.id]);
    }
}

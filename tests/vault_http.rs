//! What no honest Vault answers, and what must not be sent to anyone else: the real client against a stub.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may panic, and servers take their own time to start"
)]

#[allow(dead_code, reason = "each test binary uses its own part of it")]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use leasefs::config::plan::VaultPlan;
use leasefs::core::effect::{EngineHint, ReadRequest};
use leasefs::core::error::{Failure, Fault};
use leasefs::core::name::{LeaseId, VaultPath};
use leasefs::secret::SecretBytes;
use leasefs::vault::client::Client;
use leasefs::vault::{Origin, Secret, SecretKind, Token, Vault};

use support::server::free_port;
use support::stub::{Reply, Stub};

const TOKEN: &str = "marker-token";

fn plan(addresses: &[&str]) -> VaultPlan {
    VaultPlan {
        addresses: addresses.iter().map(|&address| address.to_owned()).collect(),
        namespace: None,
        ca_cert: None,
        ca_path: None,
        client_certificate: None,
        proxy: None,
        tls_server_name: None,
        read_timeout: Duration::from_millis(500),
        issue_timeout: Duration::from_secs(1),
        max_secret_size: 1 << 20,
        max_list_size: 1 << 20,
    }
}

fn client(addresses: &[&str]) -> Client {
    Client::new(&plan(addresses), &[]).unwrap()
}

fn token() -> Token {
    Token::new(SecretBytes::new(TOKEN.as_bytes().to_vec()), Some("team/a".to_owned()), Origin::Given)
}

fn reading(path: &str, engine: EngineHint) -> ReadRequest {
    ReadRequest { path: VaultPath::new(path).unwrap(), params: None, version: None, engine }
}

/// Reads a KV v1 secret: one request, no question about the mount.
async fn read(client: &Client) -> Result<Secret, Failure> {
    client.read(&token(), &reading("kv/a", EngineHint::Kv1)).await
}

async fn failure(reply: Reply) -> Failure {
    let stub = Stub::start(move |_| reply.clone()).await;
    let Err(failure) = read(&client(&[stub.address()])).await else { panic!("it worked") };
    assert!(!format!("{failure:?}").contains("marker"), "{failure:?}");
    failure
}

#[tokio::test]
async fn answers_that_are_not_vaults_are_told_apart() {
    for (status, body, told) in [
        (200, "<html>marker</html>", "not JSON"),
        (200, "", "is empty"),
        (204, "", "is empty"),
        (200, r#"{"data":{"password":"marker"#, "breaks off"),
        (200, r#"{"data":null,"auth":null}"#, "data is null"),
        (200, r#"{"data":["marker"]}"#, "no object"),
        (200, r#"{"data":{"a":"b"},"lease_duration":"marker"}"#, "not the form"),
        (404, "<html>marker</html>", "is `address` right"),
    ] {
        let failure = failure(Reply::new(status, &[], body.as_bytes())).await;
        assert_eq!(failure.fault, Fault::Unusable, "{body}");
        assert!(failure.reason.contains(told), "{body}: {}", failure.reason);
    }
}

#[tokio::test]
async fn an_answer_beyond_the_limit_is_dropped_whether_announced_or_not() {
    let large = format!(r#"{{"data":{{"password":"marker{}"}}}}"#, "x".repeat(30 << 20));
    let announced = Reply::json(200, &large);
    let mut growing = announced.clone();
    let head = b"HTTP/1.1 200 Stub\r\nConnection: close\r\n\r\n";
    growing.bytes = [head, large.as_bytes()].concat();
    for reply in [announced, growing] {
        let failure = failure(reply).await;
        assert_eq!(failure.fault, Fault::Unusable);
        assert!(failure.reason.contains("max-secret-size"), "{}", failure.reason);
    }
}

#[tokio::test]
async fn an_answer_of_unknown_length_is_whole() {
    let password = "x".repeat(300_000);
    let body = format!(r#"{{"data":{{"password":"{password}"}}}}"#);
    let head = b"HTTP/1.1 200 Stub\r\nConnection: close\r\n\r\n".to_vec();
    let reply = Reply { bytes: [head, body.into_bytes()].concat(), delay: Duration::ZERO };
    let stub = Stub::start(move |_| reply.clone()).await;
    let secret = read(&client(&[stub.address()])).await.unwrap();
    assert_eq!(secret.data.len(), password.len() + r#"{"password":""}"#.len());
}

#[tokio::test]
async fn a_connection_that_breaks_in_the_answer_is_unreachable() {
    let mut reply = Reply::json(200, r#"{"data":{"password":"marker"}}"#);
    reply.bytes.truncate(reply.bytes.len() - 5);
    assert_eq!(failure(reply).await.fault, Fault::Unreachable);
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_the_token_stays_here() {
    let elsewhere = Stub::start(|_| Reply::json(200, r#"{"data":{"a":"b"}}"#)).await;
    let target = format!("{}/v1/kv/a", elsewhere.address());
    for (status, fault) in
        [(301, Fault::Refused), (302, Fault::Refused), (307, Fault::NoLeader), (308, Fault::Refused)]
    {
        let failure = failure(Reply::new(status, &[("Location", &target)], b"")).await;
        assert_eq!(failure.fault, fault);
        assert!(failure.reason.contains(elsewhere.address()), "{}", failure.reason);
    }
    assert_eq!(elsewhere.requests(), Vec::<String>::new());
}

#[tokio::test]
async fn a_quota_says_when_to_come_back() {
    let body = r#"{"errors":["request path \"kv/a\": rate limit quota exceeded"]}"#;
    let limited = failure(Reply::new(429, &[("Retry-After", "7")], body.as_bytes())).await;
    assert_eq!((limited.fault, limited.retry_after), (Fault::RateLimited, Some(Duration::from_secs(7))));
    let sealed = failure(Reply::json(503, r#"{"errors":["Vault is sealed"]}"#)).await;
    assert_eq!((sealed.fault, sealed.retry_after), (Fault::Sealed, None));
    assert!(sealed.reason.contains("Vault is sealed"), "{}", sealed.reason);
}

#[tokio::test]
async fn a_node_that_lags_is_asked_again_and_shown_the_index() {
    for lagging in [Reply::json(412, r#"{"errors":["required index state not present"]}"#), {
        Reply::json(429, r#"{"errors":[]}"#)
    }] {
        let asked = AtomicUsize::new(0);
        let stub = Stub::start(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::new(200, &[("X-Vault-Index", "opaque-1")], br#"{"data":{"a":"b"}}"#),
            1 | 2 => lagging.clone(),
            _ => Reply::json(200, r#"{"data":{"a":"c"}}"#),
        })
        .await;
        let client = client(&[stub.address()]);
        assert_eq!(read(&client).await.unwrap().data.expose(), br#"{"a":"b"}"#);
        assert_eq!(read(&client).await.unwrap().data.expose(), br#"{"a":"c"}"#);
        let shown = stub.requests().iter().filter(|text| text.contains("x-vault-index: opaque-1")).count();
        assert_eq!((stub.requests().len(), shown), (4, 3));
    }
}

#[tokio::test]
async fn a_node_that_never_catches_up_is_a_passing_failure() {
    let failure = failure(Reply::json(412, r#"{"errors":[]}"#)).await;
    assert_eq!(failure.fault, Fault::NoLeader);
}

#[tokio::test]
async fn a_node_that_lags_and_then_hangs_is_still_known_to_lag() {
    let asked = AtomicUsize::new(0);
    let lagging = Reply::json(412, r#"{"errors":[]}"#);
    let stub = Stub::start(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => lagging.clone(),
        _ => lagging.clone().after(Duration::from_secs(30)),
    })
    .await;
    let failure = read(&client(&[stub.address()])).await.err().unwrap();
    assert_eq!(failure.fault, Fault::NoLeader, "{}", failure.reason);
}

#[tokio::test]
async fn no_answer_in_time_is_told_from_no_connection() {
    let slow = failure(Reply::json(200, "{}").after(Duration::from_secs(30))).await;
    assert_eq!(slow.fault, Fault::TimedOut);
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let refused = read(&client(&[&nobody])).await.err().unwrap();
    assert_eq!(refused.fault, Fault::Unreachable);
    assert!(refused.reason.contains("refused"), "{}", refused.reason);
}

#[tokio::test]
async fn the_next_node_is_tried_and_kept() {
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let sealed = Stub::start(|_| Reply::json(503, r#"{"errors":["Vault is sealed"]}"#)).await;
    let good = Stub::start(|_| Reply::json(200, r#"{"data":{"a":"b"}}"#)).await;
    let client = client(&[&nobody, sealed.address(), good.address()]);
    for _ in 0..3 {
        read(&client).await.unwrap();
    }
    // It is asked for its health now and then, but for no secret.
    let reads = |stub: &Stub| stub.requests().iter().filter(|request| request.contains("/v1/kv/a")).count();
    assert_eq!((reads(&sealed), reads(&good)), (1, 3));
}

#[tokio::test]
async fn a_request_says_who_asks_and_a_name_cannot_change_it() {
    let stub = Stub::start(|_| Reply::json(200, r#"{"data":{"a":"b"}}"#)).await;
    let client = client(&[stub.address()]);
    client.read(&token(), &reading("kv/a b/100%?x=1#y", EngineHint::Kv1)).await.unwrap();
    let request = stub.requests().remove(0).to_lowercase();
    for part in [
        "get /v1/kv/a%20b/100%25%3fx=1%23y http/1.1",
        "x-vault-token: marker-token",
        "x-vault-namespace: team/a",
        "x-vault-request: true",
    ] {
        assert!(request.contains(part), "{part} is not in {request}");
    }
}

#[tokio::test]
async fn many_denials_at_once_ask_once_whether_the_token_lives() {
    let denied = r#"{"errors":["permission denied"]}"#;
    let stub = Stub::start(move |line| {
        let pause = if line.contains("lookup-self") { 100 } else { 0 };
        Reply::json(403, denied).after(Duration::from_millis(pause))
    })
    .await;
    let (client, token) = (client(&[stub.address()]), token());
    let request = reading("kv/a", EngineHint::Kv1);
    let read = || client.read(&token, &request);
    let outcomes = tokio::join!(read(), read(), read(), read());
    for outcome in [outcomes.0, outcomes.1, outcomes.2, outcomes.3] {
        assert_eq!(outcome.err().map(|failure| failure.fault), Some(Fault::TokenLost));
    }
    let looked_up = stub.requests().iter().filter(|request| request.contains("lookup-self")).count();
    assert_eq!(looked_up, 1);
}

#[tokio::test]
async fn a_proxy_that_denies_does_not_kill_the_token() {
    let failure = failure(Reply::new(403, &[], b"<html>marker</html>")).await;
    assert_eq!(failure.fault, Fault::Denied);
}

#[tokio::test]
async fn a_path_whose_mount_is_not_told_is_asked_for_as_it_was_given_and_once() {
    let stub = Stub::start(|line| {
        if line.contains("internal/ui/mounts/") {
            return Reply::json(403, r#"{"errors":["preflight capability check returned 403"]}"#);
        }
        Reply::json(
            200,
            r#"{"data":{"data":{"a":"b"},"metadata":{"version":4,"created_time":"2026-01-02T03:04:05Z"}}}"#,
        )
    })
    .await;
    let secret =
        client(&[stub.address()]).read(&token(), &reading("kv/data/a", EngineHint::Auto)).await.unwrap();
    assert!(matches!(secret.kind, SecretKind::Kv { version: Some(4), .. }), "{:?}", secret.kind);
    let lines: Vec<String> =
        stub.requests().iter().filter_map(|text| text.lines().next().map(str::to_owned)).collect();
    assert_eq!(lines, ["GET /v1/sys/internal/ui/mounts/kv/data/a HTTP/1.1", "GET /v1/kv/data/a HTTP/1.1"]);
}

/// A database that takes a while, and counts what it is told to revoke.
async fn slow_database(pause: Duration) -> (Stub, Arc<AtomicUsize>) {
    let revoked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&revoked);
    let stub = Stub::start(move |line| {
        if line.contains("sys/leases/revoke") {
            counter.fetch_add(1, Ordering::Relaxed);
            return Reply::new(204, &[], b"");
        }
        let body =
            r#"{"lease_id":"db/creds/a/1","lease_duration":60,"renewable":true,"data":{"username":"u"}}"#;
        Reply::json(200, body).after(pause)
    })
    .await;
    (stub, revoked)
}

async fn until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "it never happened");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_lease_that_comes_too_late_is_revoked() {
    let (stub, revoked) = slow_database(Duration::from_millis(1500)).await;
    let client = client(&[stub.address()]);
    let outcome = client.read(&token(), &reading("db/creds/a", EngineHint::Other)).await;
    assert_eq!(outcome.err().map(|failure| failure.fault), Some(Fault::TimedOut));
    until(|| revoked.load(Ordering::Relaxed) == 1).await;
}

#[tokio::test]
async fn a_lease_that_comes_too_late_is_revoked_though_vault_can_not_at_first() {
    let tries = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&tries);
    let stub = Stub::start(move |line| {
        if !line.contains("sys/leases/revoke") {
            let body =
                r#"{"lease_id":"db/creds/a/1","lease_duration":60,"renewable":true,"data":{"username":"u"}}"#;
            return Reply::json(200, body).after(Duration::from_millis(300));
        }
        match counter.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => Reply::json(503, r#"{"errors":["Vault is sealed"]}"#),
            _ => Reply::new(204, &[], b""),
        }
    })
    .await;
    let client = client(&[stub.address()]);
    let (token, request) = (token(), reading("db/creds/a", EngineHint::Other));
    let impatient = tokio::time::timeout(Duration::from_millis(50), client.read(&token, &request)).await;
    assert!(impatient.is_err());
    until(|| tries.load(Ordering::Relaxed) == 3).await;
}

#[tokio::test]
async fn a_reader_that_leaves_cancels_no_minting_and_leaves_no_lease_behind() {
    let (stub, revoked) = slow_database(Duration::from_millis(300)).await;
    let client = client(&[stub.address()]);
    let (token, request) = (token(), reading("db/creds/a", EngineHint::Other));
    let impatient = tokio::time::timeout(Duration::from_millis(50), client.read(&token, &request)).await;
    assert!(impatient.is_err());
    until(|| revoked.load(Ordering::Relaxed) == 1).await;
    assert_eq!(stub.requests().len(), 2);
}

#[tokio::test]
async fn a_revocation_that_fails_now_is_queued_and_reported() {
    let stub =
        Stub::start(|_| Reply::json(400, r#"{"errors":["failed to revoke entry: connection refused"]}"#))
            .await;
    let outcome = client(&[stub.address()]).revoke_lease(&token(), &LeaseId("db/creds/a/1".to_owned())).await;
    assert_eq!(outcome.err().map(|failure| failure.fault), Some(Fault::ServerError));
    let bodies = stub.requests();
    assert!(bodies[0].contains(r#""sync":true"#) && bodies[1].contains(r#""sync":false"#), "{bodies:?}");
}

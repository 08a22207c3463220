//! Several addresses of one Vault, and answers that never end: the real client against stubs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may panic, and servers take their own time to start"
)]

#[allow(dead_code, reason = "each test binary uses its own part of it")]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use leasefs::config::plan::VaultPlan;
use leasefs::core::effect::{EngineHint, ReadRequest};
use leasefs::core::error::{Failure, Fault};
use leasefs::core::name::VaultPath;
use leasefs::secret::SecretBytes;
use leasefs::vault::client::Client;
use leasefs::vault::{Origin, Secret, Token, Vault};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use support::server::free_port;
use support::stub::{Reply, Stub};

const READ_TIMEOUT: Duration = Duration::from_millis(500);
/// After which a request that mints nothing is given up, and what a busy machine adds to it.
const GIVEN_UP: Duration = READ_TIMEOUT.saturating_mul(2).saturating_add(Duration::from_millis(400));

fn plan(addresses: &[&str]) -> VaultPlan {
    VaultPlan {
        addresses: addresses.iter().map(|&address| address.to_owned()).collect(),
        namespace: None,
        ca_cert: None,
        ca_path: None,
        client_certificate: None,
        proxy: None,
        tls_server_name: None,
        read_timeout: READ_TIMEOUT,
        issue_timeout: Duration::from_secs(1),
        max_secret_size: 1 << 20,
        max_list_size: 1 << 20,
    }
}

fn client(addresses: &[&str]) -> Client {
    Client::new(&plan(addresses), &[]).unwrap()
}

async fn read(client: &Client, engine: EngineHint) -> Result<Secret, Failure> {
    let token = Token::new(SecretBytes::new(b"marker-token".to_vec()), None, Origin::Given);
    let path = VaultPath::new("kv/a").unwrap();
    client.read(&token, &ReadRequest { path, params: None, version: None, engine }).await
}

async fn fault(client: &Client, engine: EngineHint) -> Fault {
    read(client, engine).await.err().expect("it fails").fault
}

fn good() -> Reply {
    Reply::json(200, r#"{"data":{"a":"b"}}"#)
}

fn sealed() -> Reply {
    Reply::json(503, r#"{"errors":["Vault is sealed"]}"#)
}

/// The announced length is longer than what comes.
fn broken_off() -> Reply {
    let mut reply = good();
    reply.bytes.truncate(reply.bytes.len() - 5);
    reply
}

async fn always(reply: Reply) -> Stub {
    Stub::start(move |_| reply.clone()).await
}

/// A node that serves while the switch is on, and is sealed else.
async fn switched(works: bool) -> (Stub, Arc<AtomicBool>) {
    let switch = Arc::new(AtomicBool::new(works));
    let position = Arc::clone(&switch);
    let stub = Stub::start(move |_| if position.load(Ordering::Relaxed) { good() } else { sealed() }).await;
    (stub, switch)
}

/// The address of a server that says the same to whatever it hears, with a pause after each byte. It ends
/// with the test's runtime.
async fn talker(words: Vec<u8>, pause: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let words = words.clone();
            tokio::spawn(async move {
                // Whoever has heard enough closes.
                let _ = stream.read(&mut [0; 4096]).await;
                for byte in words {
                    if stream.write_all(&[byte]).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(pause).await;
                }
            });
        }
    });
    address
}

fn reads(stub: &Stub) -> usize {
    stub.requests().iter().filter(|request| request.contains("/v1/kv/a")).count()
}

fn questions(stub: &Stub) -> usize {
    stub.requests().iter().filter(|request| request.contains("/v1/sys/health")).count()
}

async fn until(condition: impl AsyncFn() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < Duration::from_secs(10), "it never happened");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_node_that_is_down_is_asked_for_its_health_alone_until_it_is_back() {
    let ((first, first_works), (second, second_works)) = (switched(false).await, switched(true).await);
    let client = client(&[first.address(), second.address()]);
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1500) {
        read(&client, EngineHint::Kv1).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(reads(&first), 1);
    let asked = questions(&first);
    assert!((1..=20).contains(&asked), "{asked} questions in 1.5 s");
    first_works.store(true, Ordering::Relaxed);
    until(async || {
        read(&client, EngineHint::Kv1).await.unwrap();
        questions(&first) > asked
    })
    .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(reads(&first), 1, "the node that works is kept");
    second_works.store(false, Ordering::Relaxed);
    read(&client, EngineHint::Kv1).await.unwrap();
    assert_eq!(reads(&first), 2);
}

#[tokio::test]
async fn a_node_that_is_frozen_costs_no_reader_its_whole_time_and_the_next_ones_nothing() {
    let (frozen, quick) = (always(good().after(Duration::from_secs(60))).await, always(good()).await);
    let client = client(&[frozen.address(), quick.address()]);
    let began = Instant::now();
    read(&client, EngineHint::Kv1).await.unwrap();
    assert!(began.elapsed() < READ_TIMEOUT, "{:?}", began.elapsed());
    let began = Instant::now();
    read(&client, EngineHint::Kv1).await.unwrap();
    assert!(began.elapsed() < READ_TIMEOUT / 4, "{:?}", began.elapsed());
    assert_eq!(reads(&frozen), 1);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_asked_for_elsewhere_unless_it_may_mint() {
    let (broken, whole) = (always(broken_off()).await, always(good()).await);
    let addresses = [broken.address(), whole.address()];
    read(&client(&addresses), EngineHint::Kv1).await.unwrap();
    assert_eq!((reads(&broken), reads(&whole)), (1, 1));
    assert_eq!(fault(&client(&addresses), EngineHint::Other).await, Fault::Unreachable);
    assert_eq!((reads(&broken), reads(&whole)), (2, 1), "the account may have been made");
}

#[tokio::test]
async fn what_may_mint_goes_to_the_next_node_if_nothing_was_sent() {
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let (sealed, whole) = (always(sealed()).await, always(good()).await);
    read(&client(&[&nobody, sealed.address(), whole.address()]), EngineHint::Other).await.unwrap();
    assert_eq!((reads(&sealed), reads(&whole)), (1, 1));
}

#[tokio::test]
async fn when_all_nodes_are_down_requests_fail_at_once_and_their_health_tells_when_one_is_back() {
    let ((first, first_works), (second, _)) = (switched(false).await, switched(false).await);
    let client = client(&[first.address(), second.address()]);
    let began = Instant::now();
    let mut failed = 0;
    while began.elapsed() < Duration::from_millis(1500) {
        assert_eq!(fault(&client, EngineHint::Kv1).await, Fault::Sealed);
        failed += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!((reads(&first), reads(&second)), (1, 1), "of {failed}");
    assert!(questions(&first) <= 20, "{} questions in 1.5 s", questions(&first));
    assert_eq!(client.health().await.map_err(|failure| failure.fault), Err(Fault::Sealed));
    first_works.store(true, Ordering::Relaxed);
    assert_eq!(client.health().await, Ok(()));
    read(&client, EngineHint::Kv1).await.unwrap();
    assert_eq!((reads(&first), reads(&second)), (2, 1));
}

#[tokio::test]
async fn without_a_question_for_its_health_a_node_that_is_back_is_found_by_the_next_requests() {
    let ((first, first_works), (second, _)) = (switched(false).await, switched(false).await);
    let client = client(&[first.address(), second.address()]);
    assert_eq!(fault(&client, EngineHint::Kv1).await, Fault::Sealed);
    first_works.store(true, Ordering::Relaxed);
    let began = Instant::now();
    until(async || read(&client, EngineHint::Kv1).await.is_ok()).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_answer_that_comes_byte_by_byte_ends_in_time() {
    let address = talker(good().bytes, Duration::from_millis(100)).await;
    let began = Instant::now();
    assert_eq!(fault(&client(&[&address]), EngineHint::Kv1).await, Fault::TimedOut);
    assert!(began.elapsed() < GIVEN_UP, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_node_that_lags_and_is_slow_is_given_up_in_time_too() {
    for lagging in [Reply::json(412, r#"{"errors":[]}"#), Reply::json(429, r#"{"errors":[]}"#)] {
        let stub = always(lagging.after(Duration::from_millis(300))).await;
        let began = Instant::now();
        let failed = fault(&client(&[stub.address()]), EngineHint::Kv1).await;
        assert!(matches!(failed, Fault::NoLeader | Fault::TimedOut), "{failed:?}");
        assert!(began.elapsed() < GIVEN_UP, "{:?}", began.elapsed());
        assert!(stub.requests().len() <= 4, "{}", stub.requests().len());
    }
}

#[tokio::test]
async fn a_quota_with_a_text_is_one_answer_and_no_lag() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let stub = Stub::start(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        Reply::json(429, r#"{"errors":["rate limit quota exceeded"]}"#)
    })
    .await;
    assert_eq!(fault(&client(&[stub.address()]), EngineHint::Kv1).await, Fault::RateLimited);
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_said_in_time_and_another_node_is_asked() {
    let began = Instant::now();
    let unknown = "http://no-such-host.invalid:8200";
    assert_eq!(fault(&client(&[unknown]), EngineHint::Kv1).await, Fault::Unreachable);
    assert!(began.elapsed() < GIVEN_UP, "{:?}", began.elapsed());
    let whole = always(good()).await;
    read(&client(&[unknown, whole.address()]), EngineHint::Kv1).await.unwrap();
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_unreachable_and_another_node_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("ca.pem");
    std::fs::write(&authority, SOME_AUTHORITY).unwrap();
    let whole = always(good()).await;
    let over_tls = talker(sealed().bytes, Duration::ZERO).await.replace("http:", "https:");
    let plan = |addresses: &[&str]| VaultPlan { ca_cert: Some(authority.clone()), ..plan(addresses) };
    let alone = Client::new(&plan(&[&over_tls]), &[]).unwrap();
    let failure = read(&alone, EngineHint::Kv1).await.err().unwrap();
    assert_eq!(failure.fault, Fault::Unreachable);
    assert!(failure.reason.contains("TLS"), "{}", failure.reason);
    let both = Client::new(&plan(&[&over_tls, whole.address()]), &[]).unwrap();
    read(&both, EngineHint::Kv1).await.unwrap();
}

/// A certificate that no server has.
const SOME_AUTHORITY: &str = "-----BEGIN CERTIFICATE-----
MIIBjzCCATWgAwIBAgIUaiBOhazXB8m05VBlLDcsCdcEbqcwCgYIKoZIzj0EAwIw
HDEaMBgGA1UEAwwRQSBDQSBvZiBubyBzZXJ2ZXIwIBcNMjYxMTIyMTQ0MTA0WhgP
MjEyNjEwMjkxNDQxMDRaMBwxGjAYBgNVBAMMEUEgQ0Egb2Ygbm8gc2VydmVyMFkw
EwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEJ6FTF+XDHCbqJvIhhYioY6M0uZFZS0xB
niHY66YRI4AL9Rx33NERO9QXiSqdII8ZkaVUltHc+LUO3yiNYzwea6NTMFEwHQYD
VR0OBBYEFE9nH5O83SiDls/UJTEqoOJaWpncMB8GA1UdIwQYMBaAFE9nH5O83SiD
ls/UJTEqoOJaWpncMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIg
RL/G74fqlpijTZRnvKxXf/AaxZjm/x7XgZMwvmLaQv8CIQDZBuwNqWqU51agqwJz
jOUfjD/VkkIGtc2aE8lgP2ijqA==
-----END CERTIFICATE-----
";

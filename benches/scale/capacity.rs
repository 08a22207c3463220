//! What one OpenBao can do on this machine: requests of one kind, by leasefs's own client, as many at once
//! as one mount has under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use leasefs::core::effect::{EngineHint, ReadRequest};
use leasefs::core::name::{IdentityId, LeaseId, VaultPath};
use leasefs::vault::client::Client;
use leasefs::vault::{SecretKind, Token, Vault};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::support::bao::Bao;
use crate::support::postgres::Postgres;

/// Requests under way at a time.
pub const AT_ONCE: usize = 16;

/// How long each kind is measured.
const LONG: Duration = Duration::from_secs(5);

/// Requests per second.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// New database accounts.
    pub mints: f64,
    /// Renewals of their leases.
    pub renewals: f64,
    /// Look-ups of leases.
    pub look_ups: f64,
    /// Reads of a KV secret.
    pub kv: f64,
}

/// Measures a server with a database of its own.
pub fn measure() -> Capacity {
    Runtime::new().expect("a runtime").block_on(async {
        let (bao, postgres) = tokio::join!(Bao::start(), Postgres::start());
        postgres.connect(&bao, "database").await;
        let hour = Duration::from_secs(3600);
        postgres.add_role(&bao, "database", "app", hour, 24 * hour).await;
        bao.write_kv2("secret", "app", json!({"key": "value"})).await;
        let client = bao.client(&[bao.token_identity("root", bao.root_token())]);
        let token = client.login(IdentityId(0)).await.expect("a token").token;
        let worker = Worker { client, token };

        let mut leases = Vec::new();
        for _ in 0..AT_ONCE {
            leases.push(worker.mint().await);
        }
        let leases = Arc::new(leases);
        let renewals = rate(&worker, {
            let leases = Arc::clone(&leases);
            move |worker, index| {
                let lease = leases[index].clone();
                async move {
                    let renewed = worker.client.renew_lease(&worker.token, &lease, hour).await;
                    renewed.expect("a renewal");
                }
            }
        });
        let renewals = renewals.await;
        let look_ups = rate(&worker, move |worker, index| {
            let lease = leases[index].clone();
            async move {
                worker.client.look_up_lease(&worker.token, &lease).await.expect("a lease");
            }
        });
        let look_ups = look_ups.await;
        let kv = rate(&worker, |worker, _| async move {
            let request = request("secret/app", EngineHint::Kv2);
            worker.client.read(&worker.token, &request).await.expect("a secret");
        });
        let kv = kv.await;
        let mints = rate(&worker, |worker, _| async move {
            worker.mint().await;
        });
        Capacity { mints: mints.await, renewals, look_ups, kv }
    })
}

#[derive(Clone)]
struct Worker {
    client: Client,
    token: Token,
}

impl Worker {
    async fn mint(&self) -> LeaseId {
        let request = request("database/creds/app", EngineHint::Other);
        match self.client.read(&self.token, &request).await.expect("a credential").kind {
            SecretKind::Leased(lease) => lease.id,
            other => panic!("no lease: {other:?}"),
        }
    }
}

fn request(path: &str, engine: EngineHint) -> ReadRequest {
    ReadRequest { path: VaultPath::new(path).expect("a path"), params: None, version: None, engine }
}

/// How many calls end per second with [`AT_ONCE`] under way.
async fn rate<F>(worker: &Worker, call: impl Fn(Worker, usize) -> F + Clone + Send + 'static) -> f64
where
    F: Future<Output = ()> + Send,
{
    let done = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let tasks: Vec<_> = (0..AT_ONCE)
        .map(|index| {
            let (worker, call, done) = (worker.clone(), call.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                while began.elapsed() < LONG {
                    call(worker.clone(), index).await;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no call fails");
    }
    done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
}

//! Requests that may mint.
//!
//! A database that is told to make an account and loses its listener may keep the account without a lease.
//! So such a request runs in a task of its own: whoever asked may leave, and after `issue-timeout` is sent
//! away, but the request goes on for a while. A lease that comes too late is revoked.

use std::future::Future;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::core::error::{Failure, Fault};
use crate::core::identity::backoff_ceiling;
use crate::core::name::LeaseId;
use crate::vault::client::Client;
use crate::vault::{Secret, SecretKind, Token, Vault};

/// For how many times `issue-timeout` a late answer is waited for.
const LATE: u32 = 4;
/// How often its revocation is tried: what made the answer late may not be over yet.
const TRIES: u32 = 6;

/// Runs `work` (which is told how long it may take) and waits for it at most `patience`.
pub(super) async fn carry_out<F>(
    client: &Client,
    token: &Token,
    path: &str,
    patience: Duration,
    work: impl FnOnce(Duration) -> F,
) -> Result<Secret, Failure>
where
    F: Future<Output = Result<Secret, Failure>> + Send + 'static,
{
    let (give, take) = oneshot::channel();
    let mut taker =
        Taker { take, bin: Bin { client: client.clone(), token: token.clone(), path: path.to_owned() } };
    let (work, bin) = (work(patience.saturating_mul(LATE)), taker.bin.clone());
    tokio::spawn(async move {
        if let Err(unwanted) = give.send(work.await) {
            bin.discard(unwanted).await;
        }
    });
    match tokio::time::timeout(patience, &mut taker.take).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(Failure::new(Fault::Unreachable, format!("the request for {path} was cut off"))),
        Err(_) => {
            let waited = humantime::format_duration(patience);
            let reason =
                format!("Vault did not answer for {path} within {waited}; a late answer will be revoked");
            Err(Failure::new(Fault::TimedOut, reason))
        }
    }
}

/// Who waits. What arrives in the moment that it leaves is not lost.
struct Taker {
    take: oneshot::Receiver<Result<Secret, Failure>>,
    bin: Bin,
}

impl Drop for Taker {
    fn drop(&mut self) {
        self.take.close();
        if let (Ok(unwanted), Ok(runtime)) = (self.take.try_recv(), tokio::runtime::Handle::try_current()) {
            let bin = self.bin.clone();
            runtime.spawn(async move { bin.discard(unwanted).await });
        }
    }
}

/// Where answers go that nobody waits for any more.
#[derive(Clone)]
struct Bin {
    client: Client,
    token: Token,
    path: String,
}

impl Bin {
    async fn revoke(&self, lease: &LeaseId) -> Result<(), Failure> {
        let mut tried = 1;
        loop {
            match self.client.revoke_lease(&self.token, lease).await {
                Err(failure) if failure.fault.is_transient() && tried < TRIES => {
                    let pause = backoff_ceiling(tried).mul_f64(fastrand::f64());
                    tokio::time::sleep(pause + failure.retry_after.unwrap_or_default()).await;
                    tried += 1;
                }
                result => return result,
            }
        }
    }

    async fn discard(&self, unwanted: Result<Secret, Failure>) {
        let path = self.path.as_str();
        match unwanted {
            Ok(Secret { kind: SecretKind::Leased(lease), .. }) => match self.revoke(&lease.id).await {
                Ok(()) => {
                    tracing::warn!(path, lease = %lease.id, "an answer came too late and was revoked")
                }
                Err(failure) => {
                    let reason = failure.reason;
                    tracing::error!(path, lease = %lease.id, reason, "an answer came too late and lives on");
                }
            },
            Ok(_) => tracing::warn!(path, "an answer came too late; it has no lease that could be revoked"),
            Err(failure) => {
                tracing::warn!(
                    path,
                    reason = failure.reason,
                    "a request failed after nobody waited for it any more"
                );
            }
        }
    }
}

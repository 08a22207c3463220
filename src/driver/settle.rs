//! The end: what was obtained is given back, in bounded time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::core::effect::Credential;
use crate::core::engine::{Debt, Settlement};
use crate::core::error::{Failure, Fault};
use crate::core::name::SourceId;
use crate::driver::clock::Clock;
use crate::driver::{Driver, Kernel, Message};
use crate::vault::{Token, Vault};

/// A lease that lives on in Vault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unrevoked {
    /// Its id; none for a request that was still on its way, so that nobody here knows what it brings.
    pub lease: Option<String>,
    /// What it was obtained from.
    pub path: String,
    /// How long it still lives, in seconds.
    pub seconds: Option<u64>,
    /// Why it could not be revoked.
    pub reason: String,
}

/// For how long requests that mint are waited for, if what they bring dies with a token of ours.
const LATE: Duration = Duration::from_secs(3);

/// What is kept of the patience for revocations, if a lease that comes late has to be revoked by itself.
const FOR_REVOCATION: Duration = Duration::from_secs(2);

impl<V: Vault, C: Clock, K: Kernel> Driver<V, C, K> {
    /// Ends all generations, then gives back leases and tokens within `patience`.
    pub(super) async fn settle(&mut self, patience: Duration) -> Vec<Unrevoked> {
        let end = Instant::now() + patience;
        let at = self.service.moment();
        let (settlement, effects) = self.service.engine().stop(at);
        self.carry_out(effects);
        if !settlement.minting.is_empty() {
            let all_die_with_their_tokens = unowned(&settlement).is_empty();
            let late = if all_die_with_their_tokens {
                LATE.min(patience / 2)
            } else {
                patience.saturating_sub(FOR_REVOCATION)
            };
            self.wait_for_mints(Instant::now() + late).await;
        }
        let settlement = self.service.engine().settlement(self.service.shared.clock.now());
        let tokens: HashMap<Credential, Token> =
            settlement.tokens.iter().filter_map(|with| Some((*with, self.token(*with)?))).collect();
        let unknown = unowned(&settlement);
        let mut failed = self.revoke_tokens(&tokens, end).await;
        let (covered, own): (Vec<Debt>, Vec<Debt>) =
            settlement.leases.into_iter().partition(|debt| tokens.contains_key(&debt.with));
        // A token that could not be revoked leaves its leases to be revoked one by one.
        let uncovered = covered.into_iter().filter(|debt| failed.contains_key(&debt.with));
        let left = self.revoke_leases(own.into_iter().chain(uncovered).collect(), end).await;
        let mut unrevoked: Vec<Unrevoked> =
            left.into_iter().map(|(debt, reason)| self.unrevoked(&debt, reason)).collect();
        for Unrevoked { lease, path, seconds, reason } in &unrevoked {
            tracing::warn!(
                lease,
                path,
                lives_for_s = seconds,
                reason,
                "this lease could not be revoked and lives on"
            );
        }
        for source in unknown {
            let path = self.service.look(|engine, _| engine.path_of(source).unwrap_or_default());
            let reason = "this request was still on its way; what it brings lives on until its lease ends";
            tracing::warn!(path, "{reason}");
            unrevoked.push(Unrevoked { lease: None, path, seconds: None, reason: reason.to_owned() });
        }
        for (with, failure) in failed.drain() {
            let name = self.settings.names.identities.get(with.identity.0 as usize);
            tracing::warn!(
                identity = name,
                reason = failure.reason,
                "this identity's token could not be revoked"
            );
        }
        self.tokens.clear();
        unrevoked
    }

    /// What still arrives is taken note of by the engine, and so becomes part of the settlement.
    async fn wait_for_mints(&mut self, until: Instant) {
        while let Ok(Some(message)) = timeout_at(until, self.inbox.recv()).await {
            if matches!(message, Message::Stop { .. }) {
                continue;
            }
            self.take(message);
            let now = self.service.shared.clock.now();
            if self.service.engine().settlement(now).minting.is_empty() {
                return;
            }
        }
    }

    async fn revoke_tokens(
        &mut self,
        tokens: &HashMap<Credential, Token>,
        end: Instant,
    ) -> HashMap<Credential, Failure> {
        let mut revocations = JoinSet::new();
        for (with, token) in tokens {
            let (with, token, vault) = (*with, token.clone(), Arc::clone(&self.upstream.vault));
            revocations.spawn(async move { (with, within(end, vault.revoke_self(&token)).await) });
        }
        let mut failed = HashMap::new();
        while let Some(done) = revocations.join_next().await {
            if let Ok((with, Err(failure))) = done
                && failure.fault != Fault::TokenLost
            {
                failed.insert(with, failure);
            }
        }
        failed
    }

    async fn revoke_leases(&mut self, debts: Vec<Debt>, end: Instant) -> Vec<(Debt, String)> {
        let mut revocations = JoinSet::new();
        let places = Arc::new(tokio::sync::Semaphore::new(8));
        let mut left = Vec::new();
        for debt in debts {
            let Some(token) = self.token(debt.with) else {
                left.push((debt, "its token is gone".to_owned()));
                continue;
            };
            let (vault, places) = (Arc::clone(&self.upstream.vault), Arc::clone(&places));
            revocations.spawn(async move {
                let result = within(end, async {
                    let _place = places.acquire().await;
                    vault.revoke_lease(&token, &debt.lease).await
                });
                (result.await, debt)
            });
        }
        while let Some(done) = revocations.join_next().await {
            if let Ok((Err(failure), debt)) = done
                && !matches!(failure.fault, Fault::LeaseGone | Fault::NotFound | Fault::TokenLost)
            {
                left.push((debt, failure.reason));
            }
        }
        left.sort_by(|(a, _), (b, _)| a.lease.cmp(&b.lease));
        left
    }

    fn unrevoked(&self, debt: &Debt, reason: String) -> Unrevoked {
        let now = self.service.shared.clock.now();
        let path = self.service.look(|engine, _| engine.path_of(debt.source).unwrap_or_default());
        let seconds = Some(debt.expires.since(now).as_secs());
        Unrevoked { lease: Some(debt.lease.0.clone()), path, seconds, reason }
    }
}

/// Reads that may mint with tokens that are not to be revoked.
fn unowned(settlement: &Settlement) -> Vec<SourceId> {
    let unowned = settlement.minting.iter().filter(|(_, with)| !settlement.tokens.contains(with));
    unowned.map(|(source, _)| *source).collect()
}

async fn within<T>(end: Instant, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    match timeout_at(end, work).await {
        Ok(result) => result,
        Err(_) => Err(Failure::new(Fault::TimedOut, "Vault did not answer before the mount had to end")),
    }
}

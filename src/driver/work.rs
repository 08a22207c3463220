//! Requests to Vault, each in a task of its own; what comes back goes to the driver's inbox.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::core::effect::{Credential, EngineHint, Minting, ReadRequest, Urgency};
use crate::core::engine::{FetchResult, Granted};
use crate::core::error::{Failure, Fault};
use crate::core::identity::{TokenTerms, backoff_ceiling};
use crate::core::listing::Keys;
use crate::core::name::{IdentityId, Ino, LeaseId, RequestId, SourceId, VaultPath};
use crate::core::source::{Fetched, FetchedKind, Piece};
use crate::core::time::BootTime;
use crate::driver::breaker::{Change, Health};
use crate::driver::clock::Clock;
use crate::driver::limits::{Lane, Limits};
use crate::driver::{Completed, Message, Service, Settings};
use crate::render::{self, RenderError};
use crate::secret::SecretBytes;
use crate::vault::{Secret, SecretKind, Token, TokenInfo, Vault};

/// How often a read that costs nothing is tried when the server fails.
const TRIES: u32 = 3;

/// What a task needs.
pub(super) struct Work<V, C> {
    pub(super) vault: Arc<V>,
    pub(super) service: Service<C>,
    pub(super) limits: Arc<Limits>,
    pub(super) settings: Arc<Settings>,
}

/// A read to be made.
pub(super) struct Fetch {
    pub(super) request: RequestId,
    pub(super) source: SourceId,
    pub(super) with: Credential,
    pub(super) read: ReadRequest,
    pub(super) fields: bool,
    pub(super) minting: Minting,
    pub(super) urgency: Urgency,
}

impl<V: Vault, C: Clock> Work<V, C> {
    /// Runs `work` in a task and hands its result to the driver.
    fn spawn<F>(self, work: impl FnOnce(Self) -> F + Send + 'static)
    where
        F: Future<Output = Completed> + Send + 'static,
    {
        let service = self.service.clone();
        tokio::spawn(async move {
            let completed = work(self).await;
            service.send(Message::Completed(completed));
        });
    }

    pub(super) fn log_in(self, request: RequestId, identity: IdentityId) {
        self.spawn(move |work| async move {
            let _place = work.limits.enter(&Lane::Upkeep, Urgency::Renewal).await;
            let sent = work.service.clock().now();
            let result = work.vault.login(identity).await;
            work.note(&result);
            let result = result.map(|login| (login.token, terms(sent, &login.info)));
            Completed::LoggedIn { identity, request, result }
        });
    }

    pub(super) fn renew_token(self, request: RequestId, token: Option<Token>, with: Credential) {
        self.spawn(move |work| async move {
            let (sent, result) =
                work.upkeep(token, |vault, token| async move { vault.renew_self(&token).await }).await;
            let result = result.map(|info| terms(sent, &info));
            Completed::TokenRenewed { with, request, result }
        });
    }

    pub(super) fn revoke_token(self, token: Token) {
        tokio::spawn(async move {
            if let Err(failure) = self.vault.revoke_self(&token).await {
                tracing::warn!(reason = failure.reason, "a token that was replaced could not be revoked");
            }
        });
    }

    pub(super) fn fetch(self, fetch: Fetch, token: Option<Token>) {
        self.spawn(move |work| async move {
            let result = match token {
                Some(token) => work.read(&fetch, &token).await,
                None => FetchResult::Failed(token_gone()),
            };
            Completed::Fetched { source: fetch.source, request: fetch.request, with: fetch.with, result }
        });
    }

    pub(super) fn list(
        self,
        request: RequestId,
        directory: Ino,
        token: Option<Token>,
        with: Credential,
        prefix: VaultPath,
    ) {
        self.spawn(move |work| async move {
            let sent = work.service.clock().now();
            let result = match token {
                Some(token) => {
                    work.repeat(&Lane::Kv, Urgency::Reader, || work.list_below(&token, &prefix)).await
                }
                None => Err(token_gone()),
            };
            Completed::Listed { directory, request, with, sent, result }
        });
    }

    pub(super) fn renew_lease(
        self,
        request: RequestId,
        source: SourceId,
        token: Option<Token>,
        lease: LeaseId,
        increment: Duration,
    ) {
        self.spawn(move |work| async move {
            let renew =
                |vault: Arc<V>, token| async move { vault.renew_lease(&token, &lease, increment).await };
            let (sent, result) = work.upkeep(token, renew).await;
            let result = result.map(|one| Granted { sent, duration: one.duration, renewable: one.renewable });
            Completed::LeaseRenewed { source, request, result }
        });
    }

    pub(super) fn look_up_lease(
        self,
        request: RequestId,
        source: SourceId,
        token: Option<Token>,
        lease: LeaseId,
    ) {
        self.spawn(move |work| async move {
            let look = |vault: Arc<V>, token| async move { vault.look_up_lease(&token, &lease).await };
            let (sent, result) = work.upkeep(token, look).await;
            // A revocation under way shows as a lease without any time left.
            let result = result.and_then(|duration| match duration {
                Duration::ZERO => Err(Failure::new(Fault::LeaseGone, "the lease is being revoked")),
                duration => Ok(Granted { sent, duration, renewable: true }),
            });
            Completed::LeaseLookedUp { source, request, result }
        });
    }

    pub(super) fn revoke_lease(self, token: Option<Token>, lease: LeaseId) {
        self.spawn(move |work| async move {
            let which = lease.clone();
            let revoke = |vault: Arc<V>, token| async move { vault.revoke_lease(&token, &which).await };
            let (_, result) = work.upkeep(token, revoke).await;
            Completed::LeaseRevoked { lease, result }
        });
    }

    async fn list_below(&self, token: &Token, prefix: &VaultPath) -> Result<Keys, Failure> {
        let names = self.vault.list(token, prefix).await?;
        let below = if names.iter().any(|name| matches!(name.as_str(), "data" | "data/")) {
            self.vault.mount_of(token, prefix).await?.canonical(prefix)
        } else {
            prefix.clone()
        };
        Ok(Keys { below, names })
    }

    /// A request about a lease or a token.
    async fn upkeep<T, F>(
        &self,
        token: Option<Token>,
        call: impl FnOnce(Arc<V>, Token) -> F,
    ) -> (BootTime, Result<T, Failure>)
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let Some(token) = token else { return (self.service.clock().now(), Err(token_gone())) };
        let _place = self.limits.enter(&Lane::Upkeep, Urgency::Renewal).await;
        let sent = self.service.clock().now();
        if let Err(failure) = self.refuse_if_down() {
            return (sent, Err(failure));
        }
        let result = call(Arc::clone(&self.vault), token).await;
        self.note(&result);
        (sent, result)
    }

    async fn read(&self, fetch: &Fetch, token: &Token) -> FetchResult<SecretBytes> {
        let lane = match self.lane(fetch, token).await {
            Ok(lane) => lane,
            Err(result) => return result,
        };
        let result = match lane {
            Lane::Mint(_) => {
                let _place = self.limits.enter(&lane, fetch.urgency).await;
                self.read_once(fetch, token).await
            }
            Lane::Kv | Lane::Upkeep => {
                self.repeat(&lane, fetch.urgency, || self.read_once(fetch, token)).await
            }
        };
        match result {
            Ok(fetched) => FetchResult::Secret(fetched),
            Err(failure) => FetchResult::Failed(failure),
        }
    }

    /// Finds out whether a read may mint, and so how it is queued; ends it if it may and must not.
    async fn lane(&self, fetch: &Fetch, token: &Token) -> Result<Lane, FetchResult<SecretBytes>> {
        let mount_like = |path: &VaultPath| path.segments().next().unwrap_or_default().to_owned();
        let hint = fetch.read.engine;
        if matches!(hint, EngineHint::Kv1 | EngineHint::Kv2) {
            return Ok(Lane::Kv);
        }
        if hint == EngineHint::Other || fetch.read.params.is_some() {
            return match fetch.minting {
                Minting::Allowed => Ok(Lane::Mint(mount_like(&fetch.read.path))),
                Minting::Forbidden => Err(FetchResult::WouldMint),
            };
        }
        self.refuse_if_down().map_err(FetchResult::Failed)?;
        let mount = self.vault.mount_of(token, &fetch.read.path).await;
        if mount.is_err() {
            // What was known already says nothing of the server.
            self.note(&mount);
        }
        match (mount, fetch.minting) {
            (Ok(mount), _) if mount.mints_nothing_at(&fetch.read.path) => Ok(Lane::Kv),
            (Ok(_), Minting::Forbidden) => Err(FetchResult::WouldMint),
            (Ok(mount), Minting::Allowed) => Ok(Lane::Mint(mount.path)),
            (Err(failure), Minting::Allowed) if failure.fault == Fault::Denied => {
                // The token may not ask what it is; the read itself will tell.
                Ok(Lane::Mint(mount_like(&fetch.read.path)))
            }
            (Err(failure), _) => Err(FetchResult::Failed(failure)),
        }
    }

    async fn read_once(&self, fetch: &Fetch, token: &Token) -> Result<Fetched<SecretBytes>, Failure> {
        self.refuse_if_down()?;
        let sent = self.service.clock().now();
        let result = self.vault.read(token, &fetch.read).await;
        self.note(&result);
        let secret = result?;
        for warning in &secret.warnings {
            tracing::warn!(path = %fetch.read.path, warning, "Vault warns");
        }
        Ok(self.rendered(fetch, sent, secret))
    }

    fn rendered(&self, fetch: &Fetch, sent: BootTime, secret: Secret) -> Fetched<SecretBytes> {
        let wall = self.service.clock().wall();
        let now = self.service.clock().now();
        let mut bodies = BTreeMap::new();
        for (file, format) in self.settings.rendering.get(&fetch.source).into_iter().flatten() {
            let body = render::file(&secret.data, format).map(Arc::new).map_err(failure_of);
            bodies.insert(Piece::File(*file), body);
        }
        if fetch.fields {
            match render::fields(&secret.data) {
                Ok(fields) => bodies.extend(
                    fields.into_iter().map(|(field, body)| (Piece::Field(field), Ok(Arc::new(body)))),
                ),
                Err(error) => {
                    tracing::warn!(path = %fetch.read.path, reason = %error, "the fields can't be shown");
                }
            }
        }
        let kind = match secret.kind {
            SecretKind::Kv { version, created, deletion } => {
                FetchedKind::Kv { version, created, deleted: deletion.map(|at| at.to_boot_time(now, wall)) }
            }
            SecretKind::Leased(lease) => {
                FetchedKind::Leased { lease: lease.id, duration: lease.duration, renewable: lease.renewable }
            }
            SecretKind::Static { ttl, rotated } => FetchedKind::Static { ttl, rotated },
            SecretKind::Other { minted, ttl } => {
                FetchedKind::Other { minted, ends: ttl.map(|ttl| sent + ttl) }
            }
        };
        Fetched { sent, received: wall, kind, bodies }
    }

    /// A request that costs nothing, tried again a little later while the server fails.
    async fn repeat<T, F>(&self, lane: &Lane, urgency: Urgency, call: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut tried = 0;
        loop {
            let result = {
                let _place = self.limits.enter(lane, urgency).await;
                self.refuse_if_down()?;
                let result = call().await;
                self.note(&result);
                result
            };
            tried += 1;
            match result {
                Err(failure)
                    if tried < TRIES
                        && matches!(failure.fault, Fault::ServerError | Fault::RateLimited)
                        && failure.retry_after.is_none_or(|asked| asked < self.settings.read_timeout) =>
                {
                    let pause = backoff_ceiling(tried).mul_f64(fastrand::f64());
                    tokio::time::sleep(failure.retry_after.unwrap_or(pause)).await;
                }
                result => return result,
            }
        }
    }

    fn refuse_if_down(&self) -> Result<(), Failure> {
        match self.service.health() {
            Health::Well | Health::Shaky { .. } => Ok(()),
            Health::Down { since } => {
                let down = self.service.clock().now().since(since).as_secs();
                let reason = format!(
                    "Vault has not answered for {down} s: nothing is asked until it does (circuit breaker)"
                );
                Err(Failure::new(Fault::Unreachable, reason))
            }
        }
    }

    /// Tells the breaker what became of a request.
    fn note<T>(&self, result: &Result<T, Failure>) {
        let now = self.service.clock().now();
        let fault = result.as_ref().err().map(|failure| failure.fault);
        let mut breaker = self.service.shared.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        let change = breaker.note(now, fault);
        drop(breaker);
        if change == Change::Opened {
            let reason = result.as_ref().err().map(|failure| failure.reason.as_str()).unwrap_or_default();
            tracing::error!(reason, "Vault does not answer; what is not cached fails at once until it does");
            tokio::spawn(probe(Arc::clone(&self.vault), self.service.clone()));
        }
    }
}

/// Asks for the server's health until it is well.
async fn probe<V: Vault, C: Clock>(vault: Arc<V>, service: Service<C>) {
    let mut pause = Duration::from_millis(250);
    loop {
        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        if service.shared.inbox.is_closed() {
            return;
        }
        if vault.health().await.is_ok() {
            service.shared.breaker.lock().unwrap_or_else(PoisonError::into_inner).close();
            tracing::info!("Vault answers again");
            return;
        }
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

fn token_gone() -> Failure {
    Failure::new(Fault::Unreachable, "the token for this request is gone; another one is being obtained")
}

fn terms(sent: BootTime, info: &TokenInfo) -> TokenTerms {
    TokenTerms { sent, ttl: info.ttl, renewable: info.renewable && !info.batch, ours: info.ours }
}

fn failure_of(error: RenderError) -> Failure {
    let fault = match error {
        RenderError::NoSuchField { .. } => Fault::NotFound,
        _ => Fault::Unusable,
    };
    Failure::new(fault, error.to_string())
}

//! Requests to Vault, each in a task of its own; what comes back goes to the driver's inbox.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::core::effect::{Credential, EngineHint, Minting, ReadRequest, Urgency};
use crate::core::engine::{FetchResult, Granted};
use crate::core::error::{Failure, Fault};
use crate::core::generation::{Fetched, FetchedKind, Piece};
use crate::core::identity::{TokenTerms, backoff_ceiling};
use crate::core::listing::Keys;
use crate::core::name::{IdentityId, Ino, LeaseId, RequestId, SourceId, VaultPath};
use crate::core::time::BootTime;
use crate::driver::clock::Clock;
use crate::driver::mounts::{Admission, Held, Target};
use crate::driver::queue::{Lane, Mount};
use crate::driver::upstream::Upstream;
use crate::driver::{Completed, Message, Service, Settings};
use crate::render::{self, RenderError};
use crate::secret::SecretBytes;
use crate::vault::{Secret, SecretKind, Token, TokenInfo, Vault};

/// How often a read that costs nothing is tried when the server fails.
const TRIES: u32 = 3;

/// Over how much time those come back who waited for the same engine.
const JITTER: Duration = Duration::from_millis(100);

/// What a task needs.
pub(super) struct Work<V, C> {
    pub(super) upstream: Upstream<V, C>,
    pub(super) service: Service<C>,
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
            let result = match work.upstream.place(&Lane::Upkeep, Urgency::Renewal, work.end()).await {
                Ok(_place) => {
                    let sent = work.service.clock().now();
                    // It is not cut off: that would leave a token behind.
                    let result = work.upstream.ask(None, work.upstream.vault.login(identity)).await;
                    result.map(|login| (login.token, terms(sent, &login.info)))
                }
                Err(failure) => Err(failure),
            };
            Completed::LoggedIn { identity, request, result }
        });
    }

    pub(super) fn renew_token(self, request: RequestId, token: Option<Token>, with: Credential) {
        self.spawn(move |work| async move {
            let renew = |vault: Arc<V>, token| async move { vault.renew_self(&token).await };
            let (sent, result) = work.upkeep(token, Urgency::Renewal, renew).await;
            let result = result.map(|info| terms(sent, &info));
            Completed::TokenRenewed { with, request, result }
        });
    }

    pub(super) fn revoke_token(self, with: Credential, token: Token) {
        tokio::spawn(async move {
            let revoke = |vault: Arc<V>, token| async move { vault.revoke_self(&token).await };
            let (_, result) = self.upkeep(Some(token), Urgency::Reader, revoke).await;
            if let Err(failure) = result {
                tracing::warn!(reason = failure.reason, "a token that was replaced could not be revoked");
            }
            // Not before: a successor of this process would not know of it.
            self.service.seal(|seal| seal.forget(with));
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
                    let target = Target { mount: mount_like(&token, &prefix), path: prefix.clone() };
                    let list = || work.list_below(&token, &prefix);
                    work.repeat(&target, Urgency::Reader, work.end(), list).await
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
            let (sent, result) = work.upkeep(token, Urgency::Renewal, renew).await;
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
            let (sent, result) = work.upkeep(token, Urgency::Background, look).await;
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
            let (_, result) = work.upkeep(token, Urgency::Reader, revoke).await;
            Completed::LeaseRevoked { lease, result }
        });
    }

    async fn list_below(&self, token: &Token, prefix: &VaultPath) -> Result<Keys, Failure> {
        let names = self.upstream.vault.list(token, prefix).await?;
        let below = if names.iter().any(|name| matches!(name.as_str(), "data" | "data/")) {
            self.upstream.vault.mount_of(token, prefix).await?.canonical(prefix)
        } else {
            prefix.clone()
        };
        Ok(Keys { below, names })
    }

    /// Until when a request that mints nothing is waited for, its time in the queue included.
    fn end(&self) -> Instant {
        Instant::now() + 2 * self.settings.read_timeout
    }

    /// A request about a lease or a token.
    async fn upkeep<T, F>(
        &self,
        token: Option<Token>,
        urgency: Urgency,
        call: impl FnOnce(Arc<V>, Token) -> F,
    ) -> (BootTime, Result<T, Failure>)
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let Some(token) = token else { return (self.service.clock().now(), Err(token_gone())) };
        let end = self.end();
        let place = self.upstream.place(&Lane::Upkeep, urgency, end).await;
        let sent = self.service.clock().now();
        let result = match place {
            Ok(_place) => self.upstream.ask(Some(end), call(Arc::clone(&self.upstream.vault), token)).await,
            Err(failure) => Err(failure),
        };
        (sent, result)
    }

    async fn read(&self, fetch: &Fetch, token: &Token) -> FetchResult<SecretBytes> {
        let end = self.end();
        let result = match self.kind(fetch, token, end).await {
            Ok(Kind::Kv(mount)) => {
                let target = Target { mount, path: fetch.read.path.clone() };
                self.repeat(&target, fetch.urgency, end, || self.read_once(fetch, token)).await
            }
            Ok(Kind::Minting(mount)) => {
                let target = Target { mount, path: fetch.read.path.clone() };
                self.mint(fetch, token, &target, end).await
            }
            Err(result) => return result,
        };
        match result {
            Ok(fetched) => FetchResult::Secret(fetched),
            Err(failure) => FetchResult::Failed(failure),
        }
    }

    /// Finds out whether a read may mint; ends it if it may and must not.
    async fn kind(
        &self,
        fetch: &Fetch,
        token: &Token,
        end: Instant,
    ) -> Result<Kind, FetchResult<SecretBytes>> {
        let path = &fetch.read.path;
        let hint = fetch.read.engine;
        if matches!(hint, EngineHint::Kv1 | EngineHint::Kv2) {
            return Ok(Kind::Kv(mount_like(token, path)));
        }
        if hint == EngineHint::Other || fetch.read.params.is_some() {
            return match fetch.minting {
                Minting::Allowed => Ok(Kind::Minting(mount_like(token, path))),
                Minting::Forbidden => Err(FetchResult::WouldMint),
            };
        }
        let place = self.upstream.place(&Lane::Upkeep, fetch.urgency, end).await;
        let _place = place.map_err(FetchResult::Failed)?;
        let mount = self.upstream.ask_or_know(end, self.upstream.vault.mount_of(token, path)).await;
        match (mount, fetch.minting) {
            (Ok(mount), _) if mount.mints_nothing_at(path) => Ok(Kind::Kv(mount_at(token, mount.path))),
            (Ok(_), Minting::Forbidden) => Err(FetchResult::WouldMint),
            (Ok(mount), Minting::Allowed) => Ok(Kind::Minting(mount_at(token, mount.path))),
            (Err(failure), Minting::Allowed) if failure.fault == Fault::Denied => {
                // The token may not ask what it is; the read itself will tell.
                Ok(Kind::Minting(mount_like(token, path)))
            }
            (Err(failure), _) => Err(FetchResult::Failed(failure)),
        }
    }

    /// A read that may mint: sent once.
    async fn mint(
        &self,
        fetch: &Fetch,
        token: &Token,
        target: &Target,
        end: Instant,
    ) -> Result<Fetched<SecretBytes>, Failure> {
        let lane = Lane::Mint(target.mount.clone());
        let wait = Wait::new(self.settings.read_timeout, fetch.urgency);
        loop {
            let place = self.upstream.place(&lane, fetch.urgency, end).await?;
            match self.upstream.admit(target) {
                Ok(_) => {
                    // The client ends it after `issue-timeout`, and revokes what comes later.
                    let result = self.upstream.ask(None, self.read_once(fetch, token)).await;
                    self.upstream.note_engine(target, &result);
                    return result;
                }
                Err(held) => {
                    drop(place);
                    self.wait_or_fail(&wait, held).await?;
                }
            }
        }
    }

    async fn read_once(&self, fetch: &Fetch, token: &Token) -> Result<Fetched<SecretBytes>, Failure> {
        let sent = self.service.clock().now();
        let secret = self.upstream.vault.read(token, &fetch.read).await?;
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
        if self.settings.values.contains(&fetch.source) {
            bodies.insert(Piece::Values, Ok(Arc::new(secret.data)));
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

    /// A request to KV: it costs nothing, so it is tried again a little later while the server fails.
    async fn repeat<T, F>(
        &self,
        target: &Target,
        urgency: Urgency,
        end: Instant,
        call: impl Fn() -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let wait = Wait::new(self.settings.read_timeout, urgency);
        let mut tried = 0;
        loop {
            let place = self.upstream.place(&Lane::Kv, urgency, end).await?;
            let admission = match self.upstream.admit(target) {
                Ok(admission) => admission,
                Err(held) => {
                    drop(place);
                    self.wait_or_fail(&wait, held).await?;
                    continue;
                }
            };
            let result = self.upstream.ask(Some(end), call()).await;
            drop(place);
            tried += 1;
            if let Err(failure) = &result
                && failure.fault == Fault::ServerError
                && admission == Admission::Usual
                && tried < TRIES
            {
                let pause = backoff_ceiling(tried).mul_f64(fastrand::f64());
                let pause = pause + failure.retry_after.unwrap_or_default();
                if Instant::now() + pause < wait.until {
                    tokio::time::sleep(pause).await;
                    continue;
                }
            }
            // Counted once for all tries, so that one bad secret does not condemn its engine.
            self.upstream.note_engine(target, &result);
            match &result {
                // The engine is held back now; when that is over soon, this one waits for it.
                Err(failure) if failure.fault == Fault::RateLimited && tried < TRIES => {}
                _ => return result,
            }
        }
    }

    /// Waits until an engine may be asked again, if somebody waits for the answer and that is soon.
    async fn wait_or_fail(&self, wait: &Wait, held: Held) -> Result<(), Failure> {
        let pause = held.until.since(self.service.clock().now());
        // They do not all come back in the same moment.
        let pause = pause + JITTER.mul_f64(fastrand::f64());
        let is_soon = Instant::now() + pause < wait.until;
        if held.why.fault != Fault::RateLimited || !is_soon {
            return Err(held.why);
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// What a read turned out to be, and of which engine.
enum Kind {
    Kv(Mount),
    Minting(Mount),
}

/// How long it is worth to wait for an engine that is held back.
struct Wait {
    until: Instant,
}

impl Wait {
    fn new(read_timeout: Duration, urgency: Urgency) -> Wait {
        let now = Instant::now();
        // Nobody waits: the engine tries again by itself.
        Wait { until: if urgency == Urgency::Background { now } else { now + read_timeout } }
    }
}

fn mount_at(token: &Token, path: String) -> Mount {
    Mount { namespace: token.namespace().map(str::to_owned), path }
}

/// The engine of a path whose mount isn't known: most are mounted at one segment.
fn mount_like(token: &Token, path: &VaultPath) -> Mount {
    mount_at(token, path.segments().next().unwrap_or_default().to_owned())
}

fn token_gone() -> Failure {
    Failure::new(Fault::Unreachable, "the token for this request is gone; another one is being obtained")
}

fn terms(sent: BootTime, info: &TokenInfo) -> TokenTerms {
    TokenTerms {
        sent,
        ttl: info.ttl,
        renewable: info.renewable && !info.batch,
        ours: info.ours,
        known: false,
    }
}

fn failure_of(error: RenderError) -> Failure {
    let fault = match error {
        RenderError::NoSuchField { .. } => Fault::NotFound,
        _ => Fault::Unusable,
    };
    Failure::new(fault, error.to_string())
}

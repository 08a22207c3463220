//! The real server behind the trait.
//!
//! Each method is one request, with two exceptions that the caller can't see: a path whose engine isn't
//! known yet is asked about first, and after a 403 the token is looked up once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::config::plan::{IdentityPlan, VaultPlan};
use crate::core::effect::{EngineHint, ReadRequest};
use crate::core::error::{Failure, Fault};
use crate::core::name::{IdentityId, LeaseId, VaultPath};
use crate::sys::safe_file::Distrust;
use crate::vault::auth::Identity;
use crate::vault::engine::{self, Capability, MountTable, Place, Shape};
use crate::vault::http::{Again, Answer, Call, Http, Limit, Method};
use crate::vault::life::Life;
use crate::vault::{
    EngineMount, Kept, Login, Origin, Renewal, Secret, Token, TokenInfo, Vault, answer, issue, refusal,
};

/// Why no client can be made of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ClientError {
    /// The list of addresses is empty.
    #[error("no address of Vault is known: set `address`")]
    NoAddress,
    /// An address that isn't `http://HOST[:PORT]`, `https://HOST[:PORT]` or `unix:///PATH`.
    #[error("{address} is no address of Vault: write https://HOST:PORT or unix:///PATH")]
    BadAddress {
        /// As it was given.
        address: String,
    },
    /// A certificate or key file that can't be read.
    #[error("{} can't be read: {trouble}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        trouble: String,
    },
    /// A CA file without a certificate.
    #[error("{} holds no PEM certificate", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A directory of CA files without a certificate in any of them.
    #[error("no file in {} holds a PEM certificate", path.display())]
    NoCertificates {
        /// The directory.
        path: PathBuf,
    },
    /// The key is that of another certificate.
    #[error("the key in {} is not that of the certificate in {}", key.display(), certificate.display())]
    MismatchedKey {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The file of a client certificate or of its key is not to be trusted.
    #[error("{0}")]
    Distrusted(#[from] Distrust),
    /// The proxy's address is none.
    #[error("{address} is no address of a proxy: write http://HOST:PORT")]
    BadProxy {
        /// As it was given.
        address: String,
    },
    /// Client certificate and key don't make a pair, or aren't PEM.
    #[error("{} and {} are no PEM certificate with its key", certificate.display(), key.display())]
    BadClientCertificate {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// `tls-server-name` isn't a DNS name.
    #[error("tls-server-name {name} is not a DNS name")]
    BadServerName {
        /// As it was given.
        name: String,
    },
    /// The TLS library refuses to start: no trusted certificate on the system, or a client certificate that
    /// doesn't fit its key.
    #[error("TLS can't be set up: set `ca-cert`, and check that client-cert and client-key belong together")]
    Tls,
}

/// A Vault server, or several nodes of one. Cheap to clone: all clones are one client.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

struct Shared {
    http: Http,
    identities: Vec<Identity>,
    mounts: MountTable,
    /// For all requests that can be repeated.
    patience: Duration,
    /// For requests that may mint.
    issue_timeout: Duration,
}

impl Client {
    /// Prepares a client; sends nothing.
    ///
    /// # Errors
    /// A [`ClientError`]: an address or a certificate file that can't be used.
    pub fn new(vault: &VaultPlan, identities: &[IdentityPlan]) -> Result<Client, ClientError> {
        let identities = identities.iter().map(|identity| Identity::new(identity, vault));
        Ok(Client(Arc::new(Shared {
            http: Http::new(vault)?,
            identities: identities.collect(),
            mounts: MountTable::default(),
            patience: vault.read_timeout.saturating_mul(2),
            issue_timeout: vault.issue_timeout,
        })))
    }

    /// Which engine serves a path, as far as an earlier request of this identity has found out. Asks nobody.
    pub fn known_mount(&self, identity: IdentityId, path: &VaultPath) -> Option<EngineMount> {
        let namespace = self.identity(identity).ok()?.namespace();
        self.0.mounts.last_known(namespace, path)
    }

    /// Posts credentials to an auth method, over these connections or over those of all.
    pub(super) async fn log_in_at(
        &self,
        http: Option<&Http>,
        path: &str,
        auth_path: &VaultPath,
        namespace: Option<&str>,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<Answer, Failure> {
        // Each login makes a token.
        let call = Call::without_token(path, namespace, body, self.0.patience);
        let answer = http.unwrap_or(&self.0.http).send(&call).await?;
        if is_good(&answer) { Ok(answer) } else { Err(refusal::of_login(&answer, auth_path.as_str())) }
    }

    /// Asks what a wrapping token was made by. It stays as it is.
    pub(super) async fn look_up_wrapping(
        &self,
        namespace: Option<&str>,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<Answer, Failure> {
        let path = "sys/wrapping/lookup";
        let call = Call::without_token(path, namespace, body, self.0.patience);
        let answer = self.0.http.send(&call).await?;
        if is_good(&answer) { Ok(answer) } else { Err(refusal::of_wrapping(&answer, path)) }
    }

    /// Takes out what a wrapping token holds.
    pub(super) async fn unwrap(&self, wrapper: &Token) -> Result<Answer, Failure> {
        let path = "sys/wrapping/unwrap";
        let post = Call::post(wrapper, path, json(&())?, self.0.patience);
        let answer = self.0.http.send(&Call { again: Again::Never, ..post }).await?;
        if is_good(&answer) { Ok(answer) } else { Err(refusal::of_wrapping(&answer, path)) }
    }

    /// Sends a call over the connections of its token.
    async fn send(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        let own = call.token.and_then(|token| token.0.http.get());
        own.unwrap_or(&self.0.http).send(call).await
    }

    fn identity(&self, id: IdentityId) -> Result<&Identity, Failure> {
        let found = usize::try_from(id.0).ok().and_then(|at| self.0.identities.get(at));
        found.ok_or_else(|| Failure::new(Fault::Denied, "the configuration has no such identity"))
    }

    /// Sends a call with a token. A bad answer becomes `refused(answer)`; if that says denied, the token is
    /// looked up to see whether it lives.
    async fn ask(
        &self,
        call: Call<'_>,
        refused: impl Fn(&Answer) -> Failure + Send,
    ) -> Result<Answer, Failure> {
        let answer = self.send(&call).await?;
        if is_good(&answer) {
            return Ok(answer);
        }
        let failure = refused(&answer);
        match call.token {
            Some(token) if failure.fault == Fault::Denied => Err(self.or_token_lost(token, failure).await),
            _ => Err(failure),
        }
    }

    async fn or_token_lost(&self, token: &Token, denied: Failure) -> Failure {
        match token.0.life.ask(self.life_of(token)).await {
            Life::Alive | Life::Unknown => denied,
            Life::Dead => Failure::new(Fault::TokenLost, format!("the token is dead: {}", denied.reason)),
        }
    }

    /// `lookup-self` is denied to a dead token and to one without the `default` policy. The list of mounts
    /// is open to every token that lives.
    async fn life_of(&self, token: &Token) -> Life {
        for path in ["auth/token/lookup-self", "sys/internal/ui/mounts"] {
            let call = Call { limit: Limit::List, ..Call::get(token, path, self.0.patience) };
            match self.send(&call).await {
                Ok(answer) if is_good(&answer) => return Life::Alive,
                // Only Vault itself can say that a token is dead; a proxy that denies can't.
                Ok(answer) if answer.status == 403 && refusal::texts(&answer.body).is_some() => {}
                Ok(_) | Err(_) => return Life::Unknown,
            }
        }
        Life::Dead
    }

    /// The engine of a path, asked for once per mount. `None`: Vault won't say.
    async fn mount_for(&self, token: &Token, path: &VaultPath) -> Result<Option<EngineMount>, Failure> {
        if let Some(mount) = self.0.mounts.find(token.namespace(), path) {
            return Ok(Some(mount));
        }
        let asked = format!("sys/internal/ui/mounts/{path}");
        let answer = self.send(&Call::get(token, &asked, self.0.patience)).await?;
        if matches!(answer.status, 400 | 403 | 404 | 405) {
            return Ok(None);
        }
        if !is_good(&answer) {
            return Err(refusal::of_request(&answer, &format!("asking for the engine of {path}")));
        }
        let mount = answer::mount(&answer.body, &asked)?;
        self.0.mounts.remember(token.namespace(), mount);
        // A path that isn't below the mount that Vault names for it is as good as unknown.
        Ok(self.0.mounts.find(token.namespace(), path))
    }

    async fn place(&self, token: &Token, request: &ReadRequest) -> Result<Place, Failure> {
        let mount = match request.engine {
            EngineHint::Auto | EngineHint::Kv2 => self.mount_for(token, &request.path).await?,
            EngineHint::Kv1 | EngineHint::Other => None,
        };
        engine::place(mount.as_ref(), request)
    }

    /// Sends the read itself.
    async fn fetch(
        &self,
        token: &Token,
        request: &ReadRequest,
        place: &Place,
        timeout: Duration,
    ) -> Result<Secret, Failure> {
        let Place { call, shape } = place;
        let version = request.version.map(|version| version.to_string());
        let query: Vec<_> = version.iter().map(|version| ("version", version.as_str())).collect();
        let again = if matches!(shape, Shape::Kv1 | Shape::Kv2) { Again::Elsewhere } else { Again::Never };
        let get =
            Call { query: &query, limit: Limit::Secret, again, ..Call::get(token, &call.path, timeout) };
        let sent = match &request.params {
            Some(params) => Call { method: Method::Post, body: Some(params_object(params)?), ..get },
            None => get,
        };
        let refused = |answer: &Answer| {
            let deleted =
                if answer.status == 404 { answer::deleted_version(&answer.body, &call.path) } else { None };
            let mut failure =
                deleted.unwrap_or_else(|| refusal::of_read(answer, &call.path, call.capability));
            if *shape == Shape::Unknown && failure.fault == Fault::Denied {
                failure
                    .reason
                    .push_str("; if it is KV v2, the policy must name it with `data/` after the mount");
            }
            failure
        };
        let answer = self.ask(sent, refused).await.inspect_err(|failure| {
            if matches!(failure.fault, Fault::NotFound | Fault::Refused) {
                // Perhaps another engine is mounted there by now.
                self.0.mounts.forget(token.namespace(), &request.path);
            }
        })?;
        answer::secret(&answer.body, &call.path, *shape, call.capability, answer.skew)
    }

    /// A request about a lease.
    async fn lease_call(
        &self,
        token: &Token,
        path: &str,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<Answer, Failure> {
        self.ask(Call::post(token, path, body, self.0.patience), |answer| refusal::of_lease(answer, path))
            .await
    }
}

impl Vault for Client {
    async fn prepare_login(&self, identity: IdentityId) -> Result<Option<Kept>, Failure> {
        self.identity(identity)?.prepare(self).await
    }

    fn restore_kept(&self, kept: &Kept) -> bool {
        self.0.identities.iter().any(|identity| identity.restore(kept))
    }

    fn adopt(&self, identity: IdentityId, token: Token) -> Token {
        token.over(self.identity(identity).ok().and_then(Identity::connections))
    }

    fn forget_refusals(&self, identity: IdentityId) {
        if let Ok(identity) = self.identity(identity) {
            identity.forget_refusals();
        }
    }

    async fn login(&self, identity: IdentityId) -> Result<Login, Failure> {
        let login = self.identity(identity)?.log_in(self).await?;
        if login.info.num_uses > 0 && login.token.origin() == Origin::Obtained {
            // What it still could do is not our concern; that it stays behind is.
            drop(self.revoke_self(&login.token).await);
            let reason = "the role gives out tokens that may be used only a few times (token_num_uses): \
                          set that to 0";
            return Err(Failure::new(Fault::Denied, reason));
        }
        Ok(login)
    }

    async fn look_up_self(&self, token: &Token) -> Result<TokenInfo, Failure> {
        let path = "auth/token/lookup-self";
        let call = Call::get(token, path, self.0.patience);
        let answer = self.ask(call, |answer| refusal::of_request(answer, path)).await?;
        answer::token_info(&answer.body, path, token.origin())
    }

    async fn renew_self(&self, token: &Token) -> Result<TokenInfo, Failure> {
        let path = "auth/token/renew-self";
        let call = Call::post(token, path, json(&())?, self.0.patience);
        let answer = self.ask(call, |answer| refusal::of_token_renewal(answer, path)).await?;
        let (_, info) = answer::auth(&answer.body, path, token.origin())?;
        Ok(info)
    }

    async fn revoke_self(&self, token: &Token) -> Result<(), Failure> {
        let path = "auth/token/revoke-self";
        let call = Call::post(token, path, json(&())?, self.0.patience);
        self.ask(call, |answer| refusal::of_request(answer, path)).await.map(drop)
    }

    async fn read(&self, token: &Token, request: &ReadRequest) -> Result<Secret, Failure> {
        let place = self.place(token, request).await?;
        let mount = self.0.mounts.find(token.namespace(), &request.path);
        let is_static =
            request.params.is_none() && mount.is_some_and(|mount| mount.mints_nothing_at(&request.path));
        if is_static || matches!(place.shape, Shape::Kv1 | Shape::Kv2) {
            return self.fetch(token, request, &place, self.0.patience).await;
        }
        let (client, own_token, request) = (self.clone(), token.clone(), request.clone());
        let path = place.call.path.clone();
        let work = move |timeout| async move { client.fetch(&own_token, &request, &place, timeout).await };
        issue::carry_out(self, token, &path, self.0.issue_timeout, work).await
    }

    async fn list(&self, token: &Token, prefix: &VaultPath) -> Result<Vec<String>, Failure> {
        let mount = self.mount_for(token, prefix).await?;
        let place = engine::list_call(mount.as_ref(), prefix);
        let path = place.path.trim_end_matches('/');
        // `?list=true` is the same as the method LIST, and passes every proxy.
        let get = Call::get(token, path, self.0.patience);
        let call = Call { query: &[("list", "true")], limit: Limit::List, ..get };
        match self.ask(call, |answer| refusal::of_read(answer, &place.path, Capability::List)).await {
            Ok(answer) => answer::names(&answer.body, &place.path),
            Err(failure) if failure.fault == Fault::NotFound => Ok(Vec::new()),
            Err(failure) => Err(failure),
        }
    }

    async fn renew_lease(
        &self,
        token: &Token,
        lease: &LeaseId,
        increment: Duration,
    ) -> Result<Renewal, Failure> {
        let path = "sys/leases/renew";
        let body =
            json(&LeaseBody { lease_id: &lease.0, increment: Some(whole_seconds(increment)), sync: None })?;
        let answer = self.lease_call(token, path, body).await?;
        answer::renewal(&answer.body, path)
    }

    async fn look_up_lease(&self, token: &Token, lease: &LeaseId) -> Result<Duration, Failure> {
        let path = "sys/leases/lookup";
        let body = json(&LeaseBody { lease_id: &lease.0, increment: None, sync: None })?;
        let answer = self.lease_call(token, path, body).await?;
        answer::lease_ttl(&answer.body, path)
    }

    async fn revoke_lease(&self, token: &Token, lease: &LeaseId) -> Result<(), Failure> {
        let body = |sync| json(&LeaseBody { lease_id: &lease.0, increment: None, sync });
        let now = self.lease_call(token, "sys/leases/revoke", body(Some(true))?).await;
        if let Err(Failure { fault: Fault::ServerError, .. }) = &now {
            // It failed now, and Vault would leave it at that. Queued, it tries again until it succeeds; the
            // credential lives until then, so this is reported as a failure all the same.
            let queued = self.lease_call(token, "sys/leases/revoke", body(Some(false))?).await;
            return queued.and(now.map(drop));
        }
        now.map(drop)
    }

    async fn mount_of(&self, token: &Token, path: &VaultPath) -> Result<EngineMount, Failure> {
        match self.mount_for(token, path).await? {
            Some(mount) => Ok(mount),
            None => {
                let reason = format!(
                    "Vault doesn't say which engine serves {path}: nothing is mounted there, or the policy allows nothing"
                );
                Err(self.or_token_lost(token, Failure::new(Fault::Denied, reason)).await)
            }
        }
    }

    async fn capabilities(
        &self,
        token: &Token,
        paths: &[String],
    ) -> Result<BTreeMap<String, Vec<String>>, Failure> {
        #[derive(Serialize)]
        struct Paths<'a> {
            paths: &'a [String],
        }
        let path = "sys/capabilities-self";
        let call = Call::post(token, path, json(&Paths { paths })?, self.0.patience);
        let answer = self.ask(call, |answer| refusal::of_request(answer, path)).await?;
        answer::capabilities(&answer.body, path)
    }

    async fn health(&self) -> Result<(), Failure> {
        let own = |identity: &Identity| identity.connections();
        match self
            .0
            .identities
            .iter()
            .map(own)
            .collect::<Option<Vec<_>>>()
            .and_then(|all| all.into_iter().next())
        {
            // All have a certificate: Vault may let nobody else in.
            Some(http) => http.health().await,
            None => self.0.http.health().await,
        }
    }
}

#[derive(Serialize)]
struct LeaseBody<'a> {
    lease_id: &'a str,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    increment: Option<u64>,
    /// Whether to answer only when it is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    sync: Option<bool>,
}

/// Rounded up: an increment of 0 would mean the engine's default.
fn whole_seconds(increment: Duration) -> u64 {
    let started = u64::from(increment.subsec_nanos() > 0);
    increment.as_secs().saturating_add(started).max(1)
}

fn is_good(answer: &Answer) -> bool {
    (200..300).contains(&answer.status)
}

/// A request's body; wiped when dropped.
pub(super) fn json(value: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, Failure> {
    // Large enough for every body but big `params`, so that growing seldom leaves a copy.
    let mut text = Zeroizing::new(Vec::with_capacity(1024));
    serde_json::to_writer(&mut *text, value)
        .map_err(|_| Failure::new(Fault::Refused, "the request can't be written as JSON"))?;
    Ok(text)
}

/// Parameters, whose values are JSON texts, as one object.
fn params_object(params: &BTreeMap<String, String>) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let parse = |(key, text): (&String, &String)| match serde_json::from_str::<&RawValue>(text) {
        Ok(value) => Ok((key.clone(), value.to_owned())),
        Err(_) => Err(Failure::new(Fault::Refused, format!("the parameter {key} is not JSON"))),
    };
    json(&params.iter().map(parse).collect::<Result<BTreeMap<String, Box<RawValue>>, _>>()?)
}

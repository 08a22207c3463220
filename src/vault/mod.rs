//! The Vault side: one trait for what the driver needs of a server, and the real client behind it.
//!
//! Rules: foreign errors (vaultrs, reqwest, serde) end here and their text is not kept, since it may
//! hold answers or tokens. A token is a [`SecretBytes`] from the moment that it is parsed.
//!
//! | file | responsibility |
//! | --- | --- |
//! | `client.rs` | [`client::Client`], the real server behind the trait |
//! | `http.rs` | one request and its whole answer: nodes, TLS, limits, time-outs |
//! | `answer.rs` | the bytes of a good answer, taken apart without a copy too many |
//! | `refusal.rs` | status and error texts of a bad answer, as a [`Failure`] |
//! | `engine.rs` | where a logical path lies in the API of the engine that serves it |
//! | `issue.rs` | requests that mint: never cut off, and what comes too late is revoked |
//! | `life.rs` | tells a dead token from a policy that says no |
//! | `auth/` | one login method per file |

pub mod client;
pub mod engine;

mod answer;
mod auth;
mod http;
mod issue;
mod life;
mod refusal;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::core::effect::ReadRequest;
use crate::core::error::Failure;
use crate::core::name::{IdentityId, LeaseId, VaultPath};
use crate::core::time::UnixTime;
use crate::secret::SecretBytes;

/// Who obtained a token, and so who ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// leasefs logged in for it and revokes it at the end.
    Obtained,
    /// The user gave it; it is left alone.
    Given,
}

/// A token, ready to be sent with requests. Cheap to clone: all clones share the bytes.
#[derive(Clone)]
pub struct Token(Arc<TokenParts>);

struct TokenParts {
    secret: SecretBytes,
    namespace: Option<String>,
    origin: Origin,
    life: life::LifeSign,
}

impl Token {
    /// A token, the namespace that requests with it go to, and where it came from.
    pub fn new(secret: SecretBytes, namespace: Option<String>, origin: Origin) -> Token {
        Token(Arc::new(TokenParts { secret, namespace, origin, life: life::LifeSign::default() }))
    }

    /// The token itself: for the request's header and for the sealed state.
    pub fn secret(&self) -> &SecretBytes {
        &self.0.secret
    }

    /// Sent as `X-Vault-Namespace`.
    pub fn namespace(&self) -> Option<&str> {
        self.0.namespace.as_deref()
    }

    /// Who obtained it.
    pub fn origin(&self) -> Origin {
        self.0.origin
    }
}

/// What Vault says of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenInfo {
    /// How long it still lives, counted from when the request was sent; `None`: it has no end.
    pub ttl: Option<Duration>,
    /// Whether `renew-self` can extend it.
    pub renewable: bool,
    /// Batch tokens can't be renewed, and their leases can't be either.
    pub batch: bool,
    /// How far each renewal extends it, without an end; `None`: it is not periodic, or nobody looked it up.
    pub period: Option<Duration>,
    /// Whether leasefs logged in for it, and so revokes it at the end. A token that the user gave is
    /// left alone.
    pub ours: bool,
    /// Uses that are left; 0: no limit (Vault's own convention, `num_uses`).
    pub num_uses: u64,
    /// Its policies, for messages.
    pub policies: Vec<String>,
}

/// A finished login.
pub struct Login {
    /// The token.
    pub token: Token,
    /// What Vault says of it.
    pub info: TokenInfo,
}

/// The lease of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its id.
    pub id: LeaseId,
    /// How long it was granted for, counted from when the request was sent.
    pub duration: Duration,
    /// Whether it can be renewed.
    pub renewable: bool,
}

/// What kind of thing an answer is; decides how long it may be used and what refreshes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretKind {
    /// A KV secret: reading it again costs nothing.
    Kv {
        /// KV v2: the version.
        version: Option<u64>,
        /// KV v2: when that version was written.
        created: Option<UnixTime>,
        /// KV v2: when that version will be deleted.
        deletion: Option<UnixTime>,
    },
    /// Minted under a lease: a database account, a cloud key, a PKI role with `generate_lease`.
    Leased(Lease),
    /// A static role's password: Vault replaces it in place, without overlap.
    Static {
        /// How long until Vault means to replace it, counted from when the request was sent and rounded to
        /// the nearest second. Zero: it is about to.
        ttl: Duration,
        /// When it was replaced last (`last_vault_rotation`).
        rotated: UnixTime,
    },
    /// Neither: an issued certificate, an identity token, anything of another engine.
    Other {
        /// Whether reading it again makes a new one (it was asked for by a write request, or is an identity
        /// token).
        minted: bool,
        /// When it stops being valid, counted from when the request was sent (`ttl` of an identity token,
        /// `expiration` of a certificate); `None`: Vault didn't say.
        ttl: Option<Duration>,
    },
}

/// An answer to a read.
pub struct Secret {
    /// The secret's fields, as the text of one JSON object.
    pub data: SecretBytes,
    /// What kind of thing it is.
    pub kind: SecretKind,
    /// Vault's warnings, for the log.
    pub warnings: Vec<String>,
}

/// What a renewal granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// The new duration, counted from when the request was sent.
    pub duration: Duration,
    /// Whether it can be renewed again.
    pub renewable: bool,
}

/// The engine that serves a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineMount {
    /// Where it is mounted, without a slash at the end.
    pub path: String,
    /// Vault's name of the engine's type: `kv`, `database`, `pki` …
    pub kind: String,
    /// For `kv`: 1 or 2.
    pub kv_version: Option<u8>,
}

/// A request to a Vault server. Each method is one attempt: time-outs inside, retries outside.
///
/// # Errors
/// Every method fails with a [`Failure`]: what kind it is, and one sentence for an operator.
pub trait Vault: Send + Sync + 'static {
    /// Obtains a token for `identity`: logs in, or takes the token that the user gave and looks it up.
    fn login(&self, identity: IdentityId) -> impl Future<Output = Result<Login, Failure>> + Send;
    /// Asks what the server thinks of `token`.
    fn look_up_self(&self, token: &Token) -> impl Future<Output = Result<TokenInfo, Failure>> + Send;
    /// Extends `token`.
    fn renew_self(&self, token: &Token) -> impl Future<Output = Result<TokenInfo, Failure>> + Send;
    /// Ends `token` and all leases obtained with it. A batch token can't be ended: [`Fault::Refused`].
    ///
    /// [`Fault::Refused`]: crate::core::error::Fault::Refused
    fn revoke_self(&self, token: &Token) -> impl Future<Output = Result<(), Failure>> + Send;
    /// Reads (or, with params, writes) a path. It may mint, so it must not be repeated blindly. Whoever
    /// drops the future gives the answer up: the request itself goes on, and a lease that it still brings
    /// is revoked.
    fn read(
        &self,
        token: &Token,
        request: &ReadRequest,
    ) -> impl Future<Output = Result<Secret, Failure>> + Send;
    /// The entries below a KV prefix; those that end in `/` are prefixes themselves. Not found: none.
    fn list(
        &self,
        token: &Token,
        prefix: &VaultPath,
    ) -> impl Future<Output = Result<Vec<String>, Failure>> + Send;
    /// Extends a lease to `increment` from now; a shorter grant means that the lease is capped.
    fn renew_lease(
        &self,
        token: &Token,
        lease: &LeaseId,
        increment: Duration,
    ) -> impl Future<Output = Result<Renewal, Failure>> + Send;
    /// How long a lease still lives, in whole seconds. Zero: it is ending, or is being revoked right now.
    fn look_up_lease(
        &self,
        token: &Token,
        lease: &LeaseId,
    ) -> impl Future<Output = Result<Duration, Failure>> + Send;
    /// Ends a lease now.
    fn revoke_lease(
        &self,
        token: &Token,
        lease: &LeaseId,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
    /// Which engine serves `path`.
    fn mount_of(
        &self,
        token: &Token,
        path: &VaultPath,
    ) -> impl Future<Output = Result<EngineMount, Failure>> + Send;
    /// What `token` may do at each API path (`sys/capabilities-self`).
    fn capabilities(
        &self,
        token: &Token,
        paths: &[String],
    ) -> impl Future<Output = Result<BTreeMap<String, Vec<String>>, Failure>> + Send;
    /// Whether the server can serve requests (`sys/health`, no token): `Ok` when it is active or a
    /// standby that forwards.
    fn health(&self) -> impl Future<Output = Result<(), Failure>> + Send;
}

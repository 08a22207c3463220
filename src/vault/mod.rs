//! The Vault side: one trait for what the driver needs of a server, and the real client behind it.
//!
//! Rules: foreign errors (vaultrs, reqwest, serde) end here and their text is not kept, since it may
//! hold answers or tokens. A token is a [`SecretBytes`] from the moment that it is parsed.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::core::effect::ReadRequest;
use crate::core::error::Failure;
use crate::core::name::{IdentityId, LeaseId, VaultPath};
use crate::core::time::UnixTime;
use crate::secret::SecretBytes;

/// A token, ready to be sent with requests. Cheap to clone: all clones share the bytes.
#[derive(Clone)]
pub struct Token(pub Arc<SecretBytes>);

/// What Vault says of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenInfo {
    /// How long it still lives, counted from when the request was sent; `None`: it has no end.
    pub ttl: Option<Duration>,
    /// Whether `renew-self` can extend it.
    pub renewable: bool,
    /// Batch tokens can't be renewed, and their leases can't be either.
    pub batch: bool,
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
    /// Neither: a static role, an issued certificate, anything of another engine.
    Other {
        /// Whether reading it again makes a new one (it was asked for by a write request).
        minted: bool,
        /// When it stops being valid, counted from when the request was sent (`ttl` of a static role,
        /// `expiration` of a certificate); `None`: Vault didn't say.
        ttl: Option<Duration>,
        /// When it became valid, if Vault says (`last_vault_rotation`).
        issued: Option<UnixTime>,
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
    fn renew_self(
        &self,
        identity: IdentityId,
        token: &Token,
    ) -> impl Future<Output = Result<TokenInfo, Failure>> + Send;
    /// Ends `token` and all leases obtained with it.
    fn revoke_self(&self, token: &Token) -> impl Future<Output = Result<(), Failure>> + Send;
    /// Reads (or, with params, writes) a path. May mint: never cancel it, and never repeat it blindly.
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
    /// Extends a lease by `increment` from now.
    fn renew_lease(
        &self,
        token: &Token,
        lease: &LeaseId,
        increment: Duration,
    ) -> impl Future<Output = Result<Renewal, Failure>> + Send;
    /// How long a lease still lives.
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

//! The life of one source. (The state machine follows; these are its settings.)

use std::time::Duration;

use crate::core::effect::ReadRequest;
use crate::core::name::IdentityId;

/// One Vault read with one identity, and how its values are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceSpec {
    /// Who reads it.
    pub identity: IdentityId,
    /// What is read.
    pub request: ReadRequest,
    /// How long it is kept.
    pub policy: SourcePolicy,
    /// Whether a directory shows its fields as files, besides the declared files.
    pub fields: bool,
}

/// How long a source's values are kept and what keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourcePolicy {
    /// Whether its lease is renewed.
    pub renew: Renew,
    /// For how long a KV value is fresh.
    pub max_age: Duration,
    /// For how much longer it is served while Vault can't be asked, and for how long old handles live on.
    pub grace: Duration,
    /// How long after the last open a lease counts as in use; `None`: two lease durations.
    pub idle_timeout: Option<Duration>,
}

/// When a lease is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renew {
    /// While it is open, or was lately.
    InUse,
    /// Used or not.
    Always,
    /// Never: it lapses.
    Never,
}

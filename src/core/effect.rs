//! What the engine asks the world to do.

use std::collections::BTreeMap;

use crate::core::name::VaultPath;

/// Which engine serves a path, as far as the configuration says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EngineHint {
    /// Ask Vault.
    #[default]
    Auto,
    /// KV version 1.
    Kv1,
    /// KV version 2.
    Kv2,
    /// Anything else; reading it may mint.
    Other,
}

/// One read of Vault, complete but for the identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadRequest {
    /// The logical path, as the user wrote it.
    pub path: VaultPath,
    /// Parameters; present (even empty) they make it a write request (POST). Values are JSON texts.
    pub params: Option<BTreeMap<String, String>>,
    /// A pinned version of a KV v2 secret.
    pub version: Option<u64>,
    /// Which engine it is.
    pub engine: EngineHint,
}

//! The words about one name.

use serde::{Deserialize, Serialize};

use crate::control::protocol::{FileReport, Instant};

/// What happens next, by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextReport {
    /// `fetching`, `waits-for-token`, `fetch`, `revalidate`, `renew`, `renewing` or `replace`.
    pub what: String,
    /// In how many seconds; `None`: now.
    pub in_seconds: Option<u64>,
}

/// Everything about one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainReport {
    /// The name.
    pub name: String,
    /// `file`, `tree`, `secret`, `tree-and-secret` or `directory`.
    pub kind: String,
    /// Of a file: how it stands, as in the status.
    pub file: Option<FileReport>,
    /// Of a directory of declared names: these.
    pub names: Vec<String>,
    /// Where it comes from; `None`: it only holds names.
    pub origin: Option<OriginReport>,
    /// Owner, as a number.
    pub owner: u32,
    /// Group, as a number.
    pub group: u32,
    /// Permission bits in octal digits.
    pub mode: String,
    /// What is held, the current one first.
    pub held: Vec<HeldReport>,
    /// What happens next, by itself; `None`: nothing.
    pub next: Option<NextReport>,
    /// The names that share what is held.
    pub shared_with: Vec<String>,
    /// The name whose lock covers it; empty: the whole mount.
    pub locked_by: Option<String>,
    /// Why the last try failed, or why it is locked.
    pub error: Option<String>,
    /// What to do.
    pub advice: String,
}

/// Where something comes from and how it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginReport {
    /// The identity that reads it.
    pub identity: String,
    /// The path, as it was configured.
    pub path: String,
    /// The names of the parameters that are sent along, without their values.
    pub params: Vec<String>,
    /// The version that is pinned.
    pub version: Option<u64>,
    /// What is shown of it, if that is told by the configuration or the name.
    pub shows: Option<String>,
    /// What the policy of the identity has to allow; `None`: Vault was not asked yet which engine it is.
    pub needs: Option<Needs>,
    /// `in-use`, `always`, `required` or `never`.
    pub renew: String,
    /// `refetch` or `vanish`.
    pub on_expiry: String,
    /// For how long a KV value is fresh, in seconds.
    pub max_age_seconds: u64,
    /// For how much longer it is served while Vault can't be asked, in seconds.
    pub grace_seconds: u64,
    /// How long after the last open a lease counts as in use, in seconds; `None`: two lease durations.
    pub idle_timeout_seconds: Option<u64>,
    /// What becomes of a lease that is not in use any more: `lapse` or `revoke`.
    pub on_idle: String,
    /// The other secrets of a file that shows several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<OtherReport>,
}

/// Another secret of a file that shows several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherReport {
    /// The path, as it was configured.
    pub path: String,
    /// What the policy of the identity has to allow; `None`: Vault was not asked yet which engine it is.
    pub needs: Option<Needs>,
}

/// What a policy has to allow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// `read`, `update` or `list`.
    pub capability: String,
    /// On this path.
    pub path: String,
}

/// One result that is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldReport {
    /// Of which path; only of a file that shows several secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Whether it was replaced already, and only those read it who had opened it before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replaced: bool,
    /// When it was issued, as RFC 3339.
    pub issued: String,
    /// When it ends, if nothing extends it; `None`: never.
    pub expires: Option<Instant>,
    /// How many handles are open on it, of all files that show it.
    pub handles: usize,
}

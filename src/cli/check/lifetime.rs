//! How long the leases of a role live, and whether that is wise. A role's definition is read, where the policy
//! allows it; the credential never is.
//!
//! The rule: as long as a theft that nobody notices may last, but at least three times the outage of Vault that
//! is to be ridden out.

use std::time::Duration;

use serde_json::Value;

use crate::cli::output::span;
use crate::core::name::VaultPath;
use crate::secret::SecretBytes;
use crate::vault::{EngineMount, TokenInfo};

/// How many times the outage that is to be ridden out a lease has to last: two thirds of it may be over already.
const OUTAGES: u32 = 3;

/// A longer lease is longer than what runs in the background needs, and most jobs.
const LONG: Duration = Duration::from_secs(24 * 3600);

/// When in its life a lease is renewed, on average.
const RENEWED: f64 = 0.58;

/// How long leases live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lifetime {
    /// Each time that it is renewed; `None`: the role does not say.
    pub lease: Option<Duration>,
    /// However often it is renewed; `None`: the role does not say.
    pub longest: Option<Duration>,
}

/// Where the definition of the role is that a path obtains credentials by; reading that mints nothing.
pub(super) fn role_of(mount: &EngineMount, path: &VaultPath) -> Option<VaultPath> {
    let below = path.as_str().strip_prefix(mount.path.as_str())?.strip_prefix('/')?;
    let (section, role) = below.split_once('/')?;
    let roles = match (mount.kind.as_str(), section) {
        ("database", "creds") | ("aws" | "rabbitmq" | "kubernetes" | "consul", "creds") | ("aws", "sts") => {
            "roles"
        }
        ("database" | "aws", "static-creds") => "static-roles",
        ("pki", "issue" | "sign") | ("ssh", "creds" | "issue" | "sign") => "roles",
        ("ldap", "creds") | ("nomad", "creds") => "role",
        ("ldap", "static-cred") => "static-role",
        _ => return None,
    };
    VaultPath::new(&format!("{}/{roles}/{role}", mount.path)).ok()
}

/// What a role's definition says; `None`: nothing of leases.
pub(super) fn of_role(mount: &EngineMount, definition: &SecretBytes) -> Option<Lifetime> {
    let definition: Value = serde_json::from_slice(definition.expose()).ok()?;
    let with_lease = match mount.kind.as_str() {
        "pki" => definition["generate_lease"] == Value::Bool(true),
        "ssh" => false,
        _ => definition.get("rotation_period").is_none(),
    };
    let duration = |names: &[&str]| names.iter().find_map(|name| seconds(definition.get(*name)?));
    with_lease.then(|| Lifetime {
        lease: duration(&["default_ttl", "default_sts_ttl", "token_default_ttl", "ttl"]),
        longest: duration(&["max_ttl", "max_sts_ttl", "token_max_ttl"]),
    })
}

/// Vault writes durations as seconds, or as a text; 0 means none.
fn seconds(value: &Value) -> Option<Duration> {
    let duration = match (value.as_u64(), value.as_str()) {
        (Some(seconds), _) => Duration::from_secs(seconds),
        (None, Some(text)) => match text.parse() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => humantime::parse_duration(text).ok()?,
        },
        (None, None) => return None,
    };
    (!duration.is_zero()).then_some(duration)
}

/// What to say of leases that live so long. `outage` is the one that the configuration wants to ride out.
pub(super) fn remarks(lifetime: Lifetime, outage: Duration, token: &TokenInfo) -> Vec<String> {
    let mut remarks = Vec::new();
    let Some(lease) = lifetime.lease else {
        return vec![
            "its role sets no default_ttl, so leases live as long as the engine or the server has it, 768h if \
             nobody changed that: set one; minutes for what faces users, an hour in the background"
                .to_owned(),
        ];
    };
    let told = span(lease.as_secs());
    if lease < outage * OUTAGES {
        remarks.push(format!(
            "its leases live for {told}, which rides out an outage of Vault of {} and not of {} (grace): set \
             default_ttl to {} or more",
            span((lease / OUTAGES).as_secs()),
            span(outage.as_secs()),
            span((outage * OUTAGES).as_secs()),
        ));
    }
    if lease > LONG {
        remarks.push(format!(
            "its leases live for {told}, and so long does what is stolen: an hour is enough in the background, \
             the length of the job for a batch"
        ));
    }
    if let Some(ttl) = token.ttl
        && !token.renewable
        && ttl < lease
    {
        remarks.push(format!(
            "its leases live for {told} and end with the token, in {}: give one that can be renewed",
            span(ttl.as_secs())
        ));
    }
    remarks
}

/// How many requests per second it takes to renew leases that live so long, each for good.
pub(super) fn load(leases: impl Iterator<Item = Duration>) -> f64 {
    leases.filter(|lease| !lease.is_zero()).map(|lease| 1.0 / (RENEWED * lease.as_secs_f64())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str) -> EngineMount {
        EngineMount { path: "team/e".to_owned(), kind: kind.to_owned(), kv_version: None }
    }

    fn token(ttl: u64, renewable: bool) -> TokenInfo {
        TokenInfo {
            ttl: Some(Duration::from_secs(ttl)),
            renewable,
            batch: false,
            period: None,
            ours: true,
            num_uses: 0,
            policies: Vec::new(),
        }
    }

    #[test]
    fn a_role_is_found_by_the_path_that_mints_and_nothing_else_is_read() {
        for (kind, path, role) in [
            ("database", "team/e/creds/a", Some("team/e/roles/a")),
            ("database", "team/e/static-creds/a", Some("team/e/static-roles/a")),
            ("pki", "team/e/issue/a/b", Some("team/e/roles/a/b")),
            ("ldap", "team/e/static-cred/a", Some("team/e/static-role/a")),
            ("transit", "team/e/creds/a", None),
            ("database", "team/e/config/a", None),
            ("database", "team/e", None),
            ("database", "other/creds/a", None),
        ] {
            let found = role_of(&mount(kind), &VaultPath::new(path).unwrap());
            assert_eq!(found.as_ref().map(VaultPath::as_str), role, "{kind} {path}");
        }
    }

    #[test]
    fn durations_are_numbers_or_texts_and_zero_is_none() {
        let read =
            |kind: &str, text: &str| of_role(&mount(kind), &SecretBytes::new(text.as_bytes().to_vec()));
        let lasts = |lease, longest| {
            Some(Lifetime {
                lease: Some(Duration::from_secs(lease)),
                longest: Some(Duration::from_secs(longest)),
            })
        };
        assert_eq!(read("database", r#"{"default_ttl": 60, "max_ttl": 120}"#), lasts(60, 120));
        assert_eq!(read("database", r#"{"default_ttl": "1h", "max_ttl": "7200"}"#), lasts(3600, 7200));
        assert_eq!(read("database", r#"{"default_ttl": 0, "max_ttl": 0}"#), Some(Lifetime::default()));
        assert_eq!(read("database", r#"{"rotation_period": 60}"#), None);
        assert_eq!(read("pki", r#"{"ttl": 60, "max_ttl": 120, "generate_lease": false}"#), None);
        assert_eq!(read("pki", r#"{"ttl": 60, "max_ttl": 120, "generate_lease": true}"#), lasts(60, 120));
        assert_eq!(read("database", "[]"), Some(Lifetime::default()));
        assert_eq!(read("database", "no JSON"), None);
    }

    #[test]
    fn a_lease_lasts_three_outages_and_no_longer_than_a_theft_may() {
        let minute = Duration::from_secs(60);
        let told = |seconds| {
            let lifetime = Lifetime { lease: Some(Duration::from_secs(seconds)), longest: None };
            remarks(lifetime, minute, &token(7200, true))
        };
        assert_eq!(told(180), [""; 0]);
        assert_eq!(told(24 * 3600), [""; 0]);
        assert!(
            told(90)[0].contains("of 30s and not of 1m (grace): set default_ttl to 3m"),
            "{:?}",
            told(90)
        );
        assert!(told(25 * 3600)[0].contains("what is stolen"), "{:?}", told(25 * 3600));
        assert!(remarks(Lifetime::default(), minute, &token(60, true))[0].contains("768h"));
        let lifetime = Lifetime { lease: Some(minute * 60), longest: None };
        assert!(remarks(lifetime, minute, &token(60, false))[0].contains("end with the token, in 1m"));
    }

    #[test]
    fn a_thousand_leases_of_an_hour_cost_half_a_request_per_second() {
        let load = load(std::iter::repeat_n(Duration::from_secs(3600), 1000));
        assert!((0.47..0.49).contains(&load), "{load}");
    }
}

//! A good answer, taken apart.
//!
//! The fields of a secret are cut out of the body as text and become [`SecretBytes`] at once: no tree of
//! values is made of them, and what can't be used is told in our own words, never in serde's (which quote).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::error::Category;
use serde_json::value::RawValue;

use crate::core::error::{Failure, Fault};
use crate::core::name::LeaseId;
use crate::core::time::UnixTime;
use crate::secret::SecretBytes;
use crate::sys;
use crate::vault::engine::{Capability, Shape};
use crate::vault::refusal::bounded;
use crate::vault::{EngineMount, Lease, Origin, Renewal, Secret, SecretKind, TokenInfo};

/// What Vault wraps around every answer.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
    #[serde(default, borrow)]
    auth: Option<&'a RawValue>,
    #[serde(default)]
    lease_id: Option<String>,
    #[serde(default)]
    lease_duration: Option<u64>,
    #[serde(default)]
    renewable: Option<bool>,
    #[serde(default)]
    warnings: Option<Vec<String>>,
}

/// `data` of a KV v2 secret; nothing else stands beside the two.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Versioned<'a> {
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    metadata: Metadata<'a>,
}

#[derive(Deserialize)]
struct Metadata<'a> {
    version: u64,
    #[serde(borrow)]
    created_time: Cow<'a, str>,
    #[serde(default, borrow)]
    deletion_time: Cow<'a, str>,
    #[serde(default)]
    destroyed: bool,
}

/// The fields of other engines that say how long the rest is good.
#[derive(Deserialize)]
struct Validity<'a> {
    /// Seconds; of a static role (beside `last_vault_rotation`) or an identity token (beside `token`).
    /// Elsewhere it is a setting.
    #[serde(default, borrow)]
    ttl: Option<&'a RawValue>,
    /// A certificate's `notAfter`: seconds since 1970.
    #[serde(default, borrow)]
    expiration: Option<&'a RawValue>,
    #[serde(default, borrow)]
    last_vault_rotation: Option<&'a RawValue>,
    #[serde(default, borrow)]
    token: Option<&'a RawValue>,
}

/// A token as a login or a renewal gives it.
#[derive(Deserialize)]
struct Auth<'a> {
    #[serde(borrow)]
    client_token: &'a str,
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
    #[serde(default)]
    policies: Option<Vec<String>>,
    #[serde(default)]
    token_type: Option<String>,
    #[serde(default)]
    num_uses: u64,
}

/// A token as a look-up gives it.
#[derive(Deserialize)]
struct Lookup {
    ttl: u64,
    #[serde(default)]
    period: Option<u64>,
    #[serde(default)]
    expire_time: Option<String>,
    #[serde(default)]
    renewable: Option<bool>,
    #[serde(default)]
    policies: Option<Vec<String>>,
    #[serde(default, rename = "type")]
    token_type: Option<String>,
    #[serde(default)]
    num_uses: u64,
}

/// A secret, asked for with this capability: what a write request answers has been minted.
pub(super) fn secret(body: &[u8], path: &str, shape: Shape, asked: Capability) -> Result<Secret, Failure> {
    let envelope = envelope(body, path)?;
    let data = object(envelope.data, path)?;
    let warnings = envelope.warnings.unwrap_or_default().iter().map(|text| bounded(text)).collect();
    let versioned: Option<Versioned<'_>> = match shape {
        Shape::Kv2 => Some(part(data, path)?),
        Shape::Unknown => serde_json::from_str(data.get()).ok(),
        Shape::Kv1 | Shape::Other => None,
    };
    if let Some(versioned) = versioned {
        let kind = SecretKind::Kv {
            version: Some(versioned.metadata.version),
            created: instant(&versioned.metadata.created_time),
            deletion: instant(&versioned.metadata.deletion_time),
        };
        return Ok(Secret { data: cut(object(versioned.data, path)?), kind, warnings });
    }
    let kind = if shape == Shape::Kv1 {
        // The lease of KV v1 is only a hint: nothing ends with it.
        SecretKind::Kv { version: None, created: None, deletion: None }
    } else if let Some(id) = envelope.lease_id.filter(|id| !id.is_empty()) {
        SecretKind::Leased(Lease {
            id: LeaseId(id),
            duration: Duration::from_secs(envelope.lease_duration.unwrap_or(0)),
            renewable: envelope.renewable.unwrap_or(false),
        })
    } else {
        validity(data, asked)
    };
    Ok(Secret { data: cut(data), kind, warnings })
}

/// Whether a 404 is that of a KV v2 version which is deleted or destroyed: the sentence about it.
pub(super) fn deleted_version(body: &[u8], path: &str) -> Option<Failure> {
    let envelope: Envelope<'_> = serde_json::from_slice(body).ok()?;
    let Versioned { metadata, .. } = serde_json::from_str(envelope.data?.get()).ok()?;
    let version = metadata.version;
    let reason = if metadata.destroyed {
        format!("{path}: version {version} was destroyed")
    } else {
        format!("{path}: version {version} was deleted at {}", bounded(&metadata.deletion_time))
    };
    Some(Failure::new(Fault::NotFound, reason))
}

/// The names of a list.
pub(super) fn names(body: &[u8], path: &str) -> Result<Vec<String>, Failure> {
    #[derive(Deserialize)]
    struct Keys {
        #[serde(default)]
        keys: Option<Vec<String>>,
    }
    match envelope(body, path)?.data {
        Some(data) => Ok(part::<Keys>(data, path)?.keys.unwrap_or_default()),
        None => Ok(Vec::new()),
    }
}

/// What the renewal of a lease granted.
pub(super) fn renewal(body: &[u8], doing: &str) -> Result<Renewal, Failure> {
    let envelope = envelope(body, doing)?;
    let seconds = envelope.lease_duration.ok_or_else(|| unusable(doing, "it names no duration"))?;
    Ok(Renewal { duration: Duration::from_secs(seconds), renewable: envelope.renewable.unwrap_or(false) })
}

/// How long a lease still lives.
pub(super) fn lease_ttl(body: &[u8], doing: &str) -> Result<Duration, Failure> {
    #[derive(Deserialize)]
    struct Remaining {
        ttl: i64,
    }
    let remaining: Remaining = part(object(envelope(body, doing)?.data, doing)?, doing)?;
    Ok(Duration::from_secs(u64::try_from(remaining.ttl).unwrap_or(0)))
}

/// The token of a login or a renewal, and what Vault says of it.
pub(super) fn auth(body: &[u8], doing: &str, origin: Origin) -> Result<(SecretBytes, TokenInfo), Failure> {
    let auth = envelope(body, doing)?.auth.ok_or_else(|| unusable(doing, "it has no `auth`"))?;
    let auth: Auth<'_> = part(auth, doing)?;
    if auth.client_token.is_empty() {
        return Err(unusable(doing, "it has no token"));
    }
    let info = TokenInfo {
        ttl: (auth.lease_duration > 0).then(|| Duration::from_secs(auth.lease_duration)),
        renewable: auth.renewable,
        batch: auth.token_type.as_deref() == Some("batch"),
        period: None,
        ours: origin == Origin::Obtained,
        num_uses: auth.num_uses,
        policies: auth.policies.unwrap_or_default(),
    };
    Ok((SecretBytes::new(auth.client_token.as_bytes().to_vec()), info))
}

/// What a look-up says of a token.
pub(super) fn token_info(body: &[u8], doing: &str, origin: Origin) -> Result<TokenInfo, Failure> {
    let lookup: Lookup = part(object(envelope(body, doing)?.data, doing)?, doing)?;
    // A root token has ttl 0 and no expiry; one that is about to end has ttl 0 and an expiry.
    let endless = lookup.ttl == 0 && lookup.expire_time.is_none();
    Ok(TokenInfo {
        ttl: (!endless).then(|| Duration::from_secs(lookup.ttl)),
        renewable: lookup.renewable.unwrap_or(false),
        batch: lookup.token_type.as_deref() == Some("batch"),
        period: lookup.period.filter(|period| *period > 0).map(Duration::from_secs),
        ours: origin == Origin::Obtained,
        num_uses: lookup.num_uses,
        policies: lookup.policies.unwrap_or_default(),
    })
}

/// The engine that `sys/internal/ui/mounts` names.
pub(super) fn mount(body: &[u8], doing: &str) -> Result<EngineMount, Failure> {
    #[derive(Deserialize)]
    struct Mount {
        path: String,
        #[serde(rename = "type")]
        kind: String,
        #[serde(default)]
        options: Option<BTreeMap<String, Option<String>>>,
    }
    let mount: Mount = part(object(envelope(body, doing)?.data, doing)?, doing)?;
    let version = mount.options.and_then(|mut options| options.remove("version").flatten());
    let kv_version = match (mount.kind.as_str(), version.as_deref()) {
        ("kv", Some("2")) => Some(2),
        ("kv" | "generic", _) => Some(1),
        _ => None,
    };
    Ok(EngineMount { path: mount.path.trim_matches('/').to_owned(), kind: mount.kind, kv_version })
}

/// What `sys/capabilities-self` says of each path.
pub(super) fn capabilities(body: &[u8], doing: &str) -> Result<BTreeMap<String, Vec<String>>, Failure> {
    part(object(envelope(body, doing)?.data, doing)?, doing)
}

fn envelope<'a>(body: &'a [u8], path: &str) -> Result<Envelope<'a>, Failure> {
    let start = body.trim_ascii_start().first();
    match (start, serde_json::from_slice(body)) {
        (_, Ok(envelope)) => Ok(envelope),
        (None, Err(_)) => Err(unusable(path, "it is empty")),
        (Some(b'{'), Err(error)) if error.classify() == Category::Eof => {
            Err(unusable(path, "its JSON breaks off"))
        }
        (Some(b'{'), Err(error)) if error.classify() == Category::Data => {
            Err(unusable(path, "it has not the form of Vault's answers"))
        }
        (Some(b'{'), Err(_)) => Err(unusable(path, "its JSON is malformed")),
        (Some(_), Err(_)) => Err(unusable(path, "it is not JSON: is `address` a Vault server?")),
    }
}

/// `data`, which must be an object.
fn object<'a>(data: Option<&'a RawValue>, path: &str) -> Result<&'a RawValue, Failure> {
    let data = data.ok_or_else(|| unusable(path, "its data is null"))?;
    if data.get().starts_with('{') { Ok(data) } else { Err(unusable(path, "its data is no object")) }
}

fn part<'a, T: Deserialize<'a>>(data: &'a RawValue, path: &str) -> Result<T, Failure> {
    serde_json::from_str(data.get()).map_err(|_| unusable(path, "its data has another form than expected"))
}

fn unusable(path: &str, trouble: &str) -> Failure {
    Failure::new(Fault::Unusable, format!("{path}: Vault's answer can't be used: {trouble}"))
}

fn cut(data: &RawValue) -> SecretBytes {
    SecretBytes::new(data.get().as_bytes().to_vec())
}

/// How long an answer without a lease is good. What doesn't parse doesn't say.
fn validity(data: &RawValue, asked: Capability) -> SecretKind {
    let minted = asked == Capability::Update;
    let Ok(validity) = serde_json::from_str::<Validity<'_>>(data.get()) else {
        return SecretKind::Other { minted, ttl: None };
    };
    let rotated = validity.last_vault_rotation.and_then(quoted_instant);
    let ttl = validity.ttl.and_then(|text| serde_json::from_str::<i64>(text.get()).ok());
    let ttl = ttl.map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
    if let (false, Some(rotated), Some(ttl)) = (minted, rotated, ttl) {
        return SecretKind::Static { ttl, rotated };
    }
    let is_token = validity.token.is_some();
    let until = validity.expiration.and_then(|text| {
        let seconds = serde_json::from_str::<u64>(text.get()).ok()?;
        let now = u64::try_from(sys::unix_time().seconds).unwrap_or(0);
        Some(Duration::from_secs(seconds.saturating_sub(now)))
    });
    SecretKind::Other { minted: minted || is_token, ttl: ttl.filter(|_| is_token).or(until) }
}

fn quoted_instant(text: &RawValue) -> Option<UnixTime> {
    serde_json::from_str::<Cow<'_, str>>(text.get()).ok().and_then(|text| instant(&text))
}

/// RFC 3339, in UTC as Vault writes it. An empty text is no instant.
fn instant(text: &str) -> Option<UnixTime> {
    let since = humantime::parse_rfc3339(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(UnixTime { seconds: i64::try_from(since.as_secs()).ok()?, nanoseconds: since.subsec_nanos() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str, shape: Shape) -> Result<Secret, Failure> {
        secret(body.as_bytes(), "a/b", shape, Capability::Read)
    }

    fn reason(body: &str, shape: Shape) -> String {
        match read(body, shape) {
            Ok(_) => panic!("{body} was taken"),
            Err(failure) => {
                assert_eq!(failure.fault, Fault::Unusable, "{body}");
                failure.reason
            }
        }
    }

    const KV2: &str = r#"{"data":{"data":{"n":12345678901234567890},"metadata":{"created_time":
        "2026-01-02T03:04:05.000000006Z","deletion_time":"","destroyed":false,"version":7}}}"#;

    #[test]
    fn the_fields_are_vaults_own_text() {
        let kv2 = read(KV2, Shape::Kv2).unwrap_or_else(|failure| panic!("{failure:?}"));
        assert_eq!(kv2.data.expose(), br#"{"n":12345678901234567890}"#);
        let created = Some(UnixTime { seconds: 1_767_323_045, nanoseconds: 6 });
        assert_eq!(kv2.kind, SecretKind::Kv { version: Some(7), created, deletion: None });
    }

    #[test]
    fn an_unknown_engine_is_kv2_if_its_answer_looks_like_it() {
        let known = |body| read(body, Shape::Unknown).map(|secret| secret.kind);
        assert!(matches!(known(KV2), Ok(SecretKind::Kv { version: Some(7), .. })));
        let own_fields = r#"{"data":{"data":{"a":"b"},"metadata":"mine"}}"#;
        assert!(matches!(known(own_fields), Ok(SecretKind::Other { minted: false, ttl: None })));
    }

    #[test]
    fn a_lease_of_kv1_is_no_lease() {
        let body =
            r#"{"lease_id":"","lease_duration":2764800,"renewable":false,"data":{"a":"b","ttl":"1h"}}"#;
        assert!(matches!(
            read(body, Shape::Kv1).map(|secret| secret.kind),
            Ok(SecretKind::Kv { version: None, .. })
        ));
    }

    #[test]
    fn every_other_answer_says_how_long_it_is_good() {
        let kind = |body| read(body, Shape::Other).map(|secret| secret.kind);
        let leased =
            r#"{"lease_id":"db/creds/a/1","lease_duration":60,"renewable":true,"data":{"username":"u"}}"#;
        let lease = Lease {
            id: LeaseId("db/creds/a/1".to_owned()),
            duration: Duration::from_secs(60),
            renewable: true,
        };
        assert_eq!(kind(leased), Ok(SecretKind::Leased(lease)));
        let fixed = r#"{"lease_id":"","data":{"ttl":9,"last_vault_rotation":"2026-01-02T03:04:05Z"}}"#;
        let rotated = UnixTime { seconds: 1_767_323_045, nanoseconds: 0 };
        assert_eq!(kind(fixed), Ok(SecretKind::Static { ttl: Duration::from_secs(9), rotated }));
        let token = r#"{"data":{"client_id":"c","token":"e30","ttl":60}}"#;
        let ttl = Some(Duration::from_secs(60));
        assert_eq!(kind(token), Ok(SecretKind::Other { minted: true, ttl }));
        let setting = r#"{"data":{"ttl":0,"allow_any_name":true}}"#;
        assert_eq!(kind(setting), Ok(SecretKind::Other { minted: false, ttl: None }));
        let long_over = r#"{"data":{"expiration":1000,"certificate":"…"}}"#;
        let over = SecretKind::Other { minted: false, ttl: Some(Duration::ZERO) };
        assert_eq!(kind(long_over), Ok(over));
    }

    #[test]
    fn each_answer_that_cannot_be_used_has_its_own_sentence() {
        for (body, told) in [
            ("", "is empty"),
            ("<html></html>", "not JSON"),
            (r#"{"data":{"a":"#, "breaks off"),
            (r#"{"data":{"a":}}"#, "malformed"),
            (r#"{"lease_duration":"marker","data":{}}"#, "not the form"),
            (r#"{"data":null}"#, "is null"),
            (r#"{"auth":null}"#, "is null"),
            (r#"{"data":"marker"}"#, "no object"),
        ] {
            let reason = reason(body, Shape::Other);
            assert!(reason.contains(told), "{body}: {reason}");
            assert!(!reason.contains("marker"), "{reason}");
        }
        assert!(reason(r#"{"data":{"a":"b"}}"#, Shape::Kv2).contains("another form"));
        assert!(
            reason(&KV2.replace(r#"{"n":12345678901234567890}"#, "null"), Shape::Kv2).contains("is null")
        );
    }

    #[test]
    fn a_deleted_version_is_told_from_a_secret_that_never_was() {
        let body = |destroyed| {
            format!(
                r#"{{"data":{{"data":null,"metadata":{{"created_time":"2026-01-02T03:04:05Z",
                "deletion_time":"2026-01-03T00:00:00Z","destroyed":{destroyed},"version":3}}}}}}"#
            )
        };
        let sentence = |text: &str| deleted_version(text.as_bytes(), "a/b").map(|failure| failure.reason);
        assert_eq!(sentence(&body(true)).unwrap(), "a/b: version 3 was destroyed");
        assert_eq!(sentence(&body(false)).unwrap(), "a/b: version 3 was deleted at 2026-01-03T00:00:00Z");
        assert_eq!(sentence(r#"{"errors":[]}"#), None);
    }

    #[test]
    fn a_token_without_an_end_is_told_from_one_that_ends_now() {
        let info = |expiry: &str| {
            let body =
                format!(r#"{{"data":{{"ttl":0,"expire_time":{expiry},"num_uses":0,"type":"service"}}}}"#);
            token_info(body.as_bytes(), "look-up", Origin::Given).unwrap().ttl
        };
        assert_eq!(info("null"), None);
        assert_eq!(info(r#""2026-01-03T00:00:00Z""#), Some(Duration::ZERO));
    }
}

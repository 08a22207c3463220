//! What the mount of the model shows: one of each kind, with policies drawn by lot.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use leasefs::core::access::Rule;
use leasefs::core::effect::{EngineHint, ReadRequest};
use leasefs::core::engine::{Layout, Settings};
use leasefs::core::name::{FileName, IdentityId, SourceId, VaultPath};
use leasefs::core::policy::{LeaseSettings, OnIdle, Readers, Renew, SourcePolicy};
use leasefs::core::source::SourceSpec;
use leasefs::core::sources::Sources;
use leasefs::core::time::{BootTime, UnixTime};
use leasefs::core::tree::{FieldDirSpec, FileSpec, OnExpiry, TreeSpec};

use crate::vault::{Engine, Vault};
use crate::world::{AUTO, rule};

/// The identity that logs in.
pub const ROLE: IdentityId = IdentityId(0);
/// The identity whose token the user gave.
pub const USER: IdentityId = IdentityId(1);

/// Whether an identity's token is the user's own.
pub fn is_user_s(identity: IdentityId) -> bool {
    identity == USER
}

/// The declared sources, by number.
pub const DATABASE: SourceId = SourceId(0);
/// KV v2.
pub const WEATHER: SourceId = SourceId(1);
/// A credential under the user's token.
pub const CLOUD: SourceId = SourceId(6);

const S: Duration = Duration::from_secs(1);

/// A policy as the configuration's defaults have it.
pub const DEFAULT: SourcePolicy = SourcePolicy {
    renew: Renew::InUse,
    max_age: S.saturating_mul(60),
    grace: S.saturating_mul(60),
    idle_timeout: None,
    on_idle: OnIdle::Lapse,
    // Stories are about what is current, unless they say otherwise.
    pin: Duration::ZERO,
    readers: Readers::Forgotten,
};

fn read(path: &str, engine: EngineHint) -> ReadRequest {
    ReadRequest { path: VaultPath::new(path).expect("a path"), params: None, version: None, engine }
}

fn file(name: &str, source: SourceId, rule: Rule, on_expiry: OnExpiry) -> FileSpec {
    FileSpec { name: FileName::new(name).expect("a name"), sources: Sources::one(source), rule, on_expiry }
}

/// The layout; `policy` draws the policy of each source.
pub fn layout(mut policy: impl FnMut() -> SourcePolicy, max_memory: u64) -> Layout {
    let mut source = |identity, request, fields| SourceSpec { identity, request, policy: policy(), fields };
    let params = Some(BTreeMap::from([("common_name".to_owned(), "\"agent\"".to_owned())]));
    let sources = vec![
        source(ROLE, read("database/creds/app", AUTO), false),
        source(ROLE, read("secret/weather", AUTO), false),
        source(USER, read("kv1/plain", EngineHint::Kv1), false),
        source(USER, ReadRequest { params, ..read("pki/issue/agent", AUTO) }, false),
        source(ROLE, read("secret/fields", AUTO), true),
        source(ROLE, read("database/static/app", AUTO), false),
        source(USER, read("cloud/creds/app", EngineHint::Other), false),
    ];
    let private = rule(10, 10, 0o400);
    let shared = rule(10, 20, 0o440);
    let files = vec![
        file("db/password", DATABASE, private, OnExpiry::Refetch),
        file("db/dsn", DATABASE, shared, OnExpiry::Vanish),
        file("weather.json", WEATHER, shared, OnExpiry::Refetch),
        file("plain", SourceId(2), rule(10, 20, 0o404), OnExpiry::Vanish),
        file("tls/tls.crt", SourceId(3), rule(10, 10, 0o444), OnExpiry::Refetch),
        file("all.json", SourceId(4), private, OnExpiry::Refetch),
        file("db/static", SourceId(5), private, OnExpiry::Refetch),
        file("cloud", CLOUD, private, OnExpiry::Refetch),
    ];
    let name = |text: &str| FileName::new(text).expect("a name");
    let field_dirs = vec![
        FieldDirSpec { name: name("fields"), source: SourceId(4), rule: shared, on_expiry: OnExpiry::Vanish },
        FieldDirSpec { name: name("cloud.d"), source: CLOUD, rule: private, on_expiry: OnExpiry::Refetch },
    ];
    let trees = vec![TreeSpec {
        name: name("kv"),
        identity: ROLE,
        prefix: VaultPath::new("tree").expect("a path"),
        engine: EngineHint::Kv2,
        policy: policy(),
        rule: shared,
        on_expiry: OnExpiry::Refetch,
    }];
    Layout {
        identities: vec!["role".to_owned(), "user".to_owned()],
        given: BTreeSet::from([USER]),
        sources,
        renderings: vec!["raw".to_owned(); files.len()],
        files,
        field_dirs,
        trees,
        directory: rule(10, 20, 0o550),
        settings: Settings {
            max_memory,
            list_max_age: S * 30,
            leases: LeaseSettings { revocation_check: S * 30, read_timeout: S * 5 },
            mounted: UnixTime { seconds: 7, nanoseconds: 0 },
        },
    }
}

/// Files of several sources besides: of a credential and KV, of three kinds, of KV alone.
pub fn with_composed(mut layout: Layout) -> Layout {
    let several = |numbers: &[u32]| Sources::several(numbers.iter().copied().map(SourceId));
    for (name, sources, rule, on_expiry) in [
        ("db/mixed", &[0, 1][..], rule(10, 20, 0o440), OnExpiry::Refetch),
        ("three", &[3, 6, 2], rule(10, 10, 0o444), OnExpiry::Vanish),
        ("both.json", &[1, 4], rule(10, 20, 0o440), OnExpiry::Refetch),
        ("static.json", &[4, 5], rule(10, 10, 0o400), OnExpiry::Refetch),
    ] {
        let (name, sources) = (FileName::new(name).expect("a name"), several(sources).expect("several"));
        layout.files.push(FileSpec { name, sources, rule, on_expiry });
        layout.renderings.push("joined".to_owned());
    }
    layout
}

/// A server that holds what the layout names.
pub fn vault(lease: (Duration, Duration), token: (Duration, Duration)) -> Vault {
    let mut vault = Vault { token_ttl: token, token_renewable: token.0 < token.1, ..Vault::default() };
    let kv2 = |version, fields: &[&str]| Engine::Kv2 {
        version,
        exists: true,
        deleted: None,
        fields: fields.iter().map(|field| (*field).to_owned()).collect(),
    };
    let (lease, max) = lease;
    for (path, engine) in [
        ("database/creds/app", Engine::Dynamic { lease, max, renewable: true }),
        ("secret/weather", kv2(1, &["today"])),
        ("kv1/plain", Engine::Kv1 { content: 1, exists: true }),
        ("pki/issue/agent", Engine::Certificate { ttl: Some(max) }),
        ("secret/fields", kv2(1, &["k1", "k2"])),
        ("database/static/app", Engine::StaticRole { period: max, late: (max / 4).min(S * 5) }),
        ("cloud/creds/app", Engine::Dynamic { lease, max, renewable: false }),
        ("tree/same", kv2(1, &["k1", "x"])),
        ("tree/a", kv2(1, &["k1", "k2"])),
        ("tree/same/x", kv2(1, &["k1"])),
        ("tree/folder/deep", kv2(1, &["k1"])),
    ] {
        vault.paths.insert(path.to_owned(), engine);
    }
    for (prefix, keys) in [
        ("tree", &["same", "same/", "a", "folder/"][..]),
        ("tree/same", &["x"]),
        ("tree/folder", &["deep", "gone"]),
    ] {
        vault.lists.insert(prefix.to_owned(), keys.iter().map(|key| (*key).to_owned()).collect());
    }
    vault.user_token = vault.mint_token(BootTime(0), None, false);
    vault
}

/// All names that the kernel may look up.
pub const NAMES: [&str; 25] = [
    "mixed",
    "three",
    "both.json",
    "static.json",
    "db",
    "password",
    "dsn",
    "static",
    "weather.json",
    "plain",
    "tls",
    "tls.crt",
    "all.json",
    "cloud",
    "cloud.d",
    "fields",
    "kv",
    "same",
    "a",
    "folder",
    "deep",
    "gone",
    "k1",
    "x",
    "#x",
];

/// Names that an operator may lock.
pub const LOCKS: [&str; 10] =
    ["", "db", "db/password", "weather.json", "fields", "kv", "kv/same", "kv/a/k1", "cloud", "all.json"];

/// Files that a program may walk to.
pub const VISITS: [&str; 18] = [
    "db/mixed",
    "three",
    "both.json",
    "static.json",
    "db/password",
    "db/dsn",
    "weather.json",
    "plain",
    "kv/same/k1",
    "kv/same/#x",
    "kv/same/x/k1",
    "kv/a/k1",
    "kv/a/k2",
    "kv/folder/deep/k1",
    "kv/folder/gone/k1",
    "fields/k1",
    "fields/k2",
    "cloud.d/username",
];

//! Where a logical path lies in the API of the engine that serves it, and what it takes to use it.
//!
//! Pure: who knows the mount says so, who doesn't passes `None`. KV v2 is the only engine whose logical
//! paths differ from its API paths (`MOUNT/data/…` to read, `MOUNT/metadata/…` to list). A path that
//! already has its `data/` is taken as it is, so a secret that is itself called `data/x` must be written
//! `MOUNT/data/data/x`; [`EngineMount::canonical`] does that for paths that are put together by program.
//!
//! When Vault won't name the mount (403: the token has no right anywhere below it), the path is read as
//! it was given and never in a second form: a guess could mint. The shape of the answer then says whether
//! it was KV v2.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::core::effect::{EngineHint, ReadRequest};
use crate::core::error::{Failure, Fault};
use crate::core::name::VaultPath;
use crate::vault::EngineMount;

/// What a policy must allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// GET.
    Read,
    /// POST.
    Update,
    /// LIST.
    List,
}

impl Capability {
    /// Vault's word for it, as it stands in a policy.
    pub fn as_str(self) -> &'static str {
        match self {
            Capability::Read => "read",
            Capability::Update => "update",
            Capability::List => "list",
        }
    }
}

/// One path of the API and what a policy must allow on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiCall {
    /// The path without `/v1/`. A list ends in a slash, as policies want it.
    pub path: String,
    /// What it needs.
    pub capability: Capability,
}

/// How an answer must be taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// The data are the fields.
    Kv1,
    /// The fields lie in `data.data`.
    Kv2,
    /// Any other engine.
    Other,
    /// Nobody could say: KV v2 if it looks like it.
    Unknown,
}

/// A call and the shape of its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub call: ApiCall,
    pub shape: Shape,
}

impl EngineMount {
    /// Whether it is KV version 2.
    pub fn is_kv2(&self) -> bool {
        self.kind == "kv" && self.kv_version == Some(2)
    }

    /// Whether reading from it again costs nothing: KV of either version, and the cubbyhole.
    pub fn is_kv(&self) -> bool {
        matches!(self.kind.as_str(), "kv" | "generic" | "cubbyhole")
    }

    /// Whether reading this path mints nothing: KV, or the password of a static role.
    pub fn mints_nothing_at(&self, path: &VaultPath) -> bool {
        let below = path.as_str().strip_prefix(self.path.as_str()).unwrap_or_default();
        let section = below.trim_start_matches('/').split('/').next().unwrap_or_default();
        let is_static = match self.kind.as_str() {
            "database" | "aws" => section == "static-creds",
            "ldap" => section == "static-cred",
            _ => false,
        };
        self.is_kv() || is_static
    }

    /// The unambiguous form of a path that the user wrote: on KV v2 with its `data/`, elsewhere as it is.
    /// Paths below a canonical prefix are canonical, whatever the entries are called.
    pub fn canonical(&self, path: &VaultPath) -> VaultPath {
        let placed = if self.is_kv2() { below(&self.path, path, "data") } else { None };
        placed.and_then(|text| VaultPath::new(&text).ok()).unwrap_or_else(|| path.clone())
    }
}

/// What a read needs. `mount` is the engine that serves the path, if it is known.
///
/// # Errors
/// [`Fault::Refused`]: parameters for a KV secret (that would write to it), or a pinned version where
/// there are none.
pub fn read_call(mount: Option<&EngineMount>, request: &ReadRequest) -> Result<ApiCall, Failure> {
    place(mount, request).map(|place| place.call)
}

/// What a list below `prefix` needs.
pub fn list_call(mount: Option<&EngineMount>, prefix: &VaultPath) -> ApiCall {
    let placed =
        mount.filter(|mount| mount.is_kv2()).and_then(|mount| below(&mount.path, prefix, "metadata"));
    let path = placed.unwrap_or_else(|| prefix.as_str().to_owned());
    ApiCall { path: format!("{}/", path.trim_end_matches('/')), capability: Capability::List }
}

pub(super) fn place(mount: Option<&EngineMount>, request: &ReadRequest) -> Result<Place, Failure> {
    let shape = match (request.engine, mount) {
        (EngineHint::Kv1, _) => Shape::Kv1,
        (EngineHint::Kv2, _) => Shape::Kv2,
        (EngineHint::Other, _) => Shape::Other,
        (EngineHint::Auto, Some(mount)) if mount.is_kv2() => Shape::Kv2,
        (EngineHint::Auto, Some(mount)) if mount.is_kv() => Shape::Kv1,
        (EngineHint::Auto, Some(_)) => Shape::Other,
        (EngineHint::Auto, None) => Shape::Unknown,
    };
    let path = &request.path;
    if request.params.is_some() && matches!(shape, Shape::Kv1 | Shape::Kv2) {
        return Err(Failure::new(
            Fault::Refused,
            format!("{path} is a KV secret: `params` would write to it; leave them out"),
        ));
    }
    if request.version.is_some() && matches!(shape, Shape::Kv1 | Shape::Other) {
        return Err(Failure::new(
            Fault::Refused,
            format!("{path} has no versions, since it isn't on a KV v2 mount; leave `version` out"),
        ));
    }
    let api_path = match (shape, mount) {
        (Shape::Kv2, Some(mount)) => below(&mount.path, path, "data"),
        (Shape::Kv2, None) => below_guessed_mount(path),
        (Shape::Kv1 | Shape::Other | Shape::Unknown, _) => None,
    };
    let capability = if request.params.is_some() { Capability::Update } else { Capability::Read };
    let call = ApiCall { path: api_path.unwrap_or_else(|| path.as_str().to_owned()), capability };
    Ok(Place { call, shape })
}

/// `MOUNT/REST` or `MOUNT/data/REST` as `MOUNT/SECTION/REST`; nothing if it isn't below the mount.
fn below(mount: &str, path: &VaultPath, section: &str) -> Option<String> {
    let rest = path.as_str().strip_prefix(mount)?;
    let rest = match rest.strip_prefix('/') {
        Some(rest) => rest,
        None if rest.is_empty() => "",
        None => return None,
    };
    let rest = match rest.strip_prefix("data") {
        Some("") => "",
        Some(inner) if inner.starts_with('/') => &inner[1..],
        _ => rest,
    };
    if rest.is_empty() {
        Some(format!("{mount}/{section}"))
    } else {
        Some(format!("{mount}/{section}/{rest}"))
    }
}

/// The user says that it is KV v2, and Vault won't say where the mount ends: a `data` after the first
/// segment ends it, else the first segment is all of it.
fn below_guessed_mount(path: &VaultPath) -> Option<String> {
    if path.segments().skip(1).any(|segment| segment == "data") {
        return None;
    }
    let first = path.segments().next()?;
    below(first, path, "data")
}

/// The mounts that Vault has named, per namespace. Vault refuses a mount inside another, so at most one
/// entry fits a path.
#[derive(Default)]
pub(super) struct MountTable(Mutex<BTreeMap<(Option<String>, String), Known>>);

struct Known {
    mount: EngineMount,
    /// Perhaps another engine is mounted there by now.
    doubtful: bool,
}

impl MountTable {
    pub fn find(&self, namespace: Option<&str>, path: &VaultPath) -> Option<EngineMount> {
        self.first(namespace, path, |known| !known.doubtful)
    }

    /// What Vault said last, be it forgotten since: good enough to tell an operator.
    pub fn last_known(&self, namespace: Option<&str>, path: &VaultPath) -> Option<EngineMount> {
        self.find(namespace, path).or_else(|| self.first(namespace, path, |_| true))
    }

    fn first(
        &self,
        namespace: Option<&str>,
        path: &VaultPath,
        fits: impl Fn(&Known) -> bool,
    ) -> Option<EngineMount> {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = path.as_str();
        let ends = text.match_indices('/').map(|(at, _)| at).chain([text.len()]);
        ends.filter_map(|end| table.get(&(namespace.map(str::to_owned), text[..end].to_owned())))
            .find(|known| fits(known))
            .map(|known| known.mount.clone())
    }

    pub fn remember(&self, namespace: Option<&str>, mount: EngineMount) {
        let key = (namespace.map(str::to_owned), mount.path.clone());
        let known = Known { mount, doubtful: false };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, known);
    }

    /// Does not believe any more what is known of the mount of `path`: it may have been replaced by another.
    pub fn forget(&self, namespace: Option<&str>, path: &VaultPath) {
        if let Some(mount) = self.find(namespace, path) {
            let key = (namespace.map(str::to_owned), mount.path);
            if let Some(known) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&key) {
                known.doubtful = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(path: &str, kind: &str, kv_version: Option<u8>) -> EngineMount {
        EngineMount { path: path.to_owned(), kind: kind.to_owned(), kv_version }
    }

    fn path(text: &str) -> VaultPath {
        VaultPath::new(text).unwrap()
    }

    fn request(text: &str, engine: EngineHint) -> ReadRequest {
        ReadRequest { path: path(text), params: None, version: None, engine }
    }

    #[test]
    fn a_static_role_is_known_to_mint_nothing_by_its_path() {
        let database = mount("team/db", "database", None);
        for (engine, text, mints_nothing) in [
            (&database, "team/db/static-creds/app", true),
            (&database, "team/db/creds/app", false),
            (&database, "team/db/creds/static-creds", false),
            (&mount("kv", "kv", Some(2)), "kv/creds/app", true),
            (&mount("static-creds", "ssh", None), "static-creds/creds/app", false),
        ] {
            assert_eq!(engine.mints_nothing_at(&path(text)), mints_nothing, "{text}");
        }
    }

    #[test]
    fn a_kv2_secret_is_read_below_data_however_it_was_written() {
        let kv = mount("team/kv", "kv", Some(2));
        for (written, api) in [
            ("team/kv/a/b", "team/kv/data/a/b"),
            ("team/kv/data/a/b", "team/kv/data/a/b"),
            ("team/kv/data/data/a", "team/kv/data/data/a"),
            ("team/kv/database", "team/kv/data/database"),
        ] {
            let call = read_call(Some(&kv), &request(written, EngineHint::Auto)).unwrap();
            assert_eq!(call, ApiCall { path: api.to_owned(), capability: Capability::Read }, "{written}");
        }
    }

    #[test]
    fn other_engines_and_unknown_ones_are_read_as_they_are_written() {
        let database = mount("database", "database", None);
        let written = request("database/creds/agent", EngineHint::Auto);
        assert_eq!(read_call(Some(&database), &written).unwrap().path, "database/creds/agent");
        let place = place(None, &request("secret/data/a", EngineHint::Auto)).unwrap();
        assert_eq!((place.call.path.as_str(), place.shape), ("secret/data/a", Shape::Unknown));
    }

    #[test]
    fn the_users_word_on_the_engine_overrides_vaults() {
        let kv = mount("secret", "kv", Some(2));
        let as_given = read_call(Some(&kv), &request("secret/a", EngineHint::Kv1)).unwrap();
        assert_eq!(as_given.path, "secret/a");
        for (written, api) in [("secret/a/b", "secret/data/a/b"), ("team/kv/data/a", "team/kv/data/a")] {
            let guessed = read_call(None, &request(written, EngineHint::Kv2)).unwrap();
            assert_eq!(guessed.path, api);
        }
    }

    #[test]
    fn parameters_never_write_to_a_kv_secret() {
        let mut written = request("secret/a", EngineHint::Auto);
        written.params = Some(BTreeMap::new());
        for version in [1, 2] {
            let kv = mount("secret", "kv", Some(version));
            assert_eq!(read_call(Some(&kv), &written).unwrap_err().fault, Fault::Refused);
        }
        let pki = mount("secret", "pki", None);
        assert_eq!(read_call(Some(&pki), &written).unwrap().capability, Capability::Update);
    }

    #[test]
    fn a_version_is_pinned_on_kv2_alone() {
        let mut written = request("secret/a", EngineHint::Auto);
        written.version = Some(3);
        let kv1 = mount("secret", "kv", Some(1));
        assert_eq!(read_call(Some(&kv1), &written).unwrap_err().fault, Fault::Refused);
        assert!(read_call(Some(&mount("secret", "kv", Some(2))), &written).is_ok());
    }

    #[test]
    fn a_list_goes_to_metadata_on_kv2_and_ends_in_a_slash() {
        let kv2 = mount("secret", "kv", Some(2));
        for (written, api) in [
            ("secret", "secret/metadata/"),
            ("secret/data", "secret/metadata/"),
            ("secret/a", "secret/metadata/a/"),
            ("secret/data/a", "secret/metadata/a/"),
        ] {
            assert_eq!(list_call(Some(&kv2), &path(written)).path, api);
        }
        assert_eq!(list_call(Some(&mount("kv", "kv", Some(1))), &path("kv/a")).path, "kv/a/");
    }

    #[test]
    fn entries_below_a_canonical_prefix_are_never_taken_for_the_apis_own_data() {
        let kv = mount("secret", "kv", Some(2));
        let entry = kv.canonical(&path("secret")).join("data/x").unwrap();
        assert_eq!(
            read_call(Some(&kv), &request(entry.as_str(), EngineHint::Auto)).unwrap().path,
            "secret/data/data/x"
        );
        assert_eq!(
            list_call(Some(&kv), &kv.canonical(&path("secret")).join("data").unwrap()).path,
            "secret/metadata/data/"
        );
    }

    #[test]
    fn a_remembered_mount_serves_its_own_paths_and_namespace_only() {
        let table = MountTable::default();
        table.remember(Some("team"), mount("a/kv", "kv", Some(2)));
        assert!(table.find(Some("team"), &path("a/kv/x/y")).is_some());
        assert!(table.find(Some("team"), &path("a/kv")).is_some());
        assert!(table.find(Some("team"), &path("a/kvx/y")).is_none());
        assert!(table.find(None, &path("a/kv/x")).is_none());
        table.forget(Some("team"), &path("a/kv/other"));
        assert!(table.find(Some("team"), &path("a/kv/x/y")).is_none());
    }

    #[test]
    fn a_mount_that_is_not_believed_any_more_stands_in_nobodys_way_and_can_still_be_told() {
        let table = MountTable::default();
        let secret = path("team/kv/a");
        table.remember(None, mount("team", "kv", Some(2)));
        table.forget(None, &secret);
        assert_eq!(table.find(None, &secret), None);
        assert_eq!(table.last_known(None, &secret), Some(mount("team", "kv", Some(2))));
        table.remember(None, mount("team/kv", "kv", Some(1)));
        assert_eq!(table.find(None, &secret), Some(mount("team/kv", "kv", Some(1))));
        assert_eq!(table.last_known(None, &secret), Some(mount("team/kv", "kv", Some(1))));
    }
}

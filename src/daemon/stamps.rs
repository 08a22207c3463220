//! Which credential files were replaced since they were last looked at: told by what stat(2) says, so that no
//! credential is read to find out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::plan::{CredentialSource, Method, MountPlan};
use crate::core::name::IdentityId;

/// Credential files by their paths, as they were.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamps(BTreeMap<PathBuf, Option<Stamp>>);

/// A file, wherever symlinks have led: device, inode number, length, and when it was changed last (seconds and
/// nanoseconds).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp(u64, u64, u64, i64, i64);

/// Whether variables may be others than those of the server before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variables {
    /// All servers have those of their keeper.
    Same,
    /// Each one is started with its own.
    Anew,
}

impl Stamps {
    /// Of all credential files of a plan, as they are now.
    pub(super) fn of(plan: &MountPlan) -> Stamps {
        let files = plan.identities.iter().flat_map(|identity| files(&identity.method));
        Stamps(files.map(|path| (path.to_owned(), stamp(path))).collect())
    }

    /// These, but of files that were known before what was known.
    pub(super) fn after(self, known: &Stamps) -> Stamps {
        let older = |path: &PathBuf| known.0.get(path).copied();
        Stamps(
            self.0
                .into_iter()
                .map(|(path, now)| {
                    let then = older(&path);
                    (path, then.unwrap_or(now))
                })
                .collect(),
        )
    }

    /// The identities whose credentials may be others than they were at the time of `known`. What was not known
    /// then is new: it logs in by itself.
    pub(super) fn replaced(
        &self,
        known: &Stamps,
        plan: &MountPlan,
        variables: Variables,
    ) -> BTreeSet<IdentityId> {
        let is_replaced = |path: &Path| {
            known.0.get(path).is_some_and(|then| then.is_none() || self.0.get(path) != Some(then))
        };
        let replaced = |method: &Method| {
            let is_variable = |source: &&CredentialSource| matches!(source, CredentialSource::Variable(_));
            let by_variable = variables == Variables::Anew && method.credentials().iter().any(is_variable);
            by_variable || files(method).into_iter().any(is_replaced)
        };
        let numbered = (0_u32..).zip(&plan.identities);
        numbered.filter(|(_, plan)| replaced(&plan.method)).map(|(number, _)| IdentityId(number)).collect()
    }
}

/// The files that are read to log in.
fn files(method: &Method) -> Vec<&Path> {
    let credentials = method.credentials().into_iter().filter_map(|source| match source {
        CredentialSource::File(path) => Some(path),
        CredentialSource::Variable(_) | CredentialSource::Literal(_) => None,
    });
    let certificate = method.certificate();
    let pair = certificate.into_iter().flat_map(|client| [&client.certificate, &client.key]);
    credentials.chain(pair).map(PathBuf::as_path).collect()
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    Some(Stamp(found.dev(), found.ino(), found.size(), found.ctime(), found.ctime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, parse};

    #[test]
    fn only_what_was_replaced_logs_in_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["a", "b"] {
            fs::write(path(name), "one").unwrap();
        }
        let identity = |name: &str| {
            format!("[identity.{name}]\nmethod = 'token'\ntoken-file = '{}'\n", path(name).display())
        };
        let text =
            identity("a") + &identity("b") + &identity("none") + "[identity.given]\nmethod = 'token'\n";
        let environment = Environment::fixed(0, 0).with_variables([("VAULT_TOKEN", "hvs.marker")]);
        let plan = parse(&text, Path::new("a.toml"), &environment).unwrap();
        let known = Stamps::of(&plan);
        let replaced = |variables| {
            let now = Stamps::of(&plan);
            let ids = now.replaced(&known, &plan, variables);
            ids.into_iter().map(|id| id.0).collect::<Vec<_>>()
        };
        assert_eq!(replaced(Variables::Same), [2], "who knows what was there");
        assert_eq!(replaced(Variables::Anew), [2, 3]);
        fs::write(path("new"), "two").unwrap();
        fs::rename(path("new"), path("b")).unwrap();
        assert_eq!(replaced(Variables::Same), [1, 2]);
        assert_eq!(Stamps::of(&plan).after(&known), known);
        assert!(
            Stamps::of(&plan).replaced(&Stamps::default(), &plan, Variables::Same).is_empty(),
            "all are new"
        );
    }
}

//! `[grant."FILE"]`: what the main file lets an included file use. What is not granted is refused, with what the
//! main file would have to say.
//!
//! | granted | to what |
//! | --- | --- |
//! | `names` | names in the tree, each with all that is below it |
//! | `identities`, `own-identities` | who reads: those of the main file; those that it declares itself, by patterns of their names |
//! | `owners`, `groups` | whose the files are; without it the mounting user's, and that user's group's |
//! | `paths` | files of the host that the mount reads for it, each with all that is below it |
//!
//! Must never look at who has written what: a file that is granted nothing can do nothing, whoever owns it.
//! Everything that an entry can ask for is judged in [`Grant::check`].

use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use crate::config::environment::Environment;
use crate::config::file::{Section, Slot, Word};
use crate::config::keys::{Keys, account};
use crate::config::plan::{CredentialSource, IdentityPlan};
use crate::config::report::{Place, Report};
use crate::config::texts::fits;
use crate::config::value;
use crate::core::name::FileName;

/// What one `[grant]` table says.
pub(super) struct Grant {
    /// Where it stands.
    pub place: Place,
    /// Identities of the main file.
    pub identities: Vec<String>,
    /// The file that it is for, relative to the main file's directory; `*` in its last component.
    pub pattern: String,
    names: Vec<String>,
    own_identities: Vec<String>,
    owners: Slot<Vec<Word<u32>>>,
    groups: Slot<Vec<Word<u32>>>,
    paths: Vec<PathBuf>,
}

/// What an included file declares, with all that it asks for.
pub(super) struct Entry<'a> {
    pub name: Option<&'a FileName>,
    pub keys: &'a Keys,
    pub place: &'a Place,
}

impl Grant {
    /// Reads one table.
    pub fn read(pattern: &str, section: Section<'_>, environment: &Environment) -> Grant {
        let texts = |key| -> Vec<String> {
            let words = section.texts(key).word().map(|word| word.value.clone()).unwrap_or_default();
            words.into_iter().map(|word| word.value.to_owned()).collect()
        };
        let paths = section.list("paths", |found| environment.file_path(value::text("paths", found)?));
        let owners = section.list("owners", |found| account("owners", found, |name| environment.user(name)));
        let groups = section.list("groups", |found| account("groups", found, |name| environment.group(name)));
        let grant = Grant {
            place: section.place.clone(),
            identities: texts("identities"),
            pattern: pattern.to_owned(),
            names: texts("names"),
            own_identities: texts("own-identities"),
            owners,
            groups,
            paths: values(&paths),
        };
        section.finish();
        grant
    }

    /// Users who may have written the file, besides those who may write the main file.
    pub fn owners(&self) -> Vec<u32> {
        values(&self.owners)
    }

    /// The main file's defaults as the included file inherits them: what is granted first takes the place of what
    /// is the main file's own.
    pub fn defaults(&self, of_main: &Keys) -> Keys {
        let first =
            |granted: &Slot<Vec<Word<u32>>>| granted.word().and_then(|word| word.value.first().cloned());
        let slot = |word: Option<Word<u32>>| word.map_or(Slot::Absent, Slot::Is);
        let identity = self.identities.first().cloned();
        let identity = identity.map(|value| Word { value, place: self.place.child("identities") });
        Keys {
            owner: slot(first(&self.owners)),
            group: slot(first(&self.groups)),
            identity: identity.map_or(Slot::Absent, Slot::Is),
            ..of_main.clone()
        }
    }

    /// Complains about all that an entry asks for and may not have. `own` are the identities that its file has
    /// declared.
    pub fn check(&self, entry: &Entry<'_>, own: &[String], environment: &Environment, report: &Report) {
        let Entry { name, keys, place } = entry;
        if let Some(name) =
            name.filter(|name| !self.names.iter().any(|granted| covers(granted, name.as_str())))
        {
            let granted: Vec<String> = self.names.iter().map(|name| below(name)).collect();
            self.refuse(report, place, &format!("the name {:?}", name.as_str()), &granted, "names");
        }
        self.check_identity(keys, own, place, report);
        let at = |key: &str, slot: &Slot<u32>| place.of_key(key, slot.word().map(|word| &word.place));
        for (key, list, slot, granted, without) in [
            ("owner", "owners", &keys.owner, &self.owners, environment.uid),
            ("group", "groups", &keys.group, &self.groups, environment.gid),
        ] {
            let allowed = if granted.is_written() { values(granted) } else { vec![without] };
            if let Some(wanted) = slot.get().filter(|wanted| !allowed.contains(wanted) && !granted.is_bad()) {
                let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
                self.refuse(report, &at(key, slot), &format!("{key} {wanted}"), &allowed, list);
            }
        }
    }

    /// What grants it to have a file of the host read; complains if nothing does.
    pub fn check_path(&self, path: &Path, place: &Place, report: &Report) -> Option<&Path> {
        let climbs = path.components().any(|component| component == Component::ParentDir);
        let granted = self.paths.iter().find(|granted| !climbs && path.starts_with(granted));
        if granted.is_none() {
            let granted: Vec<String> =
                self.paths.iter().map(|path| format!("{:?}", path.display())).collect();
            self.refuse(
                report,
                place,
                &format!("the file {:?}", path.display().to_string()),
                &granted,
                "paths",
            );
        }
        granted.map(PathBuf::as_path)
    }

    /// Whether an identity of this name may be declared; complains if not.
    pub fn allows_own(&self, name: &str, place: &Place, report: &Report) -> bool {
        let allowed = self.own_identities.iter().any(|pattern| fits(pattern, name));
        if !allowed {
            let granted: Vec<String> =
                self.own_identities.iter().map(|pattern| format!("{pattern:?}")).collect();
            self.refuse(report, place, "an identity of this name", &granted, "own-identities");
        }
        allowed
    }

    /// Complains about credentials that are not its own.
    pub fn check_credentials(&self, plan: &IdentityPlan, place: &Place, report: &Report) {
        for source in plan.method.credentials() {
            match source {
                CredentialSource::File(path) => {
                    self.check_path(path, place, report);
                }
                CredentialSource::Variable(name) => report.complain(
                    place,
                    format!("would log in with ${name}, which is not this file's own: name a file instead"),
                ),
                CredentialSource::Literal(_) => {}
            }
        }
        let certificate = plan.method.certificate();
        for path in certificate.iter().flat_map(|client| [&client.certificate, &client.key]) {
            self.check_path(path, place, report);
        }
    }

    /// The identity that an entry names, if it may have it.
    pub fn identity<'k>(&self, keys: &'k Keys, own: &[String]) -> Option<&'k str> {
        keys.identity
            .get()
            .filter(|name| self.identities.contains(name) || own.contains(name))
            .map(String::as_str)
    }

    fn check_identity(&self, keys: &Keys, own: &[String], place: &Place, report: &Report) {
        if keys.identity.is_bad() || self.identity(keys, own).is_some() {
            return;
        }
        let granted: Vec<String> =
            self.identities.iter().chain(own).map(|identity| format!("{identity:?}")).collect();
        match keys.identity.word() {
            Some(Word { value, place: written }) => {
                let place = place.of_key("identity", Some(written));
                self.refuse(report, &place, &format!("the identity {value:?}"), &granted, "identities");
            }
            None if granted.is_empty() => {
                self.refuse(report, place, "any identity to read with", &[], "identities");
            }
            None => {
                let granted = granted.join(" or ");
                let advice = format!("names no identity: write `identity =` {granted} here or in [defaults]");
                report.complain(place, advice);
            }
        }
    }

    fn refuse(&self, report: &Report, place: &Place, what: &str, granted: &[String], key: &str) {
        let instead = match granted {
            [] => String::new(),
            granted => format!("write {}, or ", granted.join(" or ")),
        };
        let (main, table) = (Rc::clone(&self.place.file), &self.place.key);
        report.complain(
            place,
            format!(
                "{what} is not granted to this file: {instead}have {} grant it, with `{key}` in [{table}]",
                main.display()
            ),
        );
    }
}

fn values<T: Clone>(slot: &Slot<Vec<Word<T>>>) -> Vec<T> {
    slot.word().into_iter().flat_map(|word| &word.value).map(|word| word.value.clone()).collect()
}

/// Whether a name is the one that was granted, or below it.
fn covers(granted: &str, name: &str) -> bool {
    let granted = granted.trim_end_matches('/');
    let rest = name.strip_prefix(granted);
    !granted.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn below(name: &str) -> String {
    format!("a name below {:?}", format!("{}/", name.trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_granted_with_all_that_is_below_it_and_nothing_beside_it() {
        for (granted, name, covered) in [
            ("team-a/", "team-a/x", true),
            ("team-a", "team-a/x/y", true),
            ("team-a/", "team-a", true),
            ("team-a", "team-ab", false),
            ("team-a/", "team-ab/x", false),
            ("team-a/x", "team-a", false),
            ("/", "team-a", false),
            ("", "team-a", false),
        ] {
            assert_eq!(covers(granted, name), covered, "{granted} {name}");
        }
    }
}

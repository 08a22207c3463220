//! `[identity.NAME]`: all who log in, and which of them something is read with. How each one does it is in
//! `method.rs`.

use crate::config::environment::Environment;
use crate::config::file::{Section, Slot};
use crate::config::grant::Grant;
use crate::config::method;
use crate::config::plan::IdentityPlan;
use crate::config::report::{Place, Report, quoted};
use crate::config::value;
use crate::core::name::IdentityId;

/// The identity of whatever names none.
const DEFAULT: &str = "default";

/// All identities and which of them are used.
pub(super) struct Identities {
    entries: Vec<Entry>,
    /// Whether it was said already that there is none for those who name none.
    default_was_missed: bool,
}

struct Entry {
    name: String,
    place: Place,
    /// `None` if it was complained about.
    plan: Option<IdentityPlan>,
    used: bool,
}

impl Identities {
    /// Reads all `[identity.NAME]` of the main file.
    pub fn read(root: &Section<'_>, environment: &Environment) -> Identities {
        let mut entries = Vec::new();
        for (name, section) in root.sections("identity") {
            let place = section.place.clone();
            let plan = read(name, section, environment);
            entries.push(Entry { name: name.to_owned(), place, plan, used: false });
        }
        Identities { entries, default_was_missed: false }
    }

    /// Reads all `[identity.NAME]` of an included file, as far as it may have them; returns their names.
    pub fn include(&mut self, root: &Section<'_>, environment: &Environment, grant: &Grant) -> Vec<String> {
        let mut names = Vec::new();
        for (name, section) in root.sections("identity") {
            let (place, report) = (section.place.clone(), section.report);
            if !grant.allows_own(name, &place, report) {
                continue;
            }
            if let Some(first) = self.entries.iter().find(|entry| entry.name == name) {
                let first = first.place.pointer(&place);
                report.complain(&place, format!("is declared by {first}, too: choose another name"));
                continue;
            }
            let plan = read(name, section, environment);
            if let Some(plan) = &plan {
                grant.check_credentials(plan, &place, report);
            }
            names.push(name.to_owned());
            self.entries.push(Entry { name: name.to_owned(), place, plan, used: false });
        }
        names
    }

    /// Complains about grants of identities that the main file does not have.
    pub fn check_granted(&self, grant: &Grant, main: &Report) {
        let missing = |name: &&String| {
            let declared = self.entries.iter().find(|entry| entry.name == **name);
            declared.is_none_or(|entry| entry.place.file != grant.place.file)
        };
        for name in grant.identities.iter().filter(missing) {
            let table = quoted(name);
            main.complain(
                &grant.place.child("identities"),
                format!("no [identity.{table}] is declared in this file: declare it, or leave it out"),
            );
        }
    }

    /// If none was declared at all, the environment says who logs in.
    pub fn complete(&mut self, root: &Section<'_>, environment: &Environment) {
        if self.entries.is_empty() {
            let place = root.place.child("identity").child(DEFAULT);
            self.entries.push(Entry {
                name: DEFAULT.to_owned(),
                plan: method::implicit(&place, root.report, environment).map(|method| IdentityPlan {
                    name: DEFAULT.to_owned(),
                    method,
                    namespace: None,
                }),
                place,
                used: true,
            });
        }
    }

    /// The identity that `name` means, for something that stands at `place`.
    pub fn find(&mut self, name: &Slot<String>, place: &Place, report: &Report) -> Option<IdentityId> {
        let (wanted, place) = match name {
            Slot::Bad => return None,
            Slot::Absent => (DEFAULT, place),
            Slot::Is(word) => (word.value.as_str(), &word.place),
        };
        if let Some(index) = self.entries.iter().position(|entry| entry.name == wanted) {
            self.entries[index].used = true;
            return u32::try_from(index).ok().map(IdentityId);
        }
        let declared: Vec<&str> = self.entries.iter().map(|entry| entry.name.as_str()).collect();
        let declared = value::listed(&declared, '"', "or");
        if name.is_written() {
            let table = quoted(wanted);
            report.complain(
                place,
                format!("no [identity.{table}] is declared: declare it, or write {declared}"),
            );
        } else if !std::mem::replace(&mut self.default_was_missed, true) {
            report.complain(
                place,
                format!(
                    "names no identity, and there is no [identity.default]: declare it, \
                     or write `identity =` {declared} here or in [defaults]"
                ),
            );
        }
        None
    }

    /// All identities, if none was complained about; those without a use are warned of.
    pub fn finish(self, report: &Report) -> Vec<IdentityPlan> {
        for entry in self.entries.iter().filter(|entry| !entry.used) {
            report.warn(&entry.place, "is used by nothing: leave it out, or name it in a file's `identity`");
        }
        self.entries.into_iter().filter_map(|entry| entry.plan).collect()
    }
}

fn read(name: &str, section: Section<'_>, environment: &Environment) -> Option<IdentityPlan> {
    let namespace = section.text("namespace").and_then(section.report, |text| environment.expand(text));
    let method = method::read(&section, environment);
    section.finish();
    let namespace = namespace.get().cloned();
    method.map(|method| IdentityPlan { name: name.to_owned(), method, namespace })
}

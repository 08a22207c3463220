//! `[identity.NAME]`: who logs in and how.
//!
//! No credential is read here, only where it will be found. One that was written into the configuration is
//! refused without being repeated.

use std::path::PathBuf;

use crate::config::environment::Environment;
use crate::config::file::{Section, Slot};
use crate::config::grant::Grant;
use crate::config::plan::{CredentialSource, IdentityPlan, Method};
use crate::config::report::{Place, Report, quoted};
use crate::config::value;
use crate::core::name::{IdentityId, VaultPath};

/// The identity of whatever names none.
const DEFAULT: &str = "default";

const NO_TOKEN: &str =
    "a token has no place in the configuration: put it in a file and name it in token-file";
const NO_SECRET_ID: &str =
    "a secret id has no place in the configuration: put it in a file and name it in secret-id-file";

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
                plan: implicit(&place, root.report, environment),
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

/// The ways to log in that a configuration can name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MethodName {
    Token,
    AppRole,
}

/// The keys of one method; with another one they are a mistake.
const TOKEN_KEYS: [&str; 1] = ["token-file"];
const APPROLE_KEYS: [&str; 4] = ["auth-path", "role-id", "role-id-file", "secret-id-file"];

fn read(name: &str, section: Section<'_>, environment: &Environment) -> Option<IdentityPlan> {
    let report = section.report;
    let method = section.read("method", |found| {
        value::choice("method", found, &[("token", MethodName::Token), ("approle", MethodName::AppRole)])
    });
    if !method.is_written() {
        section.complain("says not how to log in: write `method = \"token\"` or `method = \"approle\"`");
    }
    let namespace = section.text("namespace").and_then(report, |text| environment.expand(text));
    section.refuse("token", NO_TOKEN);
    section.refuse("secret-id", NO_SECRET_ID);
    let plan = match method.get() {
        Some(MethodName::Token) => {
            for key in APPROLE_KEYS {
                section.refuse(key, "is of no use to a token: leave it out, or write `method = \"approle\"`");
            }
            token(&section, environment)
        }
        Some(MethodName::AppRole) => {
            for key in TOKEN_KEYS {
                section.refuse(key, "is of no use to approle: leave it out, or write `method = \"token\"`");
            }
            approle(&section, environment)
        }
        None => {
            for key in TOKEN_KEYS.into_iter().chain(APPROLE_KEYS) {
                let _ = section.text(key);
            }
            None
        }
    };
    section.finish();
    let namespace = namespace.get().cloned();
    plan.map(|method| IdentityPlan { name: name.to_owned(), method, namespace })
}

fn token(section: &Section<'_>, environment: &Environment) -> Option<Method> {
    let token = match file(section, "token-file", environment) {
        Slot::Bad => return None,
        Slot::Is(word) => CredentialSource::File(word.value),
        Slot::Absent => given_token(&section.place, section.report, environment)?,
    };
    Some(Method::Token { token })
}

fn approle(section: &Section<'_>, environment: &Environment) -> Option<Method> {
    let auth_path = section.text("auth-path").and_then(section.report, |text| {
        if let Some(rest) = text.strip_prefix("auth/") {
            return Err(format!(
                "begins with `auth/`, which goes without saying: write `auth-path = {rest:?}`"
            ));
        }
        VaultPath::new(&environment.expand(text)?).map_err(|error| error.to_string())
    });
    let auth_path = match auth_path {
        Slot::Bad => None,
        Slot::Is(word) => Some(word.value),
        Slot::Absent => VaultPath::new("approle").ok(),
    };
    let literal = section.text("role-id");
    let in_file = file(section, "role-id-file", environment);
    let role_id = match (literal, in_file) {
        (Slot::Bad, _) | (_, Slot::Bad) => None,
        (Slot::Is(_), Slot::Is(file)) => {
            section.report.complain(&file.place, "stands beside role-id: keep one of the two");
            None
        }
        (Slot::Is(literal), Slot::Absent) => Some(CredentialSource::Literal(literal.value.to_owned())),
        (Slot::Absent, Slot::Is(file)) => Some(CredentialSource::File(file.value)),
        (Slot::Absent, Slot::Absent) => {
            let variable = environment.twin("ROLE_ID").map(CredentialSource::Variable);
            if variable.is_none() {
                section.complain("has no role id: write role-id-file or role-id, or set $VAULT_ROLE_ID");
            }
            variable
        }
    };
    let secret_id = match file(section, "secret-id-file", environment) {
        Slot::Bad => return None,
        Slot::Is(word) => Some(CredentialSource::File(word.value)),
        Slot::Absent => environment.twin("SECRET_ID").map(CredentialSource::Variable),
    };
    if secret_id.is_none() {
        section.report.warn(
            &section.place,
            "has no secret id, which only a role with bind_secret_id=false takes: write secret-id-file, or set \
             $VAULT_SECRET_ID",
        );
    }
    Some(Method::AppRole { auth_path: auth_path?, role_id: role_id?, secret_id })
}

fn file(section: &Section<'_>, key: &'static str, environment: &Environment) -> Slot<PathBuf> {
    section.text(key).and_then(section.report, |text| environment.file_path(text))
}

/// Who logs in if the configuration does not say.
fn implicit(place: &Place, report: &Report, environment: &Environment) -> Option<IdentityPlan> {
    let method = match (environment.twin("ROLE_ID"), environment.twin("SECRET_ID")) {
        (Some(role_id), Some(secret_id)) => Method::AppRole {
            auth_path: VaultPath::new("approle").ok()?,
            role_id: CredentialSource::Variable(role_id),
            secret_id: Some(CredentialSource::Variable(secret_id)),
        },
        (None | Some(_), None) | (None, Some(_)) => {
            Method::Token { token: given_token(place, report, environment)? }
        }
    };
    Some(IdentityPlan { name: DEFAULT.to_owned(), method, namespace: None })
}

/// The token that the `vault` command would use.
fn given_token(place: &Place, report: &Report, environment: &Environment) -> Option<CredentialSource> {
    if let Some(variable) = environment.twin("TOKEN") {
        return Some(CredentialSource::Variable(variable));
    }
    let Some(home) = &environment.home else {
        report.complain(place, "has no token: write token-file, or set $VAULT_TOKEN");
        return None;
    };
    let file = home.join(".vault-token");
    if !file.exists() {
        report.warn(
            place,
            format!(
                "$VAULT_TOKEN is unset and {} does not exist: set the one or run `vault login`",
                file.display()
            ),
        );
    }
    Some(CredentialSource::File(file))
}

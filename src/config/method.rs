//! The keys of `[identity.NAME]` that say how it logs in.
//!
//! No credential is read here, only where it will be found. One that was written into the configuration is
//! refused without being repeated.

use std::path::PathBuf;

use crate::config::environment::Environment;
use crate::config::file::{Section, Slot};
use crate::config::plan::{ClientCertificate, CredentialSource, Method, Wrapping};
use crate::config::report::{Place, Report};
use crate::config::value;
use crate::core::name::VaultPath;

/// Where the kubelet puts a pod's own token (kubernetes.io, "Configure Service Accounts for Pods").
const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// The ways to log in that a configuration can name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Token,
    AppRole,
    Jwt,
    Kubernetes,
    Cert,
    Userpass,
}

/// The values of `method`.
const NAMES: [(&str, Name); 6] = [
    ("token", Name::Token),
    ("approle", Name::AppRole),
    ("jwt", Name::Jwt),
    ("kubernetes", Name::Kubernetes),
    ("cert", Name::Cert),
    ("userpass", Name::Userpass),
];

/// Each key and the methods that take it; with another one it is a mistake.
const KEYS: [(&str, &[Name]); 12] = [
    ("token-file", &[Name::Token]),
    ("auth-path", &[Name::AppRole, Name::Jwt, Name::Kubernetes, Name::Cert, Name::Userpass]),
    ("role-id", &[Name::AppRole]),
    ("role-id-file", &[Name::AppRole]),
    ("secret-id-file", &[Name::AppRole]),
    ("secret-id-wrapped", &[Name::AppRole]),
    ("role", &[Name::Jwt, Name::Kubernetes, Name::Cert]),
    ("jwt-file", &[Name::Jwt, Name::Kubernetes]),
    ("client-cert", &[Name::Cert]),
    ("client-key", &[Name::Cert]),
    ("username", &[Name::Userpass]),
    ("password-file", &[Name::Userpass]),
];

/// Credentials that people write where only the name of a file may stand.
const CREDENTIALS: [(&str, &str); 4] = [
    ("token", "a token has no place in the configuration: put it in a file and name it in token-file"),
    (
        "secret-id",
        "a secret id has no place in the configuration: put it in a file and name it in secret-id-file",
    ),
    ("jwt", "a token has no place in the configuration: put it in a file and name it in jwt-file"),
    (
        "password",
        "a password has no place in the configuration: put it in a file and name it in password-file",
    ),
];

/// The keys of one identity.
struct Keys<'a, 'b> {
    section: &'a Section<'b>,
    environment: &'a Environment,
}

/// Reads how an identity logs in; `None` if it was complained about.
pub(super) fn read(section: &Section<'_>, environment: &Environment) -> Option<Method> {
    let name = section.read("method", |found| value::choice("method", found, &NAMES));
    if !name.is_written() {
        let words = NAMES.map(|(word, _)| format!("method = \"{word}\""));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        section.complain(format!("says not how to log in: write {}", value::listed(&words, '`', "or")));
    }
    for (key, advice) in CREDENTIALS {
        section.refuse(key, advice);
    }
    let Some(name) = name.get().copied() else {
        for (key, _) in KEYS {
            let _ = section.read(key, |_| Ok(()));
        }
        return None;
    };
    refuse_keys_of_others(section, name);
    let keys = Keys { section, environment };
    match name {
        Name::Token => keys.token(),
        Name::AppRole => keys.approle(),
        Name::Jwt => keys.jwt(),
        Name::Kubernetes => keys.kubernetes(),
        Name::Cert => keys.cert(),
        Name::Userpass => keys.userpass(),
    }
}

fn refuse_keys_of_others(section: &Section<'_>, name: Name) {
    let word = |name: Name| NAMES.iter().find(|(_, one)| *one == name).map_or("", |(word, _)| *word);
    for (key, takers) in KEYS {
        if !takers.contains(&name) {
            let takers: Vec<String> =
                takers.iter().map(|taker| format!("method = \"{}\"", word(*taker))).collect();
            let takers: Vec<&str> = takers.iter().map(String::as_str).collect();
            section.refuse(
                key,
                &format!(
                    "is of no use to {}: leave it out, or write {}",
                    word(name),
                    value::listed(&takers, '`', "or")
                ),
            );
        }
    }
}

impl Keys<'_, '_> {
    fn token(&self) -> Option<Method> {
        let token = match self.file("token-file") {
            Slot::Bad => return None,
            Slot::Is(word) => CredentialSource::File(word.value),
            Slot::Absent => given_token(&self.section.place, self.section.report, self.environment)?,
        };
        Some(Method::Token { token })
    }

    fn approle(&self) -> Option<Method> {
        let auth_path = self.auth_path("approle");
        let role_id = self.role_id();
        let wrapped = self.section.flag("secret-id-wrapped");
        let secret_id = match self.file("secret-id-file") {
            Slot::Bad => return None,
            Slot::Is(word) => Some(CredentialSource::File(word.value)),
            Slot::Absent => self.environment.twin("SECRET_ID").map(CredentialSource::Variable),
        };
        let wrapping = match wrapped.word() {
            Some(word) if word.value && secret_id.is_none() => {
                self.section.report.complain(
                    &word.place,
                    "has no wrapping token to unwrap: write secret-id-file, or set $VAULT_SECRET_ID",
                );
                return None;
            }
            Some(word) if word.value => Wrapping::Wrapped,
            Some(_) | None => Wrapping::Plain,
        };
        if secret_id.is_none() {
            self.section.report.warn(
                &self.section.place,
                "has no secret id, which only a role with bind_secret_id=false takes: write secret-id-file, \
                 or set $VAULT_SECRET_ID",
            );
        }
        Some(Method::AppRole { auth_path: auth_path?, role_id: role_id?, secret_id, wrapping })
    }

    fn role_id(&self) -> Option<CredentialSource> {
        match (self.section.text("role-id"), self.file("role-id-file")) {
            (Slot::Bad, _) | (_, Slot::Bad) => None,
            (Slot::Is(_), Slot::Is(file)) => {
                self.section.report.complain(&file.place, "stands beside role-id: keep one of the two");
                None
            }
            (Slot::Is(literal), Slot::Absent) => Some(CredentialSource::Literal(literal.value.to_owned())),
            (Slot::Absent, Slot::Is(file)) => Some(CredentialSource::File(file.value)),
            (Slot::Absent, Slot::Absent) => {
                let variable = self.environment.twin("ROLE_ID").map(CredentialSource::Variable);
                if variable.is_none() {
                    self.section
                        .complain("has no role id: write role-id-file or role-id, or set $VAULT_ROLE_ID");
                }
                variable
            }
        }
    }

    fn jwt(&self) -> Option<Method> {
        let auth_path = self.auth_path("jwt");
        let role = self.section.text("role");
        let jwt = self.needed_file("jwt-file", "has no token to log in with: write jwt-file");
        if role.is_bad() {
            return None;
        }
        Some(Method::Jwt {
            auth_path: auth_path?,
            role: role.get().map(|role| (*role).to_owned()),
            jwt: CredentialSource::File(jwt?),
        })
    }

    fn kubernetes(&self) -> Option<Method> {
        let auth_path = self.auth_path("kubernetes");
        let role = self.needed_text("role", "has no role to log in to: write role");
        let jwt = match self.file("jwt-file") {
            Slot::Bad => None,
            Slot::Is(word) => Some(word.value),
            Slot::Absent => Some(PathBuf::from(SERVICE_ACCOUNT_TOKEN)),
        };
        Some(Method::Kubernetes { auth_path: auth_path?, role: role?, jwt: CredentialSource::File(jwt?) })
    }

    fn cert(&self) -> Option<Method> {
        let auth_path = self.auth_path("cert");
        let role = self.section.text("role");
        let certificate =
            self.needed_file("client-cert", "has no certificate to log in with: write client-cert");
        let key = self.needed_file("client-key", "has no key of its certificate: write client-key");
        if role.is_bad() {
            return None;
        }
        Some(Method::Cert {
            auth_path: auth_path?,
            role: role.get().map(|role| (*role).to_owned()),
            certificate: ClientCertificate { certificate: certificate?, key: key? },
        })
    }

    fn userpass(&self) -> Option<Method> {
        let auth_path = self.auth_path("userpass");
        let username = self.section.text("username").and_then(self.section.report, |name| {
            match VaultPath::new(name).is_ok() && !name.contains('/') {
                true => Ok(name.to_owned()),
                false => Err("is no user name that Vault could have: write it without `/`".to_owned()),
            }
        });
        if !username.is_written() {
            self.section.complain("has no user to log in as: write username");
        }
        let password =
            self.needed_file("password-file", "has no password to log in with: write password-file");
        Some(Method::Userpass {
            auth_path: auth_path?,
            username: username.get().cloned()?,
            password: CredentialSource::File(password?),
        })
    }

    /// Where the method is mounted.
    fn auth_path(&self, default: &str) -> Option<VaultPath> {
        let auth_path = self.section.text("auth-path").and_then(self.section.report, |text| {
            if let Some(rest) = text.strip_prefix("auth/") {
                return Err(format!(
                    "begins with `auth/`, which goes without saying: write `auth-path = {rest:?}`"
                ));
            }
            VaultPath::new(&self.environment.expand(text)?).map_err(|error| error.to_string())
        });
        match auth_path {
            Slot::Bad => None,
            Slot::Is(word) => Some(word.value),
            Slot::Absent => VaultPath::new(default).ok(),
        }
    }

    fn file(&self, key: &'static str) -> Slot<PathBuf> {
        self.section.text(key).and_then(self.section.report, |text| self.environment.file_path(text))
    }

    fn needed_file(&self, key: &'static str, missing: &str) -> Option<PathBuf> {
        match self.file(key) {
            Slot::Bad => None,
            Slot::Is(word) => Some(word.value),
            Slot::Absent => {
                self.section.complain(missing);
                None
            }
        }
    }

    fn needed_text(&self, key: &'static str, missing: &str) -> Option<String> {
        match self.section.text(key) {
            Slot::Bad => None,
            Slot::Is(word) => Some(word.value.to_owned()),
            Slot::Absent => {
                self.section.complain(missing);
                None
            }
        }
    }
}

/// How to log in if the configuration does not say.
pub(super) fn implicit(place: &Place, report: &Report, environment: &Environment) -> Option<Method> {
    match (environment.twin("ROLE_ID"), environment.twin("SECRET_ID")) {
        (Some(role_id), Some(secret_id)) => Some(Method::AppRole {
            auth_path: VaultPath::new("approle").ok()?,
            role_id: CredentialSource::Variable(role_id),
            secret_id: Some(CredentialSource::Variable(secret_id)),
            wrapping: Wrapping::Plain,
        }),
        (None | Some(_), None) | (None, Some(_)) => {
            Some(Method::Token { token: given_token(place, report, environment)? })
        }
    }
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

//! What a configuration takes from outside: variables, the user who mounts, the accounts of the host.
//!
//! Tests and fuzzing make one up, so that they depend on nothing. The value of a variable that holds a
//! credential is never kept: only whether there is one is asked here.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::PathBuf;

use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid, getgrouplist};
use zeroize::Zeroizing;

use crate::config::plan::Account;

/// Variables that hold credentials; `${NAME}` never puts one of them into a path or an address.
const CREDENTIALS: [&str; 4] = ["VAULT_TOKEN", "BAO_TOKEN", "VAULT_SECRET_ID", "BAO_SECRET_ID"];

/// What a configuration takes from outside.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The mounting user.
    pub uid: u32,
    /// The mounting user's group.
    pub gid: u32,
    /// The mounting user's home directory, where `vault login` leaves `.vault-token`.
    pub home: Option<PathBuf>,
    surroundings: Surroundings,
}

#[derive(Clone, Debug)]
enum Surroundings {
    /// Those of this process and this host.
    Process,
    /// Made up.
    Fixed(Fixed),
}

#[derive(Clone, Debug, Default)]
struct Fixed {
    variables: BTreeMap<String, String>,
    users: BTreeMap<String, u32>,
    groups: BTreeMap<String, u32>,
}

impl Environment {
    /// That of this process.
    pub fn from_process() -> Environment {
        let uid = geteuid();
        let from_passwd = || User::from_uid(uid).ok().flatten().map(|user| user.dir);
        let from_variable = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        Environment {
            uid: uid.as_raw(),
            gid: getegid().as_raw(),
            home: from_variable.or_else(from_passwd),
            surroundings: Surroundings::Process,
        }
    }

    /// A made-up one: no variables, no home, no accounts but those added.
    pub fn fixed(uid: u32, gid: u32) -> Environment {
        Environment { uid, gid, home: None, surroundings: Surroundings::Fixed(Fixed::default()) }
    }

    /// Adds variables to a made-up one.
    #[must_use]
    pub fn with_variables<'a>(self, variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Environment {
        self.alter(|fixed| {
            let owned = variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
            fixed.variables.extend(owned);
        })
    }

    /// Adds a user, and a group of the same name and number, to a made-up one.
    #[must_use]
    pub fn with_account(self, name: &str, id: u32) -> Environment {
        self.alter(|fixed| {
            fixed.users.insert(name.to_owned(), id);
            fixed.groups.insert(name.to_owned(), id);
        })
    }

    fn alter(mut self, change: impl FnOnce(&mut Fixed)) -> Environment {
        if let Surroundings::Fixed(fixed) = &mut self.surroundings {
            change(fixed);
        }
        self
    }

    /// The value of a variable that holds no credential; `None` if it is unset or empty.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        if CREDENTIALS.contains(&name) {
            return None;
        }
        let value = match &self.surroundings {
            Surroundings::Process => std::env::var(name).ok(),
            Surroundings::Fixed(fixed) => fixed.variables.get(name).cloned(),
        };
        value.filter(|value| !value.is_empty())
    }

    /// Whether a variable is set and not empty. Whatever had to be copied to find out is wiped.
    pub(super) fn is_set(&self, name: &str) -> bool {
        match &self.surroundings {
            Surroundings::Process => std::env::var_os(name)
                .is_some_and(|value| !Zeroizing::new(value.into_encoded_bytes()).is_empty()),
            Surroundings::Fixed(fixed) => fixed.variables.get(name).is_some_and(|value| !value.is_empty()),
        }
    }

    /// `VAULT_STEM` if that is set, else `BAO_STEM` if that is: the variable's name.
    pub(super) fn twin(&self, stem: &str) -> Option<String> {
        ["VAULT_", "BAO_"].map(|prefix| format!("{prefix}{stem}")).into_iter().find(|name| self.is_set(name))
    }

    /// The value of `VAULT_STEM`, else of `BAO_STEM`, with the variable's name before it.
    pub(super) fn twin_value(&self, stem: &str) -> Option<(String, String)> {
        let name = self.twin(stem)?;
        let value = self.variable(&name)?;
        Some((name, value))
    }

    /// The number of a user.
    pub(super) fn user(&self, name: &str) -> Option<u32> {
        match &self.surroundings {
            Surroundings::Process => User::from_name(name).ok().flatten().map(|user| Uid::as_raw(user.uid)),
            Surroundings::Fixed(fixed) => fixed.users.get(name).copied(),
        }
    }

    /// What a user is to a process that becomes that user. One without an account has a group of the same number.
    pub(super) fn account(&self, uid: u32) -> Account {
        let account = match &self.surroundings {
            Surroundings::Process => User::from_uid(Uid::from_raw(uid)).ok().flatten(),
            Surroundings::Fixed(_) => None,
        };
        let Some(User { name, gid, .. }) = account else {
            return Account { uid, gid: uid, groups: vec![uid] };
        };
        let groups = CString::new(name).ok().and_then(|name| getgrouplist(&name, gid).ok());
        let groups = groups.unwrap_or_else(|| vec![gid]).into_iter().map(Gid::as_raw).collect();
        Account { uid, gid: gid.as_raw(), groups }
    }

    /// The number of a group.
    pub(super) fn group(&self, name: &str) -> Option<u32> {
        match &self.surroundings {
            Surroundings::Process => {
                Group::from_name(name).ok().flatten().map(|group| Gid::as_raw(group.gid))
            }
            Surroundings::Fixed(fixed) => fixed.groups.get(name).copied(),
        }
    }

    /// `text` with each `${NAME}` replaced by that variable.
    ///
    /// # Errors
    /// What to write or to set instead.
    pub(super) fn expand(&self, text: &str) -> Result<String, String> {
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            expanded.push_str(before);
            let Some((name, after)) = after.split_once('}') else {
                return Err("has a `${` without its `}`: write `${NAME}`".to_owned());
            };
            expanded.push_str(&self.reference(name)?);
            rest = after;
        }
        expanded.push_str(rest);
        Ok(expanded)
    }

    /// The path of a file of the host, references replaced.
    ///
    /// # Errors
    /// What to write or to set instead; a relative path is refused, since a daemon has no directory that
    /// it could be relative to.
    pub(super) fn file_path(&self, text: &str) -> Result<PathBuf, String> {
        let path = PathBuf::from(self.expand(text)?);
        if path.is_absolute() {
            return Ok(path);
        }
        Err(match text.strip_prefix("~/") {
            Some(rest) => format!(
                "begins with `~`, which only a shell replaces: write {:?}",
                format!("${{HOME}}/{rest}")
            ),
            None => format!("is a relative path: write all of it, or {:?}", format!("${{PWD}}/{text}")),
        })
    }

    /// The path in a variable of this process, which may be relative to its working directory.
    pub(super) fn twin_path(&self, stem: &str) -> Option<PathBuf> {
        let (_, value) = self.twin_value(stem)?;
        Some(std::path::absolute(&value).unwrap_or_else(|_| PathBuf::from(value)))
    }

    fn reference(&self, name: &str) -> Result<String, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(plain) {
            return Err(format!(
                "{:?} names no environment variable: write `${{NAME}}`, of letters, digits and `_`",
                format!("${{{name}}}")
            ));
        }
        if CREDENTIALS.contains(&name) {
            return Err(format!("the credential in ${name} has no place here: leave `${{{name}}}` out"));
        }
        self.variable(name).ok_or_else(|| {
            format!("the environment variable {name} is unset or empty: set it, or write its value out")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        Environment::fixed(1000, 1000).with_account("agent", 700).with_variables([
            ("HOST", "vault.internal"),
            ("EMPTY", ""),
            ("VAULT_TOKEN", "hvs.marker"),
            ("BAO_NAMESPACE", "bao"),
            ("VAULT_NAMESPACE", ""),
        ])
    }

    #[test]
    fn references_are_replaced_wherever_they_stand() {
        for (text, expanded) in [
            ("plain", "plain"),
            ("${HOST}", "vault.internal"),
            ("https://${HOST}:8200/${HOST}", "https://vault.internal:8200/vault.internal"),
            ("a$b}c$", "a$b}c$"),
        ] {
            assert_eq!(environment().expand(text).as_deref(), Ok(expanded));
        }
    }

    #[test]
    fn a_reference_that_cant_be_replaced_says_what_to_do() {
        for (text, fragment) in [
            ("${NONE}", "NONE is unset or empty: set it"),
            ("${EMPTY}", "EMPTY is unset or empty: set it"),
            ("a/${HOST", "without its `}`"),
            ("${}", "names no environment variable"),
            ("${A-B}", "names no environment variable"),
            ("${1}", "names no environment variable"),
            ("x/${VAULT_TOKEN}", "leave `${VAULT_TOKEN}` out"),
        ] {
            let error = environment().expand(text).unwrap_err();
            assert!(error.contains(fragment), "{text}: {error}");
            assert!(!error.contains("marker"), "{error}");
        }
    }

    #[test]
    fn a_path_that_depends_on_the_working_directory_is_refused() {
        let with_home = environment().with_variables([("HOME", "/home/agent")]);
        assert_eq!(with_home.file_path("${HOME}/t"), Ok(PathBuf::from("/home/agent/t")));
        for (text, fragment) in [("~/t", "write \"${HOME}/t\""), ("ca.pem", "or \"${PWD}/ca.pem\"")] {
            let error = with_home.file_path(text).unwrap_err();
            assert!(error.contains(fragment), "{error}");
        }
    }

    #[test]
    fn an_empty_variable_counts_as_unset_and_bao_comes_after_vault() {
        let environment = environment();
        assert_eq!(environment.twin_value("NAMESPACE"), Some(("BAO_NAMESPACE".to_owned(), "bao".to_owned())));
        assert_eq!(environment.twin("TOKEN").as_deref(), Some("VAULT_TOKEN"));
        let both = environment.with_variables([("VAULT_NAMESPACE", "vault")]);
        assert_eq!(both.twin("NAMESPACE").as_deref(), Some("VAULT_NAMESPACE"));
    }

    #[test]
    fn the_value_of_a_credential_cant_be_asked_for() {
        assert!(environment().is_set("VAULT_TOKEN"));
        assert_eq!(environment().variable("VAULT_TOKEN"), None);
    }

    #[test]
    fn the_process_has_a_user_and_knows_root() {
        let process = Environment::from_process();
        assert_eq!(process.uid, geteuid().as_raw());
        assert_eq!(process.user("root"), Some(0));
        assert_eq!(process.user("no such user, surely"), None);
    }
}

//! What was found below a KV prefix, as the text of a configuration. Pure.
//!
//! Invariant: the text can be read as a configuration, whatever secrets and fields are called: what has no
//! form in it is named in a comment.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::cli::output::clean;
use crate::config::basic_string;
use crate::config::plan::{Method, MountPlan, VaultPlan};
use crate::core::name::{FileName, VaultPath};

/// What lies below a prefix.
pub(super) struct Found {
    /// The prefix, as it was given.
    pub prefix: VaultPath,
    /// Secrets, each with its fields.
    pub secrets: Vec<FoundSecret>,
    /// What can't be shown.
    pub left_out: Vec<LeftOut>,
}

/// A secret.
pub(super) struct FoundSecret {
    /// As a configuration names it.
    pub path: String,
    /// Its name below the prefix; empty for the prefix itself.
    pub name: String,
    /// The names of its fields.
    pub fields: Vec<String>,
}

/// What can't be shown.
pub(super) struct LeftOut {
    /// Its path.
    pub path: String,
    /// Why.
    pub why: String,
}

/// The configuration. `identity` is who reads it all, if that is to have a name.
pub(super) fn configuration(plan: &MountPlan, found: &Found, identity: Option<&str>) -> String {
    let prefix = &found.prefix;
    let tree = prefix.segments().last().unwrap_or_default();
    let mut text = format!("# What {prefix} holds, by `leasefs init`: a file for each field.\n");
    let has_more = found.secrets.iter().any(|secret| !secret.name.is_empty());
    if has_more {
        text.push_str("# To show what is written there later, too, keep this instead of the files:\n");
        add(&mut text, format_args!("# [tree.{}]\n", basic_string(tree)));
        add(&mut text, format_args!("# secret = {}\n", basic_string(&format!("{prefix}/"))));
    }
    text.push('\n');
    vault(&mut text, &plan.vault);
    if let Some(name) = identity {
        who(&mut text, plan, name);
    }
    let mut names = Names::new(&found.secrets);
    let mut left_out: Vec<String> =
        found.left_out.iter().map(|one| format!("{}: {}", one.path, one.why)).collect();
    for secret in &found.secrets {
        if let Some(why) = no_form_of(&secret.path) {
            left_out.push(format!("{}: {why}", secret.path));
            continue;
        }
        for field in &secret.fields {
            match names.of(&secret.name, field) {
                Ok(name) => file(&mut text, &name, &secret.path, field),
                Err(why) => left_out.push(format!("{}, field {field:?}: {why}", secret.path)),
            }
        }
    }
    if !left_out.is_empty() {
        text.push_str("\n# Left out:\n");
        for line in left_out {
            add(&mut text, format_args!("# {}\n", clean(&line)));
        }
    }
    text
}

/// Writing to a String can't fail.
fn add(text: &mut String, what: std::fmt::Arguments<'_>) {
    let _ = text.write_fmt(what);
}

fn vault(text: &mut String, plan: &VaultPlan) {
    let mut key = |name: &str, value: &str| add(text, format_args!("{name} = {value}\n"));
    key(
        "[vault]\naddress",
        &match plan.addresses.as_slice() {
            [only] => basic_string(only),
            several => {
                let several: Vec<String> = several.iter().map(|one| basic_string(one)).collect();
                format!("[{}]", several.join(", "))
            }
        },
    );
    if let Some(namespace) = &plan.namespace {
        key("namespace", &basic_string(namespace));
    }
    if let Some(path) = plan.ca_cert.as_ref().and_then(|path| path.to_str()) {
        key("ca-cert", &basic_string(path));
    }
    if let Some(name) = &plan.tls_server_name {
        key("tls-server-name", &basic_string(name));
    }
}

fn who(text: &mut String, plan: &MountPlan, name: &str) {
    let name = basic_string(name);
    let is_approle = plan.identities.iter().any(|one| matches!(one.method, Method::AppRole { .. }));
    let method = if is_approle {
        "# With $VAULT_ROLE_ID and $VAULT_SECRET_ID, or with role-id and secret-id-file.\nmethod = \"approle\""
    } else {
        "# With $VAULT_TOKEN or ~/.vault-token, or with token-file.\nmethod = \"token\""
    };
    add(text, format_args!("\n[identity.{name}]\n{method}\n\n[defaults]\nidentity = {name}\n"));
}

fn file(text: &mut String, name: &FileName, path: &str, field: &str) {
    add(text, format_args!("\n[file.{}]\n", basic_string(name.as_str())));
    if field.contains('#') {
        add(text, format_args!("secret = {}\nfield = {}\n", basic_string(path), basic_string(field)));
    } else {
        add(text, format_args!("secret = {}\n", basic_string(&format!("{path}#{field}"))));
    }
}

/// Why a path can't stand in a configuration.
fn no_form_of(path: &str) -> Option<&'static str> {
    if path.contains('#') {
        Some("a # begins a field in a configuration: rename the secret, or show it in a [tree]")
    } else if path.contains("${") {
        Some("a ${ begins a variable in a configuration: rename the secret, or show it in a [tree]")
    } else {
        None
    }
}

/// The names of files: no two are the same, and none is that of a directory.
struct Names {
    directories: BTreeSet<String>,
    files: BTreeSet<String>,
}

impl Names {
    fn new(secrets: &[FoundSecret]) -> Names {
        let ends =
            |name: &str| name.match_indices('/').map(|(at, _)| at).chain([name.len()]).collect::<Vec<_>>();
        let directories = secrets
            .iter()
            .flat_map(|secret| ends(&secret.name).into_iter().map(|end| secret.name[..end].to_owned()));
        Names { directories: directories.collect(), files: BTreeSet::new() }
    }

    /// The name of the file that shows a field: its own, as far as Linux takes it. One that is taken gets a `#`
    /// before it, as in a `[tree]`.
    fn of(&mut self, directory: &str, field: &str) -> Result<FileName, &'static str> {
        if field.is_empty() {
            return Err("it has no name");
        }
        let mut name: String =
            field.chars().map(|c| if c == '/' || c.is_control() { '_' } else { c }).collect();
        if name == "." || name == ".." {
            name = name.replace('.', "_");
        }
        let full = |name: &str| {
            if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
        };
        while self.directories.contains(&full(&name)) || self.files.contains(&full(&name)) {
            name.insert(0, '#');
        }
        let file = FileName::new(&full(&name)).map_err(|_| "its name is longer than 255 bytes")?;
        self.files.insert(full(&name));
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::plan::Format;
    use crate::config::{self, Environment};

    fn environment() -> Environment {
        Environment::fixed(1000, 1000)
            .with_variables([("VAULT_TOKEN", "marker"), ("VAULT_NAMESPACE", "team")])
    }

    fn found(prefix: &str, secrets: &[(&str, &[&str])]) -> Found {
        let secret = |(name, fields): &(&str, &[&str])| FoundSecret {
            path: if name.is_empty() { prefix.to_owned() } else { format!("{prefix}/{name}") },
            name: (*name).to_owned(),
            fields: fields.iter().map(|field| (*field).to_owned()).collect(),
        };
        Found {
            prefix: VaultPath::new(prefix).unwrap(),
            secrets: secrets.iter().map(secret).collect(),
            left_out: Vec::new(),
        }
    }

    /// Name, path and field of each file of a configuration that was made and read again.
    #[track_caller]
    fn read_again(text: &str) -> Vec<(String, String, String)> {
        let plan = config::parse(text, Path::new("x.toml"), &environment())
            .unwrap_or_else(|complaints| panic!("{complaints}\n{text}"));
        let file = |file: &config::plan::FilePlan| {
            let Format::Raw { field } = &file.format else { panic!("{file:?}") };
            let source = &plan.sources[file.spec.sources.first().0 as usize];
            (file.spec.name.to_string(), source.request.path.to_string(), field.clone())
        };
        plan.files.iter().map(file).collect()
    }

    fn made(found: &Found, identity: Option<&str>) -> String {
        let plan = config::parse("", Path::new("x.toml"), &environment()).unwrap();
        configuration(&plan, found, identity)
    }

    #[test]
    fn each_field_is_a_file_whatever_it_is_called() {
        let odd =
            ["plain", "a b", "q\"'\\", "tab\there", "x/y", "#", "a#b", ".", "..", "${HOME}", "ü", "\u{7f}"];
        let found = found("secret/odd one", &[("s p/\"q\"", &odd)]);
        let files = read_again(&made(&found, None));
        assert_eq!(files.len(), odd.len());
        for (file, field) in files.iter().zip(odd) {
            assert_eq!((file.1.as_str(), file.2.as_str()), ("secret/odd one/s p/\"q\"", field));
        }
        let names: Vec<&str> = files.iter().map(|file| file.0.as_str()).collect();
        assert_eq!(names[1], "s p/\"q\"/a b");
        assert_eq!((names[4], names[7], names[8]), ("s p/\"q\"/x_y", "s p/\"q\"/_", "s p/\"q\"/__"));
    }

    #[test]
    fn a_field_that_is_called_like_a_directory_gets_a_mark() {
        let found = found("s", &[("", &["a", "b"]), ("a", &["b", "x/y", "x_y"]), ("a/b", &["c"])]);
        let names: Vec<String> = read_again(&made(&found, None)).into_iter().map(|file| file.0).collect();
        assert_eq!(names, ["#a", "b", "a/#b", "a/x_y", "a/#x_y", "a/b/c"]);
    }

    #[test]
    fn what_has_no_form_in_a_configuration_is_named_in_a_comment() {
        let long = "l".repeat(256);
        let mut found = found("s", &[("a#b", &["x"]), ("${c}", &["x"]), ("d", &["", &long, "ok"])]);
        found.left_out.push(LeftOut { path: "s/gone".to_owned(), why: "was deleted\nat noon".to_owned() });
        let text = made(&found, None);
        assert_eq!(read_again(&text), [("d/ok".to_owned(), "s/d".to_owned(), "ok".to_owned())]);
        for told in [
            "# s/a#b: a # begins",
            "# s/${c}: a ${ begins",
            "field \"\": it has no name",
            "# s/gone: was deleted at noon",
            "longer than 255",
        ] {
            assert!(text.contains(told), "{told} in\n{text}");
        }
    }

    #[test]
    fn an_identity_that_is_named_reads_everything() {
        let text = made(&found("s", &[("a", &["x"])]), Some("the \"one\""));
        let plan = config::parse(&text, Path::new("x.toml"), &environment()).unwrap();
        assert_eq!(plan.identities.len(), 1);
        assert_eq!((plan.identities[0].name.as_str(), plan.warnings.len()), ("the \"one\"", 0));
        assert_eq!(plan.vault.namespace.as_deref(), Some("team"));
        assert!(text.contains("# [tree.\"s\"]\n# secret = \"s/\""), "{text}");
    }
}

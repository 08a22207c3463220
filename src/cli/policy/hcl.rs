//! Rules as a text that Vault takes: HCL with comments for people.
//!
//! Invariant: no name or path can end a comment or a string before its time.

use std::fmt::Write;

use crate::cli::output::clean;
use crate::cli::policy::rules::{Denial, Policy, Rule};

/// How wide a comment may be, in characters.
const WIDTH: usize = 100;

/// A string of HCL. A JSON string is one, but for what HCL takes for the begin of an interpolation.
pub(in crate::cli) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace("${", "\\u0024{")
}

/// A policy below a comment that says whose it is.
pub(super) fn text(title: &str, policy: &Policy) -> String {
    let mut text = comment(title);
    for rule in &policy.files {
        text.push('\n');
        text.push_str(&of_rule(rule));
    }
    text.push('\n');
    text.push_str(&comment(if policy.own.iter().any(|rule| rule.pattern.starts_with("sys/leases/")) {
        "What leasefs asks for itself. Tokens with the `default` policy may do all of it but sys/leases/revoke."
    } else {
        "What leasefs asks for itself. Tokens with the `default` policy may do all of it."
    }));
    for rule in &policy.own {
        text.push('\n');
        text.push_str(&of_rule(rule));
    }
    for Denial { pattern, argument } in &policy.denied {
        // Writing to a String can't fail.
        let _ = write!(text, "\n{}", comment(&format!("--deny {argument}")));
        text.push_str(&stanza(pattern, &["deny"]));
    }
    text
}

fn of_rule(rule: &Rule) -> String {
    let names: Vec<&str> = rule.needed_by.iter().map(String::as_str).collect();
    let mut text = comment(&names.join(", "));
    for note in &rule.notes {
        text.push_str(&comment(&format!("NOTE: {note}")));
    }
    let capabilities: Vec<&str> = rule.capabilities.iter().map(|one| one.as_str()).collect();
    text.push_str(&stanza(&rule.pattern, &capabilities));
    text
}

fn stanza(pattern: &str, capabilities: &[&str]) -> String {
    let capabilities: Vec<String> = capabilities.iter().map(|word| quoted(word)).collect();
    format!("path {} {{\n  capabilities = [{}]\n}}\n", quoted(pattern), capabilities.join(", "))
}

/// A text in lines that begin with `#`.
fn comment(text: &str) -> String {
    let mut lines = String::new();
    let mut line = String::from("#");
    for word in clean(text).split(' ').filter(|word| !word.is_empty()) {
        if line.len() > 1 && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push_str(&line);
            lines.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    lines + &line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::engine::Capability;

    #[test]
    fn nothing_ends_a_string_or_a_comment_before_its_time() {
        assert_eq!(quoted(r#"a"b\c"#), r#""a\"b\\c""#);
        assert_eq!(quoted("a${b"), r#""a\u0024{b""#);
        assert_eq!(comment("a\npath \"x\" {}"), "# a path \"x\" {}\n");
        let long = comment(&"word ".repeat(50));
        assert!(long.lines().all(|line| line.starts_with("# word") && line.len() <= WIDTH), "{long}");
        assert_eq!(long.matches("word").count(), 50);
    }

    #[test]
    fn a_policy_names_who_needs_each_rule() {
        let rule = |pattern: &str, capability, names: &[&str], notes: &[&str]| Rule {
            pattern: pattern.to_owned(),
            capabilities: [capability].into(),
            needed_by: names.iter().map(|name| (*name).to_owned()).collect(),
            notes: notes.iter().map(|note| (*note).to_owned()).collect(),
        };
        let policy = Policy {
            files: vec![rule("db/creds/r", Capability::Read, &["user", "password"], &["odd"])],
            own: vec![rule("sys/leases/renew", Capability::Update, &["to renew"], &[])],
            denied: vec![Denial { pattern: "secret/*".to_owned(), argument: "secret/".to_owned() }],
        };
        let expected = "# Of x\n\n# password, user\n# NOTE: odd\npath \"db/creds/r\" {\n  capabilities = \
                        [\"read\"]\n}\n\n# What leasefs asks for itself. Tokens with the `default` policy may \
                        do all of it but\n# sys/leases/revoke.\n\n# to renew\npath \"sys/leases/renew\" {\n  \
                        capabilities = [\"update\"]\n}\n\n# --deny secret/\npath \"secret/*\" {\n  \
                        capabilities = [\"deny\"]\n}\n";
        assert_eq!(text("Of x", &policy), expected);
    }
}

//! `format = "env"`: assignments that a POSIX shell reads (`. FILE`, `set -a`), one field each.
//!
//! A value of harmless characters stands as it is, so that readers which know no quotes take it, too; any other
//! stands in single quotes, in which a shell changes nothing (POSIX.1-2024, Shell Command Language, 2.2.2).

use crate::render::RenderError;
use crate::render::json::Json;

/// The fields of an object as assignments.
///
/// # Errors
/// [`RenderError::NotAnObject`], [`RenderError::NotText`]; [`RenderError::NotAVariable`] for a name that no
/// variable can have; [`RenderError::HasNul`].
pub(super) fn assignments(json: Json<'_>) -> Result<Vec<u8>, RenderError> {
    let mut lines = Vec::new();
    for (name, value) in json.object()?.fields() {
        if !is_variable(name) {
            return Err(RenderError::NotAVariable { field: name.to_owned() });
        }
        let value = value.raw(name)?;
        if value.contains(&0) {
            return Err(RenderError::HasNul { field: name.to_owned() });
        }
        lines.extend_from_slice(name.as_bytes());
        lines.push(b'=');
        quote(&value, Empty::Bare, &mut lines);
        lines.push(b'\n');
    }
    Ok(lines)
}

/// How nothing at all is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Empty {
    /// As nothing: it stands behind a `=`.
    Bare,
    /// In quotes: it is a word of its own.
    Quoted,
}

/// Writes a word that a shell takes for these bytes, none of which may be NUL.
pub(super) fn quote(word: &[u8], empty: Empty, out: &mut Vec<u8>) {
    let harmless = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-./:@%+,=".contains(byte);
    if word.iter().all(harmless) && (empty == Empty::Bare || !word.is_empty()) {
        out.extend_from_slice(word);
        return;
    }
    out.push(b'\'');
    for &byte in word {
        match byte {
            // Out of the quotes, a quote by itself, and in again.
            b'\'' => out.extend_from_slice(b"'\\''"),
            _ => out.push(byte),
        }
    }
    out.push(b'\'');
}

fn is_variable(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty() && name.bytes().all(plain) && !name.as_bytes()[0].is_ascii_digit()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> Result<String, RenderError> {
        assignments(Json::parse(text.as_bytes())?).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn each_field_is_an_assignment_in_the_order_of_the_text() {
        let text = r#"{"Z_1":"plain-1.5/x","empty":"","a":"it's $HOME","n":1.50,"t":true,"o":{"k": [1]},"_":"a\nb"}"#;
        assert_eq!(
            shown(text).unwrap(),
            "Z_1=plain-1.5/x\nempty=\na='it'\\''s $HOME'\nn=1.50\nt=true\no='{\"k\":[1]}'\n_='a\nb'\n"
        );
        assert_eq!(shown("{}").unwrap(), "");
    }

    #[test]
    fn what_no_variable_can_hold_is_refused_by_name() {
        for name in ["api-key", "1st", "", "ü", "a b", "a="] {
            let text = format!("{{{}:\"hunter2\"}}", serde_json::Value::from(name));
            assert_eq!(shown(&text), Err(RenderError::NotAVariable { field: name.to_owned() }));
        }
        assert_eq!(shown(r#"{"a":"x\u0000y"}"#), Err(RenderError::HasNul { field: "a".to_owned() }));
        assert_eq!(shown("[]"), Err(RenderError::NotAnObject));
    }

    #[test]
    fn a_word_by_itself_is_never_nothing() {
        let mut out = Vec::new();
        quote(b"", Empty::Quoted, &mut out);
        assert_eq!(out, b"''");
    }

    proptest! {
        // A process each.
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_shell_reads_back_every_value(
            values in proptest::collection::btree_map("v[a-z_0-9]{1,6}", "[^\0]{0,12}|['\"$`\\\\ \n!#~*&;|<>]{1,9}", 1..6),
        ) {
            let text = serde_json::to_string(&values).unwrap();
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("env");
            std::fs::write(&file, shown(&text).unwrap()).unwrap();
            let names: Vec<&str> = values.keys().map(String::as_str).collect();
            for shell in ["sh", "bash"] {
                // Each variable, ended by a NUL.
                let script = ". \"$1\"; shift; for n; do eval \"printf '%s\\\\0' \\\"\\$$n\\\"\"; done";
                let output = Command::new(shell)
                    .args(["-euc", script, shell]).arg(&file).args(&names).output().unwrap();
                prop_assert!(output.status.success(), "{:?}", output);
                let read: Vec<&[u8]> = output.stdout.split(|byte| *byte == 0).collect();
                let read: BTreeMap<&str, &[u8]> = names.iter().copied().zip(read).collect();
                for (name, value) in &values {
                    prop_assert_eq!(read[name.as_str()], value.as_bytes());
                }
            }
        }
    }
}

//! `format = "yaml"`: a YAML document in block style.
//!
//! Texts always stand in double quotes and names wherever they could be taken for anything else, so that no reader,
//! of YAML 1.1 or 1.2, makes a number, a truth or a date of them. Numbers stand as Vault wrote them.

use crate::render::RenderError;
use crate::render::json::{Json, Node};

/// The deepest nesting that is shown. More would only be a way to make a short answer long: each level indents all
/// lines below it.
const DEEPEST: usize = 64;

/// The longest name that every reader takes without a `?` before it (YAML 1.2.2, section 8.2.2), in bytes.
const LONGEST_KEY: usize = 1000;

/// Words that a reader of YAML 1.1 takes for something else than a text, in lower case.
const WORDS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];

/// A value as a document.
///
/// # Errors
/// [`RenderError::NotText`]; [`RenderError::TooDeep`].
pub(super) fn document(json: Json<'_>, field: &str) -> Result<Vec<u8>, RenderError> {
    let mut document = Vec::new();
    value(json, field, 0, Start::HereAt(0), &mut document)?;
    Ok(document)
}

/// Where a value begins.
#[derive(Clone, Copy)]
enum Start {
    /// After a space on the line of its name; a block goes on the next line, indented so.
    AfterName(usize),
    /// Right here, in this column.
    HereAt(usize),
}

fn value(
    json: Json<'_>,
    field: &str,
    depth: usize,
    start: Start,
    out: &mut Vec<u8>,
) -> Result<(), RenderError> {
    if depth > DEEPEST {
        return Err(RenderError::TooDeep { levels: DEEPEST });
    }
    let node = json.node(field)?;
    let is_block = match &node {
        Node::List(items) => !items.is_empty(),
        Node::Object(object) => object.fields().next().is_some(),
        Node::Null | Node::Truth(_) | Node::Number(_) | Node::Text(_) => false,
    };
    let indent = match start {
        Start::AfterName(indent) => {
            out.push(if is_block { b'\n' } else { b' ' });
            indent
        }
        Start::HereAt(indent) => indent,
    };
    let is_here = matches!(start, Start::HereAt(_));
    let line_start = |at: usize, out: &mut Vec<u8>| {
        if at > 0 || !is_here {
            out.resize(out.len() + indent, b' ');
        }
    };
    match node {
        Node::List(items) if is_block => {
            for (at, item) in items.into_iter().enumerate() {
                line_start(at, out);
                out.extend_from_slice(b"- ");
                value(item, field, depth + 1, Start::HereAt(indent + 2), out)?;
            }
            return Ok(());
        }
        Node::Object(object) if is_block => {
            for (at, (name, item)) in object.fields().enumerate() {
                line_start(at, out);
                key(name, indent, out);
                let field = if depth == 0 { name } else { field };
                value(item, field, depth + 1, Start::AfterName(indent + 2), out)?;
            }
            return Ok(());
        }
        Node::List(_) => out.extend_from_slice(b"[]"),
        Node::Object(_) => out.extend_from_slice(b"{}"),
        Node::Null => out.extend_from_slice(b"null"),
        Node::Truth(text) | Node::Number(text) => out.extend_from_slice(text.as_bytes()),
        Node::Text(text) => quote(&text, out),
    }
    out.push(b'\n');
    Ok(())
}

fn key(name: &str, indent: usize, out: &mut Vec<u8>) {
    let is_long = name.len() > LONGEST_KEY;
    if is_long {
        out.extend_from_slice(b"? ");
    }
    if is_plain(name) {
        out.extend_from_slice(name.as_bytes());
    } else {
        quote(name, out);
    }
    if is_long {
        out.push(b'\n');
        out.resize(out.len() + indent, b' ');
    }
    out.push(b':');
}

fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let begins = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
    name.as_bytes().first().is_some_and(begins)
        && name.bytes().all(plain)
        && !WORDS.contains(&name.to_ascii_lowercase().as_str())
}

/// Writes a text in double quotes: a string of JSON, YAML 1.1 and 1.2, and TOML alike.
pub(super) fn quote(text: &str, out: &mut Vec<u8>) {
    let mut utf8 = [0; 4];
    out.push(b'"');
    for char in text.chars() {
        match char {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            // Not printable, or an end of a line, in YAML; a control character in TOML.
            '\0'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{feff}'
            | '\u{fffe}'
            | '\u{ffff}' => {
                let code = u32::from(char);
                out.extend_from_slice(b"\\u");
                let digit = |at: u32| b"0123456789abcdef"[(code >> (4 * at) & 15) as usize];
                out.extend((0..4).rev().map(digit));
            }
            _ => out.extend_from_slice(char.encode_utf8(&mut utf8).as_bytes()),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> Result<String, RenderError> {
        document(Json::parse(text.as_bytes())?, "whole").map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn objects_and_lists_are_blocks() {
        let text =
            r#"{"b":"x","a":{"list":[1,"two",{"k":"v","l":[]},[3,[4]],{}],"none":null},"t":true,"e":{}}"#;
        let yaml = "b: \"x\"\na:\n  list:\n    - 1\n    - \"two\"\n    - k: \"v\"\n      l: []\n    - - 3\n      \
                    - - 4\n    - {}\n  none: null\nt: true\ne: {}\n";
        assert_eq!(shown(text).unwrap(), yaml);
        for (text, yaml) in [("{}", "{}\n"), ("[1]", "- 1\n"), ("\"a\"", "\"a\"\n"), ("1.50", "1.50\n")] {
            assert_eq!(shown(text).unwrap(), yaml);
        }
    }

    #[test]
    fn texts_stand_in_quotes_and_so_do_names_that_could_be_something_else() {
        for (text, yaml) in [
            (r#"{"yes":"no"}"#, "\"yes\": \"no\"\n"),
            (r#"{"NULL":"null","api-key":"1e3"}"#, "\"NULL\": \"null\"\napi-key: \"1e3\"\n"),
            (
                r#"{"1":"2","a b":"c: d","":"","-":"-"}"#,
                "\"1\": \"2\"\n\"a b\": \"c: d\"\n\"\": \"\"\n\"-\": \"-\"\n",
            ),
            (
                r#"{"k":"a\"b\\c\nd\te\u0000\u007f\u0085\u2028\ufeffü😀"}"#,
                "k: \"a\\\"b\\\\c\\nd\\te\\u0000\\u007f\\u0085\\u2028\\ufeffü😀\"\n",
            ),
        ] {
            assert_eq!(shown(text).unwrap(), yaml, "{text}");
        }
    }

    #[test]
    fn a_long_name_is_marked_as_one() {
        let name = "k".repeat(1001);
        let text = format!("{{\"a\":{{\"{name}\":{{\"b\":1}}}}}}");
        assert_eq!(shown(&text).unwrap(), format!("a:\n  ? {name}\n  :\n    b: 1\n"));
    }

    #[test]
    fn nesting_has_an_end() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(shown(&nested(60)).is_ok());
        for levels in [100, 100_000] {
            assert_eq!(shown(&nested(levels)), Err(RenderError::TooDeep { levels: 64 }));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_quoted_text_is_a_string_of_json_and_of_toml(text in "[\\PC\0-\u{a0}\u{2028}\u{feff}]{0,20}") {
            let mut quoted = Vec::new();
            quote(&text, &mut quoted);
            let quoted = String::from_utf8(quoted).unwrap();
            prop_assert_eq!(&serde_json::from_str::<String>(&quoted).unwrap(), &text);
            let toml = toml::from_str::<toml::Table>(&format!("k = {quoted}")).unwrap();
            prop_assert_eq!(toml["k"].as_str().unwrap(), text);
        }
    }
}

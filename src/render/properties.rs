//! `format = "properties"`: what `java.util.Properties.load` reads, one field each.
//!
//! All of it is ASCII, anything else stands as `\uXXXX`, so it is read the same as ISO 8859-1 and as UTF-8.

use crate::render::RenderError;
use crate::render::json::Json;

/// The fields of an object as `key=value` lines.
///
/// # Errors
/// [`RenderError::NotAnObject`], [`RenderError::NotText`].
pub(super) fn lines(json: Json<'_>) -> Result<Vec<u8>, RenderError> {
    let mut lines = Vec::new();
    for (name, value) in json.object()?.fields() {
        escape(name, Part::Key, &mut lines);
        lines.push(b'=');
        let value = value.raw(name)?;
        // It came out of JSON, which is UTF-8.
        let text =
            std::str::from_utf8(&value).map_err(|_| RenderError::NotText { field: name.to_owned() })?;
        escape(text, Part::Value, &mut lines);
        lines.push(b'\n');
    }
    Ok(lines)
}

/// Which half of a line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Before the `=`.
    Key,
    /// After it.
    Value,
}

/// Writes a text so that it is read back as it is.
pub(super) fn escape(text: &str, part: Part, out: &mut Vec<u8>) {
    let mut units = [0; 2];
    for (at, char) in text.chars().enumerate() {
        match char {
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            // White space before a value is skipped, in a key it would end it.
            ' ' if part == Part::Key || at == 0 => out.extend_from_slice(b"\\ "),
            '=' | ':' | '#' | '!' if part == Part::Key => out.extend([b'\\', char as u8]),
            ' '..='~' => out.push(char as u8),
            _ => {
                for unit in char.encode_utf16(&mut units) {
                    out.extend_from_slice(b"\\u");
                    out.extend(
                        (0..4).rev().map(|digit| b"0123456789ABCDEF"[usize::from(*unit >> (4 * digit) & 15)]),
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> String {
        String::from_utf8(lines(Json::parse(text.as_bytes()).unwrap()).unwrap()).unwrap()
    }

    #[test]
    fn keys_and_values_are_escaped_each_in_its_way() {
        for (text, line) in [
            (r#"{"spring.datasource.password":"pa ss"}"#, "spring.datasource.password=pa ss\n"),
            (r#"{"a b":" lead"}"#, "a\\ b=\\ lead\n"),
            (r#"{"k=:#!":"v=:#!"}"#, "k\\=\\:\\#\\!=v=:#!\n"),
            (r#"{"k":"a\\b\n\r\t\f"}"#, "k=a\\\\b\\n\\r\\t\\u000C\n"),
            (r#"{"ü":"€😀\u0000"}"#, "\\u00FC=\\u20AC\\uD83D\\uDE00\\u0000\n"),
            (r#"{"n":1.50,"o":{"a": "b c"},"":null}"#, "n=1.50\no={\"a\":\"b c\"}\n=null\n"),
        ] {
            assert_eq!(shown(text), line, "{text}");
        }
    }

    /// A reader that follows the documentation of `java.util.Properties.load`.
    fn read(text: &str) -> BTreeMap<String, String> {
        let mut properties = BTreeMap::new();
        for line in text.split_terminator('\n') {
            let mut halves = [Vec::<u16>::new(), Vec::new()];
            let mut half = 0;
            let mut chars = line.chars();
            while let Some(char) = chars.next() {
                match char {
                    '\\' => halves[half].push(match chars.next().unwrap() {
                        'n' => 10,
                        'r' => 13,
                        't' => 9,
                        'u' => u16::from_str_radix(&chars.by_ref().take(4).collect::<String>(), 16).unwrap(),
                        other => other as u16,
                    }),
                    '=' if half == 0 => half = 1,
                    ':' | ' ' if half == 0 => panic!("an end of the key that was not meant: {line}"),
                    _ => halves[half].push(char as u16),
                }
            }
            let [key, value] = halves.map(|half| String::from_utf16(&half).unwrap());
            properties.insert(key, value);
        }
        properties
    }

    const NASTY: &str = "[\\PC\0-\u{1f}]{0,8}|[ =:#!\\\\\n\r\t\u{c}ü€😀]{1,8}";

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_property_is_read_back(
            values in proptest::collection::btree_map(NASTY, NASTY, 0..5),
        ) {
            prop_assert_eq!(read(&shown(&serde_json::to_string(&values).unwrap())), values);
        }
    }
}

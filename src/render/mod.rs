//! From the values of generations to the bytes of a file. Pure: no I/O, no clock, nothing kept.
//!
//! A field's bytes are those of its string, as they are; anything else is its JSON text without
//! insignificant white space. Numbers, escapes and the order of keys stay as Vault wrote them as far as the format
//! has them: nothing passes through a float or a map. What a key says last counts, as it does for Vault itself.
//!
//! Invariants: *no value in an error*: a [`RenderError`] names a field, never what is in it; *nothing stays*: what is
//! made on the way lies on the heap, which is wiped as it is freed, and is freed before the bytes are returned.

mod decode;
mod env;
mod format;
mod json;
mod pem;
mod properties;
mod template;
mod yaml;

use thiserror::Error;

pub use crate::render::format::{BadPointer, Content, Decode, FieldPath, Format, PemPart, TrailingNewline};
use crate::render::json::Json;
pub use crate::render::template::{Alias, Names, Template, TemplateFault, TemplateMistake};
use crate::secret::SecretBytes;

/// Why values can't be shown as a file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RenderError {
    /// The values, or the part of them that is to be shown, are not one JSON object.
    #[error("the answer holds no JSON object with fields")]
    NotAnObject,
    /// The object has no such field.
    #[error("the secret has no field {field:?}")]
    NoSuchField {
        /// Its name, or the pointer to it.
        field: String,
    },
    /// The field is a string with half of a surrogate pair in it, which is no character.
    #[error("the field {field:?} holds an escape that is no character")]
    NotText {
        /// Its name.
        field: String,
    },
    /// No shell variable can have the name.
    #[error(
        "the field {field:?} can't be the name of a shell variable, which has letters, digits and `_` only: \
         rename it in Vault, or give it a name by a template, {}",
        example(field)
    )]
    NotAVariable {
        /// Its name.
        field: String,
    },
    /// No shell variable can hold the value.
    #[error("the field {field:?} holds a NUL, which no shell variable can: show it as a file of its own")]
    HasNul {
        /// Its name.
        field: String,
    },
    /// The value is not what `decode = "base64"` expects.
    #[error("the field {field:?} is no base64: leave out `decode`")]
    NotBase64 {
        /// Its name.
        field: String,
    },
    /// The value can't stand in a PEM bundle.
    #[error(
        "the field {field:?} is no PEM text, as a bundle needs it: ask the engine for the format \"pem\""
    )]
    NotPem {
        /// Its name.
        field: String,
    },
    /// More lists and objects in each other than a format takes.
    #[error("the values are nested deeper than {levels} levels: show a part of them, or all as \"json\"")]
    TooDeep {
        /// How many are taken.
        levels: usize,
    },
    /// A template could not be filled.
    #[error("the template{} {fault}", at_line(*line))]
    Template {
        /// The line, from 1 on, if it is known.
        line: Option<usize>,
        /// Why not.
        fault: TemplateFault,
    },
}

fn at_line(line: Option<usize>) -> String {
    line.map_or_else(String::new, |line| format!(", line {line},"))
}

/// How a template gives a field another name.
fn example(field: &str) -> String {
    format!("`NAME={{{{ data[{field:?}] | quote }}}}`")
}

/// The bytes of a file that shows one source; `values` is the text of a JSON object.
///
/// # Errors
/// As [`compose`].
pub fn file(values: &SecretBytes, format: &Format) -> Result<SecretBytes, RenderError> {
    compose(format, &[values])
}

/// The bytes of a file that shows the values of its sources, in their order; each is the text of a JSON object. Only
/// a template shows more than one.
///
/// # Errors
/// [`RenderError::NotAnObject`]; [`RenderError::NoSuchField`] and [`RenderError::NotText`] if the format
/// names a field; the others as the format has them.
pub fn compose(format: &Format, parts: &[&SecretBytes]) -> Result<SecretBytes, RenderError> {
    let parts = parts.iter().map(|part| Json::parse(part.expose())).collect::<Result<Vec<_>, _>>()?;
    let mut bytes = content(&format.content, &parts)?;
    match format.newline {
        TrailingNewline::Keep => {}
        TrailingNewline::Add => {
            if bytes.last() != Some(&b'\n') {
                bytes.push(b'\n');
            }
        }
        TrailingNewline::Strip => {
            let end = bytes.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |at| at + 1);
            bytes.truncate(end);
        }
    }
    Ok(SecretBytes::new(bytes))
}

fn content(content: &Content, parts: &[Json<'_>]) -> Result<Vec<u8>, RenderError> {
    let part = |field: &Option<FieldPath>| {
        let whole = *parts.first().ok_or(RenderError::NotAnObject)?;
        match field {
            Some(field) => whole.find(field),
            // What an engine answers is an object, or nothing of use.
            None => whole.object().map(|_| whole),
        }
    };
    match content {
        Content::Raw { field, decode } => {
            let name = field.to_string();
            let text = part(&Some(field.clone()))?.raw(&name)?;
            match decode {
                Decode::Nothing => Ok(text),
                Decode::Base64 => decode::base64(&text).ok_or(RenderError::NotBase64 { field: name }),
            }
        }
        Content::Json { field } => Ok(part(field)?.line()),
        Content::Env { field } => env::assignments(part(field)?),
        Content::Yaml { field } => {
            let name = field.as_ref().map(FieldPath::to_string).unwrap_or_default();
            yaml::document(part(field)?, &name)
        }
        Content::Properties { field } => properties::lines(part(field)?),
        Content::PemBundle { field, parts } => pem::bundle(part(field)?, parts),
        Content::Template(template) => template.fill(parts),
    }
}

/// All fields of `values`, the text of a JSON object, each as [`Content::Raw`] shows it; sorted by name.
///
/// # Errors
/// [`RenderError::NotAnObject`], [`RenderError::NotText`].
pub fn fields(values: &SecretBytes) -> Result<Vec<(String, SecretBytes)>, RenderError> {
    let object = Json::parse(values.expose())?.object()?;
    let mut fields = object
        .fields()
        .map(|(name, json)| Ok((name.to_owned(), SecretBytes::new(json.raw(name)?))))
        .collect::<Result<Vec<_>, _>>()?;
    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(fields)
}

/// What a field may be that is no string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoText {
    /// A number. KV keeps it as a floating-point number, so that it may have changed.
    Number,
    /// True or false.
    Truth,
    /// Null.
    Null,
    /// A list or an object.
    Structure,
}

/// Which fields of `values`, the text of a JSON object, are no strings; sorted by name.
///
/// # Errors
/// [`RenderError::NotAnObject`].
pub fn other_than_texts(values: &SecretBytes) -> Result<Vec<(String, NoText)>, RenderError> {
    let object = Json::parse(values.expose())?.object()?;
    let kinds = object.fields().filter_map(|(name, json)| Some((name.to_owned(), json.other_than_text()?)));
    let mut found: Vec<_> = kinds.collect();
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretBytes {
        SecretBytes::new(text.as_bytes().to_vec())
    }

    fn raw(values: &str, field: &str) -> Result<Vec<u8>, RenderError> {
        shown(values, Format::raw(FieldPath::name(field)))
    }

    fn json(values: &str, field: Option<&str>) -> Result<Vec<u8>, RenderError> {
        shown(values, Format::of(Content::Json { field: field.map(FieldPath::name) }))
    }

    fn shown(values: &str, format: Format) -> Result<Vec<u8>, RenderError> {
        file(&secret(values), &format).map(|bytes| bytes.expose().to_vec())
    }

    #[test]
    fn a_raw_string_is_its_bytes_and_anything_else_its_json_text() {
        for (value, bytes) in [
            (r#""plain""#, "plain"),
            (r#""""#, ""),
            (r#""two\nlines\t\"quoted\" \\ \/""#, "two\nlines\t\"quoted\" \\ /"),
            (r#""\u00fc\u20ac""#, "ü€"),
            ("\"ü€\"", "ü€"),
            (r#""\ud83d\ude00""#, "😀"),
            (r#""a\u003cb\u003e\u0026c""#, "a<b>&c"),
            (r#""\u0000end""#, "\0end"),
            ("true", "true"),
            ("null", "null"),
            ("0", "0"),
            ("-0", "-0"),
            ("1e400", "1e400"),
            ("1.0", "1.0"),
            ("1.10E+2", "1.10E+2"),
            (
                "12345678901234567890123456789012345678901234567890",
                "12345678901234567890123456789012345678901234567890",
            ),
            ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
            (r#"{ "b" : [ 1 , 2 ] , "a" : "x y" }"#, r#"{"b":[1,2],"a":"x y"}"#),
            (r#"[ "with \" quote and  spaces" , { } ]"#, r#"["with \" quote and  spaces",{}]"#),
            (r#"["back\\", 1]"#, r#"["back\\",1]"#),
            ("[\n\t1\r\n]", "[1]"),
            (r#"{"html":"\u0026"}"#, r#"{"html":"\u0026"}"#),
        ] {
            let values = format!(r#"{{"other": 1, "field": {value}, "more": "x"}}"#);
            assert_eq!(raw(&values, "field").unwrap(), bytes.as_bytes(), "{value}");
        }
    }

    #[test]
    fn json_is_compact_in_the_order_given_with_a_newline() {
        let values = " { \"z\" : 1.50 ,\n \"a\" : { \"k\" : \"v w\" } } ";
        assert_eq!(json(values, None).unwrap(), b"{\"z\":1.50,\"a\":{\"k\":\"v w\"}}\n");
        assert_eq!(json(values, Some("z")).unwrap(), b"1.50\n");
        assert_eq!(json(values, Some("a")).unwrap(), b"{\"k\":\"v w\"}\n");
        assert_eq!(json(r#"{"s":"a\u0026b"}"#, Some("s")).unwrap(), b"\"a\\u0026b\"\n");
        assert_eq!(json("{}", None).unwrap(), b"{}\n");
    }

    #[test]
    fn a_file_ends_as_it_is_told_to() {
        for (value, newline, bytes) in [
            (r#""a""#, TrailingNewline::Keep, "a"),
            (r#""a\n\n""#, TrailingNewline::Keep, "a\n\n"),
            (r#""a""#, TrailingNewline::Add, "a\n"),
            (r#""a\n\n""#, TrailingNewline::Add, "a\n\n"),
            (r#""""#, TrailingNewline::Add, "\n"),
            (r#""a\n \r\n\n""#, TrailingNewline::Strip, "a\n "),
            (r#""\n""#, TrailingNewline::Strip, ""),
        ] {
            let format = Format { newline, ..Format::raw(FieldPath::name("a")) };
            assert_eq!(shown(&format!("{{\"a\":{value}}}"), format).unwrap(), bytes.as_bytes(), "{value}");
        }
        let json = Format { newline: TrailingNewline::Strip, ..Format::of(Content::Json { field: None }) };
        assert_eq!(shown("{}", json).unwrap(), b"{}");
    }

    #[test]
    fn a_field_may_be_base64_of_bytes_or_of_text() {
        let decoded = |value: &str| {
            let content = Content::Raw { field: FieldPath::name("a"), decode: Decode::Base64 };
            shown(&format!("{{\"a\":{value}}}"), Format::of(content))
        };
        assert_eq!(decoded(r#""AP8=""#).unwrap(), [0, 0xff]);
        assert_eq!(decoded("1234").unwrap(), [0xd7, 0x6d, 0xf8]);
        assert_eq!(decoded(r#""hunter2""#), Err(RenderError::NotBase64 { field: "a".to_owned() }));
    }

    #[test]
    fn a_part_of_a_secret_is_shown_as_all_of_it_would_be() {
        let values = r#"{"a":{"b":[{"c":"x"}],"n":1.50}}"#;
        let part = |text: &str| Some(FieldPath::parse(text).unwrap());
        for (content, bytes) in [
            (Content::Json { field: part("/a/b/0") }, "{\"c\":\"x\"}\n"),
            (Content::Env { field: part("/a/b/0") }, "c=x\n"),
            (Content::Yaml { field: part("/a/b") }, "- c: \"x\"\n"),
            (Content::Properties { field: part("/a") }, "b=[{\"c\":\"x\"}]\nn=1.50\n"),
        ] {
            assert_eq!(shown(values, Format::of(content.clone())).unwrap(), bytes.as_bytes(), "{content:?}");
        }
        for content in [Content::Env { field: part("/a/b") }, Content::Properties { field: part("/a/n") }] {
            assert_eq!(shown(values, Format::of(content)), Err(RenderError::NotAnObject));
        }
    }

    #[test]
    fn the_last_of_two_fields_with_one_name_counts() {
        let values = r#"{"a":"first","b":1,"a":"last"}"#;
        assert_eq!(raw(values, "a").unwrap(), b"last");
        let names: Vec<String> = fields(&secret(values)).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn all_fields_come_sorted_by_name() {
        let found = fields(&secret(r#"{"b":"2","a\u00fc":"1","":null,"B":{"x": 1}}"#)).unwrap();
        let found: Vec<(&str, &[u8])> =
            found.iter().map(|(name, bytes)| (name.as_str(), bytes.expose())).collect();
        assert_eq!(found, [("", &b"null"[..]), ("B", b"{\"x\":1}"), ("aü", b"1"), ("b", b"2")]);
        assert!(fields(&secret("{}")).unwrap().is_empty());
    }

    #[test]
    fn fields_that_are_no_texts_are_told_by_their_kind() {
        let values = r#"{"a":"1","b":-1,"c":[],"d":{},"e":null,"f":true,"g":false}"#;
        let found = other_than_texts(&secret(values)).unwrap();
        let found: Vec<(&str, NoText)> = found.iter().map(|(name, kind)| (name.as_str(), *kind)).collect();
        let (structure, truth) = (NoText::Structure, NoText::Truth);
        let expected = [
            ("b", NoText::Number),
            ("c", structure),
            ("d", structure),
            ("e", NoText::Null),
            ("f", truth),
            ("g", truth),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_field_is_found_by_its_name_without_escapes() {
        assert_eq!(raw(r#"{"p\u0061ss":"x"}"#, "pass").unwrap(), b"x");
        assert_eq!(
            raw(r#"{"pass":"x"}"#, "Pass"),
            Err(RenderError::NoSuchField { field: "Pass".to_owned() })
        );
        assert_eq!(json("{}", Some("")), Err(RenderError::NoSuchField { field: String::new() }));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for values in
            ["", "null", "[]", "\"text\"", "1", "{", "{\"a\":}", "{} {}", "{\"a\":1,}", "\u{feff}{}"]
        {
            assert_eq!(raw(values, "a"), Err(RenderError::NotAnObject), "{values}");
            assert_eq!(json(values, None), Err(RenderError::NotAnObject), "{values}");
            assert!(fields(&secret(values)).is_err(), "{values}");
        }
        let broken = SecretBytes::new(b"{\"a\":\"\xff\"}".to_vec());
        assert_eq!(fields(&broken).err(), Some(RenderError::NotAnObject));
    }

    #[test]
    fn half_a_surrogate_pair_is_no_text() {
        let wrong = Err(RenderError::NotText { field: "a".to_owned() });
        for value in [r#""\ud83d""#, r#""\ude00""#, r#""\ud83d\ud83d""#, r#""\ud83dx""#] {
            let values = format!(r#"{{"a":{value},"b":"fine"}}"#);
            assert_eq!(raw(&values, "a"), wrong, "{value}");
            assert_eq!(raw(&values, "b").unwrap(), b"fine");
        }
    }

    #[test]
    fn deep_nesting_is_only_text() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let values = format!(r#"{{"a":{deep}}}"#);
        assert_eq!(raw(&values, "a").unwrap(), deep.as_bytes());
    }

    #[test]
    fn an_error_holds_no_value() {
        let values = r#"{"a":"hunter2\ud83d","b":"hunter2"}"#;
        for error in [raw(values, "a").unwrap_err(), raw(values, "c").unwrap_err()] {
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
    }
}

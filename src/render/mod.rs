//! From the values of a generation to the bytes of a file. Pure: no I/O, no clock, nothing kept.
//!
//! A field's bytes are those of its string, as they are; anything else is its JSON text without
//! insignificant white space. Numbers, escapes and the order of keys stay as Vault wrote them: nothing
//! passes through a float or a map. What a key says last counts, as it does for Vault itself.
//!
//! Invariant: *no value in an error*: a [`RenderError`] names a field, never what is in it.

mod json;

use thiserror::Error;

use crate::config::plan::Format;
use crate::render::json::Object;
use crate::secret::SecretBytes;

/// Why values can't be shown as a file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RenderError {
    /// The values are not one JSON object.
    #[error("the answer holds no JSON object with fields")]
    NotAnObject,
    /// The object has no such field.
    #[error("the secret has no field {field:?}")]
    NoSuchField {
        /// Its name.
        field: String,
    },
    /// The field is a string with half of a surrogate pair in it, which is no character.
    #[error("the field {field:?} holds an escape that is no character")]
    NotText {
        /// Its name.
        field: String,
    },
}

/// The bytes of a file that shows `values`, the text of a JSON object, in a format.
///
/// # Errors
/// [`RenderError::NotAnObject`]; [`RenderError::NoSuchField`] and [`RenderError::NotText`] if the format
/// names a field.
pub fn file(values: &SecretBytes, format: &Format) -> Result<SecretBytes, RenderError> {
    let object = Object::parse(values.expose())?;
    match format {
        Format::Raw { field } => object.raw(field),
        Format::Json { field: Some(field) } => object.line(field),
        Format::Json { field: None } => Ok(json::line(values.expose())),
    }
}

/// All fields of `values`, the text of a JSON object, each as [`Format::Raw`] shows it; sorted by name.
///
/// # Errors
/// [`RenderError::NotAnObject`], [`RenderError::NotText`].
pub fn fields(values: &SecretBytes) -> Result<Vec<(String, SecretBytes)>, RenderError> {
    let object = Object::parse(values.expose())?;
    object.names().map(|name| Ok((name.to_owned(), object.raw(name)?))).collect()
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
    let object = Object::parse(values.expose())?;
    let found = object.names().filter_map(|name| Some((name.to_owned(), object.other_than_text(name)?)));
    Ok(found.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> SecretBytes {
        SecretBytes::new(text.as_bytes().to_vec())
    }

    fn raw(values: &str, field: &str) -> Result<Vec<u8>, RenderError> {
        shown(values, Format::Raw { field: field.to_owned() })
    }

    fn json(values: &str, field: Option<&str>) -> Result<Vec<u8>, RenderError> {
        shown(values, Format::Json { field: field.map(str::to_owned) })
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

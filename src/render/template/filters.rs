//! The filters of templates. There is no `default` and no test `defined` among them: what is missing is an error,
//! and nothing stands in for a secret.

use std::borrow::Cow;

use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind};
use ring::digest::{SHA256, digest};

use crate::render::decode;
use crate::render::env::{self, Empty};
use crate::render::properties::{self, Part};
use crate::render::template::TemplateFault;
use crate::render::template::values::{json, printed, text};

/// All of them, sorted.
pub(super) const NAMES: [&str; 22] = [
    "b64decode",
    "b64encode",
    "base64",
    "first",
    "indent",
    "items",
    "join",
    "json",
    "last",
    "length",
    "lines",
    "lower",
    "pgpass",
    "properties",
    "quote",
    "replace",
    "sha256",
    "tojson",
    "trim",
    "upper",
    "urlencode",
    "xml",
];

/// Puts them into an environment that has none.
pub(super) fn add(environment: &mut Environment<'_>) {
    for name in ["json", "tojson"] {
        environment.add_filter(name, |value: &Value| json(value).map(made));
    }
    for name in ["base64", "b64encode"] {
        add_text(environment, name, |value| decode::to_base64(value.as_bytes()));
    }
    environment.add_filter("b64decode", |value: &Value| {
        let bytes = decode::base64(printed(value)?.as_bytes());
        bytes
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .map(made)
            .ok_or_else(|| unfit(TemplateFault::NotBase64))
    });
    environment.add_filter("quote", |value: &Value| {
        let word = printed(value)?;
        if word.contains('\0') {
            return Err(unfit(TemplateFault::HasNul));
        }
        let mut quoted = Vec::new();
        env::quote(word.as_bytes(), Empty::Quoted, &mut quoted);
        text_of(quoted)
    });
    environment.add_filter("properties", |value: &Value| {
        let mut escaped = Vec::new();
        properties::escape(&printed(value)?, Part::Value, &mut escaped);
        text_of(escaped)
    });
    add_text(environment, "urlencode", percent_encoded);
    add_text(environment, "sha256", |value| hex(digest(&SHA256, value.as_bytes()).as_ref()));
    add_text(environment, "xml", |value| escaped(value, xml));
    add_text(environment, "pgpass", |value| escaped(value, pgpass));
    add_text(environment, "trim", |value| value.trim().to_owned());
    add_text(environment, "lower", str::to_lowercase);
    add_text(environment, "upper", str::to_uppercase);
    add_shaping(environment);
}

/// Those that cut and join.
fn add_shaping(environment: &mut Environment<'_>) {
    environment.add_filter("replace", |value: &Value, from: Cow<'_, str>, to: Cow<'_, str>| {
        // Between all letters it would be no use, and without an end it would be a long text.
        if from.is_empty() {
            return Err(unfit(TemplateFault::Operation));
        }
        Ok(made(printed(value)?.replace(&*from, &to)))
    });
    environment.add_filter("indent", |value: &Value, by: u16, options: Kwargs| {
        let first = options.get::<Option<bool>>("first")?.unwrap_or(false);
        options.assert_all_used()?;
        let value = printed(value)?;
        let space = " ".repeat(usize::from(by));
        let mut indented = String::with_capacity(value.len());
        for (at, line) in value.split_inclusive('\n').enumerate() {
            if (at > 0 || first) && !line.trim_end().is_empty() {
                indented.push_str(&space);
            }
            indented.push_str(line);
        }
        Ok(made(indented))
    });
    environment.add_filter("lines", |value: &Value| {
        printed(value).map(|value| value.lines().map(text).collect::<Vec<_>>())
    });
    environment.add_filter("join", |value: &Value, between: Option<Cow<'_, str>>| {
        // The letters of a text are no list.
        if value.as_str().is_some() {
            return Err(unfit(TemplateFault::Operation));
        }
        let between = between.as_deref().unwrap_or_default();
        let mut joined = String::new();
        for (at, item) in value.try_iter()?.enumerate() {
            if at > 0 {
                joined.push_str(between);
            }
            joined.push_str(&printed(&item)?);
        }
        Ok(made(joined))
    });
    environment.add_filter("length", |value: &Value| match value.as_str() {
        Some(text) => Ok(text.chars().count()),
        None => value.len().ok_or_else(|| unfit(TemplateFault::Operation)),
    });
    environment.add_filter("items", |value: &Value| {
        let pair = |key: Value| Ok::<_, Error>(Value::from(vec![key.clone(), value.get_item(&key)?]));
        value.try_iter()?.map(pair).collect::<Result<Vec<_>, _>>()
    });
    // Of an empty list it is undefined, so printing it is an error.
    environment.add_filter("first", |value: &Value| {
        value.try_iter().map(|mut items| items.next().unwrap_or(Value::UNDEFINED))
    });
    environment.add_filter("last", |value: &Value| {
        value.try_iter().map(|items| items.last().unwrap_or(Value::UNDEFINED))
    });
}

fn add_text(
    environment: &mut Environment<'_>,
    name: &'static str,
    filter: impl Fn(&str) -> String + Send + Sync + 'static,
) {
    environment.add_filter(name, move |value: &Value| printed(value).map(|value| made(filter(&value))));
}

fn made(made: String) -> Value {
    text(&made)
}

fn text_of(bytes: Vec<u8>) -> Result<Value, Error> {
    String::from_utf8(bytes).map(made).map_err(|_| unfit(TemplateFault::Operation))
}

/// An error that says nothing but the fault.
fn unfit(fault: TemplateFault) -> Error {
    Error::from(ErrorKind::InvalidOperation).with_source(fault)
}

/// All but unreserved characters as `%XX` (RFC 3986, section 2.3).
fn percent_encoded(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push_str(&hex(&[byte]).to_uppercase());
        }
    }
    encoded
}

fn hex(bytes: &[u8]) -> String {
    let digit = |digit: u8| char::from(b"0123456789abcdef"[usize::from(digit)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn escaped(value: &str, escape: impl Fn(char) -> Option<&'static str>) -> String {
    let mut escaped = String::with_capacity(value.len());
    for char in value.chars() {
        match escape(char) {
            Some(escape) => escaped.push_str(escape),
            None => escaped.push(char),
        }
    }
    escaped
}

/// For a text or an attribute in either kind of quotes (XML 1.0, section 2.4).
fn xml(char: char) -> Option<&'static str> {
    match char {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        '"' => Some("&quot;"),
        '\'' => Some("&apos;"),
        // A reader would make a space of these in an attribute.
        '\n' => Some("&#10;"),
        '\r' => Some("&#13;"),
        '\t' => Some("&#9;"),
        _ => None,
    }
}

/// For a field of libpq's password file.
fn pgpass(char: char) -> Option<&'static str> {
    match char {
        ':' => Some("\\:"),
        '\\' => Some("\\\\"),
        _ => None,
    }
}

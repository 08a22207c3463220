//! How a file shows what was read: the words of a configuration, understood.

use std::fmt;

use thiserror::Error;

use crate::render::template::Template;

/// How values become the bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    /// What is shown.
    pub content: Content,
    /// How it ends.
    pub newline: TrailingNewline,
}

impl Format {
    /// Content that ends as its format has it.
    pub fn of(content: Content) -> Format {
        Format { content, newline: TrailingNewline::Keep }
    }

    /// One field as it is.
    pub fn raw(field: FieldPath) -> Format {
        Format::of(Content::Raw { field, decode: Decode::Nothing })
    }
}

/// What a file shows. Each format has a module of its own beside this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// One field: a string as it is, anything else as JSON text.
    Raw {
        /// Which one.
        field: FieldPath,
        /// What its text stands for.
        decode: Decode,
    },
    /// JSON text with a newline at the end.
    Json {
        /// The part that is shown; `None`: all.
        field: Option<FieldPath>,
    },
    /// Assignments of a POSIX shell.
    Env {
        /// The part whose fields are shown; `None`: all.
        field: Option<FieldPath>,
    },
    /// A YAML document.
    Yaml {
        /// The part that is shown; `None`: all.
        field: Option<FieldPath>,
    },
    /// Java properties.
    Properties {
        /// The part whose fields are shown; `None`: all.
        field: Option<FieldPath>,
    },
    /// Certificates and their key, one after the other.
    PemBundle {
        /// The part whose fields are shown; `None`: all.
        field: Option<FieldPath>,
        /// What is in it, in this order.
        parts: Vec<PemPart>,
    },
    /// A text with values put in.
    Template(Template),
}

/// What the text of a field stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decode {
    /// Itself.
    Nothing,
    /// Bytes in base64 (RFC 4648): either alphabet, padded or not, over any number of lines.
    Base64,
}

/// How a file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrailingNewline {
    /// As its content does.
    Keep,
    /// With one newline more, if there is none.
    Add,
    /// Without any newline.
    Strip,
}

/// A part of a PEM bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PemPart {
    /// The certificate itself.
    Certificate,
    /// The authorities that vouch for it, the nearest first.
    Chain,
    /// The private key.
    Key,
}

/// Which field of a secret, or which part of a field: a way down from the top, never empty.
#[derive(Clone, PartialEq, Eq)]
pub struct FieldPath {
    steps: Vec<String>,
}

/// What is wrong with a JSON pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("has a `~` that is neither `~0` (a tilde) nor `~1` (a slash): write `~0` for a tilde")]
pub struct BadPointer;

impl FieldPath {
    /// The field of a name, whatever is in it.
    pub fn name(name: &str) -> FieldPath {
        FieldPath { steps: vec![name.to_owned()] }
    }

    /// A name, or, if it begins with a slash, a JSON pointer (RFC 6901). So the name `/x` is written `/~1x`.
    ///
    /// # Errors
    /// [`BadPointer`].
    pub fn parse(text: &str) -> Result<FieldPath, BadPointer> {
        match text.strip_prefix('/') {
            None => Ok(FieldPath::name(text)),
            Some(rest) => Ok(FieldPath { steps: rest.split('/').map(unescaped).collect::<Result<_, _>>()? }),
        }
    }

    /// Each step down: a name, or in a list a number.
    pub fn steps(&self) -> &[String] {
        &self.steps
    }
}

/// As it is written in a configuration.
impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.steps.as_slice() {
            [name] if !name.starts_with('/') => f.write_str(name),
            steps => {
                steps.iter().try_for_each(|step| write!(f, "/{}", step.replace('~', "~0").replace('/', "~1")))
            }
        }
    }
}

/// As it is written in a configuration, in quotes.
impl fmt::Debug for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string(), f)
    }
}

fn unescaped(step: &str) -> Result<String, BadPointer> {
    let mut parts = step.split('~');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (char, rest) = match part.as_bytes().first() {
            Some(b'0') => ('~', &part[1..]),
            Some(b'1') => ('/', &part[1..]),
            _ => return Err(BadPointer),
        };
        plain.push(char);
        plain.push_str(rest);
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_begins_with_a_slash_is_a_pointer_and_any_other_a_name() {
        for (text, steps) in [
            ("password", &["password"][..]),
            ("a/b", &["a/b"]),
            ("a~b", &["a~b"]),
            ("", &[""]),
            ("/", &[""]),
            ("/a", &["a"]),
            ("/~1x", &["/x"]),
            ("/nested/0/key", &["nested", "0", "key"]),
            ("/a~1b/m~0n/~01", &["a/b", "m~n", "~1"]),
            ("//", &["", ""]),
        ] {
            assert_eq!(FieldPath::parse(text).unwrap().steps(), steps, "{text}");
        }
        for text in ["/~", "/a~2", "/a/~x", "/~~0"] {
            assert_eq!(FieldPath::parse(text), Err(BadPointer), "{text}");
        }
    }

    #[test]
    fn a_field_is_shown_as_it_would_be_written() {
        for text in ["password", "a/b", "/~1x", "/a/0", "/a~1b/m~0n", "//", "m~n"] {
            assert_eq!(FieldPath::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(FieldPath::name("/x").to_string(), "/~1x");
        assert_eq!(format!("{:?}", FieldPath::name("a\"b")), "\"a\\\"b\"");
    }
}

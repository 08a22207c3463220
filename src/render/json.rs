//! Cutting fields out of the text of a JSON object, without turning the rest of it into values.
//!
//! Only the field that is asked for is copied, once, into a buffer of its own size at most.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::render::{NoText, RenderError};
use crate::secret::SecretBytes;

/// The fields of a JSON object, each still the text it was.
pub struct Object<'a>(BTreeMap<Text<'a>, &'a RawValue>);

impl<'a> Object<'a> {
    /// Finds the fields; of two with one name the last counts.
    ///
    /// # Errors
    /// [`RenderError::NotAnObject`], also for text that is not JSON or goes on after the object.
    pub fn parse(text: &'a [u8]) -> Result<Object<'a>, RenderError> {
        // The parser's own error may quote what it read: it ends here.
        serde_json::from_slice(text).map(Object).map_err(|_| RenderError::NotAnObject)
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(|name| &*name.0)
    }

    /// The bytes of a string, or the JSON text of anything else.
    pub fn raw(&self, field: &str) -> Result<SecretBytes, RenderError> {
        let text = self.text(field)?;
        if !text.starts_with('"') {
            return Ok(SecretBytes::new(compact(text.as_bytes())));
        }
        let Text(string) =
            serde_json::from_str(text).map_err(|_| RenderError::NotText { field: field.to_owned() })?;
        Ok(SecretBytes::new(string.into_owned().into_bytes()))
    }

    /// The JSON text of a field and a newline.
    pub fn line(&self, field: &str) -> Result<SecretBytes, RenderError> {
        Ok(line(self.text(field)?.as_bytes()))
    }

    /// What a field is, if it is no string.
    pub fn other_than_text(&self, field: &str) -> Option<NoText> {
        match self.text(field).ok()?.as_bytes().first()? {
            b'"' => None,
            b'{' | b'[' => Some(NoText::Structure),
            b'n' => Some(NoText::Null),
            b't' | b'f' => Some(NoText::Truth),
            _ => Some(NoText::Number),
        }
    }

    fn text(&self, field: &str) -> Result<&'a str, RenderError> {
        match self.0.get(&Text(Cow::Borrowed(field))) {
            Some(value) => Ok(value.get()),
            None => Err(RenderError::NoSuchField { field: field.to_owned() }),
        }
    }
}

/// JSON text without insignificant white space, and a newline.
pub fn line(text: &[u8]) -> SecretBytes {
    let mut line = compact(text);
    line.push(b'\n');
    SecretBytes::new(line)
}

/// JSON text that is known to be valid, without the white space between its tokens (RFC 8259, section 2).
fn compact(text: &[u8]) -> Vec<u8> {
    // One more than needed, for a newline: the buffer must never grow.
    let mut short = Vec::with_capacity(text.len() + 1);
    let mut place = Place::BetweenTokens;
    for &byte in text {
        place = match (place, byte) {
            (Place::BetweenTokens, b' ' | b'\t' | b'\n' | b'\r') => continue,
            (Place::BetweenTokens, b'"') => Place::InString,
            (Place::InString, b'"') => Place::BetweenTokens,
            (Place::InString, b'\\') => Place::AfterBackslash,
            (Place::AfterBackslash, _) => Place::InString,
            (same, _) => same,
        };
        short.push(byte);
    }
    short
}

#[derive(Clone, Copy)]
enum Place {
    BetweenTokens,
    InString,
    AfterBackslash,
}

/// A JSON string; borrowed from the text if it has no escapes in it.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

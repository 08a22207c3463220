//! Cutting parts out of the text of a JSON value, without turning the rest of it into values.
//!
//! Only what is asked for is copied, once, into a buffer of its own size at most.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::render::format::FieldPath;
use crate::render::{NoText, RenderError};

/// The text of a JSON value, as it was written.
#[derive(Clone, Copy)]
pub struct Json<'a>(&'a RawValue);

/// What a JSON text is, one level deep.
pub enum Node<'a> {
    /// `null`.
    Null,
    /// `true` or `false`, as it was written.
    Truth(&'a str),
    /// A number, as it was written.
    Number(&'a str),
    /// A string without its escapes.
    Text(Cow<'a, str>),
    /// A list.
    List(Vec<Json<'a>>),
    /// An object.
    Object(Object<'a>),
}

/// The fields of a JSON object in the order of the text, each still the text it was.
pub struct Object<'a>(Vec<(Text<'a>, Json<'a>)>);

impl<'a> Json<'a> {
    /// Takes a text that is JSON and nothing else.
    ///
    /// # Errors
    /// [`RenderError::NotAnObject`]: it is no JSON, or more.
    pub fn parse(text: &'a [u8]) -> Result<Json<'a>, RenderError> {
        // The parser's own error may quote what it read: it ends here.
        serde_json::from_slice(text).map(Json).map_err(|_| RenderError::NotAnObject)
    }

    /// The part that lies at the end of `path`.
    ///
    /// # Errors
    /// [`RenderError::NotAnObject`] if this is none; [`RenderError::NoSuchField`].
    pub fn find(self, path: &FieldPath) -> Result<Json<'a>, RenderError> {
        let missing = || RenderError::NoSuchField { field: path.to_string() };
        let mut found = self;
        for (depth, step) in path.steps().iter().enumerate() {
            let next = match found.0.get().as_bytes().first() {
                Some(b'{') => found.object()?.get(step),
                Some(b'[') if depth > 0 => index(step).and_then(|index| found.list().get(index).copied()),
                _ if depth == 0 => return Err(RenderError::NotAnObject),
                _ => None,
            };
            found = next.ok_or_else(missing)?;
        }
        Ok(found)
    }

    /// Its fields.
    ///
    /// # Errors
    /// [`RenderError::NotAnObject`].
    pub fn object(self) -> Result<Object<'a>, RenderError> {
        serde_json::from_str(self.0.get()).map_err(|_| RenderError::NotAnObject)
    }

    /// What it is. `field` is what an error names.
    ///
    /// # Errors
    /// [`RenderError::NotText`].
    pub fn node(self, field: &str) -> Result<Node<'a>, RenderError> {
        let text = self.0.get();
        Ok(match text.as_bytes().first() {
            Some(b'"') => {
                let Text(string) = serde_json::from_str(text)
                    .map_err(|_| RenderError::NotText { field: field.to_owned() })?;
                Node::Text(string)
            }
            Some(b'{') => match serde_json::from_str(text) {
                Ok(object) => Node::Object(object),
                // The text is valid JSON, so it is a name that is no text.
                Err(_) => return Err(RenderError::NotText { field: field.to_owned() }),
            },
            Some(b'[') => Node::List(self.list()),
            Some(b't' | b'f') => Node::Truth(text),
            Some(b'n') => Node::Null,
            _ => Node::Number(text),
        })
    }

    /// The bytes of a string, or the JSON text of anything else.
    ///
    /// # Errors
    /// [`RenderError::NotText`], which names `field`.
    pub fn raw(self, field: &str) -> Result<Vec<u8>, RenderError> {
        match self.0.get().starts_with('"') {
            false => Ok(self.compact()),
            true => match self.node(field)? {
                Node::Text(text) => Ok(text.into_owned().into_bytes()),
                _ => Ok(self.compact()),
            },
        }
    }

    /// The text without the white space between its tokens (RFC 8259, section 2).
    pub fn compact(self) -> Vec<u8> {
        let text = self.0.get().as_bytes();
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

    /// What it is, if it is no string.
    pub fn other_than_text(self) -> Option<NoText> {
        match self.0.get().as_bytes().first()? {
            b'"' => None,
            b'{' | b'[' => Some(NoText::Structure),
            b'n' => Some(NoText::Null),
            b't' | b'f' => Some(NoText::Truth),
            _ => Some(NoText::Number),
        }
    }

    /// The compact text and a newline.
    pub fn line(self) -> Vec<u8> {
        let mut line = self.compact();
        line.push(b'\n');
        line
    }

    /// Its items; none if it is no list.
    fn list(self) -> Vec<Json<'a>> {
        let items: Vec<&RawValue> = serde_json::from_str(self.0.get()).unwrap_or_default();
        items.into_iter().map(Json).collect()
    }
}

impl<'a> Object<'a> {
    /// A field; of two with one name the last counts.
    pub fn get(&self, name: &str) -> Option<Json<'a>> {
        self.0.iter().rfind(|(known, _)| known.0 == name).map(|(_, value)| *value)
    }

    /// All fields in the order of the text; of two with one name the last counts.
    pub fn fields(&self) -> impl Iterator<Item = (&str, Json<'a>)> {
        let last: BTreeMap<&str, usize> =
            self.0.iter().enumerate().map(|(at, (name, _))| (&*name.0, at)).collect();
        let fields = self.0.iter().enumerate();
        fields
            .filter(move |(at, (name, _))| last.get(&*name.0) == Some(at))
            .map(|(_, (name, json))| (&*name.0, *json))
    }
}

/// A place in a list as a JSON pointer has it (RFC 6901, section 4): no sign, no zero before other digits.
fn index(step: &str) -> Option<usize> {
    let plain = step.bytes().all(|byte| byte.is_ascii_digit()) && (step == "0" || !step.starts_with('0'));
    plain.then(|| step.parse().ok()).flatten()
}

#[derive(Clone, Copy)]
enum Place {
    BetweenTokens,
    InString,
    AfterBackslash,
}

/// A JSON string; borrowed from the text if it has no escapes in it.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Object<'a>, D::Error> {
        deserializer.deserialize_map(Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Object<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
        let mut fields = Vec::new();
        while let Some((name, value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
            fields.push((name, Json(value)));
        }
        Ok(Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pointer_leads_through_objects_and_lists() {
        let text = br#"{"a":{"b":[10,{"c":"x"}],"":1},"0":"zero","l":[[1,2],[3]]}"#;
        let whole = Json::parse(text).unwrap();
        let find = |pointer: &str| {
            whole.find(&FieldPath::parse(pointer).unwrap()).map(|json| json.0.get().to_owned())
        };
        for (pointer, found) in
            [("/a/b/1/c", "\"x\""), ("/a/", "1"), ("0", "\"zero\""), ("/0", "\"zero\""), ("/l/0/1", "2")]
        {
            assert_eq!(find(pointer).unwrap(), found, "{pointer}");
        }
        for pointer in
            ["/a/b/2", "/a/b/01", "/a/b/-", "/a/b/+1", "/a/b/1/c/x", "/l/0/1/0", "/x/y", "x", "/a/b/"]
        {
            assert_eq!(find(pointer), Err(RenderError::NoSuchField { field: pointer.to_owned() }));
        }
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            "[a-c~/0-2\u{fc}\"\\\\\n]{0,3}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                proptest::collection::btree_map("[a-c~/0-2\u{fc}]{0,2}", inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn pointers_find_what_serde_json_finds(
            value in any_json(),
            steps in proptest::collection::vec("[a-c0-2\u{fc}-]{0,2}|~0|~1|~1a", 1..4),
        ) {
            prop_assume!(value.is_object());
            let pointer: String = steps.iter().map(|step| format!("/{step}")).collect();
            let text = serde_json::to_string_pretty(&value).unwrap();
            let found = Json::parse(text.as_bytes()).unwrap().find(&FieldPath::parse(&pointer).unwrap());
            let found = found.ok().map(|json| serde_json::from_str::<serde_json::Value>(json.0.get()).unwrap());
            prop_assert_eq!(found.as_ref(), value.pointer(&pointer));
        }
    }
}

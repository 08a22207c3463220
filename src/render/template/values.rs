//! The values of a secret as a template sees them.
//!
//! Every text lies on the heap, which is wiped as it is freed, never in the value itself: the engine copies values
//! about its stack. Nothing here is printed by a `Debug`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use minijinja::value::{DynObject, Enumerator, Object as TemplateObject, ObjectRepr, Value, ValueKind};
use minijinja::{Error, ErrorKind};

use crate::render::RenderError;
use crate::render::json::{Json, Node};
use crate::render::yaml::quote;

/// The deepest nesting of lists and objects.
const DEEPEST: usize = 64;

/// An object, its fields in the order of the text.
pub(super) struct Map {
    names: Vec<Arc<str>>,
    values: HashMap<Arc<str>, Value>,
}

struct List(Vec<Value>);

/// A number whose text no number of the engine would give back.
struct Number(Arc<str>);

/// A text that the engine keeps on the heap.
pub(super) fn text(text: &str) -> Value {
    Value::from(Arc::<str>::from(text))
}

/// A value of a secret. `field` is what an error names.
pub(super) fn value(json: Json<'_>, field: &str) -> Result<Value, RenderError> {
    below(json, field, 0)
}

fn below(json: Json<'_>, field: &str, depth: usize) -> Result<Value, RenderError> {
    if depth > DEEPEST {
        return Err(RenderError::TooDeep { levels: DEEPEST });
    }
    Ok(match json.node(field)? {
        Node::Null => Value::from(()),
        Node::Truth(text) => Value::from(text == "true"),
        Node::Number(text) => number(text),
        Node::Text(string) => text(&string),
        Node::List(items) => {
            let items = items.into_iter().map(|item| below(item, field, depth + 1));
            Value::from_object(List(items.collect::<Result<_, _>>()?))
        }
        Node::Object(object) => {
            let fields = object.fields().map(|(name, json)| {
                let field = if depth == 0 { name } else { field };
                Ok((name, below(json, field, depth + 1)?))
            });
            Value::from_object(Map::new(fields.collect::<Result<Vec<_>, _>>()?))
        }
    })
}

/// A number that can be reckoned with, if it is printed as it was written.
fn number(text: &str) -> Value {
    let whole = text.parse::<i64>().map(Value::from).or_else(|_| text.parse::<u64>().map(Value::from)).ok();
    let float = || text.parse::<f64>().ok().map(Value::from);
    whole
        .or_else(float)
        .filter(|number| number.to_string() == text)
        .unwrap_or_else(|| Value::from_object(Number(text.into())))
}

impl Map {
    /// From fields of different names.
    pub(super) fn new<'a>(fields: impl IntoIterator<Item = (&'a str, Value)>) -> Map {
        let fields: Vec<(Arc<str>, Value)> =
            fields.into_iter().map(|(name, value)| (Arc::from(name), value)).collect();
        let names = fields.iter().map(|(name, _)| Arc::clone(name)).collect();
        Map { names, values: fields.into_iter().collect() }
    }
}

impl TemplateObject for Map {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.values.get(key.as_str()?).cloned()
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        self.values.get(key).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.names.iter().map(Value::from).collect())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.names.len())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        render_json(DynObject::new(Arc::clone(self)), f)
    }
}

impl TemplateObject for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        render_json(DynObject::new(Arc::clone(self)), f)
    }
}

impl TemplateObject for Number {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn render_json(object: DynObject, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let text = json(&Value::from_dyn_object(object)).map_err(|_| fmt::Error)?;
    f.write_str(&text)
}

/// Says of an object nothing but what it is.
macro_rules! without_values {
    ($($object:ident),*) => {$(
        impl fmt::Debug for $object {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($object), "(…)"))
            }
        }
    )*};
}
without_values!(Map, List, Number);

/// A value as it is printed: a text as it is, anything else as JSON.
///
/// # Errors
/// It is undefined, or nothing that can be printed.
pub(super) fn printed(value: &Value) -> Result<Cow<'_, str>, Error> {
    match value.as_str() {
        Some(text) => Ok(Cow::Borrowed(text)),
        None => json(value).map(Cow::Owned),
    }
}

/// A value as JSON text.
///
/// # Errors
/// As [`printed`].
pub(super) fn json(value: &Value) -> Result<String, Error> {
    let mut text = Vec::new();
    write_json(value, &mut text)?;
    String::from_utf8(text).map_err(|_| Error::from(ErrorKind::BadSerialization))
}

fn write_json(value: &Value, out: &mut Vec<u8>) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined => return Err(ErrorKind::UndefinedError.into()),
        ValueKind::None => out.extend_from_slice(b"null"),
        // The engine would write the words of Python.
        ValueKind::Bool => out.extend_from_slice(if value.is_true() { b"true" } else { b"false" }),
        ValueKind::Number => out.extend_from_slice(value.to_string().as_bytes()),
        ValueKind::String => quote(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push(b'[');
            for (at, item) in value.try_iter()?.enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_json(&item, out)?;
            }
            out.push(b']');
        }
        ValueKind::Map => {
            out.push(b'{');
            for (at, key) in value.try_iter()?.enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                quote(&printed(&key)?, out);
                out.push(b':');
                write_json(&value.get_item(&key)?, out)?;
            }
            out.push(b'}');
        }
        _ => match value.downcast_object_ref::<Number>() {
            Some(Number(text)) => out.extend_from_slice(text.as_bytes()),
            None => return Err(ErrorKind::BadSerialization.into()),
        },
    }
    Ok(())
}

//! Texts with values put in: `template` and `template-file`.
//!
//! A template sees the values that it is given and nothing else: no file, no variable of the environment, no clock,
//! no other template. Work and output are bounded. Invariants: *nothing undefined is printed*: a name that is not
//! there is an error, wherever it stands; *no value in an error*: the engine's own errors may quote one, so they end
//! here; *nothing stays*: no value is kept after a call, on the heap or on the stack.

mod filters;
mod scan;
mod values;

use std::collections::BTreeSet;
use std::fmt;
use std::hint::black_box;
use std::io;
use std::sync::{Arc, OnceLock};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};
use ring::digest::{SHA256, digest};
use zeroize::Zeroize;

use crate::render::RenderError;
use crate::render::json::Json;
use crate::render::template::scan::Called;
use crate::render::template::values::Map;

/// What a template may do besides moving bytes: about as many steps.
const STEPS: u64 = 1_000_000;

/// How many lists, loops and calls may be inside each other.
const RECURSION: usize = 60;

/// How much of the stack is wiped after a call, in bytes: more than the engine has ever used of it.
const STACK: usize = 128 << 10;

/// The name of the whole secret in a template of one source.
const WHOLE: &str = "data";

/// A template that compiles, and what its names stand for.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    text: Arc<str>,
    names: Names,
    /// The longest output, in bytes.
    longest: u64,
}

/// What the names in a template stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// The fields of its only source; `data` is all of it.
    Fields,
    /// Sources, each an object.
    Sources(Vec<Alias>),
}

/// The name of a source in a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// As it stands in the template.
    pub name: String,
    /// Which of the file's sources it is, from 0 on.
    pub part: usize,
}

/// What is wrong with a template before any value is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateMistake {
    /// The line, from 1 on, if it is known.
    pub line: Option<usize>,
    /// What is wrong, and what to write instead.
    pub message: String,
}

/// Why a template could not be filled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateFault {
    /// A name that is neither a field nor a source.
    #[error("uses {name:?}, which the secret does not have")]
    NoSuchName {
        /// It, with those before its dots.
        name: String,
    },
    /// Something that is not there, and that has no name.
    #[error("uses an item or a field that the secret does not have")]
    Undefined,
    /// A filter, a test, a function or a method.
    #[error("calls something that templates don't have")]
    NoSuchCall,
    /// `b64decode`.
    #[error("decodes what is no base64, or is no text when it is decoded")]
    NotBase64,
    /// `quote`.
    #[error("quotes a text with a NUL in it, which no shell can hold")]
    HasNul,
    /// Anything else.
    #[error("does something with a value that can't be done with it")]
    Operation,
    /// Fuel.
    #[error("takes too many steps")]
    TooMuchWork,
    /// The output.
    #[error("makes more than {longest} bytes, which is max-secret-size")]
    TooLong {
        /// What is allowed.
        longest: u64,
    },
}

impl Template {
    /// Compiles a template whose output has `longest` bytes at most.
    ///
    /// # Errors
    /// [`TemplateMistake`]: it does not compile, or calls or names what there is not.
    pub fn new(text: &str, names: Names, longest: u64) -> Result<Template, TemplateMistake> {
        let environment = environment(longest);
        let compiled = environment.template_from_str(text).map_err(|error| TemplateMistake {
            line: error.line(),
            message: error.detail().unwrap_or("is no template").to_owned(),
        })?;
        check_calls(text)?;
        if let Names::Sources(aliases) = &names {
            let used = compiled.undeclared_variables(false);
            let mut unknown = used.iter().filter(|name| aliases.iter().all(|alias| alias.name != **name));
            if let Some(name) = unknown.next() {
                let known: Vec<String> = aliases.iter().map(|alias| format!("`{}`", alias.name)).collect();
                let message = format!("uses `{name}`, and `secrets` has {}", known.join(", "));
                return Err(TemplateMistake { line: None, message });
            }
        }
        Ok(Template { text: text.into(), names, longest })
    }

    /// What its names stand for.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Puts the values of its sources in.
    ///
    /// # Errors
    /// [`RenderError::Template`]; [`RenderError::NotAnObject`], [`RenderError::NotText`] and
    /// [`RenderError::TooDeep`] for values that can't be put into any.
    pub(super) fn fill(&self, parts: &[Json<'_>]) -> Result<Vec<u8>, RenderError> {
        let filled = self.filled(parts);
        wipe_stack();
        filled
    }

    #[inline(never)]
    fn filled(&self, parts: &[Json<'_>]) -> Result<Vec<u8>, RenderError> {
        let environment = environment(self.longest);
        // It compiled when the configuration was read.
        let template = environment.template_from_str(&self.text).map_err(|error| self.fault(&error))?;
        let used = template.undeclared_variables(true);
        let values = self.values(&used.iter().map(|name| first(name)).collect(), parts)?;
        if let Some(name) = used.iter().filter(|name| !has(&values, name)).min() {
            let fault = TemplateFault::NoSuchName { name: name.clone() };
            return Err(RenderError::Template { line: None, fault });
        }
        let mut output = Bounded { bytes: Vec::new(), room: self.longest };
        match template.render_captured_to(values, &mut output) {
            Ok(_) => Ok(output.bytes),
            Err(error) => Err(self.fault(&error)),
        }
    }

    /// The values that the names in use stand for. One that stands for nothing is left out.
    fn values(&self, used: &BTreeSet<&str>, parts: &[Json<'_>]) -> Result<Value, RenderError> {
        let part = |part: usize| parts.get(part).copied().ok_or(RenderError::NotAnObject);
        let mut fields = Vec::new();
        match &self.names {
            Names::Sources(aliases) => {
                for alias in aliases.iter().filter(|alias| used.contains(&*alias.name)) {
                    fields.push((&*alias.name, whole(part(alias.part)?)?));
                }
                Ok(Value::from_object(Map::new(fields)))
            }
            Names::Fields => {
                let object = part(0)?.object()?;
                let wanted = object.fields().filter(|(name, _)| *name != WHOLE && used.contains(name));
                for (name, json) in wanted {
                    fields.push((name, values::value(json, name)?));
                }
                if used.contains(WHOLE) {
                    fields.push((WHOLE, whole(part(0)?)?));
                }
                Ok(Value::from_object(Map::new(fields)))
            }
        }
    }

    /// What an error of the engine may say.
    fn fault(&self, error: &Error) -> RenderError {
        let own = std::error::Error::source(error).and_then(|source| source.downcast_ref::<TemplateFault>());
        let fault = match (own, error.kind()) {
            (Some(fault), _) => fault.clone(),
            (None, ErrorKind::UndefinedError) => TemplateFault::Undefined,
            (
                None,
                ErrorKind::UnknownFilter
                | ErrorKind::UnknownTest
                | ErrorKind::UnknownFunction
                | ErrorKind::UnknownMethod,
            ) => TemplateFault::NoSuchCall,
            (None, ErrorKind::OutOfFuel) => TemplateFault::TooMuchWork,
            (None, ErrorKind::WriteFailure) => TemplateFault::TooLong { longest: self.longest },
            (None, _) => TemplateFault::Operation,
        };
        RenderError::Template { line: error.line(), fault }
    }
}

/// Tells it from others without its text, which may be long.
impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = digest(&SHA256, self.text.as_bytes());
        f.debug_struct("Template")
            .field("sha256", &format_args!("{:02x?}", digest.as_ref()))
            .field("names", &self.names)
            .field("longest", &self.longest)
            .finish()
    }
}

/// The engine with our filters and none of its own.
fn environment<'a>(longest: u64) -> Environment<'a> {
    static PLAIN: OnceLock<Environment<'static>> = OnceLock::new();
    let mut environment: Environment<'a> = PLAIN.get_or_init(plain).clone();
    // A unit of fuel also pays for 64 bytes that are moved: the longest output can be moved eight times.
    environment.set_fuel(Some(STEPS.saturating_add(longest / 8)));
    environment
}

fn plain() -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_recursion_limit(RECURSION);
    environment
        .set_formatter(|output, _, value| output.write_str(&values::printed(value)?).map_err(Error::from));
    let mut syntax = SyntaxConfig::builder();
    // What stands outside of tags stays as it is, but for the lines that hold nothing but a `{% … %}`.
    syntax.trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true);
    if let Ok(syntax) = syntax.build() {
        environment.set_syntax(syntax);
    }
    filters::add(&mut environment);
    environment
}

fn check_calls(text: &str) -> Result<(), TemplateMistake> {
    for call in scan::calls(text) {
        let message = match call.what {
            Called::Filter if filters::NAMES.contains(&call.name) => continue,
            Called::Filter if matches!(call.name, "default" | "d") => {
                format!("`{}` would hide that a secret is missing: leave it out", call.name)
            }
            Called::Filter => {
                format!("there is no filter `{}`: the filters are {}", call.name, filters::NAMES.join(", "))
            }
            Called::Test => format!(
                "there is no test `is {}`: a name that is not there is an error anyway, and values are compared \
                 with `==` and `in`",
                call.name
            ),
        };
        return Err(TemplateMistake { line: Some(call.line), message });
    }
    Ok(())
}

/// A whole secret, which is an object.
fn whole(json: Json<'_>) -> Result<Value, RenderError> {
    json.object()?;
    values::value(json, WHOLE)
}

fn first(name: &str) -> &str {
    name.split('.').next().unwrap_or_default()
}

/// Whether all of `a.b.c` is there, as far as it leads through objects.
fn has(values: &Value, name: &str) -> bool {
    let mut value = values.clone();
    for step in name.split('.') {
        if value.downcast_object_ref::<Map>().is_none() {
            return true;
        }
        match value.get_attr(step) {
            Ok(next) if !next.is_undefined() => value = next,
            Ok(_) | Err(_) => return false,
        }
    }
    true
}

/// Overwrites what a call has left on the stack below this frame.
#[inline(never)]
fn wipe_stack() {
    let mut below = [0_u8; STACK];
    below.zeroize();
    black_box(&below);
}

/// Bytes with an end.
struct Bounded {
    bytes: Vec<u8>,
    /// How many more may come.
    room: u64,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.room = self.room.checked_sub(bytes.len() as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;

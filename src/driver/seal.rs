//! The state is sealed: whatever the engine changes, and each token, is in memory that a successor finds, before
//! anything that depends on it leaves the process.
//!
//! Bytes of secrets go from their own memory straight into the sealed one. Must never block, log, or wait: it is
//! called with the engine's lock held.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{from_slice, to_vec};

use crate::core::effect::Credential;
use crate::core::engine::Engine;
use crate::core::state::{Content, Key, Stored};
use crate::core::time::BootTime;
use crate::sealed::{Full, Sealed};
use crate::secret::SecretBytes;
use crate::sys;
use crate::vault::{Origin, Token};

/// After which time it is tried again to seal everything when there was no room.
const AGAIN: Duration = Duration::from_secs(30);

/// The sealed state of a mount.
pub struct Seal {
    store: Sealed,
    tokens: HashMap<Credential, Token>,
    /// There was no room: nothing is sealed before then.
    full_until: Option<(BootTime, Full)>,
    news: Option<News>,
}

/// What an operator must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// There is no room: a successor would begin anew.
    Full(Full),
    /// There is room again.
    Whole,
}

/// What a predecessor has left.
pub struct Left {
    /// The engine's cells.
    pub cells: Vec<(Key, Stored<SecretBytes>)>,
    /// Tokens, as they were numbered.
    pub tokens: BTreeMap<Credential, Token>,
}

/// A cell's key, or a token, can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored state can't be used: it has entries that this version does not know")]
pub struct Unknown;

impl Left {
    /// Reads what is in the memory; empty if there was no predecessor.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn read(store: &Sealed) -> Result<Left, Unknown> {
        let mut left = Left { cells: Vec::new(), tokens: BTreeMap::new() };
        for (key, value) in store.entries() {
            match from_slice(key).map_err(|_| Unknown)? {
                Key::Token(with) => drop(left.tokens.insert(with, unpack(value).ok_or(Unknown)?)),
                key @ Key::Body { .. } => {
                    let body = Arc::new(SecretBytes::new(value.to_vec()));
                    left.cells.push((key, Stored::Body(body)));
                }
                key => left.cells.push((key, Stored::Plain(value.to_vec()))),
            }
        }
        Ok(left)
    }

    /// Whether there was no predecessor.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }
}

impl Seal {
    /// Seals into this memory from now on. `left` are the tokens that a predecessor has left there, and
    /// `tokens` those that are there now.
    pub fn new(
        mut store: Sealed,
        left: impl IntoIterator<Item = Credential>,
        tokens: HashMap<Credential, Token>,
    ) -> Seal {
        for with in left.into_iter().filter(|with| !tokens.contains_key(with)) {
            store.remove(&name(&Key::Token(with)));
        }
        for (with, token) in &tokens {
            store.put(&name(&Key::Token(*with)), &pack(token));
        }
        Seal { store, tokens, full_until: None, news: None }
    }

    /// Seals what the engine has changed.
    pub(super) fn follow(&mut self, engine: &mut Engine<SecretBytes>) {
        if let Some((again, _)) = self.full_until {
            // What has changed is not wanted: everything will be written.
            engine.write_changes(&mut |_, _| ());
            if sys::boot_time() < again {
                return;
            }
            self.write_all(engine);
        } else {
            let store = &mut self.store;
            engine.write_changes(&mut |key, content| match content {
                Some(content) => put(store, key, &content),
                None => store.remove(&name(key)),
            });
        }
        match (self.store.commit(), self.full_until) {
            (Ok(()), None) => {}
            (Ok(()), Some(_)) => {
                self.full_until = None;
                self.news = Some(News::Whole);
            }
            (Err(full), before) => {
                self.full_until = Some((sys::boot_time() + AGAIN, full));
                if before.is_none() {
                    self.news = Some(News::Full(full));
                }
            }
        }
    }

    fn write_all(&mut self, engine: &Engine<SecretBytes>) {
        self.store.reset();
        let store = &mut self.store;
        engine.write_all(&mut |key, content| put(store, key, &content));
        for (with, token) in &self.tokens {
            self.store.put(&name(&Key::Token(*with)), &pack(token));
        }
    }

    /// A token is there; it is sealed with the next change.
    pub(super) fn keep(&mut self, with: Credential, token: Token) {
        self.store.put(&name(&Key::Token(with)), &pack(&token));
        self.tokens.insert(with, token);
    }

    /// A token is not needed any more.
    pub(super) fn forget(&mut self, with: Credential) {
        self.store.remove(&name(&Key::Token(with)));
        self.tokens.remove(&with);
    }

    /// Why a successor would begin anew, if it would.
    pub(super) fn lack(&self) -> Option<Full> {
        self.full_until.map(|(_, full)| full)
    }

    /// What is to be told, once.
    pub(super) fn news(&mut self) -> Option<News> {
        self.news.take()
    }
}

fn put(store: &mut Sealed, key: &Key, content: &Content<'_, SecretBytes>) {
    match content {
        Content::Plain(text) => store.put(&name(key), text),
        Content::Body(body) => store.put(&name(key), body.expose()),
    }
}

fn name(key: &Key) -> Vec<u8> {
    // It has neither maps nor anything else that JSON can't write.
    to_vec(key).unwrap_or_default()
}

/// Who obtained it, the length of its namespace and that, and the token.
fn pack(token: &Token) -> zeroize::Zeroizing<Vec<u8>> {
    let namespace = token.namespace().unwrap_or_default().as_bytes();
    let origin = match token.origin() {
        Origin::Given => 0,
        Origin::Obtained => 1,
    };
    let length = u32::try_from(namespace.len()).unwrap_or_default().to_le_bytes();
    zeroize::Zeroizing::new([&[origin], &length[..], namespace, token.secret().expose()].concat())
}

fn unpack(bytes: &[u8]) -> Option<Token> {
    let (origin, rest) = bytes.split_first()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (namespace, secret) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    let namespace = std::str::from_utf8(namespace).ok()?.to_owned();
    let origin = match origin {
        0 => Origin::Given,
        1 => Origin::Obtained,
        _ => return None,
    };
    let namespace = Some(namespace).filter(|namespace| !namespace.is_empty());
    Some(Token::new(SecretBytes::new(secret.to_vec()), namespace, origin))
}

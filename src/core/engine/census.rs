//! How much an engine holds, counted: what must not grow without end.

use crate::core::effect::Minting;
use crate::core::engine::Engine;
use crate::core::engine::wakes::WakeKey;
use crate::core::generation::Body;
use crate::core::identity::{Identity, LoginState};
use crate::core::name::SourceId;
use crate::core::source::Fetch;

/// How many things an engine holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    /// Sources, declared ones included.
    pub sources: usize,
    /// Names that are not declared.
    pub names: usize,
    /// Lists of directories, fetched or wanted.
    pub lists: usize,
    /// Bytes that the lists take.
    pub list_bytes: u64,
    /// Open files.
    pub open_files: usize,
    /// Callers that wait.
    pub waiting: usize,
    /// Leases that are being revoked, or could not be.
    pub retiring: usize,
    /// Tokens.
    pub tokens: usize,
}

impl<B: Body> Engine<B> {
    /// How many wakes are pending for a source.
    pub fn wakes_for(&self, id: SourceId) -> usize {
        self.wakes.count(&WakeKey::Source(id))
    }

    /// Whether nothing is on its way that makes something: a login, or a read that may mint.
    pub fn is_calm(&self) -> bool {
        let mints = |fetch| matches!(fetch, Fetch::InFlight { minting: Minting::Allowed, .. });
        let logs_in = |identity: &Identity| matches!(identity.login, LoginState::InFlight(_));
        !self.sources.values().any(|source| mints(source.fetch)) && !self.identities.iter().any(logs_in)
    }

    /// Counts what is held.
    pub fn census(&self) -> Census {
        Census {
            sources: self.sources.len(),
            names: self.tree.undeclared(),
            lists: self.lists.len(),
            list_bytes: self.lists.values().map(super::lists::List::bytes).sum(),
            open_files: self.handles.open_files(),
            waiting: self.waiting.len(),
            retiring: self.retiring.len(),
            tokens: self.identities.iter().map(|identity| identity.tokens.len()).sum(),
        }
    }
}

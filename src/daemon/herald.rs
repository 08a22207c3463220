//! Who is told how the mount stands: systemd, the keeper, or nobody.

use std::sync::{Mutex, PoisonError};

use sd_notify::NotifyState;

use crate::keeper::Word;
use crate::link::ServerEnd;

/// Tells whoever has started this process how it stands.
#[derive(Debug)]
pub(super) struct Herald {
    keeper: Option<Mutex<ServerEnd<Word>>>,
}

impl Herald {
    /// Tells systemd, if `$NOTIFY_SOCKET` says so.
    pub(super) fn to_systemd() -> Herald {
        Herald { keeper: None }
    }

    /// Tells a keeper, which tells systemd.
    pub(super) fn to_keeper(link: ServerEnd<Word>) -> Herald {
        Herald { keeper: Some(Mutex::new(link)) }
    }

    /// For systemd (sd_notify(3)).
    pub(super) fn notify(&self, states: &[NotifyState<'_>]) {
        if self.keeper.is_some() {
            let state: String = states.iter().map(|state| format!("{state}\n")).collect();
            self.say(&Word::Notify { state });
        } else {
            notify_systemd(states);
        }
    }

    /// Whether a keeper stays when this process ends.
    pub(super) fn is_of_a_keeper(&self) -> bool {
        self.keeper.is_some()
    }

    /// For a keeper. Returns whether there is one that hears it.
    pub(super) fn say(&self, word: &Word) -> bool {
        let say =
            |keeper: &Mutex<ServerEnd<Word>>| keeper.lock().unwrap_or_else(PoisonError::into_inner).say(word);
        self.keeper.as_ref().is_some_and(say)
    }
}

/// Tells systemd itself.
pub(super) fn notify_systemd(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

//! What is in force, for `leasefs status` and the log.

use std::path::Path;

use crate::config::plan::Protection;
use crate::sandbox::files::Pinned;

/// How a process is protected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protections {
    entries: Vec<Entry>,
    pinned: Vec<Pinned>,
    losses: Vec<String>,
}

/// One protection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name: that of [`Protection`], `user` or `no-core-dumps`.
    pub name: &'static str,
    /// How it stands.
    pub state: State,
}

/// How a protection stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// In force.
    On,
    /// Left out, since somebody wants it so.
    Off {
        /// Who, and how.
        reason: String,
    },
    /// Wanted, and this system does not have it.
    Missing {
        /// What it lacks, and what to do.
        reason: String,
    },
}

impl Protections {
    /// Each, in the order in which they came into force.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// How one stands; nothing if it was never asked for.
    pub fn state(&self, name: &str) -> Option<&State> {
        self.entries.iter().find(|entry| entry.name == name).map(|entry| &entry.state)
    }

    /// The first file that was replaced, or came, since and can't be read in here, as Landlock knows files by
    /// their inodes: the process has to be started anew to read it. Files in directories of their own are not
    /// among them. Costs a stat(2) for each of a handful of files.
    pub fn replaced(&self) -> Option<&Path> {
        self.pinned.iter().find(|pinned| pinned.is_replaced()).map(Pinned::path)
    }

    /// What the process has lost by it that it would rather have kept, a sentence each.
    pub fn losses(&self) -> impl Iterator<Item = &str> {
        self.losses.iter().map(String::as_str)
    }

    pub(super) fn note_loss(&mut self, loss: String) {
        self.losses.push(loss);
    }

    pub(super) fn note(&mut self, name: &'static str, state: State) {
        self.entries.push(Entry { name, state });
    }

    pub(super) fn note_off(&mut self, protection: Protection) {
        let name = protection.name();
        let reason = format!("{name} = false in [mount.protections]");
        self.note(name, State::Off { reason });
    }

    /// Nothing is pinned where files are not looked at.
    pub(super) fn note_pinned(&mut self, pinned: Vec<Pinned>) {
        if self.state(Protection::LandlockFiles.name()) == Some(&State::On) {
            self.pinned = pinned;
        }
    }
}

//! The words about waiting.

use serde::{Deserialize, Serialize};

/// How files stand for somebody who waits for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitReport {
    /// Each file that was named, or that is required; a directory of fields stands for all of them.
    pub files: Vec<WaitedFile>,
}

impl WaitReport {
    /// Those that can't be read yet.
    pub fn missing(&self) -> impl Iterator<Item = &WaitedFile> {
        self.files.iter().filter(|file| !file.live)
    }
}

/// How one of them stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitedFile {
    /// Its name.
    pub name: String,
    /// Whether an open would be answered from memory.
    pub live: bool,
    /// `idle`, `live`, `renewing`, `stale`, `failed` or `locked`.
    pub state: String,
    /// Why it can't be read.
    pub error: Option<String>,
}

//! Collects complaints and warnings while a configuration is read, so that all come out together.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use crate::config::complaint::{Complaint, Complaints};

/// Where something stands in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The key with all tables before it; empty for the file as a whole.
    pub key: String,
    /// Its line, from 1 on.
    pub line: Option<usize>,
}

impl Place {
    /// The file as a whole.
    pub fn file() -> Place {
        Place { key: String::new(), line: None }
    }

    /// The place of a key below this one that has no line of its own.
    pub fn child(&self, key: &str) -> Place {
        self.child_at(key, self.line)
    }

    /// The place of a key below this one.
    pub fn child_at(&self, key: &str, line: Option<usize>) -> Place {
        let dot = if self.key.is_empty() { "" } else { "." };
        Place { key: format!("{}{dot}{}", self.key, quoted(key)), line }
    }

    /// The place of a key that takes effect in this table: where it was `written` if that is here, else the
    /// table's own line, since the value came from `[defaults]` or from nowhere.
    pub fn of_key(&self, key: &str, written: Option<&Place>) -> Place {
        let own = self.child(key);
        written.filter(|written| written.key == own.key).cloned().unwrap_or(own)
    }

    /// How another complaint points here: `file."a" (line 3)`.
    pub fn pointer(&self) -> String {
        match self.line {
            Some(line) => format!("{} (line {line})", self.key),
            None => self.key.clone(),
        }
    }
}

/// A key as TOML takes it: bare where that is possible, else in quotes, control characters escaped.
pub(super) fn quoted(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !key.is_empty() && key.chars().all(bare) { key.to_owned() } else { format!("{key:?}") }
}

/// The complaints and warnings about one file.
pub(super) struct Report {
    file: PathBuf,
    /// The offset of the first byte of each line, in bytes.
    line_starts: Vec<usize>,
    complaints: RefCell<Vec<Complaint>>,
    warnings: RefCell<Vec<String>>,
}

impl Report {
    /// A report on `text`, which stands in `file`.
    pub fn new(file: &Path, text: &str) -> Report {
        let after_newlines =
            text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Report {
            file: file.to_owned(),
            line_starts: std::iter::once(0).chain(after_newlines).collect(),
            complaints: RefCell::default(),
            warnings: RefCell::default(),
        }
    }

    /// The line of a byte, from 1 on.
    pub fn line_of(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset).max(1)
    }

    /// Adds a complaint; what several files inherit from `[defaults]` is complained about once.
    pub fn complain(&self, place: &Place, message: impl Into<String>) {
        let complaint = self.about(place, message);
        let mut complaints = self.complaints.borrow_mut();
        if !complaints.contains(&complaint) {
            complaints.push(complaint);
        }
    }

    /// Adds a warning.
    pub fn warn(&self, place: &Place, message: impl Into<String>) {
        self.warnings.borrow_mut().push(self.about(place, message).to_string());
    }

    fn about(&self, place: &Place, message: impl Into<String>) -> Complaint {
        let (line, key, message) = (place.line, place.key.clone(), message.into());
        Complaint { file: self.file.clone(), line, key, message }
    }

    /// The warnings, if there is nothing to complain about.
    ///
    /// # Errors
    /// All complaints.
    pub fn finish(self) -> Result<Vec<String>, Complaints> {
        let complaints = self.complaints.into_inner();
        if complaints.is_empty() { Ok(self.warnings.into_inner()) } else { Err(Complaints::new(complaints)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_from_one_and_end_with_their_newline() {
        let report = Report::new(Path::new("x"), "ab\n\nc");
        for (offset, line) in [(0, 1), (2, 1), (3, 2), (4, 3), (5, 3), (500, 3)] {
            assert_eq!(report.line_of(offset), line, "{offset}");
        }
    }

    #[test]
    fn keys_that_need_quotes_get_them() {
        let file = Place { key: "file".to_owned(), line: Some(7) };
        assert_eq!(file.child("db/password").child("mode").key, "file.\"db/password\".mode");
        assert_eq!(file.child("weather").pointer(), "file.weather (line 7)");
        assert_eq!(quoted("a\u{1b}b"), "\"a\\u{1b}b\"");
        assert_eq!(quoted(""), "\"\"");
    }
}

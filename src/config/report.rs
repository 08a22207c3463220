//! Collects complaints and warnings while a configuration is read, so that all come out together.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use crate::config::complaint::{Complaint, Complaints};

/// Where something stands in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The file.
    pub file: Rc<Path>,
    /// The key with all tables before it; empty for the file as a whole.
    pub key: String,
    /// Its line, from 1 on.
    pub line: Option<usize>,
}

impl Place {
    /// The place of a key below this one that has no line of its own.
    pub fn child(&self, key: &str) -> Place {
        self.child_at(key, self.line)
    }

    /// The place of a key below this one.
    pub fn child_at(&self, key: &str, line: Option<usize>) -> Place {
        let dot = if self.key.is_empty() { "" } else { "." };
        Place { file: Rc::clone(&self.file), key: format!("{}{dot}{}", self.key, quoted(key)), line }
    }

    /// The place of a key that takes effect in this table: where it was `written` if that is here, else the
    /// table's own line, since the value came from `[defaults]` or from nowhere.
    pub fn of_key(&self, key: &str, written: Option<&Place>) -> Place {
        let own = self.child(key);
        written.filter(|written| written.key == own.key).cloned().unwrap_or(own)
    }

    /// How a complaint about `from` points here: `file."a" (line 3)`, with the file if that is another one.
    pub fn pointer(&self, from: &Place) -> String {
        let line = self.line.map(|line| format!("line {line}"));
        let file = (self.file != from.file).then(|| self.file.display().to_string());
        let at: Vec<String> = [line, file].into_iter().flatten().collect();
        if at.is_empty() { self.key.clone() } else { format!("{} ({})", self.key, at.join(" of ")) }
    }
}

/// A key as TOML takes it: bare where that is possible, else in quotes, control characters escaped.
pub(super) fn quoted(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !key.is_empty() && key.chars().all(bare) { key.to_owned() } else { format!("{key:?}") }
}

/// The complaints and warnings about one file, and about those that it includes.
pub(super) struct Report {
    file: Rc<Path>,
    /// The offset of the first byte of each line, in bytes.
    line_starts: Vec<usize>,
    gathered: Rc<Gathered>,
}

/// What is said of all files.
#[derive(Default)]
struct Gathered {
    complaints: RefCell<Vec<Complaint>>,
    warnings: RefCell<Vec<String>>,
}

impl Report {
    /// A report on `text`, which stands in `file`.
    pub fn new(file: &Path, text: &str) -> Report {
        let after_newlines =
            text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Report {
            file: Rc::from(file),
            line_starts: std::iter::once(0).chain(after_newlines).collect(),
            gathered: Rc::default(),
        }
    }

    /// A report on another file; what is said of it comes out with the rest.
    pub fn on(&self, file: &Path, text: &str) -> Report {
        Report { gathered: Rc::clone(&self.gathered), ..Report::new(file, text) }
    }

    /// The file as a whole.
    pub fn whole(&self) -> Place {
        Place { file: Rc::clone(&self.file), key: String::new(), line: None }
    }

    /// The line of a byte, from 1 on.
    pub fn line_of(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset).max(1)
    }

    /// Adds a complaint; what several files inherit from `[defaults]` is complained about once.
    pub fn complain(&self, place: &Place, message: impl Into<String>) {
        let complaint = about(place, message);
        let mut complaints = self.gathered.complaints.borrow_mut();
        if !complaints.contains(&complaint) {
            complaints.push(complaint);
        }
    }

    /// Adds a warning.
    pub fn warn(&self, place: &Place, message: impl Into<String>) {
        self.gathered.warnings.borrow_mut().push(about(place, message).to_string());
    }

    /// The warnings, if there is nothing to complain about.
    ///
    /// # Errors
    /// All complaints, those about this file first.
    pub fn finish(self) -> Result<Vec<String>, Complaints> {
        let mut complaints = self.gathered.complaints.take();
        complaints.sort_by_key(|complaint| *complaint.file != *self.file);
        if complaints.is_empty() {
            Ok(self.gathered.warnings.take())
        } else {
            Err(Complaints::new(complaints))
        }
    }
}

fn about(place: &Place, message: impl Into<String>) -> Complaint {
    Complaint {
        file: place.file.to_path_buf(),
        line: place.line,
        key: place.key.clone(),
        message: message.into(),
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
        let report = Report::new(Path::new("x.toml"), "");
        let file = Place { key: "file".to_owned(), line: Some(7), ..report.whole() };
        assert_eq!(file.child("db/password").child("mode").key, "file.\"db/password\".mode");
        assert_eq!(file.child("weather").pointer(&report.whole()), "file.weather (line 7)");
        assert_eq!(quoted("a\u{1b}b"), "\"a\\u{1b}b\"");
        assert_eq!(quoted(""), "\"\"");
    }

    #[test]
    fn what_is_said_of_several_files_comes_out_together_and_names_each() {
        let main = Report::new(Path::new("a.toml"), "x\ny\n");
        let other = main.on(Path::new("conf.d/b.toml"), "z\n");
        let here = Place { key: "file.a".to_owned(), line: Some(2), ..main.whole() };
        let there = Place { key: "file.b".to_owned(), line: Some(1), ..other.whole() };
        other.complain(&there, format!("is at odds with {}", here.pointer(&there)));
        main.complain(&here, "is wrong");
        assert_eq!(
            main.finish().unwrap_err().to_string(),
            "a.toml:2: file.a: is wrong\nconf.d/b.toml:1: file.b: is at odds with file.a (line 2 of a.toml)"
        );
    }
}

//! What is wrong with a configuration, in words an operator can act on.
//!
//! A complaint names the place and what to write instead. It repeats keys, names and paths, never the value
//! of a key that might hold a credential.

use std::fmt;
use std::path::{Path, PathBuf};

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The configuration file.
    pub file: PathBuf,
    /// The line in it, from 1 on; `None` if it is about the whole file or about the environment.
    pub line: Option<usize>,
    /// The key, such as `file."db/password".mode`; empty if no key is to blame.
    pub key: String,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        write!(f, " {}", self.message)
    }
}

/// Everything that is wrong with a configuration, file by file and in the order of its lines; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaints(Vec<Complaint>);

impl Complaints {
    /// Sorts by file, the first one first, and by line; what has no line comes first.
    pub(super) fn new(complaints: Vec<Complaint>) -> Complaints {
        let mut sorted: Vec<(usize, Complaint)> = Vec::with_capacity(complaints.len());
        for complaint in complaints {
            let known = sorted.iter().find(|(_, one)| one.file == complaint.file).map(|(rank, _)| *rank);
            sorted.push((known.unwrap_or(sorted.len()), complaint));
        }
        sorted.sort_by_key(|(rank, complaint)| (*rank, complaint.line));
        Complaints(sorted.into_iter().map(|(_, complaint)| complaint).collect())
    }

    /// A complaint about a whole file, or about one key of it.
    pub fn one(file: &Path, key: &str, message: impl Into<String>) -> Complaints {
        let message = message.into();
        Complaints(vec![Complaint { file: file.to_owned(), line: None, key: key.to_owned(), message }])
    }

    /// The complaints, one by one.
    pub fn iter(&self) -> std::slice::Iter<'_, Complaint> {
        self.0.iter()
    }

    /// The complaints, to be joined with others.
    pub(super) fn into_vec(self) -> Vec<Complaint> {
        self.0
    }
}

/// One complaint per line, without a newline at the end.
impl fmt::Display for Complaints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, complaint) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            complaint.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Complaints {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_print_one_per_line_in_the_order_of_the_file() {
        let complaint = |line, key: &str, message: &str| Complaint {
            file: "a.toml".into(),
            line,
            key: key.to_owned(),
            message: message.to_owned(),
        };
        let complaints = Complaints::new(vec![
            complaint(Some(12), "file.\"b\".mode", "is wrong"),
            complaint(Some(3), "", "is not TOML"),
            complaint(None, "vault", "is odd"),
        ]);
        assert_eq!(
            complaints.to_string(),
            "a.toml: vault: is odd\na.toml:3: is not TOML\na.toml:12: file.\"b\".mode: is wrong"
        );
    }
}

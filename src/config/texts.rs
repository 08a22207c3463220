//! Where the texts of a configuration come from: from the disk, with a look at who could have written them, or from
//! what was kept of an earlier time.
//!
//! Every file that is read for its text is read here, so that all of them are kept. Never a credential: those are
//! read elsewhere, at each login. Invariant: *nothing hangs*: what is included is opened without waiting, and must
//! be a regular file, and so is a template.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use crate::config::environment::Environment;

/// Nobody writes a longer file, in bytes.
const LONGEST_FILE: u64 = 4 << 20;
/// Nobody writes a longer template, in bytes.
const LONGEST_TEMPLATE: u64 = 1 << 20;

/// Texts by the paths that they were asked for by, and what patterns have stood for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Texts {
    files: BTreeMap<PathBuf, String>,
    patterns: BTreeMap<PathBuf, Vec<PathBuf>>,
}

/// Where texts are read.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    /// On the disk.
    Disk,
    /// Among those that were kept.
    Kept(Texts),
}

/// A text, and what is wrong with its file all the same.
pub(super) struct Found {
    pub text: String,
    /// Complaints about who could have written it.
    pub faults: Vec<String>,
}

/// Which files may be read.
pub(super) enum Bounds<'a> {
    /// Whatever the user has named.
    Named,
    /// Regular files in a directory, and not by a symlink that leads out of it; of root, the mounting user or one
    /// of these.
    Inside { directory: &'a Path, owners: &'a [u32] },
    /// Regular files, for templates; of root or the mounting user. If an included file has named it, below the path
    /// that it was granted, and not by a symlink that leads out of that.
    Template { granted: Option<&'a Path> },
}

impl Environment {
    /// The text of a file.
    ///
    /// # Errors
    /// What is wrong and what to do, if there is none.
    pub(super) fn text(&self, path: &Path, bounds: &Bounds<'_>) -> Result<Found, String> {
        let found = match &self.origin {
            Origin::Disk => self.read(path, bounds)?,
            Origin::Kept(texts) => {
                let text = texts.files.get(path).cloned();
                let text = text.ok_or_else(|| "was not read when the mount was made".to_owned())?;
                Found { text, faults: Vec::new() }
            }
        };
        self.note_text(|texts| {
            texts.files.insert(path.to_owned(), found.text.clone());
        });
        Ok(found)
    }

    /// The files that a path with `*` in its last component stands for, sorted; those that begin with a dot only
    /// if it does. A directory that is not there has none.
    ///
    /// # Errors
    /// What is wrong and what to do, if the directory can't be read.
    pub(super) fn matches(&self, pattern: &Path) -> Result<Vec<PathBuf>, String> {
        let matches = match &self.origin {
            Origin::Disk => found_on_disk(pattern)?,
            Origin::Kept(texts) => texts.patterns.get(pattern).cloned().unwrap_or_default(),
        };
        self.note_text(|texts| {
            texts.patterns.insert(pattern.to_owned(), matches.clone());
        });
        Ok(matches)
    }

    fn read(&self, path: &Path, bounds: &Bounds<'_>) -> Result<Found, String> {
        let unreadable = |error: std::io::Error| match error.kind() {
            ErrorKind::NotFound => "does not exist: create it, or name another file".to_owned(),
            ErrorKind::PermissionDenied => {
                format!("may not be read by user {}: change its owner or mode, or be another user", self.uid)
            }
            ErrorKind::IsADirectory => "is a directory: name a file in it".to_owned(),
            _ => format!("can't be read: {error}"),
        };
        let mut options = File::options();
        options.read(true);
        match bounds {
            Bounds::Named => {}
            // Somebody else's, maybe: a pipe in its place must not keep anybody waiting.
            Bounds::Inside { .. } | Bounds::Template { .. } => {
                options.custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits());
            }
        }
        let file = options.open(path).map_err(unreadable)?;
        // Of the open file, so that nobody can put another one in its place in between.
        let metadata = file.metadata().map_err(unreadable)?;
        let mut owners = vec![0, self.uid];
        let regular = || match metadata.is_file() {
            true => Ok(()),
            false => Err("is no regular file: put the text itself there".to_owned()),
        };
        match bounds {
            Bounds::Named => {}
            Bounds::Inside { directory, owners: others } => {
                if metadata.is_dir() {
                    return Err("is a directory: name the files in it, as \"DIRECTORY/*.toml\"".to_owned());
                }
                regular()?;
                stays_inside(&file, directory, directory.canonicalize().ok())?;
                owners.extend(*others);
            }
            Bounds::Template { granted } => {
                regular()?;
                if let Some(granted) = granted {
                    stays_inside(&file, granted, place_of(granted, path))?;
                }
            }
        }
        let mut faults = Vec::new();
        if metadata.mode() & 0o002 != 0 {
            faults.push(format!("can be written by everybody: chmod o-w {}", path.display()));
        }
        if !owners.contains(&metadata.uid()) {
            faults.push(format!(
                "belongs to user {}, who could change it: chown it to root or to user {}",
                metadata.uid(),
                self.uid
            ));
        }
        let mut bytes = Vec::new();
        let (longest, too_long) = match bounds {
            Bounds::Named | Bounds::Inside { .. } => (LONGEST_FILE, "4 MiB, so it is no configuration"),
            Bounds::Template { .. } => (LONGEST_TEMPLATE, "1 MiB, so it is no template"),
        };
        file.take(longest + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > longest {
            return Err(format!("is longer than {too_long}: name another file"));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let good = error.utf8_error().valid_up_to();
            let line = 1 + error.as_bytes()[..good].iter().filter(|byte| **byte == b'\n').count();
            format!("is not UTF-8 in line {line}: save it as UTF-8")
        })?;
        Ok(Found { text, faults })
    }
}

/// Where a file must lie that is read as `path`, if `granted` is what allows it. The last part of that may be a
/// symlink that somebody else has made: it is not followed here.
fn place_of(granted: &Path, path: &Path) -> Option<PathBuf> {
    let Some(above) = granted.parent() else { return Some(granted.to_owned()) };
    let above = above.canonicalize().ok()?;
    Some(if path == granted { above } else { above.join(granted.file_name()?) })
}

/// Complains about a file that lies elsewhere than in `place`, wherever the symlinks on its path have led.
fn stays_inside(file: &File, directory: &Path, place: Option<PathBuf>) -> Result<(), String> {
    let is = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(|error| {
        format!("can't be found in /proc ({error}), where it would be seen where it lies")
    })?;
    if place.is_some_and(|place| is.starts_with(place)) {
        return Ok(());
    }
    Err(format!("is a link out of {}: put the file itself there", directory.display()))
}

fn found_on_disk(pattern: &Path) -> Result<Vec<PathBuf>, String> {
    let (Some(directory), Some(wanted)) =
        (pattern.parent(), pattern.file_name().and_then(|name| name.to_str()))
    else {
        return Ok(Vec::new());
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("{} can't be listed: {error}", directory.display())),
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let meant = |name: &String| fits(wanted, name) && (wanted.starts_with('.') || !name.starts_with('.'));
    let mut found: Vec<PathBuf> = names.filter(meant).map(|name| directory.join(name)).collect();
    found.sort();
    Ok(found)
}

/// Whether a text is what a pattern stands for: `*` is any number of characters.
pub(super) fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_star_is_any_number_of_characters() {
        for (pattern, text, fit) in [
            ("a.toml", "a.toml", true),
            ("a.toml", "a.tom", false),
            ("*.toml", "a.toml", true),
            ("*.toml", ".toml", true),
            ("*.toml", "a.toml~", false),
            ("team-*", "team-a", true),
            ("team-*", "teams", false),
            ("*", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("*a*", "banana", true),
        ] {
            assert_eq!(fits(pattern, text), fit, "{pattern} {text}");
        }
    }

    fn place() -> (tempfile::TempDir, Environment) {
        let directory = tempfile::tempdir().unwrap();
        let owner = fs::metadata(directory.path()).unwrap();
        (directory, Environment::fixed(owner.uid(), owner.gid()))
    }

    #[test]
    fn what_is_found_is_sorted_and_leaves_out_what_editors_leave_behind() {
        let (directory, environment) = place();
        for name in ["b.toml", "a.toml", ".a.toml.swp", ".hidden.toml", "c.toml~"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let found = environment.matches(&directory.path().join("*.toml")).unwrap();
        assert_eq!(found, ["a.toml", "b.toml"].map(|name| directory.path().join(name)));
        assert!(environment.matches(&directory.path().join("none/*.toml")).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_file_of_the_directory_is_not_read_and_keeps_nobody_waiting() {
        let (directory, environment) = place();
        let inside = directory.path().join("conf.d");
        fs::create_dir_all(inside.join("..data")).unwrap();
        fs::write(directory.path().join("other"), "x").unwrap();
        fs::write(inside.join("..data/real"), "x").unwrap();
        symlink("../other", inside.join("out")).unwrap();
        symlink("..data/real", inside.join("in")).unwrap();
        nix::unistd::mkfifo(&inside.join("pipe"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        let bounds = Bounds::Inside { directory: &inside, owners: &[] };
        let read = |name: &str| environment.text(&inside.join(name), &bounds).map(|found| found.text);
        assert_eq!(read("in").as_deref(), Ok("x"));
        for (name, fragment) in [
            ("out", "is a link out of"),
            ("pipe", "is no regular file"),
            ("..data", "is a directory"),
            ("none", "does not exist"),
        ] {
            let error = read(name).unwrap_err();
            assert!(error.contains(fragment), "{name}: {error}");
        }
    }

    #[test]
    fn what_was_noted_is_found_again_when_the_disk_has_changed() {
        let (directory, environment) = place();
        let (path, pattern) = (directory.path().join("a.toml"), directory.path().join("*.toml"));
        fs::write(&path, "one").unwrap();
        environment.matches(&pattern).unwrap();
        environment.text(&path, &Bounds::Named).unwrap();
        let (answers, texts) = environment.notes();
        fs::remove_file(&path).unwrap();
        let later = Environment::noted_before((0, 0), None, answers, texts);
        assert_eq!(later.matches(&pattern).unwrap(), [path.as_path()]);
        assert_eq!(later.text(&path, &Bounds::Named).unwrap().text, "one");
        assert!(later.text(&pattern, &Bounds::Named).is_err());
        assert_eq!(later.notes(), environment.notes(), "it can be kept on");
    }
}

//! From the words of a TOML file to a plan that can't be wrong.
//!
//! `file.rs` knows the words and where they stand, `plan.rs` what they mean; between them each table has a
//! file of its own. Every default and every complaint is in this module. All complaints come out together:
//! nothing here stops at the first one, and what could not be read is not compared with anything.

mod address;
mod complaint;
mod entries;
mod environment;
mod extra;
mod file;
mod identity;
mod keys;
mod names;
pub mod plan;
mod report;
mod sources;
#[cfg(test)]
mod tests;
mod value;
mod vault;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use toml::de::DeTable;

pub use complaint::{Complaint, Complaints};
pub use environment::Environment;
pub use extra::{COMMAND_LINE, ExtraFile, basic_string, load_with};

use crate::config::entries::Entries;
use crate::config::file::Section;
use crate::config::identity::Identities;
use crate::config::keys::Keys;
use crate::config::plan::MountPlan;
use crate::config::report::{Place, Report};
use crate::config::value::ModeOf;
use crate::core::access::{Mode, Rule};

/// Nobody writes a longer configuration, in bytes.
const LONGEST_FILE: u64 = 4 << 20;

/// Reads the configuration in `path`.
///
/// # Errors
/// Everything that is wrong with it; also if it can't be read, or if somebody else could have written it.
pub fn load(path: &Path, environment: &Environment) -> Result<MountPlan, Complaints> {
    load_with(Some(path), &[], environment)
}

/// Reads the configuration in `text`; `path` is only named in complaints.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(text: &str, path: &Path, environment: &Environment) -> Result<MountPlan, Complaints> {
    let report = Report::new(path, text);
    let plan = file::parse(text, &report).map(|document| resolve(&document, &report, environment));
    let warnings = report.finish()?;
    match plan {
        Some(plan) => Ok(MountPlan { warnings, ..plan }),
        None => Err(Complaints::new(vec![about(path, "is not TOML".to_owned())])),
    }
}

/// Gives every word its meaning. What comes out counts only if nothing was complained about.
fn resolve(document: &DeTable<'_>, report: &Report, environment: &Environment) -> MountPlan {
    let root = Section::root(document, report);
    let vault = vault::vault_plan(root.section("vault"), environment);
    let mount = vault::mount_settings(root.section("mount"), environment);
    let (defaults, directory) = defaults(root.section("defaults"), environment);
    let identities = Identities::read(&root, environment);
    let mut entries = Entries::new(report, environment, &defaults, identities);
    for (name, section) in root.sections("file") {
        entries.file(name, section);
    }
    for (name, section) in root.sections("dir") {
        entries.dir(name, section);
    }
    for (name, section) in root.sections("tree") {
        entries.tree(name, section);
    }
    root.finish();
    let entries = entries.finish();
    if entries.files.is_empty() && entries.field_dirs.is_empty() && entries.trees.is_empty() {
        report.warn(
            &Place::file(),
            "declares nothing to show: write a [file.\"NAME\"] with `secret = \"PATH\"`",
        );
    }
    MountPlan {
        vault,
        mount,
        sources: entries.sources.finish(&entries.trees),
        identities: entries.identities.finish(report),
        files: entries.files,
        field_dirs: entries.field_dirs,
        trees: entries.trees,
        directory,
        warnings: Vec::new(),
    }
}

/// Reads `[defaults]`: the shared keys, and who may enter directories.
fn defaults(section: Section<'_>, environment: &Environment) -> (Keys, Rule) {
    let keys = Keys::read(&section, environment);
    keys.check_required(&section.place, section.report);
    let mode = section.read("dir-mode", |found| value::mode("dir-mode", found, ModeOf::Directory));
    section.finish();
    let directory = Rule { mode: mode.unwrap_or(Mode(0o550)), ..keys.rule(environment) };
    (keys, directory)
}

/// The text of the file, and complaints about who could have written it.
fn read_checked(path: &Path, environment: &Environment) -> Result<(String, Vec<Complaint>), Complaints> {
    read(path, environment).map_err(|message| Complaints::new(vec![about(path, message)]))
}

fn read(path: &Path, environment: &Environment) -> Result<(String, Vec<Complaint>), String> {
    let unreadable = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => "does not exist: create it, or name another file".to_owned(),
        ErrorKind::PermissionDenied => {
            format!(
                "may not be read by user {}: change its owner or mode, or be another user",
                environment.uid
            )
        }
        ErrorKind::IsADirectory => "is a directory: name a file in it".to_owned(),
        _ => format!("can't be read: {error}"),
    };
    let file = File::open(path).map_err(unreadable)?;
    // Of the open file, so that nobody can put another one in its place in between.
    let metadata = file.metadata().map_err(unreadable)?;
    let mut complaints = Vec::new();
    if metadata.mode() & 0o002 != 0 {
        let advice = format!("can be written by everybody: chmod o-w {}", path.display());
        complaints.push(about(path, advice));
    }
    if metadata.uid() != 0 && metadata.uid() != environment.uid {
        let advice = format!(
            "belongs to user {}, who could change it: chown it to root or to user {}",
            metadata.uid(),
            environment.uid
        );
        complaints.push(about(path, advice));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LONGEST_FILE {
        return Err("is longer than 4 MiB, so it is no configuration: name another file".to_owned());
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..good].iter().filter(|byte| **byte == b'\n').count();
        format!("is not UTF-8 in line {line}: save it as UTF-8")
    })?;
    Ok((text, complaints))
}

/// A complaint about the file as a whole.
fn about(path: &Path, message: String) -> Complaint {
    Complaint { file: path.to_owned(), line: None, key: String::new(), message }
}

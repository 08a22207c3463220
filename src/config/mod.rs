//! From the words of a TOML file to a plan that can't be wrong.
//!
//! `file.rs` knows the words and where they stand, `plan.rs` what they mean; between them each table has a
//! file of its own. Every default and every complaint is in this module. All complaints come out together:
//! nothing here stops at the first one, and what could not be read is not compared with anything. What was accepted
//! can be kept (`kept.rs`), with all that it was read from.

mod address;
mod complaint;
mod entries;
mod environment;
mod extra;
mod file;
mod grant;
mod identity;
mod include;
mod kept;
mod keys;
mod method;
mod names;
pub mod plan;
mod rendering;
mod report;
mod sources;
#[cfg(test)]
mod tests;
mod texts;
mod value;
mod vault;

use std::path::Path;

pub use complaint::{Complaint, Complaints};
pub use environment::Environment;
pub use extra::{COMMAND_LINE, ExtraFile, basic_string, load_with};
pub use kept::{Kept, load_to_keep};

use crate::config::entries::{Entries, Within};
use crate::config::file::Section;
use crate::config::grant::Grant;
use crate::config::identity::Identities;
use crate::config::include::Reading;
use crate::config::keys::Keys;
use crate::config::plan::MountPlan;
use crate::config::report::Report;
use crate::config::texts::Bounds;
use crate::config::value::ModeOf;
use crate::core::access::{Mode, Rule};

/// Reads the configuration in `path`.
///
/// # Errors
/// Everything that is wrong with it; also if it can't be read, or if somebody else could have written it.
pub fn load(path: &Path, environment: &Environment) -> Result<MountPlan, Complaints> {
    load_with(Some(path), &[], environment)
}

/// Reads the configuration in `text`; `path` is named in complaints, and what it includes lies beside it.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(text: &str, path: &Path, environment: &Environment) -> Result<MountPlan, Complaints> {
    let report = Report::new(path, text);
    let document = file::parse(text, &report);
    let plan = document.as_ref().map(|document| {
        let root = Section::root(document, &report);
        let (grants, guests) = include::read(&root, environment);
        let readings = guests.iter().filter_map(|guest| guest.reading(&report, &grants)).collect();
        resolve(root, &grants, readings, environment)
    });
    drop(document);
    let warnings = report.finish()?;
    match plan {
        Some(plan) => Ok(MountPlan { warnings, ..plan }),
        None => Err(Complaints::one(path, "", "is not TOML")),
    }
}

/// Gives every word its meaning. What comes out counts only if nothing was complained about.
fn resolve(
    root: Section<'_>,
    grants: &[Grant],
    readings: Vec<Reading<'_>>,
    environment: &Environment,
) -> MountPlan {
    let report = root.report;
    let vault = vault::vault_plan(root.section("vault"), environment);
    let mount = vault::mount_settings(root.section("mount"), environment);
    let (defaults, directory) = defaults(root.section("defaults"), environment);
    let mut identities = Identities::read(&root, environment);
    let readings = &readings;
    let guests: Vec<_> = readings
        .iter()
        .filter_map(|reading| {
            let root = Section::root(reading.document.as_ref()?, &reading.report);
            let own = identities.include(&root, environment, reading.grant);
            let keys = guest_defaults(&root, reading.grant, &defaults, environment);
            Some((root, reading, own, keys))
        })
        .collect();
    identities.complete(&root, environment);
    for grant in grants {
        identities.check_granted(grant, report);
    }
    let mut entries = Entries::new(report, environment, &defaults, identities, vault.max_secret_size);
    entries.read(&root);
    for (root, reading, own, keys) in &guests {
        entries.include(&reading.report, keys, Within { grant: reading.grant, own });
        entries.read(root);
    }
    let entries = entries.finish();
    let nowhere = report.whole();
    root.finish();
    if entries.files.is_empty() && entries.field_dirs.is_empty() && entries.trees.is_empty() {
        report.warn(&nowhere, "declares nothing to show: write a [file.\"NAME\"] with `secret = \"PATH\"`");
    }
    let plan = MountPlan {
        vault,
        mount,
        sources: entries.sources.finish(&entries.trees),
        identities: entries.identities.finish(report),
        files: entries.files,
        field_dirs: entries.field_dirs,
        trees: entries.trees,
        directory,
        warnings: Vec::new(),
    };
    for (root, ..) in guests {
        root.finish();
    }
    plan
}

/// Reads `[defaults]` of an included file, and complains about the tables that only the main file has.
fn guest_defaults(root: &Section<'_>, grant: &Grant, of_main: &Keys, environment: &Environment) -> Keys {
    let main = grant.place.file.display();
    for table in ["vault", "mount"] {
        root.refuse(table, &format!("is for all files: only {main} has it, so leave it out"));
    }
    for key in ["include", "grant"] {
        root.refuse(key, &format!("is of no use here: only {main} includes files, so leave it out"));
    }
    let section = root.section("defaults");
    let own = Keys::read(&section, environment);
    let format = own.format.clone().or(&of_main.format);
    let keys = Keys { format, ..own.over(&grant.defaults(of_main)) };
    keys.check_required(&section.place, section.report);
    section.refuse("dir-mode", &format!("is the same for all directories: only {main} has it"));
    section.finish();
    keys
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
    match environment.text(path, &Bounds::Named) {
        Ok(found) => Ok((found.text, found.faults.into_iter().map(|fault| about(path, fault)).collect())),
        Err(message) => Err(Complaints::one(path, "", message)),
    }
}

/// A complaint about the file as a whole.
fn about(path: &Path, message: String) -> Complaint {
    Complaint { file: path.to_owned(), line: None, key: String::new(), message }
}

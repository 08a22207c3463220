//! `include`: files of others, each within what `[grant]` lets it use.
//!
//! The files lie below the main file's directory and are read in the order of their names. Must never let one of
//! them stand for another: each has exactly one grant, and complaints are about its own lines.

use std::path::{Component, Path, PathBuf};

use toml::de::DeTable;

use crate::config::environment::Environment;
use crate::config::file::{self, Section, Word};
use crate::config::grant::Grant;
use crate::config::report::{Place, Report};
use crate::config::texts::{Bounds, fits};

/// All included files together, in bytes.
const LONGEST: usize = 32 << 20;

/// The text of an included file, and what it may use.
pub(super) struct Guest {
    /// Where it is.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
    /// The number of its grant.
    grant: usize,
}

/// A text that has been taken apart.
pub(super) struct Reading<'a> {
    /// What is said of it.
    pub report: Report,
    /// Its words; none if it is no TOML.
    pub document: Option<DeTable<'a>>,
    /// What it may use.
    pub grant: &'a Grant,
}

impl Guest {
    /// Takes it apart.
    pub fn reading<'a>(&'a self, main: &Report, grants: &'a [Grant]) -> Option<Reading<'a>> {
        let report = main.on(&self.path, &self.text);
        let document = file::parse(&self.text, &report);
        Some(Reading { report, document, grant: grants.get(self.grant)? })
    }
}

/// Reads `include` and `[grant]` of the main file, and the files that they are about.
pub(super) fn read(main: &Section<'_>, environment: &Environment) -> (Vec<Grant>, Vec<Guest>) {
    let patterns = main.texts("include");
    let sections = main.sections("grant");
    if !patterns.is_written()
        && let Some((_, section)) = sections.first()
    {
        let advice =
            "grants something to a file that is not included: write `include = [\"FILE\"]` at the top";
        section.complain(advice);
    }
    let grants: Vec<Grant> =
        sections.into_iter().map(|(pattern, section)| Grant::read(pattern, section, environment)).collect();
    let mut inclusion = Inclusion { main, environment, grants: &grants, guests: Vec::new(), long: 0 };
    for pattern in patterns.word().map(|word| word.value.as_slice()).unwrap_or_default() {
        inclusion.take(pattern);
    }
    let guests = inclusion.guests;
    for (index, grant) in grants.iter().enumerate() {
        if patterns.get().is_some() && !guests.iter().any(|guest| guest.grant == index) {
            main.report.warn(&grant.place, "grants something to a file that is not there: leave it out");
        }
    }
    (grants, guests)
}

/// The files found so far.
struct Inclusion<'a> {
    main: &'a Section<'a>,
    environment: &'a Environment,
    grants: &'a [Grant],
    guests: Vec<Guest>,
    long: usize,
}

impl Inclusion<'_> {
    /// Takes in what one pattern stands for.
    fn take(&mut self, Word { value: pattern, place }: &Word<&str>) {
        if let Err(message) = judge(pattern) {
            self.main.report.complain(place, message);
            return;
        }
        let base = place.file.parent().unwrap_or(Path::new(""));
        let full = base.join(pattern);
        let found = if pattern.contains('*') { self.environment.matches(&full) } else { Ok(vec![full]) };
        match found {
            Ok(paths) => {
                for path in paths {
                    self.add(&path, base, place);
                }
            }
            Err(message) => self.main.report.complain(place, message),
        }
    }

    fn add(&mut self, path: &Path, base: &Path, place: &Place) {
        if self.guests.iter().any(|guest| guest.path == path) {
            return;
        }
        let whole = self.main.report.on(path, "").whole();
        let Some(grant) = self.grant(path.strip_prefix(base).unwrap_or(path), &whole) else { return };
        let owners = self.grants.get(grant).map(Grant::owners).unwrap_or_default();
        let directory = path.parent().unwrap_or(base);
        let report = self.main.report;
        match self.environment.text(path, &Bounds::Inside { directory, owners: &owners }) {
            Ok(found) => {
                for fault in found.faults {
                    report.complain(&whole, fault);
                }
                self.long += found.text.len();
                if self.long > LONGEST {
                    report.complain(place, "stands for more than 32 MiB: include fewer files");
                    return;
                }
                self.guests.push(Guest { path: path.to_owned(), text: found.text, grant });
            }
            Err(message) => report.complain(&whole, message),
        }
    }

    /// The one grant of a file: that of its name, else that of a pattern.
    fn grant(&self, name: &Path, whole: &Place) -> Option<usize> {
        let name = name.to_str()?;
        let exact = self.grants.iter().position(|grant| grant.pattern == name);
        let patterns: Vec<usize> =
            (0..self.grants.len()).filter(|index| stands_for(&self.grants[*index].pattern, name)).collect();
        let main = self.main.place.file.display();
        match (exact, patterns.as_slice()) {
            (Some(exact), _) => Some(exact),
            (None, [only]) => Some(*only),
            (None, []) => {
                let advice = format!(
                    "is granted nothing: write [grant.{name:?}] in {main}, with `names` and `identities`, or leave \
                     it out of `include`"
                );
                self.main.report.complain(whole, advice);
                None
            }
            (None, several) => {
                let tables: Vec<String> =
                    several.iter().map(|index| self.grants[*index].place.pointer(&self.main.place)).collect();
                let advice = format!(
                    "is meant by more than one grant of {main}, {}: write one for its name, [grant.{name:?}]",
                    tables.join(" and ")
                );
                self.main.report.complain(whole, advice);
                None
            }
        }
    }
}

/// Complains about what is no pattern of files below the main file's directory.
fn judge(pattern: &str) -> Result<(), String> {
    let path = Path::new(pattern);
    if !path.components().all(|component| matches!(component, Component::Normal(_))) {
        return Err(format!(
            "{pattern:?} leads out of the directory of this file: write a path below it, such as \"conf.d/*.toml\""
        ));
    }
    if path.parent().is_some_and(|above| above.to_string_lossy().contains('*')) {
        return Err(format!("{pattern:?} has a `*` before its last `/`: name the directories"));
    }
    Ok(())
}

/// Whether a grant with a pattern is for this file.
fn stands_for(pattern: &str, name: &str) -> bool {
    let split = |text: &str| match text.rsplit_once('/') {
        Some((directory, name)) => (directory.to_owned(), name.to_owned()),
        None => (String::new(), text.to_owned()),
    };
    let ((directory, pattern), (its, name)) = (split(pattern), split(name));
    directory == its && fits(&pattern, &name)
}

//! Files that were named on a command line, beside those of a configuration or alone.
//!
//! They are read like tables at the end of the configuration, so that there is one meaning of everything;
//! what is wrong with one is said of the argument that it stands in.

use std::fmt::Write;
use std::path::Path;

use crate::config::complaint::{Complaint, Complaints};
use crate::config::environment::Environment;
use crate::config::plan::MountPlan;
use crate::config::{parse, read_checked};

/// What complaints call a configuration that is not there.
pub const COMMAND_LINE: &str = "(command line)";

/// Lines that one file takes.
const LINES: usize = 3;

/// A file that was named on a command line; always required.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraFile {
    /// Its name in the tree.
    pub name: String,
    /// What it shows, as in `secret`.
    pub secret: String,
}

/// As [`crate::config::load`], with more files than the configuration has; without one these alone.
///
/// # Errors
/// As [`crate::config::load`].
pub fn load_with(
    path: Option<&Path>,
    files: &[ExtraFile],
    environment: &Environment,
) -> Result<MountPlan, Complaints> {
    let (path, mut text, mut complaints) = match path {
        Some(path) => {
            let (text, complaints) = read_checked(path, environment)?;
            (path, text, complaints)
        }
        None => (Path::new(COMMAND_LINE), String::new(), Vec::new()),
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let own_lines = text.lines().count();
    for ExtraFile { name, secret } in files {
        // Writing to a String can't fail.
        let _ = write!(
            text,
            "[file.{}]\nsecret = {}\nrequired = true\n",
            basic_string(name),
            basic_string(secret)
        );
    }
    match parse(&text, path, environment) {
        Ok(plan) if complaints.is_empty() => Ok(plan),
        Ok(_) => Err(Complaints::new(complaints)),
        Err(more) => {
            complaints.extend(more.into_vec().into_iter().map(|one| at_argument(one, own_lines, files)));
            Err(Complaints::new(complaints))
        }
    }
}

/// A complaint about a line that nobody has written becomes one about the argument that it stands for.
fn at_argument(complaint: Complaint, own_lines: usize, files: &[ExtraFile]) -> Complaint {
    let file = complaint
        .line
        .and_then(|line| line.checked_sub(own_lines + 1))
        .and_then(|line| files.get(line / LINES));
    match file {
        Some(ExtraFile { name, secret }) => {
            Complaint { file: format!("--file {name}={secret}").into(), line: None, ..complaint }
        }
        None => complaint,
    }
}

/// A basic string of TOML, on one line whatever is in it.
pub fn basic_string(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            _ if char.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(char));
            }
            _ => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn environment() -> Environment {
        Environment::fixed(1000, 1000).with_variables([("VAULT_TOKEN", "hvs.marker")])
    }

    fn files(files: &[(&str, &str)]) -> Vec<ExtraFile> {
        files
            .iter()
            .map(|(name, secret)| ExtraFile { name: (*name).to_owned(), secret: (*secret).to_owned() })
            .collect()
    }

    #[test]
    fn files_alone_make_a_plan_and_are_required() {
        let files = files(&[("db", "database/creds/x"), ("a \"b\"", "secret/x#a\\b")]);
        let plan = load_with(None, &files, &environment()).unwrap();
        let names: Vec<&str> = plan.files.iter().map(|file| file.spec.name.as_str()).collect();
        assert_eq!(names, ["db", "a \"b\""]);
        let required =
            plan.sources.iter().all(|source| source.policy.renew == crate::core::policy::Renew::Required);
        assert!(required);
        assert_eq!(plan.files[1].spec.rule.uid, 1000);
    }

    #[test]
    fn what_is_wrong_is_said_of_its_argument() {
        let wrong = files(&[("db", "x/y"), ("../up", "x/y"), ("c", "#f"), ("db", "x/z"), ("new\nline", "x")]);
        let complaints = load_with(None, &wrong, &environment()).unwrap_err().to_string();
        for told in ["--file ../up=x/y: ", "--file c=#f: ", "--file db=x/z: "] {
            assert!(complaints.contains(told), "{told} in\n{complaints}");
        }
        assert!(!complaints.contains("--file db=x/y"), "{complaints}");
    }

    #[test]
    fn a_file_beside_a_configuration_may_not_clash_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.toml");
        std::fs::write(&path, "[file.db]\nsecret = \"x/y\"\n# no newline").unwrap();
        let owner = std::fs::metadata(&path).unwrap();
        let environment =
            Environment::fixed(owner.uid(), owner.gid()).with_variables([("VAULT_TOKEN", "hvs.marker")]);
        let plan = load_with(Some(&path), &files(&[("other", "x/y")]), &environment).unwrap();
        assert_eq!(plan.files.len(), 2);
        let clash = load_with(Some(&path), &files(&[("db", "x/z")]), &environment).unwrap_err().to_string();
        assert!(clash.starts_with("--file db=x/z: file.db: "), "{clash}");
        let below = load_with(Some(&path), &files(&[("db/x", "x/z")]), &environment).unwrap_err().to_string();
        assert!(below.contains("--file db/x=x/z"), "{below}");
    }
}

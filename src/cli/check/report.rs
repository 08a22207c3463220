//! What a check found: as tables, as JSON, as an exit code.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::cli::check::inspect::Subject;
use crate::cli::check::lifetime;
use crate::cli::exit::Exit;
use crate::cli::output::{clean, counted, span, table};
use crate::cli::policy::quoted;
use crate::config::Complaints;
use crate::config::plan::MountPlan;
use crate::core::error::{Failure, Fault};
use crate::core::name::SourceId;
use crate::vault::engine::ApiCall;

/// How many files of a path the table names.
const FILES: usize = 3;

/// More requests per second than a single mount should take for its leases.
const BUSY: f64 = 1.0;

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckReport {
    /// The configuration.
    pub config: PathBuf,
    /// Whether Vault was asked.
    pub offline: bool,
    /// What is odd about the configuration, though nothing is wrong.
    pub warnings: Vec<String>,
    /// Who logs in.
    pub identities: Vec<IdentityCheck>,
    /// What is read.
    pub paths: Vec<PathCheck>,
}

/// How it went with an identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct IdentityCheck {
    /// Its name.
    pub name: String,
    /// How it logs in.
    pub method: String,
    /// Whether it could.
    pub logged_in: bool,
    /// How long its token lives; `None`: for ever, or there is none.
    pub ttl_seconds: Option<u64>,
    /// Whether that can be extended.
    pub renewable: bool,
    /// `service`, `periodic`, `batch` or `root`.
    pub kind: Option<String>,
    /// How far each renewal extends a periodic one.
    pub period_seconds: Option<u64>,
    /// Its policies.
    pub policies: Vec<String>,
    /// Why it could not log in.
    pub error: Option<String>,
    /// What to know.
    pub warnings: Vec<String>,
    /// Vault could not be reached.
    #[serde(skip)]
    outage: bool,
}

impl IdentityCheck {
    /// Nothing is known yet.
    pub(super) fn new(name: &str, method: &str) -> IdentityCheck {
        IdentityCheck { name: name.to_owned(), method: method.to_owned(), ..IdentityCheck::default() }
    }

    /// Remembers it if Vault could not be reached.
    pub(super) fn note_fault(&mut self, failure: &Failure) {
        self.outage |= is_outage(failure.fault);
    }
}

/// Whether a path can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Readable {
    /// Yes; what might mint was not read, but may be.
    Yes,
    /// No.
    No,
    /// Nobody could say.
    Unknown,
}

/// How it stands with a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PathCheck {
    /// As the configuration names it; a tree's ends in a slash.
    pub path: String,
    /// Who reads it.
    pub identity: String,
    /// Which files show it.
    pub files: Vec<String>,
    /// The type of the engine, such as `kv v2`; `None`: nobody could say.
    pub engine: Option<String>,
    /// The policy lines that it needs.
    pub needs: Vec<String>,
    /// How long a lease lives each time that it is renewed; `None`: there is none, or nobody could say.
    pub lease_seconds: Option<u64>,
    /// How long it lives however often it is renewed.
    pub max_lease_seconds: Option<u64>,
    /// The verdict.
    pub readable: Readable,
    /// What is wrong, and what to do.
    pub problems: Vec<String>,
    /// What to know.
    pub warnings: Vec<String>,
    /// Vault could not be reached.
    #[serde(skip)]
    pub(super) outage: bool,
}

impl PathCheck {
    /// Nothing is known yet.
    pub(super) fn new(path: &str, identity: &str, files: Vec<String>) -> PathCheck {
        PathCheck {
            path: path.to_owned(),
            identity: identity.to_owned(),
            files,
            engine: None,
            needs: Vec::new(),
            lease_seconds: None,
            max_lease_seconds: None,
            readable: Readable::Unknown,
            problems: Vec::new(),
            warnings: Vec::new(),
            outage: false,
        }
    }

    /// It can't be read.
    pub(super) fn unreadable(&mut self, trouble: impl Into<String>) {
        self.readable = Readable::No;
        self.problems.push(trouble.into());
    }

    /// It can be read, and something of what it should show would fail all the same.
    pub(super) fn flaw(&mut self, trouble: impl Into<String>) {
        self.problems.push(trouble.into());
    }
}

/// A configuration that was not even asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RejectedReport {
    /// What is wrong with it.
    pub complaints: Vec<ComplaintReport>,
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ComplaintReport {
    /// The file.
    pub file: PathBuf,
    /// The line in it.
    pub line: Option<usize>,
    /// The key.
    pub key: String,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl RejectedReport {
    /// The complaints for programs.
    pub(super) fn new(complaints: &Complaints) -> RejectedReport {
        let complaints = complaints.iter().cloned().map(|one| ComplaintReport {
            file: one.file,
            line: one.line,
            key: one.key,
            message: one.message,
        });
        RejectedReport { complaints: complaints.collect() }
    }
}

/// What can be said without asking Vault.
pub(super) fn offline(config: PathBuf, plan: &MountPlan) -> CheckReport {
    let name = |index: usize| plan.identities.get(index).map_or("", |identity| identity.name.as_str());
    let paths = Subject::all(plan).map(|subject| subject.blank(plan, name(subject.identity().0 as usize)));
    CheckReport { offline: true, ..CheckReport::new(config, plan, Vec::new(), paths.collect()) }
}

impl CheckReport {
    /// What a check found.
    pub(super) fn new(
        config: PathBuf,
        plan: &MountPlan,
        identities: Vec<IdentityCheck>,
        paths: Vec<PathCheck>,
    ) -> CheckReport {
        let mut warnings = plan.warnings.clone();
        let leases = paths.iter().filter_map(|path| path.lease_seconds).map(Duration::from_secs);
        let load = lifetime::load(leases);
        if load > BUSY {
            warnings.push(format!(
                "to renew these leases takes {load:.1} requests per second while all are in use: longer ones cost \
                 Vault less"
            ));
        }
        CheckReport { config, offline: false, warnings, identities, paths }
    }

    /// How the command ends.
    #[must_use]
    pub fn exit(&self) -> Exit {
        let outage = self.identities.iter().any(|one| one.outage) || self.paths.iter().any(|one| one.outage);
        let fails = self.identities.iter().any(|one| one.error.is_some())
            || self.paths.iter().any(|one| !one.problems.is_empty());
        match (outage, fails) {
            (true, _) => Exit::Unavailable,
            (false, true) => Exit::NotWell,
            (false, false) => Exit::Ok,
        }
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut blocks = vec![self.identity_table(), self.path_table(), self.notes()];
        blocks.retain(|block| !block.is_empty());
        blocks.push(self.summary());
        blocks.join("\n")
    }

    fn identity_table(&self) -> String {
        let row = |one: &IdentityCheck| {
            let token = match (&one.error, one.ttl_seconds) {
                (Some(error), _) => format!("no login: {error}"),
                (None, None) => "lives for ever".to_owned(),
                (None, Some(seconds)) => {
                    let renewable = match (one.renewable, one.period_seconds) {
                        (true, Some(period)) => format!(", renewable by {} without an end", span(period)),
                        (true, None) => ", renewable".to_owned(),
                        (false, _) => String::new(),
                    };
                    format!("lives for {}{renewable}", span(seconds))
                }
            };
            let token = match (&one.error, &one.kind) {
                (None, Some(kind)) => format!("{kind}, {token}"),
                (Some(_), _) | (_, None) => token,
            };
            [one.name.clone(), one.method.clone(), one.policies.join(", "), token]
        };
        table(["IDENTITY", "METHOD", "POLICIES", "TOKEN"], self.identities.iter().map(row).collect())
    }

    fn path_table(&self) -> String {
        if self.offline {
            let row = |one: &PathCheck| [one.path.clone(), one.identity.clone(), some(&one.files)];
            return table(["PATH", "IDENTITY", "FILES"], self.paths.iter().map(row).collect());
        }
        let row = |one: &PathCheck| {
            let engine = one.engine.clone().unwrap_or_else(|| "?".to_owned());
            let readable = match one.readable {
                Readable::Yes => "yes",
                Readable::No => "no",
                Readable::Unknown => "?",
            };
            let files = some(&one.files);
            [
                one.path.clone(),
                engine,
                one.identity.clone(),
                readable.to_owned(),
                files,
                one.problems.join("; "),
            ]
        };
        let header = ["PATH", "ENGINE", "IDENTITY", "READABLE", "FILES", "WHAT IS WRONG AND WHAT TO DO"];
        table(header, self.paths.iter().map(row).collect())
    }

    fn notes(&self) -> String {
        let identities = self.identities.iter().flat_map(|one| {
            let name = &one.name;
            one.warnings.iter().map(move |warning| format!("identity {name}: {warning}"))
        });
        let paths = self.paths.iter().flat_map(|one| {
            let path = &one.path;
            one.warnings.iter().map(move |warning| format!("{path}: {warning}"))
        });
        let all = self.warnings.iter().cloned().chain(identities).chain(paths);
        all.map(|warning| format!("warning: {}\n", clean(&warning))).collect()
    }

    fn summary(&self) -> String {
        let (config, paths) = (display(&self.config), counted(self.paths.len(), "path"));
        let count = |readable| self.paths.iter().filter(|one| one.readable == readable).count();
        if self.offline {
            return format!("{config} is a good configuration with {paths}; Vault was not asked\n");
        }
        let unknown = match count(Readable::Unknown) {
            0 => String::new(),
            unknown => format!("; nobody could say it of {unknown}"),
        };
        let problems = match self.paths.iter().map(|one| one.problems.len()).sum() {
            0 => String::new(),
            problems => format!("; {} found", counted(problems, "problem")),
        };
        format!("{config}: {} of {paths} can be read{unknown}{problems}\n", count(Readable::Yes))
    }
}

/// Vault's policy language for what a call needs.
pub(super) fn policy_line(call: &ApiCall) -> String {
    format!("path {} {{ capabilities = [\"{}\"] }}", quoted(&call.path), call.capability.as_str())
}

/// Whether Vault, and not what was asked of it, is the trouble.
pub(super) fn is_outage(fault: Fault) -> bool {
    match fault {
        Fault::TimedOut | Fault::Unreachable | Fault::Sealed | Fault::NoLeader | Fault::RateLimited => true,
        Fault::NotFound
        | Fault::Denied
        | Fault::TokenLost
        | Fault::LeaseGone
        | Fault::NotRenewable
        | Fault::ServerError
        | Fault::Refused
        | Fault::Unusable
        | Fault::OutOfMemory => false,
    }
}

/// The names under which a source is shown.
pub(in crate::cli) fn names_of_source(plan: &MountPlan, id: SourceId) -> Vec<String> {
    let files = plan.files.iter().filter(|file| file.spec.sources.contains(id));
    let dirs = plan.field_dirs.iter().filter(|dir| dir.source == id);
    files
        .map(|file| file.spec.name.as_str().to_owned())
        .chain(dirs.map(|dir| format!("{}/", dir.name)))
        .collect()
}

/// The first few of these.
pub(super) fn some(names: &[String]) -> String {
    match names.len() {
        0..=FILES => names.join(", "),
        all => format!("{}, and {} more", names[..FILES].join(", "), all - FILES),
    }
}

fn display(path: &Path) -> String {
    clean(&path.display().to_string())
}

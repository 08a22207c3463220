//! `leasefs status --check`: a verdict for monitoring, in the form of the plug-ins of Nagios and Icinga (one
//! line first, then more if there is more; exit codes 0 to 3).
//!
//! A pure function of the status. What an operator has locked is no trouble: it is only counted.

use crate::cli::exit::Exit;
use crate::cli::output::{clean, counted, span};
use crate::control::protocol::{FileReport, IdentityReport, StatusReport};

/// A share of a duration, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u8);

impl Share {
    /// Reads `20%` or `20`.
    ///
    /// # Errors
    /// What to write instead.
    pub fn parse(text: &str) -> Result<Share, String> {
        let digits = text.strip_suffix('%').unwrap_or(text);
        let percent = digits.parse().ok().filter(|percent| *percent <= 100);
        percent.map(Share).ok_or_else(|| "write a share from 0% to 100%".to_owned())
    }

    /// Whether less than this share of a duration is left, both in seconds.
    fn exceeds(self, left: u64, duration: u64) -> bool {
        u128::from(left) * 100 < u128::from(duration) * u128::from(self.0)
    }
}

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// All is well.
    Ok,
    /// It may become a fault.
    Warning,
    /// It is a fault.
    Critical,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Severity::Ok => "OK",
            Severity::Warning => "WARNING",
            Severity::Critical => "CRITICAL",
        }
    }

    fn exit(self) -> Exit {
        match self {
            Severity::Ok => Exit::Ok,
            Severity::Warning => Exit::NotWell,
            Severity::Critical => Exit::Critical,
        }
    }
}

/// What was found, the worst first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    findings: Vec<(Severity, String)>,
    summary: String,
    numbers: String,
}

impl Verdict {
    /// The judgement of a status.
    pub fn of(report: &StatusReport, warn: Share) -> Verdict {
        let mut findings: Vec<(Severity, String)> = Vec::new();
        findings.extend(report.files.iter().filter_map(|file| of_file(file, warn)));
        findings.extend(report.identities.iter().filter_map(|identity| of_identity(identity, warn)));
        findings.extend(of_vault(report));
        findings.extend(report.unrevoked.iter().map(|lease| {
            let (id, left) = (clean(&lease.lease), span(lease.expires.in_seconds));
            (Severity::Warning, format!("lease {id} could not be revoked and lives for {left}"))
        }));
        findings.extend(report.lost_logins.iter().map(|lost| {
            let (who, why) = (clean(&lost.identity), clean(&lost.reason));
            let left = lost.expires.as_ref().map(|end| format!(", at most {}", span(end.in_seconds)));
            (Severity::Warning, format!("identity {who}: {why}{}", left.unwrap_or_default()))
        }));
        // A stable sort: what is equally bad stays in its order.
        findings.sort_by_key(|(severity, _)| std::cmp::Reverse(*severity));
        let count = |state: &str| report.files.iter().filter(|file| file.state == state).count();
        let (live, locked) = (report.files.iter().filter(|file| can_be_read(file)).count(), count("locked"));
        let locked_too = if locked > 0 { format!(", {locked} locked") } else { String::new() };
        let summary = format!("{}, {live} live{locked_too}", counted(report.files.len(), "file"));
        let numbers = format!(
            "files={} live={live} stale={} failed={} locked={locked} unrevoked={}",
            report.files.len(),
            count("stale"),
            count("failed"),
            report.unrevoked.len()
        );
        Verdict { findings, summary, numbers }
    }

    /// How bad it is.
    pub fn severity(&self) -> Severity {
        self.findings.iter().map(|(severity, _)| *severity).max().unwrap_or(Severity::Ok)
    }

    /// The code that it ends with.
    pub fn exit(&self) -> Exit {
        self.severity().exit()
    }

    /// One line, and one more for each finding but the first.
    pub fn text(&self) -> String {
        let word = self.severity().word();
        let first = match self.findings.as_slice() {
            [] => self.summary.clone(),
            [(_, first)] => format!("{first} ({})", self.summary),
            [(_, first), more @ ..] => format!("{first}, and {} more ({})", more.len(), self.summary),
        };
        // A bar begins the numbers.
        let first = first.replace('|', "/");
        let more = self.findings.iter().skip(1);
        let more: String = more.map(|(severity, text)| format!("{}: {text}\n", severity.word())).collect();
        format!("LEASEFS {word}: {first} | {}\n{}", self.numbers, more.replace('|', "/"))
    }
}

/// The line for a mount that can't be asked.
pub fn unknown(why: &str) -> String {
    format!("LEASEFS UNKNOWN: {}\n", clean(why).replace('|', "/"))
}

fn can_be_read(file: &FileReport) -> bool {
    matches!(file.state.as_str(), "live" | "renewing" | "stale")
}

fn of_file(file: &FileReport, warn: Share) -> Option<(Severity, String)> {
    let name = clean(&file.name);
    let why = || file.error.as_deref().map(|error| format!(": {}", clean(error))).unwrap_or_default();
    match file.state.as_str() {
        // A name that somebody guessed below a tree fails without a reason.
        "failed" if file.error.is_some() => {
            Some((Severity::Critical, format!("{name} can't be read{}", why())))
        }
        "idle" if file.required => {
            Some((Severity::Critical, format!("{name} is required and not there{}", why())))
        }
        "stale" => Some((Severity::Warning, format!("{name} is stale{}", why()))),
        _ if can_be_read(file) => {
            let end = file.expires.as_ref()?;
            let extended = file.next.is_some() && file.error.is_none();
            let late = warn.exceeds(end.in_seconds, file.duration_seconds?);
            (late && !extended).then(|| {
                let left = span(end.in_seconds);
                (Severity::Warning, format!("{name} ends in {left} and is not being extended{}", why()))
            })
        }
        _ => None,
    }
}

fn of_identity(identity: &IdentityReport, warn: Share) -> Option<(Severity, String)> {
    let name = clean(&identity.name);
    let why = identity.error.as_deref().map(|error| format!(": {}", clean(error))).unwrap_or_default();
    if !identity.used {
        return None;
    }
    if !identity.logged_in {
        return Some((Severity::Critical, format!("identity {name} has no token{why}")));
    }
    let end = identity.expires.as_ref()?;
    let late = warn.exceeds(end.in_seconds, identity.duration_seconds?);
    let extended = identity.kept && identity.error.is_none();
    (late && !extended).then(|| {
        let left = span(end.in_seconds);
        (
            Severity::Warning,
            format!("the token of identity {name} ends in {left} and is not being extended{why}"),
        )
    })
}

fn of_vault(report: &StatusReport) -> Option<(Severity, String)> {
    let down = span(report.vault.down_for_seconds?);
    let missing = |file: &&FileReport| !can_be_read(file) && file.state != "locked" && !file.vanished;
    Some(match report.files.iter().filter(missing).count() {
        0 => (Severity::Warning, format!("Vault has not answered for {down}; everything is still held")),
        count => {
            let files = counted(count, "file");
            (Severity::Critical, format!("Vault has not answered for {down}, and {files} can't be had"))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::status::tests::{file, identity, report};
    use crate::control::protocol::{Instant, LeaseReport, NextReport};

    const WARN: Share = Share(20);

    fn end(in_seconds: u64) -> Option<Instant> {
        Some(Instant { in_seconds, at: String::new() })
    }

    fn live(left: u64) -> FileReport {
        let next = Some(NextReport { what: "renew".to_owned(), in_seconds: Some(5) });
        FileReport { expires: end(left), duration_seconds: Some(100), next, error: None, ..file("a", "live") }
    }

    #[test]
    fn each_trouble_has_its_severity() {
        let error = || Some("Vault is sealed".to_owned());
        let unkept = |left| FileReport { next: None, ..live(left) };
        for (file, severity) in [
            (live(90), Severity::Ok),
            (live(10), Severity::Ok),
            (unkept(90), Severity::Ok),
            (unkept(19), Severity::Warning),
            (unkept(20), Severity::Ok),
            (FileReport { error: error(), ..live(19) }, Severity::Warning),
            (FileReport { error: error(), ..live(50) }, Severity::Ok),
            (FileReport { kind: Some("kv".to_owned()), duration_seconds: None, ..unkept(1) }, Severity::Ok),
            (FileReport { error: error(), ..file("a", "stale") }, Severity::Warning),
            (FileReport { error: error(), ..file("a", "failed") }, Severity::Critical),
            (FileReport { error: None, ..file("kv/guessed", "failed") }, Severity::Ok),
            (FileReport { required: false, ..file("a", "idle") }, Severity::Ok),
            (FileReport { required: true, ..file("a", "idle") }, Severity::Critical),
            (FileReport { required: true, error: error(), ..file("a", "locked") }, Severity::Ok),
        ] {
            let found = of_file(&file, WARN).map_or(Severity::Ok, |(severity, _)| severity);
            assert_eq!(found, severity, "{file:?}");
        }
    }

    #[test]
    fn an_identity_needs_a_token_that_goes_on() {
        let token = |left| IdentityReport { expires: end(left), duration_seconds: Some(100), ..identity() };
        for (identity, severity) in [
            (identity(), Severity::Ok),
            (token(10), Severity::Ok),
            (IdentityReport { kept: false, ..token(10) }, Severity::Warning),
            (IdentityReport { kept: false, ..token(30) }, Severity::Ok),
            (IdentityReport { error: Some("denied".to_owned()), ..token(10) }, Severity::Warning),
            (IdentityReport { logged_in: false, ..identity() }, Severity::Critical),
            (IdentityReport { logged_in: false, used: false, ..identity() }, Severity::Ok),
            (
                IdentityReport { expires: None, duration_seconds: None, kept: false, ..identity() },
                Severity::Ok,
            ),
        ] {
            let found = of_identity(&identity, WARN).map_or(Severity::Ok, |(severity, _)| severity);
            assert_eq!(found, severity, "{identity:?}");
        }
    }

    #[test]
    fn a_vault_that_is_down_is_as_bad_as_what_it_keeps_from_being_shown() {
        let mut down = report();
        down.unrevoked.clear();
        down.lost_logins.clear();
        down.vault.down_for_seconds = Some(61);
        down.files = vec![live(90)];
        assert_eq!(Verdict::of(&down, WARN).severity(), Severity::Warning);
        down.files.push(FileReport { required: false, error: None, ..file("b", "idle") });
        let verdict = Verdict::of(&down, WARN);
        assert_eq!(
            (verdict.exit(), verdict.text().as_str()),
            (
                Exit::Critical,
                "LEASEFS CRITICAL: Vault has not answered for 1m 1s, and 1 file can't be had (2 files, 1 live) \
                 | files=2 live=1 stale=0 failed=0 locked=0 unrevoked=0\n"
            )
        );
    }

    #[test]
    fn the_first_line_says_the_worst_and_each_other_finding_has_a_line() {
        let mut bad = report();
        bad.vault.down_for_seconds = None;
        bad.unrevoked = vec![LeaseReport {
            lease: "db/creds/a/1".to_owned(),
            path: "db/creds/a".to_owned(),
            expires: Instant { in_seconds: 30, at: String::new() },
            reason: "denied".to_owned(),
        }];
        let failed = FileReport { error: Some("no | such\nsecret".to_owned()), ..file("b", "failed") };
        bad.files = vec![live(90), failed, FileReport { error: None, ..file("c", "locked") }];
        let verdict = Verdict::of(&bad, WARN);
        assert_eq!(verdict.exit() as u8, 2);
        assert_eq!(
            verdict.text(),
            "\
LEASEFS CRITICAL: b can't be read: no / such secret, and 2 more (3 files, 1 live, 1 locked) \
| files=3 live=1 stale=0 failed=1 locked=1 unrevoked=1
WARNING: lease db/creds/a/1 could not be revoked and lives for 30s
WARNING: identity default: the server ended, at most 1h
"
        );
        bad.files.truncate(1);
        bad.unrevoked.clear();
        bad.lost_logins.clear();
        let verdict = Verdict::of(&bad, WARN);
        assert!(verdict.text().starts_with("LEASEFS OK: 1 file, 1 live | "), "{}", verdict.text());
        assert_eq!(verdict.exit() as u8, 0);
    }

    #[test]
    fn a_share_is_a_percentage() {
        for (text, share) in
            [("20%", Some(20)), ("5", Some(5)), ("100%", Some(100)), ("101%", None), ("x", None)]
        {
            assert_eq!(Share::parse(text).ok(), share.map(Share), "{text}");
        }
        assert!(!Share(0).exceeds(0, 100), "0% never warns");
    }
}

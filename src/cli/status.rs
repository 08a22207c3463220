//! `leasefs status`: how a mount stands.
//!
//! | file | responsibility |
//! | --- | --- |
//! | `check.rs` | `--check`: a verdict for monitoring |
//! | `watch.rs` | `--watch`: a live screen |

mod check;
mod watch;

use std::path::PathBuf;

use clap::Args;

use crate::cli::daemon_of;
use crate::cli::exit::{CommandError, Exit};
use crate::cli::lock::shown;
use crate::cli::output::{bytes, clean, print, print_json, span, table};
pub use crate::cli::status::check::Share;
use crate::cli::status::check::Verdict;
use crate::control::protocol::{
    FileReport, IdentityReport, Instant, LeaseReport, LockReport, LostLoginReport, ProtectionReport,
    StatusReport,
};

/// Shows how a mount stands.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  leasefs status                    of the only mount there is
  leasefs status /run/leasefs/agent
  leasefs status agent --json       everything, with whole lease ids and instants as RFC 3339
  leasefs status agent --watch      again every second, until q or Ctrl-C
  leasefs status agent --check --warn 20%

With --check it prints what plug-ins of Nagios and Icinga print, the worst first, and ends with
  0 OK
  1 WARNING   a lease or token with less than --warn of its duration left that is not being extended;
              a stale file; a lease that could not be revoked; Vault down, with everything still held
  2 CRITICAL  a file that can't be read; a required file that is not there; an identity without a token;
              Vault down, and a file that nothing is held of
  3 UNKNOWN   no daemon, or none that answers
What an operator has locked is counted and is no trouble.")]
pub struct StatusArgs {
    /// The mount point, or the NAME of /run/leasefs/NAME; may be left out if there is only one
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Show it again every second; q or Ctrl-C ends it
    #[arg(long, conflicts_with_all = ["json", "check"])]
    pub watch: bool,
    /// Judge it, for monitoring: one line, and 0, 1, 2 or 3 as exit code
    #[arg(long, conflicts_with = "json")]
    pub check: bool,
    /// With --check: warn of what has less than this share of its duration left and is not being extended
    #[arg(long, value_name = "SHARE", default_value = "20%", value_parser = Share::parse, requires = "check")]
    pub warn: Share,
}

/// Asks and prints.
///
/// # Errors
/// [`CommandError`].
pub fn run(args: &StatusArgs) -> Result<Exit, CommandError> {
    if args.watch {
        return watch::run(args.mount_point.as_deref());
    }
    let asked = daemon_of::status(args.mount_point.as_deref());
    if args.check {
        return judge(asked, args.warn);
    }
    let report = asked?;
    if args.json {
        print_json(&report)?
    } else {
        print(&text(report))?
    }
    Ok(Exit::Ok)
}

fn judge(asked: Result<StatusReport, CommandError>, warn: Share) -> Result<Exit, CommandError> {
    match asked {
        Ok(report) => {
            let verdict = Verdict::of(&report, warn);
            print(&verdict.text())?;
            Ok(verdict.exit())
        }
        Err(error) => {
            print(&check::unknown(&error.to_string()))?;
            Ok(Exit::Unknown)
        }
    }
}

fn text(report: StatusReport) -> String {
    let StatusReport { mount_point, config, pid, version, started, user, .. } = &report;
    // An older server does not say.
    let user = if user.is_empty() { String::new() } else { format!(" of user {user}") };
    let heading = format!("{mount_point}: {config}, leasefs {version}, process {pid}{user}, since {started}");
    let health = match report.vault.down_for_seconds {
        None => "answers".to_owned(),
        Some(seconds) => format!("has not answered for {}", span(seconds)),
    };
    let mut lines = vec![
        format!("Vault at {} {health}", report.vault.addresses.join(", ")),
        format!("{} of secrets and lists are kept", bytes(report.memory)),
    ];
    lines.extend(report.losses.iter().map(|loss| format!("lacking here: {loss}")));
    let lines: String = lines.iter().map(|line| clean(line) + "\n").collect();
    let mut blocks = vec![
        clean(&heading) + "\n",
        files(report.files),
        identities(report.identities),
        locks(report.locks),
        protections(report.protections),
        lines,
    ];
    if !report.unrevoked.is_empty() {
        blocks.push("leases that live on in Vault:\n".to_owned() + &leases(report.unrevoked));
    }
    if !report.lost_logins.is_empty() {
        blocks.push("tokens that may live on in Vault:\n".to_owned() + &lost_logins(report.lost_logins));
    }
    blocks.retain(|block| !block.is_empty());
    blocks.join("\n")
}

fn files(files: Vec<FileReport>) -> String {
    let header = ["NAME", "STATE", "SIZE", "VERSION", "EXPIRES", "READERS", "LEASE", "ERROR"];
    let row = |file: FileReport| {
        let state = if file.vanished { "vanished".to_owned() } else { file.state };
        let state = if file.required { state + ", required" } else { state };
        let lease = file.lease.as_deref().map(short).unwrap_or_default();
        let (size, version) = (number(file.size), number(file.version));
        let error = file.error.unwrap_or_default();
        [file.name, state, size, version, ends(file.expires), file.readers.to_string(), lease, error]
    };
    table(header, files.into_iter().map(row).collect())
}

fn identities(identities: Vec<IdentityReport>) -> String {
    let row = |identity: IdentityReport| {
        let token = match (identity.logged_in, identity.expires) {
            (false, _) => "none".to_owned(),
            (true, None) => "without an end".to_owned(),
            (true, Some(end)) => format!("ends in {}", span(end.in_seconds)),
        };
        [identity.name, token, identity.error.unwrap_or_default()]
    };
    table(["IDENTITY", "TOKEN", "ERROR"], identities.into_iter().map(row).collect())
}

fn locks(locks: Vec<LockReport>) -> String {
    let row = |lock: LockReport| [shown(&lock.name), lock.since, lock.uid.to_string(), lock.reason];
    table(["LOCKED", "SINCE", "BY USER", "WHY"], locks.into_iter().map(row).collect())
}

fn protections(protections: Vec<ProtectionReport>) -> String {
    let row = |one: ProtectionReport| [one.name, one.state, one.reason.unwrap_or_default()];
    table(["PROTECTION", "STATE", "WHY"], protections.into_iter().map(row).collect())
}

/// Leases that live on, with their whole ids: an operator has to revoke them.
pub(super) fn leases(leases: Vec<LeaseReport>) -> String {
    let row = |one: LeaseReport| [one.lease, span(one.expires.in_seconds), one.reason];
    table(["LEASE", "ENDS IN", "WHY"], leases.into_iter().map(row).collect())
}

fn lost_logins(logins: Vec<LostLoginReport>) -> String {
    let row = |one: LostLoginReport| [one.identity, ends(one.expires), one.reason];
    table(["IDENTITY", "ENDS IN", "WHY"], logins.into_iter().map(row).collect())
}

fn ends(expires: Option<Instant>) -> String {
    expires.map(|end| span(end.in_seconds)).unwrap_or_default()
}

fn number(number: Option<u64>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

/// The last part of a lease id, as much as tells it from its neighbours.
fn short(lease: &str) -> String {
    let last = lease.rsplit('/').next().unwrap_or(lease);
    let start: String = last.chars().take(8).collect();
    if start.len() == lease.len() { start } else { format!("…{start}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::VaultReport;

    pub(super) fn identity() -> IdentityReport {
        report().identities.remove(0)
    }

    pub(super) fn file(name: &str, state: &str) -> FileReport {
        FileReport {
            name: name.to_owned(),
            state: state.to_owned(),
            expires: None,
            required: false,
            ..report().files.remove(0)
        }
    }

    pub(super) fn report() -> StatusReport {
        let end = |in_seconds| Instant { in_seconds, at: "2026-01-02T03:05:05Z".to_owned() };
        StatusReport {
            mount_point: "/run/leasefs/agent".to_owned(),
            config: "/etc/leasefs/agent.toml".to_owned(),
            pid: 7,
            version: "0.1.0".to_owned(),
            started: "2026-01-02T03:04:05Z".to_owned(),
            vault: VaultReport { addresses: vec!["https://a:8200".to_owned()], down_for_seconds: Some(61) },
            identities: vec![IdentityReport {
                name: "default".to_owned(),
                logged_in: true,
                expires: Some(end(3600)),
                error: None,
                duration_seconds: Some(7200),
                kept: true,
                used: true,
            }],
            files: vec![FileReport {
                name: "db/password".to_owned(),
                state: "live".to_owned(),
                path: "database/creds/a".to_owned(),
                identity: "default".to_owned(),
                size: Some(20),
                version: None,
                issued: None,
                expires: Some(end(60)),
                lease: Some("database/creds/a/0123456789abcdef".to_owned()),
                readers: 2,
                error: Some("it\u{1b}[31m broke".to_owned()),
                vanished: false,
                required: true,
                kind: Some("lease".to_owned()),
                duration_seconds: Some(120),
                next: None,
            }],
            locks: vec![LockReport {
                name: "tls".to_owned(),
                reason: "incident\n12".to_owned(),
                uid: 1000,
                since: "2026-01-02T03:04:30Z".to_owned(),
            }],
            memory: 4096,
            unrevoked: vec![LeaseReport {
                lease: "database/creds/a/old".to_owned(),
                path: "database/creds/a".to_owned(),
                expires: end(30),
                reason: "denied".to_owned(),
            }],
            lost_logins: vec![LostLoginReport {
                identity: "default".to_owned(),
                expires: Some(end(3600)),
                reason: "the server ended".to_owned(),
            }],
            program: String::new(),
            unit: String::new(),
            user: "root".to_owned(),
            losses: vec!["mmap of files (Linux 6.6)".to_owned()],
            protections: vec![
                protection("capabilities", "on", None),
                protection("landlock-tcp", "missing", Some("this kernel does not have it (Linux 6.7)")),
            ],
        }
    }

    fn protection(name: &str, state: &str, reason: Option<&str>) -> ProtectionReport {
        let reason = reason.map(str::to_owned);
        ProtectionReport { name: name.to_owned(), state: state.to_owned(), reason }
    }

    #[test]
    fn the_table_says_what_an_operator_asks_for() {
        assert_eq!(
            text(report()),
            "\
/run/leasefs/agent: /etc/leasefs/agent.toml, leasefs 0.1.0, process 7 of user root, since 2026-01-02T03:04:05Z

NAME         STATE           SIZE  VERSION  EXPIRES  READERS  LEASE      ERROR
db/password  live, required  20             1m       2        …01234567  it [31m broke

IDENTITY  TOKEN       ERROR
default   ends in 1h

LOCKED  SINCE                 BY USER  WHY
tls     2026-01-02T03:04:30Z  1000     incident 12

PROTECTION    STATE    WHY
capabilities  on
landlock-tcp  missing  this kernel does not have it (Linux 6.7)

Vault at https://a:8200 has not answered for 1m 1s
4 KiB of secrets and lists are kept
lacking here: mmap of files (Linux 6.6)

leases that live on in Vault:
LEASE                 ENDS IN  WHY
database/creds/a/old  30s      denied

tokens that may live on in Vault:
IDENTITY  ENDS IN  WHY
default   1h       the server ended
"
        );
    }

    #[test]
    fn a_lease_is_shortened_to_what_tells_it_apart() {
        assert_eq!(short("database/creds/a/0123456789"), "…01234567");
        assert_eq!(short("abc"), "abc");
    }
}

//! `leasefs explain`: everything about one name, on a page.

use std::path::PathBuf;

use clap::Args;

use crate::cli::daemon_of;
use crate::cli::exit::{CommandError, Exit};
use crate::cli::lock::shown;
use crate::cli::output::{clean, counted, print, print_json, span};
use crate::control::AskError;
use crate::control::protocol::{
    Ask, ExplainReport, FileReport, HeldReport, Instant, NextReport, OriginReport, Reply,
};

/// Says everything about one file or directory, and what to do if it can't be read.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  leasefs explain /run/leasefs/agent db/password
  leasefs explain agent kv/billing            a directory of a tree
  leasefs explain agent db/password --json

It fetches nothing and shows no byte of a secret.")]
pub struct ExplainArgs {
    /// The mount point, or the NAME of /run/leasefs/NAME
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: PathBuf,
    /// A file or a directory in it
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Asks and prints.
///
/// # Errors
/// [`CommandError`].
pub fn run(args: &ExplainArgs) -> Result<Exit, CommandError> {
    let ask = Ask::Explain { name: args.name.clone() };
    let (_, Reply::Explained(report)) = daemon_of::ask(Some(&args.mount_point), &ask)? else {
        return Err(AskError::OtherVersion.into());
    };
    if args.json {
        print_json(&report)?
    } else {
        print(&text(&report))?
    }
    Ok(Exit::Ok)
}

fn text(report: &ExplainReport) -> String {
    let mut page = Page { text: format!("{}: {}\n", named(&report.name), standing(report)) };
    if let Some(origin) = &report.origin {
        page.origin(origin, report.kind.as_str());
    }
    page.line("rule", &format!("user {}, group {}, mode {}", report.owner, report.group, report.mode));
    if !report.names.is_empty() {
        page.line("names", &report.names.join(", "));
    }
    if let Some(file) = &report.file {
        page.file(file);
    }
    page.held(&report.held);
    page.line("next", &next(report));
    if !report.shared_with.is_empty() {
        page.line("shared with", &report.shared_with.join(", "));
    }
    if let Some(error) = &report.error {
        page.line(if report.locked_by.is_some() { "locked" } else { "last error" }, error);
    }
    page.line("what to do", &report.advice);
    page.text
}

fn named(name: &str) -> String {
    if name.is_empty() { "the mount".to_owned() } else { clean(name) }
}

/// What it is and how it stands, in a few words.
fn standing(report: &ExplainReport) -> String {
    let mut words = match (&report.file, report.kind.as_str()) {
        (Some(file), _) if file.vanished => "vanished".to_owned(),
        (Some(file), _) => file.state.clone(),
        (None, "tree") => "a directory that is listed in Vault".to_owned(),
        (None, "secret") => "a directory of the fields of a secret".to_owned(),
        (None, "tree-and-secret") => {
            "a directory of the fields of a secret and of a list in Vault".to_owned()
        }
        (None, _) => "a directory of declared names".to_owned(),
    };
    if report.file.as_ref().is_some_and(|file| file.required) {
        words += ", required";
    }
    if let Some(by) = report.locked_by.as_deref().filter(|by| *by != report.name) {
        words += &format!(", locked by a lock of {}", shown(by));
    } else if report.locked_by.is_some() && report.file.is_none() {
        words += ", locked";
    }
    words
}

/// What happens next, by itself or at the next open.
fn next(report: &ExplainReport) -> String {
    if report.locked_by.is_some() {
        return "nothing, until it is unlocked".to_owned();
    }
    let live = report.held.first();
    let Some(NextReport { what, in_seconds }) = &report.next else {
        return match (live, report.file.is_some()) {
            (Some(HeldReport { expires: Some(end), .. }), _) => {
                format!("it ends in {}, unless a program opens it", span(end.in_seconds))
            }
            (Some(HeldReport { expires: None, .. }), _) => "nothing: it has no end".to_owned(),
            (None, true) => "it is fetched when a program opens it".to_owned(),
            (None, false) => "Vault is asked when a program looks at it".to_owned(),
        };
    };
    let when = match in_seconds {
        None | Some(0) => "now".to_owned(),
        Some(seconds) => format!("in {}", span(*seconds)),
    };
    match what.as_str() {
        "fetching" => "Vault is being asked".to_owned(),
        "waits-for-token" => "Vault is asked as soon as its identity has a token".to_owned(),
        "fetch" => format!("asked again {when}"),
        "revalidate" => format!("asked whether it has changed {when}"),
        "renew" => format!("renewed {when}"),
        "renewing" => "its lease is being renewed".to_owned(),
        "replace" => format!("replaced {when}"),
        other => format!("{} {when}", clean(other)),
    }
}

/// Lines of a label and a text.
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, label: &str, text: &str) {
        self.text += &format!("  {label:<12} {}\n", clean(text));
    }

    fn origin(&mut self, origin: &OriginReport, kind: &str) {
        let version = origin.version.map(|version| format!(", version {version}")).unwrap_or_default();
        self.line("source", &format!("{}{version}", origin.path));
        for other in &origin.more {
            self.line("and", &other.path);
        }
        if let Some(shows) = &origin.shows {
            self.line("shows", shows);
        }
        if !origin.params.is_empty() {
            self.line("params", &format!("{} (their values are not shown)", origin.params.join(", ")));
        }
        self.line("identity", &origin.identity);
        let needs = [&origin.needs].into_iter().chain(origin.more.iter().map(|other| &other.needs));
        for needs in needs {
            match needs {
                // The list of a tree needs another one besides.
                Some(needs) if kind != "tree" => {
                    self.line("policy", &format!("{} on {}", needs.capability, needs.path))
                }
                Some(_) => {}
                None => self.line("policy", "not known yet, as Vault was not asked; \"leasefs check\" asks"),
            }
        }
        let idle = origin.idle_timeout_seconds.map_or("two lease durations".to_owned(), span);
        let renew = match origin.renew.as_str() {
            "required" => "required".to_owned(),
            renew => format!("renew {renew}"),
        };
        let (age, grace) = (span(origin.max_age_seconds), span(origin.grace_seconds));
        self.line(
            "settings",
            &format!(
                "{renew}, on-expiry {}, max-age {age}, grace {grace}, idle-timeout {idle}, on-idle {}",
                origin.on_expiry, origin.on_idle
            ),
        );
    }

    fn file(&mut self, file: &FileReport) {
        if let Some(size) = file.size {
            self.line("size", &counted(usize::try_from(size).unwrap_or(usize::MAX), "byte"));
        }
        if let Some(version) = file.version {
            self.line("version", &version.to_string());
        }
        if let Some(lease) = &file.lease {
            self.line("lease", lease);
        }
        if let Some(seconds) = file.duration_seconds {
            self.line("granted for", &span(seconds));
        }
    }

    fn held(&mut self, held: &[HeldReport]) {
        for one in held {
            let label = if one.replaced { "held before" } else { "held" };
            let of = one.path.as_ref().map(|path| format!("{path}, ")).unwrap_or_default();
            let end = one.expires.as_ref().map_or("has no end".to_owned(), ends);
            let handles = counted(one.handles, "handle");
            self.line(label, &format!("{of}issued {}, {end}, {handles} open on it", one.issued));
        }
    }
}

fn ends(end: &Instant) -> String {
    format!("ends in {} ({})", span(end.in_seconds), end.at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::Needs;

    fn report() -> ExplainReport {
        let at = |in_seconds| Some(Instant { in_seconds, at: "2026-01-02T03:05:05Z".to_owned() });
        let issued = "2026-01-02T03:04:05Z".to_owned();
        ExplainReport {
            name: "tls/tls.key".to_owned(),
            kind: "file".to_owned(),
            file: Some(FileReport {
                name: "tls/tls.key".to_owned(),
                state: "live".to_owned(),
                path: "pki/issue/agent".to_owned(),
                identity: "default".to_owned(),
                size: Some(1),
                version: None,
                issued: Some(issued.clone()),
                expires: at(60),
                lease: Some("pki/issue/agent/0123".to_owned()),
                readers: 1,
                error: None,
                vanished: false,
                required: true,
                kind: Some("lease".to_owned()),
                duration_seconds: Some(120),
                next: None,
            }),
            names: Vec::new(),
            origin: Some(OriginReport {
                identity: "default".to_owned(),
                path: "pki/issue/agent".to_owned(),
                params: vec!["common_name".to_owned(), "ttl".to_owned()],
                version: None,
                shows: Some("the field \"private_key\"".to_owned()),
                needs: Some(Needs { capability: "update".to_owned(), path: "pki/issue/agent".to_owned() }),
                renew: "required".to_owned(),
                on_expiry: "refetch".to_owned(),
                max_age_seconds: 60,
                grace_seconds: 60,
                idle_timeout_seconds: None,
                on_idle: "lapse".to_owned(),
                more: Vec::new(),
            }),
            owner: 0,
            group: 7,
            mode: "0440".to_owned(),
            held: vec![
                HeldReport {
                    path: None,
                    replaced: false,
                    issued: issued.clone(),
                    expires: at(60),
                    handles: 1,
                },
                HeldReport { path: None, replaced: true, issued, expires: at(4), handles: 2 },
            ],
            next: Some(NextReport { what: "renew".to_owned(), in_seconds: Some(12) }),
            shared_with: vec!["tls/tls.crt".to_owned()],
            locked_by: None,
            error: Some("Vault\u{1b}[31m is sealed".to_owned()),
            advice: "unseal Vault".to_owned(),
        }
    }

    #[test]
    fn a_page_has_all_that_an_operator_asks_of_a_file() {
        assert_eq!(
            text(&report()),
            "\
tls/tls.key: live, required
  source       pki/issue/agent
  shows        the field \"private_key\"
  params       common_name, ttl (their values are not shown)
  identity     default
  policy       update on pki/issue/agent
  settings     required, on-expiry refetch, max-age 1m, grace 1m, idle-timeout two lease durations, on-idle lapse
  rule         user 0, group 7, mode 0440
  size         1 byte
  lease        pki/issue/agent/0123
  granted for  2m
  held         issued 2026-01-02T03:04:05Z, ends in 1m (2026-01-02T03:05:05Z), 1 handle open on it
  held before  issued 2026-01-02T03:04:05Z, ends in 4s (2026-01-02T03:05:05Z), 2 handles open on it
  next         renewed in 12s
  shared with  tls/tls.crt
  last error   Vault [31m is sealed
  what to do   unseal Vault
"
        );
    }

    #[test]
    fn the_next_step_is_told_for_whatever_there_is() {
        let next_of = |what: Option<(&str, Option<u64>)>, held: bool| {
            let next = what.map(|(what, in_seconds)| NextReport { what: what.to_owned(), in_seconds });
            let held = if held { report().held } else { Vec::new() };
            super::next(&ExplainReport { next, held, ..report() })
        };
        for (what, held, said) in [
            (Some(("renew", Some(12))), true, "renewed in 12s"),
            (Some(("replace", Some(40))), true, "replaced in 40s"),
            (Some(("fetch", Some(3))), false, "asked again in 3s"),
            (Some(("fetch", Some(0))), false, "asked again now"),
            (Some(("fetching", None)), false, "Vault is being asked"),
            (None, true, "it ends in 1m, unless a program opens it"),
            (None, false, "it is fetched when a program opens it"),
        ] {
            assert_eq!(next_of(what, held), said, "{what:?}");
        }
        let locked = ExplainReport { locked_by: Some(String::new()), ..report() };
        assert_eq!(super::next(&locked), "nothing, until it is unlocked");
        assert!(text(&locked).starts_with("tls/tls.key: live, required, locked by a lock of everything\n"));
    }
}

//! `[vault]` and `[mount]`: how to reach Vault, and the settings of the mount itself.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::address::{self, Address};
use crate::config::environment::Environment;
use crate::config::file::{Section, Slot, Word};
use crate::config::keys;
use crate::config::plan::{MountSettings, Protection, VaultPlan};
use crate::config::report::{Place, Report};
use crate::config::value;

/// Where the `vault` command looks if nothing is said.
const DEFAULT_ADDRESS: &str = "https://127.0.0.1:8200";
/// FUSE waits can't be killed, so no reader waits longer.
const LONGEST_READ: Duration = Duration::from_secs(30);
/// The smallest limit for an answer that a secret still fits in, in bytes.
const LEAST_ANSWER: u64 = 1 << 10;
/// The smallest memory that a mount is of use with, in bytes.
const LEAST_MEMORY: u64 = 1 << 20;

const NO_CREDENTIAL: &str = "a credential has no place in the configuration: put it in a file and name that \
                             under [identity.default]";

/// Variables of the `vault` command that are not honoured, and what to do instead.
const IGNORED: [(&str, &str); 2] = [
    ("SKIP_VERIFY", "certificates are always verified; name the CA in ca-cert"),
    ("CAPATH", "a directory of CAs is not read; name one PEM file in ca-cert"),
];

/// Reads `[vault]`.
pub(super) fn vault_plan(section: Section<'_>, environment: &Environment) -> VaultPlan {
    let report = section.report;
    for (stem, advice) in IGNORED {
        if let Some(name) = environment.twin(stem) {
            report.warn(&section.place, format!("${name} is not used: {advice}"));
        }
    }
    let allow_http = section.flag("allow-http");
    let addresses = addresses(&section, environment, allow_http.unwrap_or(false) || allow_http.is_bad());
    let namespace = section.text("namespace").and_then(report, |text| environment.expand(text));
    let namespace = match namespace {
        Slot::Absent => environment.twin_value("NAMESPACE").map(|(_, value)| value),
        Slot::Bad | Slot::Is(_) => namespace.get().cloned(),
    };
    let server_name = section.text("tls-server-name");
    let server_name = match server_name {
        Slot::Absent => environment.twin_value("TLS_SERVER_NAME").map(|(_, value)| value),
        Slot::Bad | Slot::Is(_) => server_name.get().map(|name| (*name).to_owned()),
    };
    let seconds = Duration::from_secs;
    let span = |key: &'static str, least: Duration, most: Duration, default: Duration| {
        section.read(key, |found| value::duration_within(key, found, least, most)).unwrap_or(default)
    };
    let plan = VaultPlan {
        addresses,
        namespace,
        ca_cert: pem_file(&section, "ca-cert", "CACERT", environment).get().cloned(),
        client_certificate: client_certificate(&section, environment),
        tls_server_name: server_name,
        read_timeout: span("read-timeout", Duration::from_millis(100), LONGEST_READ, seconds(5)),
        issue_timeout: span("issue-timeout", seconds(1), seconds(300), seconds(30)),
        max_secret_size: size(&section, "max-secret-size", LEAST_ANSWER, 1 << 20),
        max_list_size: size(&section, "max-list-size", LEAST_ANSWER, 16 << 20),
    };
    for key in ["token", "secret-id"] {
        section.refuse(key, NO_CREDENTIAL);
    }
    section.finish();
    plan
}

/// Reads `[mount]`.
pub(super) fn mount_settings(section: Section<'_>, environment: &Environment) -> MountSettings {
    let seconds = Duration::from_secs;
    let threads = section.read("threads", |found| {
        let threads = value::number(found).and_then(|number| usize::try_from(number).ok());
        threads
            .filter(|threads| (1..=4).contains(threads))
            .ok_or_else(|| "is no number from 1 to 4: write `threads = 2`".to_owned())
    });
    let list_max_age = section.read("list-max-age", |found| {
        value::duration_within("list-max-age", found, Duration::ZERO, seconds(60))
    });
    let revocation_check = section.read("revocation-check", |found| {
        value::duration_within("revocation-check", found, seconds(1), Duration::MAX)
    });
    let allow_other = section.flag("allow-other").unwrap_or(environment.uid == 0);
    // Resolves to nothing: `true` is refused and `false` is how it is.
    let _ = section.flag("watch").and_then(section.report, |watch| {
        if watch { Err("watch = true is not supported yet: leave it out".to_owned()) } else { Ok(()) }
    });
    let server_user = section.read("server-user", |found| {
        keys::account("server-user", found, |name| environment.user(name)).map(|uid| environment.account(uid))
    });
    let settings = MountSettings {
        max_memory: size(&section, "max-memory", LEAST_MEMORY, 256 << 20),
        threads: threads.unwrap_or(2),
        list_max_age: list_max_age.unwrap_or(seconds(5)),
        revocation_check: revocation_check.unwrap_or(seconds(30)),
        allow_other,
        server_user: server_user.word().map(|word| word.value.clone()),
        unprotected: unprotected(section.section("protections")),
    };
    section.finish();
    settings
}

/// Reads `[mount.protections]`: what is switched off.
fn unprotected(section: Section<'_>) -> BTreeSet<Protection> {
    let mut off = BTreeSet::new();
    for protection in Protection::ALL {
        let slot = section.flag(protection.name());
        if let Some(Word { place, .. }) = slot.word().filter(|word| !word.value) {
            off.insert(protection);
            section.report.warn(place, "is switched off: a fault in leasefs could be put to more use");
        }
    }
    let kept: Vec<&str> = Protection::ALL
        .into_iter()
        .filter(|other| other.needs_no_new_privs() && !off.contains(other))
        .map(Protection::name)
        .collect();
    if off.contains(&Protection::NoNewPrivs) && !kept.is_empty() {
        section.report.complain(
            &section.place,
            format!(
                "no-new-privs = false is of no use while {} need it: leave it out, or switch them off, too",
                value::listed(&kept, '`', "and")
            ),
        );
    }
    section.finish();
    off
}

fn size(section: &Section<'_>, key: &'static str, least: u64, default: u64) -> u64 {
    section.read(key, |found| value::size(key, found, least)).unwrap_or(default)
}

fn addresses(section: &Section<'_>, environment: &Environment, allow_http: bool) -> Vec<String> {
    let report = section.report;
    let mut addresses = Vec::new();
    match section.texts("address") {
        Slot::Bad => {}
        Slot::Absent => {
            let place = section.place.child("address");
            if let Some((name, value)) = environment.twin_value("ADDR") {
                match address::parse(&value) {
                    Ok(address) => addresses.extend(admitted(address, &place, allow_http, report)),
                    Err(message) => report.complain(&place, format!("${name} {message}")),
                }
            } else {
                report.warn(
                    &place,
                    format!("neither it nor $VAULT_ADDR is set, so {DEFAULT_ADDRESS} will be asked"),
                );
                addresses.push(DEFAULT_ADDRESS.to_owned());
            }
        }
        Slot::Is(Word { value: texts, place }) => {
            if texts.is_empty() {
                report.complain(&place, "is an empty list: write `address = \"https://HOST:8200\"`");
            }
            let mut seen = BTreeSet::new();
            for Word { value: text, place } in texts {
                match environment.expand(text).and_then(|text| address::parse(&text)) {
                    Ok(address) if !seen.insert(address.text.clone()) => {
                        report.complain(&place, format!("names {} twice: leave one out", address.text));
                    }
                    Ok(address) => addresses.extend(admitted(address, &place, allow_http, report)),
                    Err(message) => report.complain(&place, message),
                }
            }
        }
    }
    addresses
}

fn admitted(address: Address, place: &Place, allow_http: bool, report: &Report) -> Option<String> {
    if address.in_the_clear && !allow_http {
        report.complain(
            place,
            format!(
                "{} would send tokens and secrets in the clear: write https://, or allow-http = true \
                 in [vault] if every wire to it can be trusted",
                address.text
            ),
        );
        return None;
    }
    if address.in_the_clear {
        report.warn(
            place,
            format!("{} sends tokens and secrets in the clear: whoever sees the wire has them", address.text),
        );
    }
    Some(address.text)
}

fn pem_file(
    section: &Section<'_>,
    key: &'static str,
    stem: &str,
    environment: &Environment,
) -> Slot<PathBuf> {
    let written = section.text(key).and_then(section.report, |text| environment.file_path(text));
    match (written, environment.twin_path(stem)) {
        (Slot::Absent, Some(value)) => Slot::Is(Word { value, place: section.place.child(key) }),
        (written, _) => written,
    }
}

fn client_certificate(section: &Section<'_>, environment: &Environment) -> Option<(PathBuf, PathBuf)> {
    let certificate = pem_file(section, "client-cert", "CLIENT_CERT", environment);
    let key = pem_file(section, "client-key", "CLIENT_KEY", environment);
    match (certificate, key) {
        (Slot::Is(certificate), Slot::Is(key)) => Some((certificate.value, key.value)),
        (Slot::Is(lonely), Slot::Absent) => {
            section.report.complain(&lonely.place, "is of no use alone: write client-key, too");
            None
        }
        (Slot::Absent, Slot::Is(lonely)) => {
            section.report.complain(&lonely.place, "is of no use alone: write client-cert, too");
            None
        }
        (Slot::Absent | Slot::Bad, Slot::Absent | Slot::Bad) | (Slot::Bad, _) | (_, Slot::Bad) => None,
    }
}

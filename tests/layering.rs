//! Who may import whom (the table in the architecture), where secrets may be exposed, where `unsafe` may
//! stand: read off the source text.
#![allow(clippy::unwrap_used, reason = "a test that can't read the sources has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What each part of the crate may use of the others, beside itself.
const MAY_USE: [(&str, &[&str]); 17] = [
    ("main", &["cli"]),
    (
        "cli",
        &[
            "config", "control", "core", "daemon", "fuse", "keeper", "link", "render", "run", "secret",
            "sys", "vault",
        ],
    ),
    ("config", &["core"]),
    ("control", &["config", "core", "driver", "sys"]),
    ("core", &[]),
    (
        "daemon",
        &[
            "config", "control", "core", "driver", "fuse", "keeper", "link", "run", "sandbox", "sealed",
            "secret", "sys", "vault",
        ],
    ),
    ("driver", &["config", "core", "render", "sealed", "secret", "sys", "vault"]),
    ("fuse", &["core", "driver", "sealed", "sys"]),
    ("keeper", &["fuse", "link", "sys"]),
    ("link", &[]),
    ("render", &["config", "secret"]),
    ("run", &["core", "link", "sys"]),
    ("sandbox", &["config", "sys"]),
    ("sealed", &["sys"]),
    ("secret", &["sys"]),
    ("sys", &["core"]),
    ("vault", &["config", "core", "secret", "sys"]),
];

/// Foreign crates that only some parts may know.
const FENCED: [(&str, &[&str]); 14] = [
    ("fuser", &["fuse"]),
    ("vaultrs", &["vault"]),
    ("reqwest", &["vault"]),
    ("rustls", &["vault"]),
    ("tokio", &["cli", "control", "daemon", "driver", "sys", "vault"]),
    ("nix", &["config", "fuse", "sys"]),
    // The numbers of system calls; that nothing is called there is seen to by `unsafe`, which it has none of.
    ("libc", &["sandbox", "sys"]),
    ("caps", &["sandbox"]),
    ("landlock", &["sandbox"]),
    ("seccompiler", &["sandbox"]),
    ("clap", &["cli", "main"]),
    ("clap_complete", &["cli"]),
    ("clap_mangen", &["cli"]),
    ("tracing", &["cli", "control", "daemon", "driver", "fuse", "keeper", "sandbox", "vault"]),
];

/// What the core must not even name: it is told the time and does nothing by itself.
const NOT_IN_THE_CORE: [&str; 9] = [
    "std::fs",
    "std::net",
    "std::env",
    "std::thread",
    "std::sync::Mutex",
    "std::process",
    "Instant::now",
    "SystemTime::now",
    "async ",
];

/// Each file that looks at secret bytes, and at how many places.
const EXPOSURES: [(&str, usize); 6] = [
    ("cli/check/lifetime.rs", 1), // a role's definition, which is no secret, for its durations
    ("driver/seal.rs", 2),        // bodies and tokens go into the sealed state
    ("fuse/adapter.rs", 2),       // the READ reply, and the last byte that brings a size to the kernel
    ("render/mod.rs", 4), // a file of one field, of all fields, a directory of fields, and their kinds
    ("vault/auth/approle.rs", 1), // the login request
    ("vault/http.rs", 1), // the token header
];

struct File {
    path: PathBuf,
    part: String,
    /// Without its tests, which stand last, and without comments.
    code: String,
}

#[test]
fn each_part_uses_only_what_the_architecture_allows() {
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.into_iter().collect();
    let mut wrong = Vec::new();
    for file in sources() {
        let Some(allowed) = allowed.get(file.part.as_str()) else { continue };
        for used in crate_parts(&file.code) {
            if used != file.part && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{} uses {used}", file.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn each_part_is_in_the_table() {
    let known: BTreeSet<&str> = MAY_USE.iter().map(|(part, _)| *part).collect();
    let parts: BTreeSet<String> =
        sources().into_iter().map(|file| file.part).filter(|part| part != "lib").collect();
    assert_eq!(parts.iter().map(String::as_str).collect::<BTreeSet<_>>(), known);
}

#[test]
fn foreign_crates_stay_behind_their_fences() {
    let mut wrong = Vec::new();
    for file in sources() {
        for (foreign, parts) in FENCED {
            if mentions(&file.code, foreign) && !parts.contains(&file.part.as_str()) {
                wrong.push(format!("{} uses {foreign}", file.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_core_does_nothing_by_itself() {
    let mut wrong = Vec::new();
    for file in sources().into_iter().filter(|file| file.part == "core") {
        for word in NOT_IN_THE_CORE {
            if file.code.contains(word) {
                wrong.push(format!("{} names {word}", file.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn unsafe_stands_in_sys_alone() {
    let wrong: Vec<PathBuf> = sources()
        .into_iter()
        .filter(|file| {
            file.part != "sys" && (file.code.contains("unsafe {") || file.code.contains("unsafe fn"))
        })
        .map(|file| file.path)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn secrets_are_exposed_at_known_places_alone() {
    let counted: BTreeMap<String, usize> = sources()
        .into_iter()
        .map(|file| (file.path.display().to_string(), file.code.matches(".expose()").count()))
        .filter(|(_, count)| *count > 0)
        .collect();
    let known: BTreeMap<String, usize> =
        EXPOSURES.into_iter().map(|(path, count)| (path.to_owned(), count)).collect();
    assert_eq!(counted, known, "a new place that looks at secret bytes wants a reason, and its line here");
}

fn sources() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix(&root).unwrap();
                if below.components().any(|part| part.as_os_str() == "tests") || below.ends_with("tests.rs") {
                    continue;
                }
                let first = below.components().next().unwrap().as_os_str().to_str().unwrap();
                files.push(File {
                    part: first.trim_end_matches(".rs").to_owned(),
                    code: code_of(&fs::read_to_string(&path).unwrap()),
                    path: below.to_owned(),
                });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(files.len() > 20, "the sources were not found");
    files
}

fn code_of(text: &str) -> String {
    let production = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = production.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// The parts of this crate that a text names: after `crate::`, or after `leasefs::` in the binary.
fn crate_parts(code: &str) -> BTreeSet<String> {
    let mut parts = BTreeSet::new();
    for prefix in ["crate::", "leasefs::"] {
        for (at, _) in code.match_indices(prefix) {
            let rest = &code[at + prefix.len()..];
            if let Some(group) = rest.strip_prefix('{') {
                let group = group.split('}').next().unwrap_or_default();
                parts.extend(
                    group.split(',').map(|name| first_word(name.trim())).filter(|name| !name.is_empty()),
                );
            } else {
                parts.extend(Some(first_word(rest)).filter(|name| !name.is_empty()));
            }
        }
    }
    parts
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn mentions(code: &str, foreign: &str) -> bool {
    code.match_indices(foreign).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let is_word_start = before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':');
        is_word_start && code[at + foreign.len()..].starts_with("::")
    })
}

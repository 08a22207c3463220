//! Files that can't be trusted or read, and texts that are anything but a configuration.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;
use crate::config::load;

#[test]
fn a_file_that_others_could_have_written_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.toml");
    std::fs::write(&path, "[mount]\nthreads = 9\n").unwrap();
    let owner = Environment::from_process().uid;
    let said = |uid: u32, mode: u32| {
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        load(&path, &environment_of(uid)).unwrap_err().to_string()
    };
    let shown = path.display();
    let threads = format!("{shown}:2: mount.threads: is no number from 1 to 4: write `threads = 2`");
    assert_eq!(said(owner, 0o600), threads);
    assert_eq!(
        said(owner, 0o606),
        format!("{shown}: can be written by everybody: chmod o-w {shown}\n{threads}")
    );
    if owner != 0 {
        assert!(said(owner + 1, 0o600).contains("who could change it: chown it to root"));
    }
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o602)).unwrap();
    assert!(load(&path, &environment_of(owner)).is_err(), "even if nothing else is wrong");
}

#[test]
fn a_file_that_cant_be_read_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let said =
        |path: &Path| load(path, &environment_of(Environment::from_process().uid)).unwrap_err().to_string();
    assert!(said(&directory.path().join("none.toml")).contains("none.toml: does not exist: create it"));
    assert!(said(directory.path()).contains("is a directory: name a file in it"));
    let path = directory.path().join("latin1.toml");
    std::fs::write(&path, b"# a\n# \xe9\n").unwrap();
    assert!(said(&path).contains("is not UTF-8 in line 2"));
}

/// A configuration with every kind of table, to be damaged.
const WHOLE: &str = include_str!("../../../mount-config/approle.toml");
const WORDS: [&str; 14] =
    ["\"", "'", "[", "]", "=", "\n", "{", "}", "${", "#", "..", "[file.x]\n", "\u{1b}", "0400"];

/// The end of the last whole character before `at`.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC*") {
        let _ = read(&text).map_err(|complaints| complaints.to_string());
    }

    #[test]
    fn no_damage_to_a_configuration_makes_the_parser_panic(
        cuts in proptest::collection::vec((0usize..WHOLE.len(), 0usize..40, 0usize..WORDS.len()), 1..6),
    ) {
        let mut text = WHOLE.to_owned();
        for (at, length, word) in cuts {
            let at = boundary(&text, at);
            let end = boundary(&text, at + length);
            text.replace_range(at..end, WORDS[word]);
        }
        let lines = text.lines().count() + 1;
        if let Err(complaints) = read(&text) {
            for complaint in complaints.iter() {
                prop_assert!(complaint.line.unwrap_or(1) <= lines, "{complaint}");
                prop_assert!(!complaint.message.is_empty());
                prop_assert!(!complaint.to_string().contains('\u{1b}'), "{complaint:?}");
            }
        }
    }

    #[test]
    fn tables_and_keys_in_any_order_never_make_the_parser_panic(
        picks in proptest::collection::vec(0usize..200, 0..30),
    ) {
        let lines: Vec<&str> = WHOLE.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
        let text: Vec<&str> = picks.into_iter().map(|pick| lines[pick % lines.len()]).collect();
        let _ = read(&text.join("\n")).map_err(|complaints| complaints.to_string());
    }
}

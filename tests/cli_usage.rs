//! The command line itself: help, exit codes, messages.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may panic and read the clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::process::Output;

use support::mount::leasefs;

const COMMANDS: [&str; 13] = [
    "mount", "run", "status", "explain", "revoke", "refresh", "lock", "unlock", "wait", "unmount", "check",
    "policy", "init",
];

fn run(arguments: &[&str]) -> Output {
    leasefs().args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_help_of_every_command_has_an_example() {
    let all = text(&run(&["--help"]).stdout);
    for command in COMMANDS {
        assert!(all.contains(&format!("  {command}")), "{all}");
        let output = run(&[command, "--help"]);
        assert_eq!(output.status.code(), Some(0));
        let help = text(&output.stdout);
        assert!(help.contains("Example"), "{help}");
        assert!(help.contains(&format!("leasefs {command} ")), "{help}");
    }
}

#[test]
fn arguments_that_make_no_sense_end_with_64_and_nothing_on_standard_output() {
    for arguments in [
        &[][..],
        &["mounts"],
        &["mount"],
        &["mount", "./agent.toml"],
        &["mount", "./agent.toml", "/mnt", "-o", "uid=0"],
        &["run"],
        &["init"],
        &["policy"],
        &["run", "--file", "a=b/c"],
        &["run", "--", "true"],
        &["run", "--file", "a", "--", "true"],
        &["revoke"],
        &["lock", "/mnt"],
        &["lock", "/mnt", "--reason", " "],
        &["status", "--xml"],
        &["wait", "/mnt", "--timeout", "soon"],
        &["explain", "/mnt"],
        &["status", "--check", "--warn", "120%"],
        &["status", "--warn", "10%"],
        &["status", "--watch", "--json"],
        &["--log-level", "leasefs=loud", "status"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {}", text(&output.stderr));
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn a_mount_that_nobody_serves_is_unavailable_and_the_message_names_it() {
    for command in ["status", "revoke", "refresh", "unlock", "unmount"] {
        let output = run(&[command, "/nowhere/at all"]);
        assert_eq!(output.status.code(), Some(69), "{command}: {}", text(&output.stderr));
        let message = text(&output.stderr);
        assert!(message.starts_with("leasefs: no leasefs serves /nowhere/at all: "), "{message}");
    }
}

#[test]
fn a_configuration_that_is_not_there_ends_a_mount_with_78() {
    let directory = tempfile::tempdir().unwrap();
    let mount_point = directory.path().to_str().unwrap();
    let output = run(&["mount", "/nowhere/agent.toml", mount_point]);
    assert_eq!(output.status.code(), Some(78), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("/nowhere/agent.toml"));
}

#[test]
fn a_mount_complains_as_a_check_does_with_a_line_for_each_mistake() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("agent.toml");
    let mistakes = "[file.a]\nsecrets = 'x'\nmode = '9'\n[file.'../b']\nsecret = 'x'\n";
    std::fs::write(&config, mistakes).unwrap();
    let config = config.to_str().unwrap();
    let mounted = run(&["mount", config, directory.path().to_str().unwrap()]);
    assert_eq!(mounted.status.code(), Some(78));
    let message = text(&mounted.stderr);
    assert_eq!(message, text(&run(&["check", config]).stderr));
    let (first, complaints) = message.split_once('\n').unwrap();
    assert_eq!(first, "leasefs: the configuration can't be used:");
    let places: Vec<Vec<String>> =
        complaints.lines().map(|line| line.split(": ").take(2).map(str::to_owned).collect()).collect();
    let place = |line: u8, key: &str| vec![format!("{config}:{line}"), key.to_owned()];
    assert_eq!(
        places,
        [place(1, "file.a"), place(2, "file.a.secrets"), place(3, "file.a.mode"), place(4, "file.\"../b\""),]
    );
}

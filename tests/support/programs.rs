//! Running real programs on a mount.

use std::path::Path;
use std::process::Command;

/// Runs a command that must succeed; what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}:\n{errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a line of shell that must succeed, inside a directory; what it printed.
pub fn run_in(directory: &Path, line: &str) -> String {
    run(Command::new("sh").args(["-euc", line]).current_dir(directory))
}

/// The value of an extended attribute `user.leasefs.NAME`, if it has one.
pub fn attribute(path: &Path, name: &str) -> Option<String> {
    let mut command = Command::new("getfattr");
    command.args(["--absolute-names", "--only-values", "-n", &format!("user.leasefs.{name}")]).arg(path);
    let output = command.output().expect("this test needs getfattr: run `make deps`");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// All extended attributes of leasefs, by name without `user.leasefs.`.
pub fn attributes(path: &Path) -> Vec<(String, String)> {
    let listed =
        run(Command::new("getfattr").args(["--absolute-names", "-m", "^user\\.leasefs\\."]).arg(path));
    let names = listed.lines().filter_map(|line| line.strip_prefix("user.leasefs."));
    let mut found: Vec<(String, String)> =
        names.filter_map(|name| Some((name.to_owned(), attribute(path, name)?))).collect();
    found.sort();
    found
}

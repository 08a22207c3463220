//! The commands and the program of docs/guides.md, run as they stand there against a real OpenBao.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may panic and read the clock"
)]

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use support::bao::{Bao, binary};
use support::guide::Guide;
use support::mount::Mount;
use tempfile::TempDir;

const PAGE: &str = "docs/guides.md";

/// An operator's directory, with both programs in the path.
struct Shell<'a> {
    bao: &'a Bao,
    directory: TempDir,
}

impl Shell<'_> {
    /// Runs a block as a script; what it printed.
    fn run(&self, block: &str) -> String {
        let programs = [binary(), env!("CARGO_BIN_EXE_leasefs").into()];
        let places = programs.iter().map(|program| program.parent().unwrap().to_owned());
        let path = env::join_paths(places.chain(["/usr/bin".into(), "/bin".into()])).unwrap();
        let mut shell = Command::new("/bin/bash");
        shell.args(["-euo", "pipefail", "-c", block]).current_dir(self.directory.path());
        shell.env_clear().env("PATH", path).env("HOME", self.directory.path());
        for prefix in ["BAO", "VAULT"] {
            shell.env(format!("{prefix}_ADDR"), self.bao.address());
            shell.env(format!("{prefix}_TOKEN"), self.bao.root_token());
        }
        let output = shell.output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{block}\n{out}{err}");
        out.into_owned()
    }
}

#[tokio::test]
async fn each_command_of_the_guides_works_as_it_stands_there() {
    let guide = Guide::new(&[(PAGE, include_str!("../docs/guides.md"))]);
    let bao = Bao::start().await;
    bao.call("POST", "sys/auth/approle", Some(json!({"type": "approle"}))).await;
    bao.write_kv2("secret", "agents/weather", json!({"key": "sunny"})).await;
    let shell = Shell { bao: &bao, directory: tempfile::tempdir().unwrap() };

    let said = shell.run(guide.take(PAGE, "From a prefix to a mount", "sh", 0));
    assert!(said.contains("1 of 1 path can be read"), "{said}");

    // The example's host is another one.
    let credential = guide.take(PAGE, "The first credential", "sh", 0).replace("10.0.0.5", "127.0.0.1");
    let printed = shell.run(&credential);
    // The program ends its lines on a terminal alone. Both ids have 36 letters.
    let ids = printed.replace('\n', "");
    let (role_id, secret_id) = ids[ids.len() - 72..].split_at(36);
    let file = bao.secret_file("guide.secret-id", secret_id);
    let files = fs::read_to_string(shell.directory.path().join("agent.toml")).unwrap();
    let identity = format!(
        "[identity.default]\nmethod = \"approle\"\nrole-id = \"{role_id}\"\nsecret-id-file = \"{}\"\n",
        file.display()
    );
    let mount = Mount::start(&(files + &identity), &[]);
    assert_eq!(mount.read("weather/key").unwrap(), "sunny");

    keep_the_path(guide.take(PAGE, "Keep the path, not the value", "python", 0), &mount.path("weather/key"));
    assert!(guide.untaken().is_empty(), "no test runs:\n{}", guide.untaken().join("\n"));
}

/// What the program saves holds no secret, and what was saved finds the secret again.
fn keep_the_path(program: &str, file: &Path) {
    let program = program.replace("/run/leasefs/agent/db/password", file.to_str().unwrap());
    let asked = "\nassert b'sunny' not in saved and password == 'sunny'\n\
                 assert pickle.loads(saved).password() == 'sunny'\n";
    let mut python = Command::new("python3");
    let output = python.arg("-c").arg(program + asked).output().expect("this test needs python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

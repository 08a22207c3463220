//! What ten thousand declared files cost: start-up, `ls -l`, memory.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::figures::{Figures, Row};
use crate::support::bao::Bao;
use crate::support::mount::Mount;

const FILES: usize = 10_000;

/// Start-up, listing and memory, with one file and with many.
pub async fn many_files(bao: &Bao) -> Vec<Row> {
    let mut rows = Vec::new();
    for (count, label) in [(1, "1 file"), (FILES, "10,000 files")] {
        let mut config = format!("[vault]\naddress = \"{}\"\n", bao.address());
        for index in 0..count {
            config += &format!(
                "[file.\"{index}\"]\nsecret = \"database/creds/role-{index}#password\"\nengine = \"other\"\n"
            );
        }
        let began = Instant::now();
        let mount = Mount::start(&config, &[("VAULT_TOKEN", bao.root_token()), ("LEASEFS_LOG", "info")]);
        let start = began.elapsed();
        let row = |what: &str, unit, value| Row {
            what: what.to_owned(),
            side: label.to_owned(),
            unit,
            figures: Figures::single(value),
            leasefs_by_this: None,
        };
        rows.push(row("from start to mounted", "ms", start.as_secs_f64() * 1e3));
        rows.push(row("resident memory, idle", "KiB", resident_kib(mount.pid())));
        for what in ["ls -l, first", "ls -l, again"] {
            let began = Instant::now();
            let status =
                Command::new("ls").arg("-l").arg(mount.root()).stdout(Stdio::null()).status().expect("ls");
            assert!(status.success());
            rows.push(row(what, "ms", began.elapsed().as_secs_f64() * 1e3));
        }
        rows.push(row("resident memory after ls -l", "KiB", resident_kib(mount.pid())));
    }
    rows
}

fn resident_kib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

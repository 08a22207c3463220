//! How many requests a use of a resident file costs: counted as the daemon takes them off /dev/fuse.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

use crate::figures::{Figures, Row};
use crate::places::Places;

const USES: usize = 200;

/// Requests that nobody waits for (include/uapi/linux/fuse.h).
const NOT_AWAITED: [u32; 3] = [2, 18, 42]; // FORGET, RELEASE, BATCH_FORGET

/// Awaited requests for each open, read to the end and close.
pub fn awaited(places: &Places) -> Row {
    let path = places.leasefs().path("64-B");
    fs::read(&path).expect("the file can be read");
    let pid = places.leasefs().pid().to_string();
    // A pipe would fill, and the traced daemon would wait for a reader that waits for it.
    let trace = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut tracer = Command::new("strace")
        .args(["-f", "-q", "-e", "trace=read", "-e", "signal=none", "-xx", "-s", "8", "-p", &pid, "-o"])
        .arg(trace.path())
        .stderr(Stdio::null())
        .spawn()
        .expect("strace can be started: apt-get install strace");
    wait_until_traced(&pid);
    for _ in 0..USES {
        fs::read(&path).expect("the file can be read");
    }
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(tracer.id()).expect("a pid")),
        nix::sys::signal::Signal::SIGINT,
    )
    .expect("strace can be ended");
    tracer.wait().expect("strace ends");
    let mut taken: BTreeMap<u32, usize> = BTreeMap::new();
    for opcode in fs::read_to_string(trace.path()).expect("what strace wrote").lines().filter_map(opcode) {
        *taken.entry(opcode).or_default() += 1;
    }
    let awaited: usize =
        taken.iter().filter(|(opcode, _)| !NOT_AWAITED.contains(opcode)).map(|(_, count)| count).sum();
    Row {
        what: "awaited FUSE requests for open, read to the end, close".to_owned(),
        side: "leasefs".to_owned(),
        unit: "requests",
        figures: Figures::single(awaited as f64 / USES as f64),
        leasefs_by_this: None,
    }
}

/// The opcode in a line such as `read(9, "\x50\x00\x00\x00\x0f\x00\x00\x00"..., 16781312) = 80`: bytes 4 to
/// 8 of a request's header.
fn opcode(line: &str) -> Option<u32> {
    let (_, rest) = line.split_once("read(").or_else(|| line.split_once("resumed>"))?;
    let (_, rest) = rest.split_once('"')?;
    let bytes: Vec<u8> = rest
        .split('"')
        .next()?
        .split("\\x")
        .skip(1)
        .filter_map(|hex| u8::from_str_radix(hex, 16).ok())
        .collect();
    let size = line.rsplit_once("= ").and_then(|(_, size)| size.trim().parse::<u32>().ok())?;
    let length = u32::from_le_bytes(bytes.get(0..4)?.try_into().ok()?);
    let opcode = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?);
    // A request says its own length; other reads (of pipes and timers) don't.
    (length == size && length >= 40).then_some(opcode)
}

fn wait_until_traced(pid: &str) {
    let traced = |status: String| {
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        tracer.is_some_and(|tracer| tracer.trim() != "0")
    };
    let tasks = format!("/proc/{pid}/task");
    loop {
        let all = fs::read_dir(&tasks).expect("the daemon lives").all(|task| {
            let path = task.expect("a task").path().join("status");
            fs::read_to_string(path).is_ok_and(traced)
        });
        if all {
            return;
        }
    }
}

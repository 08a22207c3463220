//! What a process takes of the machine, and whether that grows.

use std::fs;
use std::time::Duration;

use super::memory::status;

/// What a process takes at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vitals {
    /// Which one.
    pub pid: u32,
    /// Resident memory in KiB.
    pub resident: u64,
    /// Locked memory in KiB; address space, where all of it is locked.
    pub locked: u64,
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: u64,
}

impl Vitals {
    /// Of a process that lives.
    pub fn of(pid: u32) -> Vitals {
        let number = |name| {
            let text = status(pid, name);
            text.split(' ').next().and_then(|number| number.parse().ok()).expect("a number")
        };
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("this test needs root").count();
        Vitals {
            pid,
            resident: number("VmRSS"),
            locked: number("VmLck"),
            descriptors,
            threads: number("Threads"),
        }
    }
}

/// How much a number grows in a minute: the slope of the line that lies best between the samples. Nothing
/// for samples that say nothing.
pub fn growth_in_a_minute(samples: &[(Duration, u64)]) -> Option<f64> {
    let count = samples.len() as f64;
    let points = || samples.iter().map(|(at, value)| (at.as_secs_f64() / 60.0, *value as f64));
    let middle = |sum: f64| sum / count;
    let at = middle(points().map(|(at, _)| at).sum());
    let value = middle(points().map(|(_, value)| value).sum());
    let across: f64 = points().map(|(x, y)| (x - at) * (y - value)).sum();
    let along: f64 = points().map(|(x, _)| (x - at) * (x - at)).sum();
    (samples.len() > 2 && along > 0.0).then(|| across / along)
}

//! Looking into another process: what lies in its memory. Needs root.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

/// A place where a text was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where.
    pub address: u64,
    /// What is mapped there.
    pub mapping: String,
    /// What stands before it, to tell whose copy it is.
    pub before: String,
    /// What stands behind it.
    pub after: String,
}

/// All places in the memory of a process that hold `text`, which must be ASCII.
pub fn find(pid: u32, text: &str) -> Vec<Found> {
    assert!(!text.is_empty() && text.is_ascii());
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))
        .unwrap_or_else(|error| panic!("this test needs root, to read the memory of {pid}: {error}"));
    let memory = File::open(format!("/proc/{pid}/mem")).expect("root may read any memory");
    let mut found = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some(rights)) = (words.next(), words.next()) else { continue };
        let name = words.nth(3).unwrap_or("anonymous");
        // Code and constants of files have never held anything of this run.
        let only_of_a_file = name.starts_with('/') && !rights.contains('w');
        if !rights.starts_with('r') || only_of_a_file || name.starts_with("[v") {
            continue;
        }
        let (start, end) = range.split_once('-').expect("a range");
        let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).expect("an address"));
        found.extend(find_in(&memory, start, end, text).into_iter().map(|(address, before, after)| Found {
            address,
            mapping: name.to_owned(),
            before,
            after,
        }));
    }
    found
}

/// The places in one mapping, each with what stands before and behind it.
fn find_in(memory: &File, start: u64, end: u64, text: &str) -> Vec<(u64, String, String)> {
    const CHUNK: u64 = 1 << 20;
    const CONTEXT: usize = 60;
    let mut found = Vec::new();
    let mut at = start;
    while at < end {
        // Chunks overlap, so that nothing is cut in two; what begins in the overlap belongs to the next.
        let length = (end - at).min(CHUNK + text.len() as u64 - 1);
        let mut bytes = vec![0; usize::try_from(length).expect("a small number")];
        if read_all(memory, at, &mut bytes).is_err() {
            // Unmapped meanwhile, or a guard.
            at += CHUNK;
            continue;
        }
        let mut before = 0;
        // An ASCII text lies within one piece of valid UTF-8, whatever surrounds it.
        for piece in bytes.utf8_chunks() {
            for (offset, _) in piece.valid().match_indices(text) {
                let offset = before + offset;
                if (offset as u64) < CHUNK || at + CHUNK >= end {
                    let behind = offset + text.len();
                    let (head, tail) = (&bytes[..offset], &bytes[behind..]);
                    let head = &head[head.len().saturating_sub(CONTEXT)..];
                    let tail = &tail[..tail.len().min(CONTEXT)];
                    let [head, tail] = [head, tail].map(|bytes| bytes.escape_ascii().to_string());
                    found.push((at + offset as u64, head, tail));
                }
            }
            before += piece.valid().len() + piece.invalid().len();
        }
        at += CHUNK;
    }
    found
}

fn read_all(memory: &File, at: u64, bytes: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match memory.read_at(&mut bytes[done..], at + done as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => done += count,
        }
    }
    Ok(())
}

/// A line of `/proc/PID/status`, without its name.
pub fn status(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in:\n{status}")).trim().to_owned()
}

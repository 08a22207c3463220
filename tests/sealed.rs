//! The sealed state between real processes: what a successor finds after `kill -9`, and who may have the memory.
//!
//! Each test starts this program again, for the one test that is named below, with the memory as its standard input
//! and its part to play in an environment variable.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write, stdin, stdout};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use leasefs::sealed::{End, Sealed, SealedError};
use leasefs::sys::secret_memory::{self, MemoryError};
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Uid, setuid};

const PART: &str = "LEASEFS_TEST_SEALED_PART";
const KILLS: usize = 80;
const MARKER: &[u8; 16] = b"a-sealed-secret!";

#[test]
fn killed_at_any_moment_the_state_is_a_whole_commit_and_never_too_old() {
    // Small, so that the entries often move from one half to the other.
    let memory = secret_memory::create(32 * 1024).unwrap();
    let mut rng = Rng::new();
    let (mut oldest, mut commits, mut ahead) = (0, 0, 0);
    for kill in 0..KILLS {
        let mut child = play("writer", &memory);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).split(b'\n');
        if kill % 8 != 0 {
            // Else it may well be killed before its first commit.
            wait_for_acknowledgement(&mut lines);
        }
        // The pipe is read to its end meanwhile, or the writer would wait.
        let reader = thread::spawn(move || lines.filter_map(|line| acknowledged(&line.unwrap())).max());
        thread::sleep(Duration::from_micros(rng.u64(..10_000)));
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9), "the writer ended by itself");
        oldest = reader.join().unwrap().unwrap_or(oldest).max(oldest);
        if rng.u8(..4) == 0 {
            // The next writer is the one to find it.
            continue;
        }
        let sealed = Sealed::open(memory.try_clone().unwrap()).unwrap();
        let found = check(&sealed);
        assert!(found >= oldest, "commit {found} was found, {oldest} was acknowledged");
        let requests = sealed.requests();
        assert!(requests.highest() <= 2 * (found + 1));
        ahead += usize::from(found > oldest);
        commits = found;
        let live = sealed.entries().filter(|(_, value)| value.starts_with(MARKER)).count();
        drop((sealed, requests));
        assert_eq!(markers(&memory), live, "a dead secret was left");
    }
    assert!(commits > 1_000, "{commits} commits are no test");
    assert!(ahead > 0, "no kill came between a commit and its acknowledgement");
}

#[test]
fn while_a_process_has_the_memory_no_other_one_gets_it() {
    let memory = secret_memory::create(32 * 1024).unwrap();
    let mut child = play("writer", &memory);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).split(b'\n');
    wait_for_acknowledgement(&mut lines);
    let refused = Sealed::open(memory.try_clone().unwrap()).err();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(refused, Some(SealedError::Memory(MemoryError::InUse)));
    check(&Sealed::open(memory).unwrap());
}

#[test]
fn who_may_not_lock_that_much_is_told_so() {
    let memory = secret_memory::create(1 << 20).unwrap();
    let child = play("limited", &memory).wait_with_output().unwrap();
    let said = String::from_utf8(child.stdout).unwrap();
    let expected = MemoryError::LockLimit { size: 1 << 20, limit: 65536 }.to_string();
    assert!(said.contains(&expected), "{said}");
}

/// What the child processes do; by itself it does nothing.
#[test]
fn child() {
    let Ok(part) = std::env::var(PART) else { return };
    let memory = stdin().as_fd().try_clone_to_owned().unwrap();
    match part.as_str() {
        "writer" => write_for_ever(memory),
        "limited" => {
            setrlimit(Resource::RLIMIT_MEMLOCK, 65536, 65536).unwrap();
            if Uid::effective().is_root() {
                // Without the capability that lifts the limit.
                setuid(Uid::from_raw(65534)).unwrap();
            }
            let error = Sealed::open(memory).err().unwrap();
            writeln!(stdout(), "{error}").unwrap();
        }
        other => panic!("{other} is no part"),
    }
}

fn play(part: &str, memory: &OwnedFd) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture", "--test-threads=1"])
        .env(PART, part)
        .stdin(memory.try_clone().unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

fn write_for_ever(memory: OwnedFd) {
    let mut sealed = Sealed::open(memory).unwrap();
    let mut commit = check(&sealed);
    let requests = sealed.requests();
    requests.take_stock(End::Fault);
    let mut out = stdout().lock();
    out.write_all(b"\n").unwrap();
    loop {
        commit += 1;
        let in_hand = requests.begin(2 * commit);
        write(&mut sealed, commit);
        sealed.commit().unwrap();
        drop(in_hand);
        // Not after each one: it takes longer than the commit, which would then seldom be what is killed.
        if commit.is_multiple_of(16) {
            out.write_all(format!("commit {commit}\n").as_bytes()).unwrap();
            out.flush().unwrap();
        }
    }
}

fn acknowledged(line: &[u8]) -> Option<u64> {
    str::from_utf8(line).ok()?.strip_prefix("commit ")?.parse().ok()
}

fn wait_for_acknowledgement(lines: &mut impl Iterator<Item = std::io::Result<Vec<u8>>>) {
    let line = lines.find_map(|line| acknowledged(&line.unwrap()));
    assert!(line.is_some(), "the writer ended");
}

/// The changes of a commit: some keys at each one, and ten keys in turn, each of which is there for five commits.
fn write(sealed: &mut Sealed, commit: u64) {
    for nth in 0..4 {
        sealed.put(format!("agree {nth}").as_bytes(), &value(commit));
    }
    sealed.put(format!("wave {}", commit % 10).as_bytes(), &value(commit));
    sealed.remove(format!("wave {}", (commit + 5) % 10).as_bytes());
}

fn value(commit: u64) -> Vec<u8> {
    let mut value = MARKER.to_vec();
    value.extend(commit.to_le_bytes());
    value.resize(value.len() + usize::try_from(commit * 37 % 300).unwrap(), commit.to_le_bytes()[0]);
    value
}

/// All entries after a commit.
fn state(commit: u64) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut state = BTreeMap::new();
    if commit > 0 {
        state.extend((0..4).map(|nth| (format!("agree {nth}").into_bytes(), value(commit))));
    }
    let waves = commit.saturating_sub(4).max(1)..=commit;
    state.extend(waves.map(|put| (format!("wave {}", put % 10).into_bytes(), value(put))));
    state
}

/// The commit whose state this is, whole and unmixed.
fn check(sealed: &Sealed) -> u64 {
    let found: BTreeMap<Vec<u8>, Vec<u8>> =
        sealed.entries().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
    let commit = found
        .get(&b"agree 0"[..])
        .map_or(0, |value| u64::from_le_bytes(value[MARKER.len()..][..8].try_into().unwrap()));
    assert!(found == state(commit), "the state is not the one of commit {commit}");
    commit
}

/// How many marked values are in the memory, wherever.
fn markers(memory: &OwnedFd) -> usize {
    let (_, area) = secret_memory::map(memory.try_clone().unwrap(), 0).unwrap();
    area.bytes(0..area.len()).windows(MARKER.len()).filter(|window| window == MARKER).count()
}

//! What a process does once, at its start, to keep secrets out of swap and core dumps. Each test changes
//! its whole process for good, so none of this can live among the unit tests.
#![expect(clippy::unwrap_used, reason = "a test may panic; the lint spares only functions with #[test]")]

use std::fs;

use leasefs::secret::SecretBytes;
use leasefs::sys::{self, MemoryLock};

#[test]
fn all_pages_are_locked_where_that_is_allowed_and_else_those_with_secrets() {
    let before = SecretBytes::new(vec![1; 100]);
    match sys::lock_memory() {
        MemoryLock::AllPages => {
            assert!(sys::locking().all_pages);
            assert!(locked_kilobytes() > 1000, "everything, not a page or two");
            let pages = sys::locking().pages;
            let during = SecretBytes::new(vec![2; 100_000]);
            assert_eq!(sys::locking().pages, pages, "nothing is left to lock singly");
            drop(during);
            drop(before);
            assert!(locked_kilobytes() > 1000, "dropping a secret unlocks nothing");
        }
        MemoryLock::SecretPagesOnly { reason } => {
            assert!(reason.contains("LimitMEMLOCK"), "{reason}");
            assert!(!sys::locking().all_pages);
            assert!(sys::locking().pages > 0);
            drop(before);
        }
    }
}

#[test]
fn core_dumps_are_forbidden_for_this_process_and_can_be_allowed_to_its_children() {
    let hard = core_limits().1;
    sys::forbid_core_dumps().unwrap();
    assert!(!nix::sys::prctl::get_dumpable().unwrap());
    assert_eq!(core_limits(), ("0".to_owned(), hard));
}

/// Soft and hard limit, as texts.
fn core_limits() -> (String, String) {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    let mut words = line.split_whitespace().map(str::to_owned);
    (words.next().unwrap(), words.next().unwrap())
}

fn locked_kilobytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
    line.trim_end_matches(" kB").trim().parse().unwrap()
}

//! Memory: pages that are kept out of swap, and core dumps.
//!
//! Invariants: *counted pages*: a page is unlocked when the last secret on it is gone, never before;
//! *no unlocking under `mlockall`*: once all pages are locked, no page is unlocked singly.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

use super::privilege;

/// Forbids core dumps, and reading this process's memory by others of its user (prctl(2)
/// `PR_SET_DUMPABLE`). The soft RLIMIT_CORE goes to 0 too; the hard one stays, so that a program started
/// later can be given its own back.
///
/// From then on the files in `/proc/self` belong to root: write the maps of a user namespace before.
///
/// # Errors
/// What prctl(2) or setrlimit(2) says.
pub fn forbid_core_dumps() -> io::Result<()> {
    nix::sys::prctl::set_dumpable(false)?;
    let (_, hard) = getrlimit(Resource::RLIMIT_CORE)?;
    Ok(setrlimit(Resource::RLIMIT_CORE, 0, hard)?)
}

/// What is kept out of swap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemoryLock {
    /// All memory of the process, now and later.
    AllPages,
    /// The pages that hold secrets, as far as RLIMIT_MEMLOCK allows; copies that libraries make while
    /// they work are not covered.
    SecretPagesOnly {
        /// One sentence: why, and what to change.
        reason: String,
    },
}

/// How many bytes a process without capabilities may lock here (`RLIMIT_MEMLOCK`); `None`: as many as it likes.
pub fn memory_lock_limit() -> Option<usize> {
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((RLIM_INFINITY, _)) => None,
        Ok((soft, _)) => Some(usize::try_from(soft).unwrap_or(usize::MAX)),
        Err(_) => Some(0),
    }
}

/// Locks all memory of the process if that can't make a later allocation fail, that is with
/// CAP_IPC_LOCK or an infinite RLIMIT_MEMLOCK (mlockall(2) counts the whole address space against the
/// limit). Otherwise pages with secrets are locked one by one, by [`lock_range`].
///
/// Pages become resident when they are touched, not before (`MCL_ONFAULT`).
pub fn lock_memory() -> MemoryLock {
    let only = |reason: String| MemoryLock::SecretPagesOnly { reason };
    if !may_lock_without_limit() {
        return only(
            "only pages with secrets are locked, since RLIMIT_MEMLOCK is finite and there is no CAP_IPC_LOCK: \
             set LimitMEMLOCK=infinity for the service"
                .to_owned(),
        );
    }
    // Held across the call, so that no secret is locked or unlocked singly while the rule changes.
    let mut pages = locked_pages();
    let flags = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    // SAFETY: takes no pointer; it changes how pages are backed, not what they hold.
    if unsafe { libc::mlockall(flags) } == 0 {
        pages.all = true;
        return MemoryLock::AllPages;
    }
    only(format!("only pages with secrets are locked, since mlockall failed: {}", io::Error::last_os_error()))
}

/// Sees to it that memory can go on being locked without CAP_IPC_LOCK; call it while there still is one. With
/// all pages locked, each new mapping counts against RLIMIT_MEMLOCK from then on, and would fail past it: the
/// limit is lifted, or if that may not be, only pages with secrets stay locked.
pub fn keep_memory_locked() -> MemoryLock {
    let reason = |why: io::Error| MemoryLock::SecretPagesOnly {
        reason: format!(
            "only pages with secrets are locked, since RLIMIT_MEMLOCK can't be lifted for a process without \
             capabilities ({why}): set LimitMEMLOCK=infinity for the service"
        ),
    };
    let mut pages = locked_pages();
    if !pages.all {
        return MemoryLock::SecretPagesOnly { reason: "only pages with secrets are locked".to_owned() };
    }
    let infinite = getrlimit(Resource::RLIMIT_MEMLOCK).is_ok_and(|(soft, _)| soft == RLIM_INFINITY);
    let lifted = if infinite { Ok(()) } else { privilege::lift_memory_limit() };
    let Err(error) = lifted else { return MemoryLock::AllPages };
    // SAFETY: takes no pointer; it changes how pages are backed, not what they hold.
    unsafe { libc::munlockall() };
    pages.all = false;
    reason(error)
}

/// How well secrets are kept out of swap at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locking {
    /// Whether all pages are locked, so that the two numbers don't matter.
    pub all_pages: bool,
    /// Pages that are locked since a secret lies on them.
    pub pages: usize,
    /// How often the system refused to lock a page; not 0 means that secrets may have been swapped out:
    /// warn once.
    pub refused: u64,
}

/// How well secrets are kept out of swap at this moment; for the log and `status`.
pub fn locking() -> Locking {
    let pages = locked_pages();
    Locking { all_pages: pages.all, pages: pages.counts.len(), refused: pages.refused }
}

/// Keeps the pages of a range locked; give it back with [`unlock_range`].
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub struct LockedRange {
    first: usize,
    pages: usize,
}

/// Locks the pages that `bytes` lie on, and counts each, since allocations share pages. Does nothing
/// while all pages are locked. A page that the system refuses to lock is counted in [`locking`].
pub fn lock_range(bytes: &[u8]) -> LockedRange {
    let mut locked = LockedRange { first: bytes.as_ptr().addr() / *PAGE_SIZE, pages: 0 };
    let mut pages = locked_pages();
    if bytes.is_empty() || pages.all {
        return locked;
    }
    let last = (bytes.as_ptr().addr() + bytes.len() - 1) / *PAGE_SIZE;
    for page in locked.first..=last {
        if !pages.take(page) {
            break;
        }
        locked.pages += 1;
    }
    locked
}

/// Undoes one [`lock_range`]: a page without any other secret is unlocked. Call it after the bytes were
/// overwritten.
pub fn unlock_range(range: LockedRange) {
    let mut pages = locked_pages();
    for page in range.first..range.first + range.pages {
        pages.give_back(page);
    }
}

struct LockedPages {
    all: bool,
    /// Page number → secrets on it.
    counts: BTreeMap<usize, u32>,
    refused: u64,
}

static LOCKED_PAGES: Mutex<LockedPages> =
    Mutex::new(LockedPages { all: false, counts: BTreeMap::new(), refused: 0 });

pub(super) static PAGE_SIZE: LazyLock<usize> = LazyLock::new(|| {
    // SAFETY: takes no pointer.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).ok().filter(|size| size.is_power_of_two()).unwrap_or(4096)
});

fn locked_pages() -> MutexGuard<'static, LockedPages> {
    // A panic can't leave the counts half changed in a way that matters: at worst a page stays locked.
    LOCKED_PAGES.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LockedPages {
    /// Counts one more secret on the page; false if the page can't be locked.
    fn take(&mut self, page: usize) -> bool {
        if let Some(count) = self.counts.get_mut(&page) {
            *count += 1;
            return true;
        }
        let address = std::ptr::without_provenance(page * *PAGE_SIZE);
        // SAFETY: the kernel checks the address; locking changes how a page is backed, not what it holds.
        let locked = unsafe { libc::mlock(address, *PAGE_SIZE) } == 0;
        if locked {
            self.counts.insert(page, 1);
        } else {
            self.refused += 1;
        }
        locked
    }

    fn give_back(&mut self, page: usize) {
        let Some(count) = self.counts.get_mut(&page) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        self.counts.remove(&page);
        if !self.all {
            // SAFETY: as in `take`. It fails harmlessly if the page is no longer mapped.
            unsafe { libc::munlock(std::ptr::without_provenance(page * *PAGE_SIZE), *PAGE_SIZE) };
        }
    }
}

fn may_lock_without_limit() -> bool {
    let infinite = getrlimit(Resource::RLIMIT_MEMLOCK).is_ok_and(|(soft, _)| soft == RLIM_INFINITY);
    infinite || (in_initial_user_namespace() && privilege::has_capability("CapEff", CAP_IPC_LOCK))
}

/// The bit of CAP_IPC_LOCK in the `Cap…` lines of `/proc/T/status` (capabilities(7)).
const CAP_IPC_LOCK: u32 = 14;

/// The kernel asks for CAP_IPC_LOCK in the initial namespace, whose inode number is fixed
/// (`PROC_USER_INIT_INO`, include/linux/proc_ns.h); a capability held in another one lifts no limit.
fn in_initial_user_namespace() -> bool {
    fs::read_link("/proc/self/ns/user").is_ok_and(|link| link.as_os_str() == "user:[4026531837]")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the mapping around an address is locked, as the kernel sees it (proc_pid_smaps(5)).
    fn is_locked(address: usize) -> bool {
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in smaps.lines() {
            let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
            if let Some((from, to)) = range
                && let (Ok(from), Ok(to)) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16))
            {
                inside = (from..to).contains(&address);
            } else if inside && let Some(flags) = line.strip_prefix("VmFlags:") {
                return flags.split_whitespace().any(|flag| flag == "lo");
            }
        }
        false
    }

    /// A buffer and the offset in it of a page that nothing else lies on.
    fn own_page() -> (Vec<u8>, usize) {
        let buffer = vec![1; 3 * *PAGE_SIZE];
        let start = buffer.as_ptr().addr();
        let offset = start.next_multiple_of(*PAGE_SIZE) - start;
        (buffer, offset)
    }

    #[test]
    fn a_page_stays_locked_until_the_last_secret_on_it_is_gone() {
        let (buffer, page) = own_page();
        let address = buffer.as_ptr().addr() + page;
        let first = lock_range(&buffer[page..page + 10]);
        let second = lock_range(&buffer[page + 100..page + 200]);
        assert!(is_locked(address));
        unlock_range(first);
        assert!(is_locked(address));
        unlock_range(second);
        assert!(!is_locked(address));
    }

    #[test]
    fn a_range_over_two_pages_locks_both() {
        let (buffer, page) = own_page();
        let locked = lock_range(&buffer[page + *PAGE_SIZE - 1..page + *PAGE_SIZE + 1]);
        assert_eq!(locked.pages, 2);
        assert!(is_locked(buffer.as_ptr().addr() + page));
        unlock_range(locked);
    }

    #[test]
    fn an_empty_range_locks_nothing() {
        let locked = lock_range(&[]);
        assert_eq!(locked.pages, 0);
        unlock_range(locked);
    }

    #[test]
    fn a_page_that_cannot_be_locked_is_counted() {
        let mut pages = LockedPages { all: false, counts: BTreeMap::new(), refused: 0 };
        // The last page of the address space belongs to the kernel.
        assert!(!pages.take(usize::MAX / *PAGE_SIZE));
        assert_eq!(pages.refused, 1);
        assert!(pages.counts.is_empty());
    }
}

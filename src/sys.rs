//! System calls: clocks, timers, memory locking, core dumps, groups of a caller, mounting, daemons; in files of
//! their own processes, namespaces and privileges.
//!
//! Only here is there `unsafe`, and only here is libc called. It decides nothing: what to lock, mount or wait
//! for is the caller's business.
//!
//! Invariants: *counted pages*: a page is unlocked when the last secret on it is gone, never before;
//! *no unlocking under `mlockall`*: once all pages are locked, no page is unlocked singly.
#![expect(
    unsafe_code,
    reason = "memory locking and mapping, the page size, timers in tokio and fork have no safe wrapper that does \
              what is needed"
)]

pub mod descriptors;
pub mod errand;
pub mod namespace;
pub mod privilege;
pub mod process;
pub mod safe_file;
pub mod secret_memory;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId as TimerClock, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::{ClockId, clock_gettime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::core::time::{BootTime, UnixTime};

const NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;

// ---- Time ----

/// Now, on CLOCK_BOOTTIME: goes on during suspend and is never set (clock_gettime(2)).
pub fn boot_time() -> BootTime {
    // The call can't fail for this clock on any Linux since 2.6.39; if it did, everything would have
    // ended, which is the safe side.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(BootTime::NEVER, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        let nanoseconds = u64::try_from(time.tv_nsec()).unwrap_or(0);
        BootTime(seconds.saturating_mul(NANOSECONDS_PER_SECOND).saturating_add(nanoseconds))
    })
}

/// Now, on the wall clock: for people and for `stat`, never for a decision.
pub fn unix_time() -> UnixTime {
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(UnixTime { seconds: 0, nanoseconds: 0 }, |time| UnixTime {
        seconds: time.tv_sec(),
        nanoseconds: u32::try_from(time.tv_nsec()).unwrap_or(0),
    })
}

/// Waits for instants of CLOCK_BOOTTIME inside a tokio runtime. Instants that pass during a suspend are
/// reached on resume (timerfd_create(2)).
pub struct BootTimer {
    timer: AsyncFd<Timer>,
}

impl BootTimer {
    /// Makes a timer. Must be called inside a tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// What timerfd_create(2) or the runtime says, such as too many open files.
    pub fn new() -> io::Result<BootTimer> {
        let timer =
            TimerFd::new(TimerClock::CLOCK_BOOTTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        // SAFETY: the descriptor is owned by the value that the AsyncFd owns, and is always the same one.
        let timer = unsafe { AsyncFd::register_with_interest(Timer(timer), Interest::READABLE)? };
        Ok(BootTimer { timer })
    }

    /// Returns once it is `at` or later, at once if it is already. May be dropped while it waits and
    /// called again with another instant.
    ///
    /// # Errors
    /// What timerfd_settime(2) or the runtime says; only when the runtime is shutting down.
    pub async fn wait_until(&mut self, at: BootTime) -> io::Result<()> {
        while boot_time() < at {
            // Arming discards what an earlier, abandoned wait left in the descriptor.
            self.timer.get_ref().arm(at)?;
            let mut ready = self.timer.readable().await?;
            // An error here is "not yet": the readiness was left over, and is cleared by `try_io`.
            let _ = ready.try_io(|timer| timer.get_ref().0.wait().map_err(io::Error::from));
        }
        Ok(())
    }
}

struct Timer(TimerFd);

impl Timer {
    fn arm(&self, at: BootTime) -> io::Result<()> {
        // Seconds of a u64 of nanoseconds fit any time_t; the kernel caps what it can't reach.
        let seconds = i64::try_from(at.0 / NANOSECONDS_PER_SECOND).unwrap_or(i64::MAX);
        let nanoseconds = i64::try_from(at.0 % NANOSECONDS_PER_SECOND).unwrap_or(0);
        let once = Expiration::OneShot(TimeSpec::new(seconds, nanoseconds));
        Ok(self.0.set(once, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?)
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

// ---- Memory ----

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

static PAGE_SIZE: LazyLock<usize> = LazyLock::new(|| {
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
    infinite || (in_initial_user_namespace() && has_capability("CapEff", CAP_IPC_LOCK))
}

/// The bit of CAP_IPC_LOCK in the `Cap…` lines of `/proc/T/status` (capabilities(7)).
const CAP_IPC_LOCK: u32 = 14;

/// Whether a capability is in one of this thread's sets, such as `CapEff` (proc_pid_status(5)).
fn has_capability(set: &str, bit: u32) -> bool {
    fs::read_to_string("/proc/thread-self/status")
        .ok()
        .and_then(|status| u64::from_str_radix(status_field(&status, set)?.trim(), 16).ok())
        .is_some_and(|found| found >> bit & 1 == 1)
}

/// The kernel asks for CAP_IPC_LOCK in the initial namespace, whose inode number is fixed
/// (`PROC_USER_INIT_INO`, include/linux/proc_ns.h); a capability held in another one lifts no limit.
fn in_initial_user_namespace() -> bool {
    fs::read_link("/proc/self/ns/user").is_ok_and(|link| link.as_os_str() == "user:[4026531837]")
}

// ---- Callers ----

/// The supplementary groups of a thread, as host gids; empty if it is gone or can't be looked at. Only
/// inside the handler of one of its requests is the number sure to mean the same thread.
pub fn supplementary_groups(thread: u32) -> Vec<u32> {
    fs::read_to_string(format!("/proc/{thread}/status"))
        .ok()
        .and_then(|status| {
            Some(status_field(&status, "Groups")?.split_whitespace().flat_map(str::parse).collect())
        })
        .unwrap_or_default()
}

/// The environment that a process was started with; nothing if it may not be seen.
pub fn environment_of(pid: u32) -> Option<Vec<(OsString, OsString)>> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).ok().filter(|bytes| !bytes.is_empty())?;
    let variable = |text: &[u8]| {
        let at = text.iter().position(|byte| *byte == b'=')?;
        let part = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        Some((part(&text[..at]), part(&text[at + 1..])))
    };
    Some(bytes.split(|byte| *byte == 0).filter_map(variable).collect())
}

/// The value of one line of `/proc/T/status` (proc_pid_status(5)).
fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

/// The effective uid and gid of this process.
pub fn effective_ids() -> (u32, u32) {
    (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
}

// ---- Files ----

/// A file that is locked; dropped, it is unlocked.
#[must_use]
#[derive(Debug)]
pub struct LockedFile {
    _lock: Flock<File>,
}

/// Locks a file for this process alone, and waits for whoever has locked it (flock(2)).
///
/// # Errors
/// What flock(2) says.
pub fn lock_file(file: File) -> io::Result<LockedFile> {
    match Flock::lock(file, FlockArg::LockExclusive) {
        Ok(lock) => Ok(LockedFile { _lock: lock }),
        Err((_, errno)) => Err(errno.into()),
    }
}

// ---- Sockets ----

/// The process at the other end of a Unix socket, as it was when that end was connected, or when it began
/// to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its number; it may have ended since.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
}

/// Who is at the other end of a Unix socket (unix(7), `SO_PEERCRED`).
///
/// # Errors
/// What getsockopt(2) says.
pub fn peer(socket: &impl AsFd) -> io::Result<Peer> {
    let credentials = getsockopt(socket, PeerCredentials)?;
    Ok(Peer { pid: credentials.pid(), uid: credentials.uid() })
}

// ---- Processes ----

/// Which of two processes this one is, after [`fork`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forked {
    /// The one that was there before.
    Parent {
        /// The other one's number.
        child: i32,
    },
    /// The new one.
    Child,
}

/// Makes a second process that goes on from here (fork(2)).
///
/// # Errors
/// What fork(2) says; `EBUSY` if there are other threads, which would not exist in the child while what
/// they hold stayed locked there; what reading `/proc` gives.
pub fn fork() -> io::Result<Forked> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::ErrorKind::ResourceBusy.into());
    }
    // SAFETY: this is the only thread, so the child finds everything as the parent left it.
    match unsafe { nix::unistd::fork()? } {
        nix::unistd::ForkResult::Parent { child } => Ok(Forked::Parent { child: child.as_raw() }),
        nix::unistd::ForkResult::Child => Ok(Forked::Child),
    }
}

/// Leaves the terminal, and the signals that it sends, to others (setsid(2)).
///
/// # Errors
/// What setsid(2) says: `EPERM` for the leader of a process group.
pub fn leave_session() -> io::Result<()> {
    nix::unistd::setsid()?;
    Ok(())
}

/// A standard stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard input.
    Input,
    /// Standard output.
    Output,
    /// Standard error.
    Error,
}

/// Puts `/dev/null` in the place of a standard stream.
///
/// # Errors
/// What open(2) or dup2(2) says.
pub fn silence(stream: Stream) -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    match stream {
        Stream::Input => nix::unistd::dup2_stdin(null)?,
        Stream::Output => nix::unistd::dup2_stdout(null)?,
        Stream::Error => nix::unistd::dup2_stderr(null)?,
    }
    Ok(())
}

/// Moves this process into the mount namespace that a file of `/proc/PID/ns` stands for (setns(2)).
///
/// # Errors
/// What open(2) or setns(2) says: `EINVAL` if the file is none, or if there are other threads.
pub fn enter_mount_namespace(file: &Path) -> io::Result<()> {
    Ok(nix::sched::setns(File::open(file)?, CloneFlags::CLONE_NEWNS)?)
}

// ---- Mounts ----

/// Mounts a file system that holds no devices, no programs and nothing to write (mount(2)).
///
/// # Errors
/// What mount(2) says.
pub fn mount_read_only(source: &str, at: &Path, kind: &str, data: &str) -> io::Result<()> {
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    Ok(nix::mount::mount(Some(source), at, Some(kind), flags, Some(data))?)
}

/// Shows a directory at its own path once more, as a mount of its own, without what is mounted below it
/// (mount(2), `MS_BIND`).
///
/// # Errors
/// What mount(2) says.
pub fn bind_onto_itself(directory: &Path) -> io::Result<()> {
    let none = None::<&str>;
    Ok(nix::mount::mount(Some(directory), directory, none, MsFlags::MS_BIND, none)?)
}

/// Whether a mount tells others of what is mounted below it (mount_namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// It does (`MS_SHARED`).
    Shared,
    /// It does not, and is told what it was told before (`MS_SLAVE`).
    Slave,
}

/// Changes the topmost mount at a path, and none below it.
///
/// # Errors
/// What mount(2) says: `EINVAL` if nothing is mounted there.
pub fn set_propagation(at: &Path, propagation: Propagation) -> io::Result<()> {
    let none = None::<&str>;
    let flags = match propagation {
        Propagation::Shared => MsFlags::MS_SHARED,
        Propagation::Slave => MsFlags::MS_SLAVE,
    };
    Ok(nix::mount::mount(none, at, none, flags, none)?)
}

/// How to unmount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// Only if nothing uses it.
    Idle,
    /// The name goes at once, the rest when nothing uses it any more (`MNT_DETACH`).
    Lazy,
}

/// Takes away the topmost mount at a path, without following a symlink (umount2(2)).
///
/// # Errors
/// What umount2(2) says: `EBUSY` while it is in use, `EINVAL` if nothing is mounted there.
pub fn unmount(at: &Path, how: Unmount) -> io::Result<()> {
    let flags = match how {
        Unmount::Idle => MntFlags::UMOUNT_NOFOLLOW,
        Unmount::Lazy => MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH,
    };
    Ok(nix::mount::umount2(at, flags)?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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

    #[test]
    fn a_status_field_is_found_by_its_whole_name() {
        let status = "Name:\tGroups: 7\nNgid:\t0\nGroups:\t4 24 27 \nCapEff:\t0000000000004000\n";
        assert_eq!(status_field(status, "Groups"), Some("\t4 24 27 "));
        assert_eq!(status_field(status, "Group"), None);
    }

    #[test]
    fn groups_of_a_thread_that_is_gone_are_none() {
        assert!(supplementary_groups(u32::MAX).is_empty());
        assert!(supplementary_groups(0).is_empty());
    }

    #[test]
    fn boot_time_goes_forward() {
        let earlier = boot_time();
        assert!(boot_time() >= earlier);
        assert!(earlier > BootTime(0));
        assert!(unix_time().seconds > 1_700_000_000);
    }

    #[tokio::test]
    async fn a_timer_never_fires_early() {
        let mut timer = BootTimer::new().unwrap();
        let at = boot_time() + Duration::from_millis(5);
        timer.wait_until(at).await.unwrap();
        assert!(boot_time() >= at);
    }

    #[tokio::test]
    async fn an_instant_that_has_passed_is_not_waited_for() {
        let mut timer = BootTimer::new().unwrap();
        timer.wait_until(BootTime(0)).await.unwrap();
        timer.wait_until(boot_time()).await.unwrap();
    }

    #[tokio::test]
    async fn a_wait_that_was_given_up_does_not_wake_the_next_one_early() {
        let mut timer = BootTimer::new().unwrap();
        let soon = boot_time() + Duration::from_millis(50);
        // Dropped before it could finish, then the descriptor becomes ready behind its back.
        assert!(tokio::time::timeout(Duration::ZERO, timer.wait_until(soon)).await.is_err());
        BootTimer::new().unwrap().wait_until(soon + Duration::from_millis(1)).await.unwrap();
        let later = boot_time() + Duration::from_millis(5);
        timer.wait_until(later).await.unwrap();
        assert!(boot_time() >= later);
    }

    #[tokio::test]
    async fn what_has_no_end_is_waited_for_without_error() {
        let mut timer = BootTimer::new().unwrap();
        let wait = timer.wait_until(BootTime::NEVER);
        assert!(tokio::time::timeout(Duration::from_millis(2), wait).await.is_err());
    }
}

//! Memory that outlives a process without touching a disk: memfd_secret(2), or a plain memfd for what is no
//! secret; mapped, and written in the order of the program.
//!
//! Invariants: *program order*: the stores of one call come after those of all calls before it, so that a
//! process that is killed has made all stores up to some point and none after it (on one memory, all stores of a
//! killed thread that were made are seen by whoever maps it later); *fixed size*: memory that could shrink
//! under its mapping is refused; *one user*: while one process has the memory mapped, no other one gets it.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::fstat;
use nix::sys::statfs::{FsType, fstatfs};

/// How many bytes [`SharedPage`] takes, whatever the page size of the system.
pub const SHARED: usize = 4096;

const WORD: usize = size_of::<u64>();

/// The file system type of memfd_secret(2): `SECRETMEM_MAGIC` of linux/magic.h.
const SECRET_MEMORY: FsType = FsType(0x5345_434d);

/// Why there is no memory, or why it can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// The kernel has no memfd_secret(2), or it is switched off.
    #[error(
        "this kernel gives no secret memory (memfd_secret): it takes Linux 5.14 or later, not started with \
         secretmem.enable=0, and before 6.5 started with secretmem.enable=1"
    )]
    NotSupported,
    /// The memory would exceed what this process may lock.
    #[error(
        "{size} bytes of secret memory are more than this process may lock besides what it has locked already: \
         RLIMIT_MEMLOCK is {limit} bytes. Raise it (LimitMEMLOCK= of the unit, ulimit -l), or configure a smaller state"
    )]
    LockLimit {
        /// How many bytes were to be locked.
        size: usize,
        /// The soft limit, in bytes.
        limit: u64,
    },
    /// There is not enough free memory.
    #[error("there is no memory for {size} bytes of state: free some, or configure a smaller state")]
    OutOfMemory {
        /// How many bytes were asked for.
        size: usize,
    },
    /// The descriptor is neither secret memory nor a memfd whose size is sealed.
    #[error("the descriptor is no memory of fixed size: pass one that leasefs made")]
    NotMemory,
    /// The memory is too small for what it is to hold.
    #[error("the memory has {size} bytes, and at least {least} are needed: make it anew with more")]
    TooSmall {
        /// How many bytes it has.
        size: usize,
        /// How many it must have.
        least: usize,
    },
    /// Another process has the memory mapped.
    #[error("another process still uses the memory: wait until it has ended")]
    InUse,
    /// The system refused for another reason.
    #[error("{call} failed: {}", io::Error::from_raw_os_error(*.errno))]
    System {
        /// The system call.
        call: &'static str,
        /// Its errno.
        errno: i32,
    },
}

/// Makes secret memory of at least `size` bytes, all zero, closed on exec: locked, in no core dump, and unreadable
/// through `/proc/PID/mem` even for root (memfd_secret(2)). While there is any, the system can't hibernate.
///
/// Only mapping it counts against RLIMIT_MEMLOCK, and each page becomes resident when it is first touched.
///
/// # Errors
/// [`MemoryError::NotSupported`], [`MemoryError::OutOfMemory`], [`MemoryError::System`].
pub fn create(size: usize) -> Result<OwnedFd, MemoryError> {
    // SAFETY: takes no pointer.
    let made = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    let descriptor = Errno::result(made).map_err(|errno| match errno {
        Errno::ENOSYS => MemoryError::NotSupported,
        other => failed("memfd_secret", size, other),
    })?;
    let descriptor = RawFd::try_from(descriptor).map_err(|_| MemoryError::NotSupported)?;
    // SAFETY: the call has just made it, and nobody else knows it.
    let memory = unsafe { OwnedFd::from_raw_fd(descriptor) };
    set_size(memory, size)
}

/// Makes ordinary shared memory of at least `size` bytes, all zero, closed on exec, whose size is sealed: for what
/// is no secret, and for systems without [`create`] (memfd_create(2)). It can be swapped out.
///
/// # Errors
/// [`MemoryError::OutOfMemory`], [`MemoryError::System`].
pub fn create_ordinary(size: usize) -> Result<OwnedFd, MemoryError> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // Some systems demand the flag (sysctl vm.memfd_noexec), kernels before 6.3 don't know it.
    let never_run = flags | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    let memory = match memfd_create(c"leasefs", never_run) {
        Err(Errno::EINVAL) => memfd_create(c"leasefs", flags),
        made => made,
    };
    let memory = set_size(memory.map_err(|errno| failed("memfd_create", size, errno))?, size)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&memory, FcntlArg::F_ADD_SEALS(seals)).map_err(|errno| failed("fcntl", size, errno))?;
    Ok(memory)
}

/// Maps memory for this process alone, as long as either of the two parts lives: its first [`SHARED`] bytes as
/// atomics that threads share, and all others for one owner. The mapping is not inherited by fork(2).
///
/// Another process is kept out by a record lock (fcntl(2), `F_SETLK`), which ends with this process: after its
/// memory is gone, so that none of its stores can follow. It would end early if this process closed another
/// descriptor of the same memory, so it should hold none.
///
/// # Errors
/// All variants of [`MemoryError`] but [`MemoryError::NotSupported`].
pub fn map(memory: OwnedFd, least: usize) -> Result<(SharedPage, Area), MemoryError> {
    let size = fixed_size(&memory)?;
    let least = least.max(SHARED);
    if size < least {
        return Err(MemoryError::TooSmall { size, least });
    }
    keep_others_out(&memory)?;
    let mapping = Arc::new(Mapping::new(memory, size)?);
    let length = (size - SHARED) / WORD * WORD;
    Ok((SharedPage(Arc::clone(&mapping)), Area { mapping, length }))
}

/// The first [`SHARED`] bytes of a mapping.
#[derive(Clone)]
pub struct SharedPage(Arc<Mapping>);

impl SharedPage {
    /// The page as atomics.
    pub fn words(&self) -> &[AtomicU64; SHARED / WORD] {
        // SAFETY: the mapping begins on a page, is at least this long and lives as long as `self`. These bytes
        // are reached in no other way than as atomics.
        unsafe { self.0.address.cast().as_ref() }
    }
}

/// All bytes of a mapping after the first [`SHARED`]; offsets count from there. Its length is a multiple of 8, and
/// all offsets must be.
///
/// The methods panic beyond the end: where an offset comes from the memory itself, compare it with
/// [`Area::len`] before.
pub struct Area {
    mapping: Arc<Mapping>,
    length: usize,
}

impl Area {
    /// How many bytes there are.
    #[expect(clippy::len_without_is_empty, reason = "never looked at")]
    pub fn len(&self) -> usize {
        self.length
    }

    /// The eight bytes at `at`.
    pub fn load(&self, at: usize) -> u64 {
        self.words()[at / WORD].load(Ordering::Acquire)
    }

    /// Replaces the eight bytes at `at`, all or none.
    pub fn store(&mut self, at: usize, value: u64) {
        set(&self.words()[at / WORD], value, Ordering::Release);
    }

    /// Writes `bytes` from `at` on; the last eight are filled up with zeros.
    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        fence(Ordering::Release);
        let (whole, rest) = bytes.as_chunks::<WORD>();
        let words = &self.words()[at / WORD..][..bytes.len().div_ceil(WORD)];
        for (word, bytes) in words.iter().zip(whole) {
            set(word, u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
        if let (Some(word), false) = (words.last(), rest.is_empty()) {
            let value = rest.iter().rev().fold(0, |value, byte| (value << 8) | u64::from(*byte));
            set(word, value.to_le(), Ordering::Relaxed);
        }
    }

    /// Copies `length` bytes from `from` to `to`: a range before it, which may overlap it, or another one.
    pub fn copy(&mut self, from: usize, to: usize, length: usize) {
        fence(Ordering::Release);
        let words = self.words();
        let from = &words[from / WORD..][..length / WORD];
        for (from, to) in from.iter().zip(&words[to / WORD..][..length / WORD]) {
            set(to, from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// Overwrites a range with zeros. Atomic stores to memory that others may map are not optimised away.
    pub fn wipe(&mut self, range: Range<usize>) {
        fence(Ordering::Release);
        for word in &self.words()[range.start / WORD..range.end / WORD] {
            set(word, 0, Ordering::Relaxed);
        }
    }

    /// The bytes of a range, whose start may be any.
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.length, "beyond the end of the memory");
        // SAFETY: the range is mapped as long as `self` lives. It changes by methods that take `&mut self`
        // alone: no other part of this process reaches these bytes, and other processes are kept out.
        unsafe {
            let start = self.mapping.address.cast::<u8>().add(SHARED + range.start);
            std::slice::from_raw_parts(start.as_ptr(), range.len())
        }
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the words are mapped as long as `self` lives, and the mapping begins on a page. They are
        // stored to by methods that take `&mut self` alone, while no slice of `bytes` lives.
        unsafe {
            let start = self.mapping.address.cast::<u8>().add(SHARED).cast::<AtomicU64>();
            std::slice::from_raw_parts(start.as_ptr(), self.length / WORD)
        }
    }
}

/// The one way into an [`Area`], so that a test can end the process here.
fn set(word: &AtomicU64, value: u64, order: Ordering) {
    #[cfg(test)]
    if !last_store::may_store() {
        return;
    }
    word.store(value, order);
}

struct Mapping {
    address: NonNull<c_void>,
    size: usize,
    /// Holds the lock that keeps other processes out.
    _memory: OwnedFd,
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for Mapping {}
// SAFETY: what is reached through a shared reference is either atomic or, in `Area`, not changed meanwhile.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(memory: OwnedFd, size: usize) -> Result<Mapping, MemoryError> {
        let length = NonZeroUsize::new(size).ok_or(MemoryError::TooSmall { size, least: SHARED })?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the kernel chooses a free place.
        let mapped = unsafe { mmap(None, length, access, MapFlags::MAP_SHARED, &memory, 0) };
        let address = mapped.map_err(|errno| match errno {
            Errno::EAGAIN => MemoryError::LockLimit {
                size,
                limit: getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft),
            },
            other => failed("mmap", size, other),
        })?;
        for advice in [MmapAdvise::MADV_DONTFORK, MmapAdvise::MADV_DONTDUMP] {
            // SAFETY: the range was mapped above, and both change only who else gets to see it. A refusal is
            // of no importance: the first prevents mistakes, the second is implied by secret memory.
            let _ = unsafe { madvise(address, size, advice) };
        }
        Ok(Mapping { address, size, _memory: memory })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: all references into the mapping borrow from a value that keeps it. It can't fail for a range that
        // was mapped as a whole.
        let _ = unsafe { munmap(self.address, self.size) };
    }
}

fn set_size(memory: OwnedFd, size: usize) -> Result<OwnedFd, MemoryError> {
    let size =
        size.checked_next_multiple_of(*super::memory::PAGE_SIZE).ok_or(MemoryError::OutOfMemory { size })?;
    let memory = File::from(memory);
    memory
        .set_len(size as u64)
        .map_err(|error| failed("ftruncate", size, Errno::from_raw(error.raw_os_error().unwrap_or(0))))?;
    Ok(memory.into())
}

/// The size of memory that can't shrink: a mapping beyond its end would be SIGBUS.
fn fixed_size(memory: &OwnedFd) -> Result<usize, MemoryError> {
    let seals = fcntl(memory, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_retain);
    let is_sealed = seals.is_ok_and(|seals| seals.contains(SealFlag::F_SEAL_SHRINK));
    // The size of secret memory can be set once.
    let is_secret = || fstatfs(memory.as_fd()).is_ok_and(|system| system.filesystem_type() == SECRET_MEMORY);
    if !is_sealed && !is_secret() {
        return Err(MemoryError::NotMemory);
    }
    let status = fstat(memory).map_err(|errno| failed("fstat", 0, errno))?;
    usize::try_from(status.st_size).map_err(|_| MemoryError::NotMemory)
}

fn keep_others_out(memory: &OwnedFd) -> Result<(), MemoryError> {
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(memory, FcntlArg::F_SETLK(&whole)) {
        Ok(_) => Ok(()),
        Err(Errno::EAGAIN | Errno::EACCES) => Err(MemoryError::InUse),
        Err(errno) => Err(failed("fcntl", 0, errno)),
    }
}

fn failed(call: &'static str, size: usize, errno: Errno) -> MemoryError {
    match errno {
        Errno::ENOMEM | Errno::ENOSPC => MemoryError::OutOfMemory { size },
        other => MemoryError::System { call, errno: other as i32 },
    }
}

/// Lets a test lose all stores after a given one, as if the process had been killed there.
#[cfg(test)]
pub(crate) mod last_store {
    use std::cell::Cell;

    thread_local! {
        static LEFT: Cell<u64> = const { Cell::new(u64::MAX) };
    }

    /// Runs `work`, of which only the first `stores` stores reach the memory.
    pub(crate) fn killed_after<T>(stores: u64, work: impl FnOnce() -> T) -> T {
        LEFT.set(stores);
        let result = work();
        LEFT.set(u64::MAX);
        result
    }

    /// Whether no further store will reach the memory.
    pub(crate) fn was_made() -> bool {
        LEFT.get() == 0
    }

    pub(super) fn may_store() -> bool {
        LEFT.with(|left| match left.get() {
            u64::MAX => true,
            0 => false,
            some => {
                left.set(some - 1);
                true
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_after_mapping_anew() {
        let memory = create(100_000).unwrap();
        let again = memory.try_clone().unwrap();
        let (page, mut area) = map(memory, 0).unwrap();
        assert!(area.len() >= 100_000 - SHARED);
        page.words()[511].store(7, Ordering::Relaxed);
        area.write(8, b"nineteen bytes long");
        area.store(32, 9);
        drop((page, area));
        let (page, area) = map(again, 0).unwrap();
        assert_eq!(page.words()[511].load(Ordering::Relaxed), 7);
        assert_eq!(area.bytes(8..27), b"nineteen bytes long");
        assert_eq!(area.bytes(27..32), [0; 5]);
        assert_eq!((area.load(32), area.load(0)), (9, 0));
    }

    #[test]
    fn ranges_are_copied_and_wiped() {
        let (_, mut area) = map(create_ordinary(8192).unwrap(), 0).unwrap();
        area.write(16, b"0123456789abcdef01234567");
        area.copy(16, 8, 24);
        assert_eq!(area.bytes(8..40), b"0123456789abcdef0123456701234567");
        area.wipe(16..24);
        assert_eq!(area.bytes(8..40), b"01234567\0\0\0\0\0\0\0\x000123456701234567");
    }

    #[test]
    fn a_file_that_could_shrink_is_refused() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(100_000).unwrap();
        assert_eq!(map(file.into(), 0).err(), Some(MemoryError::NotMemory));
        let sealable = memfd_create(c"open", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        assert_eq!(map(sealable, 0).err(), Some(MemoryError::NotMemory));
    }

    #[test]
    fn memory_without_room_is_refused() {
        let memory = create_ordinary(4096).unwrap();
        assert_eq!(map(memory, 16384).err(), Some(MemoryError::TooSmall { size: 4096, least: 16384 }));
    }

    #[test]
    fn more_than_there_is_address_space_is_out_of_memory() {
        let memory = create_ordinary(1 << 50).unwrap();
        assert_eq!(map(memory, 0).err(), Some(MemoryError::OutOfMemory { size: 1 << 50 }));
        assert_eq!(create(usize::MAX).err(), Some(MemoryError::OutOfMemory { size: usize::MAX }));
    }

    #[test]
    fn errors_say_what_to_do() {
        let limit = MemoryError::LockLimit { size: 1 << 20, limit: 65536 }.to_string();
        assert!(
            limit.contains("RLIMIT_MEMLOCK is 65536 bytes") && limit.contains("LimitMEMLOCK="),
            "{limit}"
        );
        assert!(MemoryError::NotSupported.to_string().contains("secretmem.enable=1"));
        let system = failed("memfd_secret", 0, Errno::EMFILE).to_string();
        assert!(system.starts_with("memfd_secret failed: Too many open files"), "{system}");
    }
}

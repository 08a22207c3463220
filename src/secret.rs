//! The only home of secret bytes.
//!
//! Invariants: *no copy*: no `Debug`, no `Clone`, no way out but [`SecretBytes::expose`], and
//! `tests/layering.rs` counts the places that call it; *locked*: the bytes lie on pages that are kept out
//! of swap as far as the system allows ([`crate::sys::locking`] says how far); *wiped*: they are
//! overwritten when the value is dropped, and so is every heap block of the process when it is freed,
//! whoever allocated it, since the libraries that a secret passes through leave copies behind.

use std::alloc::System;
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

use zeroize::Zeroize;
use zeroizing_alloc::ZeroAlloc;

use crate::sys::{self, LockedRange};

/// Overwrites each heap block when it is freed; growing moves to a new block, so the old one is freed
/// and overwritten too.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

/// Bytes that must not be printed, copied or left behind.
pub struct SecretBytes {
    bytes: Box<[u8]>,
    /// `None` only while the value is being dropped.
    lock: Option<LockedRange>,
}

impl SecretBytes {
    /// Takes the bytes over and locks their pages. If the vector had room to spare they move, and their
    /// old place is overwritten.
    pub fn new(mut bytes: Vec<u8>) -> SecretBytes {
        let bytes = if bytes.len() == bytes.capacity() {
            bytes.into_boxed_slice()
        } else {
            let exact = bytes.as_slice().into();
            bytes.zeroize();
            exact
        };
        let lock = Some(sys::lock_range(&bytes));
        SecretBytes { bytes, lock }
    }

    /// The bytes themselves: for rendering, for the FUSE reply, for requests to Vault.
    pub fn expose(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether `other` holds the same bytes.
    pub fn equals(&self, other: &SecretBytes) -> bool {
        self.bytes == other.bytes
    }

    /// Tells it from others without keeping its bytes: a hash whose key is this process's own.
    pub fn fingerprint(&self) -> u64 {
        static KEY: OnceLock<RandomState> = OnceLock::new();
        KEY.get_or_init(RandomState::new).hash_one(&self.bytes)
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl Drop for SecretBytes {
    fn drop(&mut self) {
        self.bytes.zeroize();
        if let Some(lock) = self.lock.take() {
            sys::unlock_range(lock);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    const MARKER: &[u8; 24] = b"marker-of-the-wipe-tests";

    /// A block with the marker in it, many times over.
    fn marked(times: usize) -> Vec<u8> {
        MARKER.repeat(times)
    }

    /// Whether the marker can be found in this process's memory at an address, freed or not. Goes through
    /// the kernel, so that looking at freed memory is no undefined behaviour; memory that is no longer
    /// mapped holds nothing.
    fn holds_marker(address: usize, length: usize) -> bool {
        let memory = File::open("/proc/self/mem").unwrap();
        let mut seen = vec![0; length];
        let read = memory.read_at(&mut seen, address as u64).unwrap_or(0);
        let found = seen[..read].windows(MARKER.len()).any(|window| window == MARKER);
        seen.zeroize();
        found
    }

    #[test]
    fn a_dropped_secret_is_gone_from_memory() {
        let secret = SecretBytes::new(marked(20));
        let (address, length) = (secret.expose().as_ptr().addr(), secret.len());
        assert!(holds_marker(address, length));
        drop(secret);
        assert!(!holds_marker(address, length));
    }

    #[test]
    fn a_vector_with_room_to_spare_leaves_nothing_behind() {
        let mut roomy = Vec::with_capacity(1000);
        roomy.extend_from_slice(&marked(20));
        let (address, length) = (roomy.as_ptr().addr(), roomy.len());
        let secret = SecretBytes::new(roomy);
        assert_ne!(secret.expose().as_ptr().addr(), address);
        assert!(!holds_marker(address, length));
        assert_eq!(secret.expose(), marked(20));
    }

    #[test]
    fn memory_freed_by_anyone_is_overwritten() {
        for times in [2, 20, 20_000] {
            let plain = marked(times);
            let (address, length) = (plain.as_ptr().addr(), plain.len());
            assert!(holds_marker(address, length));
            drop(plain);
            assert!(!holds_marker(address, length), "{times}");
        }
    }

    #[test]
    fn growing_overwrites_the_old_place() {
        for times in [2, 20, 20_000] {
            let mut growing = marked(times);
            let (address, length) = (growing.as_ptr().addr(), growing.len());
            growing.reserve_exact(10 * length);
            assert_ne!(growing.as_ptr().addr(), address, "it must move, never be moved by the system");
            assert!(!holds_marker(address, length), "{times}");
            growing.zeroize();
        }
    }

    #[test]
    fn fingerprints_tell_secrets_apart() {
        let of = |text: &str| SecretBytes::new(text.as_bytes().to_vec()).fingerprint();
        assert_eq!(of("a token"), of("a token"));
        assert_ne!(of("a token"), of("another token"));
    }

    #[test]
    fn an_empty_secret_is_empty() {
        assert!(SecretBytes::new(Vec::new()).is_empty());
        assert!(SecretBytes::new(Vec::with_capacity(9)).is_empty());
    }
}

//! The only home of secret bytes.
//!
//! Invariants: no `Debug`, no `Clone`, no way out but [`SecretBytes::expose`]; the bytes are overwritten
//! when the value is dropped. `tests/layering.rs` counts the places that call `expose`.

use zeroize::Zeroize;

/// Bytes that must not be printed, copied or left behind.
pub struct SecretBytes(Box<[u8]>);

impl SecretBytes {
    /// Takes the bytes over. The vector they came in is overwritten if it had room to spare.
    pub fn new(mut bytes: Vec<u8>) -> SecretBytes {
        if bytes.len() == bytes.capacity() {
            return SecretBytes(bytes.into_boxed_slice());
        }
        let exact = bytes.as_slice().into();
        bytes.zeroize();
        SecretBytes(exact)
    }

    /// The bytes themselves: for rendering, for the FUSE reply, for requests to Vault.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Drop for SecretBytes {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

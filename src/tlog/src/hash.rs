//! SHA-256, plain and with the prefixes of the Merkle tree.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::display::Base64Display;
use base64::prelude::BASE64_STANDARD;

use crate::Error;

/// A SHA-256 hash of 32 bytes: of a leaf, a subtree, a key.
///
/// `Display` is standard base64, as in checkpoints; `Debug` is lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    /// The hash with these bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The plain SHA-256 of `bytes`, without a tree prefix.
    pub fn of(bytes: &[u8]) -> Self {
        sha256(&[bytes])
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Lower-case hex, as names and messages have it.
    pub fn to_hex(&self) -> String {
        self.hex().into_iter().map(char::from).collect()
    }

    fn hex(&self) -> [u8; 64] {
        let mut text = [0; 64];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        text
    }

    /// Reads the form that `Display` writes: standard base64 with padding.
    pub(crate) fn from_base64(text: &str) -> Option<Self> {
        let bytes = BASE64_STANDARD.decode(text).ok()?;
        Self::try_from(&bytes[..]).ok()
    }
}

impl TryFrom<&[u8]> for Hash {
    type Error = Error;

    fn try_from(bytes: &[u8]) -> Result<Self, Error> {
        bytes.try_into().map(Self).map_err(|_| Error::HashLength { length: bytes.len() })
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.hex()).expect("hexadecimal digits are ASCII"))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Base64Display::new(&self.0, &BASE64_STANDARD).fmt(f)
    }
}

/// The hash of a log entry as a leaf of the tree: SHA-256 over 0x00 and the entry (RFC 6962 §2.1).
pub fn leaf_hash(entry: &[u8]) -> Hash {
    sha256(&[&[0x00], entry])
}

/// The hash of two neighbouring subtrees: SHA-256 over 0x01 and both hashes (RFC 6962 §2.1).
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    sha256(&[&[0x01], left.as_bytes(), right.as_bytes()])
}

/// The root of the tree without leaves: SHA-256 of nothing (RFC 6962 §2.1).
pub fn empty_root() -> Hash {
    sha256(&[])
}

fn sha256(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    Hash(hash)
}

const HEX: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_is_hex_and_display_is_base64() {
        let hash = empty_root();
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(format!("{hash:?}"), hex);
        assert_eq!(hash.to_hex(), hex);
        assert_eq!(hash.to_string(), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
        assert_eq!(Hash::from_base64(&hash.to_string()), Some(hash));
    }

    #[test]
    fn a_hash_has_32_bytes() {
        assert!(Hash::try_from(&[7; 32][..]).is_ok());
        assert_eq!(Hash::try_from(&[7; 31][..]), Err(Error::HashLength { length: 31 }));
        assert_eq!(Hash::try_from(&[7; 33][..]), Err(Error::HashLength { length: 33 }));
    }
}

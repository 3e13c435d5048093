//! Verification of the two kinds of signature that the log's keys make.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey};

use crate::Error;

/// A public key for ECDSA on P-256 with SHA-256.
pub(crate) struct P256Key<'a> {
    point: &'a [u8],
}

impl<'a> P256Key<'a> {
    /// Reads a SubjectPublicKeyInfo of 91 bytes: named curve P-256, uncompressed point.
    pub(crate) fn from_spki(spki: &'a [u8]) -> Result<Self, Error> {
        match spki.strip_prefix(&P256_SPKI_PREFIX) {
            Some(point @ [0x04, coordinates @ ..]) if coordinates.len() == 64 => Ok(Self { point }),
            _ => Err(Error::P256Key),
        }
    }

    /// Whether `signature` (DER, RFC 3279 §2.2.3) is this key's over `message`.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, self.point)
            .verify(message, signature)
            .is_ok()
    }
}

/// Whether `signature` is that of the Ed25519 `key` over `message` (RFC 8032).
pub(crate) fn ed25519_verifies(key: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok()
}

/// SEQUENCE { SEQUENCE { id-ecPublicKey, prime256v1 }, BIT STRING of 65 bytes … (RFC 5480 §2.1).
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_uncompressed_p256_key_is_taken() {
        let spki = [&P256_SPKI_PREFIX[..], &[4; 65]].concat();
        assert!(P256Key::from_spki(&spki).is_ok());
        let compressed = [&P256_SPKI_PREFIX[..], &[2; 33]].concat();
        let mut other_curve = spki.clone();
        other_curve[22] ^= 1;
        let long = [&spki[..], &[0]].concat();
        for refused in [&spki[..90], &long, &compressed, &other_curve, &spki[26..], &[]] {
            assert_eq!(P256Key::from_spki(refused).err(), Some(Error::P256Key));
        }
    }

    #[test]
    fn point_off_the_curve_verifies_nothing() {
        let spki = [&P256_SPKI_PREFIX[..], &[4; 65]].concat();
        assert!(!P256Key::from_spki(&spki).unwrap().verifies(b"message", &[0x30, 0]));
    }
}

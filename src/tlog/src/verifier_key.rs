//! Keys that verify signed notes (C2SP signed-note, "Verifier keys").

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::signature::ed25519_verifies;
use crate::{Error, Hash};

/// A named Ed25519 key; its text form is `<name>+<key ID in hex>+<base64 of 0x01 and the key>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    key: [u8; 32],
}

impl VerifierKey {
    /// The key with this name, as RFC 8032 encodes it.
    ///
    /// Fails if the name is empty or has white space, a plus or a control character in it.
    pub fn ed25519(name: impl Into<String>, key: &[u8; 32]) -> Result<Self, Error> {
        let name = name.into();
        require_key_name(&name)?;
        Ok(Self { name, key: *key })
    }

    /// Reads the text form that `Display` writes.
    ///
    /// Fails for any other spelling, for a type other than Ed25519, and if the key ID is not that
    /// of name and key.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(Error::VerifierKey);
        };
        let key = BASE64_STANDARD.decode(key).map_err(|_| Error::VerifierKey)?;
        let (&algorithm, key) = key.split_first().ok_or(Error::VerifierKey)?;
        if algorithm != ED25519 {
            return Err(Error::VerifierKeyType { algorithm });
        }
        let key = Self::ed25519(name, key.try_into().map_err(|_| Error::VerifierKey)?)?;
        if id != format!("{:08x}", key.key_id()) {
            return Err(Error::VerifierKeyId { expected: key.key_id() });
        }
        Ok(key)
    }

    /// The name that stands in signature lines.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The ID that stands in signature lines: [`ed25519_key_id`].
    pub fn key_id(&self) -> u32 {
        ed25519_key_id(&self.name, &self.key)
    }

    pub(crate) fn verifies(&self, text: &str, signature: &[u8]) -> bool {
        ed25519_verifies(&self.key, text.as_bytes(), signature)
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = BASE64_STANDARD.encode([&[ED25519], &self.key[..]].concat());
        write!(f, "{}+{:08x}+{key}", self.name, self.key_id())
    }
}

/// The key ID of an Ed25519 key: the first four bytes, big-endian, of SHA-256 over name, newline,
/// 0x01 and key (C2SP signed-note, "Ed25519 signatures").
pub fn ed25519_key_id(name: &str, key: &[u8; 32]) -> u32 {
    first_four(&Hash::of(&[name.as_bytes(), b"\n", &[ED25519], key].concat()))
}

/// The key ID of an ECDSA key: the first four bytes, big-endian, of SHA-256 over its
/// SubjectPublicKeyInfo in DER, whatever its name (C2SP signed-note, type 0x02).
pub fn ecdsa_key_id(spki: &[u8]) -> u32 {
    first_four(&Hash::of(spki))
}

fn first_four(hash: &Hash) -> u32 {
    let [a, b, c, d, ..] = *hash.as_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// "Key names MUST be non-empty and MUST NOT contain any Unicode spaces or plus", and nothing in a
/// note may be a control character.
pub(crate) fn require_key_name(name: &str) -> Result<(), Error> {
    let refused = |c: char| c.is_whitespace() || c < ' ' || c == '+';
    if name.is_empty() || name.contains(refused) {
        return Err(Error::KeyName { name: name.to_owned() });
    }
    Ok(())
}

/// The signature type identifier of C2SP signed-note.
const ED25519: u8 = 0x01;

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of C2SP signed-note.
    const EXAMPLE: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";

    #[test]
    fn example_of_the_specification_is_read_and_written() {
        let key = VerifierKey::parse(EXAMPLE).unwrap();
        assert_eq!(key.name(), "example.com/foo");
        assert_eq!(key.key_id(), 0x530d_903a);
        assert_eq!(key.to_string(), EXAMPLE);
    }

    #[test]
    fn other_spellings_are_refused() {
        let id = Err(Error::VerifierKeyId { expected: 0x530d_903a });
        let cases = [
            (EXAMPLE.replace("530d903a", "530D903A"), id.clone()),
            (EXAMPLE.replace("530d903a", "0530d903a"), id.clone()),
            (EXAMPLE.replace("530d903a", "530d903b"), id),
            (EXAMPLE.replace("+Aek", "+Bek"), Err(Error::VerifierKeyType { algorithm: 5 })),
            (EXAMPLE.replace("3U2k", "3U2"), Err(Error::VerifierKey)),
            (EXAMPLE.replace("AekyeRrm", "Aeky"), Err(Error::VerifierKey)),
            (EXAMPLE.replace("+Aek", "+"), Err(Error::VerifierKey)),
            (format!("{EXAMPLE}\n"), Err(Error::VerifierKey)),
            ("example.com/foo+530d903a".into(), Err(Error::VerifierKey)),
            ("example.com/foo+530d903a+".into(), Err(Error::VerifierKey)),
            (String::new(), Err(Error::VerifierKey)),
        ];
        for (text, refused) in cases {
            assert_eq!(VerifierKey::parse(&text), refused, "{text}");
        }
    }

    #[test]
    fn key_id_depends_on_the_name() {
        let renamed = EXAMPLE.replace("foo", "bar");
        assert!(matches!(VerifierKey::parse(&renamed), Err(Error::VerifierKeyId { .. })));
    }

    #[test]
    fn names_without_a_place_in_a_note_are_refused() {
        for name in ["", "a b", "a+b", "a\nb", "a\u{a0}b", "a\u{1}b"] {
            let refused = Err(Error::KeyName { name: name.into() });
            assert_eq!(VerifierKey::ed25519(name, &[7; 32]), refused);
        }
    }
}

//! What of the database only this CA can have written: seals by a key that is not in it.
//!
//! The head's seal covers everything that decides what the log is and what follows from it: its
//! size and root, its time, how many events fold and which (a chain over their places and leaf
//! hashes), the policy in force, and how far leaves are accounted for. Each commit writes it in its
//! own transaction, each read of the head verifies it. A token's seal covers what its event said,
//! that of a named request what it is answered by.
//!
//! Trust: the key lies sealed in `keys/head.key`. Whoever writes to the database alone can put back
//! an older state that was ours, and nothing else.

use aws_lc_rs::hmac;
use tlog::{Hash, leaf_hash};

use crate::sequencer::{Head, IdempotencyKey, KeptRequest, TokenDraft};
use crate::signer::file::FileSigner;

/// The key by which the head is sealed.
#[derive(Clone)]
pub struct HeadKey(hmac::Key);

impl HeadKey {
    /// Derives it from an Ed25519 key that signs nothing else: its signatures are deterministic, and
    /// nobody has seen one.
    pub(crate) fn of(signer: &FileSigner) -> Option<Self> {
        let secret = signer.derive(DERIVATION)?;
        Some(Self(hmac::Key::new(hmac::HMAC_SHA256, &*secret)))
    }

    pub(crate) fn seal_head(&self, log: i64, head: &Head) -> Hash {
        self.seal(&head_text(log, head))
    }

    pub(crate) fn sealed_head(&self, log: i64, head: &Head, seal: &[u8]) -> bool {
        hmac::verify(&self.0, &head_text(log, head), seal).is_ok()
    }

    pub(crate) fn seal_token(&self, token: &TokenDraft, log_index: u64) -> Hash {
        self.seal(&token_text(token, log_index))
    }

    pub(crate) fn sealed_token(&self, token: &TokenDraft, log_index: u64, seal: &[u8]) -> bool {
        hmac::verify(&self.0, &token_text(token, log_index), seal).is_ok()
    }

    pub(crate) fn seal_request(
        &self,
        principal: &str,
        name: &str,
        kept: &KeptRequest,
        at: u64,
    ) -> Hash {
        self.seal(&request_text(principal, name, kept, at))
    }

    pub(crate) fn sealed_request(
        &self,
        principal: &str,
        name: &str,
        kept: &KeptRequest,
        at: u64,
        seal: &[u8],
    ) -> bool {
        hmac::verify(&self.0, &request_text(principal, name, kept, at), seal).is_ok()
    }

    /// The secret of a token whose request was named: whoever asks again is given it again, and it
    /// is kept nowhere. RFC 5869 §2.3, one block of HKDF-Expand.
    pub(crate) fn token_secret(&self, named: &IdempotencyKey, token_id: &str) -> [u8; 32] {
        let IdempotencyKey { principal, key, request_hash } = named;
        let texts = [principal.as_bytes(), key.as_bytes(), token_id.as_bytes()];
        let info = [&SECRET_LABEL[..], request_hash.as_bytes(), &lengths_first(&texts), &[1]];
        *self.seal(&info.concat()).as_bytes()
    }

    fn seal(&self, text: &[u8]) -> Hash {
        let tag = hmac::sign(&self.0, text);
        Hash::try_from(tag.as_ref()).expect("a tag of HMAC-SHA-256 has 32 bytes")
    }
}

impl std::fmt::Debug for HeadKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HeadKey")
    }
}

/// Before the first folding event.
pub(crate) const CHAIN_START: Hash = Hash::new([0; 32]);

/// The chain of folding events, one event longer.
pub(crate) fn chained(chain: &Hash, index: u64, entry: &Hash) -> Hash {
    Hash::of(&[&chain.as_bytes()[..], &index.to_be_bytes(), entry.as_bytes()].concat())
}

/// The same, for an entry's bytes.
pub(crate) fn chained_entry(chain: &Hash, index: u64, bytes: &[u8]) -> Hash {
    chained(chain, index, &leaf_hash(bytes))
}

/// Every field has a fixed width, so no two heads have one text.
fn head_text(log: i64, head: &Head) -> Vec<u8> {
    [
        &HEAD_LABEL[..],
        &log.to_be_bytes(),
        &head.edge.size().to_be_bytes(),
        head.edge.root().as_bytes(),
        &head.at.to_be_bytes(),
        &head.revocation_epoch.to_be_bytes(),
        head.policy_hash.as_bytes(),
        &head.swept.to_be_bytes(),
        head.chain.as_bytes(),
    ]
    .concat()
}

/// The two texts of no fixed width come last, the first of them with its length.
fn token_text(token: &TokenDraft, log_index: u64) -> Vec<u8> {
    let key = token.key_hash.map_or([0; 32], |hash| *hash.as_bytes());
    [
        &TOKEN_LABEL[..],
        token.hash.as_bytes(),
        &token.expires_at.to_be_bytes(),
        &log_index.to_be_bytes(),
        &[u8::from(token.key_hash.is_some())],
        &key,
        &(token.id.len() as u64).to_be_bytes(),
        token.id.as_bytes(),
        token.spiffe_id.as_str().as_bytes(),
    ]
    .concat()
}

fn request_text(principal: &str, name: &str, kept: &KeptRequest, at: u64) -> Vec<u8> {
    let texts = [principal.as_bytes(), name.as_bytes(), kept.answer.as_bytes()];
    [
        &REQUEST_LABEL[..],
        kept.request_hash.as_bytes(),
        &[u8::from(kept.place.is_some())],
        &kept.place.unwrap_or_default().to_be_bytes(),
        &at.to_be_bytes(),
        &lengths_first(&texts),
    ]
    .concat()
}

/// Texts of no fixed width, so that no two rows have one text.
fn lengths_first(texts: &[&[u8]]) -> Vec<u8> {
    let lengths = texts.iter().flat_map(|text| (text.len() as u64).to_be_bytes());
    lengths.chain(texts.iter().flat_map(|text| text.iter().copied())).collect()
}

const DERIVATION: &[u8] = b"countersign/head-key/v1";
const HEAD_LABEL: &[u8; 20] = b"countersign/head/v1\n";
const TOKEN_LABEL: &[u8; 21] = b"countersign/token/v1\n";
const REQUEST_LABEL: &[u8; 23] = b"countersign/request/v1\n";
const SECRET_LABEL: &[u8; 28] = b"countersign/token-secret/v1\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn key(secret: u8) -> HeadKey {
        HeadKey(hmac::Key::new(hmac::HMAC_SHA256, &[secret; 32]))
    }

    #[test]
    fn a_seal_is_broken_by_any_field_another_log_and_another_key() {
        let head = Head::empty();
        let seal = key(1).seal_head(1, &head);
        assert!(key(1).sealed_head(1, &head, seal.as_bytes()));
        let mut longer = head.edge.clone();
        longer.push(Hash::new([7; 32]));
        for other in [
            Head { edge: longer, ..head.clone() },
            Head { at: 1, ..head.clone() },
            Head { revocation_epoch: 1, ..head.clone() },
            Head { policy_hash: Hash::new([1; 32]), ..head.clone() },
            Head { swept: 1, ..head.clone() },
            Head { chain: Hash::new([1; 32]), ..head.clone() },
        ] {
            assert!(!key(1).sealed_head(1, &other, seal.as_bytes()), "{other:?}");
        }
        assert!(!key(1).sealed_head(2, &head, seal.as_bytes()));
        assert!(!key(2).sealed_head(1, &head, seal.as_bytes()));
        assert!(!key(1).sealed_head(1, &head, b""));
    }
}

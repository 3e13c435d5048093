//! What of the database only this CA can have written: seals by a key that is not in it.
//!
//! The head's seal covers everything that decides what the log is and what follows from it: its
//! size and root, its time, how many events fold and which (a chain over their places and leaf
//! hashes), the policy in force, and how far leaves are accounted for. Each commit writes it in its
//! own transaction, each read of the head verifies it. A token's seal covers what its event said,
//! that of a named request what it is answered by, that of a certificate's record all of it: what a
//! renewal is judged by stands nowhere else.
//!
//! Trust: the key lies sealed in `keys/head.key`. Whoever writes to the database alone can put back
//! an older state that was ours, and nothing else.

use aws_lc_rs::hmac;
use identity::SerialNumber;
use tlog::Hash;

use crate::sequencer::{CertificateMember, Head, IdempotencyKey, KeptRequest, Record, TokenDraft};
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

    /// As heads were sealed before: for what is brought up to date, and nothing else.
    pub(crate) fn sealed_head_of_before(
        &self,
        form: HeadForm,
        log: i64,
        head: &Head,
        seal: &[u8],
    ) -> bool {
        hmac::verify(&self.0, &head_fields(form.label(), log, head), seal).is_ok()
    }

    /// Of what is kept beside the database, by its text.
    pub(crate) fn seal_kept_head(&self, text: &[u8]) -> Hash {
        self.seal(&[&KEPT_HEAD_LABEL[..], text].concat())
    }

    pub(crate) fn sealed_kept_head(&self, text: &[u8], seal: &[u8]) -> bool {
        hmac::verify(&self.0, &[&KEPT_HEAD_LABEL[..], text].concat(), seal).is_ok()
    }

    #[cfg(test)]
    pub(crate) fn of_secret(secret: u8) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &[secret; 32]))
    }

    #[cfg(any(test, feature = "test-seams"))]
    pub(crate) fn seal_head_as_before(&self, form: HeadForm, log: i64, head: &Head) -> Hash {
        self.seal(&head_fields(form.label(), log, head))
    }

    pub(crate) fn seal_record(&self, record: &SealedRecord<'_>) -> Hash {
        self.seal(&record.text())
    }

    pub(crate) fn sealed_record(&self, record: &SealedRecord<'_>, seal: &[u8]) -> bool {
        hmac::verify(&self.0, &record.text(), seal).is_ok()
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

/// How heads were sealed by versions of before. What else was sealed, or stood in the log, changed with it:
/// a store of today is never taken for one of them, whatever it says of its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadForm {
    /// Before records were sealed.
    V1,
    /// Before the log told all that renewals are decided by.
    V2,
}

impl HeadForm {
    fn label(self) -> &'static [u8; 20] {
        match self {
            Self::V1 => b"countersign/head/v1\n",
            Self::V2 => b"countersign/head/v2\n",
        }
    }
}

/// What the seal of a certificate's record covers.
#[derive(Debug)]
pub(crate) struct SealedRecord<'a> {
    pub(crate) leaf_index: u64,
    pub(crate) issued_at: u64,
    pub(crate) issuer_key_hash: &'a Hash,
    pub(crate) serial_number: &'a SerialNumber,
    pub(crate) spiffe_id: &'a str,
    pub(crate) profile: &'a str,
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    pub(crate) request_hash: &'a Hash,
    pub(crate) facts: &'a str,
}

impl<'a> SealedRecord<'a> {
    pub(crate) fn of(record: &'a Record) -> Self {
        Self {
            leaf_index: record.leaf_index,
            issued_at: record.issued_at,
            issuer_key_hash: &record.issuer_key_hash,
            serial_number: &record.serial_number,
            spiffe_id: record.spiffe_id.as_str(),
            profile: &record.profile,
            not_before: record.not_before,
            not_after: record.not_after,
            request_hash: &record.request_hash,
            facts: &record.facts,
        }
    }

    /// Of what is about to be written at this place, and when it was logged.
    pub(crate) fn of_member(
        member: &'a CertificateMember,
        leaf_index: u64,
        issued_at: u64,
    ) -> Self {
        let draft = &member.record;
        Self {
            leaf_index,
            issued_at,
            issuer_key_hash: &member.issuer_key_hash,
            serial_number: &draft.serial_number,
            spiffe_id: draft.spiffe_id.as_str(),
            profile: &draft.profile,
            not_before: draft.not_before,
            not_after: draft.not_after,
            request_hash: &draft.request_hash,
            facts: &draft.facts,
        }
    }

    fn text(&self) -> Vec<u8> {
        let texts = [
            self.serial_number.as_octets(),
            self.spiffe_id.as_bytes(),
            self.profile.as_bytes(),
            self.facts.as_bytes(),
        ];
        [
            &RECORD_LABEL[..],
            &self.leaf_index.to_be_bytes(),
            &self.issued_at.to_be_bytes(),
            self.issuer_key_hash.as_bytes(),
            &self.not_before.to_be_bytes(),
            &self.not_after.to_be_bytes(),
            self.request_hash.as_bytes(),
            &lengths_first(&texts),
        ]
        .concat()
    }
}

fn head_text(log: i64, head: &Head) -> Vec<u8> {
    head_fields(HEAD_LABEL, log, head)
}

/// Every field has a fixed width, so no two heads have one text.
fn head_fields(label: &[u8; 20], log: i64, head: &Head) -> Vec<u8> {
    [
        &label[..],
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
/// Another than that of before: nobody has a store whose records are sealed taken for an older one,
/// to have its records sealed anew.
const HEAD_LABEL: &[u8; 20] = b"countersign/head/v3\n";
const KEPT_HEAD_LABEL: &[u8; 25] = b"countersign/kept-head/v1\n";
const RECORD_LABEL: &[u8; 22] = b"countersign/record/v1\n";
const TOKEN_LABEL: &[u8; 21] = b"countersign/token/v1\n";
const REQUEST_LABEL: &[u8; 23] = b"countersign/request/v1\n";
const SECRET_LABEL: &[u8; 28] = b"countersign/token-secret/v1\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_is_broken_by_any_field_another_log_and_another_key() {
        let head = Head::empty();
        let seal = HeadKey::of_secret(1).seal_head(1, &head);
        assert!(HeadKey::of_secret(1).sealed_head(1, &head, seal.as_bytes()));
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
            assert!(!HeadKey::of_secret(1).sealed_head(1, &other, seal.as_bytes()), "{other:?}");
        }
        assert!(!HeadKey::of_secret(1).sealed_head(2, &head, seal.as_bytes()));
        assert!(!HeadKey::of_secret(2).sealed_head(1, &head, seal.as_bytes()));
        assert!(!HeadKey::of_secret(1).sealed_head(1, &head, b""));
    }
}

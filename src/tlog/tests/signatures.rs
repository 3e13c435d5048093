//! Countersignatures and notes, with keys made in the test.

#![allow(clippy::unwrap_used, reason = "clippy takes the helpers of a test for product code")]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use tlog::{
    CertificateLeaf, Checkpoint, Error, Hash, SignedCertificateTimestamp, SignedNote, VerifierKey,
    ecdsa_key_id, empty_root, leaf_hash, log_id,
};

#[test]
fn countersignature_over_the_leaf_verifies() {
    let key = P256::new();
    let sct = key.countersign(&leaf());
    assert_eq!(leaf().verify_countersignature(&sct, &key.spki), Ok(()));
}

#[test]
fn countersignature_over_another_leaf_is_refused() {
    let key = P256::new();
    let sct = key.countersign(&leaf());
    let refused = Err(Error::CountersignatureInvalid { log_id: log_id(&key.spki) });
    let other_tbs = CertificateLeaf { tbs_certificate: vec![8], ..leaf() };
    assert_eq!(other_tbs.verify_countersignature(&sct, &key.spki), refused);
    let other_issuer = CertificateLeaf { issuer_key_hash: empty_root(), ..leaf() };
    assert_eq!(other_issuer.verify_countersignature(&sct, &key.spki), refused);
}

#[test]
fn countersignature_of_another_key_is_refused() {
    let (key, other) = (P256::new(), P256::new());
    let sct = other.countersign(&leaf());
    let (expected, found) = (log_id(&key.spki), log_id(&other.spki));
    let refused = Err(Error::CountersignatureKey { expected, found });
    assert_eq!(leaf().verify_countersignature(&sct, &key.spki), refused);

    let posing = SignedCertificateTimestamp { log_id: expected, ..sct };
    let refused = Err(Error::CountersignatureInvalid { log_id: expected });
    assert_eq!(leaf().verify_countersignature(&posing, &key.spki), refused);
}

#[test]
fn countersignature_for_another_time_or_place_is_refused() {
    let key = P256::new();
    let sct = key.countersign(&leaf());
    let later = CertificateLeaf { timestamp: 8, ..leaf() };
    let refused = Err(Error::CountersignatureTimestamp { leaf: 8, sct: 7 });
    assert_eq!(later.verify_countersignature(&sct, &key.spki), refused);
    let elsewhere = CertificateLeaf { leaf_index: 3, ..leaf() };
    let refused = Err(Error::CountersignatureIndex { leaf: 3, sct: 2 });
    assert_eq!(elsewhere.verify_countersignature(&sct, &key.spki), refused);
}

#[test]
fn key_of_another_kind_is_refused() {
    let key = P256::new();
    let sct = key.countersign(&leaf());
    let refused = leaf().verify_countersignature(&sct, &key.spki[1..]);
    assert_eq!(refused, Err(Error::P256Key));
    assert_eq!(note().verify_ecdsa("a", &[]), Err(Error::P256Key));
}

#[test]
fn note_verifies_for_each_of_its_signers() {
    let (a, b, c) = (Ed25519::new("a"), Ed25519::new("b"), P256::new());
    let note = c.sign_note(b.sign(a.sign(note())), "c");
    let note = SignedNote::parse(&note.encode()).unwrap();
    assert_eq!(note.verify(&a.verifier), Ok(()));
    assert_eq!(note.verify(&b.verifier), Ok(()));
    assert_eq!(note.verify_ecdsa("c", &c.spki), Ok(()));
}

#[test]
fn note_that_a_key_did_not_sign_is_refused() {
    let (a, same_name, c) = (Ed25519::new("a"), Ed25519::new("a"), P256::new());
    let note = a.sign(note());
    let missing =
        |name: &str, key_id| Err(Error::NoteSignatureMissing { name: name.to_owned(), key_id });
    let key_id = same_name.verifier.key_id();
    assert_eq!(note.verify(&same_name.verifier), missing("a", key_id));
    assert_eq!(note.verify_ecdsa("a", &c.spki), missing("a", ecdsa_key_id(&c.spki)));

    let note = c.sign_note(note, "c");
    assert_eq!(note.verify_ecdsa("d", &c.spki), missing("d", ecdsa_key_id(&c.spki)));
}

#[test]
fn note_with_a_signature_over_another_text_is_refused() {
    let (a, c) = (Ed25519::new("a"), P256::new());
    let signed = c.sign_note(a.sign(note()), "c").encode();
    let changed = String::from_utf8(signed).unwrap().replace("text", "tent");
    let changed = SignedNote::parse(changed.as_bytes()).unwrap();
    assert_eq!(changed.verify(&a.verifier), Err(invalid("a", a.verifier.key_id())));
    assert_eq!(changed.verify_ecdsa("c", &c.spki), Err(invalid("c", ecdsa_key_id(&c.spki))));
}

#[test]
fn one_bad_signature_of_a_known_key_refuses_the_note() {
    let a = Ed25519::new("a");
    let key_id = a.verifier.key_id();
    let bad_first = a.sign(note().with_signature("a", key_id, &[0; 64]).unwrap());
    assert_eq!(bad_first.verify(&a.verifier), Err(invalid("a", key_id)));
    let bad_last = a.sign(note()).with_signature("a", key_id, &[0; 64]).unwrap();
    assert_eq!(bad_last.verify(&a.verifier), Err(invalid("a", key_id)));
}

#[test]
fn signatures_of_unknown_keys_are_ignored() {
    let a = Ed25519::new("a");
    let key_id = a.verifier.key_id();
    let note = note().with_signature("a", !key_id, &[0]).unwrap();
    let note = a.sign(note.with_signature("b", key_id, &[0]).unwrap());
    assert_eq!(note.verify(&a.verifier), Ok(()));
}

#[test]
fn checkpoint_verifies_under_its_key_and_origin() {
    let key = Ed25519::new("pay.example/log");
    let root = leaf_hash(b"{}");
    let checkpoint = Checkpoint { origin: "pay.example/log".into(), size: 1, root };
    let note = key.sign(SignedNote::unsigned(checkpoint.text()).unwrap()).encode();
    let verified = Checkpoint::verify(&note, "pay.example/log", &key.verifier);
    assert_eq!(verified, Ok(checkpoint));
    assert!(Checkpoint::verify(&note, "pay.example", &key.verifier).is_err());
    let other = Ed25519::new("pay.example/log");
    assert!(Checkpoint::verify(&note, "pay.example/log", &other.verifier).is_err());
}

#[test]
fn signed_note_that_is_no_checkpoint_is_refused() {
    let key = Ed25519::new("a");
    let refused = Checkpoint::verify(&key.sign(note()).encode(), "text", &key.verifier);
    assert_eq!(refused, Err(Error::CheckpointLines));
}

struct P256 {
    pair: EcdsaKeyPair,
    spki: Vec<u8>,
}

impl P256 {
    fn new() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let algorithm =
            hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").unwrap();
        let spki = [&algorithm, pair.public_key().as_ref()].concat();
        Self { pair, spki }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    }

    fn countersign(&self, leaf: &CertificateLeaf) -> SignedCertificateTimestamp {
        SignedCertificateTimestamp {
            log_id: log_id(&self.spki),
            timestamp: leaf.timestamp,
            leaf_index: leaf.leaf_index,
            signature: self.sign(&leaf.encode().unwrap()),
        }
    }

    fn sign_note(&self, note: SignedNote, name: &str) -> SignedNote {
        let signature = self.sign(note.text().as_bytes());
        note.with_signature(name, ecdsa_key_id(&self.spki), &signature).unwrap()
    }
}

struct Ed25519 {
    pair: Ed25519KeyPair,
    verifier: VerifierKey,
}

impl Ed25519 {
    fn new(name: &str) -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let key = pair.public_key().as_ref().try_into().unwrap();
        Self { verifier: VerifierKey::ed25519(name, key).unwrap(), pair }
    }

    fn sign(&self, note: SignedNote) -> SignedNote {
        let signature = self.pair.sign(note.text().as_bytes());
        let (name, key_id) = (self.verifier.name(), self.verifier.key_id());
        note.with_signature(name, key_id, signature.as_ref()).unwrap()
    }
}

fn leaf() -> CertificateLeaf {
    CertificateLeaf {
        timestamp: 7,
        issuer_key_hash: Hash::of(b"issuer key"),
        tbs_certificate: vec![7; 100],
        leaf_index: 2,
    }
}

fn note() -> SignedNote {
    SignedNote::unsigned("text\n").unwrap()
}

fn invalid(name: &str, key_id: u32) -> Error {
    Error::NoteSignatureInvalid { name: name.to_owned(), key_id }
}

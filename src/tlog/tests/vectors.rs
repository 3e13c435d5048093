//! A certificate and its log made by other people's tools: Google's certificate-transparency
//! library and Go's sumdb (`tests/vectors`).

#![allow(clippy::unwrap_used, reason = "clippy takes the helpers of a test for product code")]

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tlog::{
    CertificateLeaf, Checkpoint, EntryKind, Error, Hash, SignedNote, Subtree, Tile, TreeEdge,
    VerifierKey, entry_kind, inclusion_proof, join_certificate, leaf_hash, parse_bundle, splice_in,
    splice_out, split_certificate, subtree_hash_in_tile, verify_inclusion,
};

#[test]
fn countersignature_of_the_certificate_verifies() {
    let (leaf, sct) = CertificateLeaf::from_certificate(&certificate(), &issuer()).unwrap();
    assert_eq!(leaf.leaf_index, 2);
    assert_eq!(leaf.verify_countersignature(&sct, &log_key()), Ok(()));
}

#[test]
fn leaf_rebuilt_from_the_certificate_is_the_logged_entry() {
    let (leaf, sct) = CertificateLeaf::from_certificate(&certificate(), &issuer()).unwrap();
    let entries = parse_bundle(BUNDLE).unwrap();
    let logged = entries[sct.leaf_index as usize];
    assert_eq!(leaf.encode().unwrap(), logged);
    assert_eq!(CertificateLeaf::parse(logged), Ok(leaf));
}

#[test]
fn entries_are_three_events_and_a_leaf() {
    let kinds: Vec<_> = parse_bundle(BUNDLE).unwrap().into_iter().map(entry_kind).collect();
    let (event, leaf) = (Some(EntryKind::Event), Some(EntryKind::Leaf));
    assert_eq!(kinds, [event, event, leaf, event]);
}

#[test]
fn entries_have_the_root_of_the_checkpoint() {
    let checkpoint = Checkpoint::verify(CHECKPOINT, "pay.example/log", &checkpoint_key()).unwrap();
    let mut edge = TreeEdge::new();
    for entry in parse_bundle(BUNDLE).unwrap() {
        edge.push(leaf_hash(entry));
    }
    assert_eq!((edge.size(), edge.root()), (checkpoint.size, checkpoint.root));
}

#[test]
fn inclusion_is_proven_from_the_tile() {
    let checkpoint = Checkpoint::verify(CHECKPOINT, "pay.example/log", &checkpoint_key()).unwrap();
    let (leaf, sct) = CertificateLeaf::from_certificate(&certificate(), &issuer()).unwrap();
    let read = |subtree: Subtree| {
        assert_eq!(Tile::holding(subtree, 4)?.path(), "tile/0/000.p/4");
        subtree_hash_in_tile(TILE, subtree)
    };
    let proof = inclusion_proof(sct.leaf_index, checkpoint.size, read).unwrap();
    let hash = leaf_hash(&leaf.encode().unwrap());
    let (size, root) = (checkpoint.size, checkpoint.root);
    assert_eq!(verify_inclusion(&hash, sct.leaf_index, size, &root, &proof), Ok(()));
}

#[test]
fn splicing_and_splitting_give_the_same_certificate_again() {
    let certificate = certificate();
    let parts = split_certificate(&certificate).unwrap();
    let (bare, sct) = splice_out(parts.tbs).unwrap();
    assert_eq!(splice_in(&bare, &sct).unwrap(), parts.tbs);
    let joined = join_certificate(parts.tbs, parts.signature_algorithm, parts.signature);
    assert_eq!(joined, certificate);
}

#[test]
fn no_bit_of_the_countersigned_certificate_can_change() {
    let certificate = certificate();
    let parts = split_certificate(&certificate).unwrap();
    for bit in 0..8 * parts.tbs.len() {
        let mut tbs = parts.tbs.to_vec();
        tbs[bit / 8] ^= 1 << (bit % 8);
        let changed = join_certificate(&tbs, parts.signature_algorithm, parts.signature);
        let verified = CertificateLeaf::from_certificate(&changed, &issuer())
            .and_then(|(leaf, sct)| leaf.verify_countersignature(&sct, &log_key()));
        assert!(verified.is_err(), "bit {bit}");
    }
}

#[test]
fn another_issuer_or_log_key_is_refused() {
    let (_, sct) = CertificateLeaf::from_certificate(&certificate(), &issuer()).unwrap();
    let (leaf, _) = CertificateLeaf::from_certificate(&certificate(), &log_key()).unwrap();
    let refused = leaf.verify_countersignature(&sct, &log_key());
    assert_eq!(refused, Err(Error::CountersignatureInvalid { log_id: Hash::of(&log_key()) }));

    let refused = leaf.verify_countersignature(&sct, &issuer());
    let (expected, found) = (Hash::of(&issuer()), Hash::of(&log_key()));
    assert_eq!(refused, Err(Error::CountersignatureKey { expected, found }));
}

#[test]
fn no_bit_of_the_checkpoint_can_change() {
    for bit in 0..8 * CHECKPOINT.len() {
        let mut changed = CHECKPOINT.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        let refused = Checkpoint::verify(&changed, "pay.example/log", &checkpoint_key());
        assert!(refused.is_err(), "bit {bit}");
    }
}

#[test]
fn checkpoint_of_another_log_is_refused() {
    let refused = Checkpoint::verify(CHECKPOINT, "other.example/log", &checkpoint_key());
    let (expected, found) = ("other.example/log".into(), "pay.example/log".into());
    assert_eq!(refused, Err(Error::CheckpointOrigin { expected, found }));
}

#[test]
fn example_of_the_note_specification_verifies() {
    let key = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    let note = "This is an example message.\n\n\u{2014} example.com/foo \
        Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";
    let note = SignedNote::parse(note.as_bytes()).unwrap();
    assert_eq!(note.verify(&VerifierKey::parse(key).unwrap()), Ok(()));
}

const BUNDLE: &[u8] = include_bytes!("vectors/tile/entries/000.p/4");
const CHECKPOINT: &[u8] = include_bytes!("vectors/checkpoint");
const TILE: &[u8] = include_bytes!("vectors/tile/0/000.p/4");

fn certificate() -> Vec<u8> {
    der(include_str!("vectors/leaf.pem"))
}

/// The issuer's SubjectPublicKeyInfo: `openssl x509 -in issuer.pem -pubkey -noout`.
fn issuer() -> Vec<u8> {
    der(include_str!("vectors/issuer-spki.pem"))
}

/// The countersignature key's SubjectPublicKeyInfo.
fn log_key() -> Vec<u8> {
    der(include_str!("vectors/log.pem"))
}

fn checkpoint_key() -> VerifierKey {
    VerifierKey::parse(include_str!("vectors/vkey").trim_end()).unwrap()
}

fn der(pem: &str) -> Vec<u8> {
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    BASE64_STANDARD.decode(base64).unwrap()
}

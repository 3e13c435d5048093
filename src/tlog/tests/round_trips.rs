//! Every parser reads what its encoder writes, and takes no second spelling of it.

#![allow(clippy::unwrap_used, reason = "clippy takes the helpers of a test for product code")]

use std::fmt::Debug;
use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use tlog::{
    CertificateLeaf, Checkpoint, Error, Hash, SignedCertificateTimestamp, SignedNote, Tile,
    TileKind, VerifierKey, encode_bundle_entry, parse_bundle,
};

proptest! {
    #[test]
    fn certificate_leaf(leaf in any_leaf(), change in any_change()) {
        round_trip(leaf, change, |leaf| leaf.encode().unwrap(), CertificateLeaf::parse)?;
    }

    #[test]
    fn sct(sct in any_sct(), change in any_change()) {
        let encode = |sct: &SignedCertificateTimestamp| sct.encode().unwrap();
        round_trip(sct, change, encode, SignedCertificateTimestamp::parse)?;
    }

    #[test]
    fn note(note in any_note(), change in any_change()) {
        round_trip(note, change, SignedNote::encode, SignedNote::parse)?;
    }

    #[test]
    fn checkpoint(checkpoint in any_checkpoint(), change in any_change()) {
        let encode = |checkpoint: &Checkpoint| checkpoint.text().into_bytes();
        round_trip(checkpoint, change, encode, |bytes| Checkpoint::parse(text(bytes)?))?;
    }

    #[test]
    fn verifier_key(key in any_verifier_key(), change in any_change()) {
        let encode = |key: &VerifierKey| key.to_string().into_bytes();
        round_trip(key, change, encode, |bytes| VerifierKey::parse(text(bytes)?))?;
    }

    #[test]
    fn tile_path(tile in any_tile(), change in any_change()) {
        let encode = |tile: &Tile| tile.path().into_bytes();
        round_trip(tile, change, encode, |bytes| Tile::parse(text(bytes)?))?;
    }

    #[test]
    fn entry_bundle(entries in vec(any_bytes(0..300), 0..=256), change in any_change()) {
        round_trip(entries, change, |entries| encode_bundle(entries), owned_entries)?;
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in any_bytes(0..300)) {
        let _ = CertificateLeaf::parse(&bytes);
        let _ = SignedCertificateTimestamp::parse(&bytes);
        let _ = tlog::parse_sct_list(&bytes);
        let _ = tlog::split_certificate(&bytes);
        let _ = SignedNote::parse(&bytes);
        let _ = parse_bundle(&bytes);
    }

    #[test]
    fn arbitrary_text_does_no_harm(text in any::<String>()) {
        prop_assert!(Checkpoint::parse(&text).is_err());
        prop_assert!(VerifierKey::parse(&text).is_err());
        prop_assert!(Tile::parse(&text).is_err());
    }
}

/// Reads the encoded `value` again, then changes it: what is still read must be encoded just so.
fn round_trip<T: Debug + PartialEq>(
    value: T,
    change: Change,
    encode: impl Fn(&T) -> Vec<u8>,
    parse: impl Fn(&[u8]) -> Result<T, Error>,
) -> Result<(), TestCaseError> {
    let mut bytes = encode(&value);
    prop_assert_eq!(parse(&bytes), Ok(value));
    change.apply(&mut bytes);
    if let Ok(read) = parse(&bytes) {
        prop_assert_eq!(encode(&read), bytes);
    }
    Ok(())
}

#[derive(Clone, Debug)]
enum Change {
    Insert(Index, u8),
    Remove(Index),
    Replace(Index, u8),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Insert(position, byte) => bytes.insert(position.index(bytes.len() + 1), *byte),
            _ if bytes.is_empty() => {}
            Self::Remove(position) => drop(bytes.remove(position.index(bytes.len()))),
            Self::Replace(position, byte) => *position.get_mut(bytes) = *byte,
        }
    }
}

fn any_change() -> impl Strategy<Value = Change> {
    // Half of the bytes are those that mean something in the text formats.
    let byte = prop_oneof![any::<u8>(), prop::sample::select(&b"\n 0x/+=.A"[..])];
    prop_oneof![
        (any::<Index>(), byte.clone()).prop_map(|(position, byte)| Change::Insert(position, byte)),
        any::<Index>().prop_map(Change::Remove),
        (any::<Index>(), byte).prop_map(|(position, byte)| Change::Replace(position, byte)),
    ]
}

fn any_leaf() -> impl Strategy<Value = CertificateLeaf> {
    (any::<u64>(), any_hash(), any_bytes(1..600), any_leaf_index()).prop_map(
        |(timestamp, issuer_key_hash, tbs_certificate, leaf_index)| CertificateLeaf {
            timestamp,
            issuer_key_hash,
            tbs_certificate,
            leaf_index,
        },
    )
}

fn any_sct() -> impl Strategy<Value = SignedCertificateTimestamp> {
    (any_hash(), any::<u64>(), any_leaf_index(), any_bytes(1..73)).prop_map(
        |(log_id, timestamp, leaf_index, signature)| SignedCertificateTimestamp {
            log_id,
            timestamp,
            leaf_index,
            signature,
        },
    )
}

fn any_note() -> impl Strategy<Value = SignedNote> {
    let signature = (any_name(), any::<u32>(), any_bytes(1..80));
    ("([a-zé— ]{0,5}\n){1,5}", vec(signature, 1..5)).prop_map(|(text, signatures)| {
        let unsigned = SignedNote::unsigned(text).unwrap();
        signatures.into_iter().fold(unsigned, |note, (name, key_id, signature)| {
            note.with_signature(&name, key_id, &signature).unwrap()
        })
    })
}

fn any_checkpoint() -> impl Strategy<Value = Checkpoint> {
    (any_name(), any::<u64>(), any_hash()).prop_map(|(origin, size, root)| Checkpoint {
        origin,
        size,
        root,
    })
}

fn any_verifier_key() -> impl Strategy<Value = VerifierKey> {
    (any_name(), any::<[u8; 32]>())
        .prop_map(|(name, key)| VerifierKey::ed25519(name, &key).unwrap())
}

fn any_tile() -> impl Strategy<Value = Tile> {
    let hashes = (0u8..64).prop_map(|level| TileKind::Hashes { level });
    let kind = prop_oneof![Just(TileKind::Entries), hashes];
    let index = prop_oneof![any::<u64>(), 0u64..2_000_000];
    (kind, index, 1u16..=256)
        .prop_map(|(kind, index, width)| Tile::new(kind, index, width).unwrap())
}

fn any_name() -> impl Strategy<Value = String> {
    "[a-z]{1,8}\\.exämple/[a-z0-9]{1,8}"
}

fn any_hash() -> impl Strategy<Value = Hash> {
    any::<[u8; 32]>().prop_map(Hash::new)
}

fn any_leaf_index() -> impl Strategy<Value = u64> {
    0u64..1 << 40
}

fn any_bytes(length: Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), length)
}

fn text(bytes: &[u8]) -> Result<&str, Error> {
    str::from_utf8(bytes).map_err(|_| Error::NoteNotUtf8)
}

fn encode_bundle(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bundle = Vec::new();
    entries.iter().for_each(|entry| encode_bundle_entry(entry, &mut bundle).unwrap());
    bundle
}

fn owned_entries(bundle: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    Ok(parse_bundle(bundle)?.into_iter().map(<[u8]>::to_vec).collect())
}

//! What the fuzz targets share: keys that guard nothing, and a CA that signs what it is given.
//!
//! Signatures stop a fuzzer: it never makes one, so it never sees what is read behind one. Targets
//! of signed input therefore take what is signed, and sign it here; besides, they assert that
//! nothing signed elsewhere is believed.
//!
//! A target is one file in `src/bin`, its seeds are the folder of that name in `corpus`.

use std::fmt::Debug;
use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use data_encoding::HEXLOWER;
use identity::{
    Anchor, Countersignature, CountersignatureKey, Der, LogKey, Trust, TrustDomain, TrustState,
};
use rustls_pki_types::UnixTime;
use tlog::{CertificateLeaf, Hash, SignedCertificateTimestamp, VerifierKey};

/// Asserts that what is read of `input`, if anything, is written as `input` again.
pub fn canonical<T, E, Input: ?Sized + ToOwned<Owned: Debug + PartialEq>>(
    input: &Input,
    parse: impl Fn(&Input) -> Result<T, E>,
    encode: impl Fn(&T) -> Input::Owned,
) -> Option<T> {
    let value = parse(input).ok()?;
    assert_eq!(encode(&value), input.to_owned());
    Some(value)
}

/// The trust domain of all keys here.
pub fn trust_domain() -> TrustDomain {
    TrustDomain::parse("pay.example").expect("a constant name is valid")
}

/// The time at which chains are verified: noon of 2026-11-21, in seconds since 1970.
pub const NOW: u64 = 1_795_262_400;

/// [`NOW`], as the verifier takes it.
pub fn now() -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW))
}

/// Signs and countersigns.
pub struct Ca {
    /// Its root's certificate, which is the only anchor.
    pub root: Vec<u8>,
    /// The issuer's certificate.
    pub issuer: Vec<u8>,
    /// The only TBSCertificate that it issued, without countersignature.
    pub bare: Vec<u8>,
    /// Root and countersignature key.
    pub trust: Trust,
    /// As [`Self::trust`], but the issuer is the anchor: one signature less for each input.
    pub issuer_trust: Trust,
}

/// The CA, as it stands in the corpus: [`examples/seeds.rs`](../examples/seeds.rs) made it.
pub static CA: LazyLock<Ca> = LazyLock::new(|| {
    let chain = tlog::parse_bundle(CHAIN).expect("the seed is a chain");
    let [leaf, issuer, root] = chain[..] else { panic!("the seed has three certificates") };
    let leaf = tlog::split_certificate(leaf).expect("the seed is a certificate");
    let (bare, _) = tlog::splice_out(leaf.tbs).expect("the seed is countersigned");
    Ca {
        trust: Trust::new(trust_state(root)).expect("the root is an anchor"),
        issuer_trust: Trust::new(trust_state(issuer)).expect("the issuer can be an anchor"),
        root: root.to_vec(),
        issuer: issuer.to_vec(),
        bare,
    }
});

const CHAIN: &[u8] = include_bytes!("../corpus/chain/leaf-issuer-root");

/// A certificate with these bytes, signed by the issuer and countersigned by the log; none where
/// they have no place for a countersignature.
pub fn issue(bare: &[u8]) -> Option<Vec<u8>> {
    // Spares two signatures for most inputs.
    tlog::splice_in(bare, &SignedCertificateTimestamp::largest()).ok()?;
    let leaf = CertificateLeaf {
        timestamp: NOW * 1000,
        issuer_key_hash: Hash::of(&ed25519_spki(&ISSUER_KEY)),
        tbs_certificate: bare.to_vec(),
        leaf_index: LEAF_INDEX,
    };
    let sct = SignedCertificateTimestamp {
        log_id: tlog::log_id(&P256_SPKI),
        timestamp: leaf.timestamp,
        leaf_index: leaf.leaf_index,
        signature: p256_signature(&leaf.encode().ok()?),
    };
    let tbs = tlog::splice_in(bare, &sct).expect("the largest fitted in");
    Some(sign(&ISSUER_KEY, &tbs))
}

/// A certificate, or whatever else has this form, signed with an Ed25519 key.
pub fn sign(key: &Ed25519KeyPair, tbs: &[u8]) -> Vec<u8> {
    tlog::join_certificate(tbs, ED25519, key.sign(tbs).as_ref())
}

/// The index that [`issue`] says to have logged at.
pub const LEAF_INDEX: u64 = 7;

/// The root's key.
pub static ROOT_KEY: LazyLock<Ed25519KeyPair> = LazyLock::new(|| ed25519(ROOT_SEED));
/// The issuer's key.
pub static ISSUER_KEY: LazyLock<Ed25519KeyPair> = LazyLock::new(|| ed25519(ISSUER_SEED));
/// The key of workloads and of the log's checkpoints.
pub static OTHER_KEY: LazyLock<Ed25519KeyPair> = LazyLock::new(|| ed25519(OTHER_SEED));
/// Private keys in the form of RFC 8032.
pub const ROOT_SEED: [u8; 32] = [1; 32];
/// See [`ROOT_SEED`].
pub const ISSUER_SEED: [u8; 32] = [2; 32];
/// See [`ROOT_SEED`].
pub const OTHER_SEED: [u8; 32] = [3; 32];

fn ed25519(seed: [u8; 32]) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&seed).expect("every seed is a key")
}

/// The SubjectPublicKeyInfo of an Ed25519 key (RFC 8410 §4).
pub fn ed25519_spki(key: &Ed25519KeyPair) -> Vec<u8> {
    [&ED25519_SPKI[..], key.public_key().as_ref()].concat()
}

/// A signature of the key that countersigns certificates and signs trust states.
pub fn p256_signature(message: &[u8]) -> Vec<u8> {
    let signature = P256_KEY.sign(&SystemRandom::new(), message);
    signature.expect("the key signs everything").as_ref().to_vec()
}

/// The SubjectPublicKeyInfo of that key.
pub static P256_SPKI: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let header = HEXLOWER.decode(P256_SPKI_HEADER).expect("a constant is hexadecimal");
    [&header[..], P256_KEY.public_key().as_ref()].concat()
});

static P256_KEY: LazyLock<EcdsaKeyPair> = LazyLock::new(|| {
    let [private, public] =
        [P256_PRIVATE, P256_PUBLIC].map(|hex| HEXLOWER.decode(hex).expect("hexadecimal"));
    let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
    EcdsaKeyPair::from_private_key_and_public_key(algorithm, &private, &public)
        .expect("the key of RFC 6979")
});

/// The key of the log's checkpoints, as verifiers have it.
pub fn checkpoint_key() -> VerifierKey {
    let key = OTHER_KEY.public_key().as_ref().try_into().expect("32 octets");
    VerifierKey::ed25519(ORIGIN, &key).expect("a constant name is valid")
}

/// The log's name.
pub const ORIGIN: &str = "pay.example/log";

/// A trust state with one anchor, and [`P256_SPKI`] for everything else.
pub fn trust_state(anchor: &[u8]) -> TrustState {
    TrustState {
        v: 1,
        trust_domain: trust_domain(),
        sequence: 1,
        anchors: vec![Anchor {
            certificate: Der::new(anchor),
            countersignature: Countersignature::Required,
        }],
        countersignature_keys: vec![CountersignatureKey {
            key: Der::new(P256_SPKI.clone()),
            not_before: 0,
            not_after: None,
        }],
        log: LogKey { origin: ORIGIN.to_owned(), key: checkpoint_key().to_string() },
        feed_keys: vec![],
        trust_keys: vec![Der::new(P256_SPKI.clone())],
        threshold: 1,
    }
}

/// AlgorithmIdentifier of Ed25519 (RFC 8410 §3).
const ED25519: &[u8] = &[0x30, 5, 6, 3, 0x2b, 0x65, 0x70];
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
/// AlgorithmIdentifier of a P-256 key (RFC 5480 §2.1.1) and the header of its BIT STRING.
const P256_SPKI_HEADER: &[u8] = b"3059301306072a8648ce3d020106082a8648ce3d030107034200";
/// RFC 6979 appendix A.2.5.
const P256_PRIVATE: &[u8] = b"c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721";
const P256_PUBLIC: &[u8] = b"0460fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6\
    7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299";

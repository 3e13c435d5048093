//! What strangers send: chains in any order, superfluous certificates, broken bytes; and anchors
//! that are none.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use identity::{
    Anchor, Countersignature, Der, Error, Refusal, SvidRule, Trust, TrustState, Usage, verify,
};
use proptest::prelude::*;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use support::{Ca, Environment, trust_state};

#[test]
fn an_empty_chain_is_no_certificate() {
    assert_eq!(Environment::new().verify_chain(&[]), Err(Refusal::NoCertificate));
}

#[test]
fn the_order_behind_the_leaf_does_not_matter() {
    let mut environment = Environment::new();
    let middle = environment.root.certify("middle", |_| {});
    environment.issuer = middle.certify("issuer", |_| {});
    let leaf = environment.issue(|_| {});
    let (root, issuer) = (&environment.root.der, &environment.issuer.der);
    for rest in [
        vec![issuer, &middle.der],
        vec![&middle.der, issuer],
        vec![root, &middle.der, issuer],
        vec![&leaf, issuer, &leaf, &middle.der],
    ] {
        let chain: Vec<_> = [&leaf].into_iter().chain(rest).cloned().collect();
        assert!(environment.verify_chain(&chain).is_ok());
    }
}

#[test]
fn a_chain_with_a_gap_is_an_unknown_authority() {
    let environment = Environment::new();
    let leaf = environment.issue(|_| {});
    for rest in [vec![], vec![environment.root.der.clone()], vec![leaf.clone()]] {
        let chain: Vec<_> = [leaf.clone()].into_iter().chain(rest).collect();
        let refused = environment.verify_chain(&chain).unwrap_err();
        assert!(matches!(refused, Refusal::UnknownAuthority(_)), "{refused}");
    }
}

#[test]
fn a_chain_that_begins_with_a_ca_is_refused() {
    let environment = Environment::new();
    let (root, issuer) = (environment.root.der.clone(), environment.issuer.der.clone());
    let leaf = environment.issue(|_| {});
    for chain in [[issuer.clone(), leaf.clone()], [issuer, root.clone()], [root, leaf]] {
        let refused = Refusal::NotAnSvid(SvidRule::CertificateAuthority);
        assert_eq!(environment.verify_chain(&chain), Err(refused));
    }
}

#[test]
fn superfluous_certificates_change_nothing() {
    let environment = Environment::new();
    let kinds: [(&str, &dyn Fn() -> CertificateDer<'static>); 6] = [
        ("unrelated", &|| Ca::root("unrelated").der),
        ("issuer with the same name", &|| environment.root.certify("issuer", |_| {}).der),
        ("forged issuer", &|| Ca::root("root").certify("issuer", |_| {}).der),
        ("duplicate", &|| environment.issuer.der.clone()),
        ("anchor", &|| environment.root.der.clone()),
        ("garbage", &|| vec![0x30, 0x03, 1, 2, 3].into()),
    ];
    for (kind, make) in kinds {
        for count in [1, 4] {
            let mut chain = vec![environment.issue(|_| {})];
            chain.extend((0..count).map(|_| make()));
            chain.push(environment.issuer.der.clone());
            let verified = environment.verify_chain(&chain);
            assert!(verified.is_ok(), "{count} × {kind}: {verified:?}");
        }
    }
}

/// A path is searched among what the peer sends, and a maze costs more the larger it is.
#[test]
fn a_maze_of_certificates_is_not_even_entered() {
    let environment = Environment::new();
    let mut chain = vec![Ca::root("issuer").sign(&environment.bare(|_| {}))];
    chain.extend((0..10).map(|_| environment.issuer.certify("issuer", |_| {}).der));
    for way_out in [vec![], vec![environment.issuer.der.clone()]] {
        chain.extend(way_out);
        let refused = environment.verify_chain(&chain).unwrap_err().to_string();
        assert!(refused.contains("more than 5 intermediates"), "{refused}");
    }
}

#[test]
fn bytes_that_are_no_certificate_are_malformed() {
    let environment = Environment::new();
    let leaf = environment.issue(|_| {});
    let pem = b"-----BEGIN CERTIFICATE-----".to_vec();
    let spki = environment.issuer.spki();
    for bytes in [vec![], vec![0], vec![0x30, 0], vec![0xff; 1000], pem, spki] {
        expect_malformed(&environment, bytes);
    }
    expect_malformed(&environment, [&leaf[..], &[0]].concat());
    expect_malformed(&environment, [&leaf[..], &leaf].concat());
    for length in 0..leaf.len() {
        expect_malformed(&environment, leaf[..length].to_vec());
    }
}

#[test]
fn bytes_behind_an_issuers_certificate_make_it_none() {
    let mut environment = Environment::new();
    let leaf = environment.issue(|_| {});
    environment.issuer.der = [&environment.issuer.der[..], &[0]].concat().into();
    let refused = environment.verify(&leaf).unwrap_err();
    assert!(matches!(refused, Refusal::UnknownAuthority(_)), "{refused}");
}

/// Every bit of every byte, in the leaf and in its issuer's certificate.
#[test]
fn a_single_flipped_bit_anywhere_is_refused() {
    let environment = Environment::new();
    let chain = [environment.issue(|_| {}), environment.issuer.der.clone()];
    let (trust, now) = (environment.trust(), now());
    for flipped in 0..2 {
        for position in 0..chain[flipped].len() * 8 {
            let mut chain = chain.clone();
            let mut bytes = chain[flipped].to_vec();
            bytes[position / 8] ^= 1 << (position % 8);
            chain[flipped] = bytes.into();
            let verified = verify(&chain, Usage::Client, now, &trust, &environment.revocations);
            assert!(verified.is_err(), "certificate {flipped}, bit {position}");
        }
    }
}

proptest! {
    #[test]
    fn another_byte_anywhere_in_the_leaf_is_refused(
        position: prop::sample::Index,
        difference in 1..=255_u8,
    ) {
        let environment = Environment::new();
        let mut leaf = environment.issue(|_| {}).to_vec();
        let position = position.index(leaf.len());
        leaf[position] ^= difference;
        prop_assert!(environment.verify(&leaf.into()).is_err());
    }

    #[test]
    fn bytes_inserted_or_removed_in_the_leaf_are_refused(
        start: prop::sample::Index,
        removed in 0..40_usize,
        inserted in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let environment = Environment::new();
        let leaf = environment.issue(|_| {}).to_vec();
        let mut changed = leaf.clone();
        let start = start.index(leaf.len());
        let end = leaf.len().min(start + removed);
        changed.splice(start..end, inserted);
        prop_assume!(changed != leaf);
        prop_assert!(environment.verify(&changed.into()).is_err());
    }

    #[test]
    fn arbitrary_chains_are_refused_without_a_panic(
        chain in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..4),
    ) {
        let environment = Environment::new();
        let chain: Vec<CertificateDer<'_>> = chain.into_iter().map(Into::into).collect();
        prop_assert!(environment.verify_chain(&chain).is_err());
    }
}

#[test]
fn an_anchor_that_is_no_ca_certificate_is_refused_by_its_place() {
    let environment = Environment::new();
    let leaf = environment.issue(|_| {}).to_vec();
    let trailing = [&environment.root.der[..], &[0]].concat();
    for (certificate, expected) in [
        (leaf, "it is not a CA certificate"),
        (vec![], "it is no certificate"),
        (vec![0x30, 0], "it is no certificate"),
        (environment.root.spki(), "it is no certificate"),
        (trailing, "it is no certificate"),
    ] {
        let mut state = environment.state.clone();
        let certificate = Der::new(certificate);
        state.anchors.push(Anchor { certificate, countersignature: Countersignature::None });
        let Err(Error::Anchor { position, why }) = Trust::new(state) else {
            panic!("{expected}: taken")
        };
        assert_eq!((position, &*why), (1, expected));
    }
}

#[test]
fn an_anchor_whose_key_usage_is_not_to_sign_certificates_is_refused() {
    let mut environment = Environment::new();
    let anchor = environment.root.certify("root", |params| {
        params.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign];
    });
    environment.state.anchors = vec![anchor.anchor(Countersignature::Required)];
    let refused = Trust::new(environment.state).unwrap_err().to_string();
    assert!(refused.contains("its key usage is not to sign certificates"), "{refused}");
}

/// Made with Google's and Go's libraries (see the README beside the data).
#[test]
fn a_certificate_that_others_made_and_countersigned_is_believed() {
    let issuer = vector("issuer.pem");
    let anchor = Anchor {
        certificate: Der::new(issuer.to_vec()),
        countersignature: Countersignature::Required,
    };
    let log = rcgen::SubjectPublicKeyInfo::from_pem(&text("log.pem")).unwrap();
    let log = rcgen::PublicKeyData::subject_public_key_info(&log);
    let state = trust_state(vec![anchor], &log);
    let leaf = vector("leaf.pem");

    let svid = verify_vector(state.clone(), &leaf).unwrap();
    assert_eq!(svid.spiffe_id().as_str(), "spiffe://pay.example/prod/reports");
    assert_eq!(svid.leaf_index(), Some(2));
    assert_eq!(svid.serial_number().to_string(), "4d");

    let mut other_log = state;
    other_log.countersignature_keys[0].key = Der::new(Ca::root("log").spki());
    assert!(matches!(verify_vector(other_log, &leaf), Err(Refusal::NotCountersigned(_))));
}

fn verify_vector(
    state: TrustState,
    leaf: &CertificateDer<'_>,
) -> Result<identity::VerifiedSvid, Refusal> {
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_795_262_400));
    let trust = Trust::new(state).unwrap();
    verify(std::slice::from_ref(leaf), Usage::Server, now, &trust, &Default::default())
}

fn vector(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(text(name).as_bytes()).unwrap()
}

fn text(name: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tlog/tests/vectors/");
    std::fs::read_to_string(format!("{folder}{name}")).unwrap()
}

fn now() -> UnixTime {
    let seconds = support::NOW.unix_timestamp() as u64;
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
}

fn expect_malformed(environment: &Environment, bytes: Vec<u8>) {
    let refused = Refusal::NotAnSvid(SvidRule::Malformed);
    assert_eq!(environment.verify(&bytes.into()), Err(refused));
}

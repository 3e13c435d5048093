//! P2, two keys to make an identity: the CA key alone makes none.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use identity::{Countersignature, CountersignatureKey, CountersignatureRule, Der, Refusal};
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use rustls_pki_types::CertificateDer;
use support::der::{Tbs, element, elements, value};
use support::{Ca, Environment, LEAF_INDEX, NOW_MS, countersign, leaf_of, leaf_params, uri};
use tlog::{CertificateLeaf, SignedCertificateTimestamp, sct_list_extension, splice_in};

#[test]
fn a_certificate_by_the_ca_key_alone_is_refused() {
    let environment = Environment::new();
    let leaf = environment.issuer.sign(&environment.bare(|_| {}));
    expect_absent(&environment, &leaf);
}

#[test]
fn a_countersignature_of_another_certificate_is_refused() {
    let environment = Environment::new();
    let other = environment.bare(|params| {
        params.subject_alt_names = vec![uri("spiffe://pay.example/prod/monolith")];
    });
    expect(&environment, &environment.sct(&other), CountersignatureRule::Signature);
    // One bit of the serial number is enough to be another.
    let sibling =
        environment.bare(|params| params.serial_number = Some(vec![0x4d, 1, 2, 2].into()));
    expect(&environment, &environment.sct(&sibling), CountersignatureRule::Signature);
}

#[test]
fn a_countersignature_by_an_unknown_key_is_refused() {
    let environment = Environment::new();
    let thief = KeyPair::generate().unwrap();
    let sct = countersign(&thief, &leaf(&environment));
    expect(&environment, &sct, CountersignatureRule::UnknownKey);
}

#[test]
fn a_countersignature_in_the_name_of_a_known_key_is_refused() {
    let environment = Environment::new();
    let thief = KeyPair::generate().unwrap();
    let log_id = tlog::log_id(&environment.log.subject_public_key_info());
    for forger in [&thief, &environment.issuer.key, &environment.leaf_key] {
        let sct = SignedCertificateTimestamp { log_id, ..countersign(forger, &leaf(&environment)) };
        expect(&environment, &sct, CountersignatureRule::Signature);
    }
}

#[test]
fn a_countersignature_outside_its_keys_time_is_refused() {
    let mut environment = Environment::new();
    let leaf = environment.issue(|_| {});
    for (not_before, not_after, in_use) in [
        (NOW_MS, None, true),
        (NOW_MS + 1, None, false),
        (0, Some(NOW_MS + 1), true),
        (0, Some(NOW_MS), false),
        (0, Some(NOW_MS - 1), false),
        (NOW_MS, Some(NOW_MS), false),
    ] {
        let key = &mut environment.state.countersignature_keys[0];
        (key.not_before, key.not_after) = (not_before, not_after);
        let refused = Refusal::NotCountersigned(CountersignatureRule::KeyNotInUse);
        let expected = if in_use { Ok(()) } else { Err(refused) };
        assert_eq!(environment.verify(&leaf).map(drop), expected, "{not_before} {not_after:?}");
    }
}

#[test]
fn a_retired_key_still_counts_for_what_it_countersigned_in_its_time() {
    let mut environment = Environment::new();
    let old = environment.issue(|_| {});
    let retired = std::mem::replace(&mut environment.log, KeyPair::generate().unwrap());
    environment.state.countersignature_keys[0].not_after = Some(NOW_MS + 1);
    environment.state.countersignature_keys.push(CountersignatureKey {
        key: Der::new(environment.log.subject_public_key_info()),
        not_before: NOW_MS,
        not_after: None,
    });
    assert!(environment.verify(&old).is_ok());
    assert!(environment.verify(&environment.issue(|_| {})).is_ok());
    let late = CertificateLeaf {
        timestamp: NOW_MS + 1,
        ..leaf_of(&environment.bare(|_| {}), &environment.issuer)
    };
    expect(&environment, &countersign(&retired, &late), CountersignatureRule::KeyNotInUse);
}

#[test]
fn a_countersignature_that_stands_twice_is_refused() {
    let environment = Environment::new();
    let bare = environment.bare(|_| {});
    let list = sct_list_extension(&environment.sct(&bare)).unwrap();
    let mut tbs = Tbs::parse(&bare);
    tbs.extensions.extend([list.clone(), list]);
    expect_absent(&environment, &environment.issuer.sign(&tbs.encode()));
}

#[test]
fn a_countersignature_that_is_not_the_last_extension_is_refused() {
    let environment = Environment::new();
    let bare = environment.bare(|_| {});
    let list = sct_list_extension(&environment.sct(&bare)).unwrap();
    for position in 0..Tbs::parse(&bare).extensions.len() {
        let mut tbs = Tbs::parse(&bare);
        tbs.extensions.insert(position, list.clone());
        expect_absent(&environment, &environment.issuer.sign(&tbs.encode()));
    }
}

#[test]
fn a_critical_countersignature_is_refused() {
    let environment = Environment::new();
    let bare = environment.bare(|_| {});
    let list = sct_list_extension(&environment.sct(&bare)).unwrap();
    let [oid, octets] = &elements(value(&list))[..] else { panic!("an OID and its value") };
    let mut tbs = Tbs::parse(&bare);
    tbs.extensions.push(element(0x30, &[oid, &[1, 1, 0xff], octets]));
    assert!(environment.verify(&environment.issuer.sign(&tbs.encode())).is_err());
}

#[test]
fn two_countersignatures_in_one_list_are_refused() {
    let environment = Environment::new();
    let bare = environment.bare(|_| {});
    let sct = environment.sct(&bare).encode().unwrap();
    let one = [&(sct.len() as u16).to_be_bytes()[..], &sct].concat();
    for (scts, believed) in
        [(one.clone(), true), ([&one[..], &one].concat(), false), (vec![], false)]
    {
        let list = [&(scts.len() as u16).to_be_bytes()[..], &scts].concat();
        let octets = element(0x04, &[&element(0x04, &[&list])]);
        let mut tbs = Tbs::parse(&bare);
        tbs.extensions.push(element(0x30, &[SCT_LIST, &octets]));
        let verified = environment.verify(&environment.issuer.sign(&tbs.encode()));
        assert_eq!(verified.is_ok(), believed, "{verified:?}");
    }
}

#[test]
fn a_tampered_time_or_place_is_refused() {
    let environment = Environment::new();
    let sct = environment.sct(&environment.bare(|_| {}));
    for (timestamp, rule) in [
        (0, CountersignatureRule::Signature),
        (NOW_MS - 1, CountersignatureRule::Signature),
        (NOW_MS + 1, CountersignatureRule::Signature),
        (NOW_MS + 61_000, CountersignatureRule::Future),
        (u64::MAX, CountersignatureRule::Future),
    ] {
        let tampered = SignedCertificateTimestamp { timestamp, ..sct.clone() };
        expect(&environment, &tampered, rule);
    }
    for leaf_index in [0, LEAF_INDEX - 1, LEAF_INDEX + 1, (1 << 40) - 1] {
        let tampered = SignedCertificateTimestamp { leaf_index, ..sct.clone() };
        expect(&environment, &tampered, CountersignatureRule::Signature);
    }
}

#[test]
fn an_empty_or_broken_signature_is_refused() {
    let environment = Environment::new();
    let sct = environment.sct(&environment.bare(|_| {}));
    let longer = [&sct.signature[..], &[0]].concat();
    let raw = vec![7; 64];
    for signature in [vec![0], vec![0x30, 0], sct.signature[1..].to_vec(), longer, raw] {
        let broken = SignedCertificateTimestamp { signature, ..sct.clone() };
        if broken.encode().is_ok() {
            expect(&environment, &broken, CountersignatureRule::Signature);
        }
    }
}

/// The log signs the hash of the issuer's key, so a leaf of one issuer is none of another, even
/// where both say the same, byte for byte.
#[test]
fn a_countersignature_below_another_issuer_of_the_same_name_is_refused() {
    let mut environment = Environment::new();
    let twin = environment.root.certify("issuer", |_| {});
    let without_key_id = |params: &mut CertificateParams| {
        params.use_authority_key_identifier_extension = false;
    };
    let bare = environment.bare(without_key_id);
    let tbs = splice_in(&bare, &environment.sct(&bare)).unwrap();
    let logged = environment.issuer.sign(&tbs);
    assert!(environment.verify(&logged).is_ok());

    let minted = twin.sign(&tbs);
    let refused = Refusal::NotCountersigned(CountersignatureRule::Signature);
    let issuer = std::mem::replace(&mut environment.issuer, twin);
    assert_eq!(environment.verify(&minted), Err(refused.clone()));
    // Nor does it help to send the certificate of the issuer that logged it.
    for others in [[&issuer, &environment.issuer], [&environment.issuer, &issuer]] {
        let chain = [minted.clone(), others[0].der.clone(), others[1].der.clone()];
        assert_eq!(environment.verify_chain(&chain), Err(refused.clone()));
    }
}

#[test]
fn a_leaf_directly_below_the_anchor_is_countersigned_with_the_anchors_key() {
    let environment = Environment::new();
    let bare = environment.root.tbs(&leaf_params(), &environment.leaf_key);
    let sct = countersign(&environment.log, &leaf_of(&bare, &environment.root));
    let leaf = environment.root.sign(&splice_in(&bare, &sct).unwrap());
    assert!(environment.verify_chain(std::slice::from_ref(&leaf)).is_ok());

    let wrong = countersign(&environment.log, &leaf_of(&bare, &environment.issuer));
    let leaf = environment.root.sign(&splice_in(&bare, &wrong).unwrap());
    let refused = Refusal::NotCountersigned(CountersignatureRule::Signature);
    assert_eq!(environment.verify_chain(&[leaf]), Err(refused));
    let bare = environment.root.sign(&bare);
    assert!(matches!(environment.verify_chain(&[bare]), Err(Refusal::NotCountersigned(_))));
}

/// Such an anchor is for foreign trust domains: it must not be the way around the second key.
#[test]
fn an_anchor_without_a_log_names_none_of_our_identities() {
    let mut environment = Environment::new();
    let foreign = Ca::root("foreign");
    environment.state.anchors.push(foreign.anchor(Countersignature::None));
    let leaf = foreign.sign(&foreign.tbs(&leaf_params(), &environment.leaf_key));
    expect_absent(&environment, &leaf);
}

#[test]
fn an_anchor_without_a_log_frees_no_other_anchor() {
    let mut environment = Environment::new();
    let foreign = Ca::root("foreign");
    environment.state.anchors.insert(0, foreign.anchor(Countersignature::None));
    let leaf = environment.issuer.sign(&environment.bare(|_| {}));
    expect_absent(&environment, &leaf);
    let chain = [leaf, environment.issuer.der.clone(), foreign.der.clone()];
    assert!(matches!(environment.verify_chain(&chain), Err(Refusal::NotCountersigned(_))));
}

#[test]
fn a_trust_state_without_countersignature_key_believes_nobody() {
    let mut environment = Environment::new();
    let leaf = environment.issue(|_| {});
    environment.state.countersignature_keys.clear();
    let refused = Refusal::NotCountersigned(CountersignatureRule::UnknownKey);
    assert_eq!(environment.verify(&leaf), Err(refused));
}

fn leaf(environment: &Environment) -> CertificateLeaf {
    leaf_of(&environment.bare(|_| {}), &environment.issuer)
}

fn expect(environment: &Environment, sct: &SignedCertificateTimestamp, rule: CountersignatureRule) {
    let refused = Err(Refusal::NotCountersigned(rule));
    assert_eq!(environment.verify(&environment.issue_with(sct)), refused);
}

fn expect_absent(environment: &Environment, leaf: &CertificateDer<'_>) {
    let refused = environment.verify(leaf).unwrap_err();
    let absent = matches!(refused, Refusal::NotCountersigned(CountersignatureRule::Absent(_)));
    assert!(absent, "{refused}");
}

/// The OBJECT IDENTIFIER of RFC 6962 §3.3.
const SCT_LIST: &[u8] = &[6, 10, 0x2b, 6, 1, 4, 1, 0xd6, 0x79, 2, 4, 2];

//! Who is revoked or denied is refused, whatever the certificate says.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use identity::{Refusal, Revocations, SpiffeId};
use support::{Environment, ISSUER_SERIAL, LEAF_INDEX, LEAF_SERIAL, id, serial};

#[test]
fn a_revoked_serial_number_is_refused() {
    expect_revoked(|held| held.revoke_serial(serial(&LEAF_SERIAL)), &LEAF_SERIAL);
}

#[test]
fn a_revoked_issuer_takes_its_leaves_with_it() {
    expect_revoked(|held| held.revoke_serial(serial(&ISSUER_SERIAL)), &ISSUER_SERIAL);
}

#[test]
fn a_revoked_certificate_in_the_middle_of_the_path_is_found() {
    let mut environment = Environment::new();
    let middle = environment.root.certify("middle", |params| {
        params.serial_number = Some(vec![0x33].into());
    });
    environment.issuer = middle.certify("issuer", |_| {});
    let chain = [environment.issue(|_| {}), environment.issuer.der.clone(), middle.der];
    assert!(environment.verify_chain(&chain).is_ok());
    environment.revocations.revoke_serial(serial(&[0x33]));
    let refused = Refusal::Revoked { serial_number: serial(&[0x33]) };
    assert_eq!(environment.verify_chain(&chain), Err(refused));
}

#[test]
fn a_revoked_certificate_that_is_sent_and_not_in_the_path_revokes_nothing() {
    let mut environment = Environment::new();
    let unrelated = environment.root.certify("unrelated", |params| {
        params.serial_number = Some(vec![0x33].into());
    });
    environment.revocations.revoke_serial(serial(&[0x33]));
    let chain = [environment.issue(|_| {}), unrelated.der, environment.issuer.der.clone()];
    assert!(environment.verify_chain(&chain).is_ok());
}

#[test]
fn a_revoked_identity_loses_the_certificates_before_the_revocation_only() {
    let mut environment = Environment::new();
    let leaf = environment.issue(|_| {});
    environment.revocations.revoke_identity(id(), LEAF_INDEX);
    assert!(environment.verify(&leaf).is_ok());
    environment.revocations.revoke_identity(id(), LEAF_INDEX + 1);
    let refused = Refusal::Revoked { serial_number: serial(&LEAF_SERIAL) };
    assert_eq!(environment.verify(&leaf), Err(refused));
}

#[test]
fn a_denied_identity_is_refused_with_certificates_of_any_age() {
    let mut environment = Environment::new();
    let leaf = environment.issue(|_| {});
    for log_index in [0, LEAF_INDEX] {
        environment.revocations = Revocations::default();
        environment.revocations.deny(id(), log_index);
        assert_eq!(environment.verify(&leaf), Err(Refusal::Denied));
        environment.revocations.allow(&id());
        assert!(environment.verify(&leaf).is_ok());
    }
    environment.revocations.deny(id(), LEAF_INDEX + 1);
    environment.revocations.allow(&id());
    assert!(matches!(environment.verify(&leaf), Err(Refusal::Revoked { .. })), "for good");
}

#[test]
fn what_befalls_others_changes_nothing() {
    let mut environment = Environment::new();
    for path in ["/prod", "/prod/report", "/prod/reports2", "/prod/reports/2"] {
        let other = SpiffeId::new(&environment.state.trust_domain, path).unwrap();
        environment.revocations.deny(other, 1000);
    }
    for octets in [&LEAF_SERIAL[1..], &[0x4d, 1, 2], &[0x4d, 1, 2, 3, 0]] {
        environment.revocations.revoke_serial(serial(octets));
    }
    assert!(environment.verify(&environment.issue(|_| {})).is_ok());
}

fn expect_revoked(revoke: impl FnOnce(&mut Revocations), octets: &[u8]) {
    let mut environment = Environment::new();
    let leaf = environment.issue(|_| {});
    let verified_before = environment.verify(&leaf).unwrap();
    revoke(&mut environment.revocations);
    let refused = Err(Refusal::Revoked { serial_number: serial(octets) });
    assert_eq!(environment.verify(&leaf).map(drop), refused);
    assert_eq!(environment.revocations.check_svid(&verified_before), refused);
}

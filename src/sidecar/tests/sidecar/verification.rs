//! The cache before the verifier: faster, never more lenient.

use std::time::Duration;

use countersign::Verification;
use identity::{Refusal, SerialNumber, Usage};
use rustls::pki_types::UnixTime;

use crate::authority::TestAuthority;

const HOUR: Duration = Duration::from_secs(3600);

fn in_hours(hours: u32) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs()) + hours * HOUR)
}

#[test]
fn chain_that_passed_is_refused_once_it_expires() {
    let authority = TestAuthority::new();
    let verification = Verification::new(authority.trust());
    let svid = authority.svid("/prod/reports");
    let verify = |now| verification.verify(&svid.chain, Usage::Client, now);
    assert_eq!(verify(in_hours(0)), verify(in_hours(23)));
    assert!(matches!(verify(in_hours(25)), Err(Refusal::Expired { .. })));
    assert!(verify(in_hours(1)).is_ok());
}

#[test]
fn chain_that_passed_is_refused_once_its_issuer_expires() {
    let authority = TestAuthority::new();
    let verification = Verification::new(authority.trust());
    let mut svid = authority.svid("/prod/reports");
    svid.chain[1] = authority.short_issuer(time::Duration::hours(2));
    let verify = |now| verification.verify(&svid.chain, Usage::Client, now);
    assert!(verify(in_hours(1)).is_ok());
    assert!(matches!(verify(in_hours(3)), Err(Refusal::UnknownAuthority(_))));
}

#[test]
fn revocation_counts_at_once() {
    let authority = TestAuthority::new();
    let verification = Verification::new(authority.trust());
    let svid = authority.svid("/prod/reports");
    let verify = || verification.verify(&svid.chain, Usage::Server, in_hours(0));
    assert!(verify().is_ok());
    let before = verification.epoch();
    let issuer = authority.issuer_serial_number();
    verification.update_revocations(|held| held.revoke_serial(issuer));
    assert_ne!(verification.epoch(), before);
    assert_eq!(verify(), Err(Refusal::Revoked { serial_number: issuer }));
    assert!(verification.with_revocations(|held| held.is_serial_revoked(&issuer)));
}

#[test]
fn replaced_trust_counts_at_once() {
    let authority = TestAuthority::new();
    let verification = Verification::new(authority.trust());
    let svid = authority.svid("/prod/reports");
    let verify = || verification.verify(&svid.chain, Usage::Client, in_hours(0));
    assert!(verify().is_ok());
    verification.replace_trust(TestAuthority::new().trust());
    assert!(matches!(verify(), Err(Refusal::UnknownAuthority(_))));
    verification.replace_trust(authority.trust());
    assert!(verify().is_ok());
}

#[test]
fn cached_end_entity_vouches_for_no_other_chain() {
    let (authority, other) = (TestAuthority::new(), TestAuthority::new());
    let verification = Verification::new(authority.trust());
    let svid = authority.svid("/prod/reports");
    let now = in_hours(0);
    assert!(verification.verify(&svid.chain, Usage::Client, now).is_ok());
    assert!(verification.verify(&svid.chain[..1], Usage::Client, now).is_err());
    let mixed = [svid.chain[0].clone(), other.svid("/prod/reports").chain[1].clone()];
    assert!(verification.verify(&mixed, Usage::Client, now).is_err());
    assert_eq!(verification.verify(&[], Usage::Client, now), Err(Refusal::NoCertificate));
}

/// A feed's snapshot is made beside the handshakes; a delta, or an owner's own list, comes meanwhile.
#[test]
fn a_change_that_comes_while_another_is_made_aside_is_not_lost() {
    let authority = TestAuthority::new();
    let verification = Verification::new(authority.trust());
    let [meanwhile, aside] = [1, 2].map(|n| SerialNumber::from_octets(&[n]).unwrap());
    verification.update_revocations_aside(|held| {
        if !held.is_serial_revoked(&meanwhile) {
            verification.update_revocations(|held| held.revoke_serial(meanwhile));
        }
        held.revoke_serial(aside);
    });
    let held =
        |serial_number| verification.with_revocations(|held| held.is_serial_revoked(serial_number));
    assert!(held(&meanwhile) && held(&aside));
    assert_eq!(verification.epoch().revocations, 2);
}

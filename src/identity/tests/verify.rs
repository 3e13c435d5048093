//! The rules of an X.509-SVID: for each, the certificate that breaks just this one.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use identity::{Refusal, SpiffeIdRule, SvidRule, Usage};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use rustls_pki_types::CertificateDer;
use support::{
    Ca, Environment, ID, LEAF_INDEX, LEAF_SERIAL, NOT_AFTER, NOT_BEFORE, NOW, der, dns, serial, uri,
};
use time::Duration;
use tlog::Hash;

#[test]
fn a_flawless_certificate_is_believed_in_both_directions() {
    let environment = Environment::new();
    let leaf = environment.issue(|_| {});
    let chain = [leaf.clone(), environment.issuer.der.clone()];
    for usage in [Usage::Client, Usage::Server] {
        let svid = environment.verify_as(usage, NOW, &chain).unwrap();
        assert_eq!(svid.spiffe_id().as_str(), ID);
        assert_eq!(*svid.serial_number(), serial(&LEAF_SERIAL));
        assert_eq!(svid.not_before(), NOT_BEFORE.unix_timestamp());
        assert_eq!(svid.not_after(), NOT_AFTER.unix_timestamp());
        assert_eq!(svid.leaf_index(), Some(LEAF_INDEX));
        assert_eq!(*svid.fingerprint(), Hash::of(&leaf));
        assert_eq!(*svid.issuer_key_hash(), Hash::of(&environment.issuer.spki()));
    }
}

#[test]
fn dns_and_ip_names_beside_the_spiffe_id_change_nothing() {
    let environment = Environment::new();
    let leaf = environment.issue(|params| {
        params.subject_alt_names.insert(0, dns("reports.pay.internal"));
        params.subject_alt_names.push(rcgen::SanType::IpAddress([10, 0, 0, 1].into()));
    });
    assert_eq!(environment.verify(&leaf).unwrap().spiffe_id().as_str(), ID);
}

#[test]
fn an_expired_certificate_is_refused_from_the_second_after_its_last() {
    let environment = Environment::new();
    let leaf = environment.issue(|_| {});
    assert!(environment.verify_at(NOT_AFTER, &leaf).is_ok());
    let refused = Refusal::Expired {
        serial_number: serial(&LEAF_SERIAL),
        not_after: NOT_AFTER.unix_timestamp(),
    };
    assert_eq!(environment.verify_at(NOT_AFTER + Duration::SECOND, &leaf), Err(refused.clone()));
    // Its issuer has expired as well by then; the end entity comes first.
    assert_eq!(environment.verify_at(NOW + Duration::days(40), &leaf), Err(refused));
}

#[test]
fn a_certificate_from_the_future_is_refused_until_its_first_second() {
    let environment = Environment::new();
    let leaf = environment.issue(|_| {});
    assert!(environment.verify_at(NOT_BEFORE, &leaf).is_ok());
    let refused = Refusal::NotYetValid {
        serial_number: serial(&LEAF_SERIAL),
        not_before: NOT_BEFORE.unix_timestamp(),
    };
    assert_eq!(environment.verify_at(NOT_BEFORE - Duration::SECOND, &leaf), Err(refused));
}

#[test]
fn an_expired_issuer_is_refused_while_its_leaf_is_valid() {
    let mut environment = Environment::new();
    environment.issuer = environment.root.certify("issuer", |params| {
        params.not_after = NOW - Duration::SECOND;
    });
    expect_unknown_authority(&environment, &environment.issue(|_| {}), "CertExpired");
}

#[test]
fn another_ca_is_an_unknown_authority() {
    let environment = Environment::new();
    let mut other = Environment::new();
    other.log = rcgen::KeyPair::from_pem(&environment.log.serialize_pem()).unwrap();
    let chain = [other.issue(|_| {}), other.issuer.der.clone(), other.root.der.clone()];
    let refused = environment.verify_chain(&chain).unwrap_err();
    assert!(matches!(refused, Refusal::UnknownAuthority(_)), "{refused}");
}

#[test]
fn an_issuer_of_another_ca_with_our_names_is_an_unknown_authority() {
    let environment = Environment::new();
    let forged = Ca::root("issuer");
    let leaf = forged.sign(tlog::split_certificate(&environment.issue(|_| {})).unwrap().tbs);
    expect_unknown_authority(&environment, &leaf, "InvalidSignatureForPublicKey");
}

#[test]
fn a_leaf_is_no_issuer() {
    let mut environment = Environment::new();
    environment.issuer = environment.root.certify("leaf", |params| {
        params.is_ca = IsCa::ExplicitNoCa;
    });
    expect_unknown_authority(&environment, &environment.issue(|_| {}), "EndEntityUsedAsCa");
}

#[test]
fn an_issuer_whose_key_usage_is_not_to_sign_certificates_is_none() {
    let mut environment = Environment::new();
    environment.issuer = environment.root.certify("issuer", |params| {
        params.key_usages = vec![KeyUsagePurpose::CrlSign];
    });
    expect_unknown_authority(&environment, &environment.issue(|_| {}), "EndEntityUsedAsCa");
    environment.issuer = environment.root.certify("issuer", |params| params.key_usages = vec![]);
    assert!(environment.verify(&environment.issue(|_| {})).is_ok());
}

#[test]
fn an_issuer_makes_no_further_issuer_beyond_its_path_length() {
    let mut environment = Environment::new();
    let issuer = environment.root.certify("issuer", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    environment.issuer = issuer.certify("sub", |_| {});
    let chain = [environment.issue(|_| {}), environment.issuer.der.clone(), issuer.der];
    let refused = environment.verify_chain(&chain).unwrap_err();
    assert!(refused.to_string().contains("PathLenConstraintViolated"), "{refused}");
}

#[test]
fn a_ca_certificate_is_no_svid() {
    let environment = Environment::new();
    for constraints in [BasicConstraints::Unconstrained, BasicConstraints::Constrained(0)] {
        let leaf = environment.issue(|params| params.is_ca = IsCa::Ca(constraints));
        expect_rule(&environment, &leaf, SvidRule::CertificateAuthority);
    }
}

#[test]
fn two_uri_names_are_refused_even_if_one_is_foreign_or_the_same() {
    let environment = Environment::new();
    for second in ["spiffe://pay.example/prod/admin", "https://pay.example/", ID] {
        let leaf = environment.issue(|params| params.subject_alt_names.push(uri(second)));
        expect_rule(&environment, &leaf, SvidRule::OneUri(2));
    }
}

/// Else a second URI would hide from being counted.
#[test]
fn a_name_whose_bytes_are_no_text_is_refused() {
    let environment = Environment::new();
    for second in [uri("https://pay.example/"), dns("pay.example")] {
        let mut bare = environment.bare(|params| params.subject_alt_names.push(second));
        let last_letter = bare.windows(12).rposition(|window| window.ends_with(b"pay.example"));
        bare[last_letter.unwrap() + 11] = 0xff;
        expect_rule(&environment, &environment.finish(&bare), SvidRule::Malformed);
    }
}

/// Else a second URI could hide there: x509-parser passes over it, webpki does not.
#[test]
fn names_behind_the_names_are_refused() {
    let environment = Environment::new();
    let leaf = environment.issue_edited(|tbs| {
        let names = tbs.extensions.iter_mut().find(|e| e.ends_with(ID.as_bytes())).unwrap();
        let mut fields = der::elements(der::value(names));
        let value = fields.pop().unwrap();
        let more = der::element(0x30, &[&der::element(0x86, &[b"spiffe://pay.example/other"])]);
        fields.push(der::element(0x04, &[der::value(&value), &more]));
        *names = der::element(0x30, &[&fields.concat()]);
    });
    expect_rule(&environment, &leaf, SvidRule::Malformed);
}

#[test]
fn a_certificate_without_uri_name_is_refused() {
    let environment = Environment::new();
    let only_dns = environment.issue(|params| params.subject_alt_names = vec![dns("pay.internal")]);
    expect_rule(&environment, &only_dns, SvidRule::OneUri(0));
    let no_names = environment.issue(|params| params.subject_alt_names = vec![]);
    expect_rule(&environment, &no_names, SvidRule::OneUri(0));
}

#[test]
fn a_common_name_is_no_identity() {
    let environment = Environment::new();
    let leaf = environment.issue(|params| {
        params.subject_alt_names = vec![];
        params.distinguished_name.push(rcgen::DnType::CommonName, ID);
    });
    expect_rule(&environment, &leaf, SvidRule::OneUri(0));
}

#[test]
fn a_foreign_trust_domain_is_refused() {
    let environment = Environment::new();
    for (foreign, domain) in [
        ("spiffe://evil.example/prod/reports", "evil.example"),
        ("spiffe://pay.example.evil/prod/reports", "pay.example.evil"),
        ("spiffe://sub.pay.example/prod/reports", "sub.pay.example"),
        ("spiffe://pay.exampl/e/prod/reports", "pay.exampl"),
    ] {
        let leaf = environment.issue(|params| params.subject_alt_names = vec![uri(foreign)]);
        let refused = Refusal::UnknownTrustDomain(domain.to_owned());
        assert_eq!(environment.verify(&leaf), Err(refused));
    }
}

#[test]
fn a_spiffe_id_without_path_is_refused() {
    let environment = Environment::new();
    let edit = |params: &mut CertificateParams| {
        params.subject_alt_names = vec![uri("spiffe://pay.example")];
    };
    expect_rule(&environment, &environment.issue(edit), SvidRule::Path);
}

#[test]
fn a_uri_that_is_no_spiffe_id_is_refused_by_its_rule() {
    let environment = Environment::new();
    let long = format!("{ID}/{}", "a".repeat(2048 - ID.len()));
    for (text, expected) in [
        ("https://pay.example/prod/reports", SpiffeIdRule::Scheme),
        ("SPIFFE://pay.example/prod/reports", SpiffeIdRule::Scheme),
        ("spiffe:///prod/reports", SpiffeIdRule::EmptyTrustDomain),
        ("spiffe://PAY.example/prod/reports", SpiffeIdRule::TrustDomainCharacter),
        ("spiffe://pay.example:443/prod/reports", SpiffeIdRule::TrustDomainCharacter),
        ("spiffe://user@pay.example/prod/reports", SpiffeIdRule::TrustDomainCharacter),
        ("spiffe://pay.example?x=/prod/reports", SpiffeIdRule::TrustDomainCharacter),
        ("spiffe://pay.example/prod/reports?x=1", SpiffeIdRule::PathCharacter),
        ("spiffe://pay.example/prod/reports#x", SpiffeIdRule::PathCharacter),
        ("spiffe://pay.example/prod/%72eports", SpiffeIdRule::PathCharacter),
        ("spiffe://pay.example/prod/../reports", SpiffeIdRule::DotSegment),
        ("spiffe://pay.example/prod/./reports", SpiffeIdRule::DotSegment),
        ("spiffe://pay.example//reports", SpiffeIdRule::EmptySegment),
        ("spiffe://pay.example/prod/reports/", SpiffeIdRule::TrailingSlash),
        ("spiffe://pay.example/", SpiffeIdRule::TrailingSlash),
        (&long, SpiffeIdRule::TooLong),
        ("", SpiffeIdRule::Empty),
    ] {
        let leaf = environment.issue(|params| params.subject_alt_names = vec![uri(text)]);
        let refused = environment.verify(&leaf).unwrap_err();
        let Refusal::NotAnSvid(SvidRule::SpiffeId(identity::Error::SpiffeId { rule, .. })) =
            refused
        else {
            panic!("{text}: {refused}")
        };
        assert_eq!(rule, expected, "{text}");
    }
}

#[test]
fn key_usage_is_digital_signature_without_signing_certificates_or_crls() {
    let environment = Environment::new();
    use KeyUsagePurpose::{
        ContentCommitment, CrlSign, DigitalSignature, KeyAgreement, KeyCertSign,
    };
    for usages in [
        vec![],
        vec![KeyAgreement],
        vec![ContentCommitment],
        vec![DigitalSignature, KeyCertSign],
        vec![DigitalSignature, CrlSign],
        vec![KeyCertSign],
    ] {
        let leaf = environment.issue(|params| params.key_usages = usages);
        expect_rule(&environment, &leaf, SvidRule::KeyUsage);
    }
    // X509-SVID §4.3 allows others beside it.
    let leaf = environment.issue(|params| params.key_usages.push(KeyAgreement));
    assert!(environment.verify(&leaf).is_ok());
}

#[test]
fn extended_key_usage_names_the_peers_side() {
    let environment = Environment::new();
    use ExtendedKeyUsagePurpose::{Any, ClientAuth, CodeSigning, ServerAuth};
    for (purposes, as_client, as_server) in [
        (vec![], false, false),
        (vec![ClientAuth], true, false),
        (vec![ServerAuth], false, true),
        (vec![CodeSigning], false, false),
        (vec![Any], false, false),
        (vec![CodeSigning, ServerAuth, ClientAuth], true, true),
    ] {
        let leaf = environment.issue(|params| params.extended_key_usages = purposes.clone());
        let chain = [leaf, environment.issuer.der.clone()];
        for (usage, name, allowed) in
            [(Usage::Client, "clientAuth", as_client), (Usage::Server, "serverAuth", as_server)]
        {
            let verified = environment.verify_as(usage, NOW, &chain).map(drop);
            let refused = Refusal::NotAnSvid(SvidRule::ExtendedKeyUsage(name));
            assert_eq!(verified, if allowed { Ok(()) } else { Err(refused) }, "{purposes:?}");
        }
    }
}

#[test]
fn an_issuer_for_servers_only_certifies_no_clients() {
    let (environment, chain) = below_an_issuer_for_servers();
    assert!(environment.verify_as(Usage::Server, NOW, &chain).is_ok());
    assert!(environment.verify_as(Usage::Client, NOW, &chain).is_err());
}

#[test]
fn the_leaf_is_not_blamed_for_its_issuers_extended_key_usage() {
    let (environment, chain) = below_an_issuer_for_servers();
    let refused = environment.verify_as(Usage::Client, NOW, &chain).unwrap_err();
    assert!(matches!(refused, Refusal::UnknownAuthority(_)), "{refused}");
}

fn below_an_issuer_for_servers() -> (Environment, [CertificateDer<'static>; 2]) {
    let mut environment = Environment::new();
    environment.issuer = environment.root.certify("issuer", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let chain = [environment.issue(|_| {}), environment.issuer.der.clone()];
    (environment, chain)
}

#[test]
fn a_serial_number_is_positive_and_has_at_most_20_octets() {
    let environment = Environment::new();
    for content in [&[0][..], &[0xff], &[0x80, 1], &[&[1][..], &[7; 20]].concat()] {
        let leaf = environment.issue_edited(|tbs| tbs.set_serial(content));
        expect_rule(&environment, &leaf, SvidRule::SerialNumber);
    }
    let longest = environment.issue_edited(|tbs| tbs.set_serial(&[0x7f; 20]));
    assert_eq!(*environment.verify(&longest).unwrap().serial_number(), serial(&[0x7f; 20]));
}

#[test]
fn a_serial_number_of_the_issuer_is_positive_too() {
    let mut environment = Environment::new();
    let issuer = tlog::split_certificate(&environment.issuer.der).unwrap();
    let mut tbs = der::Tbs::parse(issuer.tbs);
    tbs.set_serial(&[0x80]);
    environment.issuer.der = environment.root.sign(&tbs.encode());
    expect_rule(&environment, &environment.issue(|_| {}), SvidRule::SerialNumber);
}

fn expect_rule(environment: &Environment, leaf: &CertificateDer<'_>, rule: SvidRule) {
    assert_eq!(environment.verify(leaf), Err(Refusal::NotAnSvid(rule)));
}

fn expect_unknown_authority(environment: &Environment, leaf: &CertificateDer<'_>, why: &str) {
    let refused = environment.verify(leaf).unwrap_err();
    let Refusal::UnknownAuthority(text) = &refused else { panic!("{refused}") };
    assert!(text.contains(why), "{text}");
}

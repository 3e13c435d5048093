//! The linter: for each of its rules, the certificate that breaks just this one.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use issuance::lint;
use support::der::{Tbs, element, value};
use support::{Ca, profile};

const SAN: u8 = 17;
const KEY_USAGE: u8 = 15;
const EXTENDED_KEY_USAGE: u8 = 37;
const BASIC_CONSTRAINTS: u8 = 19;
const SUBJECT_KEY_ID: u8 = 14;
const AUTHORITY_KEY_ID: u8 = 35;
const NO_REV_AVAIL: u8 = 56;
const CRL_DISTRIBUTION_POINTS: u8 = 31;

#[test]
fn a_certificate_of_ours_gives_no_finding() {
    assert_eq!(lint::certificate(&Ca::new().certificate()), []);
    // Nor does taking it apart and putting it together, as the tests below do.
    expect_clean(|_| {});
}

#[test]
fn bytes_that_are_not_one_certificate() {
    let certificate = Ca::new().certificate();
    let trailing = [&certificate[..], &[0]].concat();
    let pem = support::pem("CERTIFICATE", &certificate).into_bytes();
    for bytes in [vec![], vec![0x30, 0], trailing, pem, certificate[..300].to_vec()] {
        assert_one(lint::certificate(&bytes), "RFC 5280 §4.1", "not one DER certificate");
    }
}

#[test]
fn two_signature_algorithms() {
    let certificate = Ca::new().certificate();
    let parts = tlog::split_certificate(&certificate).unwrap();
    let sha384 = &[0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
    let mixed = tlog::join_certificate(parts.tbs, sha384, parts.signature);
    assert_one(lint::certificate(&mixed), "RFC 5280 §4.1.1.2", "algorithms differ");
}

#[test]
fn another_version() {
    let version = |number| element(0xa0, &[&element(0x02, &[&[number]])]);
    for number in [0, 1, 3] {
        expect(|tbs| tbs.fields[0] = version(number), "RFC 5280 §4.1.2.1", "not version 3");
    }
}

#[test]
fn serial_numbers() {
    let long = [&[1][..], &[7; 20]].concat();
    let padded = [&[0, 0x80][..], &[7; 19]].concat();
    for content in [&[0][..], &[0x80], &[0xff, 1], &long, &padded] {
        expect(|tbs| tbs.set_serial(content), "RFC 5280 §4.1.2.2", "serial number");
    }
    expect_clean(|tbs| tbs.set_serial(&[0x7f; 20]));
}

#[test]
fn an_end_before_the_beginning() {
    let later = b"261121130000Z";
    for end in [later, b"261121125959Z"] {
        expect(|tbs| set_validity(tbs, (0x17, later), (0x17, end)), TIME, "ends before");
    }
}

#[test]
fn the_wrong_form_of_time() {
    let utc = (0x17, &b"261121120000Z"[..]);
    let general = (0x18, &b"20261121130000Z"[..]);
    expect(|tbs| set_validity(tbs, utc, general), TIME, "UTCTime stands through 2049");
    let general = (0x18, &b"20491231235959Z"[..]);
    expect(|tbs| set_validity(tbs, utc, general), TIME, "UTCTime stands through 2049");
    expect_clean(|tbs| set_validity(tbs, utc, (0x17, b"491231235959Z")));
    expect_clean(|tbs| set_validity(tbs, utc, (0x18, b"20500101000000Z")));
}

#[test]
fn an_issuer_without_name() {
    expect(|tbs| tbs.fields[3] = element(0x30, &[]), "RFC 5280 §4.1.2.4", "name is empty");
}

#[test]
fn no_subject_alt_name() {
    expect(|tbs| remove(tbs, SAN), "X.509-SVID §2", "no subjectAltName");
}

#[test]
fn a_subject_alt_name_that_cannot_be_read() {
    for content in [&[0x30, 3, 0x86, 9, 0x61][..], b"hello", &[]] {
        expect(|tbs| set(tbs, SAN, true, content), "RFC 5280 §4.2.1.6", "cannot be parsed");
    }
}

#[test]
fn the_criticality_of_the_subject_alt_name() {
    let rule = "RFC 5280 §4.2.1.6";
    let uri = element(0x30, &[&uri(ID)]);
    expect(|tbs| set(tbs, SAN, false, &uri), rule, "critical exactly where");
    expect(|tbs| tbs.fields[5] = common_name(), rule, "critical exactly where");
    expect_clean(|tbs| {
        tbs.fields[5] = common_name();
        set(tbs, SAN, false, &uri);
    });
}

#[test]
fn names_that_are_wrong_each_in_its_own_way() {
    let id = uri(ID);
    for (names, rule, detail) in [
        (vec![uri("spiffe://pay.example")], "X.509-SVID §2", "no SPIFFE ID of a workload"),
        (vec![uri("https://pay.example/x")], "X.509-SVID §2", "no SPIFFE ID of a workload"),
        (vec![uri("spiffe://pay.example/a//b")], "X.509-SVID §2", "no SPIFFE ID of a workload"),
        (vec![], "X.509-SVID §2", "not exactly one URI"),
        (vec![name(0x82, b"a.internal")], "X.509-SVID §2", "not exactly one URI"),
        (vec![id.clone(), uri("spiffe://pay.example/b")], "X.509-SVID §2", "not exactly one URI"),
        (vec![id.clone(), name(0x82, b"*.internal")], "RFC 5280 §4.2.1.6", "DNS name"),
        (vec![id.clone(), name(0x82, b"A.internal")], "RFC 5280 §4.2.1.6", "DNS name"),
        (vec![id.clone(), name(0x82, b"")], "RFC 5280 §4.2.1.6", "DNS name"),
        (vec![id.clone(), name(0x87, &[10, 0, 0])], "RFC 5280 §4.2.1.6", "4 nor 16"),
        (vec![id.clone(), name(0x87, &[10; 8])], "RFC 5280 §4.2.1.6", "4 nor 16"),
        (vec![id.clone(), name(0x81, b"a@b.example")], "X.509-SVID §2", "neither URI"),
        (vec![id, name(0x88, &[0x2a, 3])], "X.509-SVID §2", "neither URI"),
    ] {
        let names = element(0x30, &[&names.concat()]);
        expect(|tbs| set(tbs, SAN, true, &names), rule, detail);
    }
}

#[test]
fn key_usage() {
    let rule = "X.509-SVID §4.3";
    expect(|tbs| remove(tbs, KEY_USAGE), rule, "key usage");
    expect(|tbs| set(tbs, KEY_USAGE, false, &[3, 2, 7, 0x80]), rule, "key usage");
    for content in [&[3, 2, 5, 0xa0][..], &[3, 2, 2, 0x84], &[3, 2, 3, 0x08], &[3, 1, 0]] {
        expect(|tbs| set(tbs, KEY_USAGE, true, content), rule, "key usage");
    }
}

#[test]
fn extended_key_usage() {
    let purpose = |last: u8| element(0x06, &[&[0x2b, 6, 1, 5, 5, 7, 3, last]]);
    let (server, client, code) = (purpose(1), purpose(2), purpose(3));
    let any = element(0x06, &[&[0x55, 0x1d, 0x25, 0]]);
    let private = element(0x06, &[&[0x2a, 3]]);
    let rule = "X.509-SVID §4.4";
    expect(|tbs| remove(tbs, EXTENDED_KEY_USAGE), rule, "extended key usage");
    for purposes in [
        vec![&server],
        vec![&client],
        vec![&server, &client, &code],
        vec![&server, &client, &any],
        vec![&server, &client, &private],
        vec![],
    ] {
        let purposes: Vec<&[u8]> = purposes.into_iter().map(Vec::as_slice).collect();
        let content = element(0x30, &purposes);
        expect(|tbs| set(tbs, EXTENDED_KEY_USAGE, false, &content), rule, "extended key usage");
    }
}

#[test]
fn basic_constraints() {
    for content in
        [&[0x30, 3, 1, 1, 0xff][..], &[0x30, 6, 1, 1, 0xff, 2, 1, 0], &[0x30, 3, 2, 1, 0], b"hello"]
    {
        let edit = |tbs: &mut Tbs| set(tbs, BASIC_CONSTRAINTS, true, content);
        expect(edit, "X.509-SVID §4.1", "cA=false");
    }
    // X509-SVID §4.1 lets it out: cA=false is the default.
    expect_clean(|tbs| remove(tbs, BASIC_CONSTRAINTS));
}

#[test]
fn key_identifiers() {
    let authority = element(0x30, &[&element(0x80, &[&[7; 20]])]);
    let rule = "RFC 5280 §4.2.1.1";
    expect(|tbs| remove(tbs, AUTHORITY_KEY_ID), rule, "authority key identifier");
    expect(|tbs| set(tbs, AUTHORITY_KEY_ID, true, &authority), rule, "authority key identifier");
    expect(|tbs| set(tbs, AUTHORITY_KEY_ID, false, &[0x30, 0]), rule, "authority key identifier");

    let rule = "RFC 5280 §4.2.1.2";
    let subject = |length| element(0x04, &[&vec![7; length]]);
    expect(|tbs| remove(tbs, SUBJECT_KEY_ID), rule, "subject key identifier");
    expect(|tbs| set(tbs, SUBJECT_KEY_ID, true, &subject(20)), rule, "subject key identifier");
    for length in [0, 21] {
        let edit = |tbs: &mut Tbs| set(tbs, SUBJECT_KEY_ID, false, &subject(length));
        expect(edit, rule, "subject key identifier");
    }
}

#[test]
fn an_extension_that_we_do_not_issue() {
    let rule = "Countersign profile";
    for critical in [false, true] {
        let unknown = extension(&[0x2a, 3], critical, &[5, 0]);
        expect(|tbs| tbs.extensions.insert(0, unknown), rule, "1.2.3 is not among");
    }
}

#[test]
fn an_extension_that_stands_twice() {
    for oid in [SUBJECT_KEY_ID, KEY_USAGE, SAN, BASIC_CONSTRAINTS] {
        let edit = |tbs: &mut Tbs| {
            let first = tbs.extensions[position(tbs, oid)].clone();
            tbs.extensions.insert(0, first);
        };
        expect(edit, "RFC 5280 §4.2", "stands twice");
    }
    let countersignature = |tbs: &mut Tbs| {
        let last = tbs.extensions.last().unwrap().clone();
        tbs.extensions.push(last);
    };
    expect(countersignature, "RFC 5280 §4.2", "stands twice");
}

#[test]
fn more_than_one_value_in_an_extension() {
    let names = element(0x30, &[&uri(ID)]);
    let twice = |tbs: &mut Tbs| set(tbs, SAN, true, &[&names[..], &names].concat());
    expect(twice, "RFC 5280 §4.2", "one ASN.1 value");
}

#[test]
fn no_revocation_available_in_another_form() {
    for (critical, content) in [(true, &[5, 0][..]), (false, &[0x30, 0])] {
        let none = extension(&[0x55, 0x1d, NO_REV_AVAIL], critical, content);
        expect(|tbs| tbs.extensions.insert(0, none), "RFC 9608 §2", "critical, or not NULL");
    }
}

#[test]
fn no_revocation_available_beside_a_crl() {
    let none = || extension(&[0x55, 0x1d, NO_REV_AVAIL], false, &[5, 0]);
    let url = name(0x86, b"http://pki.pay.example/issuer.crl");
    let point = element(0x30, &[&element(0xa0, &[&element(0xa0, &[&url])])]);
    let points = element(0x30, &[&point]);
    let crl = || extension(&[0x55, 0x1d, CRL_DISTRIBUTION_POINTS], false, &points);
    expect_clean(|tbs| tbs.extensions.insert(0, none()));
    expect_clean(|tbs| tbs.extensions.insert(0, crl()));
    let both = |tbs: &mut Tbs| tbs.extensions.splice(0..0, [none(), crl()]).for_each(drop);
    expect(both, "RFC 9608 §2", "noRevAvail stands beside");
}

/// Lints a certificate of ours with its bytes edited.
#[test]
fn crl_distribution_points() {
    let insert = |critical: bool, value: &[u8]| {
        let points = extension(&[0x55, 0x1d, CRL_DISTRIBUTION_POINTS], critical, value);
        move |tbs: &mut Tbs| tbs.extensions.insert(0, points)
    };
    let (rule, detail) = ("RFC 5280 §4.2.1.13", "the CRL distribution points");
    // A sequence that ends before its content; one without content.
    expect(insert(false, &[0x30, 0x02]), rule, detail);
    expect(insert(false, &[0x30, 0x00]), rule, detail);
}

fn findings(edit: impl FnOnce(&mut Tbs)) -> Vec<lint::Finding> {
    let ca = Ca::new();
    let key = rcgen::PublicKeyData::subject_public_key_info(&ca.key);
    let prepared = ca.prepare(&profile(|_| {}), &key, |_| {}).unwrap();
    let certificate = ca.issue(&prepared);
    let mut tbs = Tbs::parse(tlog::split_certificate(&certificate).unwrap().tbs);
    edit(&mut tbs);
    lint::certificate(&ca.sign(&tbs.encode()))
}

fn expect_clean(edit: impl FnOnce(&mut Tbs)) {
    assert_eq!(findings(edit), []);
}

fn expect(edit: impl FnOnce(&mut Tbs), rule: &str, detail: &str) {
    assert_one(findings(edit), rule, detail);
}

fn assert_one(findings: Vec<lint::Finding>, rule: &str, detail: &str) {
    let [finding] = &findings[..] else { panic!("{rule}, {detail}: {findings:?}") };
    assert_eq!(finding.rule, rule, "{finding}");
    assert!(finding.detail.contains(detail), "{finding}");
}

/// Replaces the extension `id-ce oid` where it stands.
fn set(tbs: &mut Tbs, oid: u8, critical: bool, content: &[u8]) {
    let position = position(tbs, oid);
    tbs.extensions[position] = extension(&[0x55, 0x1d, oid], critical, content);
}

fn remove(tbs: &mut Tbs, oid: u8) {
    let position = position(tbs, oid);
    tbs.extensions.remove(position);
}

fn position(tbs: &Tbs, oid: u8) -> usize {
    let prefix = [0x06, 3, 0x55, 0x1d, oid];
    tbs.extensions.iter().position(|extension| value(extension).starts_with(&prefix)).unwrap()
}

fn extension(oid: &[u8], critical: bool, content: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[1, 1, 0xff] } else { &[] };
    element(0x30, &[&element(0x06, &[oid]), critical, &element(0x04, &[content])])
}

fn set_validity(tbs: &mut Tbs, not_before: (u8, &[u8]), not_after: (u8, &[u8])) {
    let [not_before, not_after] = [not_before, not_after].map(|(tag, text)| element(tag, &[text]));
    tbs.fields[4] = element(0x30, &[&not_before, &not_after]);
}

fn common_name() -> Vec<u8> {
    let text = element(0x0c, &[b"reports"]);
    let attribute = element(0x30, &[&[6, 3, 0x55, 4, 3], &text]);
    element(0x30, &[&element(0x31, &[&attribute])])
}

fn uri(text: &str) -> Vec<u8> {
    name(0x86, text.as_bytes())
}

fn name(tag: u8, content: &[u8]) -> Vec<u8> {
    element(tag, &[content])
}

const ID: &str = "spiffe://pay.example/prod/reports";
const TIME: &str = "RFC 5280 §4.1.2.5";

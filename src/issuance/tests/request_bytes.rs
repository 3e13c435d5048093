//! Certificate requests whose bytes are broken, too many, or contradict each other.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use issuance::{CertificateRequest, Error, KeyType, RequestRule};
use proptest::prelude::*;
use rcgen::{
    Attribute, BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, IsCa,
    KeyPair, PublicKeyData, SanType, SigningKey,
};
use support::der::{element, elements, value};
use support::pem;
use tlog::{join_certificate, split_certificate};

#[test]
fn rcgens_requests_are_taken_with_exactly_their_public_key() {
    for (algorithm, key_type) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, KeyType::EcdsaP256),
        (&rcgen::PKCS_ECDSA_P384_SHA384, KeyType::EcdsaP384),
        (&rcgen::PKCS_ED25519, KeyType::Ed25519),
        (&rcgen::PKCS_RSA_SHA256, KeyType::Rsa),
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let request = CertificateRequest::parse_der(&csr(&key, |_| {})).unwrap();
        assert_eq!(request.public_key(), key.subject_public_key_info());
        assert_eq!(request.key_type(), key_type);
    }
}

#[test]
fn a_signature_that_does_not_verify_is_no_proof_of_possession() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let der = csr(&key, |_| {});
        let parts = split_certificate(&der).unwrap();
        let mut flipped = parts.signature.to_vec();
        *flipped.last_mut().unwrap() ^= 1;
        let other = KeyPair::generate_for(algorithm).unwrap().sign(parts.tbs).unwrap();
        let cut = &parts.signature[..parts.signature.len() - 1];
        for signature in [&flipped[..], &other, cut, &[], &[0; 64]] {
            let broken = join_certificate(parts.tbs, parts.signature_algorithm, signature);
            expect(&broken, RequestRule::Signature);
        }
    }
}

#[test]
fn a_part_that_is_missing_is_named() {
    let der = csr(&key(), |_| {});
    let parts = split_certificate(&der).unwrap();
    for signed in [&[parts.tbs, parts.signature_algorithm][..], &[parts.tbs]] {
        assert_eq!(broken_part(&element(0x30, signed)), "signature");
    }
    // Cut off, as a copy that was not whole.
    for length in [der.len() - 1, der.len() / 2, 12] {
        assert_eq!(broken_part(&der[..length]), "end");
    }
    for (number, content, part) in [
        (0, element(0x02, &[&[1]]), "version"),
        (1, element(0x31, &[]), "subject"),
        (2, element(0x30, &[]), "key"),
        (3, element(0xa1, &[]), "attributes"),
        (3, element(0xa0, &[&[0xff]]), "attributes"),
        (3, element(0xa0, &[&element(0x30, &[&element(0x02, &[&[1]])])]), "attributes"),
    ] {
        let changed = with_info(|fields| fields[number] = content.clone());
        assert_eq!(broken_part(&changed), part, "{number} {content:x?}");
    }
    assert_eq!(broken_part(&with_info(|fields| fields.push(element(0x30, &[])))), "attributes");
    let said = CertificateRequest::parse_der(&with_info(|fields| fields[2] = vec![0x30, 0]));
    assert!(!said.unwrap_err().to_string().contains("not a PKCS#10 request"));
    expect(split_certificate(&der).unwrap().tbs, RequestRule::Malformed);
}

/// RFC 2986 has attributes, and a value in each; devices leave both out, and OpenSSL reads it.
#[test]
fn attributes_may_be_missing_or_empty_where_nobody_reads_them() {
    let attribute = |oid: &[u8], values: &[&[u8]]| {
        element(0x30, &[&element(0x06, &[oid]), &element(0x31, values)])
    };
    let odd = element(0x30, &[&element(0x06, &[&[0x2a, 3]]), &[0x05, 0x00]]);
    for attributes in [
        vec![],
        vec![attribute(CHALLENGE, &[])],
        vec![attribute(CHALLENGE, &[&element(0x0c, &[b"secret"])])],
        vec![attribute(EXTENSION_REQUEST, &[])],
        vec![attribute(EXTENSION_REQUEST, &[&[0x30, 0]])],
        vec![attribute(MICROSOFT, &[]), attribute(EXTENSION_REQUEST, &[])],
        vec![attribute(&[0x2a, 3], &[&[0x05, 0x00], &[0x30, 0]])],
        vec![odd],
    ] {
        let request = CertificateRequest::parse_der(&with_attributes(&attributes));
        assert_eq!(request.map(|it| it.names().clone()), Ok(Default::default()), "{attributes:x?}");
    }
    let none = with_info(|fields| drop(fields.pop()));
    assert!(CertificateRequest::parse_der(&none).is_ok());
}

/// A tool that took what was typed by the byte.
#[test]
fn a_name_that_is_no_ascii_is_told_by_its_kind() {
    for (tag, name, kind) in
        [(0x82, &b"b\xfccher.internal"[..], "DNS name"), (0x86, b"spiffe://pay\xfc/a", "URI name")]
    {
        let names = element(0x30, &[&element(tag, &[name])]);
        let extension =
            element(0x30, &[&element(0x06, &[&[0x55, 0x1d, 0x11]]), &element(0x04, &[&names])]);
        let values = element(0x31, &[&element(0x30, &[&extension])]);
        let attribute = element(0x30, &[&element(0x06, &[EXTENSION_REQUEST]), &values]);
        let refused = CertificateRequest::parse_der(&with_attributes(&[attribute])).unwrap_err();
        let refused = refused.to_string();
        assert!(refused.contains(kind) && refused.contains("is not ASCII"), "{refused}");
    }
}

#[test]
fn names_count_in_whichever_attribute_and_value_they_stand() {
    let san = |name: &[u8]| {
        let names = element(0x30, &[&element(0x82, &[name])]);
        element(0x30, &[&element(0x06, &[&[0x55, 0x1d, 0x11]]), &element(0x04, &[&names])])
    };
    let asked = |oid: &[u8], values: &[&[u8]]| {
        let values: Vec<Vec<u8>> = values.iter().map(|it| element(0x30, &[it])).collect();
        element(0x30, &[&element(0x06, &[oid]), &element(0x31, &[&values.concat()])])
    };
    let (a, b) = (san(b"a.internal"), san(b"b.internal"));
    let both = vec!["a.internal", "b.internal"];
    for (attributes, expected) in [
        (vec![asked(EXTENSION_REQUEST, &[&a, &b])], both.clone()),
        (vec![asked(EXTENSION_REQUEST, &[&[], &a])], vec!["a.internal"]),
        (vec![asked(MICROSOFT, &[&a])], vec!["a.internal"]),
        (vec![asked(EXTENSION_REQUEST, &[&a]), asked(MICROSOFT, &[&b])], both.clone()),
        (vec![asked(EXTENSION_REQUEST, &[&a]), asked(MICROSOFT, &[&a])], vec!["a.internal"]),
        (vec![asked(EXTENSION_REQUEST, &[&a]), asked(EXTENSION_REQUEST, &[&b])], both),
    ] {
        let request = CertificateRequest::parse_der(&with_attributes(&attributes)).unwrap();
        let names: Vec<_> = request.names().dns.iter().map(ToString::to_string).collect();
        assert_eq!(names, expected);
    }
    for attribute in [
        asked(EXTENSION_REQUEST, &[&a, &ca_request()]),
        asked(MICROSOFT, &[&ca_request()]),
        asked(MICROSOFT, &[&a, &ca_request()]),
    ] {
        expect(&with_attributes(&[attribute]), RequestRule::CertificateAuthority);
    }
    let broken = |values: &[u8]| element(0x30, &[&element(0x06, &[EXTENSION_REQUEST]), values]);
    for values in [
        vec![],
        element(0x30, &[&a]),
        element(0x31, &[&[0x05, 0x00]]),
        element(0x31, &[&element(0x30, &[&a[..], &[0x05, 0x00]])]),
        [element(0x31, &[]), element(0x31, &[&a])].concat(),
    ] {
        assert_eq!(broken_part(&with_attributes(&[broken(&values)])), "extension request");
    }
}

#[test]
fn a_signature_with_unused_bits_is_refused() {
    // DER wants unused bits to be zero: find a signature that ends with one.
    let even = |der: &Vec<u8>| der.last().unwrap() & 1 == 0;
    let der = (0..).map(|_| csr(&key(), |_| {})).find(even).unwrap();
    let parts = split_certificate(&der).unwrap();
    let bits = element(0x03, &[&[1], parts.signature]);
    let broken = element(0x30, &[parts.tbs, parts.signature_algorithm, &bits]);
    expect(&broken, RequestRule::Signature);
}

#[test]
fn the_algorithm_must_be_that_of_the_key() {
    let (p256, ed25519) = (key(), KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap());
    let (p256, ed25519) = (csr(&p256, |_| {}), csr(&ed25519, |_| {}));
    let (p256, ed25519) = (split_certificate(&p256).unwrap(), split_certificate(&ed25519).unwrap());
    for (one, other) in [(p256, ed25519), (ed25519, p256)] {
        let mixed = join_certificate(one.tbs, other.signature_algorithm, one.signature);
        let refused = CertificateRequest::parse_der(&mixed);
        let rule = matches!(refused, Err(Error::Request(RequestRule::SignatureAlgorithm(_))));
        assert!(rule, "{refused:?}");
    }
}

#[test]
fn bytes_behind_the_request_are_refused() {
    let der = csr(&key(), |_| {});
    let trailing = [&der[..], &[0]].concat();
    expect(&trailing, RequestRule::TrailingBytes);
    let text = pem("CERTIFICATE REQUEST", &trailing);
    let refused = Err(Error::Request(RequestRule::TrailingBytes));
    assert_eq!(CertificateRequest::parse_pem(&text), refused);
}

#[test]
fn bytes_behind_the_signature_inside_the_request_are_refused() {
    let der = csr(&key(), |_| {});
    let inside = element(0x30, &[value(&der), &[0x05, 0x00]]);
    let refused = CertificateRequest::parse_der(&inside);
    assert!(refused.is_err(), "taken, with bytes that nobody signed");
}

#[test]
fn a_request_has_at_most_16_kib() {
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let padded = |length| {
        csr(&key, |params| {
            let content = element(0x04, &[&vec![7; length]]);
            params.custom_extensions.push(CustomExtension::from_oid_content(PRIVATE, content));
        })
    };
    let padding = 15_000 + 16 * 1024 - padded(15_000).len();
    let (fits, long) = (padded(padding), padded(padding + 1));
    assert_eq!(fits.len(), 16 * 1024);
    assert!(CertificateRequest::parse_der(&fits).is_ok());
    let text = pem("CERTIFICATE REQUEST", &fits).replace('\n', "\r\n");
    assert!(CertificateRequest::parse_pem(&text).is_ok());
    expect(&long, RequestRule::TooLarge);
    let refused = Err(Error::Request(RequestRule::TooLarge));
    assert_eq!(CertificateRequest::parse_pem(&pem("CERTIFICATE REQUEST", &long)), refused);
}

/// As Windows' tools save it, or with a German name in the text that OpenSSL prints before it: what
/// arrives is a JSON string, so of the marks only U+FEFF can be in it.
#[test]
fn a_byte_order_mark_before_the_block_is_passed_over() {
    let text = pem("CERTIFICATE REQUEST", &csr(&key(), |_| {}));
    assert!(CertificateRequest::parse_pem(&format!("\u{feff}{text}")).is_ok());
    assert!(CertificateRequest::parse_pem(&format!("M\u{fc}ller\n\u{feff}{text}")).is_ok());
}

#[test]
fn a_mebibyte_is_refused_whatever_it_says() {
    let valid = pem("CERTIFICATE REQUEST", &csr(&key(), |_| {}));
    let mebibyte = 1024 * 1024;
    let padded = format!("{}{valid}", "#\n".repeat(mebibyte / 2));
    let blocks = pem("CERTIFICATE REQUEST", &vec![0x30; mebibyte]);
    for text in ["A".repeat(mebibyte), padded, blocks] {
        let refused = CertificateRequest::parse_pem(&text);
        assert_eq!(refused, Err(Error::Request(RequestRule::TooLarge)));
    }
    expect(&vec![0x30; mebibyte], RequestRule::TooLarge);
    expect(&[], RequestRule::Empty);
}

#[test]
fn a_wish_to_be_a_ca_is_refused() {
    for constraints in [BasicConstraints::Unconstrained, BasicConstraints::Constrained(0)] {
        let der = csr(&key(), |params| params.is_ca = IsCa::Ca(constraints));
        expect(&der, RequestRule::CertificateAuthority);
    }
}

#[test]
fn a_wish_to_be_a_ca_in_a_second_extension_request_is_refused() {
    let first = |params: &mut CertificateParams| params.subject_alt_names = names(1);
    let private = element(0x30, &[&element(0x06, &[&[0x2a, 3]]), &element(0x04, &[&[7; 200]])]);
    // A SET OF is sorted: the longer element stands behind the shorter.
    let der = with_attribute(first, &[private, ca_request()].concat());
    let refused = CertificateRequest::parse_der(&der).map(|request| request.key_type());
    assert!(refused.is_err(), "taken, its second extensionRequest unread");
}

#[test]
fn a_subject_alt_name_that_cannot_be_read_is_not_passed_over() {
    let broken = CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x30, 3, 0x86, 9, 0x61]);
    let der = csr(&key(), |params| params.custom_extensions.push(broken));
    let refused = CertificateRequest::parse_der(&der);
    assert!(refused.is_err(), "taken, with {:?}", refused.map(|request| request.names().clone()));
}

#[test]
fn names_in_two_subject_alt_names_count_together() {
    let san = element(0x30, &[&element(0x86, &[b"spiffe://pay.example/prod/admin"])]);
    let second = CustomExtension::from_oid_content(&[2, 5, 29, 17], san);
    let der = csr(&key(), |params| {
        params.subject_alt_names = names(1);
        params.custom_extensions.push(second);
    });
    let refused = CertificateRequest::parse_der(&der);
    assert!(matches!(refused, Err(Error::Request(RequestRule::Names(_)))), "{refused:?}");
}

#[test]
fn an_ip_name_of_another_length_is_refused() {
    for length in [0, 3, 5, 8, 15, 17, 32] {
        let san = element(0x30, &[&element(0x87, &[&vec![10; length]])]);
        let san = CustomExtension::from_oid_content(&[2, 5, 29, 17], san);
        let der = csr(&key(), |params| params.custom_extensions.push(san));
        let refused = CertificateRequest::parse_der(&der);
        assert!(matches!(refused, Err(Error::Request(RequestRule::Names(_)))), "{refused:?}");
    }
}

/// A key that OpenSSL and Go could not read, and that the builder refuses after policy said yes.
#[test]
fn a_key_whose_algorithm_is_not_spelled_by_its_standard_is_refused() {
    let null = [0x05, 0x00];
    let octets = element(0x04, &[P256_CURVE]);
    let cases = [
        (&rcgen::PKCS_ED25519, [&ED25519[..], &null].concat(), "RFC 8410 §3: no parameters"),
        (&rcgen::PKCS_RSA_SHA256, RSA.to_vec(), "RFC 3279 §2.3.1: parameters are NULL"),
        (&rcgen::PKCS_ECDSA_P256_SHA256, [EC, &octets].concat(), "RFC 5480 §2.1.1: an OID"),
    ];
    let taken: Vec<&str> = cases
        .into_iter()
        .filter(|(algorithm, spelled, _)| {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let request = CertificateRequest::parse_der(&with_key_algorithm(&key, spelled));
            !matches!(request, Err(Error::Request(RequestRule::Key(_))))
        })
        .map(|(_, _, rule)| rule)
        .collect();
    assert_eq!(taken, [""; 0]);
}

/// A request, signed, whose key has an AlgorithmIdentifier with this content.
fn with_key_algorithm(key: &KeyPair, algorithm: &[u8]) -> Vec<u8> {
    let der = csr(key, |_| {});
    let parts = split_certificate(&der).unwrap();
    let mut info = elements(value(parts.tbs));
    let spki = elements(value(&info[2]));
    info[2] = element(0x30, &[&element(0x30, &[algorithm]), &spki[1]]);
    let info = element(0x30, &[&info.concat()]);
    join_certificate(&info, parts.signature_algorithm, &key.sign(&info).unwrap())
}

/// What is not signed is fixed by its form: there is one encoding.
#[test]
fn a_single_other_byte_anywhere_is_refused() {
    let der = csr(&key(), |params| params.subject_alt_names = names(3));
    let is_taken = |position: usize, difference: u8| {
        let mut changed = der.clone();
        changed[position] ^= difference;
        CertificateRequest::parse_der(&changed).is_ok()
    };
    let taken: Vec<usize> = (0..der.len())
        .filter(|position| (1..=255).any(|difference| is_taken(*position, difference)))
        .collect();
    assert_eq!(taken, [0; 0], "positions of {}", der.len());
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_refused_without_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..500),
        text in ".{0,500}",
    ) {
        prop_assert!(CertificateRequest::parse_der(&bytes).is_err());
        prop_assert!(CertificateRequest::parse_pem(&pem("CERTIFICATE REQUEST", &bytes)).is_err());
        prop_assert!(CertificateRequest::parse_pem(&text).is_err());
    }
}

fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
}

/// A URI and, beyond that, DNS names.
fn names(count: usize) -> Vec<SanType> {
    let uri = SanType::URI("spiffe://pay.example/prod/reports".try_into().unwrap());
    let dns = |n| SanType::DnsName(format!("n{n}.pay.internal").try_into().unwrap());
    [uri].into_iter().chain((1..count).map(dns)).collect()
}

fn csr(key: &KeyPair, edit: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = params();
    edit(&mut params);
    params.serialize_request(key).unwrap().der().to_vec()
}

/// A request with a second extensionRequest attribute, whose extensions are `extensions`.
fn with_attribute(edit: impl FnOnce(&mut CertificateParams), extensions: &[u8]) -> Vec<u8> {
    let mut params = params();
    edit(&mut params);
    let values = element(0x31, &[&element(0x30, &[extensions])]);
    let attribute = Attribute { oid: &[1, 2, 840, 113549, 1, 9, 14], values };
    let request = params.serialize_request_with_attributes(&key(), vec![attribute]).unwrap();
    request.der().to_vec()
}

/// The extension basicConstraints with cA=true.
fn ca_request() -> Vec<u8> {
    let oid = element(0x06, &[&[0x55, 0x1d, 0x13]]);
    let constraints = element(0x30, &[&[0x01, 0x01, 0xff]]);
    element(0x30, &[&oid, &element(0x04, &[&constraints])])
}

/// A request, signed, after an edit of version, subject, key and attributes.
fn with_info(edit: impl FnOnce(&mut Vec<Vec<u8>>)) -> Vec<u8> {
    let key = key();
    let der = csr(&key, |_| {});
    let parts = split_certificate(&der).unwrap();
    let mut info = elements(value(parts.tbs));
    edit(&mut info);
    let info = element(0x30, &[&info.concat()]);
    join_certificate(&info, parts.signature_algorithm, &key.sign(&info).unwrap())
}

fn with_attributes(attributes: &[Vec<u8>]) -> Vec<u8> {
    with_info(|fields| fields[3] = element(0xa0, &[&attributes.concat()]))
}

#[track_caller]
fn broken_part(der: &[u8]) -> &'static str {
    match CertificateRequest::parse_der(der) {
        Err(Error::Request(RequestRule::Broken { part, .. })) => part,
        other => panic!("{other:?}: {der:x?}"),
    }
}

fn expect(der: &[u8], rule: RequestRule) {
    assert_eq!(CertificateRequest::parse_der(der), Err(Error::Request(rule)));
}

const CHALLENGE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 7];
const EXTENSION_REQUEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 14];
const MICROSOFT: &[u8] = &[0x2b, 6, 1, 4, 1, 0x82, 0x37, 2, 1, 14];
const PRIVATE: &[u64] = &[1, 3, 6, 1, 4, 1, 99999, 1];
/// OBJECT IDENTIFIERs of key algorithms, and the content of that of a curve.
const ED25519: [u8; 5] = [6, 3, 0x2b, 0x65, 0x70];
const RSA: [u8; 11] = [6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const EC: &[u8] = &[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const P256_CURVE: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];

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
fn a_request_without_signature_is_malformed() {
    let der = csr(&key(), |_| {});
    let parts = split_certificate(&der).unwrap();
    expect(&element(0x30, &[parts.tbs, parts.signature_algorithm]), RequestRule::Malformed);
    expect(&element(0x30, &[parts.tbs]), RequestRule::Malformed);
    expect(parts.tbs, RequestRule::Malformed);
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

fn expect(der: &[u8], rule: RequestRule) {
    assert_eq!(CertificateRequest::parse_der(der), Err(Error::Request(rule)));
}

const PRIVATE: &[u64] = &[1, 3, 6, 1, 4, 1, 99999, 1];
/// OBJECT IDENTIFIERs of key algorithms, and the content of that of a curve.
const ED25519: [u8; 5] = [6, 3, 0x2b, 0x65, 0x70];
const RSA: [u8; 11] = [6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const EC: &[u8] = &[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const P256_CURVE: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];

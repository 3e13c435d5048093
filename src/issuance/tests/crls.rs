//! Certificate revocation lists, as x509-parser and OpenSSL read them.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use identity::SerialNumber;
use issuance::{Error, RevocationList, RevocationReason, RevokedCertificate, prepare_crl};
use support::der::{elements, value};
use support::said::key_id;
use support::{Ca, NOW, OpenSsl, pem};
use time::OffsetDateTime;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

const DAY: time::Duration = time::Duration::DAY;

#[test]
fn a_list_says_who_is_revoked_since_when_and_why() {
    use RevocationReason::{
        AffiliationChanged, CessationOfOperation, KeyCompromise, PrivilegeWithdrawn, Superseded,
        Unspecified,
    };
    // RFC 5280 §5.3.1: the reason is left out instead of saying unspecified.
    let reasons = [
        (Unspecified, None),
        (KeyCompromise, Some(1)),
        (AffiliationChanged, Some(3)),
        (Superseded, Some(4)),
        (CessationOfOperation, Some(5)),
        (PrivilegeWithdrawn, Some(9)),
    ];
    let serials: [&[u8]; 6] = [&[9], &[0x80], &[0xff; 20], &[0x7f; 20], &[1, 0], &[0x12, 0x34]];
    let revoked: Vec<_> = std::iter::zip(serials, reasons)
        .enumerate()
        .map(|(n, (serial, (reason, _)))| RevokedCertificate {
            serial_number: SerialNumber::from_octets(serial).unwrap(),
            revoked_at: NOW - time::Duration::minutes(n as i64),
            reason,
        })
        .collect();
    let (ca, der) = issue(7, &revoked);
    let (rest, crl) = CertificateRevocationList::from_der(&der).unwrap();
    assert!(rest.is_empty());
    assert_eq!(crl.iter_revoked_certificates().count(), revoked.len());
    let expected = std::iter::zip(&revoked, reasons);
    for (found, (expected, (_, code))) in std::iter::zip(crl.iter_revoked_certificates(), expected)
    {
        let serial = SerialNumber::from_octets(found.raw_serial()).unwrap();
        assert_eq!(serial, expected.serial_number);
        assert_eq!(found.raw_serial()[0] & 0x80, 0, "negative");
        assert_eq!(found.revocation_date.timestamp(), expected.revoked_at.unix_timestamp());
        let reason = found.reason_code().map(|(critical, reason)| (critical, reason.0));
        assert_eq!(reason, code.map(|code| (false, code)));
        assert_eq!(found.extensions().len(), usize::from(code.is_some()));
    }
    assert_eq!(crl.last_update().timestamp(), NOW.unix_timestamp());
    assert_eq!(crl.next_update().unwrap().timestamp(), (NOW + DAY).unix_timestamp());
    let (_, issuer) = x509_parser::parse_x509_certificate(ca.issuer.der()).unwrap();
    assert_eq!(crl.issuer().as_raw(), issuer.subject().as_raw());
}

#[test]
fn a_list_has_version_2_a_number_and_the_issuers_key_identifier() {
    let (ca, der) = issue(7, &[]);
    let (_, crl) = CertificateRevocationList::from_der(&der).unwrap();
    assert_eq!(crl.version().unwrap().0, 1);
    let [authority, number] = crl.extensions() else { panic!("{:?}", crl.extensions()) };
    assert!(!authority.critical && !number.critical);
    let ParsedExtension::AuthorityKeyIdentifier(id) = authority.parsed_extension() else {
        panic!("{authority:?}")
    };
    assert_eq!(id.key_identifier.as_ref().unwrap().0, key_id(ca.issuer.public_key()));
    assert_eq!(crl.crl_number().unwrap().to_string(), "7");
}

/// RFC 5280 §5.1.2.6: the list of nobody is absent, not empty.
#[test]
fn a_list_of_nobody_has_no_list() {
    let (_, der) = issue(1, &[]);
    let tbs = tlog::split_certificate(&der).unwrap().tbs;
    let tags: Vec<u8> = elements(value(tbs)).iter().map(|field| field[0]).collect();
    // version, signature, issuer, thisUpdate, nextUpdate, crlExtensions
    assert_eq!(tags, [0x02, 0x30, 0x30, 0x17, 0x17, 0xa0]);
    let openssl = OpenSsl::new();
    openssl.write("crl.pem", pem("X509 CRL", &der));
    assert!(openssl.run("crl -in crl.pem -noout -text").contains("No Revoked Certificates."));
}

#[test]
fn numbers_grow_from_zero_to_the_largest() {
    let openssl = OpenSsl::new();
    for number in [0, 1, 127, 128, 255, 256, 65_536, u64::MAX >> 1, u64::MAX] {
        let (_, der) = issue(number, &[]);
        let (_, crl) = CertificateRevocationList::from_der(&der).unwrap();
        assert_eq!(crl.crl_number().unwrap().to_string(), number.to_string());
        openssl.write("crl.pem", pem("X509 CRL", &der));
        let text = openssl.run("crl -in crl.pem -noout -crlnumber");
        let hex = text.trim().strip_prefix("crlNumber=0x").unwrap().to_owned();
        assert_eq!(u64::from_str_radix(&hex, 16).unwrap(), number, "{text}");
    }
}

#[test]
fn openssl_refuses_who_is_revoked_and_takes_the_others() {
    let (ca, openssl) = (Ca::new(), OpenSsl::new());
    let certificate = ca.certificate();
    let serial_number = {
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).unwrap();
        SerialNumber::from_octets(parsed.raw_serial()).unwrap()
    };
    let reason = RevocationReason::KeyCompromise;
    let revoked = [RevokedCertificate { serial_number, revoked_at: NOW, reason }];
    let chain = [ca.issuer.der(), &ca.root].map(|der| pem("CERTIFICATE", der)).concat();
    openssl.write("root.pem", pem("CERTIFICATE", &ca.root));
    openssl.write("chain.pem", chain);
    openssl.write("issuer.pem", pem("CERTIFICATE", ca.issuer.der()));
    openssl.write("leaf.pem", pem("CERTIFICATE", &certificate));
    for (revoked, refused) in [(&revoked[..], true), (&[], false)] {
        let crl = sign(&ca, &list(1, revoked)).unwrap();
        openssl.write("crl.pem", pem("X509 CRL", &crl));
        assert!(openssl.run("crl -in crl.pem -noout -CAfile chain.pem").contains("verify OK"));
        let (success, text) = openssl.try_run(&format!(
            "verify -x509_strict -crl_check -attime {} -CAfile root.pem -CRLfile crl.pem \
             -untrusted issuer.pem leaf.pem",
            NOW.unix_timestamp()
        ));
        assert_eq!(success, !refused, "{text}");
        assert_eq!(text.contains("certificate revoked"), refused, "{text}");
    }
}

#[test]
fn a_list_whose_next_one_is_not_later_is_refused() {
    let ca = Ca::new();
    for next_update in [NOW, NOW - DAY, NOW + time::Duration::milliseconds(900)] {
        let refused = prepare_crl(&RevocationList { next_update, ..list(1, &[]) }, &ca.issuer);
        assert!(matches!(refused, Err(Error::Encoding(_) | Error::Lint(_))), "{refused:?}");
    }
}

#[test]
fn fractions_of_a_second_are_cut_and_2050_changes_the_form() {
    let ca = Ca::new();
    let cut = RevocationList { this_update: NOW + time::Duration::nanoseconds(1), ..list(1, &[]) };
    let der = sign(&ca, &cut).unwrap();
    let (_, crl) = CertificateRevocationList::from_der(&der).unwrap();
    assert_eq!(crl.last_update().timestamp(), NOW.unix_timestamp());

    let late = OffsetDateTime::from_unix_timestamp(2_524_608_000).unwrap();
    let late = RevocationList { this_update: late - DAY, next_update: late, ..list(1, &[]) };
    let der = sign(&ca, &late).unwrap();
    let (_, crl) = CertificateRevocationList::from_der(&der).unwrap();
    assert!(crl.last_update().is_utctime() && crl.next_update().unwrap().is_generalizedtime());
}

#[test]
fn ten_thousand_entries_are_no_more_trouble() {
    let revoked: Vec<_> = (1..=10_000_u32)
        .map(|n| RevokedCertificate {
            serial_number: SerialNumber::from_octets(&n.to_be_bytes()).unwrap(),
            revoked_at: NOW,
            reason: RevocationReason::Superseded,
        })
        .collect();
    let (_, der) = issue(1, &revoked);
    let (_, crl) = CertificateRevocationList::from_der(&der).unwrap();
    assert_eq!(crl.iter_revoked_certificates().count(), 10_000);
}

fn list(crl_number: u64, revoked: &[RevokedCertificate]) -> RevocationList<'_> {
    RevocationList { crl_number, this_update: NOW, next_update: NOW + DAY, revoked }
}

fn issue(crl_number: u64, revoked: &[RevokedCertificate]) -> (Ca, Vec<u8>) {
    let ca = Ca::new();
    let der = sign(&ca, &list(crl_number, revoked)).unwrap();
    (ca, der)
}

fn sign(ca: &Ca, list: &RevocationList<'_>) -> Result<Vec<u8>, Error> {
    prepare_crl(list, &ca.issuer).map(|tbs| ca.sign(&tbs))
}

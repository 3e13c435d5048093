//! Certificates that the issuer signed and the log countersigned, whatever they say.
//!
//! The input is a TBSCertificate. A third parser judges what the verifier believes, and the linter's
//! word holds: what it passes is an X.509-SVID.
#![no_main]

use fuzz::{CA, LEAF_INDEX, NOW, issue, now, trust_domain};
use identity::{Refusal, Revocations, Usage, VerifiedSvid, verify};
use libfuzzer_sys::fuzz_target;
use rustls_pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::oid::AssociatedOid;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName};

fuzz_target!(|data: &[u8]| {
    let Some(der) = issue(data) else { return };
    let chain = [CertificateDer::from(&der[..])];
    for (usage, purpose) in [(Usage::Client, CLIENT_AUTH), (Usage::Server, SERVER_AUTH)] {
        match verify(&chain, usage, now(), &CA.issuer_trust, &Revocations::default()) {
            Ok(svid) => believed_rightly(&der, purpose, &svid),
            // The linter's parser takes tags that DER does not know.
            Err(Refusal::NotAnSvid(rule)) if Certificate::from_der(&der).is_ok() => {
                let findings = issuance::lint::certificate(&der);
                assert!(!findings.is_empty(), "the linter passes it: {rule}");
            }
            Err(_) => {}
        }
    }
});

fn believed_rightly(der: &[u8], purpose: &str, svid: &VerifiedSvid) {
    // Issuer and subject are bytes to the verifier, and may be no names.
    let Ok(certificate) = Certificate::from_der(der) else { return };
    let tbs = certificate.tbs_certificate();
    let serial = tbs.serial_number().as_bytes();
    assert_eq!(serial.strip_prefix(&[0]).unwrap_or(serial), svid.serial_number().as_octets());
    assert!(tbs.validity().not_before.to_unix_duration().as_secs() <= NOW);
    assert!(tbs.validity().not_after.to_unix_duration().as_secs() >= NOW);
    assert_eq!(svid.leaf_index(), Some(LEAF_INDEX));

    assert!(svid.spiffe_id().is_member_of(&trust_domain()));

    if let Some(names) = extension::<SubjectAltName>(&certificate) {
        let uris: Vec<String> = names
            .0
            .into_iter()
            .filter_map(|name| match name {
                GeneralName::UniformResourceIdentifier(uri) => Some(uri.to_string()),
                _ => None,
            })
            .collect();
        assert_eq!(uris, [svid.spiffe_id().as_str()]);
    }
    assert!(extension::<BasicConstraints>(&certificate).is_none_or(|constraints| !constraints.ca));
    assert!(extension::<KeyUsage>(&certificate).is_none_or(|usage| {
        usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign()
    }));
    assert!(
        extension::<ExtendedKeyUsage>(&certificate)
            .is_none_or(|purposes| { purposes.0.iter().any(|oid| oid.to_string() == purpose) })
    );
}

/// The only extension of this kind; none where the third parser, which is the strictest about tags
/// and object identifiers, cannot read it.
fn extension<'a, T: Decode<'a> + AssociatedOid>(certificate: &'a Certificate) -> Option<T> {
    let extensions = certificate.tbs_certificate().extensions().expect("it has extensions");
    let mut found = extensions.iter().filter(|extension| extension.extn_id == T::OID);
    let value = found.next().map(|extension| extension.extn_value.as_bytes());
    assert!(found.next().is_none(), "an extension stands twice");
    T::from_der(value?).ok()
}

const CLIENT_AUTH: &str = "1.3.6.1.5.5.7.3.2";
const SERVER_AUTH: &str = "1.3.6.1.5.5.7.3.1";

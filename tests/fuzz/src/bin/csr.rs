//! Certificate requests, as they come and signed anew with the key that most seeds have.
#![no_main]

use fuzz::{OTHER_KEY, sign};
use identity::pem;
use issuance::CertificateRequest;
use libfuzzer_sys::fuzz_target;
use tlog::{Hash, split_certificate};
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, SubjectAltName};
use x509_cert::request::{CertReq, ExtensionReq};

fuzz_target!(|data: &[u8]| {
    accepted_rightly(data);
    if let Ok(parts) = split_certificate(data) {
        accepted_rightly(&sign(&OTHER_KEY, parts.tbs));
    }
});

fn accepted_rightly(der: &[u8]) {
    let Ok(request) = CertificateRequest::parse_der(der) else { return };
    assert_eq!(*request.hash(), Hash::of(der));
    let again = CertificateRequest::parse_pem(&pem("CERTIFICATE REQUEST", der));
    assert_eq!(again.as_ref(), Ok(&request));

    let Ok(other) = CertReq::from_der(der) else { return };
    let spki = other.info.public_key.to_der().expect("what was read can be written");
    assert_eq!(spki, request.public_key());
    let (mut uris, mut dns, mut ip) = (Vec::new(), Vec::new(), 0);
    let Some(extensions) = extensions(&other) else { return };
    for extension in extensions {
        let value = extension.extn_value.as_bytes();
        match extension.extn_id.to_string().as_str() {
            SUBJECT_ALT_NAME => {
                // x509-parser takes tags that DER does not know.
                let Ok(names) = SubjectAltName::from_der(value) else { return };
                for name in names.0 {
                    match name {
                        GeneralName::UniformResourceIdentifier(uri) => uris.push(uri.to_string()),
                        GeneralName::DnsName(name) => dns.push(name.to_string()),
                        GeneralName::IpAddress(_) => ip += 1,
                        other => panic!("{other:?} was passed over"),
                    }
                }
            }
            BASIC_CONSTRAINTS => {
                assert!(!BasicConstraints::from_der(value).is_ok_and(|constraints| constraints.ca));
            }
            _ => {}
        }
    }
    let names = request.names();
    assert_eq!(uris, names.spiffe_id.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(dns, names.dns.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(ip, names.ip.len());
}

/// Those asked for by PKCS#9's extensionRequest (RFC 2985 §5.4.2), if all of them can be read.
fn extensions(request: &CertReq) -> Option<Vec<Extension>> {
    let mut extensions = Vec::new();
    for attribute in request.info.attributes.iter() {
        if attribute.oid.to_string() == EXTENSION_REQUEST {
            for value in attribute.values.iter() {
                extensions.extend(ExtensionReq::from_der(&value.to_der().ok()?).ok()?.0);
            }
        }
    }
    Some(extensions)
}

const BASIC_CONSTRAINTS: &str = "2.5.29.19";
const EXTENSION_REQUEST: &str = "1.2.840.113549.1.9.14";
const SUBJECT_ALT_NAME: &str = "2.5.29.17";

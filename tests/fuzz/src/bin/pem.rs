//! PEM: what we write, others read; what we take for a request stands between its first lines.
#![no_main]

use data_encoding::BASE64;
use issuance::CertificateRequest;
use libfuzzer_sys::fuzz_target;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tlog::Hash;

fuzz_target!(|data: &[u8]| {
    let pem = identity::pem("CERTIFICATE", data);
    let read = CertificateDer::from_pem_slice(pem.as_bytes()).expect("we write PEM");
    assert_eq!(&*read, data);
    assert!(pem.lines().all(|line| line.len() <= 64));

    let _ = CertificateDer::pem_slice_iter(data).count();
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(request) = CertificateRequest::parse_pem(text) {
        let base64 = ["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"].iter().find_map(|label| {
            let (_, body) = text.split_once(&format!("-----BEGIN {label}-----"))?;
            Some(body.split_once(&format!("-----END {label}-----"))?.0)
        });
        let base64 = base64.expect("it has a beginning and an end");
        // White space, wherever it is, and byte order marks before lines are no part of it.
        let base64: String =
            base64.chars().filter(|it| !it.is_ascii_whitespace() && *it != '\u{feff}').collect();
        let der = BASE64.decode(base64.as_bytes()).expect("it is base64");
        assert_eq!(Hash::of(&der), *request.hash());
    }
});

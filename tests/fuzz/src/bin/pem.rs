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
        let beginning = text.lines().position(|line| line.starts_with("-----BEGIN "));
        let lines = text.lines().skip(beginning.expect("it has a beginning") + 1);
        let base64: String =
            lines.take_while(|line| !line.starts_with("-----END ")).map(str::trim_end).collect();
        let der = BASE64.decode(base64.as_bytes()).expect("it is base64");
        assert_eq!(Hash::of(&der), *request.hash());
    }
});

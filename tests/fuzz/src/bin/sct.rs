//! Countersignatures: the SCT, and the extension that holds it.
#![no_main]

use fuzz::canonical;
use libfuzzer_sys::fuzz_target;
use tlog::{SignedCertificateTimestamp, parse_sct_list, sct_list_extension};

fuzz_target!(|data: &[u8]| {
    canonical(data, SignedCertificateTimestamp::parse, |sct| {
        sct.encode().expect("what was read can be written")
    });
    if let Ok(sct) = parse_sct_list(data) {
        let extension = sct_list_extension(&sct).expect("what was read can be written");
        assert!(extension.ends_with(data));
    }
});

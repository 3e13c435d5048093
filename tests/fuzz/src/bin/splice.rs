//! The splice rule: taking a countersignature out and putting it in are exact inverses.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tlog::{
    SignedCertificateTimestamp, join_certificate, splice_in, splice_out, split_certificate,
};

fuzz_target!(|data: &[u8]| {
    if let Ok(parts) = split_certificate(data) {
        let joined = join_certificate(parts.tbs, parts.signature_algorithm, parts.signature);
        assert_eq!(joined, data);
    }
    if let Ok((bare, sct)) = splice_out(data) {
        assert_eq!(splice_in(&bare, &sct).as_deref(), Ok(data));
    }
    let sct = SignedCertificateTimestamp::largest();
    if let Ok(spliced) = splice_in(data, &sct) {
        assert_eq!(splice_out(&spliced), Ok((data.to_vec(), sct)));
    }
});

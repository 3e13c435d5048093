//! Chains before the verifier: of certificates that nobody signed, none is believed.
//!
//! The input is a list of certificates, each behind its length in two octets.
#![no_main]

use fuzz::{CA, now};
use identity::{Revocations, Usage, verify};
use libfuzzer_sys::fuzz_target;
use rustls_pki_types::CertificateDer;
use tlog::{Hash, parse_bundle, splice_out, split_certificate};

fuzz_target!(|data: &[u8]| {
    let Ok(entries) = parse_bundle(data) else { return };
    let chain: Vec<CertificateDer<'_>> = entries.into_iter().map(CertificateDer::from).collect();
    for usage in [Usage::Client, Usage::Server] {
        let verified = verify(&chain, usage, now(), &CA.trust, &Revocations::default());
        let Ok(svid) = verified else { continue };
        let leaf = split_certificate(&chain[0]).expect("a believed certificate is DER");
        let (bare, sct) = splice_out(leaf.tbs).expect("a believed certificate is countersigned");
        assert_eq!(bare, CA.bare, "a forgery is believed");
        assert_eq!(svid.leaf_index(), Some(sct.leaf_index));
        assert_eq!(*svid.fingerprint(), Hash::of(&chain[0]));
    }
});

//! Certificate entries of the log, read and rebuilt from a certificate.
#![no_main]

use fuzz::canonical;
use libfuzzer_sys::fuzz_target;
use tlog::{CertificateLeaf, EntryKind, entry_kind, splice_in, split_certificate};

fuzz_target!(|data: &[u8]| {
    let written = |leaf: &CertificateLeaf| leaf.encode().expect("what was read can be written");
    if canonical(data, CertificateLeaf::parse, written).is_some() {
        assert_eq!(entry_kind(data), Some(EntryKind::Leaf));
    }
    if let Ok((leaf, sct)) = CertificateLeaf::from_certificate(data, b"issuer") {
        assert_eq!((leaf.timestamp, leaf.leaf_index), (sct.timestamp, sct.leaf_index));
        let tbs = split_certificate(data).expect("a leaf was rebuilt from it").tbs;
        assert_eq!(splice_in(&leaf.tbs_certificate, &sct).as_deref(), Ok(tbs));
        if let Ok(entry) = leaf.encode() {
            assert_eq!(CertificateLeaf::parse(&entry), Ok(leaf));
        }
    }
});

//! Entry bundles and tiles of hashes, as the log publishes them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tlog::{Subtree, encode_bundle_entry, parse_bundle, subtree_hash_in_tile};

fuzz_target!(|data: &[u8]| {
    if let Ok(entries) = parse_bundle(data) {
        let mut bundle = Vec::new();
        for entry in entries {
            encode_bundle_entry(entry, &mut bundle).expect("what was read can be written");
        }
        assert_eq!(bundle, data);
    }
    for level in 0..=8 {
        let _ = subtree_hash_in_tile(data, Subtree { level, index: 0 });
    }
});

//! Checkpoints, in a note and bare.
#![no_main]

use std::sync::LazyLock;

use fuzz::{ORIGIN, OTHER_KEY, canonical, checkpoint_key};
use libfuzzer_sys::fuzz_target;
use tlog::{Checkpoint, SignedNote, VerifierKey};

fuzz_target!(|data: &[u8]| {
    if let Ok(checkpoint) = Checkpoint::verify(data, ORIGIN, &OTHERS_KEY) {
        let text = checkpoint.text();
        assert!(OTHERS.starts_with(text.as_bytes()), "a forgery is believed");
    }
    let Ok(text) = str::from_utf8(data) else { return };
    let text = SignedNote::parse(data).map_or(text.to_owned(), |note| note.text().to_owned());
    let read = canonical(&*text, Checkpoint::parse, Checkpoint::text);
    let Ok(note) = SignedNote::unsigned(&*text) else { return };
    let (key, signature) = (checkpoint_key(), OTHER_KEY.sign(text.as_bytes()));
    let note = note.with_signature(ORIGIN, key.key_id(), signature.as_ref());
    let note = note.expect("a first signature has room").encode();
    let ours = read.filter(|checkpoint| checkpoint.origin == ORIGIN);
    assert_eq!(Checkpoint::verify(&note, ORIGIN, &key).ok(), ours);
});

/// Made with Go's sumdb (see the vectors of `tlog`).
const OTHERS: &[u8] = include_bytes!("../../../../src/tlog/tests/vectors/checkpoint");
static OTHERS_KEY: LazyLock<VerifierKey> = LazyLock::new(|| {
    let key = include_str!("../../../../src/tlog/tests/vectors/vkey");
    VerifierKey::parse(key.trim()).expect("the vector is a key")
});

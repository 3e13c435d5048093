//! Signed notes.
#![no_main]

use fuzz::{ORIGIN, OTHER_KEY, canonical, checkpoint_key};
use libfuzzer_sys::fuzz_target;
use tlog::SignedNote;

fuzz_target!(|data: &[u8]| {
    let Some(note) = canonical(data, SignedNote::parse, SignedNote::encode) else { return };
    let (key, signature) = (checkpoint_key(), OTHER_KEY.sign(note.text().as_bytes()));
    let unsigned = SignedNote::unsigned(note.text()).expect("it is the text of a note");
    let signed = unsigned.with_signature(ORIGIN, key.key_id(), signature.as_ref());
    let signed = signed.expect("a first signature has room");
    assert_eq!(signed.verify(&key), Ok(()));
    assert_eq!(SignedNote::parse(&signed.encode()), Ok(signed));
});

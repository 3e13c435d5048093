//! Trust states: the note as it comes, and its text signed anew.
#![no_main]

use std::sync::LazyLock;

use fuzz::{CA, P256_SPKI, p256_signature, trust_domain, trust_state};
use identity::{Error, Trust, TrustPin, TrustState};
use libfuzzer_sys::fuzz_target;
use tlog::SignedNote;

fuzz_target!(|data: &[u8]| {
    let text = match SignedNote::parse(data) {
        Ok(note) => {
            if let Ok(state) = TrustState::verify_pinned(data, &PIN) {
                assert_eq!(state, *HELD, "a forgery is believed");
            }
            note.text().to_owned()
        }
        Err(_) => String::from_utf8_lossy(data).into_owned(),
    };
    // Spares a signature for most inputs.
    if serde_json::from_str::<TrustState>(&text).is_err() {
        return;
    }
    let Some(note) = signed(&text) else { return };
    let successor = HELD.verify_successor(&note);
    if let Ok(state) = TrustState::verify_pinned(&note, &PIN) {
        assert_eq!(state.trust_domain, trust_domain());
        assert!((1..=state.trust_keys.len()).contains(&state.threshold));
        let again = signed(&state.text()).expect("a trust state is the text of a note");
        assert_eq!(TrustState::verify_pinned(&again, &PIN).as_ref(), Ok(&state));
        let not_newer = Err(Error::Sequence { held: HELD.sequence + 1, offered: state.sequence });
        let newer = state.sequence > HELD.sequence;
        assert_eq!(successor, if newer { Ok(state.clone()) } else { not_newer });
        let _ = (state.to_pem(), state.to_jwks());
        let _ = Trust::new(state);
    } else if let Ok(state) = successor {
        assert!(state.sequence > HELD.sequence && state.pin() != HELD.pin());
    }
});

fn signed(text: &str) -> Option<Vec<u8>> {
    let note = SignedNote::unsigned(text).ok()?;
    let name = TrustState::signer_name(&trust_domain());
    let key_id = tlog::ecdsa_key_id(&P256_SPKI);
    let signature = p256_signature(text.as_bytes());
    let note = note.with_signature(&name, key_id, &signature);
    Some(note.expect("a first signature has room").encode())
}

static HELD: LazyLock<TrustState> = LazyLock::new(|| trust_state(&CA.root));
static PIN: LazyLock<TrustPin> = LazyLock::new(|| HELD.pin());

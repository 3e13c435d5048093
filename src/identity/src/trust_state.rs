//! The signed statement of all keys to trust, and the pin that a workload starts from.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};
use tlog::{SignedNote, VerifierKey};

use crate::der::{Der, Spki};
use crate::error::Error;
use crate::spiffe_id::TrustDomain;

/// All keys that a verifier of one trust domain trusts. What it says counts only when signed:
/// see [`TrustState::verify_pinned`] and [`TrustState::verify_successor`].
///
/// On the wire it is a C2SP signed note whose text is this structure as JSON; keys are
/// base64 of SubjectPublicKeyInfo DER.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustState {
    /// The version of this form: 1.
    pub v: u32,
    /// The trust domain spoken of.
    pub trust_domain: TrustDomain,
    /// Grows with each state; a lower or equal one is never taken.
    pub sequence: u64,
    /// Roots that chains may end in.
    pub anchors: Vec<Anchor>,
    /// Keys whose countersignature (SCT) makes a certificate count.
    pub countersignature_keys: Vec<CountersignatureKey>,
    /// The log's checkpoint key.
    pub log: LogKey,
    /// Keys that sign the revocation feed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub feed_keys: Vec<Spki>,
    /// P-256 keys, of which `threshold` must sign this state's successor.
    pub trust_keys: Vec<Spki>,
    /// How many of the trust keys must sign.
    pub threshold: usize,
}

/// A root, as DER in base64, and what its certificates need beside its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anchor {
    /// The root's certificate.
    pub certificate: Der,
    /// Whether certificates below it need a countersignature.
    pub countersignature: Countersignature,
}

/// Whether certificates below an anchor need a countersignature of our log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Countersignature {
    /// Federated and foreign anchors only: they have no log of ours.
    None,
    /// Every anchor of our own.
    Required,
}

/// A P-256 key of the log that countersigns certificates, and when it may have done so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountersignatureKey {
    /// The key.
    pub key: Spki,
    /// Countersignatures before this count no more, in milliseconds since 1970.
    pub not_before: u64,
    /// Countersignatures from this on do not count: the key is retired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<u64>,
}

/// The checkpoint key of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogKey {
    /// The log's origin line, `<trust domain>/log`.
    pub origin: String,
    /// The key in C2SP verifier form, `name+id+key`.
    pub key: String,
}

impl TrustState {
    /// The note text that trust keys sign.
    pub fn text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a trust state is plain data");
        text.push('\n');
        text
    }

    /// The name under which trust keys sign notes, `<trust domain>/trust`.
    pub fn signer_name(trust_domain: &TrustDomain) -> String {
        format!("{trust_domain}/trust")
    }

    /// The pin that names this state's trust keys.
    pub fn pin(&self) -> TrustPin {
        TrustPin { keys: keys_digest(&self.trust_keys, self.threshold), sequence: None }
    }

    /// Verifies a note from nothing but a pin: the first state that a workload takes.
    ///
    /// Before the signatures are verified, only the trust keys and their threshold are read, and
    /// only to compare their hash with the pin's.
    pub fn verify_pinned(note: &[u8], pin: &TrustPin) -> Result<Self, Error> {
        let note = parse_note(note)?;
        let claimed: ClaimedKeys = serde_json::from_str(note.text()).map_err(unreadable)?;
        if keys_digest(&claimed.trust_keys, claimed.threshold) != pin.keys {
            return Err(Error::PinMismatch { pin: pin.to_string() });
        }
        verify_threshold(&note, &claimed)?;
        let state = Self::parse_verified(&note)?;
        pin.require_sequence(&state)?;
        Ok(state)
    }

    /// Verifies the next state: signed by a threshold of *this* state's keys, same trust domain,
    /// higher sequence.
    pub fn verify_successor(&self, note: &[u8]) -> Result<Self, Error> {
        let next = self.verify_by_own_keys(note)?;
        require_sequence(next.sequence, self.sequence.saturating_add(1))?;
        Ok(next)
    }

    /// Verifies what a CA offers to whoever holds this state: a successor, as
    /// [`verify_successor`](Self::verify_successor) does, or this very state, which is no news.
    pub fn verify_offered(&self, note: &[u8]) -> Result<Option<Self>, Error> {
        let offered = self.verify_by_own_keys(note)?;
        require_sequence(offered.sequence, self.sequence)?;
        if offered.sequence > self.sequence {
            return Ok(Some(offered));
        }
        if offered != *self {
            return Err(Error::TrustFork { sequence: self.sequence });
        }
        Ok(None)
    }

    fn verify_by_own_keys(&self, note: &[u8]) -> Result<Self, Error> {
        let note = parse_note(note)?;
        let claimed = ClaimedKeys {
            trust_domain: self.trust_domain.clone(),
            trust_keys: self.trust_keys.clone(),
            threshold: self.threshold,
        };
        verify_threshold(&note, &claimed)?;
        let offered = Self::parse_verified(&note)?;
        if offered.trust_domain != self.trust_domain {
            return Err(Error::TrustDomain {
                held: self.trust_domain.to_string(),
                offered: offered.trust_domain.to_string(),
            });
        }
        Ok(offered)
    }

    fn parse_verified(note: &SignedNote) -> Result<Self, Error> {
        let state: Self = serde_json::from_str(note.text()).map_err(unreadable)?;
        let broken = |why: &str| Err(Error::TrustState(why.to_owned()));
        if state.v != VERSION {
            return broken("this version of Countersign reads version 1 only: upgrade it");
        }
        if state.anchors.is_empty() || state.countersignature_keys.is_empty() {
            return broken("it names no anchor, or no countersignature key");
        }
        if state.threshold == 0 || state.threshold > distinct(&state.trust_keys) {
            return broken("its threshold is not between 1 and the number of its trust keys");
        }
        if state.log.origin != format!("{}/log", state.trust_domain) {
            return broken("its log's origin is not <trust domain>/log");
        }
        VerifierKey::parse(&state.log.key).map_err(|error| Error::TrustState(error.to_string()))?;
        Ok(state)
    }
}

/// What is read of a state before its signatures are verified.
#[derive(Deserialize)]
struct ClaimedKeys {
    trust_domain: TrustDomain,
    trust_keys: Vec<Spki>,
    threshold: usize,
}

fn verify_threshold(note: &SignedNote, keys: &ClaimedKeys) -> Result<(), Error> {
    let name = TrustState::signer_name(&keys.trust_domain);
    let mut signers: Vec<&Spki> = keys
        .trust_keys
        .iter()
        .filter(|key| note.verify_ecdsa(&name, key.as_bytes()).is_ok())
        .collect();
    signers.sort();
    signers.dedup();
    if keys.threshold == 0 || signers.len() < keys.threshold {
        return Err(Error::Threshold { signed: signers.len(), threshold: keys.threshold.max(1) });
    }
    Ok(())
}

fn require_sequence(offered: u64, at_least: u64) -> Result<(), Error> {
    if offered < at_least {
        return Err(Error::Sequence { held: at_least, offered });
    }
    Ok(())
}

fn parse_note(note: &[u8]) -> Result<SignedNote, Error> {
    SignedNote::parse(note).map_err(|error| Error::TrustState(error.to_string()))
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::TrustState(error.to_string())
}

fn distinct(keys: &[Spki]) -> usize {
    let mut keys: Vec<&Spki> = keys.iter().collect();
    keys.sort();
    keys.dedup();
    keys.len()
}

/// SHA-256 over the threshold and the sorted SPKIs, each with its length (both as 4 octets).
fn keys_digest(keys: &[Spki], threshold: usize) -> [u8; 32] {
    let mut sorted: Vec<&Spki> = keys.iter().collect();
    sorted.sort();
    let mut input = (threshold as u32).to_be_bytes().to_vec();
    for key in sorted {
        input.extend((key.as_bytes().len() as u32).to_be_bytes());
        input.extend(key.as_bytes());
    }
    digest(&SHA256, &input).as_ref().try_into().expect("SHA-256 has 32 octets")
}

/// The second of the two strings that a workload starts with: it names the trust keys.
///
/// Base32 of a SHA-256 over the sorted trust-key SPKIs and their threshold; `@N` demands a state
/// of at least that sequence.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TrustPin {
    keys: [u8; 32],
    sequence: Option<u64>,
}

impl TrustPin {
    /// Whether it names the trust keys of this state, of whatever sequence.
    pub fn names(&self, state: &TrustState) -> bool {
        self.keys == keys_digest(&state.trust_keys, state.threshold)
    }

    /// The same pin, demanding no sequence.
    pub fn of_any_sequence(self) -> Self {
        Self { sequence: None, ..self }
    }

    /// Refuses a state that is older than the pin demands.
    pub fn require_sequence(&self, state: &TrustState) -> Result<(), Error> {
        self.sequence.map_or(Ok(()), |held| require_sequence(state.sequence, held))
    }

    /// The same pin, demanding at least this sequence.
    pub fn at_least(self, sequence: u64) -> Self {
        Self { sequence: Some(sequence), ..self }
    }
}

impl FromStr for TrustPin {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let (keys, sequence) = match text.trim().split_once('@') {
            Some((keys, sequence)) => (keys, Some(sequence.parse().map_err(|_| Error::PinSyntax)?)),
            None => (text.trim(), None),
        };
        let letters = keys.replace('-', "").to_ascii_uppercase();
        let keys = BASE32_NOPAD.decode(letters.as_bytes()).map_err(|_| Error::PinSyntax)?;
        Ok(Self { keys: keys.try_into().map_err(|_| Error::PinSyntax)?, sequence })
    }
}

impl fmt::Display for TrustPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_NOPAD.encode(&self.keys))?;
        self.sequence.map_or(Ok(()), |sequence| write!(f, "@{sequence}"))
    }
}

impl fmt::Debug for TrustPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

const VERSION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

    struct TrustKey(EcdsaKeyPair);

    impl TrustKey {
        fn generate() -> Self {
            Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap())
        }
        fn spki(&self) -> Spki {
            let der: PublicKeyX509Der<'_> = self.0.public_key().as_der().unwrap();
            Der::new(der.as_ref().to_vec())
        }
    }

    fn state(keys: &[&TrustKey], threshold: usize, sequence: u64) -> TrustState {
        let domain = TrustDomain::parse("pay.example").unwrap();
        let log_key = VerifierKey::ed25519("pay.example/log", &[7; 32]).unwrap();
        TrustState {
            v: 1,
            trust_domain: domain,
            sequence,
            anchors: vec![Anchor {
                certificate: Der::new(vec![1]),
                countersignature: Countersignature::Required,
            }],
            countersignature_keys: vec![CountersignatureKey {
                key: Der::new(vec![2]),
                not_before: 0,
                not_after: None,
            }],
            log: LogKey { origin: "pay.example/log".into(), key: log_key.to_string() },
            feed_keys: vec![],
            trust_keys: keys.iter().map(|key| key.spki()).collect(),
            threshold,
        }
    }

    fn sign(state: &TrustState, signers: &[&TrustKey]) -> Vec<u8> {
        let name = TrustState::signer_name(&state.trust_domain);
        let text = state.text();
        let note = signers.iter().fold(SignedNote::unsigned(&text).unwrap(), |note, key| {
            let signature = key.0.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
            let id = tlog::ecdsa_key_id(key.spki().as_bytes());
            note.with_signature(&name, id, signature.as_ref()).unwrap()
        });
        note.encode()
    }

    #[test]
    fn a_state_is_taken_from_its_pin_alone() {
        let key = TrustKey::generate();
        let first = state(&[&key], 1, 1);
        let pin: TrustPin = first.pin().to_string().parse().unwrap();
        assert_eq!(TrustState::verify_pinned(&sign(&first, &[&key]), &pin).unwrap(), first);
    }

    #[test]
    fn another_key_another_threshold_or_no_signature_is_refused() {
        let (key, thief) = (TrustKey::generate(), TrustKey::generate());
        let first = state(&[&key], 1, 1);
        let forged = state(&[&thief], 1, 1);
        assert!(matches!(
            TrustState::verify_pinned(&sign(&forged, &[&thief]), &first.pin()),
            Err(Error::PinMismatch { .. })
        ));
        assert_eq!(
            TrustState::verify_pinned(&sign(&first, &[&thief]), &first.pin()),
            Err(Error::Threshold { signed: 0, threshold: 1 })
        );
        assert_ne!(state(&[&key, &thief], 1, 1).pin(), state(&[&key, &thief], 2, 1).pin());
    }

    #[test]
    fn a_threshold_counts_distinct_keys() {
        let (a, b) = (TrustKey::generate(), TrustKey::generate());
        let both = state(&[&a, &b], 2, 1);
        assert_eq!(
            TrustState::verify_pinned(&sign(&both, &[&a, &a]), &both.pin()),
            Err(Error::Threshold { signed: 1, threshold: 2 })
        );
        assert!(TrustState::verify_pinned(&sign(&both, &[&b, &a]), &both.pin()).is_ok());
        let doubled = state(&[&a, &a], 2, 1);
        assert!(matches!(
            TrustState::verify_pinned(&sign(&doubled, &[&a, &a]), &doubled.pin()),
            Err(Error::Threshold { signed: 1, .. })
        ));
    }

    #[test]
    fn a_successor_is_signed_by_the_old_keys_and_never_older() {
        let (old, new) = (TrustKey::generate(), TrustKey::generate());
        let first = state(&[&old], 1, 4);
        let next = state(&[&new], 1, 5);
        assert_eq!(first.verify_successor(&sign(&next, &[&old])).unwrap(), next);
        assert!(matches!(
            first.verify_successor(&sign(&next, &[&new])),
            Err(Error::Threshold { .. })
        ));
        assert_eq!(
            first.verify_successor(&sign(&state(&[&new], 1, 4), &[&old])),
            Err(Error::Sequence { held: 5, offered: 4 })
        );
    }

    #[test]
    fn what_is_offered_is_newer_the_same_or_an_error() {
        let key = TrustKey::generate();
        let held = state(&[&key], 1, 4);
        let offer = |state: &TrustState| held.verify_offered(&sign(state, &[&key]));
        assert_eq!(offer(&held), Ok(None), "signed again, it is still the same");
        let next = state(&[&key], 1, 5);
        assert_eq!(offer(&next), Ok(Some(next.clone())));
        assert_eq!(offer(&state(&[&key], 1, 3)), Err(Error::Sequence { held: 4, offered: 3 }));
        let mut other = held.clone();
        other.countersignature_keys[0].not_before += 1;
        assert_eq!(offer(&other), Err(Error::TrustFork { sequence: 4 }));
        let thief = TrustKey::generate();
        let stolen = held.verify_offered(&sign(&held, &[&thief]));
        assert_eq!(stolen, Err(Error::Threshold { signed: 0, threshold: 1 }));
    }

    #[test]
    fn a_pin_may_demand_a_sequence() {
        let key = TrustKey::generate();
        let first = state(&[&key], 1, 2);
        let pin: TrustPin = format!("{}@3", first.pin()).parse().unwrap();
        assert_eq!(
            TrustState::verify_pinned(&sign(&first, &[&key]), &pin),
            Err(Error::Sequence { held: 3, offered: 2 })
        );
        assert_eq!("abc".parse::<TrustPin>(), Err(Error::PinSyntax));
    }

    #[test]
    fn any_changed_byte_of_the_text_is_refused() {
        let key = TrustKey::generate();
        let first = state(&[&key], 1, 1);
        let note = sign(&first, &[&key]);
        let pin = first.pin();
        for position in 0..first.text().len() {
            let mut changed = note.clone();
            changed[position] ^= 1;
            assert!(TrustState::verify_pinned(&changed, &pin).is_err(), "byte {position}");
        }
    }

    #[test]
    fn unknown_fields_are_refused() {
        let key = TrustKey::generate();
        let first = state(&[&key], 1, 1);
        let text = first.text().replace("\"v\": 1,", "\"v\": 1,\n  \"extra\": 1,");
        let signature = key.0.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        let id = tlog::ecdsa_key_id(key.spki().as_bytes());
        let note = SignedNote::unsigned(&text)
            .unwrap()
            .with_signature("pay.example/trust", id, signature.as_ref())
            .unwrap();
        assert!(matches!(
            TrustState::verify_pinned(&note.encode(), &first.pin()),
            Err(Error::TrustState(_))
        ));
    }
}

//! Which key stands where: the fold of the log's key events.

use std::collections::BTreeMap;

use api::{KeyPurpose, KeyState, KeyStep};
use data_encoding::BASE64;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tlog::Hash;

use crate::event::{Event, FIRST_TRUST_STATE, KEY_ACTIVATE, KEY_PREPARE, KEY_RETIRE, LOG_GENESIS};

/// Every key that the log names, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct KeyLedger {
    keys: Vec<LedgerKey>,
    /// The place of the newest key event.
    newest: u64,
}

/// A key as its events tell of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LedgerKey {
    pub(crate) purpose: KeyPurpose,
    /// SHA-256 of the SubjectPublicKeyInfo.
    pub(crate) id: Hash,
    pub(crate) public_key: Vec<u8>,
    pub(crate) state: KeyState,
    /// The event that brought it into this state: its place, and its time.
    pub(crate) log_index: u64,
    pub(crate) since: OffsetDateTime,
    /// The trust state in force after that event.
    pub(crate) trust_sequence: u64,
}

impl KeyLedger {
    /// Whether events of this kind are folded here.
    pub(crate) fn reads(kind: &str) -> bool {
        [KEY_ACTIVATE, KEY_PREPARE, KEY_RETIRE, LOG_GENESIS].contains(&kind)
    }

    /// Folds an event; none where it does not follow from those before.
    pub(crate) fn fold(&mut self, log_index: u64, event: &Event) -> Option<()> {
        let since = OffsetDateTime::parse(&event.at, &Rfc3339).ok()?;
        let mut add = |purpose, public_key: &str, state, trust_sequence| {
            let public_key = BASE64.decode(public_key.as_bytes()).ok()?;
            let id = Hash::of(&public_key);
            let key =
                LedgerKey { purpose, id, public_key, state, log_index, since, trust_sequence };
            self.keys.push(key);
            Some(())
        };
        if event.kind == LOG_GENESIS {
            let keys: BTreeMap<String, String> =
                serde_json::from_value(event.detail["keys"].clone()).ok()?;
            for (purpose, public_key) in keys {
                add(purpose.parse().ok()?, &public_key, KeyState::Active, FIRST_TRUST_STATE)?;
            }
            self.newest = log_index;
            return Some(());
        }
        let purpose: KeyPurpose = event.subject.parse().ok()?;
        let trust_sequence = event.detail["trust_sequence"].as_u64()?;
        if event.kind == KEY_PREPARE {
            let public_key = event.detail["public_key"].as_str()?;
            add(purpose, public_key, KeyState::Prepared, trust_sequence)?;
        } else {
            let id = event.detail["key_sha256"].as_str()?;
            let id = self.keys.iter().find(|key| format!("{:?}", key.id) == id)?.id;
            let put = |key: &mut LedgerKey, state| {
                (key.state, key.log_index, key.since) = (state, log_index, since);
                key.trust_sequence = trust_sequence;
            };
            for key in self.keys.iter_mut().filter(|key| key.purpose == purpose) {
                match (event.kind.as_str(), key.id == id, key.state) {
                    (KEY_ACTIVATE, true, _) => put(key, KeyState::Active),
                    (KEY_ACTIVATE, false, KeyState::Active) => put(key, KeyState::Retiring),
                    (KEY_RETIRE, true, _) => put(key, KeyState::Retired),
                    _ => {}
                }
            }
        }
        self.newest = log_index;
        Some(())
    }

    /// Every key, oldest first.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &LedgerKey> {
        self.keys.iter()
    }

    /// The key of this purpose that stands so.
    pub(crate) fn find(&self, purpose: KeyPurpose, state: KeyState) -> Option<&LedgerKey> {
        self.keys().find(|key| key.purpose == purpose && key.state == state)
    }

    /// The keys of this purpose that count: all but retired ones.
    pub(crate) fn in_use(&self, purpose: KeyPurpose) -> impl Iterator<Item = &LedgerKey> {
        self.keys().filter(move |key| key.purpose == purpose && key.state != KeyState::Retired)
    }

    /// The place of the newest key event: two states with the same are the same.
    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    /// Whether this key counts no more.
    pub(crate) fn is_retired(&self, id: &Hash) -> bool {
        self.keys().any(|key| key.id == *id && key.state == KeyState::Retired)
    }

    /// The trust state that these events lead to.
    pub(crate) fn trust_sequence(&self) -> u64 {
        self.keys().map(|key| key.trust_sequence).max().unwrap_or(FIRST_TRUST_STATE)
    }

    /// The key with this id, in hex.
    pub(crate) fn by_id(&self, id: &str) -> Option<&LedgerKey> {
        self.keys().find(|key| format!("{:?}", key.id) == id)
    }

    /// The one issuer whose id this is, or begins so; in as many digits as lists show at least.
    pub(crate) fn issuer_named(&self, beginning: &str) -> Option<&LedgerKey> {
        if beginning.len() < SHOWN_DIGITS {
            return None;
        }
        let beginning = beginning.to_ascii_lowercase();
        let mut named = self.keys().filter(|key| {
            key.purpose == KeyPurpose::Issuer && format!("{:?}", key.id).starts_with(&beginning)
        });
        let first = named.next();
        // Nobody gets one issuer's list for another's.
        first.filter(|_| named.next().is_none())
    }
}

impl LedgerKey {
    /// The step that is next for it.
    pub(crate) fn next_step(&self) -> Option<KeyStep> {
        match self.state {
            KeyState::Prepared => Some(KeyStep::Activate),
            KeyState::Retiring => Some(KeyStep::Retire),
            KeyState::Active | KeyState::Retired => None,
        }
    }
}

/// Of an id in `key list`: 64 bits.
const SHOWN_DIGITS: usize = 16;

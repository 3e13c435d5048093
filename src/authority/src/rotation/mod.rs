//! Rotation: how one key takes another's place without a handshake that fails.
//!
//! Every key goes the same way, prepared → active → retiring → retired, one of each purpose at a
//! time. Trust first, then sign, then remove:
//!
//! | key | prepare | activate | retire |
//! |---|---|---|---|
//! | root | trust state has it too | *acknowledged*; it certifies issuers | no issuer below it; trust state without it |
//! | issuer | the root certifies it | at once; it signs | *gone* |
//! | countersignature | trust state has it too | *acknowledged*; it signs | *gone*; trust state without it |
//! | log | both sign checkpoints | at once; trust state names it | *acknowledged*; the old one stops |
//! | feed | trust state has it too | *acknowledged*; it signs | at once; trust state without it |
//! | trust | – | at once; the new trust state names it, signed by both | *acknowledged* |
//!
//! *Acknowledged*: each certificate issued before the step that made the key known has expired, is
//! revoked, was renewed by one that was seen since, or its holder reported that it has the trust
//! state. *Gone*: each certificate that the old key signed has expired or is revoked; one that was
//! renewed may stand behind an open connection. Nobody can hold a step up for longer than a
//! certificate lives.
//!
//! Outside of it, because the CA does not hear of them: software that verifies by a bundle and has
//! no certificate, and of several processes that share one certificate all but the one that reports.
//!
//! A key that became active and does not open stops issuing, revocation lists and further steps, and
//! nothing else: revocations are told, by the keys before. After a restart there are no keys before:
//! started without an active key, the CA does what needs no signature of it, and looks for the file
//! every few seconds.
//!
//! | started without | what stops | what goes on |
//! |---|---|---|
//! | issuer | certificates; revocation lists (the last is served until it expires) | the rest, the CA's own certificate of before included |
//! | countersignature | certificates | the rest |
//! | log | checkpoints, and so certificates: nobody could prove later that the log held them | the rest; heartbeats carry the last checkpoint |
//! | feed | the feed: workloads alarm after a minute | the rest |
//! | `head.key` | the CA does not start: nobody could tell whether it wrote what the database says | |
//!
//! Where issuer, countersignature or feed key is lost for good, a rotation replaces it; the log's key
//! has to come from a backup.
//!
//! Which key stands where is the fold of the log's key events (`ledger`), and what a trust state says
//! follows from it (`TrustChange`). What an offline key signs is announced and logged first
//! (`steps`), then signed by whoever holds that key ([`ceremony`]), who makes it from what it knows
//! itself and takes nothing to sign from the CA. Which key stands where, and that nothing waits, is
//! the CA's word: one that lies can have a key removed too early, and fall silent; it can add none.

pub mod ceremony;
pub mod due;
mod listing;
mod steps;
mod waiting;

use std::sync::Arc;

use api::{KeyPurpose, KeyStep};
use identity::{
    Anchor, Countersignature, CountersignatureKey, Der, LogKey, TrustDomain, TrustState,
};

use crate::checkpoint::verifier_key;
use crate::error::Error;
use crate::fleet::Instances;
use crate::view::View;
use crate::writer::Writer;

/// Takes the steps of rotations.
#[derive(Debug)]
pub struct Rotation {
    view: Arc<View>,
    writer: Arc<Writer>,
    /// Who has acknowledged which trust state.
    instances: Arc<Instances>,
}

impl Rotation {
    pub(crate) fn new(view: Arc<View>, writer: Arc<Writer>, instances: Arc<Instances>) -> Self {
        Self { view, writer, instances }
    }
}

/// What a step changes in the trust state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TrustChange {
    /// One more anchor: this certificate.
    AddAnchor(Der),
    /// One more countersignature key, from this time on, in milliseconds since 1970.
    AddCountersignatureKey(Der, u64),
    /// One more feed key.
    AddFeedKey(Der),
    /// The anchor with this public key goes.
    RemoveAnchor(Der),
    /// This countersignature key goes.
    RemoveCountersignatureKey(Der),
    /// This feed key goes.
    RemoveFeedKey(Der),
    /// Checkpoints are verified by this key, in C2SP verifier form.
    ReplaceLogKey(String),
    /// This key signs the next trust state.
    ReplaceTrustKey(Der),
}

impl TrustChange {
    /// What a step changes, if it changes anything; `certificate` is a new root's.
    pub(crate) fn of(
        (purpose, step): (KeyPurpose, KeyStep),
        key: Der,
        counts_from: u64,
        certificate: Option<&Der>,
        trust_domain: &TrustDomain,
    ) -> Result<Option<Self>, Error> {
        Ok(match (purpose, step) {
            (KeyPurpose::Countersignature, KeyStep::Prepare) => {
                Some(Self::AddCountersignatureKey(key, counts_from))
            }
            (KeyPurpose::Countersignature, KeyStep::Retire) => {
                Some(Self::RemoveCountersignatureKey(key))
            }
            (KeyPurpose::Feed, KeyStep::Prepare) => Some(Self::AddFeedKey(key)),
            (KeyPurpose::Feed, KeyStep::Retire) => Some(Self::RemoveFeedKey(key)),
            (KeyPurpose::Log, KeyStep::Activate) => {
                let key = verifier_key(trust_domain, key.as_bytes())?;
                Some(Self::ReplaceLogKey(key.to_string()))
            }
            (KeyPurpose::Root, KeyStep::Prepare) => certificate.cloned().map(Self::AddAnchor),
            (KeyPurpose::Root, KeyStep::Retire) => Some(Self::RemoveAnchor(key)),
            (KeyPurpose::Trust, KeyStep::Activate) => Some(Self::ReplaceTrustKey(key)),
            _ => None,
        })
    }

    /// The next trust state.
    pub(crate) fn apply(self, current: &TrustState) -> TrustState {
        let mut next = TrustState { sequence: current.sequence + 1, ..current.clone() };
        match self {
            Self::AddAnchor(certificate) => next
                .anchors
                .push(Anchor { certificate, countersignature: Countersignature::Required }),
            Self::AddCountersignatureKey(key, not_before) => next
                .countersignature_keys
                .push(CountersignatureKey { key, not_before, not_after: None }),
            Self::AddFeedKey(key) => next.feed_keys.push(key),
            Self::RemoveAnchor(key) => {
                next.anchors.retain(|anchor| !certifies(&anchor.certificate, key.as_bytes()));
            }
            Self::RemoveCountersignatureKey(key) => {
                next.countersignature_keys.retain(|named| named.key != key);
            }
            Self::RemoveFeedKey(key) => next.feed_keys.retain(|named| *named != key),
            Self::ReplaceLogKey(key) => {
                next.log = LogKey { origin: current.log.origin.clone(), key };
            }
            Self::ReplaceTrustKey(key) => next.trust_keys = vec![key],
        }
        next
    }
}

/// Whether a certificate is for this key.
fn certifies(certificate: &Der, public_key: &[u8]) -> bool {
    issuance::IssuerCertificate::from_der(certificate.as_bytes())
        .is_ok_and(|certificate| certificate.public_key() == public_key)
}

/// Whether a step comes with a new trust state.
pub(crate) fn changes_trust(purpose: KeyPurpose, step: KeyStep) -> bool {
    matches!(
        (purpose, step),
        (
            KeyPurpose::Countersignature | KeyPurpose::Feed | KeyPurpose::Root,
            KeyStep::Prepare | KeyStep::Retire
        ) | (KeyPurpose::Log | KeyPurpose::Trust, KeyStep::Activate)
    )
}

/// What a step waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Holders of older certificates have the trust state that came with the key's last step.
    Acknowledged,
    /// What the key signed is used no more.
    Gone,
    /// No issuer is left below it.
    NoIssuer,
    /// Nothing.
    Nothing,
}

/// What a step of a key waits for.
pub(crate) fn wait(purpose: KeyPurpose, step: KeyStep) -> Wait {
    match (purpose, step) {
        (_, KeyStep::Prepare)
        | (KeyPurpose::Issuer | KeyPurpose::Log | KeyPurpose::Trust, KeyStep::Activate)
        | (KeyPurpose::Feed, KeyStep::Retire) => Wait::Nothing,
        (KeyPurpose::Countersignature | KeyPurpose::Feed | KeyPurpose::Root, KeyStep::Activate)
        | (KeyPurpose::Log | KeyPurpose::Trust, KeyStep::Retire) => Wait::Acknowledged,
        (KeyPurpose::Countersignature | KeyPurpose::Issuer, KeyStep::Retire) => Wait::Gone,
        (KeyPurpose::Root, KeyStep::Retire) => Wait::NoIssuer,
    }
}

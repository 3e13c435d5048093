//! What the log says of a certificate: the event that announces it, and its leaf.

use identity::{SerialNumber, SpiffeId};
use serde::Deserialize;
use tlog::{CertificateLeaf, Hash};
use x509_parser::prelude::{FromDer, GeneralName, TbsCertificate};

use crate::event::{ISSUE, RENEW, is_of};
use crate::sequencer::Record;

/// What an event says of the leaf after it; the rest is passed over.
#[derive(Debug, Deserialize)]
pub(crate) struct Announced {
    pub(crate) actor: String,
    pub(crate) subject: SpiffeId,
    pub(crate) detail: AnnouncedDetail,
}

#[derive(Debug, Deserialize)]
pub(crate) struct AnnouncedDetail {
    pub(crate) not_after: i64,
    pub(crate) renews: Option<SerialNumber>,
    pub(crate) serial_number: SerialNumber,
}

impl Announced {
    /// None where the event is of another kind.
    pub(crate) fn read(event: &[u8]) -> Option<Self> {
        let announces = is_of(event, ISSUE) || is_of(event, RENEW);
        serde_json::from_slice(event).ok().filter(|_| announces)
    }
}

/// What a leaf says of its certificate; none where the entry is no leaf.
pub(crate) fn said_by_leaf(index: u64, entry: &[u8]) -> Option<Record> {
    let leaf = CertificateLeaf::parse(entry).ok()?;
    let (_, tbs) = TbsCertificate::from_der(&leaf.tbs_certificate).ok()?;
    Some(Record {
        leaf_index: index,
        issued_at: leaf.timestamp,
        issuer_key_hash: leaf.issuer_key_hash,
        serial_number: SerialNumber::from_octets(tbs.raw_serial()).ok()?,
        spiffe_id: named_by(&tbs)?,
        profile: String::new(),
        not_before: tbs.validity().not_before.timestamp(),
        not_after: tbs.validity().not_after.timestamp(),
        request_hash: Hash::new([0; 32]),
        facts: String::new(),
        certificate: None,
    })
}

/// Whom a certificate of ours names: the linter has let one URI pass, and no second.
fn named_by(tbs: &TbsCertificate<'_>) -> Option<SpiffeId> {
    let names = tbs.subject_alternative_name().ok().flatten()?;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => SpiffeId::parse(uri).ok(),
        _ => None,
    })
}

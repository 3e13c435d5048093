//! What is logged, and so may be signed.

use identity::{SerialNumber, SpiffeId};
use tlog::{CertificateLeaf, Hash};
use x509_parser::prelude::{FromDer, TbsCertificate};

use crate::error::Error;
use crate::event::Event;
use crate::sequencer::{CertificateMember, Conflict, Receipt, Record, RecordDraft};
use crate::store::StoreError;

/// A certificate's leaf that stands in the log: the one thing that may be signed.
#[derive(Debug)]
pub(crate) struct Logged {
    leaf: CertificateLeaf,
    named: Named,
}

/// What a certificate says of itself, for those who need not parse it again.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub(crate) spiffe_id: SpiffeId,
    pub(crate) serial_number: SerialNumber,
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
}

impl From<&RecordDraft> for Named {
    fn from(draft: &RecordDraft) -> Self {
        Self {
            spiffe_id: draft.spiffe_id.clone(),
            serial_number: draft.serial_number,
            not_before: draft.not_before,
            not_after: draft.not_after,
        }
    }
}

impl From<&Record> for Named {
    fn from(record: &Record) -> Self {
        Self {
            spiffe_id: record.spiffe_id.clone(),
            serial_number: record.serial_number,
            not_before: record.not_before,
            not_after: record.not_after,
        }
    }
}

impl Logged {
    /// What was just committed: of this member.
    pub(crate) fn committed(receipt: Receipt, member: &CertificateMember) -> Result<Self, Error> {
        let leaf = receipt.into_leaf();
        let is_its = leaf.tbs_certificate == member.tbs;
        if !is_its || leaf.issuer_key_hash != member.issuer_key_hash {
            let why = format!("entry {} is another's leaf", leaf.leaf_index);
            return Err(StoreError::Inconsistent(why).into());
        }
        Ok(Self { leaf, named: Named::from(&member.record) })
    }

    /// What stands in the log at this place, read back and proved: the event, and the leaf after it.
    /// It must say what was prepared for the same request now, but for serial number and validity:
    /// those, and the time, are what the sealed record says.
    pub(crate) fn read_back(
        event: &[u8],
        leaf: &[u8],
        record: &Record,
        prepared: &CertificateMember,
    ) -> Result<Self, Error> {
        let inconsistent = |why: String| Error::Store(StoreError::Inconsistent(why));
        let leaf = CertificateLeaf::parse(leaf).map_err(|e| inconsistent(e.to_string()))?;
        let event = Event::parse(event).map_err(|e| inconsistent(e.to_string()))?;
        let logged = format!("{:?}", Hash::of(&leaf.tbs_certificate));
        let fits = leaf.leaf_index == record.leaf_index
            && leaf.issuer_key_hash == prepared.issuer_key_hash
            && leaf.issuer_key_hash == record.issuer_key_hash
            && leaf.timestamp == record.issued_at
            && event.detail["tbs_sha256"] == logged
            && says_as_much(&leaf.tbs_certificate, record);
        if !fits {
            return Err(inconsistent(format!("entry {} is another's leaf", record.leaf_index)));
        }
        if !issuance::same_request(&leaf.tbs_certificate, &prepared.tbs) {
            return Err(Error::Conflict(Conflict::IdempotencyMismatch));
        }
        Ok(Self { leaf, named: Named::from(record) })
    }

    pub(crate) fn leaf(&self) -> &CertificateLeaf {
        &self.leaf
    }

    pub(crate) fn named(&self) -> &Named {
        &self.named
    }
}

/// Whether serial number and validity are those of the record.
fn says_as_much(tbs: &[u8], record: &Record) -> bool {
    let Ok(([], tbs)) = TbsCertificate::from_der(tbs) else { return false };
    let serial_number = SerialNumber::from_octets(tbs.raw_serial());
    serial_number.is_ok_and(|serial_number| serial_number == record.serial_number)
        && tbs.validity().not_before.timestamp() == record.not_before
        && tbs.validity().not_after.timestamp() == record.not_after
}

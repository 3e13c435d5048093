//! A certificate as it is known: by its record, which is sealed; where that is gone, or not as this CA
//! wrote it, by the log of the last days, which is proved and outlives every certificate. So whoever
//! takes a row away hides nothing that can still be used: it is shown, and revoked by its number.

use identity::{SerialNumber, SpiffeId};
use tlog::CertificateLeaf;
use x509_parser::prelude::{FromDer, GeneralName, TbsCertificate};

use super::View;
use crate::announced::said_by_leaf;
use crate::attest::{again_by_token, refused};
use crate::error::Error;
use crate::event::Event;
use crate::proven::proven_entry;
use crate::store::{Record, RecordKey, Store, StoreError};
use crate::view::leaves::Leaf;

/// A certificate, and where what is told of it stands.
#[derive(Debug)]
pub(crate) enum Known {
    /// In the log alone: how it came to be is not known, nor is the certificate there.
    Logged(Record),
    /// In its record.
    Recorded(Record),
}

impl Known {
    pub(crate) fn record(&self) -> &Record {
        match self {
            Self::Logged(record) | Self::Recorded(record) => record,
        }
    }

    /// Its record, by which it is renewed. Its holder has a good certificate and gets no other by it:
    /// that is neither "there is none" nor "not due".
    pub(crate) fn recorded(self) -> Result<Record, Error> {
        match self {
            Self::Recorded(record) => Ok(record),
            Self::Logged(Record { serial_number, spiffe_id, .. }) => Err(refused(
                format!(
                    "certificate {serial_number} stands in the CA's log, and its record is gone from \
                     the database, or is not as this CA wrote it: it is good until it ends, and \
                     cannot be renewed"
                ),
                format!("attest again: {}", again_by_token(&spiffe_id)),
            )),
        }
    }
}

impl View {
    /// What is known of a certificate; none where it has no record and ended days ago, or was never
    /// logged.
    pub(crate) async fn known(&self, serial_number: &SerialNumber) -> Result<Option<Known>, Error> {
        let key = RecordKey::SerialNumber(*serial_number);
        if let Some(record) = self.store().records_of(vec![key]).await?.pop().flatten() {
            return Ok(Some(Known::Recorded(record)));
        }
        match self.leaf_of(serial_number).await? {
            Some(leaf) => self.known_at(leaf.index).await.map(Some),
            None => Ok(None),
        }
    }

    /// The same, by its place in the log.
    pub(crate) async fn known_at(&self, leaf_index: u64) -> Result<Known, Error> {
        let key = RecordKey::LeafIndex(leaf_index);
        Ok(match self.store().records_of(vec![key]).await?.pop().flatten() {
            Some(record) => Known::Recorded(record),
            None => Known::Logged(logged(self.store(), leaf_index).await?),
        })
    }

    /// The event before a leaf: who asked, and what policy said.
    pub(crate) async fn issue_event(&self, leaf_index: u64) -> Result<Event, Error> {
        let entry = proven_entry(self.store(), leaf_index.saturating_sub(1)).await?;
        let event = entry.and_then(|entry| Event::parse(&entry).ok());
        let why = || format!("no event stands before entry {leaf_index} of the log");
        Ok(event.ok_or_else(|| StoreError::Inconsistent(why()))?)
    }
}

/// The records of an identity's leaves, in their order; where one is gone, or not as this CA wrote it,
/// what its leaf says in the log, which is proved.
pub(crate) async fn records_at(
    store: &dyn Store,
    spiffe_id: &SpiffeId,
    leaves: &[Leaf],
) -> Result<Vec<Record>, Error> {
    let keys = leaves.iter().map(|leaf| RecordKey::LeafIndex(leaf.index)).collect();
    let found = store.records_of(keys).await?;
    let mut records = Vec::with_capacity(leaves.len());
    for (leaf, record) in leaves.iter().zip(found) {
        records.push(match record.filter(|record| record.spiffe_id == *spiffe_id) {
            Some(record) => record,
            None => logged(store, leaf.index).await?,
        });
    }
    Ok(records)
}

/// What the log says of a certificate: not how it came to be, nor whether it was signed.
async fn logged(store: &dyn Store, index: u64) -> Result<Record, Error> {
    tracing::debug!(index, "the record of a certificate is gone: its leaf is asked");
    let unread = || StoreError::Inconsistent(format!("entry {index} of the log is no certificate"));
    let entry = proven_entry(store, index).await?.ok_or_else(unread)?;
    Ok(said_by_leaf(index, &entry).ok_or_else(unread)?)
}

/// The last second, since 1970, of the certificate that was logged where its record says; and whose it
/// is by its record, it is by the log.
pub(crate) async fn logged_end(store: &dyn Store, record: &Record) -> Result<i64, StoreError> {
    let Record { leaf_index, serial_number, spiffe_id, .. } = record;
    let inconsistent = || {
        let why =
            format!("the log holds no certificate {serial_number} of {spiffe_id} at {leaf_index}");
        StoreError::Inconsistent(why)
    };
    let entry = proven_entry(store, *leaf_index).await?.ok_or_else(inconsistent)?;
    let leaf = CertificateLeaf::parse(&entry).map_err(|_| inconsistent())?;
    let parsed = TbsCertificate::from_der(&leaf.tbs_certificate);
    let (_, certificate) = parsed.map_err(|_| inconsistent())?;
    let names = certificate.subject_alternative_name().ok().flatten();
    let is_named = names.is_some_and(|names| {
        names.value.general_names.contains(&GeneralName::URI(spiffe_id.as_str()))
    });
    if certificate.raw_serial() != serial_number.as_octets() || !is_named {
        return Err(inconsistent());
    }
    Ok(certificate.validity().not_after.timestamp())
}

/// What to do where the record of a certificate is gone.
pub(crate) const ROW_LOST_NEXT_STEP: &str = "where a copy of the database holds them, put the newest one back (README: \
    what to back up); where none does, their holders attest again by a token, and: countersign \
    revoke SERIAL --reason superseded";

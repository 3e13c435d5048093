//! What became of a leaf, and which certificate of it may leave.

use std::collections::HashMap;

use tlog::{CertificateLeaf, Hash, leaf_hash};

use super::View;
use super::leaving::{LOOK_FOR_WRITERS, Leaving, Signing, gone};
use super::recent_log::{Fate, Unaccounted};
use crate::error::Error;
use crate::proven::proven_entry;
use crate::sequencer::COMPLETION_MILLISECONDS;
use crate::store::{Record, RecordKey, StoreError};

/// What a leaf is accounted for as.
pub(crate) enum Account {
    /// It was never signed, and never will be.
    Abandoned,
    /// By the hash of its certificate.
    Issued(Hash),
    /// Nobody knows: what was stored of it is gone, or is not its certificate.
    Lost,
    /// The log says it already.
    Told,
}

impl View {
    /// Whether a leaf that is not accounted for yet was signed, as far as that is known.
    pub(crate) async fn is_signed(&self, place: u64) -> Result<bool, Error> {
        let leaves = self.unaccounted(usize::MAX).await?;
        let Some(leaf) = leaves.iter().find(|leaf| leaf.index == place) else { return Ok(false) };
        let record = stored(self, std::slice::from_ref(leaf)).await?.pop().flatten();
        Ok(matches!(settle(self, leaf, record).await?, Some(Account::Issued(_))))
    }

    /// What is stored for a leaf, on its way to anybody: none where it is not its certificate, or another
    /// one has left.
    pub(crate) async fn leaving<'a>(
        &self,
        place: u64,
        certificate: &'a [u8],
        issuer_key_hash: &Hash,
    ) -> Result<Option<Leaving<'a>>, Error> {
        let is_its = self.is_certificate_at(place, certificate, issuer_key_hash).await?;
        Ok(is_its.then(|| self.accounts.leave(place, certificate)).flatten())
    }

    /// Whether what is stored for a leaf is its certificate, by the log; tells where it is not.
    async fn is_certificate_at(
        &self,
        place: u64,
        certificate: &[u8],
        issuer_key_hash: &Hash,
    ) -> Result<bool, Error> {
        let gone = || StoreError::Inconsistent(format!("entry {place} is gone"));
        let entry = proven_entry(self.store(), place).await?.ok_or_else(gone)?;
        let is_its = self.is_certificate_of(certificate, issuer_key_hash, &leaf_hash(&entry));
        if !is_its {
            tracing::error!(
                place,
                next_step = LOOK_FOR_WRITERS,
                "what is stored as the certificate of a leaf is not it: nobody is given it"
            );
        }
        Ok(is_its)
    }

    /// A certificate of a leaf is signed only where none has left: this process has stored none, and the
    /// log says of none that it was issued. A second one of a leaf never leaves.
    pub(crate) async fn require_unstored(&self, place: u64) -> Result<(), Error> {
        if self.accounts.is_stored(place) {
            return Err(gone(place));
        }
        if !self.accounts.is_accounted(place) {
            return Ok(());
        }
        match self.fate_of(place).await? {
            Fate::Untold => Ok(()),
            Fate::Issued => Err(gone(place)),
            Fate::Abandoned | Fate::Lost => Err(Error::Abandoned),
        }
    }

    /// Whether it is the certificate that was made of the leaf with this hash: the issuer signed it, and
    /// without its countersignature it is what was logged.
    fn is_certificate_of(&self, certificate: &[u8], issuer_key_hash: &Hash, logged: &Hash) -> bool {
        let in_force = self.in_force();
        let Some(issuer) = in_force.certificate(issuer_key_hash) else { return false };
        let leaf = CertificateLeaf::from_certificate(certificate, issuer.public_key());
        let entry = leaf.and_then(|(leaf, _)| leaf.encode());
        entry.is_ok_and(|entry| leaf_hash(&entry) == *logged)
            && issuance::is_signed_by(certificate, issuer.public_key())
    }
}

/// The records of those of which this process does not know that they were stored.
pub(crate) async fn stored(
    view: &View,
    leaves: &[Unaccounted],
) -> Result<Vec<Option<Record>>, Error> {
    let is_known =
        |leaf: &Unaccounted| matches!(view.accounts.of(leaf.index), Some(Signing::Stored(_)));
    let unknown = leaves.iter().filter(|leaf| !is_known(leaf));
    let keys: Vec<RecordKey> = unknown.map(|leaf| RecordKey::LeafIndex(leaf.index)).collect();
    let places: Vec<u64> = leaves.iter().map(|leaf| leaf.index).collect();
    let mut found: HashMap<u64, Record> = HashMap::new();
    if !keys.is_empty() {
        let records = view.store().records_of(keys).await?;
        found.extend(records.into_iter().flatten().map(|record| (record.leaf_index, record)));
    }
    Ok(places.iter().map(|place| found.remove(place)).collect())
}

/// None while it may still be signed.
pub(crate) async fn settle(
    view: &View,
    leaf: &Unaccounted,
    record: Option<Record>,
) -> Result<Option<Account>, Error> {
    let signing = view.accounts.of(leaf.index);
    if let Some(Signing::Stored(hash)) = signing {
        return Ok(Some(Account::Issued(hash)));
    }
    let certificate = record.as_ref().and_then(|record| record.certificate.as_deref());
    if let (Some(certificate), Some(record)) = (certificate, &record)
        && view.is_certificate_of(certificate, &record.issuer_key_hash, &leaf.hash)
    {
        return Ok(Some(Account::Issued(Hash::of(certificate))));
    }
    let issued_at = match record {
        Some(record) => record.issued_at,
        None => view.known_at(leaf.index).await?.record().issued_at,
    };
    let now = view.clock().unix_milliseconds();
    if now.saturating_sub(issued_at) <= 2 * COMPLETION_MILLISECONDS {
        return Ok(None);
    }
    if matches!(view.fate_of(leaf.index).await?, Fate::Abandoned | Fate::Lost) {
        return Ok(Some(Account::Told));
    }
    Ok(Some(match signing {
        Some(Signing::Begun) => Account::Abandoned,
        _ => Account::Lost,
    }))
}

//! A store of before records were sealed: its records are compared with the log once, and sealed.
//!
//! What the log does not say of a certificate (when and by whom it was attested first, how long it was
//! to live) is taken as it stands, once. A store whose records are sealed is never taken for one of
//! before: its head is sealed otherwise.

use identity::SerialNumber;
use rusqlite::{OptionalExtension, Transaction, params};
use tlog::{CertificateLeaf, TreeEdge, leaf_hash};
use x509_parser::prelude::{FromDer, GeneralName, TbsCertificate};

use super::columns::{FIRST_PLACE, LAST_PLACE, number};
use super::errors::unavailable;
use super::meta::UNSEALED_RECORDS;
use super::read::{self, RECORD_COLUMNS};
use super::schema;
use crate::event::{Event, ISSUE};
use crate::facts::Facts;
use crate::seal::{HeadKey, SealedRecord};
use crate::sequencer::Head;
use crate::store::{Record, StoreError};

pub(super) fn add_seal(transaction: &Transaction<'_>) -> Result<(), StoreError> {
    transaction
        .execute_batch("ALTER TABLE records ADD COLUMN seal BLOB NOT NULL DEFAULT x''")
        .map_err(schema::not_of_version(UNSEALED_RECORDS))
}

/// Seals each leaf's record, if it says what event and leaf say; returns how many there are. The
/// entries must lead to the head's root, and each record must have a leaf.
pub(super) fn seal_in(
    transaction: &Transaction<'_>,
    key: &HeadKey,
    head: &Head,
) -> Result<u64, StoreError> {
    let (mut edge, mut event, mut sealed) = (TreeEdge::new(), None, 0);
    let sql = "SELECT bytes FROM entries WHERE place BETWEEN ?1 AND ?2 ORDER BY place";
    let mut entries = transaction.prepare(sql).map_err(unavailable)?;
    let mut rows = entries.query([FIRST_PLACE, LAST_PLACE]).map_err(unavailable)?;
    while let Some(row) = rows.next().map_err(unavailable)? {
        let entry: Vec<u8> = row.get(0).map_err(unavailable)?;
        let index = edge.size();
        edge.push(leaf_hash(&entry));
        let Ok(leaf) = CertificateLeaf::parse(&entry) else {
            event = Event::parse(&entry).ok();
            continue;
        };
        let record = record(transaction, index)?;
        let event = event.take();
        let is_so = record.as_ref().zip(event).is_some_and(|(record, event)| {
            says_the_leaf(record, &leaf) && says_the_event(transaction, record, &event)
        });
        let Some(record) = record.filter(|_| is_so) else {
            let why = format!("the record of entry {index} is not what the log says");
            return Err(StoreError::Inconsistent(why));
        };
        let seal = key.seal_record(&SealedRecord::of(&record));
        transaction
            .prepare_cached("UPDATE records SET seal = ?2 WHERE leaf_index = ?1")
            .and_then(|mut update| update.execute(params![index as i64, seal.as_bytes()]))
            .map_err(unavailable)?;
        sealed += 1;
    }
    let count = "SELECT count(*) FROM records";
    let count = transaction.query_row(count, [], |row| number(row, 0)).map_err(unavailable)?;
    if edge != head.edge || count != sealed {
        let why = "the log's entries and the records of certificates are not those of its head";
        return Err(StoreError::Inconsistent(why.to_owned()));
    }
    Ok(sealed)
}

fn record(transaction: &Transaction<'_>, leaf_index: u64) -> Result<Option<Record>, StoreError> {
    transaction
        .prepare_cached(&format!("{RECORD_COLUMNS} WHERE r.leaf_index = ?1"))
        .and_then(|mut find| find.query_row([leaf_index as i64], read::unsealed_record).optional())
        .map_err(unavailable)
}

fn says_the_leaf(record: &Record, leaf: &CertificateLeaf) -> bool {
    let Ok((_, certificate)) = TbsCertificate::from_der(&leaf.tbs_certificate) else {
        return false;
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    let is_named = names.is_some_and(|names| {
        names.value.general_names.contains(&GeneralName::URI(record.spiffe_id.as_str()))
    });
    let validity = certificate.validity();
    is_named
        && record.leaf_index == leaf.leaf_index
        && record.issued_at == leaf.timestamp
        && record.issuer_key_hash == leaf.issuer_key_hash
        && record.serial_number.as_octets() == certificate.raw_serial()
        && record.not_before == validity.not_before.timestamp()
        && record.not_after == validity.not_after.timestamp()
}

/// A first certificate begins its own line, another one continues that of an earlier one.
fn says_the_event(transaction: &Transaction<'_>, record: &Record, event: &Event) -> bool {
    let Ok(facts) = serde_json::from_str::<Facts>(&record.facts) else { return false };
    let in_line = match event.kind == ISSUE {
        true => facts.lineage == record.serial_number,
        false => begins_a_line(transaction, &facts.lineage, record).unwrap_or(false),
    };
    in_line
        && event.detail["profile"] == record.profile.as_str()
        && event.detail["attestor"] == facts.attestor.as_str()
}

fn begins_a_line(
    transaction: &Transaction<'_>,
    lineage: &SerialNumber,
    record: &Record,
) -> rusqlite::Result<bool> {
    let sql = format!("{RECORD_COLUMNS} WHERE r.serial_number = ?1");
    let first = transaction
        .prepare_cached(&sql)?
        .query_row([lineage.as_octets()], read::unsealed_record)
        .optional()?;
    Ok(first.is_some_and(|first| {
        first.spiffe_id == record.spiffe_id && first.leaf_index < record.leaf_index
    }))
}

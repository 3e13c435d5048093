//! A store of before is brought up to date when it is opened, in one transaction: a crash leaves what was
//! there before, and the next start begins anew. What is written follows from what was there alone.
//!
//! Afterwards no version of before opens it: they know neither its schema nor the seal of its head.

use identity::{SpiffeId, TrustDomain};
use rusqlite::{Connection, TransactionBehavior};

use super::errors::unavailable;
use super::meta::{RENEWALS_IN_ROWS, UNSEALED_RECORDS, UNSEALED_REQUESTS};
use super::renewals::Told;
use super::{head, meta, records, renewals, requests, schema};
use crate::seal::HeadKey;
use crate::store::StoreError;

/// Takes every step from the version that is found to that of today. One of before heads were sealed is
/// [migrated](super::migration) instead.
pub(super) fn bring_up_to_date(
    connection: &mut Connection,
    trust_domain: &TrustDomain,
    key: &HeadKey,
) -> Result<(), StoreError> {
    let version = meta::version(connection)?;
    if ![UNSEALED_REQUESTS, UNSEALED_RECORDS, RENEWALS_IN_ROWS].contains(&version) {
        return Ok(());
    }
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(unavailable)?;
    // Nothing leads back from here: only the log of this CA, whole, is brought up.
    meta::require_kept_for(&transaction, trust_domain)?;
    let head = head::read_of_before(&transaction, key, version)?;
    head::verify_log_to(&transaction, &head)?;
    if version == UNSEALED_REQUESTS {
        requests::seal_in(&transaction)?;
    }
    let sealed = match version {
        RENEWALS_IN_ROWS => None,
        _ => {
            records::add_seal(&transaction)?;
            Some(records::seal_in(&transaction, key, &head)?)
        }
    };
    let told = renewals::tell_the_log(&transaction, key, &head, version)?;
    schema::require_brought_up(&transaction, version)?;
    transaction.commit().map_err(unavailable)?;
    if let Some(sealed) = sealed {
        tracing::info!(
            sealed,
            "the records of certificates are sealed from now on, by keys/head.key: each was compared \
             with the log; not checked is what the log does not say, such as when it was attested first"
        );
    }
    tracing::info!(
        renewed = told.renewed,
        shown = told.shown,
        "the log tells from now on what was renewed, and what was shown: no earlier version opens this \
         database any more"
    );
    tell_closed(&told);
    Ok(())
}

/// Whose certificates are renewed no more: each ends, and its holder with it, unless somebody acts.
fn tell_closed(Told { closed, closed_of, .. }: &Told) {
    if *closed == 0 {
        return;
    }
    let named: Vec<&str> = closed_of.iter().take(NAMED).map(SpiffeId::as_str).collect();
    let more = closed_of.len() - named.len();
    let named = named.join(" ");
    tracing::error!(
        certificates = closed,
        identities = closed_of.len(),
        named,
        more,
        next_step = "before they end (`countersign list --id SPIFFE_ID` says when), for each: `countersign \
                     token create SPIFFE_ID`, and its holder attests again by that token",
        "certificates are not renewed any more: the record of a renewal of their identity is gone, or is \
         not as this CA wrote it, and which of them it renewed cannot be told"
    );
}

/// In one line of diagnostics.
const NAMED: usize = 20;

/// Makes of a store what a version of before had left: for tests of those that are brought up to date.
#[cfg(any(test, feature = "test-seams"))]
pub(super) fn take_back(
    connection: &Connection,
    key: &HeadKey,
    version: i64,
) -> Result<(), StoreError> {
    use rusqlite::params;

    use super::columns::LOG;
    use crate::seal::HeadForm;

    let head = head::read(connection, key)?;
    let (form, records) = match version {
        RENEWALS_IN_ROWS => (HeadForm::V2, ""),
        _ => (HeadForm::V1, "ALTER TABLE records DROP COLUMN seal;"),
    };
    let seal = key.seal_head_as_before(form, LOG, &head);
    connection
        .execute_batch(&format!("{}{records}", renewals::TABLES_OF_BEFORE))
        .and_then(|()| connection.execute("UPDATE meta SET version = ?1", [version]))
        .and_then(|_| connection.execute("UPDATE head SET seal = ?1", params![seal.as_bytes()]))
        .map(drop)
        .map_err(unavailable)
}

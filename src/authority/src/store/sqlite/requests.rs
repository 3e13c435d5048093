//! Requests that their callers have named (`Idempotency-Key`), kept for a day.
//!
//! A row is written in the transaction of what it names, so there are no more of them than acts in
//! the log; those of requests that changed nothing are the newest few of each principal. Its seal
//! covers all of it: whoever writes to the database alone makes nobody believe that something was
//! done.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::columns::{hash, number};
use super::meta::UNSEALED_REQUESTS;
use super::schema::not_of_version;
use crate::seal::HeadKey;
use crate::sequencer::{Found, IdempotencyKey, KEPT_MILLISECONDS, KeptRequest};
use crate::store::StoreError;

/// One that was kept since then, and by this CA.
pub(super) fn find(
    connection: &Connection,
    seal: &HeadKey,
    principal: &str,
    key: &str,
    since: u64,
) -> rusqlite::Result<Option<KeptRequest>> {
    let row = connection
        .prepare_cached(
            "SELECT request_hash, leaf_index, answer, at, seal FROM idempotency
             WHERE principal = ?1 AND name = ?2 AND at >= ?3",
        )?
        .query_row(params![principal, key, since as i64], |row| {
            let place = row.get::<_, i64>(1)?;
            let kept = KeptRequest {
                request_hash: hash(row, 0)?,
                place: u64::try_from(place).ok(),
                answer: row.get(2)?,
            };
            let at = number(row, 3)?;
            let is_sealed =
                seal.sealed_request(principal, key, &kept, at, row.get_ref(4)?.as_blob()?);
            Ok(is_sealed.then_some(kept))
        })
        .optional()?;
    Ok(row.flatten())
}

pub(super) fn find_named(
    transaction: &Transaction<'_>,
    seal: &HeadKey,
    named: &IdempotencyKey,
    now: u64,
    found: &mut Found,
) -> rusqlite::Result<()> {
    let since = now.saturating_sub(KEPT_MILLISECONDS);
    if let Some(kept) = find(transaction, seal, &named.principal, &named.key, since)? {
        found.idempotency.insert((named.principal.clone(), named.key.clone()), kept);
    }
    Ok(())
}

pub(super) fn keep(
    transaction: &Transaction<'_>,
    seal: &HeadKey,
    named: &IdempotencyKey,
    kept: &KeptRequest,
    at: u64,
) -> rusqlite::Result<usize> {
    let IdempotencyKey { principal, key, .. } = named;
    let kept_rows = transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO idempotency
             (principal, name, request_hash, leaf_index, at, answer, seal)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            principal,
            key,
            kept.request_hash.as_bytes(),
            kept.place.map_or(NO_PLACE, |place| place as i64),
            at as i64,
            kept.answer,
            seal.seal_request(principal, key, kept, at).as_bytes()
        ])?;
    if kept.place.is_none() {
        transaction
            .prepare_cached(
                "DELETE FROM idempotency WHERE principal = ?1 AND leaf_index < 0 AND at <
                 (SELECT at FROM idempotency WHERE principal = ?1 AND leaf_index < 0
                  ORDER BY at DESC LIMIT 1 OFFSET ?2 - 1)",
            )?
            .execute(params![principal, UNCHANGED_KEPT])?;
    }
    Ok(kept_rows)
}

/// Forgets those of more than a day ago.
pub(super) fn forget(transaction: &Transaction<'_>, now: u64) -> rusqlite::Result<()> {
    let before = now.saturating_sub(KEPT_MILLISECONDS);
    transaction
        .prepare_cached("DELETE FROM idempotency WHERE at < ?1")?
        .execute([before as i64])?;
    Ok(())
}

/// Rows of before had no seal. They count no more: a renewal or a token's certificate is found
/// without them, and what an operator asks for anew is made anew.
pub(super) fn seal_in(transaction: &Transaction<'_>) -> Result<(), StoreError> {
    transaction.execute_batch(STEP).map_err(not_of_version(UNSEALED_REQUESTS))
}

const STEP: &str = "
  DELETE FROM idempotency;
  ALTER TABLE idempotency ADD COLUMN answer TEXT NOT NULL DEFAULT '';
  ALTER TABLE idempotency ADD COLUMN seal BLOB NOT NULL DEFAULT x'';
  CREATE INDEX idempotency_unchanged ON idempotency (principal, at) WHERE leaf_index < 0;
";
const NO_PLACE: i64 = -1;
/// Requests of one principal that changed nothing, and are kept.
const UNCHANGED_KEPT: i64 = 256;

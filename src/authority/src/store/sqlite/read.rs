//! Reading queries.

use identity::SpiffeId;
use rusqlite::{Connection, OptionalExtension, Row, params};
use tlog::Hash;

use super::columns::{FIRST_PLACE, LAST_PLACE, LOG, hash, number, parsed, place, serial_number};
use super::errors::unavailable;
use crate::seal::{HeadKey, SealedRecord};
use crate::sequencer::{CrlRow, TokenDraft, TokenRow};
use crate::store::{
    MadeToken, Record, RecordKey, RecordQuery, RevocationRow, StoreError, StoredCheckpoint,
    TokenPage, TokenQuery,
};

pub(super) fn entries(
    connection: &Connection,
    from: u64,
    limit: u64,
) -> Result<Vec<Vec<u8>>, StoreError> {
    let read = || -> rusqlite::Result<Vec<_>> {
        connection
            .prepare_cached(
                "SELECT bytes FROM entries WHERE place BETWEEN ?1 AND ?2 ORDER BY place LIMIT ?3",
            )?
            .query_map(params![place(from), LAST_PLACE, limit as i64], |row| row.get(0))?
            .collect()
    };
    read().map_err(unavailable)
}

pub(super) fn folding_entries(
    connection: &Connection,
    from: u64,
) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
    let read = || -> rusqlite::Result<Vec<_>> {
        connection
            .prepare_cached(
                "SELECT place, bytes FROM entries INDEXED BY folding_entries
                 WHERE place BETWEEN ?1 AND ?2 AND folds = 1 ORDER BY place",
            )?
            .query_map([place(from), LAST_PLACE], |row| {
                Ok((number(row, 0)? - FIRST_PLACE as u64, row.get(1)?))
            })?
            .collect()
    };
    read().map_err(unavailable)
}

/// What stands ahead of the log is nobody's.
pub(super) fn revocation_rows(connection: &Connection) -> Result<Vec<RevocationRow>, StoreError> {
    let read = || -> rusqlite::Result<Vec<_>> {
        connection
            .prepare_cached(
                "SELECT log_index, kind, target, reason, at FROM revocations
                 WHERE log_index >= 0 AND log_index < (SELECT size FROM head WHERE log_id = ?1)
                 ORDER BY log_index",
            )?
            .query_map([LOG], |row| {
                Ok(RevocationRow {
                    log_index: number(row, 0)?,
                    kind: row.get(1)?,
                    target: row.get(2)?,
                    reason: row.get(3)?,
                    at: number(row, 4)?,
                })
            })?
            .collect()
    };
    read().map_err(unavailable)
}

pub(super) fn checkpoint(connection: &Connection) -> Result<Option<StoredCheckpoint>, StoreError> {
    connection
        .query_row("SELECT size, note FROM checkpoints WHERE log_id = ?1", [LOG], |row| {
            Ok(StoredCheckpoint { size: number(row, 0)?, note: row.get(1)? })
        })
        .optional()
        .map_err(unavailable)
}

/// None where it is gone, or not as this CA wrote it.
pub(super) fn record(
    connection: &Connection,
    seal: &HeadKey,
    key: &RecordKey,
) -> Result<Option<Record>, StoreError> {
    let condition = match key {
        RecordKey::LeafIndex(_) => "r.leaf_index = ?1",
        RecordKey::SerialNumber(_) => "r.serial_number = ?1",
    };
    let sql = format!("{RECORD_COLUMNS} WHERE {condition}");
    let read = || {
        let mut statement = connection.prepare_cached(&sql)?;
        let row = |row: &Row<'_>| Ok(record_row(row, seal));
        match key {
            RecordKey::LeafIndex(index) => statement.query_row([*index as i64], row),
            RecordKey::SerialNumber(serial) => statement.query_row([serial.as_octets()], row),
        }
        .optional()
    };
    Ok(read().map_err(unavailable)?.flatten())
}

/// Newest first, as many as are asked for: those that this CA did not write are passed over. Records
/// stand in the order of their time, so a bound in time is one in places.
pub(super) fn records(
    connection: &Connection,
    seal: &HeadKey,
    query: &RecordQuery,
) -> Result<Vec<Record>, StoreError> {
    let read = || -> rusqlite::Result<Vec<_>> {
        let since = match query.issued_since {
            Some(since) => first_since(connection, since)?,
            None => 0,
        };
        let before = query.before.map_or(i64::MAX, |index| index as i64);
        let ends_after = query.ends_after.unwrap_or(i64::MIN);
        let tail = "r.leaf_index >= ?1 AND r.leaf_index < ?2 AND r.not_after > ?3
                    ORDER BY r.leaf_index DESC";
        let id = query.spiffe_id.as_ref().map(SpiffeId::as_str);
        let of_identity = match id {
            Some(_) => "r.identity = (SELECT id FROM identities WHERE spiffe_id = ?4)",
            None => "?4 IS NULL",
        };
        let sql = format!("{RECORD_COLUMNS} WHERE {of_identity} AND {tail}");
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params![since, before, ends_after, id])?;
        let mut records = Vec::new();
        while records.len() < query.limit as usize
            && let Some(row) = rows.next()?
        {
            records.extend(record_row(row, seal));
        }
        Ok(records)
    };
    read().map_err(unavailable)
}

/// Finds the first record issued at or after a time by halving: some 25 look-ups in 10 million.
fn first_since(connection: &Connection, since: u64) -> rusqlite::Result<i64> {
    let newest: Option<i64> =
        connection.query_row("SELECT max(leaf_index) FROM records", [], |row| row.get(0))?;
    let mut statement = connection.prepare_cached(
        "SELECT leaf_index, issued_at FROM records WHERE leaf_index >= ?1
         ORDER BY leaf_index LIMIT 1",
    )?;
    let (mut low, mut high) = (0, newest.unwrap_or(0) + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let found: Option<(i64, u64)> =
            statement.query_row([middle], |row| Ok((row.get(0)?, number(row, 1)?))).optional()?;
        match found {
            Some((index, issued_at)) if issued_at < since => low = index + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

pub(super) fn token(
    connection: &Connection,
    key: &HeadKey,
    hash: &Hash,
) -> Result<Option<TokenRow>, StoreError> {
    token_row(connection, key, hash).map_err(unavailable)
}

pub(super) fn token_row(
    connection: &Connection,
    key: &HeadKey,
    hash: &Hash,
) -> rusqlite::Result<Option<TokenRow>> {
    let row = connection
        .prepare_cached(&format!("{TOKEN_COLUMNS} WHERE hash = ?1"))?
        .query_row([hash.as_bytes()], |row| Ok(token_from_row(row, key)))
        .optional()?;
    Ok(row.flatten())
}

pub(super) fn tokens(
    connection: &Connection,
    key: &HeadKey,
    query: &TokenQuery,
) -> Result<TokenPage, StoreError> {
    let before = query.before.and_then(|before| i64::try_from(before).ok()).unwrap_or(i64::MAX);
    let read = || -> rusqlite::Result<TokenPage> {
        let sql = format!(
            "SELECT t.*, e.bytes FROM ({TOKEN_COLUMNS}
               WHERE log_index < ?1 AND typeof(log_index) = 'integer'
               ORDER BY log_index DESC LIMIT ?2) t
             LEFT JOIN entries e ON e.place = t.log_index + ?3 ORDER BY t.log_index DESC"
        );
        let rows: Vec<(u64, Option<MadeToken>)> = connection
            .prepare_cached(&sql)?
            .query_map(params![before, query.limit, FIRST_PLACE], |row| {
                let entry = row.get(TOKEN_COLUMN_COUNT).unwrap_or_default();
                let token = token_from_row(row, key).map(|token| (token, entry));
                Ok((number(row, TOKEN_LOG_INDEX)?, token))
            })?
            .collect::<rusqlite::Result<_>>()?;
        let is_full = rows.len() >= query.limit as usize;
        let next = rows.last().filter(|_| is_full).map(|(log_index, _)| *log_index);
        let tokens = rows.into_iter().filter_map(|(_, token)| token).collect();
        Ok(TokenPage { tokens, next })
    };
    read().map_err(unavailable)
}

pub(super) fn token_by_id(
    connection: &Connection,
    key: &HeadKey,
    id: &str,
) -> Result<Option<TokenRow>, StoreError> {
    let read = || {
        connection
            .prepare_cached(&format!("{TOKEN_COLUMNS} WHERE id = ?1"))?
            .query_row([id], |row| Ok(token_from_row(row, key)))
            .optional()
    };
    read().map(Option::flatten).map_err(unavailable)
}

pub(super) fn policy(
    connection: &Connection,
    hash: &Hash,
) -> Result<Option<(String, u64)>, StoreError> {
    connection
        .query_row(
            "SELECT files, log_index FROM policies WHERE hash = ?1",
            [hash.as_bytes()],
            |row| Ok((row.get(0)?, number(row, 1)?)),
        )
        .optional()
        .map_err(unavailable)
}

pub(super) fn operators(connection: &Connection) -> Result<Vec<(String, u64)>, StoreError> {
    let read = || -> rusqlite::Result<Vec<_>> {
        connection
            .prepare_cached("SELECT name, log_index FROM operators ORDER BY name")?
            .query_map([], |row| Ok((row.get(0)?, number(row, 1)?)))?
            .collect()
    };
    read().map_err(unavailable)
}

pub(super) fn trust_states(connection: &Connection) -> Result<Vec<Vec<u8>>, StoreError> {
    let read = || -> rusqlite::Result<Vec<_>> {
        connection
            .prepare_cached("SELECT note FROM trust_states ORDER BY sequence")?
            // One of another form is signed by nobody, and is judged as such.
            .query_map([], |row| Ok(row.get_ref(0)?.as_bytes().unwrap_or_default().to_vec()))?
            .collect()
    };
    read().map_err(unavailable)
}

pub(super) fn issuers(connection: &Connection) -> Result<Vec<Vec<u8>>, StoreError> {
    let read = || -> rusqlite::Result<Vec<_>> {
        connection
            .prepare_cached("SELECT certificate FROM issuers ORDER BY log_index")?
            .query_map([], |row| row.get(0))?
            .collect()
    };
    read().map_err(unavailable)
}

pub(super) fn crl(connection: &Connection, issuer: &Hash) -> Result<Option<CrlRow>, StoreError> {
    connection
        .query_row(
            "SELECT number, der, revocation_epoch, next_update FROM crls
             WHERE issuer_key_hash = ?1",
            [issuer.as_bytes()],
            |row| {
                // What it is is said by the log, and by its signature.
                Ok(CrlRow {
                    issuer_key_hash: *issuer,
                    number: number(row, 0).unwrap_or_default(),
                    der: row.get(1).unwrap_or_default(),
                    revocation_epoch: number(row, 2).unwrap_or_default(),
                    next_update: row.get(3).unwrap_or_default(),
                })
            },
        )
        .optional()
        .map_err(unavailable)
}

/// The newest number that was taken for an issuer's CRL; none where its row is not as this CA writes it.
pub(super) fn crl_number(connection: &Connection, issuer: &Hash) -> rusqlite::Result<Option<u64>> {
    let row = connection.query_row(
        "SELECT number FROM crl_numbers WHERE issuer_key_hash = ?1",
        [issuer.as_bytes()],
        |row| Ok(row.get_ref(0)?.as_i64().ok()),
    );
    let number = row.optional()?.flatten();
    Ok(number.and_then(|number| u64::try_from(number).ok()))
}

/// None for a row that this CA did not write, of whatever form: it counts for nothing, and hides no
/// other.
pub(super) fn record_row(row: &Row<'_>, seal: &HeadKey) -> Option<Record> {
    let seals = |record: &Record| {
        let kept = row.get_ref(11).ok().and_then(|kept| kept.as_blob().ok());
        kept.is_some_and(|kept| seal.sealed_record(&SealedRecord::of(record), kept))
    };
    let record = unsealed_record(row).ok().filter(seals);
    if record.is_none() {
        let leaf_index = number(row, 0).ok();
        tracing::error!(
            leaf_index,
            "the record of a certificate is not as this CA wrote it: it counts for nothing"
        );
    }
    record
}

pub(super) fn unsealed_record(row: &Row<'_>) -> rusqlite::Result<Record> {
    Ok(Record {
        leaf_index: number(row, 0)?,
        serial_number: serial_number(row, 1)?,
        spiffe_id: parsed(row, 2)?,
        issued_at: number(row, 3)?,
        issuer_key_hash: hash(row, 4)?,
        profile: row.get(5)?,
        not_before: row.get(6)?,
        not_after: row.get(7)?,
        request_hash: hash(row, 8)?,
        facts: row.get(9)?,
        // It has no seal of its own: one of another form is none.
        certificate: row.get(10).unwrap_or_default(),
    })
}

/// None for a row that this CA did not write, of whatever form: that is no token, and hides no other.
fn token_from_row(row: &Row<'_>, key: &HeadKey) -> Option<TokenRow> {
    let seals = |token: &TokenRow| {
        let kept = row.get_ref(9).ok().and_then(|kept| kept.as_blob().ok());
        kept.is_some_and(|kept| key.sealed_token(&draft_of(token), token.log_index, kept))
    };
    let token = unsealed_token(row).ok().filter(seals);
    if token.is_none() {
        let log_index = number(row, TOKEN_LOG_INDEX).ok();
        tracing::error!(
            log_index,
            "a token's row was not written by this CA: it counts for nothing"
        );
    }
    token
}

/// What a token's seal covers, beside its place.
pub(super) fn draft_of(token: &TokenRow) -> TokenDraft {
    TokenDraft {
        hash: token.hash,
        id: token.id.clone(),
        spiffe_id: token.spiffe_id.clone(),
        expires_at: token.expires_at,
        key_hash: token.key_hash,
    }
}

pub(super) fn unsealed_token(row: &Row<'_>) -> rusqlite::Result<TokenRow> {
    let used_by: Option<Vec<u8>> = row.get(5)?;
    let used = match used_by {
        Some(_) => Some((hash(row, 5)?, number(row, 6)?)),
        None => None,
    };
    let key_hash = match row.get_ref(3)? {
        rusqlite::types::ValueRef::Null => None,
        _ => Some(hash(row, 3)?),
    };
    Ok(TokenRow {
        hash: hash(row, 8)?,
        id: row.get(0)?,
        spiffe_id: parsed(row, 1)?,
        expires_at: number(row, 2)?,
        key_hash,
        log_index: number(row, 4)?,
        used,
        revoked: row.get(7)?,
    })
}

pub(super) const RECORD_COLUMNS: &str =
    "SELECT r.leaf_index, r.serial_number, i.spiffe_id, r.issued_at,
  r.issuer_key_hash, r.profile, r.not_before, r.not_after, r.request_hash, r.facts, c.der, r.seal
  FROM records r JOIN identities i ON i.id = r.identity
  LEFT JOIN certificates c ON c.leaf_index = r.leaf_index";
const TOKEN_COLUMN_COUNT: usize = 10;
const TOKEN_LOG_INDEX: usize = 4;
pub(super) const TOKEN_COLUMNS: &str =
    "SELECT id, spiffe_id, expires_at, key_hash, log_index, used_by,
  used_leaf, revoked_index IS NOT NULL, hash, seal FROM tokens";

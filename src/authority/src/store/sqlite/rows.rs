//! How each row of a plan is written, by its table.

use rusqlite::{OptionalExtension, Params, Transaction, params};
use tlog::Hash;

use super::requests;
use super::transaction::one;
use crate::seal::{HeadKey, SealedRecord};
use crate::sequencer::{CrlRow, Row, TokenDraft};
use crate::store::StoreError;

pub(super) fn write_row(
    transaction: &Transaction<'_>,
    key: &HeadKey,
    row: &Row,
) -> Result<(), StoreError> {
    one(change(transaction, key, row), row.table())
}

/// How many rows it changed.
fn change(on: &Transaction<'_>, key: &HeadKey, row: &Row) -> rusqlite::Result<usize> {
    match row {
        Row::Certificate { leaf_index, der, replaces: false } => certificate(on, *leaf_index, der),
        Row::Certificate { leaf_index, der, replaces: true } => {
            certificate_instead(on, *leaf_index, der)
        }
        Row::Crl(row) => crl(on, row),
        Row::CrlNumber { issuer_key_hash, number } => crl_number(on, issuer_key_hash, *number),
        Row::Idempotency { key: named, kept, at } => requests::keep(on, key, named, kept, *at),
        Row::Issuer { certificate, key_hash, log_index } => {
            issuer(on, key_hash, certificate, *log_index)
        }
        Row::Operator { name, log_index } => operator(on, name, *log_index),
        Row::Policy { hash, files, log_index } => policy(on, hash, files, *log_index),
        // What is written is what is sealed.
        Row::Record { leaf_index, issued_at, member } => {
            record(on, key, &SealedRecord::of_member(member, *leaf_index, *issued_at))
        }
        Row::Revocation { log_index, kind, target, reason, at } => {
            let insert = "INSERT INTO revocations (log_index, kind, target, reason, at)
             VALUES (?1, ?2, ?3, ?4, ?5)";
            execute(on, insert, params![*log_index as i64, kind, target, reason, *at as i64])
        }
        Row::Token { draft, log_index } => token(on, key, draft, *log_index),
        Row::TokenRevoked { id, log_index } => token_revoked(on, id, *log_index),
        Row::TokenUsed { hash, request_hash, leaf_index } => {
            token_used(on, hash, request_hash, *leaf_index)
        }
        Row::TrustState { sequence, note, log_index } => {
            trust_state(on, *sequence, note, *log_index)
        }
    }
}

fn execute(on: &Transaction<'_>, sql: &str, values: impl Params) -> rusqlite::Result<usize> {
    on.prepare_cached(sql)?.execute(values)
}

/// The first store wins: a second certificate for a leaf never replaces it.
fn certificate(on: &Transaction<'_>, leaf_index: u64, der: &[u8]) -> rusqlite::Result<usize> {
    let insert = "INSERT INTO certificates (leaf_index, der) VALUES (?1, ?2)";
    execute(on, insert, params![leaf_index as i64, der])
}

/// What is replaced is no certificate.
fn certificate_instead(
    on: &Transaction<'_>,
    leaf_index: u64,
    der: &[u8],
) -> rusqlite::Result<usize> {
    let update = "UPDATE certificates SET der = ?2 WHERE leaf_index = ?1";
    execute(on, update, params![leaf_index as i64, der])
}

fn crl(on: &Transaction<'_>, crl: &CrlRow) -> rusqlite::Result<usize> {
    let insert = "INSERT INTO crls (issuer_key_hash, number, der, revocation_epoch, next_update)
             VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (issuer_key_hash) DO UPDATE SET number = excluded.number,
               der = excluded.der, revocation_epoch = excluded.revocation_epoch,
               next_update = excluded.next_update";
    let issuer = crl.issuer_key_hash.as_bytes();
    let (number, epoch) = (crl.number as i64, crl.revocation_epoch as i64);
    execute(on, insert, params![issuer, number, crl.der, epoch, crl.next_update])
}

fn crl_number(on: &Transaction<'_>, issuer: &Hash, number: u64) -> rusqlite::Result<usize> {
    let insert = "INSERT INTO crl_numbers (issuer_key_hash, number) VALUES (?1, ?2)
             ON CONFLICT (issuer_key_hash) DO UPDATE SET number = excluded.number";
    execute(on, insert, params![issuer.as_bytes(), number as i64])
}

fn issuer(
    on: &Transaction<'_>,
    key_hash: &Hash,
    certificate: &[u8],
    log_index: u64,
) -> rusqlite::Result<usize> {
    let insert = "INSERT OR REPLACE INTO issuers (key_hash, certificate, log_index)
             VALUES (?1, ?2, ?3)";
    execute(on, insert, params![key_hash.as_bytes(), certificate, log_index as i64])
}

fn operator(on: &Transaction<'_>, name: &str, log_index: u64) -> rusqlite::Result<usize> {
    let insert = "INSERT OR REPLACE INTO operators (name, log_index) VALUES (?1, ?2)";
    execute(on, insert, params![name, log_index as i64])
}

fn policy(
    on: &Transaction<'_>,
    hash: &Hash,
    files: &str,
    log_index: u64,
) -> rusqlite::Result<usize> {
    let insert = "INSERT OR REPLACE INTO policies (hash, files, log_index) VALUES (?1, ?2, ?3)";
    execute(on, insert, params![hash.as_bytes(), files, log_index as i64])
}

fn record(
    on: &Transaction<'_>,
    key: &HeadKey,
    record: &SealedRecord<'_>,
) -> rusqlite::Result<usize> {
    let insert =
        "INSERT INTO records (leaf_index, serial_number, identity, issued_at, issuer_key_hash,
         profile, not_before, not_after, request_hash, facts, seal)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    let seal = key.seal_record(record);
    let identity = identity(on, record.spiffe_id)?;
    let values = params![
        record.leaf_index as i64,
        record.serial_number.as_octets(),
        identity,
        record.issued_at as i64,
        record.issuer_key_hash.as_bytes(),
        record.profile,
        record.not_before,
        record.not_after,
        record.request_hash.as_bytes(),
        record.facts,
        seal.as_bytes()
    ];
    execute(on, insert, values)
}

fn identity(on: &Transaction<'_>, spiffe_id: &str) -> rusqlite::Result<i64> {
    let known = on
        .prepare_cached("SELECT id FROM identities WHERE spiffe_id = ?1")?
        .query_row([spiffe_id], |row| row.get(0))
        .optional()?;
    match known {
        Some(id) => Ok(id),
        None => {
            execute(on, "INSERT INTO identities (spiffe_id) VALUES (?1)", [spiffe_id])?;
            Ok(on.last_insert_rowid())
        }
    }
}

fn token(
    on: &Transaction<'_>,
    key: &HeadKey,
    draft: &TokenDraft,
    log_index: u64,
) -> rusqlite::Result<usize> {
    let insert = "INSERT INTO tokens (hash, id, spiffe_id, expires_at, key_hash, log_index, seal)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let seal = key.seal_token(draft, log_index);
    let values = params![
        draft.hash.as_bytes(),
        draft.id,
        draft.spiffe_id.as_str(),
        draft.expires_at as i64,
        draft.key_hash.as_ref().map(Hash::as_bytes),
        log_index as i64,
        seal.as_bytes()
    ];
    execute(on, insert, values)
}

fn token_revoked(on: &Transaction<'_>, id: &str, log_index: u64) -> rusqlite::Result<usize> {
    let update = "UPDATE tokens SET revoked_index = ?2 WHERE id = ?1";
    execute(on, update, params![id, log_index as i64])
}

fn token_used(
    on: &Transaction<'_>,
    hash: &Hash,
    request_hash: &Hash,
    leaf_index: u64,
) -> rusqlite::Result<usize> {
    let update =
        "UPDATE tokens SET used_by = ?2, used_leaf = ?3 WHERE hash = ?1 AND used_by IS NULL";
    execute(on, update, params![hash.as_bytes(), request_hash.as_bytes(), leaf_index as i64])
}

fn trust_state(
    on: &Transaction<'_>,
    sequence: u64,
    note: &[u8],
    log_index: u64,
) -> rusqlite::Result<usize> {
    let insert = "INSERT INTO trust_states (sequence, note, log_index) VALUES (?1, ?2, ?3)";
    execute(on, insert, params![sequence as i64, note, log_index as i64])
}

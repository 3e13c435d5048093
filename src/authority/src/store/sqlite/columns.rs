//! What the columns of rows hold, and the keys of the log's entries.

use identity::{SerialNumber, SpiffeId};
use rusqlite::Row;
use rusqlite::types::Type;
use tlog::Hash;

pub(super) fn hash(row: &Row<'_>, column: usize) -> rusqlite::Result<Hash> {
    let bytes: [u8; 32] = row.get(column)?;
    Ok(Hash::new(bytes))
}

pub(super) fn serial_number(row: &Row<'_>, column: usize) -> rusqlite::Result<SerialNumber> {
    let octets = row.get_ref(column)?.as_blob()?;
    SerialNumber::from_octets(octets).map_err(|error| broken(column, Type::Blob, error))
}

pub(super) fn parsed(row: &Row<'_>, column: usize) -> rusqlite::Result<SpiffeId> {
    let text = row.get_ref(column)?.as_str()?;
    SpiffeId::parse(text).map_err(|error| broken(column, Type::Text, error))
}

/// The key of an entry of the log.
pub(super) fn place(entry_index: u64) -> i64 {
    // A row may name any.
    FIRST_PLACE.saturating_add(entry_index as i64)
}

/// Indexes and times fit in 63 bits.
pub(super) fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|value| value as u64)
}

fn broken(
    column: usize,
    of: Type,
    error: impl std::error::Error + Send + Sync + 'static,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, of, Box::new(error))
}

/// The one log of this trust domain; other ledgers will have other numbers.
pub(super) const LOG: i64 = 1;
/// A log's entries lie between these keys: see the schema.
pub(super) const FIRST_PLACE: i64 = LOG << 40;
pub(super) const LAST_PLACE: i64 = FIRST_PLACE + (1 << 40) - 1;

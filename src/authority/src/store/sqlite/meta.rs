//! The row that says of which version a file is, and whose.

use identity::TrustDomain;
use rusqlite::{Connection, OptionalExtension};

use super::errors::{unavailable, without_row};
use crate::store::StoreError;

pub(super) fn version(connection: &Connection) -> Result<i64, StoreError> {
    let version = connection.query_row("SELECT version FROM meta", [], |row| row.get(0));
    version.optional().map_err(unavailable)?.ok_or_else(|| without_row("meta"))
}

pub(super) fn require_trust_domain(
    connection: &Connection,
    trust_domain: &TrustDomain,
) -> Result<(), StoreError> {
    let (version, kept): (i64, String) = connection
        .query_row("SELECT version, trust_domain FROM meta", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()
        .map_err(unavailable)?
        .ok_or_else(|| without_row("meta"))?;
    if version == UNSEALED {
        return Err(StoreError::Unavailable(
            "it is of before heads were sealed, and this CA's was sealed since (keys/head.key): an \
             older database was put back, restore the newest"
                .to_owned(),
        ));
    }
    if version != VERSION {
        return Err(StoreError::Unavailable(format!(
            "its schema has version {version}, this program knows {VERSION}: run the countersign \
             that wrote it, or a newer one"
        )));
    }
    require_kept(&kept, trust_domain)
}

/// The same, of whatever version it is.
pub(super) fn require_kept_for(
    connection: &Connection,
    trust_domain: &TrustDomain,
) -> Result<(), StoreError> {
    let kept: String = connection
        .query_row("SELECT trust_domain FROM meta", [], |row| row.get(0))
        .map_err(unavailable)?;
    require_kept(&kept, trust_domain)
}

fn require_kept(kept: &str, trust_domain: &TrustDomain) -> Result<(), StoreError> {
    if kept == trust_domain.as_str() {
        return Ok(());
    }
    Err(StoreError::Unavailable(format!(
        "it belongs to trust domain {kept}, not {trust_domain}: check `trust_domain` and `state`"
    )))
}

/// Version of the schema. A store of another version is refused.
pub(super) const VERSION: i64 = 7;
/// The version before heads were sealed, which is migrated.
pub(super) const UNSEALED: i64 = 3;
/// The version before requests were, and that before records were: brought up to date when opened.
pub(super) const UNSEALED_REQUESTS: i64 = 4;
pub(super) const UNSEALED_RECORDS: i64 = 5;
/// The version whose renewals were decided by rows, at first: brought up to date, too.
pub(super) const RENEWALS_IN_ROWS: i64 = 6;

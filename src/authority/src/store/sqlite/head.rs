//! The head's row: read only with its seal, written with a new one.

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use tlog::{Hash, TreeEdge};

use super::columns::{FIRST_PLACE, LAST_PLACE, LOG, hash, number, place};
use super::errors::{unavailable, without_row};
use super::meta::RENEWALS_IN_ROWS;
use super::tiles;
use super::transaction::one;
use crate::beside::kept_head::Durable;
use crate::seal::{HeadForm, HeadKey};
use crate::sequencer::Head;
use crate::store::StoreError;
use crate::store::heads::{Heads, Judged};

/// Reads the head, and refuses one that this CA did not write.
pub(super) fn read(connection: &Connection, key: &HeadKey) -> Result<Head, StoreError> {
    let (head, seal) = read_row(connection)?;
    if !key.sealed_head(LOG, &head, &seal) {
        return Err(StoreError::Inconsistent(format!(
            "the log's head (size {}, epoch {}, sweep mark {}) is not sealed by keys/head.key: \
             somebody else wrote it{}",
            head.edge.size(),
            head.revocation_epoch,
            head.swept,
            disagreement(connection, &head).map(|what| format!("; {what}")).unwrap_or_default(),
        )));
    }
    Ok(head)
}

/// The same, and refuses one that is older or another than what was known before, or that is not kept
/// beside the database and cannot be.
///
/// That the log leads to a larger one which this process has not committed is shown by its tiles.
pub(super) fn read_known(
    connection: &Connection,
    key: &HeadKey,
    heads: &Heads,
) -> Result<Head, StoreError> {
    for _ in 0..LOOKS {
        let before = heads.newest()?;
        let head = read(connection, key)?;
        match heads.judge(before.as_deref(), &head)? {
            Judged::Known => return Ok(head),
            Judged::Passed => {}
            Judged::Unkept(durable) => {
                heads.accept(key, &head, durable)?;
                return Ok(head);
            }
            Judged::Unknown(newest) => match tiles::verify_edge(connection, &newest) {
                Ok(()) => {
                    heads.accept(key, &head, Durable::Yes)?;
                    return Ok(head);
                }
                Err(StoreError::Inconsistent(_)) => {
                    return Err(heads.lose(&newest, head.edge.size()));
                }
                Err(error) => return Err(error),
            },
        }
    }
    Err(StoreError::Unavailable("the log grows faster than its head is read".to_owned()))
}

/// How often a head is read that others have passed meanwhile.
const LOOKS: usize = 5;

/// Compares the log with its head: its right edge, and that nothing stands behind it.
pub(super) fn verify_log(connection: &Connection, key: &HeadKey) -> Result<(), StoreError> {
    verify_log_to(connection, &read(connection, key)?)
}

/// The same, for a head that was read.
pub(super) fn verify_log_to(connection: &Connection, head: &Head) -> Result<(), StoreError> {
    tiles::verify_edge(connection, head)?;
    let size = head.edge.size();
    let beyond = connection
        .query_row(
            "SELECT EXISTS (SELECT 1 FROM entries WHERE place BETWEEN ?1 AND ?2)",
            [place(size), LAST_PLACE],
            |row| row.get(0),
        )
        .map_err(unavailable)?;
    if beyond {
        return Err(StoreError::Inconsistent(format!(
            "the log has {size} entries, and another stands behind its end, where the next one goes: \
             somebody else wrote it"
        )));
    }
    Ok(())
}

pub(super) fn write(
    transaction: &Transaction<'_>,
    key: &HeadKey,
    head: &Head,
) -> Result<(), StoreError> {
    let edge: Vec<u8> = head.edge.hashes().iter().flat_map(|hash| *hash.as_bytes()).collect();
    let seal = key.seal_head(LOG, head);
    let written = transaction
        .prepare_cached(
            "UPDATE head SET size = ?2, edge = ?3, at = ?4, revocation_epoch = ?5,
             policy_hash = ?6, swept = ?7, chain = ?8, seal = ?9 WHERE log_id = ?1",
        )
        .and_then(|mut update| {
            update.execute(params![
                LOG,
                head.edge.size() as i64,
                edge,
                head.at as i64,
                head.revocation_epoch as i64,
                head.policy_hash.as_bytes(),
                head.swept as i64,
                head.chain.as_bytes(),
                seal.as_bytes(),
            ])
        });
    one(written, "head")
}

/// One that was sealed by a version of before, as its schema says.
pub(super) fn read_of_before(
    connection: &Connection,
    key: &HeadKey,
    version: i64,
) -> Result<Head, StoreError> {
    let (head, seal) = read_row(connection)?;
    let form = if version < RENEWALS_IN_ROWS { HeadForm::V1 } else { HeadForm::V2 };
    if key.sealed_head_of_before(form, LOG, &head, &seal) {
        return Ok(head);
    }
    Err(StoreError::Inconsistent(format!(
        "its schema says that it is of version {version}, and its head is not sealed as heads were then: \
         somebody else wrote it"
    )))
}

fn read_row(connection: &Connection) -> Result<(Head, Vec<u8>), StoreError> {
    let (size, edge, head, seal) = connection
        .prepare_cached(
            "SELECT size, edge, at, revocation_epoch, policy_hash, swept, chain, seal FROM head
             WHERE log_id = ?1",
        )
        .and_then(|mut statement| {
            statement.query_row([LOG], |row| {
                let head = Head {
                    edge: TreeEdge::new(),
                    at: number(row, 2)?,
                    revocation_epoch: number(row, 3)?,
                    policy_hash: hash(row, 4)?,
                    swept: number(row, 5)?,
                    chain: hash(row, 6)?,
                };
                Ok((number(row, 0)?, row.get::<_, Vec<u8>>(1)?, head, row.get(7)?))
            })
        })
        .optional()
        .map_err(unavailable)?
        .ok_or_else(|| without_row("head"))?;
    Ok((Head { edge: self::edge(size, &edge)?, ..head }, seal))
}

pub(super) fn edge(size: u64, hashes: &[u8]) -> Result<TreeEdge, StoreError> {
    let hashes: Result<Vec<Hash>, _> = hashes.chunks(32).map(Hash::try_from).collect();
    hashes
        .and_then(|hashes| TreeEdge::from_parts(size, hashes))
        .map_err(|error| StoreError::Inconsistent(format!("the log's head: {error}")))
}

/// What else the database says, where that differs from the head: a hint, no proof, for whoever
/// changed the head may have changed the rest to fit.
fn disagreement(connection: &Connection, head: &Head) -> Option<String> {
    let size = head.edge.size();
    let found = |sql: &str| -> Option<u64> {
        connection.query_row(sql, [FIRST_PLACE, LAST_PLACE], |row| number(row, 0)).ok()
    };
    let entries = found("SELECT count(*) FROM (SELECT place FROM entries WHERE place BETWEEN ?1 AND ?2 ORDER BY place DESC LIMIT 1)")
        .filter(|some| *some > 0)
        .and_then(|_| found("SELECT max(place) - ?1 + 1 FROM entries WHERE place BETWEEN ?1 AND ?2"))
        .unwrap_or(0);
    if entries != size {
        return Some(format!("its size is {size}, and the newest entry is the {entries}th"));
    }
    let folding = found(
        "SELECT count(*) FROM entries INDEXED BY folding_entries WHERE place BETWEEN ?1 AND ?2 AND folds = 1",
    )?;
    if folding != head.revocation_epoch {
        let epoch = head.revocation_epoch;
        return Some(format!("its epoch is {epoch}, and {folding} events of the log fold"));
    }
    let newest = "SELECT hash FROM policies ORDER BY log_index DESC LIMIT 1";
    let newest = connection.query_row(newest, [], |row| hash(row, 0)).ok()?;
    if newest != head.policy_hash {
        let (named, newest) = (head.policy_hash.to_hex(), newest.to_hex());
        return Some(format!("it names policy set {named}, and the newest is {newest}"));
    }
    if let Err(error) = tiles::verify_edge(connection, head) {
        return Some(error.to_string());
    }
    Some("its time, its sweep mark, its chain or the seal itself was changed".to_owned())
}

//! A store of before heads were sealed: looked through once, from its first entry to its last, then
//! sealed. After that no unsealed one is taken in this folder.

use std::fmt;

use identity::TrustDomain;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use tlog::{EntryKind, Hash, TreeEdge, entry_kind, leaf_hash};

use super::columns::{FIRST_PLACE, LAST_PLACE, LOG, hash, number, place};
use super::errors::unavailable;
use super::meta::{self, UNSEALED};
use super::{head, read, records, renewals, requests, schema, tiles};
use crate::chain::{CHAIN_START, chained};
use crate::event::{Event, FOLDING, OPERATOR_CREATE, TOKEN_REVOKE};
use crate::seal::HeadKey;
use crate::sequencer::Head;
use crate::store::StoreError;
use crate::token_kind::is_made_by;

/// What was verified before a store of before was sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// Entries that were hashed.
    pub entries: u64,
    /// Those among them that fold.
    pub folding: u64,
    /// Bootstrap tokens that their events had made.
    pub tokens: u64,
}

impl fmt::Display for Migrated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entries, folding, tokens } = self;
        write!(
            f,
            "the log's head is sealed from now on, by keys/head.key. Checked before: {entries} \
             entries hash to the head's root, {folding} of them change what counts and are all \
             marked so, {tokens} tokens were made by their events. Not checked: whether somebody \
             had changed log and database alike before; compare a checkpoint held elsewhere. Back \
             up keys/ again"
        )
    }
}

/// One transaction: a crash leaves what was there before.
pub(super) fn migrate(
    connection: &mut Connection,
    trust_domain: &TrustDomain,
    key: &HeadKey,
) -> Result<Migrated, StoreError> {
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(unavailable)?;
    if meta::version(&transaction)? != UNSEALED {
        return Err(StoreError::Inconsistent("it is sealed already".to_owned()));
    }
    transaction.execute_batch(STEP).map_err(schema::not_of_version(UNSEALED))?;
    requests::seal_in(&transaction)?;
    records::add_seal(&transaction)?;
    let kept = unsealed_head(&transaction)?;
    let looked = Looked::through(&transaction)?;
    looked.require(&kept)?;
    tiles::verify_edge(&transaction, &kept)?;
    for index in &looked.newly_folding {
        transaction
            .execute("UPDATE entries SET folds = 1 WHERE place = ?1", [place(*index)])
            .map_err(unavailable)?;
    }
    let tokens = seal_tokens(&transaction, key)?;
    records::seal_in(&transaction, key, &kept)?;
    let sealed = Head { revocation_epoch: looked.folding, chain: looked.chain, ..kept };
    renewals::tell_the_log(&transaction, key, &sealed, UNSEALED)?;
    meta::require_trust_domain(&transaction, trust_domain)?;
    schema::require_brought_up(&transaction, UNSEALED)?;
    transaction.commit().map_err(unavailable)?;
    Ok(Migrated { entries: looked.edge.size(), folding: looked.folding, tokens })
}

fn unsealed_head(transaction: &Transaction<'_>) -> Result<Head, StoreError> {
    let sql = "SELECT size, edge, at, revocation_epoch, policy_hash, swept FROM head
               WHERE log_id = ?1";
    let (size, edge, head) = transaction
        .query_row(sql, [LOG], |row| {
            let head = Head {
                at: number(row, 2)?,
                revocation_epoch: number(row, 3)?,
                policy_hash: hash(row, 4)?,
                swept: number(row, 5)?,
                ..Head::empty()
            };
            Ok((number(row, 0)?, row.get::<_, Vec<u8>>(1)?, head))
        })
        .map_err(unavailable)?;
    Ok(Head { edge: head::edge(size, &edge)?, ..head })
}

/// What the log's entries say themselves.
struct Looked {
    edge: TreeEdge,
    /// By the events' kinds, those of today.
    folding: u64,
    chain: Hash,
    /// Events of kinds that did not fold then.
    newly_folding: Vec<u64>,
}

impl Looked {
    fn through(transaction: &Transaction<'_>) -> Result<Self, StoreError> {
        let mut looked = Self {
            edge: TreeEdge::new(),
            folding: 0,
            chain: CHAIN_START,
            newly_folding: Vec::new(),
        };
        let sql = "SELECT place, folds, bytes FROM entries WHERE place BETWEEN ?1 AND ?2
                   ORDER BY place";
        let mut entries = transaction.prepare(sql).map_err(unavailable)?;
        let mut rows = entries.query([FIRST_PLACE, LAST_PLACE]).map_err(unavailable)?;
        while let Some(row) = rows.next().map_err(unavailable)? {
            let index = number(row, 0).map_err(unavailable)? - FIRST_PLACE as u64;
            let folds: bool = row.get(1).map_err(unavailable)?;
            let bytes = row.get_ref(2).map_err(unavailable)?;
            let bytes = bytes.as_blob().map_err(|error| inconsistent(&error))?;
            looked.entry(index, folds, bytes)?;
        }
        Ok(looked)
    }

    fn entry(&mut self, index: u64, folded: bool, bytes: &[u8]) -> Result<(), StoreError> {
        if index != self.edge.size() {
            return Err(inconsistent(&format!("entry {} is gone", self.edge.size())));
        }
        let hash = leaf_hash(bytes);
        self.edge.push(hash);
        let is_event = entry_kind(bytes) != Some(EntryKind::Leaf);
        let event = if is_event { Event::parse(bytes).ok() } else { None };
        let kind = event.as_ref().map_or("", |event| event.kind.as_str());
        let is_new = [OPERATOR_CREATE, TOKEN_REVOKE].contains(&kind);
        let folds = FOLDING.contains(&kind);
        if folded != (folds && !is_new) {
            let marked = if folded { "marked" } else { "not marked" };
            let why = format!("entry {index}, {kind:?}, is {marked} as one that folds");
            return Err(inconsistent(&why));
        }
        if folds {
            self.folding += 1;
            self.chain = chained(&self.chain, index, &hash);
        }
        if is_new {
            self.newly_folding.push(index);
        }
        Ok(())
    }

    /// The head of before must say the same.
    fn require(&self, kept: &Head) -> Result<(), StoreError> {
        if self.edge != kept.edge {
            let why = format!(
                "the log's {} entries do not hash to the root of its head, of {}",
                self.edge.size(),
                kept.edge.size()
            );
            return Err(inconsistent(&why));
        }
        let counted = self.folding - self.newly_folding.len() as u64;
        if counted != kept.revocation_epoch {
            let epoch = kept.revocation_epoch;
            let why = format!("the log's head is at epoch {epoch}, its events lead to {counted}");
            return Err(inconsistent(&why));
        }
        Ok(())
    }
}

/// Seals the rows that their events have made; the others count for nothing.
fn seal_tokens(transaction: &Transaction<'_>, key: &HeadKey) -> Result<u64, StoreError> {
    let rows: Vec<_> = transaction
        .prepare(read::TOKEN_COLUMNS)
        .and_then(|mut rows| rows.query_map([], read::unsealed_token)?.collect())
        .map_err(unavailable)?;
    let mut sealed = 0;
    for row in rows {
        let entries = read::entries(transaction, row.log_index, 1)?;
        let event = entries.first().and_then(|entry| Event::parse(entry).ok());
        if !event.is_some_and(|event| is_made_by(&event, &row)) {
            continue;
        }
        let seal = key.seal_token(&read::draft_of(&row), row.log_index);
        let keep = "UPDATE tokens SET seal = ?2 WHERE hash = ?1";
        transaction
            .execute(keep, params![row.hash.as_bytes(), seal.as_bytes()])
            .map_err(unavailable)?;
        sealed += 1;
    }
    Ok(sealed)
}

fn inconsistent(why: &dyn fmt::Display) -> StoreError {
    StoreError::Inconsistent(why.to_string())
}

const STEP: &str = "
  ALTER TABLE head ADD COLUMN chain BLOB NOT NULL DEFAULT x'';
  ALTER TABLE head ADD COLUMN seal BLOB NOT NULL DEFAULT x'';
  ALTER TABLE tokens ADD COLUMN seal BLOB NOT NULL DEFAULT x'';
";

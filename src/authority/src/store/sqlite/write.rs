//! The transaction that writes a planned group.

use identity::{SerialNumber, TrustDomain};
use rusqlite::{
    CachedStatement, Connection, OptionalExtension, Transaction, TransactionBehavior, params,
};
use tlog::Hash;

use super::requests;
use super::schema::Schema;
use super::tiles::NewestTile;
use super::{LOG, StoreError, StoredCheckpoint, Writer, head, read, unavailable};
use crate::kept_head::Durable;
use crate::seal::{HeadKey, SealedRecord};
use crate::sequencer::{
    Consumes, Effect, Found, Head, LeafRow, Member, News, Outcome, Plan, Row, plan,
};
use crate::store::heads::Heads;

/// Version of the schema. A store of another version is refused.
pub(super) const VERSION: i64 = 7;
/// The version before heads were sealed, which is migrated.
pub(super) const UNSEALED: i64 = 3;
/// The version before requests were, and that before records were: brought up to date when opened.
pub(super) const UNSEALED_REQUESTS: i64 = 4;
pub(super) const UNSEALED_RECORDS: i64 = 5;
/// The version whose renewals were decided by rows, at first: brought up to date, too.
pub(super) const RENEWALS_IN_ROWS: i64 = 6;

/// Writes the rows that every store has.
pub(super) fn initialise(
    connection: &Connection,
    trust_domain: &TrustDomain,
    key: &HeadKey,
) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO meta (id, version, trust_domain) VALUES (1, ?1, ?2)",
        params![VERSION, trust_domain.as_str()],
    )?;
    let head = Head::empty();
    connection.execute(
        "INSERT INTO head (log_id, size, edge, at, revocation_epoch, policy_hash, swept, chain, seal)
         VALUES (?1, 0, x'', 0, 0, ?2, 0, ?3, ?4)",
        params![
            LOG,
            head.policy_hash.as_bytes(),
            head.chain.as_bytes(),
            key.seal_head(LOG, &head).as_bytes()
        ],
    )?;
    Ok(())
}

pub(super) fn begin<'a>(
    connection: &'a mut Connection,
    schema: &Schema,
) -> Result<Transaction<'a>, StoreError> {
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(unavailable)?;
    schema.require(&transaction)?;
    Ok(transaction)
}

/// What is written stands in exactly one row: where none was changed, something undid it.
pub(super) fn one(changed: rusqlite::Result<usize>, table: &str) -> Result<(), StoreError> {
    match changed.map_err(unavailable)? {
        1 => Ok(()),
        changed => Err(StoreError::Inconsistent(format!(
            "a write changed {changed} rows of {table:?}, and not one: its rows are not those that \
             this CA wrote, or something in the database undoes what is written"
        ))),
    }
}

/// One transaction: select what the group may contradict, plan, write, commit; then keep its head
/// beside the database, before anybody hears of it. While that fails, only what restricts is committed,
/// of each group, and nobody is answered by it: whoever repeats the request once the head is kept finds
/// what was done.
pub(super) fn commit(
    Writer { connection, newest_tile, key, schema, place, heads, unreached }: &mut Writer,
    group: Vec<Member>,
    now: u64,
) -> Result<Vec<Outcome>, StoreError> {
    let transaction = begin(connection, schema)?;
    let known = head::read_known(&transaction, key, heads);
    let known = known.and_then(|head| require_kept(heads, key, head, &group));
    let Admitted { head, members, places, unkept } = Admitted::of(known, group)?;
    let cleared = unreached.clear(&transaction, head.edge.size())?;
    let found = find(&transaction, key, &head, &members, now).map_err(unavailable)?;
    let plan = plan(&head, found, members, now)
        .map_err(|behind| StoreError::ClockBehind { milliseconds: behind.milliseconds })?;
    write(&transaction, newest_tile, key, &head, &plan)?;
    // Nobody hears of what was written into a file that stands nowhere any more.
    place.require()?;
    let folds = plan.entries.iter().any(|entry| entry.folds);
    let durable = if folds { Durable::Yes } else { Durable::No };
    heads.announce(&plan.head, durable);
    transaction.commit().map_err(unavailable)?;
    unreached.note(&cleared);
    match heads.accept(key, &plan.head, durable).err().or(unkept) {
        None => Ok(plan.outcomes),
        Some(error) => Err(error.with_outcomes(&plan, &places)),
    }
}

/// What is folded after an act that grants waits for it, and so for its head: whether one can be kept is
/// found out before there is such an act.
fn require_kept(
    heads: &Heads,
    key: &HeadKey,
    head: Head,
    group: &[Member],
) -> Result<Head, StoreError> {
    if group.iter().any(Member::grants_by_the_fold) {
        heads.keep(key, &head, Durable::Yes)?;
    }
    Ok(head)
}

/// What a transaction begins with.
struct Admitted {
    head: Head,
    members: Vec<Member>,
    /// Those of the members in their group.
    places: Vec<usize>,
    /// Why only what restricts was let in.
    unkept: Option<StoreError>,
}

impl Admitted {
    /// All of a group; where the head is not kept, those that only restrict, if there are any.
    fn of(known: Result<Head, StoreError>, group: Vec<Member>) -> Result<Self, StoreError> {
        let (head, unkept) = match known {
            Err(error) if group.iter().any(Member::only_restricts) => match &error {
                StoreError::Unkept { head, .. } => (Head::clone(head), Some(error)),
                _ => return Err(error),
            },
            known => (known?, None),
        };
        let is_let_in = |(_, member): &(usize, Member)| unkept.is_none() || member.only_restricts();
        let (places, members) = group.into_iter().enumerate().filter(is_let_in).unzip();
        Ok(Self { head, members, places, unkept })
    }
}

/// Keeps a checkpoint, whatever stands there: the newest is the one that this process signed.
pub(super) fn put_checkpoint(
    connection: &Connection,
    checkpoint: &StoredCheckpoint,
) -> Result<(), StoreError> {
    let written = connection.execute(
        "INSERT INTO checkpoints (log_id, size, note) VALUES (?1, ?2, ?3)
         ON CONFLICT (log_id) DO UPDATE SET size = excluded.size, note = excluded.note",
        params![LOG, checkpoint.size as i64, checkpoint.note],
    );
    one(written, "checkpoints")
}

fn find(
    transaction: &Transaction<'_>,
    key: &HeadKey,
    head: &Head,
    group: &[Member],
    now: u64,
) -> rusqlite::Result<Found> {
    let mut found = Found { news: find_news(transaction, head, group)?, ..Found::default() };
    for member in group {
        find_for(transaction, key, member, now, &mut found)?;
    }
    Ok(found)
}

/// Few entries: what was committed while those who renew waited for their turn.
fn find_news(
    transaction: &Transaction<'_>,
    head: &Head,
    group: &[Member],
) -> rusqlite::Result<News> {
    let (mut news, size) = (News::default(), head.edge.size());
    let first = group.iter().filter_map(Member::read_to).min().unwrap_or(size);
    let mut entries = transaction.prepare_cached(
        "SELECT place, bytes FROM entries WHERE place >= ?1 AND place < ?2 ORDER BY place",
    )?;
    let mut rows = entries.query([read::place(first), read::place(size)])?;
    while let Some(row) = rows.next()? {
        let place = read::number(row, 0)? - read::FIRST_PLACE as u64;
        news.read(place, row.get_ref(1)?.as_blob()?);
    }
    Ok(news)
}

fn find_for(
    transaction: &Transaction<'_>,
    key: &HeadKey,
    member: &Member,
    now: u64,
    found: &mut Found,
) -> rusqlite::Result<()> {
    match member {
        Member::Certificate(certificate) | Member::Precedent(certificate) => {
            find_serial_number(transaction, &certificate.record.serial_number, found)?;
            if let Some(named) = &certificate.idempotency {
                requests::find_named(transaction, key, named, now, found)?;
            }
            match &certificate.consumes {
                Consumes::Nothing | Consumes::Renewal { .. } => {}
                Consumes::Token { hash, .. } => find_token(transaction, key, hash, found)?,
            }
        }
        Member::Complete(complete) => {
            find_leaf(transaction, complete.leaf_index, found)?;
        }
        Member::Act(act) => match &act.effect {
            Effect::Abandon { leaf_index } => find_leaf(transaction, *leaf_index, found)?,
            Effect::NumberCrl { issuer_key_hash, .. } => {
                let number = read::crl_number(transaction, issuer_key_hash)?;
                found.crl_numbers.extend(number.map(|number| (*issuer_key_hash, number)));
            }
            Effect::RevokeToken { hash, .. } => {
                find_token(transaction, key, hash, found)?;
            }
            _ => {}
        },
        Member::Once(once) => {
            requests::find_named(transaction, key, &once.named, now, found)?;
            find_for(transaction, key, &once.member, now, found)?;
        }
        Member::Crl(_) | Member::Unchanged(_) => {}
    }
    Ok(())
}

fn find_serial_number(
    transaction: &Transaction<'_>,
    serial_number: &SerialNumber,
    found: &mut Found,
) -> rusqlite::Result<()> {
    let taken = transaction
        .prepare_cached("SELECT 1 FROM records WHERE serial_number = ?1")?
        .exists([serial_number.as_octets()])?;
    if taken {
        found.serial_numbers.insert(*serial_number);
    }
    Ok(())
}

fn find_token(
    transaction: &Transaction<'_>,
    key: &HeadKey,
    hash: &Hash,
    found: &mut Found,
) -> rusqlite::Result<()> {
    if let Some(token) = read::token_row(transaction, key, hash)? {
        found.tokens.insert(*hash, token);
    }
    Ok(())
}

fn find_leaf(
    transaction: &Transaction<'_>,
    leaf_index: u64,
    found: &mut Found,
) -> rusqlite::Result<()> {
    // Two plain look-ups: SQLite prepares the join of both anew each time it is run.
    let key = [leaf_index as i64];
    let logged_at = transaction
        .prepare_cached("SELECT issued_at FROM records WHERE leaf_index = ?1")?
        .query_row(key, |row| read::number(row, 0))
        .optional()?;
    let certificate = transaction
        .prepare_cached("SELECT der FROM certificates WHERE leaf_index = ?1")?
        // One of another form is no certificate, and is judged as such.
        .query_row(key, |row| Ok(row.get_ref(0)?.as_bytes().unwrap_or_default().to_vec()))
        .optional()?;
    if let Some(logged_at) = logged_at {
        found.leaves.insert(leaf_index, LeafRow { logged_at, certificate });
    }
    Ok(())
}

pub(super) fn write(
    transaction: &Transaction<'_>,
    newest_tile: &mut NewestTile,
    key: &HeadKey,
    head: &Head,
    plan: &Plan,
) -> Result<(), StoreError> {
    write_entries(transaction, head, plan)?;
    for row in &plan.rows {
        write_row(transaction, key, row)?;
    }
    newest_tile.grow(transaction, head.edge.size(), &plan.entries)?;
    if plan.head != *head {
        head::write(transaction, key, &plan.head)?;
    }
    if plan.rows.iter().any(|row| matches!(row, Row::Idempotency { .. })) {
        requests::forget(transaction, plan.head.at).map_err(unavailable)?;
    }
    Ok(())
}

fn write_entries(
    transaction: &Transaction<'_>,
    head: &Head,
    plan: &Plan,
) -> Result<(), StoreError> {
    let mut insert = transaction.prepare_cached(APPEND).map_err(unavailable)?;
    for (position, entry) in plan.entries.iter().enumerate() {
        let index = head.edge.size() + position as u64;
        one(insert.execute(params![read::place(index), entry.folds, entry.bytes]), "entries")?;
    }
    Ok(())
}

fn write_row(transaction: &Transaction<'_>, key: &HeadKey, row: &Row) -> Result<(), StoreError> {
    match row {
        Row::Record { .. } => one(write_record(transaction, key, row), "records"),
        _ => one(change_row(transaction, key, row), row.table()),
    }
}

/// How many rows it changed.
fn change_row(transaction: &Transaction<'_>, key: &HeadKey, row: &Row) -> rusqlite::Result<usize> {
    let sql = |text| transaction.prepare_cached(text);
    match row {
        // The first store wins: a second certificate for a leaf never replaces it, only what is none.
        Row::Certificate { leaf_index, der, replaces } => sql(match replaces {
            false => "INSERT INTO certificates (leaf_index, der) VALUES (?1, ?2)",
            true => "UPDATE certificates SET der = ?2 WHERE leaf_index = ?1",
        })?
        .execute(params![*leaf_index as i64, der]),
        Row::Crl(crl) => {
            sql("INSERT INTO crls (issuer_key_hash, number, der, revocation_epoch, next_update)
             VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (issuer_key_hash) DO UPDATE SET number = excluded.number,
               der = excluded.der, revocation_epoch = excluded.revocation_epoch,
               next_update = excluded.next_update")?
            .execute(params![
                crl.issuer_key_hash.as_bytes(),
                crl.number as i64,
                crl.der,
                crl.revocation_epoch as i64,
                crl.next_update
            ])
        }
        Row::CrlNumber { issuer_key_hash, number } => {
            sql("INSERT INTO crl_numbers (issuer_key_hash, number) VALUES (?1, ?2)
             ON CONFLICT (issuer_key_hash) DO UPDATE SET number = excluded.number")?
            .execute(params![issuer_key_hash.as_bytes(), *number as i64])
        }
        Row::Idempotency { key: named, kept, at } => {
            requests::keep(transaction, key, named, kept, *at)
        }
        Row::Issuer { certificate, key_hash, log_index } => {
            sql("INSERT OR REPLACE INTO issuers (key_hash, certificate, log_index)
             VALUES (?1, ?2, ?3)")?
            .execute(params![key_hash.as_bytes(), certificate, *log_index as i64])
        }
        Row::Operator { name, log_index } => {
            sql("INSERT OR REPLACE INTO operators (name, log_index) VALUES (?1, ?2)")?
                .execute(params![name, *log_index as i64])
        }
        Row::Policy { hash, files, log_index } => {
            sql("INSERT OR REPLACE INTO policies (hash, files, log_index) VALUES (?1, ?2, ?3)")?
                .execute(params![hash.as_bytes(), files, *log_index as i64])
        }
        Row::Record { .. } => Ok(0),
        Row::Revocation { log_index, kind, target, reason, at } => {
            sql("INSERT INTO revocations (log_index, kind, target, reason, at)
             VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![*log_index as i64, kind, target, reason, *at as i64])
        }
        Row::Token { draft, log_index } => {
            sql("INSERT INTO tokens (hash, id, spiffe_id, expires_at, key_hash, log_index, seal)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
            .execute(params![
                draft.hash.as_bytes(),
                draft.id,
                draft.spiffe_id.as_str(),
                draft.expires_at as i64,
                draft.key_hash.as_ref().map(Hash::as_bytes),
                *log_index as i64,
                key.seal_token(draft, *log_index).as_bytes()
            ])
        }
        Row::TokenRevoked { id, log_index } => {
            sql("UPDATE tokens SET revoked_index = ?2 WHERE id = ?1")?
                .execute(params![id, *log_index as i64])
        }
        Row::TokenUsed { hash, request_hash, leaf_index } => sql(
            "UPDATE tokens SET used_by = ?2, used_leaf = ?3 WHERE hash = ?1 AND used_by IS NULL",
        )?
        .execute(params![hash.as_bytes(), request_hash.as_bytes(), *leaf_index as i64]),
        Row::TrustState { sequence, note, log_index } => {
            sql("INSERT INTO trust_states (sequence, note, log_index) VALUES (?1, ?2, ?3)")?
                .execute(params![*sequence as i64, note, *log_index as i64])
        }
    }
}

fn write_record(
    transaction: &Transaction<'_>,
    key: &HeadKey,
    row: &Row,
) -> rusqlite::Result<usize> {
    let Row::Record { leaf_index, issued_at, member } = row else { return Ok(0) };
    // What is written is what is sealed.
    let record = SealedRecord::of_member(member, *leaf_index, *issued_at);
    let identity = identity(transaction, record.spiffe_id)?;
    let mut insert: CachedStatement<'_> = transaction.prepare_cached(
        "INSERT INTO records (leaf_index, serial_number, identity, issued_at, issuer_key_hash,
         profile, not_before, not_after, request_hash, facts, seal)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?;
    insert.execute(params![
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
        key.seal_record(&record).as_bytes()
    ])
}

fn identity(transaction: &Transaction<'_>, spiffe_id: &str) -> rusqlite::Result<i64> {
    let known = transaction
        .prepare_cached("SELECT id FROM identities WHERE spiffe_id = ?1")?
        .query_row([spiffe_id], |row| row.get(0))
        .optional()?;
    match known {
        Some(id) => Ok(id),
        None => {
            transaction
                .prepare_cached("INSERT INTO identities (spiffe_id) VALUES (?1)")?
                .execute([spiffe_id])?;
            Ok(transaction.last_insert_rowid())
        }
    }
}

pub(super) const APPEND: &str = "INSERT INTO entries (place, folds, bytes) VALUES (?1, ?2, ?3)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_changes_another_number_of_rows_than_one_fails() {
        one(Ok(1), "head").unwrap();
        for changed in [0, 2] {
            assert!(matches!(one(Ok(changed), "head"), Err(StoreError::Inconsistent(_))));
        }
        let database = Connection::open_in_memory().unwrap();
        let undone = "CREATE TABLE t (a UNIQUE ON CONFLICT IGNORE); INSERT INTO t VALUES (1)";
        database.execute_batch(undone).unwrap();
        one(database.execute("INSERT INTO t VALUES (1)", []), "t").unwrap_err();
    }
}

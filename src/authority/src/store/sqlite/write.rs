//! The transaction that writes a planned group.

use identity::TrustDomain;
use rusqlite::{Connection, Transaction, params};

use super::columns::{LOG, place};
use super::errors::unavailable;
use super::find::find;
use super::meta::VERSION;
use super::rows::write_row;
use super::tiles::NewestTile;
use super::transaction::{begin, one};
use super::writer::Writer;
use super::{head, requests};
use crate::beside::kept_head::Durable;
use crate::seal::HeadKey;
use crate::sequencer::{Head, Member, Outcome, Plan, Row, plan};
use crate::store::heads::Heads;
use crate::store::{StoreError, StoredCheckpoint};

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
        one(insert.execute(params![place(index), entry.folds, entry.bytes]), "entries")?;
    }
    Ok(())
}

pub(super) const APPEND: &str = "INSERT INTO entries (place, folds, bytes) VALUES (?1, ?2, ?3)";

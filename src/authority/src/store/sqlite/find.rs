//! What a group may contradict, looked up before it is planned.

use identity::SerialNumber;
use rusqlite::{OptionalExtension, Transaction};
use tlog::Hash;

use super::{columns, read, requests};
use crate::seal::HeadKey;
use crate::sequencer::{ActMember, Consumes, Effect, Found, Head, LeafRow, Member, Named, News};

pub(super) fn find(
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
    let mut rows = entries.query([columns::place(first), columns::place(size)])?;
    while let Some(row) = rows.next()? {
        let place = columns::number(row, 0)? - columns::FIRST_PLACE as u64;
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
        Member::Act(act) => find_for_act(transaction, key, act, found)?,
        Member::Once(once) => {
            requests::find_named(transaction, key, &once.named, now, found)?;
            if let Named::Act(act) = &once.member {
                find_for_act(transaction, key, act, found)?;
            }
        }
        Member::Crl(_) | Member::Unchanged(_) => {}
    }
    Ok(())
}

fn find_for_act(
    transaction: &Transaction<'_>,
    key: &HeadKey,
    act: &ActMember,
    found: &mut Found,
) -> rusqlite::Result<()> {
    match &act.effect {
        Effect::Abandon { leaf_index } => find_leaf(transaction, *leaf_index, found),
        Effect::NumberCrl { issuer_key_hash, .. } => {
            let number = read::crl_number(transaction, issuer_key_hash)?;
            found.crl_numbers.extend(number.map(|number| (*issuer_key_hash, number)));
            Ok(())
        }
        Effect::RevokeToken { hash, .. } => find_token(transaction, key, hash, found),
        _ => Ok(()),
    }
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
        .query_row(key, |row| columns::number(row, 0))
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

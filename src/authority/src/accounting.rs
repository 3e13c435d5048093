//! Off the hot path: each leaf is accounted for once, as `issued` or as `issue.abandoned`.
//!
//! The cursor stands in the log's head and moves in the transaction that writes the events, so a
//! crash accounts for a leaf again or not yet, never not at all.

use serde::Serialize;
use tlog::Hash;

use crate::authority::Authority;
use crate::error::Error;
use crate::event::{Act, EventDraft, ISSUE_ABANDONED, ISSUED, SEEN};
use crate::renewals::Told;
use crate::sequencer::{ActMember, COMPLETION_MILLISECONDS, Effect, Member};
use crate::store::Record;

/// An `issued` event's detail.
#[derive(Serialize)]
struct IssuedDetail {
    certificates: Vec<IssuedLine>,
}

/// One certificate: its leaf and its hash.
#[derive(Serialize)]
struct IssuedLine {
    index: u64,
    sha256: String,
}

/// A `seen` event's detail: places of certificates that were shown to the CA.
#[derive(Serialize)]
struct SeenDetail {
    indexes: Vec<u64>,
}

/// Tells which certificates were shown since the last time: a batch, once each.
pub(crate) async fn tell_shown(authority: &Authority) -> Result<(), Error> {
    let indexes = authority.renewals.untold(SHOWN);
    if indexes.is_empty() {
        return Ok(());
    }
    let by = Act { actor: "authority", request_id: "" };
    let detail = SeenDetail { indexes };
    let event = EventDraft::new(SEEN, &by, "certificates", &detail);
    let act = ActMember { event, effect: Effect::None, allowed_under: None };
    authority.submit(Member::Act(Box::new(act))).await?;
    authority.renewals.hear([Told::Shown(detail.indexes)]);
    Ok(())
}

/// Accounts for a batch of leaves; returns whether there may be more to do at once.
pub(crate) async fn account(authority: &Authority) -> Result<bool, Error> {
    let store = authority.store();
    let swept = store.head().await?.swept;
    let records = store.records_from(swept, BATCH).await?;
    let now = authority.clock().unix_milliseconds();
    let settled: Vec<&Record> = records
        .iter()
        .take_while(|record| {
            record.certificate.is_some()
                || now.saturating_sub(record.issued_at) > 2 * COMPLETION_MILLISECONDS
        })
        .collect();
    let Some(last) = settled.last() else {
        return Ok(false);
    };
    let up_to = last.leaf_index + 1;
    for record in settled.iter().filter(|record| record.certificate.is_none()) {
        abandon(authority, record).await?;
    }
    let certificates: Vec<IssuedLine> = settled
        .iter()
        .filter_map(|record| {
            let sha256 = format!("{:?}", Hash::of(record.certificate.as_ref()?));
            Some(IssuedLine { index: record.leaf_index, sha256 })
        })
        .collect();
    let by = Act { actor: "authority", request_id: "" };
    let event = EventDraft::new(ISSUED, &by, "certificates", &IssuedDetail { certificates });
    let act = ActMember { event, effect: Effect::Sweep { up_to }, allowed_under: None };
    authority.submit(Member::Act(Box::new(act))).await?;
    Ok(records.len() == BATCH as usize)
}

async fn abandon(authority: &Authority, record: &Record) -> Result<(), Error> {
    let detail = serde_json::json!({
        "index": record.leaf_index,
        "serial_number": record.serial_number.to_string(),
    });
    let by = Act { actor: "authority", request_id: "" };
    let event = EventDraft::new(ISSUE_ABANDONED, &by, record.spiffe_id.as_str(), &detail);
    let act = ActMember { event, effect: Effect::None, allowed_under: None };
    authority.submit(Member::Act(Box::new(act))).await.map(drop)
}

/// Certificates of one `issued` event: some 90 bytes each, below the entry's 65,535.
const BATCH: u32 = 500;
/// Places of one `seen` event: an index has 40 bits, 13 digits at most.
const SHOWN: usize = 4_000;

//! Off the hot path: each leaf of the log is accounted for once, as `issued`, as `issue.abandoned`, or
//! as `issue.lost`.
//!
//! What this process has stored itself it knows. Of what was logged before it started, a row's
//! certificate counts if it is that of the leaf; where there is none, it may have been signed all the
//! same, and its row been taken away. Then it is lost: it counts as issued, as far as anybody asks.
//!
//! The cursor stands in the log's head and moves in the transaction that writes the events, so a
//! crash accounts for a leaf again or not yet, never not at all.

use serde::Serialize;
use time::format_description::well_known::Rfc3339;

use super::Issuing;
use crate::error::Error;
use crate::event::{Act, EventDraft, ISSUE_ABANDONED, ISSUE_LOST, ISSUED, SEEN};
use crate::present;
use crate::sequencer::{ActMember, Acted, Conflict, Effect};
use crate::store::Record;
use crate::view::fates::{Account, settle, stored};
use crate::view::known::{Known, ROW_LOST_NEXT_STEP};
use crate::view::recent_log::Unaccounted;
use crate::view::renewals::Told;

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

impl Issuing {
    /// Accounts for leaves as issued, abandoned or lost, and tells which certificates were shown; returns
    /// whether more may be due at once.
    pub async fn account(&self) -> Result<bool, Error> {
        self.view.follow_recent_log().await?;
        let shown = tell_shown(self).await;
        let accounted = account(self).await?;
        Ok(shown? || accounted)
    }

    /// Tells which certificates were shown, before this process ends: what it has not told is forgotten.
    pub async fn tell_shown(&self) -> Result<(), Error> {
        while tell_shown(self).await? {}
        Ok(())
    }
}

/// Tells which certificates were shown since the last time: a batch, once each. Returns whether there
/// may be more.
async fn tell_shown(issuing: &Issuing) -> Result<bool, Error> {
    let indexes = issuing.view.renewals.untold(SHOWN);
    if indexes.is_empty() {
        return Ok(false);
    }
    let is_full = indexes.len() == SHOWN;
    let by = Act { actor: "authority", request_id: "" };
    let detail = SeenDetail { indexes };
    let event = EventDraft::new(SEEN, &by, "certificates", &detail);
    let act = ActMember { event, effect: Effect::None, allowed_under: None };
    issuing.writer.ask(act).await?;
    issuing.view.renewals.hear([Told::Shown(detail.indexes)]);
    Ok(is_full)
}

/// Accounts for a batch of leaves, by the log: of each it says what is known, whatever became of its
/// rows. Returns whether there may be more to do at once.
async fn account(issuing: &Issuing) -> Result<bool, Error> {
    let leaves = issuing.view.unaccounted(BATCH).await?;
    let records = stored(&issuing.view, &leaves).await?;
    let mut certificates = Vec::new();
    let mut up_to = None;
    for (leaf, record) in leaves.iter().zip(records) {
        let settled = match settle(&issuing.view, leaf, record).await? {
            Some(Account::Abandoned | Account::Lost) => close(issuing, leaf).await?,
            settled => settled,
        };
        match settled {
            None => break,
            Some(Account::Issued(hash)) => {
                certificates.push(IssuedLine { index: leaf.index, sha256: format!("{hash:?}") });
            }
            Some(Account::Abandoned | Account::Lost | Account::Told) => {}
        }
        up_to = Some(leaf.index + 1);
    }
    let Some(up_to) = up_to else { return Ok(false) };
    let by = Act { actor: "authority", request_id: "" };
    let event = EventDraft::new(ISSUED, &by, "certificates", &IssuedDetail { certificates });
    let act = ActMember { event, effect: Effect::Sweep { up_to }, allowed_under: None };
    issuing.writer.ask(act).await?;
    issuing.view.accounts.forget_before(up_to);
    Ok(leaves.len() == BATCH)
}

/// Says of a leaf that it was abandoned, or is lost. It is decided in the leaf's turn: a commit that stores
/// its certificate may have begun in time and take long, and what came of it is known then.
async fn close(issuing: &Issuing, leaf: &Unaccounted) -> Result<Option<Account>, Error> {
    let _turn = issuing.turns_of_leaves.turn(leaf.index).await;
    let record = stored(&issuing.view, std::slice::from_ref(leaf)).await?.pop().flatten();
    let settled = settle(&issuing.view, leaf, record).await?;
    match settled {
        Some(Account::Abandoned) => tell_abandoned(issuing, leaf.index).await?,
        Some(Account::Lost) => tell_lost(issuing, leaf.index).await?,
        None | Some(Account::Issued(_) | Account::Told) => {}
    }
    Ok(settled)
}

/// The commit refuses it where something is stored for the leaf: of that, nobody knows.
async fn tell_abandoned(issuing: &Issuing, place: u64) -> Result<(), Error> {
    let known = issuing.view.known_at(place).await?;
    let effect = Effect::Abandon { leaf_index: place };
    match tell(issuing, ISSUE_ABANDONED, &known, effect).await? {
        Acted::Refused(Conflict::NotAbandoned) => tell_lost(issuing, place).await,
        _ => Ok(()),
    }
}

async fn tell_lost(issuing: &Issuing, place: u64) -> Result<(), Error> {
    let known = issuing.view.known_at(place).await?;
    let Record { serial_number, spiffe_id, .. } = known.record();
    let next_step = after_loss(&known);
    tracing::error!(
        place, %serial_number, %spiffe_id, next_step,
        "a certificate is accounted for as lost: whether it was signed the database does not say"
    );
    tell(issuing, ISSUE_LOST, &known, Effect::None).await.map(drop)
}

/// Says of one leaf what became of it.
async fn tell(
    issuing: &Issuing,
    kind: &'static str,
    certificate: &Known,
    effect: Effect,
) -> Result<Acted, Error> {
    let Record { leaf_index, serial_number, spiffe_id, .. } = certificate.record();
    let serial_number = serial_number.to_string();
    let detail = serde_json::json!({ "index": leaf_index, "serial_number": serial_number });
    let by = Act { actor: "authority", request_id: "" };
    let event = EventDraft::new(kind, &by, spiffe_id.as_str(), &detail);
    let act = ActMember { event, effect, allowed_under: None };
    issuing.writer.ask(act).await
}

/// What to do about one that may have been signed. Its holder, if there is one, replaces it by renewing;
/// without its record, by attesting again.
fn after_loss(certificate: &Known) -> String {
    let Known::Recorded(Record { serial_number, spiffe_id, not_before, not_after, .. }) =
        certificate
    else {
        return ROW_LOST_NEXT_STEP.to_owned();
    };
    let window =
        present::renewal_window(present::seconds(*not_before), present::seconds(*not_after));
    let until = window.end.format(&Rfc3339).unwrap_or_default();
    format!(
        "where no process of the CA has ended or failed in that minute, somebody wrote to the database; \
         whoever holds the certificate renews it by {until}: wait for that, and where `countersign list \
         --id {spiffe_id}` shows no newer one then: countersign revoke {serial_number} --reason superseded"
    )
}

/// Certificates of one `issued` event: some 90 bytes each, below the entry's 65,535.
const BATCH: usize = 500;
/// Places of one `seen` event: an index has 40 bits, 13 digits at most.
const SHOWN: usize = 4_000;

//! Off the hot path: each leaf of the log is accounted for once, as `issued`, as `issue.abandoned`, or
//! as `issue.lost`.
//!
//! What this process has stored itself it knows. Of what was logged before it started, a row's
//! certificate counts if it is that of the leaf; where there is none, it may have been signed all the
//! same, and its row been taken away. Then it is lost: it counts as issued, as far as anybody asks.
//!
//! The cursor stands in the log's head and moves in the transaction that writes the events, so a
//! crash accounts for a leaf again or not yet, never not at all.

use std::collections::HashMap;

use serde::Serialize;
use time::format_description::well_known::Rfc3339;
use tlog::{CertificateLeaf, Hash, leaf_hash};

use crate::authority::Authority;
use crate::error::Error;
use crate::event::{Act, EventDraft, ISSUE_ABANDONED, ISSUE_LOST, ISSUED, SEEN};
use crate::known;
use crate::leaving::{LOOK_FOR_WRITERS, Leaving, Signing, gone};
use crate::loading::proven_entry;
use crate::lost_rows;
use crate::present;
use crate::recent_log::{Fate, Unaccounted};
use crate::renewals::Told;
use crate::sequencer::{ActMember, COMPLETION_MILLISECONDS, Conflict, Effect, Member, Outcome};
use crate::store::{Record, RecordKey, StoreError};

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

/// Tells which certificates were shown since the last time: a batch, once each. Returns whether there
/// may be more.
pub(crate) async fn tell_shown(authority: &Authority) -> Result<bool, Error> {
    let indexes = authority.renewals.untold(SHOWN);
    if indexes.is_empty() {
        return Ok(false);
    }
    let is_full = indexes.len() == SHOWN;
    let by = Act { actor: "authority", request_id: "" };
    let detail = SeenDetail { indexes };
    let event = EventDraft::new(SEEN, &by, "certificates", &detail);
    let act = ActMember { event, effect: Effect::None, allowed_under: None };
    authority.submit(Member::Act(Box::new(act))).await?;
    authority.renewals.hear([Told::Shown(detail.indexes)]);
    Ok(is_full)
}

/// What a leaf is accounted for as.
enum Account {
    /// It was never signed, and never will be.
    Abandoned,
    /// By the hash of its certificate.
    Issued(Hash),
    /// Nobody knows: what was stored of it is gone, or is not its certificate.
    Lost,
    /// The log says it already.
    Told,
}

/// Accounts for a batch of leaves, by the log: of each it says what is known, whatever became of its
/// rows. Returns whether there may be more to do at once.
pub(crate) async fn account(authority: &Authority) -> Result<bool, Error> {
    let leaves = authority.unaccounted(BATCH).await?;
    let records = stored(authority, &leaves).await?;
    let mut certificates = Vec::new();
    let mut up_to = None;
    for (leaf, record) in leaves.iter().zip(records) {
        let settled = match settle(authority, leaf, record).await? {
            Some(Account::Abandoned | Account::Lost) => close(authority, leaf).await?,
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
    authority.submit(Member::Act(Box::new(act))).await?;
    authority.accounts.forget_before(up_to);
    Ok(leaves.len() == BATCH)
}

/// The records of those of which this process does not know that they were stored.
async fn stored(
    authority: &Authority,
    leaves: &[Unaccounted],
) -> Result<Vec<Option<Record>>, Error> {
    let is_known =
        |leaf: &Unaccounted| matches!(authority.accounts.of(leaf.index), Some(Signing::Stored(_)));
    let unknown = leaves.iter().filter(|leaf| !is_known(leaf));
    let keys: Vec<RecordKey> = unknown.map(|leaf| RecordKey::LeafIndex(leaf.index)).collect();
    let places: Vec<u64> = leaves.iter().map(|leaf| leaf.index).collect();
    let mut found: HashMap<u64, Record> = HashMap::new();
    if !keys.is_empty() {
        let records = authority.store().records_of(keys).await?;
        found.extend(records.into_iter().flatten().map(|record| (record.leaf_index, record)));
    }
    Ok(places.iter().map(|place| found.remove(place)).collect())
}

/// Says of a leaf that it was abandoned, or is lost. It is decided in the leaf's turn: a commit that stores
/// its certificate may have begun in time and take long, and what came of it is known then.
async fn close(authority: &Authority, leaf: &Unaccounted) -> Result<Option<Account>, Error> {
    let _turn = authority.completions.turn(leaf.index).await;
    let record = stored(authority, std::slice::from_ref(leaf)).await?.pop().flatten();
    let settled = settle(authority, leaf, record).await?;
    match settled {
        Some(Account::Abandoned) => tell_abandoned(authority, leaf.index).await?,
        Some(Account::Lost) => tell_lost(authority, leaf.index).await?,
        None | Some(Account::Issued(_) | Account::Told) => {}
    }
    Ok(settled)
}

/// None while it may still be signed.
async fn settle(
    authority: &Authority,
    leaf: &Unaccounted,
    record: Option<Record>,
) -> Result<Option<Account>, Error> {
    let signing = authority.accounts.of(leaf.index);
    if let Some(Signing::Stored(hash)) = signing {
        return Ok(Some(Account::Issued(hash)));
    }
    let certificate = record.as_ref().and_then(|record| record.certificate.as_deref());
    if let (Some(certificate), Some(record)) = (certificate, &record)
        && authority.is_certificate_of(certificate, &record.issuer_key_hash, &leaf.hash)
    {
        return Ok(Some(Account::Issued(Hash::of(certificate))));
    }
    let issued_at = match record {
        Some(record) => record.issued_at,
        None => authority.known_at(leaf.index).await?.record().issued_at,
    };
    let now = authority.clock().unix_milliseconds();
    if now.saturating_sub(issued_at) <= 2 * COMPLETION_MILLISECONDS {
        return Ok(None);
    }
    if matches!(authority.fate_of(leaf.index).await?, Fate::Abandoned | Fate::Lost) {
        return Ok(Some(Account::Told));
    }
    Ok(Some(match signing {
        Some(Signing::Begun) => Account::Abandoned,
        _ => Account::Lost,
    }))
}

impl Authority {
    /// Whether a leaf that is not accounted for yet was signed, as far as that is known.
    pub(crate) async fn is_signed(&self, place: u64) -> Result<bool, Error> {
        let leaves = self.unaccounted(usize::MAX).await?;
        let Some(leaf) = leaves.iter().find(|leaf| leaf.index == place) else { return Ok(false) };
        let record = stored(self, std::slice::from_ref(leaf)).await?.pop().flatten();
        Ok(matches!(settle(self, leaf, record).await?, Some(Account::Issued(_))))
    }

    /// What is stored for a leaf, on its way to anybody: none where it is not its certificate, or another
    /// one has left.
    pub(crate) async fn leaving<'a>(
        &self,
        place: u64,
        certificate: &'a [u8],
        issuer_key_hash: &Hash,
    ) -> Result<Option<Leaving<'a>>, Error> {
        let is_its = self.is_certificate_at(place, certificate, issuer_key_hash).await?;
        Ok(is_its.then(|| self.accounts.leave(place, certificate)).flatten())
    }

    /// Whether what is stored for a leaf is its certificate, by the log; tells where it is not.
    async fn is_certificate_at(
        &self,
        place: u64,
        certificate: &[u8],
        issuer_key_hash: &Hash,
    ) -> Result<bool, Error> {
        let gone = || StoreError::Inconsistent(format!("entry {place} is gone"));
        let entry = proven_entry(self.store(), place).await?.ok_or_else(gone)?;
        let is_its = self.is_certificate_of(certificate, issuer_key_hash, &leaf_hash(&entry));
        if !is_its {
            tracing::error!(
                place,
                next_step = LOOK_FOR_WRITERS,
                "what is stored as the certificate of a leaf is not it: nobody is given it"
            );
        }
        Ok(is_its)
    }

    /// A certificate of a leaf is signed only where none has left: this process has stored none, and the
    /// log says of none that it was issued. A second one of a leaf never leaves.
    pub(crate) async fn require_unstored(&self, place: u64) -> Result<(), Error> {
        if self.accounts.is_stored(place) {
            return Err(gone(place));
        }
        if !self.accounts.is_accounted(place) {
            return Ok(());
        }
        match self.fate_of(place).await? {
            Fate::Untold => Ok(()),
            Fate::Issued => Err(gone(place)),
            Fate::Abandoned | Fate::Lost => Err(Error::Abandoned),
        }
    }

    /// Whether it is the certificate that was made of the leaf with this hash: the issuer signed it, and
    /// without its countersignature it is what was logged.
    fn is_certificate_of(&self, certificate: &[u8], issuer_key_hash: &Hash, logged: &Hash) -> bool {
        let in_force = self.in_force();
        let Some(issuer) = in_force.certificate(issuer_key_hash) else { return false };
        let leaf = CertificateLeaf::from_certificate(certificate, issuer.public_key());
        let entry = leaf.and_then(|(leaf, _)| leaf.encode());
        entry.is_ok_and(|entry| leaf_hash(&entry) == *logged)
            && issuance::is_signed_by(certificate, issuer.public_key())
    }
}

/// The commit refuses it where something is stored for the leaf: of that, nobody knows.
async fn tell_abandoned(authority: &Authority, place: u64) -> Result<(), Error> {
    let known = authority.known_at(place).await?;
    let effect = Effect::Abandon { leaf_index: place };
    match tell(authority, ISSUE_ABANDONED, &known, effect).await? {
        Outcome::Refused(Conflict::NotAbandoned) => tell_lost(authority, place).await,
        _ => Ok(()),
    }
}

async fn tell_lost(authority: &Authority, place: u64) -> Result<(), Error> {
    let known = authority.known_at(place).await?;
    let Record { serial_number, spiffe_id, .. } = known.record();
    let next_step = after_loss(&known);
    tracing::error!(
        place, %serial_number, %spiffe_id, next_step,
        "a certificate is accounted for as lost: whether it was signed the database does not say"
    );
    tell(authority, ISSUE_LOST, &known, Effect::None).await.map(drop)
}

/// Says of one leaf what became of it.
async fn tell(
    authority: &Authority,
    kind: &'static str,
    certificate: &known::Known,
    effect: Effect,
) -> Result<Outcome, Error> {
    let Record { leaf_index, serial_number, spiffe_id, .. } = certificate.record();
    let serial_number = serial_number.to_string();
    let detail = serde_json::json!({ "index": leaf_index, "serial_number": serial_number });
    let by = Act { actor: "authority", request_id: "" };
    let event = EventDraft::new(kind, &by, spiffe_id.as_str(), &detail);
    let act = ActMember { event, effect, allowed_under: None };
    authority.submit(Member::Act(Box::new(act))).await
}

/// What to do about one that may have been signed. Its holder, if there is one, replaces it by renewing;
/// without its record, by attesting again.
fn after_loss(certificate: &known::Known) -> String {
    let known::Known::Recorded(Record { serial_number, spiffe_id, not_before, not_after, .. }) =
        certificate
    else {
        return lost_rows::NEXT_STEP.to_owned();
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

//! The revocation state: the fold of the log's revoking events.
//!
//! The tables are its index; loading compares the two. Each event moves the epoch by one, in the
//! store's head as in memory, so that a commit notices when the two differ.

pub(crate) mod ledger;
pub(crate) mod lift;
pub(crate) mod recent_items;
pub(crate) mod revoking;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use api::ActOnRecord;
use identity::feed::{FeedChange, FeedItem, Position};
use identity::{Revocations, SerialNumber, SpiffeId, TrustDomain};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tlog::{Hash, leaf_hash};

use self::ledger::KeyLedger;
use self::lift::Lift;
use self::recent_items::RecentItems;
use self::revoking::Revoking;
use crate::chain::{CHAIN_START, chained, chained_entry};
use crate::error::Error;
use crate::event::{
    ALLOW, CLOCK_RESET, DENY, Event, HALT_LIFT, KEY_ACTIVATE, KEY_PREPARE, KEY_RETIRE,
    OPERATOR_CREATE, POLICY_CHANGE, RENEW_CONFLICT, REVOKE, TOKEN_REVOKE, restricts,
};
use crate::sequencer::Head;
use crate::store::{RevocationRow, Store, StoreError};

/// What a folding event changes.
#[derive(Debug, Clone, PartialEq)]
enum Change {
    /// This line of renewals broke.
    BrokenLine(SerialNumber),
    /// The log's time went back, from this, in milliseconds since 1970.
    ClockReset(u64),
    /// A halt was lifted.
    Lift(Lift),
    /// None that is told: a key came into another state.
    None,
    /// Somebody was made an operator: at `init`, or by another since.
    Operator(String),
    /// This policy set, by the hex of its hash, came into force.
    Policy(String),
    /// What everyone who verifies must hear of, and its event's time.
    Revocation(FeedItem, u64),
    /// A bootstrap token, by its id, was withdrawn.
    Token(String),
}

/// How far a head is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// To its end.
    All,
    /// Up to the first event that may grant something. Of what is committed together one event folds at
    /// most, since the others are allowed under the state before it: none that restricts is held up.
    Restrictions,
}

/// The state as folded so far.
#[derive(Debug)]
pub(crate) struct Folded {
    pub(crate) epoch: u64,
    pub(crate) revocations: Revocations,
    pub(crate) items: RecentItems,
    pub(crate) keys: KeyLedger,
    pub(crate) lifts: Vec<Lift>,
    /// Which event revoked what, and the denials in force.
    pub(crate) revoking: Revoking,
    /// By who did it, what stays when they are believed no more: few and by hand.
    acts: HashMap<String, Vec<ActOnRecord>>,
    /// Those who were made operators, with the place of the newest event that made them one.
    operators: HashMap<String, u64>,
    /// Lines of renewals that broke, by their first certificate.
    broken: HashSet<SerialNumber>,
    /// Ids of the bootstrap tokens withdrawn last: more than can be made within a token's life are
    /// not kept.
    withdrawn: VecDeque<String>,
    /// Over the events folded so far; the head says where it must lead.
    pub(crate) chain: Hash,
    /// The latest time that the log has had; later than now where it was reset. What was issued then
    /// lives longer.
    latest: u64,
    /// The latest time from which it was set back.
    reset_from: u64,
    policy_set: Option<String>,
    next_index: u64,
}

impl Folded {
    /// Folds the whole log and compares it with the tables.
    pub(crate) async fn load(
        store: &dyn Store,
        trust_domain: &TrustDomain,
    ) -> Result<Self, StoreError> {
        let mut folded = Self::before(trust_domain);
        let head = store.head().await?;
        folded.follow(store.folding_entries(0).await?, &head, Extent::All)?;
        let rows = store.revocation_rows().await?;
        folded.compare(&rows)?;
        Ok(folded)
    }

    /// Before the first entry.
    fn before(trust_domain: &TrustDomain) -> Self {
        Self {
            epoch: 0,
            revocations: Revocations::default(),
            items: RecentItems::beginning(Position::genesis(trust_domain)),
            keys: KeyLedger::default(),
            lifts: Vec::new(),
            revoking: Revoking::default(),
            acts: HashMap::new(),
            operators: HashMap::new(),
            broken: HashSet::new(),
            withdrawn: VecDeque::new(),
            chain: CHAIN_START,
            latest: 0,
            reset_from: 0,
            policy_set: None,
            next_index: 0,
        }
    }

    /// The latest time from which the log was set back, in milliseconds since 1970; 0 where it never was.
    pub(crate) fn reset_from(&self) -> u64 {
        self.reset_from
    }

    /// Index of the first entry not yet looked at.
    pub(crate) fn next_index(&self) -> u64 {
        self.next_index
    }

    /// Whether it leads where this head says.
    pub(crate) fn has_reached(&self, head: &Head) -> bool {
        (self.epoch, self.chain) == (head.revocation_epoch, head.chain)
    }

    /// Whether this line of renewals broke, whatever its row says.
    pub(crate) fn is_broken(&self, lineage: &SerialNumber) -> bool {
        self.broken.contains(lineage)
    }

    /// The names of those who were made operators.
    pub(crate) fn operators(&self) -> HashSet<String> {
        self.operators.keys().cloned().collect()
    }

    /// The place of the newest event that made this one an operator.
    pub(crate) fn operator_since(&self, name: &str) -> Option<u64> {
        self.operators.get(name).copied()
    }

    /// Whether this bootstrap token was withdrawn, whatever its row says.
    pub(crate) fn is_withdrawn(&self, token: &str) -> bool {
        self.withdrawn.iter().any(|id| id == token)
    }

    /// Folds further events up to a head, and returns what they revoke. They must lead to its chain:
    /// one that is missing, changed or added makes another.
    pub(crate) fn follow(
        &mut self,
        mut entries: Vec<(u64, Vec<u8>)>,
        head: &Head,
        extent: Extent,
    ) -> Result<Vec<FeedItem>, StoreError> {
        entries.retain(|(index, _)| (self.next_index..head.edge.size()).contains(index));
        // Another refresh has followed a newer head meanwhile.
        if entries.is_empty() && self.epoch > head.revocation_epoch {
            return Ok(Vec::new());
        }
        let epoch = self.epoch + entries.len() as u64;
        let extend = |chain, (index, entry): &(u64, Vec<u8>)| chained_entry(&chain, *index, entry);
        let chain = entries.iter().fold(self.chain, extend);
        if epoch != head.revocation_epoch || chain != head.chain {
            return Err(StoreError::Inconsistent(format!(
                "the log's head was sealed over {} events that revoke, allow or grant; the log \
                 has {epoch}{}: an event was hidden, removed, changed or added",
                head.revocation_epoch,
                if epoch == head.revocation_epoch { ", and they are others" } else { "" },
            )));
        }
        if extent == Extent::Restrictions {
            entries.truncate(entries.iter().take_while(|(_, entry)| restricts(entry)).count());
        }
        self.fold(&entries)
    }

    /// Folds further events, and returns what they revoke.
    fn fold(&mut self, entries: &[(u64, Vec<u8>)]) -> Result<Vec<FeedItem>, StoreError> {
        // Two refreshes may have read the same entries: each counts once.
        let new = entries.iter().filter(|(index, _)| *index >= self.next_index);
        // All are read before one is applied: listeners hear of all that is, or none is.
        let mut keys = self.keys.clone();
        let changes = new.map(|(index, entry)| {
            let unread = || format!("entry {index} does not follow from those before it");
            let event = Event::parse(entry).ok();
            let read = event.and_then(|event| Some((read(*index, &event, &mut keys)?, event)));
            let (change, event) = read.ok_or_else(|| StoreError::Inconsistent(unread()))?;
            Ok((*index, leaf_hash(entry), change, event))
        });
        let changes = changes.collect::<Result<Vec<_>, StoreError>>()?;
        self.keys = keys;
        let mut items = Vec::with_capacity(changes.len());
        for (index, hash, change, event) in changes {
            match change {
                Change::BrokenLine(lineage) => drop(self.broken.insert(lineage)),
                Change::ClockReset(from) => {
                    self.latest = self.latest.max(from);
                    self.reset_from = self.reset_from.max(from);
                }
                Change::Lift(lift) => self.lifts.push(lift),
                Change::None => {}
                Change::Operator(name) => drop(self.operators.insert(name, index)),
                Change::Policy(hash) => self.policy_set = Some(hash),
                Change::Revocation(item, at) => {
                    let item = self.bounded(item, at);
                    self.revoking.note(&item, &event);
                    item.apply(&mut self.revocations);
                    self.items.push(item.clone(), at);
                    items.push(item);
                }
                Change::Token(id) => self.note_withdrawn(id),
            }
            self.note_act(index, event);
            self.chain = chained(&self.chain, index, &hash);
            self.epoch += 1;
            self.next_index = index + 1;
        }
        Ok(items)
    }

    /// Only what stands in our records is revoked by its number, so it lives no longer than profiles
    /// allow: counted from the latest time that the log has had, because what was issued then may be
    /// revoked now. In whole hours, so that few times are told.
    fn bounded(&mut self, mut item: FeedItem, at: u64) -> FeedItem {
        if let FeedChange::RevokeSerial { until, .. } = &mut item.change {
            self.latest = self.latest.max(at);
            let longest = (self.latest + LONGEST_VALIDITY_MILLISECONDS) / 1000;
            *until = longest.min(*until).div_ceil(HOUR) * HOUR;
        }
        item
    }

    fn note_act(&mut self, log_index: u64, event: Event) {
        if REVIEWED.contains(&event.kind.as_str()) {
            let act = ActOnRecord { log_index, kind: event.kind, subject: event.subject };
            self.acts.entry(event.actor).or_default().push(act);
        }
    }

    fn note_withdrawn(&mut self, id: String) {
        if self.withdrawn.len() >= WITHDRAWN {
            self.withdrawn.pop_front();
        }
        self.withdrawn.push_back(id);
    }

    /// What this actor did that stays, oldest first.
    pub(crate) fn acts_of(&self, actor: &str) -> Vec<ActOnRecord> {
        self.acts.get(actor).cloned().unwrap_or_default()
    }

    /// Forgets the certificates that ended a day before `now`, in seconds since 1970; says how many.
    pub(crate) fn forget_expired(&mut self, now: u64) -> usize {
        let forgotten = self.revocations.forget_expired(now);
        self.revoking.forget(&self.revocations);
        forgotten
    }

    /// The head must count every folding event, and name the newest policy set.
    pub(crate) fn require_head(&self, head: &Head) -> Result<(), StoreError> {
        let newest = format!("{:?}", head.policy_hash);
        if head.revocation_epoch != self.epoch || self.policy_set.as_ref() != Some(&newest) {
            return Err(StoreError::Inconsistent(format!(
                "the log's head is at epoch {} with policy set {newest}, its events lead to {} \
                 with {:?}",
                head.revocation_epoch, self.epoch, self.policy_set
            )));
        }
        Ok(())
    }

    /// The tables must give the same state as the log.
    ///
    /// Nothing was forgotten yet: what has expired is in both.
    fn compare(&self, rows: &[RevocationRow]) -> Result<(), StoreError> {
        let mut from_rows = Revocations::default();
        for row in rows {
            let item = item(&row.kind, row.log_index, &row.target).ok_or_else(|| {
                StoreError::Inconsistent(format!("revocation {} has no meaning", row.log_index))
            })?;
            item.apply(&mut from_rows);
        }
        if !agree(&from_rows, &self.revocations) {
            let logged: BTreeSet<_> = self.revocations.serials().collect();
            let kept: BTreeSet<_> = from_rows.serials().collect();
            return Err(StoreError::Inconsistent(format!(
                "the log revokes {} certificates and {} identities, the tables {} and {}",
                logged.len(),
                self.revocations.identities().count(),
                kept.len(),
                from_rows.identities().count(),
            )));
        }
        Ok(())
    }
}

/// Whether two have revoked and denied the same, whatever they know of its end.
fn agree(one: &Revocations, other: &Revocations) -> bool {
    let serials = |held: &Revocations| held.serials().copied().collect::<HashSet<_>>();
    let identities = |held: &Revocations| -> HashMap<_, _> {
        held.identities().map(|(id, before)| (id.clone(), before)).collect()
    };
    let denied = |held: &Revocations| held.denied().cloned().collect::<HashSet<_>>();
    serials(one) == serials(other)
        && identities(one) == identities(other)
        && denied(one) == denied(other)
}

/// Reads a folding event of the log, after these keys; none where it does not follow from them, or
/// says not what it changes.
fn read(index: u64, event: &Event, keys: &mut KeyLedger) -> Option<Change> {
    if KeyLedger::reads(&event.kind) {
        return keys.fold(index, event).map(|()| Change::None);
    }
    if event.kind == RENEW_CONFLICT {
        return event.detail["lineage"].as_str()?.parse().ok().map(Change::BrokenLine);
    }
    if event.kind == CLOCK_RESET {
        return event.detail["from_milliseconds"].as_u64().map(Change::ClockReset);
    }
    if event.kind == HALT_LIFT {
        return Lift::read(event, keys).map(Change::Lift);
    }
    if event.kind == POLICY_CHANGE {
        return event.detail["hash"].as_str().map(|hash| Change::Policy(hash.to_owned()));
    }
    if event.kind == OPERATOR_CREATE {
        return event.detail["name"].as_str().map(|name| Change::Operator(name.to_owned()));
    }
    if event.kind == TOKEN_REVOKE {
        return event.detail["id"].as_str().map(|id| Change::Token(id.to_owned()));
    }
    let target = event.detail["serial_number"].as_str().unwrap_or(&event.subject);
    let at = OffsetDateTime::parse(&event.at, &Rfc3339).ok()?;
    let at = u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok()?;
    let mut item = item(&event.kind, index, target)?;
    if let (FeedChange::RevokeSerial { until, .. }, Some(not_after)) =
        (&mut item.change, event.detail["not_after"].as_u64())
    {
        *until = not_after;
    }
    Some(Change::Revocation(item, at))
}

fn item(kind: &str, log_index: u64, target: &str) -> Option<FeedItem> {
    let change = match (kind, SpiffeId::parse(target)) {
        (REVOKE, Ok(id)) => FeedChange::RevokeIdentity(id),
        (REVOKE, Err(_)) => {
            FeedChange::RevokeSerial { serial_number: target.parse().ok()?, until: u64::MAX }
        }
        (DENY, Ok(id)) => FeedChange::Deny(id),
        (ALLOW, Ok(id)) => FeedChange::Allow(id),
        _ => return None,
    };
    Some(FeedItem { log_index, change })
}

/// What somebody did stays when they are revoked, and is to be looked at.
const REVIEWED: &[&str] =
    &[ALLOW, KEY_ACTIVATE, KEY_PREPARE, KEY_RETIRE, OPERATOR_CREATE, POLICY_CHANGE];
/// In seconds.
const HOUR: u64 = 3600;
/// The row says it, too: this is for rows that were changed.
const WITHDRAWN: usize = 10_000;

/// The keys that a log names.
pub(crate) async fn load_keys(
    store: &dyn Store,
    trust_domain: &TrustDomain,
) -> Result<KeyLedger, Error> {
    Ok(Folded::load(store, trust_domain).await?.keys)
}

/// No profile allows more than 7 days.
pub(crate) const LONGEST_VALIDITY_MILLISECONDS: u64 = 7 * 24 * 3600 * 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Act, EventDraft, KEY_RETIRE};

    const DAY: u64 = 24 * 3600 * 1000;

    fn entry(kind: &'static str, subject: &str, detail: &serde_json::Value) -> Vec<u8> {
        let by = Act { actor: "test", request_id: "test" };
        EventDraft::new(kind, &by, subject, detail).render("2026-11-21T12:00:00Z")
    }

    #[test]
    fn a_serial_revoked_after_a_reset_is_told_for_as_long_as_one_of_the_future_lives() {
        let mut folded = Folded::before(&TrustDomain::parse("pay.example").unwrap());
        let now = 1_795_262_400_000;
        let future = now + 3 * DAY;
        let reset = serde_json::json!({ "from_milliseconds": future, "to_milliseconds": now });
        let serial = serde_json::json!({ "serial_number": "01".repeat(16) });
        let subject = "spiffe://pay.example/prod/reports";
        let entries =
            [(0, entry(CLOCK_RESET, "log", &reset)), (1, entry(REVOKE, subject, &serial))];
        folded.fold(&entries).unwrap();
        let expires = future + LONGEST_VALIDITY_MILLISECONDS;
        assert_eq!(folded.revocations.forget_expired((expires + DAY) / 1000), 0);
        assert_eq!(folded.revocations.forget_expired((expires + DAY) / 1000 + 1), 1);
    }

    #[test]
    fn what_only_restricts_is_followed_as_far_as_nothing_grants() {
        let before = || Folded::before(&TrustDomain::parse("pay.example").unwrap());
        let reason = serde_json::json!({ "reason": "unspecified" });
        let lift = serde_json::json!({ "denial": "0" });
        let of = |kind, name: &str, detail| {
            entry(kind, &format!("spiffe://pay.example/prod/{name}"), detail)
        };
        let entries = vec![
            (0, of(DENY, "reports", &reason)),
            (1, of(REVOKE, "monolith", &reason)),
            (2, of(ALLOW, "reports", &lift)),
            (3, of(DENY, "monolith", &reason)),
        ];
        let mut whole = before();
        whole.fold(&entries).unwrap();
        let mut head = Head { revocation_epoch: 4, chain: whole.chain, ..Head::empty() };
        entries.iter().for_each(|(_, entry)| head.edge.push(leaf_hash(entry)));

        let mut folded = before();
        for told in [2, 0] {
            let items = folded.follow(entries.clone(), &head, Extent::Restrictions).unwrap();
            assert_eq!((items.len(), folded.epoch, folded.next_index), (told, 2, 2));
            assert!(!folded.has_reached(&head));
        }
        // What a head does not lead to is refused however far it is followed.
        let another = Head { chain: Hash::new([7; 32]), ..head.clone() };
        before().follow(entries.clone(), &another, Extent::Restrictions).unwrap_err();
        assert_eq!(folded.follow(entries, &head, Extent::All).unwrap().len(), 2);
        assert!(folded.has_reached(&head));
        assert_eq!(folded.revocations, whole.revocations);
    }

    #[test]
    fn of_a_batch_with_a_key_event_out_of_place_nothing_is_folded() {
        let mut folded = Folded::before(&TrustDomain::parse("pay.example").unwrap());
        let reason = serde_json::json!({ "reason": "unspecified" });
        let denial = (0, entry(DENY, "spiffe://pay.example/prod/reports", &reason));
        let unknown = serde_json::json!({ "key_sha256": "00", "trust_sequence": 2 });
        let out_of_place = (1, entry(KEY_RETIRE, "feed", &unknown));
        let before = folded.items.newest();
        assert!(folded.fold(&[denial.clone(), out_of_place]).is_err());
        assert_eq!((folded.epoch, folded.next_index, folded.items.newest()), (0, 0, before));
        assert_eq!(folded.revocations, Revocations::default());
        assert_eq!(folded.fold(&[denial]).unwrap().len(), 1, "it is still to be told");
    }
}

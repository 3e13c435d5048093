//! Sequencing: what becomes of a group of requests inside one transaction.
//!
//! [`plan`] is a pure function. A store driver selects what [`Found`] asks for under the head lock,
//! calls it, and writes the [`Plan`] in the same transaction; so every driver orders, refuses and
//! builds entries alike, and the rules are tested without a database. A member that fails, fails
//! alone.

use std::collections::{HashMap, HashSet};

use identity::{SerialNumber, SpiffeId};
use time::format_description::well_known::Rfc3339;
use tlog::{CertificateLeaf, Hash, TreeEdge, leaf_hash};

use crate::clock::from_milliseconds;
use crate::event::{self, Act, EventDraft};

/// The log's head, and what moves with it: read and written under the head lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The tree's right edge.
    pub edge: TreeEdge,
    /// The time of the newest entry, in milliseconds since 1970.
    pub at: u64,
    /// Grows with each event that changes the revocation state.
    pub revocation_epoch: u64,
    /// The active policy set.
    pub policy_hash: Hash,
    /// Leaves below this index are accounted for: `issued` or `issue.abandoned`.
    pub swept: u64,
}

impl Head {
    /// The head of an empty log.
    pub fn empty() -> Self {
        let edge = TreeEdge::new();
        Self { edge, at: 0, revocation_epoch: 0, policy_hash: Hash::new([0; 32]), swept: 0 }
    }
}

/// One request for a place in the transaction.
#[derive(Debug, Clone)]
pub enum Member {
    /// An event with its effect.
    Act(Box<ActMember>),
    /// A certificate to log before it is signed.
    Certificate(Box<CertificateMember>),
    /// A signed certificate to store before it leaves.
    Complete(CompleteMember),
    /// A signed CRL to store before it is served.
    Crl(CrlRow),
    /// A certificate was shown to us: its renewal's line is alive.
    Seen(SerialNumber),
}

/// An event, what it does, and under which policy set it was authorised.
#[derive(Debug, Clone)]
pub struct ActMember {
    /// The event.
    pub event: EventDraft,
    /// What it does to the tables.
    pub effect: Effect,
    /// The policy set that allowed it; none for the engine's own acts.
    pub policy_hash: Option<Hash>,
}

/// What an event does beside standing in the log.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Puts a policy set into force, if the one expected is still in force.
    ActivatePolicy {
        /// The set that it replaces; none at `init`.
        expected: Option<Hash>,
        /// Its hash.
        hash: Hash,
        /// Its files, as JSON.
        files: String,
    },
    /// Makes an issuer.
    AddIssuer {
        /// Its certificate.
        certificate: Vec<u8>,
        /// SHA-256 of its public key.
        key_hash: Hash,
    },
    /// Lifts a deny.
    Allow(SpiffeId),
    /// Makes an operator.
    CreateOperator {
        /// The name.
        name: String,
    },
    /// Makes a bootstrap token.
    CreateToken(TokenDraft),
    /// Denies an identity.
    Deny {
        /// Who.
        spiffe_id: SpiffeId,
        /// Why.
        reason: String,
    },
    /// Nothing.
    None,
    /// Takes the next CRL number of an issuer.
    NumberCrl {
        /// The issuer.
        issuer_key_hash: Hash,
        /// The number.
        number: u64,
    },
    /// Puts a trust state into force.
    PublishTrust {
        /// Its sequence.
        sequence: u64,
        /// The signed note.
        note: Vec<u8>,
    },
    /// Revokes.
    Revoke {
        /// What.
        target: RevocationTarget,
        /// Why.
        reason: String,
    },
    /// Withdraws a bootstrap token.
    RevokeToken {
        /// Its id.
        id: String,
    },
    /// Leaves below this index are accounted for.
    Sweep {
        /// The index.
        up_to: u64,
    },
}

/// What is revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevocationTarget {
    /// Every certificate of an identity issued so far.
    Identity(SpiffeId),
    /// One certificate.
    Serial(SerialNumber),
}

/// A bootstrap token before it stands in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenDraft {
    /// SHA-256 of the secret.
    pub hash: Hash,
    /// Its id.
    pub id: String,
    /// For whom.
    pub spiffe_id: SpiffeId,
    /// Until when, in milliseconds since 1970.
    pub expires_at: u64,
    /// Only for this key, by the SHA-256 of its SubjectPublicKeyInfo.
    pub key_hash: Option<Hash>,
}

/// A prepared certificate on its way into the log.
#[derive(Debug, Clone)]
pub struct CertificateMember {
    /// The `issue` or `renew` event that stands before the leaf.
    pub event: EventDraft,
    /// The linted bytes.
    pub tbs: Vec<u8>,
    /// SHA-256 of the issuer's public key.
    pub issuer_key_hash: Hash,
    /// What the store keeps of it.
    pub record: RecordDraft,
    /// What it uses up.
    pub consumes: Consumes,
    /// The caller's name for the request, with the caller.
    pub idempotency: Option<IdempotencyKey>,
    /// The policy set that allowed it.
    pub policy_hash: Hash,
    /// The revocation state under which it was allowed.
    pub revocation_epoch: u64,
}

/// What the store keeps of a certificate, before it has a place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordDraft {
    /// The serial number.
    pub serial_number: SerialNumber,
    /// Who it names.
    pub spiffe_id: SpiffeId,
    /// The profile.
    pub profile: String,
    /// First second of validity, since 1970.
    pub not_before: i64,
    /// Last second of validity, since 1970.
    pub not_after: i64,
    /// SHA-256 of the request.
    pub request_hash: Hash,
    /// Facts and policies, as JSON.
    pub facts: String,
}

/// What a certificate uses up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Consumes {
    /// Nothing.
    Nothing,
    /// The one renewal of a certificate.
    Renewal {
        /// The certificate renewed.
        serial_number: SerialNumber,
        /// The first certificate of its line.
        lineage: SerialNumber,
    },
    /// A bootstrap token.
    Token {
        /// SHA-256 of its secret.
        hash: Hash,
        /// SHA-256 of the key to be certified.
        key_hash: Hash,
    },
}

/// A caller's own name for a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey {
    /// Who calls.
    pub principal: String,
    /// The name.
    pub key: String,
    /// SHA-256 of the whole request.
    pub request_hash: Hash,
}

/// A signed certificate for a logged leaf.
#[derive(Debug, Clone)]
pub struct CompleteMember {
    /// The leaf.
    pub leaf_index: u64,
    /// The certificate.
    pub certificate: Vec<u8>,
    /// The revocation state under which it was signed.
    pub revocation_epoch: u64,
}

/// A signed CRL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrlRow {
    /// The issuer.
    pub issuer_key_hash: Hash,
    /// Its number.
    pub number: u64,
    /// The CRL.
    pub der: Vec<u8>,
    /// The revocation state that it shows.
    pub revocation_epoch: u64,
    /// When the next one is due, in seconds since 1970.
    pub next_update: i64,
}

/// What the store knows already of a group's members; selected before anything is planned.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Serial numbers that are taken.
    pub serial_numbers: HashSet<SerialNumber>,
    /// Idempotency keys in use, by principal and key: request hash and leaf.
    pub idempotency: HashMap<(String, String), (Hash, u64)>,
    /// Tokens, by hash.
    pub tokens: HashMap<Hash, TokenRow>,
    /// Renewals done, by the serial number of the certificate renewed.
    pub renewals: HashMap<SerialNumber, RenewalRow>,
    /// Broken lines among those asked for.
    pub broken_lineages: HashSet<SerialNumber>,
    /// Leaves to be completed.
    pub leaves: HashMap<u64, LeafRow>,
    /// Newest CRL numbers, by issuer.
    pub crl_numbers: HashMap<Hash, u64>,
}

/// A stored bootstrap token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// What it was made as.
    pub id: String,
    /// For whom.
    pub spiffe_id: SpiffeId,
    /// Until when, in milliseconds since 1970.
    pub expires_at: u64,
    /// Only for this key.
    pub key_hash: Option<Hash>,
    /// The event that made it.
    pub log_index: u64,
    /// The request that used it, and the leaf that came of it.
    pub used: Option<(Hash, u64)>,
    /// Whether it was withdrawn.
    pub revoked: bool,
}

/// A renewal that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewalRow {
    /// The leaf of the new certificate.
    pub leaf_index: u64,
    /// Its serial number.
    pub serial_number: SerialNumber,
    /// SHA-256 of its request.
    pub request_hash: Hash,
    /// Whether it was ever shown to us.
    pub seen: bool,
    /// Whether it replaced an earlier one already.
    pub replaced: bool,
}

/// A leaf to be completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafRow {
    /// When it was logged, in milliseconds since 1970.
    pub logged_at: u64,
    /// The certificate, if it was stored.
    pub certificate: Option<Vec<u8>>,
}

/// What to write, and what to answer.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The head after it.
    pub head: Head,
    /// New entries, in order from the old head's size.
    pub entries: Vec<Entry>,
    /// Rows to write.
    pub rows: Vec<Row>,
    /// An answer for each member, in order.
    pub outcomes: Vec<Outcome>,
}

/// A new log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Whether the fold of the revocation state reads it.
    pub folds: bool,
}

/// A row to write.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is a table of the schema, whose columns are documented there")]
pub enum Row {
    BrokenLineage { lineage: SerialNumber, log_index: u64 },
    Certificate { leaf_index: u64, der: Vec<u8> },
    Crl(CrlRow),
    CrlNumber { issuer_key_hash: Hash, number: u64 },
    Idempotency { key: IdempotencyKey, leaf_index: u64, at: u64 },
    Issuer { certificate: Vec<u8>, key_hash: Hash, log_index: u64 },
    Operator { name: String, log_index: u64 },
    Policy { hash: Hash, files: String, log_index: u64 },
    Record { leaf_index: u64, issued_at: u64, issuer_key_hash: Hash, draft: RecordDraft },
    Renewal { serial_number: SerialNumber, leaf_index: u64, replaced: bool },
    Revocation { log_index: u64, kind: &'static str, target: String, reason: String, at: u64 },
    Seen { serial_number: SerialNumber },
    Token { draft: TokenDraft, log_index: u64 },
    TokenRevoked { id: String, log_index: u64 },
    TokenUsed { hash: Hash, request_hash: Hash, leaf_index: u64 },
    TrustState { sequence: u64, note: Vec<u8>, log_index: u64 },
}

/// What became of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was logged too long ago to be completed.
    Abandoned,
    /// Done; the event's place in the log.
    Done {
        /// The place.
        log_index: u64,
    },
    /// Another certificate for the leaf was stored first: this one.
    Existing(Vec<u8>),
    /// Logged; it may be signed now.
    Logged {
        /// The leaf's place.
        leaf_index: u64,
        /// The leaf's time, in milliseconds since 1970.
        timestamp: u64,
    },
    /// Policy set or revocation state moved since it was allowed: start again.
    Moved,
    /// It contradicts what is stored.
    Refused(Conflict),
    /// The same request was logged before.
    Replay {
        /// Its leaf.
        leaf_index: u64,
    },
    /// Stored.
    Stored,
}

/// What a member contradicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Conflict {
    /// The CRL number is not the next.
    #[error("the CRL number is taken")]
    CrlNumber,
    /// The entry does not fit the log.
    #[error("the entry has more than 65,535 bytes")]
    EntryTooLarge,
    /// The idempotency key came with another request.
    #[error("the Idempotency-Key was used for another request")]
    IdempotencyMismatch,
    /// The line of renewals is broken.
    #[error("this line of renewals was broken by a second renewal")]
    LineageBroken,
    /// Another policy set came into force.
    #[error("another policy set is in force")]
    PolicyMoved,
    /// The certificate was renewed before, with another key.
    #[error("the certificate was renewed already, with another key")]
    RenewedTwice,
    /// The serial number is taken.
    #[error("the serial number is taken")]
    SerialNumber,
    /// The token's time has passed.
    #[error("the token has expired")]
    TokenExpired,
    /// The token is for another key.
    #[error("the token is for another key")]
    TokenKey,
    /// The token was withdrawn.
    #[error("the token was revoked")]
    TokenRevoked,
    /// There is no such token.
    #[error("the token is unknown")]
    TokenUnknown,
    /// The token was used.
    #[error("the token was used")]
    TokenUsed,
}

/// The clock is behind the log: nothing is written until it has caught up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockBehind {
    /// By how many milliseconds.
    pub milliseconds: u64,
}

/// Plans one transaction. `now` is in milliseconds since 1970.
pub fn plan(
    head: &Head,
    mut found: Found,
    group: &[Member],
    now: u64,
) -> Result<Plan, ClockBehind> {
    if head.at > now + CLOCK_TOLERANCE {
        return Err(ClockBehind { milliseconds: head.at - now });
    }
    let mut planning = Planning::new(head, now);
    for member in group {
        let outcome = planning.member(member, &mut found);
        planning.plan.outcomes.push(outcome);
    }
    Ok(planning.plan)
}

/// A plan in the making.
struct Planning {
    plan: Plan,
    at: u64,
    at_text: String,
}

impl Planning {
    fn new(head: &Head, now: u64) -> Self {
        let at = now.max(head.at);
        let at_text = from_milliseconds(at).format(&Rfc3339).unwrap_or_default();
        let head = Head { at, ..head.clone() };
        Self {
            plan: Plan { head, entries: Vec::new(), rows: Vec::new(), outcomes: Vec::new() },
            at,
            at_text,
        }
    }

    fn member(&mut self, member: &Member, found: &mut Found) -> Outcome {
        match member {
            Member::Act(act) => self.act(act, found),
            Member::Certificate(certificate) => self.certificate(certificate, found),
            Member::Complete(complete) => self.complete(complete, found),
            Member::Crl(crl) => {
                self.plan.rows.push(Row::Crl(crl.clone()));
                Outcome::Stored
            }
            Member::Seen(serial_number) => {
                self.plan.rows.push(Row::Seen { serial_number: *serial_number });
                Outcome::Stored
            }
        }
    }

    fn certificate(&mut self, member: &CertificateMember, found: &mut Found) -> Outcome {
        let head = &self.plan.head;
        let moved = member.policy_hash != head.policy_hash
            || member.revocation_epoch != head.revocation_epoch;
        if moved {
            return Outcome::Moved;
        }
        match self.precedent(member, found) {
            Precedent::None => {}
            Precedent::Replay(leaf_index) => return Outcome::Replay { leaf_index },
            Precedent::Conflict(conflict) => return Outcome::Refused(conflict),
        }
        let leaf_index = self.plan.head.edge.size() + 1;
        let leaf = CertificateLeaf {
            timestamp: self.at,
            issuer_key_hash: member.issuer_key_hash,
            tbs_certificate: member.tbs.clone(),
            leaf_index,
        };
        let Ok(leaf) = leaf.encode() else {
            return Outcome::Refused(Conflict::EntryTooLarge);
        };
        if self.event(&member.event).is_err() {
            return Outcome::Refused(Conflict::EntryTooLarge);
        }
        self.append(leaf, false);
        self.consume(member, leaf_index, found);
        Outcome::Logged { leaf_index, timestamp: self.at }
    }

    /// Whether the same was done before, or contradicts what was.
    fn precedent(&mut self, member: &CertificateMember, found: &Found) -> Precedent {
        let request_hash = member.record.request_hash;
        if let Some(key) = &member.idempotency {
            match found.idempotency.get(&(key.principal.clone(), key.key.clone())) {
                Some((hash, leaf_index)) if *hash == key.request_hash => {
                    return Precedent::Replay(*leaf_index);
                }
                Some(_) => return Precedent::Conflict(Conflict::IdempotencyMismatch),
                None => {}
            }
        }
        if found.serial_numbers.contains(&member.record.serial_number) {
            return Precedent::Conflict(Conflict::SerialNumber);
        }
        match &member.consumes {
            Consumes::Nothing => Precedent::None,
            Consumes::Token { hash, key_hash } => {
                token_precedent(found.tokens.get(hash), key_hash, &request_hash, self.at)
            }
            Consumes::Renewal { serial_number, lineage } => {
                self.renewal_precedent(member, serial_number, lineage, found)
            }
        }
    }

    /// Each certificate renews once. One replacement is allowed while the new certificate was
    /// never seen (the answer may have been lost together with the key); anything else breaks the
    /// line: both holders must attest again.
    fn renewal_precedent(
        &mut self,
        member: &CertificateMember,
        serial_number: &SerialNumber,
        lineage: &SerialNumber,
        found: &Found,
    ) -> Precedent {
        if found.broken_lineages.contains(lineage) {
            return Precedent::Conflict(Conflict::LineageBroken);
        }
        match found.renewals.get(serial_number) {
            None => Precedent::None,
            Some(done) if done.request_hash == member.record.request_hash => {
                Precedent::Replay(done.leaf_index)
            }
            Some(done) if !done.seen && !done.replaced => Precedent::None,
            Some(done) => {
                self.break_lineage(member, lineage, done);
                Precedent::Conflict(Conflict::RenewedTwice)
            }
        }
    }

    fn break_lineage(
        &mut self,
        member: &CertificateMember,
        lineage: &SerialNumber,
        done: &RenewalRow,
    ) {
        let detail = serde_json::json!({
            "first": done.serial_number.to_string(),
            "lineage": lineage.to_string(),
        });
        let by = Act { actor: "authority", request_id: "" };
        let subject = member.record.spiffe_id.as_str();
        let event = EventDraft::new(event::RENEW_CONFLICT, &by, subject, &detail);
        if let Ok(log_index) = self.event(&event) {
            self.plan.rows.push(Row::BrokenLineage { lineage: *lineage, log_index });
        }
    }

    /// Writes what the certificate uses up, and lets later members of the group see it.
    fn consume(&mut self, member: &CertificateMember, leaf_index: u64, found: &mut Found) {
        let record = &member.record;
        let request_hash = record.request_hash;
        found.serial_numbers.insert(record.serial_number);
        self.plan.rows.push(Row::Record {
            leaf_index,
            issued_at: self.at,
            issuer_key_hash: member.issuer_key_hash,
            draft: record.clone(),
        });
        if let Some(key) = &member.idempotency {
            let name = (key.principal.clone(), key.key.clone());
            found.idempotency.insert(name, (key.request_hash, leaf_index));
            self.plan.rows.push(Row::Idempotency { key: key.clone(), leaf_index, at: self.at });
        }
        match &member.consumes {
            Consumes::Nothing => {}
            Consumes::Token { hash, .. } => {
                if let Some(token) = found.tokens.get_mut(hash) {
                    token.used = Some((request_hash, leaf_index));
                }
                self.plan.rows.push(Row::TokenUsed { hash: *hash, request_hash, leaf_index });
            }
            Consumes::Renewal { serial_number, .. } => {
                let first = found.renewals.get(serial_number).map(|done| done.serial_number);
                let mut renewed = vec![(*serial_number, first.is_some())];
                // The replaced certificate must not renew on its own: it counts as renewed, too.
                renewed.extend(first.map(|first| (first, true)));
                for (serial_number, replaced) in renewed {
                    self.plan.rows.push(Row::Renewal { serial_number, leaf_index, replaced });
                    let row = RenewalRow {
                        leaf_index,
                        serial_number: record.serial_number,
                        request_hash,
                        seen: false,
                        replaced,
                    };
                    found.renewals.insert(serial_number, row);
                }
            }
        }
    }

    fn complete(&mut self, member: &CompleteMember, found: &mut Found) -> Outcome {
        let Some(leaf) = found.leaves.get_mut(&member.leaf_index) else {
            return Outcome::Abandoned;
        };
        if let Some(first) = &leaf.certificate {
            return Outcome::Existing(first.clone());
        }
        if self.at.saturating_sub(leaf.logged_at) > COMPLETION_MILLISECONDS {
            return Outcome::Abandoned;
        }
        if member.revocation_epoch != self.plan.head.revocation_epoch {
            return Outcome::Moved;
        }
        leaf.certificate = Some(member.certificate.clone());
        self.plan.rows.push(Row::Certificate {
            leaf_index: member.leaf_index,
            der: member.certificate.clone(),
        });
        Outcome::Stored
    }

    fn act(&mut self, member: &ActMember, found: &mut Found) -> Outcome {
        if member.policy_hash.is_some_and(|hash| hash != self.plan.head.policy_hash) {
            return Outcome::Moved;
        }
        if let Some(conflict) = self.effect_conflict(&member.effect, found) {
            return Outcome::Refused(conflict);
        }
        match self.event(&member.event) {
            Ok(log_index) => {
                self.apply(&member.effect, log_index, found);
                Outcome::Done { log_index }
            }
            Err(conflict) => Outcome::Refused(conflict),
        }
    }

    fn effect_conflict(&self, effect: &Effect, found: &Found) -> Option<Conflict> {
        match effect {
            Effect::ActivatePolicy { expected: Some(expected), .. }
                if *expected != self.plan.head.policy_hash =>
            {
                Some(Conflict::PolicyMoved)
            }
            Effect::NumberCrl { issuer_key_hash, number } => {
                let newest = found.crl_numbers.get(issuer_key_hash).copied().unwrap_or_default();
                (*number != newest + 1).then_some(Conflict::CrlNumber)
            }
            _ => None,
        }
    }

    fn apply(&mut self, effect: &Effect, log_index: u64, found: &mut Found) {
        let at = self.at;
        let revocation = |kind, target: String, reason: &str| Row::Revocation {
            log_index,
            kind,
            target,
            reason: reason.to_owned(),
            at,
        };
        let row = match effect {
            Effect::None => return,
            Effect::Sweep { up_to } => {
                self.plan.head.swept = *up_to;
                return;
            }
            Effect::ActivatePolicy { hash, files, .. } => {
                self.plan.head.policy_hash = *hash;
                Row::Policy { hash: *hash, files: files.clone(), log_index }
            }
            Effect::AddIssuer { certificate, key_hash } => {
                Row::Issuer { certificate: certificate.clone(), key_hash: *key_hash, log_index }
            }
            Effect::Allow(id) => revocation(event::ALLOW, id.to_string(), ""),
            Effect::CreateOperator { name } => Row::Operator { name: name.clone(), log_index },
            Effect::CreateToken(draft) => Row::Token { draft: draft.clone(), log_index },
            Effect::Deny { spiffe_id, reason } => {
                revocation(event::DENY, spiffe_id.to_string(), reason)
            }
            Effect::NumberCrl { issuer_key_hash, number } => {
                found.crl_numbers.insert(*issuer_key_hash, *number);
                Row::CrlNumber { issuer_key_hash: *issuer_key_hash, number: *number }
            }
            Effect::PublishTrust { sequence, note } => {
                Row::TrustState { sequence: *sequence, note: note.clone(), log_index }
            }
            Effect::Revoke { target, reason } => {
                let target = match target {
                    RevocationTarget::Identity(id) => id.to_string(),
                    RevocationTarget::Serial(serial_number) => serial_number.to_string(),
                };
                revocation(event::REVOKE, target, reason)
            }
            Effect::RevokeToken { id } => Row::TokenRevoked { id: id.clone(), log_index },
        };
        self.plan.rows.push(row);
    }

    fn event(&mut self, event: &EventDraft) -> Result<u64, Conflict> {
        let bytes = event.render(&self.at_text);
        if bytes.len() > tlog::MAX_ENTRY {
            return Err(Conflict::EntryTooLarge);
        }
        let folds = event::FOLDING.contains(&event.kind());
        if folds {
            self.plan.head.revocation_epoch += 1;
        }
        Ok(self.append(bytes, folds))
    }

    fn append(&mut self, bytes: Vec<u8>, folds: bool) -> u64 {
        let index = self.plan.head.edge.size();
        self.plan.head.edge.push(leaf_hash(&bytes));
        self.plan.entries.push(Entry { bytes, folds });
        index
    }
}

enum Precedent {
    Conflict(Conflict),
    None,
    Replay(u64),
}

/// A token is used once; its own retry (the same request) finds the same certificate, even after
/// the token's time.
fn token_precedent(
    token: Option<&TokenRow>,
    key_hash: &Hash,
    request_hash: &Hash,
    now: u64,
) -> Precedent {
    let Some(token) = token else {
        return Precedent::Conflict(Conflict::TokenUnknown);
    };
    match &token.used {
        Some((used_for, leaf_index)) if used_for == request_hash => Precedent::Replay(*leaf_index),
        Some(_) => Precedent::Conflict(Conflict::TokenUsed),
        None if token.revoked => Precedent::Conflict(Conflict::TokenRevoked),
        None if token.expires_at <= now => Precedent::Conflict(Conflict::TokenExpired),
        None if token.key_hash.is_some_and(|bound| bound != *key_hash) => {
            Precedent::Conflict(Conflict::TokenKey)
        }
        None => Precedent::None,
    }
}

/// A clock that is behind the newest entry by more than this refuses to write.
const CLOCK_TOLERANCE: u64 = 5_000;
/// A logged request may be completed for this long; then it is `issue.abandoned`.
pub(crate) const COMPLETION_MILLISECONDS: u64 = 60_000;

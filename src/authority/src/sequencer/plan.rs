//! The rules of a transaction.

use std::sync::Arc;

use identity::SerialNumber;
use time::format_description::well_known::Rfc3339;
use tlog::{CertificateLeaf, Hash, leaf_hash};

use super::conflict::Conflict;
use super::found::{Found, KeptRequest, LeafRow, TokenRow};
use super::head::Head;
use super::member::{
    ActMember, AllowedUnder, CertificateMember, ChangedKeys, CompleteMember, Consumes, Effect,
    IdempotencyKey, Member, Named, OnceMember, Renewed, RevocationTarget,
};
use super::outcome::{Acted, Completed, Outcome, Receipt, Standing, Unlogged};
use super::planned::{Entry, Plan, Row};
use crate::chain::chained;
use crate::clock::from_milliseconds;
use crate::event::{self, Act, EventDraft};

/// The clock is behind the log: nothing is written until it has caught up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockBehind {
    /// By how many milliseconds.
    pub milliseconds: u64,
}

/// Plans one transaction. `now` is in milliseconds since 1970. The log's time goes back for one event
/// only, which says so and stands alone: only the host writes it (`setup::reset_clock`).
pub fn plan(
    head: &Head,
    mut found: Found,
    group: Vec<Member>,
    now: u64,
) -> Result<Plan, ClockBehind> {
    let reset = Head { at: now, ..head.clone() };
    let head = match &group[..] {
        [Member::Act(act)] if act.event.kind() == event::CLOCK_RESET => &reset,
        _ => head,
    };
    require_clock(head, now)?;
    let mut planning = Planning::new(head, now);
    for member in group {
        let outcome = planning.member(member, &mut found);
        planning.plan.outcomes.push(outcome);
    }
    Ok(planning.plan)
}

/// The clock is not so far behind the log that what it says cannot be written there.
pub(crate) fn require_clock(head: &Head, now: u64) -> Result<(), ClockBehind> {
    if head.at > now + CLOCK_TOLERANCE {
        return Err(ClockBehind { milliseconds: head.at - now });
    }
    Ok(())
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

    fn member(&mut self, member: Member, found: &mut Found) -> Outcome {
        match member {
            Member::Act(act) => Outcome::Act(self.act(&act, found)),
            Member::Certificate(certificate) => {
                Outcome::Certificate(self.certificate(&certificate, found))
            }
            Member::Complete(complete) => Outcome::Complete(self.complete(complete, found)),
            Member::Crl(crl) => {
                self.plan.rows.push(Row::Crl(crl));
                Outcome::Crl
            }
            Member::Once(once) => self.once(once, found),
            Member::Precedent(certificate) => {
                Outcome::Precedent(self.unlogged(&certificate, found))
            }
            Member::Unchanged(under) => Outcome::Unchanged(self.standing(&under)),
        }
    }

    /// The name is kept in the transaction of what it names, and only where that was done.
    fn once(&mut self, once: OnceMember, found: &mut Found) -> Outcome {
        let OnceMember { named, answer, member } = once;
        let name = (named.principal.clone(), named.key.clone());
        let before = found.idempotency.get(&name);
        let is_same = before.map(|kept| kept.request_hash == named.request_hash);
        match (member, is_same) {
            (Named::Act(_), Some(true)) => Outcome::Act(Acted::Repeated),
            (Named::Act(_), Some(false)) => {
                Outcome::Act(Acted::Refused(Conflict::IdempotencyMismatch))
            }
            (Named::Act(act), None) => {
                let acted = self.act(&act, found);
                if let Acted::Done { log_index } = acted {
                    self.keep(named, answer, Some(log_index), found);
                }
                Outcome::Act(acted)
            }
            (Named::Unchanged(_), Some(true)) => Outcome::Unchanged(Standing::Repeated),
            (Named::Unchanged(_), Some(false)) => {
                Outcome::Unchanged(Standing::Refused(Conflict::IdempotencyMismatch))
            }
            (Named::Unchanged(under), None) => {
                let standing = self.standing(&under);
                if standing == Standing::Holds {
                    self.keep(named, answer, None, found);
                }
                Outcome::Unchanged(standing)
            }
        }
    }

    fn keep(
        &mut self,
        named: IdempotencyKey,
        answer: String,
        place: Option<u64>,
        found: &mut Found,
    ) {
        let kept = KeptRequest { request_hash: named.request_hash, place, answer };
        let name = (named.principal.clone(), named.key.clone());
        found.idempotency.insert(name, kept.clone());
        self.plan.rows.push(Row::Idempotency { key: named, kept, at: self.at });
    }

    fn standing(&self, under: &AllowedUnder) -> Standing {
        if self.has_moved(under) { Standing::Moved } else { Standing::Holds }
    }

    fn certificate(
        &mut self,
        member: &Arc<CertificateMember>,
        found: &mut Found,
    ) -> Result<Receipt, Unlogged> {
        if let Some(unlogged) = self.unlogged(member, found) {
            return Err(unlogged);
        }
        let leaf_index = self.plan.head.edge.size() + 1;
        let leaf = CertificateLeaf {
            timestamp: self.at,
            issuer_key_hash: member.issuer_key_hash,
            tbs_certificate: member.tbs.clone(),
            leaf_index,
        };
        let too_large = Unlogged::Refused(Conflict::EntryTooLarge);
        let entry = leaf.encode().map_err(|_| too_large)?;
        self.event(&member.event).map_err(|_| too_large)?;
        self.append(entry, false);
        self.consume(member, leaf_index, found);
        Ok(Receipt::of(leaf))
    }

    /// Why it is not to be logged, if it is not.
    fn unlogged(&mut self, member: &CertificateMember, found: &Found) -> Option<Unlogged> {
        if self.has_moved(&member.allowed_under) || found.news.concerns(&member.consumes) {
            return Some(Unlogged::Moved);
        }
        match self.precedent(member, found) {
            Precedent::None => None,
            Precedent::Replay(leaf_index) => Some(Unlogged::Replay { leaf_index }),
            Precedent::Conflict(conflict) => Some(Unlogged::Refused(conflict)),
        }
    }

    /// Whether the same was done before, or contradicts what was.
    fn precedent(&mut self, member: &CertificateMember, found: &Found) -> Precedent {
        let request_hash = member.record.request_hash;
        if let Some(key) = &member.idempotency {
            match found.idempotency.get(&(key.principal.clone(), key.key.clone())) {
                Some(KeptRequest { request_hash, place: Some(leaf_index), .. })
                    if *request_hash == key.request_hash =>
                {
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
            Consumes::Renewal { lineage, before, .. } => {
                self.renewal_precedent(member, lineage, before.as_ref())
            }
        }
    }

    /// Each certificate renews once. One replacement is allowed while the new certificate was
    /// never seen (the answer may have been lost together with the key), and none where it was
    /// revoked since; anything else breaks the line: both holders must attest again.
    fn renewal_precedent(
        &mut self,
        member: &CertificateMember,
        lineage: &SerialNumber,
        before: Option<&Renewed>,
    ) -> Precedent {
        match before {
            None => Precedent::None,
            Some(done) if done.request_hash == member.record.request_hash => {
                Precedent::Replay(done.leaf_index)
            }
            Some(done) if !done.seen && !done.replaced && done.revoked => {
                Precedent::Conflict(Conflict::RenewalRevoked)
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
        done: &Renewed,
    ) {
        let detail = serde_json::json!({
            "first": done.serial_number.to_string(),
            "lineage": lineage.to_string(),
        });
        let by = Act { actor: "authority", request_id: "" };
        let subject = member.record.spiffe_id.as_str();
        let event = EventDraft::new(event::RENEW_CONFLICT, &by, subject, &detail);
        // It folds: whoever renews in this line from now on is refused by what was folded.
        self.event(&event).ok();
    }

    /// Writes what the certificate uses up, and lets later members of the group see it.
    fn consume(&mut self, member: &Arc<CertificateMember>, leaf_index: u64, found: &mut Found) {
        let record = &member.record;
        let request_hash = record.request_hash;
        found.serial_numbers.insert(record.serial_number);
        self.plan.rows.push(Row::Record {
            leaf_index,
            issued_at: self.at,
            member: Arc::clone(member),
        });
        if let Some(key) = &member.idempotency {
            let name = (key.principal.clone(), key.key.clone());
            let kept = KeptRequest {
                request_hash: key.request_hash,
                place: Some(leaf_index),
                answer: String::new(),
            };
            found.idempotency.insert(name, kept.clone());
            self.plan.rows.push(Row::Idempotency { key: key.clone(), kept, at: self.at });
        }
        match &member.consumes {
            Consumes::Nothing => {}
            Consumes::Renewal { lineage, .. } => found.news.renew(*lineage, leaf_index),
            Consumes::Token { hash, .. } => {
                if let Some(token) = found.tokens.get_mut(hash) {
                    token.used = Some((request_hash, leaf_index));
                }
                self.plan.rows.push(Row::TokenUsed { hash: *hash, request_hash, leaf_index });
            }
        }
    }

    fn complete(&mut self, member: CompleteMember, found: &mut Found) -> Completed {
        let Some(leaf) = found.leaves.get_mut(&member.leaf_index) else {
            return Completed::Abandoned;
        };
        let replaces = leaf.certificate.is_some();
        if let Some(first) = &leaf.certificate
            && member.instead_of != Some(Hash::of(first))
        {
            return Completed::Existing(first.clone());
        }
        if !self.is_in_time(leaf) {
            return Completed::Abandoned;
        }
        if member.revocation_epoch != self.plan.head.revocation_epoch {
            return Completed::Moved;
        }
        leaf.certificate = Some(member.certificate.clone());
        let CompleteMember { leaf_index, certificate: der, .. } = member;
        self.plan.rows.push(Row::Certificate { leaf_index, der, replaces });
        Completed::Stored
    }

    /// Whether a certificate may be stored for it.
    fn is_in_time(&self, leaf: &LeafRow) -> bool {
        self.at.saturating_sub(leaf.logged_at) <= COMPLETION_MILLISECONDS
    }

    fn act(&mut self, member: &ActMember, found: &mut Found) -> Acted {
        if member.allowed_under.is_some_and(|under| self.has_moved(&under)) {
            return Acted::Moved;
        }
        if let Some(conflict) = self.effect_conflict(&member.effect, found) {
            return Acted::Refused(conflict);
        }
        match self.event(&member.event) {
            Ok(log_index) => {
                self.apply(&member.effect, log_index, found);
                Acted::Done { log_index }
            }
            Err(conflict) => Acted::Refused(conflict),
        }
    }

    fn has_moved(&self, allowed_under: &AllowedUnder) -> bool {
        let head = &self.plan.head;
        allowed_under.policy_hash != head.policy_hash
            || allowed_under.revocation_epoch != head.revocation_epoch
    }

    fn effect_conflict(&self, effect: &Effect, found: &Found) -> Option<Conflict> {
        match effect {
            Effect::Abandon { leaf_index } => {
                let is_open = |leaf: &LeafRow| leaf.certificate.is_some() || self.is_in_time(leaf);
                // What its certificate was, nobody can tell where its record is gone.
                found.leaves.get(leaf_index).is_none_or(is_open).then_some(Conflict::NotAbandoned)
            }
            Effect::ActivatePolicy { expected: Some(expected), .. }
                if *expected != self.plan.head.policy_hash =>
            {
                Some(Conflict::PolicyMoved)
            }
            // One whose row is gone is withdrawn all the same: it may be put back.
            Effect::RevokeToken { hash, untrue, .. } => {
                let used = found.tokens.get(hash).and_then(|token| token.used);
                used.is_some_and(|used| Some(used) != *untrue).then_some(Conflict::TokenUsed)
            }
            Effect::NumberCrl { issuer_key_hash, number } => {
                let taken = found.crl_numbers.get(issuer_key_hash);
                // Each is a place of the log, and its event stands behind: none was taken at its end.
                let taken = taken.filter(|taken| **taken < self.plan.head.edge.size());
                taken.is_some_and(|taken| number <= taken).then_some(Conflict::CrlNumber)
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
            Effect::Abandon { .. } | Effect::None => return,
            Effect::ChangeKeys(ChangedKeys { issuer, trust_state }) => {
                let issuer = issuer.clone().map(|(certificate, key_hash)| Row::Issuer {
                    certificate,
                    key_hash,
                    log_index,
                });
                let trust_state = trust_state.clone().map(|(sequence, note)| Row::TrustState {
                    sequence,
                    note,
                    log_index,
                });
                self.plan.rows.extend(issuer.into_iter().chain(trust_state));
                return;
            }
            Effect::Sweep { up_to } => {
                self.plan.head.swept = *up_to;
                return;
            }
            Effect::ActivatePolicy { hash, files, .. } => {
                self.plan.head.policy_hash = *hash;
                Row::Policy { hash: *hash, files: files.clone(), log_index }
            }
            Effect::AddOperator { name, token } => {
                self.plan.rows.push(Row::Operator { name: name.clone(), log_index });
                Row::Token { draft: token.clone(), log_index }
            }
            Effect::Allow { spiffe_id } => revocation(event::ALLOW, spiffe_id.to_string(), ""),
            Effect::CreateOperator { name } => Row::Operator { name: name.clone(), log_index },
            Effect::CreateToken(draft) => Row::Token { draft: draft.clone(), log_index },
            Effect::Deny { spiffe_id, reason } => {
                revocation(event::DENY, spiffe_id.to_string(), reason)
            }
            Effect::NumberCrl { issuer_key_hash, number } => {
                found.crl_numbers.insert(*issuer_key_hash, *number);
                Row::CrlNumber { issuer_key_hash: *issuer_key_hash, number: *number }
            }
            Effect::Revoke { target, reason } => {
                let target = match target {
                    RevocationTarget::Identity(id) => id.to_string(),
                    RevocationTarget::Serial(serial_number) => serial_number.to_string(),
                };
                revocation(event::REVOKE, target, reason)
            }
            Effect::RevokeToken { hash, id, .. } => {
                let Some(token) = found.tokens.get_mut(hash) else { return };
                token.revoked = true;
                Row::TokenRevoked { id: id.clone(), log_index }
            }
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
        let hash = leaf_hash(&bytes);
        self.plan.head.edge.push(hash);
        if folds {
            self.plan.head.chain = chained(&self.plan.head.chain, index, &hash);
        }
        self.plan.entries.push(Entry { bytes, hash, folds });
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

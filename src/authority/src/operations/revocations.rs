//! Revoke, deny, allow.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{
    Denial, DenyRequest, Override, Page, Revocation, RevocationExtent, RevokeRequest, RevokedBy,
};
use identity::{SerialNumber, SpiffeId};
use issuance::RevocationReason;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error as ValueError;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Operations;
use super::review::Review;
use crate::caller::Caller;
use crate::clock::from_milliseconds;
use crate::error::Error;
use crate::event;
use crate::policy::Action;
use crate::sequencer::{AllowedUnder, Effect, KeptRequest, RevocationTarget};
use crate::view::known::logged_end;
use crate::writer::RESTARTS;
use crate::writer::once::read_answer;

impl Operations {
    /// Revokes one certificate, or all of an identity issued so far. Doing it twice changes
    /// nothing. Where nobody has one that has not expired, nothing is written, and it is an error:
    /// whoever means to keep somebody out would take the entry for it, and has mistyped or means to
    /// deny.
    pub async fn revoke(
        self: &Arc<Self>,
        caller: &Caller,
        request: &RevokeRequest,
    ) -> Result<Revocation, Error> {
        self.view.authenticated(caller)?;
        let (target, spiffe_id, not_after) = self.revocation_target(&request.target).await?;
        let extent = self.extent(caller, &target, &spiffe_id).await?;
        self.may_revoke(caller, extent, &target, &spiffe_id)?;
        let reason = reason(&request.reason)?;
        self.view.require_member(&spiffe_id)?;
        require_somebody(&spiffe_id)?;
        let named = caller.named(api::paths::REVOCATIONS, request)?;
        let named = named.as_ref();
        let _turn = self.turns.take(caller).await;
        for _ in 0..RESTARTS {
            let allowed_under = self.may_revoke(caller, extent, &target, &spiffe_id)?;
            if let Some(kept) = self.view.kept(named).await? {
                return self.revoked_before(&kept, &spiffe_id).await;
            }
            let mut done = Revocation {
                target: request.target.clone(),
                spiffe_id: spiffe_id.clone(),
                reason: reason.clone(),
                log_index: None,
                certificates: 0,
                earlier: None,
                review: Vec::new(),
                review_counts: BTreeMap::new(),
                review_more: 0,
                review_tokens_from: None,
            };
            let held = self.view.held(&target, &spiffe_id).await?;
            done.certificates = held.live;
            // What is held is looked at after the state that it is judged by was read; where that
            // still stands under the head lock, this is the answer of the moment of the look.
            let is_done = !held.unrevoked && (held.any || self.is_revoked(&target));
            // A trial ends as the act would.
            if !held.any && !is_done {
                if self.writer.holds(allowed_under).await? {
                    return Err(Error::NothingToRevoke(request.target.clone()));
                }
                continue;
            }
            match is_done {
                true => done.earlier = self.earlier(caller, &target, &spiffe_id).await?,
                false => {
                    self.require_way_back(&target, &spiffe_id, request.named_override).await?;
                }
            }
            if request.dry_run {
                return Ok(done);
            }
            if is_done {
                if self.writer.holds_once(allowed_under, named, kept_answer(&done)).await? {
                    return Ok(done);
                }
                continue;
            }
            let place = self.writer.tasks.place()?;
            let taken = self.budgets.for_revocation(&self.view, caller, &target).await?;
            let mut detail = revocation_detail(&target, &reason, not_after);
            name_override(&mut detail, request.named_override);
            let effect = Effect::Revoke { target: target.clone(), reason: reason.clone() };
            let draft = caller.draft(event::REVOKE, spiffe_id.as_str(), &detail);
            let answer = kept_answer(&done);
            let (room, named) = (Arc::clone(self), named.cloned());
            let commit = async move {
                let named = named.as_ref();
                let committed =
                    room.writer.commit_once(allowed_under, draft, effect, named, answer).await;
                if !matches!(committed, Ok(Some(_))) {
                    room.budgets.give_back(taken);
                }
                committed
            };
            if let Some(log_index) = place.finish(commit).await?? {
                metrics::counter!("countersign_revocations_total").increment(1);
                done.log_index = Some(log_index);
                return Ok(reviewed(done, self.review_of(&spiffe_id).await));
            }
        }
        Err(self.writer.restless())
    }

    /// What revoked it before, for whoever may read that.
    async fn earlier(
        &self,
        caller: &Caller,
        target: &RevocationTarget,
        spiffe_id: &SpiffeId,
    ) -> Result<Option<RevokedBy>, Error> {
        if self.view.authorize(caller, Action::ReadInventory, Some(spiffe_id)).is_err() {
            return Ok(None);
        }
        match target {
            RevocationTarget::Identity(id) => {
                let place = self.view.folded().revoking.last(id);
                let Some(place) = place else { return Ok(None) };
                Ok(Some(self.revoked_at(place).await?))
            }
            RevocationTarget::Serial(serial_number) => {
                let Some(known) = self.view.known(serial_number).await? else { return Ok(None) };
                self.revocation_of(known.record()).await
            }
        }
    }

    /// The answer to a revocation that was named and done before.
    async fn revoked_before(
        &self,
        kept: &KeptRequest,
        spiffe_id: &SpiffeId,
    ) -> Result<Revocation, Error> {
        let done = Revocation { log_index: kept.place, ..read_answer(kept)? };
        Ok(match done.log_index {
            Some(_) => reviewed(done, self.review_of(spiffe_id).await),
            None => done,
        })
    }

    fn may_revoke(
        &self,
        caller: &Caller,
        extent: RevocationExtent,
        target: &RevocationTarget,
        spiffe_id: &SpiffeId,
    ) -> Result<AllowedUnder, Error> {
        let denied = match self.view.authorize(caller, Action::Revoke(extent), Some(spiffe_id)) {
            Err(Error::Denied(denied)) => denied,
            authorized => return authorized,
        };
        let RevocationTarget::Serial(serial_number) = target else {
            return Err(Error::Denied(denied));
        };
        // A serial number that they may not read does not exist for them.
        Err(match self.view.authorize(caller, Action::ReadInventory, Some(spiffe_id)) {
            Err(Error::Denied(_)) => Error::NotFound(format!("certificate {serial_number}")),
            Err(error) => error,
            Ok(_) => Error::Denied(denied),
        })
    }

    /// Denies an identity until it is allowed again, and revokes its certificates. One that is
    /// denied already is denied anew: who lifts an earlier denial does not lift this one.
    pub async fn deny(&self, caller: &Caller, request: &DenyRequest) -> Result<Denial, Error> {
        let spiffe_id = &request.spiffe_id;
        self.view.authorize(caller, Action::Deny, Some(spiffe_id))?;
        let reason = reason(&request.reason)?;
        self.view.require_member(spiffe_id)?;
        require_somebody(spiffe_id)?;
        let named = caller.named(api::paths::DENIALS, request)?;
        let named = named.as_ref();
        let _turn = self.turns.take(caller).await;
        for _ in 0..RESTARTS {
            let allowed_under = self.view.authorize(caller, Action::Deny, Some(spiffe_id))?;
            if let Some(log_index) = self.view.kept(named).await?.and_then(|kept| kept.place) {
                return Ok(self.denied_at(log_index, caller, request).await);
            }
            let loss = RevocationTarget::Identity(spiffe_id.clone());
            self.require_way_back(&loss, spiffe_id, request.named_override).await?;
            let mut detail = serde_json::json!({ "reason": reason });
            name_override(&mut detail, request.named_override);
            let draft = caller.draft(event::DENY, spiffe_id.as_str(), &detail);
            let effect = Effect::Deny { spiffe_id: spiffe_id.clone(), reason: reason.clone() };
            let committed =
                self.writer.commit_once(allowed_under, draft, effect, named, String::new()).await?;
            if let Some(log_index) = committed {
                return Ok(self.denied_at(log_index, caller, request).await);
            }
        }
        Err(self.writer.restless())
    }

    async fn denied_at(&self, log_index: u64, caller: &Caller, request: &DenyRequest) -> Denial {
        let in_force = self.view.folded().revoking.denial(&request.spiffe_id);
        let this = in_force.filter(|denial| denial.id == log_index.to_string());
        let Review { acts, counts, more, tokens_from } = self.review_of(&request.spiffe_id).await;
        Denial {
            id: log_index.to_string(),
            spiffe_id: request.spiffe_id.clone(),
            reason: request.reason.clone(),
            by: caller.name().to_owned(),
            at: self.time_of(log_index).await,
            since: this.and_then(|denial| denial.since),
            review: acts,
            review_counts: counts,
            review_more: more,
            review_tokens_from: tokens_from,
        }
    }

    /// Lifts the denial with this id, and no later one of the same identity. Certificates that it
    /// revoked stay revoked.
    pub async fn allow(&self, caller: &Caller, id: &str) -> Result<(), Error> {
        self.view.authenticated(caller)?;
        let none = || Error::NotFound(format!("denial {id} in force"));
        let denied_at = id.parse().ok().filter(|at: &u64| at.to_string() == id).ok_or_else(none)?;
        let _turn = self.turns.take(caller).await;
        for _ in 0..RESTARTS {
            self.view.refresh().await?;
            let denied = self.view.folded().revoking.denied_at(denied_at).cloned();
            let spiffe_id = denied.ok_or_else(none)?;
            let allowed_under = match self.view.authorize(caller, Action::Allow, Some(&spiffe_id)) {
                Err(Error::Denied(_)) => return Err(none()),
                authorized => authorized?,
            };
            // By the fold, whatever rows say, and as it is under the state that the commit compares.
            if self.view.folded().revoking.denied_at(denied_at).is_none() {
                return Err(none());
            }
            let detail = serde_json::json!({ "denied_at": id });
            let draft = caller.draft(event::ALLOW, spiffe_id.as_str(), &detail);
            let effect = Effect::Allow { spiffe_id };
            if self.writer.commit(allowed_under, draft, effect).await?.is_some() {
                return Ok(());
            }
        }
        Err(self.writer.restless())
    }

    /// Denied identities, with who denied each, when and why, as the log says.
    pub async fn denials(&self, caller: &Caller) -> Result<Page<Denial>, Error> {
        self.view.authorize(caller, Action::ListInventory, None)?;
        self.view.refresh_to_decide().await?;
        Ok(Page { items: self.view.folded().revoking.denials(), next: None })
    }

    /// Of a certificate also its last second, since 1970.
    async fn revocation_target(
        &self,
        target: &str,
    ) -> Result<(RevocationTarget, SpiffeId, Option<i64>), Error> {
        if target.starts_with("spiffe:") {
            let spiffe_id = SpiffeId::parse(target)
                .map_err(|error| Error::Invalid { why: error.to_string(), next_step: None })?;
            return Ok((RevocationTarget::Identity(spiffe_id.clone()), spiffe_id, None));
        }
        let serial_number: SerialNumber =
            SerialNumber::from_any_hex(target).map_err(|error| Error::Invalid {
                why: error.to_string(),
                next_step: Some("give a serial number in hex, or a SPIFFE ID".to_owned()),
            })?;
        let known = self.view.known(&serial_number).await?;
        let known = known.ok_or_else(|| Error::NotFound(format!("certificate {serial_number}")))?;
        // Of the logged certificate, whatever the row says: who puts an earlier end there would have
        // the revocation forgotten while the certificate lives.
        let not_after = logged_end(self.view.store(), known.record()).await?;
        let spiffe_id = known.record().spiffe_id.clone();
        Ok((RevocationTarget::Serial(serial_number), spiffe_id, Some(not_after)))
    }

    /// How much of an identity it is, seen from the caller: what replaced their certificate, or
    /// what theirs replaced, is their own.
    async fn extent(
        &self,
        caller: &Caller,
        target: &RevocationTarget,
        spiffe_id: &SpiffeId,
    ) -> Result<RevocationExtent, Error> {
        let svid = self.view.authenticated(caller)?;
        let RevocationTarget::Serial(serial_number) = target else {
            return Ok(RevocationExtent::Identity);
        };
        let is_own = serial_number == svid.serial_number()
            || spiffe_id == svid.spiffe_id()
                && self.view.line_of(serial_number).await?
                    == self.view.line_of(svid.serial_number()).await?;
        Ok(if is_own { RevocationExtent::Own } else { RevocationExtent::Certificate })
    }

    fn is_revoked(&self, target: &RevocationTarget) -> bool {
        let folded = self.view.folded();
        match target {
            RevocationTarget::Serial(serial) => folded.revocations.is_serial_revoked(serial),
            RevocationTarget::Identity(id) => {
                folded.revocations.identities().any(|(revoked, _)| revoked == id)
            }
        }
    }

    /// When the event at this place was logged. What is committed is done, whether or not it can be
    /// read back: then it was now.
    async fn time_of(&self, log_index: u64) -> OffsetDateTime {
        let event = self.view.event_at(log_index).await.ok().flatten();
        let at = event.and_then(|event| OffsetDateTime::parse(&event.at, &Rfc3339).ok());
        at.unwrap_or_else(|| from_milliseconds(self.view.clock().unix_milliseconds()))
    }
}

/// Refuses what is nobody's ID, by which whoever names it may mean everybody below: an ID means itself
/// alone, and what is done to it would do nothing.
fn require_somebody(spiffe_id: &SpiffeId) -> Result<(), Error> {
    let (whose, next_step) = match spiffe_id.path() {
        "" => (
            "a trust domain",
            format!(
                "name one: `countersign deny {spiffe_id}/PATH --reason privilege-withdrawn`; `countersign list \
                 --id '{spiffe_id}/*'` shows those that have a certificate, and to keep all out a policy \
                 forbids it: `countersign policy apply DIR`"
            ),
        ),
        "/countersign" | "/countersign/operator" => (
            "a path of the CA's own",
            format!(
                "name one: `countersign operator remove NAME --reason privilege-withdrawn`; \
                 `countersign operator list` shows them, and the CA itself is {}",
                SpiffeId::authority(&spiffe_id.trust_domain())
            ),
        ),
        _ => return Ok(()),
    };
    let why = format!("{spiffe_id} names {whose}, and nobody in it");
    Err(Error::Invalid { why, next_step: Some(next_step) })
}

/// The same, with what they did that stays.
fn reviewed(done: Revocation, Review { acts, counts, more, tokens_from }: Review) -> Revocation {
    Revocation {
        review: acts,
        review_counts: counts,
        review_more: more,
        review_tokens_from: tokens_from,
        ..done
    }
}

/// What is kept of it with the request's name; its place is known there.
fn kept_answer(done: &Revocation) -> String {
    serde_json::to_string(done).expect("a revocation is plain data")
}

/// `not_after` says how long whoever hears of it must hold it.
fn revocation_detail(
    target: &RevocationTarget,
    reason: &str,
    not_after: Option<i64>,
) -> serde_json::Value {
    match target {
        RevocationTarget::Identity(_) => serde_json::json!({ "reason": reason }),
        RevocationTarget::Serial(serial_number) => {
            let serial_number = serial_number.to_string();
            let mut detail = serde_json::json!({
                "reason": reason, "serial_number": serial_number,
            });
            if let Some(not_after) = not_after {
                detail["not_after"] = not_after.into();
            }
            detail
        }
    }
}

/// Whoever reads the log sees that it was meant.
fn name_override(detail: &mut serde_json::Value, named: Option<Override>) {
    if let Some(named) = named {
        detail["override"] = serde_json::json!(named);
    }
}

/// The reason, as RFC 5280 §5.3.1 spells it in kebab case.
fn reason(text: &str) -> Result<String, Error> {
    let parsed: Result<RevocationReason, ValueError> =
        RevocationReason::deserialize(text.into_deserializer());
    parsed.map(|_| text.to_owned()).map_err(|_| Error::Invalid {
        why: format!("{text:?} is no reason for a revocation"),
        next_step: Some(
            "use affiliation-changed, cessation-of-operation, key-compromise, \
             privilege-withdrawn, superseded or unspecified"
                .to_owned(),
        ),
    })
}

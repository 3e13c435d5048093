//! One certificate from request to stored bytes, readable from top to bottom.

mod accounting;
mod attestation;
mod completing;
mod own_certificate;
mod refusals;

use std::sync::Arc;

use api::{IssueRequest, IssuedCertificate};
use identity::{SerialNumber, SpiffeId};
use tlog::Hash;

use self::attestation::Proof;
use self::completing::{Admission, Admitted};
use self::refusals::Refusals;
use crate::attest::{Attested, Purpose, refusal, refused};
use crate::budgets::Budgets;
use crate::caller::{Caller, require_name};
use crate::certificate::request::Asked;
use crate::clock::fresh_serial_number;
use crate::error::Error;
use crate::facts::INTERNAL;
use crate::one_at_a_time::{OneAtATime, Turn};
use crate::policy::Principal;
use crate::sequencer::{Conflict, Consumes, IdempotencyKey, Unlogged};
use crate::store::{Record, StoreError};
use crate::view::View;
use crate::view::known_tokens::Reserved;
use crate::writer::{RESTARTS, Writer};

/// Makes certificates.
#[derive(Debug)]
pub struct Issuing {
    view: Arc<View>,
    writer: Arc<Writer>,
    crl_url: Option<String>,
    refusals: Refusals,
    pub(crate) budgets: Budgets,
    /// Renewals take turns, by lines.
    turns_of_lines: OneAtATime<SerialNumber>,
    /// Leaves are completed one at a time, by their places in the log.
    turns_of_leaves: OneAtATime<u64>,
}

impl Issuing {
    pub(crate) fn new(view: Arc<View>, writer: Arc<Writer>, crl_url: Option<String>) -> Self {
        Self {
            view,
            writer,
            crl_url,
            refusals: Refusals::default(),
            budgets: Budgets::default(),
            turns_of_lines: OneAtATime::default(),
            turns_of_leaves: OneAtATime::default(),
        }
    }

    /// Issues or renews: attests, asks policy, prepares, logs, signs, stores, and only then
    /// answers. The same request again returns the same certificate.
    pub async fn issue(
        self: &Arc<Self>,
        caller: &Caller,
        body: &IssueRequest,
        idempotency_key: Option<&str>,
    ) -> Result<IssuedCertificate, Error> {
        self.view.require_whole_log()?;
        // Before a token or a certificate is found to have expired by a clock that is wrong.
        self.view.clock.require_steady().map_err(StoreError::from)?;
        let stranger = |error| {
            self.refusals.note_stranger();
            error
        };
        // Who proves nothing learns nothing of the rest.
        let proof = Proof::examine(&self.view, caller, &body.attestation, body.spiffe_id.as_ref());
        let proof = proof.await.map_err(stranger)?;
        let asked = match Asked::parse(body, &self.view.trust_domain) {
            Ok(asked) => asked,
            Err(error) => {
                proof.require_unused().map_err(stranger)?;
                return Err(error);
            }
        };
        let attested = proof.attest(&self.view, &asked).await.map_err(stranger)?;
        idempotency_key.map_or(Ok(()), require_name)?;
        let principal = attested.principal.name().to_owned();
        let issued = self.issue_attested(caller, asked, attested, idempotency_key).await;
        if let Err(error) = &issued {
            self.refusals.note_attested(&self.writer, &principal, caller, error).await;
        }
        issued
    }

    /// Issues one of the CA's own certificates (its own, an operator's at `init`), by the same
    /// pipeline and policy.
    pub async fn issue_internal(
        self: &Arc<Self>,
        body: &IssueRequest,
        request_id: &str,
    ) -> Result<IssuedCertificate, Error> {
        let caller =
            Caller { svid: None, request_id: request_id.to_owned(), idempotency_key: None };
        let asked = Asked::parse(body, &self.view.trust_domain)?;
        let spiffe_id = asked
            .spiffe_id
            .clone()
            .filter(SpiffeId::is_reserved)
            .ok_or_else(|| Error::NotFound("internal identity of that name".to_owned()))?;
        self.view.require_whole_log_for(&spiffe_id)?;
        let attested = Attested {
            principal: Principal::Authority,
            spiffe_id,
            purpose: Purpose::Issue,
            attestor: INTERNAL,
            attested_at: self.view.clock.unix_milliseconds(),
            consumes: Consumes::Nothing,
            maker: None,
            earlier: None,
        };
        self.issue_attested(&caller, asked, attested, None).await
    }

    async fn issue_attested(
        self: &Arc<Self>,
        caller: &Caller,
        asked: Asked,
        attested: Attested,
        idempotency_key: Option<&str>,
    ) -> Result<IssuedCertificate, Error> {
        let principal = match &attested.consumes {
            // Another token asks for another certificate, whatever the request is called.
            Consumes::Token { hash, .. } => format!("{} {hash:?}", attested.principal.name()),
            _ => attested.principal.name().to_owned(),
        };
        let idempotency = idempotency_key.map(|key| IdempotencyKey {
            principal: principal.clone(),
            key: key.to_owned(),
            request_hash: asked.hash(),
        });
        for _ in 0..RESTARTS {
            // Before anything is read that the wait for it would leave behind.
            let turn = self.turn_of(&attested.consumes).await;
            let policy = self.view.policy();
            let (epoch, in_force) = self.view.state_to_issue().await?;
            // After the epoch is read, on every turn: a caller revoked meanwhile goes no further.
            let by_token = matches!(attested.consumes, Consumes::Token { .. });
            if let Some(svid) = caller.svid.as_ref().filter(|_| !by_token) {
                self.view.require_live(svid)?;
            }
            if let Some(maker) = &attested.maker {
                self.view.require_maker(maker, &attested.spiffe_id, &policy)?;
                self.view.require_new(maker, &attested.spiffe_id).await?;
            }
            let own_names = self.view.own_names_now();
            let mut attested = attested.clone();
            self.view.decide_renewal(&mut attested.consumes, &attested.spiffe_id).await?;
            let authorized =
                asked.clone().authorize(attested.clone(), &policy, epoch, &own_names)?;
            self.view.refuse_denied(authorized.spiffe_id())?;
            authorized.require_permitted(|dns, ip| in_force.refuse_names(dns, ip))?;
            let serial_number = fresh_serial_number(&*self.view.clock)?;
            let now = self.view.clock.now();
            let issuer = in_force.issuer.certificate();
            let crl_url = self.crl_url_of(issuer);
            let prepared = authorized.prepare(issuer, serial_number, now, crl_url.as_deref())?;
            let member = Arc::new(prepared.into_member(&caller.request_id, idempotency.clone()));
            let place = self.writer.tasks.place_for_others()?;
            let (taken, spent) =
                match self.budgets.for_issue(&self.view, caller, &attested, by_token).await {
                    Ok(taken) => (taken, None),
                    // What was asked for before is given again whatever is left.
                    Err(spent @ Error::Budget { .. }) => (None, Some(spent)),
                    Err(error) => return Err(error),
                };
            let reserved = self.reserve(&attested, &member.record.request_hash)?;
            let purpose = attested.purpose.clone();
            let admission = Admission { member, spent, purpose, taken, reserved, turn };
            let room = Arc::clone(self);
            let admitted = place.finish(async move { room.admit(admission).await }).await?;
            let unlogged = match admitted? {
                Admitted::Issued(issued) => return Ok(*issued),
                Admitted::Not(unlogged) => unlogged,
            };
            match unlogged {
                Unlogged::Replay { leaf_index } => {
                    let turn = self.turns_of_leaves.turn(leaf_index).await;
                    let record = self.view.known_at(leaf_index).await?.recorded()?;
                    self.require_good(&record)?;
                    if let Some(given) = self.given_again(&record).await? {
                        return Ok(given);
                    }
                    drop(turn);
                    // It is signed by the issuer that it was logged for.
                    let Some(issuer) = in_force.issuer_of(&record.issuer_key_hash) else {
                        return Err(Error::Abandoned);
                    };
                    let issuer = issuer.certificate();
                    let crl_url = self.crl_url_of(issuer);
                    let asked = asked.named_as(&record.facts);
                    let authorized = asked.authorize(attested, &policy, epoch, &own_names)?;
                    let prepared =
                        authorized.prepare(issuer, serial_number, now, crl_url.as_deref())?;
                    let member = prepared.into_member(&caller.request_id, idempotency);
                    let logged = self.replay(&record, &member).await?;
                    let place = self.writer.tasks.place_for_others()?;
                    let room = Arc::clone(self);
                    return place.finish(async move { room.complete(logged).await }).await?;
                }
                Unlogged::Moved => self.view.refresh().await?,
                Unlogged::Refused(Conflict::SerialNumber) => {}
                Unlogged::Refused(conflict) => {
                    self.view.refresh().await?;
                    return Err(refusal(conflict, &attested.spiffe_id));
                }
            }
        }
        Err(self.writer.restless())
    }

    /// Takes the token that a request uses, so that no other request has it at once.
    fn reserve(&self, attested: &Attested, request: &Hash) -> Result<Option<Reserved>, Error> {
        let Consumes::Token { hash, .. } = &attested.consumes else { return Ok(None) };
        let now = self.view.clock.unix_milliseconds();
        let reserved = self.view.known_tokens.reserve(*hash, *request, now);
        reserved.map(Some).ok_or_else(|| refusal(Conflict::TokenUsed, &attested.spiffe_id))
    }

    /// What was made of the same request is given again only while it is good. The commit found the
    /// state as it is folded here.
    fn require_good(&self, record: &Record) -> Result<(), Error> {
        let Record { spiffe_id, serial_number, .. } = record;
        let revocations = &self.view.folded().revocations;
        let stands = revocations.check(spiffe_id, serial_number, Some(record.leaf_index));
        let has_ended = record.not_after < self.view.clock.now().unix_timestamp();
        if stands.is_ok() && !has_ended {
            return Ok(());
        }
        let since = if has_ended { "has expired" } else { "was revoked" };
        Err(refused(
            format!("certificate {serial_number} was made of this request, and {since} since"),
            "make a new request, with a new token or another Idempotency-Key",
        ))
    }

    /// Waits for the turn of a renewal's line; what renews nothing has none.
    async fn turn_of(&self, consumes: &Consumes) -> Option<Turn> {
        let Consumes::Renewal { lineage, .. } = consumes else { return None };
        Some(self.turns_of_lines.turn(*lineage).await)
    }

    /// Logs how many strangers were refused since the last time, if any were.
    pub async fn summarise_refusals(&self) -> Result<(), Error> {
        self.refusals.summarise(&self.writer).await
    }
}

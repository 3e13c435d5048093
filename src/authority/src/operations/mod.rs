//! What operators, owners and auditors do beside issuing: each call asks the same policy.

mod inventory;
mod once;
mod operators;
mod policies;
mod review;
mod revocations;
mod tokens;
mod way_back;

use api::{IssuerStatus, Status};
use identity::{SpiffeId, VerifiedSvid};
use issuance::IssuerCertificate;

pub(crate) use inventory::MAX_PAGE;
pub(crate) use once::MAX_NAME as MAX_REQUEST_NAME;
pub(crate) use once::{once, read_answer, require_name};
pub use policies::explain_query;
pub(crate) use policies::policy_change;
pub(crate) use review::{ACTS_SHOWN, Listed};

use crate::attest::refused;
use crate::authority::{Authority, Caller, issuer_id, unexpected};
use crate::error::Error;
use crate::event::{Act, Event, EventDraft};
use crate::halt::HALTED_NEXT_STEP;
use crate::loading::proven_entry;
use crate::policy::{Action, Principal, Query};
use crate::request::explain;
use crate::sequencer::{ActMember, AllowedUnder, Effect, IdempotencyKey, Member, Outcome};
use crate::store::newest_head;

impl Authority {
    /// How the CA is doing.
    pub async fn status(&self, caller: &Caller) -> Result<Status, Error> {
        self.authorize(caller, Action::ReadStatus, None)?;
        // Whoever asks what is the matter is answered while no head is kept, too.
        let head = newest_head(self.store()).await?;
        let in_force = self.in_force();
        let trust = in_force.trust.state();
        let policy = self.policy();
        let keys = self.key_records().await?;
        let lost_rows = self.lost_rows().await?;
        let replaced_files = self.replaced_files();
        Ok(Status {
            trust_domain: self.trust_domain().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            trust_sequence: trust.sequence,
            trust_pin: trust.pin().to_string(),
            log_size: head.edge.size(),
            checkpoint_size: self.checkpoints().newest_size(),
            policy_hash: format!("{:?}", policy.set().hash()),
            workloads: policy.set().workloads().rows().count() as u64,
            denied: self.folded().revocations.denied().count() as u64,
            halted: self.halted(),
            halted_next_step: self.halted().map(|_| HALTED_NEXT_STEP.to_owned()),
            // The service knows: its own certificate is part of it, and who is connected.
            not_ready: None,
            lost_rows,
            replaced_files,
            connections: None,
            issuers: in_force.issuers().map(issuer_status).collect(),
            warnings: self.life_warnings(),
            rotating: keys.into_iter().filter(|key| key.next.is_some()).collect(),
        })
    }

    /// Whether policy lets the caller do this to the whole trust domain: what is known before
    /// anything else of a request is looked at.
    pub fn permits(&self, caller: &Caller, action: Action) -> Result<(), Error> {
        self.authorize(caller, action, None).map(drop)
    }

    /// Whether the caller has a certificate, and one that is good still.
    pub fn require_certificate(&self, caller: &Caller) -> Result<(), Error> {
        self.require_live(self.authenticated(caller)?)
    }

    /// How many entries the log has.
    pub async fn log_size(&self) -> Result<u64, Error> {
        Ok(self.store().head().await?.edge.size())
    }

    /// The newest checkpoint, as a signed note.
    pub fn checkpoint(&self) -> Result<Vec<u8>, Error> {
        let none = || Error::NotFound("checkpoint yet".to_owned());
        Ok(self.checkpoints().newest_note().ok_or_else(none)?.1.to_vec())
    }

    /// A tile of the log.
    pub async fn tile(&self, tile: tlog::Tile) -> Result<Vec<u8>, Error> {
        let none = || Error::NotFound(format!("{} in a log of this size", tile.path()));
        let tile = self.store().tile(tile).await?;
        // Nobody outside hears of what is not kept.
        self.log_size().await?;
        tile.ok_or_else(none)
    }

    /// Asks policy on behalf of an authenticated caller; returns the state that it was asked under.
    /// What is looked at from then on either belongs to that state, or the commit notices.
    pub(crate) fn authorize(
        &self,
        caller: &Caller,
        action: Action,
        resource: Option<&SpiffeId>,
    ) -> Result<AllowedUnder, Error> {
        // The epoch is read before the caller is looked at: a revocation in between moves it.
        let revocation_epoch = self.folded().epoch;
        let svid = self.authenticated(caller)?;
        self.require_live(svid)?;
        let policy = self.policy();
        let principal = Principal::of(svid.spiffe_id());
        let query = Query { principal, action, resource: resource.cloned() };
        let decision = policy.decide(&query);
        if !decision.allowed {
            return Err(Error::Denied(Box::new(explain(&query, &decision, &policy))));
        }
        let policy_hash = *policy.set().hash();
        Ok(AllowedUnder { policy_hash, revocation_epoch })
    }

    pub(crate) fn authenticated<'a>(&self, caller: &'a Caller) -> Result<&'a VerifiedSvid, Error> {
        caller.svid.as_ref().ok_or_else(|| {
            refused(
                "this needs a client certificate, and this connection has none",
                "connect with an SVID of this trust domain; operators: `countersign init` made one",
            )
        })
    }

    /// Logs an act with its effect, and catches up before it answers; none where policy or
    /// revocations moved since it was allowed: then whatever it refers to is looked at anew.
    pub(super) async fn commit(
        &self,
        allowed_under: AllowedUnder,
        event: EventDraft,
        effect: Effect,
    ) -> Result<Option<u64>, Error> {
        self.commit_once(allowed_under, event, effect, None, String::new()).await
    }

    /// The same, once where the request was named: none, too, where it was done meanwhile.
    pub(super) async fn commit_once(
        &self,
        allowed_under: AllowedUnder,
        event: EventDraft,
        effect: Effect,
        named: Option<&IdempotencyKey>,
        answer: String,
    ) -> Result<Option<u64>, Error> {
        let kind = event.kind();
        let member = ActMember { event, effect, allowed_under: Some(allowed_under) };
        let member = once(named, answer, Member::Act(Box::new(member)));
        let outcome = self.submit(member).await?;
        if outcome == Outcome::Moved {
            return self.refresh_to_decide().await.map(|()| None);
        }
        self.require_done(kind, &outcome).await?;
        match outcome {
            Outcome::Done { log_index } => Ok(Some(log_index)),
            Outcome::Repeated => Ok(None),
            Outcome::Refused(conflict) => Err(Error::Conflict(conflict)),
            other => Err(unexpected(&other)),
        }
    }

    /// Whether it still holds, under the head lock: asked before somebody is told that nothing had
    /// to change.
    pub(crate) async fn holds(&self, allowed_under: AllowedUnder) -> Result<bool, Error> {
        self.holds_once(allowed_under, None, String::new()).await
    }

    /// The same; where the request was named, the answer is kept with its name.
    pub(super) async fn holds_once(
        &self,
        allowed_under: AllowedUnder,
        named: Option<&IdempotencyKey>,
        answer: String,
    ) -> Result<bool, Error> {
        match self.submit(once(named, answer, Member::Unchanged(allowed_under))).await? {
            Outcome::Stored => Ok(true),
            Outcome::Moved | Outcome::Repeated => self.refresh().await.map(|()| false),
            Outcome::Refused(conflict) => Err(Error::Conflict(conflict)),
            other => Err(unexpected(&other)),
        }
    }

    /// The event at this place of the log, proved to stand there; none where there is another entry.
    pub(super) async fn event_at(&self, log_index: u64) -> Result<Option<Event>, Error> {
        let entry = proven_entry(self.store(), log_index).await?;
        Ok(entry.and_then(|entry| Event::parse(&entry).ok()))
    }

    pub(super) fn by<'a>(&self, caller: &'a Caller) -> Act<'a> {
        Act { actor: caller.name(), request_id: &caller.request_id }
    }

    pub(super) fn draft(
        &self,
        caller: &Caller,
        kind: &'static str,
        subject: &str,
        detail: &serde_json::Value,
    ) -> EventDraft {
        EventDraft::new(kind, &self.by(caller), subject, detail)
    }

    pub(super) fn require_member(&self, spiffe_id: &SpiffeId) -> Result<(), Error> {
        if spiffe_id.is_member_of(self.trust_domain()) {
            return Ok(());
        }
        Err(Error::Invalid {
            why: format!("{spiffe_id} is not in trust domain {}", self.trust_domain()),
            next_step: Some(format!(
                "name one of it: {}{}; or ask the CA of that trust domain: --context NAME, which \
                 `countersign context list` shows",
                self.trust_domain().id(),
                spiffe_id.path()
            )),
        })
    }
}

/// The place of the log after which a page begins: the `next` of the one before.
fn place_after(after: Option<&str>) -> Result<Option<u64>, Error> {
    let parsed = after.map(str::parse).transpose();
    parsed.map_err(|_| Error::Invalid {
        why: "`after` is not the `next` of a page".to_owned(),
        next_step: None,
    })
}

fn issuer_status(certificate: &IssuerCertificate) -> IssuerStatus {
    IssuerStatus {
        id: issuer_id(certificate.key_hash()),
        serial_number: *certificate.serial_number(),
        not_after: certificate.not_after(),
    }
}

/// Records read at a time.
const PAGE: u32 = 500;
/// No profile allows more than 7 days.
pub(crate) const LONGEST_VALIDITY_MILLISECONDS: u64 = 7 * 24 * 3600 * 1000;

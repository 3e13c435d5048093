//! What operators, owners and auditors do beside issuing: each call asks the same policy.

mod inventory;
mod policies;
mod revocations;
mod tokens;

use api::{IssuerStatus, Status};
use identity::{SpiffeId, VerifiedSvid};
use issuance::IssuerCertificate;

pub use policies::explain_query;
pub(crate) use policies::policy_change;

use crate::attest::refused;
use crate::authority::{Authority, Caller, RESTARTS, issuer_id, unexpected};
use crate::error::Error;
use crate::event::{Act, EventDraft};
use crate::policy::{Action, Principal, Query};
use crate::request::explain;
use crate::sequencer::{ActMember, AllowedUnder, Effect, Member, Outcome};

impl Authority {
    /// How the CA is doing.
    pub async fn status(&self, caller: &Caller) -> Result<Status, Error> {
        self.authorize(caller, Action::ReadStatus, None)?;
        let head = self.store().head().await?;
        let checkpoint = self.store().checkpoint().await?;
        let in_force = self.in_force();
        let trust = in_force.trust.state();
        let policy = self.policy();
        let keys = self.key_records().await?;
        Ok(Status {
            trust_domain: self.trust_domain().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            trust_sequence: trust.sequence,
            trust_pin: trust.pin().to_string(),
            log_size: head.edge.size(),
            checkpoint_size: checkpoint.map_or(0, |checkpoint| checkpoint.size),
            policy_hash: format!("{:?}", policy.set().hash()),
            workloads: policy.set().workloads().rows().count() as u64,
            denied: self.folded().revocations.denied().count() as u64,
            halted: self.halted(),
            issuers: in_force.issuers().map(issuer_status).collect(),
            rotating: keys.into_iter().filter(|key| key.next.is_some()).collect(),
        })
    }

    /// Whether the caller may read the log.
    pub fn may_read_log(&self, caller: &Caller) -> Result<(), Error> {
        self.authorize(caller, Action::ReadLog, None).map(drop)
    }

    /// The newest checkpoint, as a signed note.
    pub async fn checkpoint(&self) -> Result<Vec<u8>, Error> {
        let checkpoint = self.store().checkpoint().await?;
        let none = || Error::NotFound("checkpoint yet".to_owned());
        Ok(checkpoint.ok_or_else(none)?.note)
    }

    /// A tile of the log.
    pub async fn tile(&self, tile: tlog::Tile) -> Result<Vec<u8>, Error> {
        let none = || Error::NotFound(format!("{} in a log of this size", tile.path()));
        self.store().tile(tile).await?.ok_or_else(none)
    }

    /// Asks policy on behalf of an authenticated caller.
    pub(crate) fn authorize<'a>(
        &self,
        caller: &'a Caller,
        action: Action,
        resource: Option<&SpiffeId>,
    ) -> Result<Permit<'a>, Error> {
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
        let allowed_under = AllowedUnder { policy_hash, revocation_epoch };
        Ok(Permit { caller, query, allowed_under })
    }

    pub(crate) fn authenticated<'a>(&self, caller: &'a Caller) -> Result<&'a VerifiedSvid, Error> {
        caller.svid.as_ref().ok_or_else(|| {
            refused(
                "this needs a client certificate, and this connection has none",
                "connect with an SVID of this trust domain; operators: `countersign init` made one",
            )
        })
    }

    /// Logs an act with its effect, and catches up before it answers. Where policy or revocations
    /// moved since it was allowed, policy is asked again.
    pub(super) async fn act(
        &self,
        permit: Permit<'_>,
        event: EventDraft,
        effect: Effect,
    ) -> Result<u64, Error> {
        let mut permit = permit;
        for _ in 0..RESTARTS {
            let allowed_under = Some(permit.allowed_under);
            let member = ActMember { event: event.clone(), effect: effect.clone(), allowed_under };
            let outcome = self.submit(Member::Act(Box::new(member))).await?;
            self.refresh().await?;
            match outcome {
                Outcome::Done { log_index } => return Ok(log_index),
                Outcome::Moved => {
                    let Query { action, resource, .. } = permit.query;
                    permit = self.authorize(permit.caller, action, resource.as_ref())?;
                }
                Outcome::Refused(conflict) => return Err(Error::Conflict(conflict)),
                other => return Err(unexpected(&other)),
            }
        }
        Err(Error::Restless)
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
            next_step: None,
        })
    }
}

fn issuer_status(certificate: &IssuerCertificate) -> IssuerStatus {
    IssuerStatus {
        id: issuer_id(certificate.key_hash()),
        serial_number: *certificate.serial_number(),
        not_after: certificate.not_after(),
    }
}

/// What policy allowed to whom, and under which state.
pub(crate) struct Permit<'a> {
    caller: &'a Caller,
    query: Query,
    pub(super) allowed_under: AllowedUnder,
}

/// Records read at a time.
const PAGE: u32 = 500;
/// No profile allows more than 7 days.
pub(crate) const LONGEST_VALIDITY_MILLISECONDS: u64 = 7 * 24 * 3600 * 1000;

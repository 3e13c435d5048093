//! Whether a caller may: by policy, and while their certificate counts.

use std::time::Duration;

use identity::{SerialNumber, SpiffeId, VerifiedSvid};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::View;
use crate::attest::{again_by_token, refused};
use crate::caller::Caller;
use crate::error::Error;
use crate::explanation::explain;
use crate::policy::{Action, Principal, Query};
use crate::sequencer::AllowedUnder;
use crate::store::StoreError;

impl View {
    /// Whether policy lets the caller do this to the whole trust domain: what is known before
    /// anything else of a request is looked at.
    pub fn permits(&self, caller: &Caller, action: Action) -> Result<(), Error> {
        self.authorize(caller, action, None).map(drop)
    }

    /// Whether the caller has a certificate, and one that is good still.
    pub fn require_certificate(&self, caller: &Caller) -> Result<(), Error> {
        self.require_live(self.authenticated(caller)?)
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

    pub(crate) fn require_member(&self, spiffe_id: &SpiffeId) -> Result<(), Error> {
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

    /// Refuses a caller whose certificate was revoked since its handshake, or has run out.
    pub(crate) fn require_live(&self, svid: &VerifiedSvid) -> Result<(), Error> {
        let folded = self.folded();
        folded
            .revocations
            .check(svid.spiffe_id(), svid.serial_number(), svid.leaf_index())
            .map_err(|refusal| {
                let id = svid.spiffe_id();
                let why = format!("your certificate is refused: {refusal}");
                let again = again_by_token(id);
                match refusal {
                    identity::Refusal::Denied => refused(
                        why,
                        format!("`countersign allow {id}`, by an operator; then {again}"),
                    ),
                    _ => refused(why, again),
                }
            })?;
        if svid.not_after() < self.clock.now().unix_timestamp() {
            self.clock.require_steady().map_err(StoreError::from)?;
            let again = again_by_token(svid.spiffe_id());
            return Err(refused("your certificate has expired", again));
        }
        Ok(())
    }

    pub(crate) fn refuse_denied(&self, spiffe_id: &SpiffeId) -> Result<(), Error> {
        if self.folded().revocations.is_denied(spiffe_id) {
            return Err(Error::Revoked(identity::Refusal::Denied));
        }
        Ok(())
    }

    /// Notes that the holder of a certificate exists: whoever has shown it in a handshake.
    pub fn note_shown(&self, svid: &VerifiedSvid) {
        if self.require_live(svid).is_ok() {
            self.see(svid);
        }
    }

    /// Whether whoever verifies as our library does believes a chain of this CA's, as the client or
    /// the server that it is.
    pub fn verify_as_peer(
        &self,
        chain: &[CertificateDer<'_>],
        usage: identity::Usage,
    ) -> Result<(), identity::Refusal> {
        let now = u64::try_from(self.clock.now().unix_timestamp()).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        let (trust, folded) = (self.trust(), self.folded());
        identity::verify(chain, usage, now, &trust, &folded.revocations).map(drop)
    }

    /// Whether a certificate of the CA's own still counts for those who verify it.
    pub fn require_own(
        &self,
        serial_number: &SerialNumber,
        leaf_index: u64,
    ) -> Result<(), identity::Refusal> {
        let id = SpiffeId::authority(&self.trust_domain);
        self.folded().revocations.check(&id, serial_number, Some(leaf_index))
    }
}

//! Evidence is looked at first, and what it is brought for afterwards: who proves nothing learns
//! nothing of the rest.

use api::Attestation;
use identity::{SpiffeId, VerifiedSvid};

use super::token::Held;
use super::{Attested, refused, svid};
use crate::authority::{Authority, Caller};
use crate::error::Error;
use crate::request::Asked;
use crate::sequencer::Consumes;

/// Evidence that is good, whatever it is brought for.
pub(crate) enum Proof<'a> {
    Svid(&'a VerifiedSvid),
    Token(Box<Held>),
}

impl Proof<'_> {
    pub(crate) fn require_unused(&self) -> Result<(), Error> {
        match self {
            Self::Svid(_) => Ok(()),
            Self::Token(held) => held.require_unused(),
        }
    }
}

impl Authority {
    /// Looks at evidence alone.
    pub(crate) async fn examine<'a>(
        &self,
        caller: &'a Caller,
        evidence: &Attestation,
        asked: Option<&SpiffeId>,
    ) -> Result<Proof<'a>, Error> {
        match (evidence, &caller.svid) {
            (Attestation::Token { token }, _) => {
                let is_withdrawn = |id: &str| self.folded().is_withdrawn(id);
                let now = self.clock().unix_milliseconds();
                let (store, known) = (self.store(), &self.known_tokens);
                let held = Held::find(store, known, (token, asked), now, is_withdrawn);
                let held = held.await?;
                if let Some((maker, made_for)) = held.vouched() {
                    self.require_maker(maker, made_for, &self.policy())?;
                }
                Ok(Proof::Token(Box::new(held)))
            }
            (Attestation::Svid {}, Some(svid)) => {
                self.require_live(svid)?;
                Ok(Proof::Svid(svid))
            }
            (Attestation::Svid {}, None) => Err(refused(
                "attestation svid needs a client certificate, and this connection has none",
                "connect with your certificate and key, or use attestation token",
            )),
        }
    }

    pub(crate) async fn attest(&self, proof: Proof<'_>, asked: &Asked) -> Result<Attested, Error> {
        let spiffe_id = asked.spiffe_id.as_ref();
        let now = self.clock().unix_milliseconds();
        match proof {
            Proof::Token(held) => {
                let (store, known) = (self.store(), &self.known_tokens);
                held.attest(store, known, &asked.request, spiffe_id, now).await
            }
            Proof::Svid(svid) => {
                self.see(svid);
                let attested = svid::attest(self, svid, spiffe_id, now).await?;
                if let Consumes::Renewal { lineage, .. } = &attested.consumes {
                    self.require_unbroken(lineage, svid.spiffe_id())?;
                }
                Ok(attested)
            }
        }
    }
}

//! Evidence is looked at first, and what it is brought for afterwards: who proves nothing learns
//! nothing of the rest.

use api::Attestation;
use identity::{SpiffeId, VerifiedSvid};

use super::svid;
use super::token::Held;
use crate::attest::{Attested, refused};
use crate::caller::Caller;
use crate::certificate::request::Asked;
use crate::error::Error;
use crate::sequencer::Consumes;
use crate::view::View;

/// Evidence that is good, whatever it is brought for.
pub(crate) enum Proof<'a> {
    Svid(&'a VerifiedSvid),
    Token(Box<Held>),
}

impl<'a> Proof<'a> {
    /// Looks at evidence alone.
    pub(crate) async fn examine(
        view: &View,
        caller: &'a Caller,
        evidence: &Attestation,
        asked: Option<&SpiffeId>,
    ) -> Result<Self, Error> {
        match (evidence, &caller.svid) {
            (Attestation::Token { token }, _) => {
                let is_withdrawn = |id: &str| view.folded().is_withdrawn(id);
                let now = view.clock().unix_milliseconds();
                let (store, known) = (view.store(), &view.known_tokens);
                let held = Held::find(store, known, (token, asked), now, is_withdrawn);
                let held = held.await?;
                if let Some((maker, made_for)) = held.vouched() {
                    view.require_maker(maker, made_for, &view.policy())?;
                }
                Ok(Self::Token(Box::new(held)))
            }
            (Attestation::Svid {}, Some(svid)) => {
                view.require_live(svid)?;
                Ok(Self::Svid(svid))
            }
            (Attestation::Svid {}, None) => Err(refused(
                "attestation svid needs a client certificate, and this connection has none",
                "connect with your certificate and key, or use attestation token",
            )),
        }
    }

    /// Says what it proves, for this request.
    pub(crate) async fn attest(self, view: &View, asked: &Asked) -> Result<Attested, Error> {
        let spiffe_id = asked.spiffe_id.as_ref();
        let now = view.clock().unix_milliseconds();
        match self {
            Self::Token(held) => {
                let (store, known) = (view.store(), &view.known_tokens);
                held.attest(store, known, &asked.request, spiffe_id, now).await
            }
            Self::Svid(svid) => {
                view.see(svid);
                let attested = svid::attest(view, svid, spiffe_id, now).await?;
                if let Consumes::Renewal { lineage, .. } = &attested.consumes {
                    view.require_unbroken(lineage, svid.spiffe_id())?;
                }
                Ok(attested)
            }
        }
    }

    pub(crate) fn require_unused(&self) -> Result<(), Error> {
        match self {
            Self::Svid(_) => Ok(()),
            Self::Token(held) => held.require_unused(),
        }
    }
}

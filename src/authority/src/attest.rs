//! Attestors: from evidence to a principal with facts.

use identity::{SerialNumber, SpiffeId};

use crate::error::Error;
use crate::facts::{INTERNAL, Names, NamesFrom, SVID, TOKEN};
use crate::policy::Principal;
use crate::sequencer::{Conflict, Consumes};
use crate::token_kind::{Maker, TokenKind};

/// What evidence proved.
#[derive(Debug, Clone)]
pub(crate) struct Attested {
    pub(crate) principal: Principal,
    /// The identity that the evidence names, for requests that name none.
    pub(crate) spiffe_id: SpiffeId,
    pub(crate) purpose: Purpose,
    pub(crate) attestor: &'static str,
    /// When a place that can prove it did; renewal keeps it.
    pub(crate) attested_at: u64,
    pub(crate) consumes: Consumes,
    /// Who vouches for it: it counts only while they still count.
    pub(crate) maker: Option<Maker>,
    /// What a renewal carries over where the request is silent.
    pub(crate) earlier: Option<Earlier>,
}

/// Whether a certificate is the first of its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The first.
    Issue,
    /// In place of an earlier one; the line's first is named.
    Renew {
        /// The first certificate of the line.
        lineage: SerialNumber,
    },
}

/// What an earlier certificate had.
#[derive(Debug, Clone)]
pub(crate) struct Earlier {
    pub(crate) names: Names,
    pub(crate) names_from: NamesFrom,
    pub(crate) profile: String,
    pub(crate) validity_seconds: u64,
}

/// A stored attestor's name, as the constant that policies see; unknown ones are refused.
pub(crate) fn known_attestor(name: &str) -> Result<&'static str, Error> {
    [INTERNAL, SVID, TOKEN].into_iter().find(|known| *known == name).ok_or_else(|| {
        refused(format!("attestor {name:?} is unknown to this version"), "upgrade the CA")
    })
}

/// How somebody gets a certificate that does not follow from the one they have.
pub(crate) fn again_by_token(spiffe_id: &SpiffeId) -> String {
    if let Some(name) = spiffe_id.operator_name() {
        return format!(
            "`countersign operator add {name} --again`, by another operator; without one, on the CA's \
             host: `countersign init --recover --operator {name}`"
        );
    }
    format!(
        "`countersign token create {spiffe_id}`, by an operator, and with that token: \
         `countersign issue {spiffe_id} --out DIR --attest token --token-file FILE`"
    )
}

pub(crate) fn refused(why: impl Into<String>, next_step: impl Into<String>) -> Error {
    Error::Attestation { why: why.into(), next_step: next_step.into() }
}

/// What the transaction refused, told as the earlier checks would have told it.
pub(crate) fn refusal(conflict: Conflict, spiffe_id: &SpiffeId) -> Error {
    let kind = TokenKind::needed_by(Some(spiffe_id));
    let new_token = kind.another();
    match conflict {
        Conflict::TokenExpired
        | Conflict::TokenKey
        | Conflict::TokenRevoked
        | Conflict::TokenUnknown
        | Conflict::TokenUsed => refused(conflict.to_string(), new_token),
        Conflict::RenewalRevoked => {
            refused(conflict.to_string(), format!("attest again: {}", again_by_token(spiffe_id)))
        }
        Conflict::LineageBroken | Conflict::RenewedTwice => refused(
            conflict.to_string(),
            format!(
                "somebody else may hold your key: `countersign revoke {spiffe_id} --reason \
                 key-compromise`, by {}",
                kind.begun_again()
            ),
        ),
        other => Error::Conflict(other),
    }
}

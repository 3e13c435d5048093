//! Attestors: from evidence to a principal with facts.

pub(crate) mod proof;
pub(crate) mod svid;
pub(crate) mod token;

use std::net::IpAddr;

use identity::{SerialNumber, SpiffeId};
use issuance::DnsName;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::event::{Event, OPERATOR_CREATE, TOKEN_CREATE};
use crate::policy::{Action, Principal};
use crate::sequencer::{Conflict, Consumes};

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

/// What a bootstrap token makes of its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// A workload; or an operator whom it was made by.
    Bootstrap,
    /// An operator whom another added.
    NewOperator,
}

impl TokenKind {
    /// The kind of the event that makes one.
    pub(crate) fn event(self) -> &'static str {
        match self {
            Self::Bootstrap => TOKEN_CREATE,
            Self::NewOperator => OPERATOR_CREATE,
        }
    }

    /// What its maker must be allowed.
    pub(crate) fn action(self) -> Action {
        match self {
            Self::Bootstrap => Action::CreateToken,
            Self::NewOperator => Action::AddOperator,
        }
    }

    /// The kind that whoever asks to be this identity needs, where the token that is shown tells none.
    pub(crate) fn needed_by(asked: Option<&SpiffeId>) -> Self {
        match asked.and_then(SpiffeId::operator_name) {
            Some(_) => Self::NewOperator,
            None => Self::Bootstrap,
        }
    }

    /// How whoever holds one that counts no more gets another.
    pub(crate) fn another(self) -> &'static str {
        match self {
            Self::Bootstrap => token::NEW_TOKEN,
            Self::NewOperator => token::ADD_AGAIN,
        }
    }

    /// Who revokes what is in the wrong hands, and what begins a new line then.
    pub(crate) fn begun_again(self) -> &'static str {
        match self {
            Self::Bootstrap => {
                "an operator; then `countersign token create SPIFFE_ID`, and with that token: countersign \
                 issue SPIFFE_ID --out DIR --token-file FILE"
            }
            Self::NewOperator => {
                "another operator; then `countersign operator add NAME --again`, and with its token: \
                 `countersign operator join NAME --url URL`. Without another, on the CA's host: \
                 countersign init --recover"
            }
        }
    }

    /// The kind that an event of this kind makes, if any.
    pub(crate) fn made_by(event: &str) -> Option<Self> {
        [Self::Bootstrap, Self::NewOperator].into_iter().find(|kind| kind.event() == event)
    }
}

/// Who made a token that is not used yet, and with which certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Maker {
    /// What they made.
    pub(crate) kind: TokenKind,
    pub(crate) spiffe_id: SpiffeId,
    pub(crate) serial_number: SerialNumber,
    /// The place of the event that made it.
    pub(crate) made_at: u64,
    /// The id of what they made.
    pub(crate) token: String,
}

impl Maker {
    /// As the event at this place tells; none where it names no certificate.
    pub(crate) fn read(event: &Event, made_at: u64) -> Option<Self> {
        let kind = TokenKind::made_by(&event.kind)?;
        let serial_number = event.detail["made_with"].as_str()?.parse().ok()?;
        let spiffe_id = SpiffeId::parse(&event.actor).ok()?;
        let token = event.detail["id"].as_str()?.to_owned();
        Some(Self { kind, spiffe_id, serial_number, made_at, token })
    }
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

/// What the store keeps of how a certificate came to be. Fields are sorted: the JSON is canonical.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) attested_at: u64,
    pub(crate) attestor: String,
    pub(crate) dns: Vec<DnsName>,
    pub(crate) ip: Vec<IpAddr>,
    pub(crate) lineage: SerialNumber,
    /// None where an earlier version wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) names_from: Option<NamesFrom>,
    pub(crate) policies: Vec<String>,
    pub(crate) principal: String,
    pub(crate) validity_seconds: u64,
}

impl Facts {
    pub(crate) fn names(&self) -> Names {
        Names { dns: self.dns.clone(), ip: self.ip.clone() }
    }

    /// Before rows had a say, whoever asked for none had none.
    pub(crate) fn names_from(&self) -> NamesFrom {
        let of_before = if self.names().is_empty() { NamesFrom::Row } else { NamesFrom::Request };
        self.names_from.unwrap_or(of_before)
    }
}

/// Names beside the SPIFFE ID.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) dns: Vec<DnsName>,
    pub(crate) ip: Vec<IpAddr>,
}

impl Names {
    pub(crate) fn is_empty(&self) -> bool {
        self.dns.is_empty() && self.ip.is_empty()
    }
}

/// Who chose the names of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NamesFrom {
    /// Whoever asked, by naming them, or by asking for none.
    Request,
    /// The workload table: nobody spoke of names. A renewal has those of the row as it is then.
    Row,
}

/// The attestors' names, as policies see them.
pub(crate) const INTERNAL: &str = "internal";
pub(crate) const SVID: &str = "svid";
pub(crate) const TOKEN: &str = "token";

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_version_wrote_has_names_of_whoever_named_some() {
        for (dns, expected) in [("[\"a.internal\"]", NamesFrom::Request), ("[]", NamesFrom::Row)] {
            let facts = format!(
                "{{\"attested_at\":0,\"attestor\":\"token\",\"dns\":{dns},\"ip\":[],\"lineage\":\"01\",\
                 \"policies\":[],\"principal\":\"a\",\"validity_seconds\":1}}"
            );
            let read: Facts = serde_json::from_str(&facts).unwrap();
            assert_eq!(read.names_from(), expected);
            assert_eq!(serde_json::to_string(&read).unwrap(), facts);
        }
    }
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

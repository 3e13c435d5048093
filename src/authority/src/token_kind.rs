//! Bootstrap tokens: what they make of whoever shows them, and by whom they were made.

use identity::{SerialNumber, SpiffeId};

use crate::event::{Event, OPERATOR_CREATE, TOKEN_CREATE};
use crate::policy::Action;
use crate::sequencer::TokenRow;

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
            Self::Bootstrap => NEW_TOKEN,
            Self::NewOperator => ADD_AGAIN,
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
                 countersign init --recover --operator NAME"
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

/// Whether this event made the token of this row.
pub(crate) fn is_made_by(event: &Event, row: &TokenRow) -> bool {
    TokenKind::made_by(&event.kind).is_some()
        && event.subject == row.spiffe_id.as_str()
        && event.detail["token_sha256"] == format!("{:?}", row.hash)
        && event.detail["expires_at"] == row.expires_at
        && event.detail["key_sha256"]
            == serde_json::json!(row.key_hash.map(|hash| format!("{hash:?}")))
}

pub(crate) const NEW_TOKEN: &str =
    "ask an operator for a new one: countersign token create SPIFFE_ID";
pub(crate) const ADD_AGAIN: &str = "ask who added you for a new one: `countersign operator add NAME`, \
                                    by an operator, with --again where you had one before";

pub(crate) const WITHDRAWN: &str = "the token was revoked";

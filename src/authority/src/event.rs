//! Events: the log's entries that are no certificates, as canonical JSON (RFC 8785).

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An event before it has a time and a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventDraft {
    kind: &'static str,
    actor: String,
    subject: String,
    request_id: String,
    detail: String,
}

impl EventDraft {
    /// Drafts an event. `detail` must serialize to an object whose fields are sorted by name and
    /// hold no floating-point number: then its JSON is canonical. Never a secret.
    pub fn new(kind: &'static str, by: &Act<'_>, subject: &str, detail: &impl Serialize) -> Self {
        Self {
            kind,
            actor: by.actor.to_owned(),
            subject: subject.to_owned(),
            request_id: by.request_id.to_owned(),
            detail: serde_json::to_string(detail).expect("details are plain data"),
        }
    }

    /// The kind: `issue`, `revoke`, …
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The entry's bytes, at a time in RFC 3339.
    pub(crate) fn render(&self, at: &str) -> Vec<u8> {
        let string = |text: &str| serde_json::to_string(text).expect("a string is plain data");
        format!(
            r#"{{"actor":{},"at":"{at}","detail":{},"request_id":{},"subject":{},"type":"{}","v":1}}"#,
            string(&self.actor),
            self.detail,
            string(&self.request_id),
            string(&self.subject),
            self.kind,
        )
        .into_bytes()
    }
}

/// Who does something, and in which request.
#[derive(Debug, Clone, Copy)]
pub struct Act<'a> {
    /// A SPIFFE ID, `authority`, or `init`.
    pub actor: &'a str,
    /// The request's id.
    pub request_id: &'a str,
}

/// An event read back from the log.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Who.
    pub actor: String,
    /// When, RFC 3339.
    pub at: String,
    /// What the kind says more.
    pub detail: Value,
    /// In which request.
    pub request_id: String,
    /// On whom or what.
    pub subject: String,
    /// The kind.
    #[serde(rename = "type")]
    pub kind: String,
    /// The form's version, 1.
    pub v: u32,
}

impl Event {
    /// Parses an entry.
    pub fn parse(entry: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(entry)
    }
}

/// Whether an entry is an event of a kind: events end with it, so that most need not be parsed.
pub(crate) fn is_of(entry: &[u8], kind: &str) -> bool {
    let end = entry.strip_suffix(br#"","v":1}"#).and_then(|it| it.strip_suffix(kind.as_bytes()));
    end.is_some_and(|it| it.ends_with(br#""type":""#))
}

/// Whether an entry of the log grants nothing, whoever reads it.
pub(crate) fn restricts(entry: &[u8]) -> bool {
    RESTRICTING.iter().any(|kind| is_of(entry, kind))
}

/// Kinds that the fold reads: what moves the state that commits are checked against.
pub(crate) const FOLDING: &[&str] = &[
    ALLOW,
    CLOCK_RESET,
    DENY,
    HALT_LIFT,
    KEY_ACTIVATE,
    KEY_PREPARE,
    KEY_RETIRE,
    LOG_GENESIS,
    OPERATOR_CREATE,
    POLICY_CHANGE,
    RENEW_CONFLICT,
    REVOKE,
    TOKEN_REVOKE,
];

/// Those of them that only take away: whoever is told of one that never was is refused for no reason,
/// and nobody is let in.
pub(crate) const RESTRICTING: &[&str] = &[DENY, RENEW_CONFLICT, REVOKE, TOKEN_REVOKE];

pub(crate) const ALLOW: &str = "allow";
pub(crate) const CLOCK_RESET: &str = "clock.reset";
pub(crate) const CRL: &str = "crl";
pub(crate) const DENY: &str = "deny";
pub(crate) const EVIDENCE_DISCARD: &str = "evidence.discard";
pub(crate) const HALT_LIFT: &str = "halt.lift";
pub(crate) const ISSUE: &str = "issue";
pub(crate) const ISSUE_ABANDONED: &str = "issue.abandoned";
pub(crate) const ISSUE_LOST: &str = "issue.lost";
pub(crate) const ISSUE_REFUSED: &str = "issue.refused";
pub(crate) const ISSUED: &str = "issued";
pub(crate) const KEY_ACTIVATE: &str = "key.activate";
pub(crate) const KEY_ISSUER: &str = "key.issuer";
pub(crate) const KEY_PREPARE: &str = "key.prepare";
pub(crate) const KEY_RETIRE: &str = "key.retire";
pub(crate) const LOG_GENESIS: &str = "log.genesis";
pub(crate) const OPERATOR_CREATE: &str = "operator.create";
pub(crate) const POLICY_CHANGE: &str = "policy.change";
pub(crate) const RENEW: &str = "renew";
pub(crate) const RENEW_CONFLICT: &str = "renew.conflict";
pub(crate) const RENEW_UPGRADE: &str = "renew.upgrade";
pub(crate) const REVOKE: &str = "revoke";
pub(crate) const SEEN: &str = "seen";
pub(crate) const TOKEN_CREATE: &str = "token.create";
pub(crate) const TOKEN_REVOKE: &str = "token.revoke";
pub(crate) const TRUST_CHANGE: &str = "trust.change";
/// `init` signs it.
pub(crate) const FIRST_TRUST_STATE: u64 = 1;

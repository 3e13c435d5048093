//! The messages: JSON whose unknown fields are refused.

use serde::{Deserialize, Serialize};
use tlog::Hash;

use super::error::FeedError;
use super::hex;
use super::item::{FeedItem, Position};
use super::snapshot::SnapshotHead;
use crate::spiffe_id::TrustDomain;

/// A message of the feed, as its signer says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// The version of this form: 2.
    pub v: u32,
    /// The trust domain spoken of.
    pub trust_domain: TrustDomain,
    /// When it was signed, in milliseconds since 1970; a node's next message says no earlier time.
    pub at: u64,
    /// See [`Position::sequence`]: after this message, where it carries items.
    pub sequence: u64,
    /// See [`Position::hash`], lower-case hex.
    #[serde(with = "hex")]
    pub hash: Hash,
    /// What it carries.
    pub content: Content,
}

/// What a message carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// Items since an earlier position.
    Delta(Delta),
    /// No items: the position is the newest there is.
    Heartbeat(Heartbeat),
    /// The whole folded state, whose chunks follow.
    Snapshot(SnapshotHead),
}

/// Items since an earlier position, which is so bound to this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delta {
    /// The earlier position's sequence.
    pub previous_sequence: u64,
    /// The earlier position's hash.
    #[serde(with = "hex")]
    pub previous_hash: Hash,
    /// What came after it: at least one, their log indexes ascending.
    pub items: Vec<FeedItem>,
}

/// What else the CA stands at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// The log's newest checkpoint, a signed note.
    pub checkpoint: String,
    /// The sequence of the trust state in force.
    pub trust_sequence: u64,
    /// SHA-256 of its signed note.
    #[serde(with = "hex")]
    pub trust_hash: Hash,
}

/// What every version says.
#[derive(Deserialize)]
struct Versioned {
    v: u32,
}

impl Message {
    /// The version of the form.
    pub const VERSION: u32 = 2;

    /// The body that is signed and sent: compact JSON, on one line.
    pub fn body(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a message is plain data")
    }

    /// Where the feed stands after it.
    pub fn position(&self) -> Position {
        Position { sequence: self.sequence, hash: self.hash }
    }

    /// Reads a body whose signature was verified.
    pub(super) fn parse_verified(body: &[u8]) -> Result<Self, FeedError> {
        let unread = |error: serde_json::Error| FeedError::Message(error.to_string());
        // Of another version nothing else can be known: not that its fields are these.
        let Versioned { v } = serde_json::from_slice(body).map_err(unread)?;
        if v != Self::VERSION {
            return Err(FeedError::Version { v });
        }
        let message: Self = serde_json::from_slice(body).map_err(unread)?;
        match &message.content {
            Content::Delta(delta) => delta.require_chain(message.position())?,
            Content::Heartbeat(_) => {}
            Content::Snapshot(head) => head.require_bound()?,
        }
        Ok(message)
    }
}

impl Delta {
    /// The earlier position.
    pub fn previous(&self) -> Position {
        Position { sequence: self.previous_sequence, hash: self.previous_hash }
    }

    /// The items must lead from the earlier position to the one claimed.
    fn require_chain(&self, claimed: Position) -> Result<(), FeedError> {
        let mut position = self.previous();
        for item in &self.items {
            if item.log_index <= position.sequence {
                return Err(FeedError::Chain { sequence: claimed.sequence });
            }
            position = position.after(item);
        }
        if self.items.is_empty() || position != claimed {
            return Err(FeedError::Chain { sequence: claimed.sequence });
        }
        Ok(())
    }
}

//! What changed, and how far a fold has come.

use std::fmt;

use serde::{Deserialize, Serialize};
use tlog::Hash;

use crate::revocations::Revocations;
use crate::serial_number::SerialNumber;
use crate::spiffe_id::{SpiffeId, TrustDomain};

/// A revoking event of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedItem {
    /// The event's place in the log; never 0, where the log's genesis stands.
    pub log_index: u64,
    /// What it changes.
    pub change: FeedChange,
}

/// What a revoking event changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FeedChange {
    /// The identity is denied no more; what was revoked stays revoked.
    Allow(SpiffeId),
    /// The identity is denied until it is allowed again, and revoked as by `RevokeIdentity`.
    Deny(SpiffeId),
    /// The identity's certificates whose leaf stands before the event are revoked.
    RevokeIdentity(SpiffeId),
    /// One certificate is revoked.
    RevokeSerial {
        /// Which one.
        serial_number: SerialNumber,
        /// Its last second, since 1970, or a later one: what is revoked until then may be forgotten
        /// a day after it.
        until: u64,
    },
}

impl FeedItem {
    /// Applies it to what a verifier holds.
    pub fn apply(&self, held: &mut Revocations) {
        match &self.change {
            FeedChange::Allow(id) => held.allow(id),
            FeedChange::Deny(id) => held.deny(id.clone(), self.log_index),
            FeedChange::RevokeIdentity(id) => held.revoke_identity(id.clone(), self.log_index),
            FeedChange::RevokeSerial { serial_number, until } => {
                held.revoke_serial_until(*serial_number, *until);
                held.spared.insist_on(serial_number);
            }
        }
    }
}

/// The line that the hash chain covers: index, kind and target; none of them has a space. Until when
/// it counts is for the message's signature alone.
impl fmt::Display for FeedItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.log_index)?;
        match &self.change {
            FeedChange::Allow(id) => write!(f, "allow {id}"),
            FeedChange::Deny(id) => write!(f, "deny {id}"),
            FeedChange::RevokeIdentity(id) => write!(f, "revoke_identity {id}"),
            FeedChange::RevokeSerial { serial_number, .. } => {
                write!(f, "revoke_serial {serial_number}")
            }
        }
    }
}

/// How far the feed was folded: the same for everyone who has folded the same items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The log index of the newest item. 0 before the first: entry 0 is the log's genesis, and
    /// revokes nothing.
    pub sequence: u64,
    /// The hash chain over all items so far.
    pub hash: Hash,
}

impl Position {
    /// Before the first item of a trust domain's feed.
    pub fn genesis(trust_domain: &TrustDomain) -> Self {
        let text = format!("{GENESIS}{trust_domain}\n");
        Self { sequence: 0, hash: Hash::of(text.as_bytes()) }
    }

    /// After one more item: SHA-256 over the hash before, in 32 bytes, and the item's line.
    #[must_use]
    pub fn after(&self, item: &FeedItem) -> Self {
        let mut link = self.hash.as_bytes().to_vec();
        link.extend_from_slice(format!("{item}\n").as_bytes());
        Self { sequence: item.log_index, hash: Hash::of(&link) }
    }
}

const GENESIS: &str = "countersign-feed-genesis/v1\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn items() -> Vec<FeedItem> {
        let id = || SpiffeId::parse("spiffe://pay.example/prod/reports").unwrap();
        let changes = [
            FeedChange::RevokeSerial {
                serial_number: "8f2c".parse().unwrap(),
                until: 1_795_262_400,
            },
            FeedChange::RevokeIdentity(id()),
            FeedChange::Deny(id()),
            FeedChange::Allow(id()),
        ];
        (7..).zip(changes).map(|(log_index, change)| FeedItem { log_index, change }).collect()
    }

    #[test]
    fn each_item_has_its_own_line() {
        let lines: Vec<String> = items().iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "7 revoke_serial 8f2c",
                "8 revoke_identity spiffe://pay.example/prod/reports",
                "9 deny spiffe://pay.example/prod/reports",
                "10 allow spiffe://pay.example/prod/reports",
            ]
        );
    }

    /// Nodes of other versions continue this chain: it never changes.
    #[test]
    fn the_chain_has_the_hashes_that_it_always_had() {
        let genesis = Position::genesis(&TrustDomain::parse("pay.example").unwrap());
        let newest = items().iter().fold(genesis, |position, item| position.after(item));
        assert_eq!(newest.sequence, 10);
        assert_eq!(
            genesis.hash.to_hex(),
            "9ec01bff0100fba0190711a2432b31d14e7b0ba3543a70f82041533b0cde2c19"
        );
        assert_eq!(
            newest.hash.to_hex(),
            "f6091299c286239549933a86a716b120a717af6fc027c236df23af8693f69694"
        );
    }

    #[test]
    fn items_are_read_as_they_are_written() {
        let json = serde_json::to_string(&items()[..2]).unwrap();
        assert_eq!(
            json,
            r#"[{"log_index":7,"change":{"revoke_serial":{"serial_number":"8f2c","until":1795262400}}},{"log_index":8,"change":{"revoke_identity":"spiffe://pay.example/prod/reports"}}]"#
        );
        assert_eq!(serde_json::from_str::<Vec<FeedItem>>(&json).unwrap(), items()[..2]);
    }
}

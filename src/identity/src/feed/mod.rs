//! The revocation feed: its messages, their signature, and the fold that both ends share.
//!
//! The feed is the log's revoking events in order, each a [`FeedItem`]. Whoever has folded the same
//! items is at the same [`Position`]: the log index of the newest one, and a hash chain over all of
//! them since genesis, so that any node of a CA derives it from the log. Three kinds of [`Message`]
//! carry it: a snapshot of the folded state, a delta of further items, and a heartbeat without any.
//!
//! On the wire a message is an [`Envelope`], one line: the feed key's id, its signature, the body.
//! [`Envelope::verify`] reads the body only after its signature; [`FeedState::accept`] then tells
//! what to do with it, and notices what was cut, replayed, reordered, forked or rolled back. A
//! snapshot's message names the chunks that follow it, a line each; an [`Assembly`] takes them.
//!
//! A feed says what was revoked, and an online key signs it: what is trusted is for the trust
//! state's keys alone. A thief of the feed key can revoke and deny without right and lift denials;
//! it makes no certificate good that is revoked for those who have heard of it.
//!
//! ```text
//! subscriber                                CA
//!   │  GET /v1/feed?after=N                  │
//!   │◄───────────────── snapshot  (17, h17) ─┤  unless N is where the CA can go on from
//!   │◄───────────────── chunk 1, 2, … of it ─┤
//!   │◄────────────── heartbeat    (17, h17) ─┤  every 2 s
//!   │◄──────── delta (17, h17) → (23, h23)  ─┤  before the call that revoked returns
//!   │◄────────────── heartbeat    (31, h31) ─┤  a gap: ask again, after 23
//! ```

mod bounds;
mod envelope;
mod error;
mod hex;
mod item;
mod message;
mod snapshot;
mod state;

pub use bounds::{MAX_CHUNK, MAX_CHUNKS, MAX_LINE};
pub use envelope::{Envelope, Line, VerifiedMessage, signed_text};
pub use error::FeedError;
pub use item::{FeedChange, FeedItem, Position};
pub use message::{Content, Delta, Heartbeat, Message};
pub use snapshot::{Assembly, RevokedIdentity, Snapshot, SnapshotHead};
pub use state::{FeedState, FeedUpdate};

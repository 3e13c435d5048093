//! Where a subscriber stands, and what a verified message means from there.

use tlog::{Checkpoint, Hash};

use super::envelope::VerifiedMessage;
use super::error::FeedError;
use super::item::{FeedItem, Position};
use super::message::{Content, Delta, Message};
use super::snapshot::{Assembly, Snapshot};
use crate::revocations::Revocations;
use crate::spiffe_id::TrustDomain;

/// Where a subscriber stands: at genesis without revocations, to begin with.
///
/// It moves only with what [`accept`](Self::accept) tells the subscriber to apply. How fresh the
/// feed is follows from [`newest_at`](Self::newest_at), which replays do not move, and not from
/// when something came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedState {
    trust_domain: TrustDomain,
    position: Position,
    newest_at: Option<u64>,
    announced: Option<Announced>,
}

/// What the newest heartbeat said beside the position.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Announced {
    checkpoint: Checkpoint,
    note: String,
    trust_sequence: u64,
    trust_hash: Hash,
}

/// What a message asks the subscriber to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "the state has moved: what it says must be applied"]
pub enum FeedUpdate {
    /// Fold these further items.
    Apply(Vec<FeedItem>),
    /// Give it the chunks that follow, then [`FeedState::complete`] it. The state has not moved.
    Assemble(Assembly),
    /// Items are missing: ask again after the sequence held, or for a snapshot.
    Gap,
    /// Nothing is new.
    Nothing,
    /// Come up to this state.
    Replace(Snapshot),
}

impl FeedUpdate {
    /// Applies it to what a verifier holds.
    pub fn apply(self, held: &mut Revocations) {
        match self {
            Self::Apply(items) => items.iter().for_each(|item| item.apply(held)),
            Self::Assemble(_) | Self::Gap | Self::Nothing => {}
            Self::Replace(snapshot) => snapshot.apply(held),
        }
    }
}

impl FeedState {
    /// At genesis: nothing is revoked, and nothing was heard.
    pub fn new(trust_domain: TrustDomain) -> Self {
        let position = Position::genesis(&trust_domain);
        Self { trust_domain, position, newest_at: None, announced: None }
    }

    /// How far the feed was folded.
    pub fn position(&self) -> Position {
        self.position
    }

    /// When the newest message taken was signed, in milliseconds since 1970; none before the first.
    /// Messages from the future do not count: see [`accept`](Self::accept).
    pub fn newest_at(&self) -> Option<u64> {
        self.newest_at
    }

    /// The newest checkpoint seen, verified, as its signed note: what to show the CA.
    pub fn checkpoint(&self) -> Option<&str> {
        self.announced.as_ref().map(|announced| announced.note.as_str())
    }

    /// The size of the newest checkpoint seen.
    pub fn checkpoint_size(&self) -> Option<u64> {
        self.announced.as_ref().map(|announced| announced.checkpoint.size)
    }

    /// Sequence and SHA-256 (of the signed note) of the trust state that the CA has in force.
    pub fn trust(&self) -> Option<(u64, Hash)> {
        self.announced.as_ref().map(|announced| (announced.trust_sequence, announced.trust_hash))
    }

    /// Takes a message, at the subscriber's time in milliseconds since 1970, and tells what to do.
    ///
    /// An error, a gap or a snapshot's head changes nothing. Otherwise the state has moved, and the subscriber must
    /// apply what it is told.
    ///
    /// A message that says it was signed more than a minute from now is taken like any other, since
    /// what it revokes is revoked, whichever clock is wrong: the feed key signed it, and whoever has
    /// that key could as well have named the right time. Only its time is not believed:
    /// [`newest_at`](Self::newest_at) stays, so that it confirms nothing, and what is signed by the
    /// right time is no replay.
    pub fn accept(&mut self, message: VerifiedMessage, now: u64) -> Result<FeedUpdate, FeedError> {
        let VerifiedMessage { message, checkpoint } = message;
        self.require_own(&message)?;
        let (position, at) = (message.position(), message.at);
        self.require_no_replay(at)?;
        self.require_no_rollback(position, at)?;
        let update = match message.content {
            Content::Delta(delta) => self.continue_with(delta, position)?,
            Content::Snapshot(head) => {
                let assembly = Assembly::new(position, at, head);
                if assembly.missing() == 0 {
                    return self.complete(assembly, now);
                }
                FeedUpdate::Assemble(assembly)
            }
            Content::Heartbeat(_) if position.sequence > self.position.sequence => FeedUpdate::Gap,
            Content::Heartbeat(heartbeat) => {
                let checkpoint = checkpoint.expect("a verified heartbeat has its checkpoint");
                self.require_growth(&checkpoint)?;
                self.announced = Some(Announced {
                    checkpoint,
                    note: heartbeat.checkpoint,
                    trust_sequence: heartbeat.trust_sequence,
                    trust_hash: heartbeat.trust_hash,
                });
                FeedUpdate::Nothing
            }
        };
        if !matches!(update, FeedUpdate::Assemble(_) | FeedUpdate::Gap) {
            self.settle(position, at, now);
        }
        Ok(update)
    }

    /// Takes a snapshot whose chunks have all come, at the subscriber's time, and tells what to do.
    /// An error changes nothing.
    pub fn complete(&mut self, assembly: Assembly, now: u64) -> Result<FeedUpdate, FeedError> {
        let (position, at) = (assembly.position, assembly.at);
        let snapshot = assembly.complete()?;
        self.require_no_replay(at)?;
        self.require_no_rollback(position, at)?;
        let is_new = position.sequence > self.position.sequence;
        self.settle(position, at, now);
        Ok(if is_new { FeedUpdate::Replace(snapshot) } else { FeedUpdate::Nothing })
    }

    fn settle(&mut self, position: Position, at: u64, now: u64) {
        self.position = position;
        if at.saturating_sub(now) <= MAX_AHEAD {
            self.newest_at = self.newest_at.max(Some(at));
        }
    }

    fn require_own(&self, message: &Message) -> Result<(), FeedError> {
        if message.trust_domain != self.trust_domain {
            return Err(FeedError::TrustDomain {
                held: self.trust_domain.to_string(),
                offered: message.trust_domain.to_string(),
            });
        }
        Ok(())
    }

    fn require_no_replay(&self, at: u64) -> Result<(), FeedError> {
        let behind = self.newest_at.unwrap_or_default().saturating_sub(at);
        if behind > MAX_BEHIND {
            return Err(FeedError::Replayed { behind });
        }
        Ok(())
    }

    fn require_no_rollback(&self, position: Position, at: u64) -> Result<(), FeedError> {
        let (held, offered) = (self.position.sequence, position.sequence);
        if offered < held && self.newest_at.is_some_and(|newest| at < newest) {
            return Err(FeedError::Reordered { held, offered });
        }
        if offered < held {
            return Err(FeedError::Rollback { held, offered });
        }
        if offered == held && position.hash != self.position.hash {
            return Err(FeedError::Fork { sequence: held });
        }
        Ok(())
    }

    /// The items after the position held. They may begin before it, where the CA grouped them
    /// otherwise; then they must lead through it.
    fn continue_with(&self, delta: Delta, position: Position) -> Result<FeedUpdate, FeedError> {
        let held = self.position;
        let mut passed = delta.previous();
        if passed.sequence > held.sequence {
            return Ok(FeedUpdate::Gap);
        }
        let mut items = delta.items.into_iter().peekable();
        while let Some(item) = items.next_if(|item| item.log_index <= held.sequence) {
            passed = passed.after(&item);
        }
        if passed != held {
            return Err(FeedError::Fork { sequence: held.sequence });
        }
        if position == held {
            return Ok(FeedUpdate::Nothing);
        }
        Ok(FeedUpdate::Apply(items.collect()))
    }

    fn require_growth(&self, checkpoint: &Checkpoint) -> Result<(), FeedError> {
        let Some(Announced { checkpoint: held, .. }) = &self.announced else { return Ok(()) };
        let (held, offered) = ((held.size, held.root), (checkpoint.size, checkpoint.root));
        if offered.0 < held.0 {
            return Err(FeedError::CheckpointRollback { held: held.0, offered: offered.0 });
        }
        if offered.0 == held.0 && offered.1 != held.1 {
            return Err(FeedError::CheckpointFork { size: held.0 });
        }
        Ok(())
    }
}

/// Nodes of one CA may differ by this much; what is older was kept and sent again.
const MAX_BEHIND: u64 = 10_000;
/// Clocks differ by as much as certificates are backdated.
const MAX_AHEAD: u64 = 60_000;

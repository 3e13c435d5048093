//! Sequencing: what becomes of a group of requests inside one transaction.
//!
//! [`plan()`] is a pure function. A store driver selects what [`Found`] asks for under the head lock,
//! calls it, and writes the [`Plan`] in the same transaction; so every driver orders, refuses and
//! builds entries alike, and the rules are tested without a database. A member that fails, fails
//! alone.

mod conflict;
mod found;
mod head;
mod member;
mod news;
mod outcome;
mod plan;
mod planned;
mod record;

pub use conflict::Conflict;
pub(crate) use found::KEPT_MILLISECONDS;
pub use found::{Found, KeptRequest, LeafRow, TokenRow};
pub use head::Head;
pub use member::{
    ActMember, AllowedUnder, CertificateMember, ChangedKeys, CompleteMember, Consumes, CrlRow,
    Effect, IdempotencyKey, Member, Named, OnceMember, RecordDraft, Renewed, RevocationTarget,
    TokenDraft,
};
pub use news::News;
pub use outcome::{Acted, Completed, Outcome, Receipt, Standing, Unlogged};
pub(crate) use plan::COMPLETION_MILLISECONDS;
pub(crate) use plan::require_clock;
pub use plan::{ClockBehind, plan};
pub use planned::{Entry, Plan, Row};
pub use record::Record;

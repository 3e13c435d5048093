//! Policy: Cedar over the workload table. Deny by default, and any evaluation error is a deny.
//!
//! A policy set is every file of a policies folder, named by one hash. It is parsed and validated
//! strictly against its schema before it can become active; decisions are cached within one set.
//! What the CA needs to go on depends on no set (`own`, `way_on`), and no text uses up a stack (`nesting`).

mod active;
mod bounds;
mod decisions;
mod error;
mod evaluation;
mod files;
mod named_paths;
mod nesting;
mod own;
mod parsing;
mod query;
mod set;
mod way_on;
pub mod workloads;

pub use active::ActivePolicy;
pub use error::{Claim, NotPermitted, PolicyError};
pub use files::{DEFAULT_PROFILE, SHIPPED_POLICIES, SHIPPED_WORKLOADS};
pub use query::{Action, Decision, IssueContext, Principal, Query};
pub use set::PolicySet;
pub use way_on::OPERATOR_LIFE;
pub(crate) use way_on::{able, administers, require_operator};

//! What goes over the wire between Countersign's service and its callers: JSON bodies, problems
//! (RFC 9457) and paths. Shapes only; what they mean is `authority`'s business.
//!
//! Times are RFC 3339 in UTC, serial numbers lower-case hex, certificates PEM. Unknown fields of
//! requests are refused; unknown fields of responses are for newer clients and ignored.

mod acts;
mod certificates;
mod fleet;
mod keys;
mod life;
mod operators;
mod page;
pub mod paths;
mod policies;
mod problem;
mod revocations;
#[cfg(feature = "openapi")]
pub mod schema;
mod secret;
mod status;
mod token;
mod ttl;

pub use acts::{ActFilter, ActOnRecord};
pub use certificates::*;
pub use fleet::*;
pub use keys::*;
pub use life::LifeLeft;
pub use operators::*;
pub use page::Page;
pub use policies::*;
pub use problem::{ABANDONED, Problem, ProblemType, UNSURE};
pub use revocations::*;
pub use secret::Secret;
pub use status::*;
pub use token::*;
pub use ttl::Ttl;

//! What goes over the wire between Countersign's service and its callers: JSON bodies, problems
//! (RFC 9457) and paths. Shapes only; what they mean is `authority`'s business.
//!
//! Times are RFC 3339 in UTC, serial numbers lower-case hex, certificates PEM. Unknown fields of
//! requests are refused; unknown fields of responses are for newer clients and ignored.

mod acts;
mod fleet;
mod keys;
mod life;
pub mod paths;
mod problem;
#[cfg(feature = "openapi")]
pub mod schema;
mod secret;
mod token;
mod ttl;
mod v1;

pub use acts::{ActFilter, ActOnRecord};
pub use fleet::*;
pub use keys::*;
pub use life::{LifeLeft, LifeWarning};
pub use problem::{ABANDONED, Problem, ProblemType, UNSURE};
pub use secret::Secret;
pub use token::BootstrapToken;
pub use ttl::Ttl;
pub use v1::*;

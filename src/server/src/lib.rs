//! The CA service: HTTP in front of the engine, and nothing that the engine should know.
//!
//! In scope: [`Config`], the routes (one table, [`ROUTES`]), errors as problems (RFC 9457), limits,
//! the CA's own certificate, the admin port, and a graceful end. Everything about certificates is
//! `authority`'s; TLS and the accept loop are the sidecar library's, as for any other service.
//!
//! A client certificate is asked for, not required; one that is shown and fails is refused in the
//! handshake. Requests without one may fetch what is signed or public, and attest.

mod admin;
mod bodies;
mod caller;
mod capacity;
mod config;
mod diagnostics;
mod ending;
mod error;
mod exposition;
mod leftover;
mod measures;
mod negotiation;
mod openapi;
mod own_certificate;
mod policy_sets;
mod problem;
mod rate;
mod readiness;
mod routes;
mod run;

pub use capacity::{BLOCKING_THREADS, Capacity, STOPPED_WITHIN};
pub use config::{
    BudgetsConfig, Config, ConfigError, DEFAULT_PATH, Fault, KeysConfig, without_source,
};
pub use error::ServerError;
pub use readiness::AsTyped;
pub use routes::{Access, ROUTES};
pub use run::{Running, start};

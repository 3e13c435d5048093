//! What a verifier must know about identities, without I/O, clock or environment.
//!
//! In scope: [`SpiffeId`] and [`TrustDomain`]; the signed [`TrustState`] with its thresholds and
//! the [`TrustPin`] that a workload starts from; the [`Revocations`] a verifier holds; and
//! [`verify()`], the one function that decides whether a chain is a believable X.509-SVID, with its
//! [`Refusal`]. Library, agent, server, CLI and auditor all call this same function. And [`feed`]:
//! what messages about revocations mean, and whether they can be believed. And how text and PEM of
//! other people's tools are read: [`utf8_text`], [`pem_blocks`].
//!
//! Not in scope: who may talk to whom (`Peers`, in the sidecar), how the feed's messages travel
//! (server and sidecar), and how certificates are made (`issuance`).
//!
//! ```
//! use identity::{SpiffeId, TrustDomain};
//!
//! let id = SpiffeId::parse("spiffe://pay.example/prod/reports")?;
//! assert_eq!(id.path(), "/prod/reports");
//! assert!(id.is_member_of(&TrustDomain::parse("pay.example")?));
//! assert!(SpiffeId::parse("spiffe://pay.example/prod/../root").is_err());
//! # Ok::<(), identity::Error>(())
//! ```

mod bundle;
mod der;
mod error;
pub mod feed;
mod holding_back;
mod pem;
mod refusal;
mod revocations;
mod serial_number;
mod spared;
mod spiffe_id;
mod text;
mod trust_state;
mod verify;

pub use bundle::pem;
pub use der::{Der, Spki};
pub use error::{Error, SpiffeIdRule};
pub use pem::{PemBlock, PemError, is_pem, is_pkcs7, pem_blocks};
pub use refusal::{CountersignatureRule, Refusal, SvidRule};
pub use revocations::Revocations;
pub use serial_number::SerialNumber;
pub use spared::Spared;
pub use spiffe_id::{SpiffeId, TrustDomain};
pub use text::{ByteOrder, TextFault, unmarked, utf8_text, without_values};
pub use trust_state::{
    Anchor, Countersignature, CountersignatureKey, LogKey, TrustPin, TrustState,
};
pub use verify::{Trust, Usage, VerifiedSvid, leads_to_anchor, verify, verify_issuer};

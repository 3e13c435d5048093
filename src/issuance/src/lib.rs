//! From a certificate request to linted bytes that a key may sign, without I/O, clock, randomness
//! or environment: they come in as arguments.
//!
//! In scope: [`CertificateRequest`] (PKCS#10 with proof of possession), [`Profile`] (what a "yes"
//! of policy can mean), [`LintedTbs`] (the bytes that log and issuer see), [`lint`], CRLs
//! ([`prepare_crl`]) and CA certificates ([`prepare_root`], [`prepare_issuer`]).
//!
//! Not in scope: who may ask (`authority::policy`), and every key. rcgen builds all bytes, with a
//! key that signs nothing and hands out what it was asked to sign; of a request, only the verified
//! public key and the wishes for names are taken, because rcgen's own reading of requests mislabels
//! P-384 keys (rcgen#448) and copies `CA:TRUE`.
//!
//! The way of a certificate: [`CertificateRequest::parse_pem`] → policy says yes →
//! [`Profile::prepare`] → [`LintedTbs`] → the log → `tlog::splice_in` → signature → [`assemble`] →
//! [`equals_prepared`].

mod bounds;
mod crl;
mod dns_name;
mod end_entity;
mod error;
mod expected;
mod finding;
mod issuer;
pub mod lint;
mod octets;
mod profile;
mod request;
mod request_info;
mod requested;
mod requested_names;
mod serial;
mod tbs;

pub use bounds::MAX_REQUEST;
pub use crl::{
    RevocationList, RevocationReason, RevokedCertificate, SignedCrl, prepare_crl, verify_crl,
};
pub use dns_name::DnsName;
pub use end_entity::EndEntity;
pub use error::{Error, ProfileRule, RequestRule};
pub use issuer::{
    CaCertificate, IssuerCertificate, is_signed_by, prepare_issuer, prepare_issuer_request,
    prepare_root,
};
pub use profile::{CommonName, Profile, ProfileConfig, RevocationInformation};
pub use request::{CertificateRequest, KeyType};
pub use requested_names::RequestedNames;
pub use serial::serial_number;
pub use tbs::{LintedTbs, assemble, equals_prepared, same_request};

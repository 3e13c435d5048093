//! A certificate, step by step: each returns a type that only it can make, and takes the one before.

pub(crate) mod countersigner;
pub(crate) mod issuer;
pub(crate) mod logged;
pub(crate) mod request;
pub(crate) mod to_be_signed;

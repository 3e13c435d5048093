//! From evidence to who asks.

mod proof;
mod svid;
mod token;

pub(crate) use proof::Proof;

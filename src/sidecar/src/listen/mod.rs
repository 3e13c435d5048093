//! How one listens: who comes in, through which handshake, and with which place.

pub(crate) mod accept;
pub(crate) mod listener;
pub(crate) mod secure;

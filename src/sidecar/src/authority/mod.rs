//! The client of the CA: its HTTP API, its feed, and how trust in it begins.

pub(crate) mod bootstrap;
pub(crate) mod client;
mod exchange;
pub(crate) mod feed_stream;

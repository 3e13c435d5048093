//! How much a request may have.

/// A request with a 4096-bit RSA key and a hundred names fits well.
pub const MAX_REQUEST: usize = 16 * 1024;
/// More DNS and IP names than this is no workload.
pub(crate) const MAX_NAMES: usize = 100;

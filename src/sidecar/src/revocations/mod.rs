//! How revocations are heard: what a line of the feed means, what is kept of it for the next start,
//! and what is held back.

pub(crate) mod hold_back;
pub(crate) mod keeper;
pub(crate) mod kept;
pub(crate) mod lines;

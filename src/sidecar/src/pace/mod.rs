//! When to ask again: by time and by chance, so that a fleet never asks all at once.

pub(crate) mod renewal;
pub(crate) mod retry;

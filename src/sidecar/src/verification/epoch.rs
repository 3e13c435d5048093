//! Which trust and which revocations a verdict was made by.

/// Counts the changes of what a [`Verification`](crate::Verification) holds: what was verified in one
/// epoch says nothing about the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Epoch {
    /// Times that the trust was replaced.
    pub trust: u64,
    /// Times that the revocations were updated.
    pub revocations: u64,
}

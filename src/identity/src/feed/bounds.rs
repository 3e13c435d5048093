//! How much of a feed anybody takes at once.

/// The longest line in bytes: a head that names [`MAX_CHUNKS`] takes half of it.
pub const MAX_LINE: usize = 2 * 1024 * 1024;
/// The longest chunk in bytes: some 1,500 serial numbers.
pub const MAX_CHUNK: usize = 64 * 1024;
/// The most chunks of a snapshot: together 1 GiB, some 24 million serial numbers.
pub const MAX_CHUNKS: usize = 16 * 1024;

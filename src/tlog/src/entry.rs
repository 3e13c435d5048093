//! Log entries and the bundles in which C2SP tlog-tiles publishes them.

use crate::wire::Reader;
use crate::{Error, TILE_WIDTH};

/// The largest entry in bytes: bundles count it with a uint16 (C2SP tlog-tiles, "Log entries").
pub const MAX_ENTRY: usize = 65_535;

/// The kinds of entry, told apart by their first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A JSON object: it begins with `{`.
    Event,
    /// A [`CertificateLeaf`](crate::CertificateLeaf): it begins with 0x00, the leaf version v1.
    Leaf,
}

/// The kind of `entry` by its first byte, or `None` if it is neither; looks no further.
pub fn entry_kind(entry: &[u8]) -> Option<EntryKind> {
    match entry.first()? {
        0x00 => Some(EntryKind::Leaf),
        b'{' => Some(EntryKind::Event),
        _ => None,
    }
}

/// Appends `entry` to the bundle `out`: its length as a uint16, then its bytes (C2SP tlog-tiles).
///
/// Fails if it is longer than [`MAX_ENTRY`], and then leaves `out` as it was.
pub fn encode_bundle_entry(entry: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let length =
        u16::try_from(entry.len()).map_err(|_| Error::EntryTooLong { length: entry.len() })?;
    out.extend(length.to_be_bytes());
    out.extend(entry);
    Ok(())
}

/// The entries of a full or partial bundle, in log order (C2SP tlog-tiles, "Log entries").
///
/// Fails if there are more than [`TILE_WIDTH`] or the last one is cut off. Whether there are as
/// many as the [`Tile`](crate::Tile) is wide is left to the caller.
pub fn parse_bundle(bundle: &[u8]) -> Result<Vec<&[u8]>, Error> {
    let mut reader = Reader::new(bundle, "an entry bundle");
    let mut entries = Vec::new();
    while !reader.is_empty() {
        if entries.len() as u64 == TILE_WIDTH {
            return Err(Error::BundleTooWide);
        }
        entries.push(reader.vector16()?);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_byte_tells_the_kind() {
        assert_eq!(entry_kind(b"\0\0"), Some(EntryKind::Leaf));
        assert_eq!(entry_kind(b"{}"), Some(EntryKind::Event));
        assert_eq!(entry_kind(b"[]"), None);
        assert_eq!(entry_kind(b""), None);
    }

    #[test]
    fn bundle_gives_back_its_entries() {
        let entries = [&b"{}"[..], b"", &[7; MAX_ENTRY]];
        let mut bundle = Vec::new();
        for entry in entries {
            encode_bundle_entry(entry, &mut bundle).unwrap();
        }
        assert_eq!(parse_bundle(&bundle).unwrap(), entries);
        let cut = parse_bundle(&bundle[..bundle.len() - 1]);
        assert_eq!(cut, Err(Error::Truncated { what: "an entry bundle" }));
    }

    #[test]
    fn entry_too_long_for_its_prefix_is_refused() {
        let mut bundle = vec![1];
        let refused = encode_bundle_entry(&[7; MAX_ENTRY + 1], &mut bundle);
        assert_eq!(refused, Err(Error::EntryTooLong { length: MAX_ENTRY + 1 }));
        assert_eq!(bundle, [1]);
    }

    #[test]
    fn bundle_holds_256_entries_at_most() {
        assert_eq!(parse_bundle(&[0; 2 * 256]).map(|entries| entries.len()), Ok(256));
        assert_eq!(parse_bundle(&[0; 2 * 257]), Err(Error::BundleTooWide));
    }
}

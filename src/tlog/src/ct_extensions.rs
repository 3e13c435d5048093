//! `CtExtensions` of leaf and SCT: exactly one `leaf_index` ([C2SP static-ct-api]).
//!
//! [C2SP static-ct-api]: https://c2sp.org/static-ct-api

use crate::Error;
use crate::wire::Reader;

/// Total length (uint16), type `leaf_index`, its length (uint16), and a uint40.
pub(crate) fn encode_leaf_index(leaf_index: u64) -> Result<[u8; 10], Error> {
    let [0, 0, 0, a, b, c, d, e] = leaf_index.to_be_bytes() else {
        return Err(Error::LeafIndexTooLarge { leaf_index });
    };
    Ok([0, 8, 0, 0, 5, a, b, c, d, e])
}

/// Reads what [`encode_leaf_index`] writes, and nothing else.
pub(crate) fn read_leaf_index(reader: &mut Reader<'_>) -> Result<u64, Error> {
    match *reader.vector16()? {
        [0, 0, 5, a, b, c, d, e] => Ok(u64::from_be_bytes([0, 0, 0, a, b, c, d, e])),
        _ => Err(Error::LeafIndexExtension),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGEST: u64 = (1 << 40) - 1;

    fn read(bytes: &[u8]) -> Result<u64, Error> {
        read_leaf_index(&mut Reader::new(bytes, "test"))
    }

    #[test]
    fn leaf_index_has_40_bits() {
        for leaf_index in [0, 2, 0x01_0203_0405, LARGEST] {
            assert_eq!(read(&encode_leaf_index(leaf_index).unwrap()), Ok(leaf_index));
        }
        let refused = Err(Error::LeafIndexTooLarge { leaf_index: LARGEST + 1 });
        assert_eq!(encode_leaf_index(LARGEST + 1), refused);
    }

    #[test]
    fn anything_but_one_leaf_index_is_refused() {
        let refused = Err(Error::LeafIndexExtension);
        assert_eq!(read(&[0, 0]), refused, "no extension");
        assert_eq!(read(&[0, 8, 1, 0, 5, 0, 0, 0, 0, 2]), refused, "another type");
        assert_eq!(read(&[0, 7, 0, 0, 4, 0, 0, 0, 2]), refused, "another length");
        let twice = [0, 16, 0, 0, 5, 0, 0, 0, 0, 2, 0, 0, 5, 0, 0, 0, 0, 2];
        assert_eq!(read(&twice), refused, "two of them");
        assert_eq!(read(&[0, 8, 0, 0, 5, 0]), Err(Error::Truncated { what: "test" }));
    }
}

//! The log entry of a certificate.

use crate::ct_extensions::{encode_leaf_index, read_leaf_index};
use crate::signature::P256Key;
use crate::wire::Reader;
use crate::{
    Error, Hash, MAX_ENTRY, SignedCertificateTimestamp, log_id, splice_out, split_certificate,
};

/// The entry of one certificate: an RFC 6962 §3.4 `MerkleTreeLeaf` with a `precert_entry`.
///
/// Version and leaf type `timestamped_entry` are both 0, as are version and signature type
/// `certificate_timestamp` of §3.2: the encoded leaf is also exactly what the SCT signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateLeaf {
    /// When it was logged, in milliseconds since 1970-01-01 UTC.
    pub timestamp: u64,
    /// SHA-256 of the issuer's SubjectPublicKeyInfo in DER.
    pub issuer_key_hash: Hash,
    /// The TBSCertificate without the SCT list: [`splice_out`] gives it. At least 1 byte.
    pub tbs_certificate: Vec<u8>,
    /// The entry's own index in the log, less than 2^40.
    pub leaf_index: u64,
}

impl CertificateLeaf {
    /// Rebuilds leaf and countersignature from a certificate in DER and its issuer's
    /// SubjectPublicKeyInfo in DER.
    ///
    /// Fails where [`split_certificate`] or [`splice_out`] does. Nothing is verified yet: that is
    /// [`verify_countersignature`](Self::verify_countersignature).
    pub fn from_certificate(
        der: &[u8],
        issuer_spki: &[u8],
    ) -> Result<(Self, SignedCertificateTimestamp), Error> {
        let (tbs_certificate, sct) = splice_out(split_certificate(der)?.tbs)?;
        let leaf = Self {
            timestamp: sct.timestamp,
            issuer_key_hash: Hash::of(issuer_spki),
            tbs_certificate,
            leaf_index: sct.leaf_index,
        };
        Ok((leaf, sct))
    }

    /// Verifies that `sct` is the countersignature over this leaf by the key `key_spki`, a P-256
    /// SubjectPublicKeyInfo in DER (RFC 6962 §3.2).
    ///
    /// Fails if the key is another than `log_id` names, if timestamp or index differ, or if the
    /// signature does not verify. Whether the key was valid at that time is left to the caller.
    pub fn verify_countersignature(
        &self,
        sct: &SignedCertificateTimestamp,
        key_spki: &[u8],
    ) -> Result<(), Error> {
        let key = P256Key::from_spki(key_spki)?;
        let log_id = log_id(key_spki);
        if sct.log_id != log_id {
            return Err(Error::CountersignatureKey { expected: log_id, found: sct.log_id });
        }
        if sct.timestamp != self.timestamp {
            return Err(Error::CountersignatureTimestamp {
                leaf: self.timestamp,
                sct: sct.timestamp,
            });
        }
        if sct.leaf_index != self.leaf_index {
            return Err(Error::CountersignatureIndex {
                leaf: self.leaf_index,
                sct: sct.leaf_index,
            });
        }
        let verified = key.verifies(&self.encode()?, &sct.signature);
        verified.then_some(()).ok_or(Error::CountersignatureInvalid { log_id })
    }

    /// The bytes of the entry, which the countersignature signs.
    ///
    /// Fails if there is no certificate, if the index has more than 40 bits, or if the whole is
    /// longer than [`MAX_ENTRY`].
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let length = FIXED_LENGTH + self.tbs_certificate.len();
        if length > MAX_ENTRY {
            return Err(Error::EntryTooLong { length });
        }
        if self.tbs_certificate.is_empty() {
            return Err(Error::LeafWithoutCertificate);
        }
        let mut leaf = Vec::with_capacity(length);
        leaf.extend([VERSION_1, TIMESTAMPED_ENTRY]);
        leaf.extend(self.timestamp.to_be_bytes());
        leaf.extend(PRECERT_ENTRY.to_be_bytes());
        leaf.extend(self.issuer_key_hash.as_bytes());
        // MAX_ENTRY keeps the uint24 below 2^16.
        leaf.extend(&(self.tbs_certificate.len() as u32).to_be_bytes()[1..]);
        leaf.extend(&self.tbs_certificate);
        leaf.extend(encode_leaf_index(self.leaf_index)?);
        Ok(leaf)
    }

    /// Reads the bytes of an entry; fails for all that [`encode`](Self::encode) does not write.
    pub fn parse(entry: &[u8]) -> Result<Self, Error> {
        if entry.len() > MAX_ENTRY {
            return Err(Error::EntryTooLong { length: entry.len() });
        }
        let mut reader = Reader::new(entry, "a certificate leaf");
        let header = (reader.u8()?, reader.u8()?);
        if header != (VERSION_1, TIMESTAMPED_ENTRY) {
            return Err(Error::LeafHeader { version: header.0, leaf_type: header.1 });
        }
        let timestamp = reader.u64()?;
        let entry_type = reader.u16()?;
        if entry_type != PRECERT_ENTRY {
            return Err(Error::LeafEntryType { entry_type });
        }
        let issuer_key_hash = Hash::new(reader.array()?);
        let tbs_certificate = reader.vector24()?.to_vec();
        if tbs_certificate.is_empty() {
            return Err(Error::LeafWithoutCertificate);
        }
        let leaf_index = read_leaf_index(&mut reader)?;
        reader.finish()?;
        Ok(Self { timestamp, issuer_key_hash, tbs_certificate, leaf_index })
    }
}

const VERSION_1: u8 = 0;
const TIMESTAMPED_ENTRY: u8 = 0;
const PRECERT_ENTRY: u16 = 1;

/// Version, leaf type, timestamp, entry type, issuer key hash, TBSCertificate length, extensions.
const FIXED_LENGTH: usize = 1 + 1 + 8 + 2 + 32 + 3 + 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf() -> CertificateLeaf {
        CertificateLeaf {
            timestamp: 0x0102_0304_0506_0708,
            issuer_key_hash: Hash::new([9; 32]),
            tbs_certificate: vec![7; 300],
            leaf_index: 0x0a_0b0c_0d0e,
        }
    }

    #[test]
    fn leaf_has_the_layout_of_rfc_6962() {
        let encoded = leaf().encode().unwrap();
        assert_eq!(encoded[..12], [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1]);
        assert_eq!(encoded[12..44], [9; 32]);
        assert_eq!(encoded[44..47], [0, 1, 44]);
        assert_eq!(encoded[47..347], [7; 300]);
        assert_eq!(encoded[347..], [0, 8, 0, 0, 5, 10, 11, 12, 13, 14]);
        assert_eq!(CertificateLeaf::parse(&encoded), Ok(leaf()));
    }

    #[test]
    fn each_broken_rule_has_its_error() {
        let broken = |position: usize| {
            let mut encoded = leaf().encode().unwrap();
            encoded[position] ^= 1;
            CertificateLeaf::parse(&encoded)
        };
        assert_eq!(broken(0), Err(Error::LeafHeader { version: 1, leaf_type: 0 }));
        assert_eq!(broken(1), Err(Error::LeafHeader { version: 0, leaf_type: 1 }));
        assert_eq!(broken(11), Err(Error::LeafEntryType { entry_type: 0 }));
        assert_eq!(broken(349), Err(Error::LeafIndexExtension));
    }

    #[test]
    fn leaf_that_is_cut_off_or_longer_is_refused() {
        let mut encoded = leaf().encode().unwrap();
        for length in 0..encoded.len() {
            assert!(CertificateLeaf::parse(&encoded[..length]).is_err());
        }
        encoded.push(0);
        let trailing = Error::TrailingBytes { what: "a certificate leaf" };
        assert_eq!(CertificateLeaf::parse(&encoded), Err(trailing));
    }

    #[test]
    fn leaf_needs_a_certificate() {
        let empty = CertificateLeaf { tbs_certificate: vec![], ..leaf() };
        assert_eq!(empty.encode(), Err(Error::LeafWithoutCertificate));
        let mut encoded = leaf().encode().unwrap();
        encoded.splice(44..347, [0, 0, 0]);
        assert_eq!(CertificateLeaf::parse(&encoded), Err(Error::LeafWithoutCertificate));
    }

    #[test]
    fn leaf_fits_an_entry() {
        let largest = MAX_ENTRY - FIXED_LENGTH;
        let fits = CertificateLeaf { tbs_certificate: vec![7; largest], ..leaf() };
        let encoded = fits.encode().unwrap();
        assert_eq!(encoded.len(), MAX_ENTRY);
        assert_eq!(CertificateLeaf::parse(&encoded), Ok(fits));

        let refused = Err(Error::EntryTooLong { length: MAX_ENTRY + 1 });
        let long = CertificateLeaf { tbs_certificate: vec![7; largest + 1], ..leaf() };
        assert_eq!(long.encode(), refused);
        let refused = Err(Error::EntryTooLong { length: MAX_ENTRY + 1 });
        assert_eq!(CertificateLeaf::parse(&[0; MAX_ENTRY + 1]), refused);
    }

    #[test]
    fn index_of_more_than_40_bits_is_refused() {
        let refused = Err(Error::LeafIndexTooLarge { leaf_index: 1 << 40 });
        assert_eq!(CertificateLeaf { leaf_index: 1 << 40, ..leaf() }.encode(), refused);
    }
}

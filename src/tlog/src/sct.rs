//! The log's countersignature in a certificate: a Signed Certificate Timestamp and its list.

use crate::ct_extensions::{encode_leaf_index, read_leaf_index};
use crate::der;
use crate::wire::Reader;
use crate::{Error, Hash};

/// The largest signature in bytes: two 33-byte INTEGERs in a SEQUENCE, for ECDSA on P-256.
pub const MAX_SCT_SIGNATURE: usize = 2 + 2 * (2 + 33);

/// The log's signature over a [`CertificateLeaf`](crate::CertificateLeaf): RFC 6962 §3.2, v1.
///
/// Its extensions are exactly one `leaf_index` (C2SP static-ct-api).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCertificateTimestamp {
    /// The key that signed, by [`log_id`].
    pub log_id: Hash,
    /// The leaf's timestamp, in milliseconds since 1970-01-01 UTC.
    pub timestamp: u64,
    /// The leaf's index in the log, less than 2^40.
    pub leaf_index: u64,
    /// ECDSA on P-256 with SHA-256, in DER: 1 to [`MAX_SCT_SIGNATURE`] bytes.
    pub signature: Vec<u8>,
}

impl SignedCertificateTimestamp {
    /// A dummy as long as any SCT can be, to lint a certificate before its countersignature exists.
    pub fn largest() -> Self {
        Self {
            log_id: Hash::new([0; 32]),
            timestamp: 0,
            leaf_index: 0,
            signature: vec![0; MAX_SCT_SIGNATURE],
        }
    }

    /// The `SignedCertificateTimestamp` of RFC 6962 §3.2, at most 127 bytes.
    ///
    /// Fails if the index has more than 40 bits or the signature is not 1 to [`MAX_SCT_SIGNATURE`]
    /// bytes long.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        require_signature_length(&self.signature)?;
        let mut sct = vec![VERSION_1];
        sct.extend(self.log_id.as_bytes());
        sct.extend(self.timestamp.to_be_bytes());
        sct.extend(encode_leaf_index(self.leaf_index)?);
        sct.extend([SHA256, ECDSA]);
        sct.extend(vector16(&self.signature));
        Ok(sct)
    }

    /// Reads what [`encode`](Self::encode) writes; fails for any other version, algorithm,
    /// extension or length.
    ///
    /// The signature is taken as bytes: only verifying it shows whether it is DER.
    pub fn parse(sct: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(sct, "an SCT");
        let version = reader.u8()?;
        if version != VERSION_1 {
            return Err(Error::SctVersion { version });
        }
        let log_id = Hash::new(reader.array()?);
        let timestamp = reader.u64()?;
        let leaf_index = read_leaf_index(&mut reader)?;
        let [hash, signature] = reader.array()?;
        if [hash, signature] != [SHA256, ECDSA] {
            return Err(Error::SctAlgorithm { hash, signature });
        }
        let signature = reader.vector16()?.to_vec();
        require_signature_length(&signature)?;
        reader.finish()?;
        Ok(Self { log_id, timestamp, leaf_index, signature })
    }
}

/// The identifier of a countersignature key: SHA-256 of its SubjectPublicKeyInfo in DER (RFC 6962
/// §3.2).
pub fn log_id(spki_der: &[u8]) -> Hash {
    Hash::of(spki_der)
}

/// The certificate extension, not critical, that holds exactly this SCT: the whole `Extension` in
/// DER (RFC 6962 §3.3).
///
/// Fails where [`SignedCertificateTimestamp::encode`] does.
pub fn sct_list_extension(sct: &SignedCertificateTimestamp) -> Result<Vec<u8>, Error> {
    let list = vector16(&vector16(&sct.encode()?));
    let inner = der::encode(der::OCTET_STRING, &[&list]);
    let extn_value = der::encode(der::OCTET_STRING, &[&inner]);
    let extn_id = der::encode(der::OBJECT_IDENTIFIER, &[&SCT_LIST_OID]);
    Ok(der::encode(der::SEQUENCE, &[&extn_id, &extn_value]))
}

/// The only SCT of a certificate's SCT list (RFC 6962 §3.3).
///
/// `extn_value` is what the extension's `extnValue` holds, that is a DER OCTET STRING with the list
/// in it. Fails unless that list has exactly one SCT.
pub fn parse_sct_list(extn_value: &[u8]) -> Result<SignedCertificateTimestamp, Error> {
    let mut list = Reader::new(der::single(der::OCTET_STRING, extn_value)?, "an SCT list");
    let mut scts = Reader::new(list.vector16()?, "an SCT list");
    list.finish()?;
    let sct = scts.vector16().map_err(|_| Error::SctListLength)?;
    if !scts.is_empty() {
        return Err(Error::SctListLength);
    }
    SignedCertificateTimestamp::parse(sct)
}

fn require_signature_length(signature: &[u8]) -> Result<(), Error> {
    let length = signature.len();
    let fits = (1..=MAX_SCT_SIGNATURE).contains(&length);
    fits.then_some(()).ok_or(Error::SctSignatureLength { length })
}

/// `bytes`, at most an SCT list, counted by a uint16.
fn vector16(bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len() as u16;
    [&length.to_be_bytes(), bytes].concat()
}

const VERSION_1: u8 = 0;
/// `HashAlgorithm` and `SignatureAlgorithm` of RFC 5246 §7.4.1.4.1.
const SHA256: u8 = 4;
const ECDSA: u8 = 3;
/// 1.3.6.1.4.1.11129.2.4.2 (RFC 6962 §3.3).
pub(crate) const SCT_LIST_OID: [u8; 10] =
    [0x2b, 0x06, 0x01, 0x04, 0x01, 0xd6, 0x79, 0x02, 0x04, 0x02];

#[cfg(test)]
mod tests {
    use super::*;

    fn sct() -> SignedCertificateTimestamp {
        SignedCertificateTimestamp {
            log_id: Hash::new([9; 32]),
            timestamp: 0x0102_0304_0506_0708,
            leaf_index: 2,
            signature: vec![7, 8],
        }
    }

    #[test]
    fn sct_has_the_layout_of_rfc_6962() {
        let encoded = sct().encode().unwrap();
        assert_eq!(encoded[0], 0);
        assert_eq!(encoded[1..33], [9; 32]);
        assert_eq!(encoded[33..41], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(encoded[41..51], [0, 8, 0, 0, 5, 0, 0, 0, 0, 2]);
        assert_eq!(encoded[51..], [4, 3, 0, 2, 7, 8]);
        assert_eq!(SignedCertificateTimestamp::parse(&encoded), Ok(sct()));
    }

    #[test]
    fn each_broken_rule_has_its_error() {
        let broken = |position: usize| {
            let mut encoded = sct().encode().unwrap();
            encoded[position] ^= 1;
            SignedCertificateTimestamp::parse(&encoded)
        };
        assert_eq!(broken(0), Err(Error::SctVersion { version: 1 }));
        assert_eq!(broken(43), Err(Error::LeafIndexExtension));
        assert_eq!(broken(51), Err(Error::SctAlgorithm { hash: 5, signature: 3 }));
        assert_eq!(broken(52), Err(Error::SctAlgorithm { hash: 4, signature: 2 }));
        assert_eq!(broken(54), Err(Error::Truncated { what: "an SCT" }));
        let long = [&sct().encode().unwrap()[..], &[0]].concat();
        let trailing = Err(Error::TrailingBytes { what: "an SCT" });
        assert_eq!(SignedCertificateTimestamp::parse(&long), trailing);
    }

    #[test]
    fn signature_has_1_to_72_bytes() {
        assert_eq!(SignedCertificateTimestamp::largest().encode().unwrap().len(), 127);
        for length in [0, 73, 70_000] {
            let sct = SignedCertificateTimestamp { signature: vec![7; length], ..sct() };
            assert_eq!(sct.encode(), Err(Error::SctSignatureLength { length }));
        }
        let mut encoded = sct().encode().unwrap();
        encoded.splice(53.., [0, 73].into_iter().chain([7; 73]));
        let refused = Err(Error::SctSignatureLength { length: 73 });
        assert_eq!(SignedCertificateTimestamp::parse(&encoded), refused);
    }

    #[test]
    fn extension_is_that_of_rfc_6962() {
        let encoded = sct().encode().unwrap();
        let der = sct_list_extension(&sct()).unwrap();
        let length = encoded.len() as u8;
        assert_eq!(der[..4], [0x30, 12 + length + 8, 6, 10]);
        assert_eq!(der[4..14], SCT_LIST_OID);
        assert_eq!(der[14..18], [4, length + 6, 4, length + 4]);
        assert_eq!(der[18..22], [0, length + 2, 0, length]);
        assert_eq!(der[22..], encoded);
        assert_eq!(parse_sct_list(&der[16..]), Ok(sct()));
    }

    #[test]
    fn list_has_exactly_one_sct() {
        let one = vector16(&sct().encode().unwrap());
        let parse = |list: &[u8]| parse_sct_list(&der::encode(der::OCTET_STRING, &[list]));
        assert_eq!(parse(&vector16(&one)), Ok(sct()));
        assert_eq!(parse(&vector16(&[&one[..], &one].concat())), Err(Error::SctListLength));
        assert_eq!(parse(&vector16(&[])), Err(Error::SctListLength));
        let trailing = Error::TrailingBytes { what: "an SCT list" };
        assert_eq!(parse(&[&vector16(&one)[..], &[0]].concat()), Err(trailing));
    }
}

//! The outermost structure that certificates, CRLs and certification requests share.

use crate::Error;
use crate::der::{self, DerReader};

/// The three parts of a signed structure: `SEQUENCE { to be signed, algorithm, signature }`.
///
/// It is that of `Certificate` (RFC 5280 §4.1), `CertificateList` (§5.1) and
/// `CertificationRequest` (RFC 2986 §4.2) alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitCertificate<'a> {
    /// The bytes that are signed: the whole DER element, tag and length included.
    pub tbs: &'a [u8],
    /// The `AlgorithmIdentifier` of the signature: the whole DER element.
    pub signature_algorithm: &'a [u8],
    /// The signature: the value of the BIT STRING without its first octet.
    pub signature: &'a [u8],
}

/// Splits a certificate, CRL or CSR in DER; verifies nothing.
///
/// Fails unless it is exactly a SEQUENCE of SEQUENCE, SEQUENCE and BIT STRING, with minimal
/// lengths, no trailing bytes and no unused bits in the signature.
pub fn split_certificate(der: &[u8]) -> Result<SplitCertificate<'_>, Error> {
    let mut parts = DerReader::new(der::single(der::SEQUENCE, der)?);
    let tbs = parts.expect(der::SEQUENCE)?.whole;
    let signature_algorithm = parts.expect(der::SEQUENCE)?.whole;
    let signature = parts.expect(der::BIT_STRING)?.value;
    parts.finish()?;
    match signature {
        [0, signature @ ..] => Ok(SplitCertificate { tbs, signature_algorithm, signature }),
        _ => Err(Error::SignatureUnusedBits),
    }
}

/// Joins what [`split_certificate`] splits: `tbs` and `signature_algorithm` are whole DER elements,
/// `signature` becomes a BIT STRING.
pub fn join_certificate(tbs: &[u8], signature_algorithm: &[u8], signature: &[u8]) -> Vec<u8> {
    let signature = der::encode(der::BIT_STRING, &[&[0], signature]);
    der::encode(der::SEQUENCE, &[tbs, signature_algorithm, &signature])
}

#[cfg(test)]
mod tests {
    use super::*;

    const TBS: &[u8] = &[0x30, 1, 7];
    const ALGORITHM: &[u8] = &[0x30, 0];

    #[test]
    fn split_parts_join_to_the_same_bytes() {
        let der = join_certificate(TBS, ALGORITHM, &[8, 9]);
        assert_eq!(der, [0x30, 10, 0x30, 1, 7, 0x30, 0, 3, 3, 0, 8, 9]);
        let parts = split_certificate(&der).unwrap();
        assert_eq!((parts.tbs, parts.signature_algorithm), (TBS, ALGORITHM));
        assert_eq!(parts.signature, [8, 9]);
    }

    #[test]
    fn each_broken_rule_has_its_error() {
        let trailing = Error::TrailingBytes { what: "DER" };
        let bits = |value: &[u8]| der::encode(der::BIT_STRING, &[value]);
        let sequence = |parts: &[&[u8]]| der::encode(der::SEQUENCE, parts);
        let cases = [
            (sequence(&[TBS, ALGORITHM, &bits(&[1, 8])]), Error::SignatureUnusedBits),
            (sequence(&[TBS, ALGORITHM, &bits(&[])]), Error::SignatureUnusedBits),
            (sequence(&[TBS, ALGORITHM, &bits(&[0]), &[5, 0]]), trailing.clone()),
            ([&sequence(&[TBS, ALGORITHM, &bits(&[0])])[..], &[0]].concat(), trailing),
            (sequence(&[TBS, ALGORITHM]), Error::Truncated { what: "DER" }),
            (sequence(&[TBS, &bits(&[0])]), Error::DerTag { expected: 0x30, found: 3 }),
            (sequence(&[&[0x30, 0x81, 0], ALGORITHM, &bits(&[0])]), Error::DerLengthNotMinimal),
        ];
        for (der, error) in cases {
            assert_eq!(split_certificate(&der), Err(error), "{der:02x?}");
        }
    }
}

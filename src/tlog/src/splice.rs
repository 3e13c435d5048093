//! The splice rule: a TBSCertificate with its SCT list, and the same without it.
//!
//! Removing the list and putting it back gives the same bytes, because only one encoding is taken:
//! minimal lengths, exactly one SCT extension, the last one. So the leaf that anybody rebuilds from
//! a certificate is the one that was logged, and no other TBSCertificate leads to leaf and SCT.

use crate::der::{self, DerReader};
use crate::extension::Extension;
use crate::{Error, SignedCertificateTimestamp, parse_sct_list, sct_list_extension};

/// Takes the SCT out of a TBSCertificate in DER: what is left, and the SCT.
///
/// The SCT extension goes, the lengths of Extensions, `[3]` and TBSCertificate are encoded anew,
/// and every other byte is copied. Fails unless the input has the fields of a version 3 certificate
/// without unique identifiers (RFC 5280 §4.1), and its last extension, but not its only one, is a
/// non-critical list of exactly one SCT.
pub fn splice_out(tbs: &[u8]) -> Result<(Vec<u8>, SignedCertificateTimestamp), Error> {
    let (fields, extensions) = parse_tbs(tbs)?;
    let (last, others) = extensions.split_last().ok_or(Error::ExtensionsEmpty)?;
    match (contain_sct_list(others), last.is_sct_list) {
        (false, true) => {}
        (false, false) => return Err(Error::SctMissing),
        (true, false) => return Err(Error::SctNotLast),
        (true, true) => return Err(Error::SctTwice),
    }
    if last.critical {
        return Err(Error::SctCritical);
    }
    let sct = parse_sct_list(last.value)?;
    Ok((encode_tbs(fields, others, &[])?, sct))
}

/// Puts an SCT into a TBSCertificate in DER that has none: the inverse of [`splice_out`].
///
/// The SCT extension becomes the last one, not critical. Fails where [`splice_out`] does for what
/// surrounds it, where [`SignedCertificateTimestamp::encode`] does, and if an SCT extension is
/// there already.
pub fn splice_in(bare_tbs: &[u8], sct: &SignedCertificateTimestamp) -> Result<Vec<u8>, Error> {
    let (fields, extensions) = parse_tbs(bare_tbs)?;
    if contain_sct_list(&extensions) {
        return Err(Error::SctPresent);
    }
    encode_tbs(fields, &extensions, &sct_list_extension(sct)?)
}

fn contain_sct_list(extensions: &[Extension<'_>]) -> bool {
    extensions.iter().any(|extension| extension.is_sct_list)
}

/// The fields before the extensions, tags and lengths included, and the extensions.
fn parse_tbs(tbs: &[u8]) -> Result<(&[u8], Vec<Extension<'_>>), Error> {
    let value = der::single(der::SEQUENCE, tbs)?;
    let mut reader = DerReader::new(value);
    for tag in FIELDS_BEFORE_EXTENSIONS {
        reader.expect(tag)?;
    }
    if reader.is_empty() {
        return Err(Error::ExtensionsEmpty);
    }
    let last = reader.expect(EXTENSIONS)?;
    reader.finish()?;
    let (fields, _) = value.split_at(value.len() - last.whole.len());
    let extensions = Extension::parse_all(der::single(der::SEQUENCE, last.value)?)?;
    Ok((fields, extensions))
}

/// A TBSCertificate with these extensions, `sct_list` behind them.
fn encode_tbs(
    fields: &[u8],
    extensions: &[Extension<'_>],
    sct_list: &[u8],
) -> Result<Vec<u8>, Error> {
    if extensions.is_empty() {
        return Err(Error::ExtensionsEmpty);
    }
    let elements = extensions.iter().map(|extension| extension.whole);
    let elements: Vec<_> = elements.chain([sct_list]).collect();
    let extensions = der::encode(der::SEQUENCE, &elements);
    let extensions = der::encode(EXTENSIONS, &[&extensions]);
    Ok(der::encode(der::SEQUENCE, &[fields, &extensions]))
}

/// version, serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo. Unique
/// identifiers must not be there (RFC 5280 §4.1.2.8).
const FIELDS_BEFORE_EXTENSIONS: [u8; 7] = [
    der::context(0),
    der::INTEGER,
    der::SEQUENCE,
    der::SEQUENCE,
    der::SEQUENCE,
    der::SEQUENCE,
    der::SEQUENCE,
];
const EXTENSIONS: u8 = der::context(3);

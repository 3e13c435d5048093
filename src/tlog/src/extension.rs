//! A certificate extension, as far as finding the SCT list needs it.

use crate::Error;
use crate::der::{self, DerReader, Element};
use crate::sct::SCT_LIST_OID;

/// An `Extension` of RFC 5280 §4.1.
pub(crate) struct Extension<'a> {
    pub(crate) is_sct_list: bool,
    pub(crate) critical: bool,
    /// What the OCTET STRING `extnValue` holds.
    pub(crate) value: &'a [u8],
    /// The whole element as it was read.
    pub(crate) whole: &'a [u8],
}

impl<'a> Extension<'a> {
    /// Reads the value of an `Extensions`: all of them, in order.
    pub(crate) fn parse_all(extensions: &'a [u8]) -> Result<Vec<Self>, Error> {
        let mut reader = DerReader::new(extensions);
        let mut parsed = Vec::new();
        while !reader.is_empty() {
            parsed.push(Self::parse(&reader.expect(der::SEQUENCE)?)?);
        }
        Ok(parsed)
    }

    fn parse(element: &Element<'a>) -> Result<Self, Error> {
        let mut fields = DerReader::new(element.value);
        let extn_id = fields.expect(der::OBJECT_IDENTIFIER)?.value;
        let mut field = fields.element()?;
        let critical = field.tag == der::BOOLEAN;
        if critical {
            // DER has one TRUE (X.690 §11.1) and leaves FALSE, the default, out (§11.5).
            if field.value != [0xff] {
                return Err(Error::ExtensionCriticality);
            }
            field = fields.element()?;
        }
        if field.tag != der::OCTET_STRING {
            return Err(Error::DerTag { expected: der::OCTET_STRING, found: field.tag });
        }
        fields.finish()?;
        let is_sct_list = extn_id == SCT_LIST_OID;
        Ok(Self { is_sct_list, critical, value: field.value, whole: element.whole })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(fields: &[&[u8]]) -> Result<bool, Error> {
        let extension = der::encode(der::SEQUENCE, fields);
        let parsed = Extension::parse_all(&extension)?;
        assert_eq!((parsed.len(), parsed[0].whole), (1, &extension[..]));
        Ok(parsed[0].critical)
    }

    const OID: &[u8] = &[6, 1, 42];
    const VALUE: &[u8] = &[4, 1, 7];

    #[test]
    fn critical_is_true_or_left_out() {
        assert_eq!(parse(&[OID, VALUE]), Ok(false));
        assert_eq!(parse(&[OID, &[1, 1, 0xff], VALUE]), Ok(true));
        for boolean in [&[1, 1, 0][..], &[1, 1, 1], &[1, 0], &[1, 2, 0xff, 0xff]] {
            assert_eq!(parse(&[OID, boolean, VALUE]), Err(Error::ExtensionCriticality));
        }
    }

    #[test]
    fn extension_of_other_fields_is_refused() {
        let truncated = Err(Error::Truncated { what: "DER" });
        assert_eq!(parse(&[]), truncated);
        assert_eq!(parse(&[OID]), truncated);
        assert_eq!(parse(&[OID, &[1, 1, 0xff]]), truncated);
        assert_eq!(parse(&[VALUE]), Err(Error::DerTag { expected: 6, found: 4 }));
        assert_eq!(parse(&[OID, OID]), Err(Error::DerTag { expected: 4, found: 6 }));
        assert_eq!(parse(&[OID, VALUE, VALUE]), Err(Error::TrailingBytes { what: "DER" }));
    }
}

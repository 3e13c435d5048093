//! The little of DER (X.690 §10) that the splice rule needs: tags, minimal lengths, nothing else.

use crate::Error;
use crate::wire::Reader;

pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const SEQUENCE: u8 = 0x30;

/// The constructed, context-specific tag `[number]`.
pub(crate) const fn context(number: u8) -> u8 {
    0xa0 | number
}

/// Reads neighbouring DER elements.
pub(crate) struct DerReader<'a>(Reader<'a>);

/// One tag, length and value.
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) value: &'a [u8],
    /// Tag, length and value as they were read.
    pub(crate) whole: &'a [u8],
}

impl<'a> DerReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(Reader::new(bytes, "DER"))
    }

    /// The next element, whatever its tag.
    pub(crate) fn element(&mut self) -> Result<Element<'a>, Error> {
        let start = self.0.rest();
        let tag = self.0.u8()?;
        if tag & 0x1f == 0x1f {
            return Err(Error::DerTagNumber { tag });
        }
        let length = self.length()?;
        let value = self.0.take(length)?;
        let (whole, _) = start.split_at(start.len() - self.0.rest().len());
        Ok(Element { tag, value, whole })
    }

    /// The next element, which must have this tag.
    pub(crate) fn expect(&mut self, expected: u8) -> Result<Element<'a>, Error> {
        let element = self.element()?;
        if element.tag != expected {
            return Err(Error::DerTag { expected, found: element.tag });
        }
        Ok(element)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Fails if anything is left.
    pub(crate) fn finish(self) -> Result<(), Error> {
        self.0.finish()
    }

    /// X.690 §10.1: the definite form, with the minimum number of octets.
    fn length(&mut self) -> Result<usize, Error> {
        match self.0.u8()? {
            short @ 0..=0x7f => Ok(short.into()),
            0x80 => Err(Error::DerIndefiniteLength),
            long @ 0x81..=0x84 => self.long_length(long & 0x7f),
            _ => Err(Error::DerLengthTooLong),
        }
    }

    fn long_length(&mut self, octets: u8) -> Result<usize, Error> {
        let octets = self.0.take(octets.into())?;
        let length = octets.iter().fold(0, |length, octet| length << 8 | usize::from(*octet));
        if length < 0x80 || octets.starts_with(&[0]) {
            return Err(Error::DerLengthNotMinimal);
        }
        Ok(length)
    }
}

/// The value of the only element in `bytes`, which must have this tag.
pub(crate) fn single(tag: u8, bytes: &[u8]) -> Result<&[u8], Error> {
    let mut reader = DerReader::new(bytes);
    let element = reader.expect(tag)?;
    reader.finish()?;
    Ok(element.value)
}

/// The element with this tag, whose value is `parts`, one after the other.
pub(crate) fn encode(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length = parts.iter().map(|part| part.len()).sum();
    let mut element = Vec::with_capacity(length + MAX_HEADER);
    element.push(tag);
    encode_length(length, &mut element);
    parts.iter().for_each(|part| element.extend_from_slice(part));
    element
}

fn encode_length(length: usize, out: &mut Vec<u8>) {
    if length < 0x80 {
        out.push(length as u8);
        return;
    }
    let octets = length.to_be_bytes();
    let zeros = octets.iter().take_while(|octet| **octet == 0).count();
    out.push(0x80 | (octets.len() - zeros) as u8);
    out.extend(&octets[zeros..]);
}

/// Tag, and a length of up to nine octets.
const MAX_HEADER: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_minimal_in_both_directions() {
        for length in [0, 1, 127, 128, 255, 256, 65_535, 65_536] {
            let value = vec![7; length];
            let element = encode(OCTET_STRING, &[&value]);
            assert_eq!(single(OCTET_STRING, &element), Ok(&value[..]));
        }
        assert_eq!(encode(OCTET_STRING, &[&[0; 127]])[..2], [4, 127]);
        assert_eq!(encode(OCTET_STRING, &[&[0; 128]])[..3], [4, 0x81, 128]);
        assert_eq!(encode(OCTET_STRING, &[&[0; 256]])[..4], [4, 0x82, 1, 0]);
    }

    #[test]
    fn each_broken_rule_has_its_error() {
        let tag = Error::DerTag { expected: 0x30, found: 0x04 };
        let cases: [(&[u8], Error); 9] = [
            (&[], Error::Truncated { what: "DER" }),
            (&[0x30], Error::Truncated { what: "DER" }),
            (&[0x30, 2, 0], Error::Truncated { what: "DER" }),
            (&[0x30, 0, 0], Error::TrailingBytes { what: "DER" }),
            (&[0x30, 0x80, 0, 0], Error::DerIndefiniteLength),
            (&[0x30, 0x81, 1, 0], Error::DerLengthNotMinimal),
            (&[0x30, 0x85, 1, 0, 0, 0, 0], Error::DerLengthTooLong),
            (&[0x3f, 1, 0], Error::DerTagNumber { tag: 0x3f }),
            (&[0x04, 0], tag),
        ];
        for (bytes, error) in cases {
            assert_eq!(single(SEQUENCE, bytes), Err(error), "{bytes:02x?}");
        }
    }

    #[test]
    fn length_with_a_leading_zero_is_refused() {
        let mut bytes = vec![0x30, 0x82, 0, 200];
        bytes.extend([0; 200]);
        assert_eq!(single(SEQUENCE, &bytes), Err(Error::DerLengthNotMinimal));
    }
}

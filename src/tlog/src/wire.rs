//! Reads the presentation language of TLS (RFC 8446 §3): big-endian integers, counted vectors.

use crate::Error;

/// A cursor over outside bytes.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    /// What is being read, for errors.
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let truncated = Error::Truncated { what: self.what };
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let truncated = Error::Truncated { what: self.what };
        let (taken, rest) = self.rest.split_first_chunk().ok_or(truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Error> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_be_bytes)
    }

    /// A vector counted by a uint16.
    pub(crate) fn vector16(&mut self) -> Result<&'a [u8], Error> {
        let length = self.u16()?;
        self.take(length.into())
    }

    /// A vector counted by a uint24.
    pub(crate) fn vector24(&mut self) -> Result<&'a [u8], Error> {
        let [high, middle, low] = self.array()?;
        self.take(u32::from_be_bytes([0, high, middle, low]) as usize)
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Fails if anything is left.
    pub(crate) fn finish(self) -> Result<(), Error> {
        self.is_empty().then_some(()).ok_or(Error::TrailingBytes { what: self.what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_counted_by_their_prefix() {
        let mut reader = Reader::new(&[0, 1, 7, 0, 0, 2, 8, 9], "test");
        assert_eq!(reader.vector16(), Ok(&[7][..]));
        assert_eq!(reader.vector24(), Ok(&[8, 9][..]));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn vector_longer_than_the_input_is_refused() {
        let truncated = Err(Error::Truncated { what: "test" });
        assert_eq!(Reader::new(&[0, 2, 7], "test").vector16(), truncated);
        assert_eq!(Reader::new(&[255, 255, 255], "test").vector24(), truncated);
        assert_eq!(Reader::new(&[0], "test").vector16(), truncated);
    }

    #[test]
    fn trailing_bytes_are_refused() {
        let trailing = Err(Error::TrailingBytes { what: "test" });
        assert_eq!(Reader::new(&[0], "test").finish(), trailing);
    }
}

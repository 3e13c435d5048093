//! Serial numbers of certificates.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A positive serial number of at most 20 octets, written as lower-case hex.
///
/// Held as DER content octets without the leading zero that keeps the sign positive.
/// Source: RFC 5280 §4.1.2.2.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SerialNumber {
    length: u8,
    octets: [u8; MAX_OCTETS],
}

impl SerialNumber {
    /// Takes big-endian octets, as in the INTEGER or shorter; leading zeros are dropped.
    pub fn from_octets(octets: &[u8]) -> Result<Self, Error> {
        let start = octets.iter().position(|&octet| octet != 0).ok_or(Error::SerialNumber)?;
        let significant = &octets[start..];
        if significant.len() > MAX_OCTETS {
            return Err(Error::SerialNumber);
        }
        let mut serial = Self { length: significant.len() as u8, octets: [0; MAX_OCTETS] };
        serial.octets[..significant.len()].copy_from_slice(significant);
        Ok(serial)
    }

    /// Reads what other tools print: `0x8F2C01`, `8f:2c:01`, `serial=8F2C01`, an odd number of digits
    /// where the first would be a 0.
    pub fn from_any_hex(text: &str) -> Result<Self, Error> {
        let digits = text.trim().to_ascii_lowercase();
        let digits = digits.strip_prefix("serial=").unwrap_or(&digits);
        let digits = digits.strip_prefix("0x").unwrap_or(digits);
        let digits: String = digits.chars().filter(|c| ![':', ' '].contains(c)).collect();
        let zero = if digits.len() % 2 == 1 { "0" } else { "" };
        format!("{zero}{digits}").parse()
    }

    /// The significant octets, big-endian.
    pub fn as_octets(&self) -> &[u8] {
        &self.octets[..usize::from(self.length)]
    }
}

impl FromStr for SerialNumber {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let octets = HEXLOWER.decode(text.as_bytes()).map_err(|_| Error::SerialNumber)?;
        Self::from_octets(&octets)
    }
}

impl TryFrom<String> for SerialNumber {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<SerialNumber> for String {
    fn from(serial: SerialNumber) -> Self {
        serial.to_string()
    }
}

impl fmt::Display for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(self.as_octets()))
    }
}

impl fmt::Debug for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// RFC 5280 §4.1.2.2.
const MAX_OCTETS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_zeros_do_not_make_another_number() {
        assert_eq!(
            SerialNumber::from_octets(&[0, 0x8f, 1]).unwrap(),
            SerialNumber::from_octets(&[0x8f, 1]).unwrap()
        );
        assert_eq!("8f01".parse::<SerialNumber>().unwrap().to_string(), "8f01");
    }

    #[test]
    fn what_other_tools_print_is_the_same_number() {
        let number = "08f2c01e".parse().unwrap();
        for text in [
            "8f2c01e",
            "08F2C01E",
            "0x8f2c01e",
            "0X08F2C01E",
            "08:F2:C0:1E",
            "8:f2:c0:1e",
            "serial=08F2C01E",
            " 08 f2 c0 1e\n",
            "000000000000000000000000000000000000008f2c01e",
        ] {
            assert_eq!(SerialNumber::from_any_hex(text).unwrap(), number, "{text}");
        }
        for text in ["", "0x", "0", "0x00", "/prod/reports", "0x0x1", "1g", "-1", &"1".repeat(41)] {
            assert_eq!(SerialNumber::from_any_hex(text), Err(Error::SerialNumber), "{text}");
        }
    }

    #[test]
    fn zero_empty_long_and_upper_case_are_refused() {
        for text in ["", "00", "8F", "abc", &"11".repeat(21)] {
            assert_eq!(text.parse::<SerialNumber>(), Err(Error::SerialNumber), "{text}");
        }
    }
}

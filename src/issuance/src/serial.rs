//! Serial numbers.

use identity::SerialNumber;

/// Makes a serial number of 20 octets: six of time, so that indexes stay warm, and fourteen random.
///
/// `unix_milliseconds` is cut to 47 bits (the year 6429), so that the number is positive.
/// RFC 5280 §4.1.2.2 allows 20 octets; the random part is far above the 64 bits that the Baseline
/// Requirements ask for.
pub fn serial_number(unix_milliseconds: u64, random: [u8; 14]) -> SerialNumber {
    let mut octets = [0; 20];
    octets[..6].copy_from_slice(&(unix_milliseconds & ((1 << 47) - 1)).to_be_bytes()[2..]);
    octets[6..].copy_from_slice(&random);
    octets[19] |= u8::from(octets == [0; 20]);
    SerialNumber::from_octets(&octets).expect("20 octets, not all zero")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_serial_numbers_sort_later_and_all_are_positive() {
        let earlier = serial_number(1_795_240_000_000, [0xff; 14]);
        let later = serial_number(1_795_240_000_001, [0; 14]);
        assert!(earlier < later);
        assert_eq!(earlier.as_octets().len(), 20);
        assert!(serial_number(u64::MAX, [0xff; 14]).as_octets()[0] < 0x80);
        assert_eq!(serial_number(0, [0; 14]).to_string(), "01");
    }
}

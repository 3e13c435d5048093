//! What stands in paths, pins, tokens and JSON strings.
#![no_main]

use std::fmt::Display;
use std::str::FromStr;

use api::{BootstrapToken, Ttl};
use fuzz::canonical;
use identity::{SerialNumber, TrustPin};
use issuance::DnsName;
use libfuzzer_sys::fuzz_target;
use tlog::{Tile, VerifierKey};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = str::from_utf8(data) else { return };
    canonical(text, Tile::parse, Tile::path);
    canonical(text, VerifierKey::parse, VerifierKey::to_string);
    canonical(text, DnsName::parse, DnsName::to_string);
    survives::<SerialNumber>(text);
    survives::<TrustPin>(text);
    survives::<Ttl>(text);
    if let Ok(token) = BootstrapToken::from_str(text) {
        assert_eq!(BootstrapToken::from_str(&token.expose()), Ok(token));
    }
});

/// These may be spelled in several ways, but are written in one, which means the same.
fn survives<
    T: FromStr<Err: std::fmt::Debug + PartialEq> + Display + PartialEq + std::fmt::Debug,
>(
    text: &str,
) {
    if let Ok(value) = T::from_str(text) {
        assert_eq!(T::from_str(&value.to_string()), Ok(value));
    }
}

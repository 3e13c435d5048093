//! What the octets of an extension are.

use std::net::IpAddr;

use x509_parser::asn1_rs::{Any, Class, Tag};
use x509_parser::prelude::FromDer;

/// RFC 5280 §4.2, of an extension's value: x509-parser passes over what follows it, and over a tag
/// that DER does not know.
pub(crate) fn is_one_value(value: &[u8]) -> bool {
    Any::from_der(value).is_ok_and(|(rest, any)| {
        let constructed = matches!(any.tag(), Tag::Sequence | Tag::Set);
        rest.is_empty()
            && any.class() == Class::Universal
            && any.header.constructed() == constructed
    })
}

/// RFC 5280 §4.2.1.6: 4 octets for IPv4, 16 for IPv6.
pub(crate) fn ip_address(octets: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(octets)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from))
        .ok()
}

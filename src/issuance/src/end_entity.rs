//! An end entity, as a certificate shall name it.

use std::net::IpAddr;
use std::time::Duration;

use identity::{SerialNumber, SpiffeId};
use time::OffsetDateTime;

use crate::dns_name::DnsName;
use crate::request::KeyType;

/// What one certificate shall say, beyond its profile. Serial number and time come from outside.
#[derive(Debug, Clone)]
pub struct EndEntity<'a> {
    /// The URI SAN.
    pub spiffe_id: &'a SpiffeId,
    /// DNS SANs, allowed by policy.
    pub dns: &'a [DnsName],
    /// IP SANs, allowed by policy.
    pub ip: &'a [IpAddr],
    /// SubjectPublicKeyInfo, DER, its possession proved.
    pub public_key: &'a [u8],
    /// The key's kind.
    pub key_type: KeyType,
    /// The serial number.
    pub serial_number: SerialNumber,
    /// The validity asked for, or the profile's.
    pub validity: Option<Duration>,
    /// Now.
    pub now: OffsetDateTime,
    /// Where the issuer's CRL is found.
    pub crl_url: Option<&'a str>,
}

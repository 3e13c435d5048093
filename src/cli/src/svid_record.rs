//! `svid.json`: what `renew` must know beside the certificate.

use std::net::IpAddr;

use api::{IssuedCertificate, RenewalWindow, Ttl};
use identity::{SerialNumber, SpiffeId, TrustPin};
use issuance::{DnsName, RequestedNames};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Where an SVID came from, when to renew it, and what to ask for again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SvidRecord {
    /// The CA's URL.
    pub(crate) url: String,
    /// Names the trust keys that signed `trust.note`, and the sequence below which none is taken.
    #[serde(with = "crate::text")]
    pub(crate) trust_pin: TrustPin,
    /// The certificate's serial number.
    pub(crate) serial_number: SerialNumber,
    /// Its last second.
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) not_after: OffsetDateTime,
    /// When to renew it, as the CA said when it was issued.
    pub(crate) renewal: RenewalWindow,
    /// It was certified for a request: whoever made that has the key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) key_elsewhere: bool,
    /// What was asked for, and is asked for again.
    #[serde(flatten)]
    pub(crate) wish: Wish,
}

/// What a certificate shall say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wish {
    /// Who it names.
    pub(crate) spiffe_id: SpiffeId,
    /// DNS names beside it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) dns: Vec<DnsName>,
    /// IP addresses beside it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ip: Vec<IpAddr>,
    /// No DNS name and no IP address, whatever the identity's row lists: without any here and
    /// without this, they are those of the row.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) nameless: bool,
    /// The profile; the CA's default if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) profile: Option<String>,
    /// The validity; the profile's if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ttl: Option<Ttl>,
}

impl SvidRecord {
    /// The record of what the CA just issued.
    pub(crate) fn new(
        issued: &IssuedCertificate,
        wish: &Wish,
        url: &str,
        trust_pin: TrustPin,
    ) -> Self {
        Self {
            url: url.to_owned(),
            trust_pin,
            serial_number: issued.serial_number,
            not_after: issued.not_after,
            renewal: issued.renewal,
            key_elsewhere: false,
            wish: wish.clone(),
        }
    }

    /// What the file says, also where an editor has put its mark before it; why not, without what
    /// stands in it.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let text = identity::utf8_text(bytes).map_err(|fault| fault.to_string())?;
        if text.is_empty() {
            return Err("it is empty".to_owned());
        }
        // Its own words repeat what it read.
        serde_json::from_str(text)
            .map_err(|error| format!("line {}, column {}", error.line(), error.column()))
    }

    /// The file's bytes.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).expect("a record is plain data");
        json.push(b'\n');
        json
    }
}

impl Wish {
    /// The same with the names of a request, which are asked for again, too.
    pub(crate) fn with(&self, requested: &RequestedNames) -> Self {
        let mut wish = self.clone();
        for name in &requested.dns {
            if !wish.dns.contains(name) {
                wish.dns.push(name.clone());
            }
        }
        for address in &requested.ip {
            if !wish.ip.contains(address) {
                wish.ip.push(*address);
            }
        }
        wish
    }

    /// Nothing but an identity.
    pub(crate) fn only(spiffe_id: SpiffeId) -> Self {
        Self { spiffe_id, dns: vec![], ip: vec![], nameless: false, profile: None, ttl: None }
    }
}

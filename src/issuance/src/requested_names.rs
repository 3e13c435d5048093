//! Names that a certificate request wishes for.

use std::net::IpAddr;

use identity::SpiffeId;
use x509_parser::prelude::GeneralName;

use crate::bounds::MAX_NAMES;
use crate::dns_name::{DnsName, NOT_ASCII};
use crate::error::RequestRule;
use crate::octets::ip_address;

/// Names that a request carries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestedNames {
    /// Its URI SAN.
    pub spiffe_id: Option<SpiffeId>,
    /// Its DNS SANs.
    pub dns: Vec<DnsName>,
    /// Its IP SANs.
    pub ip: Vec<IpAddr>,
}

impl RequestedNames {
    pub(crate) fn add(&mut self, name: &GeneralName<'_>) -> Result<(), RequestRule> {
        let refuse = |why: String| Err(RequestRule::Names(why));
        match name {
            GeneralName::URI(uri) if self.spiffe_id.is_none() => match SpiffeId::parse(uri) {
                Ok(id) => self.spiffe_id = Some(id),
                Err(error) => return refuse(error.to_string()),
            },
            GeneralName::URI(_) => return refuse("it has more than one URI name".to_owned()),
            GeneralName::DNSName(name) => match DnsName::parse(name) {
                Ok(name) => self.dns.push(name),
                Err(error) => return refuse(error.to_string()),
            },
            GeneralName::IPAddress(octets) => match ip_address(octets) {
                Some(address) => self.ip.push(address),
                None => return refuse("an IP name has neither 4 nor 16 octets".to_owned()),
            },
            // x509-parser's word for a name that is no text.
            GeneralName::Invalid(tag, octets) if [DNS, URI].contains(&tag.0) => {
                let kind = if tag.0 == DNS { "DNS" } else { "URI" };
                let name = String::from_utf8_lossy(octets);
                return refuse(format!(
                    "the {kind} name {name:?} is not ASCII (RFC 5280 §4.2.1.6): {}",
                    NOT_ASCII
                ));
            }
            _ => {
                return refuse(
                    "it asks for a name that is neither URI, DNS nor IP: remove it".to_owned(),
                );
            }
        }
        self.require_few()
    }

    /// Names of several extensions count together.
    pub(crate) fn join(&mut self, more: Self) -> Result<(), RequestRule> {
        self.spiffe_id = match (self.spiffe_id.take(), more.spiffe_id) {
            (Some(one), Some(other)) if one != other => {
                return Err(RequestRule::Names("it has more than one URI name".to_owned()));
            }
            (one, other) => one.or(other),
        };
        let dns = more.dns.into_iter().filter(|name| !self.dns.contains(name));
        self.dns.extend(dns.collect::<Vec<_>>());
        let ip = more.ip.into_iter().filter(|name| !self.ip.contains(name));
        self.ip.extend(ip.collect::<Vec<_>>());
        self.require_few()
    }

    fn require_few(&self) -> Result<(), RequestRule> {
        if self.dns.len() + self.ip.len() > MAX_NAMES {
            return Err(RequestRule::TooManyNames);
        }
        Ok(())
    }
}

/// RFC 5280 §4.2.1.6: the tags of GeneralName.
const DNS: u32 = 2;
const URI: u32 = 6;

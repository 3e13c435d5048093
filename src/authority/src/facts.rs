//! What is kept of how a certificate came to be.

use std::net::IpAddr;

use identity::SerialNumber;
use issuance::DnsName;
use serde::{Deserialize, Serialize};

/// What the store keeps of how a certificate came to be. Fields are sorted: the JSON is canonical.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) attested_at: u64,
    pub(crate) attestor: String,
    pub(crate) dns: Vec<DnsName>,
    pub(crate) ip: Vec<IpAddr>,
    pub(crate) lineage: SerialNumber,
    /// None where an earlier version wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) names_from: Option<NamesFrom>,
    pub(crate) policies: Vec<String>,
    pub(crate) principal: String,
    pub(crate) validity_seconds: u64,
}

impl Facts {
    pub(crate) fn names(&self) -> Names {
        Names { dns: self.dns.clone(), ip: self.ip.clone() }
    }

    /// Before rows had a say, whoever asked for none had none.
    pub(crate) fn names_from(&self) -> NamesFrom {
        let of_before = if self.names().is_empty() { NamesFrom::Row } else { NamesFrom::Request };
        self.names_from.unwrap_or(of_before)
    }
}

/// Names beside the SPIFFE ID.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) dns: Vec<DnsName>,
    pub(crate) ip: Vec<IpAddr>,
}

impl Names {
    pub(crate) fn is_empty(&self) -> bool {
        self.dns.is_empty() && self.ip.is_empty()
    }
}

/// Who chose the names of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NamesFrom {
    /// Whoever asked, by naming them, or by asking for none.
    Request,
    /// The workload table: nobody spoke of names. A renewal has those of the row as it is then.
    Row,
}

/// The attestors' names, as policies see them.
pub(crate) const INTERNAL: &str = "internal";
pub(crate) const SVID: &str = "svid";
pub(crate) const TOKEN: &str = "token";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_version_wrote_has_names_of_whoever_named_some() {
        for (dns, expected) in [("[\"a.internal\"]", NamesFrom::Request), ("[]", NamesFrom::Row)] {
            let facts = format!(
                "{{\"attested_at\":0,\"attestor\":\"token\",\"dns\":{dns},\"ip\":[],\"lineage\":\"01\",\
                 \"policies\":[],\"principal\":\"a\",\"validity_seconds\":1}}"
            );
            let read: Facts = serde_json::from_str(&facts).unwrap();
            assert_eq!(read.names_from(), expected);
            assert_eq!(serde_json::to_string(&read).unwrap(), facts);
        }
    }
}

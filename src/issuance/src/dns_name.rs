//! DNS names as they may stand in a certificate.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A DNS name in lower case, without wildcard and without trailing dot, at most 253 bytes.
///
/// Source: RFC 1123 §2.1, RFC 5280 §4.2.1.6. Upper case is refused, not folded: policy compares
/// names byte by byte.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DnsName(String);

impl DnsName {
    /// Parses a name.
    pub fn parse(input: &str) -> Result<Self, Error> {
        let refuse = |why| Error::DnsName { input: input.chars().take(100).collect(), why };
        if input.is_empty() || input.len() > 253 {
            return Err(refuse("it has 1 to 253 bytes"));
        }
        if !input.is_ascii() {
            return Err(refuse(NOT_ASCII));
        }
        if input.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(refuse("write it in lower case"));
        }
        if input.contains('*') {
            return Err(refuse("wildcards are not issued"));
        }
        if !input.split('.').all(is_label) {
            return Err(refuse("labels are 1 to 63 letters, digits and inner hyphens"));
        }
        if input.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
            return Err(refuse(match input.parse::<Ipv4Addr>() {
                Ok(_) => "it looks like an IP address; ask for it as one",
                Err(_) => "its last label is a number, which URLs and TLS take for an IP address",
            }));
        }
        Ok(Self(input.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// RFC 5891: how a name of other letters is written.
pub(crate) const NOT_ASCII: &str = "write it in ASCII: xn--…, as `idn` prints it";

impl TryFrom<String> for DnsName {
    type Error = Error;
    fn try_from(input: String) -> Result<Self, Error> {
        Self::parse(&input)
    }
}

impl From<DnsName> for String {
    fn from(name: DnsName) -> Self {
        name.0
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_or_refused_by_rule() {
        for good in ["localhost", "monolith.pay.internal", "a-b.c1"] {
            assert_eq!(DnsName::parse(good).unwrap().as_str(), good);
        }
        for bad in
            ["", "A.b", "*.pay.internal", "a..b", "a.", "-a.b", "a b", "10.0.0.1", "a_b.c", "ä.b"]
        {
            assert!(DnsName::parse(bad).is_err(), "{bad}");
        }
        assert!(DnsName::parse(&"a".repeat(64)).is_err());
        for (number, why) in
            [("web.1", "last label is a number"), ("10.0.0.1", "ask for it as one")]
        {
            let refused = DnsName::parse(number).unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
        }
    }
}

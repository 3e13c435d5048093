//! What `show` and `revoke` are about: one certificate, or all of an identity.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use identity::{SerialNumber, SpiffeId};

/// A serial number or a SPIFFE ID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Every certificate of this identity.
    Identity(SpiffeId),
    /// One certificate.
    Serial(SerialNumber),
}

impl FromStr for Target {
    type Err = String;
    /// Serial numbers may be written as other tools print them, `8F:2C:…`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains("://") {
            return SpiffeId::parse(text).map(Self::Identity).map_err(|error| error.to_string());
        }
        SerialNumber::from_any_hex(text).map(Self::Serial).map_err(|error| match text {
            path if path.starts_with('/') => {
                format!("a SPIFFE ID is written whole: spiffe://TRUST-DOMAIN{path}")
            }
            _ => format!("{error}; or a SPIFFE ID: spiffe://TRUST-DOMAIN/PATH"),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(id) => write!(f, "{id}"),
            Self::Serial(serial) => write!(f, "{serial}"),
        }
    }
}

/// Why certificates are revoked: RFC 5280 §5.3.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Reason {
    /// The workload's owner or role changed
    AffiliationChanged,
    /// The workload no longer exists
    CessationOfOperation,
    /// The key is, or may be, known to others
    KeyCompromise,
    /// What the certificate allowed is withdrawn
    PrivilegeWithdrawn,
    /// A newer certificate replaces it
    Superseded,
    /// None of the others
    Unspecified,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("no reason is hidden");
        f.write_str(value.get_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_are_taken_as_other_tools_print_them() {
        let serial = Target::Serial("8f2c01".parse().unwrap());
        for text in ["8f2c01", "8F2C01", "8f:2c:01", "0x8f2c01"] {
            assert_eq!(text.parse::<Target>().unwrap(), serial);
        }
        assert!("reports".parse::<Target>().is_err());
        let path = "/prod/reports".parse::<Target>().unwrap_err();
        assert!(path.contains("spiffe://TRUST-DOMAIN/prod/reports"), "{path}");
    }

    #[test]
    fn an_identity_is_told_from_a_serial_number_by_its_scheme() {
        let id = "spiffe://pay.example/reports";
        assert_eq!(id.parse::<Target>().unwrap().to_string(), id);
        assert!("https://pay.example/reports".parse::<Target>().is_err());
    }

    #[test]
    fn reasons_are_those_that_the_ca_reads() {
        for reason in Reason::value_variants() {
            let json = format!("\"{reason}\"");
            serde_json::from_str::<issuance::RevocationReason>(&json).unwrap();
        }
    }
}

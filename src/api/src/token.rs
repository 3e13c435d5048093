//! Bootstrap tokens: as text, asked for, made, and kept.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use identity::{SpiffeId, TrustPin};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use zeroize::Zeroize;

use crate::secret::Secret;
use crate::ttl::Ttl;

/// A one-time bootstrap token: 256 secret bits, and the trust pin that its user starts from.
///
/// As text `ct1.SECRET.PIN`, the secret in base64url. `Debug` shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct BootstrapToken {
    secret: [u8; 32],
    pin: TrustPin,
}

impl BootstrapToken {
    /// Takes 256 random bits.
    pub fn new(secret: [u8; 32], pin: TrustPin) -> Self {
        Self { secret, pin }
    }

    /// The secret bits.
    pub fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// The pin of the CA that made it.
    pub fn pin(&self) -> &TrustPin {
        &self.pin
    }

    /// The text, for the one who asked for the token.
    pub fn expose(&self) -> String {
        format!("{PREFIX}.{}.{}", BASE64URL_NOPAD.encode(&self.secret), self.pin)
    }
}

impl FromStr for BootstrapToken {
    type Err = String;
    /// Errors never repeat the input.
    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || "a bootstrap token looks like ct1.SECRET.PIN; copy it whole".to_owned();
        let mut parts = text.trim().split('.');
        let (Some(PREFIX), Some(secret), Some(pin), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed());
        };
        let secret = BASE64URL_NOPAD.decode(secret.as_bytes()).map_err(|_| malformed())?;
        let secret = secret.try_into().map_err(|_| malformed())?;
        Ok(Self { secret, pin: pin.parse().map_err(|_| malformed())? })
    }
}

impl fmt::Debug for BootstrapToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BootstrapToken")
    }
}

impl Drop for BootstrapToken {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

/// Asks for a bootstrap token: `POST /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenRequest {
    /// For whom.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::WorkloadId))]
    pub spiffe_id: SpiffeId,
    /// How long it may be used, 15 minutes at most and if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::TokenLife>))]
    pub ttl: Option<Ttl>,
    /// Only for this key: lower-case hex of the SHA-256 of its SubjectPublicKeyInfo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::Sha256>))]
    pub key_sha256: Option<String>,
}

/// A new bootstrap token. It is shown once and kept only as a hash.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NewToken {
    /// What `DELETE /v1/tokens/{id}` takes.
    pub id: String,
    /// The token.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub token: Secret,
    /// For whom.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SpiffeId))]
    pub spiffe_id: SpiffeId,
    /// Until when.
    #[serde(with = "time::serde::rfc3339")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub expires_at: OffsetDateTime,
    /// The trust pin that its user starts from.
    pub trust_pin: String,
    /// Why no certificate would be issued for it as things are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// What would change that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_step: Option<String>,
}

/// Pages of `GET /v1/tokens`, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
pub struct TokenFilter {
    /// Items a page, 1 to 1,000; 1,000 if left out.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "crate::page::items_of_a_page"
    )]
    #[cfg_attr(feature = "openapi", param(minimum = 1, maximum = 1000))]
    pub limit: Option<u32>,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", param(value_type = Option<crate::schema::LogIndex>))]
    pub after: Option<String>,
}

/// A bootstrap token as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenRecord {
    /// Its id.
    pub id: String,
    /// For whom.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::SpiffeId))]
    pub spiffe_id: SpiffeId,
    /// `open`, `used`, `expired`, `revoked`, or `void` where its maker was revoked since, or may not
    /// make it now, where those for whom it was made were revoked or denied since, while they are
    /// denied, and, where it makes an operator, while somebody has a certificate of that name.
    pub state: String,
    /// Who made it.
    #[serde(default)]
    pub made_by: String,
    /// Until when.
    #[serde(with = "time::serde::rfc3339")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub expires_at: OffsetDateTime,
}

const PREFIX: &str = "ct1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_as_text_and_is_not_shown() {
        let pin: TrustPin = "A".repeat(52).parse().unwrap();
        let token = BootstrapToken::new([7; 32], pin);
        assert_eq!(token.expose().parse::<BootstrapToken>().unwrap(), token);
        assert_eq!(format!("{token:?}"), "BootstrapToken");
        for broken in ["", "ct1", "ct2.a.b", "ct1.AAAA.BBBB"] {
            assert!(broken.parse::<BootstrapToken>().is_err());
        }
    }
}

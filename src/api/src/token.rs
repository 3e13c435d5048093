//! Bootstrap tokens as text.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use identity::TrustPin;
use zeroize::Zeroize;

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

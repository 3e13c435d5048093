//! DER as it stands in JSON.

use std::fmt;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

/// DER bytes that stand as base64 in JSON.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Der(Vec<u8>);

/// A SubjectPublicKeyInfo.
pub type Spki = Der;

impl Der {
    /// Wraps bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<String> for Der {
    type Error = data_encoding::DecodeError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        BASE64.decode(text.as_bytes()).map(Self)
    }
}

impl From<Der> for String {
    fn from(der: Der) -> Self {
        BASE64.encode(&der.0)
    }
}

impl fmt::Debug for Der {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(&self.0))
    }
}

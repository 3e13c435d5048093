//! Which key does what, and the steps by which one takes another's place.

use std::fmt;
use std::str::FromStr;

use identity::Der;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::fleet::WaitingInstance;
use crate::life::LifeLeft;

/// What a key of the CA is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum KeyPurpose {
    /// Countersigns certificates, for the log. P-256.
    Countersignature,
    /// Signs messages of the revocation feed. Ed25519.
    Feed,
    /// Signs certificates and CRLs. P-256.
    Issuer,
    /// Signs checkpoints of the log. Ed25519.
    Log,
    /// Certifies issuers; the trust anchor. P-256, offline.
    Root,
    /// Signs trust states. P-256, offline.
    Trust,
}

impl KeyPurpose {
    /// Every purpose, in the order in which a rotation looks at them.
    pub const ALL: [Self; 6] =
        [Self::Root, Self::Issuer, Self::Countersignature, Self::Log, Self::Feed, Self::Trust];

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Countersignature => "countersignature",
            Self::Feed => "feed",
            Self::Issuer => "issuer",
            Self::Log => "log",
            Self::Root => "root",
            Self::Trust => "trust",
        }
    }

    /// Whether only `init` and `rotate` hold it, never `serve`.
    pub fn is_offline(self) -> bool {
        matches!(self, Self::Root | Self::Trust)
    }
}

impl fmt::Display for KeyPurpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for KeyPurpose {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|purpose| purpose.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("there is no key for {text:?}; keys are {names}")
        })
    }
}

/// Where a key stands. For each purpose one key is active; at most one is prepared, or retiring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum KeyState {
    /// Those who verify are learning of it.
    Prepared,
    /// It signs.
    Active,
    /// Another signs in its place; what it signed still counts.
    Retiring,
    /// It counts no more.
    Retired,
}

/// A step of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum KeyStep {
    /// A new key is made known.
    Prepare,
    /// It signs from now on.
    Activate,
    /// The key before it counts no more.
    Retire,
}

impl KeyStep {
    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Activate => "activate",
            Self::Retire => "retire",
        }
    }
}

impl fmt::Display for KeyStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for KeyStep {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Prepare, Self::Activate, Self::Retire]
            .into_iter()
            .find(|step| step.name() == text)
            .ok_or_else(|| format!("there is no step {text:?}: prepare, activate, retire"))
    }
}

/// A key: an item of `GET /v1/keys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KeyRecord {
    /// SHA-256 of its SubjectPublicKeyInfo, lower-case hex.
    pub id: String,
    /// What it is for.
    pub purpose: KeyPurpose,
    /// Where it stands.
    pub state: KeyState,
    /// The place in the log of the event that brought it there.
    pub log_index: u64,
    /// The time of that event.
    #[serde(with = "time::serde::rfc3339")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub since: OffsetDateTime,
    /// Its SubjectPublicKeyInfo, base64.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Base64))]
    pub public_key: Der,
    /// The root key that certified it: issuers below a root of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certified_by: Option<String>,
    /// The first second of its certificate: issuers and roots.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "time::serde::rfc3339::option"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub not_before: Option<OffsetDateTime>,
    /// The last second of its certificate: issuers and roots.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "time::serde::rfc3339::option"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub not_after: Option<OffsetDateTime>,
    /// What comes next for it, and what that waits for; none for an active or retired key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<NextStep>,
}

impl KeyRecord {
    /// How much of its certificate's life is left; none where that is more than a half, or there is
    /// no certificate.
    pub fn life_left(&self, now: OffsetDateTime) -> Option<LifeLeft> {
        LifeLeft::of(self.not_before?, self.not_after?, now)
    }
}

/// An issuer or a root that ends, and what is to be done about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LifeWarning {
    /// Issuer or root.
    pub key: KeyPurpose,
    /// SHA-256 of its SubjectPublicKeyInfo, lower-case hex.
    pub id: String,
    /// The last second of its certificate.
    #[serde(with = "time::serde::rfc3339")]
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub not_after: OffsetDateTime,
    /// At most so much of its life is left.
    pub left: LifeLeft,
    /// What to type next, on the CA's host.
    pub next_step: String,
}

/// The next step of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NextStep {
    /// Which.
    pub step: KeyStep,
    /// How many certificates it waits for; it may be taken when there is none.
    pub waiting: u64,
    /// Some of them; 20 at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<WaitingInstance>,
    /// When the last of them ends at the latest.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "time::serde::rfc3339::option"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub until: Option<OffsetDateTime>,
    /// Another key whose rotation has to come first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<String>,
}

impl NextStep {
    /// Whether it can be taken now.
    pub fn is_due(&self) -> bool {
        self.waiting == 0 && self.first.is_none()
    }
}

/// Which trust state is asked for: `GET /v1/trust`. The newest, if neither is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
pub struct TrustQuery {
    /// The newest that the keys of this trust pin signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", param(value_type = Option<crate::schema::TrustPin>))]
    pub pin: Option<String>,
    /// The newest that the keys of the state with this sequence signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
}

/// A step: `POST /v1/keys/{id}/{step}`.
///
/// What an offline key signs for it is announced first and logged; then it is signed, and the same
/// step is asked for again with what was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct KeyStepRequest {
    /// What the key is for.
    pub purpose: KeyPurpose,
    /// Its SubjectPublicKeyInfo, DER in base64: to prepare it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<crate::schema::Base64>))]
    pub public_key: Option<Der>,
    /// The certificate of an issuer or root: to prepare it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<OfflineSignature>,
    /// The next trust state, where the step changes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_state: Option<OfflineSignature>,
}

/// Something that an offline key signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum OfflineSignature {
    /// It will be signed.
    Announced {
        /// What will be signed, base64.
        #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Base64))]
        to_be_signed: Der,
    },
    /// It was signed.
    Signed {
        /// Where the announcement stands in the log.
        announced_at: u64,
        /// The certificate (DER) or the note, base64.
        #[cfg_attr(feature = "openapi", schema(value_type = crate::schema::Base64))]
        signed: Der,
    },
}

impl OfflineSignature {
    /// What was signed.
    pub fn signed(&self) -> Option<&Der> {
        match self {
            Self::Announced { .. } => None,
            Self::Signed { signed, .. } => Some(signed),
        }
    }
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum KeyStepOutcome {
    /// What was announced is logged, and may be signed.
    Announced {
        /// Where the certificate's announcement stands.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        certificate: Option<u64>,
        /// Where the trust state's announcement stands.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trust_state: Option<u64>,
    },
    /// The step is done.
    Done {
        /// Its place in the log.
        log_index: u64,
    },
}

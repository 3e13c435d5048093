//! Questions to policy, and its answers.

use std::net::IpAddr;

use api::{KeyPurpose, KeyStep, RevocationExtent};
use identity::SpiffeId;
use issuance::{DnsName, KeyType};

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Principal {
    /// The CA itself.
    Authority,
    /// An operator.
    Operator(SpiffeId),
    /// A workload.
    Workload(SpiffeId),
}

impl Principal {
    /// An operator or a workload, by its SPIFFE ID.
    pub fn of(id: &SpiffeId) -> Self {
        match id.operator_name() {
            Some(_) => Self::Operator(id.clone()),
            None => Self::Workload(id.clone()),
        }
    }

    /// As events and records name it.
    pub fn name(&self) -> &str {
        match self {
            Self::Authority => "authority",
            Self::Operator(id) | Self::Workload(id) => id.as_str(),
        }
    }
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// Let somebody new become an operator.
    AddOperator,
    /// Lift a deny.
    Allow,
    /// Replace the policy set.
    ChangePolicy,
    /// Make a bootstrap token.
    CreateToken,
    /// Deny an identity.
    Deny,
    /// A certificate for an identity.
    Issue(IssueContext),
    /// List all certificates.
    ListInventory,
    /// Read one certificate's record.
    ReadInventory,
    /// Read the log.
    ReadLog,
    /// Read the policy set.
    ReadPolicy,
    /// Read how the CA is doing.
    ReadStatus,
    /// List bootstrap tokens.
    ReadTokens,
    /// A certificate in place of one's own.
    Renew(IssueContext),
    /// Revoke certificates: so much of an identity.
    Revoke(RevocationExtent),
    /// Withdraw a bootstrap token.
    RevokeToken,
    /// Take a step of a key's rotation.
    RotateKey(KeyPurpose, KeyStep),
}

impl Action {
    /// One of each, in the order of their names.
    pub(crate) fn each(context: IssueContext, extent: RevocationExtent) -> [Self; 16] {
        [
            Self::AddOperator,
            Self::Allow,
            Self::ChangePolicy,
            Self::CreateToken,
            Self::Deny,
            Self::Issue(context.clone()),
            Self::ListInventory,
            Self::ReadInventory,
            Self::ReadLog,
            Self::ReadPolicy,
            Self::ReadStatus,
            Self::ReadTokens,
            Self::Renew(context),
            Self::Revoke(extent),
            Self::RevokeToken,
            Self::RotateKey(KeyPurpose::Issuer, KeyStep::Prepare),
        ]
    }

    /// Whether its resource is an identity; else it is the whole trust domain.
    pub(crate) fn concerns_an_identity(&self) -> bool {
        match self {
            Self::AddOperator
            | Self::Allow
            | Self::CreateToken
            | Self::Deny
            | Self::Issue(_)
            | Self::ReadInventory
            | Self::Renew(_)
            | Self::Revoke(_) => true,
            Self::ChangePolicy
            | Self::ListInventory
            | Self::ReadLog
            | Self::ReadPolicy
            | Self::ReadStatus
            | Self::ReadTokens
            | Self::RevokeToken
            | Self::RotateKey(..) => false,
        }
    }

    /// The action's name in the schema.
    pub fn name(&self) -> &'static str {
        match self {
            Self::AddOperator => "AddOperator",
            Self::Allow => "Allow",
            Self::ChangePolicy => "ChangePolicy",
            Self::CreateToken => "CreateToken",
            Self::Deny => "Deny",
            Self::Issue(_) => "Issue",
            Self::ListInventory => "ListInventory",
            Self::ReadInventory => "ReadInventory",
            Self::ReadLog => "ReadLog",
            Self::ReadPolicy => "ReadPolicy",
            Self::ReadStatus => "ReadStatus",
            Self::ReadTokens => "ReadTokens",
            Self::Renew(_) => "Renew",
            Self::Revoke(_) => "Revoke",
            Self::RevokeToken => "RevokeToken",
            Self::RotateKey(..) => "RotateKey",
        }
    }
}

/// Everything about a certificate that policy sees.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IssueContext {
    /// How the caller proved who it is.
    pub attestor: &'static str,
    /// Every DNS name, from request and CSR.
    pub dns: Vec<DnsName>,
    /// Every IP address, from request and CSR.
    pub ip: Vec<IpAddr>,
    /// The kind of the key.
    pub key_type: KeyType,
    /// The profile.
    pub profile: String,
    /// The validity, in seconds.
    pub validity_seconds: u64,
}

/// One question to policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Query {
    /// Who.
    pub principal: Principal,
    /// What.
    pub action: Action,
    /// On whom; none for what concerns the whole trust domain.
    pub resource: Option<SpiffeId>,
}

/// Policy's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// The policies that decided, by their ids, sorted; empty where none applied.
    pub policies: Vec<String>,
    /// Evaluation errors: any makes it a deny.
    pub errors: Vec<String>,
}

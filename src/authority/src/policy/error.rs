//! Why a policy set cannot become active.

use time::OffsetDateTime;

use super::bounds::{MAX_EXPANDED, MAX_NAMES_BYTES, MAX_NESTED_PATHS, MAX_TYPES};
use super::files::SCHEMA;
use crate::limits;

/// Why a policy set cannot become active.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Under the set, nobody could do what keeps the CA going.
    #[error("the policy set would lock the CA: {0}")]
    Governance(String),
    /// A policy does not parse, or breaks the schema.
    #[error("policies: {0}")]
    Cedar(String),
    /// The names of its files do not fit the event that puts it into force.
    #[error(
        "the names of the policy set's files have {bytes} bytes together, and at most {} are logged",
        MAX_NAMES_BYTES
    )]
    FileNames {
        /// How many they have, as JSON.
        bytes: usize,
    },
    /// A file that no policy set has.
    #[error(
        "{0} is no file of a policy set: expected schema.cedarschema, *.cedar, workloads.json, profiles.json"
    )]
    File(String),
    /// A text goes deeper than anybody needs, and than Cedar's stack may reach.
    #[error("{file}: line {line}: brackets and operators lie more than {limit} deep in each other")]
    Depth {
        /// The file.
        file: String,
        /// The line at which it becomes too deep, from 1.
        line: usize,
        /// How deep it may go.
        limit: usize,
    },
    /// `like` crosses path segments: `pay*` matches `payments-admin`.
    #[error(
        "policy {0:?} uses `like` on something else than context.attestor, context.key_type or \
         context.profile; write `resource in Path::\"/…\"` instead"
    )]
    Like(String),
    /// A row lists a name that a CA above the issuer does not permit.
    #[error("workloads.json: row {row:?}: {found}")]
    NotPermitted {
        /// The row's path.
        row: String,
        /// The name.
        found: NotPermitted,
    },
    /// A row lists a name of the CA's own.
    #[error("workloads.json: row {row:?}: {claim}")]
    OwnName {
        /// The row's path.
        row: String,
        /// The name.
        claim: Claim,
    },
    /// A profile cannot be used.
    #[error("profiles.json: {0}")]
    Profiles(String),
    /// The schema does not parse.
    #[error("schema.cedarschema: {0}")]
    Schema(String),
    /// It is larger than [`api::MAX_POLICY_BYTES`].
    #[error(
        "the policy set has {bytes} bytes as JSON, and a CA takes {} at most",
        api::MAX_POLICY_BYTES
    )]
    TooLarge {
        /// How many it has.
        bytes: u64,
    },
    /// There is no thread to parse it on.
    #[error("policies are not parsed: {0}")]
    Thread(String),
    /// It declares more types than nest in each other within Cedar's stack.
    #[error("schema.cedarschema: it declares {types} types, and {} at most are taken", MAX_TYPES)]
    Types {
        /// How many it declares.
        types: usize,
    },
    /// Paths that policies name lie in each other.
    #[error(
        "policies name {paths} paths that lie in each other, and {MAX_NESTED_PATHS} are allowed: each \
         decision looks at all of them"
    )]
    NestedPaths {
        /// How many.
        paths: usize,
    },
    /// Types that name types so often that nobody could read the whole.
    #[error(
        "schema.cedarschema names its types in each other so often that it has more than {} words when \
         each name is replaced by what it stands for",
        MAX_EXPANDED
    )]
    Expanded,
    /// The workload table cannot be used.
    #[error("{0}")]
    Workloads(String),
}

impl PolicyError {
    /// Counts the limit that it met, if it is one.
    pub(super) fn count(&self) {
        match self {
            Self::Depth { file, .. } if file == SCHEMA => limits::SCHEMA_DEPTH.reached(),
            Self::Depth { .. } => limits::POLICY_DEPTH.reached(),
            Self::FileNames { .. } => limits::POLICY_FILE_NAMES.reached(),
            Self::TooLarge { .. } => limits::POLICY_SET.reached(),
            Self::Types { .. } => limits::SCHEMA_TYPES.reached(),
            Self::Expanded => limits::SCHEMA_WORDS.reached(),
            Self::NestedPaths { .. } => limits::POLICY_NESTED_PATHS.reached(),
            _ => {}
        }
    }

    /// What to do, where the error itself does not say it.
    pub fn next_step(&self) -> Option<&'static str> {
        match self {
            Self::Depth { .. } => Some(
                "write several policies for one with many alternatives, or a set: `resource in \
                 [Path::\"/a\", Path::\"/b\"]`",
            ),
            Self::NestedPaths { .. } => {
                Some("name the outermost of them, or where there are many beside each other, those")
            }
            Self::Expanded | Self::Types { .. } => {
                Some("say what a type is where it is used, and give it no name")
            }
            Self::Governance(_) => Some(
                "a set with a *.cedar has no policy but its own: `countersign policy shipped > \
                 DIR/countersign.cedar` puts those that ship beside them",
            ),
            Self::FileNames { .. } => Some("put several policies into one *.cedar file"),
            Self::TooLarge { .. } => Some(
                "remove rows that no workload uses, and spaces: jq -c . workloads.json; \
                 `countersign policy check DIR` measures it",
            ),
            _ => None,
        }
    }
}

/// One of the CA's names, asked for by somebody else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} is the CA's own name{}", until(.last_second))]
pub struct Claim {
    /// The name.
    pub name: String,
    /// Where only a certificate of the CA's bears it still: its last second, since 1970.
    pub last_second: Option<i64>,
}

/// A name that a CA above the issuer does not permit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name} lies outside the name constraints of {constraining}: every peer would refuse a \
     certificate that bears it ({refusal})"
)]
pub struct NotPermitted {
    /// The name; where each by itself is permitted, how many.
    pub name: String,
    /// The subjects of the CAs that constrain names.
    pub constraining: String,
    /// What peers would say.
    pub refusal: String,
}

fn until(last_second: &Option<i64>) -> String {
    let at = last_second.and_then(|second| OffsetDateTime::from_unix_timestamp(second).ok());
    at.map_or_else(String::new, |at| format!(" until {at}: a certificate of its own bears it"))
}

//! Policy: Cedar over the workload table. Deny by default, and any evaluation error is a deny.
//!
//! A policy set is every file of a policies folder, named by one hash. It is parsed and validated
//! strictly against its schema before it can become active; decisions are cached within one set.
//! What the CA needs to go on depends on no set (`way_on`), and no text uses up a stack (`nesting`).

mod decisions;
mod evaluation;
mod nesting;
mod parsing;
mod way_on;

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::{KeyPurpose, KeyStep, RevocationExtent};
use cedar_policy::Schema;
use identity::{SpiffeId, TrustDomain};
use issuance::{DnsName, KeyType, Profile};
use tlog::Hash;

use crate::limits;
use crate::own_names::Claim;
use crate::permitted_names::NotPermitted;
use crate::workloads::Workloads;
use decisions::{Decisions, ordered};
use evaluation::{Ground, evaluate};
use parsing::{
    hash, is_policy_file, parse_policies, parse_profiles, readable, require_depth,
    require_profiles, require_size, validate,
};
use way_on::own;

pub(crate) use parsing::{MAX_DEPTH, MAX_EXPANDED, MAX_NAMES_BYTES, MAX_SCHEMA_DEPTH, MAX_TYPES};
pub use way_on::OPERATOR_LIFE;
pub(crate) use way_on::{able, administers, require_operator};

/// A parsed and validated policy set.
#[derive(Debug)]
pub struct PolicySet {
    files: BTreeMap<String, String>,
    hash: Hash,
    schema: Schema,
    policies: cedar_policy::PolicySet,
    workloads: Workloads,
    profiles: BTreeMap<String, Profile>,
    own_profile: Profile,
}

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
        parsing::MAX_NAMES_BYTES
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
    #[error(
        "schema.cedarschema: it declares {types} types, and {} at most are taken",
        parsing::MAX_TYPES
    )]
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
        parsing::MAX_EXPANDED
    )]
    Expanded,
    /// The workload table cannot be used.
    #[error("{0}")]
    Workloads(String),
}

impl PolicyError {
    /// Counts the limit that it met, if it is one.
    fn count(&self) {
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

impl PolicySet {
    /// Parses the files of a policies folder, by name. What is left out is as shipped, but for
    /// `workloads.json`. This is all that a CA checks, and so does whoever asks no CA.
    pub fn parse(files: &BTreeMap<String, String>) -> Result<Self, PolicyError> {
        Self::parse_owned(files.clone())
    }

    pub(crate) fn parse_owned(files: BTreeMap<String, String>) -> Result<Self, PolicyError> {
        let files = completed(files)?;
        require_size(&files)?;
        require_depth(&files)?;
        let set = Self::of(files)?;
        let paths = evaluation::nested_paths(&set);
        if paths > MAX_NESTED_PATHS {
            return Err(PolicyError::NestedPaths { paths });
        }
        Ok(set)
    }

    /// Parses what was in force before, whatever its size and depth: it was parsed once.
    pub(crate) fn read_back(files: BTreeMap<String, String>) -> Result<Self, PolicyError> {
        Self::of(completed(files)?)
    }

    /// On a stack that what nests as deep as it may does not use up, whoever asks.
    fn of(files: BTreeMap<String, String>) -> Result<Self, PolicyError> {
        std::thread::scope(|scope| {
            let parsing = std::thread::Builder::new().name("policy".to_owned()).stack_size(STACK);
            let parsing = parsing.spawn_scoped(scope, || Self::parsed(files));
            let parsing = parsing.map_err(|error| PolicyError::Thread(error.to_string()))?;
            parsing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn parsed(files: BTreeMap<String, String>) -> Result<Self, PolicyError> {
        let workloads = files
            .get(WORKLOADS)
            .ok_or_else(|| PolicyError::Workloads("workloads.json is missing".to_owned()))?;
        let workloads = Workloads::parse(workloads)?;
        let (schema, _) = Schema::from_cedarschema_str(&files[SCHEMA])
            .map_err(|error| PolicyError::Schema(readable(&error)))?;
        let policies = parse_policies(&files)?;
        validate(&schema, &policies)?;
        let profiles = parse_profiles(&files[PROFILES])?;
        require_profiles(&workloads, &profiles)?;
        let own_profile = parse_profiles(SHIPPED_PROFILES)?.remove(DEFAULT_PROFILE);
        let own_profile = own_profile.expect("parsed profiles have a default");
        let hash = hash(&files);
        Ok(Self { files, hash, schema, policies, workloads, profiles, own_profile })
    }

    /// The policy set that ships with Countersign, over this workload table.
    pub fn shipped(workloads: &str) -> Result<Self, PolicyError> {
        Self::parse(&BTreeMap::from([(WORKLOADS.to_owned(), workloads.to_owned())]))
    }

    /// The files, by name.
    pub fn files(&self) -> &BTreeMap<String, String> {
        &self.files
    }

    /// SHA-256 over names and contents of the files.
    pub fn hash(&self) -> &Hash {
        &self.hash
    }

    /// The workload table.
    pub fn workloads(&self) -> &Workloads {
        &self.workloads
    }

    /// A profile by name.
    pub fn profile(&self, name: &str) -> Option<&Profile> {
        self.profiles.get(name)
    }

    /// The profile of a certificate for this identity. The default of the CA's own paths is the one
    /// that ships, whatever a set makes of it for workloads: the CA and its operators depend on it.
    pub fn template(&self, spiffe_id: &SpiffeId, name: &str) -> Option<&Profile> {
        match spiffe_id.is_reserved() && name == DEFAULT_PROFILE {
            true => Some(&self.own_profile),
            false => self.profile(name),
        }
    }

    /// The ids of all policies.
    pub fn policy_ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.policies.policies().map(|p| p.id().to_string()).collect();
        ids.sort();
        ids
    }
}

/// The files with what ships in place of those that are left out.
fn completed(mut files: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, PolicyError> {
    if let Some(unknown) = files.keys().find(|name| !is_policy_file(name)) {
        return Err(PolicyError::File(unknown.clone()));
    }
    if !files.keys().any(|name| name.ends_with(".cedar")) {
        files.insert("countersign.cedar".to_owned(), SHIPPED_POLICIES.to_owned());
    }
    for (name, shipped) in [(SCHEMA, SHIPPED_SCHEMA), (PROFILES, SHIPPED_PROFILES)] {
        files.entry(name.to_owned()).or_insert_with(|| shipped.to_owned());
    }
    Ok(files)
}

/// A policy set in force in one trust domain, with the operators that the log made.
#[derive(Debug)]
pub struct ActivePolicy {
    set: Arc<PolicySet>,
    trust_domain: TrustDomain,
    operators: HashSet<String>,
    ground: Arc<Ground>,
    decisions: Decisions,
}

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

impl ActivePolicy {
    /// Puts a policy set into force. `operators` are the names that the log
    /// made operators: at `init`, and by others since.
    pub fn new(
        set: PolicySet,
        trust_domain: TrustDomain,
        operators: HashSet<String>,
    ) -> Result<Self, PolicyError> {
        let ground = Arc::new(Ground::of(&set, &trust_domain)?);
        let set = Arc::new(set);
        Ok(Self { set, trust_domain, operators, ground, decisions: Decisions::default() })
    }

    /// The same set with other operators.
    pub(crate) fn with_operators(&self, operators: HashSet<String>) -> Self {
        let (set, ground) = (Arc::clone(&self.set), Arc::clone(&self.ground));
        let trust_domain = self.trust_domain.clone();
        Self { set, trust_domain, operators, ground, decisions: Decisions::default() }
    }

    /// The same on a thread for nothing else: thousands of rows take a while to parse.
    pub(crate) async fn parse_apart(
        parse: impl FnOnce() -> Result<PolicySet, PolicyError> + Send + 'static,
        trust_domain: TrustDomain,
        operators: HashSet<String>,
    ) -> Result<Self, PolicyError> {
        let parsing = move || Self::new(parse()?, trust_domain, operators);
        match tokio::task::spawn_blocking(parsing).await {
            Ok(parsed) => parsed.inspect_err(PolicyError::count),
            Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
            Err(_) => Err(PolicyError::Thread("the CA is stopping".to_owned())),
        }
    }

    /// The policy set.
    pub fn set(&self) -> &PolicySet {
        &self.set
    }

    /// The trust domain in which it decides.
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The operators that the log made, by name.
    pub(crate) fn operators(&self) -> &HashSet<String> {
        &self.operators
    }

    /// Decides, from the cache where the same was asked under this policy set.
    ///
    /// What the CA asks for itself depends on no set.
    pub fn decide(&self, query: &Query) -> Decision {
        if let Some(own) = own(query) {
            return own;
        }
        let query = &*ordered(query);
        if let Some(known) = self.decisions.find(query) {
            return known;
        }
        let (set, domain) = (&self.set, &self.trust_domain);
        let decision =
            evaluate(set, domain, &self.operators, &self.ground, query).unwrap_or_else(|error| {
                Decision { allowed: false, policies: Vec::new(), errors: vec![error] }
            });
        self.decisions.keep(query, &decision);
        decision
    }
}

/// The profile of a request that names none.
pub const DEFAULT_PROFILE: &str = "default";
/// Cedar closes a chain of paths in the cube of its length.
pub(crate) const MAX_NESTED_PATHS: usize = 32;
/// A bracket takes Cedar's parser some 14 KiB of it, and several times that where nothing is
/// optimised; the system gives only what is used.
const STACK: usize = 64 * 1024 * 1024;
const SCHEMA: &str = "schema.cedarschema";
const WORKLOADS: &str = "workloads.json";
const PROFILES: &str = "profiles.json";
const SHIPPED_SCHEMA: &str = include_str!("../../../../policies/schema.cedarschema");
/// The policies that ship: those of a set that has none of its own.
pub const SHIPPED_POLICIES: &str = include_str!("../../../../policies/countersign.cedar");
const SHIPPED_PROFILES: &str = include_str!("../../../../policies/profiles.json");
/// The example table that `dev`, and `init` without a policies folder, start from.
pub const SHIPPED_WORKLOADS: &str = include_str!("../../../../policies/workloads.json");

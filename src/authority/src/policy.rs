//! Policy: Cedar over the workload table. Deny by default, and any evaluation error is a deny.
//!
//! A policy set is every file of a policies folder, named by one hash. It is parsed and validated
//! strictly against its schema before it can become active; decisions are cached within one set.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Mutex;

use api::{KeyPurpose, KeyStep};
use cedar_policy::{
    Authorizer, Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicyId, Request,
    RestrictedExpression, Schema, ValidationMode, Validator,
};
use identity::{SpiffeId, TrustDomain};
use issuance::{DnsName, KeyType, Profile, ProfileConfig};
use tlog::Hash;

use crate::workloads::Workloads;

/// A parsed and validated policy set.
#[derive(Debug)]
pub struct PolicySet {
    files: BTreeMap<String, String>,
    hash: Hash,
    schema: Schema,
    policies: cedar_policy::PolicySet,
    workloads: Workloads,
    profiles: BTreeMap<String, Profile>,
}

/// Why a policy set cannot become active.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Under the set, nobody could do what keeps the CA going.
    #[error("the policy set would lock the CA: {0}")]
    Governance(&'static str),
    /// A policy does not parse, or breaks the schema.
    #[error("policies: {0}")]
    Cedar(String),
    /// A file that no policy set has.
    #[error(
        "{0} is no file of a policy set: expected schema.cedarschema, *.cedar, workloads.json, profiles.json"
    )]
    File(String),
    /// `like` crosses path segments: `pay*` matches `payments-admin`.
    #[error(
        "policy {0:?} uses `like` on something else than context.attestor, context.key_type or \
         context.profile; write `resource in Path::\"/…\"` instead"
    )]
    Like(String),
    /// A profile cannot be used.
    #[error("profiles.json: {0}")]
    Profiles(String),
    /// The schema does not parse.
    #[error("schema.cedarschema: {0}")]
    Schema(String),
    /// The workload table cannot be used.
    #[error("{0}")]
    Workloads(String),
}

impl PolicySet {
    /// Parses the files of a policies folder, by name. What is left out is as shipped, but for
    /// `workloads.json`.
    pub fn parse(files: &BTreeMap<String, String>) -> Result<Self, PolicyError> {
        if let Some(unknown) = files.keys().find(|name| !is_policy_file(name)) {
            return Err(PolicyError::File(unknown.clone()));
        }
        let mut files = files.clone();
        if !files.keys().any(|name| name.ends_with(".cedar")) {
            files.insert("countersign.cedar".to_owned(), SHIPPED_POLICIES.to_owned());
        }
        for (name, shipped) in [(SCHEMA, SHIPPED_SCHEMA), (PROFILES, SHIPPED_PROFILES)] {
            files.entry(name.to_owned()).or_insert_with(|| shipped.to_owned());
        }
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
        let set = Self { hash: hash(&files), files, schema, policies, workloads, profiles };
        set.require_usable()?;
        Ok(set)
    }

    /// A set that cannot be put into force, or under which the CA cannot certify itself, would be
    /// the last one: found here, before anybody depends on it.
    fn require_usable(&self) -> Result<(), PolicyError> {
        let any = TrustDomain::parse("example.org").expect("a constant trust domain is valid");
        let context = IssueContext {
            attestor: "internal",
            dns: Vec::new(),
            ip: Vec::new(),
            key_type: KeyType::EcdsaP256,
            profile: DEFAULT_PROFILE.to_owned(),
            validity_seconds: 3600,
        };
        let own = Query {
            principal: Principal::Authority,
            action: Action::Issue(context),
            resource: Some(SpiffeId::authority(&any)),
        };
        let (entities, operators) = (entities(self, &any)?, HashSet::new());
        let decision = evaluate(self, &any, &operators, &entities, &own);
        match decision {
            Ok(decision) if decision.allowed => Ok(()),
            Ok(_) => Err(PolicyError::Governance(
                "the CA may not issue its own certificate (keep the policy authority-own-paths)",
            )),
            Err(error) => Err(PolicyError::Cedar(error)),
        }
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

    /// The ids of all policies.
    pub fn policy_ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.policies.policies().map(|p| p.id().to_string()).collect();
        ids.sort();
        ids
    }
}

/// A policy set in force in one trust domain, with the operators that `init` made.
#[derive(Debug)]
pub struct ActivePolicy {
    set: PolicySet,
    trust_domain: TrustDomain,
    operators: HashSet<String>,
    entities: Entities,
    decisions: Mutex<HashMap<Query, Decision>>,
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
    /// Revoke certificates.
    Revoke,
    /// Withdraw a bootstrap token.
    RevokeToken,
    /// Take a step of a key's rotation.
    RotateKey(KeyPurpose, KeyStep),
}

impl Action {
    /// Whether its resource is an identity; else it is the whole trust domain.
    pub(crate) fn concerns_an_identity(&self) -> bool {
        match self {
            Self::Allow
            | Self::CreateToken
            | Self::Deny
            | Self::Issue(_)
            | Self::ReadInventory
            | Self::Renew(_)
            | Self::Revoke => true,
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
            Self::Revoke => "Revoke",
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
    /// Puts a policy set into force. `operators` are the names made by `init`.
    pub fn new(
        set: PolicySet,
        trust_domain: TrustDomain,
        operators: HashSet<String>,
    ) -> Result<Self, PolicyError> {
        let entities = entities(&set, &trust_domain)?;
        Ok(Self { set, trust_domain, operators, entities, decisions: Mutex::default() })
    }

    /// The policy set.
    pub fn set(&self) -> &PolicySet {
        &self.set
    }

    /// The operators that `init` made, by name.
    pub(crate) fn operators(&self) -> &HashSet<String> {
        &self.operators
    }

    /// Decides, from the cache where the same was asked under this policy set.
    pub fn decide(&self, query: &Query) -> Decision {
        if let Some(known) = self.cache().get(query) {
            return known.clone();
        }
        let (set, domain) = (&self.set, &self.trust_domain);
        let decision =
            evaluate(set, domain, &self.operators, &self.entities, query).unwrap_or_else(|error| {
                Decision { allowed: false, policies: Vec::new(), errors: vec![error] }
            });
        // What is refused has endless forms; what policy allows has few.
        if decision.allowed {
            let mut cache = self.cache();
            if cache.len() >= CACHE_LIMIT {
                cache.clear();
            }
            cache.insert(query.clone(), decision.clone());
        }
        decision
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, HashMap<Query, Decision>> {
        self.decisions.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Every row of the table as an identity.
fn entities(set: &PolicySet, trust_domain: &TrustDomain) -> Result<Entities, PolicyError> {
    let mut made = Made::default();
    for row in set.workloads.rows() {
        let id = SpiffeId::new(trust_domain, &row.id)
            .map_err(|error| PolicyError::Workloads(error.to_string()))?;
        made.identity(&id, &set.workloads);
    }
    Entities::from_entities(made.entities, Some(&set.schema))
        .map_err(|error| PolicyError::Cedar(readable(&error)))
}

fn evaluate(
    set: &PolicySet,
    trust_domain: &TrustDomain,
    operators: &HashSet<String>,
    entities: &Entities,
    query: &Query,
) -> Result<Decision, String> {
    let mut made = Made::default();
    let principal = principal(set, operators, &query.principal, &mut made);
    let resource = match &query.resource {
        Some(id) => made.identity(id, &set.workloads),
        None => uid("TrustDomain", trust_domain.as_str()),
    };
    let context = match &query.action {
        Action::Issue(request) | Action::Renew(request) => context(request)?,
        Action::RotateKey(key, step) => rotation_context(*key, *step)?,
        _ => Context::empty(),
    };
    let action = uid("Action", query.action.name());
    let request = Request::new(principal, action, resource, context, Some(&set.schema))
        .map_err(|error| readable(&error))?;
    let entities = entities
        .clone()
        .upsert_entities(made.entities, Some(&set.schema))
        .map_err(|error| readable(&error))?;
    let response = Authorizer::new().is_authorized(&request, &set.policies, &entities);
    let errors: Vec<String> =
        response.diagnostics().errors().map(|error| error.to_string()).collect();
    let mut policies: Vec<String> =
        response.diagnostics().reason().map(ToString::to_string).collect();
    policies.sort();
    // Cedar skips a policy that errors, a forbid too: for us, an error denies.
    let allowed = response.decision() == cedar_policy::Decision::Allow && errors.is_empty();
    Ok(Decision { allowed, policies, errors })
}

fn principal(
    set: &PolicySet,
    operators: &HashSet<String>,
    principal: &Principal,
    made: &mut Made,
) -> EntityUid {
    match principal {
        Principal::Authority => uid("Authority", "authority"),
        Principal::Workload(id) => made.identity(id, &set.workloads),
        Principal::Operator(id) => {
            let identity = made.identity(id, &set.workloads);
            let operator = uid("Operator", id.as_str());
            let registered = RestrictedExpression::new_bool(is_operator(set, operators, id));
            let attributes = HashMap::from([
                ("identity".to_owned(), RestrictedExpression::new_entity_uid(identity)),
                ("registered".to_owned(), registered),
            ]);
            made.add(operator.clone(), attributes, HashSet::new());
            operator
        }
    }
}

fn is_operator(set: &PolicySet, operators: &HashSet<String>, id: &SpiffeId) -> bool {
    id.operator_name().is_some_and(|name| operators.contains(name))
        || set.workloads.lists_operator(id)
}

/// Entities on their way into a request.
#[derive(Default)]
struct Made {
    seen: HashSet<EntityUid>,
    entities: Vec<Entity>,
}

impl Made {
    /// The identity with what its row says, and the paths above it.
    fn identity(&mut self, id: &SpiffeId, workloads: &Workloads) -> EntityUid {
        let identity = uid("Identity", id.as_str());
        let row = workloads.row(id);
        let strings = |values: Vec<String>| {
            RestrictedExpression::new_set(values.into_iter().map(RestrictedExpression::new_string))
        };
        let dns = row.map(|r| r.dns.iter().map(ToString::to_string).collect()).unwrap_or_default();
        let ip = row.map(|r| r.ip.iter().map(ToString::to_string).collect()).unwrap_or_default();
        let profiles = row.map(|row| row.profiles.clone()).unwrap_or_default();
        let attributes = HashMap::from([
            ("registered".to_owned(), RestrictedExpression::new_bool(row.is_some())),
            ("dns".to_owned(), strings(dns)),
            ("ip".to_owned(), strings(ip)),
            ("profiles".to_owned(), strings(profiles)),
        ]);
        let parents = self.path(id.path()).into_iter().collect();
        self.add(identity.clone(), attributes, parents);
        identity
    }

    /// The path itself and every prefix of it; none for the empty path.
    fn path(&mut self, path: &str) -> Option<EntityUid> {
        let end = path.rfind('/')?;
        let parent = self.path(&path[..end]);
        let here = uid("Path", path);
        self.add(here.clone(), HashMap::new(), parent.into_iter().collect());
        Some(here)
    }

    fn add(
        &mut self,
        uid: EntityUid,
        attributes: HashMap<String, RestrictedExpression>,
        parents: HashSet<EntityUid>,
    ) {
        if self.seen.insert(uid.clone()) {
            let entity = Entity::new(uid, attributes, parents)
                .expect("attributes are plain values, which always evaluate");
            self.entities.push(entity);
        }
    }
}

fn context(request: &IssueContext) -> Result<Context, String> {
    let string = |text: &str| RestrictedExpression::new_string(text.to_owned());
    let set = |values: Vec<String>| {
        RestrictedExpression::new_set(values.into_iter().map(RestrictedExpression::new_string))
    };
    let seconds = i64::try_from(request.validity_seconds).unwrap_or(i64::MAX);
    Context::from_pairs([
        ("attestor".to_owned(), string(request.attestor)),
        ("dns".to_owned(), set(request.dns.iter().map(ToString::to_string).collect())),
        ("ip".to_owned(), set(request.ip.iter().map(ToString::to_string).collect())),
        ("key_type".to_owned(), string(request.key_type.name())),
        ("profile".to_owned(), string(&request.profile)),
        ("validity_seconds".to_owned(), RestrictedExpression::new_long(seconds)),
    ])
    .map_err(|error| readable(&error))
}

fn rotation_context(key: KeyPurpose, step: KeyStep) -> Result<Context, String> {
    let string = |text: &str| RestrictedExpression::new_string(text.to_owned());
    let pairs = [("key".to_owned(), string(key.name())), ("step".to_owned(), string(step.name()))];
    Context::from_pairs(pairs).map_err(|error| readable(&error))
}

fn uid(entity_type: &str, id: &str) -> EntityUid {
    let name = EntityTypeName::from_str(entity_type).expect("constant type names are valid");
    EntityUid::from_type_name_and_id(name, EntityId::new(id))
}

/// All `*.cedar` files as one set; a policy's id is its `@id`, or file and position.
fn parse_policies(
    files: &BTreeMap<String, String>,
) -> Result<cedar_policy::PolicySet, PolicyError> {
    let mut all = cedar_policy::PolicySet::new();
    for (name, text) in files.iter().filter(|(name, _)| name.ends_with(".cedar")) {
        let parsed = cedar_policy::PolicySet::from_str(text)
            .map_err(|error| PolicyError::Cedar(format!("{name}: {}", readable(&error))))?;
        if parsed.templates().next().is_some() {
            return Err(PolicyError::Cedar(format!("{name}: templates are not supported")));
        }
        for policy in parsed.policies() {
            let id = policy
                .annotation("id")
                .map_or_else(|| format!("{name}:{}", policy.id()), ToOwned::to_owned);
            refuse_like(policy, &id)?;
            all.add(policy.new_id(PolicyId::new(&id)))
                .map_err(|_| PolicyError::Cedar(format!("{name}: the id {id:?} stands twice")))?;
        }
    }
    Ok(all)
}

fn validate(schema: &Schema, policies: &cedar_policy::PolicySet) -> Result<(), PolicyError> {
    let result = Validator::new(schema.clone()).validate(policies, ValidationMode::Strict);
    if result.validation_passed() {
        return Ok(());
    }
    let errors: Vec<String> = result.validation_errors().map(ToString::to_string).collect();
    Err(PolicyError::Cedar(errors.join("; ")))
}

/// Walks the policy's JSON form: `like` is allowed only on context attributes whose values are
/// short words of ours.
fn refuse_like(policy: &cedar_policy::Policy, id: &str) -> Result<(), PolicyError> {
    let json = policy.to_json().map_err(|error| PolicyError::Cedar(readable(&error)))?;
    if uses_forbidden_like(&json) {
        return Err(PolicyError::Like(id.to_owned()));
    }
    Ok(())
}

fn uses_forbidden_like(json: &serde_json::Value) -> bool {
    match json {
        serde_json::Value::Array(items) => items.iter().any(uses_forbidden_like),
        serde_json::Value::Object(fields) => fields.iter().any(|(key, value)| {
            let forbidden = key == "like" && !is_harmless(&value["left"]);
            forbidden || uses_forbidden_like(value)
        }),
        _ => false,
    }
}

fn is_harmless(left: &serde_json::Value) -> bool {
    let access = &left["."];
    let attribute = access["attr"].as_str().unwrap_or_default();
    access["left"]["Var"] == "context" && LIKE_ALLOWED.contains(&attribute)
}

fn parse_profiles(json: &str) -> Result<BTreeMap<String, Profile>, PolicyError> {
    let configs: Vec<ProfileConfig> =
        serde_json::from_str(json).map_err(|error| PolicyError::Profiles(error.to_string()))?;
    let mut profiles = BTreeMap::new();
    for config in configs {
        let profile =
            Profile::new(config).map_err(|error| PolicyError::Profiles(error.to_string()))?;
        if let Some(twice) = profiles.insert(profile.name().to_owned(), profile) {
            return Err(PolicyError::Profiles(format!("{:?} stands twice", twice.name())));
        }
    }
    if !profiles.contains_key(DEFAULT_PROFILE) {
        return Err(PolicyError::Profiles("there is no profile named \"default\"".to_owned()));
    }
    Ok(profiles)
}

fn require_profiles(
    workloads: &Workloads,
    profiles: &BTreeMap<String, Profile>,
) -> Result<(), PolicyError> {
    for row in workloads.rows() {
        if let Some(unknown) = row.profiles.iter().find(|name| !profiles.contains_key(*name)) {
            return Err(PolicyError::Workloads(format!(
                "row {:?} names profile {unknown:?}, which profiles.json lacks",
                row.id
            )));
        }
    }
    Ok(())
}

fn hash(files: &BTreeMap<String, String>) -> Hash {
    let mut input = Vec::new();
    for (name, content) in files {
        for part in [name, content] {
            input.extend((part.len() as u64).to_be_bytes());
            input.extend(part.as_bytes());
        }
    }
    Hash::of(&input)
}

fn is_policy_file(name: &str) -> bool {
    matches!(name, SCHEMA | WORKLOADS | PROFILES)
        || (name.ends_with(".cedar") && !name.contains(['/', '\\']))
}

/// Cedar's errors carry their causes separately.
fn readable(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

/// The profile of a request that names none.
pub const DEFAULT_PROFILE: &str = "default";
/// Context attributes whose values are words of ours, so that `like` cannot cross a path.
const LIKE_ALLOWED: &[&str] = &["attestor", "key_type", "profile"];
/// Decisions kept of one policy set; beyond it the cache starts again.
const CACHE_LIMIT: usize = 10_000;
const SCHEMA: &str = "schema.cedarschema";
const WORKLOADS: &str = "workloads.json";
const PROFILES: &str = "profiles.json";
const SHIPPED_SCHEMA: &str = include_str!("../../../policies/schema.cedarschema");
const SHIPPED_POLICIES: &str = include_str!("../../../policies/countersign.cedar");
const SHIPPED_PROFILES: &str = include_str!("../../../policies/profiles.json");
/// The example table that `dev`, and `init` without a policies folder, start from.
pub const SHIPPED_WORKLOADS: &str = include_str!("../../../policies/workloads.json");

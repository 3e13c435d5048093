//! A question in Cedar's terms: entities, context, and the answer.

use std::collections::{HashMap, HashSet};
use std::str::FromStr;

use api::{KeyPurpose, KeyStep, RevocationExtent};
use cedar_policy::{
    Authorizer, Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request,
    RequestValidationError, RestrictedExpression,
};
use identity::{SpiffeId, TrustDomain};

use super::parsing::readable;
use super::{Action, Decision, IssueContext, PolicyError, PolicySet, Principal, Query};
use crate::workloads::Workloads;

/// What each decision under a set finds beside its principal and resource: actions, and what
/// policies name themselves. Rows are left where they are, so that a table of thousands costs a
/// decision nothing; whether they fit the schema is found here, once.
pub(super) fn entities(
    set: &PolicySet,
    trust_domain: &TrustDomain,
) -> Result<Entities, PolicyError> {
    let refuse = |error| PolicyError::Cedar(readable(&error));
    let rows = rows(set, trust_domain)?;
    let named = named(&set.policies, &rows);
    let kept = rows.iter().filter(|entity| named.contains(&entity.uid())).cloned();
    Entities::from_entities(kept.collect::<Vec<_>>(), Some(&set.schema)).map_err(refuse)
}

/// Every row of the table as an identity.
fn rows(set: &PolicySet, trust_domain: &TrustDomain) -> Result<Entities, PolicyError> {
    let mut made = Made::default();
    for row in set.workloads.rows() {
        let id = SpiffeId::new(trust_domain, &row.id)
            .map_err(|error| PolicyError::Workloads(error.to_string()))?;
        made.identity(&id, &set.workloads);
    }
    Entities::from_entities(made.entities, Some(&set.schema))
        .map_err(|error| PolicyError::Cedar(readable(&error)))
}

/// The entities that policies name, with all that they lie in. Actions come with the schema.
fn named(policies: &cedar_policy::PolicySet, rows: &Entities) -> HashSet<EntityUid> {
    let mut named = HashSet::new();
    for literal in policies.policies().flat_map(cedar_policy::Policy::entity_literals) {
        if literal.type_name().basename() != ACTION {
            named.extend(rows.ancestors(&literal).into_iter().flatten().cloned());
            named.insert(literal);
        }
    }
    named
}

pub(super) fn evaluate(
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
        Action::Revoke(extent) => revocation_context(*extent)?,
        Action::RotateKey(key, step) => rotation_context(*key, *step)?,
        _ => Context::empty(),
    };
    let action = uid(ACTION, query.action.name());
    let ask = |context| {
        let (principal, action, resource) = (principal.clone(), action.clone(), resource.clone());
        Request::new(principal, action, resource, context, Some(&set.schema)).map_err(Box::new)
    };
    let request = match (ask(context), &query.action) {
        // A schema of before knows no such action. Whoever may change the policy set may list operators
        // in it, and so could add one all along.
        (Err(error), Action::AddOperator)
            if matches!(*error, RequestValidationError::UndeclaredAction(_)) =>
        {
            let principal = query.principal.clone();
            let asked = Query { principal, action: Action::ChangePolicy, resource: None };
            return evaluate(set, trust_domain, operators, entities, &asked);
        }
        // A schema of before knows no extent: its policies cannot ask for one.
        (Err(error), Action::Revoke(_))
            if matches!(*error, RequestValidationError::InvalidContext(_)) =>
        {
            ask(Context::empty())
        }
        (asked, _) => asked,
    };
    let request = request.map_err(|error| readable(&*error))?;
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

fn revocation_context(extent: RevocationExtent) -> Result<Context, String> {
    let extent = RestrictedExpression::new_string(extent.name().to_owned());
    Context::from_pairs([("extent".to_owned(), extent)]).map_err(|error| readable(&error))
}

fn uid(entity_type: &str, id: &str) -> EntityUid {
    let name = EntityTypeName::from_str(entity_type).expect("constant type names are valid");
    EntityUid::from_type_name_and_id(name, EntityId::new(id))
}

const ACTION: &str = "Action";

//! A question in Cedar's terms: entities, context, and the answer.

use std::collections::{HashMap, HashSet};

use api::{KeyPurpose, KeyStep, RevocationExtent};
use cedar_policy::{
    Authorizer, Context, Entities, Entity, EntityUid, Request, RequestValidationError,
    RestrictedExpression,
};
use identity::{SpiffeId, TrustDomain};

use super::error::PolicyError;
use super::named_paths::{NamedPaths, literals, uid};
use super::parsing::readable;
use super::query::{Action, Decision, IssueContext, Principal, Query};
use super::set::PolicySet;
use crate::policy::workloads::Workloads;

/// What each decision under a set finds beside its principal and resource: what policies name
/// themselves, and the actions. Rows are left where they are, so that a table of thousands costs a
/// decision nothing; whether they fit the schema is found here, once.
#[derive(Debug)]
pub(super) struct Ground {
    entities: Entities,
    paths: NamedPaths,
}

impl Ground {
    pub(super) fn of(set: &PolicySet, trust_domain: &TrustDomain) -> Result<Self, PolicyError> {
        let refuse = |error| PolicyError::Cedar(readable(&error));
        let literals = literals(&set.policies);
        let paths = NamedPaths::of(&literals);
        let mut made = Made::over(&paths);
        for row in set.workloads.rows() {
            let id = SpiffeId::new(trust_domain, &row.id)
                .map_err(|error| PolicyError::Workloads(error.to_string()))?;
            made.identity(&id, &set.workloads);
        }
        let rows = Entities::from_entities(made.entities, Some(&set.schema)).map_err(refuse)?;
        let named = rows.into_iter().filter(|entity| literals.contains(&entity.uid()));
        let named: Vec<Entity> = named.chain(paths.entities()).collect();
        let entities = Entities::from_entities(named, Some(&set.schema)).map_err(refuse)?;
        Ok(Self { entities, paths })
    }
}

pub(super) fn evaluate(
    set: &PolicySet,
    trust_domain: &TrustDomain,
    operators: &HashSet<String>,
    ground: &Ground,
    query: &Query,
) -> Result<Decision, String> {
    let mut made = Made::over(&ground.paths);
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
            return evaluate(set, trust_domain, operators, ground, &asked);
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
    let entities = ground
        .entities
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
    made: &mut Made<'_>,
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
struct Made<'a> {
    paths: &'a NamedPaths,
    seen: HashSet<EntityUid>,
    entities: Vec<Entity>,
}

impl<'a> Made<'a> {
    fn over(paths: &'a NamedPaths) -> Self {
        Self { paths, seen: HashSet::new(), entities: Vec::new() }
    }

    /// The identity with what its row says, in the paths above it.
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
        let parents = self.paths.nearest(id.path()).into_iter().collect();
        self.add(identity.clone(), attributes, parents);
        identity
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

const ACTION: &str = "Action";

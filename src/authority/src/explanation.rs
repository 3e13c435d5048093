//! Why policy refuses, and what would change that.

use api::RevocationExtent;
use identity::SpiffeId;

use crate::error::Denied;
use crate::policy::{
    Action, ActivePolicy, Claim, DEFAULT_PROFILE, Decision, IssueContext, Principal, Query,
};

/// Says that a name is the CA's, and whose row lists it.
pub(crate) fn claimed(claim: &Claim, spiffe_id: &SpiffeId, policy: &ActivePolicy) -> Denied {
    let row = policy.set().workloads().row(spiffe_id).map(|row| row.id.clone());
    let next_step = match &row {
        Some(row) => format!(
            "take {:?} out of the request, and out of row {row} of workloads.json where it stands \
             there",
            claim.name
        ),
        None => format!("ask without {:?}", claim.name),
    };
    let (reason, next_step) = (claim.to_string(), Some(next_step));
    Denied { reason, policies: Vec::new(), row, next_step }
}

/// Says why policy refused, and what would allow it.
pub(crate) fn explain(query: &Query, decision: &Decision, policy: &ActivePolicy) -> Denied {
    let resource = query.resource.as_ref();
    let row = resource.and_then(|id| policy.set().workloads().row(id));
    let denied = |reason: String, next_step: Option<String>| Denied {
        reason,
        policies: decision.policies.clone(),
        row: row.map(|row| row.id.clone()),
        next_step,
    };
    if let Some(error) = decision.errors.first() {
        return denied(format!("policy cannot be evaluated: {error}"), None);
    }
    if !decision.policies.is_empty() {
        let reason = format!("forbidden by policy {}", decision.policies.join(", "));
        let wants_certificate =
            matches!(query.action, Action::CreateToken | Action::Issue(_) | Action::Renew(_));
        let reserved = resource.filter(|id| wants_certificate && is_reserved(id));
        return denied(reason, reserved.map(what_makes_a_row));
    }
    let who = query.principal.name();
    let action = query.action.name();
    if let (Action::Revoke(extent), Principal::Workload(_)) = (&query.action, &query.principal)
        && *extent != RevocationExtent::Own
        && resource.is_some_and(|id| id.as_str() == who)
    {
        let what = match extent {
            RevocationExtent::Identity => "the whole identity",
            _ => "another replica's certificate",
        };
        let next = "revoke your own certificate, by its serial number, or one that you renewed; \
                    for more, ask an operator";
        let reason = format!("no policy permits {who} to revoke {what}");
        return denied(reason, Some(next.to_owned()));
    }
    let (Action::Issue(context) | Action::Renew(context), Some(id)) = (&query.action, resource)
    else {
        return denied(format!("no policy permits {who} to {action}"), None);
    };
    let path = id.path();
    let Some(row) = row else {
        let reason = format!("{path} has no row in the workload table");
        return denied(reason, Some(what_makes_a_row(id)));
    };
    let beyond = context.dns.iter().find(|name| !row.dns.contains(name)).map(ToString::to_string);
    let beyond = beyond.or_else(|| {
        context.ip.iter().find(|address| !row.ip.contains(address)).map(ToString::to_string)
    });
    if let Some(name) = beyond {
        let next = format!(
            "add {name:?} to row {path} of workloads.json, then: countersign policy apply DIR"
        );
        return denied(format!("row {path} does not list the name {name}"), Some(next));
    }
    if !row.profiles.contains(&context.profile) {
        let next = format!(
            "add {:?} to the profiles of row {path}, then: countersign policy apply DIR",
            context.profile
        );
        return denied(format!("row {path} does not list profile {}", context.profile), Some(next));
    }
    denied(
        format!("no policy permits {who} to {action} {id}"),
        Some(question(who, &action.to_lowercase(), id, context)),
    )
}

/// The same question, for `policy explain`: without its names it would be another. What was silent
/// of names is so there, too.
fn question(who: &str, action: &str, id: &SpiffeId, context: &IssueContext) -> String {
    let mut question = format!("countersign policy explain --as {who} {action} {id}");
    for name in &context.dns {
        question.push_str(&format!(" --dns {name}"));
    }
    for address in &context.ip {
        question.push_str(&format!(" --ip {address}"));
    }
    if context.profile != DEFAULT_PROFILE {
        question.push_str(&format!(" --profile {}", context.profile));
    }
    question
}

fn is_reserved(id: &SpiffeId) -> bool {
    id.path() == "/countersign" || id.path().starts_with("/countersign/")
}

/// Paths of ours have no row: operators stand in a list of their own.
fn what_makes_a_row(id: &SpiffeId) -> String {
    let path = id.path();
    match id.operator_name() {
        Some(name) => format!(
            "`countersign operator add {name}`, by an operator; to have it stand in the table, too, \
             add {path:?} to the operators of workloads.json, then: countersign policy apply DIR"
        ),
        None if is_reserved(id) => {
            "choose another path: those below /countersign/ are the CA's own".to_owned()
        }
        None => format!(
            "add {{\"id\": \"{path}\"}} to workloads.json, then: countersign policy apply DIR"
        ),
    }
}

//! What keeps a CA going, whatever its policy set says, and what a set must allow.
//!
//! | who asks | for | decided by |
//! |---|---|---|
//! | the CA, at the start of `serve` and at each renewal | its own certificate, with its configured names | [`own`](super::own), [`PolicySet::template`] |
//! | the CA, at `init` and `init --recover` | an operator's certificate, for a week | the same |
//! | an operator, each time a week is half over | the next one | the set; asked when it is checked and applied |
//! | an operator | to read the set and the status, and to replace the set, and so everything | the same |
//! | anybody, for another's name below `/countersign`: its certificate, or a token for it | | nobody: [`own`](super::own) |
//! | somebody new with an operator's token; keys and rotation | | the set, which an operator can replace |
//!
//! So no set that is applied, or was before, keeps `serve` from starting or the CA's host from
//! making somebody an operator; and who applies one can go on.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use api::RevocationExtent;
use identity::{SpiffeId, TrustDomain};
use issuance::KeyType;

use super::active::ActivePolicy;
use super::error::PolicyError;
use super::evaluation::{Ground, evaluate};
use super::files::DEFAULT_PROFILE;
use super::query::{Action, Decision, IssueContext, Principal, Query};
use super::set::PolicySet;
use crate::facts::SVID;

impl PolicySet {
    /// Refuses a set under which no operator could go on: renew a certificate such as `init` gives,
    /// see the set, and replace it. Where that is not known, the trust domain is the one that policies
    /// name, and operators are those that policies name, that the table lists, and `admin`.
    pub fn require_way_on(
        &self,
        trust_domain: Option<&TrustDomain>,
        operator: Option<&str>,
    ) -> Result<(), PolicyError> {
        let named = self.named_operators();
        let any = TrustDomain::parse("example.org").expect("a constant trust domain is valid");
        let domain = trust_domain.cloned();
        let domain = domain.or_else(|| named.first().map(SpiffeId::trust_domain));
        let is_known = domain.is_some();
        let domain = &domain.unwrap_or(any);
        let paths = self.workloads.operators().filter_map(|path| SpiffeId::new(domain, path).ok());
        let candidates: BTreeSet<SpiffeId> = match operator {
            Some(name) => SpiffeId::operator(domain, name).into_iter().collect(),
            None => named
                .iter()
                .filter(|id| id.is_member_of(domain))
                .cloned()
                .chain(paths)
                .chain(SpiffeId::operator(domain, "admin"))
                .collect(),
        };
        let names = candidates.iter().filter_map(|id| id.operator_name().map(ToOwned::to_owned));
        let names: HashSet<String> = names.collect();
        let ground = Ground::of(self, domain)?;
        let mut refused = None;
        for operator in &candidates {
            let decide = |query: &Query| evaluate(self, domain, &names, &ground, query);
            match require_operator(operator, OPERATOR_LIFE, decide) {
                Ok(()) => return Ok(()),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        Err(match refused {
            None => return Ok(()),
            // A domain of nobody's is not to be told as if it were the CA's.
            Some(PolicyError::Governance(why)) if !is_known => {
                PolicyError::Governance(why.replace(domain.id().as_str(), "spiffe://…"))
            }
            Some(error) => error,
        })
    }

    fn named_operators(&self) -> BTreeSet<SpiffeId> {
        let literals = self.policies.policies().flat_map(cedar_policy::Policy::entity_literals);
        let ids = literals.filter_map(|literal| SpiffeId::parse(literal.id().unescaped()).ok());
        ids.filter(|id| id.operator_name().is_some()).collect()
    }
}

/// Refuses answers by which this operator could not go on.
pub(crate) fn require_operator(
    operator: &SpiffeId,
    life: Duration,
    decide: impl Fn(&Query) -> Result<Decision, String>,
) -> Result<(), PolicyError> {
    for (query, what) in needs(operator, life) {
        let decision = decide(&query).map_err(PolicyError::Cedar)?;
        if decision.allowed {
            continue;
        }
        let policy = match query.resource {
            Some(_) => "operator-own-svid",
            None => "operator-administers",
        };
        let advice = match (decision.errors.first(), decision.policies.is_empty()) {
            (Some(error), _) => error.clone(),
            (None, true) => format!("keep the policy {policy}"),
            (None, false) => format!(
                "forbidden by policy {}: let it end in `unless {{ principal is Operator }}`",
                decision.policies.join(", ")
            ),
        };
        return Err(PolicyError::Governance(format!("{operator} {what} ({advice})")));
    }
    Ok(())
}

/// Whether an operator whose certificate is good can lead the CA back: see its policy set, replace it,
/// and so everything.
pub(crate) fn administers(policy: &ActivePolicy, operator: &SpiffeId) -> bool {
    let mut needs = needs(operator, OPERATOR_LIFE).filter(|(query, _)| query.resource.is_none());
    needs.all(|(query, _)| policy.decide(&query).allowed)
}

/// The same, for each of these: where a set of before lets none of them see it, whoever may replace it
/// can give themselves the rest.
pub(crate) fn able<'a>(
    policy: &'a ActivePolicy,
    operators: &BTreeSet<SpiffeId>,
) -> impl Fn(&SpiffeId) -> bool + use<'a> {
    let is_seen = operators.iter().any(|operator| administers(policy, operator));
    move |operator| {
        let principal = Principal::Operator(operator.clone());
        let replaces = Query { principal, action: Action::ChangePolicy, resource: None };
        if is_seen { administers(policy, operator) } else { policy.decide(&replaces).allowed }
    }
}

/// What an operator asks who goes on, each with what they could not do without it.
fn needs(
    operator: &SpiffeId,
    life: Duration,
) -> impl Iterator<Item = (Query, &'static str)> + use<> {
    let renewal = IssueContext {
        attestor: SVID,
        dns: Vec::new(),
        ip: Vec::new(),
        key_type: KeyType::EcdsaP256,
        profile: DEFAULT_PROFILE.to_owned(),
        validity_seconds: life.as_secs(),
    };
    let operator = operator.clone();
    let actions = Action::each(renewal, RevocationExtent::Identity).into_iter();
    actions.filter_map(move |action| {
        let lack = lack(&action)?;
        let resource = action.concerns_an_identity().then(|| operator.clone());
        Some((Query { principal: Principal::Operator(operator.clone()), action, resource }, lack))
    })
}

/// What an operator who may not do this could not do; none for what whoever may replace the set can give
/// themselves, or another.
fn lack(action: &Action) -> Option<&'static str> {
    match action {
        Action::ChangePolicy => Some("could not change it again"),
        // A set is replaced by its hash, and the next one is made from its files.
        Action::ReadPolicy => Some("could not read it, as changing it again begins"),
        Action::ReadStatus => Some("could not see how the CA is doing, nor its keys"),
        Action::Renew(_) => Some("could not renew a certificate of a week"),
        Action::AddOperator
        | Action::Allow
        | Action::CreateToken
        | Action::Deny
        | Action::Issue(_)
        | Action::ListInventory
        | Action::ReadInventory
        | Action::ReadLog
        | Action::ReadTokens
        | Action::Revoke(_)
        | Action::RevokeToken
        | Action::RotateKey(..) => None,
    }
}

/// What `init` and `operator join` ask for.
pub const OPERATOR_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_action_of_the_schema_is_asked_for_or_left_out_on_purpose() {
        let set = PolicySet::shipped(crate::policy::SHIPPED_WORKLOADS).unwrap();
        let named = set.schema.actions().map(|action| action.id().unescaped().to_owned());
        let context = IssueContext {
            attestor: SVID,
            dns: Vec::new(),
            ip: Vec::new(),
            key_type: KeyType::EcdsaP256,
            profile: DEFAULT_PROFILE.to_owned(),
            validity_seconds: 1,
        };
        let each = Action::each(context, RevocationExtent::Own);
        let each: BTreeSet<_> = each.iter().map(|action| action.name().to_owned()).collect();
        assert_eq!(each, named.collect());
    }
}

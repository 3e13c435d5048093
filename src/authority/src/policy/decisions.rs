//! Decisions of one policy set that were asked for before.
//!
//! What is refused has endless forms, and is not kept. What is allowed has as many: any of a row's
//! names, in any order, for any time, asked for before a budget is looked at. So each caller has a share,
//! and none is the worse for what another asks; and what is long is decided anew, which costs less than
//! the signature that comes of it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::query::{Action, Decision, Principal, Query};

/// What is kept.
#[derive(Debug, Default)]
pub(super) struct Decisions(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    by_caller: HashMap<Principal, HashMap<Query, Decision>>,
    /// Of all callers.
    count: usize,
}

impl Decisions {
    pub(super) fn find(&self, query: &Query) -> Option<Decision> {
        self.kept().by_caller.get(&query.principal)?.get(query).cloned()
    }

    /// Keeps what was allowed, if it is not too long; with it, a caller's share begins anew.
    pub(super) fn keep(&self, query: &Query, decision: &Decision) {
        if !decision.allowed || bytes(query) > MOST_BYTES {
            return;
        }
        let mut kept = self.kept();
        if kept.count >= MOST {
            *kept = Kept::default();
        }
        let Kept { by_caller, count } = &mut *kept;
        let own = by_caller.entry(query.principal.clone()).or_default();
        if own.len() >= share(&query.principal) {
            *count -= own.len();
            own.clear();
        }
        if own.insert(query.clone(), decision.clone()).is_none() {
            *count += 1;
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same question as it is kept: to policy names are sets, whatever their order.
pub(super) fn ordered(query: &Query) -> Cow<'_, Query> {
    let (Action::Issue(context) | Action::Renew(context)) = &query.action else {
        return Cow::Borrowed(query);
    };
    if context.dns.is_sorted_by(|a, b| a < b) && context.ip.is_sorted_by(|a, b| a < b) {
        return Cow::Borrowed(query);
    }
    let mut query = query.clone();
    if let Action::Issue(context) | Action::Renew(context) = &mut query.action {
        context.dns.sort_unstable();
        context.dns.dedup();
        context.ip.sort_unstable();
        context.ip.dedup();
    }
    Cow::Owned(query)
}

/// A workload asks for itself, and for few others; who acts for many asks for each of them.
fn share(principal: &Principal) -> usize {
    match principal {
        Principal::Workload(_) => OF_A_WORKLOAD,
        Principal::Authority | Principal::Operator(_) => OF_AN_OPERATOR,
    }
}

/// What a question holds beside its own size.
fn bytes(query: &Query) -> usize {
    let names = match &query.action {
        Action::Issue(context) | Action::Renew(context) => {
            let dns = context.dns.iter().map(|name| name.as_str().len() + size_of_val(name));
            dns.sum::<usize>() + size_of_val(&context.ip[..]) + context.profile.len()
        }
        _ => 0,
    };
    let resource = query.resource.as_ref().map_or(0, |id| id.as_str().len());
    query.principal.name().len() + resource + names
}

/// Decisions kept in all; beyond it, all begin anew. Some 20 MiB of the longest.
const MOST: usize = 10_000;
/// So that 300 identities together make one of them ask again.
const OF_A_WORKLOAD: usize = 32;
const OF_AN_OPERATOR: usize = 1_000;
/// A dozen usual names.
const MOST_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fmt::Write;

    use identity::{SpiffeId, TrustDomain};
    use issuance::{DnsName, KeyType};

    use super::super::active::ActivePolicy;
    use super::super::query::IssueContext;
    use super::super::set::PolicySet;
    use super::*;

    /// Two rows, the first with many names.
    fn policy(names: usize) -> ActivePolicy {
        let mut all = String::new();
        for number in 0..names {
            write!(all, "{}\"{}\"", if number == 0 { "" } else { "," }, name(number)).unwrap();
        }
        let table = format!(
            r#"{{"workloads": [{{"id": "/greedy", "dns": [{all}]}}, {{"id": "/other"}}]}}"#
        );
        let domain = TrustDomain::parse("pay.example").unwrap();
        ActivePolicy::new(PolicySet::shipped(&table).unwrap(), domain, HashSet::new()).unwrap()
    }

    fn name(number: usize) -> String {
        format!("{number}.{}.internal", "a".repeat(50))
    }

    fn issue(path: &str, names: &[usize], validity_seconds: u64) -> Query {
        let id = SpiffeId::parse(&format!("spiffe://pay.example{path}")).unwrap();
        let context = IssueContext {
            attestor: "svid",
            dns: names.iter().map(|it| DnsName::parse(&name(*it)).unwrap()).collect(),
            ip: Vec::new(),
            key_type: KeyType::EcdsaP256,
            profile: "default".to_owned(),
            validity_seconds,
        };
        let principal = Principal::Workload(id.clone());
        Query { principal, action: Action::Renew(context), resource: Some(id) }
    }

    fn is_known(policy: &ActivePolicy, query: &Query) -> bool {
        policy.decisions.find(&ordered(query)).is_some()
    }

    #[test]
    fn who_asks_for_ever_more_makes_nobody_else_ask_again() {
        let policy = policy(1);
        let other = issue("/other", &[], 3600);
        assert!(policy.decide(&other).allowed);
        for seconds in 0..3 * OF_A_WORKLOAD as u64 {
            assert!(policy.decide(&issue("/greedy", &[0], seconds)).allowed);
            let kept = policy.decisions.kept();
            let count: usize = kept.by_caller.values().map(HashMap::len).sum();
            assert_eq!(kept.count, count);
            assert!(count <= 1 + OF_A_WORKLOAD, "{count}");
        }
        assert!(is_known(&policy, &other));
    }

    #[test]
    fn all_together_have_a_bound() {
        let decisions = Decisions::default();
        let allowed = Decision { allowed: true, policies: Vec::new(), errors: Vec::new() };
        for number in 0..=MOST {
            decisions.keep(&issue(&format!("/w{number}"), &[], 0), &allowed);
        }
        assert_eq!(decisions.kept().count, 1);
        decisions.keep(&issue("/w0", &[], 0), &Decision { allowed: false, ..allowed });
        assert!(decisions.find(&issue("/w0", &[], 0)).is_none(), "a refusal is not kept");
    }

    #[test]
    fn the_order_of_names_makes_no_other_question_and_fewer_names_do() {
        let policy = policy(3);
        assert!(policy.decide(&issue("/greedy", &[0, 1, 2], 3600)).allowed);
        assert!(is_known(&policy, &issue("/greedy", &[2, 0, 1], 3600)));
        assert!(is_known(&policy, &issue("/greedy", &[1, 0, 2, 1], 3600)));
        for another in [&[0, 1][..], &[0, 1, 3], &[]] {
            assert!(!is_known(&policy, &issue("/greedy", another, 3600)), "{another:?}");
        }
        assert!(!is_known(&policy, &issue("/greedy", &[0, 1, 2], 3601)));
        assert!(!is_known(&policy, &issue("/other", &[0, 1, 2], 3600)));
    }

    #[test]
    fn what_is_long_is_decided_anew() {
        let policy = policy(20);
        let all: Vec<usize> = (0..20).collect();
        let long = issue("/greedy", &all, 3600);
        assert!(policy.decide(&long).allowed && policy.decide(&long).allowed);
        assert!(!is_known(&policy, &long));
        assert_eq!(policy.decisions.kept().count, 0);
    }
}

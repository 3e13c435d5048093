//! The policies that ship, case by case; and policy sets that are refused.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use api::{ExplainRequest, RevocationExtent};
use authority::explain_query;
use authority::policy::{
    Action, ActivePolicy, PolicyError, PolicySet, Principal, Query, SHIPPED_WORKLOADS,
};
use identity::{SpiffeId, TrustDomain};
use serde::Deserialize;

/// A question and its answer, as `policies/cases/*.json` write them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(rename = "as")]
    principal: String,
    action: String,
    resource: String,
    #[serde(default)]
    dns: Vec<String>,
    #[serde(default)]
    ip: Vec<IpAddr>,
    profile: Option<String>,
    extent: Option<RevocationExtent>,
    allowed: bool,
    policies: Vec<String>,
}

#[test]
fn the_shipped_policies_decide_each_case_as_written() {
    let domain = TrustDomain::parse("pay.example").unwrap();
    let set = PolicySet::shipped(SHIPPED_WORKLOADS).unwrap();
    let operators = HashSet::from(["admin".to_owned()]);
    let policy = ActivePolicy::new(set, domain.clone(), operators).unwrap();
    let cases: Vec<Case> =
        serde_json::from_str(include_str!("../../../policies/cases/shipped.json")).unwrap();
    assert!(cases.len() >= 20);
    for case in cases {
        let id = |path: &str| SpiffeId::new(&domain, path).unwrap();
        let asked = ExplainRequest {
            principal: id(&case.principal),
            action: case.action,
            resource: id(&case.resource),
            dns: Some(case.dns),
            ip: Some(case.ip),
            profile: case.profile,
            extent: case.extent,
        };
        let answer = explain_query(&policy, &asked).unwrap();
        assert_eq!(answer.allowed, case.allowed, "{}: {answer:?}", case.name);
        assert_eq!(answer.policies, case.policies, "{}", case.name);
        assert!(case.allowed || !answer.reason.is_empty(), "{}", case.name);
    }
}

fn refused(policies: &str) -> PolicyError {
    let files = BTreeMap::from([
        ("workloads.json".to_owned(), SHIPPED_WORKLOADS.to_owned()),
        ("mine.cedar".to_owned(), policies.to_owned()),
    ]);
    PolicySet::parse(&files).unwrap_err()
}

#[test]
fn like_is_refused_but_on_words_of_ours() {
    let like = |left: &str| {
        format!(
            "permit(principal, action == Action::\"Issue\", resource) when {{ {left} like \"pay*\" }};"
        )
    };
    for left in ["resource.name", "principal.identity.name"] {
        assert!(matches!(refused(&like(left)), PolicyError::Like(_)), "{left}");
    }
    let nested = "permit(principal, action == Action::\"Issue\", resource) unless { !(1 == 2 || context.dns.contains(\"a\") && (if context.attestor == \"x\" then resource.registered like \"*\" else false)) };";
    assert!(matches!(refused(nested), PolicyError::Like(_)));
    let files = BTreeMap::from([
        ("workloads.json".to_owned(), SHIPPED_WORKLOADS.to_owned()),
        ("mine.cedar".to_owned(), like("context.profile")),
        (
            "countersign.cedar".to_owned(),
            include_str!("../../../policies/countersign.cedar").to_owned(),
        ),
    ]);
    PolicySet::parse(&files).unwrap();
}

#[test]
fn each_broken_policy_set_is_refused_by_name() {
    assert!(refused("permit(").to_string().contains("mine.cedar"));
    assert!(
        refused(
            "forbid(principal, action == Action::\"Issue\", resource) when { context.ttl_s > 5 };"
        )
        .to_string()
        .contains("ttl_s")
    );
    let twice = "@id(\"a\") permit(principal, action, resource); @id(\"a\") forbid(principal, action, resource);";
    assert!(refused(twice).to_string().contains("twice"));
    let stray = BTreeMap::from([("notes.txt".to_owned(), String::new())]);
    assert!(matches!(PolicySet::parse(&stray).unwrap_err(), PolicyError::File(_)));
    assert!(matches!(PolicySet::parse(&BTreeMap::new()).unwrap_err(), PolicyError::Workloads(_)));
    let locked = refused("permit(principal is Operator, action, resource);");
    assert!(matches!(locked, PolicyError::Governance(_)), "{locked}");
    let whole_id = r#"{"workloads": [{"id": "spiffe://pay.example/prod/x"}]}"#;
    assert!(matches!(PolicySet::shipped(whole_id).unwrap_err(), PolicyError::Workloads(_)));
    let unknown_profile = r#"{"workloads": [{"id": "/a", "profiles": ["imaginary"]}]}"#;
    let error = PolicySet::shipped(unknown_profile).unwrap_err();
    assert!(error.to_string().contains("imaginary"), "{error}");
}

/// Cedar skips a policy whose evaluation fails, a `forbid` too; here it denies.
#[test]
fn an_evaluation_error_is_a_deny() {
    let overflow = "@id(\"broken\") forbid(principal is Identity, action == Action::\"Issue\", resource) when { context.validity_seconds * 9223372036854775807 == 1 };";
    let files = BTreeMap::from([
        ("workloads.json".to_owned(), SHIPPED_WORKLOADS.to_owned()),
        ("broken.cedar".to_owned(), overflow.to_owned()),
        (
            "countersign.cedar".to_owned(),
            include_str!("../../../policies/countersign.cedar").to_owned(),
        ),
    ]);
    let domain = TrustDomain::parse("pay.example").unwrap();
    let set = PolicySet::parse(&files).unwrap();
    let policy = ActivePolicy::new(set, domain.clone(), HashSet::new()).unwrap();
    let id = SpiffeId::new(&domain, "/prod/reports").unwrap();
    let asked = ExplainRequest {
        principal: id.clone(),
        action: "issue".into(),
        resource: id,
        dns: None,
        ip: None,
        profile: None,
        extent: None,
    };
    let answer = explain_query(&policy, &asked).unwrap();
    assert!(!answer.allowed);
    assert!(answer.reason.contains("cannot be evaluated"), "{answer:?}");
}

#[test]
fn the_development_hierarchy_parses() {
    PolicySet::shipped(include_str!("../../../certs-dev/workloads.json")).unwrap();
}

/// Rows are looked up for whom a question is about; what policies name by themselves is found too.
#[test]
fn what_only_a_policy_names_is_found() {
    let by_literal = r#"
        @id("row-of-another") permit(principal is Identity, action == Action::"Deny", resource)
            when { Identity::"spiffe://pay.example/prod/reports".dns.contains("reports.internal") };
        @id("path-of-another") permit(principal is Identity, action == Action::"Allow", resource)
            when { Identity::"spiffe://pay.example/prod/batch" in Path::"/prod" };
        @id("path-itself") permit(principal is Identity, action == Action::"CreateToken", resource)
            when { Path::"/prod/batch" in Path::"/prod" };
        @id("no-row") permit(principal is Identity, action == Action::"Revoke", resource)
            when { Identity::"spiffe://pay.example/prod/nobody" in Path::"/prod" };"#;
    let files = BTreeMap::from([
        ("workloads.json".to_owned(), SHIPPED_WORKLOADS.to_owned()),
        ("literals.cedar".to_owned(), by_literal.to_owned()),
        (
            "countersign.cedar".to_owned(),
            include_str!("../../../policies/countersign.cedar").to_owned(),
        ),
    ]);
    let domain = TrustDomain::parse("pay.example").unwrap();
    let set = PolicySet::parse(&files).unwrap();
    let policy = ActivePolicy::new(set, domain.clone(), HashSet::new()).unwrap();
    let decided = |action| {
        let id = |path| SpiffeId::new(&domain, path).unwrap();
        let principal = Principal::Workload(id("/prod/gateway"));
        let decision = policy.decide(&Query { principal, action, resource: Some(id("/prod/x")) });
        assert!(decision.errors.is_empty(), "{decision:?}");
        decision.policies
    };
    assert_eq!(decided(Action::Deny), ["row-of-another"]);
    assert_eq!(decided(Action::Allow), ["path-of-another"]);
    assert_eq!(decided(Action::CreateToken), ["path-itself"]);
    assert!(decided(Action::Revoke(RevocationExtent::Identity)).is_empty());
}

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
    let locked = r#"@id("none") forbid(principal, action == Action::"ChangePolicy", resource);"#;
    let locked = with(locked).set().require_way_on(None, None).unwrap_err();
    assert!(matches!(locked, PolicyError::Governance(_)), "{locked}");
    let whole_id = r#"{"workloads": [{"id": "spiffe://pay.example/prod/x"}]}"#;
    assert!(matches!(PolicySet::shipped(whole_id).unwrap_err(), PolicyError::Workloads(_)));
    let unknown_profile = r#"{"workloads": [{"id": "/a", "profiles": ["imaginary"]}]}"#;
    let error = PolicySet::shipped(unknown_profile).unwrap_err();
    assert!(error.to_string().contains("imaginary"), "{error}");
    for profiles in ["", "{}", "null", r#"{"name": "default"}"#] {
        let files = [("workloads.json", SHIPPED_WORKLOADS), ("profiles.json", profiles)];
        let files = files.map(|(name, text)| (name.to_owned(), text.to_owned()));
        let error = PolicySet::parse(&BTreeMap::from(files)).unwrap_err();
        assert!(error.to_string().starts_with("profiles.json: it is to be a list"), "{error}");
    }
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

/// The shipped policies over no row, with one of these beside them.
fn with(policy: &str) -> ActivePolicy {
    let files = BTreeMap::from([
        ("workloads.json".to_owned(), r#"{"workloads":[]}"#.to_owned()),
        (
            "countersign.cedar".to_owned(),
            include_str!("../../../policies/countersign.cedar").into(),
        ),
        ("mine.cedar".to_owned(), policy.to_owned()),
    ]);
    let domain = TrustDomain::parse("pay.example").unwrap();
    let operators = HashSet::from(["admin".to_owned()]);
    ActivePolicy::new(PolicySet::parse(&files).unwrap(), domain, operators).unwrap()
}

fn denies(path: &str) -> Query {
    let domain = TrustDomain::parse("pay.example").unwrap();
    let admin = SpiffeId::operator(&domain, "admin").unwrap();
    let resource = SpiffeId::new(&domain, path).unwrap();
    Query { principal: Principal::Operator(admin), action: Action::Deny, resource: Some(resource) }
}

#[test]
fn an_identity_lies_in_each_path_above_it_however_deep() {
    let policy = with(
        r#"
        @id("a") forbid(principal, action == Action::"Deny", resource in Path::"/a");
        @id("a-b-c") forbid(principal, action == Action::"Deny", resource in Path::"/a/b/c");
        @id("x-y") forbid(principal, action == Action::"Deny", resource)
          when { resource in [Path::"/x/y", Path::"/z"] };
        @id("none") forbid(principal, action == Action::"Deny", resource in Path::"");
        @id("paths") permit(principal, action == Action::"Allow", resource)
          when { Path::"/a/b/c" in Path::"/a" && !(Path::"/ab" in Path::"/a") };
    "#,
    );
    let decided = |path: &str| policy.decide(&denies(path)).policies.join(" ");
    let deep = "/s".repeat(900);
    for (path, by) in [
        ("/a", "a"),
        ("/a/b", "a"),
        ("/a/b/c", "a a-b-c"),
        (&format!("/a/b/c{deep}"), "a a-b-c"),
        (&format!("/a{deep}"), "a"),
        ("/ab", "operator-administers"),
        ("/x", "operator-administers"),
        ("/x/y/z", "x-y"),
        ("/x/yz", "operator-administers"),
        ("/z", "x-y"),
        ("", "operator-administers"),
        (&deep, "operator-administers"),
    ] {
        assert_eq!(decided(path), by, "{path}");
    }
    let stranger = denies("/elsewhere").resource.unwrap();
    let asked = Query {
        principal: Principal::Workload(stranger.clone()),
        action: Action::Allow,
        resource: Some(stranger),
    };
    assert_eq!(policy.decide(&asked).policies, ["paths"]);
}

#[test]
fn a_path_of_a_thousand_segments_costs_what_a_short_one_does() {
    let policy = with("");
    let seconds = |segments: usize| {
        let asked = |first: usize| denies(&format!("/{first}{}", "/a".repeat(segments - 1)));
        // The shortest of several: other work on the machine only adds.
        let spans = (0..5).map(|first| {
            let (asked, begin) = (asked(first), std::time::Instant::now());
            assert!(policy.decide(&asked).allowed);
            begin.elapsed().as_secs_f64()
        });
        spans.fold(f64::INFINITY, f64::min)
    };
    let (short, long) = (seconds(10), seconds(600));
    // What is linear in the length of the id stays below; the cube of 60 is 216,000.
    assert!(long < 60.0 * short, "{long} s against {short} s");
}

#[test]
fn rows_of_a_thousand_segments_are_parsed_as_fast_as_they_are_long() {
    let table = |segments: usize| {
        let row = |row: usize| format!(r#"{{"id":"/{row}{}"}}"#, "/a".repeat(segments - 1));
        let rows: Vec<String> = (0..20).map(row).collect();
        format!(r#"{{"workloads":[{}]}}"#, rows.join(","))
    };
    let seconds = |segments: usize| {
        let (table, begin) = (table(segments), std::time::Instant::now());
        PolicySet::shipped(&table).unwrap();
        begin.elapsed().as_secs_f64()
    };
    let (short, long) = (seconds(10), seconds(600));
    assert!(long < 60.0 * short, "{long} s against {short} s");
}

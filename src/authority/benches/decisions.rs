//! What a policy decision costs that no cache knows, permitted and refused, by the rows of the
//! workload table: `cargo bench -p authority --bench decisions`.

#![allow(clippy::unwrap_used, reason = "a benchmark fails where it unwraps")]

use std::collections::HashSet;
use std::fmt::Write;
use std::time::Instant;

use authority::policy::{Action, ActivePolicy, IssueContext, PolicySet, Principal, Query};
use identity::{SpiffeId, TrustDomain};
use issuance::{DnsName, KeyType};

fn main() {
    println!("{:>6} {:>14} {:>14} {:>10}", "rows", "permit", "refusal", "target");
    for rows in [500, 5_000] {
        let policy = policy(rows);
        let (permit, refusal) = (measure(&policy, true), measure(&policy, false));
        println!("{rows:>6} {permit:>11.1} µs {refusal:>11.1} µs {:>7} µs", 200);
    }
}

/// The shipped policies over a table of this size.
fn policy(rows: usize) -> ActivePolicy {
    let mut table = String::from(r#"{"workloads":["#);
    for row in 0..rows {
        let comma = if row == 0 { "" } else { "," };
        write!(table, r#"{comma}{{"id":"/prod/team/w{row}","dns":["w{row}.internal"]}}"#).unwrap();
    }
    table.push_str("]}");
    let domain = TrustDomain::parse("pay.example").unwrap();
    ActivePolicy::new(PolicySet::shipped(&table).unwrap(), domain, HashSet::new()).unwrap()
}

/// Microseconds for each question. Each is asked once: an answer from the cache is none.
fn measure(policy: &ActivePolicy, allowed: bool) -> f64 {
    let begin = Instant::now();
    for question in 0..QUESTIONS {
        assert_eq!(policy.decide(&question_of(question, allowed)).allowed, allowed);
    }
    begin.elapsed().as_secs_f64() * 1e6 / QUESTIONS as f64
}

fn question_of(number: u64, allowed: bool) -> Query {
    let id = SpiffeId::parse("spiffe://pay.example/prod/team/w7").unwrap();
    let name = if allowed { "w7.internal" } else { "w8.internal" };
    let context = IssueContext {
        attestor: "svid",
        dns: vec![DnsName::parse(name).unwrap()],
        ip: Vec::new(),
        key_type: KeyType::EcdsaP256,
        profile: "default".to_owned(),
        validity_seconds: 3600 + number,
    };
    let principal = Principal::Workload(id.clone());
    Query { principal, action: Action::Issue(context), resource: Some(id) }
}

const QUESTIONS: u64 = 100;

//! Policies that are written to end the process which reads them.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use authority::policy::{Action, ActivePolicy, PolicyError, PolicySet, Principal, Query};
use identity::{SpiffeId, TrustDomain};

const SHIPPED: &str = include_str!("../../../policies/countersign.cedar");
const SCHEMA: &str = include_str!("../../../policies/schema.cedarschema");

fn parse(name: &str, text: &str) -> Result<PolicySet, PolicyError> {
    PolicySet::parse(&BTreeMap::from([
        ("workloads.json".to_owned(), r#"{"workloads":[]}"#.to_owned()),
        ("countersign.cedar".to_owned(), SHIPPED.to_owned()),
        (name.to_owned(), text.to_owned()),
    ]))
}

/// A policy that permits the CA's operators to deny, in as many levels as this.
type Form = fn(usize) -> String;

const FORMS: &[(&str, Form)] = &[
    ("brackets", |n| when(&format!("{}true{}", "(".repeat(n), ")".repeat(n)))),
    ("and", |n| when(&format!("{}true", "true && ".repeat(n)))),
    ("or", |n| when(&format!("{}true", "false || ".repeat(n)))),
    ("and, to the right", |n| when(&format!("{}true{}", "true && (".repeat(n), ")".repeat(n)))),
    ("not", |n| when(&format!("{}true{}", "!(".repeat(2 * (n / 2)), ")".repeat(2 * (n / 2))))),
    ("if", |n| when(&format!("{}true", "if false then false else ".repeat(n)))),
    ("if, in its condition", |n| {
        when(&format!("{}true{}", "if ".repeat(n), " then true else false".repeat(n)))
    }),
    ("sets", |n| when(&format!("{}1{} == [2] || true", "[".repeat(n), "]".repeat(n)))),
    ("records", |n| when(&format!("{}1{} == {{x:1}} || true", "{a:".repeat(n), "}".repeat(n)))),
    ("attributes", |n| {
        when(&format!("{}1{}{} == 1", "{a:".repeat(n), "}".repeat(n), ".a".repeat(n)))
    }),
    ("sums", |n| when(&format!("{}1 > 0", "1 + ".repeat(n)))),
    ("products", |n| when(&format!("{}1 > 0", "1 * ".repeat(n)))),
    ("comparisons", |n| when(&format!("{}true{}", "true == (".repeat(n), ")".repeat(n)))),
    ("calls", |n| when(&format!("{}[1]{}", "[1].containsAll(".repeat(n), ") ".repeat(n)))),
    ("conditions", |n| format!("{PERMIT} {};", "when { true } ".repeat(n))),
];

const PERMIT: &str = r#"@id("deep") permit(principal, action == Action::"Deny", resource)"#;

fn when(condition: &str) -> String {
    format!("{PERMIT} when {{ {condition} }};")
}

#[test]
fn no_depth_of_a_policy_ends_the_process() {
    for (form, policy) in FORMS {
        for depth in [1_000, 4_000, 100_000] {
            let refused = parse("mine.cedar", &policy(depth)).unwrap_err();
            assert!(matches!(refused, PolicyError::Depth { .. }), "{form} {depth}: {refused}");
            assert!(refused.next_step().is_some());
        }
    }
}

#[test]
fn no_depth_of_a_schema_ends_the_process() {
    let nested = |open: &str, close: &str, depth: usize| {
        let inner = format!("{}Long{}", open.repeat(depth), close.repeat(depth));
        format!("{SCHEMA}\nentity Deep = {{ x: {inner} }};")
    };
    for (open, close) in [("{a:", "}"), ("Set<", ">")] {
        parse("schema.cedarschema", &nested(open, close, 10)).unwrap();
        for depth in [1_000, 100_000] {
            let refused = parse("schema.cedarschema", &nested(open, close, depth)).unwrap_err();
            assert!(matches!(refused, PolicyError::Depth { .. }), "{open} {depth}: {refused}");
        }
    }
}

/// Each type lies in the one before.
#[test]
fn no_chain_of_types_ends_the_process() {
    let chained = |count: usize| {
        let declared = (0..count - 2).map(|n| format!("type T{n} = {{ a: T{} }};\n", n + 1));
        let declared: String = declared.collect();
        format!("{SCHEMA}\n{declared}type T{} = Long;\nentity Deep = {{ x: T0 }};", count - 2)
    };
    parse("schema.cedarschema", &chained(100)).unwrap();
    for count in [101, 10_000] {
        let refused = parse("schema.cedarschema", &chained(count)).unwrap_err();
        assert!(matches!(refused, PolicyError::Types { .. }), "{count}: {refused}");
    }
}

/// The deepest that is taken of each form is parsed from a thread with a small stack, as a
/// runtime's are, and decided on one.
#[test]
fn the_deepest_policy_taken_is_decided_on_the_stack_of_any_thread() {
    for (form, policy) in FORMS {
        let deepest = (1..450).rev().find(|depth| {
            !matches!(parse("mine.cedar", &policy(*depth)), Err(PolicyError::Depth { .. }))
        });
        let text = policy(deepest.unwrap());
        let decide = move || {
            let begin = Instant::now();
            let domain = TrustDomain::parse("pay.example").unwrap();
            let set = parse("mine.cedar", &text)?;
            let policy = ActivePolicy::new(set, domain.clone(), HashSet::new())?;
            let id = SpiffeId::new(&domain, "/a").unwrap();
            let principal = Principal::Workload(id.clone());
            let asked = Query { principal, action: Action::Deny, resource: Some(id) };
            Ok::<_, PolicyError>((policy.decide(&asked), begin.elapsed()))
        };
        let small = std::thread::Builder::new().stack_size(2 * 1024 * 1024);
        match small.spawn(decide).unwrap().join().unwrap() {
            Ok((decision, took)) => {
                assert!(decision.allowed, "{form} {deepest:?}: {decision:?}");
                assert!(took < Duration::from_secs(30), "{form} {deepest:?}: {took:?}");
            }
            // Some forms are no policy, whatever their depth.
            Err(refused) => println!(
                "{form} {deepest:?}: {}",
                refused.to_string().chars().take(60).collect::<String>()
            ),
        }
    }
}

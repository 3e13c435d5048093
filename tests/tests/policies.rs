//! Policy sets as large as companies get: checked, applied, read, and made smaller again.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fmt::Write;

use system_tests::Environment;

/// A table of services that each have a role and two names and call five others, as `jq` writes it.
fn table(rows: usize) -> String {
    let path = |row: usize| format!("/prod/tenant-{:03}/service-{row:05}", row % 100);
    let mut text = String::from("{\n  \"operators\": [],\n  \"workloads\": [");
    for row in 0..rows {
        let comma = if row == 0 { "" } else { "," };
        let role = format!("arn:aws:iam::123456789012:role/pay-prod-role-service-{row:05}");
        let calls: Vec<_> = (1..=5).map(|next| path((row + next * 7) % rows)).collect();
        let calls = calls.join("\",\n        \"");
        write!(
            text,
            "{comma}\n    {{\n      \"id\": \"{}\",\n      \"role\": \"{role}\",\n      \"dns\": [\n        \
             \"service-{row:05}.pay.internal\",\n        \"service-{row:05}.prod.pay.internal\"\n      ],\n      \
             \"calls\": [\n        \"{calls}\"\n      ]\n    }}",
            path(row)
        )
        .unwrap();
    }
    text + "\n  ]\n}\n"
}

#[test]
fn five_thousand_workloads_are_checked_applied_shown_and_reduced() {
    let environment = Environment::start();
    let table_of = |rows| environment.write("policies/workloads.json", &table(rows));
    table_of(5_000);
    environment.countersign(&["policy", "check", "policies"]).success();
    let applied = environment.countersign(&["policy", "apply", "policies"]).success();
    applied.says("changed   workloads.json");
    let shown = environment.curl("/v1/policies", &[]).success().json();
    assert_eq!(shown["files"]["workloads.json"], table(5_000));
    environment.issue("/prod/tenant-042/service-00042", "svid");
    let explain = ["policy", "explain", "--as"];
    let id = environment.id("/prod/tenant-099/service-04999");
    environment.countersign(&[&explain[..], &[&id, "issue", &id]].concat()).success();
    table_of(4_999);
    environment.countersign(&["policy", "apply", "policies"]).success().says("changed");
}

#[test]
fn check_and_ca_refuse_the_same_size_in_the_same_words() {
    let environment = Environment::start();
    environment.write("policies/workloads.json", &table(10_000));
    let checked = environment.countersign(&["policy", "check", "policies"]).exits(2);
    let refused = environment.countersign(&["policy", "apply", "policies"]).exits(1);
    for said in [checked.stdout + &checked.stderr, refused.stderr] {
        for text in ["bytes as JSON, and a CA takes 4194304 at most", "jq -c . workloads.json"] {
            assert!(said.contains(text), "{text}: {said}");
        }
    }
}

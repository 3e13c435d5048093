//! Policy sets as large as companies get: checked, applied, read, and made smaller again.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fmt::Write;

use system_tests::{Environment, Settings};

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
    let applied = environment.countersign(&["policy", "apply", "policies", "--yes"]).success();
    applied.says("changed   workloads.json");
    let shown = environment.curl("/v1/policies", &[]).success().json();
    assert_eq!(shown["files"]["workloads.json"], table(5_000));
    environment.issue("/prod/tenant-042/service-00042", "svid");
    let explain = ["policy", "explain", "--as"];
    let id = environment.id("/prod/tenant-099/service-04999");
    environment.countersign(&[&explain[..], &[&id, "issue", &id]].concat()).success();
    table_of(4_999);
    environment.countersign(&["policy", "apply", "policies", "--yes"]).success().says("changed");
}

#[test]
fn who_loses_what_is_told_before_a_set_is_applied() {
    let environment = Environment::start();
    for folder in ["a", "b", "c"] {
        environment.issue("/prod/batch", folder);
    }
    let apply = ["policy", "apply", "policies"];
    environment.countersign(&apply).success().says("nothing to do");
    environment.write(
        "policies/workloads.json",
        r#"{"workloads": [{"id": "/prod/reports", "dns": ["localhost"]}]}"#,
    );
    let asked = format!("\"{}\" policy apply policies", system_tests::binary().display());
    let mut terminal = std::process::Command::new("script");
    terminal.args(["-qec", &asked, "/dev/null"]).current_dir(environment.folder()).env_clear();
    terminal.env("PATH", "/usr/bin:/bin").env("HOME", environment.folder());
    terminal.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut asking = terminal.spawn().unwrap();
    std::io::Write::write_all(asking.stdin.as_mut().unwrap(), b"no\n").unwrap();
    let answered = asking.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&answered.stdout).into_owned();
    assert!(said.contains("Type yes to go on") && said.contains("nothing was changed"), "{said}");
    assert_eq!(answered.status.code(), Some(1));

    let refused = environment.countersign(&apply).exits(2);
    refused.says("/prod/batch loses its row").says("with --yes");
    let explain = ["policy", "explain", "--as", &environment.id("/prod/batch"), "issue"];
    environment.countersign(&[&explain[..], &[&environment.id("/prod/batch")]].concat()).success();

    let applied = environment.countersign(&[&apply[..], &["--yes"]].concat()).success();
    for told in [
        "/prod/batch loses its row, and 3 certificates are valid",
        "/prod/monolith loses its row, and 0 certificates are valid",
        "/prod/reports loses the address 127.0.0.1, the profile common-name",
        "/countersign/operator/second loses its place as an operator",
        "3 valid certificates are left without a row",
    ] {
        assert!(applied.stderr.contains(told), "{told:?} is not in {}", applied.stderr);
    }
    assert!(!applied.stdout.contains("removed"), "nothing was: {}", applied.stdout);
    environment.countersign(&apply).success().says("nothing to do");
}

#[test]
fn check_and_ca_refuse_the_same_size_in_the_same_words() {
    let environment = Environment::start();
    environment.write("policies/workloads.json", &table(10_000));
    let checked = environment.countersign(&["policy", "check", "policies"]).exits(2);
    let refused = environment.countersign(&["policy", "apply", "policies", "--yes"]).exits(1);
    for said in [checked.stdout + &checked.stderr, refused.stderr] {
        for text in ["bytes as JSON, and a CA takes 4194304 at most", "jq -c . workloads.json"] {
            assert!(said.contains(text), "{text}: {said}");
        }
    }
}

#[test]
fn a_misspelt_file_of_a_policy_folder_is_named() {
    let environment = Environment::prepare(&Settings::default());
    let check = || environment.countersign(&["policy", "check", "policies"]).success();
    let said = check().says("1 file, no findings");
    assert!(!said.stderr.contains("not read"), "{}", said.stderr);
    environment.write("policies/workload.json", "{}");
    check().says("not read").says("workload.json").says("parts are: *.cedar");
    let init = ["init", "--config", "ca.toml"];
    environment.countersign(&["config", "check", "--config", "ca.toml"]).success().says("not read");
    environment.countersign(&init).success().says("workload.json");
}

//! What the CA tells of itself: a line for each act and refusal, and metrics that say what they are.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::Value;
use system_tests::{Environment, PATIENCE, Settings, pause};

/// The lines of `serve` that say this.
fn told(environment: &Environment, message: &str) -> Vec<Value> {
    let lines = environment.log();
    let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"] == message).collect()
}

#[test]
fn each_act_and_refusal_is_told_with_who_and_what_and_how_long() {
    let serve_options = vec!["--log-format".to_owned(), "json".to_owned()];
    let environment = Environment::start_with(&Settings { serve_options, ..Settings::default() });
    environment.issue("/prod/reports", "reports");
    environment.issue_with("/prod/unknown", "unknown", &[]);
    let id = environment.id("/prod/reports");
    let revoke = ["revoke", &id, "--reason", "superseded"];
    environment.countersign(&[&revoke[..], &["--dry-run"]].concat()).success();
    environment.countersign(&revoke).success();
    assert_eq!(told(&environment, "asked what would be revoked")[0]["subject"], id.as_str());
    assert!(told(&environment, "nothing to revoke").is_empty());
    environment.countersign(&["deny", &id, "--reason", "superseded"]).success();
    environment.countersign(&["allow", &id]).success();
    let operator = environment.id("/countersign/operator/admin");

    let issued = told(&environment, "issued").remove(0);
    assert_eq!(issued["subject"], id.as_str());
    assert_eq!(issued["route"], "/v1/certificates");
    assert_eq!(issued["status"], 201);
    for field in ["serial_number", "log_index", "request_id", "remote", "milliseconds"] {
        assert!(!issued[field].is_null(), "{field}: {issued}");
    }
    assert!(issued["who"].is_null(), "it had a token only: {issued}");
    let revoked = told(&environment, "revoked").remove(0);
    assert_eq!((&revoked["who"], &revoked["subject"]), (&operator.into(), &id.as_str().into()));
    assert_eq!(told(&environment, "denied").len(), 1);
    assert_eq!(told(&environment, "allowed").len(), 1);
    assert!(!told(&environment, "token made").is_empty());
    let refused = told(&environment, "request refused");
    let why = refused.iter().filter_map(|line| line["why"].as_str());
    assert!(why.into_iter().any(|why| why.contains("no row")), "{refused:?}");
    let own = environment.log();
    assert!(!own.contains("ct1."), "no token is told");
}

#[test]
fn each_line_of_the_json_log_is_json_from_the_first_to_the_last() {
    let serve_options = vec!["--log-format".to_owned(), "json".to_owned()];
    let settings = Settings { serve_options, ..Settings::default() };
    let mut environment = Environment::start_with(&settings);
    environment.issue("/prod/reports", "reports");
    assert_eq!(environment.stop(), 0);
    let log = environment.log();
    let lines: Vec<Value> = log.lines().map(parsed).collect();
    let said = |start: &str| {
        lines.iter().any(|line| line["message"].as_str().is_some_and(|it| it.starts_with(start)))
    };
    for start in ["serving https://", "SIGTERM: finishing", "drained "] {
        assert!(said(start), "{start}: {log}");
    }
    for took in lines.iter().filter_map(|line| line["milliseconds"].as_f64()) {
        assert_eq!(took, (took * 1e3).round() / 1e3, "to the microsecond");
    }

    let json = |options: &[&str]| {
        let serve = ["serve", "--config", "ca.toml", "--log-format", "json"];
        let failed = environment.countersign(&[&serve, options].concat());
        assert_ne!(failed.code, 0);
        let mut lines: Vec<Value> = failed.stderr.lines().map(parsed).collect();
        lines.pop().unwrap()
    };
    environment.write("passphrase", "the passphrase of another CA");
    for options in [&[][..], &["-q"]] {
        let told = json(options);
        assert_eq!(told["level"], "ERROR");
        assert!(told["message"].as_str().unwrap().contains("does not open"), "{told}");
        assert!(told["next"].as_str().unwrap().contains("the same command"), "{told}");
    }
    environment.write("ca.toml", "no configuration");
    assert!(json(&[])["next"].as_str().unwrap().contains("config check"));
}

#[track_caller]
fn parsed(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
}

/// What Prometheus' own linter (`promtool check metrics`) looks for first.
#[test]
fn metrics_say_what_they_are_and_stand_at_zero_before_anything_happens() {
    let environment = Environment::start();
    let begun = Instant::now();
    let metrics = loop {
        let metrics = environment.admin("/metrics");
        // Some are looked at every few seconds.
        let is_complete = ["{of=\"own\"}", "countersign_ready 1", "countersign_log_entries "];
        let is_complete = is_complete.iter().all(|part| metrics.contains(part));
        if is_complete || begun.elapsed() > PATIENCE {
            break metrics;
        }
        pause();
    };
    let families = |kind: &str| -> BTreeSet<String> {
        let lines = metrics.lines().filter_map(|line| line.strip_prefix(kind));
        lines.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    };
    let (types, help) = (families("# TYPE "), families("# HELP "));
    assert_eq!(types.difference(&help).collect::<Vec<_>>(), Vec::<&String>::new());
    for expected in [
        "countersign_feed_dropped_total 0",
        "countersign_handshakes_refused_total{reason=\"revoked\"} 0",
        "countersign_budget_refusals_total{budget=\"renewals\"} 0",
        "countersign_build_info{version=",
        "countersign_certificate_expiry_timestamp_seconds{of=\"root\"} ",
        "countersign_certificate_expiry_timestamp_seconds{of=\"own\"} ",
        "countersign_log_entries ",
        "countersign_ready 1",
    ] {
        assert!(metrics.lines().any(|line| line.starts_with(expected)), "{expected}: {metrics}");
    }
    environment.countersign(&["status"]).success();
    let metrics = environment.admin("/metrics");
    let bucket = "countersign_request_duration_seconds_bucket{route=\"/v1/status\",outcome=\"2xx\"";
    assert!(metrics.lines().any(|line| line.starts_with(bucket)), "{metrics}");
}

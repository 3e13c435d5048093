//! Ready means: can issue. What hinders it is told before somebody needs a certificate, and so is its
//! end.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::process::Command;
use std::time::Instant;

use system_tests::{Environment, PATIENCE};

#[test]
fn a_full_disk_is_told_before_anybody_asks_for_a_certificate_and_so_is_its_end() {
    let mut environment = Environment::start();
    until(&environment, "HTTP/1.1 200");
    let limit = |bytes: &str| {
        let (pid, limit) =
            (environment.server_pid().to_string(), format!("--fsize={bytes}:unlimited"));
        assert!(Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
    };
    limit("4096");
    until(&environment, "HTTP/1.1 503");
    assert!(environment.admin("/readyz").contains("the store cannot be used"));
    environment.countersign(&["status"]).success().says("NOT READY").says("cannot be used");
    limit("unlimited");
    until(&environment, "HTTP/1.1 200");
    let status = environment.countersign(&["status"]).success().stdout;
    assert!(!status.contains("NOT READY"), "{status}");
    environment.issue("/prod/reports", "after");
    let log = environment.log();
    for told in ["the store takes nothing", "not ready", "takes what is written again"] {
        assert_eq!(log.matches(told).count(), 1, "{told:?} is not told once in {log}");
    }
    assert_eq!(environment.stop(), 0);
}

#[test]
fn a_commit_that_fails_is_told_at_once_and_its_end_by_the_next_that_does_not() {
    let environment = Environment::start();
    let database = environment.path("state/countersign.db");
    let other = rusqlite::Connection::open(&database).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let deny = ["deny", &environment.id("/prod/batch"), "--reason", "superseded", "--yes"];
    assert_ne!(environment.countersign(&deny).code, 0);
    assert!(environment.admin("/readyz").starts_with("HTTP/1.1 503"), "{}", environment.log());
    other.execute_batch("ROLLBACK").unwrap();
    environment.countersign(&deny).success();
    assert!(environment.admin("/readyz").starts_with("HTTP/1.1 200"), "{}", environment.log());
}

/// Until `/readyz` and the metric say so; a few seconds are promised.
fn until(environment: &Environment, status: &str) {
    let begun = Instant::now();
    let metric = format!("countersign_ready {}", u8::from(status.ends_with("200")));
    while !environment.admin("/readyz").starts_with(status)
        || !environment.admin("/metrics").lines().any(|line| line == metric)
    {
        assert!(begun.elapsed() < PATIENCE, "{}", environment.log());
        system_tests::pause();
    }
}

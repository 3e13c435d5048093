//! What `GET /v1/openapi.json` says is so, as schemathesis sees it: requests that are as described, and
//! requests that are not.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::process::Command;

use system_tests::{Environment, TRUST_DOMAIN, program};

use certified::made;

#[path = "../interop/certified.rs"]
#[allow(dead_code, reason = "only the place of what was made is used here")]
mod certified;

#[test]
fn the_api_is_to_an_operator_as_it_is_described() {
    let environment = Environment::start();
    asked_as_described(
        &environment,
        &["--request-cert", "svid.pem", "--request-cert-key", "svid.key"],
    );
}

#[test]
fn the_api_is_to_a_stranger_as_it_is_described() {
    asked_as_described(&Environment::start(), &[]);
}

/// Every operation, by every check but one, with requests that are the same each time: nothing is found.
fn asked_as_described(environment: &Environment, certificate: &[&str]) {
    // The feed has something to say at once: it is asked by those who wait for it, else.
    let nobody = environment.id("/prod/nobody");
    environment.countersign(&["deny", &nobody, "--reason", "superseded", "--yes"]).success();
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/interop/schemathesis/schemathesis.toml");
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=5", "900"])
        .arg(made("schemathesis/bin/schemathesis"))
        .args(["--config-file", rules, "run", "--no-color", "--checks", "all"])
        // A POST under a name (Idempotency-Key) that was used before is answered as it was then: what
        // it made may have been deleted since, and is not made again.
        .args(["--exclude-checks", "ensure_resource_availability"])
        .args(["--seed", "1", "--max-examples", "10", "--workers", "1"])
        // Longer than the longest poll of the feed.
        .args(["--request-timeout", "40", "--tls-verify", "bundle.pem"])
        // By itself it leaves out where it read the description.
        .args(["--include-path-regex", "/"])
        .args(certificate)
        .arg(format!("{}/v1/openapi.json", environment.url()))
        .current_dir(environment.path(&format!(".config/countersign/{TRUST_DOMAIN}")))
        .env("HOME", environment.folder());
    let found = program(&mut command).success();
    let operations = described(environment);
    found
        .says(&format!("Selected: {operations}/{operations}"))
        .says(&format!("Tested: {operations}"));
    let log = environment.log();
    assert!(!log.contains("panicked") && !log.contains("request failed"), "{log}");
    assert!(environment.admin("/readyz").starts_with("HTTP/1.1 200"), "{log}");
}

/// How many operations the description names.
fn described(environment: &Environment) -> usize {
    let document = environment.curl_as_stranger("/v1/openapi.json").success().json();
    let paths = document["paths"].as_object().unwrap().values();
    paths.map(|methods| methods.as_object().unwrap().len()).sum()
}

//! Who is revoked or denied hears it: from every command, at once, with what to do.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use system_tests::{Environment, Outcome};

#[test]
fn a_revoked_svid_is_no_longer_not_due() {
    let environment = Environment::start();
    environment.issue("/prod/batch", "batch");
    environment.countersign(&["renew", "batch"]).success().says("not due");
    let record = environment.path("batch/svid.json");
    let record = std::fs::read_to_string(record).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let serial = record["serial_number"].as_str().unwrap();
    environment.countersign(&["revoke", serial, "--reason", "key-compromise"]).success();
    for command in [&["renew", "batch"][..], &["renew", "batch", "--check"]] {
        let refused = environment.countersign(command).exits(3);
        for said in
            [serial, "is revoked since 20", "(key-compromise)", "an operator of pay.example"]
        {
            assert!(refused.stderr.contains(said), "{said}: {}", refused.stderr);
        }
    }
    // As the next step says.
    let id = environment.id("/prod/batch");
    let token = environment.countersign(&["token", "create", &id]).success().stdout;
    environment.write("again", &token);
    let url = environment.url();
    let issue = ["issue", &id, "--out", "batch", "--attest", "token", "--token-file", "again"];
    environment.countersign(&[&issue[..], &["--url", &url]].concat()).success();
    environment.countersign(&["renew", "batch"]).success().says("not due");
}

#[test]
fn a_denied_identity_hears_who_lifts_it() {
    let environment = Environment::start();
    environment.issue("/prod/batch", "batch");
    let id = environment.id("/prod/batch");
    environment.countersign(&["deny", &id, "--reason", "superseded"]).success();
    let refused = environment.countersign(&["renew", "batch"]).exits(3);
    for said in [&*format!("{id} is denied; certificate"), &*format!("countersign allow {id}")] {
        assert!(refused.stderr.contains(said), "{said}: {}", refused.stderr);
    }
}

#[test]
fn when_a_certificate_was_revoked_is_not_since_when_its_identity_is_denied() {
    let environment = Environment::start();
    environment.issue("/prod/batch", "batch");
    let id = environment.id("/prod/batch");
    let listed = environment.countersign(&["--json", "list", "--id", &id]).success();
    let serial = listed.json()["serial_number"].as_str().unwrap().to_owned();
    environment.countersign(&["revoke", &serial, "--reason", "superseded"]).success();
    environment.countersign(&["deny", &id, "--reason", "key-compromise"]).success();
    let refused = environment.countersign(&["renew", "batch"]).exits(3).stderr;
    let words = refused.split_whitespace().collect::<Vec<_>>().join(" ");
    for said in [format!("{id} is denied; "), format!("certificate {serial} is revoked since 20")] {
        assert!(words.contains(&said), "{said}: {refused}");
    }
    assert!(!words.contains("denied since"), "{refused}");
}

#[test]
fn an_operator_who_is_revoked_hears_that_from_every_command() {
    let mut environment = Environment::start();
    let listed = environment.countersign(&["--json", "list", "--id", "*/operator/admin"]).success();
    let serial = listed.json()["serial_number"].as_str().unwrap().to_owned();
    let revoke = ["revoke", &serial, "--reason", "key-compromise"];
    environment.countersign(&[&revoke[..], &["--allow-locking-everybody-out"]].concat()).success();
    // The alert may come before or after the first request has left.
    for _ in 0..20 {
        says_revoked(environment.countersign(&["list"]), &serial);
    }
    for command in [&["status"][..], &["token", "list"], &["rotate", "--config", "ca.toml"]] {
        says_revoked(environment.countersign(command), &serial);
    }
    environment.stop();
    // As the next step says.
    let recover = ["init", "--config", "ca.toml", "--recover", "--operator", "admin"];
    environment.countersign(&recover).success();
    environment.serve();
    environment.countersign(&["list"]).success();
}

fn says_revoked(outcome: Outcome, serial: &str) {
    let refused = outcome.exits(3);
    let said = format!("certificate {serial} is revoked since 20");
    assert!(refused.stderr.contains(&said), "{}", refused.stderr);
    assert!(refused.stderr.contains("countersign init --recover --operator admin"));
}

#[test]
fn what_nobody_has_is_not_revoked_and_the_command_fails() {
    let environment = Environment::start();
    let nobody = environment.id("/prod/nobody");
    let revoke = ["revoke", &nobody, "--reason", "key-compromise"];
    let before = environment.revocations();
    for options in [&[][..], &["--dry-run"]] {
        let tried = environment.countersign(&[&revoke[..], options].concat()).exits(1);
        tried.says("has no certificate").says("countersign deny");
    }
    assert_eq!(environment.revocations(), before);
    let deny = ["deny", &nobody, "--reason", "key-compromise", "--dry-run"];
    environment.countersign(&deny).success().says("and revoke 0 certificates").says(MISTYPED);
    let asked = environment.on_terminal(80, &[("Type yes to go on", "no")], &deny[..4]);
    asked.exits(1).says("no row, no certificate and no operator");
    assert_eq!(environment.revocations(), before);
    environment.countersign(&deny[..4]).success().says(MISTYPED);
}

#[test]
fn whom_the_ca_knows_by_anything_is_not_said_to_be_mistyped() {
    let environment = Environment::start();
    environment.countersign(&["operator", "add", "bob", "--out", "bob"]).success();
    let unknown = ["/prod/promise", "/countersign/operator/bo"];
    // Who has a row, who was added, and who stands in the table.
    let known = ["/prod/batch", "/countersign/operator/bob", "/countersign/operator/second"];
    for (path, is_known) in
        unknown.map(|path| (path, false)).into_iter().chain(known.map(|path| (path, true)))
    {
        let id = environment.id(path);
        let dry = ["deny", &id, "--reason", "superseded", "--dry-run"];
        let said = environment.countersign(&dry).success();
        assert_eq!(!said.stderr.contains(MISTYPED), is_known, "{path}: {said:?}");
    }
}

const MISTYPED: &str = "is it mistyped?";

#[test]
fn a_rule_that_was_not_reached_is_not_passed() {
    let environment = Environment::start();
    for (name, extensions, path) in [
        ("ca", "basicConstraints=critical,CA:TRUE", "-       path to an anchor"),
        ("leaf", "basicConstraints=critical,CA:FALSE", "FAILED  path to an anchor"),
        ("purpose", "extendedKeyUsage=codeSigning", "-       path to an anchor"),
    ] {
        let file = format!("{name}.pem");
        let make = [
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            "key.pem",
            "-out",
            &file,
            "-subj",
            "/CN=x",
            "-days",
            "3",
            "-addext",
            extensions,
        ];
        system_tests::openssl(environment.folder(), &make).success();
        let refused = environment.countersign(&["verify", &file]).exits(5);
        assert!(refused.stdout.contains(path), "{name}: {}", refused.stdout);
        assert!(!refused.stdout.contains("passed  path"), "{name}: {}", refused.stdout);
    }
}

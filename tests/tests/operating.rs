//! What an operator types in an ordinary week, against a running CA.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::os::unix::fs::PermissionsExt;

use system_tests::Environment;

#[test]
fn contexts_are_listed_chosen_and_forgotten() {
    let environment = Environment::start();
    let listed = environment.countersign(&["context", "list"]).success();
    let row = listed.stdout.lines().nth(1).unwrap();
    assert!(row.starts_with('*') && row.contains("operator/admin"), "{row}");
    let one = environment.countersign(&["context", "list", "--json"]).success().json();
    assert_eq!(one["name"], "pay.example");
    assert_eq!(one["is_current"], true);
    environment.countersign(&["context", "use", "prod"]).exits(2).says("known: pay.example");
    let removed = environment.countersign(&["context", "remove", "pay.example"]).success();
    removed.says("still in").says("countersign context use pay.example");
    environment.countersign(&["list"]).exits(2);
    environment.countersign(&["context", "list"]).success().says("there is none");
    environment.countersign(&["context", "use", "pay.example"]).success();
    environment.countersign(&["status"]).success();
    let again = environment.countersign(&["context", "list"]).success();
    let again = again.stdout.lines().nth(1).unwrap();
    assert!(again.starts_with('*') && again.contains("operator/admin"), "{again}");
    let key = environment.path(".config/countersign/pay.example/svid.key");
    environment.countersign(&["context", "remove", "pay.example"]).success();
    std::fs::remove_file(key).unwrap();
    environment.countersign(&["context", "use", "pay.example"]).exits(2).says("known: none");
    environment.countersign(&["init", "--config", "ca.toml", "--recover"]).exits(1).says("serve");
}

#[test]
fn a_token_is_withdrawn_once() {
    let environment = Environment::start();
    let id = environment.id("/prod/batch");
    environment.countersign(&["token", "create", &id, "--out", "token"]).success();
    let token = environment.countersign(&["--json", "token", "list"]).success().json();
    let revoke = ["token", "revoke", token["id"].as_str().unwrap()];
    for _ in 0..2 {
        environment.countersign(&revoke).success().says("nobody can use it any more");
    }
    let json = environment.countersign(&[&revoke[..], &["--json"]].concat()).success().json();
    assert_eq!(json["state"], "revoked");
    environment.countersign(&["token", "revoke", "0123456789abcdef"]).exits(1).says("no token");
}

#[test]
fn without_a_current_context_the_others_are_named() {
    let environment = Environment::start();
    let home = environment.path(".config/countersign");
    let contexts = std::fs::read_to_string(home.join("contexts.toml")).unwrap();
    let other = contexts.split_once("[contexts.").unwrap().1.split_once("]\n").unwrap().1;
    let both = format!("{contexts}\n[contexts.other]\n{other}");
    std::fs::write(home.join("contexts.toml"), both).unwrap();
    environment.countersign(&["context", "remove", "pay.example"]).success();
    let told = environment.countersign(&["status"]).exits(2).says("known: other");
    assert!(!told.stderr.contains("init"), "{}", told.stderr);
    told.says("countersign context use NAME");
    environment.countersign(&["context", "use", "other"]).success();
    environment.countersign(&["status"]).success();
}

#[test]
fn what_would_be_waited_for_can_be_tried_first() {
    let environment = Environment::start();
    environment.issue("/prod/batch", "batch");
    environment.countersign(&["operator", "add", "bob", "--out", "bob"]).success();
    let id = environment.id("/prod/batch");
    let before = environment.revocations();
    let reason = ["--reason", "superseded"];
    for act in [&["revoke", &id][..], &["deny", &id], &["operator", "remove", "bob"]] {
        let tried = [act, &reason, &["--wait", "1h", "--dry-run"]].concat();
        environment.countersign(&tried).success().says("would ");
    }
    assert_eq!(environment.revocations(), before, "nothing was done");
    environment.countersign(&[&["revoke", &id], &reason[..]].concat()).success();
    assert_ne!(environment.revocations(), before);
}

#[test]
fn what_is_allowed_is_the_cas_own() {
    let environment = Environment::start();
    let allow = |id: &str| environment.countersign(&["allow", id]);
    let foreign = allow("spiffe://other.example/prod/batch").exits(1);
    foreign.says("not in trust domain pay.example").says("spiffe://pay.example/prod/batch");
    let id = environment.id("/prod/batch");
    allow(&id).success().says("was not denied").says("countersign denial list");
    environment.countersign(&["deny", &id, "--reason", "superseded"]).success();
    allow(&id).success().says("is allowed again");
}

#[test]
fn a_ca_certificate_is_not_taken_for_one_that_nobody_knows() {
    let environment = Environment::start();
    environment.issue("/prod/batch", "batch");
    let serial = |file: &str, line: usize| {
        let shown = environment.countersign(&["--json", "inspect", file]).success();
        let shown: Vec<serde_json::Value> =
            shown.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        shown[line]["serial_number"].as_str().unwrap().to_owned()
    };
    let (issuer, root) = (serial("batch/svid.pem", 1), serial("batch/bundle.pem", 0));
    for (serial, key) in [(&issuer, "issuer"), (&root, "root")] {
        for act in [&["show", serial][..], &["revoke", serial, "--reason", "superseded"]] {
            let refused = environment.countersign(act).exits(1);
            let step = format!("countersign key prepare {key}");
            refused.says(&format!("certificate of this CA's {key}")).says(&step);
        }
    }
}

#[test]
fn denial_is_tried_first_and_listed_afterwards() {
    let environment = Environment::start();
    environment.issue("/prod/batch", "batch");
    let id = environment.id("/prod/batch");
    let deny = ["deny", &id, "--reason", "key-compromise"];
    let tried = environment.countersign(&[&deny[..], &["--dry-run"]].concat()).success();
    assert_eq!(tried.stdout.trim(), format!("would deny {id}, and revoke 1 certificate"));
    environment.countersign(&["denial", "list"]).success().says("nobody is denied");
    environment
        .countersign(&[&deny[..], &["--wait", "1s"]].concat())
        .exits(1)
        .says("nobody was told");
    let listed = environment.countersign(&["denial", "list"]).success();
    assert!(
        listed.stdout.contains("key-compromise  spiffe://pay.example/prod/batch"),
        "{}",
        listed.stdout
    );
    assert!(listed.stdout.contains("  admin  "), "{}", listed.stdout);
    environment.countersign(&["allow", &id]).success();
    environment.countersign(&["denial", "list"]).success().says("nobody is denied");
}

#[test]
fn show_says_who_revoked_when_and_why() {
    let environment = Environment::start();
    environment.issue("/prod/batch", "batch");
    let (id, admin) =
        (environment.id("/prod/batch"), environment.id("/countersign/operator/admin"));
    let record = environment.countersign(&["show", &id, "--json"]).success().json();
    assert!(record["revoked"].is_null() && record["denial"].is_null(), "{record}");
    let serial = record["serial_number"].as_str().unwrap();
    environment.countersign(&["revoke", serial, "--reason", "key-compromise", "--yes"]).success();
    let shown = environment.countersign(&["show", serial]).success().stdout;
    assert!(shown.contains(&format!("by {admin}\n")), "{shown}");
    assert!(shown.contains("key-compromise; this certificate; log index"), "{shown}");

    let deny = ["deny", &id, "--reason", "privilege-withdrawn", "--yes"];
    environment.countersign(&deny).success();
    let record = environment.countersign(&["show", &id, "--json"]).success().json();
    assert_eq!(record["revoked"]["reason"], "key-compromise", "the first counts");
    assert_eq!(record["revoked"]["by"], admin.as_str());
    assert_eq!(record["denial"]["by"], admin.as_str());
    let shown = environment.countersign(&["show", &id]).success().stdout;
    assert!(shown.contains("privilege-withdrawn; log index"), "{shown}");
    let long = shown.lines().find(|line| line.chars().count() > 80);
    assert_eq!(long, None, "{shown}");
}

/// Whoever is kept out before they came has no certificate to show.
#[test]
fn show_of_a_denied_identity_without_certificate_says_who_denied_it() {
    let environment = Environment::start();
    let id = environment.id("/prod/batch");
    environment.countersign(&["show", &id]).exits(1).says("no certificate");
    environment.countersign(&["deny", &id, "--reason", "superseded", "--yes"]).success();
    let shown = environment.countersign(&["show", &id]).success();
    assert!(shown.stdout.contains("superseded; log index"), "{}", shown.stdout);
    shown.says("it has no certificate");
    let shown = environment.countersign(&["show", &id, "--json"]).success().json();
    assert_eq!(shown["denial"]["by"], environment.id("/countersign/operator/admin").as_str());
}

#[test]
fn token_goes_into_a_file_for_its_owner_alone() {
    let environment = Environment::start();
    let id = environment.id("/prod/batch");
    let nowhere = ["token", "create", &id, "--out", "nowhere/token"];
    environment.countersign(&nowhere).exits(1).says("nowhere/token");
    let refused = ["token", "create", "spiffe://other.example/batch", "--out", "a token"];
    environment.countersign(&refused).exits(1);
    assert!(!environment.path("a token").exists(), "nothing came of it, and nothing is there");
    environment.write("a token", "ct1.of-before");
    environment.countersign(&refused).exits(1);
    assert_eq!(std::fs::read(environment.path("a token")).unwrap(), b"ct1.of-before");
    environment.countersign(&["token", "list"]).success();
    let made = environment.countersign(&["token", "create", &id, "--out", "a token"]).success();
    assert_eq!(made.stdout, "");
    assert!(made.stderr.contains("--token-file 'a token'"), "{}", made.stderr);
    let path = environment.path("a token");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let url = environment.url();
    let issue = ["issue", &id, "--url", &url, "--token-file", "a token", "--out", "batch"];
    environment.countersign(&issue).success();
}

#[test]
fn glob_that_finds_nothing_is_answered_with_one_that_might() {
    let environment = Environment::start();
    environment.issue("/prod/batch", "batch");
    environment
        .countersign(&["list", "--id", "/prod/batch"])
        .success()
        .says("perhaps '*/prod/batch'");
    let found = environment.countersign(&["list", "--id", "*/prod/batch"]).success();
    assert!(found.stdout.contains("/prod/batch"));
}

#[test]
fn help_is_given_in_every_way_that_people_ask_for_it() {
    let environment = Environment::prepare(&system_tests::Settings::default());
    let help = environment.countersign(&["--help"]).success().stdout;
    assert_eq!(environment.countersign(&["help"]).success().stdout, help);
    environment.countersign(&[]).exits(2).says("Start here");
    let issue = environment.countersign(&["issue", "--help"]).success().stdout;
    assert_eq!(environment.countersign(&["help", "issue"]).success().stdout, issue);
}

//! What is told of what was done before: who revoked, since when somebody is denied, which token counts;
//! and what was typed as other tools print it.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::os::unix::process::CommandExt;

use system_tests::{Environment, Outcome, program};

fn words(outcome: &Outcome) -> String {
    let all = format!("{} {}", outcome.stdout, outcome.stderr);
    all.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn serial(environment: &Environment, id: &str) -> String {
    let listed = environment.countersign(&["--json", "list", "--id", id]).success().stdout;
    let newest: serde_json::Value = serde_json::from_str(listed.lines().next().unwrap()).unwrap();
    newest["serial_number"].as_str().unwrap().to_owned()
}

#[test]
fn what_is_revoked_already_says_since_when_by_whom_and_that_its_reason_stays() {
    let environment = Environment::start();
    environment.issue("/prod/batch", "batch");
    let id = environment.id("/prod/batch");
    let serial = serial(&environment, &id);
    environment.countersign(&["revoke", &serial, "--reason", "superseded"]).success();
    let again = ["revoke", &serial, "--reason", "key-compromise"];
    let told = words(&environment.countersign(&again).success());
    let by = format!("by {} (superseded)", environment.id("/countersign/operator/admin"));
    for said in ["nothing was left to revoke", "was revoked 20", &by, "its reason stays superseded"]
    {
        assert!(told.contains(said), "{said}: {told}");
    }
    let json = environment.countersign(&[&["--json"][..], &again].concat()).success().json();
    assert_eq!(json["earlier"]["reason"], "superseded");
    // By its identity, too; and with the same reason nothing stays that was to change.
    environment.countersign(&["deny", &id, "--reason", "key-compromise"]).success();
    let by_identity = ["revoke", &id, "--reason", "key-compromise", "--yes"];
    let told = words(&environment.countersign(&by_identity).success());
    assert!(told.contains(&format!("{id} was denied 20")), "{told}");
    assert!(!told.contains("stays"), "{told}");
}

#[test]
fn a_chain_that_only_the_ca_refuses_names_the_refusal() {
    let environment = Environment::start();
    environment.issue("/prod/batch", "batch");
    let revoke = ["revoke", &environment.id("/prod/batch"), "--reason", "superseded"];
    environment.countersign(&revoke).success();
    let verify = ["verify", "batch", "--online"];
    environment.countersign(&verify).exits(5).says("refused: Revoked");
    let json = environment.countersign(&[&verify[..], &["--json"]].concat()).exits(5).json();
    assert_eq!((&json["accepted"], &json["refusal"]), (&false.into(), &"Revoked".into()));
}

#[test]
fn who_is_denied_again_is_denied_since_the_first_time() {
    let environment = Environment::start();
    let id = environment.id("/prod/batch");
    let deny = ["--json", "deny", &id, "--reason", "superseded"];
    let first = environment.countersign(&deny).success().json();
    assert_eq!(first.get("since"), None);
    let again = environment.countersign(&deny).success().json();
    assert_eq!(again["since"], first["at"]);
    let told = words(&environment.countersign(&deny[1..]).success());
    assert!(told.contains("it is denied since 20"), "{told}");
    let listed = environment.countersign(&["--json", "denial", "list"]).success().json();
    assert_eq!(listed["since"], first["at"]);
    environment.countersign(&["denial", "list"]).success().says("AGAIN");
    environment.countersign(&["show", &id]).success().says("again 20");
    // Lifted once, it begins anew.
    environment.countersign(&["allow", &id]).success();
    let anew = environment.countersign(&deny).success().json();
    assert_eq!(anew.get("since"), None);
}

#[test]
fn a_second_token_for_an_operator_says_that_the_first_counts_no_more() {
    let environment = Environment::start();
    let add = ["operator", "add", "carl"];
    let first = environment.countersign(&add).success();
    assert!(!first.stderr.contains("counts no more"), "{}", first.stderr);
    let told = words(&environment.countersign(&add).success());
    assert!(told.contains("made for this operator before, counts no more"), "{told}");
    environment.write("first", &first.stdout);
    let url = environment.url();
    let join = ["operator", "join", "carl", "--url", &url, "--token-file", "first"];
    environment.countersign(&join).exits(3).says("a newer one was made");
}

#[test]
fn an_operator_ends_with_the_last_of_their_certificates() {
    let environment = Environment::start();
    let ends = || {
        let listed = environment.countersign(&["--json", "operator", "list"]).success().stdout;
        let admin = listed.lines().find(|line| line.contains("\"admin\"")).unwrap().to_owned();
        let admin: serde_json::Value = serde_json::from_str(&admin).unwrap();
        (admin["not_after"].clone(), admin["serial_number"].clone())
    };
    let before = ends();
    let id = environment.id("/countersign/operator/admin");
    environment.countersign(&["issue", &id, "--out", "short", "--ttl", "10m"]).success();
    assert_eq!(ends(), before);
}

#[test]
fn a_serial_number_is_taken_as_other_tools_print_it() {
    let environment = Environment::start();
    environment.issue("/prod/batch", "batch");
    let id = environment.id("/prod/batch");
    let serial = serial(&environment, &id);
    let upper = serial.to_ascii_uppercase();
    let short = serial.trim_start_matches('0').to_owned();
    let openssl = ["x509", "-in", "batch/svid.pem", "-noout", "-serial"];
    let printed = system_tests::openssl(environment.folder(), &openssl).success().stdout;
    for text in [&upper, &short, &format!("0x{short}"), printed.trim()] {
        environment.countersign(&["show", text]).success().says(&serial);
        environment.countersign(&["revoke", text, "--reason", "superseded", "--dry-run"]).success();
    }
    environment.curl(&format!("/v1/certificates/{upper}"), &[]).success().says(&serial);
    let path = environment.countersign(&["show", "/prod/batch"]).exits(2);
    assert!(words(&path).contains("spiffe://TRUST-DOMAIN/prod/batch"), "{path:?}");
}

#[test]
fn a_life_that_is_too_long_is_told_in_days_and_what_is_possible() {
    let environment = Environment::start();
    let id = environment.id("/prod/batch");
    let asked = environment.countersign(&["issue", &id, "--out", "long", "--ttl", "1000d"]);
    let told = words(&asked.exits(1));
    assert!(told.contains("a validity of 1000d was asked"), "{told}");
    let longest = told.split("--ttl ").nth(1).unwrap().split_whitespace().next().unwrap();
    environment.countersign(&["issue", &id, "--out", "long", "--ttl", longest]).success();
}

#[test]
fn a_folder_that_may_not_be_looked_into_is_not_an_empty_one() {
    const NOBODY: u32 = 65_534;
    let environment = Environment::start();
    environment.issue("/prod/batch", "batch");
    let mut inspect = environment.command(&["inspect", "batch"]);
    if is_root() {
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(environment.folder(), everybody).unwrap();
        inspect.uid(NOBODY).gid(NOBODY);
    }
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(environment.path("batch"), private).unwrap();
    let told = program(&mut inspect).exits(1);
    assert!(words(&told).contains("Permission denied"), "{told:?}");
    assert!(!told.stderr.contains("holds no SVID"), "{told:?}");
}

fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}

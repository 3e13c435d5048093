//! Somebody deletes the rows of certificates: who operates the CA is told, and the log has the rest.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::time::Instant;

use system_tests::{Environment, PATIENCE, pause};

#[test]
fn a_certificate_whose_rows_are_deleted_is_told_of_shown_revoked_and_attested_again() {
    let environment = Environment::start();
    environment.issue("/prod/reports", "reports");
    environment.issue("/prod/batch", "batch");
    let (reports, batch) = (serial(&environment, "reports"), serial(&environment, "batch"));
    until(&environment, "/metrics", "countersign_lost_rows 0");
    delete(&environment, &[&reports, &batch]);

    until(&environment, "/metrics", "countersign_lost_rows 2");
    let status = environment.countersign(&["status"]).success().says("ROWS LOST");
    let status = status.says(&reports).says(&batch).says("README: what to back up");
    assert!(!status.stdout.contains("countersign status"), "it names itself: {status:?}");
    assert!(environment.log().contains("lost rows of certificates"), "{}", environment.log());
    assert!(environment.admin("/readyz").starts_with("HTTP/1.1 200"), "it issues");
    let shown = environment.countersign(&["show", &reports]).success();
    shown.says("valid").says("token").says(&environment.id("/prod/reports")).says("lost");
    let listed = environment.countersign(&["--json", "list", "--id", "*/prod/*"]).success();
    assert_eq!(listed.stdout.matches("\"row_lost\":true").count(), 2, "{}", listed.stdout);

    // Neither "not due" nor "there is none".
    for command in [&["renew", "reports"][..], &["renew", "reports", "--check"]] {
        let told = environment.countersign(command).exits(3);
        let words = told.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(&format!("{reports} stands in the CA's log")), "{words}");
        assert!(words.contains("countersign token create spiffe://"), "{words}");
    }
    let token = environment.token("/prod/reports");
    environment.write("token", &token);
    let again = ["renew", "reports", "--token-file", "token"];
    environment.countersign(&again).success().says("attested again");
    environment.countersign(&["renew", "reports"]).success().says("not due");

    for serial in [&reports, &batch] {
        let revoke = ["revoke", serial, "--reason", "superseded"];
        environment.countersign(&revoke).success();
        environment.countersign(&["show", serial]).success().says("revoked");
    }
    environment.countersign(&["renew", "batch"]).exits(3).says("is revoked since 20");
    environment.countersign(&["verify", "reports", "--online"]).success();
}

/// A copy that has the rows brings them back.
#[test]
fn rows_that_are_back_are_told_of_no_more() {
    let mut environment = Environment::start();
    environment.issue("/prod/reports", "reports");
    environment.stop();
    let (database, copy) = (environment.path("state/countersign.db"), environment.path("copy"));
    let newest = rusqlite::Connection::open(&database).unwrap();
    newest.execute("VACUUM INTO ?1", [copy.to_str()]).unwrap();
    drop(newest);
    delete(&environment, &[&serial(&environment, "reports")]);
    environment.serve();
    until(&environment, "/metrics", "countersign_lost_rows 1");
    environment.kill();
    let attach = format!(
        "ATTACH '{}' AS copy; INSERT INTO records SELECT * FROM copy.records
           WHERE leaf_index NOT IN (SELECT leaf_index FROM records);
         INSERT INTO certificates SELECT * FROM copy.certificates
           WHERE leaf_index NOT IN (SELECT leaf_index FROM certificates)",
        copy.display()
    );
    rusqlite::Connection::open(&database).unwrap().execute_batch(&attach).unwrap();
    environment.serve();
    environment.countersign(&["renew", "reports"]).success().says("not due");
    until(&environment, "/metrics", "countersign_lost_rows 0");
}

fn serial(environment: &Environment, folder: &str) -> String {
    let record = environment.path(&format!("{folder}/svid.json"));
    let record: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(record).unwrap()).unwrap();
    record["serial_number"].as_str().unwrap().to_owned()
}

fn delete(environment: &Environment, serials: &[&str]) {
    let database = rusqlite::Connection::open(environment.path("state/countersign.db")).unwrap();
    database.busy_timeout(PATIENCE).unwrap();
    for serial in serials {
        let rows = format!("leaf_index FROM records WHERE hex(serial_number) = upper('{serial}')");
        let delete = format!(
            "PRAGMA foreign_keys = OFF;
             DELETE FROM certificates WHERE leaf_index IN (SELECT {rows});
             DELETE FROM records WHERE leaf_index IN (SELECT {rows})"
        );
        database.execute_batch(&delete).unwrap();
    }
}

fn until(environment: &Environment, path: &str, text: &str) {
    let begun = Instant::now();
    while !environment.admin(path).contains(text) {
        assert!(begun.elapsed() < PATIENCE, "{text}: {}", environment.log());
        pause();
    }
}

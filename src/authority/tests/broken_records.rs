//! A record that this CA did not write counts for nothing, and hides no other.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use api::RevokeRequest;
use authority::store::RecordQuery;
use rusqlite::Connection;
use support::{Environment, csr};

fn tamper(environment: &Environment, sql: &str) {
    let path = environment.folder.path().join("countersign.db");
    let database = Connection::open(path).unwrap();
    database.execute_batch(&format!("PRAGMA foreign_keys = OFF; {sql}")).unwrap();
}

/// What makes of one record what this CA did not write, of whatever form.
const BROKEN: &[&str] = &[
    "UPDATE records SET seal = x'' WHERE leaf_index = ?",
    "UPDATE records SET seal = 'text' WHERE leaf_index = ?",
    "UPDATE records SET facts = facts || ' ' WHERE leaf_index = ?",
    "UPDATE records SET facts = x'00' WHERE leaf_index = ?",
    "UPDATE records SET serial_number = zeroblob(30) WHERE leaf_index = ?",
    "UPDATE records SET serial_number = 7 WHERE leaf_index = ?",
    "UPDATE records SET issuer_key_hash = 'text' WHERE leaf_index = ?",
    "UPDATE records SET not_before = 'text' WHERE leaf_index = ?",
    "UPDATE records SET issued_at = 'text' WHERE leaf_index = ?",
    "UPDATE records SET identity = (SELECT min(id) FROM identities) WHERE leaf_index = ?",
    "UPDATE identities SET spiffe_id = 'no identity'
     WHERE id = (SELECT identity FROM records WHERE leaf_index = ?)",
];

#[tokio::test]
async fn one_broken_record_hides_no_other_and_stops_nobody() {
    for (broken, restarts) in BROKEN.iter().zip([false, true].into_iter().cycle()) {
        let mut environment = Environment::start().await;
        let operator = environment.operator().await;
        let mut expected = Vec::new();
        for path in ["/prod/monolith", "/prod/reports", "/prod/quick"] {
            expected.insert(0, environment.issue(&operator, path).await);
        }
        while environment.authority.issuing.account().await.unwrap() {}
        let index = expected[1].log_index;
        tamper(&environment, &broken.replace('?', &index.to_string()));
        if restarts {
            environment.restart().await;
        }
        let query = RecordQuery { limit: 2, ..RecordQuery::default() };
        let records = environment.store.records(query).await.unwrap();
        let places: Vec<u64> = records.iter().map(|record| record.leaf_index).collect();
        assert_eq!(places, [expected[0].log_index, expected[2].log_index], "{broken}");
        // Once it was noticed, it is listed, too, and said to be lost.
        for noticed in [false, true] {
            while noticed && environment.authority.operations.look_for_lost_rows().await.unwrap() {}
            let (mut listed, mut filter) = (Vec::new(), api::CertificateFilter::default());
            filter.limit = Some(1);
            while listed.is_empty() || filter.after.is_some() {
                let page = environment
                    .authority
                    .operations
                    .certificates(&operator, &filter)
                    .await
                    .unwrap();
                listed.extend(page.items);
                filter.after = page.next;
            }
            listed
                .retain(|it| it.serial_number != *operator.svid.as_ref().unwrap().serial_number());
            let lost: Vec<bool> = listed.iter().map(|it| it.row_lost).collect();
            let said: &[bool] = if noticed { &[false, true, false] } else { &[false, false] };
            assert_eq!(lost, said, "{broken}");
        }
        // Whoever it is, and whoever comes after it.
        let holder = environment.caller(&expected[1]);
        environment.renew(&holder, &csr()).await.unwrap_err();
        let target = expected[1].serial_number.to_string();
        let revoke = RevokeRequest {
            target,
            reason: "superseded".to_owned(),
            dry_run: false,
            named_override: None,
        };
        environment.authority.operations.revoke(&holder, &revoke).await.unwrap();
        environment.renew(&environment.caller(&expected[0]), &csr()).await.unwrap();
        environment.authority.status(&operator).await.unwrap();
        environment.authority.crls.crl(&environment.authority.view.issuer_id()).await.unwrap();
        environment.authority.operations.operators(&operator).await.unwrap();
        while environment.authority.issuing.account().await.unwrap() {}
        let swept = environment.store.head().await.unwrap().swept;
        assert!(swept > expected[0].log_index + 1, "{broken}");
    }
}

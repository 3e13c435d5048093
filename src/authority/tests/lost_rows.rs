//! Certificates whose rows somebody has deleted: the log holds them, and so they are shown, listed,
//! revoked by number, waited for, and told of.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use api::{
    CertificateFilter, CertificateState, IssuedCertificate, KeyPurpose, KeyState, KeyStep,
    NextStep, RevokeRequest,
};
use authority::{Caller, Error};
use rusqlite::Connection;
use support::rotation::take;
use support::told::Told;
use support::{Environment, csr, id};
use time::Duration;

/// What takes both rows of every workload's certificate away, whatever is left of them.
const DELETIONS: &[&str] = &[
    "DELETE FROM certificates; DELETE FROM records",
    "DELETE FROM records",
    "DELETE FROM certificates; DELETE FROM records; DELETE FROM identities",
    "UPDATE records SET serial_number = randomblob(16)",
    "UPDATE records SET facts = facts || ' '",
];

fn tamper(environment: &Environment, sql: &str) {
    let path = environment.folder.path().join("countersign.db");
    let database = Connection::open(path).unwrap();
    database.execute_batch(&format!("PRAGMA foreign_keys = OFF; {sql}")).unwrap();
}

fn revocation(target: &str) -> RevokeRequest {
    RevokeRequest {
        target: target.to_owned(),
        reason: "key-compromise".to_owned(),
        dry_run: false,
        named_override: None,
    }
}

async fn look(environment: &Environment) {
    while environment.authority.operations.look_for_lost_rows().await.unwrap() {}
}

async fn lost(environment: &Environment) -> Vec<String> {
    look(environment).await;
    let lost = environment.authority.operations.lost_rows().await.unwrap();
    lost.into_iter().flat_map(|lost| lost.newest).map(|row| row.spiffe_id.to_string()).collect()
}

async fn issued_and_lost(sql: &str) -> (Environment, Caller, IssuedCertificate) {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    while environment.authority.issuing.account().await.unwrap() {}
    tamper(&environment, sql);
    (environment, operator, issued)
}

#[tokio::test]
async fn what_the_log_holds_is_revoked_by_its_number_though_its_rows_are_gone() {
    for (sql, restarts) in DELETIONS.iter().zip([false, true].into_iter().cycle()) {
        let (mut environment, operator, issued) = issued_and_lost(sql).await;
        if restarts {
            environment.restart().await;
        }
        let target = issued.serial_number.to_string();
        let trial = RevokeRequest { dry_run: true, ..revocation(&target) };
        let tried = environment.authority.operations.revoke(&operator, &trial).await.unwrap();
        assert_eq!((tried.certificates, tried.log_index), (1, None), "{sql}");
        let done =
            environment.authority.operations.revoke(&operator, &revocation(&target)).await.unwrap();
        assert!(done.log_index.is_some(), "{sql}");
        assert_eq!((&done.spiffe_id, done.certificates), (&issued.spiffe_id, 1), "{sql}");
        let again =
            environment.authority.operations.revoke(&operator, &revocation(&target)).await.unwrap();
        let earlier = again.earlier.map(|earlier| earlier.log_index);
        assert_eq!((again.log_index, earlier), (None, done.log_index), "{sql}");
        let caller = environment.caller(&issued);
        environment.renew(&caller, &csr()).await.expect_err("it is revoked");
        let listed = environment.authority.crls.crl(&environment.authority.view.issuer_id()).await;
        let serial = issued.serial_number.as_octets();
        assert!(listed.unwrap().windows(serial.len()).any(|it| it == serial), "{sql}");
    }
}

#[tokio::test]
async fn a_number_that_nobody_has_and_one_that_ended_days_ago_are_still_unknown() {
    let (environment, operator, issued) = issued_and_lost(DELETIONS[0]).await;
    let unknown =
        environment.authority.operations.revoke(&operator, &revocation("0123456789")).await;
    assert!(matches!(unknown, Err(Error::NotFound(_))), "{unknown:?}");
    // Another workload learns nothing of it, as of any other.
    let other = environment.issue(&operator, "/prod/quick").await;
    let other = environment.caller(&other);
    let shown = environment.authority.operations.certificate(&other, &issued.serial_number).await;
    assert!(matches!(shown, Err(Error::NotFound(_))), "{shown:?}");
    let revoke = revocation(&issued.serial_number.to_string());
    let refused = environment.authority.operations.revoke(&other, &revoke).await;
    assert!(matches!(refused, Err(Error::NotFound(_))), "{refused:?}");
    environment.clock.advance(Duration::hours(30));
    let operator = environment.operator().await;
    let target = issued.serial_number.to_string();
    let ended = environment.authority.operations.revoke(&operator, &revocation(&target)).await;
    assert!(matches!(ended, Err(Error::NothingToRevoke(_))), "{ended:?}");
}

#[tokio::test]
async fn it_is_shown_and_listed_as_the_log_says_and_says_that_its_rows_are_lost() {
    for sql in [DELETIONS[0], DELETIONS[1], "DELETE FROM certificates"] {
        let (environment, operator, issued) = issued_and_lost(sql).await;
        let authority = &environment.authority;
        let shown =
            authority.operations.certificate(&operator, &issued.serial_number).await.unwrap();
        assert_eq!((shown.row_lost, shown.state), (true, CertificateState::Valid), "{sql}");
        assert_eq!((&shown.spiffe_id, &*shown.profile), (&issued.spiffe_id, "default"), "{sql}");
        assert_eq!((&*shown.attestor, shown.log_index), ("token", issued.log_index), "{sql}");
        assert_eq!(shown.not_after.unix_timestamp(), issued.not_after.unix_timestamp(), "{sql}");
        assert!(shown.principal.contains("/prod/reports") && !shown.policies.is_empty(), "{sql}");
        look(&environment).await;
        // One a page: no page ends at, or between, those that are lost.
        for id in [None, Some("spiffe://pay.example/prod/*"), Some(issued.spiffe_id.as_str())] {
            let mut filter = CertificateFilter {
                id: id.map(str::to_owned),
                limit: Some(1),
                ..CertificateFilter::default()
            };
            let mut listed = Vec::new();
            loop {
                let page = authority.operations.certificates(&operator, &filter).await.unwrap();
                listed.extend(page.items);
                filter.after = page.next;
                if filter.after.is_none() {
                    break;
                }
            }
            let places: Vec<u64> = listed.iter().map(|it| it.log_index).collect();
            assert!(places.is_sorted_by(|one, next| one > next), "{sql}: {places:?}");
            let found = listed.iter().find(|it| it.serial_number == issued.serial_number).unwrap();
            assert!(found.row_lost, "{sql}");
            assert!(listed.iter().all(|it| it.row_lost), "{sql}: {listed:?}");
        }
        let revoke = revocation(&issued.serial_number.to_string());
        authority.operations.revoke(&operator, &revoke).await.unwrap();
        let shown =
            authority.operations.certificate(&operator, &issued.serial_number).await.unwrap();
        assert_eq!(shown.state, CertificateState::Revoked, "{sql}");
        assert!(shown.revoked.is_some(), "{sql}");
    }
}

#[tokio::test]
async fn whoever_holds_it_is_told_to_attest_again_and_can() {
    for sql in DELETIONS {
        let (environment, operator, issued) = issued_and_lost(sql).await;
        let caller = environment.caller(&issued);
        let window = environment.authority.operations.renewal(&caller, &issued.serial_number).await;
        let renewed = environment.renew(&caller, &csr()).await;
        for refused in [window.map(drop), renewed.map(drop)] {
            let Err(Error::Attestation { why, next_step }) = refused else {
                panic!("{sql}: {refused:?}");
            };
            assert!(why.contains("stands in the CA's log") && why.contains("renewed"), "{why}");
            assert!(next_step.contains("token create spiffe://pay.example/prod/reports"));
        }
        let again = environment.issue(&operator, "/prod/reports").await;
        environment.renew(&environment.caller(&again), &csr()).await.unwrap();
    }
}

#[tokio::test]
async fn lost_rows_are_noticed_at_the_start_and_later_and_it_is_noticed_when_they_are_back() {
    for sql in [DELETIONS[0], DELETIONS[1], DELETIONS[4], "DELETE FROM certificates"] {
        let mut environment = Environment::start().await;
        let operator = environment.operator().await;
        environment.issue(&operator, "/prod/reports").await;
        while environment.authority.issuing.account().await.unwrap() {}
        assert_eq!(lost(&environment).await, Vec::<String>::new());
        tamper(&environment, "VACUUM");
        let (database, copy) = (
            environment.folder.path().join("countersign.db"),
            environment.folder.path().join("copy"),
        );
        Connection::open(&database).unwrap().execute("VACUUM INTO ?1", [copy.to_str()]).unwrap();
        tamper(&environment, sql);
        let noticed = lost(&environment).await;
        assert!(noticed.contains(&id("/prod/reports").to_string()), "{sql}: {noticed:?}");
        environment.restart().await;
        let noticed = lost(&environment).await;
        assert_eq!(noticed.len(), 2, "{sql}: the operator's, too: {noticed:?}");
        let status = environment.authority.status(&operator).await.unwrap();
        assert_eq!(status.lost_rows.unwrap().certificates, 2);
        let back = format!(
            "ATTACH '{}' AS copy;
             INSERT OR REPLACE INTO records SELECT * FROM copy.records;
             INSERT OR REPLACE INTO certificates SELECT * FROM copy.certificates;",
            copy.display()
        );
        tamper(&environment, &back);
        assert_eq!(lost(&environment).await, Vec::<String>::new(), "{sql}");
        assert!(environment.authority.status(&operator).await.unwrap().lost_rows.is_none());
    }
}

#[tokio::test]
async fn what_ended_a_day_ago_is_not_lost() {
    let (environment, ..) = issued_and_lost(DELETIONS[0]).await;
    assert_eq!(lost(&environment).await.len(), 2);
    environment.clock.advance(Duration::hours(60));
    assert_eq!(lost(&environment).await, Vec::<String>::new());
}

async fn next_step(environment: &Environment, operator: &Caller, of: KeyPurpose) -> NextStep {
    let keys = environment.authority.rotation.keys(operator).await.unwrap().items;
    let mut prepared =
        keys.into_iter().filter(|key| key.purpose == of && key.state == KeyState::Prepared);
    prepared.next().unwrap().next.unwrap()
}

/// P4: whoever's rows are gone still needs what was before.
#[tokio::test]
async fn a_rotation_waits_for_what_the_log_alone_knows() {
    for sql in [DELETIONS[0], DELETIONS[1], "DELETE FROM certificates"] {
        let (environment, operator, issued) = issued_and_lost(sql).await;
        environment.clock.advance(Duration::minutes(3));
        let purpose = KeyPurpose::Countersignature;
        let offline = environment.offline_keys();
        take(&environment, &offline, &operator, purpose, KeyStep::Prepare).await.unwrap();
        let next = next_step(&environment, &operator, purpose).await;
        assert_eq!(next.waiting, 1, "{sql}");
        assert_eq!(next.certificates[0].serial_number, issued.serial_number, "{sql}");
        let revoke = revocation(&issued.serial_number.to_string());
        environment.authority.operations.revoke(&operator, &revoke).await.unwrap();
        assert_eq!(next_step(&environment, &operator, purpose).await.waiting, 0, "{sql}");
    }
}

#[tokio::test]
async fn what_could_not_be_told_is_told_the_next_time_and_once() {
    let (environment, ..) = issued_and_lost("DELETE FROM records").await;
    // The newest cannot be named while its entry is another.
    let changed = "UPDATE entries SET bytes = CAST(bytes || x'00' AS BLOB)
                   WHERE place = (SELECT max(place) FROM entries WHERE substr(bytes, 1, 1) = x'00')";
    let back = "UPDATE entries SET bytes = CAST(substr(bytes, 1, length(bytes) - 1) AS BLOB)
                WHERE place = (SELECT max(place) FROM entries WHERE substr(bytes, 1, 1) = x'00')";
    let (told, _listening) = Told::listen();
    tamper(&environment, changed);
    environment.authority.operations.look_for_lost_rows().await.unwrap_err();
    assert!(told.with("certificates=").is_empty());
    tamper(&environment, back);
    for _ in 0..2 {
        look(&environment).await;
        assert_eq!(told.with("certificates=").len(), 1);
    }
}

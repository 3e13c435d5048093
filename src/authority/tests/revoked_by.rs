//! Who revoked a certificate or denied an identity, when and why: as the log says, whatever its rows do.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use api::{CertificateFilter, CertificateState, DenyRequest, RevokeRequest};
use authority::{Caller, Error};
use rusqlite::Connection;
use support::{Environment, NOW, id};

async fn revoke(environment: &Environment, caller: &Caller, target: &str, reason: &str) -> u64 {
    let (target, reason) = (target.to_owned(), reason.to_owned());
    let request = RevokeRequest { target, reason, dry_run: false, named_override: None };
    let done = environment.authority.operations.revoke(caller, &request).await.unwrap();
    done.log_index.unwrap()
}

async fn deny(environment: &Environment, caller: &Caller, path: &str) -> api::Denial {
    let reason = "privilege-withdrawn".to_owned();
    let request = DenyRequest { spiffe_id: id(path), reason, named_override: None };
    environment.authority.operations.deny(caller, &request).await.unwrap()
}

async fn shown(
    environment: &Environment,
    issued: &api::IssuedCertificate,
) -> Result<api::CertificateRecord, Error> {
    let auditor = environment.operator().await;
    environment.authority.operations.certificate(&auditor, &issued.serial_number).await
}

fn tamper(environment: &Environment, sql: &str) {
    let path = environment.folder.path().join("countersign.db");
    let sql = format!("PRAGMA foreign_keys = OFF; {sql}");
    Connection::open(path).unwrap().execute_batch(&sql).unwrap();
}

#[tokio::test]
async fn a_record_says_who_revoked_it_when_and_why() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let issued = environment.issue(&admin, "/prod/reports").await;
    let good = environment.issue(&admin, "/prod/reports").await;
    assert_eq!(shown(&environment, &issued).await.unwrap().revoked, None);
    environment.clock.advance(time::Duration::MINUTE);
    let serial = issued.serial_number.to_string();
    let log_index = revoke(&environment, &admin, &serial, "key-compromise").await;

    let record = shown(&environment, &issued).await.unwrap();
    assert_eq!(record.state, CertificateState::Revoked);
    let revoked = record.revoked.unwrap();
    assert_eq!(revoked.by, id("/countersign/operator/admin").as_str());
    assert_eq!((revoked.kind.as_str(), revoked.reason.as_str()), ("revoke", "key-compromise"));
    assert_eq!((revoked.target, revoked.log_index), (serial, log_index));
    assert_eq!(revoked.at, NOW + time::Duration::MINUTE);
    assert_eq!(record.denial, None);
    assert_eq!(shown(&environment, &good).await.unwrap().revoked, None);
}

/// A workload that finds its key stolen revokes it by itself: that, too, is told.
#[tokio::test]
async fn a_workload_that_revokes_its_own_is_named() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let issued = environment.issue(&admin, "/prod/reports").await;
    let own = environment.caller(&issued);
    revoke(&environment, &own, &issued.serial_number.to_string(), "superseded").await;
    let revoked = shown(&environment, &issued).await.unwrap().revoked.unwrap();
    assert_eq!(revoked.by, id("/prod/reports").as_str());
}

#[tokio::test]
async fn of_several_the_first_that_concerned_a_certificate_is_told() {
    let mut environment = Environment::start().await;
    let admin = environment.operator().await;
    let second = environment.enrol("second").await;
    let one = environment.issue(&admin, "/prod/reports").await;
    let other = environment.issue(&admin, "/prod/reports").await;
    let serial = one.serial_number.to_string();
    let first = revoke(&environment, &second, &serial, "superseded").await;
    let all = revoke(&environment, &admin, id("/prod/reports").as_str(), "unspecified").await;
    let later = environment.issue(&admin, "/prod/reports").await;
    let denial = deny(&environment, &second, "/prod/reports").await;
    for restarted in [false, true] {
        for (issued, place) in [(&one, first), (&other, all), (&later, denial.id.parse().unwrap())]
        {
            let revoked = shown(&environment, issued).await.unwrap().revoked.unwrap();
            assert_eq!(revoked.log_index, place, "restarted: {restarted}");
        }
        environment.restart().await;
    }
}

/// A day is what clocks may differ by.
#[tokio::test]
async fn what_befalls_an_identity_takes_nothing_from_what_had_ended() {
    let mut environment = Environment::start().await;
    let admin = environment.operator().await;
    let ended = environment.issue(&admin, "/prod/reports").await;
    let life = ended.not_after - NOW;
    environment.clock.advance(life + time::Duration::hours(23));
    let admin = environment.operator().await;
    environment.issue(&admin, "/prod/reports").await;
    let recent = revoke(&environment, &admin, id("/prod/reports").as_str(), "superseded").await;
    let record = shown(&environment, &ended).await.unwrap();
    assert_eq!(record.revoked.unwrap().log_index, recent);

    let other = environment.issue(&admin, "/prod/monolith").await;
    environment.clock.advance(life + time::Duration::hours(25));
    let admin = environment.operator().await;
    let current = environment.issue(&admin, "/prod/monolith").await;
    deny(&environment, &admin, "/prod/monolith").await;
    for _ in 0..2 {
        let record = shown(&environment, &other).await.unwrap();
        assert_eq!((record.state, record.revoked), (CertificateState::Expired, None));
        assert!(record.denial.is_some(), "who is denied is denied");
        let record = shown(&environment, &current).await.unwrap();
        assert_eq!(record.state, CertificateState::Revoked);
        environment.restart().await;
    }
}

#[tokio::test]
async fn a_denial_says_who_and_why_until_it_is_lifted() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let second = environment.enrol("second").await;
    let issued = environment.issue(&admin, "/prod/reports").await;
    deny(&environment, &admin, "/prod/reports").await;
    let anew = deny(&environment, &second, "/prod/reports").await;
    assert_eq!(anew.by, id("/countersign/operator/second").as_str());
    let denials = environment.authority.operations.denials(&admin).await.unwrap();
    assert_eq!(denials.items, std::slice::from_ref(&anew));

    let record = shown(&environment, &issued).await.unwrap();
    assert_eq!(record.denial, Some(anew.clone()));
    let revoked = record.revoked.unwrap();
    assert_eq!((revoked.kind.as_str(), revoked.target), ("deny", id("/prod/reports").to_string()));
    assert_eq!(revoked.by, id("/countersign/operator/admin").as_str(), "the first denial did it");

    environment.authority.operations.allow(&admin, &anew.id).await.unwrap();
    let record = shown(&environment, &issued).await.unwrap();
    assert_eq!((record.denial, record.revoked.is_some()), (None, true));
    assert_eq!(environment.authority.operations.denials(&admin).await.unwrap().items, []);
}

#[tokio::test]
async fn lists_leave_it_to_the_single_record() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    environment.issue(&admin, "/prod/reports").await;
    deny(&environment, &admin, "/prod/reports").await;
    let filter = CertificateFilter { revoked: true, ..CertificateFilter::default() };
    let page = environment.authority.operations.certificates(&admin, &filter).await.unwrap();
    let told = page.items.iter().map(|record| (&record.revoked, &record.denial));
    assert_eq!(told.collect::<Vec<_>>(), [(&None, &None)]);
}

#[tokio::test]
async fn whoever_changes_rows_changes_nothing_of_what_is_told() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let issued = environment.issue(&admin, "/prod/reports").await;
    let other = environment.issue(&admin, "/prod/reports").await;
    let serial = issued.serial_number.to_string();
    revoke(&environment, &admin, &serial, "key-compromise").await;
    let denial = deny(&environment, &admin, "/prod/monolith").await;
    let before = shown(&environment, &issued).await.unwrap();
    tamper(
        &environment,
        "UPDATE revocations SET reason = 'superseded', at = 0, log_index = log_index + 9999",
    );
    assert_eq!(shown(&environment, &issued).await.unwrap(), before);
    tamper(&environment, "DELETE FROM revocations");
    assert_eq!(shown(&environment, &issued).await.unwrap(), before);
    assert_eq!(environment.authority.operations.denials(&admin).await.unwrap().items, [denial]);
    revoke(&environment, &admin, id("/prod/reports").as_str(), "superseded").await;
    tamper(&environment, "UPDATE records SET not_after = 1 + issued_at / 1000 - 10 * 86400");
    let other = shown(&environment, &other).await.unwrap();
    let is_told = other.revoked.is_some() && other.row_lost;
    assert!(is_told && other.not_after > other.issued_at, "by the log: {other:?}");
}

#[tokio::test]
async fn an_event_that_was_changed_is_not_told_as_the_log_s() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let issued = environment.issue(&admin, "/prod/reports").await;
    revoke(&environment, &admin, &issued.serial_number.to_string(), "key-compromise").await;
    tamper(
        &environment,
        "UPDATE entries SET bytes = CAST(replace(bytes, 'operator/admin', 'operator/other') AS BLOB)
         WHERE instr(bytes, '\"type\":\"revoke\"')",
    );
    let error = shown(&environment, &issued).await.unwrap_err();
    assert!(error.to_string().contains("not the one that was logged"), "{error}");
}

/// Place and identity decide what revokes it.
#[tokio::test]
async fn a_record_that_was_moved_or_renamed_is_not_shown_as_good() {
    for sql in [
        "UPDATE records SET leaf_index = leaf_index + 1000",
        "UPDATE identities SET spiffe_id = replace(spiffe_id, 'reports', 'others')",
    ] {
        let environment = Environment::start().await;
        let admin = environment.operator().await;
        let issued = environment.issue(&admin, "/prod/reports").await;
        revoke(&environment, &admin, id("/prod/reports").as_str(), "key-compromise").await;
        tamper(&environment, sql);
        let shown = shown(&environment, &issued).await.unwrap();
        assert!(shown.row_lost && shown.revoked.is_some(), "{sql}: {shown:?}");
        assert_eq!(shown.spiffe_id, id("/prod/reports"), "{sql}");
    }
}

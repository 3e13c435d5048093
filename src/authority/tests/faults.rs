//! For each write that a certificate needs: "failed, nothing persisted" and "failed, but persisted
//! anyway". The caller repeats its request, and has exactly one certificate in the end.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use authority::Error;
use authority::store::faulty::{Fault, FaultyStore, ReadOf};
use authority::store::{RecordQuery, Store, StoreError};
use support::told::Told;
use support::{Environment, csr};

/// Which write to fail, counted from when the fault is armed; 0 fails none.
struct Armed(Arc<AtomicUsize>);

impl Armed {
    fn at(&self, write: usize) {
        self.0.store(write, Ordering::SeqCst);
    }
}

async fn environment(fault: Fault) -> (Environment, Armed) {
    let countdown = Arc::new(AtomicUsize::new(0));
    let armed = Armed(Arc::clone(&countdown));
    let environment = Environment::start_with(
        |keys, _| keys,
        |store| {
            Arc::new(FaultyStore::new(store, move |_| {
                let left = countdown.load(Ordering::SeqCst);
                if left == 0 {
                    return None;
                }
                countdown.store(left - 1, Ordering::SeqCst);
                (left == 1).then_some(fault)
            }))
        },
    )
    .await;
    (environment, armed)
}

#[tokio::test]
async fn each_failed_write_of_an_issue_is_repaired_by_the_same_request() {
    for fault in [Fault::NotPersisted, Fault::Persisted] {
        let (mut environment, armed) = environment(fault).await;
        let operator = environment.operator().await;
        for write in [1, 2] {
            let token = environment.token(&operator, "/prod/reports").await;
            let request = csr();
            armed.at(write);
            let error = environment.issue_with(&token, &request).await.unwrap_err();
            assert!(matches!(error, Error::Store(StoreError::Unavailable(_))), "{error}");
            let issued = environment.issue_with(&token, &request).await.unwrap();
            environment.verified(&issued);
            assert_eq!(environment.issue_with(&token, &request).await.unwrap(), issued);
        }
        assert_consistent(&environment).await;
        environment.restart().await;
        assert_consistent(&environment).await;
    }
}

#[tokio::test]
async fn each_failed_write_of_a_renewal_is_repaired_by_the_same_request() {
    for fault in [Fault::NotPersisted, Fault::Persisted] {
        let (environment, armed) = environment(fault).await;
        let operator = environment.operator().await;
        let mut current = environment.issue(&operator, "/prod/reports").await;
        for write in [1, 2] {
            let caller = environment.caller(&current);
            let request = csr();
            armed.at(write);
            environment.renew(&caller, &request).await.unwrap_err();
            current = environment.renew(&caller, &request).await.unwrap();
        }
        assert_consistent(&environment).await;
    }
}

#[tokio::test]
async fn a_failed_revocation_is_in_force_or_not_at_all() {
    for fault in [Fault::NotPersisted, Fault::Persisted] {
        let (environment, armed) = environment(fault).await;
        let operator = environment.operator().await;
        let issued = environment.issue(&operator, "/prod/reports").await;
        let request = api::RevokeRequest {
            target: issued.serial_number.to_string(),
            reason: "key-compromise".to_owned(),
            dry_run: false,
            named_override: None,
        };
        armed.at(1);
        environment.authority.operations.revoke(&operator, &request).await.unwrap_err();
        environment.authority.view.refresh().await.unwrap();
        let caller = environment.caller(&issued);
        let renewed = environment.renew(&caller, &csr()).await;
        assert_eq!(renewed.is_ok(), fault == Fault::NotPersisted);
        environment.authority.operations.revoke(&operator, &request).await.unwrap();
        assert!(environment.renew(&caller, &csr()).await.is_err());
    }
}

#[tokio::test]
async fn a_request_left_half_done_is_not_completed_after_a_minute_and_told_as_lost() {
    let (environment, armed) = environment(Fault::NotPersisted).await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/reports").await;
    let request = csr();
    armed.at(2);
    environment.issue_with(&token, &request).await.unwrap_err();
    environment.clock.advance(time::Duration::seconds(61));
    let error = environment.issue_with(&token, &request).await.unwrap_err();
    assert!(matches!(error, Error::Abandoned), "{error}");
    environment.clock.advance(time::Duration::seconds(60));
    let (told, _listening) = Told::listen();
    while environment.authority.issuing.account().await.unwrap() {}
    // Whoever holds it renews it in the sixth tenth of its day; it is revoked only once nobody has.
    let told = told.with("accounted for as lost");
    let next = "renews it by 2026-11-22T02:23:36Z: wait for that, and where `countersign list --id \
                spiffe://pay.example/prod/reports` shows no newer one then: countersign revoke ";
    assert!(told.len() == 1 && told[0].contains(next), "{told:?}");
    let size = environment.store.head().await.unwrap().edge.size();
    let last = environment.store.entries(size - 2, 1).await.unwrap().remove(0);
    // What failed may have been stored: that it was not signed nobody knows.
    assert!(String::from_utf8(last).unwrap().contains("issue.lost"));
    let all = api::CertificateFilter::default();
    let page = environment.authority.operations.certificates(&operator, &all).await.unwrap();
    let newest = &page.items[0];
    assert_eq!((newest.state, newest.row_lost), (api::CertificateState::Valid, true));
    // Nobody is told to put back a copy of the database for it.
    while environment.authority.operations.look_for_lost_rows().await.unwrap() {}
    assert!(environment.authority.operations.lost_rows().await.unwrap().is_none());
}

/// Whatever is written, and whoever wrote it: the CA does its work no more, until it does.
#[tokio::test]
async fn a_checkpoint_that_cannot_be_written_counts_as_any_commit() {
    for fault in [Fault::NotPersisted, Fault::Persisted] {
        let fails = Arc::new(AtomicBool::new(false));
        let is_failing = Arc::clone(&fails);
        let environment = Environment::start_with(
            |keys, _| keys,
            |store| {
                Arc::new(FaultyStore::new(store, move |group| {
                    let is_checkpoint = group.is_empty();
                    (is_checkpoint && is_failing.load(Ordering::SeqCst)).then_some(fault)
                }))
            },
        )
        .await;
        let (authority, operator) = (&environment.authority, environment.operator().await);
        environment.issue(&operator, "/prod/reports").await;
        authority.writer.require_commits().unwrap();
        fails.store(true, Ordering::SeqCst);
        authority.writer.sign_checkpoint().await.unwrap_err();
        authority.writer.require_commits().unwrap_err();
        // That nobody has it locked says nothing of what else is the matter.
        authority.writer.probe_lock().await.unwrap();
        authority.writer.require_commits().unwrap_err();
        fails.store(false, Ordering::SeqCst);
        environment.issue(&operator, "/prod/reports").await;
        authority.writer.require_commits().unwrap();
    }
}

/// No serial number stands twice, and every certificate is its leaf's.
async fn assert_consistent(environment: &Environment) {
    let query = RecordQuery { limit: 1000, ..RecordQuery::default() };
    let records = environment.store.records(query).await.unwrap();
    let serials: HashSet<_> = records.iter().map(|record| record.serial_number).collect();
    assert_eq!(serials.len(), records.len());
    for record in records {
        let Some(certificate) = record.certificate else { continue };
        let entry = environment.store.entries(record.leaf_index, 1).await.unwrap().remove(0);
        let issuer = environment.keys.first(api::KeyPurpose::Issuer).unwrap();
        let issuer = issuer.public_key();
        let (leaf, _) = tlog::CertificateLeaf::from_certificate(&certificate, issuer).unwrap();
        assert_eq!(leaf.encode().unwrap(), entry);
    }
}

#[tokio::test]
async fn a_store_that_does_not_answer_for_a_moment_has_nothing_read_again() {
    let (fails, from_the_start) = (Arc::new(AtomicBool::new(false)), Arc::<AtomicUsize>::default());
    let (is_failing, count) = (Arc::clone(&fails), Arc::clone(&from_the_start));
    let wrap = |store| -> Arc<dyn Store> {
        Arc::new(FaultyStore::new(store, |_| None).on_read(move |read| {
            let ReadOf::Entries(from) = read else { return None };
            count.fetch_add(usize::from(from == 0), Ordering::SeqCst);
            let failed = || StoreError::Unavailable("made to fail".to_owned());
            is_failing.load(Ordering::SeqCst).then(failed)
        }))
    };
    let environment = Environment::start_with(|keys, _| keys, wrap).await;
    let operator = environment.operator().await;
    environment.issue(&operator, "/prod/reports").await;
    environment.authority.issuing.account().await.unwrap();
    assert!(from_the_start.swap(0, Ordering::SeqCst) > 0, "it is read once");
    environment.issue(&operator, "/prod/reports").await;
    fails.store(true, Ordering::SeqCst);
    environment.authority.issuing.account().await.unwrap_err();
    fails.store(false, Ordering::SeqCst);
    environment.authority.issuing.account().await.unwrap();
    assert_eq!(from_the_start.load(Ordering::SeqCst), 0);
}

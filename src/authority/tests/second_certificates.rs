//! A second certificate of one leaf never leaves, whatever becomes of the first one's row.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use api::{IssuedCertificate, Secret};
use authority::Error;
use authority::store::Store;
use authority::store::faulty::{Fault, FaultyStore};
use rusqlite::Connection;
use support::{Environment, csr};

/// What a writer to the database does to the rows of certificates.
const CHANGES: [&str; 3] = [
    "UPDATE certificates SET der = (SELECT der FROM certificates LIMIT 1)",
    "UPDATE certificates SET der = x'00'",
    "DELETE FROM certificates",
];

fn write(environment: &Environment, sql: &str) {
    let path = environment.folder.path().join("countersign.db");
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

/// A CA of which the write that this counts down to fails so.
async fn failing(fault: Fault) -> (Environment, Arc<AtomicUsize>) {
    let countdown = Arc::<AtomicUsize>::default();
    let left = Arc::clone(&countdown);
    let wrap = |store| -> Arc<dyn Store> {
        Arc::new(FaultyStore::new(store, move |_| {
            let before = left.load(Ordering::SeqCst);
            left.store(before.saturating_sub(1), Ordering::SeqCst);
            (before == 1).then_some(fault)
        }))
    };
    (Environment::start_with(|keys, _| keys, wrap).await, countdown)
}

async fn require_refused(environment: &Environment, token: &Secret, request: &str) {
    match environment.issue_with(token, request).await {
        Err(Error::Attestation { next_step, .. }) => {
            assert!(next_step.contains("a new request"), "{next_step}");
        }
        other => panic!("{other:?}"),
    }
}

/// Who is refused is served by another token.
async fn require_another(environment: &Environment, first: &IssuedCertificate) {
    let operator = environment.operator().await;
    let another = environment.issue(&operator, "/prod/quick").await;
    environment.verified(&another);
    assert_ne!(first.serial_number, another.serial_number);
}

#[tokio::test]
async fn what_left_is_given_again_or_nothing_is() {
    for (change, restarts) in CHANGES.iter().flat_map(|it| [(it, false), (it, true)]) {
        let mut environment = Environment::start().await;
        let operator = environment.operator().await;
        let token = environment.token(&operator, "/prod/quick").await;
        let request = csr();
        let first = environment.issue_with(&token, &request).await.unwrap();
        let copy = environment.folder.path().join("copy");
        write(&environment, &format!("VACUUM INTO '{}'", copy.display()));
        if restarts {
            while environment.authority.issuing.account().await.unwrap() {}
        }
        write(&environment, change);
        if restarts {
            environment.restart().await;
        }
        for _ in 0..2 {
            require_refused(&environment, &token, &request).await;
        }
        require_another(&environment, &first).await;
        let back = format!(
            "ATTACH '{}' AS copy;
             INSERT OR REPLACE INTO certificates SELECT * FROM copy.certificates",
            copy.display()
        );
        write(&environment, &back);
        let again = environment.issue_with(&token, &request).await.unwrap();
        assert_eq!(again.chain, first.chain, "{change}");
    }
}

/// Of the commit the CA does not know; of what it gave of it, it does.
#[tokio::test]
async fn what_was_stored_unbeknown_to_the_authority_leaves_once() {
    let (environment, countdown) = failing(Fault::Persisted).await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/quick").await;
    let request = csr();
    countdown.store(2, Ordering::SeqCst);
    environment.issue_with(&token, &request).await.unwrap_err();
    let first = environment.issue_with(&token, &request).await.unwrap();
    write(&environment, "DELETE FROM certificates");
    require_refused(&environment, &token, &request).await;
    require_another(&environment, &first).await;
}

#[tokio::test]
async fn what_was_not_stored_before_a_restart_is_signed_after_it() {
    let (mut environment, countdown) = failing(Fault::NotPersisted).await;
    let operator = environment.operator().await;
    let held = environment.caller(&environment.issue(&operator, "/prod/reports").await);
    let token = environment.token(&operator, "/prod/quick").await;
    let (request, renewal) = (csr(), csr());
    countdown.store(2, Ordering::SeqCst);
    environment.issue_with(&token, &request).await.unwrap_err();
    countdown.store(2, Ordering::SeqCst);
    environment.renew(&held, &renewal).await.unwrap_err();
    environment.restart().await;
    let issued = environment.issue_with(&token, &request).await.unwrap();
    environment.verified(&issued);
    assert_eq!(environment.issue_with(&token, &request).await.unwrap(), issued);
    let renewed = environment.renew(&held, &renewal).await.unwrap();
    environment.verified(&renewed);
    assert_eq!(environment.renew(&held, &renewal).await.unwrap(), renewed);
}

/// What is signed and perhaps stored is what is stored: no second signature is made of it.
#[tokio::test]
async fn what_may_have_been_stored_is_stored_again() {
    let (environment, countdown) = failing(Fault::Persisted).await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/quick").await;
    let request = csr();
    countdown.store(2, Ordering::SeqCst);
    environment.issue_with(&token, &request).await.unwrap_err();
    let path = environment.folder.path().join("countersign.db");
    let newest = "SELECT der FROM certificates ORDER BY leaf_index DESC LIMIT 1";
    let stored: Vec<u8> =
        Connection::open(path).unwrap().query_row(newest, [], |row| row.get(0)).unwrap();
    write(&environment, "DELETE FROM certificates");
    let issued = environment.issue_with(&token, &request).await.unwrap();
    assert!(issued.chain.starts_with(&identity::pem("CERTIFICATE", &stored)));
    environment.verified(&issued);
}

/// Whoever is shown a certificate has it as whoever asked for it does.
#[tokio::test]
async fn what_was_shown_to_an_operator_has_left() {
    let (mut environment, countdown) = failing(Fault::Persisted).await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/quick").await;
    let request = csr();
    countdown.store(2, Ordering::SeqCst);
    environment.issue_with(&token, &request).await.unwrap_err();
    // Another process knows nothing of what this one has signed.
    environment.restart().await;
    let all = api::CertificateFilter::default();
    let newest = environment
        .authority
        .operations
        .certificates(&operator, &all)
        .await
        .unwrap()
        .items
        .remove(0);
    let shown = environment
        .authority
        .operations
        .certificate(&operator, &newest.serial_number)
        .await
        .unwrap();
    environment.verify(&shown.chain.unwrap()).unwrap();
    write(&environment, "DELETE FROM certificates");
    require_refused(&environment, &token, &request).await;
}

#[tokio::test]
async fn what_is_not_the_leafs_certificate_is_shown_to_nobody() {
    for change in CHANGES {
        let environment = Environment::start().await;
        let operator = environment.operator().await;
        let issued = environment.issue(&operator, "/prod/quick").await;
        let show = async || {
            let shown = environment
                .authority
                .operations
                .certificate(&operator, &issued.serial_number)
                .await;
            shown.unwrap()
        };
        assert_eq!(show().await.chain.as_ref(), Some(&issued.chain));
        while environment.authority.issuing.account().await.unwrap() {}
        write(&environment, change);
        let shown = show().await;
        assert_eq!((shown.chain, shown.row_lost), (None, true), "{change}");
        assert_eq!(shown.state, api::CertificateState::Valid, "{change}");
    }
}

#[tokio::test]
async fn the_same_request_many_times_at_once_is_given_one_certificate() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/quick").await;
    let request = csr();
    let asked = (0..20).map(|_| environment.issue_with(&token, &request));
    let given = futures_util::future::join_all(asked).await;
    let first = given[0].as_ref().unwrap();
    assert!(given.iter().all(|it| it.as_ref().unwrap() == first));
}

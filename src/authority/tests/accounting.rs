//! Each leaf of the log is accounted for, as what is known of it, whatever its rows say.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use api::{CertificateFilter, CertificateState, IssuedCertificate, KeyPurpose};
use authority::sequencer::{Effect, Member};
use authority::signer::SignerError;
use authority::signer::spy::SpySigner;
use authority::store::Store;
use authority::store::faulty::{Fault, FaultyStore, ReadOf};
use authority::{Caller, Event};
use rusqlite::Connection;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use support::{Environment, csr};
use time::Duration;
use tlog::Hash;

fn tamper(environment: &Environment, sql: &str) {
    let path = environment.folder.path().join("countersign.db");
    let database = Connection::open(path).unwrap();
    database.execute_batch(&format!("PRAGMA foreign_keys = OFF; {sql}")).unwrap();
}

async fn account(environment: &Environment) {
    while environment.authority.issuing.account().await.unwrap() {}
}

/// What the log says of a leaf: kinds of events, and the hash of its certificate.
async fn accounts(environment: &Environment, index: u64) -> (Vec<String>, Option<String>) {
    let entries = environment.store.entries(0, 10_000).await.unwrap();
    let (mut kinds, mut hash) = (Vec::new(), None);
    for event in entries.iter().filter_map(|entry| Event::parse(entry).ok()) {
        let lines = event.detail["certificates"].as_array().into_iter().flatten();
        let named = lines.into_iter().find(|line| line["index"] == index);
        hash = named.map(|line| line["sha256"].as_str().unwrap().to_owned()).or(hash);
        if named.is_some() || event.kind.starts_with("issue.") && event.detail["index"] == index {
            kinds.push(event.kind);
        }
    }
    (kinds, hash)
}

fn hash(issued: &IssuedCertificate) -> String {
    let leaf = CertificateDer::pem_slice_iter(issued.chain.as_bytes()).next().unwrap().unwrap();
    format!("{:?}", Hash::of(&leaf))
}

/// What a writer to the database can do to the rows of the first of two certificates.
const CHANGES: &[&str] = &[
    "UPDATE certificates SET der = CAST(der || x'00' AS BLOB) WHERE leaf_index = ?",
    "UPDATE certificates SET der = x'' WHERE leaf_index = ?",
    "UPDATE certificates SET der = 'text' WHERE leaf_index = ?",
    // The last bytes are the signature's.
    "UPDATE certificates SET der = CAST(substr(der, 1, length(der) - 4) || x'45564946' AS BLOB)
     WHERE leaf_index = ?",
    "UPDATE certificates SET der = (SELECT der FROM certificates ORDER BY leaf_index DESC LIMIT 1)
     WHERE leaf_index = ?",
    "DELETE FROM certificates WHERE leaf_index = ?",
    "DELETE FROM records WHERE leaf_index = ?",
    "UPDATE records SET seal = x'' WHERE leaf_index = ?",
    "UPDATE records SET issuer_key_hash = zeroblob(32) WHERE leaf_index = ?",
    "UPDATE records SET issued_at = 4000000000000 WHERE leaf_index = ?",
    "UPDATE records SET facts = x'00' WHERE leaf_index = ?",
    "UPDATE records SET leaf_index = leaf_index + 1000 WHERE leaf_index = ?",
];

async fn changed(change: &str) -> (Environment, Caller, [IssuedCertificate; 2]) {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let first = environment.issue(&operator, "/prod/reports").await;
    let second = environment.issue(&operator, "/prod/monolith").await;
    tamper(&environment, &change.replace('?', &first.log_index.to_string()));
    (environment, operator, [first, second])
}

#[tokio::test]
async fn the_log_names_the_certificate_that_left_whatever_its_row_says() {
    for change in CHANGES {
        let (environment, _, issued) = changed(change).await;
        account(&environment).await;
        for issued in &issued {
            let (kinds, named) = accounts(&environment, issued.log_index).await;
            assert_eq!((kinds, named), (vec!["issued".to_owned()], Some(hash(issued))), "{change}");
        }
    }
}

#[tokio::test]
async fn what_no_row_tells_after_a_restart_is_lost_and_holds_nobody_up() {
    for change in CHANGES {
        let (mut environment, operator, [first, second]) = changed(change).await;
        environment.restart().await;
        account(&environment).await;
        assert_eq!(accounts(&environment, first.log_index).await, (vec![], None), "{change}");
        environment.clock.advance(Duration::minutes(3));
        account(&environment).await;
        let said = accounts(&environment, first.log_index).await;
        assert_eq!(said, (vec!["issue.lost".to_owned()], None), "{change}");
        let said = accounts(&environment, second.log_index).await;
        assert_eq!(said, (vec!["issued".to_owned()], Some(hash(&second))), "{change}");
        let swept = environment.store.head().await.unwrap().swept;
        assert!(swept > second.log_index, "{change}");
        // It counts as issued: shown as such, and revoked by its number.
        let shown =
            environment.authority.operations.certificate(&operator, &first.serial_number).await;
        assert_eq!(shown.unwrap().state, CertificateState::Valid, "{change}");
        environment.revoke(&operator, &first.serial_number.to_string()).await;
    }
}

#[tokio::test]
async fn what_is_whole_after_a_restart_is_issued() {
    let mut environment = Environment::start().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    environment.restart().await;
    account(&environment).await;
    let said = accounts(&environment, issued.log_index).await;
    assert_eq!(said, (vec!["issued".to_owned()], Some(hash(&issued))));
}

/// A CA whose issuer's key refuses while it is told to, and whose sweep fails while it is told to.
async fn refusing() -> (Environment, Arc<AtomicBool>, Arc<AtomicBool>) {
    let (refuses, fails) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let (is_refusing, is_failing) = (Arc::clone(&refuses), Arc::clone(&fails));
    let environment = Environment::start_with(
        |keys, _| {
            keys.wrap(KeyPurpose::Issuer, |inner| {
                Arc::new(SpySigner::new(inner, move |_| match is_refusing.load(Ordering::SeqCst) {
                    true => Err(SignerError::Refused("told to".to_owned())),
                    false => Ok(()),
                }))
            })
        },
        |store| {
            Arc::new(FaultyStore::new(store, move |group: &[Member]| {
                let is_sweep = |member: &Member| matches!(member, Member::Act(act) if matches!(act.effect, Effect::Sweep { .. }));
                let fails = is_failing.load(Ordering::SeqCst) && group.iter().any(is_sweep);
                fails.then_some(Fault::NotPersisted)
            }))
        },
    )
    .await;
    (environment, refuses, fails)
}

#[tokio::test]
async fn what_is_known_to_be_unsigned_is_abandoned_and_stays_so() {
    let (mut environment, refuses, fails) = refusing().await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/reports").await;
    refuses.store(true, Ordering::SeqCst);
    environment.issue_with(&token, &csr()).await.unwrap_err();
    refuses.store(false, Ordering::SeqCst);
    let index = environment.store.head().await.unwrap().edge.size() - 1;
    account(&environment).await;
    assert_eq!(accounts(&environment, index).await, (vec![], None), "it may be signed still");
    environment.clock.advance(Duration::minutes(3));
    // A crash between what the log says of it and the cursor behind it.
    fails.store(true, Ordering::SeqCst);
    environment.authority.issuing.account().await.unwrap_err();
    fails.store(false, Ordering::SeqCst);
    environment.restart().await;
    account(&environment).await;
    assert_eq!(accounts(&environment, index).await, (vec!["issue.abandoned".to_owned()], None));
    assert!(environment.store.head().await.unwrap().swept > index);
    while environment.authority.operations.look_for_lost_rows().await.unwrap() {}
    assert!(environment.authority.operations.lost_rows().await.unwrap().is_none());
    let all = CertificateFilter::default();
    let newest = environment
        .authority
        .operations
        .certificates(&operator, &all)
        .await
        .unwrap()
        .items
        .remove(0);
    assert_eq!((newest.row_lost, newest.state), (false, CertificateState::NeverIssued));
}

#[tokio::test]
async fn what_nobody_knows_of_is_lost_once_and_no_row_of_it() {
    let (mut environment, refuses, fails) = refusing().await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/reports").await;
    refuses.store(true, Ordering::SeqCst);
    environment.issue_with(&token, &csr()).await.unwrap_err();
    refuses.store(false, Ordering::SeqCst);
    let index = environment.store.head().await.unwrap().edge.size() - 1;
    // Another process does not know that it was not signed.
    environment.restart().await;
    environment.clock.advance(Duration::minutes(3));
    // A crash between what the log says of it and the cursor behind it.
    fails.store(true, Ordering::SeqCst);
    environment.authority.issuing.account().await.unwrap_err();
    fails.store(false, Ordering::SeqCst);
    for _ in 0..2 {
        environment.restart().await;
        account(&environment).await;
        assert_eq!(accounts(&environment, index).await, (vec!["issue.lost".to_owned()], None));
        assert!(environment.store.head().await.unwrap().swept > index);
        // There may never have been more than its record: no copy of the database is to be put back.
        while environment.authority.operations.look_for_lost_rows().await.unwrap() {}
        assert!(environment.authority.operations.lost_rows().await.unwrap().is_none());
    }
    let all = CertificateFilter::default();
    let newest = environment
        .authority
        .operations
        .certificates(&operator, &all)
        .await
        .unwrap()
        .items
        .remove(0);
    assert_eq!((newest.row_lost, newest.state), (true, CertificateState::Valid));
    tamper(&environment, &format!("DELETE FROM records WHERE leaf_index = {index}"));
    while environment.authority.operations.look_for_lost_rows().await.unwrap() {}
    let lost = environment.authority.operations.lost_rows().await.unwrap().unwrap();
    assert_eq!(lost.certificates, 1, "its record was there");
}

/// Somebody else wrote it.
#[tokio::test]
async fn what_has_something_stored_for_it_is_not_called_abandoned() {
    let (environment, refuses, _) = refusing().await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/reports").await;
    refuses.store(true, Ordering::SeqCst);
    environment.issue_with(&token, &csr()).await.unwrap_err();
    refuses.store(false, Ordering::SeqCst);
    let index = environment.store.head().await.unwrap().edge.size() - 1;
    tamper(&environment, &format!("INSERT INTO certificates VALUES ({index}, x'00')"));
    environment.clock.advance(Duration::minutes(3));
    account(&environment).await;
    assert_eq!(accounts(&environment, index).await, (vec!["issue.lost".to_owned()], None));
    assert!(environment.store.head().await.unwrap().swept > index);
}

/// The disk stalls at the commit that stores a certificate. It goes on once somebody has looked for that, and
/// looks at the log to say that it is not there.
#[tokio::test]
async fn what_a_slow_commit_has_stored_is_issued_though_it_was_looked_for_before() {
    let (reaches, reached) = channel();
    let (goes_on, waits) = channel();
    let waits = Mutex::new(waits);
    let (stalls, is_looked_for) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let (is_stalling, looked_for) = (Arc::clone(&stalls), Arc::clone(&is_looked_for));
    let folder = Arc::<Mutex<Option<PathBuf>>>::default();
    let of_reads = Arc::clone(&folder);
    let wrap = |store| -> Arc<dyn Store> {
        let plan = move |group: &[Member]| {
            let stores = group.iter().any(|member| matches!(member, Member::Complete(_)));
            (stores && is_stalling.swap(false, Ordering::SeqCst)).then_some(Fault::Hangs)
        };
        let hangs = move || {
            reaches.send(()).unwrap();
            waits.lock().unwrap().recv_timeout(BOUND).unwrap();
        };
        let ends_after_the_look = move |read| {
            match read {
                // What is read from here on is not stored yet.
                ReadOf::Records if of_reads.lock().unwrap().is_some() => {
                    looked_for.store(true, Ordering::SeqCst);
                }
                ReadOf::Head if looked_for.swap(false, Ordering::SeqCst) => {
                    let folder = of_reads.lock().unwrap().take().unwrap();
                    goes_on.send(()).unwrap();
                    until_stored(&folder);
                }
                _ => {}
            }
            None
        };
        Arc::new(FaultyStore::new(store, plan).hanging(hangs).on_read(ends_after_the_look))
    };
    let environment = Environment::start_with(|keys, _| keys, wrap).await;
    let operator = environment.operator().await;
    account(&environment).await;
    let token = environment.token(&operator, "/prod/reports").await;
    let authority = Arc::clone(&environment.authority);
    stalls.store(true, Ordering::SeqCst);
    let issues = tokio::spawn(async move {
        let attestation = api::Attestation::Token { token };
        let body = api::IssueRequest { attestation, ..support::request(&csr()) };
        authority.issuing.issue(&support::anonymous(), &body, None).await
    });
    while reached.try_recv().is_err() {
        assert!(!issues.is_finished());
        tokio::task::yield_now().await;
    }
    environment.clock.advance(Duration::minutes(3));
    *folder.lock().unwrap() = Some(environment.folder.path().to_owned());
    account(&environment).await;
    let issued = issues.await.unwrap().unwrap();
    account(&environment).await;
    let said = accounts(&environment, issued.log_index).await;
    assert_eq!(said, (vec!["issued".to_owned()], Some(hash(&issued))));
    let shown = environment
        .authority
        .operations
        .certificate(&operator, &issued.serial_number)
        .await
        .unwrap();
    assert_eq!(shown.state, CertificateState::Valid);
}

/// All that is logged has its certificate.
fn until_stored(folder: &Path) {
    let database = Connection::open(folder.join("countersign.db")).unwrap();
    let sql = "SELECT (SELECT count(*) FROM records) = (SELECT count(*) FROM certificates)";
    let begun = Instant::now();
    while !database.query_row(sql, [], |row| row.get::<_, bool>(0)).unwrap() {
        assert!(begun.elapsed() < BOUND, "it does not come to that");
        std::thread::yield_now();
    }
}

const BOUND: std::time::Duration = std::time::Duration::from_secs(60);

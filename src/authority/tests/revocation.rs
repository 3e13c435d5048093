//! Revoke, deny and allow; CRLs; and stores that lie about them.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use api::{CertificateState, DenyRequest, RevokeRequest};
use authority::clock::Clock;
use authority::sequencer::{ActMember, Effect, Member, RevocationTarget};
use authority::store::Store;
use authority::store::faulty::{FaultyStore, ReadOf};
use authority::{Act, Caller, Error, EventDraft};
use identity::SpiffeId;
use support::{Environment, csr, id, open};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

async fn revoke(environment: &Environment, operator: &Caller, target: &str) -> api::Revocation {
    let request = RevokeRequest {
        target: target.to_owned(),
        reason: "key-compromise".to_owned(),
        dry_run: false,
        named_override: None,
    };
    environment.authority.operations.revoke(operator, &request).await.unwrap()
}

async fn deny(environment: &Environment, operator: &Caller, spiffe_id: SpiffeId) -> api::Denial {
    let request =
        DenyRequest { spiffe_id, reason: "key-compromise".to_owned(), named_override: None };
    environment.authority.operations.deny(operator, &request).await.unwrap()
}

async fn crl_serials(environment: &Environment, operator: &Caller) -> Vec<String> {
    let issuer = environment.authority.status(operator).await.unwrap().issuers[0].id.clone();
    let der = environment.authority.crls.crl(&issuer).await.unwrap();
    let (_, crl) = CertificateRevocationList::from_der(&der).unwrap();
    crl.iter_revoked_certificates()
        .map(|revoked| {
            identity::SerialNumber::from_octets(revoked.raw_serial()).unwrap().to_string()
        })
        .collect()
}

#[tokio::test]
async fn a_revoked_certificate_renews_no_more_and_attests_afresh() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    let caller = environment.caller(&issued);
    let done = revoke(&environment, &operator, &issued.serial_number.to_string()).await;
    assert_eq!(done.certificates, 1);

    let error = environment.renew(&caller, &csr()).await.unwrap_err();
    assert!(error.to_string().contains("revoked"), "{error}");
    environment.issue(&operator, "/prod/reports").await;
    assert_eq!(crl_serials(&environment, &operator).await, [issued.serial_number.to_string()]);
    let record = environment
        .authority
        .operations
        .certificate(&operator, &issued.serial_number)
        .await
        .unwrap();
    assert_eq!(record.state, CertificateState::Revoked);
}

#[tokio::test]
async fn a_revoked_identity_loses_what_it_has_and_nothing_later() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let old = environment.issue(&operator, "/prod/reports").await;
    let done = revoke(&environment, &operator, id("/prod/reports").as_str()).await;
    assert_eq!(done.certificates, 1);
    let new = environment.issue(&operator, "/prod/reports").await;
    assert!(environment.renew(&environment.caller(&old), &csr()).await.is_err());
    environment.renew(&environment.caller(&new), &csr()).await.unwrap();
    assert_eq!(crl_serials(&environment, &operator).await, [old.serial_number.to_string()]);
}

#[tokio::test]
async fn a_denied_identity_stays_out_until_it_is_allowed() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    let token = environment.token(&operator, "/prod/reports").await;
    let denial = deny(&environment, &operator, id("/prod/reports")).await;
    let listed = environment.authority.operations.denials(&operator).await.unwrap().items;
    assert_eq!(listed, std::slice::from_ref(&denial));

    assert!(environment.renew(&environment.caller(&issued), &csr()).await.is_err());
    let error = environment.issue_with(&token, &csr()).await.unwrap_err();
    assert!(matches!(error, Error::Revoked(identity::Refusal::Denied)), "{error}");

    environment.authority.operations.allow(&operator, &denial.id).await.unwrap();
    environment.issue_with(&token, &csr()).await.unwrap_err();
    environment.issue(&operator, "/prod/reports").await;
    assert!(environment.renew(&environment.caller(&issued), &csr()).await.is_err());
}

#[tokio::test]
async fn revoking_twice_or_trying_changes_nothing() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    let target = issued.serial_number.to_string();
    let dry = RevokeRequest {
        target: target.clone(),
        reason: "superseded".to_owned(),
        dry_run: true,
        named_override: None,
    };
    let tried = environment.authority.operations.revoke(&operator, &dry).await.unwrap();
    assert_eq!((tried.certificates, tried.log_index), (1, None));
    assert!(revoke(&environment, &operator, &target).await.log_index.is_some());
    let size = environment.store.head().await.unwrap().edge.size();
    assert_eq!(revoke(&environment, &operator, &target).await.log_index, None);
    assert_eq!(environment.store.head().await.unwrap().edge.size(), size);
}

#[tokio::test]
async fn a_crl_forgets_what_expired_a_day_ago_and_nothing_else() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    revoke(&environment, &operator, &issued.serial_number.to_string()).await;
    environment.clock.advance(time::Duration::hours(20));
    assert_eq!(crl_serials(&environment, &environment.operator().await).await.len(), 1);
    environment.clock.advance(time::Duration::hours(20));
    assert_eq!(crl_serials(&environment, &environment.operator().await).await.len(), 1);
    environment.clock.advance(time::Duration::hours(20));
    assert_eq!(crl_serials(&environment, &environment.operator().await).await.len(), 0);
}

#[tokio::test]
async fn a_crl_lists_a_certificate_once_with_what_revoked_it_first() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    let since = environment.clock.now().unix_timestamp();
    revoke(&environment, &operator, &issued.serial_number.to_string()).await;
    environment.clock.advance(time::Duration::hours(1));
    let later = environment.issue(&operator, "/prod/reports").await;
    deny(&environment, &operator, id("/prod/reports")).await;
    environment.clock.advance(time::Duration::hours(1));
    deny(&environment, &operator, id("/prod/reports")).await;
    let issuer = environment.authority.status(&operator).await.unwrap().issuers[0].id.clone();
    let der = environment.authority.crls.crl(&issuer).await.unwrap();
    let (_, crl) = CertificateRevocationList::from_der(&der).unwrap();
    let listed: Vec<_> = crl
        .iter_revoked_certificates()
        .map(|revoked| {
            let serial = identity::SerialNumber::from_octets(revoked.raw_serial()).unwrap();
            (serial, revoked.revocation_date.timestamp())
        })
        .collect();
    let first = (issued.serial_number, since);
    assert_eq!(listed, [first, (later.serial_number, since + 3600)]);
}

/// Revokes certificates by their numbers, as if each had been issued: the CRL is made of such events.
async fn revoke_numbers(environment: &Environment, count: u64) {
    let by = Act { actor: "test", request_id: "test" };
    let act = |number: u64| {
        let serial =
            identity::SerialNumber::from_octets(&[&[0x5a; 12][..], &number.to_be_bytes()].concat());
        let serial = serial.unwrap();
        let detail =
            serde_json::json!({ "reason": "superseded", "serial_number": serial.to_string() });
        let event = EventDraft::new("revoke", &by, "spiffe://pay.example/prod/reports", &detail);
        let target = RevocationTarget::Serial(serial);
        let effect = Effect::Revoke { target, reason: "superseded".to_owned() };
        Member::Act(Box::new(ActMember { event, effect, allowed_under: None }))
    };
    let numbers: Vec<u64> = (0..count).collect();
    for group in numbers.chunks(10_000) {
        let group = group.iter().map(|number| act(*number)).collect();
        let now = environment.clock.unix_milliseconds();
        environment.store.commit(group, now).await.unwrap();
    }
    environment.authority.view.refresh().await.unwrap();
}

/// On one thread, as a small machine has it. The only thread for what takes long is held from the
/// moment on at which a CRL is about to be made, so that it cannot be ready; others are served still.
#[test]
fn others_are_served_while_a_crl_is_made() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let gate = Arc::new(Gate::default());
        let (asked, logged) = (Arc::clone(&gate), Arc::clone(&gate));
        let heads = Arc::new(Heads::default());
        let (counted, committed) = (Arc::clone(&heads), Arc::clone(&heads));
        let wrap = |store| -> Arc<dyn Store> {
            let store = FaultyStore::new(store, move |_| {
                logged.has_committed();
                committed.has_committed();
                None
            });
            Arc::new(store.on_read(move |read| {
                if read == ReadOf::Head && counted.read() {
                    asked.hold();
                }
                None
            }))
        };
        let environment = Environment::start_with(|keys, _| keys, wrap).await;
        let operator = environment.operator().await;
        let issued = environment.issue(&operator, "/prod/reports").await;
        revoke(&environment, &operator, &issued.serial_number.to_string()).await;
        heads.count();
        made_crl(&environment, &operator).await;
        revoke_numbers(&environment, 2_000).await;
        heads.count_again();
        let serving = async {
            gate.is_held.notified().await;
            environment.authority.view.trust_state(&api::TrustQuery::default()).unwrap();
            // Whoever made it on this thread has by now asked for it to be logged.
            for _ in 0..100_000 {
                tokio::task::yield_now().await;
            }
            gate.open();
        };
        let (der, ()) = tokio::join!(made_crl(&environment, &operator), serving);
        let (_, crl) = CertificateRevocationList::from_der(&der).unwrap();
        assert_eq!(crl.iter_revoked_certificates().count(), 2_001);
        assert!(!gate.was_passed.load(Ordering::SeqCst), "it was made on the thread of the others");
    });
}

#[tokio::test]
async fn that_a_crl_is_too_long_is_found_once_until_more_is_revoked_or_some_may_have_expired() {
    let gathered = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&gathered);
    let wrap = |store| -> Arc<dyn Store> {
        Arc::new(FaultyStore::new(store, |_| None).on_read(move |read| {
            count.fetch_add(usize::from(read == ReadOf::Records), Ordering::SeqCst);
            None
        }))
    };
    let environment = Environment::start_with(|keys, _| keys, wrap).await;
    let authority = &environment.authority;
    authority.crls.limit_crls(2);
    revoke_numbers(&environment, 3).await;
    let refused = async |asked: usize| {
        gathered.store(0, Ordering::SeqCst);
        for _ in 0..asked {
            let refused = authority.crls.crl(&authority.view.issuer_id()).await.unwrap_err();
            assert!(matches!(refused, Error::CrlTooLong { most: 2 }), "{refused}");
        }
        gathered.load(Ordering::SeqCst)
    };
    assert_eq!(refused(5).await, 1);
    revoke_numbers(&environment, 1).await;
    assert_eq!(refused(5).await, 1, "more is revoked");
    environment.clock.advance(time::Duration::minutes(6));
    assert_eq!(refused(5).await, 1, "some may have expired");
    environment.clock.advance(time::Duration::minutes(6));
    authority.crls.limit_crls(4);
    authority.crls.crl(&authority.view.issuer_id()).await.unwrap();
}

/// What the making of a CRL waits for.
/// Heads that are read until a list is made: the last one gives it its number.
#[derive(Default)]
struct Heads {
    read: AtomicUsize,
    /// How many it took the first time.
    each: AtomicUsize,
}

impl Heads {
    fn count(&self) {
        self.each.store(0, Ordering::SeqCst);
        self.count_again();
    }

    fn count_again(&self) {
        self.read.store(0, Ordering::SeqCst);
    }

    /// Whether it is the last of the second time.
    fn read(&self) -> bool {
        self.read.fetch_add(1, Ordering::SeqCst) + 1 == self.each.load(Ordering::SeqCst)
    }

    fn has_committed(&self) {
        let _ = self.each.compare_exchange(
            0,
            self.read.load(Ordering::SeqCst),
            Ordering::SeqCst,
            Ordering::SeqCst,
        );
    }
}

#[derive(Default)]
struct Gate {
    is_held: Arc<tokio::sync::Notify>,
    opens: Mutex<Option<mpsc::Sender<()>>>,
    was_passed: AtomicBool,
}

impl Gate {
    fn hold(&self) {
        let (opens, is_opened) = mpsc::channel::<()>();
        *self.opens.lock().unwrap() = Some(opens);
        // Behind the read that was just begun, before whatever comes next.
        let is_held = Arc::clone(&self.is_held);
        drop(tokio::task::spawn_blocking(move || {
            is_held.notify_one();
            is_opened.recv()
        }));
    }

    fn open(&self) {
        drop(self.opens.lock().unwrap().take());
    }

    /// A write that comes while it is closed was made by somebody who did not wait.
    fn has_committed(&self) {
        if self.opens.lock().unwrap().is_some() {
            self.was_passed.store(true, Ordering::SeqCst);
        }
    }
}

async fn made_crl(environment: &Environment, operator: &Caller) -> bytes::Bytes {
    let issuer = environment.authority.status(operator).await.unwrap().issuers[0].id.clone();
    environment.authority.crls.crl(&issuer).await.unwrap()
}

#[tokio::test]
async fn the_revocation_state_survives_a_restart() {
    let mut environment = Environment::start().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    revoke(&environment, &operator, &issued.serial_number.to_string()).await;
    deny(&environment, &operator, id("/prod/monolith")).await;
    environment.restart().await;
    assert!(environment.renew(&environment.caller(&issued), &csr()).await.is_err());
    assert_eq!(environment.authority.operations.denials(&operator).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn tables_that_contradict_the_log_are_refused() {
    for tampering in [
        "DELETE FROM revocations",
        "DELETE FROM entries WHERE folds = 1",
        "UPDATE entries SET bytes = x'7b7d' WHERE place = (1 << 40) + 3",
        "UPDATE operators SET name = 'eve'",
        "UPDATE policies SET files = replace(files, '/prod/reports', '/prod/eve')",
        "UPDATE policies SET log_index = 0",
        "UPDATE head SET size = size - 1",
        "UPDATE checkpoints SET size = 1000000",
    ] {
        let environment = Environment::start().await;
        let operator = environment.operator().await;
        let issued = environment.issue(&operator, "/prod/reports").await;
        revoke(&environment, &operator, &issued.serial_number.to_string()).await;
        environment.authority.writer.sign_checkpoint().await.unwrap();
        let database = environment.folder.path().join("countersign.db");
        let second = rusqlite::Connection::open(&database).unwrap();
        second.execute_batch(tampering).unwrap();
        let Environment { folder, clock, store, keys, pin, authority } = environment;
        drop((authority, store));
        let reopened = support::reopen(folder.path(), &keys).await;
        let refused = match reopened {
            Err(error) => Err(error.to_string()),
            Ok(store) => open(folder.path(), &store, &keys, &clock, pin)
                .await
                .map(drop)
                .map_err(|e| e.to_string()),
        };
        assert!(refused.is_err(), "{tampering} goes unnoticed");
    }
}

//! Each certificate renews once, as the log says: no row of the database gives a second renewal, and
//! none takes the first away.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use api::{Attestation, IssueRequest, IssuedCertificate, RevokeRequest};
use authority::sequencer::Member;
use authority::store::Store;
use authority::store::faulty::FaultyStore;
use authority::{Authority, Caller, Error, Event};
use rusqlite::Connection;
use support::{Environment, csr, open};

fn tamper(environment: &Environment, sql: &str) {
    let path = environment.folder.path().join("countersign.db");
    let database = Connection::open(path).unwrap();
    database.execute_batch(&format!("PRAGMA foreign_keys = OFF; {sql}")).unwrap();
}

async fn events(environment: &Environment, kind: &str) -> Vec<Event> {
    let entries = environment.store.entries(0, 10_000).await.unwrap();
    let events = entries.iter().filter_map(|entry| Event::parse(entry).ok());
    events.filter(|event| event.kind == kind).collect()
}

/// A workload's certificate, and what it was renewed by.
async fn renewed() -> (Environment, Caller, IssuedCertificate) {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let held = environment.caller(&environment.issue(&operator, "/prod/reports").await);
    let renewed = environment.renew(&held, &csr()).await.unwrap();
    (environment, held, renewed)
}

fn shown(environment: &Environment, issued: &IssuedCertificate) -> Caller {
    let caller = environment.caller(issued);
    environment.authority.view.note_shown(caller.svid.as_ref().unwrap());
    caller
}

#[tokio::test]
async fn the_event_of_a_renewal_names_what_it_renews_and_that_of_an_issue_nothing() {
    let (environment, held, _) = renewed().await;
    let events = [events(&environment, "renew").await, events(&environment, "issue").await];
    let [renewals, issues] = events;
    let serial_number = held.svid.as_ref().unwrap().serial_number().to_string();
    assert_eq!(renewals[0].detail["renews"], serial_number);
    assert!(issues.iter().all(|event| event.detail.get("renews").is_none()));
}

/// What a writer to the database can do to the rows of what a certificate was renewed by.
const CHANGES: &[&str] = &[
    "DELETE FROM records WHERE leaf_index = (SELECT max(leaf_index) FROM records)",
    "DELETE FROM certificates",
    "DELETE FROM identities",
    "UPDATE records SET request_hash = zeroblob(32)",
    "UPDATE records SET serial_number = randomblob(16)
     WHERE leaf_index = (SELECT max(leaf_index) FROM records)",
    "UPDATE records SET facts = x'00' WHERE leaf_index = (SELECT max(leaf_index) FROM records)",
];

#[tokio::test]
async fn no_row_gives_a_second_renewal_with_another_key_and_none_breaks_the_line() {
    for (change, restarts) in CHANGES.iter().flat_map(|it| [(it, false), (it, true)]) {
        let (mut environment, held, renewed) = renewed().await;
        let newest = shown(&environment, &renewed);
        while environment.authority.issuing.account().await.unwrap() {}
        let copy = environment.folder.path().join("copy");
        let copied = format!("VACUUM INTO '{}'", copy.display());
        tamper(&environment, &copied);
        tamper(&environment, change);
        if restarts {
            environment.restart().await;
        }
        let is_broken = *change == "DELETE FROM certificates";
        let refused = environment.renew(&held, &csr()).await.unwrap_err();
        assert!(matches!(refused, Error::Attestation { .. }), "{change}: {refused}");
        let conflicts = events(&environment, "renew.conflict").await.len();
        // Where its record says that it is another request, that is so, and is told.
        assert_eq!(conflicts, usize::from(is_broken), "{change}: {refused}");
        let back = format!(
            "ATTACH '{}' AS copy;
             INSERT OR REPLACE INTO identities SELECT * FROM copy.identities;
             INSERT OR REPLACE INTO records SELECT * FROM copy.records;",
            copy.display()
        );
        tamper(&environment, &back);
        assert_eq!(environment.renew(&newest, &csr()).await.is_ok(), !is_broken, "{change}");
    }
}

#[tokio::test]
async fn that_a_certificate_was_shown_is_logged_once_and_outlives_a_restart() {
    let (mut environment, held, renewed) = renewed().await;
    shown(&environment, &renewed);
    for restarts in [false, true] {
        if restarts {
            environment.restart().await;
        }
        shown(&environment, &renewed);
        while environment.authority.issuing.account().await.unwrap() {}
        let told = events(&environment, "seen").await.into_iter();
        let told: Vec<u64> = told
            .flat_map(|event| event.detail["indexes"].as_array().unwrap().clone())
            .map(|index| index.as_u64().unwrap())
            .collect();
        let held = held.svid.as_ref().unwrap().leaf_index().unwrap();
        assert_eq!(told, [held, renewed.log_index], "{restarts}");
    }
    environment.restart().await;
    let refused = environment.renew(&held, &csr()).await.unwrap_err().to_string();
    assert!(refused.contains("renewed already"), "{refused}");
}

#[tokio::test]
async fn what_was_never_shown_is_replaced_once_before_and_after_a_restart() {
    for restarts in [false, true] {
        let (mut environment, held, _) = renewed().await;
        if restarts {
            environment.restart().await;
        }
        let replaced = environment.renew(&held, &csr()).await.unwrap();
        if restarts {
            environment.restart().await;
        }
        environment.renew(&held, &csr()).await.unwrap_err();
        environment.renew(&environment.caller(&replaced), &csr()).await.expect_err("it is broken");
    }
}

/// Whoever revokes what was made of a renewal means whoever made it: they get no other in its place.
#[tokio::test]
async fn what_was_revoked_before_it_was_shown_is_not_replaced() {
    for restarts in [false, true] {
        let (mut environment, held, renewed) = renewed().await;
        let operator = environment.operator().await;
        environment.revoke(&operator, &renewed.serial_number.to_string()).await;
        if restarts {
            environment.restart().await;
        }
        let refused = environment.renew(&held, &csr()).await.unwrap_err().to_string();
        assert!(refused.contains("renewed by is revoked"), "{restarts}: {refused}");
        assert!(
            events(&environment, "renew.conflict").await.is_empty(),
            "nobody has its key twice"
        );
    }
}

#[tokio::test]
async fn that_a_renewal_was_revoked_is_known_for_longer_than_it_lived() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let lives = |seconds, attestation| IssueRequest {
        ttl: Some(api::Ttl(Duration::from_secs(seconds))),
        attestation,
        ..support::request(&csr())
    };
    let token = environment.token(&operator, "/prod/reports").await;
    let body = lives(6 * 24 * 3600, Attestation::Token { token });
    let held =
        environment.authority.issuing.issue(&support::anonymous(), &body, None).await.unwrap();
    let held = environment.caller(&held);
    let body = lives(3600, Attestation::Svid {});
    let renewed = environment.authority.issuing.issue(&held, &body, None).await.unwrap();
    environment.revoke(&operator, &renewed.serial_number.to_string()).await;
    environment.clock.advance(time::Duration::days(2));
    environment.operator().await;
    environment.authority.view.forget_expired().await.unwrap();
    let refused = environment.renew(&held, &csr()).await.unwrap_err().to_string();
    assert!(refused.contains("renewed by is revoked"), "{refused}");
}

#[tokio::test]
async fn of_many_renewals_at_once_each_finds_what_the_one_before_did() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let held = environment.caller(&environment.issue(&operator, "/prod/reports").await);
    let asks = |csr: String| {
        let (authority, held) = (Arc::clone(&environment.authority), held.clone());
        async move { authority.issuing.issue(&held, &support::request(&csr), None).await }
    };
    let same = csr();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..32 {
        tasks.spawn(asks(same.clone()));
    }
    let issued: Vec<_> = tasks.join_all().await.into_iter().map(Result::unwrap).collect();
    assert!(issued.iter().all(|one| one.serial_number == issued[0].serial_number));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        tasks.spawn(asks(csr()));
    }
    let issued = tasks.join_all().await.into_iter().filter(Result::is_ok).count();
    assert_eq!((issued, events(&environment, "renew.conflict").await.len()), (1, 1));
}

/// Two processes on one database. What the first has decided it commits when it is told to.
struct Nodes {
    first: Environment,
    second: Arc<Authority>,
    armed: Arc<AtomicBool>,
    reached: Receiver<()>,
    go: Sender<()>,
    /// Of certificates, by the first, since it was held up.
    commits: Arc<AtomicUsize>,
}

impl Nodes {
    async fn start() -> Self {
        let (reaches, reached) = channel();
        let (go, told) = channel();
        let armed = Arc::new(AtomicBool::new(false));
        let commits = Arc::new(AtomicUsize::new(0));
        let (is_armed, counts) = (Arc::clone(&armed), Arc::clone(&commits));
        let shared = Arc::new(OnceLock::new());
        let inner = Arc::clone(&shared);
        let wrap = |store: Arc<dyn Store>| -> Arc<dyn Store> {
            inner.set(Arc::clone(&store)).unwrap();
            Arc::new(FaultyStore::new(store, move |group: &[Member]| {
                let is_renewal = |member: &Member| matches!(member, Member::Certificate(_));
                if !group.iter().any(is_renewal) {
                    return None;
                }
                counts.fetch_add(1, Ordering::SeqCst);
                if is_armed.swap(false, Ordering::SeqCst) {
                    counts.store(1, Ordering::SeqCst);
                    reaches.send(()).unwrap();
                    told.recv_timeout(PATIENCE).unwrap();
                }
                None
            }))
        };
        let first = Environment::start_with(|keys, _| keys, wrap).await;
        let store = shared.get().unwrap();
        let second =
            open(first.folder.path(), store, &first.keys, &first.clock, first.pin).await.unwrap();
        Self { first, second, armed, reached, go, commits }
    }

    async fn issue(&self) -> Caller {
        let operator = self.first.operator().await;
        self.first.caller(&self.first.issue(&operator, "/prod/reports").await)
    }

    /// The first renews; once that is decided, and before it is committed, this is done.
    async fn renew_while(
        &self,
        caller: &Caller,
        csr: &str,
        meanwhile: impl Future<Output = ()>,
    ) -> Result<IssuedCertificate, Error> {
        self.armed.store(true, Ordering::SeqCst);
        let (authority, caller) = (Arc::clone(&self.first.authority), caller.clone());
        let body = support::request(csr);
        let renewal =
            tokio::spawn(async move { authority.issuing.issue(&caller, &body, None).await });
        let begun = Instant::now();
        while self.reached.try_recv().is_err() {
            assert!(begun.elapsed() < PATIENCE, "nothing is committed");
            tokio::task::yield_now().await;
        }
        meanwhile.await;
        self.go.send(()).unwrap();
        renewal.await.unwrap()
    }

    async fn renew_by_second(&self, caller: &Caller, csr: &str) -> IssuedCertificate {
        self.second.issuing.issue(caller, &support::request(csr), None).await.unwrap()
    }
}

fn renewed_already(renewed: Result<IssuedCertificate, Error>) -> bool {
    renewed.unwrap_err().to_string().contains("renewed already")
}

#[tokio::test]
async fn one_request_to_two_processes_makes_one_certificate() {
    let nodes = Nodes::start().await;
    let (held, request) = (nodes.issue().await, csr());
    let by_second = Mutex::new(None);
    let meanwhile = async {
        *by_second.lock().unwrap() = Some(nodes.renew_by_second(&held, &request).await);
    };
    let by_first = nodes.renew_while(&held, &request, meanwhile).await.unwrap();
    assert_eq!(Some(by_first), by_second.into_inner().unwrap());
}

#[tokio::test]
async fn what_two_processes_replace_is_replaced_by_one() {
    let nodes = Nodes::start().await;
    let held = nodes.issue().await;
    nodes.first.renew(&held, &csr()).await.unwrap();
    let meanwhile = async { drop(nodes.renew_by_second(&held, &csr()).await) };
    assert!(renewed_already(nodes.renew_while(&held, &csr(), meanwhile).await));
    assert_eq!(events(&nodes.first, "renew.conflict").await.len(), 1);
}

#[tokio::test]
async fn what_was_shown_to_another_process_is_not_replaced() {
    let nodes = Nodes::start().await;
    let held = nodes.issue().await;
    let renewed = nodes.first.renew(&held, &csr()).await.unwrap();
    let meanwhile = async {
        let shown = nodes.first.caller(&renewed);
        nodes.second.view.note_shown(shown.svid.as_ref().unwrap());
        nodes.second.issuing.tell_shown().await.unwrap();
    };
    assert!(renewed_already(nodes.renew_while(&held, &csr(), meanwhile).await));
}

#[tokio::test]
async fn what_another_process_has_revoked_is_not_replaced() {
    let nodes = Nodes::start().await;
    let held = nodes.issue().await;
    let operator = nodes.first.operator().await;
    let renewed = nodes.first.renew(&held, &csr()).await.unwrap();
    let request = RevokeRequest {
        target: renewed.serial_number.to_string(),
        reason: "key-compromise".to_owned(),
        named_override: None,
        dry_run: false,
    };
    let meanwhile =
        async { drop(nodes.second.operations.revoke(&operator, &request).await.unwrap()) };
    let refused = nodes.renew_while(&held, &csr(), meanwhile).await.unwrap_err().to_string();
    assert!(refused.contains("renewed by is revoked"), "{refused}");
}

#[tokio::test]
async fn what_another_process_has_replaced_renews_no_more() {
    let nodes = Nodes::start().await;
    let held = nodes.issue().await;
    let renewed = nodes.first.caller(&nodes.first.renew(&held, &csr()).await.unwrap());
    let meanwhile = async { drop(nodes.renew_by_second(&held, &csr()).await) };
    assert!(renewed_already(nodes.renew_while(&renewed, &csr(), meanwhile).await));
}

/// No renewal waits for those of other lines, whoever logs them.
#[tokio::test]
async fn what_is_logged_of_other_lines_changes_nothing() {
    let nodes = Nodes::start().await;
    let (held, other) = (nodes.issue().await, nodes.issue().await);
    let lost = nodes.first.renew(&held, &csr()).await.unwrap();
    let meanwhile = async {
        let renewed = nodes.renew_by_second(&other, &csr()).await;
        nodes.second.view.note_shown(nodes.first.caller(&renewed).svid.as_ref().unwrap());
        nodes.second.issuing.tell_shown().await.unwrap();
    };
    let size = nodes.first.store.head().await.unwrap().edge.size();
    let replaced = nodes.renew_while(&held, &csr(), meanwhile).await.unwrap();
    assert!(replaced.log_index > lost.log_index && replaced.log_index > size);
    assert_eq!(nodes.commits.load(Ordering::SeqCst), 1, "it was decided once");
}

const PATIENCE: Duration = Duration::from_secs(60);

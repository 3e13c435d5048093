//! What was begun is completed, or given back, whatever becomes of who asked for it.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use authority::sequencer::{ActMember, Effect, Member};
use authority::store::faulty::{Fault, FaultyStore};
use authority::store::{RecordQuery, Store};
use authority::{Act, BudgetLimits, Error, Event, EventDraft};
use support::{Environment, csr, id};

/// Holds up the next commits of a kind, until it is told what becomes of each.
struct Gate {
    armed: Arc<AtomicBool>,
    reached: Receiver<()>,
    go: Sender<Option<Fault>>,
}

async fn environment(is_held: fn(&Member) -> bool) -> (Environment, Gate) {
    let (reaches, reached) = channel();
    let (go, told) = channel();
    let armed = Arc::new(AtomicBool::new(false));
    let is_armed = Arc::clone(&armed);
    let wrap = |store| -> Arc<dyn Store> {
        Arc::new(FaultyStore::new(store, move |group: &[Member]| {
            if !is_armed.load(Ordering::SeqCst) || !group.iter().any(is_held) {
                return None;
            }
            reaches.send(()).unwrap();
            told.recv_timeout(Duration::from_secs(60)).unwrap()
        }))
    };
    let environment = Environment::start_with(|keys, _| keys, wrap).await;
    (environment, Gate { armed, reached, go })
}

impl Gate {
    /// Goes away while the commit is under way; then it ends so.
    async fn abandon<T: Send + 'static>(
        &self,
        request: impl Future<Output = T> + Send + 'static,
        ends: Option<Fault>,
    ) {
        self.armed.store(true, Ordering::SeqCst);
        let request = tokio::spawn(request);
        until(async || self.reached.try_recv().is_ok() || request.is_finished()).await;
        self.armed.store(false, Ordering::SeqCst);
        request.abort();
        drop(request.await);
        self.go.send(ends).unwrap();
    }
}

impl Gate {
    /// The same, where it may not come to a commit.
    async fn abandon_any<T: Send + 'static>(
        &self,
        request: impl Future<Output = T> + Send + 'static,
    ) {
        self.armed.store(true, Ordering::SeqCst);
        let request = tokio::spawn(request);
        let has_reached = AtomicBool::new(false);
        until(async || {
            has_reached.store(self.reached.try_recv().is_ok(), Ordering::SeqCst);
            has_reached.load(Ordering::SeqCst) || request.is_finished()
        })
        .await;
        self.armed.store(false, Ordering::SeqCst);
        request.abort();
        drop(request.await);
        if has_reached.load(Ordering::SeqCst) {
            self.go.send(None).unwrap();
        }
    }
}

async fn until(is_so: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < Duration::from_secs(60), "it does not come to that");
        tokio::task::yield_now().await;
    }
}

fn is_certificate(member: &Member) -> bool {
    matches!(member, Member::Certificate(_))
}

fn is_crl(member: &Member) -> bool {
    matches!(member, Member::Act(act) if matches!(act.effect, Effect::NumberCrl { .. }))
}

/// Asks in a task of its own.
fn asks(
    environment: &Environment,
    token: &api::Secret,
    csr: String,
) -> impl Future<Output = Result<api::IssuedCertificate, Error>> + Send + 'static {
    let authority = Arc::clone(&environment.authority);
    let attestation = api::Attestation::Token { token: token.clone() };
    let body = api::IssueRequest { attestation, ..support::request(&csr) };
    async move { authority.issuing.issue(&support::anonymous(), &body, None).await }
}

#[tokio::test]
async fn a_certificate_that_was_logged_is_signed_though_nobody_waits_for_it() {
    let (environment, gate) = environment(is_certificate).await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/reports").await;
    let csr = csr();
    gate.abandon(asks(&environment, &token, csr.clone()), None).await;
    let query =
        RecordQuery { spiffe_id: Some(id("/prod/reports")), limit: 9, ..Default::default() };
    until(async || {
        let records = environment.store.records(query.clone()).await.unwrap();
        records.first().is_some_and(|record| record.certificate.is_some())
    })
    .await;
    let issued = environment.issue_with(&token, &csr).await.unwrap();
    environment.verified(&issued);
    assert_eq!(environment.store.records(query).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_commit_that_failed_gives_its_token_back_though_nobody_waits_for_it() {
    let (environment, gate) = environment(is_certificate).await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/reports").await;
    gate.abandon(asks(&environment, &token, csr()), Some(Fault::NotPersisted)).await;
    let other = csr();
    until(async || environment.issue_with(&token, &other).await.is_ok()).await;
}

#[tokio::test]
async fn a_commit_that_failed_gives_its_budget_back_though_nobody_waits_for_it() {
    let (environment, gate) = environment(is_certificate).await;
    let operator = environment.operator().await;
    let limits = BudgetLimits { renewals_per_hour: 1, ..BudgetLimits::default() };
    environment.authority.limit_budgets(limits);
    let held = environment.caller(&environment.issue(&operator, "/prod/reports").await);
    let (authority, caller) = (Arc::clone(&environment.authority), held.clone());
    let body = support::request(&csr());
    let renews = async move { authority.issuing.issue(&caller, &body, None).await };
    gate.abandon(renews, Some(Fault::NotPersisted)).await;
    let other = csr();
    until(async || environment.renew(&held, &other).await.is_ok()).await;
}

async fn logged_crls(environment: &Environment) -> usize {
    let entries = environment.store.entries(0, 1_000).await.unwrap();
    let events = entries.iter().filter_map(|entry| Event::parse(entry).ok());
    events.filter(|event| event.kind == "crl").count()
}

#[tokio::test]
async fn strangers_who_go_away_have_one_crl_logged_for_each_epoch() {
    let (environment, gate) = environment(is_crl).await;
    let operator = environment.operator().await;
    for epoch in 1..=2 {
        let issued = environment.issue(&operator, "/prod/reports").await;
        environment.revoke(&operator, &issued.serial_number.to_string()).await;
        let issuer = environment.authority.view.issuer_id();
        for _ in 0..3 {
            let (authority, issuer) = (Arc::clone(&environment.authority), issuer.clone());
            let asks = async move { authority.crls.crl(&issuer).await.map(drop) };
            gate.abandon_any(asks).await;
        }
        environment.authority.crls.crl(&issuer).await.unwrap();
        assert_eq!(logged_crls(&environment).await, epoch);
    }
}

#[tokio::test]
async fn a_crl_that_cannot_be_stored_is_not_logged_again_at_once() {
    let fails = Arc::new(AtomicBool::new(true));
    let is_failing = Arc::clone(&fails);
    let wrap = |store| -> Arc<dyn Store> {
        Arc::new(FaultyStore::new(store, move |group: &[Member]| {
            let is_crl = group.iter().any(|member| matches!(member, Member::Crl(_)));
            (is_crl && is_failing.load(Ordering::SeqCst)).then_some(Fault::NotPersisted)
        }))
    };
    let environment = Environment::start_with(|keys, _| keys, wrap).await;
    let issuer = environment.authority.view.issuer_id();
    for _ in 0..5 {
        environment.authority.crls.crl(&issuer).await.unwrap_err();
    }
    assert_eq!(logged_crls(&environment).await, 1);
    fails.store(false, Ordering::SeqCst);
    environment.clock.advance(time::Duration::seconds(6));
    environment.authority.crls.crl(&issuer).await.unwrap();
    assert_eq!(logged_crls(&environment).await, 2);
}

/// Denies somebody directly before each commit of a denial: the state always moves, since others commit.
#[tokio::test]
async fn a_ca_is_ready_while_others_commit_though_one_is_too_slow() {
    let moves = Arc::new(AtomicU64::new(0));
    let (moving, inner) = (Arc::clone(&moves), Arc::new(Mutex::new(None::<Arc<dyn Store>>)));
    let inner_of_plan = Arc::clone(&inner);
    let wrap = |store: Arc<dyn Store>| -> Arc<dyn Store> {
        *inner.lock().unwrap() = Some(Arc::clone(&store));
        Arc::new(FaultyStore::new(store, move |group: &[Member]| {
            let is_denial = |member: &Member| matches!(member, Member::Act(act) if matches!(act.effect, Effect::Deny { .. }));
            if moving.load(Ordering::SeqCst) > 0 && group.iter().any(is_denial) {
                let at = moving.load(Ordering::SeqCst);
                let store = inner_of_plan.lock().unwrap().clone().unwrap();
                drop(store.commit(vec![denial()], at));
            }
            None
        }))
    };
    let environment = Environment::start_with(|keys, _| keys, wrap).await;
    let operator = environment.operator().await;
    let request = api::DenyRequest {
        spiffe_id: id("/prod/monolith"),
        reason: "unspecified".to_owned(),
        named_override: None,
    };
    environment.authority.writer.require_commits().unwrap();
    let now = authority::clock::Clock::unix_milliseconds(&*environment.clock);
    moves.store(now, Ordering::SeqCst);
    let refused = environment.authority.operations.deny(&operator, &request).await.unwrap_err();
    assert!(matches!(refused, Error::Restless), "{refused}");
    environment.authority.writer.require_commits().unwrap();
    moves.store(0, Ordering::SeqCst);
    environment.authority.operations.deny(&operator, &request).await.unwrap();
}

fn denial() -> Member {
    let spiffe_id = id("/prod/quick");
    let by = Act { actor: "test", request_id: "test" };
    let detail = serde_json::json!({ "reason": "unspecified" });
    let event = EventDraft::new("deny", &by, spiffe_id.as_str(), &detail);
    let effect = Effect::Deny { spiffe_id, reason: "unspecified".to_owned() };
    Member::Act(Box::new(ActMember { event, effect, allowed_under: None }))
}

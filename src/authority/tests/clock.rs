//! A clock that is wrong for a while, and the way back.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use api::{KeyPurpose, KeyStep, KeyStepRequest};
use authority::clock::{Clock, ManualClock};
use authority::rotation::ceremony::Ceremonies;
use authority::setup::{Again, CertifiedAgain};
use authority::store::StoreError;
use authority::{Error, setup};
use identity::SpiffeId;
use support::{Environment, csr, request, trust_domain};
use time::Duration;

const AHEAD: Duration = Duration::days(3);

#[tokio::test]
async fn a_clock_that_is_ahead_for_four_seconds_writes_nothing_there() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/reports").await;
    let before = environment.store.head().await.unwrap();
    environment.clock.leap(AHEAD);
    for _ in 0..4 {
        environment.clock.advance(Duration::seconds(1));
        let refused = environment.issue_with(&token, &csr()).await;
        assert!(matches!(refused, Err(Error::Store(StoreError::ClockLeapt(_)))), "{refused:?}");
        let told = environment.authority.view.require_clock().await.unwrap_err().to_string();
        assert!(told.contains("--accept-clock"), "{told}");
    }
    assert_eq!(environment.store.head().await.unwrap().at, before.at);
    environment.clock.leap(-AHEAD);
    environment.issue_with(&token, &csr()).await.unwrap();
    environment.authority.view.require_clock().await.unwrap();
}

#[tokio::test]
async fn a_clock_that_was_put_right_is_believed_after_ten_minutes() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/reports").await;
    environment.clock.leap(Duration::hours(1));
    assert!(environment.issue_with(&token, &csr()).await.is_err());
    environment.clock.advance(Duration::minutes(10));
    environment.authority.view.require_clock().await.unwrap();
}

#[tokio::test]
async fn a_log_that_went_ahead_goes_on_from_the_clock_that_the_host_accepts() {
    let mut environment = Environment::start().await;
    let operator = environment.operator().await;
    environment.clock.leap(AHEAD);
    environment.authority.view.require_clock().await.unwrap_err();
    environment.clock.advance(Duration::minutes(10));
    let future = environment.operator().await;
    environment.clock.leap(-AHEAD);
    let behind = environment.authority.view.require_clock().await.unwrap_err();
    assert!(matches!(behind, Error::Store(StoreError::ClockBehind { .. })), "{behind:?}");
    assert!(behind.to_string().contains("--accept-clock"));

    let (store, clock) = (&environment.store, &*environment.clock);
    let ahead = setup::reset_clock(&trust_domain(), &**store, clock).await.unwrap().unwrap();
    assert!(ahead.abs_diff(AHEAD.whole_milliseconds() as u64) < 1000, "{ahead}");
    let again = setup::reset_clock(&trust_domain(), &**store, clock).await.unwrap();
    assert_eq!(again, None, "it is done once");
    environment.restart().await;
    environment.authority.view.require_clock().await.unwrap();
    environment.issue(&operator, "/prod/reports").await;
    assert_eq!(
        environment
            .store
            .folding_entries(0)
            .await
            .unwrap()
            .iter()
            .filter(|(_, entry)| { String::from_utf8_lossy(entry).contains("clock.reset") })
            .count(),
        1,
        "the log says so"
    );
    drop(future);
}

/// Made while the clock was ahead; now it is right.
async fn made_ahead(by: Duration) -> Environment {
    let mut environment = Environment::start().await;
    environment.clock.leap(-by);
    let (store, clock) = (&environment.store, &*environment.clock);
    setup::reset_clock(&trust_domain(), &**store, clock).await.unwrap().unwrap();
    environment.restart().await;
    environment
}

async fn certify_again(environment: &Environment) -> CertifiedAgain {
    setup::certify_again(
        &trust_domain(),
        environment.folder.path(),
        &*environment.store,
        &environment.keys,
        &api::Secret::new("offline"),
        &*environment.clock,
    )
    .await
    .unwrap()
}

async fn to_certify_again(environment: &Environment) -> Option<Again> {
    let now = environment.clock.now();
    setup::to_certify_again(&trust_domain(), &*environment.store, now).await.unwrap()
}

#[tokio::test]
async fn a_ca_that_was_made_while_the_clock_was_ahead_says_so_and_is_certified_again() {
    for ahead in [Duration::minutes(2), Duration::hours(2), AHEAD, Duration::days(4000)] {
        let mut environment = made_ahead(ahead).await;
        let (pin, before) = (environment.pin, environment.trust());
        let spiffe_id = Some(SpiffeId::authority(&trust_domain()));
        let body = api::IssueRequest { spiffe_id, ..request(&csr()) };
        let refused = environment.authority.issuing.issue_internal(&body, "serve").await;
        let refused = refused.unwrap_err().to_string();
        assert!(
            refused.contains("the issuer's certificate begins at 2026-11-21T11:59:00Z"),
            "{refused}"
        );
        assert!(refused.contains("the clock says 20"), "{refused}");
        assert!(refused.contains("countersign init --recover --accept-clock"), "{refused}");
        environment.authority.view.require_begun_issuer().unwrap_err();
        assert_eq!(to_certify_again(&environment).await, Some(Again::BeginsLater));

        assert_eq!(certify_again(&environment).await, CertifiedAgain::RootAndIssuer);
        assert_eq!(to_certify_again(&environment).await, None);
        environment.restart().await;
        environment.authority.view.require_begun_issuer().unwrap();
        let operator = environment.operator().await;
        let issued = environment.issue(&operator, "/prod/reports").await;
        let trust = environment.trust();
        assert!(pin.names(trust.state()) && trust.state().sequence == 2);
        let root =
            issuance::IssuerCertificate::from_der(trust.state().anchors[0].certificate.as_bytes());
        root.unwrap().require_begun(environment.clock.now()).unwrap();
        environment.verify(&issued.chain).unwrap();
        // Who holds the trust state of then goes on.
        environment.verify_by(&before, &issued.chain).unwrap();
        // And the keys change as ever.
        assert_eq!(certify_again(&environment).await, CertifiedAgain::Issuer);
        environment.restart().await;
        environment.issue(&operator, "/prod/reports").await;
    }
}

#[tokio::test]
async fn a_ca_whose_root_has_ended_is_certified_again() {
    let mut environment = Environment::start().await;
    environment.clock.advance(Duration::days(3651));
    assert_eq!(to_certify_again(&environment).await, Some(Again::EndsSoon));
    assert_eq!(certify_again(&environment).await, CertifiedAgain::RootAndIssuer);
    environment.restart().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    environment.verify(&issued.chain).unwrap();
}

#[tokio::test]
async fn an_issuer_certified_where_the_clock_is_ahead_is_not_prepared() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let offline = environment.offline_keys();
    let trust = environment.authority.view.trust();
    let keys = environment.authority.rotation.keys(&operator).await.unwrap().items;
    let elsewhere = ManualClock::new(environment.clock.now() + Duration::hours(1));
    for purpose in [KeyPurpose::Issuer, KeyPurpose::Root] {
        let ceremonies = Ceremonies {
            online: &environment.keys,
            offline: Some(&offline),
            trust: trust.state(),
            keys: &keys,
            clock: &elsewhere,
        };
        let ask = async |id: &str, step, request: &KeyStepRequest| {
            environment.authority.rotation.key_step(&operator, id, step, request).await
        };
        let refused = ceremonies.take(purpose, KeyStep::Prepare, ask).await.unwrap_err();
        assert!(refused.to_string().contains("begins at"), "{purpose}: {refused}");
    }
}

//! A clock that is wrong for a while, and the way back.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use authority::store::StoreError;
use authority::{Error, setup};
use support::{Environment, csr, trust_domain};
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
        let told = environment.authority.require_clock().await.unwrap_err().to_string();
        assert!(told.contains("--accept-clock"), "{told}");
    }
    assert_eq!(environment.store.head().await.unwrap().at, before.at);
    environment.clock.leap(-AHEAD);
    environment.issue_with(&token, &csr()).await.unwrap();
    environment.authority.require_clock().await.unwrap();
}

#[tokio::test]
async fn a_clock_that_was_put_right_is_believed_after_ten_minutes() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/reports").await;
    environment.clock.leap(Duration::hours(1));
    assert!(environment.issue_with(&token, &csr()).await.is_err());
    environment.clock.advance(Duration::minutes(10));
    environment.authority.require_clock().await.unwrap();
}

#[tokio::test]
async fn a_log_that_went_ahead_goes_on_from_the_clock_that_the_host_accepts() {
    let mut environment = Environment::start().await;
    let operator = environment.operator().await;
    environment.clock.leap(AHEAD);
    environment.authority.require_clock().await.unwrap_err();
    environment.clock.advance(Duration::minutes(10));
    let future = environment.operator().await;
    environment.clock.leap(-AHEAD);
    let behind = environment.authority.require_clock().await.unwrap_err();
    assert!(matches!(behind, Error::Store(StoreError::ClockBehind { .. })), "{behind:?}");
    assert!(behind.to_string().contains("--accept-clock"));

    let (store, clock) = (&environment.store, &*environment.clock);
    let ahead = setup::reset_clock(&trust_domain(), &**store, clock).await.unwrap().unwrap();
    assert!(ahead.abs_diff(AHEAD.whole_milliseconds() as u64) < 1000, "{ahead}");
    let again = setup::reset_clock(&trust_domain(), &**store, clock).await.unwrap();
    assert_eq!(again, None, "it is done once");
    environment.restart().await;
    environment.authority.require_clock().await.unwrap();
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

//! What a workload says that hears nothing of revocations.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::UnixTime;

use super::alone::{Alone, Diagnostics};
use crate::verification::staleness::{Staleness, WhenStale};

/// Longer than two looks at the clock are apart.
const A_LOOK: Duration = Duration::from_secs(6);

/// A workload whose own measuring is all that happens.
async fn measured() -> (Alone, Diagnostics, tokio::task::JoinSet<()>) {
    let (alone, said) = (Alone::new(), Diagnostics::capture());
    let (upkeep, mut tasks) = (Arc::clone(&alone.upkeep), tokio::task::JoinSet::new());
    tasks.spawn(async move { upkeep.keep_measuring().await });
    tokio::time::sleep(A_LOOK).await;
    (alone, said, tasks)
}

#[tokio::test(start_paused = true)]
async fn silence_is_an_alarm_once_and_its_end_is_said() {
    let (alone, said, _tasks) = measured().await;
    let mut changes = alone.upkeep.changes();
    alone.verification().confirm_revocations(alone.now());
    alone.advance(50);
    tokio::time::sleep(A_LOOK).await;
    assert!(!alone.upkeep.status().stale);
    assert_eq!(said.count("ERROR", "max_staleness"), 0);
    alone.advance(60);
    assert!(alone.upkeep.status().stale);
    tokio::time::sleep(A_LOOK * 3).await;
    assert_eq!(said.count("ERROR", "max_staleness"), 1);
    assert!(changes.borrow_and_update().stale, "who watches is told");
    assert!(alone.upkeep.status().ready, "it goes on");
    alone.verification().confirm_revocations(alone.now());
    tokio::time::sleep(A_LOOK).await;
    assert!(!alone.upkeep.status().stale);
    assert_eq!(said.count("INFO", "again"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_was_never_heard_is_an_alarm_too() {
    let (alone, said, _tasks) = measured().await;
    assert!(!alone.upkeep.status().stale, "it has just begun");
    alone.advance(60);
    tokio::time::sleep(A_LOOK).await;
    let status = alone.upkeep.status();
    assert_eq!((status.stale, status.feed_age), (true, None));
    assert_eq!(said.count("ERROR", "max_staleness"), 1);
}

#[tokio::test(start_paused = true)]
async fn who_refuses_without_news_can_go_on_until_then_and_no_longer() {
    let alone = Alone::new();
    let left = || alone.upkeep.status().seconds_without_authority;
    assert!(left() > 23 * 3600);
    let staleness = |then| Staleness { max_staleness: Duration::from_secs(300), then };
    alone.verification().set_staleness(staleness(WhenStale::Refuse));
    assert_eq!(left(), 0, "it refuses before the first news");
    alone.verification().confirm_revocations(alone.now());
    assert_eq!(left(), 300);
    alone.advance(299);
    assert_eq!((left(), alone.upkeep.status().ready), (1, true));
    alone.advance(2);
    assert_eq!((left(), alone.upkeep.status().ready), (0, false));
    alone.verification().set_staleness(staleness(WhenStale::Continue));
    assert!(left() > 23 * 3600);
}

#[tokio::test(start_paused = true)]
async fn near_its_end_the_certificate_is_what_counts() {
    let alone = Alone::new();
    let (max_staleness, then) = (Duration::from_secs(300), WhenStale::Refuse);
    alone.verification().set_staleness(Staleness { max_staleness, then });
    alone.advance(24 * 3600 - 100);
    alone.verification().confirm_revocations(alone.now());
    assert_eq!(alone.upkeep.status().seconds_without_authority, 100);
}

/// In seconds.
const DAY: u64 = 24 * 3600;

#[tokio::test(start_paused = true)]
async fn a_revocation_is_forgotten_a_day_after_its_certificate_and_by_no_clock_alone() {
    let alone = Alone::new();
    let verification = alone.verification();
    let (first, last) = ([1], [2]);
    let serial = |octets: &[u8]| identity::SerialNumber::from_octets(octets).unwrap();
    let ends = alone.now().as_secs() + 100;
    verification.update_revocations(|held| {
        held.revoke_serial_until(serial(&first), ends);
        held.revoke_serial_until(serial(&last), ends + 2 * DAY);
    });
    assert_eq!(verification.forget_expired(), 0, "nothing was confirmed");
    verification.confirm_revocations(alone.now());
    alone.advance(100 + DAY + 1);
    assert_eq!(verification.forget_expired(), 0, "our clock went ahead of the CA's");
    let future = UnixTime::since_unix_epoch(Duration::from_secs(ends + 9 * DAY));
    verification.confirm_revocations(future);
    assert_eq!(verification.forget_expired(), 1, "the CA's clock went ahead of ours");
    verification.with_revocations(|held| {
        assert!(!held.is_serial_revoked(&serial(&first)) && held.is_serial_revoked(&serial(&last)));
    });
}

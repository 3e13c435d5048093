//! What a workload holds back, where its owner chose so.

use std::sync::Arc;
use std::time::Duration;

use identity::feed::{FeedChange, FeedItem, FeedUpdate, Snapshot};
use identity::{Refusal, Usage};

use super::alone::{Alone, Diagnostics};
use crate::connections::stream::Stream;
use crate::revocations::hold_back::Choice;
use crate::test_authority::TestSvid;

type Connections = Vec<Vec<(Stream, Stream)>>;

/// It holds back what takes more than half of its peers, for ten minutes.
fn cautious() -> Alone {
    let alone = Alone::held();
    alone.upkeep.hold_back(Choice::new(0.5, Duration::from_secs(600)).unwrap());
    alone
}

/// Five peers, of which the first has two connections.
async fn with_five_peers() -> (Alone, Connections) {
    let alone = cautious();
    let mut connections = vec![alone.connected(PEERS[0], 2).await];
    for path in &PEERS[1..] {
        connections.push(alone.connected(path, 1).await);
    }
    (alone, connections)
}

fn deny(alone: &Alone, path: &str) -> FeedChange {
    FeedChange::Deny(alone.authority.id(path))
}

fn revoke(alone: &Alone, path: &str) -> FeedChange {
    FeedChange::RevokeIdentity(alone.authority.id(path))
}

fn serial_of(svid: &TestSvid) -> FeedChange {
    FeedChange::RevokeSerial { serial_number: svid.serial_number, until: u64::MAX }
}

impl Alone {
    /// Hears a message whose first item stands at this place.
    async fn hear(&self, first: u64, changes: impl IntoIterator<Item = FeedChange>) {
        let items = (first..).zip(changes);
        let items = items.map(|(log_index, change)| FeedItem { log_index, change });
        let items: Vec<_> = items.collect();
        let last = items.last().unwrap().log_index;
        self.upkeep.apply(FeedUpdate::Apply(items), last).await.unwrap();
        self.upkeep.state().feed_sequence = last;
    }

    /// The verdict on a new handshake.
    fn shakes_hands(&self, svid: &TestSvid) -> Result<(), Refusal> {
        self.verification().admit(&svid.chain, Usage::Client, self.now()).map(drop)
    }

    fn open(&self) -> usize {
        self.verification().connections().open
    }

    fn held_back(&self) -> Option<(usize, u64, u64)> {
        let held = self.upkeep.status().held_back?;
        Some((held.peers, *held.log_indexes.start(), *held.log_indexes.end()))
    }
}

#[tokio::test]
async fn one_message_that_takes_most_peers_is_held_back_for_them_alone() {
    let ((alone, _connections), said) = (with_five_peers().await, Diagnostics::capture());
    let replica = alone.authority.svid(PEERS[2]);
    let (stranger, other) =
        (alone.authority.svid("/prod/stranger"), alone.authority.svid("/prod/x"));
    let denials = PEERS[..3].iter().map(|path| deny(&alone, path));
    let more = [deny(&alone, "/prod/stranger"), serial_of(&other), serial_of(&replica)];
    alone.hear(20, denials.chain(more)).await;
    assert_eq!(alone.open(), 6, "connections go on");
    assert_eq!(alone.shakes_hands(&replica), Ok(()), "and new ones begin");
    let _again = alone.connected(PEERS[0], 1).await;
    assert_eq!(alone.shakes_hands(&stranger), Err(Refusal::Denied), "the rest is applied");
    assert!(matches!(alone.shakes_hands(&other), Err(Refusal::Revoked { .. })));
    assert_eq!(alone.held_back(), Some((3, 20, 25)));
    assert_eq!(said.count("ERROR", "Workload::release_revocations"), 1);
    let reported = alone.upkeep.as_reported().held_back.unwrap();
    assert_eq!((reported.first, reported.last, reported.peers), (20, 25, 3));
    assert_eq!(reported.seconds, 600);

    assert_eq!(alone.upkeep.release_revocations(), 3);
    assert_eq!((alone.open(), alone.held_back()), (2, None));
    assert!(alone.shakes_hands(&replica).is_err());
    assert_eq!(alone.upkeep.release_revocations(), 0, "once");
    let closed: Vec<_> = alone.upkeep.as_reported().closed;
    assert_eq!(
        closed.iter().map(|it| (it.log_index, it.connections)).collect::<Vec<_>>(),
        [(25, 5)]
    );
}

#[tokio::test]
async fn a_revoked_issuer_is_held_back_like_the_rest() {
    let (alone, _connections) = with_five_peers().await;
    let serial_number = alone.authority.issuer_serial_number();
    let issuer = FeedChange::RevokeSerial { serial_number, until: u64::MAX };
    alone.hear(20, [issuer]).await;
    assert_eq!((alone.open(), alone.held_back()), (6, Some((5, 20, 20))));
    assert_eq!(alone.shakes_hands(&alone.authority.svid(PEERS[0])), Ok(()));
    assert!(alone.shakes_hands(&alone.authority.svid("/prod/stranger")).is_err());
    let own = alone.upkeep.state().svid.copy();
    assert!(own.verify(alone.verification()).is_err(), "our own is never spared");
}

#[tokio::test]
async fn what_takes_half_or_a_few_or_one_replica_is_applied_at_once() {
    let (alone, connections) = with_five_peers().await;
    alone.hear(20, [revoke(&alone, PEERS[0]), revoke(&alone, PEERS[1])]).await;
    assert_eq!((alone.open(), alone.held_back()), (3, None), "two of five");

    let few = cautious();
    let _two = (few.connected(PEERS[0], 9).await, few.connected(PEERS[1], 9).await);
    few.hear(20, [revoke(&few, PEERS[0]), revoke(&few, PEERS[1])]).await;
    assert_eq!((few.open(), few.held_back()), (0, None), "two of two");

    let replicas = cautious();
    let mut open = vec![];
    for path in PEERS {
        open.push(replicas.connected(path, 1).await);
        open.push(replicas.connected(path, 1).await);
    }
    let shown = |pair: &Vec<(Stream, Stream)>| *pair[0].0.peer().serial_number();
    let one_each = open
        .iter()
        .step_by(2)
        .map(shown)
        .map(|serial_number| FeedChange::RevokeSerial { serial_number, until: u64::MAX });
    replicas.hear(20, one_each.collect::<Vec<_>>()).await;
    assert_eq!((replicas.open(), replicas.held_back()), (5, None), "one of two replicas each");
    drop(connections);
}

#[tokio::test]
async fn what_is_held_back_is_applied_when_its_time_is_over() {
    let (alone, _connections) = with_five_peers().await;
    alone.hear(20, PEERS.map(|path| revoke(&alone, path))).await;
    alone.advance(599);
    assert_eq!((alone.upkeep.release_due(), alone.open()), (0, 6));
    // Held back later, it ends with what was first.
    alone.hear(40, PEERS.map(|path| deny(&alone, path))).await;
    assert_eq!(alone.held_back(), Some((5, 20, 44)));
    alone.advance(1);
    assert_eq!((alone.upkeep.release_due(), alone.open()), (5, 0));
    assert_eq!(alone.shakes_hands(&alone.authority.svid(PEERS[0])), Err(Refusal::Denied));
}

#[tokio::test]
async fn a_list_that_is_revoked_one_by_one_is_one_stroke() {
    let (alone, _connections) = with_five_peers().await;
    for (log_index, path) in (20..).zip(PEERS) {
        alone.hear(log_index, [revoke(&alone, path)]).await;
        alone.advance(1);
    }
    assert_eq!((alone.open(), alone.held_back()), (3, Some((3, 22, 24))), "two were applied");

    let (slow, _connections) = with_five_peers().await;
    for (log_index, path) in (20..).zip(PEERS) {
        slow.hear(log_index, [revoke(&slow, path)]).await;
        slow.advance(10);
    }
    assert_eq!((slow.open(), slow.held_back()), (0, None));
}

#[tokio::test]
async fn after_the_release_the_rest_of_the_list_is_applied() {
    let (alone, _connections) = with_five_peers().await;
    alone.hear(20, PEERS[..3].iter().map(|path| revoke(&alone, path))).await;
    assert_eq!(alone.upkeep.release_revocations(), 3);
    alone.hear(30, [revoke(&alone, PEERS[3])]).await;
    assert_eq!((alone.open(), alone.held_back()), (1, None));
}

#[tokio::test]
async fn what_is_said_of_one_of_them_later_counts() {
    let (alone, _connections) = with_five_peers().await;
    alone.hear(20, PEERS.map(|path| revoke(&alone, path))).await;
    alone.advance(10);
    alone.hear(30, [deny(&alone, PEERS[0])]).await;
    assert_eq!(alone.open(), 4, "both connections of the first are closed");
    assert_eq!(alone.shakes_hands(&alone.authority.svid(PEERS[0])), Err(Refusal::Denied));
    assert_eq!(alone.shakes_hands(&alone.authority.svid(PEERS[1])), Ok(()));
}

#[tokio::test]
async fn a_snapshot_is_one_message_and_sent_again_changes_nothing() {
    let (alone, _connections) = with_five_peers().await;
    let mut revoked = identity::Revocations::default();
    for (log_index, path) in (20..).zip(&PEERS[..4]) {
        revoked.deny(alone.authority.id(path), log_index);
    }
    for sequence in [23, 24] {
        let snapshot = FeedUpdate::Replace(Snapshot::of(&revoked));
        alone.upkeep.apply(snapshot, sequence).await.unwrap();
        assert_eq!(alone.open(), 6);
        assert_eq!(alone.held_back(), Some((4, 1, 23)));
        alone.advance(10);
    }
    revoked.deny(alone.authority.id(PEERS[0]), 25);
    alone.upkeep.apply(FeedUpdate::Replace(Snapshot::of(&revoked)), 25).await.unwrap();
    assert_eq!(alone.open(), 4, "what it says of one alone counts");
}

#[tokio::test]
async fn our_own_identity_is_never_spared() {
    let (alone, _connections) = with_five_peers().await;
    let own = alone.connected("/prod/reports", 2).await;
    let changes = PEERS.map(|path| revoke(&alone, path)).into_iter();
    alone.hear(20, changes.chain([revoke(&alone, "/prod/reports")])).await;
    assert_eq!((alone.open(), alone.held_back()), (6, Some((5, 20, 25))));
    drop(own);
}

#[tokio::test]
async fn verdicts_of_before_are_not_believed_after_the_release() {
    let (alone, _connections) = with_five_peers().await;
    let svid = alone.authority.svid(PEERS[0]);
    let before = alone.verification().epoch();
    alone.hear(20, PEERS.map(|path| revoke(&alone, path))).await;
    let held = alone.verification().epoch();
    assert_eq!(alone.shakes_hands(&svid), Ok(()), "and is cached");
    let upkeep = Arc::clone(&alone.upkeep);
    assert_eq!(upkeep.release_revocations(), 5);
    assert!(before != held && held != alone.verification().epoch());
    assert!(alone.shakes_hands(&svid).is_err());
}

#[test]
fn a_share_or_a_time_that_cannot_be_meant_is_refused() {
    let minute = Duration::from_secs(60);
    for above in [-0.1, 1.0, 50.0, f64::NAN, f64::INFINITY] {
        assert!(Choice::new(above, minute).is_err(), "{above}");
    }
    for limit in [Duration::ZERO, Duration::from_secs(24 * 3600 + 1)] {
        assert!(Choice::new(0.5, limit).is_err(), "{limit:?}");
    }
    assert!(Choice::new(0.0, minute).is_ok());
}

const PEERS: [&str; 5] = ["/prod/a", "/prod/b", "/prod/c", "/prod/d", "/prod/e"];

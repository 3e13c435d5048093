//! What a workload does with what it has heard.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use identity::SerialNumber;
use identity::feed::{FeedChange, FeedItem, FeedUpdate, Snapshot};
use tokio::sync::oneshot;

use super::alone::{Alone, Diagnostics};
use super::feed::Closed;
use crate::connections::stream::Stream;
use crate::endpoint::Endpoint;
use crate::handshake::credentials::Credentials;
use crate::peers::Peers;
use crate::test_authority::TestSvid;
use crate::verification::Verification;

fn serials(count: u64) -> impl Iterator<Item = SerialNumber> {
    (1..=count).map(|n| SerialNumber::from_octets(&n.to_be_bytes()).unwrap())
}

/// On one thread, as a small container has it.
#[tokio::test]
async fn handshakes_go_on_while_a_large_message_waits_for_them() {
    let items = (1..).zip(serials(1000)).map(|(log_index, serial_number)| FeedItem {
        log_index,
        change: FeedChange::RevokeSerial { serial_number, until: u64::MAX },
    });
    let serials = [(u64::MAX, serials(1000).collect())].into();
    let snapshot = Snapshot { serials, ..Snapshot::default() };
    for update in [FeedUpdate::Replace(snapshot), FeedUpdate::Apply(items.collect())] {
        let alone = Alone::held();
        let (entered, has_entered) = oneshot::channel();
        let (release, released) = mpsc::channel();
        let verification = Arc::clone(alone.verification());
        let handshake = std::thread::spawn(move || {
            verification.with_revocations(|_| {
                entered.send(()).unwrap();
                released.recv_timeout(Duration::from_secs(60)).is_ok()
            })
        });
        has_entered.await.unwrap();
        let mut applying = std::pin::pin!(alone.upkeep.apply(update, 1000));
        tokio::select! {
            biased;
            _ = &mut applying => panic!("it is applied before the handshake has ended"),
            () = tokio::task::yield_now() => {}
        }
        let _ = release.send(());
        assert!(handshake.join().unwrap(), "this thread was held up");
        applying.await.unwrap();
        let is_held = |held: &identity::Revocations| held.serials().count() == 1000;
        assert!(alone.verification().with_revocations(is_held));
    }
}

/// The alarm of a workload that loses most of its peers at one stroke: by mistake, or by a thief.
#[tokio::test]
async fn one_revocation_that_closes_most_connections_is_an_alarm() {
    let (alone, said) = (Alone::held(), Diagnostics::capture());
    let few = alone.connected("/prod/ledger", 4).await;
    let most = alone.connected("/prod/batch", 12).await;
    let alarms = || said.count("ERROR", "one revocation closed most connections");
    alone.revoke("/prod/ledger", 8).await;
    assert_eq!(alarms(), 0, "a quarter of them");
    alone.revoke("/prod/batch", 9).await;
    assert_eq!(alarms(), 1, "all that were left");
    let state = alone.upkeep.state();
    let closed = state.closed.iter().map(|closed| (closed.log_index, closed.connections));
    assert_eq!(closed.collect::<Vec<_>>(), [(8, 4), (9, 12)]);
    drop((few, most));
}

#[tokio::test]
async fn connections_that_close_meanwhile_are_not_counted_as_revoked() {
    let alone = Alone::held();
    let open = [alone.connected("/prod/ledger", 1).await, alone.connected("/prod/batch", 2).await];
    let verification = alone.verification();
    let deny = |path: &str| {
        let id = alone.authority.id(path);
        verification.update_and_count(|held| held.deny(id, 0)).1
    };
    let closed = Closed::by(verification, || {
        assert_eq!(deny("/prod/batch"), 2);
        deny("/prod/ledger")
    });
    alone.upkeep.note_closed(8, closed);
    let told = alone.upkeep.state().closed.front().map(|it| (it.log_index, it.connections));
    assert_eq!(told, Some((8, 1)));
    drop(open);
}

impl Alone {
    /// So many connections of a peer, at both ends.
    pub(super) async fn connected(&self, path: &str, count: usize) -> Vec<(Stream, Stream)> {
        let ours =
            Endpoint::new(Arc::clone(&self.upkeep.credentials), Arc::clone(self.verification()));
        let TestSvid { chain, key, .. } = self.authority.svid(path);
        let credentials = Credentials::new(chain, key).unwrap();
        let theirs = Endpoint::new(credentials, Verification::new(self.authority.trust()));
        let among = |path: &str| Peers::one_of([self.authority.id(path).to_string()]).unwrap();
        let mut listener = ours.listen("127.0.0.1:0", among(path)).await.unwrap();
        let address = listener.local_address().to_string();
        let mut connected = Vec::new();
        for _ in 0..count {
            let connecting = theirs.connect(&address, among("/prod/reports"));
            let (accepted, connecting) = tokio::join!(listener.accept(), connecting);
            connected.push((accepted.unwrap(), connecting.unwrap()));
        }
        connected
    }

    pub(super) async fn revoke(&self, path: &str, log_index: u64) {
        let change = FeedChange::RevokeIdentity(self.authority.id(path));
        let update = FeedUpdate::Apply(vec![FeedItem { log_index, change }]);
        self.upkeep.apply(update, log_index).await.unwrap();
    }
}

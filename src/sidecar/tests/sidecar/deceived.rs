//! A running workload hears messages that nobody honest would send it now.

use std::time::Duration;

use identity::feed::{Content, Delta, FeedChange, FeedItem, Position, RevokedIdentity, Snapshot};
use rustls::pki_types::UnixTime;
use tlog::Hash;

use crate::authority::TestAuthority;
use crate::endpoints::{HeldClock, REPORTS, WITNESS, assert_echoes, echo, until};
use crate::server::soon;
use crate::stand_in::StandIn;

/// Each would cut the witness off, were it believed.
#[tokio::test]
async fn what_is_replayed_reordered_cut_or_anothers_closes_nothing_and_is_said() {
    for (what, line) in [
        ("a replay", (|ca| against_witness(ca, 9, 3600)) as fn(&TestAuthority) -> Vec<u8>),
        ("out of order", |ca| against_witness(ca, 3, 8)),
        ("not the one that its head names", cut),
        ("not what its key signed", cut_head),
        ("1 chunks of the feed's snapshot did not come", without_chunk),
        ("a chunk of a snapshot that it does not speak of", |_| b"{}".to_vec()),
        ("names no feed key", |_| against_witness(&TestAuthority::new(), 9, 0)),
        ("do not add up", unchained),
    ] {
        let (ca, server) = StandIn::start().await;
        ca.say(|ca| snapshot(ca, 5, 0, vec![]));
        let workload = soon(ca.workload(&server).start()).await.unwrap();
        let listener = ca.authority.listener(workload.endpoint()).await;
        let address = listener.local_address().to_string();
        echo(listener);
        let witness = ca.authority.endpoint(WITNESS);
        let connecting = witness.connect(&address, ca.authority.peers(&[REPORTS]));
        let mut connected = soon(connecting).await.unwrap();
        let line = line(&ca.authority);
        ca.say(move |_| line.clone());
        let said = || workload.status().feed_error.is_some_and(|error| error.contains(what));
        until(said).await;
        assert_echoes(&mut connected).await;
        let status = workload.status();
        assert_eq!((status.feed_sequence, status.connections.closed_in_all()), (5, 0), "{what}");
        ca.say(|ca| against_witness(ca, 9, 0));
        until(|| workload.status().connections.closed_in_all() == 1).await;
        until(|| workload.status().feed_error.is_none()).await;
    }
}

/// A heartbeat that is sent again and again keeps a connection alive, and nothing else.
#[tokio::test]
async fn a_feed_that_says_the_same_for_ever_is_silence() {
    let (ca, server) = StandIn::start().await;
    let kept = ca.authority.heartbeat(UnixTime::now());
    ca.say(move |_| kept.clone());
    let clock = HeldClock::new();
    let workload = soon(ca.workload(&server).clock(clock.clone()).start()).await.unwrap();
    assert!(!workload.status().stale);
    clock.advance(50);
    assert!(!workload.status().stale);
    clock.advance(15);
    let heard = ca.said();
    until(|| ca.said() > heard + 3).await;
    let status = workload.status();
    assert_eq!((status.stale, status.feed_error, status.clock_error), (true, None, None));
}

fn against_witness(ca: &TestAuthority, sequence: u64, seconds_ago: u64) -> Vec<u8> {
    let spiffe_id = ca.id(WITNESS);
    snapshot(ca, sequence, seconds_ago, vec![RevokedIdentity { spiffe_id, before: u64::MAX }])
}

fn snapshot(
    ca: &TestAuthority,
    sequence: u64,
    seconds_ago: u64,
    identities: Vec<RevokedIdentity>,
) -> Vec<u8> {
    let at = Duration::from_secs(UnixTime::now().as_secs() - seconds_ago);
    let snapshot = Snapshot { identities, ..Snapshot::default() };
    ca.snapshot_at(UnixTime::since_unix_epoch(at), position(sequence), snapshot)
}

fn cut(ca: &TestAuthority) -> Vec<u8> {
    let mut line = against_witness(ca, 9, 0);
    line.pop();
    line
}

fn cut_head(ca: &TestAuthority) -> Vec<u8> {
    let line = without_chunk(ca);
    line[..line.len() - 1].to_vec()
}

/// Again and again: after the first head comes another, and no chunk.
fn without_chunk(ca: &TestAuthority) -> Vec<u8> {
    let line = against_witness(ca, 9, 0);
    let end = line.iter().position(|&byte| byte == b'\n').unwrap();
    line[..end].to_vec()
}

/// A delta whose items lead elsewhere than it says.
fn unchained(ca: &TestAuthority) -> Vec<u8> {
    let change = FeedChange::RevokeIdentity(ca.id(WITNESS));
    let Position { sequence, hash } = position(5);
    let items = vec![FeedItem { log_index: 9, change }];
    let delta = Delta { previous_sequence: sequence, previous_hash: hash, items };
    ca.feed_line(position(9), Content::Delta(delta))
}

fn position(sequence: u64) -> Position {
    Position { sequence, hash: Hash::of(&sequence.to_be_bytes()) }
}

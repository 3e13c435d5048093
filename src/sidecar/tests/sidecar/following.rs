//! A workload that follows a feed which is cut, or which takes something back.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::RenewalWindow;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::RawQuery;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::routing::get;
use countersign::{Svid, SvidFuture, SvidSource, Workload};
use data_encoding::BASE64;
use futures_util::{StreamExt, stream};
use identity::feed::{Content, Delta, FeedChange, FeedItem, Heartbeat, Position, Snapshot};
use identity::{SerialNumber, TrustDomain};
use tlog::Hash;

use crate::authority::{TestAuthority, TestSvid, now};
use crate::endpoints::until;
use crate::server::{TestServer, soon};

#[tokio::test]
async fn a_gap_is_filled_by_asking_from_where_one_stands() {
    let feed = Feed::new();
    let lines = [vec![feed.snapshot(1), feed.delta(2, 3)], vec![feed.delta(1, 3)]];
    let Following { workload, asked, _server } = feed.follow(lines).await;
    until(|| workload.status().feed_sequence == 9).await;
    let queries: Vec<_> = asked.lock().unwrap().iter().map(|asked| asked.query.clone()).collect();
    assert_eq!(queries, [None, Some("after=3".to_owned())]);
    let verification = workload.endpoint().verification();
    let is_held = |n| verification.with_revocations(|held| held.is_serial_revoked(&serial(n)));
    assert!([3, 5, 9].into_iter().all(is_held));
    assert_eq!(workload.status().feed_error, None);
}

#[tokio::test]
async fn a_feed_that_takes_something_back_is_not_believed_and_that_is_said() {
    for (what, back) in [
        ("two histories", Feed::fork as fn(&Feed) -> Vec<u8>),
        ("went back from 5 to 3", |feed| feed.snapshot(1)),
    ] {
        let feed = Feed::new();
        let Following { workload, asked, _server } =
            feed.follow([vec![feed.snapshot(2), back(&feed)]]).await;
        let said = || workload.status().feed_error.is_some_and(|error| error.contains(what));
        until(said).await;
        assert_eq!(workload.status().feed_sequence, 5, "{what}");
        until(|| asked.lock().unwrap().len() > 1).await;
        assert_eq!(asked.lock().unwrap()[1].query.as_deref(), Some("after=5"), "{what}");
    }
}

struct Following {
    workload: Workload,
    asked: Asked,
    _server: TestServer,
}

/// How the feed was asked for, each time.
type Asked = Arc<Mutex<Vec<Request>>>;

struct Request {
    query: Option<String>,
    /// The checkpoint that came along.
    shown: Option<String>,
}

#[tokio::test]
async fn the_newest_checkpoint_is_shown_to_the_ca_from_then_on() {
    let feed = Feed::new();
    let lines = [vec![feed.heartbeat(7), feed.heartbeat(9), feed.delta(2, 3)]];
    let Following { workload: _workload, asked, _server } = feed.follow(lines).await;
    until(|| asked.lock().unwrap().len() > 1).await;
    let shown: Vec<_> =
        asked.lock().unwrap()[..2].iter().map(|asked| asked.shown.clone()).collect();
    assert_eq!(shown, [None, Some(feed.authority.checkpoint(9))]);
}

/// A CA's feed with items at 3, 5 and 9.
struct Feed {
    authority: TestAuthority,
    items: Vec<FeedItem>,
}

impl Feed {
    fn new() -> Self {
        let revoke = |n| FeedChange::RevokeSerial { serial_number: serial(n), until: u64::MAX };
        let item = |log_index| FeedItem { log_index, change: revoke(log_index) };
        Self { authority: TestAuthority::new(), items: [3, 5, 9].map(item).to_vec() }
    }

    fn position(&self, count: usize) -> Position {
        let genesis = Position::genesis(&TrustDomain::parse("pay.example").unwrap());
        self.items[..count].iter().fold(genesis, |position, item| position.after(item))
    }

    fn snapshot(&self, count: usize) -> Vec<u8> {
        let serials = self.items[..count].iter().map(|item| serial(item.log_index)).collect();
        let serials = [(u64::MAX, serials)].into();
        self.authority.snapshot(self.position(count), Snapshot { serials, ..Snapshot::default() })
    }

    fn delta(&self, from: usize, to: usize) -> Vec<u8> {
        let previous = self.position(from);
        let delta = Delta {
            previous_sequence: previous.sequence,
            previous_hash: previous.hash,
            items: self.items[from..to].to_vec(),
        };
        self.authority.feed_line(self.position(to), Content::Delta(delta))
    }

    /// Nothing yet, in a log of this size.
    fn heartbeat(&self, log_size: u64) -> Vec<u8> {
        let checkpoint = self.authority.checkpoint(log_size);
        let trust_hash = Hash::of(&self.authority.trust_note());
        let heartbeat = Heartbeat { checkpoint, trust_sequence: 1, trust_hash };
        self.authority.feed_line(self.position(0), Content::Heartbeat(heartbeat))
    }

    /// Another past at the second item's place.
    fn fork(&self) -> Vec<u8> {
        let position = Position { hash: Hash::of(b"another"), ..self.position(2) };
        self.authority.snapshot(position, Snapshot::default())
    }

    /// A workload whose CA has these lines for each connection in turn, and then says the last one
    /// again and again; it ends those for which there are none.
    async fn follow(&self, connections: impl IntoIterator<Item = Vec<Vec<u8>>>) -> Following {
        let connections: VecDeque<_> = connections.into_iter().collect();
        let (left, asked) = (Arc::new(Mutex::new(connections)), Asked::default());
        let (note, noted) = (self.authority.trust_note(), Arc::clone(&asked));
        let feed = async move |RawQuery(query): RawQuery, headers: HeaderMap| {
            let shown = headers.get(api::paths::CHECKPOINT_HEADER);
            let shown = shown.map(|note| BASE64.decode(note.as_bytes()).unwrap());
            let shown = shown.map(|note| String::from_utf8(note).unwrap());
            noted.lock().unwrap().push(Request { query, shown });
            let lines = left.lock().unwrap().pop_front().unwrap_or_default();
            let event = |line: &Vec<u8>| Bytes::from([b"data: ", &line[..], b"\n\n"].concat());
            let last = lines.last().map(event);
            let events = stream::iter(lines.iter().map(event).collect::<Vec<_>>());
            // As a heartbeat would, the last line keeps the connection alive.
            let beats = stream::poll_fn({
                let mut interval = tokio::time::interval(Duration::from_millis(100));
                move |cx| interval.poll_tick(cx).map(|_| last.clone())
            });
            let body = Body::from_stream(events.chain(beats).map(Ok::<_, Infallible>));
            ([("content-type", "text/event-stream")], body).into_response()
        };
        let router = Router::new()
            .route("/v1/feed", get(feed))
            .route("/v1/trust", get(async move || note.clone()));
        let server = TestServer::start(&self.authority, router).await;
        let source = Only::new(self.authority.svid("/prod/reports"));
        let pin = self.authority.pin().to_string();
        let workload = Workload::builder().url(server.url()).trust_pin(pin);
        let workload = soon(workload.svid_source(Arc::new(source)).start()).await.unwrap();
        Following { workload, asked, _server: server }
    }
}

/// One SVID, and no other.
pub(crate) struct Only {
    chain: Vec<rustls::pki_types::CertificateDer<'static>>,
    key: rustls::pki_types::PrivateKeyDer<'static>,
}

impl Only {
    pub(crate) fn new(TestSvid { chain, key, .. }: TestSvid) -> Self {
        Self { chain, key }
    }
}

impl SvidSource for Only {
    fn next(&self, _after: Option<&Svid>) -> SvidFuture<'_> {
        let not_after = now() + time::Duration::hours(24);
        let renewal = RenewalWindow { start: not_after, end: not_after };
        let (chain, key) = (self.chain.clone(), self.key.clone_key());
        Box::pin(async move { Ok(Svid { chain, key, renewal, not_after, trust_sequence: 1 }) })
    }
}

impl std::fmt::Debug for Only {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Only")
    }
}

fn serial(number: u64) -> SerialNumber {
    SerialNumber::from_octets(&number.to_be_bytes()).unwrap()
}

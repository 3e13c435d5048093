//! Peers that ask much over HTTP/2, and take back, or are refused, what they asked.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::AtomicUsize;

use h2::Reason;
use hyper::service::service_fn;
use tokio::io::{DuplexStream, duplex};
use tokio::task::JoinHandle;

use super::*;
use crate::serve::frames::BURST;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asks {
    Answered,
    TakenBack,
    TooLarge,
    TooMany,
}

/// More than a peer may chatter of at once.
const FLOOD: usize = 6_000;
const ROUND: Duration = Duration::from_millis(100);
/// A minute of them.
const ROUNDS: usize = 600;

/// Serves one connection; returns its other end.
fn begin<S>(service: S, most: Http2, limits: Limits) -> (JoinHandle<()>, DuplexStream)
where
    S: Service<Request<Incoming>, Response = Response<String>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
{
    let (ours, theirs) = duplex(1 << 16);
    let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let requests = Requests::new(service, remote, None, limits.unread);
    let serving = async move {
        let (_drains, draining) = watch::channel(false);
        serve_requests(ours, Protocol::Http2(most), requests, &limits, draining).await;
    };
    (tokio::spawn(serving), theirs)
}

/// One request after the other, in no time; says how many before the connection ended.
async fn flood(asks: Asks) -> usize {
    let begun = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&begun);
    let service = service_fn(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            if asks != Asks::Answered {
                std::future::pending::<()>().await;
            }
            Ok::<_, Infallible>(Response::new(String::new()))
        }
    });
    let headers = if asks == Asks::TooMany { 100 } else { 1 << 20 };
    let limits = Limits { headers, ..Limits::default() };
    let (serving, theirs) = begin(service, Http2::of_stranger(&limits), limits);
    let (mut requests, connection) = h2::client::handshake(theirs).await.unwrap();
    let connection = tokio::spawn(connection);
    for asked in 0..FLOOD {
        let Ok(ready) = requests.ready().await else { return asked };
        requests = ready;
        let size = if asks == Asks::TooLarge { 2_900 } else { 30 };
        // From the second on each costs a few bytes: HPACK has a name for it.
        let value = "a".repeat(size);
        let request = Request::get("https://ca/");
        let request = (0..6).fold(request, |request, _| request.header("x", &value));
        let request = request.body(()).unwrap();
        let Ok((answer, mut body)) = requests.send_request(request, true) else { return asked };
        if asks == Asks::TakenBack {
            while begun.load(Ordering::SeqCst) <= asked && !connection.is_finished() {
                tokio::task::yield_now().await;
            }
            body.send_reset(Reason::CANCEL);
            continue;
        }
        match (answer.await, asks) {
            (Ok(answer), Asks::Answered) => assert_eq!(answer.status(), 200),
            (Ok(answer), _) => assert_eq!(answer.status(), 431),
            (Err(error), _) if error.reason() == Some(Reason::REFUSED_STREAM) => {}
            (Err(_), _) => return asked,
        }
    }
    serving.abort();
    FLOOD
}

#[tokio::test(start_paused = true)]
async fn requests_that_come_to_nothing_are_paid_for_and_answered_ones_are_not() {
    assert_eq!(flood(Asks::Answered).await, FLOOD);
    let costs = [(Asks::TakenBack, 2), (Asks::TooLarge, 1), (Asks::TooMany, 1)];
    for (asks, frames) in costs {
        let (asked, may) = (flood(asks).await, BURST as usize / frames);
        assert!((may - 20..may + may / 10).contains(&asked), "{asked} of {may}");
    }
}

/// Whatever one peer may ask at once, ten times a second, of a service that never answers; each
/// request is taken back after so long. Says how many rounds the connection lasted.
async fn give_up(after: Duration) -> usize {
    let (count, begun) = watch::channel(0);
    let service = service_fn(move |_| {
        count.send_modify(|begun| *begun += 1);
        std::future::pending::<Result<Response<String>, Infallible>>()
    });
    let limits = Limits::default();
    let (serving, theirs) = begin(service, Http2::of_peer(&limits), limits);
    let (requests, connection) = h2::client::handshake(theirs).await.unwrap();
    tokio::spawn(connection);
    let rounds = give_up_each(requests, begun, after).await;
    serving.abort();
    rounds
}

async fn give_up_each(
    mut requests: h2::client::SendRequest<bytes::Bytes>,
    mut begun: watch::Receiver<usize>,
    after: Duration,
) -> usize {
    let streams = Limits::default().streams as usize;
    for round in 0..ROUNDS {
        let mut asked = Vec::new();
        for _ in 0..streams {
            let Ok(ready) = requests.ready().await else { return round };
            requests = ready;
            let request = Request::get("https://ledger/").body(()).unwrap();
            let Ok(request) = requests.send_request(request, true) else { return round };
            asked.push(request);
        }
        let all = (round + 1) * streams;
        if begun.wait_for(|begun| *begun == all).await.is_err() {
            return round;
        }
        tokio::time::sleep(after).await;
        asked.iter_mut().for_each(|(_, body)| body.send_reset(Reason::CANCEL));
        tokio::time::sleep(ROUND - after).await;
    }
    ROUNDS
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_given_up_after_a_while_end_no_connection() {
    for millis in [10, 100] {
        assert_eq!(give_up(Duration::from_millis(millis)).await, ROUNDS, "{millis}");
    }
    for millis in [0, 8] {
        let rounds = give_up(Duration::from_millis(millis)).await;
        assert!((15..30).contains(&rounds), "{rounds} of {millis} ms");
    }
}

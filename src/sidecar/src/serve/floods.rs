//! Peers that ask much over HTTP/2, and take back, or are refused, what they asked.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::AtomicUsize;

use h2::Reason;
use hyper::service::service_fn;
use tokio::io::duplex;

use super::*;
use crate::frames::BURST;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asks {
    Answered,
    TakenBack,
    TooLarge,
    TooMany,
}

/// More than a peer may chatter of at once.
const FLOOD: usize = 6_000;

/// One request after the other, in no time; says how many before the connection ended.
async fn flood(asks: Asks) -> usize {
    let (ours, theirs) = duplex(1 << 16);
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
    let (_drains, draining) = watch::channel(false);
    let serving = tokio::spawn(async move {
        let headers = if asks == Asks::TooMany { 100 } else { 1 << 20 };
        let limits = Limits { headers, ..Limits::default() };
        let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let requests = Requests::new(service, remote, None, limits.unread);
        serve_requests(ours, Protocol::Http2, requests, &limits, draining).await;
    });
    let (mut requests, connection) = h2::client::handshake(theirs).await.unwrap();
    let connection = tokio::spawn(connection);
    for asked in 0..FLOOD {
        let Ok(ready) = requests.ready().await else { return asked };
        requests = ready;
        let size = if asks == Asks::TooLarge { 2_900 } else { 30 };
        // From the second on each costs a few bytes: HPACK has a name for it.
        let value = "a".repeat(size);
        let request = Request::get("https://ca/").header("x", &value).header("x", &value);
        let request = request.header("x", &value).body(()).unwrap();
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

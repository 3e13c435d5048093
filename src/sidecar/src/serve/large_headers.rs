//! Headers over HTTP/1.1 that are larger than is read: whoever still sends one hears why it is refused.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};

use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::listen::secure::{LINGER, MAX_LINGER};

const BEGUN: &[u8] = b"GET / HTTP/1.1\r\nhost: ca\r\nx: ";

/// Serves one connection, which holds little that is not yet read; returns its other end.
async fn begin() -> (JoinHandle<()>, DuplexStream) {
    let (ours, mut theirs) = duplex(1024);
    let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let service = service_fn(|_| async { Ok::<_, Infallible>(Response::new(String::new())) });
    let requests = Requests::new(service, remote, None, Limits::default().unread);
    let serving = tokio::spawn(async move {
        let (_drains, draining) = watch::channel(false);
        serve_requests(ours, Protocol::Http1, requests, &Limits::default(), draining).await;
    });
    theirs.write_all(BEGUN).await.unwrap();
    (serving, theirs)
}

#[tokio::test(start_paused = true)]
async fn whoever_sends_seventy_kilobytes_is_answered() {
    let (_serving, mut theirs) = begin().await;
    theirs.write_all(&[b'a'; 70_000]).await.unwrap();
    theirs.write_all(b"\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    theirs.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn header_without_end_is_read_no_further_than_a_clients_haste() {
    let (serving, mut theirs) = begin().await;
    let mut sent = 0;
    while theirs.write_all(&[b'a'; 512]).await.is_ok() {
        sent += 512;
    }
    assert!(sent <= BUFFER + MAX_LINGER as usize + 4096, "{sent}");
    serving.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn whoever_stops_in_the_middle_is_waited_for_a_moment() {
    let begun = Instant::now();
    let (serving, mut theirs) = begin().await;
    theirs.write_all(&[b'a'; 20_000]).await.unwrap();
    serving.await.unwrap();
    assert!(begun.elapsed() <= 2 * LINGER, "{:?}", begun.elapsed());
}

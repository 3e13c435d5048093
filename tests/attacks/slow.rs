//! Strangers that hold what they have: connections, handshakes, headers and bodies without an end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use system_tests::Door;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::attacker::{Attacker, Tally, source};
use crate::crowd;
use crate::http2::{self, DATA, FIRST_WINDOW};

/// TCP, and not a byte of TLS.
pub(crate) async fn handshakes(attacker: Attacker) -> anyhow::Result<()> {
    let (door, count) = (attacker.stranger()?, attacker.count(2_000, 6_000));
    let open = move |number| {
        let door = door.clone().from(source(number, SOURCES));
        async move { door.knock().await }
    };
    attacker.with_many(count, AGAIN, open, stay).await
}

/// The same from the address that operators come from, too.
pub(crate) async fn connects(attacker: Attacker) -> anyhow::Result<()> {
    let (door, count) = (attacker.stranger()?, attacker.count(1_000, 3_000));
    let open = move |_| {
        let door = door.clone();
        async move { door.knock().await }
    };
    attacker.with_many(count, AGAIN, open, stay).await
}

/// Through the handshake, and then nothing.
pub(crate) async fn connections(attacker: Attacker) -> anyhow::Result<()> {
    let count = attacker.count(1_000, 6_000);
    with_strangers(attacker, count, stay).await
}

/// A byte of a header now and then.
pub(crate) async fn headers(attacker: Attacker) -> anyhow::Result<()> {
    let count = attacker.count(500, 2_000);
    with_strangers(attacker, count, |tally, stream| {
        crumbs("GET /v1/trust HTTP/1.1\r\nhost: ca\r\nx-slow: ".to_owned(), tally, stream)
    })
    .await
}

/// A byte of a body now and then.
pub(crate) async fn bodies(attacker: Attacker) -> anyhow::Result<()> {
    let count = attacker.count(500, 2_000);
    with_strangers(attacker, count, |tally, stream| crumbs(begin_post(ISSUE), tally, stream)).await
}

/// All of a body but its last byte.
pub(crate) async fn nearly_whole_bodies(attacker: Attacker) -> anyhow::Result<()> {
    let count = attacker.count(500, 2_000);
    with_strangers(attacker, count, send_nearly_whole).await
}

async fn send_nearly_whole(tally: Arc<Tally>, mut stream: TlsStream<TcpStream>) -> io::Result<()> {
    stream.write_all(begin_post(ISSUE).as_bytes()).await?;
    stream.write_all(&vec![b' '; BODY - 1]).await?;
    stream.flush().await?;
    tally.sent(1);
    stay(tally, stream).await
}

/// The same by many addresses that have a few connections each, and never slower than is suffered.
pub(crate) async fn bodies_of_strangers(attacker: Attacker) -> anyhow::Result<()> {
    let (door, count) = (attacker.stranger()?, attacker.count(400, 2_000));
    let open = move |number| {
        let door = door.clone().from(source(number, ADDRESSES));
        async move { door.open().await }
    };
    attacker.with_many(count, AGAIN, open, |tally, it| hold_a_body(ISSUE, tally, it)).await
}

/// The same by certificates that were renewed from one another, where only those may ask at all.
pub(crate) async fn bodies_of_a_line(attacker: Attacker) -> anyhow::Result<()> {
    let doors: Arc<[Door]> = crowd::line(&attacker, RENEWALS).await?.into();
    let count = doors.len() * attacker.count(16, 64);
    let open = move |number: usize| {
        let door = doors[number % doors.len()].clone();
        async move { door.from(source(number, SOURCES)).open().await }
    };
    attacker.with_many(count, AGAIN, open, |tally, it| hold_a_body(REVOKE, tally, it)).await
}

/// As large as it may be, and as slow: most of it at once, and then what the least rate asks for.
async fn hold_a_body(
    path: &str,
    tally: Arc<Tally>,
    mut stream: TlsStream<TcpStream>,
) -> io::Result<()> {
    stream.write_all(begin_post(path).as_bytes()).await?;
    stream.write_all(&vec![b' '; BODY - 16 * CRUMB]).await?;
    stream.flush().await?;
    tally.sent(1);
    let mut answer = [0; 4096];
    for _ in 0..15 {
        match timeout(CRUMB_EVERY, stream.read(&mut answer)).await {
            Err(_) => stream.write_all(&[b' '; CRUMB]).await?,
            Ok(Ok(read)) if read > 0 => {
                let status = answer.get(9..12).and_then(|status| str::from_utf8(status).ok());
                tally.answered(status.and_then(|status| status.parse().ok()).unwrap_or_default());
                return Ok(());
            }
            Ok(ended) => return ended.map(drop),
        }
    }
    stay(tally, stream).await
}

/// The same over HTTP/2, a hundred bodies on each connection.
pub(crate) async fn nearly_whole_bodies_by_streams(attacker: Attacker) -> anyhow::Result<()> {
    let (door, count) = (attacker.stranger()?.speaking(b"h2"), attacker.count(64, 512));
    let open = move |number| through(door.clone(), number);
    attacker.with_many(count, AGAIN, open, send_by_streams).await
}

/// Sends as much as the server grants, and takes note of what it grants.
async fn send_by_streams(tally: Arc<Tally>, mut stream: TlsStream<TcpStream>) -> io::Result<()> {
    stream.write_all(&http2::preface(&[])).await?;
    let (piece, mut window) = (vec![b' '; PIECE], FIRST_WINDOW);
    for number in (1..).step_by(2).take(STREAMS) {
        stream.write_all(&http2::begin_post(ISSUE, number, BODY)).await?;
        let last = (BODY - 1) % PIECE;
        for size in std::iter::repeat_n(PIECE, BODY / PIECE - 1).chain([last]) {
            stream.flush().await?;
            while window < size {
                window += http2::obey(&mut stream).await?;
            }
            window -= size;
            stream.write_all(&http2::frame(DATA, 0, number, &piece[..size])).await?;
        }
        tally.sent(1);
    }
    stream.flush().await?;
    loop {
        http2::obey(&mut stream).await?;
    }
}

async fn with_strangers<Behave, Behaving>(
    attacker: Attacker,
    count: usize,
    behave: Behave,
) -> anyhow::Result<()>
where
    Behave: Fn(Arc<Tally>, TlsStream<TcpStream>) -> Behaving + Clone + Send + 'static,
    Behaving: Future<Output = io::Result<()>> + Send,
{
    let door = attacker.stranger()?;
    let open = move |number| through(door.clone(), number);
    attacker.with_many(count, AGAIN, open, behave).await
}

async fn through(door: Door, number: usize) -> io::Result<TlsStream<TcpStream>> {
    door.from(source(number, SOURCES)).open().await
}

/// Reads to the end that the server makes.
async fn stay(_: Arc<Tally>, mut stream: impl AsyncRead + Unpin) -> io::Result<()> {
    while stream.read(&mut [0; 4096]).await? > 0 {}
    Ok(())
}

async fn crumbs(
    begin: String,
    tally: Arc<Tally>,
    mut stream: TlsStream<TcpStream>,
) -> io::Result<()> {
    stream.write_all(begin.as_bytes()).await?;
    loop {
        stream.write_all(b"x").await?;
        stream.flush().await?;
        tally.sent(1);
        tokio::time::sleep(CRUMB_EVERY).await;
    }
}

fn begin_post(path: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: ca\r\ncontent-length: {BODY}\r\n\r\n")
}

const ISSUE: &str = "/v1/certificates";
const REVOKE: &str = "/v1/revocations";
/// As much as the API takes.
const BODY: usize = 64 * 1024;
const PIECE: usize = 8 * 1024;
const STREAMS: usize = 100;
const SOURCES: usize = 32;
const ADDRESSES: usize = 100;
const RENEWALS: usize = 16;
/// A little more than a KiB.
const CRUMB: usize = 1100;
const AGAIN: Duration = Duration::from_secs(1);
const CRUMB_EVERY: Duration = Duration::from_secs(1);

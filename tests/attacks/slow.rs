//! Strangers that hold what they have: connections, handshakes, headers and bodies without an end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use system_tests::Door;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::attacker::{Attacker, Tally, source};
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
    with_strangers(attacker, count, |tally, stream| crumbs(begin_post(), tally, stream)).await
}

/// All of a body but its last byte.
pub(crate) async fn nearly_whole_bodies(attacker: Attacker) -> anyhow::Result<()> {
    let count = attacker.count(500, 2_000);
    with_strangers(attacker, count, send_nearly_whole).await
}

async fn send_nearly_whole(tally: Arc<Tally>, mut stream: TlsStream<TcpStream>) -> io::Result<()> {
    stream.write_all(begin_post().as_bytes()).await?;
    stream.write_all(&vec![b' '; BODY - 1]).await?;
    stream.flush().await?;
    tally.sent(1);
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

fn begin_post() -> String {
    format!("POST {ISSUE} HTTP/1.1\r\nhost: ca\r\ncontent-length: {BODY}\r\n\r\n")
}

const ISSUE: &str = "/v1/certificates";
/// As much as the API takes.
const BODY: usize = 64 * 1024;
const PIECE: usize = 8 * 1024;
const STREAMS: usize = 100;
const SOURCES: usize = 32;
const AGAIN: Duration = Duration::from_secs(1);
const CRUMB_EVERY: Duration = Duration::from_secs(1);

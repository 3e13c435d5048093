//! Whoever asks and does not read.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use system_tests::Door;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::attacker::{Attacker, Tally, source};
use crate::http2::{self, INITIAL_WINDOW};

/// HTTP/1.1: `openapi.json`, twenty times a second on each connection.
pub(crate) async fn api(attacker: Attacker) -> anyhow::Result<()> {
    let (door, count) = (deaf(attacker.stranger()?), attacker.count(64, 512));
    let open = move |number| by(door.clone(), number);
    attacker.with_many(count, AGAIN, open, |tally, stream| ask(tally, stream, OPENAPI)).await
}

/// HTTP/2, a hundred streams a connection, all the window that there is, and not a byte read.
pub(crate) async fn http_2(attacker: Attacker) -> anyhow::Result<()> {
    let (door, count) = (deaf(attacker.stranger()?).speaking(b"h2"), attacker.count(64, 512));
    let open = move |number| by(door.clone(), number);
    attacker.with_many(count, AGAIN, open, ask_by_streams).await
}

/// HTTP/2 with no window at all: the transport is read, pings are answered, answers wait.
pub(crate) async fn no_window(attacker: Attacker) -> anyhow::Result<()> {
    let (door, count) = (attacker.stranger()?.speaking(b"h2"), attacker.count(64, 512));
    let open = move |number| by(door.clone(), number);
    attacker.with_many(count, AGAIN, open, ask_without_window).await
}

/// The admin port: `/metrics`.
pub(crate) async fn admin(attacker: Attacker) -> anyhow::Result<()> {
    let (admin, count) = (attacker.admin, attacker.count(64, 512));
    let open = move |number| async move {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(DEAF)?;
        socket.bind((source(number, SOURCES), 0).into())?;
        socket.connect(admin).await
    };
    attacker.with_many(count, AGAIN, open, |tally, stream| ask(tally, stream, "/metrics")).await
}

async fn by(
    door: Door,
    number: usize,
) -> io::Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
    door.from(source(number, SOURCES)).open().await
}

fn deaf(door: Door) -> Door {
    door.with_receive_buffer(DEAF)
}

async fn ask(tally: Arc<Tally>, mut stream: impl AsyncWrite + Unpin, path: &str) -> io::Result<()> {
    let requests = format!("GET {path} HTTP/1.1\r\nhost: ca\r\n\r\n").repeat(4);
    loop {
        stream.write_all(requests.as_bytes()).await?;
        stream.flush().await?;
        tally.sent(4);
        tokio::time::sleep(PACE).await;
    }
}

async fn ask_by_streams(tally: Arc<Tally>, mut stream: impl AsyncWrite + Unpin) -> io::Result<()> {
    stream.write_all(&http2::preface(&[(INITIAL_WINDOW, 1 << 30)])).await?;
    stream
        .write_all(&http2::frame(http2::WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes()))
        .await?;
    ask_on_each_stream(&tally, &mut stream).await?;
    // What is not read does not tell of an end.
    std::future::pending().await
}

async fn ask_without_window(
    tally: Arc<Tally>,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<()> {
    stream.write_all(&http2::preface(&[(INITIAL_WINDOW, 0)])).await?;
    ask_on_each_stream(&tally, &mut stream).await?;
    loop {
        http2::obey(&mut stream).await?;
    }
}

async fn ask_on_each_stream(
    tally: &Tally,
    stream: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    for number in 0..STREAMS {
        stream.write_all(&http2::ask(OPENAPI, 2 * number + 1)).await?;
        tally.sent(1);
    }
    stream.flush().await
}

const OPENAPI: &str = "/v1/openapi.json";
const STREAMS: u32 = 100;
const SOURCES: usize = 16;
/// So little does the kernel take that loopback's own buffers do not hide who reads nothing.
const DEAF: u32 = 4096;
const PACE: Duration = Duration::from_millis(200);
const AGAIN: Duration = Duration::from_secs(1);

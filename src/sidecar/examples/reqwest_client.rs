//! The same by reqwest, which keeps its own connections: new ones are verified, those that are open
//! outlive a revocation.
//!
//! `cargo run -p countersign --example reqwest_client -- https://127.0.0.1:8443/api/data/reports`

use std::error::Error;
use std::time::Duration;

use countersign::{Peers, Workload};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let url = std::env::args().nth(1).ok_or("usage: reqwest_client URL")?;
    let peers = Peers::from_env()?;
    let workload = Workload::from_env()?.start().await?;

    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(workload.unregistered_client_config(peers)?)
        // What is idle for longer is verified anew.
        .pool_idle_timeout(Duration::from_secs(5))
        .build()?;
    let answer = client.get(url).send().await?.error_for_status()?;
    print!("{}", answer.text().await?);
    workload.stop().await;
    Ok(())
}

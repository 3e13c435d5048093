//! An HTTP service that knows its callers; `/stream` shows how a revocation cuts one off.
//!
//! `COUNTERSIGN_URL=… COUNTERSIGN_TRUST_PIN=… COUNTERSIGN_TOKEN_FILE=… COUNTERSIGN_PEERS=…
//! cargo run -p countersign --example axum_server [ADDRESS]`

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use countersign::{Peer, Peers, Workload};
use futures_util::stream;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8443".to_owned());
    let peers = Peers::from_env()?;
    let workload = Workload::from_env()?.start().await?;

    let app = Router::new().route("/api/data/reports", get(data)).route("/stream", get(lines));
    let listener = workload.listen(address, peers).await?;
    println!("{} on {}", workload.status().spiffe_id, listener.local_address());
    listener.serve(app).until(interrupted(), Duration::from_secs(20)).await?;
    workload.stop().await;
    Ok(())
}

async fn data(peer: Peer) -> String {
    format!("hello {}\n", peer.spiffe_id())
}

/// A line each 200 ms, until the caller goes, or is revoked.
async fn lines(peer: Peer) -> Body {
    Body::from_stream(stream::unfold(0_u64, move |count| {
        let line = format!("{count} {}\n", peer.spiffe_id());
        async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Some((Ok::<_, Infallible>(Bytes::from(line)), count + 1))
        }
    }))
}

async fn interrupted() {
    // Without the signal there is only the other way to end: SIGKILL.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}

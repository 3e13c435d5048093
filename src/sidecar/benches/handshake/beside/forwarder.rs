//! The least that makes a proxy of a [`Listener`](countersign::Listener).

use std::path::Path;

use countersign::{Limits, Stream};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

use crate::folder;
use crate::process::runtime;

/// Forwards from one address to another with the files of a folder, until it is killed.
pub(crate) fn forward(address: &str, backend: &str, folder: &Path) {
    let (endpoint, peers) = folder::open(folder);
    runtime().block_on(async {
        let listener = endpoint.listen(address, peers).await.unwrap();
        let limits = Limits { connections: 15_000, ..Limits::default() };
        let mut listener = listener.with_limits(limits);
        while let Some(stream) = listener.accept().await {
            tokio::spawn(relay(stream, backend.to_owned()));
        }
    });
}

async fn relay(mut stream: Stream, backend: String) {
    let mut backend = TcpStream::connect(backend).await.unwrap();
    backend.set_nodelay(true).unwrap();
    // Either end may break off.
    let _ = copy_bidirectional(&mut stream, &mut backend).await;
}

/// The argument of a process that is to forward.
pub(crate) const MODE: &str = "forward";

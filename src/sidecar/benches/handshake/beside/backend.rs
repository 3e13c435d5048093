//! What stands behind every proxy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::process::in_thread;
use crate::requests::hello;

/// A plain HTTP server that says hello.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    open: Arc<AtomicUsize>,
}

impl Backend {
    pub(crate) fn start() -> Self {
        let open = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&open);
        let (_, address) = in_thread(async move |ready| {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            ready.send(listener.local_addr().unwrap()).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let open = Arc::clone(&counted);
                open.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let http = hyper::server::conn::http1::Builder::new();
                    // A proxy that goes away is no failure of ours.
                    let _ = http.serve_connection(TokioIo::new(stream), service_fn(hello)).await;
                    open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self { address, open }
    }

    /// Connections that are open now.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

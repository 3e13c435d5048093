//! The peer that is revoked: plain rustls on a thread of its own, so that it notices in time.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use anyhow::Context;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio_rustls::TlsAcceptor;

/// A server that reads whatever it is sent; ends when dropped.
pub(crate) struct RevokedPeer {
    pub(crate) address: SocketAddr,
    ends: UnboundedReceiver<End>,
}

/// What it saw of one connection.
pub(crate) struct End {
    /// When the last byte came.
    pub(crate) last_byte: Instant,
    /// When it was over.
    pub(crate) at: Instant,
}

impl RevokedPeer {
    /// Shows the certificate of a folder.
    pub(crate) fn start(folder: &Path) -> anyhow::Result<Self> {
        let chain = CertificateDer::pem_file_iter(folder.join("svid.pem"))?;
        let chain = chain.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(folder.join("svid.key"))?;
        let tls = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
        let socket = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let (sender, ends) = mpsc::unbounded_channel();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        thread::spawn(move || runtime.block_on(serve(socket, Arc::new(tls).into(), sender)));
        Ok(Self { address, ends })
    }

    /// What it saw of so many connections, which must all have ended.
    pub(crate) fn ends(&mut self, count: usize) -> anyhow::Result<Vec<End>> {
        let ended = (0..count).map(|_| self.ends.try_recv().context("a connection is still open"));
        ended.collect()
    }
}

async fn serve(
    socket: std::net::TcpListener,
    tls: TlsAcceptor,
    ends: UnboundedSender<End>,
) -> std::io::Result<()> {
    let socket = TcpListener::from_std(socket)?;
    loop {
        let (stream, _) = tokio::select! {
            () = ends.closed() => return Ok(()),
            accepted = socket.accept() => accepted?,
        };
        let (tls, ends) = (tls.clone(), ends.clone());
        tokio::spawn(async move {
            if let Ok(end) = read(stream, tls).await {
                // Nobody asks any more.
                let _ = ends.send(end);
            }
        });
    }
}

async fn read(stream: TcpStream, tls: TlsAcceptor) -> std::io::Result<End> {
    let mut stream = tls.accept(stream).await?;
    let (mut buffer, mut last_byte) = ([0; 64], Instant::now());
    while let Ok(1..) = stream.read(&mut buffer).await {
        last_byte = Instant::now();
    }
    Ok(End { last_byte, at: Instant::now() })
}

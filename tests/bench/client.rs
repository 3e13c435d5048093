//! A client that costs little: HTTP/1.1 with keep-alive, as bytes over TLS 1.3.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use system_tests::{Environment, TRUST_DOMAIN};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::process::Process;

/// The server, and how an operator connects to it.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) process: Process,
    address: SocketAddr,
    tls: TlsConnector,
}

impl Target {
    /// Takes the operator's certificate from the context that `init` made.
    pub(crate) fn of(environment: &Environment) -> anyhow::Result<Self> {
        let context = environment.path(&format!(".config/countersign/{TRUST_DOMAIN}"));
        let certificates = |name: &str| -> anyhow::Result<Vec<CertificateDer<'static>>> {
            let path = context.join(name);
            let found: Result<_, _> = CertificateDer::pem_file_iter(&path)
                .with_context(|| path.display().to_string())?
                .collect();
            Ok(found?)
        };
        let mut roots = RootCertStore::empty();
        for root in certificates("bundle.pem")? {
            roots.add(root)?;
        }
        let key = PrivateKeyDer::from_pem_file(context.join("svid.key"))?;
        let mut tls = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates("svid.pem")?, key)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let process = Process(environment.server_pid());
        Ok(Self { process, address: environment.address(), tls: Arc::new(tls).into() })
    }
}

/// One connection.
pub(crate) struct Client {
    stream: TlsStream<TcpStream>,
    received: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(target: &Target) -> io::Result<Self> {
        let stream = TcpStream::connect(target.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(target.address.ip());
        let stream = target.tls.connect(name, stream).await?;
        Ok(Self { stream, received: Vec::with_capacity(8 * 1024) })
    }

    /// Sends a request, reads the whole answer, and returns its status.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<u16> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        self.received.clear();
        loop {
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(status) = complete(&self.received) {
                return Ok(status);
            }
        }
    }

    /// The body of the newest answer.
    pub(crate) fn body(&self) -> String {
        let text = String::from_utf8_lossy(&self.received);
        text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
    }
}

/// The status of an answer, once all of it is here. The server always names a length.
fn complete(received: &[u8]) -> Option<u16> {
    let end = received.windows(4).position(|window| window == b"\r\n\r\n")?;
    let header = std::str::from_utf8(&received[..end]).ok()?;
    let length: usize =
        header.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse().ok()?;
    let status = header.split(' ').nth(1)?.parse().ok()?;
    (received.len() >= end + 4 + length).then_some(status)
}

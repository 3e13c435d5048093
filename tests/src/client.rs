//! A client that costs little: HTTP/1.1 with keep-alive, as bytes over TLS 1.3.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::environment::{Environment, TRUST_DOMAIN};
use crate::process::Process;

/// The server, and how an operator connects to it.
#[derive(Clone)]
pub struct Target {
    /// `serve`.
    pub process: Process,
    /// The operator's.
    pub door: Door,
}

impl Target {
    /// Takes the operator's certificate from the context that `init` made.
    pub fn of(environment: &Environment) -> anyhow::Result<Self> {
        let context = environment.path(&format!(".config/countersign/{TRUST_DOMAIN}"));
        let bundle = std::fs::read(context.join("bundle.pem"))?;
        let door = Door::showing(&context, environment.address(), &bundle)?;
        Ok(Self { process: Process(environment.server_pid()), door })
    }
}

/// How somebody connects: where to, from which address, and what is shown.
#[derive(Clone)]
pub struct Door {
    address: SocketAddr,
    source: IpAddr,
    receive_buffer: Option<u32>,
    tls: Arc<ClientConfig>,
}

impl Door {
    /// Shows no certificate. The bundle is PEM.
    pub fn of_stranger(address: SocketAddr, bundle: &[u8]) -> anyhow::Result<Self> {
        Ok(Self::of(address, with_roots(bundle)?.with_no_client_auth()))
    }

    /// Shows the certificate of a folder: `svid.pem` and `svid.key`.
    pub fn showing(folder: &Path, address: SocketAddr, bundle: &[u8]) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).with_context(|| path.display().to_string())
        };
        Self::with_certificate(&read("svid.pem")?, &read("svid.key")?, address, bundle)
    }

    /// Shows a certificate with its chain and key, all PEM.
    pub fn with_certificate(
        chain: &[u8],
        key: &[u8],
        address: SocketAddr,
        bundle: &[u8],
    ) -> anyhow::Result<Self> {
        let key = PrivateKeyDer::from_pem_slice(key)?;
        let tls = with_roots(bundle)?.with_client_auth_cert(certificates(chain)?, key)?;
        Ok(Self::of(address, tls))
    }

    fn of(address: SocketAddr, mut tls: ClientConfig) -> Self {
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let source = Ipv4Addr::LOCALHOST.into();
        Self { address, source, receive_buffer: None, tls: tls.into() }
    }

    /// Comes from this address, one of loopback's.
    #[must_use]
    pub fn from(self, source: IpAddr) -> Self {
        Self { source, ..self }
    }

    /// Speaks HTTP/2, or anything else that TLS may name.
    #[must_use]
    pub fn speaking(mut self, protocol: &[u8]) -> Self {
        Arc::make_mut(&mut self.tls).alpn_protocols = vec![protocol.to_vec()];
        self
    }

    /// Lets the kernel take so few bytes that nobody reads.
    #[must_use]
    pub fn with_receive_buffer(self, bytes: u32) -> Self {
        Self { receive_buffer: Some(bytes), ..self }
    }

    /// Connects, and begins no TLS.
    pub async fn knock(&self) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if let Some(bytes) = self.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        if self.source != Ipv4Addr::LOCALHOST {
            socket.bind((self.source, 0).into())?;
        }
        let stream = socket.connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Connects, and is through the handshake.
    pub async fn open(&self) -> io::Result<TlsStream<TcpStream>> {
        let (stream, name) = (self.knock().await?, ServerName::from(self.address.ip()));
        TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await
    }

    /// What requests call the server.
    pub fn host(&self) -> String {
        self.address.to_string()
    }
}

fn with_roots(
    bundle: &[u8],
) -> anyhow::Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>> {
    let mut roots = RootCertStore::empty();
    for root in certificates(bundle)? {
        roots.add(root)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider);
    Ok(config.with_safe_default_protocol_versions()?.with_root_certificates(roots))
}

fn certificates(pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found: Result<_, _> = CertificateDer::pem_slice_iter(pem).collect();
    Ok(found?)
}

/// One connection.
pub struct Client {
    stream: TlsStream<TcpStream>,
    received: Vec<u8>,
}

impl Client {
    /// Connects, and is through the handshake.
    pub async fn connect(door: &Door) -> io::Result<Self> {
        Ok(Self { stream: door.open().await?, received: Vec::with_capacity(8 * 1024) })
    }

    /// Sends a request, reads the whole answer, and returns its status.
    pub async fn exchange(&mut self, request: &[u8]) -> io::Result<u16> {
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
    pub fn body(&self) -> String {
        let text = String::from_utf8_lossy(&self.received);
        text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
    }
}

/// The status of an answer, once all of it is here. The server always names a length, but for the
/// answer that has none (RFC 9110 §15.3.5).
fn complete(received: &[u8]) -> Option<u16> {
    let end = received.windows(4).position(|window| window == b"\r\n\r\n")?;
    let header = std::str::from_utf8(&received[..end]).ok()?;
    let status = header.split(' ').nth(1)?.parse().ok()?;
    let length: usize = match status {
        204 => 0,
        _ => header.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse().ok()?,
    };
    (received.len() >= end + 4 + length).then_some(status)
}

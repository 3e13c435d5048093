//! Connections of the HTTP client: TCP, then TLS by our own configuration, and nothing else.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::error::tls_error;
use crate::handshake::HTTP_2;

/// Opens verified connections. A server that fails verification gets nothing after its certificate.
#[derive(Clone)]
pub(crate) struct Connector {
    tls: TlsConnector,
    failure: TlsFailure,
}

/// The last TLS error that ended a connection after its handshake.
///
/// In TLS 1.3 a server refuses a client's certificate when the client is done already and sends its
/// request; and hyper's HTTP/2 keeps of such an error no more than its text.
#[derive(Clone, Default)]
pub(crate) struct TlsFailure(Arc<Mutex<Option<rustls::Error>>>);

impl TlsFailure {
    /// Takes the error, if there was one.
    pub(crate) fn take(&self) -> Option<rustls::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn keep(&self, error: &io::Error) {
        if let Some(error) = tls_error(error) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
        }
    }
}

impl Connector {
    pub(crate) fn new(tls: Arc<ClientConfig>) -> Self {
        Self { tls: TlsConnector::from(tls), failure: TlsFailure::default() }
    }

    pub(crate) fn failure(&self) -> TlsFailure {
        self.failure.clone()
    }

    async fn connect(self, uri: Uri) -> io::Result<TlsConnection> {
        // http::Uri leaves an IPv6 address its brackets.
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(HTTPS))).await?;
        stream.set_nodelay(true)?;
        let stream = self.tls.connect(name, stream).await?;
        Ok(TlsConnection { stream: TokioIo::new(stream), failure: self.failure })
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TlsConnection;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TlsConnection>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connect = tokio::time::timeout(CONNECT_TIMEOUT, self.clone().connect(uri));
        Box::pin(async move { connect.await? })
    }
}

/// A verified connection.
pub(crate) struct TlsConnection {
    stream: TokioIo<TlsStream<TcpStream>>,
    failure: TlsFailure,
}

impl Connection for TlsConnection {
    fn connected(&self) -> Connected {
        match self.stream.inner().get_ref().1.alpn_protocol() {
            Some(HTTP_2) => Connected::new().negotiated_h2(),
            _ => Connected::new(),
        }
    }
}

impl Read for TlsConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Poll::Ready(Err(error)) = &polled {
            self.failure.keep(error);
        }
        polled
    }
}

impl Write for TlsConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

const HTTPS: u16 = 443;
/// TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

//! One connection by HTTP/1.1, byte by byte.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use countersign::{Credentials, ExpectedServer, Verification, client_config};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Service;

pub(crate) struct Wire {
    stream: TlsStream<TcpStream>,
    held: Vec<u8>,
}

/// An answer, with its header's names in lower case.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// TLS to the service, of this protocol.
pub(crate) async fn connect(
    service: &Service,
    credentials: Option<&Arc<Credentials>>,
    protocol: &[u8],
) -> TlsStream<TcpStream> {
    connect_from(Ipv4Addr::LOCALHOST, service, credentials, protocol).await
}

/// The same from another address of loopback.
async fn connect_from(
    source: Ipv4Addr,
    service: &Service,
    credentials: Option<&Arc<Credentials>>,
    protocol: &[u8],
) -> TlsStream<TcpStream> {
    let verification = Verification::new(identity::Trust::clone(&service.authority.view.trust()));
    let expected = ExpectedServer::authority(service.authority.view.trust_domain());
    let config = client_config(verification, expected, credentials.cloned()).unwrap();
    let mut config = rustls::ClientConfig::clone(&config);
    config.alpn_protocols = vec![protocol.to_vec()];
    let address = service.running.address;
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    let stream = socket.connect(address).await.unwrap();
    let name = ServerName::from(address.ip());
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

impl Wire {
    pub(crate) async fn open(service: &Service, credentials: Option<&Arc<Credentials>>) -> Self {
        Self { stream: connect(service, credentials, b"http/1.1").await, held: Vec::new() }
    }

    pub(crate) async fn open_from(
        source: Ipv4Addr,
        service: &Service,
        credentials: Option<&Arc<Credentials>>,
    ) -> Self {
        let stream = connect_from(source, service, credentials, b"http/1.1").await;
        Self { stream, held: Vec::new() }
    }

    /// Sends as much as is taken: whoever has answered may take no more.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        if self.stream.write_all(bytes).await.is_ok() {
            drop(self.stream.flush().await);
        }
    }

    /// A request with a host and nothing else, and its answer.
    pub(crate) async fn ask(&mut self, line: &str) -> Answer {
        self.exchange(line, "", "").await
    }

    /// A request with further lines of its header, each ended, and with its body's length.
    pub(crate) async fn exchange(&mut self, line: &str, fields: &str, body: &str) -> Answer {
        let length = match body.len() {
            0 => String::new(),
            length => format!("content-length: {length}\r\n"),
        };
        let request = format!("{line} HTTP/1.1\r\nhost: ca\r\n{fields}{length}\r\n{body}");
        self.send(request.as_bytes()).await;
        self.answer_to(line).await
    }

    /// The next answer, to a request that begins so.
    pub(crate) async fn answer_to(&mut self, request: &str) -> Answer {
        let answer = tokio::time::timeout(PATIENCE, self.read(request.starts_with("HEAD")));
        answer.await.unwrap_or_else(|_| panic!("no answer to {request:.80}"))
    }

    async fn read(&mut self, is_head: bool) -> Answer {
        loop {
            if let Some((answer, length)) = parse(&self.held, is_head) {
                self.held.drain(..length);
                return answer;
            }
            let read = self.stream.read_buf(&mut self.held).await;
            let held = String::from_utf8_lossy(&self.held);
            assert!(read.as_ref().is_ok_and(|read| *read > 0), "{read:?} after {held:.300}");
        }
    }

    /// The status of an answer that is here, or comes in a moment; none where none does.
    pub(crate) async fn answered(&mut self) -> Option<u16> {
        let answer = tokio::time::timeout(MOMENT, self.read(false)).await;
        answer.ok().map(|answer| answer.status)
    }

    /// Whether the service ends it without another byte.
    pub(crate) async fn ends(mut self) -> bool {
        let end = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.held)).await;
        matches!(end, Ok(Ok(0) | Err(_))) && self.held.is_empty()
    }
}

impl Answer {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(crate) fn says_close(&self) -> bool {
        self.field("connection") == Some("close")
    }

    /// The name of its problem, where it is one in every respect.
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.field("content-type"), Some("application/problem+json"), "{self:?}");
        let problem: api::Problem = serde_json::from_str(&self.body).unwrap();
        assert_eq!(problem.status, self.status);
        assert_eq!(Some(&*problem.request_id), self.field("x-request-id"));
        problem.problem_type.name().to_owned()
    }
}

fn parse(held: &[u8], is_head: bool) -> Option<(Answer, usize)> {
    let end = held.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8(held[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length = if is_head { 0 } else { length.map_or(0, |length| length.parse().unwrap()) };
    let whole = end + length;
    let body = String::from_utf8_lossy(held.get(end..whole)?).into_owned();
    Some((Answer { status, head, body }, whole))
}

const MOMENT: Duration = Duration::from_millis(20);
/// For what a busy machine takes long for; an idle connection stays for minutes.
const PATIENCE: Duration = Duration::from_secs(30);

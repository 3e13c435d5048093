//! Sessions that resume: where it is allowed, while nothing has changed, and never unverified.
//!
//! The other end is always one that keeps every session it is given and tries to resume it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use countersign::{
    Credentials, Endpoint, Error, HttpClient, Listener, Staleness, Stream, Verification, WhenStale,
};
use identity::Refusal;
use rustls::HandshakeKind::{self, Full, Resumed};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::server::ServerSessionMemoryCache;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ClientConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::authority::{Log, TestAuthority, now};
use crate::endpoints::{HeldClock, LEDGER, REPORTS, WITNESS};
use crate::server::soon;

const MAX_AGE: Duration = Duration::from_secs(60);

/// A ledger that lets sessions resume, and reports that keep theirs.
struct Returning {
    authority: TestAuthority,
    clock: Arc<HeldClock>,
    ledger: Endpoint,
    listener: Listener,
    own: Arc<Credentials>,
    reports: Arc<ClientConfig>,
}

impl Returning {
    async fn new() -> Self {
        Self::to(|endpoint| endpoint.allow_resumption(MAX_AGE)).await
    }

    async fn to(prepare: fn(Endpoint) -> Endpoint) -> Self {
        let (authority, clock) = (TestAuthority::new(), HeldClock::new());
        let time = Arc::clone(&clock) as Arc<dyn TimeProvider>;
        let verification = Verification::with_clock(authority.trust(), time);
        let credentials = authority.svid(LEDGER).credentials();
        let ledger = prepare(Endpoint::new(credentials, verification));
        let listener = authority.listener(&ledger).await;
        let reports = authority.endpoint(REPORTS);
        let own = Arc::clone(reports.credentials());
        let reports = keeps_sessions(&authority, &reports);
        Self { authority, clock, ledger, listener, own, reports }
    }

    /// Connects once more; both ends agree how.
    async fn comes(&mut self) -> (HandshakeKind, Stream, TlsStream<TcpStream>) {
        let address = self.listener.local_address();
        let connecting = connect(Arc::clone(&self.reports), address);
        let (accepted, connected) =
            soon(async { tokio::join!(self.listener.accept(), connecting) }).await;
        let (mut accepted, mut connected) = (accepted.unwrap(), connected.unwrap());
        // The session comes with the first bytes.
        accepted.write_all(b"x").await.unwrap();
        soon(connected.read_exact(&mut [0; 1])).await.unwrap();
        let kind = connected.get_ref().1.handshake_kind().unwrap();
        assert_eq!(accepted.has_resumed(), kind == Resumed);
        (kind, accepted, connected)
    }

    async fn kind(&mut self) -> HandshakeKind {
        self.comes().await.0
    }

    /// Begins to resume, and stops before the last word.
    async fn begins(&self) -> (ClientConnection, TcpStream) {
        let address = self.listener.local_address();
        let name = ServerName::from(address.ip());
        let mut client = ClientConnection::new(Arc::clone(&self.reports), name).unwrap();
        let mut socket = TcpStream::connect(address).await.unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        socket.write_all(&hello).await.unwrap();
        let mut answer = Vec::new();
        while client.is_handshaking() {
            soon(socket.read_buf(&mut answer)).await.unwrap();
            client.read_tls(&mut &answer[..]).unwrap();
            answer.clear();
            client.process_new_packets().unwrap();
        }
        (client, socket)
    }

    fn revoke(&self, path: &str) {
        let id = self.authority.id(path);
        self.ledger.verification().update_revocations(|held| held.revoke_identity(id, u64::MAX));
    }
}

fn keeps_sessions(authority: &TestAuthority, endpoint: &Endpoint) -> Arc<ClientConfig> {
    let mut config = endpoint.unregistered_client_config(authority.peers(&[LEDGER])).unwrap();
    config.resumption = Resumption::in_memory_sessions(8);
    Arc::new(config)
}

async fn connect(
    config: Arc<ClientConfig>,
    address: SocketAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(config).connect(address.ip().into(), stream).await
}

async fn finish(client: &mut ClientConnection, socket: &mut TcpStream) {
    let mut finished = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut finished).unwrap();
    }
    socket.write_all(&finished).await.unwrap();
}

#[tokio::test]
async fn no_session_resumes_unless_it_is_allowed() {
    let mut returning = Returning::to(|endpoint| endpoint).await;
    assert_eq!([returning.kind().await, returning.kind().await], [Full, Full]);
    let mut returning = Returning::new().await;
    assert_eq!([returning.kind().await, returning.kind().await], [Full, Resumed]);
}

/// RFC 8446 §8: what comes early can be replayed.
#[tokio::test]
async fn no_session_takes_early_data() {
    let mut returning = Returning::new().await;
    let mut reports = ClientConfig::clone(&returning.reports);
    reports.enable_early_data = true;
    returning.reports = Arc::new(reports);
    assert_eq!([returning.kind().await, returning.kind().await], [Full, Resumed]);
    let name = ServerName::from(returning.listener.local_address().ip());
    let mut client = ClientConnection::new(Arc::clone(&returning.reports), name).unwrap();
    assert!(client.early_data().is_none());
}

#[tokio::test]
async fn whoever_resumes_is_the_peer_that_it_was() {
    let mut returning = Returning::new().await;
    let (_, first, _) = returning.comes().await;
    let (kind, second, _) = returning.comes().await;
    assert_eq!(kind, Resumed);
    assert_eq!(second.peer(), first.peer());
    assert_eq!(second.key_exchange().unwrap(), "X25519MLKEM768");
}

#[tokio::test]
async fn no_session_outlives_a_change() {
    let mut returning = Returning::new().await;
    let changes: [fn(&Returning); 4] = [
        |returning| returning.revoke(WITNESS),
        |returning| {
            let newer = returning.authority.trust_with(|state| state.sequence += 1);
            returning.ledger.verification().replace_trust(newer);
        },
        |returning| {
            let renewed = returning.authority.svid(LEDGER);
            returning.ledger.credentials().replace(renewed.chain, renewed.key).unwrap();
        },
        |returning| {
            let peers = returning.authority.peers(&[REPORTS]);
            returning.listener.peers().replace(peers);
        },
    ];
    assert_eq!(returning.kind().await, Full);
    for (number, change) in changes.into_iter().enumerate() {
        assert_eq!(returning.kind().await, Resumed, "before {number}");
        change(&returning);
        assert_eq!(returning.kind().await, Full, "after {number}");
    }
}

#[tokio::test]
async fn no_session_is_older_than_it_may_be_however_often_it_resumed() {
    let mut returning = Returning::new().await;
    assert_eq!(returning.kind().await, Full);
    returning.clock.advance(40);
    assert_eq!(returning.kind().await, Resumed);
    returning.clock.advance(20);
    assert_eq!(returning.kind().await, Full);
}

/// Begun in time and finished late, a handshake leaves a session that nobody finds.
#[tokio::test]
async fn handshake_across_the_end_of_an_era_carries_nothing_over() {
    let mut returning = Returning::new().await;
    assert_eq!(returning.kind().await, Full);
    let (mut client, mut socket) = returning.begins().await;
    assert_eq!(client.handshake_kind(), Some(Resumed));
    returning.clock.advance(60);
    finish(&mut client, &mut socket).await;
    let mut accepted = soon(returning.listener.accept()).await.unwrap();
    assert!(accepted.has_resumed());
    accepted.write_all(b"x").await.unwrap();
    let mut bytes = Vec::new();
    while client.process_new_packets().unwrap().plaintext_bytes_to_read() == 0 {
        soon(socket.read_buf(&mut bytes)).await.unwrap();
        client.read_tls(&mut &bytes[..]).unwrap();
        bytes.clear();
    }
    assert_eq!(returning.kind().await, Full);
}

/// TLS itself is done with it; what follows the handshake is not.
#[tokio::test]
async fn revoked_peer_is_refused_on_a_resumed_session() {
    let mut returning = Returning::new().await;
    assert_eq!(returning.kind().await, Full);
    let (mut client, mut socket) = returning.begins().await;
    assert_eq!(client.handshake_kind(), Some(Resumed));
    returning.revoke(REPORTS);
    finish(&mut client, &mut socket).await;
    assert_ends_unheard(&returning, socket).await;
}

#[tokio::test]
async fn peer_that_is_no_longer_accepted_is_refused_on_a_resumed_session() {
    let mut returning = Returning::new().await;
    assert_eq!(returning.kind().await, Full);
    let (mut client, mut socket) = returning.begins().await;
    returning.listener.peers().replace(returning.authority.peers(&[WITNESS]));
    finish(&mut client, &mut socket).await;
    assert_ends_unheard(&returning, socket).await;
}

#[tokio::test]
async fn expired_peer_is_refused_on_a_resumed_session() {
    let mut returning = Returning::new().await;
    let not_after = returning.comes().await.1.peer().not_after();
    returning.clock.advance_to(not_after - 30);
    assert_eq!(returning.kind().await, Full, "the era before has ended");
    returning.clock.advance(31);
    let (mut client, mut socket) = returning.begins().await;
    assert_eq!(client.handshake_kind(), Some(Resumed));
    finish(&mut client, &mut socket).await;
    assert_ends_unheard(&returning, socket).await;
}

#[tokio::test]
async fn nobody_resumes_where_old_revocations_refuse_everybody() {
    let mut returning = Returning::new().await;
    let verification = Arc::clone(returning.ledger.verification());
    verification.set_staleness(Staleness { max_staleness: MAX_AGE / 2, then: WhenStale::Refuse });
    verification.confirm_revocations(returning.clock.now());
    assert_eq!(returning.kind().await, Full);
    let (mut client, mut socket) = returning.begins().await;
    assert_eq!(client.handshake_kind(), Some(Resumed));
    returning.clock.advance(31);
    finish(&mut client, &mut socket).await;
    assert_ends_unheard(&returning, socket).await;
}

/// Its session does not know of its new certificate: others' clients keep both apart.
#[tokio::test]
async fn peer_that_has_renewed_is_refused_once_at_most() {
    let mut returning = Returning::new().await;
    let not_after = returning.comes().await.1.peer().not_after();
    returning.clock.advance_to(not_after - 30);
    assert_eq!(returning.kind().await, Full);
    let time = now() + time::Duration::hours(20);
    let renewed = returning.authority.svid_at(REPORTS, time, Log::Asked);
    returning.own.replace(renewed.chain, renewed.key).unwrap();
    returning.clock.advance(31);
    let connected = connect(Arc::clone(&returning.reports), returning.listener.local_address());
    let mut refused = soon(connected).await.unwrap();
    assert_eq!(refused.get_ref().1.handshake_kind(), Some(Resumed), "with the old one");
    assert!(!matches!(soon(refused.read(&mut [0; 1])).await, Ok(1)));
    assert_eq!(returning.kind().await, Full, "with the new one");
}

/// The connection ends, and nothing of it is left.
async fn assert_ends_unheard(returning: &Returning, mut socket: TcpStream) {
    let mut rest = Vec::new();
    // Reset or finished.
    let _ = soon(socket.read_to_end(&mut rest)).await;
    assert_eq!(returning.ledger.verification().connections().open, 0);
}

/// A ledger of plain rustls that keeps sessions, whatever anybody thinks of it: answers one request
/// on each connection, with how it came about.
struct Keeping {
    address: SocketAddr,
    own: Arc<Credentials>,
}

impl Keeping {
    async fn start(authority: &TestAuthority) -> Self {
        let ledger = authority.endpoint(LEDGER);
        let own = Arc::clone(ledger.credentials());
        let mut config = ledger.unregistered_server_config(authority.peers(&[REPORTS])).unwrap();
        config.session_storage = ServerSessionMemoryCache::new(8);
        config.send_tls13_tickets = 2;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            loop {
                let stream = listener.accept().await.unwrap().0;
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let kind = stream.get_ref().1.handshake_kind().unwrap();
                    let body = format!("{kind:?}");
                    let head = format!("content-length: {}\r\nconnection: close", body.len());
                    let answer = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}");
                    let _ = stream.read(&mut [0; 1024]).await;
                    let _ = stream.write_all(answer.as_bytes()).await;
                    let _ = stream.shutdown().await;
                }
            }
        });
        Self { address, own }
    }

    async fn kind(&self, client: &HttpClient) -> Result<String, Error> {
        let reply = soon(client.get(&format!("https://{}/", self.address))).await?;
        soon(reply.text()).await
    }
}

fn client(authority: &TestAuthority, clock: &Arc<HeldClock>) -> Endpoint {
    let time = Arc::clone(clock) as Arc<dyn TimeProvider>;
    let verification = Verification::with_clock(authority.trust(), time);
    Endpoint::new(authority.svid(REPORTS).credentials(), verification)
}

#[tokio::test]
async fn client_resumes_only_where_it_is_allowed() {
    let authority = TestAuthority::new();
    let keeping = Keeping::start(&authority).await;
    let reports = client(&authority, &HeldClock::new());
    let forgets = reports.http_client(authority.peers(&[LEDGER]));
    let keeps = reports.allow_resumption(MAX_AGE).http_client(authority.peers(&[LEDGER]));
    for (client, second) in [(&forgets, "Full"), (&keeps, "Resumed")] {
        assert_eq!(keeping.kind(client).await.unwrap(), "Full");
        assert_eq!(keeping.kind(client).await.unwrap(), second);
    }
}

#[tokio::test]
async fn client_begins_anew_after_a_change_and_after_a_while() {
    let (authority, clock) = (TestAuthority::new(), HeldClock::new());
    let keeping = Keeping::start(&authority).await;
    let reports = client(&authority, &clock).allow_resumption(MAX_AGE);
    let client = reports.http_client(authority.peers(&[LEDGER]));
    let changes: [&dyn Fn(); 4] = [
        &|| clock.advance(60),
        &|| reports.verification().update_revocations(|held| held.deny(authority.id(WITNESS), 0)),
        &|| {
            reports.verification().replace_trust(authority.trust_with(|state| state.sequence += 1));
        },
        &|| {
            let renewed = authority.svid(REPORTS);
            reports.credentials().replace(renewed.chain, renewed.key).unwrap();
        },
    ];
    assert_eq!(keeping.kind(&client).await.unwrap(), "Full");
    for (number, change) in changes.into_iter().enumerate() {
        assert_eq!(keeping.kind(&client).await.unwrap(), "Resumed", "before {number}");
        change();
        assert_eq!(keeping.kind(&client).await.unwrap(), "Full", "after {number}");
    }
}

/// Its session does not know of its new certificate; nothing was sent when that comes out.
#[tokio::test]
async fn server_that_has_renewed_is_asked_again() {
    let (keeping, client, authority) = about_to_expire().await;
    let time = now() + time::Duration::hours(20);
    let renewed = authority.svid_at(LEDGER, time, Log::Asked);
    keeping.own.replace(renewed.chain, renewed.key).unwrap();
    for expected in ["Full", "Full", "Resumed"] {
        assert_eq!(keeping.kind(&client).await.unwrap(), expected);
    }
}

#[tokio::test]
async fn expired_server_is_refused_on_a_resumed_session() {
    let (keeping, client, _) = about_to_expire().await;
    let refused = keeping.kind(&client).await.unwrap_err();
    assert!(matches!(refused, Error::Peer { refusal: Refusal::Expired { .. }, .. }), "{refused:?}");
}

/// A server whose certificate has expired, and a client that has a session of the time before.
async fn about_to_expire() -> (Keeping, HttpClient, TestAuthority) {
    let (authority, clock) = (TestAuthority::new(), HeldClock::new());
    let keeping = Keeping::start(&authority).await;
    let reports = client(&authority, &clock).allow_resumption(MAX_AGE);
    let client = reports.http_client(authority.peers(&[LEDGER]));
    let reply = soon(client.get(&format!("https://{}/", keeping.address))).await.unwrap();
    clock.advance_to(reply.peer().not_after() - 30);
    assert_eq!(keeping.kind(&client).await.unwrap(), "Full");
    assert_eq!(keeping.kind(&client).await.unwrap(), "Resumed");
    clock.advance(31);
    (keeping, client, authority)
}

/// Nothing verifies again what is given away.
#[tokio::test]
async fn configurations_given_away_never_resume() {
    let authority = TestAuthority::new();
    let ledger = authority.endpoint(LEDGER).allow_resumption(MAX_AGE);
    let config = ledger.unregistered_server_config(authority.peers(&[REPORTS])).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let reports = keeps_sessions(&authority, &authority.endpoint(REPORTS));
    for _ in 0..2 {
        let accepting = async { acceptor.accept(listener.accept().await.unwrap().0).await };
        let connecting = connect(Arc::clone(&reports), address);
        let (accepted, connected) = soon(async { tokio::join!(accepting, connecting) }).await;
        let (mut accepted, mut connected) = (accepted.unwrap(), connected.unwrap());
        accepted.write_all(b"x").await.unwrap();
        soon(connected.read_exact(&mut [0; 1])).await.unwrap();
        assert_eq!(accepted.get_ref().1.handshake_kind(), Some(Full));
    }
}

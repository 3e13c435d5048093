//! HTTP between peers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::routing::get;
use axum::{Extension, Router};
use bytes::Bytes;
use countersign::{Drained, Endpoint, Error, HttpClient, Peer, RemoteAddress, Verification};
use http::Request;
use http_body_util::Full;
use identity::{Refusal, Usage};
use rustls::pki_types::ServerName;
use rustls::time_provider::TimeProvider;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::authority::{Log, TestAuthority, now};
use crate::endpoints::{HeldClock, LEDGER, REPORTS, WITNESS, until};
use crate::server::soon;

/// An HTTP service of the ledger, for reports and the witness.
struct Service {
    authority: TestAuthority,
    ledger: Endpoint,
    address: std::net::SocketAddr,
    shutdown: oneshot::Sender<()>,
    ended: JoinHandle<Result<Drained, Error>>,
    asked: Arc<AtomicUsize>,
    release: Arc<Semaphore>,
}

impl Service {
    async fn start() -> Self {
        Self::start_with(|authority| Verification::new(authority.trust())).await
    }

    /// `/who` says who asks; `/held` answers once it is released.
    async fn start_with(verification: impl FnOnce(&TestAuthority) -> Arc<Verification>) -> Self {
        let authority = TestAuthority::new();
        let verification = verification(&authority);
        let ledger = Endpoint::new(authority.svid(LEDGER).credentials(), verification);
        let (asked, release) = (Arc::<AtomicUsize>::default(), Arc::new(Semaphore::new(0)));
        let (counted, released) = (Arc::clone(&asked), Arc::clone(&release));
        let held = async move || {
            counted.fetch_add(1, Ordering::SeqCst);
            released.acquire().await.unwrap().forget();
            "released"
        };
        let who = async |Extension(peer): Extension<Peer>, remote: Extension<RemoteAddress>| {
            format!("{} from {}", peer.spiffe_id(), remote.0.0.ip())
        };
        let router = Router::new().route("/who", get(who)).route("/held", get(held));
        let listener = authority.listener(&ledger).await;
        let address = listener.local_address();
        let (shutdown, stopped) = oneshot::channel::<()>();
        let until = listener.serve(router).until(async { drop(stopped.await) }, GRACE);
        let ended = tokio::spawn(until);
        Self { authority, ledger, address, shutdown, ended, asked, release }
    }

    fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    fn client(&self, path: &str) -> HttpClient {
        self.authority.endpoint(path).http_client(self.authority.peers(&[LEDGER]))
    }

    /// A request of a client in a task of its own, that has reached the service.
    async fn held(&self, client: &HttpClient) -> JoinHandle<Result<String, Error>> {
        let before = self.asked.load(Ordering::SeqCst);
        let (client, url) = (client.clone(), self.url("/held"));
        let asking = tokio::spawn(async move { client.get(&url).await?.text().await });
        until(|| self.asked.load(Ordering::SeqCst) > before).await;
        asking
    }

    /// TLS to the service by a configuration of the library, and nothing more of it.
    async fn tls(&self, path: &str, protocol: &str) -> TlsStream<TcpStream> {
        self.tls_of(self.authority.endpoint(path), protocol).await
    }

    async fn tls_of(&self, endpoint: Endpoint, protocol: &str) -> TlsStream<TcpStream> {
        let peers = self.authority.peers(&[LEDGER]);
        let mut config = endpoint.unregistered_client_config(peers).unwrap();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::from(self.address.ip());
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    fn revoke(&self, path: &str) {
        let id = self.authority.id(path);
        self.ledger.verification().update_revocations(|held| held.revoke_identity(id, u64::MAX));
    }
}

const GRACE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn service_knows_its_client_and_the_client_its_server() {
    let service = Service::start().await;
    let client = service.client(REPORTS);
    let reply = client.get(&service.url("/who")).await.unwrap();
    assert_eq!(reply.peer().spiffe_id(), &service.authority.id(LEDGER));
    let answer = reply.text().await.unwrap();
    assert_eq!(answer, "spiffe://pay.example/prod/reports from 127.0.0.1");
    let body = Full::new(Bytes::from_static(b"?"));
    let request = Request::post(service.url("/who")).body(body).unwrap();
    let refused = client.request(request).await.unwrap();
    assert_eq!(refused.status(), 405);
    assert_eq!(refused.into_http().version(), http::Version::HTTP_2);
    assert_eq!(service.ledger.verification().connections().open, 1, "one connection for all");
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn peer_is_an_extractor() {
    let authority = TestAuthority::new();
    let router = Router::new()
        .route("/who", get(async |peer: Peer| peer.spiffe_id().to_string()))
        .route("/maybe", get(async |peer: Option<Peer>| peer.is_some().to_string()));
    let nobody = Request::get("/who").body(axum::body::Body::empty()).unwrap();
    let refused = tower::ServiceExt::oneshot(router.clone(), nobody).await.unwrap();
    assert_eq!(refused.status(), 401);
    let listener = authority.listener(&authority.endpoint(LEDGER)).await;
    let url = format!("https://{}", listener.local_address());
    tokio::spawn(listener.serve(router).until(std::future::pending(), GRACE));
    let client = authority.endpoint(REPORTS).http_client(authority.peers(&[LEDGER]));
    let who = client.get(&format!("{url}/who")).await.unwrap();
    assert_eq!(who.text().await.unwrap(), authority.id(REPORTS).to_string());
    let maybe = client.get(&format!("{url}/maybe")).await.unwrap();
    assert_eq!(maybe.text().await.unwrap(), "true");
}

#[tokio::test]
async fn server_that_is_not_among_the_peers_gets_no_request() {
    let service = Service::start().await;
    let peers = service.authority.peers(&[WITNESS]);
    let client = service.authority.endpoint(REPORTS).http_client(peers);
    let error = client.get(&service.url("/held")).await.unwrap_err();
    let Error::Peer { refusal: Refusal::NotAmongPeers { spiffe_id, .. }, peer } = error else {
        panic!("{error:?}")
    };
    assert_eq!((spiffe_id, peer), (service.authority.id(LEDGER), service.url("/held")));
    assert_eq!(service.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn client_that_is_not_among_the_peers_is_told() {
    let service = Service::start().await;
    let error = service.client("/prod/stranger").get(&service.url("/who")).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    let mut stream = service.tls("/prod/stranger", "http/1.1").await;
    stream.write_all(b"GET /who HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(soon(stream.read(&mut [0; 1])).await.is_err());
}

/// A connection may end while hyper hands over the request: one of thousands was forgotten. (That it ends
/// by a refusal takes no part in it, and what is refused here would leave other tests no word.)
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn client_whose_connection_ends_hears_of_every_request() {
    let authority = TestAuthority::new();
    let ledger = authority.endpoint(LEDGER);
    let mut tls = ledger.unregistered_server_config(authority.peers(&[REPORTS])).unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: Arc<str> = format!("https://{}", listener.local_addr().unwrap()).into();
    let ending = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move { acceptor.accept(stream).await.map(drop) });
        }
    });
    let asking = [(); 16].map(|()| {
        let (reports, url) = (authority.endpoint(REPORTS), Arc::clone(&url));
        let peers = authority.peers(&[LEDGER]);
        tokio::spawn(async move {
            for _ in 0..300 {
                let client = reports.http_client(peers.clone());
                soon(client.get(&url)).await.unwrap_err();
            }
        })
    });
    for asking in asking {
        asking.await.unwrap();
    }
    ending.abort();
}

#[tokio::test]
async fn url_that_is_not_https_is_refused() {
    let service = Service::start().await;
    let client = service.client(REPORTS);
    for url in ["http://127.0.0.1/", "/who", "", "ledger:443", "https://a b/"] {
        let error = client.get(url).await.unwrap_err();
        assert!(matches!(error, Error::Configuration(_)), "{url}: {error:?}");
    }
}

#[tokio::test]
async fn server_that_is_away_is_told_apart_from_one_refused() {
    let service = Service::start().await;
    let client = service.client(REPORTS);
    let url = service.url("/who");
    service.shutdown.send(()).unwrap();
    soon(service.ended).await.unwrap().unwrap();
    let error = soon(client.get(&url)).await.unwrap_err();
    assert!(matches!(error, Error::Connection { .. }), "{error:?}");
}

#[tokio::test]
async fn revoked_client_loses_its_request_and_others_keep_theirs() {
    let service = Service::start().await;
    let revoked = service.held(&service.client(REPORTS)).await;
    let kept = service.held(&service.client(WITNESS)).await;
    service.revoke(REPORTS);
    let error = soon(revoked).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Connection { .. }), "{error:?}");
    service.release.add_permits(2);
    assert_eq!(soon(kept).await.unwrap().unwrap(), "released");
}

#[tokio::test]
async fn client_that_learns_of_a_revocation_drops_its_request() {
    let service = Service::start().await;
    let reports = service.authority.endpoint(REPORTS);
    let client = reports.http_client(service.authority.peers(&[LEDGER]));
    let asking = service.held(&client).await;
    let id = service.authority.id(LEDGER);
    reports.verification().update_revocations(|held| held.deny(id, 0));
    let error = soon(asking).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Peer { refusal: Refusal::Denied, .. }), "{error:?}");
    let error = client.get(&service.url("/who")).await.unwrap_err();
    assert!(matches!(error, Error::Peer { refusal: Refusal::Denied, .. }), "{error:?}");
    assert_eq!(service.asked.load(Ordering::SeqCst), 1, "it was not sent again");
}

/// Both requests were read before the revocation; the second is not begun after it.
#[tokio::test]
async fn request_that_waits_behind_another_dies_with_the_connection() {
    let service = Service::start().await;
    let mut stream = service.tls(REPORTS, "http/1.1").await;
    let request = "GET /held HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(format!("{request}{request}").as_bytes()).await.unwrap();
    until(|| service.asked.load(Ordering::SeqCst) == 1).await;
    service.revoke(REPORTS);
    service.release.add_permits(2);
    let mut rest = Vec::new();
    assert!(soon(stream.read_to_end(&mut rest)).await.is_err());
    assert_eq!(rest, b"");
    assert_eq!(service.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn shutdown_says_goaway_and_finishes_what_is_in_flight() {
    let service = Service::start().await;
    let stream = service.tls(REPORTS, "h2").await;
    let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get(service.url("/held")).body(()).unwrap();
    let (in_flight, _) = requests.send_request(request, true).unwrap();
    until(|| service.asked.load(Ordering::SeqCst) == 1).await;
    service.shutdown.send(()).unwrap();
    let goaway = soon(async {
        loop {
            match std::future::poll_fn(|cx| requests.poll_ready(cx)).await {
                Ok(()) => tokio::task::yield_now().await,
                Err(error) => return error,
            }
        }
    });
    let goaway = goaway.await;
    assert!(goaway.is_go_away() && goaway.is_remote(), "{goaway}");
    assert_eq!(goaway.reason(), Some(h2::Reason::NO_ERROR));
    assert!(!connection.is_finished());
    service.release.add_permits(1);
    let mut body = soon(in_flight).await.unwrap().into_body();
    assert_eq!(soon(body.data()).await.unwrap().unwrap(), "released");
    drop((body, requests));
    soon(connection).await.unwrap().unwrap();
    assert_eq!(soon(service.ended).await.unwrap().unwrap(), Drained { drained: 1, cut: 0 });
}

#[tokio::test]
async fn endpoint_that_stops_ends_its_services() {
    let service = Service::start().await;
    assert!(service.client(REPORTS).get(&service.url("/who")).await.is_ok());
    service.ledger.stop();
    soon(service.ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn expired_client_finishes_its_request_and_begins_no_other() {
    let clock = HeldClock::new();
    let time = Arc::clone(&clock) as Arc<dyn TimeProvider>;
    let service =
        Service::start_with(|authority| Verification::with_clock(authority.trust(), time)).await;
    let svid = service.authority.svid(REPORTS);
    let not_after = {
        let verification = Verification::new(service.authority.trust());
        verification.verify(&svid.chain, Usage::Client, clock.now()).unwrap().not_after()
    };
    let mut stream = service.tls_of(service.authority.endpoint_of(svid), "http/1.1").await;
    let request = b"GET /held HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request).await.unwrap();
    until(|| service.asked.load(Ordering::SeqCst) == 1).await;
    clock.advance_to(not_after + 5);
    service.release.add_permits(1);
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.ends_with("released"), "{answer}");
}

/// A request in flight is answered still; the next one is another connection's.
#[tokio::test]
async fn connection_whose_server_has_expired_takes_no_further_request() {
    let service = Service::start().await;
    let clock = HeldClock::new();
    let time = Arc::clone(&clock) as Arc<dyn TimeProvider>;
    let verification = Verification::with_clock(service.authority.trust(), time);
    let reports = Endpoint::new(service.authority.svid(REPORTS).credentials(), verification);
    let client = reports.http_client(service.authority.peers(&[LEDGER]));
    let who = async || client.get(&service.url("/who")).await.unwrap().peer().clone();
    let first = who().await;
    let in_flight = service.held(&client).await;
    let renewed = now() + time::Duration::hours(20);
    let renewed = service.authority.svid_at(LEDGER, renewed, Log::Asked);
    service.ledger.credentials().replace(renewed.chain, renewed.key).unwrap();
    clock.advance_to(first.not_after());
    assert_eq!(who().await, first);
    clock.advance_to(first.not_after() + 1);
    assert_eq!(who().await.serial_number(), &renewed.serial_number);
    service.release.add_permits(1);
    assert_eq!(soon(in_flight).await.unwrap().unwrap(), "released");
}

/// The first request on a connection is not answered yet.
#[tokio::test]
async fn connection_whose_server_has_expired_takes_no_second_request_either() {
    let service = Service::start().await;
    let clock = HeldClock::new();
    let time = Arc::clone(&clock) as Arc<dyn TimeProvider>;
    let verification = Verification::with_clock(service.authority.trust(), time);
    let reports = Endpoint::new(service.authority.svid(REPORTS).credentials(), verification);
    let client = reports.http_client(service.authority.peers(&[LEDGER]));
    let in_flight = service.held(&client).await;
    let renewed = now() + time::Duration::hours(20);
    let renewed = service.authority.svid_at(LEDGER, renewed, Log::Asked);
    service.ledger.credentials().replace(renewed.chain, renewed.key).unwrap();
    clock.advance(24 * 3600 + 5);
    let second = client.get(&service.url("/who")).await.unwrap();
    assert_eq!(second.peer().serial_number(), &renewed.serial_number);
    service.release.add_permits(1);
    assert_eq!(soon(in_flight).await.unwrap().unwrap(), "released");
}

/// A client of many servers keeps those connections whose servers have not expired.
#[tokio::test]
async fn server_that_expires_takes_no_other_connection_with_it() {
    let authority = TestAuthority::new();
    let serve = async |ledger: Endpoint| {
        let listener = authority.listener(&ledger).await;
        let url = format!("https://{}", listener.local_address());
        let port = async |Extension(RemoteAddress(from))| from.to_string();
        let app = Router::new().fallback(port);
        tokio::spawn(listener.serve(app).until(std::future::pending(), GRACE));
        url
    };
    // The endpoint's SVID is an hour older.
    let earlier = serve(authority.endpoint(LEDGER)).await;
    let later = serve(authority.endpoint_of(authority.svid(LEDGER))).await;
    let clock = HeldClock::new();
    let time = Arc::clone(&clock) as Arc<dyn TimeProvider>;
    let verification = Verification::with_clock(authority.trust(), time);
    let reports = Endpoint::new(authority.svid(REPORTS).credentials(), verification);
    let client = reports.http_client(authority.peers(&[LEDGER]));
    let ask = async |url: &str| client.get(url).await.unwrap();
    let not_after = ask(&earlier).await.peer().not_after();
    let port = ask(&later).await.text().await.unwrap();
    clock.advance_to(not_after + 1);
    let expired = client.get(&earlier).await.unwrap_err();
    assert!(matches!(expired, Error::Peer { refusal: Refusal::Expired { .. }, .. }), "{expired:?}");
    assert_eq!(ask(&later).await.text().await.unwrap(), port);
}

/// A service that was accepting by hand before serves on the same socket.
#[tokio::test]
async fn listener_serves_after_it_accepted() {
    let authority = TestAuthority::new();
    let mut listener = authority.listener(&authority.endpoint(LEDGER)).await;
    let address = listener.local_address();
    let reports = authority.endpoint(REPORTS);
    let ends = crate::endpoints::both_ends(&authority, &mut listener, &reports).await;
    let router = Router::new().route("/", get(async || "hello"));
    tokio::spawn(listener.serve(router).until(std::future::pending(), GRACE));
    let client = reports.http_client(authority.peers(&[LEDGER]));
    let answer = soon(client.get(&format!("https://{address}/"))).await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "hello");
    drop(ends);
}

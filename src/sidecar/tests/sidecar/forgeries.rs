//! Two keys make an identity (design §1, P2): what a thief of the CA key makes opens no door, and
//! neither does the countersignature of a key that is retired.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::routing::get;
use countersign::{
    AuthorityClient, Endpoint, Error, ExpectedServer, Limits, Verification, Workload,
    client_config, server_config,
};
use identity::{Trust, TrustState};
use rustls::{ClientConfig, ServerConfig};
use time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::authority::{Log, TestAuthority, TestSvid, now};
use crate::endpoints::{LEDGER, REPORTS, WITNESS, echo};
use crate::following::Only;
use crate::refusals::Diagnostics;
use crate::server::{TestServer, connect, soon};

/// A certificate that is flawless but for its countersignature.
#[derive(Debug, Clone, Copy)]
enum Forgery {
    /// By the CA key alone.
    None,
    /// By a log key that was retired before it countersigned.
    OfARetiredKey,
    /// The log's, but over another certificate.
    OfAnother,
}

impl Forgery {
    const ALL: [Self; 3] = [Self::None, Self::OfARetiredKey, Self::OfAnother];

    fn svid(self, authority: &TestAuthority, path: &str) -> TestSvid {
        match self {
            Self::None => authority.svid_at(path, now(), Log::NotAsked),
            Self::OfARetiredKey => authority.svid(path),
            Self::OfAnother => {
                let mut of_another = None;
                authority.flawed_svid(
                    WITNESS,
                    |_| {},
                    |authority, bare| {
                        of_another = authority.sct(bare);
                        None
                    },
                );
                authority.flawed_svid(path, |_| {}, |_, _| of_another)
            }
        }
    }

    /// What those believe who meet it.
    fn trust(self, state: &mut TrustState) {
        if matches!(self, Self::OfARetiredKey) {
            let half_an_hour_ago = now() - Duration::minutes(30);
            let retired = half_an_hour_ago.unix_timestamp() as u64 * 1000;
            state.countersignature_keys[0].not_after = Some(retired);
        }
    }

    /// The refusal in an error's `Debug`, and as people read it.
    fn said(self) -> [&'static str; 2] {
        match self {
            Self::None => ["NotCountersigned(Absent(", "it carries no countersignature"],
            Self::OfARetiredKey => ["NotCountersigned(KeyNotInUse)", "was not in use at that time"],
            Self::OfAnother => ["NotCountersigned(Signature)", "is not over this certificate"],
        }
    }
}

/// Where a chain that somebody shows is believed or not: of servers, then of clients.
#[derive(Debug, Clone, Copy)]
enum Door {
    AuthorityClient,
    ClientConfig,
    Connect,
    HttpClient,
    UnregisteredClientConfig,
    Listener,
    Serve,
    ServerConfig,
    UnregisteredServerConfig,
}

impl Door {
    const OF_SERVERS: [Self; 5] = [
        Self::AuthorityClient,
        Self::ClientConfig,
        Self::Connect,
        Self::HttpClient,
        Self::UnregisteredClientConfig,
    ];
    const OF_CLIENTS: [Self; 4] =
        [Self::Listener, Self::Serve, Self::ServerConfig, Self::UnregisteredServerConfig];

    /// Whoever is expected behind it.
    fn path(self) -> &'static str {
        match self {
            Self::AuthorityClient | Self::ClientConfig => AUTHORITY,
            Self::Connect | Self::HttpClient | Self::UnregisteredClientConfig => LEDGER,
            _ => REPORTS,
        }
    }

    /// Shows a chain to those who hold this trust; says what they make of it.
    async fn open(
        self,
        authority: &TestAuthority,
        trust: Trust,
        svid: TestSvid,
    ) -> Result<(), String> {
        let verification = Verification::new(trust);
        match self {
            Self::Listener => shown_to_listener(authority, verification, svid).await,
            Self::Serve => shown_to_serve(authority, verification, svid).await,
            Self::ServerConfig => {
                let credentials = authority.own_svid().credentials();
                let config = server_config(credentials, verification, None).unwrap();
                shown_to_config(authority, config, svid).await
            }
            Self::UnregisteredServerConfig => {
                let ledger = Endpoint::new(authority.svid(LEDGER).credentials(), verification);
                let config = ledger.unregistered_server_config(authority.peers(&[REPORTS]));
                shown_to_config(authority, Arc::new(config.unwrap()), svid).await
            }
            _ => self.shown_by_server(authority, verification, svid).await,
        }
    }

    async fn shown_by_server(
        self,
        authority: &TestAuthority,
        verification: Arc<Verification>,
        svid: TestSvid,
    ) -> Result<(), String> {
        let (asked, router) = counting();
        let server = TestServer::start_with(authority, svid, router, Limits::default()).await;
        let (address, url) = (server.address, server.url());
        let reports = || Endpoint::new(authority.svid(REPORTS).credentials(), verification.clone());
        let peers = authority.peers(&[LEDGER]);
        let tls = async |config: ClientConfig| {
            connect(address, Arc::new(config)).await.map(drop).map_err(debug)
        };
        let believed = match self {
            Self::AuthorityClient => {
                let client = AuthorityClient::verified_by(&url, verification, None).unwrap();
                soon(client.trust_note()).await.map(drop).map_err(debug)
            }
            Self::ClientConfig => {
                let expected = ExpectedServer(authority.id(AUTHORITY));
                let config = client_config(verification, expected, None).unwrap();
                tls(Arc::unwrap_or_clone(config)).await
            }
            Self::Connect => {
                soon(reports().connect(&address.to_string(), peers)).await.map(drop).map_err(debug)
            }
            Self::HttpClient => {
                soon(reports().http_client(peers).get(&url)).await.map(drop).map_err(debug)
            }
            _ => tls(reports().unregistered_client_config(peers).unwrap()).await,
        };
        assert!(believed.is_ok() || asked.load(Ordering::SeqCst) == 0, "{self:?} was asked");
        believed
    }
}

/// A service that counts how often it is asked.
fn counting() -> (Arc<AtomicUsize>, Router) {
    let asked = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&asked);
    let answer = async move || counted.fetch_add(1, Ordering::SeqCst).to_string();
    (asked, Router::new().fallback(get(answer)))
}

async fn shown_to_listener(
    authority: &TestAuthority,
    verification: Arc<Verification>,
    svid: TestSvid,
) -> Result<(), String> {
    let diagnostics = Diagnostics::capture();
    let ledger = Endpoint::new(authority.svid(LEDGER).credentials(), verification);
    let listener = authority.listener(&ledger).await;
    let address = listener.local_address();
    echo(listener);
    let mut stream = authority.connect(&authority.endpoint_of(svid), address).await;
    // It may be refused before it has said anything.
    let _ = stream.write_all(b"?").await;
    soon(stream.read_exact(&mut [0; 1])).await.map(drop).map_err(|_| diagnostics.text())
}

async fn shown_to_serve(
    authority: &TestAuthority,
    verification: Arc<Verification>,
    svid: TestSvid,
) -> Result<(), String> {
    let diagnostics = Diagnostics::capture();
    let (asked, router) = counting();
    let server = TestServer::start(authority, router).await;
    server.verification.replace_trust(Trust::clone(&verification.trust()));
    let answer = soon(server.client(authority, Some(svid)).trust_note()).await;
    assert_eq!(answer.is_ok(), asked.load(Ordering::SeqCst) == 1);
    answer.map(drop).map_err(|error| {
        assert!(matches!(error, Error::Refused { .. }), "{error:?}");
        diagnostics.text()
    })
}

async fn shown_to_config(
    authority: &TestAuthority,
    config: Arc<ServerConfig>,
    svid: TestSvid,
) -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let peers = authority.peers(&[AUTHORITY, LEDGER]);
    let client = authority.endpoint_of(svid).unregistered_client_config(peers).unwrap();
    let accept =
        async { TlsAcceptor::from(config).accept(listener.accept().await.unwrap().0).await };
    let (accepted, _connected) =
        soon(async { tokio::join!(accept, connect(address, client.into())) }).await;
    accepted.map(drop).map_err(debug)
}

fn debug(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

#[tokio::test]
async fn no_forged_certificate_opens_a_door() {
    let authority = TestAuthority::new();
    for door in Door::OF_SERVERS.into_iter().chain(Door::OF_CLIENTS) {
        for forgery in Forgery::ALL {
            let trust = || authority.trust_with(|state| forgery.trust(state));
            let good = authority.svid_at(door.path(), now() - Duration::hours(1), Log::Asked);
            let opened = door.open(&authority, trust(), good).await;
            assert_eq!(opened, Ok(()), "{door:?} of those who refuse {forgery:?}");
            let forged = forgery.svid(&authority, door.path());
            let Err(refused) = door.open(&authority, trust(), forged).await else {
                panic!("{door:?} lets in {forgery:?}")
            };
            let said = forgery.said().iter().any(|said| refused.contains(said));
            assert!(said, "{door:?}, {forgery:?}: {refused}");
        }
    }
}

#[tokio::test]
async fn no_workload_starts_with_a_forged_certificate_of_its_own() {
    let authority = TestAuthority::new();
    for forgery in Forgery::ALL {
        let note = authority.trust_note_with(|state| forgery.trust(state));
        let router = Router::new().route("/v1/trust", get(async move || note.clone()));
        let server = TestServer::start(&authority, router).await;
        let source = Only::new(forgery.svid(&authority, REPORTS));
        let workload = Workload::builder().url(server.url()).trust_pin(authority.pin().to_string());
        let refused = soon(workload.svid_source(Arc::new(source)).start()).await.unwrap_err();
        assert!(matches!(refused, Error::OwnCertificate { .. }), "{refused:?}");
        assert!(debug(&refused).contains(forgery.said()[0]), "{forgery:?}: {refused:?}");
    }
}

const AUTHORITY: &str = "/countersign/authority";

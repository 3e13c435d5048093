//! Who is believed, in both directions.

use std::sync::Arc;

use axum::extract::Request;
use axum::routing::get;
use axum::{Extension, Router};
use countersign::{ConfigurationFault, Credentials, Error, Limits, Peer, RemoteAddress};
use identity::{CountersignatureRule, Refusal};
use rustls::client::Resumption;
use rustls::pki_types::UnixTime;
use rustls::{HandshakeKind, NamedGroup};
use time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::authority::{Log, TestAuthority, TestSvid, now};
use crate::server::{TestServer, connect, converse, http1_config, soon};

const REPORTS: &str = "/prod/reports";
/// Asks who it is taken for.
const WHO: &str = "GET /v1/trust HTTP/1.1\r\nhost: ca\r\n\r\n";

fn who() -> Router {
    let who = async |peer: Option<Extension<Peer>>| match peer {
        Some(Extension(peer)) => peer.spiffe_id().to_string(),
        None => "nobody".to_owned(),
    };
    Router::new().route("/v1/trust", get(who))
}

#[tokio::test]
async fn client_with_a_certificate_is_known_to_the_service() {
    let authority = TestAuthority::new();
    let server = TestServer::start(&authority, who()).await;
    let client = server.client(&authority, Some(authority.svid(REPORTS)));
    assert_eq!(client.trust_note().await.unwrap(), b"spiffe://pay.example/prod/reports");
    let config = http1_config(&authority, Some(authority.svid(REPORTS)));
    let mut stream = connect(server.address, config).await.unwrap();
    let answer = converse(&mut stream, WHO, "reports").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test]
async fn client_without_a_certificate_is_served_as_nobody() {
    let authority = TestAuthority::new();
    let server = TestServer::start(&authority, who()).await;
    assert_eq!(server.client(&authority, None).trust_note().await.unwrap(), b"nobody");
}

#[tokio::test]
async fn peer_and_address_are_those_of_the_connection() {
    let authority = TestAuthority::new();
    let details = async |request: Request| {
        let peer = request.extensions().get::<Peer>().unwrap();
        let address = request.extensions().get::<RemoteAddress>().unwrap();
        format!("{} {} {}", peer.serial_number(), peer.svid().leaf_index().unwrap(), address.0.ip())
    };
    let router = Router::new().route("/v1/trust", get(details));
    let server = TestServer::start(&authority, router).await;
    let svid = authority.svid(REPORTS);
    let expected = format!("{} 7 127.0.0.1", svid.serial_number);
    let answer = server.client(&authority, Some(svid)).trust_note().await.unwrap();
    assert_eq!(String::from_utf8(answer).unwrap(), expected);
}

/// Over HTTP/2, and over HTTP/1.1: the client learns that it was refused, and is never served.
async fn assert_refused(authority: &TestAuthority, server: &TestServer, svid: TestSvid) {
    let again = svid.again();
    let refused = soon(server.client(authority, Some(svid)).trust_note()).await;
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    let config = http1_config(authority, Some(again));
    let mut stream = connect(server.address, config).await.unwrap();
    let error = soon(converse(&mut stream, WHO, "\n")).await.unwrap_err();
    assert!(error.to_string().contains("alert"), "{error}");
}

#[tokio::test]
async fn client_of_another_ca_is_refused() {
    let (authority, other) = (TestAuthority::new(), TestAuthority::new());
    let server = TestServer::start(&authority, who()).await;
    assert_refused(&authority, &server, other.svid(REPORTS)).await;
}

#[tokio::test]
async fn client_without_countersignature_is_refused() {
    let authority = TestAuthority::new();
    let server = TestServer::start(&authority, who()).await;
    let svid = authority.svid_at(REPORTS, now(), Log::NotAsked);
    assert_refused(&authority, &server, svid).await;
}

#[tokio::test]
async fn expired_client_is_refused() {
    let authority = TestAuthority::new();
    let server = TestServer::start(&authority, who()).await;
    let svid = authority.svid_at(REPORTS, now() - Duration::days(2), Log::Asked);
    assert_refused(&authority, &server, svid).await;
}

#[tokio::test]
async fn revoked_client_loses_its_connection_and_is_refused_a_new_one() {
    let authority = TestAuthority::new();
    let server = TestServer::start(&authority, who()).await;
    let svid = authority.svid(REPORTS);
    let config = http1_config(&authority, Some(svid.again()));
    let mut stream = connect(server.address, config).await.unwrap();
    assert!(converse(&mut stream, WHO, "reports").await.unwrap().contains("200 OK"));
    let mut nobody = connect(server.address, http1_config(&authority, None)).await.unwrap();
    server.verification.update_revocations(|held| held.revoke_serial(svid.serial_number));
    assert!(soon(stream.read(&mut [0; 1])).await.is_err());
    assert!(converse(&mut nobody, WHO, "nobody").await.unwrap().contains("200 OK"));
    assert_refused(&authority, &server, svid).await;
}

#[tokio::test]
async fn denied_client_is_refused() {
    let authority = TestAuthority::new();
    let server = TestServer::start(&authority, who()).await;
    server.verification.update_revocations(|held| held.deny(authority.id(REPORTS), 0));
    assert_refused(&authority, &server, authority.svid(REPORTS)).await;
}

/// A client learns of its refusal when it has begun to send; a reset of the connection would break
/// its writing before it reads why.
#[tokio::test]
async fn refused_client_may_finish_its_sentence_and_learns_why() {
    let (authority, other) = (TestAuthority::new(), TestAuthority::new());
    let server = TestServer::start(&authority, who()).await;
    let config = http1_config(&authority, Some(other.svid(REPORTS)));
    let mut stream = connect(server.address, config).await.unwrap();
    soon(stream.get_ref().0.readable()).await.unwrap();
    for _ in 0..2 {
        stream.write_all(&[b'x'; 60_000]).await.unwrap();
        stream.flush().await.unwrap();
    }
    let error = soon(stream.read(&mut [0; 1])).await.unwrap_err();
    assert!(error.to_string().contains("alert"), "{error}");
}

/// What a client says that asks a server with this SVID, which must see nothing but a handshake.
async fn refusal_of(authority: &TestAuthority, svid: TestSvid) -> Error {
    let server = TestAuthority::new();
    let verification = countersign::Verification::new(server.trust());
    let tls = countersign::server_config(svid.credentials(), verification, None).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let accepted = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        TlsAcceptor::from(tls).accept(stream).await.map(drop)
    });
    let client = countersign::AuthorityClient::new(&url, authority.trust(), None).unwrap();
    let error = soon(client.status()).await.unwrap_err();
    assert!(soon(accepted).await.unwrap().is_err(), "the handshake must not have succeeded");
    error
}

#[tokio::test]
async fn server_of_another_ca_gets_no_request() {
    let authority = TestAuthority::new();
    let error = refusal_of(&authority, TestAuthority::new().own_svid()).await;
    let refusal = match error {
        Error::Peer { refusal, .. } => refusal,
        other => panic!("{other:?}"),
    };
    assert!(matches!(refusal, Refusal::UnknownAuthority(_)), "{refusal:?}");
}

#[tokio::test]
async fn server_without_countersignature_gets_no_request() {
    let authority = TestAuthority::new();
    let svid = authority.svid_at("/countersign/authority", now(), Log::NotAsked);
    let error = refusal_of(&authority, svid).await;
    let absent = |refusal: &Refusal| {
        matches!(refusal, Refusal::NotCountersigned(CountersignatureRule::Absent(_)))
    };
    assert!(matches!(&error, Error::Peer { refusal, .. } if absent(refusal)), "{error:?}");
}

#[tokio::test]
async fn expired_server_gets_no_request() {
    let authority = TestAuthority::new();
    let before = now() - Duration::days(2);
    let svid = authority.svid_at("/countersign/authority", before, Log::Asked);
    let error = refusal_of(&authority, svid).await;
    let is_expired = matches!(&error, Error::Peer { refusal: Refusal::Expired { .. }, .. });
    assert!(is_expired, "{error:?}");
}

#[tokio::test]
async fn another_workload_of_the_domain_is_not_the_ca() {
    let authority = TestAuthority::new();
    match refusal_of(&authority, authority.svid(REPORTS)).await {
        Error::UnexpectedServer { expected, found, .. } => {
            assert_eq!(expected, authority.id("/countersign/authority"));
            assert_eq!(found, authority.id(REPORTS));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn revoked_server_is_refused() {
    let authority = TestAuthority::new();
    let svid = authority.own_svid();
    let serial_number = svid.serial_number;
    let server = TestServer::start_with(&authority, svid, who(), Limits::default()).await;
    let verification = countersign::Verification::new(authority.trust());
    verification.update_revocations(|held| held.revoke_serial(serial_number));
    let expected = countersign::ExpectedServer(authority.id("/countersign/authority"));
    let config = countersign::client_config(verification, expected, None).unwrap();
    let error = connect(server.address, config).await.unwrap_err();
    assert!(error.to_string().contains("Revoked"), "{error}");
}

#[tokio::test]
async fn renewed_credentials_are_shown_from_the_next_handshake_on() {
    let authority = TestAuthority::new();
    let server = TestServer::start(&authority, who()).await;
    let renewed = authority.own_svid();
    let expected = renewed.chain.clone();
    server.credentials.replace(renewed.chain, renewed.key).unwrap();
    let stream = connect(server.address, http1_config(&authority, None)).await.unwrap();
    assert_eq!(stream.get_ref().1.peer_certificates().unwrap(), expected);
}

#[tokio::test]
async fn key_of_another_certificate_is_refused_and_the_old_one_stays() {
    let authority = TestAuthority::new();
    let server = TestServer::start(&authority, who()).await;
    let (a, b) = (authority.own_svid(), authority.own_svid());
    let refused = server.credentials.replace(a.chain, b.key);
    assert!(
        matches!(refused, Err(Error::Configuration(ConfigurationFault::Credentials(_)))),
        "{refused:?}"
    );
    assert!(server.client(&authority, None).trust_note().await.is_ok());
    let nothing = Credentials::new(vec![], authority.own_svid().key);
    assert!(nothing.is_err());
}

#[tokio::test]
async fn key_exchange_is_post_quantum_and_sessions_never_resume() {
    let authority = TestAuthority::new();
    let server = TestServer::start(&authority, who()).await;
    let mut config = (*http1_config(&authority, Some(authority.svid(REPORTS)))).clone();
    config.resumption = Resumption::in_memory_sessions(8);
    let config = Arc::new(config);
    for _ in 0..3 {
        let mut stream = connect(server.address, Arc::clone(&config)).await.unwrap();
        converse(&mut stream, WHO, "reports").await.unwrap();
        let tls = stream.get_ref().1;
        assert_eq!(tls.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(tls.tls13_tickets_received(), 0);
        let group = tls.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, NamedGroup::X25519MLKEM768);
    }
}

/// A ClientHello of TLS 1.2 at most, by hand: the rustls of this build may not speak it.
#[tokio::test]
async fn tls_1_2_is_refused() {
    let authority = TestAuthority::new();
    let server = TestServer::start(&authority, who()).await;
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    // supported_groups: P-256; signature_algorithms: ecdsa_secp256r1_sha256.
    hello.extend([0, 16, 0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3]);
    let mut record = vec![22, 3, 1, 0, hello.len() as u8 + 4, 1, 0, 0, hello.len() as u8];
    record.extend(hello);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&record).await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    // RFC 8446 §6.2: a fatal protocol_version alert, and nothing else.
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 70]);
}

#[test]
fn early_data_is_neither_sent_nor_taken() {
    let authority = TestAuthority::new();
    let endpoint = authority.endpoint(REPORTS);
    let credentials = || Arc::clone(endpoint.credentials());
    let verification = || Arc::clone(endpoint.verification());
    let expected = countersign::ExpectedServer(authority.id("/countersign/authority"));
    let of_the_ca =
        countersign::client_config(verification(), expected, Some(credentials())).unwrap();
    let of_peers = endpoint.unregistered_client_config(authority.peers(&[REPORTS])).unwrap();
    assert!(!of_the_ca.enable_early_data && !of_peers.enable_early_data);
    let of_the_ca = countersign::server_config(credentials(), verification(), None).unwrap();
    let of_peers = endpoint.unregistered_server_config(authority.peers(&[REPORTS])).unwrap();
    assert_eq!((of_the_ca.max_early_data_size, of_peers.max_early_data_size), (0, 0));
}

/// Takes one client, and answers its ClientHello as a server does that speaks TLS 1.2 and no more;
/// by hand, too. Gives what the client says to that.
async fn answer_by_tls_1_2(listener: TcpListener) -> Vec<u8> {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut header = [0; 5];
    stream.read_exact(&mut header).await.unwrap();
    let mut hello = vec![0; u16::from_be_bytes([header[3], header[4]]).into()];
    stream.read_exact(&mut hello).await.unwrap();
    // RFC 5246 §7.4.1.3: version, random, no session, ECDHE-ECDSA with AES-128-GCM, no compression.
    let mut answer = vec![3, 3];
    answer.extend([7; 32]);
    answer.extend([0, 0xc0, 0x2b, 0]);
    let length = answer.len() as u8;
    let record = [&[22, 3, 3, 0, length + 4, 2, 0, 0, length], &answer[..]].concat();
    stream.write_all(&record).await.unwrap();
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said).await;
    said
}

#[tokio::test]
async fn server_that_speaks_tls_1_2_only_is_refused() {
    let authority = TestAuthority::new();
    for client in ["authority", "bootstrap", "connect", "http"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let url = format!("https://{address}");
        let answered = tokio::spawn(answer_by_tls_1_2(listener));
        let (reports, peers) = (authority.endpoint(REPORTS), authority.peers(&[REPORTS]));
        let refused = match client {
            "authority" => {
                let client = countersign::AuthorityClient::new(&url, authority.trust(), None);
                soon(client.unwrap().status()).await.err()
            }
            "bootstrap" => soon(countersign::fetch_trust(&url, &authority.pin())).await.err(),
            "connect" => soon(reports.connect(&address.to_string(), peers)).await.err(),
            _ => soon(reports.http_client(peers).get(&url)).await.err(),
        };
        assert!(refused.is_some(), "{client}");
        // RFC 8446 §6.2: a fatal protocol_version alert, and nothing else.
        assert_eq!(soon(answered).await.unwrap(), [21, 3, 3, 0, 2, 2, 70], "{client}");
    }
}

#[tokio::test]
async fn clock_given_to_the_server_is_the_one_that_counts() {
    #[derive(Debug)]
    struct In(std::time::Duration);
    impl rustls::time_provider::TimeProvider for In {
        fn current_time(&self) -> Option<UnixTime> {
            let now = UnixTime::now().as_secs();
            Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(now) + self.0))
        }
    }
    let authority = TestAuthority::new();
    let verification = countersign::Verification::new(authority.trust());
    let tomorrow = Arc::new(In(std::time::Duration::from_secs(25 * 3600)));
    let credentials = authority.own_svid().credentials();
    let tls = countersign::server_config(credentials, verification, Some(tomorrow)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = http1_config(&authority, Some(authority.svid(REPORTS)));
    let (accepted, _) = tokio::join!(
        async { TlsAcceptor::from(tls).accept(listener.accept().await.unwrap().0).await },
        connect(address, config)
    );
    let error = accepted.unwrap_err();
    assert!(error.to_string().contains("Expired"), "{error}");
}

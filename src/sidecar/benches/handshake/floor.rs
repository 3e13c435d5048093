//! The floor: rustls' own server half of a mutual handshake, in memory.

use std::sync::Arc;

use countersign::{Endpoint, Peers, Verification};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use crate::authority::{TestAuthority, TestSvid};
use crate::process::{Metered, Thread, median};

pub(crate) const SERVER: &str = "/prod/ledger";
pub(crate) const CLIENT: &str = "/prod/reports";

/// Microseconds of one: verifying a chain of two certificates and a signature, and signing.
pub(crate) fn measure(authority: &TestAuthority) -> f64 {
    let server = Arc::new(server_config(authority));
    let client = Arc::new(client_config(authority, authority.svid(CLIENT)));
    batch(&server, &client);
    median((0..BATCHES).map(|_| batch(&server, &client)).collect())
}

/// The same, measured once: where others are measured in turn.
pub(crate) fn once(authority: &TestAuthority) -> f64 {
    let client = client_config(authority, authority.svid(CLIENT));
    batch(&Arc::new(server_config(authority)), &Arc::new(client))
}

/// A server as rustls' documentation makes it, with the settings of ours.
pub(crate) fn server_config(authority: &TestAuthority) -> ServerConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    let root = authority.trust().state().anchors[0].certificate.as_bytes().to_vec();
    roots.add(CertificateDer::from(root)).unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider)).build();
    let svid = authority.svid(SERVER);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier.unwrap())
        .with_single_cert(svid.chain, svid.key)
        .unwrap();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

pub(crate) fn endpoint(authority: &TestAuthority, svid: TestSvid) -> Endpoint {
    Endpoint::new(svid.credentials(), Verification::new(authority.trust()))
}

pub(crate) fn peers(authority: &TestAuthority, path: &str) -> Peers {
    Peers::one_of([authority.id(path).as_str()]).unwrap()
}

pub(crate) fn client_config(authority: &TestAuthority, svid: TestSvid) -> ClientConfig {
    let endpoint = endpoint(authority, svid);
    endpoint.unregistered_client_config(peers(authority, SERVER)).unwrap()
}

/// Many handshakes step by step, so that a step of the server is long enough to be measured.
fn batch(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> f64 {
    let name = ServerName::try_from("ledger").unwrap();
    let mut pairs: Vec<_> = (0..HANDSHAKES)
        .map(|_| {
            let client = ClientConnection::new(Arc::clone(client), name.clone()).unwrap();
            (client, Vec::new())
        })
        .collect();
    for (client, flight) in &mut pairs {
        client.write_tls(flight).unwrap();
    }
    let thread = Thread::this();
    let before = thread.micros();
    let mut servers: Vec<_> = pairs.iter_mut().map(|(_, flight)| greet(server, flight)).collect();
    let greeted = thread.micros() - before;
    for (client, flight) in &mut pairs {
        pass(flight, |bytes| client.read_tls(bytes).map(|_| client.process_new_packets().unwrap()));
        while client.wants_write() {
            client.write_tls(flight).unwrap();
        }
    }
    let before = thread.micros();
    for (server, (_, flight)) in servers.iter_mut().zip(&mut pairs) {
        pass(flight, |bytes| server.read_tls(bytes).map(|_| server.process_new_packets().unwrap()));
    }
    let finished = thread.micros() - before;
    assert!(servers.iter().all(|server| !server.is_handshaking()));
    (greeted + finished) / HANDSHAKES as f64
}

/// The first step of a server; its answer takes the place of the client's flight.
fn greet(config: &Arc<ServerConfig>, flight: &mut Vec<u8>) -> ServerConnection {
    let mut server = ServerConnection::new(Arc::clone(config)).unwrap();
    pass(flight, |bytes| server.read_tls(bytes).map(|_| server.process_new_packets().unwrap()));
    while server.wants_write() {
        server.write_tls(flight).unwrap();
    }
    server
}

/// Reads a flight to its end and leaves nothing of it.
fn pass<T>(flight: &mut Vec<u8>, mut read: impl FnMut(&mut &[u8]) -> std::io::Result<T>) {
    let mut rest = &flight[..];
    while !rest.is_empty() {
        read(&mut rest).unwrap();
    }
    flight.clear();
}

const HANDSHAKES: usize = 500;
const BATCHES: usize = 9;

//! Strangers who ask and do not read: the CA's memory stays what it was.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use system_tests::{Environment, TRUST_DOMAIN};

/// Of fifty requests, each for some 50 KB.
const ROUNDS: usize = 40;
/// Mebibytes that the attack may cost, beside 25 KiB a connection.
const ROOM: f64 = 20.0;

#[test]
fn stranger_that_reads_nothing_costs_the_api_no_memory() {
    let environment = Environment::start();
    let before = resident(&environment);
    let config = strangers(&environment);
    let mut open = Vec::new();
    for _ in 0..4 {
        let stream = impatient(environment.address());
        let name = ServerName::from(environment.address().ip());
        let connection = ClientConnection::new(Arc::clone(&config), name).unwrap();
        let mut stream = StreamOwned::new(connection, stream);
        ask_until_nothing_is_taken(&mut stream, "/v1/openapi.json");
        open.push(stream);
    }
    let cost = resident(&environment) - before;
    assert!(cost < ROOM, "{cost} MiB for {} connections", open.len());
}

#[test]
fn scraper_that_reads_nothing_costs_the_admin_port_no_memory() {
    let environment = Environment::start();
    let before = resident(&environment);
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut stream = impatient(environment.admin_address());
        ask_until_nothing_is_taken(&mut stream, "/metrics");
        open.push(stream);
    }
    let cost = resident(&environment) - before;
    assert!(cost < ROOM, "{cost} MiB for {} connections", open.len());
}

/// Asks as long as the other end reads, at most for 100 MB of answers.
fn ask_until_nothing_is_taken(stream: &mut impl Write, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: ca\r\n\r\n").repeat(50);
    for _ in 0..ROUNDS {
        if stream.write_all(request.as_bytes()).and_then(|()| stream.flush()).is_err() {
            return;
        }
    }
}

fn impatient(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    stream
}

fn strangers(environment: &Environment) -> Arc<ClientConfig> {
    let bundle = environment.path(&format!(".config/countersign/{TRUST_DOMAIN}/bundle.pem"));
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(bundle).unwrap() {
        roots.add(root.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Arc::new(config.unwrap().with_root_certificates(roots).with_no_client_auth())
}

/// MiB.
fn resident(environment: &Environment) -> f64 {
    let status = format!("/proc/{}/status", environment.server_pid());
    let status = fs::read_to_string(status).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
}

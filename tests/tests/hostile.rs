//! Strangers who ask and do not read: the CA's memory stays what it was.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::WantsClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ConfigBuilder, RootCertStore, StreamOwned};
use system_tests::{Environment, PATIENCE, Settings, TRUST_DOMAIN, binary, program};
use tokio::net::TcpSocket;

/// As `/proc/net/tcp` writes it.
const ESTABLISHED: &str = "01";
/// Of fifty requests, each for some 50 KB.
const ROUNDS: usize = 40;
/// As `config check` says: `limits.open_files_least`.
const LEAST_FILES: u32 = 208;
/// As the kernel chooses.
const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// Mebibytes that the attack may cost, beside 25 KiB a connection.
const ROOM: f64 = 20.0;

#[test]
fn stranger_that_reads_nothing_costs_the_api_no_memory() {
    let environment = Environment::start();
    let before = resident(&environment);
    let config = strangers(&environment);
    let mut open = Vec::new();
    for _ in 0..4 {
        let stream = impatient(ANY, environment.address());
        let name = ServerName::from(environment.address().ip());
        let connection = ClientConnection::new(Arc::clone(&config), name).unwrap();
        let mut stream = StreamOwned::new(connection, stream);
        ask_until_nothing_is_taken(&mut stream, "/v1/openapi.json");
        open.push(stream);
    }
    let cost = resident(&environment) - before;
    assert!(cost < ROOM, "{cost} MiB for {} connections", open.len());
    assert_kernel_keeps_little(environment.address(), open.len());
}

#[test]
fn scraper_that_reads_nothing_costs_the_admin_port_no_memory() {
    let environment = Environment::start();
    let before = resident(&environment);
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut stream = impatient(ANY, environment.admin_address());
        ask_until_nothing_is_taken(&mut stream, "/metrics");
        open.push(stream);
    }
    let cost = resident(&environment) - before;
    assert!(cost < ROOM, "{cost} MiB for {} connections", open.len());
    assert_kernel_keeps_little(environment.admin_address(), open.len());
}

#[test]
fn serve_starts_with_as_many_files_as_it_needs_and_says_so_where_it_has_fewer() {
    let settings = Settings { open_files: Some(LEAST_FILES), ..Settings::default() };
    let mut environment = Environment::start_with(&settings);
    let few = |command: &str, files: u32| {
        let limited =
            format!("ulimit -n {files} && exec timeout 60 \"$0\" {command} --config ca.toml");
        let mut command = Command::new("sh");
        program(command.args(["-c", &limited]).arg(binary()).current_dir(environment.folder()))
    };
    let slow: Vec<_> = (1..=80)
        .flat_map(|last| {
            let source = ([127, 0, 9, 1 + last % 20], 0).into();
            let (api, admin) = (environment.address(), environment.admin_address());
            [(api, &b"\x16\x03\x01\x08\x00"[..]), (admin, b"GET /me")].map(|(address, begun)| {
                let mut stream = impatient(source, address);
                stream.write_all(begun).unwrap();
                stream
            })
        })
        .collect();
    assert!(environment.admin("/readyz").starts_with("HTTP/1.1 200"));
    environment.countersign(&["status"]).success();
    environment.issue("/prod/batch", "batch");
    few("config check", LEAST_FILES).success();
    drop(slow);

    for files in [16, 20, LEAST_FILES - 1] {
        let said = format!("may open {files} files");
        few("serve", files).exits(1).says(&said).says("LimitNOFILE=");
        few("config check", files).success().says(&said);
    }
    environment.stop();
}

/// With 256 files, 135 places for peers: one certificate takes what it gets.
#[test]
fn workload_that_connects_without_end_keeps_nobody_out() {
    let settings = Settings { open_files: Some(256), ..Settings::default() };
    let environment = Environment::start_with(&settings);
    let folder = environment.issue("/prod/reports", "reports");
    let config = known(&environment, &folder);
    let mut held = Vec::new();
    for _ in 0..300 {
        let connected = TcpStream::connect(environment.address()).unwrap();
        connected.set_read_timeout(Some(PATIENCE)).unwrap();
        let name = ServerName::from(environment.address().ip());
        let connection = ClientConnection::new(Arc::clone(&config), name).unwrap();
        let mut stream = StreamOwned::new(connection, connected);
        let request = "GET /v1/trust HTTP/1.1\r\nhost: ca\r\n\r\n";
        let answered =
            stream.write_all(request.as_bytes()).and_then(|()| stream.read(&mut [0; 64]));
        if answered.is_ok_and(|read| read > 0) {
            held.push(stream);
        }
    }
    assert!((115..=135).contains(&held.len()), "{}", held.len());
    assert!(environment.admin("/readyz").starts_with("HTTP/1.1 200"));
    let trust = environment.curl_as_stranger("/v1/trust").success();
    assert!(!trust.stdout.is_empty());
    environment.issue("/prod/batch", "batch");
    let status = environment.countersign(&["status"]).success();
    assert!(status.stdout.contains(" of 135, without certificate"), "{}", status.stdout);
    let id = environment.id("/prod/reports");
    let revoke = ["revoke", &id, "--reason", "key-compromise"];
    let revoked = environment.countersign(&revoke).success();
    for mut stream in held {
        let ended = stream.read(&mut [0; 64 * 1024]).and_then(|_| stream.read(&mut [0; 64 * 1024]));
        assert!(!matches!(ended, Ok(1..)), "{}", revoked.stdout);
    }
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

/// What the kernel holds of answers for each connection to this port is nobody's memory in `ps`, and
/// the work of making it is done.
fn assert_kernel_keeps_little(server: SocketAddr, connections: usize) {
    let begun = Instant::now();
    let mut before = Vec::new();
    let unsent = loop {
        let unsent = unsent(server);
        if unsent == before && unsent.iter().any(|bytes| *bytes > 0) {
            break unsent;
        }
        assert!(begun.elapsed() < PATIENCE, "still moving: {unsent:?}");
        before = unsent;
        std::thread::sleep(Duration::from_millis(200));
    };
    assert_eq!(unsent.len(), connections);
    assert!(unsent.iter().all(|bytes| *bytes <= 1024 * 1024), "{unsent:?}");
}

/// Bytes that this port's connections have in the kernel, each.
fn unsent(server: SocketAddr) -> Vec<usize> {
    let port = format!(":{:04X}", server.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_open = fields[1].ends_with(&port) && fields[3] == ESTABLISHED;
        is_open.then(|| usize::from_str_radix(fields[4].split_once(':')?.0, 16).ok()).flatten()
    };
    table.lines().skip(1).filter_map(of_line).collect()
}

/// Its own kernel takes next to nothing for it.
fn impatient(source: SocketAddr, address: SocketAddr) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let connected = runtime.block_on(async {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(4096)?;
        socket.bind(source)?;
        socket.connect(address).await?.into_std()
    });
    let stream = connected.unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    stream
}

fn strangers(environment: &Environment) -> Arc<ClientConfig> {
    Arc::new(believing(environment).with_no_client_auth())
}

/// A client that shows the certificate of this folder.
fn known(environment: &Environment, folder: &Path) -> Arc<ClientConfig> {
    let chain = CertificateDer::pem_file_iter(folder.join("svid.pem")).unwrap();
    let chain = chain.map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(folder.join("svid.key")).unwrap();
    Arc::new(believing(environment).with_client_auth_cert(chain, key).unwrap())
}

fn believing(environment: &Environment) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let bundle = environment.path(&format!(".config/countersign/{TRUST_DOMAIN}/bundle.pem"));
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(bundle).unwrap() {
        roots.add(root.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    config.unwrap().with_root_certificates(roots)
}

/// MiB of its own: pages of its file come and go with the memory that the machine has left.
fn resident(environment: &Environment) -> f64 {
    let status = format!("/proc/{}/status", environment.server_pid());
    let status = fs::read_to_string(status).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
}

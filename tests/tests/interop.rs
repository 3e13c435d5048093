//! Software that others wrote, against certificates and a log of ours: mTLS between runtimes, and
//! the libraries of Google and Go as verifiers. `interop/README.md` says what came of it.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Instant;

use api::KeyPurpose;
use authority::Keys;
use axum::Router;
use axum::routing::get;
use countersign::{Listener, Peer, Peers, Secret, Workload};
use identity::Der;
use issuance::assemble;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use system_tests::{Environment, Outcome, PATIENCE, Settings, openssl, program};
use tlog::{CertificateLeaf, SignedCertificateTimestamp};
use tokio::task::block_in_place;
use x509_parser::prelude::{FromDer, X509Certificate};

use certified::{KeyType, bounded, certify, made, record};

#[path = "../interop/certified.rs"]
mod certified;

const CLIENTS: [Runtime; 5] =
    [Runtime::Curl, Runtime::Go, Runtime::Java, Runtime::Node, Runtime::Python];
const SERVERS: [Runtime; 4] = [Runtime::Go, Runtime::Java, Runtime::Node, Runtime::Python];
const LOCALHOST: [&str; 4] = ["--dns", "localhost", "--ip", "127.0.0.1"];

#[test]
fn runtimes_speak_mtls_with_each_other_as_the_matrix_says() {
    require_runtimes();
    let environment = Environment::start();
    let mut observed = String::new();
    let mut reasons = String::new();
    for key_type in KeyType::ALL {
        let rows = Round::begin(&environment, key_type).run();
        let servers = SERVERS.map(Runtime::name);
        observed.push_str(&line(key_type.name(), &[&["countersign"], &servers[..]].concat()));
        for (client, cells) in CLIENTS.iter().zip(rows) {
            let words = cells.each_ref().map(|cell| if cell.is_ok() { "ok" } else { "fails" });
            observed.push_str(&line(client.name(), &words));
            for why in cells.into_iter().filter_map(Result::err) {
                writeln!(reasons, "{} {why}", key_type.name()).unwrap();
            }
        }
    }
    let expected = include_str!("../interop/matrix.txt");
    let expected: String =
        expected.split_inclusive('\n').filter(|line| !line.starts_with('#')).collect();
    assert_eq!(observed, expected, "\nobserved:\n{observed}\nwhy:\n{reasons}\n{}", versions());
}

#[test]
fn servers_answer_nobody_without_a_certificate_of_ours() {
    require_runtimes();
    let environment = Environment::start();
    let server = certify(&environment, KeyType::P256, "/prod/reports", "server", &LOCALHOST);
    let client = certify(&environment, KeyType::P256, "/prod/monolith", "client", &[]);
    let stranger = stranger(&environment, &client);
    for runtime in SERVERS {
        let serving = Server::start(runtime, &server).unwrap();
        let url = serving.url("localhost");
        let nobody = bounded(curl().arg("--cacert").arg(client.join("bundle.pem")).arg(&url));
        for refused in [nobody, ask(Runtime::Curl, &stranger, &url)] {
            assert_ne!(refused.code, 0, "{} answered {refused:?}", runtime.name());
            assert_eq!(refused.stdout, "", "{}", runtime.name());
        }
        ask(Runtime::Curl, &client, &url).success().says(&environment.id("/prod/monolith"));
    }
}

#[test]
fn clients_ask_nobody_but_the_server_they_named() {
    require_runtimes();
    let environment = Environment::start();
    let client = certify(&environment, KeyType::P256, "/prod/monolith", "client", &[]);
    let named = certify(&environment, KeyType::P256, "/prod/reports", "named", &LOCALHOST);
    let nameless = certify(&environment, KeyType::P256, "/prod/batch", "nameless", &[]);
    let stranger = stranger(&environment, &client);
    let right = Server::start(Runtime::Go, &named).unwrap();
    let wrong = [nameless, stranger].map(|own| Server::start(Runtime::Go, &own).unwrap());
    for runtime in CLIENTS {
        for server in &wrong {
            let refused = ask(runtime, &client, &server.url("localhost"));
            assert_ne!(refused.code, 0, "{} took {:?}", runtime.name(), server.log);
            let about = ["certificate", "No name matching"].map(|why| refused.stderr.contains(why));
            assert!(about.contains(&true), "{} failed otherwise: {refused:?}", runtime.name());
            assert_eq!(refused.stdout, "", "{}", runtime.name());
        }
        ask(runtime, &client, &right.url("localhost")).success();
    }
}

/// What `token create` prints is all that a newcomer types: the names come from the row.
#[test]
fn a_server_by_the_printed_lines_is_known_by_name_to_every_client() {
    require_runtimes();
    let environment = Environment::start();
    let [server, client] =
        ["/prod/reports", "/prod/monolith"].map(|path| by_printed_lines(&environment, path));
    let serving = Server::start(Runtime::Go, &server).unwrap();
    for runtime in CLIENTS {
        for host in ["localhost", "127.0.0.1"] {
            let id = environment.id("/prod/monolith");
            ask(runtime, &client, &serving.url(host)).success().says(&id);
        }
    }
}

/// A certificate by the command that `token create` prints, with a folder and the token's file in it.
fn by_printed_lines(environment: &Environment, path: &str) -> PathBuf {
    let folder = path.rsplit('/').next().unwrap();
    let created = environment.countersign(&["token", "create", &environment.id(path)]).success();
    environment.write("token", &created.stdout);
    let (_, printed) = created.stderr.split_once("where it is needed:\n").unwrap();
    let line = printed.replace("\\\n", " ").replace("DIR", folder).replace("FILE", "token");
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    environment.countersign(&words).success();
    environment.path(folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_by_the_library_answers_every_runtime_until_it_is_revoked() {
    require_runtimes();
    let environment = Environment::start_with(&clients_of_reports());
    let (workload, listener) = reports(&environment).await;
    let port = listener.local_address().port();
    let app = Router::new().route("/", get(async |peer: Peer| peer.spiffe_id().to_string()));
    let service = tokio::spawn(listener.serve(app).until(std::future::pending(), PATIENCE));
    block_in_place(|| {
        for runtime in CLIENTS {
            let id = environment.id(&path_of(runtime));
            let own = environment.issue(&path_of(runtime), runtime.name());
            for host in ["localhost", "127.0.0.1"] {
                ask(runtime, &own, &format!("https://{host}:{port}/")).success().says(&id);
            }
            let revoke = ["revoke", "--yes", &id, "--reason", "superseded", "--wait", "60s"];
            environment.countersign(&revoke).success();
            let refused = ask(runtime, &own, &format!("https://localhost:{port}/"));
            assert_ne!(refused.code, 0, "{} was answered {refused:?}", runtime.name());
            assert_eq!(refused.stdout, "", "{}", runtime.name());
        }
    });
    workload.stop().await;
    service.await.unwrap().unwrap();
}

#[test]
fn libraries_of_others_verify_certificate_and_log() {
    require_runtimes();
    let environment = Environment::start();
    let operator = environment.path(&format!(".config/countersign/{}", system_tests::TRUST_DOMAIN));
    let trust = environment.countersign(&["--json", "trust", "show"]).success();
    environment.write("trust.json", &trust.stdout);
    for key_type in KeyType::ALL {
        let own = certify(&environment, key_type, "/prod/reports", key_type.name(), &LOCALHOST);
        if key_type == KeyType::P384 {
            fill_a_tile(&environment);
        }
        wait_for_checkpoint(&environment, &own);
        evidence(&environment, &operator, "trust.json", &own)
            .success()
            .says("countersignature: ok")
            .says("inclusion: ok")
            .says("entries: ok");
    }
}

#[test]
fn libraries_of_others_refuse_other_keys() {
    require_runtimes();
    let environment = Environment::start();
    let operator = environment.path(&format!(".config/countersign/{}", system_tests::TRUST_DOMAIN));
    let own = certify(&environment, KeyType::P256, "/prod/reports", "own", &LOCALHOST);
    wait_for_checkpoint(&environment, &own);
    let trust = environment.countersign(&["--json", "trust", "show"]).success().json();

    let mut other = trust.clone();
    other["countersignature_keys"][0]["key"] = trust["trust_keys"][0].clone();
    environment.write("other.json", &other.to_string());
    evidence(&environment, &operator, "other.json", &own).exits(1).says("countersignature: ");

    // The name of our log, with the key of another: its hash is right, its signature is missing.
    let mut other = trust;
    other["log"]["key"] = OTHER_LOG.into();
    environment.write("other.json", &other.to_string());
    evidence(&environment, &operator, "other.json", &own)
        .exits(1)
        .says("countersignature: ok")
        .says("checkpoint: note has no verifiable signatures");
}

/// No verifier can know by the certificate alone: the log's key has signed it. The log shows it.
#[tokio::test(flavor = "multi_thread")]
async fn libraries_of_others_refuse_an_index_that_holds_another_leaf() {
    require_runtimes();
    let environment = Environment::start();
    let operator = environment.path(&format!(".config/countersign/{}", system_tests::TRUST_DOMAIN));
    let trust = environment.countersign(&["--json", "trust", "show"]).success();
    environment.write("trust.json", &trust.stdout);
    let first = certify(&environment, KeyType::P256, "/prod/reports", "first", &LOCALHOST);
    let own = certify(&environment, KeyType::P256, "/prod/reports", "own", &LOCALHOST);
    wait_for_checkpoint(&environment, &own);
    evidence(&environment, &operator, "trust.json", &own).success();

    let index = record(&environment, &first)["log_index"].as_u64().unwrap();
    misplace(&environment, "own/svid.pem", index).await;
    environment.countersign(&["verify", "own/svid.pem"]).success();
    evidence(&environment, &operator, "trust.json", &own)
        .exits(1)
        .says(&format!("countersignature: ok, index {index}\n"))
        .says("inclusion: invalid transparency proof");
}

/// Countersigns and signs a certificate anew with the CA's own keys, as if it stood at another index.
async fn misplace(environment: &Environment, file: &str, leaf_index: u64) {
    let passphrase = std::fs::read_to_string(environment.path("passphrase")).unwrap();
    let keys = Keys::open(&environment.path("state"), &Secret::new(passphrase)).unwrap();
    let sign =
        async |purpose, message: &[u8]| keys.first(purpose).unwrap().sign(message).await.unwrap();
    let chain = CertificateDer::pem_file_iter(environment.path(file)).unwrap();
    let chain: Vec<CertificateDer<'_>> = chain.map(Result::unwrap).collect();
    let (_, issuer) = X509Certificate::from_der(&chain[1]).unwrap();
    let (leaf, sct) =
        CertificateLeaf::from_certificate(&chain[0], issuer.public_key().raw).unwrap();
    let leaf = CertificateLeaf { leaf_index, ..leaf };
    let signature = sign(KeyPurpose::Countersignature, &leaf.encode().unwrap()).await;
    let sct = SignedCertificateTimestamp { leaf_index, signature, ..sct };
    let tbs = tlog::splice_in(&leaf.tbs_certificate, &sct).unwrap();
    let certificate = assemble(&tbs, &sign(KeyPurpose::Issuer, &tbs).await);
    let pem = [&certificate[..], &chain[1]].map(|der| {
        let base64 = String::from(Der::new(der));
        format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n")
    });
    environment.write(file, &pem.concat());
}

/// A program that speaks TLS.
#[derive(Debug, Clone, Copy)]
enum Runtime {
    Curl,
    Go,
    Java,
    Node,
    Python,
}

impl Runtime {
    fn name(self) -> &'static str {
        match self {
            Self::Curl => "curl",
            Self::Go => "go",
            Self::Java => "java",
            Self::Node => "node",
            Self::Python => "python",
        }
    }

    /// The peer of this runtime, with this identity; curl takes its URL bare.
    fn peer(self, own: &Path) -> Command {
        let (cert, key, bundle) =
            (own.join("svid.pem"), own.join("svid.key"), own.join("bundle.pem"));
        let mut command = match self {
            Self::Curl => curl(),
            Self::Go => Command::new(made("go/peer")),
            Self::Java => return java(own, &bundle),
            Self::Node => script("node", "node/peer.js"),
            Self::Python => script("python3", "python/peer.py"),
        };
        let trusted = if matches!(self, Self::Curl) { "--cacert" } else { "--bundle" };
        command.arg("--cert").arg(cert).arg("--key").arg(key).arg(trusted).arg(bundle);
        command
    }
}

fn curl() -> Command {
    let mut command = Command::new("curl");
    command.args(["-sS", "--fail", "--max-time", "100"]);
    command
}

fn script(interpreter: &str, name: &str) -> Command {
    let mut command = Command::new(interpreter);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("interop").join(name));
    command
}

/// JSSE reads its key from PKCS #12, which OpenSSL makes of the same files.
fn java(own: &Path, bundle: &Path) -> Command {
    if !own.join("svid.p12").exists() {
        let from = ["pkcs12", "-export", "-in", "svid.pem", "-inkey", "svid.key"];
        let to = ["-out", "svid.p12", "-passout", "pass:interop"];
        openssl(own, &[&from[..], &to].concat()).success();
    }
    let mut command = Command::new("java");
    command
        .args(["-XX:TieredStopAtLevel=1", "-cp"])
        .arg(made("java"))
        .args(["Peer", "--keystore"])
        .arg(own.join("svid.p12"))
        .arg("--bundle")
        .arg(bundle);
    command
}

/// One request by a client.
fn ask(runtime: Runtime, own: &Path, url: &str) -> Outcome {
    let mut command = runtime.peer(own);
    if !matches!(runtime, Runtime::Curl) {
        command.arg("--connect");
    }
    bounded(command.arg(url))
}

/// A server of a runtime, killed when dropped.
struct Server {
    process: Child,
    port: u16,
    log: PathBuf,
}

impl Server {
    /// Starts it, and waits for its first line, its port.
    fn start(runtime: Runtime, own: &Path) -> Result<Self, String> {
        let log = own.join(format!("{}.log", runtime.name()));
        let mut command = runtime.peer(own);
        command.args(["--listen", "127.0.0.1:0"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.stderr(File::create(&log).unwrap()).spawn().unwrap();
        let (said, first) = mpsc::channel();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        std::thread::spawn(move || said.send(lines.next()));
        let mut server = Self { process, port: 0, log };
        match first.recv_timeout(PATIENCE) {
            Ok(Some(Ok(line))) => server.port = line.parse().map_err(|_| line)?,
            other => return Err(format!("{} did not start: {other:?}", runtime.name())),
        }
        Ok(server)
    }

    fn url(&self, host: &str) -> String {
        format!("https://{host}:{}/", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// What came of one client at one server; an error says which, and why.
type Cell = Result<(), String>;

/// Every client at every server, both with keys of one type.
struct Round<'e> {
    environment: &'e Environment,
    key_type: KeyType,
    client: PathBuf,
    /// Path of the client's own record at the CA, which is one of the servers.
    record: String,
    servers: [Result<Server, String>; SERVERS.len()],
}

impl<'e> Round<'e> {
    fn begin(environment: &'e Environment, key_type: KeyType) -> Self {
        let name = key_type.name();
        let client = certify(environment, key_type, "/prod/monolith", &format!("{name}-c"), &[]);
        let own = certify(environment, key_type, "/prod/reports", &format!("{name}-s"), &LOCALHOST);
        let serial = &record(environment, &client)["serial_number"];
        Self {
            environment,
            key_type,
            record: format!("v1/certificates/{}", serial.as_str().unwrap()),
            client,
            servers: SERVERS.map(|runtime| Server::start(runtime, &own)),
        }
    }

    /// A row for each client; its first cell is the CA itself as server.
    fn run(&self) -> Vec<[Cell; SERVERS.len() + 1]> {
        std::thread::scope(|scope| {
            let rows = CLIENTS.map(|client| scope.spawn(move || self.row(client)));
            rows.into_iter().map(|row| row.join().unwrap()).collect()
        })
    }

    fn row(&self, client: Runtime) -> [Cell; SERVERS.len() + 1] {
        std::array::from_fn(|column| match column {
            0 => self.cell(client, "countersign", |host| {
                format!("https://{host}:{}/{}", self.environment.address().port(), self.record)
            }),
            column => match &self.servers[column - 1] {
                Ok(server) => {
                    self.cell(client, SERVERS[column - 1].name(), |host| server.url(host))
                }
                Err(why) => Err(why.clone()),
            },
        })
    }

    /// Asks by DNS name, with P-256 by IP address, too; the answer says whom the server saw.
    fn cell(&self, client: Runtime, server: &str, url: impl Fn(&str) -> String) -> Cell {
        let hosts: &[&str] = if self.key_type == KeyType::P256 {
            &["localhost", "127.0.0.1"]
        } else {
            &["localhost"]
        };
        for host in hosts {
            let outcome = ask(client, &self.client, &url(host));
            let seen = outcome.stdout.contains(&self.environment.id("/prod/monolith"));
            if outcome.code != 0 || !seen {
                return Err(format!("{} at {server} ({host}): {outcome:?}", client.name()));
            }
        }
        Ok(())
    }
}

/// A row for the service, and one for each client.
fn clients_of_reports() -> Settings {
    let service = serde_json::json!(
        {"id": "/prod/reports", "dns": ["localhost"], "ip": ["127.0.0.1"]}
    );
    let clients = CLIENTS.map(|client| serde_json::json!({"id": path_of(client)}));
    let rows = [&[service][..], &clients].concat();
    let workloads = serde_json::json!({ "workloads": rows }).to_string();
    Settings { workloads, ..Settings::default() }
}

fn path_of(client: Runtime) -> String {
    format!("/client/{}", client.name())
}

/// A service in this process, whose certificate has the names that others look for.
async fn reports(environment: &Environment) -> (Workload, Listener) {
    let said = |arguments: &[&str]| {
        let outcome = block_in_place(|| environment.countersign(arguments)).success();
        outcome.stdout.trim().to_owned()
    };
    let workload = Workload::builder()
        .url(environment.url())
        .trust_pin(said(&["trust", "pin"]))
        .token(Secret::new(said(&["token", "create", &environment.id("/prod/reports")])))
        .dns("localhost")
        .ip([127, 0, 0, 1].into())
        .start()
        .await
        .unwrap();
    let peers = Peers::below(&environment.id("/client/")).unwrap();
    let listener = workload.listen("127.0.0.1:0", peers).await.unwrap();
    (workload, listener)
}

/// Says the same names as ours, by a CA of its own.
fn stranger(environment: &Environment, client: &Path) -> PathBuf {
    let own = environment.path("stranger");
    std::fs::create_dir(&own).unwrap();
    std::fs::copy(client.join("bundle.pem"), own.join("bundle.pem")).unwrap();
    let names = format!(
        "subjectAltName=critical,URI:{},DNS:localhost,IP:127.0.0.1",
        environment.id("/prod/monolith")
    );
    let request = ["req", "-x509", "-noenc", "-subj", "/", "-days", "1", "-addext", &names];
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-keyout", "svid.key"];
    openssl(&own, &[&request[..], &key, &["-out", "svid.pem"]].concat()).success();
    own
}

/// Google's and Go's libraries, on the certificate and on the log as it is served.
fn evidence(environment: &Environment, operator: &Path, trust: &str, own: &Path) -> Outcome {
    let mut command = Command::new(made("go/evidence"));
    for (option, file) in [
        ("-cert", operator.join("svid.pem")),
        ("-key", operator.join("svid.key")),
        ("-bundle", operator.join("bundle.pem")),
        ("-trust", environment.path(trust)),
        ("-certificate", own.join("svid.pem")),
    ] {
        command.arg(option).arg(file);
    }
    bounded(command.arg("-url").arg(environment.url()))
}

/// A log of more than 256 entries has a full tile, and a second level. One curl makes them all:
/// it counts through the range in the fragment, which it does not send.
fn fill_a_tile(environment: &Environment) {
    let body = serde_json::json!({"spiffe_id": environment.id("/prod/batch")}).to_string();
    let options = ["--json", &body, "--fail", "--fail-early", "-o", "/dev/null"];
    environment.curl("/v1/tokens#[1-260]", &options).success();
}

/// The checkpoint follows within a second, on a machine that is not busy.
fn wait_for_checkpoint(environment: &Environment, own: &Path) {
    let index = record(environment, own)["log_index"].as_u64().unwrap();
    let begun = Instant::now();
    loop {
        let checkpoint = environment.curl("/log/checkpoint", &["--fail"]).success().stdout;
        let size: u64 = checkpoint.lines().nth(1).unwrap().parse().unwrap();
        if size > index {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{index} is not in\n{checkpoint}");
    }
}

/// Panics, naming all that are missing: none is ever taken as passed.
fn require_runtimes() {
    let missing: Vec<&str> = VERSIONS
        .iter()
        .filter(|command| {
            let ran = Command::new(command[0]).args(&command[1..]).output();
            !ran.is_ok_and(|output| output.status.success())
        })
        .map(|command| command[0])
        .collect();
    assert!(missing.is_empty(), "missing: {}; see tests/interop/setup", missing.join(", "));
}

/// What ran, for whoever reads a failure.
fn versions() -> String {
    let mut said = String::new();
    for command in VERSIONS {
        let outcome = program(Command::new(command[0]).args(&command[1..]));
        said.push_str(outcome.stdout.lines().next().unwrap_or_default());
        said.push('\n');
    }
    said
}

/// A row of the matrix.
fn line(first: &str, words: &[&str]) -> String {
    let columns: String = words.iter().map(|word| format!("{word:<13}")).collect();
    format!("{first:<10}{}\n", columns.trim_end())
}

/// How each runtime says its version.
const VERSIONS: [&[&str]; 6] = [
    &["openssl", "version"],
    &["curl", "--version"],
    &["go", "version"],
    &["java", "--version"],
    &["node", "--version"],
    &[
        "python3",
        "-c",
        "import ssl, sys; print('Python', sys.version.split()[0], ssl.OPENSSL_VERSION)",
    ],
];

/// A key of nobody for the origin of every environment: `<name>+<key id>+<Ed25519, base64>`.
const OTHER_LOG: &str = "pay.example/log+d521ccdc+ASaT51Zfx4B+G6mw21p/5x5Vj4rGp3ynM8psOIkIWbPh";

//! Whoever asks at the wrong address is told what is there, and where the CA is.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use system_tests::{Environment, Outcome};

/// What is asked where, and what is said of it: by an operator's command, and by one that believes
/// nobody yet.
struct Row {
    what: &'static str,
    url: String,
    exits: [i32; 2],
    says: [&'static str; 2],
    step: [&'static str; 2],
}

fn row(what: &'static str, url: String, exits: [i32; 2]) -> Row {
    Row { what, url, exits, says: [""; 2], step: [""; 2] }
}

impl Row {
    fn says(self, says: &'static str) -> Self {
        self.say([says; 2])
    }

    fn say(self, says: [&'static str; 2]) -> Self {
        Self { says, ..self }
    }

    fn step(self, step: &'static str) -> Self {
        self.steps([step; 2])
    }

    fn steps(self, step: [&'static str; 2]) -> Self {
        Self { step, ..self }
    }
}

const OTHER_SERVER: &str = "; if it is another server, name the CA itself: --url https://CA:8443";
const SAME_URL: &str = "next: the same command with https://127.0.0.1:";
const RIGHT_URL: &str =
    "next: name the CA itself: --url https://CA:8443; `countersign context list`";
const OTHER_PORT: &str = "next: name the port of its API, `listen` in the CA's configuration";
const LATER: &str = "next: the same command again once the CA runs: `countersign serve`";

fn rows(environment: &Environment) -> Vec<Row> {
    let admin = environment.admin_address();
    let page = "HTTP/1.1 200 OK\r\nContent-Type: Text/HTML; charset=utf-8\r\nContent-Length: 6\r\n\r\n<html>";
    let absent =
        "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nno";
    let portal =
        "HTTP/1.1 302 Found\r\nLocation: https://portal.example/\r\nContent-Length: 0\r\n\r\n";
    let gateway =
        "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>";
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let not_ours = "is not to be trusted, and nothing is sent to it";
    vec![
        row("the admin port", format!("https://{admin}"), [2, 2])
            .says("is the CA's admin port (/livez, /readyz, /metrics), without TLS: the API is https://")
            .step(SAME_URL),
        row("the admin port, as it is", format!("http://{admin}"), [2, 2])
            .says("is the CA's admin port (/livez, /readyz, /metrics), without TLS: the API is https://")
            .step(SAME_URL),
        row("the API without TLS", format!("http://{}", environment.address()), [2, 2])
            .says("it does not begin with https://")
            .step("next: --url https://127.0.0.1:"),
        row("a web page", served(page), [5, 1])
            .say([not_ours, "status 200, but with a web page, of which the CA has none"])
            .steps([OTHER_SERVER, RIGHT_URL]),
        row("somebody's 404", served(absent), [5, 1])
            .say([not_ours, "status 404, but without saying why"])
            .steps([OTHER_SERVER, RIGHT_URL]),
        row("a portal", served(portal), [5, 1])
            .say([not_ours, "status 302, but sends us elsewhere"])
            .steps([OTHER_SERVER, RIGHT_URL]),
        row("a gateway before it", served(gateway), [5, 4])
            .say([not_ours, "status 502, but with a web page"])
            .steps([OTHER_SERVER, "next: the same command again once the CA runs: something before it"]),
        row("another protocol", spoken(|stream| {
            stream.write_all(b"SSH-2.0-OpenSSH_9.6\r\n").ok();
            BufReader::new(stream).read_line(&mut String::new()).ok();
        }), [4, 4])
            .says("what listens there speaks no TLS")
            .step(OTHER_PORT),
        row("HTTP without TLS, of somebody else", spoken(|stream| {
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").ok();
            BufReader::new(stream).read_line(&mut String::new()).ok();
        }), [4, 4])
            .says("what listens there speaks no TLS")
            .step(OTHER_PORT),
        row("who hangs up", spoken(|_| ()), [4, 4])
            .says("the connection was ended there; is the CA running, and the port right?")
            .step(LATER),
        row("nobody's port", format!("https://{nobody}"), [4, 4])
            .says("nobody listens there; is the CA running, and the port right?")
            .step(LATER),
        row("a name that nobody knows", "https://ca.invalid:8443".to_owned(), [4, 4])
            .says("no address is known for ca.invalid")
            .step("next: correct the name: --url https://CA:8443"),
        row("who says nothing", spoken(|stream| {
            let mut all = Vec::new();
            std::io::Read::read_to_end(stream, &mut all).ok();
        }), [4, 4])
            .says("is the CA running, and does the network let you through?")
            .step("next: look at the address, and at the firewalls and security groups on the way"),
    ]
}

#[test]
fn who_asks_at_the_wrong_address_is_told_what_is_there() {
    let environment = Environment::start();
    let (reports, pin) = (environment.id("/prod/reports"), environment.pin());
    let wish = ["token", "create", &reports, "--out", "token"];
    environment.countersign(&wish).success();
    let mut wrong = Vec::new();
    for row in rows(&environment) {
        let url = &row.url[..];
        let issue = ["issue", &reports, "--url", url, "--token-file", "token", "--out", "svid"];
        let commands: [(&[&str], usize); 3] = [
            (&["status", "--url", url], 0),
            (&["trust", "fetch", url, "--pin", &pin], 1),
            (&issue, 1),
        ];
        for (command, column) in commands {
            let Outcome { code, stderr, .. } = environment.countersign(command);
            let expected = [row.says[column], row.step[column]];
            if code != row.exits[column] || !expected.iter().all(|text| stderr.contains(text)) {
                let what = row.what;
                wrong.push(format!(
                    "{what}: {}: {code}, not {expected:?}\n{stderr}",
                    command.join(" ")
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    // The step that was named is the one; and nothing was spent on the way.
    let issue =
        ["issue", &reports, "--url", &environment.url(), "--token-file", "token", "--out", "svid"];
    environment.countersign(&issue).success();
}

#[test]
fn verify_and_inspect_know_the_admin_port_too() {
    let environment = Environment::start();
    let admin = environment.admin_address().to_string();
    for command in ["verify", "inspect"] {
        let said = environment.countersign(&[command, &admin]).exits(2);
        let api = environment.address();
        said.says("is the CA's admin port").says(&format!("next: the same command with {api}"));
        environment.countersign(&[command, &api.to_string()]).success();
    }
}

/// Somebody with a certificate of their own, who answers everything alike.
fn served(answer: &'static str) -> String {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()).into();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    spoken(move |stream| {
        let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = BufReader::new(StreamOwned::new(connection, stream));
        let mut line = String::from("the request's");
        while !line.trim().is_empty() {
            line.clear();
            if stream.read_line(&mut line).is_err() {
                return;
            }
        }
        stream.get_mut().write_all(answer.as_bytes()).ok();
    })
}

/// Does so with each connection, for as long as the test runs.
fn spoken(speak: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let speak = Arc::new(speak);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let speak = Arc::clone(&speak);
            std::thread::spawn(move || speak(&mut stream));
        }
    });
    format!("https://{address}")
}

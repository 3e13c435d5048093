//! Each bad input gets its own error, with the rule and the next step, and changes nothing.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde_json::{Value, json};
use system_tests::{Environment, Settings, openssl};

/// One CA for the tests of this file that leave it as it is; the last of them stops it.
fn shared() -> Arc<Environment> {
    static SHARED: Mutex<Weak<Environment>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let started = Arc::new(Environment::start());
        *shared = Arc::downgrade(&started);
        started
    })
}

/// An answer: its status and its JSON.
struct Answer {
    status: u16,
    body: Value,
}

impl Answer {
    /// Panics unless it is this problem, its detail has this text, and it says what to do.
    #[track_caller]
    fn is(&self, status: u16, name: &str, text: &str) -> &Self {
        let body = &self.body;
        assert_eq!(self.status, status, "{body}");
        assert_eq!(body["type"], format!("urn:countersign:problem:{name}"), "{body}");
        assert!(body["detail"].as_str().unwrap().contains(text), "{text:?} is not in {body}");
        assert_eq!(body["request_id"].as_str().unwrap().len(), 16, "{body}");
        self
    }
}

fn post(environment: &Environment, path: &str, body: &str, options: &[&str]) -> Answer {
    let operator = environment.path(".config/countersign/pay.example");
    let mut command = Command::new("curl");
    command.args(["-sS", "-w", "\n%{http_code}", "--data-binary", "@-", "--cacert"]);
    command.arg(operator.join("bundle.pem")).args(options);
    command.arg(format!("{}{path}", environment.url()));
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut curl = command.spawn().unwrap();
    // A server that refuses a body early closes the pipe: what counts is its answer.
    drop(curl.stdin.take().unwrap().write_all(body.as_bytes()));
    let output = curl.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    Answer {
        status: status.parse().unwrap(),
        body: serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body:?}")),
    }
}

/// Asks as the operator, who may have any row.
fn ask(environment: &Environment, body: &Value) -> Answer {
    let operator = environment.path(".config/countersign/pay.example");
    let file = |name: &str| operator.join(name).display().to_string();
    let options = ["--cert", &file("svid.pem"), "--key", &file("svid.key")];
    post(environment, "/v1/certificates", &body.to_string(), &options)
}

fn request(csr: &str) -> Value {
    json!({
        "csr": csr,
        "spiffe_id": "spiffe://pay.example/prod/reports",
        "attestation": {"type": "svid"},
    })
}

/// A request by openssl, with a new key of this kind.
fn csr(folder: &Path, key: &[&str], options: &[&str]) -> String {
    let name = format!("{:x}.key", key.concat().len() * 1000 + options.concat().len());
    let arguments = [&["genpkey", "-out", &name][..], key].concat();
    openssl(folder, &arguments).success();
    let arguments = [&["req", "-new", "-key", &name, "-subj", "/"][..], options].concat();
    openssl(folder, &arguments).success().stdout
}

fn p256(folder: &Path) -> String {
    csr(folder, P256, &[])
}

const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];

#[test]
fn each_broken_certificate_request_names_its_rule() {
    let environment = &*shared();
    let folder = tempfile::tempdir().unwrap();
    let good = p256(folder.path());
    let mut broken: Vec<char> = good.chars().collect();
    let position = good.find("-----END").unwrap() - 20;
    broken[position] = if broken[position] == 'A' { 'B' } else { 'A' };
    let broken: String = broken.into_iter().collect();
    let ca = csr(folder.path(), P256, &["-addext", "basicConstraints=critical,CA:TRUE"]);
    let p521 =
        csr(folder.path(), &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"], &[]);
    let rsa = csr(folder.path(), &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"], &[]);
    let sha1 = csr(folder.path(), P256, &["-sha1"]);
    let twice = format!("{good}{good}");
    for (csr, rule) in [
        ("", "empty"),
        ("hello", "pem"),
        (&twice, "pem"),
        (&broken, "signature"),
        (&ca, "certificate-authority"),
        (&p521, "key"),
        (&rsa, "key"),
        (&sha1, "signature-algorithm"),
    ] {
        let answer = ask(environment, &request(csr));
        answer.is(422, "csr-invalid", "");
        assert_eq!(answer.body["rule"], rule, "{}", answer.body);
        assert!(answer.body["next_step"].is_string());
    }
    let ignored = csr(
        folder.path(),
        P256,
        &["-addext", "subjectKeyIdentifier=hash", "-addext", "1.2.3.4=ASN1:UTF8String:x"],
    );
    assert_eq!(ask(environment, &request(&ignored)).status, 201, "unknown extensions are ignored");
}

#[test]
fn each_malformed_spiffe_id_names_its_rule() {
    let environment = &*shared();
    let folder = tempfile::tempdir().unwrap();
    let csr = p256(folder.path());
    let long = format!("spiffe://pay.example/{}", "a".repeat(2049 - 21));
    for (id, text) in [
        ("spiffe://pay.example/a?x=1", "no query"),
        ("spiffe://pay.example:8443/a", "no port"),
        ("spiffe://pay.example/%61", "no percent-encoding"),
        ("spiffe://pay.example/a/../b", "\\\"..\\\""),
        ("spiffe://pay.example/a//b", "segment is empty"),
        (&long, "2048"),
    ] {
        let body = json!({"csr": csr, "spiffe_id": id, "attestation": {"type": "svid"}});
        let answer = ask(environment, &body);
        assert_eq!(answer.status, 400, "{id}: {}", answer.body);
        let text = text.replace("\\\"", "\"");
        assert!(answer.body["detail"].as_str().unwrap().contains(&text), "{}", answer.body);
    }
    let mut body = request(&csr);
    body["spiffe_id"] = "spiffe://other.example/prod/reports".into();
    ask(environment, &body).is(400, "request-invalid", "not in trust domain pay.example");
    body["spiffe_id"] = "spiffe://pay.example/countersign/authority".into();
    ask(environment, &body).is(403, "policy-denied", "");
}

#[test]
fn what_policy_does_not_give_is_refused_with_row_and_command() {
    let environment = &*shared();
    let folder = tempfile::tempdir().unwrap();
    let csr = p256(folder.path());
    let mut body = request(&csr);
    body["dns"] = json!(["monolith.internal"]);
    let answer = ask(environment, &body);
    answer.is(403, "policy-denied", "row /prod/reports does not list the name monolith.internal");
    assert!(answer.body["next_step"].as_str().unwrap().contains("policy apply"));
    let mut body = request(&csr);
    body["spiffe_id"] = "spiffe://pay.example/prod/unknown".into();
    ask(environment, &body).is(403, "policy-denied", "no row");
    let mut body = request(&csr);
    body["profile"] = "imaginary".into();
    ask(environment, &body).is(400, "request-invalid", "no profile");
    for ttl in ["0s", "8days"] {
        let mut body = request(&csr);
        body["ttl"] = ttl.into();
        ask(environment, &body).is(400, "request-invalid", "a validity of");
    }
}

#[test]
fn what_is_not_the_json_expected_is_refused() {
    let environment = &*shared();
    let folder = tempfile::tempdir().unwrap();
    let mut body = request(&p256(folder.path()));
    body["serial"] = 1.into();
    ask(environment, &body).is(400, "request-invalid", "unknown field `serial`");
    let body = json!({"csr": "", "attestation": {"type": "password"}});
    ask(environment, &body).is(400, "request-invalid", "a value is of the wrong kind");
    post(environment, "/v1/certificates", "{", &[]).is(400, "request-invalid", "JSON");
    let huge = "a".repeat(1024 * 1024);
    post(environment, "/v1/certificates", &huge, &[]).is(413, "too-large", "64 KiB");
    post(environment, "/v2/certificates", "{}", &[]).is(404, "not-found", "/v2/certificates");
    post(environment, "/v1/trust", "{}", &[]).is(405, "method-not-allowed", "POST is not possible");
}

#[test]
fn evidence_that_proves_nothing_is_refused() {
    let environment = &*shared();
    let folder = tempfile::tempdir().unwrap();
    let csr = p256(folder.path());
    let body = request(&csr).to_string();
    post(environment, "/v1/certificates", &body, &[]).is(
        401,
        "attestation-refused",
        "needs a client certificate",
    );
    for (token, text) in [("hello", "ct1.SECRET.PIN"), ("", "ct1.SECRET.PIN")] {
        let body = json!({"csr": csr, "attestation": {"type": "token", "token": token}});
        let answer = post(environment, "/v1/certificates", &body.to_string(), &[]);
        answer.is(401, "attestation-refused", text);
    }
}

#[test]
fn the_same_key_with_another_request_is_a_mismatch() {
    let environment = &*shared();
    let folder = tempfile::tempdir().unwrap();
    let csr = p256(folder.path());
    let operator = environment.path(".config/countersign/pay.example");
    let file = |name: &str| operator.join(name).display().to_string();
    let (cert, key) = (file("svid.pem"), file("svid.key"));
    let options = ["--cert", &cert, "--key", &key, "-H", "Idempotency-Key: once"];
    let send = |body: &Value| post(environment, "/v1/certificates", &body.to_string(), &options);
    let first = send(&request(&csr));
    assert_eq!(first.status, 201);
    assert_eq!(send(&request(&csr)).body, first.body);
    let mut other = request(&csr);
    other["ttl"] = "1h".into();
    send(&other).is(422, "idempotency-mismatch", "Idempotency-Key");
}

#[test]
fn every_post_takes_a_name_and_does_the_same_once() {
    let environment = &Environment::start();
    let operator = environment.path(".config/countersign/pay.example");
    let file = |name: &str| operator.join(name).display().to_string();
    let (cert, key) = (file("svid.pem"), file("svid.key"));
    let send = |path: &str, name: &str, body: &Value| {
        let name = format!("Idempotency-Key: {name}");
        let options = ["--cert", &cert, "--key", &key, "-H", &name];
        post(environment, path, &body.to_string(), &options)
    };
    let id = |path: &str| environment.id(path);
    environment.issue("/prod/reports", "svid");
    for (path, status, body, other) in [
        (
            "/v1/revocations",
            201,
            json!({"target": id("/prod/reports"), "reason": "superseded"}),
            json!({"target": id("/prod/batch"), "reason": "superseded"}),
        ),
        (
            "/v1/denials",
            201,
            json!({"spiffe_id": id("/prod/batch"), "reason": "superseded"}),
            json!({"spiffe_id": id("/prod/batch"), "reason": "key-compromise"}),
        ),
        (
            "/v1/tokens",
            201,
            json!({"spiffe_id": id("/prod/monolith")}),
            json!({"spiffe_id": id("/prod/monolith"), "ttl": "1m"}),
        ),
    ] {
        let first = send(path, path, &body);
        assert_eq!(first.status, status, "{}", first.body);
        let again = send(path, &format!("\"{path}\""), &body);
        assert_eq!((again.status, again.body), (status, first.body), "{path}");
        send(path, path, &other).is(422, "idempotency-mismatch", "used for another request");
        send(path, "two words", &body).is(400, "request-invalid", "1 to 255 visible ASCII");
    }
    let question =
        json!({"as": id("/prod/batch"), "action": "issue", "resource": id("/prod/batch")});
    assert_eq!(send("/v1/policies/explain", "any", &question).status, 200);
    send("/v1/policies/explain", "two words", &question).is(
        400,
        "request-invalid",
        "visible ASCII",
    );
}

#[test]
fn a_full_disk_issues_nothing_and_loses_nothing() {
    let mut environment = Environment::start();
    environment.issue("/prod/reports", "before");
    let size = std::fs::metadata(environment.path("state/countersign.db-wal")).unwrap().len();
    let pid = environment.server_pid().to_string();
    let limit = format!("--fsize={size}:unlimited");
    let limited = Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap();
    assert!(limited.success());
    let folder = tempfile::tempdir().unwrap();
    let answer = ask(&environment, &request(&p256(folder.path())));
    answer.is(503, "store-unavailable", "the CA's store cannot be used");
    let lifted =
        Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited:unlimited"]).status();
    assert!(lifted.unwrap().success());
    assert_eq!(ask(&environment, &request(&p256(folder.path()))).status, 201);
    assert_eq!(environment.stop(), 0);
    environment.serve();
    environment.countersign(&["list"]).success().says("/prod/reports");
}

#[test]
fn a_locked_store_is_told_and_recovers() {
    let environment = Environment::start();
    let database = environment.path("state/countersign.db");
    let other = rusqlite::Connection::open(&database).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let answer = ask(&environment, &request(&p256(folder.path())));
    answer.is(503, "store-unavailable", "database is locked");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(ask(&environment, &request(&p256(folder.path()))).status, 201);
}

#[test]
fn each_mistake_of_configuration_is_told_before_anything_starts() {
    let mut environment = Environment::start();
    environment.stop();
    let serve =
        |environment: &Environment| environment.countersign(&["serve", "--config", "ca.toml"]);
    let config = std::fs::read_to_string(environment.path("ca.toml")).unwrap();

    environment.write("ca.toml", &format!("{config}\nport = 8443\n"));
    serve(&environment).exits(2).says("unknown field `port`");
    environment.write("ca.toml", &config);
    environment.countersign(&["serve", "--config", "absent.toml"]).exits(2).says("absent.toml");

    environment.write("passphrase", "not the passphrase of this test");
    serve(&environment).exits(1).says("does not open with this passphrase");
    environment.write("passphrase", "short");
    serve(&environment).exits(2).says("fewer than 12");
    environment.write("passphrase", "the passphrase of this test");

    let taken = std::net::TcpListener::bind(environment.address()).unwrap();
    serve(&environment).exits(1).says("`listen`").says("next: `ss -ltnp`");
    drop(taken);
    let taken = std::net::TcpListener::bind(environment.admin_address()).unwrap();
    serve(&environment).exits(1).says("`admin_listen`").says("next: `ss -ltnp`");
    drop(taken);
    let elsewhere = config.replace("listen = \"127.0.0.1", "listen = \"192.0.2.1");
    environment.write("ca.toml", &elsewhere);
    serve(&environment).exits(1).says("next: `ip address`");
    environment.write("ca.toml", &config);

    std::fs::set_permissions(
        environment.path("state/keys/issuer.key"),
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )
    .unwrap();
    environment.serve_until("503");
    let why = environment.admin("/readyz");
    assert!(why.contains("issuer key") && why.contains("chmod 600"), "{why}");
    environment.stop();
    // Without a certificate of before, it starts not even to say what it cannot do.
    std::fs::remove_file(environment.path("state/keys/own-certificate.sealed")).unwrap();
    serve(&environment).exits(1).says("chmod 600");
    environment.countersign(&["init", "--config", "ca.toml"]).exits(1).says("has a CA already");
    environment
        .countersign(&["config", "check", "--config", "ca.toml"])
        .success()
        .says("listen")
        .says("limits.strangers")
        .says("limits.policy_depth")
        .says("limits.waiting_for_the_log")
        .says("limits.frames_a_second");
}

#[test]
fn two_processes_do_not_serve_from_one_folder() {
    let environment = Environment::start_with(&Settings::default());
    let second = environment.countersign(&["serve", "--config", "ca.toml"]);
    second.exits(1).says("another process");
}

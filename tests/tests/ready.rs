//! Ready means: can issue. What hinders it is told before somebody needs a certificate, and so is its
//! end.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::process::Command;
use std::time::Instant;

use system_tests::{Environment, PATIENCE};

#[test]
fn a_full_disk_is_told_before_anybody_asks_for_a_certificate_and_so_is_its_end() {
    let mut environment = Environment::start();
    until(&environment, "HTTP/1.1 200");
    let limit = |bytes: &str| {
        let (pid, limit) =
            (environment.server_pid().to_string(), format!("--fsize={bytes}:unlimited"));
        assert!(Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
    };
    limit("4096");
    until(&environment, "HTTP/1.1 503");
    assert!(environment.admin("/readyz").contains("the store cannot be used"));
    environment.countersign(&["status"]).success().says("NOT READY").says("cannot be used");
    limit("unlimited");
    until(&environment, "HTTP/1.1 200");
    let status = environment.countersign(&["status"]).success().stdout;
    assert!(!status.contains("NOT READY"), "{status}");
    environment.issue("/prod/reports", "after");
    let log = environment.log();
    for told in ["the store takes nothing", "not ready", "takes what is written again"] {
        assert_eq!(log.matches(told).count(), 1, "{told:?} is not told once in {log}");
    }
    assert_eq!(environment.stop(), 0);
}

#[test]
fn a_commit_that_fails_is_told_at_once_and_its_end_by_the_next_that_does_not() {
    let environment = Environment::start();
    let database = environment.path("state/countersign.db");
    let other = rusqlite::Connection::open(&database).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let deny = ["deny", &environment.id("/prod/batch"), "--reason", "superseded", "--yes"];
    assert_ne!(environment.countersign(&deny).code, 0);
    assert!(environment.admin("/readyz").starts_with("HTTP/1.1 503"), "{}", environment.log());
    other.execute_batch("ROLLBACK").unwrap();
    environment.countersign(&deny).success();
    assert!(environment.admin("/readyz").starts_with("HTTP/1.1 200"), "{}", environment.log());
}

/// Nobody asks for anything meanwhile: it is found out by itself, and told by both at once.
#[test]
fn a_database_that_another_process_has_locked_is_noticed_within_a_second_or_so() {
    let environment = Environment::start();
    until(&environment, "HTTP/1.1 200");
    let database = environment.path("state/countersign.db");
    let other = rusqlite::Connection::open(&database).unwrap();
    for lock in ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"] {
        other.execute_batch(lock).unwrap();
        let locked = Instant::now();
        until(&environment, "HTTP/1.1 503");
        assert!(locked.elapsed() < NOTICED, "{:?}", locked.elapsed());
        assert!(environment.admin("/readyz").contains("locked"), "{}", environment.log());
        let deny = ["deny", &environment.id("/prod/batch"), "--reason", "superseded", "--yes"];
        let heard = environment.countersign(&deny);
        assert_eq!(heard.code, 4, "{heard:?}");
        let file = environment.path("state/countersign.db").display().to_string();
        heard.says("database is locked").says(&format!("fuser {file}"));
        // Who runs no CA hears nothing of its insides.
        environment.write("token", "no token");
        let (id, url) = (environment.id("/prod/reports"), environment.url());
        let issue = ["issue", &id, "--url", &url, "--token-file", "token", "--out", "none"];
        let heard = environment.countersign(&issue);
        assert!(!heard.stderr.contains("locked"), "{heard:?}");
        other.execute_batch("ROLLBACK").unwrap();
        until(&environment, "HTTP/1.1 200");
    }
}

/// What `/readyz` says, the metric says when it is asked next, and the other way about.
#[test]
fn metric_and_readyz_are_of_one_state() {
    let environment = Environment::start();
    until(&environment, "HTTP/1.1 200");
    let database = environment.path("state/countersign.db");
    let other = rusqlite::Connection::open(&database).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let deny = ["deny", &environment.id("/prod/batch"), "--reason", "superseded", "--yes"];
    assert_ne!(environment.countersign(&deny).code, 0);
    assert!(environment.admin("/readyz").starts_with("HTTP/1.1 503"), "{}", environment.log());
    let told = environment.admin("/metrics");
    assert!(told.lines().any(|line| line == "countersign_ready 0"), "{told}");
    let kind = told.lines().find(|line| line.to_ascii_lowercase().starts_with("content-type:"));
    assert!(kind.is_some_and(|kind| kind.contains("version=0.0.4")), "{kind:?}");
}

/// Names that the constraints of a CA above exclude, given to the CA after it was made.
#[test]
fn a_certificate_that_every_client_refuses_is_no_ready_ca() {
    let mut environment = Environment::prepare(&system_tests::Settings::default());
    let init = ["init", "--config", "ca.toml"];
    let request = environment.countersign(&[&init[..], &["--parent", "csr"]].concat()).success();
    let request = request.stdout.trim().to_owned();
    let folder = environment.folder().to_owned();
    let ca = "keyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n";
    environment.write("root.ext", &format!("basicConstraints=critical,CA:TRUE\n{ca}"));
    let permitted = "permitted;DNS:localhost,permitted;IP:127.0.0.0/255.0.0.0";
    environment.write(
        "issuer.ext",
        &format!(
            "basicConstraints=critical,CA:TRUE,pathlen:0\n{ca}authorityKeyIdentifier=keyid\n\
             nameConstraints=critical,{permitted}\n"
        ),
    );
    let key = "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=Root \
               -keyout root.key -out root.csr";
    let root = "x509 -req -in root.csr -key root.key -days 30 -extfile root.ext -out root.pem";
    let issuer = format!(
        "x509 -req -in {request} -CA root.pem -CAkey root.key -days 30 -extfile issuer.ext -out i.pem"
    );
    for line in [key, root, &issuer] {
        let words: Vec<&str> = line.split_whitespace().collect();
        system_tests::openssl(&folder, &words).success();
    }
    let read = |name: &str| std::fs::read_to_string(environment.path(name)).unwrap();
    environment.write("chain.pem", &(read("i.pem") + &read("root.pem")));
    let finish = ["--certificate", "chain.pem"];
    environment.countersign(&[&init[..], &finish].concat()).success();
    let names = "names = [\"127.0.0.1\", \"localhost\"";
    let config = read("ca.toml");
    let more = config.replace(names, &format!("{names}, \"ca.other.example\""));
    assert_ne!(more, config);
    environment.write("ca.toml", &more);
    environment.serve_until("503");
    let told = environment.admin("/readyz");
    assert!(told.contains("NameConstraintViolation") && told.contains("`names`"), "{told}");
    // It is made once, not each second again.
    let made = || environment.log().matches("renewed the CA's own certificate").count();
    until(&environment, "HTTP/1.1 503");
    assert_eq!(made(), 0, "{}", environment.log());
    environment.stop();
    environment.write("ca.toml", &config);
    environment.serve();
    until(&environment, "HTTP/1.1 200");
}

#[test]
fn who_speaks_http_to_the_port_of_tls_is_told_so() {
    let environment = Environment::start();
    let plain = environment.url().replace("https://", "http://");
    for method in ["GET", "POST"] {
        let curl = ["-sS", "-i", "--max-time", "10", "-X", method, &plain];
        let told = system_tests::program(Command::new("curl").args(curl)).success();
        told.says("400 Bad Request").says("this port speaks TLS");
    }
    let metrics = environment.admin("/metrics");
    let refused = "countersign_handshakes_refused_total{reason=\"tls\"} 2";
    assert!(metrics.contains(refused), "{metrics}");
}

/// A probe each half second, its wait, and a busy machine.
const NOTICED: std::time::Duration = std::time::Duration::from_secs(3);

/// Until `/readyz` and the metric say so; a few seconds are promised.
fn until(environment: &Environment, status: &str) {
    let begun = Instant::now();
    let metric = format!("countersign_ready {}", u8::from(status.ends_with("200")));
    while !environment.admin("/readyz").starts_with(status)
        || !environment.admin("/metrics").lines().any(|line| line == metric)
    {
        assert!(begun.elapsed() < PATIENCE, "{}", environment.log());
        system_tests::pause();
    }
}

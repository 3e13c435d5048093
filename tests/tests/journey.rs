//! A newcomer's journey, with the real binary.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::process::{Child, Command};

use system_tests::{Environment, PATIENCE, openssl, pause, program, readme};

#[test]
fn from_init_to_a_revoked_certificate() {
    let mut environment = Environment::start();
    environment.countersign(&["status"]).success().says("pay.example");
    let svid = environment.issue("/prod/reports", "reports");
    openssl(
        &svid,
        &["verify", "-x509_strict", "-CAfile", "bundle.pem", "-untrusted", "svid.pem", "svid.pem"],
    )
    .success();
    environment.countersign(&["verify", "reports/svid.pem"]).success().says("countersignature");
    environment.countersign(&["lint", "reports/svid.pem"]).success();
    environment.countersign(&["inspect", "reports/svid.pem"]).success().says("SCT index");

    let before = std::fs::read(svid.join("svid.pem")).unwrap();
    environment.countersign(&["renew", "reports", "--check"]).exits(1);
    environment.countersign(&["renew", "reports"]).success();
    assert_eq!(std::fs::read(svid.join("svid.pem")).unwrap(), before, "it was not due");

    let listed = environment.countersign(&["--json", "list", "--id", "*/prod/reports"]).success();
    let serial = listed.json()["serial_number"].as_str().unwrap().to_owned();
    environment.countersign(&["show", &serial]).success().says("workload-own-row");

    environment.countersign(&["revoke", &serial, "--reason", "key-compromise"]).success();
    environment.countersign(&["list", "--revoked"]).success().says("revoked").says("/prod/reports");
    check_by_crl(&environment, &svid);
    assert_eq!(environment.stop(), 0);
}

/// OpenSSL takes the certificate without the CRL, and refuses it with.
fn check_by_crl(environment: &Environment, svid: &std::path::Path) {
    let status = environment.countersign(&["--json", "status"]).success().json();
    let issuer = status["issuers"][0]["id"].as_str().unwrap().to_owned();
    let crl = svid.join("crl.der");
    let arguments = ["-o", crl.to_str().unwrap()];
    environment.curl(&format!("/crl/{issuer}"), &arguments).success();
    openssl(svid, &["crl", "-inform", "DER", "-in", "crl.der", "-out", "crl.pem"]).success();
    let verify =
        ["verify", "-CAfile", "bundle.pem", "-untrusted", "svid.pem", "-CRLfile", "crl.pem"];
    openssl(svid, &[&verify[..], &["svid.pem"]].concat()).success();
    openssl(svid, &[&verify[..], &["-crl_check", "svid.pem"]].concat())
        .exits(2)
        .says("certificate revoked");
}

#[test]
fn dev_shows_what_it_says_and_cleans_up() {
    let mut dev = Dev::start();
    dev.until("Ctrl-C stops it");
    dev.environment.countersign(&["list"]).success().says("/reports");
    let shown = dev.shown();
    for expected in [
        "  200  ",
        "intruder → monolith   valid certificate, not among peers",
        "forger → monolith     signed by the CA key, no countersignature",
        "stream closed after",
        "next handshake refused (revoked)",
        "window pulled forward",
        "root recomputed",
    ] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    is_as_the_readme_shows(&shown);
    let (failed, made) = renewal_calls(&shown);
    assert!(failed == 0 && made > 0, "{shown}");
    paste(&dev.environment, &shown);
    dev.stop();
    fits_a_terminal(&dev.shown());
    dev.environment.countersign(&["list"]).exits(2);
}

#[test]
fn dev_cleans_up_when_it_is_stopped_while_it_starts() {
    let mut dev = Dev::start();
    dev.until("  state ");
    dev.stop();
}

/// A `dev` whose output is kept in a file.
struct Dev {
    environment: Environment,
    process: Child,
}

impl Dev {
    fn start() -> Self {
        let environment = Environment::prepare(&system_tests::Settings::default());
        let log = std::fs::File::create(environment.path("dev.log")).unwrap();
        let process = environment.command(&["dev"]).stdout(log).spawn().unwrap();
        Self { environment, process }
    }

    fn shown(&self) -> String {
        std::fs::read_to_string(self.environment.path("dev.log")).unwrap()
    }

    /// Waits until it has shown this, [`PATIENCE`] at most.
    fn until(&self, text: &str) {
        let begun = std::time::Instant::now();
        while !self.shown().contains(text) {
            assert!(begun.elapsed() < PATIENCE, "{}", self.shown());
            pause();
        }
    }

    /// Ends it as an operator does; it leaves nothing.
    fn stop(&mut self) {
        let process = self.process.id().to_string();
        program(Command::new("kill").arg("-TERM").arg(process)).success();
        assert_eq!(self.process.wait().unwrap().code(), Some(0));
        let shown = self.shown();
        assert!(shown.ends_with(", removed the state folder\n"), "{shown}");
        let state = shown.lines().find_map(|line| line.trim().strip_prefix("state ")).unwrap();
        assert!(!std::path::Path::new(state.trim()).exists());
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // It has ended already, unless the test fails.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Each line that README shows is there, in that order and shape; lines may be between them.
fn is_as_the_readme_shows(shown: &str) {
    let mut said = shown.lines();
    for line in readme::shown("Two commands").lines().filter(|line| !line.trim().is_empty()) {
        let found = said.any(|said| readme::has_shape(said, line));
        assert!(found, "README shows this, and `dev` does not: {line}\n{shown}");
    }
}

/// How many calls failed while a certificate was renewed, and how many were made; the monolith saw
/// the certificate that it was renewed to.
fn renewal_calls(shown: &str) -> (u64, u64) {
    let mut lines = shown.lines().skip_while(|line| !line.contains("  renew    reports "));
    let (renewed, calls) = (lines.next().unwrap(), lines.next().unwrap());
    let new = renewed.split(" → ").nth(1).unwrap().split(' ').next().unwrap();
    let (counts, seen) = calls.trim().split_once(" calls failed; ").unwrap();
    assert_eq!(seen, format!("monolith saw {new} in a new handshake"));
    let (failed, made) = counts.split_once(" of ").unwrap();
    (failed.parse().unwrap(), made.parse().unwrap())
}

/// No line is wider than 80 columns; but for one with the path of the executable, if that is longer
/// than a path usually is.
#[track_caller]
fn fits_a_terminal(shown: &str) {
    let executable = system_tests::binary();
    let executable = executable.to_str().unwrap();
    for line in shown.lines() {
        let has_long_path = executable.len() > USUAL_PATH && line.contains(executable);
        assert!(line.chars().count() <= 80 || has_long_path, "{line}");
    }
}

/// Of `/home/somebody/countersign/target/release/countersign`.
const USUAL_PATH: usize = 53;

/// Every command that `dev` prints works as it is, in order.
fn paste(environment: &Environment, shown: &str) {
    let begin = shown.find("From other terminals").unwrap();
    let end = shown.find("Ctrl-C stops").unwrap();
    // What is built already, by the name that a newcomer builds it by.
    let example = system_tests::example("client");
    let mut script = String::from("set -u\ncargo() {\n");
    script.push_str("[ \"$1 $2 $3 $4 $5 $6\" = 'run -p countersign --example client --' ] &&\n");
    script.push_str(&format!("'{}' \"$7\"; }}\n", example.display()));
    for line in shown[begin..end].lines().skip(1) {
        script.push_str(line);
        script.push('\n');
    }
    let mut shell = environment.command(&[]);
    let mut bash = Command::new("bash");
    bash.current_dir(environment.folder()).env_clear();
    for (key, value) in shell.get_envs() {
        bash.env(key, value.unwrap_or_default());
    }
    shell.args::<[&str; 0], _>([]);
    let outcome = program(bash.arg("-c").arg(&script));
    let said = format!("{}\n{}", outcome.stdout, outcome.stderr);
    assert!(said.contains("svid.pem: OK"), "{said}");
    assert!(said.contains("\"state\":\"valid\""), "{said}");
    assert!(said.contains("certificate revoked"), "{said}");
    assert!(environment.path("monolith/svid.pem").exists(), "{said}");
    assert!(said.contains("localhost, 127.0.0.1"), "a server with it is known by name: {said}");
    assert!(!said.contains("warning: "), "{said}");
    assert!(said.contains("{\"caller\":\"spiffe://dev.internal/orders\""), "{said}");
}

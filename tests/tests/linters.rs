//! Requests that OpenSSL made, and what OpenSSL and pkilint think of the certificates and CRLs that
//! came of them.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use system_tests::{Environment, Settings, openssl};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use certified::{KeyType, bounded, certify, made, record, request};

#[path = "../interop/certified.rs"]
mod certified;

const LOCALHOST: [&str; 4] = ["--dns", "localhost", "--ip", "127.0.0.1"];

#[test]
fn requests_of_openssl_become_certificates_that_openssl_accepts() {
    let environment = Environment::start();
    for key_type in KeyType::ALL {
        let own = certify(&environment, key_type, "/prod/reports", key_type.name(), &LOCALHOST);
        openssl_accepts(&own);
        says_what_the_log_says(&environment, &own);
    }
}

#[test]
fn curl_and_openssl_are_enough_for_a_certificate() {
    let environment = Environment::start();
    let id = environment.id("/prod/reports");
    for key_type in KeyType::ALL {
        let folder = key_type.name();
        let own = request(&environment, key_type, folder);
        let token = environment.countersign(&["token", "create", &id]).success().stdout;
        let body = serde_json::json!({
            "csr": std::fs::read_to_string(own.join("request.pem")).unwrap(),
            "attestation": {"type": "token", "token": token.trim()},
        });
        environment.write(&format!("{folder}/body.json"), &body.to_string());
        let bundle = own.join("bundle.pem");
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail-with-body", "--json", "@body.json", "--cacert"])
            .arg(bundle)
            .arg(format!("{}/v1/certificates", environment.url()))
            .current_dir(&own);
        let issued = bounded(&curl).success().json();
        environment.write(&format!("{folder}/svid.pem"), issued["chain"].as_str().unwrap());
        openssl_accepts(&own);
        says_what_the_log_says(&environment, &own);
    }
}

/// OpenSSL builds the chain by the letter of RFC 5280, and finds the request's key.
fn openssl_accepts(own: &Path) {
    let verify = ["verify", "-x509_strict", "-CAfile", "bundle.pem", "-untrusted", "svid.pem"];
    for purpose in ["sslclient", "sslserver"] {
        openssl(own, &[&verify[..], &["-purpose", purpose, "svid.pem"]].concat()).success();
    }
    let certified = openssl(own, &["x509", "-noout", "-pubkey", "-in", "svid.pem"]).success();
    let requested = openssl(own, &["req", "-noout", "-pubkey", "-in", "request.pem"]).success();
    assert_eq!(certified.stdout, requested.stdout);
}

/// The SCT is shown with the time of the log's entry; the subject is empty, so its SAN is critical.
fn says_what_the_log_says(environment: &Environment, own: &Path) {
    let record = record(environment, own);
    let logged = record["issued_at"].as_str().unwrap();
    let logged = OffsetDateTime::parse(logged, &Rfc3339).unwrap();
    let stamp = time::macros::format_description!(
        "[month repr:short] [day padding:space] [hour]:[minute]:[second].[subsecond digits:3] [year] GMT"
    );
    openssl(own, &["x509", "-in", "svid.pem", "-noout", "-text"])
        .success()
        .says("CT Precertificate SCTs")
        .says(&format!("Timestamp : {}\n", logged.format(&stamp).unwrap()))
        .says("Subject: \n")
        .says("X509v3 Subject Alternative Name: critical\n")
        .says(&format!("URI:{}", environment.id("/prod/reports")));
}

#[test]
fn pkilint_finds_nothing_but_the_known_exceptions() {
    let mut settings = Settings::default();
    settings.configuration.push_str("\ncrl_url = \"http://crl.pay.example/{issuer}\"");
    let environment = Environment::start_with(&settings);
    let mut linted = Linted::default();
    for key_type in KeyType::ALL {
        let own = certify(&environment, key_type, "/prod/reports", key_type.name(), &LOCALHOST);
        openssl(&own, &["x509", "-in", "svid.pem", "-noout", "-text"])
            .says("X509v3 CRL Distribution Points");
        linted.chain(&own);
    }
    for profile in ["common-name", "short-lived"] {
        let options = [&LOCALHOST[..], &["--profile", profile]].concat();
        let own = certify(&environment, KeyType::P256, "/prod/reports", profile, &options);
        linted.chain(&own);
    }
    let operator = environment.path(&format!(".config/countersign/{}", system_tests::TRUST_DOMAIN));
    linted.chain(&operator);

    linted.crl(&crl(&environment, "empty.crl"));
    let id = environment.id("/prod/reports");
    environment.countersign(&["revoke", "--yes", &id, "--reason", "key-compromise"]).success();
    linted.crl(&crl(&environment, "revoked.crl"));

    linted.has_only_known_exceptions();
}

/// The issuer's CRL, DER.
fn crl(environment: &Environment, name: &str) -> PathBuf {
    let status = environment.countersign(&["--json", "status"]).success().json();
    let issuer = status["issuers"][0]["id"].as_str().unwrap();
    let crl = environment.path(name);
    environment.curl(&format!("/crl/{issuer}"), &["--fail", "-o", crl.to_str().unwrap()]).success();
    crl
}

/// Every finding of pkilint, with what it was found in.
#[derive(Debug, Default)]
struct Linted {
    findings: Vec<(String, String, String)>,
}

impl Linted {
    /// The leaf, its issuer and their root, each by itself and each pair.
    fn chain(&mut self, own: &Path) {
        let chain = std::fs::read_to_string(own.join("svid.pem")).unwrap();
        let root = std::fs::read_to_string(own.join("bundle.pem")).unwrap();
        let mut files = Vec::new();
        for (n, pem) in blocks(&chain).chain(blocks(&root)).enumerate() {
            let file = own.join(format!("{n}.pem"));
            std::fs::write(&file, pem).unwrap();
            self.lint("lint_pkix_cert", &[], &[&file]);
            files.push(file);
        }
        assert_eq!(files.len(), 3, "leaf, issuer, root");
        for pair in files.windows(2) {
            self.lint("lint_pkix_signer_signee_cert_chain", &[], &[&pair[1], &pair[0]]);
        }
    }

    fn crl(&mut self, file: &Path) {
        self.lint("lint_crl", &["-t", "CRL", "-p", "PKIX"], &[file]);
    }

    /// pkilint exits with the number of its findings, or says what it could not read.
    fn lint(&mut self, linter: &str, options: &[&str], files: &[&Path]) {
        let mut command = Command::new(made("venv/bin").join(linter));
        command.args(["lint", "-s", "WARNING", "-f", "JSON"]).args(options).args(files);
        let outcome = bounded(&command);
        let findings: serde_json::Value = serde_json::from_str(&outcome.stdout)
            .unwrap_or_else(|error| panic!("{command:?}: {error}: {outcome:?}"));
        for result in findings["results"].as_array().unwrap() {
            for finding in result["finding_descriptions"].as_array().unwrap() {
                self.findings.push((
                    finding["code"].as_str().unwrap().to_owned(),
                    finding["message"].as_str().unwrap_or_default().to_owned(),
                    format!("{} of {}", result["node_path"], files[0].display()),
                ));
            }
        }
    }

    fn has_only_known_exceptions(&self) {
        let text = include_str!("../interop/pkilint-exceptions.txt");
        let exceptions: Vec<(&str, &str)> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| match *line.split(" | ").collect::<Vec<_>>() {
                [code, message, _reason] => (code, message),
                _ => panic!("not CODE | START OF MESSAGE | REASON: {line}"),
            })
            .collect();
        let mut met = BTreeSet::new();
        for finding @ (code, message, _) in &self.findings {
            let excepted = exceptions
                .iter()
                .position(|exception| code == exception.0 && message.starts_with(exception.1));
            met.insert(excepted.unwrap_or_else(|| panic!("pkilint found {finding:?}")));
        }
        for (n, exception) in exceptions.iter().enumerate() {
            assert!(met.contains(&n), "pkilint no longer finds {exception:?}: remove its line");
        }
    }
}

/// The PEM blocks of a file.
fn blocks(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive("-----END CERTIFICATE-----\n").filter(|block| block.contains("BEGIN"))
}

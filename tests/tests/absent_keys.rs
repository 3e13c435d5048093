//! A restart while the file of an active key is missing.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs;
use std::time::{Duration, Instant};

use system_tests::{Environment, openssl};

#[test]
fn a_ca_without_its_issuers_key_serves_everything_else_until_the_file_is_back() {
    let mut environment = Environment::start();
    let token = environment.token("/prod/reports");
    environment.write("token", &token);
    environment.stop();
    let (key, lost) = (environment.path("state/keys/issuer.key"), environment.path("lost"));
    fs::rename(&key, &lost).unwrap();

    environment.serve_until("503");
    for told in [environment.admin("/readyz"), environment.log()] {
        assert!(told.contains("without the issuer key no certificate is issued"), "{told}");
    }
    environment.countersign(&["status"]).success().says("without the issuer key");
    let deny = ["deny", "spiffe://pay.example/prod/batch", "--reason", "key-compromise"];
    environment.countersign(&deny).success();
    environment.curl("/v1/trust", &[]).success();
    let listen = ["-N", "--max-time", "5", "-H", "Accept: text/event-stream"];
    let heard = environment.curl("/v1/feed?after=0", &listen).stdout;
    // What was denied, and at least one heartbeat after it.
    assert!(heard.matches("data:").count() >= 2, "{heard}");
    let (id, url) = (environment.id("/prod/reports"), environment.url());
    let issue = ["issue", &id, "--url", &url, "--token-file", "token", "--out", "reports"];
    environment.countersign(&issue).exits(4).says("without its issuer key no certificate");

    fs::rename(&lost, &key).unwrap();
    let begun = Instant::now();
    while !environment.admin("/readyz").starts_with("HTTP/1.1 200") {
        assert!(begun.elapsed() < Duration::from_secs(30), "{}", environment.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    environment.countersign(&issue).success();
}

#[test]
fn a_ca_without_the_key_of_its_database_or_any_certificate_of_its_own_does_not_start() {
    let mut environment = Environment::start();
    environment.stop();
    let keys = environment.path("state/keys");
    let lost = environment.path("lost");
    let serve = || environment.countersign(&["serve", "--config", "ca.toml"]);
    fs::rename(keys.join("head.key"), &lost).unwrap();
    serve().exits(1).says("head.key is gone");
    fs::rename(&lost, keys.join("head.key")).unwrap();

    fs::rename(keys.join("issuer.key"), &lost).unwrap();
    fs::remove_file(keys.join("own-certificate.sealed")).unwrap();
    serve().exits(1).says("without the issuer key");
}

#[test]
fn the_key_of_the_cas_own_certificate_is_sealed() {
    let environment = Environment::start();
    let sealed = environment.path("state/keys/own-certificate.sealed");
    let opened = ["pkey", "-in", sealed.to_str().unwrap(), "-passin", "file:passphrase", "-noout"];
    openssl(environment.folder(), &opened).success();
    let other = ["pkey", "-in", sealed.to_str().unwrap(), "-passin", "pass:x", "-noout"];
    assert_ne!(openssl(environment.folder(), &other).code, 0);
}

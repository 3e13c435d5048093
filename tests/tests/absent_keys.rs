//! A restart while the file of an active key is missing.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs;
use std::time::Instant;

use system_tests::{Environment, PATIENCE, openssl};

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
    // What was denied, and at least one heartbeat after it; a busy machine needs longer to begin.
    let mut hears_both = ["5", "20", "60"].into_iter().map(|seconds| {
        let listen = ["-N", "--max-time", seconds, "-H", "Accept: text/event-stream"];
        environment.curl("/v1/feed?after=0", &listen).stdout.matches("data:").count() >= 2
    });
    assert!(hears_both.any(|both| both), "{}", environment.log());
    let (id, url) = (environment.id("/prod/reports"), environment.url());
    let issue = ["issue", &id, "--url", &url, "--token-file", "token", "--out", "reports"];
    environment.countersign(&issue).exits(4).says("without its issuer key no certificate");

    fs::rename(&lost, &key).unwrap();
    let begun = Instant::now();
    while !environment.admin("/readyz").starts_with("HTTP/1.1 200") {
        assert!(begun.elapsed() < PATIENCE, "{}", environment.log());
        system_tests::pause();
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
fn a_lost_issuer_is_replaced_on_the_host_with_the_root_at_hand() {
    let mut environment = Environment::start();
    environment.issue("/prod/reports", "before");
    environment.stop();
    let recover = ["init", "--config", "ca.toml", "--recover"];
    let replace = [&recover[..], &["--replace-lost-issuer"]].concat();
    environment.countersign(&replace).exits(1).says("it is not lost");
    let state = |name: &str| environment.path("state").join(name);
    fs::remove_file(state("keys/own-certificate.sealed")).unwrap();
    // One that does not open is no lost one.
    let (key, kept) = (state("keys/issuer.key"), fs::read(state("keys/issuer.key")).unwrap());
    fs::write(&key, "no key").unwrap();
    assert_ne!(environment.countersign(&replace).code, 0);
    fs::write(&key, kept).unwrap();
    fs::remove_file(&key).unwrap();
    let serve = ["serve", "--config", "ca.toml"];
    environment.countersign(&serve).exits(1).says("--replace-lost-issuer");
    environment.countersign(&recover).exits(1).says("--replace-lost-issuer");
    let (offline, away) = (state("offline"), environment.path("away"));
    fs::rename(&offline, &away).unwrap();
    assert_ne!(environment.countersign(&replace).code, 0);
    fs::rename(&away, &offline).unwrap();

    environment.countersign(&replace).success().says("another issuer");
    environment.countersign(&replace).exits(1).says("it is not lost");
    environment.serve();
    environment.issue("/prod/reports", "after");
    for svid in ["before/svid.pem", "after/svid.pem"] {
        environment.countersign(&["verify", svid]).success();
    }
    let keys = environment.countersign(&["issuer", "list"]).success().stdout;
    assert!(keys.contains("active") && keys.contains("retiring"), "{keys}");
    environment.countersign(&["rotate", "--config", "ca.toml"]).success();
    environment.stop();
    environment.serve();
}

#[test]
fn a_key_that_is_lost_for_good_is_replaced_while_the_ca_serves() {
    for purpose in ["countersignature", "feed", "issuer"] {
        let mut environment = Environment::start();
        environment.stop();
        fs::remove_file(environment.path(&format!("state/keys/{purpose}.key"))).unwrap();
        environment.serve_until("503");
        environment.countersign(&["key", "prepare", purpose, "--config", "ca.toml"]).success();
        environment.countersign(&["rotate", "--config", "ca.toml"]).success();
        let begun = Instant::now();
        while !environment.admin("/readyz").starts_with("HTTP/1.1 200") {
            assert!(begun.elapsed() < PATIENCE, "{}", environment.log());
            system_tests::pause();
        }
        environment.issue("/prod/reports", "after");
    }
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

//! An issuer and a root that end: `status`, `rotate` and the diagnostics say the same, and what to type.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::fs;
use std::time::Instant;

use authority::clock::{Clock, SystemClock};
use serde_json::Value;
use system_tests::{Environment, PATIENCE, Settings, openssl, pause};

#[test]
fn what_ends_is_told_everywhere_with_the_same_next_step() {
    let serve_options = vec!["--log-format".to_owned(), "json".to_owned()];
    let mut environment = Environment::prepare(&Settings { serve_options, ..Settings::default() });
    let init = ["init", "--config", "ca.toml"];
    let request = environment.countersign(&[&init[..], &["--parent", "csr"]].concat()).success();
    certify(&environment, request.stdout.trim());
    let finish = [&init[..], &["--certificate", "chain.pem"]].concat();
    environment.countersign(&finish).success();
    environment.serve();

    let status = environment.countersign(&["--json", "status"]).success().json();
    let warned = status["warnings"].as_array().unwrap();
    let left = |key: &str| warned.iter().find(|it| it["key"] == key).unwrap()["left"].clone();
    assert_eq!((left("root"), left("issuer"), warned.len()), ("half".into(), "quarter".into(), 2));
    let shown = environment.countersign(&["status"]).success().stdout;
    let rotated = environment.countersign(&["rotate", "--config", "ca.toml"]).success();
    let tried = environment.countersign(&["rotate", "--dry-run", "--config", "ca.toml"]).success();
    for said in [&shown, &rotated.stderr, &tried.stderr] {
        for part in [
            // 60 days, or a second less.
            "the issuer ends in",
            "a quarter of its life is left, or less",
            "the root ends in",
            "certified again by the parent, then: countersign init --certificate FILE",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
    // Cron hides notes: what is urgent is told nevertheless.
    let quiet = environment.countersign(&["-q", "rotate", "--config", "ca.toml"]).success();
    assert!(quiet.stderr.contains("warning: the issuer ends"), "{}", quiet.stderr);
    assert!(!quiet.stderr.contains("the root ends"), "{}", quiet.stderr);

    let begun = Instant::now();
    let told = loop {
        let told = lines(&environment);
        if told.len() >= 2 || begun.elapsed() > PATIENCE {
            break told;
        }
        pause();
    };
    let keys: Vec<_> = told.iter().map(|line| (&line["key"], &line["left"])).collect();
    let expected = [("root", "half"), ("issuer", "a quarter")];
    let expected = expected.map(|(key, left)| (Value::from(key), Value::from(left)));
    assert_eq!(keys, expected.iter().map(|(key, left)| (key, left)).collect::<Vec<_>>());
}

fn lines(environment: &Environment) -> Vec<Value> {
    let log = environment.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"] == "a certificate of the CA's ends").collect()
}

/// A root with two fifths of its life left, and our issuer with a sixth.
fn certify(environment: &Environment, request: &str) {
    environment.write("index.txt", "");
    environment.write(
        "openssl.cnf",
        "[ca]\ndefault_ca = it\n[it]\ndatabase = index.txt\nnew_certs_dir = .\nrand_serial = yes\n\
         default_md = sha256\npolicy = any\nunique_subject = no\ncopy_extensions = none\n\
         [any]\norganizationName = optional\ncommonName = optional\n\
         [root]\nbasicConstraints = critical,CA:TRUE\nkeyUsage = critical,keyCertSign,cRLSign\n\
         subjectKeyIdentifier = hash\n\
         [issuer]\nbasicConstraints = critical,CA:TRUE,pathlen:0\n\
         keyUsage = critical,keyCertSign,cRLSign\nsubjectKeyIdentifier = hash\n\
         authorityKeyIdentifier = keyid\nsubjectAltName = URI:spiffe://pay.example\n",
    );
    let folder = environment.folder();
    let key = ["-newkey", "rsa:3072", "-nodes", "-keyout", "parent.key", "-out", "parent.csr"];
    let subject = ["-subj", "/O=Elsewhere/CN=Parent"];
    openssl(folder, &[&["req"], &key[..], &subject].concat()).success();
    let sign = |extensions: &str, days: [i64; 2], further: &[&str]| {
        let [begin, end] = days.map(day);
        let common =
            ["ca", "-batch", "-config", "openssl.cnf", "-notext", "-keyfile", "parent.key"];
        let times = ["-startdate", &begin, "-enddate", &end, "-extensions", extensions];
        openssl(folder, &[&common[..], &times, further].concat()).success();
    };
    sign("root", [-600, 400], &["-selfsign", "-in", "parent.csr", "-out", "parent.pem"]);
    let issuer = ["-cert", "parent.pem", "-in", request, "-out", "issuer.pem"];
    sign("issuer", [-300, 60], &issuer);
    let [issuer, parent] = ["issuer.pem", "parent.pem"]
        .map(|file| fs::read_to_string(environment.path(file)).unwrap());
    environment.write("chain.pem", &format!("{issuer}{parent}"));
}

/// So many days from now, as OpenSSL takes it.
fn day(days: i64) -> String {
    let format = time::macros::format_description!("[year][month][day][hour][minute][second]Z");
    let at = SystemClock.now() + time::Duration::days(days);
    at.format(&format).unwrap()
}

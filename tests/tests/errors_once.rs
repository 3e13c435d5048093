//! What went wrong is told once: not by an error and again by its cause, and not by the diagnostics and
//! again at the end.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::HashMap;
use std::fs;

use system_tests::{Environment, Settings, program};

/// Pieces between colons, line ends and `=` of diagnostics, that stand there more than once.
fn told_twice(said: &str) -> Vec<String> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for line in said.lines() {
        for piece in line.split(": ").flat_map(|piece| piece.split("=\"")) {
            let piece = piece.trim().trim_matches(['"', '.']);
            if piece.len() >= 12 {
                *counts.entry(piece).or_default() += 1;
            }
        }
    }
    let twice = counts.into_iter().filter(|(_, count)| *count > 1);
    twice.map(|(piece, _)| piece.to_owned()).collect()
}

#[test]
fn what_is_told_twice_is_found() {
    assert_eq!(told_twice("error: /a/long/path: /a/long/path: gone"), ["/a/long/path"]);
    assert_eq!(told_twice("error: x: no such file\n  why: no such file"), ["no such file"]);
    assert!(told_twice("error: cannot read x\n  why: no such file\n  next: look").is_empty());
}

#[test]
fn commands_tell_an_error_once() {
    let environment = Environment::start();
    environment.issue("/prod/reports", "svid");
    let (reports, url) = (environment.id("/prod/reports"), environment.url());
    environment.write("no-token", "this is no token");
    environment.write("broken.toml", "trust_domain = 7");
    environment.write("unknown.toml", "port = 7");
    environment.write("garbage", "this is nothing at all");
    fs::create_dir(environment.path("broken-policies")).unwrap();
    environment.write("broken-policies/workloads.json", "{");
    fs::create_dir(environment.path("broken-cedar")).unwrap();
    environment.write("broken-cedar/workloads.json", r#"{"workloads": []}"#);
    environment.write("broken-cedar/x.cedar", "permit(");
    let fetch = ["trust", "fetch", &url, "--pin", &"A".repeat(52)];
    let lines: &[&[&str]] = &[
        &["config", "check", "--config", "nowhere.toml"],
        &["config", "check", "--config", "broken.toml"],
        &["config", "check", "--config", "unknown.toml"],
        &["config", "check", "--config", "policies"],
        &["serve", "--config", "nowhere.toml"],
        &["serve", "--config", "ca.toml"],
        &["init", "--config", "ca.toml"],
        &["rotate", "--config", "nowhere.toml"],
        &["inspect", "nowhere"],
        &["inspect", "garbage"],
        &["inspect", "127.0.0.1:9"],
        &["verify", "nowhere"],
        &["verify", "garbage"],
        &["lint", "nowhere"],
        &["renew", "nowhere"],
        &["renew", "garbage"],
        &["show", "01"],
        &["show", &environment.id("/nobody")],
        &["revoke", "01", "--reason", "superseded"],
        &["list", "--url", "https://127.0.0.1:9"],
        &["list", "--url", "https://no-such-host.invalid:8443"],
        &["list", "--url", "ftp://127.0.0.1"],
        &["list", "--context", "nowhere"],
        &["issue", &reports, "--out", "garbage"],
        &["issue", &reports, "--out", "d", "--url", &url, "--token-file", "nowhere"],
        &["issue", &reports, "--out", "d", "--url", &url, "--token-file", "no-token"],
        &["issue", &reports, "--csr", "garbage"],
        &["issue", &reports, "--csr", "nowhere"],
        &["issue", &environment.id("/nobody"), "--out", "d"],
        &["token", "create", &reports, "--pin-key", "garbage"],
        &["token", "create", &reports, "--out", "nowhere/x"],
        &["token", "create", &environment.id("/countersign/operator/second")],
        &["operator", "add", "admin"],
        &["operator", "remove", "nobody"],
        &["operator", "join", "bob", "--url", &url, "--token-file", "no-token"],
        &["trust", "fetch", &url, "--pin", "abc"],
        &fetch,
        &["policy", "check", "nowhere"],
        &["policy", "check", "broken-policies"],
        &["policy", "check", "broken-cedar"],
        &["policy", "apply", "nowhere"],
        &["policy", "apply", "broken-policies"],
    ];
    let mut wrong = Vec::new();
    for line in lines {
        let ended = environment.countersign(line);
        let said = format!("{}{}", ended.stdout, ended.stderr);
        let twice = told_twice(&said);
        if ended.code == 0 || said.is_empty() || !twice.is_empty() {
            wrong.push(format!("{} ({}): {twice:?}\n{said}", line.join(" "), ended.code));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Whoever is not believed is asked twice by these: for a renewal or a CRL, and for what was typed.
#[test]
fn a_clock_that_is_wrong_is_told_once() {
    let environment = Environment::start();
    environment.issue("/prod/reports", "svid");
    for (clock, line, found) in [
        ("+5d", &["list"][..], "expired at"),
        ("-2d", &["renew", "svid"], "not valid before"),
        ("-2d", &["status"], "not valid before"),
    ] {
        let mut command = std::process::Command::new("faketime");
        command.args(["-f", clock]).arg(system_tests::binary()).args(line);
        command.current_dir(environment.folder()).env("HOME", environment.folder());
        command.env_remove("XDG_CONFIG_HOME").env_remove("COUNTERSIGN_URL");
        let ended = program(&mut command);
        assert_eq!(ended.stderr.matches(found).count(), 1, "{clock} {line:?}: {ended:?}");
        ended.exits(5).says("date -u");
    }
}

#[test]
fn serve_tells_why_it_does_not_start_once() {
    let mut environment = Environment::prepare(&Settings::default());
    environment.countersign(&["init", "--config", "ca.toml"]).success();
    environment.serve();
    environment.stop();
    let passphrase = fs::read_to_string(environment.path("passphrase")).unwrap();
    let serve = || environment.in_time(&["serve", "--config", "ca.toml"]);
    let mut wrong = Vec::new();
    let mut tried = |what: &str, serve: &mut std::process::Command| {
        let ended = program(serve);
        let twice = told_twice(&ended.stderr);
        if ended.code == 0 || !ended.stderr.contains("error: ") || !twice.is_empty() {
            wrong.push(format!("{what} ({}): {twice:?}\n{}", ended.code, ended.stderr));
        }
    };
    environment.write("passphrase", "not the passphrase of this CA");
    tried("another passphrase", &mut serve());
    environment.write("passphrase", &passphrase);
    let taken = std::net::TcpListener::bind(environment.address()).unwrap();
    tried("the address is taken", &mut serve());
    drop(taken);
    let (keys, away) = (environment.path("state/keys"), environment.path("away"));
    fs::create_dir(&away).unwrap();
    for gone in ["issuer.key", "own-certificate.sealed"] {
        fs::rename(keys.join(gone), away.join(gone)).unwrap();
    }
    tried("neither the issuer's key nor a certificate of before", &mut serve());
    fs::rename(keys.join("head.key"), away.join("head.key")).unwrap();
    tried("no key of the head's seal", &mut serve());
    for name in ["issuer.key", "own-certificate.sealed", "head.key"] {
        fs::rename(away.join(name), keys.join(name)).unwrap();
    }
    fs::rename(environment.path("state/trust.pin"), away.join("trust.pin")).unwrap();
    tried("no pin", &mut serve());
    fs::rename(away.join("trust.pin"), environment.path("state/trust.pin")).unwrap();
    let database = fs::read_dir(environment.path("state"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            path.extension().is_some_and(|it| ["db", "sqlite", "sqlite3"].iter().any(|e| it == *e))
        })
        .unwrap();
    fs::write(&database, "this is no database, and was none").unwrap();
    tried("no database", &mut serve());
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

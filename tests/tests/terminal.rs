//! On a terminal of 80 columns nothing is wider, whatever the command; what is copied stays whole.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::BTreeSet;

use system_tests::{Environment, Settings};

const COLUMNS: u16 = 80;

/// Lines that are too wide, though they have more than one word.
fn too_wide(shown: &str) -> Vec<String> {
    let is_wide = |line: &&str| line.chars().count() > usize::from(COLUMNS);
    let breaks = |line: &&str| line.split_whitespace().filter(|word| *word != "\\").count() > 1;
    shown.lines().filter(is_wide).filter(breaks).map(str::to_owned).collect()
}

/// A CA of which every command has something to tell, with names that fill a line.
fn busy() -> Environment {
    let settings = Settings {
        workloads: format!(
            r#"{{"operators": ["/countersign/operator/second"], "workloads": [
                {{"id": "/prod/reports"}}, {{"id": "/prod/{LONG}", "dns": ["{LONG}.example"]}}]}}"#
        ),
        ..Settings::default()
    };
    let environment = Environment::start_with(&settings);
    environment.issue("/prod/reports", "svid");
    environment.issue(&format!("/prod/{LONG}"), "long");
    environment.token(&format!("/prod/{LONG}"));
    let deny = environment.id(&format!("/prod/{LONG}"));
    environment.countersign(&["deny", &deny, "--reason", "privilege-withdrawn"]).success();
    environment.countersign(&["operator", "add", "somebody-with-a-rather-long-name"]).success();
    environment.countersign(&["key", "prepare", "feed", "--config", "ca.toml"]).success();
    environment
}

const LONG: &str = "a-service-whose-name-is-about-as-long-as-people-make-them";

#[test]
fn no_command_shows_a_line_that_is_wider_than_the_terminal() {
    let environment = busy();
    let (reports, url, pin) =
        (environment.id("/prod/reports"), environment.url(), environment.pin());
    let long = environment.id(&format!("/prod/{LONG}"));
    let listed = environment.countersign(&["list", "--json", "--id", &reports]).success();
    let serial = listed.json()["serial_number"].as_str().unwrap().to_owned();
    environment.write("no-token", "this is no token");
    let explain =
        |resource| ["policy", "explain", "--as", &reports, "issue", resource].map(str::to_owned);
    let lines: Vec<Vec<String>> = [
        &["list"][..],
        &["list", "--id", "/nobody"],
        &["show", &serial],
        &["show", &long],
        &["show", "00"],
        &["inspect", "svid"],
        &["inspect", "svid/svid.pem"],
        &["verify", "svid/svid.pem"],
        &["verify", "svid/svid.pem", "--online"],
        &["lint", "svid/svid.pem"],
        &["lint", ".config/countersign/pay.example/bundle.pem"],
        &["issue", &reports, "--out", "again"],
        &["issue", &long, "--out", "again2"],
        &["issue", &reports],
        &["issue", &reports, "--out", "again", "--dns", "nobody.example"],
        &["issue", &reports, "--out", "d", "--url", &url, "--token-file", "no-token"],
        &["renew", "svid"],
        &["renew", "svid", "--check"],
        &["renew", "nowhere"],
        &["revoke", &reports, "--reason", "superseded", "--dry-run"],
        &["revoke", &serial, "--reason", "boredom"],
        &["revoke", &long, "--reason", "superseded", "--wait", "1s", "--yes"],
        &["deny", &reports, "--reason", "superseded", "--dry-run"],
        &[
            "deny",
            &environment.id("/countersign/operator/admin"),
            "--reason",
            "superseded",
            "--yes",
        ],
        &["denial", "list"],
        &["token", "create", &reports],
        &["token", "create", &environment.id("/countersign/operator/bob")],
        &["token", "list"],
        &["token", "revoke", "nothing"],
        &["trust", "show"],
        &["trust", "pin"],
        &["trust", "fetch", &url, "--pin", &pin, "--out", "note"],
        &["trust", "fetch", &url, "--pin", "abc"],
        &["bundle", "show"],
        &["issuer", "list"],
        &["key", "list"],
        &["key", "activate", "feed", "--config", "ca.toml"],
        &["key", "retire", "log", "--config", "ca.toml"],
        &["key", "prepare", "issuer", "--config", "ca.toml"],
        &["key", "list"],
        &["rotate", "--config", "ca.toml"],
        &["rotate", "--config", "ca.toml", "--dry-run"],
        &["policy", "check", "policies"],
        &["policy", "check", "nowhere"],
        &["policy", "apply", "policies"],
        &["operator", "list"],
        &["operator", "add", "bob"],
        &["operator", "add", "admin"],
        &["operator", "add", "a b"],
        &["operator", "remove", "nobody"],
        &["operator", "remove", "admin", "--yes"],
        &["operator", "request", "carol", "--url", &url, "--trust-pin", &pin],
        &["operator", "join", "carol", "--url", &url, "--token-file", "no-token"],
        &["status"],
        &["context", "list"],
        &["context", "use", "nothing"],
        &["config", "check", "--config", "ca.toml"],
        &["config", "check", "--config", "nowhere.toml"],
        &["init", "--config", "ca.toml"],
        &["init", "--config", "ca.toml", "--recover"],
        &["serve", "--config", "nowhere.toml"],
        &["issue", "spiffe://pay.example/../x", "--out", "d"],
        &["list", "--url", "https://127.0.0.1:9"],
        &["nothing", "of", "the", "kind"],
    ]
    .iter()
    .map(|line| line.iter().map(|word| (*word).to_owned()).collect())
    .chain([explain(&reports).into(), explain(&long).into()])
    .collect();
    let mut wrong = Vec::new();
    for line in &lines {
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        let shown = environment.on_terminal(COLUMNS, &[("Type yes to go on:", "no")], &line).stdout;
        wrong.extend(too_wide(&shown).iter().map(|it| format!("{}: {it}", line.join(" "))));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    // What `list` shows is all there, and a pipe has a row for each certificate.
    let shown = environment.on_terminal(COLUMNS, &[], &["list"]).stdout;
    for whole in [&serial, &reports, &long] {
        assert!(shown.split_whitespace().any(|word| word == whole), "{whole} in\n{shown}");
    }
    let piped = environment.countersign(&["list"]).success().stdout;
    let row = piped.lines().find(|line| line.contains(&long)).unwrap();
    assert!(row.chars().count() > usize::from(COLUMNS), "{row}");
}

#[test]
fn no_help_is_wider_than_the_terminal() {
    let environment = Environment::prepare(&Settings::default());
    let mut asked = 0;
    let mut open = vec![Vec::<String>::new()];
    while let Some(command) = open.pop() {
        let mut line: Vec<&str> = command.iter().map(String::as_str).collect();
        line.push("--help");
        let shown = environment.on_terminal(COLUMNS, &[], &line).success().stdout;
        assert_eq!(too_wide(&shown), Vec::<String>::new(), "{command:?}");
        asked += 1;
        for name in subcommands(&shown) {
            open.push([&command[..], &[name]].concat());
        }
    }
    assert!(asked > 50, "only {asked} were asked for help");
}

/// The names of lines such as `  add    Make somebody new an operator`.
fn subcommands(help: &str) -> BTreeSet<String> {
    let named = help.lines().filter_map(|line| {
        let (name, about) = line.strip_prefix("  ")?.split_once("  ")?;
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase());
        (is_name && !about.trim().is_empty()).then(|| name.to_owned())
    });
    named.collect()
}

//! What `--help` and the errors before any CA is asked look like: one file each below `tests/cli`.
//!
//! `UPDATE_SNAPSHOTS=1 cargo test -p countersign-cli --test help` writes the files anew.

#![allow(clippy::unwrap_used, reason = "clippy takes the helpers of a test for product code")]

use std::path::Path;
use std::process::Command;

#[test]
fn help_is_as_reviewed() {
    let commands = [
        "",
        "allow",
        "bundle",
        "bundle show",
        "completions",
        "config",
        "config check",
        "context",
        "context list",
        "context remove",
        "context use",
        "denial",
        "denial list",
        "deny",
        "dev",
        "dev env",
        "init",
        "inspect",
        "issue",
        "issuer",
        "issuer activate",
        "issuer list",
        "issuer prepare",
        "issuer retire",
        "key",
        "key activate",
        "key list",
        "key prepare",
        "key retire",
        "lint",
        "list",
        "operator",
        "operator add",
        "operator join",
        "operator list",
        "operator remove",
        "operator request",
        "policy",
        "policy apply",
        "policy check",
        "policy explain",
        "policy shipped",
        "renew",
        "revoke",
        "rotate",
        "serve",
        "show",
        "status",
        "token",
        "token create",
        "token list",
        "token revoke",
        "trust",
        "trust fetch",
        "trust pin",
        "trust show",
        "verify",
    ];
    let changed: Vec<String> = commands
        .iter()
        .map(|command| ("help", format!("{command} --help")))
        .filter_map(|(kind, line)| difference(kind, &line, 0))
        .collect();
    assert!(changed.is_empty(), "{}", changed.join("\n"));
}

#[test]
fn errors_say_what_to_type_next() {
    let lines = [
        ("list", 2),
        ("issue spiffe://pay.example/reports", 2),
        ("issue spiffe://pay.example/../x --out d", 2),
        ("issue spiffe://pay.example/reports --out /nowhere/d --token-file /dev/null", 2),
        ("renew /nowhere", 1),
        ("renew /nowhere --check", 2),
        ("revoke 8f2c --reason boredom", 2),
        ("trust fetch https://127.0.0.1:9 --pin abc", 2),
        ("verify /nowhere/svid.pem", 1),
    ];
    let changed: Vec<String> =
        lines.iter().filter_map(|(line, exit)| difference("error", line, *exit)).collect();
    assert!(changed.is_empty(), "{}", changed.join("\n"));
}

#[test]
fn no_line_of_help_is_wider_than_80_columns() {
    for file in std::fs::read_dir(snapshots()).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let wide = text.lines().find(|line| line.chars().count() > 80);
        let is_help = path.file_name().unwrap().to_str().unwrap().starts_with("help");
        assert!(!is_help || wide.is_none(), "{}: {}", path.display(), wide.unwrap_or_default());
    }
}

/// Runs a command line without any environment and compares what it says with its file.
fn difference(kind: &str, line: &str, exit: i32) -> Option<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_countersign"))
        .args(line.split_whitespace())
        .env_clear()
        .env("HOME", "/nowhere")
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    let path = snapshots().join(file_name(kind, line));
    if std::env::vars().any(|(name, _)| name == "UPDATE_SNAPSHOTS") {
        std::fs::write(&path, &said).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let same = said == expected && output.status.code() == Some(exit);
    (!same).then(|| format!("countersign {line} ({}):\n{said}", output.status))
}

fn file_name(kind: &str, line: &str) -> String {
    let words = line.replace("--help", "");
    let words = words.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    [kind].into_iter().chain(words).collect::<Vec<_>>().join("-") + ".txt"
}

fn snapshots() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli"))
}

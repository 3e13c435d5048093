//! Canaries: no secret shows in logs, entries, metrics, errors, arguments or readable files.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use system_tests::Environment;

#[test]
fn no_secret_shows_where_others_look() {
    let mut environment = Environment::start();
    let id = environment.id("/prod/reports");
    let token = environment.countersign(&["token", "create", &id]).success().stdout;
    let token = token.trim().to_owned();
    environment.write("token", &token);
    let url = environment.url();
    let arguments =
        ["issue", &id, "--url", &url, "--token-file", "token", "--out", "reports", "--verbose"];
    let mut said = environment.countersign(&arguments).success().stderr;
    // The token again, with another key: refused, and told in logs and to the caller.
    let arguments =
        ["issue", &id, "--url", &url, "--token-file", "token", "--out", "again", "--verbose"];
    let refused = environment.countersign(&arguments).exits(3);
    said.push_str(&refused.stdout);
    said.push_str(&refused.stderr);
    said.push_str(&environment.admin("/metrics"));
    said.push_str(&String::from_utf8_lossy(
        &std::fs::read(format!("/proc/{}/cmdline", environment.server_pid())).unwrap(),
    ));
    said.push_str(&String::from_utf8_lossy(
        &std::fs::read(format!("/proc/{}/environ", environment.server_pid())).unwrap(),
    ));
    environment.stop();
    said.push_str(&environment.log());

    let secret = token.split('.').nth(1).unwrap();
    let key = std::fs::read_to_string(environment.path("reports/svid.key")).unwrap();
    let canaries = [
        ("the token", secret.to_owned()),
        ("the passphrase", "the passphrase of this test".to_owned()),
        ("the offline passphrase", "another passphrase of this test".to_owned()),
        ("the workload's key", key.lines().nth(1).unwrap().to_owned()),
    ];
    for (what, canary) in &canaries {
        assert!(!said.contains(canary), "{what} shows in: {said}");
    }
    for file in files(&environment.path("state")) {
        let bytes = std::fs::read(&file).unwrap();
        let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        for (what, canary) in &canaries {
            let shows = bytes.windows(canary.len()).any(|window| window == canary.as_bytes());
            assert!(!shows, "{what} stands in {}", file.display());
        }
        let empty = bytes.is_empty();
        assert!(empty || mode & 0o077 == 0, "{} has mode {mode:o}", file.display());
    }
    for folder in ["reports", ".config/countersign"] {
        for file in files(&environment.path(folder)) {
            let metadata = std::fs::metadata(&file).unwrap();
            let mode = metadata.permissions().mode() & 0o777;
            let empty = metadata.len() == 0;
            assert!(empty || mode & 0o077 == 0, "{} has mode {mode:o}", file.display());
        }
    }
}

/// Every file below a folder, links not followed twice.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            found.extend(files(&path));
        } else if kind.is_file() {
            found.push(path);
        }
    }
    found
}

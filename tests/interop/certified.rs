//! Keys and requests made by OpenSSL, and the certificates that come of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use system_tests::{Environment, Outcome, openssl, program};

/// A kind of key that `openssl req` makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyType {
    P256,
    P384,
    Ed25519,
    Rsa2048,
}

impl KeyType {
    pub(crate) const ALL: [Self; 4] = [Self::P256, Self::P384, Self::Ed25519, Self::Rsa2048];

    /// As people write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::Ed25519 => "Ed25519",
            Self::Rsa2048 => "RSA-2048",
        }
    }

    /// Arguments of `openssl req -newkey`. Every request but Ed25519's is signed with SHA-256.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::P256 => &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
            Self::P384 => &["ec", "-pkeyopt", "ec_paramgen_curve:P-384"],
            Self::Ed25519 => &["ed25519"],
            Self::Rsa2048 => &["rsa:2048"],
        }
    }
}

/// Makes a folder with a new key, `svid.key`, its request, `request.pem`, and `bundle.pem`.
pub(crate) fn request(environment: &Environment, key_type: KeyType, folder: &str) -> PathBuf {
    let own = environment.path(folder);
    std::fs::create_dir(&own).expect("a new folder");
    let output = ["-noenc", "-sha256", "-keyout", "svid.key", "-out", "request.pem"];
    let request = ["req", "-new", "-subj", "/CN=ignored", "-newkey"];
    openssl(&own, &[&request, key_type.arguments(), &output].concat()).success();
    let bundle = environment.countersign(&["bundle", "show"]).success().stdout;
    environment.write(&format!("{folder}/bundle.pem"), &bundle);
    own
}

/// Makes a request, and has it certified with a token: the chain is `svid.pem`.
pub(crate) fn certify(
    environment: &Environment,
    key_type: KeyType,
    path: &str,
    folder: &str,
    options: &[&str],
) -> PathBuf {
    let own = request(environment, key_type, folder);
    let (id, url) = (environment.id(path), environment.url());
    let token = environment.countersign(&["token", "create", &id]).success().stdout;
    let (token_file, csr) = (format!("{folder}/token"), format!("{folder}/request.pem"));
    environment.write(&token_file, &token);
    let issue = ["issue", &id, "--url", &url, "--token-file", &token_file, "--csr", &csr];
    let chain = environment.countersign(&[&issue, options].concat()).success().stdout;
    environment.write(&format!("{folder}/svid.pem"), &chain);
    own
}

/// The record of a certificate, as its operator sees it.
pub(crate) fn record(environment: &Environment, own: &Path) -> serde_json::Value {
    let serial = openssl(own, &["x509", "-in", "svid.pem", "-noout", "-serial"]).success().stdout;
    let serial = serial.trim().trim_start_matches("serial=").to_lowercase();
    environment.countersign(&["--json", "show", &serial]).success().json()
}

/// A file that `tests/interop/setup` makes.
#[track_caller]
pub(crate) fn made(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let target = test.ancestors().nth(3).expect("TARGET/PROFILE/deps/TEST");
    let made = target.join("interop").join(name);
    assert!(made.exists(), "{} is missing: run tests/interop/setup", made.display());
    made
}

/// Runs a program that ends by itself, within two minutes; `timeout` exits 124 beyond.
#[track_caller]
pub(crate) fn bounded(command: &Command) -> Outcome {
    let mut timeout = Command::new("timeout");
    timeout.arg("120").arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        timeout.current_dir(folder);
    }
    program(&mut timeout)
}

//! Credentials from files.

use countersign::{ConfigurationFault, Credentials, Error};
use identity::Der;

use crate::authority::{TestAuthority, TestSvid};

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", String::from(Der::new(der)))
}

pub(crate) fn write(dir: &std::path::Path, svid: &TestSvid) {
    let chain: String = svid.chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
    std::fs::write(dir.join("svid.pem"), chain).unwrap();
    std::fs::write(dir.join("svid.key"), pem("PRIVATE KEY", svid.key.secret_der())).unwrap();
}

#[test]
fn written_credentials_are_loaded() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &TestAuthority::new().own_svid());
    assert!(Credentials::load(dir.path()).is_ok());
}

#[test]
fn missing_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let named =
        |error: &Error, name: &str| matches!(error, Error::Io { path, .. } if path.ends_with(name));
    let error = Credentials::load(dir.path()).unwrap_err();
    assert!(named(&error, "svid.pem"), "{error:?}");
    write(dir.path(), &TestAuthority::new().own_svid());
    std::fs::remove_file(dir.path().join("svid.key")).unwrap();
    let error = Credentials::load(dir.path()).unwrap_err();
    assert!(named(&error, "svid.key"), "{error:?}");
}

#[test]
fn files_of_no_use_are_refused() {
    let authority = TestAuthority::new();
    let dir = tempfile::tempdir().unwrap();
    let refused = |error: Error| matches!(error, Error::Configuration(_));
    for chain in ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA"] {
        write(dir.path(), &authority.own_svid());
        std::fs::write(dir.path().join("svid.pem"), chain).unwrap();
        assert!(refused(Credentials::load(dir.path()).unwrap_err()), "{chain:?}");
    }
    write(dir.path(), &authority.own_svid());
    std::fs::write(dir.path().join("svid.key"), "no PEM").unwrap();
    let error = Credentials::load(dir.path()).unwrap_err();
    let is_pem = matches!(error, Error::Configuration(ConfigurationFault::Pem { .. }));
    assert!(is_pem, "{error:?}");
}

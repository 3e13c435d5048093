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
        // A leaf that is broken is not passed over for its issuer behind it.
        write(dir.path(), &authority.own_svid());
        let whole = std::fs::read_to_string(dir.path().join("svid.pem")).unwrap();
        let first_broken = whole.replacen("MI", "M!", 1);
        std::fs::write(dir.path().join("svid.pem"), first_broken).unwrap();
        let error = Credentials::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("svid.pem") && error.contains("block 1, line 2"), "{error}");
    }
    write(dir.path(), &authority.own_svid());
    std::fs::write(dir.path().join("svid.key"), "no PEM").unwrap();
    let error = Credentials::load(dir.path()).unwrap_err();
    let is_pem = matches!(error, Error::Configuration(ConfigurationFault::Pem { .. }));
    assert!(is_pem, "{error:?}");
}

/// As Windows' editors save them, and with a German name in the text before a block.
#[test]
fn files_with_marks_and_other_texts_around_the_blocks_are_read() {
    let authority = TestAuthority::new();
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &authority.own_svid());
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let (chain, key) = (read("svid.pem"), read("svid.key"));
    let save = |name: &str, before: &[u8], bytes: &[u8]| {
        std::fs::write(dir.path().join(name), [before, bytes].concat()).unwrap();
    };
    for before in [&b"\xef\xbb\xbf"[..], b"M\xfcller\r\n"] {
        save("svid.pem", before, &chain);
        save("svid.key", before, &key);
        Credentials::load(dir.path()).unwrap();
    }
    save("svid.pem", b"", &chain);
    let utf16 = |bytes: &[u8]| -> Vec<u8> { bytes.iter().flat_map(|octet| [*octet, 0]).collect() };
    for (name, bytes) in [("svid.key", &key), ("svid.pem", &chain)] {
        save(name, b"\xff\xfe", &utf16(bytes));
        let error = Credentials::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("UTF-16") && error.contains(name), "{error}");
        save(name, b"", bytes);
    }
}

#[tokio::test]
async fn an_address_with_a_zone_id_is_refused_as_what_it_is() {
    let authority = TestAuthority::new();
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &authority.own_svid());
    for url in ["https://[fe80::1%25eth0]:8443", "https://[fe80::1%eth0]:8443"] {
        let trust = authority.trust();
        let refused = countersign::AuthorityClient::new(url, trust, None).map(drop).unwrap_err();
        assert!(matches!(refused, Error::Configuration(ConfigurationFault::Url { .. })));
        assert!(refused.to_string().contains("zone ids"), "{refused}");
    }
}

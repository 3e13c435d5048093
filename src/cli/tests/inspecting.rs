//! What is looked at: a folder, stdin, and what is no certificate.

#![allow(clippy::unwrap_used, reason = "clippy takes the helpers of a test for product code")]

#[allow(dead_code, unused_imports, reason = "each test file uses its own part")]
mod environment;

use environment::Environment;

#[tokio::test]
async fn a_folder_tells_of_each_part_and_nothing_of_the_key() {
    let environment = Environment::new().await;
    environment.issue().await.expect(0);
    environment.run("renew svid").await.expect(0);
    let crl = environment.path("svid/crl.pem");
    std::fs::write(&crl, environment.authority.crl(2)).unwrap();
    let told = environment.run("inspect svid").await.expect(0).stdout;
    for said in [
        "DNS name     reports.internal",
        "svid.key    is the certificate's",
        "0 revoked; made 2d ago; ends in ",
        "100 entries of pay.example/log",
        "bundle.pem  ",
    ] {
        assert!(told.contains(said), "{said}: {told}");
    }
    let key = environment.read("svid/svid.key");
    let secrets: Vec<&str> = key.lines().filter(|line| !line.starts_with('-')).collect();
    let json = environment.run("inspect svid --json").await.expect(0).stdout;
    let object: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(object["key"], "matches");
    assert_eq!(object["certificates"][0]["dns"][0], "reports.internal");
    for shown in [&told, &json] {
        assert!(!secrets.iter().any(|line| shown.contains(line)), "{shown}");
    }

    // Parts that are broken or gone hide no other.
    let other = rcgen::KeyPair::generate().unwrap();
    std::fs::remove_file(environment.path("svid/svid.key")).unwrap();
    std::fs::write(environment.path("svid/svid.key"), other.serialize_pem()).unwrap();
    std::fs::write(&crl, environment.authority.crl(-2)).unwrap();
    std::fs::remove_file(environment.path("svid/bundle.pem")).unwrap();
    let told = environment.run("inspect svid").await.expect(0).stdout;
    for said in ["ANOTHER key", "ENDED 2h", "bundle.pem  is not there", "serial"] {
        assert!(told.contains(said), "{said}: {told}");
    }
    std::fs::remove_file(environment.path("svid/svid.pem")).unwrap();
    let told = environment.run("inspect svid").await.expect(0).stdout;
    assert!(told.contains("svid.pem  is not there"), "{told}");

    std::fs::create_dir(environment.path("empty")).unwrap();
    let none = environment.run("inspect empty").await.expect(1);
    assert!(none.stderr.contains("countersign issue SPIFFE_ID --out empty"), "{}", none.stderr);
}

#[tokio::test]
async fn a_folder_is_verified_by_what_stands_in_it_and_its_key_too() {
    let environment = Environment::new().await;
    environment.issue().await.expect(0);
    let verified = environment.run("verify svid").await.expect(0).stdout;
    assert!(verified.contains("passed  svid.key"), "{verified}");
    environment.run("lint svid").await.expect(0);
    let other = rcgen::KeyPair::generate().unwrap();
    std::fs::remove_file(environment.path("svid/svid.key")).unwrap();
    std::fs::write(environment.path("svid/svid.key"), other.serialize_pem()).unwrap();
    let refused = environment.run("verify svid").await.expect(5).stdout;
    assert!(refused.contains("FAILED  svid.key"), "{refused}");
}

#[tokio::test]
async fn stdin_is_looked_at_as_a_file_is() {
    let environment = Environment::new().await;
    environment.issue().await.expect(0);
    let pin = environment.authority.pin();
    let verify = format!("verify - --trust-note svid/trust.note --trust-pin {pin}");
    for (line, exit) in [("inspect -", 0), (&*verify, 0), ("lint -", 0)] {
        let command = format!("{line} < svid/svid.pem");
        environment.shell(&command).await.expect(exit);
    }
    let key = environment.shell("inspect - < svid/svid.key").await.expect(1);
    assert!(key.stderr.contains("stdin holds no certificate: it is a private key"), "{key:?}");
    environment.shell("cat svid/svid.key svid/svid.pem | countersign inspect -").await.expect(0);
}

#[tokio::test]
async fn what_is_no_certificate_is_told_what_it_is_and_shown_to_nobody() {
    let environment = Environment::new().await;
    environment.issue().await.expect(0);
    environment.run("renew svid").await.expect(0);
    std::fs::write(environment.path("crl"), environment.authority.crl(1)).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    for (name, bytes) in [
        ("csr", csr.pem().unwrap().into_bytes()),
        ("csr.der", csr.der().to_vec()),
        ("public", key.public_key_pem().into_bytes()),
        ("key.der", key.serialize_der()),
        ("jwks", br#"{"keys":[],"spiffe_sequence":1}"#.to_vec()),
        ("proof", b"c2sp.org/tlog-proof@v1\nindex 7\n".to_vec()),
        ("table", br#"{"workloads":[]}"#.to_vec()),
        ("token", b"ct1.secretsecret".to_vec()),
        ("nothing", b" \n".to_vec()),
    ] {
        std::fs::write(environment.path(name), bytes).unwrap();
    }
    let pkcs12 = "openssl pkcs12 -export -in svid/svid.pem -inkey svid/svid.key -passout pass:a";
    environment.shell(&format!("{pkcs12} -out p12")).await.expect(0);
    environment.shell("openssl crl -in crl -outform DER -out crl.der").await.expect(0);
    for (file, what) in [
        ("csr", "a certificate request"),
        ("csr.der", "a certificate request"),
        ("public", "a public key"),
        ("key.der", "a private key"),
        ("svid/svid.key", "a private key"),
        ("jwks", "a SPIFFE bundle"),
        ("proof", "a proof of a log"),
        ("table", "a workload table"),
        ("token", "a bootstrap token"),
        ("nothing", "empty"),
        ("crl", "a CRL"),
        ("crl.der", "a CRL"),
        ("p12", "a PKCS #12 file"),
        ("svid/svid.json", "the record of an SVID"),
        ("svid/trust.note", "a trust state"),
        ("svid/svid.checkpoint", "a checkpoint of a log"),
    ] {
        for command in ["inspect", "lint"] {
            let told = environment.run(&format!("{command} {file}")).await.expect(1);
            let expected = format!("{file} holds no certificate: it is {what}");
            assert!(told.stderr.contains(&expected), "{expected}: {}", told.stderr);
            assert!(!told.stderr.contains("secret") && told.stdout.is_empty(), "{told:?}");
        }
    }
}

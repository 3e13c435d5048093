//! What comes of `crl.pem` where the CA gives none.

#![allow(clippy::unwrap_used, reason = "clippy takes the helpers of a test for product code")]
#![allow(dead_code, reason = "each test file uses its own part of the environment")]

#[allow(dead_code, unused_imports, reason = "each test file uses its own part")]
mod environment;

use environment::Environment;

#[tokio::test]
async fn an_svid_is_there_though_no_crl_is_and_only_one_that_has_ended_is_a_failure() {
    let environment = Environment::new().await;
    let issued = environment.issue().await.expect(0);
    assert!(issued.stderr.contains("there is no newest crl.pem"), "{}", issued.stderr);
    assert!(issued.stderr.contains("countersign renew svid"), "{}", issued.stderr);
    assert!(!environment.path("svid/crl.pem").exists());
    environment.run("renew svid").await.expect(0);

    let crl = environment.path("svid/crl.pem");
    std::fs::write(&crl, environment.authority.crl(1)).unwrap();
    let warned = environment.run("renew svid").await.expect(0);
    assert!(warned.stderr.contains("crl.pem stays as it was"), "{}", warned.stderr);

    // By an ended one, software accepts nobody. The SVID is renewed for all that, and the command run.
    std::fs::write(&crl, environment.authority.crl(-1)).unwrap();
    let before = environment.read("svid/svid.pem");
    environment.authority.pull_windows_forward();
    let renew = ["renew", "svid", "--exec", "cp svid/svid.pem reloaded"];
    let ended = environment.run_with(renew).await.expect(1);
    assert!(ended.stderr.contains("svid/crl.pem ended at 20"), "{}", ended.stderr);
    assert!(ended.stderr.contains("rm svid/crl.pem"), "{}", ended.stderr);
    assert_ne!(environment.read("svid/svid.pem"), before);
    assert_eq!(environment.read("svid/svid.pem"), environment.read("reloaded"));
    std::fs::remove_file(crl).unwrap();
    environment.run("renew svid").await.expect(0);
}

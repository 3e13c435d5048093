//! A log that goes back is noticed by whoever runs the command again.

#![allow(clippy::unwrap_used, reason = "clippy takes the helpers of a test for product code")]
#![allow(dead_code, reason = "each test file uses its own part of the environment")]

mod environment;

use environment::Environment;

const KEPT: &str = "operator/svid.checkpoint";

#[tokio::test]
async fn an_operator_shows_the_newest_checkpoint_that_was_verified() {
    let environment = Environment::with_operator(1).await;
    environment.run("list").await.expect(0);
    assert_eq!(environment.authority.shown(), None);
    let first = environment.read(KEPT);
    environment.authority.set_log_size(200);
    environment.run("list").await.expect(0);
    assert_eq!(environment.authority.shown(), Some(first));
    assert_eq!(environment.read(KEPT).as_bytes(), environment.authority.checkpoint());
}

#[tokio::test]
async fn a_log_that_went_back_is_warned_of_until_it_has_outgrown_what_was_seen() {
    let environment = Environment::with_operator(1).await;
    environment.run("list").await.expect(0);
    environment.authority.set_log_size(99);
    for _ in 0..2 {
        let warned = environment.run("list -q").await.expect(0);
        assert!(warned.stderr.contains("has 99 entries, and 100 were seen"), "{warned:?}");
        assert!(environment.authority.shown().unwrap().contains("\n100\n"));
        let way_out = ["init --recover", "--lift-halt", "svid.checkpoint"];
        assert!(way_out.iter().all(|step| warned.stderr.contains(step)), "{warned:?}");
        assert!(!warned.stderr.contains("countersign status"), "it says this again: {warned:?}");
    }
    environment.authority.set_log_size(101);
    assert_eq!(environment.run("list -q").await.expect(0).stderr, "");
}

#[tokio::test]
async fn nothing_is_called_unrevoked_by_a_log_that_went_back() {
    let environment = Environment::with_operator(1).await;
    environment.run("list").await.expect(0);
    environment.authority.set_log_size(99);
    let (chain, _) = environment.authority.svid("/reports", 1);
    std::fs::write(environment.path("chain.pem"), chain).unwrap();
    let refused = environment.run("verify chain.pem --online").await.expect(5);
    assert!(refused.stdout.contains("FAILED  not revoked"), "{}", refused.stdout);
}

#[tokio::test]
async fn a_checkpoint_of_somebody_else_is_not_kept() {
    let environment = Environment::with_operator(1).await;
    environment.run("list").await.expect(0);
    let before = environment.read(KEPT);
    let stranger = Environment::new().await;
    stranger.authority.set_log_size(7000);
    std::fs::write(environment.path(KEPT), "damaged\n").unwrap();
    let warned = environment.run("list").await.expect(0);
    assert!(warned.stderr.contains("svid.checkpoint is no checkpoint of"), "{warned:?}");
    assert_eq!(environment.read(KEPT), before, "it is asked for anew");
}

#[tokio::test]
async fn renew_keeps_and_shows_it_and_check_writes_nothing() {
    let environment = Environment::new().await;
    environment.issue().await.expect(0);
    environment.run("renew svid --check").await.expect(1);
    assert!(!environment.path("svid/svid.checkpoint").exists());
    environment.run("renew svid").await.expect(0);
    environment.authority.set_log_size(99);
    for command in ["renew svid", "renew svid --check"] {
        let warned = environment.run(command).await;
        assert!(warned.stderr.contains("and 100 were seen"), "{warned:?}");
        assert!(environment.authority.shown().unwrap().contains("\n100\n"));
    }
    environment.authority.pull_windows_forward();
    environment.run("renew svid").await.expect(0);
    assert!(environment.path("svid/svid.checkpoint").exists(), "a renewal leaves it");
}

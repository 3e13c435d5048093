//! What operators and workloads do, with the real binary and a CA that may fail.

#![allow(clippy::unwrap_used, reason = "clippy takes the helpers of a test for product code")]

mod environment;

use std::path::Path;

use environment::{Environment, Fault, Log, same};
use identity::TrustState;

#[tokio::test]
async fn a_token_and_a_url_are_enough_for_an_svid_that_peers_accept() {
    let environment = Environment::new().await;
    let issued = environment.issue().await.expect(0);
    assert!(issued.stdout.contains("spiffe://pay.example/reports"), "{}", issued.stdout);
    let pin = environment.authority.pin();
    let verify = format!("verify svid/svid.pem --trust-note svid/trust.note --trust-pin {pin}");
    let verified = environment.run(&verify).await.expect(0);
    assert!(verified.stdout.contains("accepted"), "{}", verified.stdout);
    let inspected = environment.run("inspect svid/svid.pem").await.expect(0);
    assert!(inspected.stdout.contains("DNS name     reports.internal"), "{}", inspected.stdout);
    environment.run("lint svid/svid.pem").await.expect(0);
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_and_gives_the_same_certificate() {
    let environment = Environment::new().await;
    environment.authority.fail_next(Fault::AnswerLost);
    environment.issue().await.expect(4);
    assert!(!environment.path("svid/svid.pem").exists());
    environment.issue().await.expect(0);
    assert_eq!(environment.authority.issued(), 1);
    assert!(!environment.path("svid/svid.key.next").exists());
}

#[tokio::test]
async fn a_request_that_failed_at_the_ca_is_repeated_with_the_same_key() {
    let environment = Environment::new().await;
    environment.authority.fail_next(Fault::Unavailable);
    environment.issue().await.expect(4);
    let pending = environment.read("svid/svid.key.next");
    environment.issue().await.expect(0);
    assert_eq!(environment.read("svid/svid.key"), pending);
}

#[tokio::test]
async fn what_policy_denies_exits_3_and_installs_nothing() {
    let environment = Environment::new().await;
    environment.authority.fail_next(Fault::Denied);
    let denied = environment.issue().await.expect(3);
    assert!(denied.stderr.contains("request: r-1"), "{}", denied.stderr);
    for name in ["svid.pem", "svid.key.next", "svid.csr.next"] {
        assert!(!environment.path("svid").join(name).exists(), "{name}");
    }
}

#[tokio::test]
async fn a_renewal_that_is_refused_leaves_no_key_unless_an_answer_to_it_may_be_lost() {
    let environment = Environment::new().await;
    environment.issue().await.expect(0);
    environment.authority.pull_windows_forward();
    environment.authority.fail_next(Fault::Denied);
    environment.run("renew svid").await.expect(3);
    assert!(!environment.path("svid/svid.key.next").exists());
    environment.authority.fail_next(Fault::AnswerLost);
    environment.run("renew svid").await.expect(4);
    let pending = environment.read("svid/svid.key.next");
    environment.authority.fail_next(Fault::Denied);
    environment.run("renew svid").await.expect(3);
    environment.run("renew svid").await.expect(0);
    assert_eq!(environment.read("svid/svid.key"), pending, "it is answered with the same");
}

#[tokio::test]
async fn a_certificate_without_countersignature_replaces_nothing() {
    let environment = Environment::new().await;
    environment.issue().await.expect(0);
    let before = environment.read("svid/svid.pem");
    environment.authority.pull_windows_forward();
    environment.authority.fail_next(Fault::NotCountersigned);
    let refused = environment.run("renew svid").await.expect(5);
    assert!(refused.stderr.contains("not countersigned"), "{}", refused.stderr);
    assert_eq!(environment.read("svid/svid.pem"), before);
}

#[tokio::test]
async fn a_pin_of_another_ca_is_refused_before_the_token_is_sent() {
    let environment = Environment::new().await;
    let token = environment.token();
    let line = format!(
        "issue spiffe://pay.example/reports --out svid --url {} --token-file {} --trust-pin {}",
        environment.url,
        token.display(),
        "A".repeat(52)
    );
    environment.run(&line).await.expect(5);
    assert_eq!(environment.authority.issued(), 0);
}

#[tokio::test]
async fn renew_is_idle_until_the_window_and_check_says_so() {
    let environment = Environment::new().await;
    environment.issue().await.expect(0);
    let before = environment.read("svid/svid.pem");
    let idle = environment.run("renew svid").await.expect(0);
    assert!(idle.stdout.starts_with("not due until"), "{}", idle.stdout);
    environment.run("renew svid --check").await.expect(1);
    assert_eq!(environment.read("svid/svid.pem"), before);
    environment.authority.pull_windows_forward();
    environment.run("renew svid --check").await.expect(0);
}

#[tokio::test]
async fn a_renewal_has_a_new_key_and_the_same_names() {
    let environment = Environment::new().await;
    environment.issue().await.expect(0);
    let old_key = environment.read("svid/svid.key");
    environment.authority.pull_windows_forward();
    environment.run("renew svid").await.expect(0);
    assert_ne!(environment.read("svid/svid.key"), old_key);
    let inspected = environment.run("inspect svid/svid.pem").await.expect(0);
    assert!(inspected.stdout.contains("reports.internal"), "{}", inspected.stdout);
}

#[tokio::test]
async fn a_command_that_fails_is_run_again_by_the_next_renew() {
    let environment = Environment::new().await;
    environment.issue().await.expect(0);
    environment.authority.pull_windows_forward();
    let renew = |command| ["renew", "svid", "--exec", command];
    environment.run_with(renew("exit 7")).await.expect(1);
    environment.authority.leave_windows();
    environment.run_with(renew("cp svid/svid.pem reloaded")).await.expect(0);
    assert!(same(&environment.path("svid/svid.pem"), &environment.path("reloaded")));
    assert_eq!(environment.authority.issued(), 2);
    environment.run_with(renew("exit 7")).await.expect(0);
}

#[tokio::test]
async fn a_newer_trust_state_comes_with_the_renewal() {
    let environment = Environment::new().await;
    environment.issue().await.expect(0);
    environment.authority.advance_trust();
    environment.authority.pull_windows_forward();
    environment.run("renew svid").await.expect(0);
    assert!(environment.read("svid/trust.note").contains("\"sequence\": 2"));
}

#[tokio::test]
async fn a_newer_trust_state_that_does_not_verify_is_told_and_not_taken() {
    let environment = Environment::new().await;
    environment.issue().await.expect(0);
    environment.authority.forge_trust();
    environment.authority.pull_windows_forward();
    let renewed = environment.run("renew svid -q").await.expect(0);
    assert!(renewed.stderr.starts_with("warning: "), "{}", renewed.stderr);
    assert!(renewed.stderr.contains("0 of the 1 trust keys"), "{}", renewed.stderr);
    assert!(renewed.stderr.contains("  next: countersign trust fetch "), "{}", renewed.stderr);
    assert!(environment.read("svid/trust.note").contains("\"sequence\": 1"));
}

#[tokio::test]
async fn an_operator_hears_of_a_trust_state_that_does_not_verify() {
    let environment = Environment::with_operator(1).await;
    environment.authority.forge_trust();
    let listed = environment.run("list").await.expect(0);
    assert!(listed.stderr.contains("0 of the 1 trust keys"), "{}", listed.stderr);
}

#[tokio::test]
async fn a_renewal_refuses_an_older_trust_state_than_was_held() {
    let environment = Environment::new().await;
    environment.issue().await.expect(0);
    let first = environment.read("svid/trust.note");
    environment.authority.advance_trust();
    environment.authority.pull_windows_forward();
    environment.run("renew svid").await.expect(0);
    std::fs::write(environment.path("svid/trust.note"), first).unwrap();
    let refused = environment.run("renew svid").await.expect(5);
    assert!(refused.stderr.contains("svid/trust.note"), "{}", refused.stderr);
    assert!(refused.stderr.contains("an old one is never taken"), "{}", refused.stderr);
    let step = refused.stderr.split("  next: countersign ").nth(1).unwrap().to_owned();
    environment.run(&step).await.expect(0);
    environment.run("renew svid").await.expect(0);
}

#[tokio::test]
async fn an_operator_refuses_an_older_trust_state_than_was_held() {
    let environment = Environment::with_operator(25).await;
    let first = environment.read("operator/trust.note");
    environment.run("list").await.expect(0);
    environment.authority.advance_trust();
    environment.run("list").await.expect(0);
    std::fs::write(environment.path("operator/trust.note"), first).unwrap();
    let refused = environment.run("list").await.expect(5);
    assert!(refused.stderr.contains("an old one is never taken"), "{}", refused.stderr);
    environment.run("trust show").await.expect(5);
}

#[tokio::test]
async fn an_operators_svid_is_renewed_when_half_of_its_life_is_gone() {
    let environment = Environment::with_operator(25).await;
    let before = environment.read("operator/svid.pem");
    let listed = environment.run("list --json").await.expect(0);
    assert_eq!(listed.stdout.lines().count(), 3, "{}", listed.stdout);
    assert_ne!(environment.read("operator/svid.pem"), before);
    environment.run("list").await.expect(0);
    assert_eq!(environment.authority.issued(), 1);
    let renewed = environment.run("inspect operator/svid.pem").await.expect(0);
    let as_long_as_before = ["(in 2d)", "(in 1d 23h)"];
    assert!(as_long_as_before.iter().any(|life| renewed.stdout.contains(life)), "{renewed:?}");
}

#[tokio::test]
async fn an_operator_goes_on_with_the_old_svid_while_it_is_valid() {
    let environment = Environment::with_operator(25).await;
    environment.authority.fail_next(Fault::Unavailable);
    let listed = environment.run("list").await.expect(0);
    assert!(listed.stderr.contains("warning: your SVID was not renewed"), "{}", listed.stderr);
}

#[tokio::test]
async fn an_operators_expired_svid_says_how_to_repair_it() {
    let environment = Environment::with_operator(49).await;
    let expired = environment.run("list").await.expect(1);
    assert!(expired.stderr.contains("init --recover --operator ann"), "{}", expired.stderr);
}

#[tokio::test]
async fn a_server_is_inspected_and_verified_by_its_handshake() {
    let environment = Environment::with_operator(1).await;
    let address = environment.url.trim_start_matches("https://");
    let inspected = environment.run(&format!("inspect {address}")).await.expect(0);
    assert!(inspected.stdout.contains("/countersign/authority"), "{}", inspected.stdout);
    let verified = environment.run(&format!("verify {address}")).await.expect(0);
    assert!(verified.stdout.contains("possession of the key"), "{}", verified.stdout);
}

#[tokio::test]
async fn verify_names_the_rule_that_an_old_certificate_breaks() {
    let environment = Environment::with_operator(1).await;
    let (chain, _) = environment.authority.svid("/reports", 50);
    std::fs::write(environment.path("old.pem"), &chain).unwrap();
    let refused = environment.run("verify old.pem").await.expect(5);
    assert!(refused.stdout.contains("FAILED  validity"), "{}", refused.stdout);
    assert!(refused.stdout.contains("passed  countersignature"), "{}", refused.stdout);
    assert!(refused.stdout.ends_with("refused: Expired\n"), "{}", refused.stdout);
}

/// Without the log, what a thief of the CA key makes; and what a key countersigned that is retired.
#[tokio::test]
async fn verify_names_what_is_wrong_with_a_countersignature() {
    let environment = Environment::with_operator(3).await;
    environment.authority.retire_log_key(2);
    let note = environment.authority.trust_note();
    std::fs::write(environment.path("operator/trust.note"), note).unwrap();
    for (log, hours_ago, said) in [
        (Log::Asked, 3, Ok(())),
        (Log::Asked, 1, Err("was not in use at that time")),
        (Log::AskedForAnother, 3, Err("is not over this certificate")),
        (Log::NotAsked, 3, Err("it carries no countersignature")),
    ] {
        let (chain, _) = environment.authority.svid_by("/reports", hours_ago, log);
        std::fs::write(environment.path("chain.pem"), chain).unwrap();
        let verified = environment.run("verify chain.pem").await;
        let Err(rule) = said else {
            verified.expect(0);
            continue;
        };
        let refused = verified.expect(5).stdout;
        assert!(refused.contains("FAILED  countersignature"), "{log:?}: {refused}");
        assert!(refused.contains(rule), "{log:?}: {refused}");
        assert!(refused.ends_with("refused: NotCountersigned\n"), "{log:?}: {refused}");
    }
}

#[tokio::test]
async fn another_trust_domain_ends_in_no_anchor_of_ours() {
    let environment = Environment::with_operator(1).await;
    let (chain, _) = Environment::new().await.authority.svid("/reports", 0);
    std::fs::write(environment.path("foreign.pem"), &chain).unwrap();
    let refused = environment.run("verify foreign.pem --json").await.expect(5);
    assert!(refused.stdout.contains("\"refusal\":\"UnknownAuthority\""), "{}", refused.stdout);
}

#[tokio::test]
async fn a_renewal_whose_answer_was_lost_takes_no_second_certificate() {
    let environment = Environment::new().await;
    environment.issue().await.expect(0);
    environment.authority.pull_windows_forward();
    environment.authority.fail_next(Fault::AnswerLost);
    environment.run("renew svid").await.expect(4);
    environment.run("renew svid").await.expect(0);
    assert_eq!(environment.authority.issued(), 2);
}

#[tokio::test]
async fn an_operator_certifies_a_key_that_stays_with_its_owner() {
    let environment = Environment::with_operator(1).await;
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    std::fs::write(environment.path("r.csr"), csr.pem().unwrap()).unwrap();
    let line = "issue spiffe://pay.example/reports --csr r.csr";
    let issued = environment.run(line).await.expect(0);
    std::fs::write(environment.path("chain.pem"), issued.stdout).unwrap();
    environment.run("verify chain.pem").await.expect(0);
}

#[tokio::test]
async fn a_directory_is_not_given_to_another_identity_unasked() {
    let environment = Environment::with_operator(1).await;
    environment.issue().await.expect(0);
    let line = "issue spiffe://pay.example/batch --out svid";
    let refused = environment.run(line).await.expect(2);
    assert!(refused.stderr.contains("spiffe://pay.example/reports already"), "{}", refused.stderr);
    environment.run(&format!("{line} --yes")).await.expect(0);
}

#[tokio::test]
async fn a_context_shows_its_trust_in_every_form() {
    let environment = Environment::with_operator(1).await;
    let pin = environment.authority.pin().to_string();
    assert_eq!(environment.run("trust pin").await.expect(0).stdout.trim(), pin);
    let state = environment.run("trust show").await.expect(0).stdout;
    assert!(state.contains("countersignature required"), "{state}");
    let pem = environment.run("bundle show").await.expect(0).stdout;
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----\n"), "{pem}");
    let jwks = environment.run("bundle show --format jwks").await.expect(0).stdout;
    assert!(jwks.contains("\"crv\": \"P-256\""), "{jwks}");
    let fetch = format!("trust fetch {} --pin {pin}", environment.url);
    let fetched = environment.run(&fetch).await.expect(0).stdout;
    TrustState::verify_pinned(fetched.as_bytes(), &environment.authority.pin()).unwrap();
}

#[tokio::test]
async fn policies_are_checked_without_a_ca() {
    let environment = Environment::new().await;
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../../policies");
    let checked = environment.run_with(["policy", "check", shipped]).await.expect(0);
    assert!(checked.stderr.contains("not checked"), "{checked:?}");
    let config = "trust_domain = \"pay.example\"\nnames = [\"reports.internal\"]\n";
    std::fs::write(environment.path("ca.toml"), config).unwrap();
    let claims = ["policy", "check", shipped, "--config", "ca.toml"];
    let claims = environment.run_with(claims).await.expect(2);
    assert!(claims.stdout.contains("reports.internal is the CA's own name"), "{claims:?}");
    let table = Path::new(shipped).join("workloads.json");
    std::fs::copy(table, environment.path("workloads.json")).unwrap();
    std::fs::write(environment.path("broken.cedar"), "permit (principal").unwrap();
    let broken = environment.run("policy check .").await.expect(2);
    assert!(broken.stdout.contains("broken.cedar"), "{broken:?}");
}

#[tokio::test]
async fn a_ca_that_is_not_there_exits_4() {
    let environment = Environment::with_operator(1).await;
    let gone = environment.run("list --url https://127.0.0.1:9").await.expect(4);
    assert!(gone.stderr.contains("`countersign serve` on its host"), "{}", gone.stderr);
    let unknown = environment.run("list --url https://ca.pay.invalid:8443").await.expect(4);
    assert!(unknown.stderr.contains("no address is known for ca.pay.invalid"), "{unknown:?}");
    assert!(unknown.stderr.contains("next: correct the name"), "{unknown:?}");
    assert!(!gone.stderr.contains("warning"), "{}", gone.stderr);
}

//! Who proves nothing learns nothing of the rest of a request; who may not, nothing of its body.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use api::{Attestation, DenyRequest, IssueRequest, RevokeRequest, Secret, TokenRequest};
use authority::Error;
use support::{Environment, anonymous, csr, id, request};

/// A request for a certificate that breaks every rule but that of evidence.
fn broken(token: &Secret) -> IssueRequest {
    let attestation = Attestation::Token { token: token.clone() };
    let dns = Some(vec!["*".to_owned()]);
    let spiffe_id = Some(identity::SpiffeId::parse("spiffe://other.example/a").unwrap());
    IssueRequest { attestation, dns, spiffe_id, ..request("no request") }
}

async fn asked(environment: &Environment, token: &Secret) -> Error {
    let key = Some("a key\u{7f}");
    environment.authority.issuing.issue(&anonymous(), &broken(token), key).await.unwrap_err()
}

#[tokio::test]
async fn evidence_is_judged_before_what_it_is_brought_for() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let second = environment.enrol("second").await;

    let good = environment.token(&operator, "/prod/reports").await;
    let told = asked(&environment, &good).await;
    assert!(!matches!(told, Error::Attestation { .. }), "good evidence hears the rest: {told:?}");
    environment.issue_with(&good, &csr()).await.expect("it used nothing up");

    let made_by_second = environment.token(&second, "/prod/reports").await;
    let revoke = RevokeRequest {
        target: second.svid.as_ref().unwrap().serial_number().to_string(),
        reason: "key-compromise".to_owned(),
        dry_run: false,
        named_override: None,
    };
    environment.authority.operations.revoke(&operator, &revoke).await.unwrap();
    let short = TokenRequest {
        spiffe_id: id("/prod/reports"),
        ttl: Some("1s".parse().unwrap()),
        key_sha256: None,
    };
    let expired =
        environment.authority.operations.create_token(&operator, &short).await.unwrap().token;
    environment.clock.advance(time::Duration::seconds(2));
    let unknown = {
        let elsewhere = Environment::start().await;
        elsewhere.token(&elsewhere.operator().await, "/prod/reports").await
    };
    for (token, why) in [
        (&Secret::new("hello"), "looks like"),
        (&unknown, "unknown"),
        (&good, "used already"),
        (&made_by_second, "counts no more"),
        (&expired, "expired"),
    ] {
        let told = asked(&environment, token).await;
        let Error::Attestation { why: said, .. } = &told else { panic!("{why}: {told:?}") };
        assert!(said.contains(why), "{why}: {said}");
    }
}

#[tokio::test]
async fn who_may_not_act_is_told_that_before_what_is_wrong_with_the_act() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let workload = environment.caller(&environment.issue(&operator, "/prod/reports").await);
    let foreign = identity::SpiffeId::parse("spiffe://other.example/a").unwrap();
    let reason = "because".to_owned();
    let token = TokenRequest { spiffe_id: foreign.clone(), ttl: None, key_sha256: None };
    let denial = DenyRequest { spiffe_id: foreign, reason: reason.clone(), named_override: None };
    let target = id("/prod/monolith").to_string();
    let revocation = RevokeRequest { target, reason, dry_run: true, named_override: None };
    for caller in [&anonymous(), &workload, &operator] {
        let refusals = [
            environment.authority.operations.create_token(caller, &token).await.map(drop),
            environment.authority.operations.deny(caller, &denial).await.map(drop),
            environment.authority.operations.revoke(caller, &revocation).await.map(drop),
        ];
        for refusal in refusals.map(Result::unwrap_err) {
            let as_expected = match &caller.svid {
                None => matches!(refusal, Error::Attestation { .. }),
                Some(svid) if svid.spiffe_id().operator_name().is_none() => {
                    matches!(refusal, Error::Denied(_))
                }
                Some(_) => matches!(refusal, Error::Invalid { .. }),
            };
            assert!(as_expected, "{}: {refusal:?}", caller.svid.is_some());
        }
    }
}

//! Issuers, roots and operators' certificates end: it is told in time, with what to do.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use api::{KeyPurpose, KeyStep, LifeLeft, RevokeRequest};
use authority::clock::Clock;
use support::rotation::take;
use support::{Environment, id};
use time::{Duration, OffsetDateTime};

fn told(environment: &Environment) -> Vec<(KeyPurpose, LifeLeft, String)> {
    let warnings = environment.authority.rotation.life_warnings().into_iter();
    warnings.map(|it| (it.key, it.left, it.next_step)).collect()
}

fn wait_until(environment: &Environment, time: OffsetDateTime) {
    environment.clock.advance(time - environment.clock.now());
}

#[tokio::test]
async fn an_issuer_is_warned_of_at_a_half_a_quarter_and_a_twelfth_of_its_life() {
    let environment = Environment::start().await;
    let end = environment.authority.rotation.lives()[1].2;
    assert_eq!(told(&environment), []);
    for (left, expected) in [(184, None), (180, Some(LifeLeft::Half))] {
        wait_until(&environment, end - Duration::days(left));
        let warned = told(&environment).first().map(|(_, left, _)| *left);
        assert_eq!(warned, expected, "{left} days");
    }
    for (left, expected) in [(90, LifeLeft::Quarter), (30, LifeLeft::Twelfth)] {
        wait_until(&environment, end - Duration::days(left));
        let next = "countersign rotate".to_owned();
        assert_eq!(told(&environment), [(KeyPurpose::Issuer, expected, next)]);
        let operator = environment.operator().await;
        let status = environment.authority.status(&operator).await.unwrap();
        assert_eq!(status.warnings, environment.authority.rotation.life_warnings());
    }
    // What it says ends it.
    let (operator, offline) = (environment.operator().await, environment.offline_keys());
    for step in [KeyStep::Prepare, KeyStep::Activate] {
        take(&environment, &offline, &operator, KeyPurpose::Issuer, step).await.unwrap();
    }
    environment.authority.view.follow_keys().await.unwrap();
    assert_eq!(told(&environment), []);
}

#[tokio::test]
async fn a_root_is_warned_of_and_its_step_is_named() {
    let environment = Environment::start().await;
    let (root, issuer) =
        (environment.authority.rotation.lives()[0], environment.authority.rotation.lives()[1]);
    assert_eq!((root.0, issuer.0), (KeyPurpose::Root, KeyPurpose::Issuer));
    for (days, left) in [(1820, LifeLeft::Half), (910, LifeLeft::Quarter), (300, LifeLeft::Twelfth)]
    {
        wait_until(&environment, root.2 - Duration::days(days));
        let warned = told(&environment);
        assert_eq!((warned[0].0, warned[0].1), (KeyPurpose::Root, left));
        assert!(warned[0].2.starts_with("countersign key prepare root;"), "{warned:?}");
    }
    wait_until(&environment, root.2 + Duration::DAY);
    assert_eq!(told(&environment)[0].1, LifeLeft::Twelfth, "it has ended, and is told still");
}

#[tokio::test]
async fn operators_who_can_act_are_counted_by_the_certificate_that_ends_last() {
    let environment = Environment::start().await;
    let lives = async || {
        let lives = environment.authority.operations.lives_of_operators().await.unwrap();
        let mut hours: Vec<i64> =
            lives.iter().map(|(_, end)| (*end - environment.clock.now()).whole_hours()).collect();
        hours.sort();
        hours
    };
    assert!(lives().await.is_empty(), "nobody has a certificate");
    let admin = environment.operator().await;
    environment.clock.advance(Duration::hours(12));
    let second = environment.enrol("second").await;
    let [first, last] = lives().await[..] else { panic!("admin and second") };
    assert_eq!(last - first, 12);
    environment.operator().await;
    assert_eq!(lives().await, [last, last], "a renewed certificate counts in place of the older");

    let revoke = RevokeRequest {
        target: id("/countersign/operator/admin").to_string(),
        reason: "superseded".to_owned(),
        dry_run: false,
        named_override: None,
    };
    environment.authority.operations.revoke(&second, &revoke).await.unwrap();
    assert_eq!(lives().await, [last], "the revoked one cannot act");
    assert!(environment.authority.status(&admin).await.is_err());
    environment.clock.advance(Duration::days(8));
    assert!(lives().await.is_empty());
}

//! A root that has ended is made again, for the same key, whatever else has to be repaired by it.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::fs;

use api::{KeyPurpose, KeyStep, Secret};
use authority::clock::Clock;
use authority::setup::{self, CertifiedAgain};
use authority::store::Store;
use authority::{Error, Event, Keys};
use issuance::IssuerCertificate;
use support::rotation::take;
use support::{Environment, trust_domain};
use time::Duration;
use tlog::Hash;

/// As the command does it on the host, where the keys are read anew.
async fn replace_lost_issuer(environment: &Environment) -> Result<CertifiedAgain, Error> {
    setup::replace_lost_issuer(
        &trust_domain(),
        environment.folder.path(),
        &*environment.store,
        &fresh_keys(environment),
        &Secret::new("offline"),
        &*environment.clock,
    )
    .await
}

fn fresh_keys(environment: &Environment) -> Keys {
    Keys::open(environment.folder.path(), &Secret::new("online")).unwrap()
}

fn root_of(environment: &Environment) -> IssuerCertificate {
    let trust = environment.trust();
    IssuerCertificate::from_der(trust.state().anchors[0].certificate.as_bytes()).unwrap()
}

#[tokio::test]
async fn a_lost_issuer_below_a_root_that_has_ended_is_replaced_by_one_command() {
    let mut environment = Environment::start().await;
    let (pin, before, old_root) = (environment.pin, environment.trust(), root_of(&environment));
    fs::remove_file(environment.folder.path().join("keys/issuer.key")).unwrap();
    environment.clock.advance(Duration::days(3651));
    let refused = replace_lost_issuer_without_offline(&environment).await;
    assert!(refused.to_string().contains("offline"), "{refused}");
    assert_eq!(replace_lost_issuer(&environment).await.unwrap(), CertifiedAgain::RootAndIssuer);

    environment.keys = fresh_keys(&environment);
    environment.restart().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    let trust = environment.trust();
    assert!(pin.names(trust.state()), "the pin stays");
    assert_eq!(trust.state().sequence, before.state().sequence + 1);
    let root = root_of(&environment);
    assert_eq!(root.key_hash(), old_root.key_hash());
    assert!(environment.clock.now() < root.not_after());
    environment.verify(&issued.chain).unwrap();
    // Who holds the old root goes on.
    environment.verify_by(&before, &issued.chain).unwrap();
    assert!(replace_lost_issuer(&environment).await.unwrap_err().to_string().contains("not lost"));
}

async fn replace_lost_issuer_without_offline(environment: &Environment) -> Error {
    let folder = environment.folder.path();
    fs::rename(folder.join("offline"), folder.join("away")).unwrap();
    let size = environment.store.head().await.unwrap().edge.size();
    let refused = replace_lost_issuer(environment).await.unwrap_err();
    assert_eq!(environment.store.head().await.unwrap().edge.size(), size, "nothing is logged");
    fs::rename(folder.join("away"), folder.join("offline")).unwrap();
    refused
}

/// Killed between root and issuer: the same command goes on.
#[tokio::test]
async fn a_root_that_was_made_again_already_is_taken_as_it_is() {
    let environment = Environment::start().await;
    environment.clock.advance(Duration::days(3651));
    assert_eq!(certify_again(&environment).await, CertifiedAgain::RootAndIssuer);
    fs::remove_file(environment.folder.path().join("keys/issuer.key")).unwrap();
    assert_eq!(replace_lost_issuer(&environment).await.unwrap(), CertifiedAgain::Issuer);
}

/// What the log says of a root is of that root, whichever was made again.
#[tokio::test]
async fn the_active_root_is_logged_with_its_own_certificate() {
    let mut environment = Environment::start().await;
    let offline = environment.offline_keys();
    // One that begins a thousand days later ends later, too; the issuer stays below the first.
    environment.clock.advance(Duration::days(1000));
    certify_again(&environment).await;
    environment.restart().await;
    let operator = environment.operator().await;
    for step in [KeyStep::Prepare, KeyStep::Activate] {
        take(&environment, &offline, &operator, KeyPurpose::Root, step).await.unwrap();
    }
    environment.clock.advance(Duration::days(2651));
    certify_again(&environment).await;
    let event = newest(&*environment.store, "key.activate").await;
    environment.restart().await;
    let trust = environment.trust();
    let anchors = trust.state().anchors.iter();
    let mut anchors =
        anchors.map(|it| IssuerCertificate::from_der(it.certificate.as_bytes()).unwrap());
    let key = event.detail["key_sha256"].as_str().unwrap();
    let named = anchors.find(|anchor| format!("{:?}", anchor.key_hash()) == key).unwrap();
    let certificate = format!("{:?}", Hash::of(named.der()));
    assert_eq!(event.detail["certificate_sha256"].as_str(), Some(certificate.as_str()));
}

async fn certify_again(environment: &Environment) -> CertifiedAgain {
    setup::certify_again(
        &trust_domain(),
        environment.folder.path(),
        &*environment.store,
        &environment.keys,
        &Secret::new("offline"),
        &*environment.clock,
    )
    .await
    .unwrap()
}

async fn newest(store: &dyn Store, kind: &str) -> Event {
    let entries = store.entries(0, 10_000).await.unwrap();
    let mut events = entries.iter().rev().filter_map(|entry| Event::parse(entry).ok());
    events.find(|event| event.kind == kind).unwrap()
}

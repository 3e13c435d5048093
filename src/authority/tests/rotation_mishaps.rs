//! What goes wrong beside a rotation: lost answers, lost files, a CA that lies.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use api::{DenyRequest, KeyPurpose, KeyState, KeyStep, KeyStepRequest, Secret};
use authority::rotation::ceremony::Ceremonies;
use authority::sequencer::Member;
use authority::setup::CertifiedAgain;
use authority::signer::SignerError;
use authority::store::Store;
use authority::store::faulty::{Fault, FaultyStore};
use authority::{Caller, Error, Keys, Shown, setup};
use identity::feed::Envelope;
use support::rotation::take;
use support::{Environment, csr, id};
use tlog::{Checkpoint, Hash, SignedNote, VerifierKey};

use KeyPurpose::{Countersignature, Feed, Issuer, Log, Root, Trust};
use KeyStep::{Activate, Prepare, Retire};

/// It was logged for the old issuer, and that one signs it; the new countersignature key counts
/// for it, too.
#[tokio::test]
async fn a_request_logged_before_the_keys_changed_is_completed() {
    let failing = Arc::new(AtomicBool::new(false));
    let armed = Arc::clone(&failing);
    let plan = move |group: &[Member]| {
        let completes = group.iter().any(|member| matches!(member, Member::Complete(_)));
        (completes && armed.load(Ordering::Relaxed)).then_some(Fault::NotPersisted)
    };
    let wrap = |store| -> Arc<dyn Store> { Arc::new(FaultyStore::new(store, plan)) };
    let environment = Environment::start_with(|keys, _| keys, wrap).await;
    let operator = environment.operator().await;
    let offline = environment.offline_keys();
    let token = environment.token(&operator, "/prod/reports").await;
    let csr = csr();
    failing.store(true, Ordering::Relaxed);
    environment.issue_with(&token, &csr).await.unwrap_err();
    failing.store(false, Ordering::Relaxed);
    let old = environment.authority.view.issuer_id();
    // Made known after it was logged: what was logged is in no wait, for nobody holds it.
    environment.clock.advance(time::Duration::seconds(30));
    for (purpose, step) in [(Issuer, Prepare), (Issuer, Activate), (Countersignature, Prepare)] {
        take(&environment, &offline, &operator, purpose, step).await.unwrap();
    }
    let issued = environment.issue_with(&token, &csr).await.unwrap();
    let svid = environment.verified(&issued);
    assert_eq!(format!("{:?}", svid.issuer_key_hash()), old);
    assert_ne!(environment.authority.view.issuer_id(), old);
    assert_eq!(environment.issue_with(&token, &csr).await.unwrap(), issued);
}

#[tokio::test]
async fn a_prepared_key_whose_file_is_lost_is_given_up() {
    let mut environment = Environment::start().await;
    let offline = environment.offline_keys();
    for purpose in [Feed, Log, Issuer] {
        let operator = environment.operator().await;
        take(&environment, &offline, &operator, purpose, Prepare).await.unwrap();
        let lost = file(&environment, purpose);
        std::fs::remove_file(&lost).unwrap();
        environment.keys = Keys::open(environment.folder.path(), &Secret::new("online")).unwrap();
        environment.restart().await;
        let refused = take(&environment, &offline, &operator, purpose, Activate).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("no file in"), "{refused}");
        take(&environment, &offline, &operator, purpose, Retire).await.unwrap();
        take(&environment, &offline, &operator, purpose, Prepare).await.unwrap();
        assert_ne!(file(&environment, purpose), lost);
    }
    let operator = environment.operator().await;
    environment.verified(&environment.issue(&operator, "/prod/reports").await);
    environment.authority.feed.heartbeat().await.unwrap();
}

/// The one file that a rotation made.
fn file(environment: &Environment, purpose: KeyPurpose) -> PathBuf {
    let prefix = format!("{purpose}-");
    let files = std::fs::read_dir(environment.folder.path().join("keys")).unwrap();
    let mut paths = files.map(|file| file.unwrap().path());
    paths.find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&prefix)).unwrap()
}

#[tokio::test]
async fn a_stray_file_among_the_keys_stops_nobody() {
    let mut environment = Environment::start().await;
    let folder = environment.folder.path().to_owned();
    std::fs::write(folder.join("keys/old.key"), "not ours").unwrap();
    environment.keys = Keys::open(&folder, &Secret::new("online")).unwrap();
    environment.restart().await;
    let operator = environment.operator().await;
    let offline = environment.offline_keys();
    take(&environment, &offline, &operator, Feed, Prepare).await.unwrap();
    assert!(folder.join("keys/old.key").exists());
    Keys::open(&folder, &Secret::new("another")).unwrap_err();
}

/// Which key is retired is the CA's word; a lie costs no key that is trusted.
#[tokio::test]
async fn what_the_trust_state_names_is_not_removed_on_the_authoritys_word() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let offline = environment.offline_keys();
    let trust = environment.authority.view.trust();
    let mut keys = environment.authority.rotation.keys(&operator).await.unwrap().items;
    for key in keys.iter_mut().filter(|key| key.purpose == Trust) {
        key.state = KeyState::Retired;
    }
    let ceremonies = Ceremonies {
        online: &environment.keys,
        offline: Some(&offline),
        trust: trust.state(),
        keys: &keys,
        clock: &*environment.clock,
    };
    let ask = async |id: &str, step, request: &KeyStepRequest| {
        environment.authority.rotation.key_step(&operator, id, step, request).await
    };
    let refused = ceremonies.take(Issuer, Prepare, ask).await.unwrap_err();
    assert!(refused.to_string().contains("names it"), "{refused}");
    assert!(environment.folder.path().join("offline/trust.key").exists());
}

#[tokio::test]
async fn a_thief_of_a_retired_log_key_halts_nobody() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let offline = environment.offline_keys();
    let stolen = environment.keys.first(Log).unwrap();
    let key = VerifierKey::parse(&environment.authority.view.trust().state().log.key).unwrap();
    for step in [Prepare, Activate, Retire] {
        take(&environment, &offline, &operator, Log, step).await.unwrap();
    }
    let (origin, root) = (key.name().to_owned(), Hash::new([7; 32]));
    let text = Checkpoint { origin, size: 1_000_000, root }.text();
    let signature = stolen.sign(text.as_bytes()).await.unwrap();
    let note = SignedNote::unsigned(text).unwrap();
    let note = note.with_signature(key.name(), key.key_id(), &signature).unwrap().encode();
    environment.authority.writer.witness(&note, Shown::ByStranger).await;
    assert_eq!(environment.authority.view.halted(), None);
}

#[tokio::test]
async fn no_issuer_is_certified_again_while_the_ca_has_halted() {
    let environment = Environment::start().await;
    let folder = environment.folder.path();
    let log = environment.keys.first(Log).unwrap();
    let seen = support::signed_by(&*log, 1_000_000, Hash::new([7; 32])).await;
    let halted = [&b"an older database was put back\n\n"[..], &seen].concat();
    std::fs::write(folder.join("halted"), halted).unwrap();
    let size = environment.store.head().await.unwrap().edge.size();
    let refused = certify_again(&environment).await.unwrap_err();
    assert!(matches!(refused, Error::Halted(_)), "{refused}");
    assert_eq!(environment.store.head().await.unwrap().edge.size(), size, "nothing is logged");
    environment.lift_halt().await.unwrap();
    certify_again(&environment).await.unwrap();
}

async fn certify_again(environment: &Environment) -> Result<CertifiedAgain, Error> {
    setup::certify_again(
        &support::trust_domain(),
        environment.folder.path(),
        &*environment.store,
        &environment.keys,
        &Secret::new("offline"),
        &*environment.clock,
    )
    .await
}

/// Peers may not know the new root yet: what repairs an issuer keeps it where it was.
#[tokio::test]
async fn an_issuer_certified_again_stays_below_its_root() {
    let mut environment = Environment::start().await;
    let operator = environment.operator().await;
    let offline = environment.offline_keys();
    let before = environment.trust();
    for step in [Prepare, Activate] {
        take(&environment, &offline, &operator, Root, step).await.unwrap();
    }
    certify_again(&environment).await.unwrap();
    environment.restart().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    environment.verify_by(&before, &issued.chain).unwrap();
    let waits = take(&environment, &offline, &operator, Root, Retire).await.unwrap_err();
    assert!(matches!(waits, Error::Waits(_)), "{waits}");
}

/// A node that has not opened the new key of a purpose, an operator, and where the key's file was
/// put meanwhile.
async fn without_the_key(purpose: KeyPurpose) -> (Environment, Caller, PathBuf) {
    let mut environment = Environment::start().await;
    let keys = Keys::open(environment.folder.path(), &Secret::new("online")).unwrap();
    let Environment { folder, store, clock, pin, .. } = &environment;
    let other = support::open(folder.path(), store, &keys, clock, *pin).await.unwrap();
    let operator = environment.operator().await;
    let offline = environment.offline_keys();
    for step in [Prepare, Activate] {
        take(&environment, &offline, &operator, purpose, step).await.unwrap();
    }
    let lost = environment.folder.path().join("lost");
    std::fs::rename(file(&environment, purpose), &lost).unwrap();
    environment.authority = other;
    (environment, operator, lost)
}

#[tokio::test]
async fn while_an_active_key_is_missing_revocations_are_told_and_nothing_is_issued() {
    for purpose in [Countersignature, Feed, Issuer, Log] {
        let (environment, operator, lost) = without_the_key(purpose).await;
        let authority = &environment.authority;
        let before = authority.view.trust();
        let issuer = authority.view.issuer_id();
        let mut subscription = authority.feed.subscribe(&operator, Some(0)).await.unwrap();
        let deny = DenyRequest {
            spiffe_id: id("/prod/quick"),
            reason: "unspecified".to_owned(),
            named_override: None,
        };
        authority.operations.deny(&operator, &deny).await.unwrap();
        authority.feed.heartbeat().await.unwrap();
        for _ in 0..2 {
            let told = subscription.next().await.unwrap();
            Envelope::parse(told.line()).unwrap().verify(before.state()).unwrap();
        }

        let token = environment.token(&operator, "/prod/reports").await;
        let size = environment.store.head().await.unwrap().edge.size();
        let refused = environment.issue_with(&token, &csr()).await.unwrap_err();
        assert!(matches!(refused, Error::Signer(_)), "{refused}");
        let refused = authority.crls.crl(&issuer).await.unwrap_err();
        assert!(matches!(refused, Error::Signer(_)), "{refused}");
        let offline = environment.offline_keys();
        let refused = take(&environment, &offline, &operator, Trust, Prepare).await.unwrap_err();
        assert!(matches!(refused, Error::Signer(_)), "{refused}");
        assert_eq!(environment.store.head().await.unwrap().edge.size(), size, "nothing is logged");

        std::fs::rename(lost, environment.folder.path().join("keys/found.key")).unwrap();
        environment.clock.advance(time::Duration::seconds(5));
        environment.verified(&environment.issue_with(&token, &csr()).await.unwrap());
        authority.crls.crl(&issuer).await.unwrap();
    }
}

#[tokio::test]
async fn a_missing_key_is_looked_for_by_one_at_a_time_and_not_at_once_again() {
    let (environment, _, lost) = without_the_key(Issuer).await;
    let authority = &environment.authority;
    authority.view.refresh().await.unwrap();
    let (first, second) = tokio::join!(authority.view.follow_keys(), authority.view.follow_keys());
    assert!(matches!(first, Err(Error::Signer(SignerError::Missing { .. }))), "{first:?}");
    assert!(matches!(second, Err(Error::Signer(SignerError::NotInForce(_)))), "{second:?}");
    std::fs::rename(lost, environment.folder.path().join("keys/found.key")).unwrap();
    let soon = authority.view.follow_keys().await.unwrap_err();
    assert!(soon.to_string().contains("no file in"), "{soon}");
    environment.clock.advance(time::Duration::seconds(5));
    authority.view.follow_keys().await.unwrap();
}

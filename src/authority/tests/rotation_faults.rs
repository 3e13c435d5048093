//! Each write of a rotation fails once, before it is persisted or after: the step is asked for again
//! and ends as it should.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::sync::{Arc, Mutex};

use api::{KeyPurpose, KeyState, KeyStep};
use authority::store::Store;
use authority::store::faulty::{Fault, FaultyStore};
use authority::{Caller, Error, Keys};
use support::Environment;
use support::rotation::take;

use KeyPurpose::{Countersignature, Issuer, Log, Root, Trust};
use KeyStep::{Activate, Prepare};

#[tokio::test]
async fn a_write_that_fails_is_made_good_by_the_next_try() {
    assert!(rotate_through(Fault::NotPersisted).await > STEPS.len());
}

#[tokio::test]
async fn a_write_that_was_persisted_and_said_to_have_failed_counts() {
    assert!(rotate_through(Fault::Persisted).await >= STEPS.len());
}

const STEPS: &[(KeyPurpose, KeyStep)] = &[
    (Issuer, Prepare),
    (Issuer, Activate),
    (Countersignature, Prepare),
    (Log, Prepare),
    (Log, Activate),
    (Root, Prepare),
    (Trust, Prepare),
    (Trust, Activate),
];

/// Takes every step, with each of its writes failing in turn; returns how many failed.
async fn rotate_through(fault: Fault) -> usize {
    // How many writes pass before one fails; none while none shall.
    let armed: Arc<Mutex<Option<usize>>> = Arc::default();
    let next = Arc::clone(&armed);
    let plan = move |_: &[_]| {
        let mut armed = next.lock().unwrap();
        match *armed {
            Some(0) => {
                *armed = None;
                Some(fault)
            }
            Some(passes) => {
                *armed = Some(passes - 1);
                None
            }
            None => None,
        }
    };
    let wrap = |store| -> Arc<dyn Store> { Arc::new(FaultyStore::new(store, plan)) };
    let mut environment = Environment::start_with(|keys, _| keys, wrap).await;
    let operator = environment.operator().await;
    let offline = environment.offline_keys();
    let mut failed = 0;
    for (purpose, step) in STEPS {
        for passes in 0.. {
            *armed.lock().unwrap() = Some(passes);
            let taken = take(&environment, &offline, &operator, *purpose, *step).await;
            let fired = armed.lock().unwrap().take().is_none();
            if let Err(error) = &taken {
                assert!(fired, "{step} {purpose}: {error}");
                failed += 1;
            }
            // As the service does, ten times a second.
            environment.authority.view.refresh().await.unwrap();
            environment.authority.view.follow_keys().await.unwrap();
            if is_done(&environment, &operator, *purpose, *step).await {
                break;
            }
            assert!(taken.is_err(), "{step} {purpose} was answered and not done");
        }
        require_one_new_file(&environment, &offline, *purpose);
    }
    // What was left behind opens: every key that the log names has its file.
    environment.restart().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    environment.verified(&issued);
    failed
}

async fn is_done(
    environment: &Environment,
    operator: &Caller,
    purpose: KeyPurpose,
    step: KeyStep,
) -> bool {
    let keys = environment.authority.rotation.keys(operator).await.unwrap().items;
    let has = |state| keys.iter().any(|key| key.purpose == purpose && key.state == state);
    match step {
        Prepare => has(KeyState::Prepared),
        _ => has(KeyState::Retiring),
    }
}

/// An interrupted attempt's key is used by the next.
fn require_one_new_file(environment: &Environment, offline: &Keys, purpose: KeyPurpose) {
    let folder = if purpose.is_offline() { "offline" } else { "keys" };
    let prefix = format!("{purpose}-");
    let files = std::fs::read_dir(environment.folder.path().join(folder)).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let made = names.filter(|name| name.starts_with(&prefix)).count();
    assert_eq!(made, 1, "{purpose} keys in {offline:?}");
}

#[tokio::test]
async fn nothing_is_announced_while_the_log_cannot_be_written() {
    let refuse: Arc<Mutex<bool>> = Arc::default();
    let refused = Arc::clone(&refuse);
    let plan = move |_: &[_]| refused.lock().unwrap().then_some(Fault::NotPersisted);
    let wrap = |store| -> Arc<dyn Store> { Arc::new(FaultyStore::new(store, plan)) };
    let environment = Environment::start_with(|keys, _| keys, wrap).await;
    let operator = environment.operator().await;
    let offline = environment.offline_keys();
    *refuse.lock().unwrap() = true;
    let error = take(&environment, &offline, &operator, Issuer, Prepare).await.unwrap_err();
    assert!(matches!(error, Error::Store(_)), "{error}");
    *refuse.lock().unwrap() = false;
    take(&environment, &offline, &operator, Issuer, Prepare).await.unwrap();
}

//! A step of a rotation is taken as it should be, or not at all.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::sync::{Arc, Mutex};

use api::{
    Attestation, IssueRequest, KeyPurpose, KeyState, KeyStep, KeyStepRequest, OfflineSignature,
};
use authority::clock::Clock;
use authority::signer::Signer;
use authority::signer::file::{FileSigner, KeyKind, Passphrase};
use authority::signer::spy::SpySigner;
use authority::{Caller, Error, Event};
use identity::{Der, TrustState};
use support::rotation::{take, take_changed};
use support::{Environment, csr, request};
use tlog::{Hash, SignedNote};

use KeyPurpose::{Countersignature, Feed, Issuer, Log, Root, Trust};
use KeyStep::{Activate, Prepare, Retire};

/// P1 for the offline keys: each signature's bytes are named by an event before it is made.
#[tokio::test]
async fn no_offline_key_signs_what_the_log_does_not_hold() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let signed = Arc::new(Mutex::new(0));
    let database = environment.folder.path().join("countersign.db");
    let watch = |inner: Arc<dyn Signer>| -> Arc<dyn Signer> {
        let (database, signed) = (database.clone(), Arc::clone(&signed));
        Arc::new(SpySigner::new(inner, move |message| {
            let hash = format!("{:?}", Hash::of(message));
            assert!(is_logged(&database, &hash), "an offline key was asked too early");
            *signed.lock().unwrap() += 1;
            Ok(())
        }))
    };
    let offline = environment.offline_keys().wrap(Root, watch).wrap(Trust, watch);
    for (purpose, step) in [
        (Issuer, Prepare),
        (Countersignature, Prepare),
        (Feed, Prepare),
        (Root, Prepare),
        (Log, Prepare),
        (Log, Activate),
    ] {
        take(&environment, &offline, &operator, purpose, step).await.unwrap();
    }
    // An issuer by the root; four trust states; the new root signs itself.
    assert_eq!(*signed.lock().unwrap(), 5);
}

/// Over a connection of its own.
fn is_logged(database: &std::path::Path, hash: &str) -> bool {
    let connection = rusqlite::Connection::open(database).unwrap();
    let mut entries = connection.prepare("SELECT bytes FROM entries").unwrap();
    let mut entries = entries.query_map([], |row| row.get::<_, Vec<u8>>(0)).unwrap();
    entries.any(|entry| {
        let entry = entry.unwrap();
        Event::parse(&entry).is_ok() && String::from_utf8_lossy(&entry).contains(hash)
    })
}

#[tokio::test]
async fn a_step_waits_for_who_holds_an_older_certificate_and_names_it() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let offline = environment.offline_keys();
    let issued = environment.issue(&operator, "/prod/reports").await;
    take(&environment, &offline, &operator, Feed, Prepare).await.unwrap();
    let waits = match take(&environment, &offline, &operator, Feed, Activate).await {
        Err(Error::Waits(waits)) => waits,
        other => panic!("{other:?}"),
    };
    assert_eq!((waits.waiting, waits.until), (1, Some(issued.not_after)));
    assert_eq!(waits.certificates[0].serial_number, issued.serial_number);
    let status = environment.authority.status(&operator).await.unwrap();
    assert_eq!(status.rotating[0].next.as_ref(), Some(&*waits));

    // Revoked, it holds nobody up any more.
    let revoke = api::RevokeRequest {
        target: issued.serial_number.to_string(),
        reason: "superseded".to_owned(),
        dry_run: false,
        named_override: None,
    };
    environment.authority.operations.revoke(&operator, &revoke).await.unwrap();
    take(&environment, &offline, &operator, Feed, Activate).await.unwrap();
}

#[tokio::test]
async fn a_report_of_an_older_trust_state_acknowledges_nothing() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let offline = environment.offline_keys();
    let issued = environment.issue(&operator, "/prod/reports").await;
    let caller = environment.caller(&issued);
    let report = |trust_sequence| api::Report { trust_sequence, ..api::Report::default() };
    let before = environment.authority.view.trust().state().sequence;
    take(&environment, &offline, &operator, Countersignature, Prepare).await.unwrap();
    environment.authority.fleet.report(&caller, report(before)).await.unwrap();
    let early = take(&environment, &offline, &operator, Countersignature, Activate).await;
    assert!(matches!(early, Err(Error::Waits(_))), "{early:?}");
    environment.authority.fleet.report(&caller, report(before + 1)).await.unwrap();
    take(&environment, &offline, &operator, Countersignature, Activate).await.unwrap();
}

#[tokio::test]
async fn steps_out_of_order_are_refused() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let offline = environment.offline_keys();
    for step in [Activate, Retire] {
        let error = take(&environment, &offline, &operator, Issuer, step).await.unwrap_err();
        assert!(error.to_string().contains("there is no issuer key"), "{error}");
    }
    take(&environment, &offline, &operator, Issuer, Prepare).await.unwrap();
    let twice = take(&environment, &offline, &operator, Issuer, Prepare).await.unwrap_err();
    assert!(twice.to_string().contains("on its way"), "{twice}");

    // The CA says the same to whoever asks it directly.
    let active = key(&environment, &operator, Issuer, KeyState::Active).await;
    let asked =
        KeyStepRequest { purpose: Issuer, public_key: None, certificate: None, trust_state: None };
    let retire = environment.authority.rotation.key_step(&operator, &active, Retire, &asked).await;
    assert!(retire.unwrap_err().to_string().contains("is active"));
    let wrong = KeyStepRequest { purpose: Feed, ..asked.clone() };
    let wrong = environment.authority.rotation.key_step(&operator, &active, Retire, &wrong).await;
    assert!(matches!(wrong, Err(Error::NotFound(_))), "{wrong:?}");
    let another = FileSigner::generate(
        KeyKind::EcdsaP256,
        &environment.folder.path().join("elsewhere.key"),
        &Passphrase::new(&api::Secret::new("elsewhere")),
    );
    let public_key = Der::new(another.unwrap().public_key());
    let id = format!("{:?}", Hash::of(public_key.as_bytes()));
    let elsewhere = KeyStepRequest { public_key: Some(public_key), ..asked };
    let unknown = KeyStepRequest { purpose: Countersignature, ..elsewhere };
    let refused = environment.authority.rotation.key_step(&operator, &id, Prepare, &unknown).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("no file in") && refused.contains(&id), "{refused}");
}

async fn key(
    environment: &Environment,
    operator: &Caller,
    purpose: KeyPurpose,
    state: KeyState,
) -> String {
    let keys = environment.authority.rotation.keys(operator).await.unwrap().items;
    keys.into_iter().find(|key| key.purpose == purpose && key.state == state).unwrap().id
}

#[tokio::test]
async fn only_operators_take_steps_and_a_lost_answer_is_answered_again() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let offline = environment.offline_keys();
    let workload = environment.caller(&environment.issue(&operator, "/prod/reports").await);
    let asked =
        KeyStepRequest { purpose: Issuer, public_key: None, certificate: None, trust_state: None };
    take(&environment, &offline, &operator, Issuer, Prepare).await.unwrap();
    let prepared = key(&environment, &operator, Issuer, KeyState::Prepared).await;
    let denied =
        environment.authority.rotation.key_step(&workload, &prepared, Activate, &asked).await;
    assert!(matches!(denied, Err(Error::Denied(_))), "{denied:?}");
    let stranger = support::anonymous();
    let denied =
        environment.authority.rotation.key_step(&stranger, &prepared, Activate, &asked).await;
    assert!(matches!(denied, Err(Error::Attestation { .. })), "{denied:?}");

    let first =
        environment.authority.rotation.key_step(&operator, &prepared, Activate, &asked).await;
    let again =
        environment.authority.rotation.key_step(&operator, &prepared, Activate, &asked).await;
    assert_eq!(first.unwrap(), again.unwrap());
}

#[tokio::test]
async fn policy_tells_the_rotation_of_trust_from_any_other() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let offline = environment.offline_keys();
    let mut files = environment.authority.operations.policies(&operator).unwrap();
    let trust_needs_another = r#"@id("trust-needs-another")
        forbid (principal, action == Action::"RotateKey", resource)
        when { ["root", "trust"].contains(context.key) && context.step == "prepare" };"#;
    files.files.insert("trust.cedar".to_owned(), trust_needs_another.to_owned());
    let (hash, files) = (files.hash.clone(), files.files);
    environment.authority.operations.replace_policies(&operator, &files, &hash).await.unwrap();
    let denied = take(&environment, &offline, &operator, Trust, Prepare).await.unwrap_err();
    assert!(denied.to_string().contains("trust-needs-another"), "{denied}");
    take(&environment, &offline, &operator, Feed, Prepare).await.unwrap();
}

/// Whoever has the operator's rights but no offline key changes nothing that is trusted.
#[tokio::test]
async fn what_the_offline_keys_did_not_sign_is_refused() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let offline = environment.offline_keys();
    let before = environment.authority.view.trust_note();
    let refused = async |purpose, change: &dyn Fn(&mut KeyStepRequest)| {
        let step = (purpose, Prepare);
        let taken = take_changed(&environment, &offline, &operator, step, change).await;
        taken.unwrap_err().to_string()
    };

    let unannounced = refused(Issuer, &|request| {
        if let Some(OfflineSignature::Signed { announced_at, .. }) = &mut request.certificate {
            *announced_at -= 1;
        }
    });
    assert!(unannounced.await.contains("not announced"));

    let by_another = refused(Issuer, &|request| {
        if let Some(OfflineSignature::Signed { signed, .. }) = &mut request.certificate {
            let mut der = signed.as_bytes().to_vec();
            let last = der.len() - 1;
            der[last] ^= 1;
            *signed = Der::new(der);
        }
    });
    assert!(by_another.await.contains("not by the root"));

    let changed = refused(Feed, &|request| {
        if let Some(OfflineSignature::Signed { signed, .. }) = &mut request.trust_state {
            let note = String::from_utf8(signed.as_bytes().to_vec()).unwrap();
            *signed = Der::new(note.replace("\"threshold\": 1", "\"threshold\": 0"));
        }
    });
    let changed = changed.await;
    assert!(changed.contains("0 of the 1 trust keys"), "{changed}");

    let missing = refused(Countersignature, &|request| request.trust_state = None);
    assert!(missing.await.contains("announced and then signed"));
    assert_eq!(environment.authority.view.trust_note(), before);
}

/// The trust key signed it, but it is another change than the step's.
#[tokio::test]
async fn a_trust_state_that_says_more_than_the_step_is_refused() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let offline = environment.offline_keys();
    let trust_key = offline.first(Trust).unwrap();
    let name = TrustState::signer_name(&support::trust_domain());
    let evil = {
        let trust = environment.authority.view.trust();
        let mut next = trust.state().clone();
        next.sequence += 1;
        let key = environment.keys.unused_or_new(Feed, &[]).unwrap();
        next.feed_keys.push(Der::new(key.public_key()));
        // One key more than the step makes known.
        next.feed_keys.push(Der::new(environment.keys.first(Log).unwrap().public_key()));
        next
    };
    let text = evil.text();
    let signature = trust_key.sign(text.as_bytes()).await.unwrap();
    let note = SignedNote::unsigned(text.clone())
        .unwrap()
        .with_signature(&name, tlog::ecdsa_key_id(trust_key.public_key()), &signature)
        .unwrap()
        .encode();
    let refused = take_changed(&environment, &offline, &operator, (Feed, Prepare), |request| {
        match &mut request.trust_state {
            Some(OfflineSignature::Announced { to_be_signed }) => {
                *to_be_signed = Der::new(text.clone())
            }
            Some(OfflineSignature::Signed { signed, .. }) => *signed = Der::new(note.clone()),
            None => {}
        }
    });
    let refused = refused.await.unwrap_err().to_string();
    assert!(refused.contains("something else than this step"), "{refused}");
}

/// Announced, and signed by the trust key: but for another step than the one that it comes with.
#[tokio::test]
async fn a_trust_state_of_another_step_is_refused() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let offline = environment.offline_keys();
    let before = environment.authority.view.trust_note();
    let kept: Mutex<Option<OfflineSignature>> = Mutex::default();
    let keep = |request: &mut KeyStepRequest| {
        if let Some(OfflineSignature::Signed { .. }) = &request.trust_state {
            *kept.lock().unwrap() = request.trust_state.take();
        }
    };
    let step = (Feed, Prepare);
    take_changed(&environment, &offline, &operator, step, keep).await.unwrap_err();
    assert!(kept.lock().unwrap().is_some(), "it was signed, and never sent");
    let exchange = |request: &mut KeyStepRequest| {
        if let Some(OfflineSignature::Signed { .. }) = &request.trust_state {
            request.trust_state.clone_from(&kept.lock().unwrap());
        }
    };
    let step = (Countersignature, Prepare);
    let refused = take_changed(&environment, &offline, &operator, step, exchange).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("something else than this step"), "{refused}");
    assert_eq!(environment.authority.view.trust_note(), before);
    // Neither key is taken for the other; both steps can still be taken.
    for purpose in [Feed, Countersignature] {
        take(&environment, &offline, &operator, purpose, Prepare).await.unwrap();
    }
}

#[tokio::test]
async fn certificates_asked_for_while_the_issuer_changes_are_whole() {
    let environment = Arc::new(Environment::start().await);
    let operator = environment.operator().await;
    let offline = environment.offline_keys();
    take(&environment, &offline, &operator, Issuer, Prepare).await.unwrap();
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let (environment, operator) = (Arc::clone(&environment), operator.clone());
            tokio::spawn(async move {
                let spiffe_id = Some(support::id("/prod/reports"));
                let body = IssueRequest { spiffe_id, ..request(&csr()) };
                environment.authority.issuing.issue(&operator, &body, None).await.unwrap()
            })
        })
        .collect();
    take(&environment, &offline, &operator, Issuer, Activate).await.unwrap();
    for task in tasks {
        environment.verified(&task.await.unwrap());
    }
    let newest = environment.issue(&operator, "/prod/reports").await;
    let active = key(&environment, &operator, Issuer, KeyState::Active).await;
    assert_eq!(format!("{:?}", environment.verified(&newest).issuer_key_hash()), active);
}

#[tokio::test]
async fn a_root_stays_as_long_as_an_issuer_is_below_it() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let offline = environment.offline_keys();
    for step in [Prepare, Activate] {
        take(&environment, &offline, &operator, Root, step).await.unwrap();
    }
    let issuer = key(&environment, &operator, Issuer, KeyState::Active).await;
    match take(&environment, &offline, &operator, Root, Retire).await {
        Err(Error::Waits(waits)) => assert_eq!(waits.first, Some(format!("issuer {issuer}"))),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_restart_in_the_midst_of_every_rotation_finds_every_key() {
    let mut environment = Environment::start().await;
    let offline = environment.offline_keys();
    for purpose in KeyPurpose::ALL {
        for step in [Prepare, Activate] {
            environment.clock.advance(time::Duration::hours(25));
            let operator = environment.operator().await;
            take(&environment, &offline, &operator, purpose, step).await.unwrap();
            let issued = environment.issue(&operator, "/prod/reports").await;
            environment.keys =
                authority::Keys::open(environment.folder.path(), &api::Secret::new("online"))
                    .unwrap();
            environment.restart().await;
            environment.verified(&issued);
            environment.authority.feed.heartbeat().await.unwrap();
        }
    }
    // Both issuers' revocation lists are served until the old one retires; afterwards its last.
    let operator = environment.operator().await;
    let retiring = key(&environment, &operator, Issuer, KeyState::Retiring).await;
    environment.authority.crls.crl(&retiring).await.unwrap();
    environment.clock.advance(time::Duration::hours(25));
    let operator = environment.operator().await;
    take(&environment, &offline, &operator, Issuer, Retire).await.unwrap();
    environment.authority.crls.crl(&retiring).await.unwrap();
    let keys = std::fs::read_dir(environment.folder.path().join("keys")).unwrap().count();
    assert_eq!(keys, 8, "the retired issuer's file is gone, the others are there");
    let now = environment.clock.now();
    assert!(
        environment
            .authority
            .rotation
            .keys(&operator)
            .await
            .unwrap()
            .items
            .iter()
            .all(|key| { key.since <= now })
    );
}

#[tokio::test]
async fn a_token_carries_the_pin_of_the_newest_trust_keys() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let offline = environment.offline_keys();
    for step in [Prepare, Activate] {
        take(&environment, &offline, &operator, Trust, step).await.unwrap();
    }
    let token = environment.token(&operator, "/prod/reports").await;
    let parsed: api::BootstrapToken = token.expose().parse().unwrap();
    assert!(parsed.pin().names(environment.authority.view.trust().state()));
    assert!(!environment.pin.names(environment.authority.view.trust().state()));
    let attestation = Attestation::Token { token };
    let body = IssueRequest { attestation, ..request(&csr()) };
    environment.authority.issuing.issue(&support::anonymous(), &body, None).await.unwrap();
}

//! A commit that is in the database, and whose head cannot be kept beside it: nobody is granted anything
//! by it, and everybody hears of what it only restricts.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use api::{DenyRequest, RevokeRequest};
use authority::{Caller, Error, FeedMessage, Subscription};
use futures_util::FutureExt;
use identity::Revocations;
use support::older::{copy, put_back};
use support::{Environment, csr, id};

/// A CA of whose commits others hear by its feed and in its process.
struct Scene {
    environment: Environment,
    operator: Caller,
    held: Caller,
    heard: Subscription,
    in_process: Arc<Mutex<Revocations>>,
}

impl Scene {
    async fn begin() -> Self {
        let environment = Environment::start().await;
        let operator = environment.operator().await;
        let held = environment.caller(&environment.issue(&operator, "/prod/reports").await);
        let heard = environment.authority.subscribe(&operator, Some(0)).await.unwrap();
        let in_process = Arc::<Mutex<Revocations>>::default();
        let told = Arc::clone(&in_process);
        let apply = move |items: &[identity::feed::FeedItem]| {
            items.iter().for_each(|item| item.apply(&mut told.lock().unwrap()));
        };
        environment.authority.listen(|_| {}, Box::new(apply));
        Self { environment, operator, held, heard, in_process }
    }

    fn head(&self) -> PathBuf {
        self.environment.folder.path().join("head")
    }

    /// What stands in the head's place cannot be written to, nor removed.
    fn block(&self) {
        fs::remove_file(self.head()).unwrap();
        fs::create_dir(self.head()).unwrap();
    }

    async fn revoke(&self, by: &Caller) -> Result<api::Revocation, Error> {
        let request = RevokeRequest {
            target: self.held.svid.as_ref().unwrap().serial_number().to_string(),
            reason: "key-compromise".to_owned(),
            dry_run: false,
            named_override: None,
        };
        self.environment.authority.revoke(by, &request).await
    }

    async fn deny(&self) -> Result<api::Denial, Error> {
        let request = DenyRequest {
            spiffe_id: id("/prod/reports"),
            reason: "key-compromise".to_owned(),
            named_override: None,
        };
        self.environment.authority.deny(&self.operator, &request).await
    }

    /// Looks at the log, as is done all the time, and is told that its newest commit is not kept.
    async fn look(&self) {
        let unkept = self.environment.authority.refresh().await.unwrap_err().to_string();
        assert!(unkept.contains("before anybody is told"), "{unkept}");
    }

    /// What subscribers have been told and have not heard yet.
    fn next(&mut self) -> Option<FeedMessage> {
        self.heard.next().now_or_never().flatten()
    }

    fn is_refused(&self) -> bool {
        let svid = self.held.svid.as_ref().unwrap();
        let told = self.in_process.lock().unwrap();
        told.check(svid.spiffe_id(), svid.serial_number(), svid.leaf_index()).is_err()
    }
}

#[tokio::test]
async fn a_revocation_is_told_that_is_not_kept_and_neither_acknowledged_nor_ready() {
    for is_by_itself in [false, true] {
        let mut scene = Scene::begin().await;
        scene.block();
        let by = if is_by_itself { scene.held.clone() } else { scene.operator.clone() };
        scene.revoke(&by).await.unwrap_err();
        assert!(scene.next().is_none(), "nobody has looked yet");
        scene.look().await;
        assert!(scene.is_refused());
        let told = scene.next().expect("subscribers are told");
        assert!(String::from_utf8_lossy(told.line()).contains("revoke"), "{told:?}");
        scene.look().await;
        assert!(scene.next().is_none(), "once");

        let authority = &scene.environment.authority;
        assert!(authority.require_commits().is_err(), "it is not ready");
        assert!(authority.heartbeat().await.is_err(), "nobody is told that this is all");
        scene.environment.renew(&scene.held, &csr()).await.unwrap_err();
        fs::remove_dir(scene.head()).unwrap();
        authority.refresh().await.unwrap();
        authority.probe_store().await.unwrap();
        authority.require_commits().unwrap();
        assert!(scene.next().is_none(), "it is told already");
    }
}

#[tokio::test]
async fn newcomers_hear_of_a_denial_that_is_not_kept() {
    let scene = Scene::begin().await;
    scene.block();
    scene.deny().await.unwrap_err();
    scene.look().await;
    assert!(scene.is_refused());
    let authority = &scene.environment.authority;
    let mut newcomer = authority.subscribe(&scene.operator, Some(0)).await.unwrap();
    let told = newcomer.next().now_or_never().flatten().expect("it is told at once");
    assert!(String::from_utf8_lossy(told.line()).contains("deny"), "{told:?}");
    assert!(authority.subscribe(&scene.held, Some(0)).await.is_err(), "who is denied is not heard");
}

#[tokio::test]
async fn what_grants_waits_until_it_is_kept() {
    let mut scene = Scene::begin().await;
    let denial = scene.deny().await.unwrap();
    assert!(scene.next().is_some());
    scene.block();

    let authority = Arc::clone(&scene.environment.authority);
    authority.allow(&scene.operator, &denial.id).await.unwrap_err();
    scene.look().await;
    assert!(scene.is_refused());
    assert!(scene.next().is_none());
    fs::remove_dir(scene.head()).unwrap();
    authority.refresh().await.unwrap();
    assert!(scene.next().is_some());
    assert!(!scene.in_process.lock().unwrap().is_denied(&id("/prod/reports")));
}

#[tokio::test]
async fn a_revocation_that_was_told_and_is_taken_away_halts() {
    let scene = Scene::begin().await;
    let older = copy(scene.environment.folder.path());
    scene.block();
    scene.revoke(&scene.operator).await.unwrap_err();
    scene.look().await;
    fs::remove_dir(scene.head()).unwrap();
    put_back(scene.environment.folder.path(), &older);
    let refused = scene.environment.authority.refresh().await;
    assert!(matches!(refused, Err(Error::Halted(_))), "{refused:?}");
    assert!(scene.is_refused(), "who was told goes on refusing");
}

//! A commit that is in the database, and whose head cannot be kept beside it: nobody is granted anything
//! by it, and everybody hears of what it only restricts.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use api::{DenyRequest, RevokeRequest, TokenFilter, TokenRequest};
use authority::clock::Clock;
use authority::sequencer::{ActMember, AllowedUnder, Effect, Head, Member};
use authority::store::StoreError;
use authority::{Act, Caller, Error, EventDraft, FeedMessage, Subscription};
use futures_util::FutureExt;
use identity::Revocations;
use support::older::{copy, database, put_back};
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
        let heard = environment.authority.feed.subscribe(&operator, Some(0)).await.unwrap();
        let in_process = Arc::<Mutex<Revocations>>::default();
        let told = Arc::clone(&in_process);
        let apply = move |items: &[identity::feed::FeedItem]| {
            items.iter().for_each(|item| item.apply(&mut told.lock().unwrap()));
        };
        environment.authority.view.listen(|_| {}, Box::new(apply));
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
        self.environment.authority.operations.revoke(by, &request).await
    }

    async fn deny(&self) -> Result<api::Denial, Error> {
        self.deny_path("/prod/reports").await
    }

    async fn deny_path(&self, path: &str) -> Result<api::Denial, Error> {
        let request = DenyRequest {
            spiffe_id: id(path),
            reason: "key-compromise".to_owned(),
            named_override: None,
        };
        self.environment.authority.operations.deny(&self.operator, &request).await
    }

    /// Looks at the log, as is done all the time, and is told that its newest commit is not kept.
    async fn look(&self) {
        let unkept = self.environment.authority.view.refresh().await.unwrap_err().to_string();
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
        assert!(authority.writer.require_commits().is_err(), "it is not ready");
        // An operator who asks what is the matter is answered.
        authority.status(&scene.operator).await.unwrap();
        assert!(authority.feed.heartbeat().await.is_err(), "nobody is told that this is all");
        scene.environment.renew(&scene.held, &csr()).await.unwrap_err();
        fs::remove_dir(scene.head()).unwrap();
        authority.view.refresh().await.unwrap();
        authority.writer.probe_store().await.unwrap();
        authority.writer.require_commits().unwrap();
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
    let mut newcomer = authority.feed.subscribe(&scene.operator, Some(0)).await.unwrap();
    let told = newcomer.next().now_or_never().flatten().expect("it is told at once");
    assert!(String::from_utf8_lossy(told.line()).contains("deny"), "{told:?}");
    assert!(
        authority.feed.subscribe(&scene.held, Some(0)).await.is_err(),
        "who is denied is not heard"
    );
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
    let refused = scene.environment.authority.view.refresh().await;
    assert!(matches!(refused, Err(Error::Halted(_))), "{refused:?}");
    assert!(scene.is_refused(), "who was told goes on refusing");
}

#[tokio::test]
async fn what_only_restricts_is_committed_and_told_for_as_long_as_no_head_is_kept() {
    let mut scene = Scene::begin().await;
    let authority = Arc::clone(&scene.environment.authority);
    let open = scene.environment.token(&scene.operator, "/prod/monolith").await;
    let made =
        authority.operations.tokens(&scene.operator, &TokenFilter::default()).await.unwrap().items;
    let open_id = made.iter().find(|it| it.state == "open").unwrap().id.clone();
    let quick = scene.environment.issue(&scene.operator, "/prod/quick").await;
    let kept = fs::read(scene.head()).unwrap();
    scene.block();

    // The commit at which it began grants, and is refused.
    scene.environment.renew(&scene.held, &csr()).await.unwrap_err();
    scene.revoke(&scene.operator).await.unwrap_err();
    scene.look().await;
    assert!(scene.is_refused(), "a certificate is revoked by its number");
    assert!(scene.next().is_some());
    let all_of_quick = RevokeRequest {
        target: id("/prod/quick").to_string(),
        reason: "superseded".to_owned(),
        dry_run: false,
        named_override: None,
    };
    authority.operations.revoke(&scene.operator, &all_of_quick).await.unwrap_err();
    scene.look().await;
    let checked = |scene: &Scene| {
        let svid = scene.environment.caller(&quick).svid.unwrap();
        let told = scene.in_process.lock().unwrap();
        told.check(svid.spiffe_id(), svid.serial_number(), svid.leaf_index()).is_err()
    };
    assert!(checked(&scene), "an identity is revoked");
    assert!(scene.next().is_some());
    authority.operations.revoke_token(&scene.operator, &open_id).await.unwrap_err();
    scene.look().await;
    scene.deny().await.unwrap_err();
    scene.look().await;
    assert!(scene.in_process.lock().unwrap().is_denied(&id("/prod/reports")));
    assert!(scene.next().is_some());
    let denials = authority.operations.denials(&scene.operator).await.unwrap();
    assert_eq!(denials.items.len(), 1, "operators see it, too");

    // Nothing that grants has come of any of it.
    let asked = TokenRequest { spiffe_id: id("/prod/quick"), ttl: None, key_sha256: None };
    authority.operations.create_token(&scene.operator, &asked).await.unwrap_err();
    scene.environment.renew(&scene.environment.caller(&quick), &csr()).await.unwrap_err();
    assert!(
        authority.crls.crl(&authority.view.issuer_id()).await.is_err(),
        "it is a commit of its own"
    );
    assert!(
        authority.writer.require_commits().is_err() && authority.feed.heartbeat().await.is_err()
    );

    // A crash leaves the head of before, to which the larger database leads.
    fs::remove_dir(scene.head()).unwrap();
    fs::write(scene.head(), kept).unwrap();
    scene.environment.restart().await;
    let authority = &scene.environment.authority;
    assert_eq!(authority.view.halted(), None);
    assert_eq!(authority.operations.denials(&scene.operator).await.unwrap().items.len(), 1);
    scene.environment.issue_with(&open, &csr()).await.unwrap_err();
    scene.environment.renew(&scene.held, &csr()).await.unwrap_err();
    authority.writer.probe_store().await.unwrap();
    scene.environment.issue(&scene.operator, "/prod/monolith").await;
}

#[tokio::test]
async fn what_grants_is_refused_before_it_is_committed_and_holds_no_restriction_up() {
    let scene = Scene::begin().await;
    let denial = scene.deny().await.unwrap();
    let authority = Arc::clone(&scene.environment.authority);
    scene.block();
    for _ in 0..2 {
        authority.operations.allow(&scene.operator, &denial.id).await.unwrap_err();
    }
    scene.deny_path("/prod/monolith").await.unwrap_err();
    scene.look().await;
    assert!(scene.in_process.lock().unwrap().is_denied(&id("/prod/monolith")));
    fs::remove_dir(scene.head()).unwrap();
    authority.view.refresh().await.unwrap();
    assert!(scene.in_process.lock().unwrap().is_denied(&id("/prod/reports")));
    authority.operations.allow(&scene.operator, &denial.id).await.unwrap();
    assert!(!scene.in_process.lock().unwrap().is_denied(&id("/prod/reports")));
}

#[tokio::test]
async fn a_mixed_group_loses_none_that_only_restricts() {
    for is_first in [true, false] {
        mixed_group(is_first).await;
    }
}

/// Of the first commit that fails to be kept, or of a later one.
async fn mixed_group(is_first: bool) {
    let scene = Scene::begin().await;
    let store = &scene.environment.store;
    let kept = store.head().await.unwrap();
    scene.block();
    if !is_first {
        scene.environment.renew(&scene.held, &csr()).await.unwrap_err();
    }
    let stored = |scene: &Scene| -> i64 {
        database(scene.environment.folder.path())
            .query_row("SELECT count(*) FROM revocations", [], |row| row.get(0))
            .unwrap()
    };
    let head = match store.head().await {
        Err(StoreError::Unkept { head, .. }) if !is_first => Head::clone(&head),
        Ok(_) if is_first => kept,
        other => panic!("{is_first}: {other:?}"),
    };
    let under =
        AllowedUnder { policy_hash: head.policy_hash, revocation_epoch: head.revocation_epoch };
    let by = Act { actor: "test", request_id: "test" };
    let detail = serde_json::json!({ "reason": "superseded" });
    let act = |kind, effect| {
        let event = EventDraft::new(kind, &by, id("/prod/quick").as_str(), &detail);
        Member::Act(Box::new(ActMember { event, effect, allowed_under: Some(under) }))
    };
    let (spiffe_id, reason) = (id("/prod/quick"), "superseded".to_owned());
    let deny = || Effect::Deny { spiffe_id: spiffe_id.clone(), reason: reason.clone() };
    let allow = Effect::Allow { spiffe_id: spiffe_id.clone() };
    let group = vec![
        Member::Unchanged(under),
        act("allow", allow),
        act("deny", deny()),
        act("deny", deny()),
    ];
    let now = scene.environment.clock.unix_milliseconds();
    match store.commit(group, now).await {
        Err(StoreError::Unkept { head: newest, moved, .. }) => {
            assert_eq!(newest.revocation_epoch, head.revocation_epoch + 1);
            assert_eq!(*moved, [3], "the second was allowed before the first: it is decided anew");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(stored(&scene), 1);
    let granting = vec![Member::Unchanged(under)];
    store.commit(granting, now).await.unwrap_err();
}

#[tokio::test]
async fn revocations_at_once_are_all_done_while_no_head_is_kept() {
    let scene = Scene::begin().await;
    let authority = Arc::clone(&scene.environment.authority);
    scene.block();
    scene.environment.renew(&scene.held, &csr()).await.unwrap_err();
    let paths = ["/prod/reports", "/prod/monolith", "/prod/quick"];
    let denials = paths.map(|path| {
        let (authority, operator) = (Arc::clone(&authority), scene.operator.clone());
        tokio::spawn(async move {
            let reason = "superseded".to_owned();
            let request = DenyRequest { spiffe_id: id(path), reason, named_override: None };
            authority.operations.deny(&operator, &request).await.unwrap_err()
        })
    });
    for denial in denials {
        let refused = denial.await.unwrap().to_string();
        assert!(refused.contains("before anybody is told"), "{refused}");
    }
    scene.look().await;
    for path in paths {
        assert!(scene.in_process.lock().unwrap().is_denied(&id(path)), "{path}");
    }
}

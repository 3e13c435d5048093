//! A policy set is read and parsed once, however many wait for it.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use api::OperatorRequest;
use authority::clock::Clock;
use authority::policy::PolicySet;
use authority::sequencer::{ActMember, Effect, Member};
use authority::store::Store;
use authority::store::faulty::{FaultyStore, ReadOf};
use authority::{Act, EventDraft};
use support::{Environment, csr, policy_files};
use tlog::Hash;

struct Counted {
    environment: Environment,
    reads: Arc<AtomicUsize>,
}

impl Counted {
    async fn start() -> Self {
        let reads = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&reads);
        let wrap = move |store| -> Arc<dyn Store> {
            Arc::new(FaultyStore::new(store, |_| None).on_read(move |read| {
                count.fetch_add(usize::from(read == ReadOf::Policy), Ordering::SeqCst);
                None
            }))
        };
        let environment = Environment::start_with(|keys, _| keys, wrap).await;
        reads.store(0, Ordering::SeqCst);
        Self { environment, reads }
    }

    fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }

    /// Puts a set into force behind this process, as another node would.
    async fn put(&self, hash: Hash, files: &BTreeMap<String, String>) {
        let by = Act { actor: "test", request_id: "test" };
        let detail = serde_json::json!({ "hash": format!("{hash:?}") });
        let event = EventDraft::new("policy.change", &by, "policies", &detail);
        let files = serde_json::to_string(files).unwrap();
        let effect = Effect::ActivatePolicy { expected: None, files, hash };
        let act = ActMember { event, effect, allowed_under: None };
        let now = self.environment.clock.unix_milliseconds();
        self.environment.store.commit(vec![Member::Act(Box::new(act))], now).await.unwrap();
    }

    /// The same of a set that differs from those before; returns its hash.
    async fn put_another(&self) -> Hash {
        let mut files = policy_files();
        files.insert("workloads.json".to_owned(), r#"{"workloads": [{"id": "/new"}]}"#.to_owned());
        let set = PolicySet::parse(&files).unwrap();
        self.put(*set.hash(), set.files()).await;
        *set.hash()
    }

    fn in_force(&self) -> Hash {
        *self.environment.authority.view.policy().set().hash()
    }
}

#[tokio::test]
async fn those_who_notice_a_new_set_at_once_have_it_read_once() {
    let counted = Counted::start().await;
    let hash = counted.put_another().await;
    let authority = &counted.environment.authority;
    let followed = futures_util::future::join_all((0..30).map(|_| authority.view.refresh())).await;
    assert!(followed.iter().all(Result::is_ok));
    assert_eq!((counted.reads(), counted.in_force()), (1, hash));
}

#[tokio::test]
async fn who_goes_away_leaves_it_to_be_finished() {
    let counted = Counted::start().await;
    let hash = counted.put_another().await;
    let authority = Arc::clone(&counted.environment.authority);
    let first = tokio::spawn(async move { authority.view.refresh().await });
    let begun = Instant::now();
    while counted.reads() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "nobody reads it");
        tokio::task::yield_now().await;
    }
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_ne!(counted.in_force(), hash, "it is under way");
    counted.environment.authority.view.refresh().await.unwrap();
    assert_eq!((counted.reads(), counted.in_force()), (1, hash));
}

#[tokio::test]
async fn another_operator_is_known_without_the_set_being_read() {
    let counted = Counted::start().await;
    let environment = &counted.environment;
    let admin = environment.operator().await;
    let name = "third".to_owned();
    let asked = OperatorRequest { name, ttl: None, key_sha256: None, again: false };
    let token = environment.authority.operations.add_operator(&admin, &asked).await.unwrap().token;
    let third = environment.caller(&environment.issue_with(&token, &csr()).await.unwrap());
    environment.authority.status(&third).await.unwrap();
    assert_eq!(counted.reads(), 0);
}

#[tokio::test]
async fn what_cannot_be_parsed_is_read_once_and_keeps_no_later_set_out() {
    let counted = Counted::start().await;
    let mut files = policy_files();
    files.insert("broken.cedar".to_owned(), "permit (".to_owned());
    counted.put(Hash::of(b"broken"), &files).await;
    for _ in 0..3 {
        let refused = counted.environment.authority.view.refresh().await.unwrap_err();
        assert!(refused.to_string().contains("broken.cedar"), "{refused}");
    }
    assert_eq!(counted.reads(), 1);
    let hash = counted.put_another().await;
    counted.environment.authority.view.refresh().await.unwrap();
    assert_eq!(counted.in_force(), hash);
}

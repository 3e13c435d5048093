//! Making a CA is all or nothing: whatever interrupts it, the same command again makes one.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::fs;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use api::Secret;
use authority::clock::{Clock, ManualClock};
use authority::policy::PolicySet;
use authority::setup::{self, Created, NewAuthority, Outcomes, Parent};
use authority::{Error, Keys};
use futures_util::FutureExt;
use support::{NOW, policy_files, trust_domain};
use time::OffsetDateTime;

/// Its process dies when the time is asked for once more.
#[derive(Debug)]
struct DiesAfter {
    steps: AtomicUsize,
    clock: ManualClock,
}

impl Clock for DiesAfter {
    fn now(&self) -> OffsetDateTime {
        let left = self
            .steps
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        assert!(left.is_ok(), "killed");
        self.clock.now()
    }
}

/// None where it was killed.
async fn create(state: &Path, parent: Parent, steps: usize) -> Option<Result<Created, Error>> {
    create_by(state, "online", parent, steps).await
}

async fn create_by(
    state: &Path,
    passphrase: &str,
    parent: Parent,
    steps: usize,
) -> Option<Result<Created, Error>> {
    let clock = DiesAfter { steps: AtomicUsize::new(steps), clock: ManualClock::new(NOW) };
    let policy = PolicySet::parse(&policy_files()).unwrap();
    let new = NewAuthority {
        trust_domain: trust_domain(),
        state,
        passphrase: &Secret::new(passphrase),
        offline_passphrase: &Secret::new("offline"),
        policy: &policy,
        operator: "admin",
        parent,
    };
    AssertUnwindSafe(setup::create(&new, &clock)).catch_unwind().await.ok()
}

/// It opens as `serve` opens it.
async fn require_ca(state: &Path, created: Created) {
    let Outcomes::Ready(pin) = created.outcome else { panic!("a local parent is ready") };
    drop((created.store, created.keys));
    assert_eq!(setup::read_pin(state).unwrap(), pin);
    let keys = Keys::open(state, &Secret::new("online")).unwrap();
    let (store, _) = setup::open_store(state, &trust_domain(), &keys).unwrap();
    let clock = Arc::new(ManualClock::new(NOW));
    let store: Arc<dyn authority::store::Store> = Arc::new(store);
    let authority = support::open(state, &store, &keys, &clock, pin).await.unwrap();
    assert!(!authority.writer.checkpoint().unwrap().is_empty());
    assert!(!state.join(UNFINISHED).exists());
}

#[tokio::test]
async fn killed_at_any_step_the_same_command_again_makes_a_ca() {
    for parent in [Parent::Local, Parent::Elsewhere] {
        let mut killed = 0;
        for steps in 0.. {
            let folder = tempfile::tempdir().unwrap();
            let state = folder.path().join("state");
            if create(&state, parent, steps).await.is_some() {
                break;
            }
            killed += 1;
            assert!(!state.join("keys").exists() && !state.join("countersign.db").exists());
            assert!(!state.join("trust.pin").exists(), "it looks like a CA");
            let created = create(&state, parent, usize::MAX).await.unwrap().unwrap();
            match parent {
                Parent::Local => require_ca(&state, created).await,
                Parent::Elsewhere => {
                    let request = Outcomes::AwaitsCertificate(state.join("issuer.csr"));
                    assert_eq!(created.outcome, request);
                }
            }
        }
        assert!(killed > 3, "{killed}");
    }
}

#[tokio::test]
async fn killed_while_it_moves_to_its_place_it_is_the_ca_that_was_made() {
    for moved in 0..PARTS.len() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path();
        let first = create(state, Parent::Local, usize::MAX).await.unwrap().unwrap().outcome;
        put_back(state, moved);
        // Another passphrase was typed, now that nobody remembers the first.
        let other = create_by(state, "another", Parent::Local, usize::MAX).await.unwrap();
        assert!(other.unwrap_err().to_string().contains("passphrase"));
        put_back(state, moved);
        let again = create(state, Parent::Local, usize::MAX).await.unwrap().unwrap();
        assert_eq!(again.outcome, first);
        require_ca(state, again).await;
    }
}

#[tokio::test]
async fn a_ca_is_never_replaced_or_removed() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path();
    drop(create(state, Parent::Local, usize::MAX).await.unwrap().unwrap());
    let again = async || {
        let before = (fs::read(state.join("keys/issuer.key")), fs::read(state.join("trust.pin")));
        let refused = create(state, Parent::Local, usize::MAX).await.unwrap();
        let after = (fs::read(state.join("keys/issuer.key")), fs::read(state.join("trust.pin")));
        assert_eq!((before.0.ok(), before.1.ok()), (after.0.ok(), after.1.ok()));
        refused.unwrap_err().to_string()
    };
    assert!(again().await.contains("countersign init --recover"));
    // All was moved, and only the folder was left.
    fs::create_dir(state.join(UNFINISHED)).unwrap();
    fs::write(state.join(UNFINISHED).join("whole"), "").unwrap();
    assert!(again().await.contains("countersign init --recover"));
    assert!(!state.join(UNFINISHED).exists());
    // Interrupted, and then another CA was put there.
    fs::create_dir(state.join(UNFINISHED)).unwrap();
    fs::write(state.join(UNFINISHED).join("whole"), "").unwrap();
    fs::write(state.join(UNFINISHED).join("trust.pin"), "another").unwrap();
    assert!(again().await.contains("move one of the two away"));
    fs::remove_dir_all(state.join(UNFINISHED)).unwrap();
    // Of each part alone it cannot be told whether it is somebody's last.
    for part in PARTS {
        let elsewhere = tempfile::tempdir().unwrap();
        fs::rename(state.join(part), elsewhere.path().join(part)).unwrap();
        let refused = again().await;
        fs::rename(elsewhere.path().join(part), state.join(part)).unwrap();
        let is_told = refused.contains("backup") || refused.contains("has a CA already");
        assert!(is_told, "without {part}: {refused}");
    }
}

#[tokio::test]
async fn the_offline_keys_go_where_their_folder_leads() {
    let (folder, stick) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let state = folder.path();
    fs::create_dir(stick.path().join("lost+found")).unwrap();
    std::os::unix::fs::symlink(stick.path(), state.join("offline")).unwrap();
    let created = create(state, Parent::Local, usize::MAX).await.unwrap().unwrap();
    require_ca(state, created).await;
    assert!(stick.path().join("root.key").exists() && stick.path().join("trust.key").exists());
}

/// As if it had been killed after so many parts were moved.
fn put_back(state: &Path, moved: usize) {
    let folder = state.join(UNFINISHED);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("whole"), "").unwrap();
    for part in PARTS.iter().skip(moved) {
        fs::rename(state.join(part), folder.join(part)).unwrap();
    }
}

const UNFINISHED: &str = "init-unfinished";
const PARTS: [&str; 4] = ["keys", "offline", "countersign.db", "trust.pin"];

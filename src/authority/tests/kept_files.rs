//! Every database beside every file that says what the log was: each ends in an error that names the
//! file, in a halt, or in a CA that goes on, and the documented command leads out of each.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use api::Secret;
use authority::clock::ManualClock;
use authority::policy::PolicySet;
use authority::setup::{self, NewAuthority, Parent};
use authority::{Error, Shown};
use support::older::{copy, put_back};
use support::{Environment, NOW, policy_files, signed_by, trust_domain};
use tlog::Checkpoint;

/// Of which database a file, or the database itself, is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Absent,
    Newest,
    Older,
    OtherCa,
}

const EVERY: [Of; 4] = [Of::Absent, Of::Newest, Of::Older, Of::OtherCa];
const FILES: [&str; 3] = ["head", "checkpoint", "halted"];

/// A CA, and what its folder held at two times.
struct History {
    environment: Environment,
    older: PathBuf,
    newest: PathBuf,
    of_older: [Vec<u8>; 3],
    of_newest: [Vec<u8>; 3],
    of_other: [Vec<u8>; 3],
}

impl History {
    async fn begin() -> Self {
        let environment = Environment::start().await;
        environment.authority.writer.sign_checkpoint().await.unwrap();
        let state = environment.folder.path().to_owned();
        let (older, of_older) = (copy(&state), files(&state));
        environment.operator().await;
        environment.authority.writer.sign_checkpoint().await.unwrap();
        let (newest, of_newest) = (copy(&state), files(&state));
        let other = Environment::start().await;
        other.authority.writer.sign_checkpoint().await.unwrap();
        let of_other = files(other.folder.path());
        Self { environment, older, newest, of_older, of_newest, of_other }
    }

    fn state(&self) -> PathBuf {
        self.environment.folder.path().to_owned()
    }

    fn put(&self, database: Of, beside: [Of; 3]) {
        let state = self.state();
        put_back(&state, if database == Of::Older { &self.older } else { &self.newest });
        for (at, (name, of)) in FILES.iter().zip(beside).enumerate() {
            let path = state.join(name);
            drop(fs::remove_file(&path));
            let contents = match of {
                Of::Absent => continue,
                Of::Newest => &self.of_newest,
                Of::Older => &self.of_older,
                Of::OtherCa => &self.of_other,
            };
            fs::write(path, &contents[at]).unwrap();
        }
    }

    /// What `serve` does of it: why it has halted, if it has.
    async fn serves(&mut self) -> Result<Option<String>, Error> {
        let environment = &mut self.environment;
        environment.store.forget_heads();
        environment.authority = environment.open().await?;
        Ok(environment.authority.view.halted())
    }

    /// What a command on the CA's host does of it before it writes.
    async fn recovers(&self) -> Result<(), Error> {
        let Environment { folder, store, keys, .. } = &self.environment;
        store.forget_heads();
        setup::require_no_halt(&trust_domain(), folder.path(), &**store, keys).await
    }
}

/// The files beside a database, with a halt by its newest checkpoint.
fn files(state: &Path) -> [Vec<u8>; 3] {
    let [head, checkpoint] = ["head", "checkpoint"].map(|it| fs::read(state.join(it)).unwrap());
    let halted = [b"an older database was put back\n\n", &checkpoint[..]].concat();
    [head, checkpoint, halted]
}

#[tokio::test]
async fn every_database_beside_every_file_ends_in_the_right_state() {
    let mut history = History::begin().await;
    for database in [Of::Older, Of::Newest] {
        for head in EVERY {
            for checkpoint in EVERY {
                for halted in EVERY {
                    ends_well(&mut history, database, [head, checkpoint, halted]).await;
                }
            }
        }
    }
}

async fn ends_well(history: &mut History, database: Of, beside: [Of; 3]) {
    let what = format!("{database:?} beside {beside:?}");
    let foreign = FILES.iter().zip(beside).filter(|(_, of)| *of == Of::OtherCa);
    let foreign: Vec<&str> = foreign.map(|(name, _)| *name).collect();
    let is_behind = database == Of::Older && beside.contains(&Of::Newest);
    history.put(database, beside);
    match history.recovers().await {
        Err(Error::Unproven { path, .. }) => {
            assert!(is_one_of(&foreign, &path), "{what}: {path:?}")
        }
        Err(Error::Halted(_)) => assert!(is_behind && foreign.is_empty(), "{what}"),
        other => assert!(other.is_ok() && !is_behind && foreign.is_empty(), "{what}: {other:?}"),
    }
    history.put(database, beside);
    match history.serves().await {
        Err(Error::Unproven { path, .. }) => {
            assert!(is_one_of(&foreign, &path), "{what}: {path:?}")
        }
        Ok(halted) => assert!(foreign.is_empty() && halted.is_some() == is_behind, "{what}"),
        Err(error) => panic!("{what}: {error}"),
    }
    history.put(database, beside);
    let mut tries = 0;
    while history.recovers().await.is_err() {
        history.environment.lift_halt().await.unwrap();
        tries += 1;
        assert!(tries <= 2, "{what}");
    }
    assert_eq!(tries, usize::from(!foreign.is_empty()) + usize::from(is_behind), "{what}");
    assert_eq!(history.serves().await.unwrap(), None, "{what}");
    assert!(!history.state().join("halted").exists(), "{what}");
    history.environment.authority.writer.sign_checkpoint().await.unwrap();
    history.recovers().await.unwrap();
}

fn is_one_of(names: &[&str], path: &Path) -> bool {
    names.iter().any(|name| path.ends_with(name))
}

/// As versions of before kept a halt: what they remembered of the log, bare.
fn of_before(checkpoint: &Checkpoint) -> Vec<u8> {
    format!("the log went back\n\n{}", checkpoint.text()).into_bytes()
}

#[tokio::test]
async fn a_halt_that_an_earlier_version_kept_halts_until_it_is_set_aside() {
    let mut history = History::begin().await;
    let note = tlog::SignedNote::parse(&history.of_newest[1]).unwrap();
    let remembered = Checkpoint::parse(note.text()).unwrap();
    let halted = history.state().join("halted");
    let older = [Of::Older, Of::Older, Of::Absent];
    history.put(Of::Older, older);
    fs::write(&halted, of_before(&remembered)).unwrap();
    for _ in 0..2 {
        assert!(matches!(history.recovers().await, Err(Error::Halted(_))));
        assert_eq!(history.serves().await.unwrap().as_deref(), Some("the log went back"));
        assert_eq!(fs::read(&halted).unwrap(), of_before(&remembered), "it stays");
    }
    // It is no evidence: what somebody shows, of whatever size, takes its place.
    let log = history.environment.keys.first(api::KeyPurpose::Log).unwrap();
    let shown = signed_by(&*log, remembered.size - 1, tlog::Hash::new([7; 32])).await;
    history.environment.authority.writer.witness(&shown, Shown::ByWorkload).await;
    assert!(fs::read(&halted).unwrap().ends_with(&shown));

    history.put(Of::Older, older);
    fs::write(&halted, of_before(&Checkpoint { size: u64::MAX, ..remembered.clone() })).unwrap();
    let lifted = history.environment.lift_halt().await.unwrap();
    assert_eq!((lifted.set_aside.len(), lifted.why), (1, None));
    assert_eq!(history.serves().await.unwrap(), None);
    // Nothing that it said is judged by that.
    history.environment.authority.writer.witness(&history.of_newest[1], Shown::ByWorkload).await;
    assert!(history.environment.authority.view.halted().is_some());

    // The newest database is back.
    history.put(Of::Newest, [Of::Newest, Of::Newest, Of::Absent]);
    fs::write(&halted, of_before(&remembered)).unwrap();
    assert_eq!(history.serves().await.unwrap(), None);
    assert!(!halted.exists());
    // Of another log.
    let other = Checkpoint { origin: "other.example/log".to_owned(), ..remembered };
    fs::write(&halted, of_before(&other)).unwrap();
    assert!(matches!(history.serves().await, Err(Error::Unproven { .. })));
}

#[tokio::test]
async fn where_a_log_was_no_new_ca_is_made_before_its_files_are_moved_away() {
    let other = Environment::start().await;
    let others = files(other.folder.path());
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path();
    let mut moved = BTreeSet::new();
    for parent in [Parent::Local, Parent::Elsewhere] {
        for left in [&[0][..], &[1], &[2], &[0, 1, 2]] {
            for is_empty in [false, true] {
                let contents = |file: usize| if is_empty { &[] } else { &others[file][..] };
                for &file in left {
                    fs::write(state.join(FILES[file]), contents(file)).unwrap();
                }
                setup::require_vacant(state).unwrap_err();
                let refused = create(state, parent).await.unwrap_err().to_string();
                for made in ["keys", "offline", "countersign.db", "init-unfinished"] {
                    assert!(!state.join(made).exists(), "{made}");
                }
                for &file in left {
                    assert_eq!(fs::read(state.join(FILES[file])).unwrap(), contents(file));
                }
                moved.extend(move_as_told(&refused));
            }
        }
    }
    assert_eq!(moved.len(), 2 * 2 * 6, "nothing was replaced: {moved:?}");
    drop(create(state, Parent::Local).await.unwrap());
    let kept = fs::read_to_string(state.join("head")).unwrap();
    assert_ne!(kept.as_bytes(), others[0]);
}

#[tokio::test]
async fn part_of_a_ca_is_to_be_moved_where_nothing_is() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state/");
    for _ in 0..3 {
        drop(create(&state, Parent::Local).await.unwrap());
        fs::remove_file(state.join("countersign.db")).unwrap();
        let refused = create(&state, Parent::Local).await.unwrap_err().to_string();
        assert_eq!(move_as_told(&refused).len(), 1, "{refused}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[tokio::test]
async fn what_is_to_be_moved_is_named_as_a_shell_takes_it() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("it's a $HOME;");
    drop(create(&state, Parent::Local).await.unwrap());
    fs::remove_file(state.join("countersign.db")).unwrap();
    let refused = create(&state, Parent::Local).await.unwrap_err().to_string();
    let (_, told) = refused.split_once("move it away: ").unwrap();
    let (told, _) = told.split_once("; then: countersign init").unwrap();
    let moved = std::process::Command::new("sh").args(["-c", told]).status().unwrap();
    assert!(moved.success() && !state.exists(), "{told}");
}

/// Takes the steps that a refusal tells, and returns what has been moved where.
fn move_as_told(refused: &str) -> Vec<PathBuf> {
    let steps = refused.split("; ").filter_map(|step| step.split_once("mv "));
    let steps = steps.map(|(_, names)| names.split_once(' ').unwrap());
    let moved = steps.map(|(from, to)| {
        assert!(!Path::new(to).exists(), "{refused}");
        fs::rename(from, to).unwrap();
        PathBuf::from(to)
    });
    moved.collect()
}

async fn create(state: &Path, parent: Parent) -> Result<setup::Created, Error> {
    let policy = PolicySet::parse(&policy_files()).unwrap();
    let new = NewAuthority {
        trust_domain: trust_domain(),
        state,
        passphrase: &Secret::new("online"),
        offline_passphrase: &Secret::new("offline"),
        policy: &policy,
        operator: "admin",
        parent,
    };
    setup::create(&new, &ManualClock::new(NOW)).await
}

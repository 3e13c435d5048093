//! What a workload knows of revocations when it starts: what it hears, what it kept, or nothing.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign::{Builder, Error, FileSource, Staleness, Verification, WhenStale, Workload};
use identity::feed::{Content, Delta, FeedChange, FeedItem, Position, Snapshot};
use identity::{Refusal, SerialNumber, TrustDomain};
use rustls::pki_types::UnixTime;

use crate::authority::TestAuthority;
use crate::credentials::write;
use crate::endpoints::{HeldClock, REPORTS, WITNESS, until};
use crate::server::{TestServer, soon};
use crate::stand_in::StandIn;

/// A CA with a feed, and a folder with an SVID of its.
struct Beside {
    ca: Arc<StandIn>,
    server: TestServer,
    clock: Arc<HeldClock>,
    folder: tempfile::TempDir,
}

impl Beside {
    async fn start() -> Self {
        let (ca, server) = StandIn::start().await;
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &ca.authority.svid(REPORTS));
        let beside = Self { ca, server, clock: HeldClock::new(), folder };
        beside.say(|ca, at| snapshot(ca, at, 3));
        beside
    }

    /// What the feed says from now on. Its time is ours, so that ages are those that a test makes.
    fn say(&self, says: impl Fn(&TestAuthority, UnixTime) -> Vec<u8> + Send + 'static) {
        let clock = Arc::clone(&self.clock);
        self.ca.say(move |ca| says(ca, clock.now()));
    }

    fn builder(&self) -> Builder {
        let source = FileSource::new(self.folder.path());
        let builder = self.ca.workload(&self.server).svid_source(Arc::new(source));
        builder.clock(self.clock.clone()).give_up_after(Duration::from_millis(200))
    }

    /// Starts a workload that hears of three serials, then of a fourth, then that this is all.
    async fn run_once(&self) {
        let workload = soon(self.builder().start()).await.unwrap();
        until(|| workload.status().feed_sequence == 3).await;
        self.say(|ca, at| delta(ca, at, 3, 4));
        until(|| workload.status().feed_sequence == 4).await;
        self.say(|ca, at| heartbeat(ca, at, 4));
        until(|| self.kept("feed").contains("heartbeat")).await;
        assert_eq!(workload.status().keeping_error, None);
        workload.stop().await;
    }

    /// The same once more, after which the CA is away.
    async fn start_without_ca(&self, prepare: impl FnOnce(Builder) -> Builder) -> Workload {
        let url = "https://127.0.0.1:9";
        soon(prepare(self.builder().url(url)).start()).await.unwrap()
    }

    /// The CA is there and issues, and its feed says nothing.
    fn fall_silent(&self) {
        self.say(|_, _| b"no line of a feed".to_vec());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("revocations.{name}"))
    }

    fn kept(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Whether somebody who is not revoked gets in at this workload.
    async fn is_let_in(&self, workload: &Workload) -> bool {
        let authority = &self.ca.authority;
        let listener = authority.listener(workload.endpoint()).await;
        let address = listener.local_address();
        crate::endpoints::echo(listener);
        let peers = authority.peers(&[REPORTS]);
        let witness = authority.endpoint(WITNESS);
        let Ok(mut stream) = soon(witness.connect(&address.to_string(), peers)).await else {
            return false;
        };
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let _ = stream.write_all(b"x").await;
        soon(stream.read(&mut [0; 1])).await.is_ok_and(|read| read == 1)
    }
}

fn serial(number: u64) -> SerialNumber {
    SerialNumber::from_octets(&number.to_be_bytes()).unwrap()
}

fn item(log_index: u64) -> FeedItem {
    let change = FeedChange::RevokeSerial { serial_number: serial(log_index), until: u64::MAX };
    FeedItem { log_index, change }
}

fn position(sequence: u64) -> Position {
    let genesis = Position::genesis(&TrustDomain::parse("pay.example").unwrap());
    (1..=sequence).fold(genesis, |position, log_index| position.after(&item(log_index)))
}

fn snapshot(ca: &TestAuthority, at: UnixTime, sequence: u64) -> Vec<u8> {
    let serials = [(u64::MAX, (1..=sequence).map(serial).collect())].into();
    ca.snapshot_at(at, position(sequence), Snapshot { serials, ..Snapshot::default() })
}

fn delta(ca: &TestAuthority, at: UnixTime, from: u64, to: u64) -> Vec<u8> {
    let Position { sequence, hash } = position(from);
    let items = (from + 1..=to).map(item).collect();
    let delta = Delta { previous_sequence: sequence, previous_hash: hash, items };
    ca.feed_line_at(at, position(to), Content::Delta(delta))
}

fn heartbeat(ca: &TestAuthority, at: UnixTime, sequence: u64) -> Vec<u8> {
    ca.heartbeat_at(at, position(sequence), 1, &ca.trust_note())
}

fn is_revoked(verification: &Verification, number: u64) -> bool {
    verification.with_revocations(|held| held.is_serial_revoked(&serial(number)))
}

#[tokio::test]
async fn a_start_without_the_ca_goes_by_what_was_kept_and_its_age_counts() {
    let beside = Beside::start().await;
    beside.run_once().await;
    beside.clock.advance(40);
    let (max_staleness, then) = (Duration::from_secs(60), WhenStale::Refuse);
    let staleness = Staleness { max_staleness, then };
    let workload = beside.start_without_ca(|builder| builder.staleness(staleness)).await;
    let verification = workload.endpoint().verification();
    assert!((1..=4).all(|number| is_revoked(verification, number)));
    let status = workload.status();
    assert!(status.ready && !status.stale, "{status:?}");
    assert_eq!(status.feed_sequence, 4);
    assert_eq!(status.feed_age, Some(40));
    assert_eq!((status.keeping_error, status.without_revocations_until), (None, None));
    assert!(beside.is_let_in(&workload).await);
    beside.clock.advance(41);
    let status = workload.status();
    assert!(!status.ready && status.stale, "as old as they are: {status:?}");
    assert!(!beside.is_let_in(&workload).await);
}

#[tokio::test]
async fn what_was_kept_goes_on_where_it_ended_once_the_ca_is_back() {
    let beside = Beside::start().await;
    beside.run_once().await;
    beside.say(|ca, at| delta(ca, at, 4, 6));
    let workload = soon(beside.builder().start()).await.unwrap();
    until(|| workload.status().feed_sequence == 6).await;
    let verification = workload.endpoint().verification();
    assert!((1..=6).all(|number| is_revoked(verification, number)));
    until(|| beside.kept("feed").matches("\"delta\"").count() == 2).await;
    workload.stop().await;
    let again = beside.start_without_ca(|builder| builder).await;
    assert!((1..=6).all(|number| is_revoked(again.endpoint().verification(), number)));
}

#[tokio::test]
async fn a_feed_that_is_older_than_what_was_kept_is_not_believed() {
    let beside = Beside::start().await;
    beside.run_once().await;
    beside.say(|ca, at| snapshot(ca, at, 2));
    let workload = soon(beside.builder().start()).await.unwrap();
    let says = |error: String| error.contains("went back from 4 to 2");
    until(|| workload.status().feed_error.is_some_and(says)).await;
    assert!(is_revoked(workload.endpoint().verification(), 4));
}

#[tokio::test]
async fn who_knows_nothing_of_revocations_is_not_ready_and_refuses_until_it_does() {
    for from_files in [true, false] {
        let beside = Beside::start().await;
        beside.fall_silent();
        let builder = match from_files {
            true => beside.builder(),
            false => beside.ca.workload(&beside.server).give_up_after(Duration::from_millis(200)),
        };
        let workload = soon(builder.start()).await.unwrap();
        let status = workload.status();
        assert!(!status.ready, "{status:?}");
        assert_eq!((status.feed_age, status.without_revocations_until), (None, None));
        assert_eq!(status.seconds_without_authority, 0);
        assert!(!beside.is_let_in(&workload).await);
        let listener = beside.ca.authority.listener(&beside.ca.authority.endpoint(WITNESS)).await;
        let address = listener.local_address().to_string();
        crate::endpoints::echo(listener);
        let peers = beside.ca.authority.peers(&[WITNESS]);
        let refused = soon(workload.connect(&address, peers)).await.unwrap_err();
        let Error::Peer { refusal, .. } = refused else { panic!("{refused:?}") };
        assert!(matches!(refusal, Refusal::StaleRevocations { age: None, .. }), "{refusal:?}");
        beside.say(|ca, at| snapshot(ca, at, 3));
        until(|| workload.ready()).await;
        assert!(beside.is_let_in(&workload).await);
    }
}

#[tokio::test]
async fn what_is_older_than_any_certificate_is_as_if_nothing_was_kept() {
    let limit = 8 * 24 * 3600;
    for (age, is_known) in [(limit - 60, true), (limit + 60, false)] {
        let beside = Beside::start().await;
        beside.say(move |ca, at| {
            let then = UnixTime::since_unix_epoch(Duration::from_secs(at.as_secs() - age));
            snapshot(ca, then, 3)
        });
        let workload = soon(beside.builder().start()).await.unwrap();
        until(|| workload.status().feed_sequence == 3).await;
        workload.stop().await;
        beside.fall_silent();
        let workload = soon(beside.builder().start()).await.unwrap();
        let status = workload.status();
        let knows = status.feed_age.is_some();
        assert_eq!((status.ready, knows), (is_known, is_known), "{age}: {status:?}");
        assert_eq!(beside.is_let_in(&workload).await, is_known, "{age}");
        let said = status.keeping_error.unwrap_or_default();
        assert_eq!(said.contains("of 8 days ago"), !is_known, "{age}: {said}");
    }
}

#[tokio::test]
async fn who_may_start_without_revocations_does_until_then_and_says_so() {
    let beside = Beside::start().await;
    beside.fall_silent();
    let builder = beside.builder().start_without_revocations(Duration::from_secs(600));
    let workload = soon(builder.start()).await.unwrap();
    let status = workload.status();
    assert!(status.ready, "{status:?}");
    let left = status.without_revocations_until.unwrap().unix_timestamp();
    let left = left - beside.clock.now().as_secs() as i64;
    assert!((590..=600).contains(&left), "{left}");
    assert!(status.seconds_without_authority <= 600);
    assert!(beside.is_let_in(&workload).await);
    beside.clock.advance(601);
    let status = workload.status();
    assert_eq!((status.ready, status.without_revocations_until), (false, None));
    assert!(!beside.is_let_in(&workload).await);
}

#[tokio::test]
async fn files_that_do_not_verify_are_none_which_is_said_and_mended() {
    let other = TestAuthority::new();
    type Spoil = fn(&Beside, &TestAuthority);
    let spoils: [(&str, Spoil); 8] = [
        ("not what its key signed", |beside, _| {
            beside.edit("feed", |text| text.replacen("\"sequence\":3", "\"sequence\":4", 1));
        }),
        ("not the one that its head names", |beside, _| {
            beside.edit("feed", |text| text.replacen("serials", "Serials", 1));
        }),
        ("did not come", |beside, _| {
            let without = |text: String| {
                text.lines()
                    .filter(|line| !line.starts_with('{'))
                    .map(|l| l.to_owned() + "\n")
                    .collect()
            };
            beside.edit("feed", without);
        }),
        ("chunks of its snapshot are missing", |beside, _| {
            beside.edit("feed", |text| text.lines().next().unwrap().to_owned() + "\n");
        }),
        ("no message of the feed", |beside, _| {
            beside.edit("feed", |text| "x\n".to_owned() + &text)
        }),
        ("has no snapshot", |beside, _| beside.edit("feed", |_| String::new())),
        ("names no feed key", |beside, other| {
            let line = String::from_utf8(snapshot(other, beside.clock.now(), 3)).unwrap();
            beside.edit("feed", |_| line.replace("\n\ndata: ", "\n") + "\n");
        }),
        ("pin", |beside, other| {
            let note = data_encoding::BASE64.encode(&other.trust_note());
            beside.edit("trust", |_| note + "\n");
        }),
    ];
    for (what, spoil) in spoils {
        let beside = Beside::start().await;
        beside.run_once().await;
        spoil(&beside, &other);
        beside.fall_silent();
        let workload = soon(beside.builder().start()).await.unwrap();
        let status = workload.status();
        assert!(!status.ready, "{what}");
        let said = status.keeping_error.unwrap_or_default();
        assert!(said.contains(what) && said.contains("not believed"), "{what}: {said}");
        beside.say(|ca, at| snapshot(ca, at, 4));
        until(|| workload.ready() && workload.status().keeping_error.is_none()).await;
        workload.stop().await;
        let again = beside.start_without_ca(|builder| builder).await;
        assert!(is_revoked(again.endpoint().verification(), 4), "{what}: kept anew");
    }
}

#[tokio::test]
async fn a_link_in_the_place_of_a_file_is_not_followed() {
    let beside = Beside::start().await;
    beside.run_once().await;
    let elsewhere = beside.folder.path().join("elsewhere");
    fs::rename(beside.path("feed"), &elsewhere).unwrap();
    symlink(&elsewhere, beside.path("feed")).unwrap();
    beside.fall_silent();
    let workload = soon(beside.builder().start()).await.unwrap();
    assert!(!workload.ready());
    assert!(workload.status().keeping_error.is_some());
}

/// As a crash leaves it.
#[tokio::test]
async fn a_last_line_without_its_end_is_no_reason_to_forget_the_others() {
    let beside = Beside::start().await;
    beside.run_once().await;
    let feed = beside.kept("feed");
    for length in [feed.len() - 1, feed.len() - 100] {
        fs::write(beside.path("feed"), &feed[..length]).unwrap();
        let workload = beside.start_without_ca(|builder| builder).await;
        assert!((1..=4).all(|number| is_revoked(workload.endpoint().verification(), number)));
        assert_eq!(workload.status().keeping_error, None);
        workload.stop().await;
    }
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_said_and_stops_nothing() {
    let beside = Beside::start().await;
    for name in ["feed", "trust"] {
        // Whoever the tests run as, a folder is in the way.
        let path = format!("{}.{}.new", beside.path(name).display(), std::process::id());
        fs::create_dir(path).unwrap();
    }
    let workload = soon(beside.builder().start()).await.unwrap();
    until(|| workload.status().feed_sequence == 3).await;
    let status = workload.status();
    assert!(status.ready);
    let said = status.keeping_error.unwrap();
    assert!(said.contains("not kept") && said.contains("will know of none"), "{said}");
    assert!(!beside.path("feed").exists());
}

#[tokio::test]
async fn what_is_kept_is_for_its_owner_alone() {
    let beside = Beside::start().await;
    beside.run_once().await;
    for name in ["feed", "trust"] {
        let mode = fs::metadata(beside.path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let left: Vec<_> = fs::read_dir(beside.folder.path()).unwrap().collect();
    assert_eq!(left.len(), 4, "nothing half-written is left: {left:?}");
}

#[tokio::test]
async fn two_who_share_a_folder_do_not_write_into_each_others_lines() {
    let beside = Beside::start().await;
    beside.run_once().await;
    let first = soon(beside.builder().start()).await.unwrap();
    let second = soon(beside.builder().start()).await.unwrap();
    let said = second.status().keeping_error.unwrap();
    assert!(said.contains("another process"), "{said}");
    assert_eq!(first.status().keeping_error, None);
    assert!(first.ready() && second.ready());
}

impl Beside {
    fn edit(&self, name: &str, edit: impl FnOnce(String) -> String) {
        let before = self.kept(name);
        let after = edit(before.clone());
        assert_ne!(after, before);
        fs::write(self.path(name), after).unwrap();
    }
}

//! The way into the transaction: concurrent requests share commits.
//!
//! Whatever waits is taken together, at most 256 members; one request on an idle machine waits for
//! no company. While a commit is on its way to the disk, the next group gathers. (To wait for those
//! that are still signing makes larger groups and fewer of them: measured, it costs a sixth of the
//! rate and saves no CPU.) Commits have a thread of their own, because a store may hold it up until
//! the disk has answered. Where that takes more than seconds, what waits goes on waiting, and whoever asked
//! for it does not (`under_way`).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::clock::Clock;
use crate::error::Error;
use crate::limits::{self, MAX_WAITING, RESERVED};
use crate::sequencer::{Conflict, Member, Outcome};
use crate::store::{Hindrance, Store, StoreError};
use crate::writer::under_way::{HANGS_AFTER, NOT_READY_AFTER, UnderWay};

/// A handle on the queue; its thread ends with the last of them.
#[derive(Debug, Clone)]
pub(crate) struct Queue {
    sender: SyncSender<Waiting>,
    /// Places for what is not urgent.
    others: Arc<Semaphore>,
    failure: Arc<Failure>,
}

/// Why the store did not take what was written last; none where it did.
#[derive(Debug, Default)]
pub(crate) struct Failure {
    written: Mutex<Option<StoreError>>,
    commit: UnderWay,
    probe: UnderWay,
    /// Somebody was told again and again that the state had moved, and it is not known to rest.
    restless: AtomicBool,
    /// The state that the one before was told at: where it moves, others commit.
    restless_at: Mutex<Option<u64>>,
}

impl Failure {
    /// The same, as long as it lasts.
    pub(crate) fn now(&self) -> Option<Error> {
        // Who has the store locked is known before the next write has waited for it.
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let hangs = || {
            let all = [&self.commit, &self.probe];
            let since = all.into_iter().find_map(|write| write.hangs_since(NOT_READY_AFTER));
            since.map(|since| StoreError::Hangs { since })
        };
        let store = written.or_else(hangs).map(Error::from);
        store.or_else(|| self.is_restless().then_some(Error::Restless))
    }

    /// Since when nothing can be committed, in milliseconds since 1970, because a commit does not end.
    pub(crate) fn commit_hangs_since(&self) -> Option<u64> {
        self.commit.hangs_since(HANGS_AFTER)
    }

    /// The probe that has not ended.
    pub(crate) fn probe(&self) -> &UnderWay {
        &self.probe
    }

    /// Somebody was told so at this revocation epoch.
    pub(crate) fn note_restless(&self, epoch: u64) {
        let mut before = self.restless_at.lock().unwrap_or_else(PoisonError::into_inner);
        if before.replace(epoch) == Some(epoch) {
            self.restless.store(true, Ordering::Release);
        }
    }

    pub(crate) fn note_rest(&self) {
        *self.restless_at.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.restless.store(false, Ordering::Release);
    }

    pub(crate) fn is_restless(&self) -> bool {
        self.restless.load(Ordering::Acquire)
    }

    /// Remembers what came of a write, and tells the first failure, and its end. A clock that is wrong
    /// is no failure of the store's.
    pub(crate) fn note<T>(&self, written: &Result<T, StoreError>) {
        let mut failure = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        match written {
            Err(StoreError::ClockBehind { .. } | StoreError::ClockLeapt(_)) => {}
            // A restart or a backup ends that, and what passes is no reason to forget it.
            Err(error)
                if failure.as_ref().is_some_and(|before| gravity(before) > gravity(error)) => {}
            Err(error) => {
                if failure.is_none() {
                    tracing::error!(%error, "nothing is issued: the store takes nothing");
                }
                *failure = Some(error.clone());
            }
            Ok(_) if failure.as_ref().is_some_and(lasts) => {}
            Ok(_) => end(&mut failure),
        }
    }

    /// The same of a probe, which tries every table: it ends what one commit that passed says nothing of.
    pub(crate) fn note_probe(&self, written: &Result<(), StoreError>) {
        match written {
            Err(_) => self.note(written),
            Ok(()) => end(&mut self.written.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// Remembers whether another process has the store locked: that it has not says nothing of what
    /// else may be the matter.
    pub(crate) fn note_lock(&self, taken: &Result<(), StoreError>) {
        let before = self.written.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let was_locked = matches!(before, Some(StoreError::Hindered { by: Hindrance::Locked, .. }));
        if taken.is_err() || was_locked {
            self.note(taken);
        }
    }
}

/// Whether it may be the matter with one table alone, so that commits pass which do not write to it.
fn lasts(failure: &StoreError) -> bool {
    gravity(failure) > 0
}

/// How much it takes to end it: what passes by itself is 0.
fn gravity(failure: &StoreError) -> u8 {
    match failure {
        StoreError::WentBack(_) => 3,
        StoreError::Damaged { .. } => 2,
        StoreError::Inconsistent(_) | StoreError::Versions { .. } => 1,
        _ => 0,
    }
}

fn end(failure: &mut Option<StoreError>) {
    if failure.take().is_some() {
        tracing::info!("the store takes what is written again");
    }
}

struct Waiting {
    member: Member,
    answer: oneshot::Sender<Result<Outcome, StoreError>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Queue {
    /// Starts the queue before a store.
    pub(crate) fn start(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let (sender, waiting) = sync_channel(MAX_WAITING);
        let runtime = Handle::current();
        let failure = Arc::<Failure>::default();
        let noted = Arc::clone(&failure);
        std::thread::Builder::new()
            .name("commits".to_owned())
            .spawn(move || run(&waiting, &*store, &*clock, &runtime, &noted))
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let others = Arc::new(Semaphore::new(MAX_WAITING - RESERVED));
        Ok(Self { sender, others, failure })
    }

    /// Whether the last write failed.
    pub(crate) fn failure(&self) -> &Failure {
        &self.failure
    }

    /// Takes part in the next commit, and returns what became of it. Fails at once while a write hangs,
    /// unless it is to be done as soon as that ends, whoever waits for it.
    pub(crate) async fn submit(&self, member: Member) -> Result<Outcome, Error> {
        let is_urgent = waits_for_a_disk(&member);
        if let Some(since) = self.failure.commit_hangs_since()
            && !is_urgent
        {
            return Err(StoreError::Hangs { since }.into());
        }
        let overloaded = || {
            limits::WAITING_FOR_THE_LOG.reached();
            Error::Overloaded
        };
        let place = match is_urgent {
            true => None,
            false => Some(Arc::clone(&self.others).try_acquire_owned().map_err(|_| overloaded())?),
        };
        let (answer, outcome) = oneshot::channel();
        let waiting = Waiting { member, answer, _place: place };
        self.sender.try_send(waiting).map_err(|_| overloaded())?;
        let lost = || StoreError::Unavailable("the queue before it has ended".to_owned());
        Ok(outcome.await.map_err(|_| lost())??)
    }
}

/// What takes away, and what completes what is logged already.
fn waits_for_a_disk(member: &Member) -> bool {
    member.only_restricts() || matches!(member, Member::Complete(_))
}

fn run(
    waiting: &Receiver<Waiting>,
    store: &dyn Store,
    clock: &dyn Clock,
    runtime: &Handle,
    failure: &Failure,
) {
    while let Some(first) = next(waiting) {
        let group = std::iter::once(first).chain(waiting.try_iter()).take(MAX_GROUP);
        let (members, answers): (Vec<_>, Vec<_>) = group
            .map(|Waiting { member, answer, .. }| {
                let moved = member.moved();
                (member, (answer, moved))
            })
            .unzip();
        metrics::histogram!("countersign_commit_members").record(members.len() as f64);
        // A panic would end this thread, and issuing with it; the transaction is rolled back.
        let commit = || {
            clock.require_steady()?;
            runtime.block_on(store.commit(members, clock.unix_milliseconds()))
        };
        let begun = Instant::now();
        let ends = failure.commit.begin(clock.unix_milliseconds());
        let committed = catch_unwind(AssertUnwindSafe(commit));
        drop(ends);
        metrics::histogram!("countersign_commit_duration_seconds").record(begun.elapsed());
        let panicked = |_| Err(StoreError::Unavailable("a commit panicked".to_owned()));
        let committed = committed.unwrap_or_else(panicked);
        failure.note(&committed);
        match committed {
            Ok(outcomes) => {
                for ((answer, _), outcome) in answers.into_iter().zip(outcomes) {
                    if outcome.conflict() == Some(Conflict::EntryTooLarge) {
                        limits::LOG_ENTRY.reached();
                    }
                    // A caller that went away will ask again, and find what was written.
                    drop(answer.send(Ok(outcome)));
                }
            }
            Err(error) => {
                metrics::counter!("countersign_commits_failed_total").increment(1);
                for (place, (answer, has_moved)) in answers.into_iter().enumerate() {
                    // Nothing is acknowledged by that: it is decided anew, and comes again.
                    let is_moved = matches!(&error, StoreError::Unkept { moved, .. } if moved.contains(&place));
                    let outcome = has_moved.filter(|_| is_moved).ok_or_else(|| error.clone());
                    drop(answer.send(outcome));
                }
            }
        }
    }
}

/// The next that waits; none once all senders are gone. Under load there is one soon: to give way a
/// few times costs less than to sleep and be woken, twice a certificate.
fn next(waiting: &Receiver<Waiting>) -> Option<Waiting> {
    for _ in 0..GIVES_WAY {
        match waiting.try_recv() {
            Ok(first) => return Some(first),
            Err(TryRecvError::Empty) => std::thread::yield_now(),
            Err(TryRecvError::Disconnected) => return None,
        }
    }
    waiting.recv().ok()
}

/// As often as it takes for a worker to have its turn.
const GIVES_WAY: usize = 8;
/// Requests of one transaction at most.
const MAX_GROUP: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_the_matter_with_one_table_is_ended_by_a_probe_alone() {
        let failure = Failure::default();
        for (error, is_ended) in [
            (StoreError::Inconsistent("a row stands there".to_owned()), false),
            (StoreError::Damaged { file: "f".to_owned(), what: "malformed".to_owned() }, false),
            (StoreError::Unavailable("it passes".to_owned()), true),
        ] {
            failure.note::<()>(&Err(error.clone()));
            failure.note(&Ok(()));
            assert_eq!(failure.now().is_none(), is_ended, "{error}");
            failure.note_probe(&Err(error));
            assert!(failure.now().is_some());
            failure.note_probe(&Ok(()));
            assert!(failure.now().is_none());
        }
    }

    #[test]
    fn a_lesser_failure_hides_no_graver_one() {
        let passes = || StoreError::Unavailable("it passes".to_owned());
        let inconsistent = || StoreError::Inconsistent("a row stands there".to_owned());
        let damaged = || StoreError::Damaged { file: "f".to_owned(), what: "malformed".to_owned() };
        let failure = Failure::default();
        let told = |error: StoreError| {
            failure.note::<()>(&Err(error.clone()));
            failure.note_probe(&Err(error.clone()));
            failure.note_lock(&Err(error));
            failure.note(&Ok(()));
            failure.now().unwrap().to_string()
        };
        for (error, is_told) in [
            (inconsistent(), inconsistent()),
            (passes(), inconsistent()),
            (damaged(), damaged()),
            (inconsistent(), damaged()),
            (passes(), damaged()),
        ] {
            assert_eq!(told(error), Error::from(is_told).to_string());
        }
        failure.note_probe(&Ok(()));
        assert!(failure.now().is_none());
    }

    #[test]
    fn what_is_refused_again_and_again_while_nothing_moves_is_a_failure() {
        let failure = Failure::default();
        failure.note_restless(7);
        failure.note_restless(8);
        assert!(failure.now().is_none(), "others commit");
        failure.note_restless(8);
        assert!(matches!(failure.now(), Some(Error::Restless)));
        failure.note_rest();
        assert!(failure.now().is_none());
        failure.note_restless(8);
        assert!(failure.now().is_none(), "once is a race");
    }
}

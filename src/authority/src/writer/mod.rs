//! The way to write to the log: whatever changes something passes here.
//!
//! A member goes into the next commit (`queue`), which compares the state that it was decided under and
//! refuses it where that moved. What was committed is read back before anybody hears of it. Checkpoints are
//! signed here, and shown ones compared (`witness`).

pub(crate) mod asking;
pub(crate) mod checkpoints;
pub(crate) mod once;
pub(crate) mod queue;
pub(crate) mod under_way;
pub(crate) mod witness;

use std::sync::Arc;
use std::time::{Duration, Instant};

use self::asking::{Asking, Once};
use self::checkpoints::Checkpoints;
use self::queue::Queue;
use self::under_way::LeftBehind;
use self::witness::Witnesses;
use crate::checkpoint::origin;
use crate::error::Error;
use crate::event::{EventDraft, FOLDING};
use crate::sequencer::{ActMember, Acted, AllowedUnder, Effect, IdempotencyKey, Standing};
use crate::store::{Probe, StoreError};
use crate::tasks::Tasks;
use crate::view::View;

/// Writes to the log of one trust domain.
pub struct Writer {
    view: Arc<View>,
    queue: Queue,
    checkpoints: Checkpoints,
    checkpoint_turn: tokio::sync::Mutex<()>,
    witnesses: Witnesses,
    pub(crate) tasks: Tasks,
    left_behind: LeftBehind,
}

impl Writer {
    /// Begins to write to what was read; refuses where the newest checkpoint is not of this log.
    pub(crate) async fn start(view: Arc<View>) -> Result<Self, Error> {
        let checkpoints = Checkpoints::default();
        checkpoints.verify_newest(view.store(), &view.in_force().log_keys).await?;
        let queue = Queue::start(Arc::clone(&view.store), Arc::clone(&view.clock))?;
        Ok(Self {
            view,
            queue,
            checkpoints,
            checkpoint_turn: tokio::sync::Mutex::default(),
            witnesses: Witnesses::default(),
            tasks: Tasks::default(),
            left_behind: LeftBehind::default(),
        })
    }

    /// Takes part in the next commit.
    pub(crate) async fn ask<A: Asking>(&self, asks: A) -> Result<A::Answer, Error> {
        let answer = A::answer(self.queue.submit(asks.into_member()).await?);
        let another = || StoreError::Inconsistent("the store answered what was not asked".into());
        Ok(answer.ok_or_else(another)?)
    }

    /// Logs an act with its effect, and catches up before it answers; none where it is to be decided anew,
    /// or was done before.
    pub(crate) async fn act(
        &self,
        act: ActMember,
        named: Option<&IdempotencyKey>,
        answer: String,
    ) -> Result<Option<u64>, Error> {
        let kind = act.event.kind();
        let acted = self.ask(Once { named, answer, asks: act }).await?;
        self.require_done(kind, &acted).await?;
        acted.done().map_err(Error::Conflict)
    }

    /// Logs an act with its effect, and catches up before it answers; none where policy or
    /// revocations moved since it was allowed: then whatever it refers to is looked at anew.
    pub(crate) async fn commit(
        &self,
        allowed_under: AllowedUnder,
        event: EventDraft,
        effect: Effect,
    ) -> Result<Option<u64>, Error> {
        self.commit_once(allowed_under, event, effect, None, String::new()).await
    }

    /// The same, once where the request was named: none, too, where it was done meanwhile.
    pub(crate) async fn commit_once(
        &self,
        allowed_under: AllowedUnder,
        event: EventDraft,
        effect: Effect,
        named: Option<&IdempotencyKey>,
        answer: String,
    ) -> Result<Option<u64>, Error> {
        let kind = event.kind();
        let asks = ActMember { event, effect, allowed_under: Some(allowed_under) };
        let acted = self.ask(Once { named, answer, asks }).await?;
        if acted == Acted::Moved {
            return self.view.refresh_to_decide().await.map(|()| None);
        }
        self.require_done(kind, &acted).await?;
        acted.done().map_err(Error::Conflict)
    }

    /// Whether it still holds, under the head lock: asked before somebody is told that nothing had
    /// to change.
    pub(crate) async fn holds(&self, allowed_under: AllowedUnder) -> Result<bool, Error> {
        self.holds_once(allowed_under, None, String::new()).await
    }

    /// The same; where the request was named, the answer is kept with its name.
    pub(crate) async fn holds_once(
        &self,
        allowed_under: AllowedUnder,
        named: Option<&IdempotencyKey>,
        answer: String,
    ) -> Result<bool, Error> {
        match self.ask(Once { named, answer, asks: allowed_under }).await? {
            Standing::Holds => Ok(true),
            Standing::Moved | Standing::Repeated => self.view.refresh().await.map(|()| false),
            Standing::Refused(conflict) => Err(Error::Conflict(conflict)),
        }
    }

    /// Catches up after a commit that wrote an event of this kind, and refuses to acknowledge what the
    /// log, read back, does not hold, or the fold of it: whatever the store has answered.
    async fn require_done(&self, kind: &str, acted: &Acted) -> Result<(), Error> {
        let size = self.view.follow_log().await?;
        let Acted::Done { log_index } = acted else { return Ok(()) };
        let is_folded = !FOLDING.contains(&kind) || self.view.folded().next_index() > *log_index;
        if size > *log_index && is_folded {
            return Ok(());
        }
        let why = format!(
            "{kind:?} was committed as entry {log_index}, and the log that is read back does not hold \
             it: something in the database undoes what is written"
        );
        Err(StoreError::Inconsistent(why).into())
    }

    /// Somebody has tried as often as is of use: it is looked at whether anything can be committed.
    pub(crate) fn restless(&self) -> Error {
        self.queue.failure().note_restless(self.view.folded().epoch);
        Error::Restless
    }

    /// Whether the store took what was written last, and no write to it hangs; and what is allowed can be
    /// committed.
    pub fn require_commits(&self) -> Result<(), Error> {
        self.queue.failure().now().map_or(Ok(()), Err)
    }

    /// Writes to the store what changes nothing, and remembers what came of it: that there is no room
    /// is found out before somebody needs it, and that there is some again before somebody asks.
    pub async fn probe_store(&self) -> Result<(), Error> {
        let ends = self.queue.failure().probe().begin(self.view.clock.unix_milliseconds());
        let written = self.view.store.probe(Probe::Write).await;
        drop(ends);
        self.queue.failure().note_probe(&written);
        written?;
        if self.queue.failure().is_restless() {
            self.view.refresh().await?;
            // What was folded and the log's head are one state: what is allowed can be committed.
            let revocation_epoch = self.view.folded().epoch;
            let policy_hash = *self.view.policy().set().hash();
            if self.holds(AllowedUnder { policy_hash, revocation_epoch }).await? {
                self.queue.failure().note_rest();
            }
        }
        Ok(())
    }

    /// Finds out whether another process has the store locked, and remembers it.
    pub async fn probe_lock(&self) -> Result<(), Error> {
        let ends = self.queue.failure().probe().begin(self.view.clock.unix_milliseconds());
        let taken = self.view.store.probe(Probe::Lock).await;
        drop(ends);
        self.queue.failure().note_lock(&taken);
        Ok(taken?)
    }

    pub(crate) fn checkpoints(&self) -> &Checkpoints {
        &self.checkpoints
    }

    /// The newest checkpoint, as a signed note.
    pub fn checkpoint(&self) -> Result<Vec<u8>, Error> {
        let none = || Error::NotFound("checkpoint yet".to_owned());
        Ok(self.checkpoints().newest_note().ok_or_else(none)?.1.to_vec())
    }

    /// Signs a checkpoint if the log has grown; returns the size covered. The log's key signs one
    /// history alone: nothing once the log was found to be another.
    pub async fn sign_checkpoint(&self) -> Result<u64, Error> {
        self.view.require_whole_log()?;
        // One at a time, each by the keys that are in force when its turn comes.
        let _turn = self.checkpoint_turn.lock().await;
        // Only what the events lead to that this process has folded.
        self.view.refresh().await?;
        let in_force = self.view.in_force();
        let origin = origin(&self.view.trust_domain);
        let failure = self.queue.failure();
        let size =
            self.checkpoints.sign_head(&*self.view.store, origin, &in_force.log, failure).await?;
        self.keep_checkpoint().await;
        Ok(size)
    }

    /// How many certificates and revocations are on their way into the log and out of it.
    pub fn completing(&self) -> usize {
        self.tasks.open()
    }

    /// Lets what was begun come to its end, for so long at most; says how much has not. To be called once
    /// nobody can ask any more: what was logged and is not signed then never will be.
    pub async fn finish_completions(&self, within: Duration) -> usize {
        let begun = Instant::now();
        // They may begin what is to be completed.
        let left_behind = self.left_behind.ended(within).await;
        self.tasks.ended(within.saturating_sub(begun.elapsed())).await;
        left_behind + self.completing()
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

/// How often a request starts again because policy or revocations moved.
pub(crate) const RESTARTS: usize = 5;

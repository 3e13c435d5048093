//! The newest heads that this process has committed or read: a database that leads to an older one,
//! or to another, was put back.
//!
//! A snapshot is older than the newest head where a commit ended while it was read; it is never older
//! than what was known before it was read. So whoever reads a head takes [`Heads::newest`] first and
//! has what was read judged after. A commit's head is announced before the commit, because others may
//! read it before the thread that committed it has its turn again; where the commit failed it may have
//! been persisted nevertheless, and counts once it was read.
//!
//! A head is given to nobody before it is kept beside the database, too ([`KeptHead`]): whoever reads one
//! that is not keeps it first, and fails where that does ([`StoreError::Unkept`]). So nothing that grants
//! follows from a commit, by whatever way it is heard of, that an older database, put back, would take
//! away in silence. What only restricts does follow from it meanwhile, and where the write fails, more
//! of that is committed; a head that is not kept yet is known all the same, so that this process notices if
//! it is gone.
//!
//! One writes at a time. Where the disk does not answer that one, the others, who have read what it is to
//! keep, wait for a second and fail as if it had refused: what restricts in it is told. Where it is a
//! commit that writes, no other one begins before it ends (`under_way`).
//!
//! What was found to have gone back stays so: what the database is made to say afterwards may have
//! another past.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use super::error::{StoreError, WentBack};
use crate::beside::kept_file::KeptBeside;
use crate::beside::kept_head::{Durable, KeptHead};
use crate::seal::HeadKey;
use crate::sequencer::Head;

/// Those of one store.
#[derive(Debug, Default)]
pub(crate) struct Heads {
    known: Mutex<Known>,
    /// Never taken while the other is held: writing may take its time.
    kept: Mutex<KeptHead>,
    /// Somebody has waited for it in vain, and nobody has had it since: then nobody else waits.
    hangs: AtomicBool,
}

#[derive(Debug, Default)]
struct Known {
    /// Newest last; by their sizes, which grow.
    recent: VecDeque<Arc<Head>>,
    /// What may be committed by now, and how it is to be kept.
    announced: Option<(Arc<Head>, Durable)>,
    /// The same, once it is committed and while it is not kept.
    unkept: Option<(Arc<Head>, Durable)>,
    went_back: Option<Arc<WentBack>>,
}

/// What a head is that was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    /// It is known, and kept.
    Known,
    /// It was known too long ago to say: it is to be read again.
    Passed,
    /// It is larger than this, the newest that is known, to which its log must lead.
    Unknown(Arc<Head>),
    /// This process has committed it: it is given once it is [accepted](Heads::accept).
    Unkept(Durable),
}

impl Heads {
    /// The newest that is known, to be taken before one is read; none before the first. Fails once
    /// the log went back.
    pub(crate) fn newest(&self) -> Result<Option<Arc<Head>>, StoreError> {
        let known = self.known();
        known.require_whole()?;
        Ok(known.recent.back().cloned())
    }

    /// Judges what was read after `before` was the newest.
    pub(crate) fn judge(&self, before: Option<&Head>, read: &Head) -> Result<Judged, StoreError> {
        let mut known = self.known();
        known.require_whole()?;
        let size = read.edge.size();
        if let Some(before) = before.filter(|before| size < before.edge.size()) {
            return Err(known.lose(before, size));
        }
        let committed = known.unkept.as_ref().filter(|(head, _)| is_same(head, read));
        if let Some((_, durable)) = committed {
            return Ok(Judged::Unkept(*durable));
        }
        if let Some(same) = known.recent.iter().rev().find(|head| head.edge.size() == size) {
            let same = Arc::clone(same);
            return if is_same(&same, read) {
                Ok(Judged::Known)
            } else {
                Err(known.lose(&same, size))
            };
        }
        if let Some((_, durable)) = known.announced.as_ref().filter(|(head, _)| is_same(head, read))
        {
            return Ok(Judged::Unkept(*durable));
        }
        match known.recent.back() {
            Some(newest) if newest.edge.size() < size => Ok(Judged::Unknown(Arc::clone(newest))),
            Some(_) => Ok(Judged::Passed),
            None => {
                known.push(Arc::new(read.clone()));
                Ok(Judged::Known)
            }
        }
    }

    /// Another head is the log's newest, to which it leads: it is known, and is to be kept before it is
    /// given to anybody.
    pub(crate) fn accept(
        &self,
        key: &HeadKey,
        head: &Head,
        durable: Durable,
    ) -> Result<(), StoreError> {
        self.known().note_committed(Arc::new(head.clone()), durable);
        self.keep(key, head, durable)?;
        self.known().note_kept(head);
        Ok(())
    }

    /// Keeps a head that is known, where that was lost or is not on the disk.
    pub(crate) fn keep(
        &self,
        key: &HeadKey,
        head: &Head,
        durable: Durable,
    ) -> Result<(), StoreError> {
        match self.kept_soon() {
            Some(mut kept) => {
                let written = kept.write(key, head, durable);
                written.map_err(|unkept| StoreError::Unkept {
                    head: Arc::new(head.clone()),
                    why: unkept.to_string(),
                    moved: Vec::new(),
                })
            }
            None => Err(StoreError::Unkept {
                head: Arc::new(head.clone()),
                why: HANGS.to_owned(),
                moved: Vec::new(),
            }),
        }
    }

    /// The log does not lead from `before` to what was read, of this size.
    pub(crate) fn lose(&self, before: &Head, size: u64) -> StoreError {
        self.known().lose(before, size)
    }

    /// What is about to be committed, and how it is to be kept, whoever does.
    pub(crate) fn announce(&self, head: &Head, durable: Durable) {
        self.known().announced = Some((Arc::new(head.clone()), durable));
    }

    /// Begins anew with what is read next, and keeps nothing until [`begin`](Self::begin).
    #[cfg(any(test, feature = "test-seams"))]
    pub(crate) fn forget(&self) {
        *self.known() = Known::default();
        *self.kept() = KeptHead::default();
    }

    /// Keeps heads in this folder from now on, beginning with this one, whatever was kept there.
    pub(crate) fn begin(
        &self,
        beside: &KeptBeside,
        key: &HeadKey,
        head: &Head,
    ) -> Result<(), StoreError> {
        let begun = KeptHead::begin(beside, key, head);
        *self.kept() = begun.map_err(|unkept| StoreError::Unavailable(unkept.to_string()))?;
        Ok(())
    }

    /// None where whoever writes does not end.
    fn kept_soon(&self) -> Option<MutexGuard<'_, KeptHead>> {
        let begun = Instant::now();
        loop {
            let kept = match self.kept.try_lock() {
                Ok(kept) => Some(kept),
                Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            };
            let has_waited = begun.elapsed() >= WAITS;
            if kept.is_some() || has_waited {
                self.hangs.store(kept.is_none(), Ordering::Release);
                return kept;
            }
            if self.hangs.load(Ordering::Acquire) {
                return None;
            }
            std::thread::sleep(LOOKS_EVERY);
        }
    }

    fn kept(&self) -> MutexGuard<'_, KeptHead> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn require_whole(&self) -> Result<(), StoreError> {
        let went_back = self.went_back.as_ref().map(Arc::clone);
        went_back.map_or(Ok(()), |went_back| Err(StoreError::WentBack(went_back)))
    }

    fn note_committed(&mut self, head: Arc<Head>, durable: Durable) {
        let size = head.edge.size();
        // Whoever has read an older one only now finds it kept: a later commit has seen to that.
        if self.unkept.as_ref().is_none_or(|(unkept, _)| unkept.edge.size() <= size) {
            self.unkept = Some((Arc::clone(&head), durable));
        }
        self.push(head);
    }

    fn note_kept(&mut self, head: &Head) {
        self.unkept.take_if(|(unkept, _)| unkept.edge.size() <= head.edge.size());
    }

    /// A group that appends nothing may move the log's time: the newest of a size counts. Several that
    /// read an unknown one may have it accepted.
    fn push(&mut self, head: Arc<Head>) {
        let size = head.edge.size();
        match self.recent.back().map(|newest| newest.edge.size()) {
            Some(newest) if newest > size => return,
            Some(newest) if newest == size => drop(self.recent.pop_back()),
            _ if self.recent.len() >= KEPT => drop(self.recent.pop_front()),
            _ => {}
        }
        self.recent.push_back(head);
    }

    fn lose(&mut self, before: &Head, size: u64) -> StoreError {
        let had = before.edge.size();
        let why = if size < had {
            format!("the log has {size} entries, and had {had}: an older database was put back")
        } else {
            format!(
                "the log has {size} entries, and its first {had} are not those that it had: an older \
                 database was put back and has grown since"
            )
        };
        let lost = WentBack { why, size: had, root: before.edge.root() };
        let went_back = Arc::clone(self.went_back.get_or_insert_with(|| Arc::new(lost)));
        StoreError::WentBack(went_back)
    }
}

/// Whether two are one state of the log; its time may have gone on.
fn is_same(one: &Head, other: &Head) -> bool {
    let Head { edge, at: _, revocation_epoch, policy_hash, swept, chain } = one;
    *edge == other.edge
        && *revocation_epoch == other.revocation_epoch
        && *policy_hash == other.policy_hash
        && *swept == other.swept
        && *chain == other.chain
}

const HANGS: &str = "the file `head` in the CA's state folder, which has to say what was committed \
    before anybody is told: its disk has not answered for a second";
/// Longer than a disk takes that is merely busy; whoever is revoked is told no later.
const WAITS: Duration = Duration::from_secs(1);
/// A write takes longer.
const LOOKS_EVERY: Duration = Duration::from_millis(2);
/// More than are committed while one is read, even on a busy machine.
const KEPT: usize = 64;

#[cfg(test)]
mod tests {
    use tlog::Hash;

    use super::*;

    fn grown(head: &Head, entry: u8) -> Head {
        let mut next = head.clone();
        next.edge.push(Hash::new([entry; 32]));
        next
    }

    /// Three heads, of which the second is the newest known.
    fn known() -> (Heads, [Head; 3]) {
        let first = grown(&Head::empty(), 1);
        let second = grown(&first, 2);
        let third = grown(&second, 3);
        let heads = Heads::default();
        assert_eq!(heads.judge(None, &first).unwrap(), Judged::Known);
        heads.announce(&second, Durable::No);
        accept(&heads, &second);
        (heads, [first, second, third])
    }

    fn accept(heads: &Heads, head: &Head) {
        heads.accept(&HeadKey::of_secret(1), head, Durable::No).unwrap();
    }

    fn went_back(judged: Result<Judged, StoreError>) -> String {
        match judged {
            Err(StoreError::WentBack(went_back)) => went_back.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_smaller_head_than_was_known_before_it_was_read_went_back_for_good() {
        let (heads, [first, second, _]) = known();
        let before = heads.newest().unwrap();
        let why = went_back(heads.judge(before.as_deref(), &first));
        assert!(why.contains("has 1 entries, and had 2: an older database"), "{why}");
        went_back(heads.judge(before.as_deref(), &second));
        heads.newest().unwrap_err();
    }

    #[test]
    fn an_older_snapshot_is_no_smaller_database() {
        let (heads, [first, second, _]) = known();
        assert_eq!(heads.judge(Some(&first), &first).unwrap(), Judged::Known);
        assert_eq!(heads.judge(Some(&first), &second).unwrap(), Judged::Known);
    }

    #[test]
    fn another_state_of_the_same_size_went_back() {
        let (_, [first, second, _]) = known();
        for other in [
            grown(&first, 9),
            Head { revocation_epoch: 1, ..second.clone() },
            Head { policy_hash: Hash::new([1; 32]), ..second.clone() },
            Head { swept: 1, ..second.clone() },
            Head { chain: Hash::new([1; 32]), ..second.clone() },
        ] {
            let (heads, _) = known();
            let before = heads.newest().unwrap();
            let why = went_back(heads.judge(before.as_deref(), &other));
            assert!(why.contains("are not those that it had"), "{why}");
        }
        let (heads, _) = known();
        let later = Head { at: 7, ..second.clone() };
        assert_eq!(heads.judge(Some(&second), &later).unwrap(), Judged::Known, "time goes on");
    }

    #[test]
    fn what_was_announced_counts_once_it_was_read_and_not_before() {
        let (heads, [_, second, third]) = known();
        heads.announce(&third, Durable::Yes);
        assert_eq!(heads.judge(Some(&second), &second).unwrap(), Judged::Known, "it failed, maybe");
        assert_eq!(
            heads.judge(Some(&second), &third).unwrap(),
            Judged::Unkept(Durable::Yes),
            "it did not"
        );
        accept(&heads, &third);
        assert_eq!(heads.judge(Some(&second), &third).unwrap(), Judged::Known);
        went_back(heads.judge(heads.newest().unwrap().as_deref(), &second));
    }

    #[test]
    fn what_was_committed_and_not_kept_is_known_and_given_to_nobody() {
        let (heads, [_, second, third]) = known();
        let (folder, key) = (tempfile::tempdir().unwrap(), HeadKey::of_secret(1));
        let path = folder.path().join("head");
        heads.begin(&KeptBeside::of(folder.path()), &key, &second).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        for _ in 0..2 {
            match heads.accept(&key, &third, Durable::Yes) {
                Err(StoreError::Unkept { head, .. }) => assert_eq!(*head, third),
                other => panic!("{other:?}"),
            }
            let before = heads.newest().unwrap();
            let judged = heads.judge(before.as_deref(), &third).unwrap();
            assert_eq!((before.as_deref(), judged), (Some(&third), Judged::Unkept(Durable::Yes)));
        }
        // Who read an older one meanwhile changes nothing of that.
        heads.accept(&key, &second, Durable::No).unwrap_err();
        assert_eq!(heads.judge(None, &third).unwrap(), Judged::Unkept(Durable::Yes));
        std::fs::remove_dir(&path).unwrap();
        heads.accept(&key, &third, Durable::Yes).unwrap();
        assert_eq!(heads.judge(None, &third).unwrap(), Judged::Known);
        went_back(heads.judge(heads.newest().unwrap().as_deref(), &second));
    }

    #[test]
    fn nobody_queues_up_behind_a_write_that_does_not_end() {
        let (heads, [_, second, third]) = known();
        heads.announce(&third, Durable::Yes);
        let (heads, writing) = (&heads, heads.kept());
        std::thread::scope(|scope| {
            let (sender, receiver) = std::sync::mpsc::channel();
            let newest = third.clone();
            for _ in 0..100 {
                let (sender, third) = (sender.clone(), newest.clone());
                scope.spawn(move || {
                    sender.send(heads.accept(&HeadKey::of_secret(1), &third, Durable::Yes))
                });
            }
            let next = || receiver.recv_timeout(Duration::from_secs(60)).ok();
            let heard: Vec<_> = (0..100).map_while(|_| next()).collect();
            drop(writing);
            assert_eq!(heard.len(), 100, "they wait for the write");
            for heard in heard {
                match heard {
                    Err(StoreError::Unkept { head, .. }) => assert_eq!(*head, third),
                    other => panic!("{other:?}"),
                }
            }
        });
        assert_eq!(heads.judge(Some(&second), &third).unwrap(), Judged::Unkept(Durable::Yes));
        accept(heads, &third);
        assert_eq!(heads.judge(Some(&second), &third).unwrap(), Judged::Known);
    }

    #[test]
    fn a_larger_head_that_nobody_announced_must_be_led_to() {
        let (heads, [_, second, third]) = known();
        let unknown = heads.judge(Some(&second), &third).unwrap();
        assert_eq!(unknown, Judged::Unknown(Arc::new(second.clone())));
        accept(&heads, &third);
        accept(&heads, &second);
        assert_eq!(heads.newest().unwrap().as_deref(), Some(&third));
    }
}

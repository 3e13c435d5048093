//! What somebody did that has taken effect and stays: for a person to look at once they are believed
//! no more.
//!
//! Acts come from the fold and from the newest log, and hide behind nothing; which tokens became
//! certificates only rows say. An answer names a hundred, so chosen that many of one kind hide none of
//! another, and says how many there are: the list has them all.
//!
//! The list is made once for all its pages. What is logged since stands before its first page, and what
//! it says of the log stays so: a page is right however long ago the list was made, and lacks nothing
//! that the page before had promised.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use api::{ActFilter, ActOnRecord, Page};
use identity::SpiffeId;

use super::inventory::page_of;
use super::{Operations, PAGE, place_after};
use crate::caller::Caller;
use crate::error::Error;
use crate::event::{
    ALLOW, Event, ISSUE, KEY_ACTIVATE, KEY_PREPARE, KEY_RETIRE, OPERATOR_CREATE, POLICY_CHANGE,
    TOKEN_CREATE,
};
use crate::limits;
use crate::policy::Action;
use crate::store::TokenQuery;

/// As much of it as an answer names.
#[derive(Debug, Default)]
pub(super) struct Review {
    /// By kind, what grants most first; the newest of a kind first.
    pub(super) acts: Vec<ActOnRecord>,
    /// How many there are, by kind.
    pub(super) counts: BTreeMap<String, u64>,
    /// How many are not named.
    pub(super) more: u64,
    /// From where on tokens were looked at, where that is not from the beginning.
    pub(super) tokens_from: Option<u64>,
}

/// The list whose pages were asked for last.
#[derive(Debug, Default)]
pub(crate) struct Listed(tokio::sync::Mutex<Option<Listing>>);

/// What somebody did before the log had this many entries, newest first.
#[derive(Debug)]
struct Listing {
    by: SpiffeId,
    size: u64,
    acts: Arc<[ActOnRecord]>,
}

impl Listing {
    /// Whether it says all that this one did before that place.
    fn has(&self, by: &SpiffeId, before: u64) -> bool {
        self.by == *by && before <= self.size
    }
}

impl Operations {
    /// A page of what somebody did that stays, newest first; whoever they are by now.
    pub async fn acts(
        &self,
        caller: &Caller,
        filter: &ActFilter,
    ) -> Result<Page<ActOnRecord>, Error> {
        self.view.authorize(caller, Action::ListInventory, None)?;
        let before = place_after(filter.after.as_deref())?.unwrap_or(u64::MAX);
        let limit = page_of(filter.limit.unwrap_or(100)) as usize;
        let acts = self.listed(&filter.by, before).await?;
        let acts = &acts[acts.partition_point(|act| act.log_index >= before)..];
        let items = acts[..limit.min(acts.len())].to_vec();
        let next = items.last().filter(|_| acts.len() > limit).map(|it| it.log_index.to_string());
        Ok(Page { items, next })
    }

    /// What somebody did before this place, and maybe more. One list is made at a time: each reads the
    /// rows of all tokens.
    async fn listed(&self, by: &SpiffeId, before: u64) -> Result<Arc<[ActOnRecord]>, Error> {
        let mut kept = self.listed.0.lock().await;
        // What the log is now, for whoever begins; later pages are of what it was then.
        let before = before.min(self.view.follow_log().await?);
        if let Some(listing) = kept.as_ref().filter(|listing| listing.has(by, before)) {
            return Ok(Arc::clone(&listing.acts));
        }
        // It is not needed while another takes its place.
        *kept = None;
        let size = self.view.log_size().await?;
        let (acts, _) = self.acts_of(by, usize::MAX).await?;
        let acts: Arc<[ActOnRecord]> = acts.into();
        if acts.len() <= LISTED {
            *kept = Some(Listing { by: by.clone(), size, acts: Arc::clone(&acts) });
        }
        Ok(acts)
    }

    /// What an answer names of it. Whoever was revoked or denied is: where the store does not answer,
    /// what the fold knows has to do, and the diagnostics say so.
    pub(super) async fn review_of(&self, spiffe_id: &SpiffeId) -> Review {
        let read = self.acts_of(spiffe_id, PAGES_OF_TOKENS).await;
        let (acts, tokens_from) = read.unwrap_or_else(|error| {
            tracing::warn!(%error, "the certificates that somebody gave are not listed for review");
            (self.view.folded().acts_of(spiffe_id.as_str()), Some(u64::MAX))
        });
        let able = self.able_among(&acts).await.unwrap_or_default();
        Review { tokens_from, ..chosen(acts, &able) }
    }

    /// All of it, newest first; of used tokens what the newest so many pages hold, and from where on.
    async fn acts_of(
        &self,
        spiffe_id: &SpiffeId,
        pages: usize,
    ) -> Result<(Vec<ActOnRecord>, Option<u64>), Error> {
        let mut acts = self.view.folded().acts_of(spiffe_id.as_str());
        let (used, tokens_from) = self.used_tokens_of(spiffe_id, pages).await?;
        acts.extend(used);
        acts.extend(self.view.issued_for_others(spiffe_id).await?);
        acts.sort_by_key(|act| Reverse(act.log_index));
        Ok((acts, tokens_from))
    }

    /// What was issued for tokens that somebody made. Whom they added an operator stands in the fold
    /// by that already, used or not. Says also from where on it looked, where that is not the beginning:
    /// at so many pages of the newest tokens.
    async fn used_tokens_of(
        &self,
        maker: &SpiffeId,
        pages: usize,
    ) -> Result<(Vec<ActOnRecord>, Option<u64>), Error> {
        let mut query = TokenQuery { before: None, limit: PAGE };
        let mut used = Vec::new();
        for _ in 0..pages {
            let page = self.view.store().tokens(query.clone()).await?;
            for (row, entry) in page.tokens {
                let Some((_, log_index)) = row.used else { continue };
                let event = entry.and_then(|entry| Event::parse(&entry).ok());
                let is_theirs =
                    |event: &Event| event.actor == maker.as_str() && event.kind == TOKEN_CREATE;
                if let Some(event) = event.filter(is_theirs) {
                    let (kind, subject) = (event.kind, row.spiffe_id.to_string());
                    used.push(ActOnRecord { log_index, kind, subject });
                }
            }
            query.before = page.next;
            if page.next.is_none() {
                break;
            }
        }
        Ok((used, query.before))
    }

    /// Which of the operators that were added hold a certificate.
    async fn able_among(&self, acts: &[ActOnRecord]) -> Result<HashSet<String>, Error> {
        let added = acts.iter().filter(|act| act.kind == OPERATOR_CREATE);
        let ids: HashSet<&str> = added.map(|act| act.subject.as_str()).collect();
        let ids: Vec<SpiffeId> =
            ids.into_iter().filter_map(|id| SpiffeId::parse(id).ok()).collect();
        let leaves =
            self.view.leaves_of(&ids, self.view.clock().now().unix_timestamp() - 1).await?;
        let folded = self.view.folded();
        let is_able = |id: &SpiffeId, newest: Option<u64>| {
            newest.is_some_and(|leaf| folded.revoking.last(id).is_none_or(|place| place < leaf))
        };
        let newest = leaves.iter().map(|leaves| leaves.last().map(|leaf| leaf.index));
        let able = ids.iter().zip(newest).filter(|(id, newest)| is_able(id, *newest));
        Ok(able.map(|(id, _)| id.to_string()).collect())
    }
}

/// Names a hundred of these, newest first: some of each kind, then what grants most. Of a kind what
/// comes first is said of somebody for the first time, and of operators those who are able to act.
fn chosen(acts: Vec<ActOnRecord>, able: &HashSet<String>) -> Review {
    let all = acts.len() as u64;
    let mut kinds: BTreeMap<usize, Vec<(bool, bool, ActOnRecord)>> = BTreeMap::new();
    let mut counts = BTreeMap::new();
    let mut said: HashMap<String, HashSet<String>> = HashMap::new();
    for act in acts {
        *counts.entry(act.kind.clone()).or_default() += 1;
        let is_repeated = !said.entry(act.kind.clone()).or_default().insert(act.subject.clone());
        let is_idle = act.kind == OPERATOR_CREATE && !able.contains(&act.subject);
        kinds.entry(rank(&act.kind)).or_default().push((is_repeated, is_idle, act));
    }
    let mut ranked = Vec::new();
    for (rank, mut acts) in kinds {
        acts.sort_by_key(|(is_repeated, is_idle, _)| (*is_repeated, *is_idle));
        let acts = acts.into_iter().enumerate();
        ranked.extend(acts.map(|(position, (.., act))| (position >= OF_EACH_KIND, rank, act)));
    }
    ranked.sort_by_key(|(is_beyond, rank, _)| (*is_beyond, *rank));
    if ranked.len() > ACTS_SHOWN {
        limits::ACTS_FOR_REVIEW.reached();
    }
    ranked.truncate(ACTS_SHOWN);
    ranked.sort_by_key(|(_, rank, act)| (*rank, Reverse(act.log_index)));
    let acts: Vec<ActOnRecord> = ranked.into_iter().map(|(.., act)| act).collect();
    Review { more: all - acts.len() as u64, acts, counts, tokens_from: None }
}

/// What grants most comes first.
fn rank(kind: &str) -> usize {
    RANKS.iter().position(|known| *known == kind).unwrap_or(RANKS.len())
}

const RANKS: &[&str] = &[
    OPERATOR_CREATE,
    TOKEN_CREATE,
    ISSUE,
    POLICY_CHANGE,
    KEY_ACTIVATE,
    KEY_PREPARE,
    KEY_RETIRE,
    ALLOW,
];
/// Acts of the list that is kept for its next pages: some ten megabytes. A longer one is made for each.
const LISTED: usize = 100_000;
const ACTS_SHOWN: usize = limits::ACTS_FOR_REVIEW.most();
/// The newest 5,000 tokens are looked at before an answer: it is to come at once, however many there are.
const PAGES_OF_TOKENS: usize = 10;
/// Of them, as many of each kind as there are, up to this many.
const OF_EACH_KIND: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn acts(kind: &str, from: u64, subjects: impl Iterator<Item = u64>) -> Vec<ActOnRecord> {
        let act = |(place, subject): (usize, u64)| ActOnRecord {
            log_index: from + place as u64,
            kind: kind.to_owned(),
            subject: subject.to_string(),
        };
        let mut acts: Vec<_> = subjects.enumerate().map(act).collect();
        acts.reverse();
        acts
    }

    fn named(review: &Review, kind: &str) -> Vec<String> {
        let of_kind = review.acts.iter().filter(|act| act.kind == kind);
        of_kind.map(|act| act.subject.clone()).collect()
    }

    #[test]
    fn many_of_one_kind_hide_none_of_another_and_all_are_counted() {
        for (many, few) in
            [(POLICY_CHANGE, OPERATOR_CREATE), (OPERATOR_CREATE, POLICY_CHANGE), (ALLOW, "other")]
        {
            let mut all = acts(many, 100, 0..150);
            all.extend(acts(few, 0, 7..8));
            let review = chosen(all, &HashSet::new());
            assert_eq!(named(&review, few), ["7"], "{few} behind 150 of {many}");
            assert_eq!((review.acts.len(), review.more), (100, 51));
            assert_eq!((review.counts[many], review.counts[few]), (150, 1));
        }
    }

    #[test]
    fn who_is_able_to_act_is_named_before_who_never_joined() {
        let all = acts(OPERATOR_CREATE, 0, 0..150);
        let able = HashSet::from(["0".to_owned(), "3".to_owned()]);
        let review = chosen(all, &able);
        let named = named(&review, OPERATOR_CREATE);
        assert!(["0", "3", "149"].iter().all(|it| named.contains(&(*it).to_owned())), "{named:?}");
        assert_eq!(review.more, 50);
    }

    #[test]
    fn whom_it_was_done_to_again_and_again_hides_nobody() {
        let all = acts(TOKEN_CREATE, 0, std::iter::once(7).chain(std::iter::repeat_n(8, 200)));
        let review = chosen(all, &HashSet::new());
        assert!(named(&review, TOKEN_CREATE).contains(&"7".to_owned()));
        assert_eq!((review.counts[TOKEN_CREATE], review.more), (201, 101));
    }

    #[test]
    fn what_is_few_is_named_whole_and_what_grants_most_stands_first() {
        let mut all = acts(ALLOW, 10, 0..2);
        all.extend(acts(OPERATOR_CREATE, 0, 0..2));
        let review = chosen(all, &HashSet::new());
        let places: Vec<u64> = review.acts.iter().map(|act| act.log_index).collect();
        assert_eq!((places, review.more), (vec![1, 0, 11, 10], 0));
    }
}

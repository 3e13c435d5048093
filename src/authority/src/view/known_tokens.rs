//! Which bootstrap tokens were used, and by whom they were made, as the log says: not as rows do,
//! from which whoever writes to the database takes the use of a token back.
//!
//! What this process does itself it knows. What was done before it started it reads from the log, as
//! far back as a token that is shown was made, and proves to be under the head's root: fifteen
//! minutes of log at most, once after a start.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use data_encoding::HEXLOWER;
use tlog::{Hash, leaf_hash};

use crate::checkpoint::edge_at;
use crate::error::Error;
use crate::event::{Event, ISSUE};
use crate::store::{Store, StoreError, newest_head};
use crate::token_kind::{Maker, TokenKind};

/// The tokens that are not forgotten yet.
#[derive(Debug, Default)]
pub(crate) struct KnownTokens {
    known: Mutex<Known>,
    /// One reads the log at a time.
    reading: tokio::sync::Mutex<()>,
    /// One looks for a token without a row at a time.
    looking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    /// By whom tokens were made here, at which place of the log.
    made: HashMap<Hash, Remembered<(u64, Maker)>>,
    /// Which tokens were used, or are being used.
    used: HashMap<Hash, Remembered<Use>>,
    /// From this place of the log on every use is known; none before the first look.
    from: Option<u64>,
    /// How often a use was lost.
    lost: u64,
    /// With fewer than so many, nothing is forgotten.
    forget_from: usize,
}

/// What a token is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// For this request, where that is committed.
    Asked(Hash),
    /// For this request, as its commit said.
    Here(Hash),
    /// As the log says.
    Logged,
}

impl Use {
    fn is_for(self, request: &Hash) -> bool {
        matches!(self, Self::Asked(by) | Self::Here(by) if by == *request)
    }
}

/// Until a time in milliseconds since 1970: no token lives longer.
#[derive(Debug)]
struct Remembered<T> {
    what: T,
    until: u64,
}

/// A token is being used.
#[derive(Debug)]
pub(crate) struct Reserved {
    token: Hash,
    request: Hash,
    until: u64,
}

impl KnownTokens {
    /// A token was made here.
    pub(crate) fn made(&self, token: Hash, made_at: u64, maker: Maker, now: u64) {
        let mut known = self.known();
        known.forget(now);
        known.made.insert(token, Remembered { what: (made_at, maker), until: now + LIFE });
    }

    /// By whom the token was made here, at this place of the log.
    pub(crate) fn maker(&self, token: &Hash, made_at: u64) -> Option<Maker> {
        let known = self.known();
        let (at, maker) = &known.made.get(token)?.what;
        (*at == made_at).then(|| maker.clone())
    }

    /// Whether the token was made here, and lives or did a moment ago. What was made before this process
    /// started is not known.
    pub(crate) fn is_live(&self, token: &Hash, now: u64) -> bool {
        self.known().made.get(token).is_some_and(|made| made.until >= now)
    }

    /// Takes a token for a request, before that is committed; none where another request has it.
    pub(crate) fn reserve(&self, token: Hash, request: Hash, now: u64) -> Option<Reserved> {
        let (mut known, until) = (self.known(), now + LIFE);
        match known.used.get(&token) {
            // Whose use the log tells of, the commit decides: it may be this request's own.
            Some(used) if used.what != Use::Logged && !used.what.is_for(&request) => None,
            Some(_) => Some(Reserved { token, request, until }),
            None => {
                known.forget(now);
                known.used.insert(token, Remembered { what: Use::Asked(request), until });
                Some(Reserved { token, request, until })
            }
        }
    }

    /// Its request was committed.
    pub(crate) fn settle(&self, reserved: &Reserved) {
        let Reserved { token, request, until } = *reserved;
        self.known().used.insert(token, Remembered { what: Use::Here(request), until });
    }

    /// Nothing was made of it. The same request may be on its way once more: it settles what it does.
    pub(crate) fn give_back(&self, reserved: &Reserved) {
        let mut known = self.known();
        let used = known.used.get(&reserved.token);
        if used.is_some_and(|used| used.what == Use::Asked(reserved.request)) {
            known.used.remove(&reserved.token);
        }
    }

    /// Whether something was made of it is unknown: the log is read again.
    pub(crate) fn lose(&self, reserved: &Reserved) {
        self.give_back(reserved);
        let mut known = self.known();
        known.from = None;
        known.lost += 1;
    }

    /// Whether a token was used for another request, whatever its row says. Its uses come after
    /// `made_at`, the place of the event that made it.
    pub(crate) async fn is_used(
        &self,
        store: &dyn Store,
        token: &Hash,
        request: &Hash,
        made_at: u64,
        now: u64,
    ) -> Result<bool, Error> {
        self.read_from(store, made_at, now).await?;
        let used = self.known().used.get(token).map(|used| used.what);
        if used == Some(Use::Logged) {
            tracing::error!("the log says that a token was used, and its row that it was not");
        }
        Ok(used.is_some_and(|used| !used.is_for(request)))
    }

    /// Those among the tokens made from this place of the log on that were used, whatever their rows say.
    pub(crate) async fn used_since(
        &self,
        store: &dyn Store,
        from: u64,
        now: u64,
    ) -> Result<HashSet<Hash>, Error> {
        self.read_from(store, from, now).await?;
        Ok(self.used())
    }

    /// Whether a token made at this place of the log, or after it, was used.
    pub(crate) async fn was_used(
        &self,
        store: &dyn Store,
        token: &Hash,
        from: u64,
        now: u64,
    ) -> Result<bool, Error> {
        self.read_from(store, from, now).await?;
        let known = self.known();
        Ok(known.used.get(token).is_some_and(|used| !matches!(used.what, Use::Asked(_))))
    }

    fn used(&self) -> HashSet<Hash> {
        let known = self.known();
        let used = known.used.iter().filter(|(_, used)| !matches!(used.what, Use::Asked(_)));
        used.map(|(token, _)| *token).collect()
    }

    /// The token with this id that was made from this place of the log on, whatever became of its row.
    pub(crate) async fn logged(
        &self,
        store: &dyn Store,
        id: &str,
        from: u64,
    ) -> Result<Option<LoggedToken>, Error> {
        let _turn = self.looking.lock().await;
        let mut found = None;
        read_events(store, from, |event| {
            if found.is_none() {
                found = LoggedToken::made_by(event, id);
            }
        })
        .await?;
        Ok(found)
    }

    async fn read_from(&self, store: &dyn Store, from: u64, now: u64) -> Result<(), Error> {
        if self.known().reaches(from) {
            return Ok(());
        }
        let _turn = self.reading.lock().await;
        let lost = {
            let known = self.known();
            if known.reaches(from) {
                return Ok(());
            }
            known.lost
        };
        let used = read_uses(store, from).await?;
        let mut known = self.known();
        for token in used {
            // What was used here is known better.
            let remembered = Remembered { what: Use::Logged, until: now + LIFE };
            known.used.entry(token).or_insert(remembered);
        }
        // What was lost meanwhile may stand behind what was read.
        if known.lost == lost {
            known.from = Some(from);
        }
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn reaches(&self, from: u64) -> bool {
        self.from.is_some_and(|known| known <= from)
    }

    fn forget(&mut self, now: u64) {
        if self.made.len() + self.used.len() >= self.forget_from.max(FORGET_FROM) {
            self.made.retain(|_, made| made.until >= now);
            self.used.retain(|_, used| used.until >= now);
            self.forget_from = 2 * (self.made.len() + self.used.len());
        }
    }
}

/// The tokens that were used from this place of the log on.
async fn read_uses(store: &dyn Store, from: u64) -> Result<Vec<Hash>, Error> {
    let mut used = Vec::new();
    read_events(store, from, |event| used.extend(used_token(&event))).await?;
    Ok(used)
}

/// A token as the log alone tells of it.
#[derive(Debug)]
pub(crate) struct LoggedToken {
    pub(crate) hash: Hash,
    pub(crate) spiffe_id: String,
}

impl LoggedToken {
    /// The one with this id, where this event made it.
    pub(crate) fn made_by(event: Event, id: &str) -> Option<Self> {
        let is_it = TokenKind::made_by(&event.kind).is_some() && event.detail["id"] == id;
        let hash = token_hash(&event).filter(|_| is_it)?;
        Some(Self { hash, spiffe_id: event.subject })
    }
}

/// Reads the events from this place of the log on; refused where the entries are not those that lead to
/// the head's root.
async fn read_events(
    store: &dyn Store,
    from: u64,
    mut read: impl FnMut(Event) + Send,
) -> Result<(), Error> {
    let head = newest_head(store).await?;
    let size = head.edge.size();
    let mut edge = edge_at(store, from.min(size)).await?;
    while edge.size() < size {
        let limit = PAGE.min(size - edge.size());
        let entries = store.entries(edge.size(), limit).await?;
        if entries.is_empty() {
            break;
        }
        for entry in entries {
            edge.push(leaf_hash(&entry));
            if let Ok(event) = Event::parse(&entry) {
                read(event);
            }
        }
    }
    if edge.root() == head.edge.root() {
        return Ok(());
    }
    let why = format!("the entries from {from} on are not those that were logged");
    Err(StoreError::Inconsistent(why).into())
}

/// Which token an event says that it used.
pub(crate) fn used_token(event: &Event) -> Option<Hash> {
    token_hash(event).filter(|_| event.kind == ISSUE)
}

fn token_hash(event: &Event) -> Option<Hash> {
    let hex = event.detail["token_sha256"].as_str()?;
    Hash::try_from(&HEXLOWER.decode(hex.as_bytes()).ok()?[..]).ok()
}

/// A token's longest life, in milliseconds, and a minute for its own retry.
pub(crate) const LIFE: u64 = 16 * 60 * 1000;
/// Fewer are kept a little longer.
const FORGET_FROM: usize = 10_000;
/// Entries read at a time.
const PAGE: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_used_once_its_request_was_committed() {
        let known = KnownTokens::default();
        let (token, request, another) = (Hash::of(b"t"), Hash::of(b"r"), Hash::of(b"a"));
        let reserved = known.reserve(token, request, 0).unwrap();
        assert!(known.reserve(token, another, 0).is_none());
        assert!(known.used().is_empty());
        known.give_back(&reserved);
        let reserved = known.reserve(token, another, 0).unwrap();
        known.settle(&reserved);
        assert_eq!(known.used(), HashSet::from([token]));
        assert!(known.reserve(token, request, 0).is_none());
        known.give_back(&known.reserve(token, another, 0).unwrap());
        assert_eq!(known.used(), HashSet::from([token]), "by its own retry");
        // The same request twice at once: what the one gives back, the other has used.
        let token = Hash::of(b"twice");
        let twice = [0, 1].map(|_| known.reserve(token, request, 0).unwrap());
        known.give_back(&twice[0]);
        known.settle(&twice[1]);
        known.give_back(&twice[0]);
        assert!(known.used().contains(&token));
    }
}

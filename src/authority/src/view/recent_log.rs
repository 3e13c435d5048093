//! The log of the last days, read entry by entry and proved to lead to the head's root: whose
//! certificates may still be used, and which CRLs were made.
//!
//! The tables say the same, and whoever writes to the database can hide a row from them: a
//! certificate that nobody finds is not revoked, and an older CRL is served as the newest. So what is
//! not there is decided here. Of each certificate only number and place are kept (`leaves`); its record
//! is sealed.
//!
//! Read from the disk once after a start, then as the log grows: a million certificates a week take
//! some seconds, and 65 MiB.

use std::collections::{HashMap, HashSet, VecDeque};

use api::ActOnRecord;
use identity::{SerialNumber, SpiffeId};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tlog::{CertificateLeaf, Hash, TreeEdge, leaf_hash};

use super::View;
use crate::announced::Announced;
use crate::checkpoint::edge_at;
use crate::error::Error;
use crate::event::{
    CRL, Event, ISSUE, ISSUE_ABANDONED, ISSUE_LOST, RENEW, RENEW_UPGRADE, REVOKE, SEEN, is_of,
};
use crate::fold::LONGEST_VALIDITY_MILLISECONDS;
use crate::proven::proven_entry;
use crate::store::{Record, Store, StoreError, newest_head};
use crate::view::known::records_at;
use crate::view::leaves::{Leaf, Leaves, Logged};
use crate::view::renewals::Told;

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct RecentLog(tokio::sync::Mutex<Option<Read>>);

/// A leaf of which the log does not say what became of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unaccounted {
    pub(crate) index: u64,
    pub(crate) hash: Hash,
}

/// A CRL as it was logged before it was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoggedCrl {
    /// SHA-256 of its bytes to be signed, as hex.
    pub(crate) tbs_sha256: String,
    /// The revocation state that it shows; none where an earlier version logged it.
    pub(crate) revocation_epoch: Option<u64>,
}

/// What became of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was not signed in time, and never will be.
    Abandoned,
    /// It was signed.
    Issued,
    /// It may have been signed, and counts as issued: what was stored of it nobody knows.
    Lost,
    /// The log does not say yet, or it was too long ago.
    Untold,
}

#[derive(Debug)]
struct Read {
    edge: TreeEdge,
    /// The first place that was read and is still held.
    first: u64,
    leaves: Leaves,
    /// Leaves that were never signed, as the log says.
    abandoned: HashSet<u64>,
    /// Leaves of which nobody knows whether they were signed, as the log says.
    lost: HashSet<u64>,
    /// The log's newest time, in milliseconds since 1970.
    at: u64,
    /// Of each leaf before this one the log says what became of it.
    swept: u64,
    /// The others, in order.
    unaccounted: VecDeque<Unaccounted>,
    /// How many were left when those of before were forgotten last.
    kept: usize,
    /// The newest of each issuer, by its id.
    crls: HashMap<String, LoggedCrl>,
    /// What the event before says of the leaf that comes next.
    announced: Option<Announced>,
    /// What the entries say of renewals, until they are proved.
    renewals: Vec<Told>,
}

impl View {
    /// Every certificate of these identities that ends after this second since 1970, in their order;
    /// none is missing, whatever the tables say.
    pub(crate) async fn leaves_of(
        &self,
        identities: &[SpiffeId],
        ends_after: i64,
    ) -> Result<Vec<Vec<Leaf>>, Error> {
        let mut recent = self.recent_log.0.lock().await;
        let read = self.follow(&mut recent).await?;
        let live = |id| {
            let mut leaves = read.leaves.of(id);
            leaves.retain(|leaf| leaf.not_after > ends_after);
            leaves
        };
        Ok(identities.iter().map(live).collect())
    }

    /// The records of an identity's certificates that end after this second, oldest first; none is
    /// missing.
    pub(crate) async fn live_records(
        &self,
        spiffe_id: &SpiffeId,
        ends_after: i64,
    ) -> Result<Vec<Record>, Error> {
        let leaves = self.leaves_of(std::slice::from_ref(spiffe_id), ends_after).await?;
        let leaves: Vec<Leaf> = leaves.into_iter().flatten().collect();
        let mut records = Vec::with_capacity(leaves.len());
        for page in leaves.chunks(PAGE as usize) {
            records.extend(records_at(self.store(), spiffe_id, page).await?);
        }
        Ok(records)
    }

    /// The certificates of the last days that this identity asked for others, oldest first.
    pub(crate) async fn issued_for_others(
        &self,
        spiffe_id: &SpiffeId,
    ) -> Result<Vec<ActOnRecord>, Error> {
        let mut recent = self.recent_log.0.lock().await;
        let read = self.follow(&mut recent).await?;
        let act = |logged: Logged<'_>| ActOnRecord {
            log_index: logged.leaf.index,
            kind: ISSUE.to_owned(),
            subject: logged.spiffe_id.to_string(),
        };
        Ok(read.leaves.asked_for_others(spiffe_id).map(act).collect())
    }

    /// The leaf of a certificate of the last days, by its serial number.
    pub(crate) async fn leaf_of(
        &self,
        serial_number: &SerialNumber,
    ) -> Result<Option<Leaf>, Error> {
        let mut recent = self.recent_log.0.lock().await;
        Ok(self.follow(&mut recent).await?.leaves.by_serial(serial_number))
    }

    /// The places of all certificates that end after this second since 1970, in order.
    pub(crate) async fn leaves_ending_after(&self, ends_after: i64) -> Result<Vec<u64>, Error> {
        let mut recent = self.recent_log.0.lock().await;
        let leaves = self.follow(&mut recent).await?.leaves.iter().map(|logged| logged.leaf);
        Ok(leaves.filter(|leaf| leaf.not_after > ends_after).map(|leaf| leaf.index).collect())
    }

    /// Shows each certificate that was logged before a place, ends after this second since 1970, and
    /// may have been signed, oldest first.
    pub(crate) async fn outstanding(
        &self,
        before: u64,
        ends_after: i64,
        show: impl FnMut(Logged<'_>) + Send,
    ) -> Result<(), Error> {
        let mut recent = self.recent_log.0.lock().await;
        let read = self.follow(&mut recent).await?;
        let is_out = |logged: &Logged<'_>| {
            logged.leaf.not_after > ends_after && !read.abandoned.contains(&logged.leaf.index)
        };
        let logged = read.leaves.iter().take_while(|logged| logged.leaf.index < before);
        logged.filter(is_out).for_each(show);
        Ok(())
    }

    /// What the log says became of a leaf of the last days.
    pub(crate) async fn fate_of(&self, index: u64) -> Result<Fate, Error> {
        let mut recent = self.recent_log.0.lock().await;
        let read = self.follow(&mut recent).await?;
        Ok(match index {
            _ if read.abandoned.contains(&index) => Fate::Abandoned,
            _ if read.lost.contains(&index) => Fate::Lost,
            _ if (read.first..read.swept).contains(&index) => Fate::Issued,
            _ => Fate::Untold,
        })
    }

    /// The first leaves of which the log does not say what became of them, in order.
    pub(crate) async fn unaccounted(&self, most: usize) -> Result<Vec<Unaccounted>, Error> {
        let mut recent = self.recent_log.0.lock().await;
        let read = self.follow(&mut recent).await?;
        Ok(read.unaccounted.iter().take(most).copied().collect())
    }

    /// The newest CRL that was logged for an issuer in the last days: longer than one is used.
    pub(crate) async fn logged_crl(&self, issuer: &str) -> Result<Option<LoggedCrl>, Error> {
        let mut recent = self.recent_log.0.lock().await;
        Ok(self.follow(&mut recent).await?.crls.get(issuer).cloned())
    }

    /// Reads what the log has got since; says up to which place it is read.
    pub(crate) async fn follow_recent_log(&self) -> Result<u64, Error> {
        let mut recent = self.recent_log.0.lock().await;
        Ok(self.follow(&mut recent).await?.edge.size())
    }

    async fn follow<'a>(&self, recent: &'a mut Option<Read>) -> Result<&'a Read, Error> {
        let now = self.clock().unix_milliseconds();
        // It stays in its place: whoever goes away meanwhile leaves what was read until then.
        if recent.is_none() {
            // No certificate from before it lives.
            let head = newest_head(self.store()).await?;
            let since = now.min(head.at).saturating_sub(LONGEST_VALIDITY_MILLISECONDS + KEPT);
            let first = self.place_before(since).await?.min(head.swept);
            *recent = Some(Read::from(self.store(), first).await?);
        }
        if let Some(read) = recent.as_mut()
            && let Err(error) = self.follow_further(read).await
        {
            // What does not lead to the head is read anew. Where the store does not answer, what was
            // read counts once all that follows does: eight days are not read again for each such time.
            if matches!(error, Error::Store(StoreError::Inconsistent(_))) {
                *recent = None;
            }
            return Err(error);
        }
        let read = recent.as_mut().expect("it was put there, and stays where it was followed");
        // By the log's time: what a clock that leaps says to have ended may live.
        if read.forget((now.min(read.at).saturating_sub(KEPT) / 1000) as i64) {
            self.renewals.forget_before(read.first);
        }
        Ok(read)
    }

    /// What it says of renewals is told once it is proved.
    async fn follow_further(&self, read: &mut Read) -> Result<(), Error> {
        read.follow(self.store()).await?;
        self.renewals.hear(std::mem::take(&mut read.renewals));
        Ok(())
    }

    /// A place before all entries since this time, in milliseconds since 1970. The log's times grow with
    /// its places, but where it was set back.
    pub(crate) async fn place_before(&self, since: u64) -> Result<u64, Error> {
        if self.folded().reset_from() > since {
            return Ok(0);
        }
        let (mut low, mut high) = (0, newest_head(self.store()).await?.edge.size());
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let entry = self.store().entries(middle, 1).await?.pop();
            match entry.and_then(|entry| time_of(&entry)) {
                Some(at) if at < since => low = middle,
                _ => high = middle,
            }
        }
        let entry = proven_entry(self.store(), low).await?;
        let is_before = entry.and_then(|entry| time_of(&entry)).is_some_and(|at| at < since);
        Ok(if is_before { low } else { 0 })
    }
}

impl Read {
    async fn from(store: &dyn Store, first: u64) -> Result<Self, Error> {
        Ok(Self {
            edge: edge_at(store, first).await?,
            first,
            leaves: Leaves::default(),
            abandoned: HashSet::new(),
            lost: HashSet::new(),
            at: 0,
            swept: 0,
            unaccounted: VecDeque::new(),
            kept: 0,
            crls: HashMap::new(),
            announced: None,
            renewals: Vec::new(),
        })
    }

    async fn follow(&mut self, store: &dyn Store) -> Result<(), Error> {
        let head = newest_head(store).await?;
        let size = head.edge.size();
        while self.edge.size() < size {
            let limit = PAGE.min(size - self.edge.size());
            let entries = store.entries(self.edge.size(), limit).await?;
            if entries.is_empty() {
                break;
            }
            for entry in &entries {
                self.entry(entry, head.swept);
            }
        }
        if self.edge == head.edge {
            (self.swept, self.at) = (head.swept, head.at);
            while self.unaccounted.pop_front_if(|leaf| leaf.index < head.swept).is_some() {}
            return Ok(());
        }
        let why = format!("the log's newest entries, up to {size}, are not those that were logged");
        Err(StoreError::Inconsistent(why).into())
    }

    fn entry(&mut self, entry: &[u8], swept: u64) {
        let index = self.edge.size();
        let hash = leaf_hash(entry);
        self.edge.push(hash);
        let announced = self.announced.take();
        if entry.first() != Some(&b'{') {
            if index >= swept {
                self.unaccounted.push_back(Unaccounted { index, hash });
            }
            if let Some(Announced { actor, subject, detail }) = announced {
                // What ended before all that was read renews no more.
                let renews = detail.renews.and_then(|renews| self.leaves.by_serial(&renews));
                let told = renews.map(|of| Told::Renewed { of: of.index, by: index });
                self.renewals.extend(told);
                let leaf = Leaf { index, not_after: detail.not_after };
                let serial_number = &detail.serial_number;
                let logged = Logged { spiffe_id: &subject, serial_number, leaf };
                // The CA itself asks for operators at `init`, and is no identity.
                self.leaves.add(logged, actor.parse().ok().as_ref());
            }
        } else if is_of(entry, ISSUE) || is_of(entry, RENEW) {
            self.announced = Announced::read(entry);
        } else if is_of(entry, SEEN)
            && let Ok(event) = Event::parse(entry)
        {
            self.renewals.push(Told::Shown(places(&event.detail["indexes"])));
        } else if is_of(entry, REVOKE)
            && let Ok(event) = Event::parse(entry)
        {
            let serial_number =
                event.detail["serial_number"].as_str().and_then(|it| it.parse().ok());
            let leaf = serial_number.and_then(|it| self.leaves.by_serial(&it));
            self.renewals.extend(leaf.map(|leaf| Told::Revoked(leaf.index)));
        } else if is_of(entry, RENEW_UPGRADE)
            && let Ok(event) = Event::parse(entry)
        {
            for pair in event.detail["renewed"].as_array().into_iter().flatten() {
                if let [of, by] = places(pair)[..] {
                    self.renewals.push(Told::Renewed { of, by });
                }
            }
            self.renewals.push(Told::Claimed(places(&event.detail["shown"])));
            self.renewals.push(Told::Closed(places(&event.detail["closed"])));
        } else if is_of(entry, ISSUE_ABANDONED)
            && let Ok(event) = Event::parse(entry)
        {
            self.abandoned.extend(event.detail["index"].as_u64());
        } else if is_of(entry, ISSUE_LOST)
            && let Ok(event) = Event::parse(entry)
        {
            self.lost.extend(event.detail["index"].as_u64());
        } else if is_of(entry, CRL)
            && let Ok(event) = Event::parse(entry)
        {
            let crl = LoggedCrl {
                tbs_sha256: event.detail["tbs_sha256"].as_str().unwrap_or_default().to_owned(),
                revocation_epoch: event.detail["revocation_epoch"].as_u64(),
            };
            self.crls.insert(event.subject, crl);
        }
    }

    /// Forgets what ended before this second, once it may be half of what is kept; says whether it did.
    fn forget(&mut self, before: i64) -> bool {
        if self.leaves.len() < 2 * self.kept + FORGET_FROM {
            return false;
        }
        self.leaves.forget(before);
        let first = self.leaves.iter().next().map(|logged| logged.leaf.index);
        self.first = first.unwrap_or_else(|| self.edge.size());
        self.abandoned.retain(|index| *index >= self.first);
        self.lost.retain(|index| *index >= self.first);
        self.kept = self.leaves.len();
        true
    }
}

fn places(list: &Value) -> Vec<u64> {
    list.as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
}

fn time_of(entry: &[u8]) -> Option<u64> {
    if let Ok(leaf) = CertificateLeaf::parse(entry) {
        return Some(leaf.timestamp);
    }
    let at = OffsetDateTime::parse(&Event::parse(entry).ok()?.at, &Rfc3339).ok()?;
    u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok()
}

/// The hex of a hash, as events name issuers and contents.
pub(crate) fn hex(bytes: &[u8]) -> String {
    format!("{:?}", Hash::of(bytes))
}

/// Entries and records read at a time.
const PAGE: u64 = 1_000;
/// How long what has ended is still asked for, in milliseconds: it stands on CRLs for a day.
const KEPT: u64 = 24 * 3600 * 1000;
/// Fewer are kept longer.
const FORGET_FROM: usize = 10_000;

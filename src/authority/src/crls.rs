//! CRLs: logged, then signed, then stored, then served. One is made when it is asked for and the
//! newest is older than the revocation state, or past half of its life: by a task of the engine, to its
//! end, so that whoever goes away meanwhile has logged one that is stored. Beyond half a million entries none
//! is made: our own verifiers go by the feed, and whoever reads CRLs is told that there is none, from
//! memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::KeyPurpose;
use bytes::Bytes;
use identity::{SerialNumber, SpiffeId};
use issuance::{RevocationList, RevokedCertificate, prepare_crl};
use time::Duration;
use tlog::Hash;

use crate::certificate::issuer::{Issuer, issuer_id};
use crate::certificate::to_be_signed::LoggedCrl;
use crate::error::Error;
use crate::event::{self, Act, EventDraft};
use crate::fold::revoking::Place;
use crate::sequencer::{ActMember, CrlRow, Effect};
use crate::store::{RecordKey, StoreError};
use crate::tasks::finish;
use crate::view::View;
use crate::view::in_force::InForce;
use crate::view::known::records_at;
use crate::view::recent_log::hex;
use crate::writer::Writer;

/// Makes CRLs, and serves them.
#[derive(Debug)]
pub struct Crls {
    view: Arc<View>,
    writer: Arc<Writer>,
    lists: Lists,
}

/// The newest CRL of each issuer that was asked for. Anybody may ask, and one may have megabytes: each is
/// read or made by one, and shared by all who ask.
#[derive(Debug)]
struct Lists {
    most: AtomicU32,
    /// Whoever has it reads or makes one; it goes with the task that does.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Those that were logged, and are not stored: at which epoch, and when, in milliseconds since 1970.
    logged: Mutex<HashMap<Hash, (u64, u64)>>,
    /// Those that would be too long: at which epoch, and when that was found, in the same way.
    too_long: Mutex<HashMap<Hash, (u64, u64)>>,
    newest: Mutex<HashMap<Hash, Held>>,
}

#[derive(Debug)]
struct Held {
    der: Bytes,
    revocation_epoch: u64,
    next_update: i64,
    /// Its issuer signs no other.
    is_last: bool,
}

impl Default for Lists {
    fn default() -> Self {
        let (logged, too_long, newest) = Default::default();
        Self { most: AtomicU32::new(CRL_LIMIT), turn: Arc::default(), logged, too_long, newest }
    }
}

impl Lists {
    fn newest(&self) -> MutexGuard<'_, HashMap<Hash, Held>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn logged(&self) -> MutexGuard<'_, HashMap<Hash, (u64, u64)>> {
        self.logged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Anybody may ask, and each that is made writes to the log: one that was logged and could not be
    /// signed or stored is not logged again at once.
    fn require_pause(&self, issuer: &Hash, revocation_epoch: u64, now: u64) -> Result<(), Error> {
        let is_recent = |(epoch, at): &(u64, u64)| {
            *epoch == revocation_epoch && now.abs_diff(*at) < PAUSE_MILLISECONDS
        };
        if !self.logged().get(issuer).is_some_and(is_recent) {
            return Ok(());
        }
        let why = "a CRL was logged a moment ago, and could not be signed or stored: another is \
                   tried within seconds";
        Err(StoreError::Unavailable(why.to_owned()).into())
    }

    fn require_listable(&self, count: usize) -> Result<(), Error> {
        let most = self.most.load(Ordering::Relaxed);
        require_listable(count, most)
    }

    /// Anybody may ask, and to find out that a list is too long takes seconds: it is found again where
    /// more is revoked, or some may have expired.
    fn require_not_too_long(&self, issuer: &Hash, epoch: u64, now: u64) -> Result<(), Error> {
        let is_so = |(found_at, at): &(u64, u64)| {
            *found_at == epoch && now.abs_diff(*at) < TOO_LONG_MILLISECONDS
        };
        match self.too_long().get(issuer).is_some_and(is_so) {
            true => Err(Error::CrlTooLong { most: self.most.load(Ordering::Relaxed) }),
            false => Ok(()),
        }
    }

    fn too_long(&self) -> MutexGuard<'_, HashMap<Hash, (u64, u64)>> {
        self.too_long.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self, crl: CrlRow, is_last: bool) -> Bytes {
        let CrlRow { issuer_key_hash, der, revocation_epoch, next_update, .. } = crl;
        let der = Bytes::from(der);
        let held = Held { der: der.clone(), revocation_epoch, next_update, is_last };
        self.newest().insert(issuer_key_hash, held);
        der
    }
}

impl Crls {
    pub(crate) fn new(view: Arc<View>, writer: Arc<Writer>) -> Self {
        Self { view, writer, lists: Lists::default() }
    }

    /// Makes no CRL with more entries than this.
    #[cfg(any(test, feature = "test-seams"))]
    pub fn limit_crls(&self, most: u32) {
        self.lists.most.store(most, Ordering::Relaxed);
    }

    /// The issuer whose id this is, or as much of one as lists show.
    pub fn issuer_named(&self, beginning: &str) -> Result<String, Error> {
        let in_force = self.view.in_force();
        let named = in_force.ledger.issuer_named(beginning);
        let none = || Error::NotFound(format!("issuer {beginning}"));
        Ok(issuer_id(&named.ok_or_else(none)?.id))
    }

    /// The CRL of an issuer, by the hex SHA-256 of its public key: never older than the last
    /// revocation. A retired issuer's is the last that it signed.
    pub async fn crl(self: &Arc<Self>, issuer: &str) -> Result<Bytes, Error> {
        let none = || Error::NotFound(format!("issuer {issuer}"));
        let in_force = self.view.in_force();
        let key = in_force.ledger.by_id(issuer).filter(|key| key.purpose == KeyPurpose::Issuer);
        let key_hash = key.ok_or_else(none)?.id;
        if let Some(held) = self.held_crl(&key_hash)? {
            return Ok(held);
        }
        // One reads or makes it; whoever waits then finds it in memory.
        let turn = Arc::clone(&self.lists.turn).lock_owned().await;
        if let Some(held) = self.held_crl(&key_hash)? {
            return Ok(held);
        }
        let room = Arc::clone(self);
        finish(async move {
            let _turn = turn;
            room.newest_crl(&in_force, key_hash).await
        })
        .await?
    }

    async fn newest_crl(&self, in_force: &InForce, key_hash: Hash) -> Result<Bytes, Error> {
        let none = || Error::NotFound(format!("issuer {}", issuer_id(&key_hash)));
        let stored = self.stored_crl(in_force, key_hash).await?;
        if in_force.issuer_of(&key_hash).is_none() {
            return Ok(self.lists.hold(stored.ok_or_else(none)?, true));
        }
        if let Some(fresh) =
            stored.filter(|crl| self.is_fresh(crl.revocation_epoch, crl.next_update))
        {
            return Ok(self.lists.hold(fresh, false));
        }
        let (_, in_force) = self.view.state().await?;
        if let Err(absent) = in_force.require_key(KeyPurpose::Issuer)
            && *in_force.issuer.certificate().key_hash() == key_hash
        {
            return self.last_crl(&in_force, key_hash).await?.ok_or_else(|| absent.into());
        }
        // None where it was retired meanwhile.
        self.make_crl(in_force.issuer_of(&key_hash).ok_or_else(none)?).await
    }

    /// The CRL of each issuer whose certificates a peer may show, the active one's first: of those that
    /// take over next, too, so that nobody meets a certificate before its issuer's list.
    pub async fn crls(self: &Arc<Self>) -> Result<Vec<Bytes>, Error> {
        let mut ids: Vec<String> = {
            let in_force = self.view.in_force();
            in_force.issuers().map(|issuer| issuer_id(issuer.key_hash())).collect()
        };
        ids[1..].sort_unstable();
        let mut crls = Vec::with_capacity(ids.len());
        for id in ids {
            match self.crl(&id).await {
                // It was retired meanwhile.
                Err(Error::NotFound(_)) => {}
                crl => crls.push(crl?),
            }
        }
        Ok(crls)
    }

    /// The last that was signed, until it expires: where nothing newer can be signed, those who have
    /// none yet are better served by it than by none.
    async fn last_crl(&self, in_force: &InForce, key_hash: Hash) -> Result<Option<Bytes>, Error> {
        let now = self.view.clock().now().unix_timestamp();
        let last = self.stored_crl(in_force, key_hash).await?;
        Ok(last.filter(|crl| crl.next_update > now).map(|crl| crl.der.into()))
    }

    /// The CRL that was stored, if its issuer signed it and no other was logged since. What it shows is
    /// what its event says and what stands in it: its row says nothing that counts.
    async fn stored_crl(
        &self,
        in_force: &InForce,
        key_hash: Hash,
    ) -> Result<Option<CrlRow>, Error> {
        let Some(stored) = self.view.store().crl(key_hash).await? else { return Ok(None) };
        let logged = self.view.logged_crl(&issuer_id(&key_hash)).await?;
        let issuer = in_force.certificate(&key_hash);
        let Some(signed) = issuer.and_then(|issuer| issuance::verify_crl(&stored.der, issuer))
        else {
            tracing::error!("a stored CRL is not signed by its issuer: it counts for nothing");
            return Ok(None);
        };
        // One that was logged too long ago to be found has expired long ago, too.
        if logged.as_ref().is_some_and(|logged| logged.tbs_sha256 != hex(&signed.tbs)) {
            tracing::error!(
                "a stored CRL is not the newest that was logged: it counts for nothing"
            );
            return Ok(None);
        }
        let revocation_epoch = logged.and_then(|logged| logged.revocation_epoch);
        Ok(Some(CrlRow {
            revocation_epoch: revocation_epoch.unwrap_or_default(),
            next_update: signed.next_update,
            ..stored
        }))
    }

    /// What memory says: a list, that there is none, or nothing.
    fn held_crl(&self, key_hash: &Hash) -> Result<Option<Bytes>, Error> {
        let is_good =
            |held: &&Held| held.is_last || self.is_fresh(held.revocation_epoch, held.next_update);
        if let Some(held) = self.lists.newest().get(key_hash).filter(is_good) {
            return Ok(Some(held.der.clone()));
        }
        let (epoch, now) = (self.view.folded().epoch, self.view.clock().unix_milliseconds());
        self.lists.require_not_too_long(key_hash, epoch, now).map(|()| None)
    }

    fn is_fresh(&self, revocation_epoch: u64, next_update: i64) -> bool {
        let half_life = (self.view.clock().now() + HALF_LIFE).unix_timestamp();
        revocation_epoch >= self.view.folded().epoch && next_update > half_life
    }

    async fn make_crl(&self, issuer: &Issuer) -> Result<Bytes, Error> {
        let issuer_key_hash = *issuer.certificate().key_hash();
        // The epoch is read first: what is revoked later makes this list old, not wrong.
        let revocation_epoch = self.view.folded().epoch;
        let asked_at = self.view.clock().unix_milliseconds();
        self.lists.require_pause(&issuer_key_hash, revocation_epoch, asked_at)?;
        let revoked = self.revoked_certificates(issuer_key_hash).await;
        if matches!(revoked, Err(Error::CrlTooLong { .. })) {
            self.lists.too_long().insert(issuer_key_hash, (revocation_epoch, asked_at));
        }
        let revoked = revoked?;
        // A place that the log has reached: each list's event stands behind it, so the next number is
        // greater (RFC 5280 §5.2.3), whatever any row says.
        let number = self.view.store().head().await?.edge.size();
        let this_update = self.view.clock().now();
        let (entries, certificate) = (revoked.len(), issuer.shared_certificate());
        // Megabytes of DER, built and linted: nobody else's request waits for them.
        let prepare = move || {
            let list = RevocationList {
                crl_number: number,
                this_update: this_update - Duration::seconds(60),
                next_update: this_update + LIFE,
                revoked: &revoked,
            };
            prepare_crl(&list, &certificate)
        };
        let prepared = tokio::task::spawn_blocking(prepare).await;
        let tbs = prepared.expect("to write a CRL does not panic")?;
        let now = self.view.clock().unix_milliseconds();
        self.lists.logged().insert(issuer_key_hash, (revocation_epoch, now));
        let list = self.log_crl(issuer_key_hash, number, revocation_epoch, entries, tbs).await?;
        let der = issuer.sign_crl(list).await?;
        let crl = CrlRow {
            issuer_key_hash,
            number,
            der,
            revocation_epoch,
            next_update: (this_update + LIFE).unix_timestamp(),
        };
        self.writer.ask(crl.clone()).await?;
        self.lists.logged().remove(&issuer_key_hash);
        Ok(self.lists.hold(crl, false))
    }

    async fn log_crl(
        &self,
        issuer_key_hash: Hash,
        number: u64,
        revocation_epoch: u64,
        entries: usize,
        tbs: Vec<u8>,
    ) -> Result<LoggedCrl, Error> {
        let detail = serde_json::json!({
            "entries": entries,
            "number": number,
            "revocation_epoch": revocation_epoch,
            "tbs_sha256": format!("{:?}", Hash::of(&tbs)),
        });
        let by = Act { actor: "authority", request_id: "" };
        let event = EventDraft::new(event::CRL, &by, &issuer_id(&issuer_key_hash), &detail);
        let effect = Effect::NumberCrl { issuer_key_hash, number };
        let act = ActMember { event, effect, allowed_under: None };
        let logged = self.writer.act(act, None, String::new()).await?;
        let none = || StoreError::Inconsistent("nothing came of a CRL's event".to_owned());
        let log_index = logged.ok_or_else(none)?;
        LoggedCrl::at(self.view.store(), log_index, tbs).await
    }

    /// Every certificate that is revoked, until a day after it expired: whoever's clock is behind still
    /// finds it, and each stands on a list of after its expiry (RFC 5280 §3.3). One entry a certificate,
    /// whatever revoked it (§5.3); the first revocation counts.
    ///
    /// What revokes, when and why is the fold of the log's events; which certificates an identity has,
    /// the log's leaves say. Rows only tell the rest of a certificate, and are sealed.
    async fn revoked_certificates(&self, issuer: Hash) -> Result<Vec<RevokedCertificate>, Error> {
        let ends_after = (self.view.clock().now() - KEPT).unix_timestamp();
        let mut revoked = BTreeMap::new();
        self.revoked_by_number(issuer, ends_after, &mut revoked).await?;
        self.revoked_by_identity(issuer, ends_after, &mut revoked).await?;
        let count = revoked.len();
        metrics::gauge!(ENTRIES).set(count as f64);
        self.lists.require_listable(count)?;
        let most = self.lists.most.load(Ordering::Relaxed);
        if count > most as usize / 4 {
            tracing::error!(count, most, "the CRL is long: none is made beyond its limit");
        }
        let entry = |(serial_number, place): (SerialNumber, Place)| RevokedCertificate {
            serial_number,
            revoked_at: place.at,
            reason: place.reason,
        };
        Ok(revoked.into_iter().map(entry).collect())
    }

    async fn revoked_by_number(
        &self,
        issuer: Hash,
        ends_after: i64,
        revoked: &mut Revoked,
    ) -> Result<(), Error> {
        let serials: Vec<(SerialNumber, Place)> = {
            let folded = self.view.folded();
            folded.revoking.serials().map(|(serial, place)| (*serial, place)).collect()
        };
        for page in serials.chunks(PAGE) {
            let keys = page.iter().map(|(serial, _)| RecordKey::SerialNumber(*serial)).collect();
            let records = self.view.store().records_of(keys).await?;
            for ((serial_number, place), record) in page.iter().zip(records) {
                // One whose record somebody has taken away stands on every list.
                let is_listed = record.is_none_or(|record| {
                    record.issuer_key_hash == issuer && record.not_after > ends_after
                });
                if is_listed {
                    note(revoked, *serial_number, *place);
                }
            }
            self.lists.require_listable(revoked.len())?;
        }
        Ok(())
    }

    async fn revoked_by_identity(
        &self,
        issuer: Hash,
        ends_after: i64,
        revoked: &mut Revoked,
    ) -> Result<(), Error> {
        let identities: Vec<(SpiffeId, Vec<Place>)> = {
            let folded = self.view.folded();
            let places = folded.revoking.identities();
            places.map(|(id, places)| (id.clone(), places.to_vec())).collect()
        };
        let ids: Vec<SpiffeId> = identities.iter().map(|(id, _)| id.clone()).collect();
        let leaves = self.view.leaves_of(&ids, ends_after).await?;
        for ((id, places), mut leaves) in identities.into_iter().zip(leaves) {
            let newest = places.last().map_or(0, |place| place.log_index);
            leaves.retain(|leaf| leaf.index < newest);
            for page in leaves.chunks(PAGE) {
                for record in records_at(self.view.store(), &id, page).await? {
                    let mut places = places.iter();
                    let first = places.find(|place| place.log_index > record.leaf_index);
                    if let Some(place) = first.filter(|_| record.issuer_key_hash == issuer) {
                        note(revoked, record.serial_number, *place);
                    }
                }
                self.lists.require_listable(revoked.len())?;
            }
        }
        Ok(())
    }
}

/// What a CRL lists, by serial number.
type Revoked = BTreeMap<SerialNumber, Place>;

/// What revoked it first stays.
fn note(revoked: &mut Revoked, serial_number: SerialNumber, place: Place) {
    let noted = revoked.entry(serial_number).or_insert(place);
    if place.log_index < noted.log_index {
        *noted = place;
    }
}

fn require_listable(count: usize, most: u32) -> Result<(), Error> {
    match count > most as usize {
        true => Err(Error::CrlTooLong { most }),
        false => Ok(()),
    }
}

/// How long a CRL may be used.
const LIFE: Duration = Duration::hours(24);
const HALF_LIFE: Duration = Duration::hours(12);
/// Entries of a CRL, at most: some 26 MB, more than those who read CRLs take.
pub const CRL_LIMIT: u32 = 500_000;
/// How long an expired certificate stays on it: as in the feed.
const KEPT: Duration = Duration::days(1);
const ENTRIES: &str = "countersign_crl_entries";
/// Between two that are logged at one epoch.
const PAUSE_MILLISECONDS: u64 = 5_000;
/// For so long a list is taken for too long still: what has expired meanwhile may have made it shorter.
const TOO_LONG_MILLISECONDS: u64 = 5 * 60_000;
/// Records read at a time.
const PAGE: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crl_beyond_its_limit_is_not_made_and_that_is_said() {
        require_listable(500_000, CRL_LIMIT).unwrap();
        let refused = require_listable(500_001, CRL_LIMIT).unwrap_err().to_string();
        assert!(refused.contains("500000") && refused.contains("follow the feed"), "{refused}");
    }
}

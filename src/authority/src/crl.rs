//! CRLs: logged, then signed, then stored, then served. One is made when it is asked for and the
//! newest is older than the revocation state, or past half of its life. Beyond half a million entries none
//! is made: our own verifiers go by the feed, and whoever reads CRLs is told that there is none.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use api::KeyPurpose;
use bytes::Bytes;
use issuance::{RevocationList, RevocationReason, RevokedCertificate, prepare_crl};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error as ValueError;
use time::Duration;
use tlog::Hash;

use crate::authority::{Authority, issuer_id, unexpected};
use crate::clock::from_milliseconds;
use crate::error::Error;
use crate::event::{self, Act, EventDraft};
use crate::issuer::Issuer;
use crate::operations::LONGEST_VALIDITY_MILLISECONDS;
use crate::sequencer::{ActMember, CrlRow, Effect, Member, Outcome};
use crate::store::{RevokedQuery, RevokedRecord};

/// The newest CRL of each issuer that was asked for. Anybody may ask, and one may have megabytes: each is
/// read or made by one, and shared by all who ask.
#[derive(Debug, Default)]
pub(crate) struct Crls {
    turn: tokio::sync::Mutex<()>,
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

impl Crls {
    fn newest(&self) -> MutexGuard<'_, HashMap<Hash, Held>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self, crl: CrlRow, is_last: bool) -> Bytes {
        let CrlRow { issuer_key_hash, der, revocation_epoch, next_update, .. } = crl;
        let der = Bytes::from(der);
        let held = Held { der: der.clone(), revocation_epoch, next_update, is_last };
        self.newest().insert(issuer_key_hash, held);
        der
    }
}

impl Authority {
    /// The issuer whose id this is, or as much of one as lists show.
    pub fn issuer_named(&self, beginning: &str) -> Result<String, Error> {
        let in_force = self.in_force();
        let named = in_force.ledger.issuer_named(beginning);
        let none = || Error::NotFound(format!("issuer {beginning}"));
        Ok(issuer_id(&named.ok_or_else(none)?.id))
    }

    /// The CRL of an issuer, by the hex SHA-256 of its public key: never older than the last
    /// revocation. A retired issuer's is the last that it signed.
    pub async fn crl(&self, issuer: &str) -> Result<Bytes, Error> {
        let none = || Error::NotFound(format!("issuer {issuer}"));
        let in_force = self.in_force();
        let key = in_force.ledger.by_id(issuer).filter(|key| key.purpose == KeyPurpose::Issuer);
        let key_hash = key.ok_or_else(none)?.id;
        if let Some(held) = self.held_crl(&key_hash) {
            return Ok(held);
        }
        // One reads or makes it; whoever waits then finds it in memory.
        let _turn = self.crls.turn.lock().await;
        if let Some(held) = self.held_crl(&key_hash) {
            return Ok(held);
        }
        let stored = self.store().crl(key_hash).await?;
        if in_force.issuer_of(&key_hash).is_none() {
            return Ok(self.crls.hold(stored.ok_or_else(none)?, true));
        }
        if let Some(fresh) =
            stored.filter(|crl| self.is_fresh(crl.revocation_epoch, crl.next_update))
        {
            return Ok(self.crls.hold(fresh, false));
        }
        let (_, in_force) = self.state().await?;
        if let Err(absent) = in_force.require_key(KeyPurpose::Issuer)
            && *in_force.issuer.certificate().key_hash() == key_hash
        {
            return self.last_crl(key_hash).await?.ok_or_else(|| absent.into());
        }
        // None where it was retired meanwhile.
        self.make_crl(in_force.issuer_of(&key_hash).ok_or_else(none)?).await
    }

    /// The CRL of each issuer whose certificates a peer may show, the active one's first: of those that
    /// take over next, too, so that nobody meets a certificate before its issuer's list.
    pub async fn crls(&self) -> Result<Vec<Bytes>, Error> {
        let mut ids: Vec<String> = {
            let in_force = self.in_force();
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
    async fn last_crl(&self, key_hash: Hash) -> Result<Option<Bytes>, Error> {
        let now = self.clock().now().unix_timestamp();
        let last = self.store().crl(key_hash).await?;
        Ok(last.filter(|crl| crl.next_update > now).map(|crl| crl.der.into()))
    }

    fn held_crl(&self, key_hash: &Hash) -> Option<Bytes> {
        let newest = self.crls.newest();
        let held = newest.get(key_hash)?;
        (held.is_last || self.is_fresh(held.revocation_epoch, held.next_update))
            .then(|| held.der.clone())
    }

    fn is_fresh(&self, revocation_epoch: u64, next_update: i64) -> bool {
        let half_life = (self.clock().now() + HALF_LIFE).unix_timestamp();
        revocation_epoch >= self.folded().epoch && next_update > half_life
    }

    async fn make_crl(&self, issuer: &Issuer) -> Result<Bytes, Error> {
        let issuer_key_hash = *issuer.certificate().key_hash();
        // The epoch is read first: what is revoked later makes this list old, not wrong.
        let revocation_epoch = self.folded().epoch;
        let revoked = self.revoked_certificates(issuer_key_hash).await?;
        let number = self.store().crl_number(issuer_key_hash).await? + 1;
        let this_update = self.clock().now();
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
        self.log_crl(issuer_key_hash, number, entries, &tbs).await?;
        let der = issuer.sign_crl(&tbs).await?;
        let crl = CrlRow {
            issuer_key_hash,
            number,
            der,
            revocation_epoch,
            next_update: (this_update + LIFE).unix_timestamp(),
        };
        match self.submit(Member::Crl(crl.clone())).await? {
            Outcome::Stored => Ok(self.crls.hold(crl, false)),
            other => Err(unexpected(&other)),
        }
    }

    async fn log_crl(
        &self,
        issuer_key_hash: Hash,
        number: u64,
        entries: usize,
        tbs: &[u8],
    ) -> Result<(), Error> {
        let detail = serde_json::json!({
            "entries": entries,
            "number": number,
            "tbs_sha256": format!("{:?}", Hash::of(tbs)),
        });
        let by = Act { actor: "authority", request_id: "" };
        let event = EventDraft::new(event::CRL, &by, &issuer_id(&issuer_key_hash), &detail);
        let effect = Effect::NumberCrl { issuer_key_hash, number };
        let act = ActMember { event, effect, allowed_under: None };
        let outcome = self.submit(Member::Act(Box::new(act))).await?;
        self.require_done(event::CRL, &outcome).await?;
        match outcome {
            Outcome::Done { .. } => Ok(()),
            Outcome::Refused(conflict) => Err(Error::Conflict(conflict)),
            other => Err(unexpected(&other)),
        }
    }

    /// Every certificate that is revoked, until a day after it expired: whoever's clock is behind still
    /// finds it, and each stands on a list of after its expiry (RFC 5280 §3.3). One entry a certificate,
    /// whatever revoked it (§5.3); the first revocation counts.
    async fn revoked_certificates(&self, issuer: Hash) -> Result<Vec<RevokedCertificate>, Error> {
        let now = self.clock().unix_milliseconds();
        let query = RevokedQuery {
            issuer_key_hash: issuer,
            ends_after: (from_milliseconds(now) - KEPT).unix_timestamp(),
            since: now
                .saturating_sub(LONGEST_VALIDITY_MILLISECONDS + KEPT.whole_milliseconds() as u64),
            limit: CRL_LIMIT + 1,
        };
        let revoked = self.store().revoked_records(query).await?;
        let count = revoked.len();
        metrics::gauge!(ENTRIES).set(count as f64);
        if count > CRL_LIMIT as usize {
            return Err(Error::CrlTooLong { most: CRL_LIMIT });
        }
        if count > CRL_LIMIT as usize / 4 {
            tracing::error!(
                count,
                most = CRL_LIMIT,
                "the CRL is long: none is made beyond its limit"
            );
        }
        Ok(revoked.iter().map(entry).collect())
    }
}

fn entry(revoked: &RevokedRecord) -> RevokedCertificate {
    let reason: Result<RevocationReason, ValueError> =
        RevocationReason::deserialize(revoked.reason.as_str().into_deserializer());
    RevokedCertificate {
        serial_number: revoked.serial_number,
        revoked_at: from_milliseconds(revoked.at),
        reason: reason.unwrap_or(RevocationReason::Unspecified),
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

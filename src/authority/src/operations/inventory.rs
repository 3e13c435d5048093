//! Certificates as they are kept: one, a page, and when each is to be renewed.

use api::{CertificateFilter, CertificateRecord, CertificateState, Page, RenewalWindow, RevokedBy};
use identity::{SerialNumber, SpiffeId};

use super::{Operations, PAGE, place_after};
use crate::caller::Caller;
use crate::error::Error;
use crate::event::Event;
use crate::fold::LONGEST_VALIDITY_MILLISECONDS;
use crate::fold::revoking::revoked_by;
use crate::limits;
use crate::policy::Action;
use crate::present::{self, Origin};
use crate::proven::proven_entry;
use crate::store::{Record, RecordQuery, StoreError};
use crate::view::known::{Known, logged_end};
use crate::view::recent_log::Fate;

impl Operations {
    /// One certificate's record, with who revoked it or denies its identity; for others than its
    /// owner and operators it does not exist.
    pub async fn certificate(
        &self,
        caller: &Caller,
        serial_number: &SerialNumber,
    ) -> Result<CertificateRecord, Error> {
        let known = self.readable(caller, serial_number).await?;
        let revoked = self.revocation_of(known.record()).await?;
        let chain = self.chain_of(known.record()).await?;
        // What is stored is not shown where it is not the leaf's certificate, or not the one that left.
        let is_whole = chain.is_some() || known.record().certificate.is_none();
        let shown = self.show(known).await?;
        let row_lost = shown.row_lost || !is_whole;
        let denial = self.view.folded().revoking.denial(&shown.spiffe_id);
        Ok(CertificateRecord { chain, row_lost, revoked, denial, ..shown })
    }

    /// The certificate that is stored, with its issuer's, as PEM.
    async fn chain_of(&self, record: &Record) -> Result<Option<String>, Error> {
        let Some(stored) = &record.certificate else { return Ok(None) };
        let leaving = self.view.leaving(record.leaf_index, stored, &record.issuer_key_hash).await?;
        let in_force = self.view.in_force();
        let issuer_pem = in_force.issuer_pem(&record.issuer_key_hash);
        Ok(leaving.map(|certificate| present::chain(certificate, issuer_pem)))
    }

    /// What revoked a certificate first.
    pub(super) async fn revocation_of(&self, record: &Record) -> Result<Option<RevokedBy>, Error> {
        // What a row says of identity, place and end decides whether it is revoked.
        let not_after = present::seconds(logged_end(self.view.store(), record).await?);
        let Record { spiffe_id, serial_number, leaf_index, .. } = record;
        let place =
            self.view.folded().revoking.first(spiffe_id, serial_number, *leaf_index, not_after);
        match place {
            Some(place) => Ok(Some(self.revoked_at(place).await?)),
            None => Ok(None),
        }
    }

    /// What the event at this place says, which the fold has seen revoke something.
    pub(super) async fn revoked_at(&self, log_index: u64) -> Result<RevokedBy, StoreError> {
        let entry = proven_entry(self.view.store(), log_index).await?;
        let event = entry.and_then(|entry| Event::parse(&entry).ok());
        event.and_then(|event| revoked_by(log_index, event)).ok_or_else(|| {
            StoreError::Inconsistent(format!("entry {log_index} revoked something, and is gone"))
        })
    }

    /// When a certificate is to be renewed; fails where its record is lost, because it cannot be.
    pub async fn renewal(
        &self,
        caller: &Caller,
        serial_number: &SerialNumber,
    ) -> Result<RenewalWindow, Error> {
        let record = self.readable(caller, serial_number).await?.recorded()?;
        if let Some(window) = self.hastened().window(&record.spiffe_id, record.leaf_index) {
            return Ok(window);
        }
        let (not_before, not_after) =
            (present::seconds(record.not_before), present::seconds(record.not_after));
        Ok(present::renewal_window(not_before, not_after))
    }

    /// Brings the renewal of an identity's certificates issued so far forward: workloads learn of
    /// it when they report next. Forgotten when the CA starts anew.
    pub async fn hasten_renewal(
        &self,
        spiffe_id: &SpiffeId,
        window: RenewalWindow,
    ) -> Result<(), Error> {
        let before = self.view.store().head().await?.edge.size();
        self.hastened().insert(spiffe_id.clone(), before, window);
        Ok(())
    }

    /// A page of certificates, newest first.
    pub async fn certificates(
        &self,
        caller: &Caller,
        filter: &CertificateFilter,
    ) -> Result<Page<CertificateRecord>, Error> {
        self.view.authorize(caller, Action::ListInventory, None)?;
        let limit = page_of(filter.limit.unwrap_or(100));
        let mut query = self.record_query(filter)?;
        let horizon = filter.expiring.map(|within| {
            self.view.clock().now().unix_timestamp().saturating_add_unsigned(within.0.as_secs())
        });
        let mut items = Vec::new();
        loop {
            let (page, last_page) = self.page(&query).await?;
            for known in page {
                let record = known.record();
                query.before = Some(record.leaf_index);
                let matches = filter.id.as_ref().is_none_or(|glob| {
                    matches_glob(glob.as_bytes(), record.spiffe_id.as_str().as_bytes())
                });
                if !matches || horizon.is_some_and(|horizon| record.not_after > horizon) {
                    continue;
                }
                let shown = self.show(known).await?;
                let revoked = shown.state == CertificateState::Revoked;
                if filter.revoked && !revoked || filter.expiring.is_some() && revoked {
                    continue;
                }
                items.push(shown);
                if items.len() == limit as usize {
                    let next = query.before.map(|before| before.to_string());
                    return Ok(Page { items, next });
                }
            }
            if last_page {
                return Ok(Page { items, next: None });
            }
        }
    }

    /// A page of certificates, newest first, and whether it is the last: those of the records, and
    /// those that the log alone knows, once that was noticed.
    async fn page(&self, query: &RecordQuery) -> Result<(Vec<Known>, bool), Error> {
        let records = self.view.store().records(query.clone()).await?;
        let is_last = records.len() < query.limit as usize;
        let first = records.last().filter(|_| !is_last).map_or(0, |record| record.leaf_index);
        let mut page: Vec<Known> = records.into_iter().map(Known::Recorded).collect();
        for place in self.lost_rows.between(first, query.before.unwrap_or(u64::MAX)) {
            let known = self.view.known_at(place).await?;
            if let Known::Logged(record) = &known
                && query.takes(record)
            {
                page.push(known);
            }
        }
        page.sort_by_key(|known| std::cmp::Reverse(known.record().leaf_index));
        Ok((page, is_last))
    }

    async fn readable(
        &self,
        caller: &Caller,
        serial_number: &SerialNumber,
    ) -> Result<Known, Error> {
        self.view.authenticated(caller)?;
        let none = || Error::NotFound(format!("certificate {serial_number}"));
        let known = self.view.known(serial_number).await?.ok_or_else(none)?;
        match self.view.authorize(caller, Action::ReadInventory, Some(&known.record().spiffe_id)) {
            Err(Error::Denied(_)) => Err(none()),
            other => other.map(|_| known),
        }
    }

    async fn show(&self, known: Known) -> Result<CertificateRecord, Error> {
        let leaf_index = known.record().leaf_index;
        let is_kept = known.record().certificate.is_some();
        let fate = if is_kept { Fate::Issued } else { self.view.fate_of(leaf_index).await? };
        let (record, origin, is_issued) = match known {
            Known::Recorded(record) => {
                let origin = Origin::of_record(&record)?;
                (record, origin, matches!(fate, Fate::Issued | Fate::Lost))
            }
            // Whether it was signed the log may not say any more.
            Known::Logged(record) => {
                let origin = Origin::of_event(self.view.issue_event(leaf_index).await?);
                (record, origin, fate != Fate::Abandoned)
            }
        };
        let state = match is_issued {
            true => self.state_of(&record),
            false => CertificateState::NeverIssued,
        };
        let row_lost = is_issued && record.certificate.is_none();
        Ok(CertificateRecord { row_lost, ..present::record(record, origin, state) })
    }

    /// What can be done with a certificate that was issued.
    fn state_of(&self, record: &Record) -> CertificateState {
        let Record { spiffe_id, serial_number, leaf_index, not_after, .. } = record;
        let has_ended = *not_after < self.view.clock().now().unix_timestamp();
        let folded = self.view.folded();
        // What has ended is revoked by what came before that alone.
        let first = || {
            let ended = present::seconds(*not_after);
            folded.revoking.first(spiffe_id, serial_number, *leaf_index, ended)
        };
        let checked = folded.revocations.check(spiffe_id, serial_number, Some(*leaf_index));
        match checked.is_err() && (!has_ended || first().is_some()) {
            true => CertificateState::Revoked,
            false if has_ended => CertificateState::Expired,
            false => CertificateState::Valid,
        }
    }

    fn record_query(&self, filter: &CertificateFilter) -> Result<RecordQuery, Error> {
        let now = self.view.clock().now();
        let live_only = filter.revoked || filter.expiring.is_some();
        Ok(RecordQuery {
            // An ID without a wildcard has an index.
            spiffe_id: filter.id.as_deref().and_then(|id| SpiffeId::parse(id).ok()),
            before: place_after(filter.after.as_deref())?,
            ends_after: live_only.then(|| now.unix_timestamp() - 1),
            // Nothing issued longer ago than the longest validity can still be valid.
            issued_since: live_only.then(|| {
                self.view.clock().unix_milliseconds().saturating_sub(LONGEST_VALIDITY_MILLISECONDS)
            }),
            limit: PAGE,
        })
    }
}

/// `*` stands for any run of characters. Time grows with the product of the lengths at most.
fn matches_glob(glob: &[u8], text: &[u8]) -> bool {
    let (mut g, mut t) = (0, 0);
    let mut retry = None;
    while t < text.len() {
        match glob.get(g) {
            Some(b'*') => {
                retry = Some((g, t));
                g += 1;
            }
            Some(byte) if *byte == text[t] => {
                g += 1;
                t += 1;
            }
            _ => match retry {
                Some((star, from)) => {
                    g = star + 1;
                    t = from + 1;
                    retry = Some((star, t));
                }
                None => return false,
            },
        }
    }
    glob[g..].iter().all(|byte| *byte == b'*')
}

/// How much one page has where so much is asked.
pub(super) fn page_of(asked: u32) -> u32 {
    if asked as usize > MAX_PAGE {
        limits::PAGE.reached();
    }
    asked.clamp(1, MAX_PAGE as u32)
}

pub(super) const MAX_PAGE: usize = limits::PAGE.most();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_runs_of_characters() {
        for (glob, text, expected) in [
            ("*", "", true),
            ("spiffe://a/*", "spiffe://a/b/c", true),
            ("*b*", "abc", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcd", false),
            ("", "a", false),
            ("ab", "ab", true),
        ] {
            assert_eq!(matches_glob(glob.as_bytes(), text.as_bytes()), expected, "{glob} {text}");
        }
    }

    #[test]
    fn a_hostile_glob_ends_soon() {
        let glob = "*a".repeat(40);
        assert!(!matches_glob(glob.as_bytes(), "a".repeat(39).as_bytes()));
    }
}

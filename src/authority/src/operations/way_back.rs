//! The way back: the CA itself and the last operator able to act are not revoked by a slip.
//!
//! It is decided from the state that the commit compares: two operators who deny each other at once
//! do not both succeed. Certificates that are issued meanwhile only add to those who can act.

use std::collections::BTreeSet;

use api::Override;
use identity::SpiffeId;
use time::OffsetDateTime;

use super::PAGE;
use crate::authority::Authority;
use crate::error::Error;
use crate::policy::{Action, ActivePolicy, Principal, Query};
use crate::present::seconds;
use crate::sequencer::RevocationTarget;
use crate::store::{Record, RecordQuery};

impl Authority {
    /// Refuses what would leave nobody to undo it, unless it is named.
    pub(super) async fn require_way_back(
        &self,
        loss: &RevocationTarget,
        spiffe_id: &SpiffeId,
        named: Option<Override>,
    ) -> Result<(), Error> {
        if named == Some(Override::LockOut) {
            return Ok(());
        }
        if *spiffe_id == SpiffeId::authority(self.trust_domain()) {
            return Err(Error::LocksOut(format!("{spiffe_id} is the CA itself")));
        }
        if spiffe_id.operator_name().is_none() || self.somebody_acts(Some(loss)).await? {
            return Ok(());
        }
        // Where nobody could act before, nothing is lost.
        if self.somebody_acts(None).await? {
            return Err(Error::LocksOut(format!("{spiffe_id} is the last operator able to act")));
        }
        Ok(())
    }

    /// Whether an operator is left who may change the policy set, and so everything: known, not
    /// denied, and with a certificate that is good.
    async fn somebody_acts(&self, loss: Option<&RevocationTarget>) -> Result<bool, Error> {
        let policy = self.policy();
        for operator in operators(&policy, self.trust_domain()) {
            let is_lost = loss.is_some_and(
                |loss| matches!(loss, RevocationTarget::Identity(lost) if *lost == operator),
            );
            let may_act = !is_lost && administers(&policy, &operator);
            if may_act && self.holds_certificate(&operator, loss).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// From when to when each operator who may act still can: by the certificate of theirs that ends
    /// last.
    pub async fn lives_of_operators(&self) -> Result<Vec<(OffsetDateTime, OffsetDateTime)>, Error> {
        let policy = self.policy();
        let mut lives = Vec::new();
        let may_act = operators(&policy, self.trust_domain());
        for operator in may_act.iter().filter(|operator| administers(&policy, operator)) {
            let mut query = self.unexpired(operator);
            let mut last: Option<Record> = None;
            loop {
                let page = self.store().records(query.clone()).await?;
                query.before = page.last().map(|last| last.leaf_index);
                let is_last_page = page.len() < PAGE as usize;
                let good = page.into_iter().filter(|record| self.is_good(record));
                last = last.into_iter().chain(good).max_by_key(|record| record.not_after);
                if is_last_page {
                    break;
                }
            }
            lives.extend(last.map(|it| (seconds(it.not_before), seconds(it.not_after))));
        }
        Ok(lives)
    }

    fn unexpired(&self, spiffe_id: &SpiffeId) -> RecordQuery {
        RecordQuery {
            spiffe_id: Some(spiffe_id.clone()),
            ends_after: Some(self.clock().now().unix_timestamp()),
            limit: PAGE,
            ..RecordQuery::default()
        }
    }

    /// Whether it was issued, and nobody revoked it.
    fn is_good(&self, record: &Record) -> bool {
        let Record { spiffe_id, serial_number, leaf_index, .. } = record;
        let revocations = &self.folded().revocations;
        record.certificate.is_some()
            && revocations.check(spiffe_id, serial_number, Some(*leaf_index)).is_ok()
    }

    /// Whether an identity has a certificate that is good, but for what is lost.
    async fn holds_certificate(
        &self,
        spiffe_id: &SpiffeId,
        loss: Option<&RevocationTarget>,
    ) -> Result<bool, Error> {
        let is_lost = |record: &Record| {
            loss.is_some_and(|loss| {
                matches!(loss, RevocationTarget::Serial(lost) if *lost == record.serial_number)
            })
        };
        let mut query = self.unexpired(spiffe_id);
        loop {
            let page = self.store().records(query.clone()).await?;
            if page.iter().any(|record| !is_lost(record) && self.is_good(record)) {
                return Ok(true);
            }
            match page.last() {
                Some(last) if page.len() == PAGE as usize => query.before = Some(last.leaf_index),
                _ => return Ok(false),
            }
        }
    }

    /// Of the certificates of an identity that are good, the one that ends last: until then it can
    /// act, whatever shorter one was issued since.
    pub(super) async fn longest_certificate(
        &self,
        spiffe_id: &SpiffeId,
    ) -> Result<Option<Record>, Error> {
        let mut longest: Option<Record> = None;
        let mut query = self.unexpired(spiffe_id);
        loop {
            let page = self.store().records(query.clone()).await?;
            let last = page.last().map(|last| last.leaf_index);
            let is_whole = page.len() == PAGE as usize;
            for record in page.into_iter().filter(|record| self.is_good(record)) {
                if longest.as_ref().is_none_or(|longest| longest.not_after < record.not_after) {
                    longest = Some(record);
                }
            }
            match last {
                Some(last) if is_whole => query.before = Some(last),
                _ => return Ok(longest),
            }
        }
    }
}

/// Whether a policy set lets an operator change it again, and so everything.
pub(super) fn administers(policy: &ActivePolicy, operator: &SpiffeId) -> bool {
    let principal = Principal::of(operator);
    policy.decide(&Query { principal, action: Action::ChangePolicy, resource: None }).allowed
}

/// Those that the log made, and those that the table lists.
pub(super) fn operators(
    policy: &ActivePolicy,
    domain: &identity::TrustDomain,
) -> BTreeSet<SpiffeId> {
    let made = policy.operators().iter().map(|name| SpiffeId::operator(domain, name));
    let listed = policy.set().workloads().operators();
    let listed = listed.filter(|it| it.starts_with('/')).map(|path| SpiffeId::new(domain, path));
    made.chain(listed).filter_map(Result::ok).collect()
}

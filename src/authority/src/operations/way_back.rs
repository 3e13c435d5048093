//! The way back: the CA itself and the last operator able to act are not revoked by a slip.
//!
//! It is decided from the state that the commit compares: two operators who deny each other at once
//! do not both succeed. Certificates that are issued meanwhile only add to those who can act.

use std::collections::BTreeSet;

use api::Override;
use identity::SpiffeId;

use super::PAGE;
use crate::authority::Authority;
use crate::error::Error;
use crate::policy::{Action, ActivePolicy, Principal, Query};
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

    async fn holds_certificate(
        &self,
        spiffe_id: &SpiffeId,
        loss: Option<&RevocationTarget>,
    ) -> Result<bool, Error> {
        Ok(self.last_certificate(spiffe_id, loss).await?.is_some())
    }

    /// The newest certificate of an identity that is good, but for what is lost.
    pub(super) async fn last_certificate(
        &self,
        spiffe_id: &SpiffeId,
        loss: Option<&RevocationTarget>,
    ) -> Result<Option<Record>, Error> {
        let now = self.clock().now().unix_timestamp();
        let is_good = |record: &Record| {
            let is_lost = loss.is_some_and(|loss| {
                matches!(loss, RevocationTarget::Serial(lost) if *lost == record.serial_number)
            });
            let (serial_number, place) = (&record.serial_number, Some(record.leaf_index));
            let stands = self.folded().revocations.check(spiffe_id, serial_number, place);
            !is_lost && record.certificate.is_some() && stands.is_ok()
        };
        let mut query = RecordQuery {
            spiffe_id: Some(spiffe_id.clone()),
            ends_after: Some(now),
            limit: PAGE,
            ..RecordQuery::default()
        };
        loop {
            let page = self.store().records(query.clone()).await?;
            if let Some(good) = page.iter().find(|record| is_good(record)) {
                return Ok(Some(good.clone()));
            }
            match page.last() {
                Some(last) if page.len() == PAGE as usize => query.before = Some(last.leaf_index),
                _ => return Ok(None),
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

//! The way back: the CA itself and the last operator able to act are not revoked by a slip.
//!
//! It is decided from the state that the commit compares: two operators who deny each other at once
//! do not both succeed. Certificates that are issued meanwhile only add to those who can act.

use std::collections::BTreeSet;

use api::Override;
use identity::SpiffeId;
use time::OffsetDateTime;

use super::Operations;
use crate::error::Error;
use crate::policy::{ActivePolicy, able};
use crate::present::seconds;
use crate::sequencer::RevocationTarget;
use crate::store::Record;

impl Operations {
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
        if *spiffe_id == SpiffeId::authority(self.view.trust_domain()) {
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

    /// Whether an operator is left who may see and replace the policy set, and so everything: known, not
    /// denied, and with a certificate that is good.
    async fn somebody_acts(&self, loss: Option<&RevocationTarget>) -> Result<bool, Error> {
        let policy = self.view.policy();
        let operators = operators(&policy, self.view.trust_domain());
        let is_able = able(&policy, &operators);
        for operator in &operators {
            let is_lost = loss.is_some_and(
                |loss| matches!(loss, RevocationTarget::Identity(lost) if lost == operator),
            );
            let may_act = !is_lost && is_able(operator);
            if may_act && self.holds_certificate(operator, loss).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// From when to when each operator who may act still can: by the certificate of theirs that ends
    /// last.
    pub async fn lives_of_operators(&self) -> Result<Vec<(OffsetDateTime, OffsetDateTime)>, Error> {
        let policy = self.view.policy();
        let mut lives = Vec::new();
        let operators = operators(&policy, self.view.trust_domain());
        let is_able = able(&policy, &operators);
        for operator in operators.iter().filter(|operator| is_able(operator)) {
            let last = self.longest_certificate(operator).await?;
            lives.extend(last.map(|it| (seconds(it.not_before), seconds(it.not_after))));
        }
        Ok(lives)
    }

    /// Whether it was issued, and nobody revoked it.
    fn is_good(&self, record: &Record) -> bool {
        record.certificate.is_some() && self.stands(record)
    }

    fn stands(&self, record: &Record) -> bool {
        let Record { spiffe_id, serial_number, leaf_index, .. } = record;
        self.view.folded().revocations.check(spiffe_id, serial_number, Some(*leaf_index)).is_ok()
    }

    /// What is logged may have been signed, whatever a row says: it counts for what there is to lose,
    /// and not for what is left.
    async fn holds_certificate(
        &self,
        spiffe_id: &SpiffeId,
        loss: Option<&RevocationTarget>,
    ) -> Result<bool, Error> {
        if loss.is_some() {
            return Ok(self.last_certificate(spiffe_id, loss).await?.is_some());
        }
        let records =
            self.view.live_records(spiffe_id, self.view.clock().now().unix_timestamp()).await?;
        Ok(records.iter().any(|record| self.stands(record)))
    }

    /// The newest certificate of an identity that is good, but for what is lost.
    async fn last_certificate(
        &self,
        spiffe_id: &SpiffeId,
        loss: Option<&RevocationTarget>,
    ) -> Result<Option<Record>, Error> {
        let is_lost = |record: &Record| {
            loss.is_some_and(|loss| {
                matches!(loss, RevocationTarget::Serial(lost) if *lost == record.serial_number)
            })
        };
        let records =
            self.view.live_records(spiffe_id, self.view.clock().now().unix_timestamp()).await?;
        let mut good = records.into_iter().rev();
        Ok(good.find(|record| !is_lost(record) && self.is_good(record)))
    }

    /// Of the certificates of an identity that are good, the one that ends last: until then it can
    /// act, whatever shorter one was issued since.
    pub(super) async fn longest_certificate(
        &self,
        spiffe_id: &SpiffeId,
    ) -> Result<Option<Record>, Error> {
        let records =
            self.view.live_records(spiffe_id, self.view.clock().now().unix_timestamp()).await?;
        let good = records.into_iter().filter(|record| self.is_good(record));
        Ok(good.max_by_key(|record| record.not_after))
    }
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

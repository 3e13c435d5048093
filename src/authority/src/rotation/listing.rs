//! Which keys there are, how long what they certify lives, and what is to be done before that ends.

use api::{KeyPurpose, KeyRecord, LifeLeft, LifeWarning, Page};
use identity::Der;
use time::OffsetDateTime;
use tlog::Hash;

use super::{Rotation, due};
use crate::caller::Caller;
use crate::error::Error;
use crate::fold::ledger::LedgerKey;
use crate::policy::Action;
use crate::view::in_force::InForce;

impl Rotation {
    /// Every key there was, and what its next step waits for.
    pub async fn keys(&self, caller: &Caller) -> Result<Page<KeyRecord>, Error> {
        self.view.authorize(caller, Action::ReadStatus, None)?;
        Ok(Page { items: self.key_records().await?, next: None })
    }

    pub(crate) async fn key_records(&self) -> Result<Vec<KeyRecord>, Error> {
        let in_force = self.view.in_force();
        let mut records = Vec::new();
        for purpose in KeyPurpose::ALL {
            for key in in_force.ledger.keys().filter(|key| key.purpose == purpose) {
                let next = self.next_step(key).await?;
                records.push(KeyRecord { next, ..key_record(&in_force, key) });
            }
        }
        Ok(records)
    }

    /// The active issuer and the roots of which half the life or less is left, with what to do.
    pub fn life_warnings(&self) -> Vec<LifeWarning> {
        let in_force = self.view.in_force();
        let keys: Vec<KeyRecord> =
            in_force.ledger.keys().map(|key| key_record(&in_force, key)).collect();
        let now = self.view.clock().now();
        let mut warnings = due::life_warnings(&keys, now);
        // The root of a parent elsewhere is no key of ours.
        let is_ours = |id: &Hash| in_force.ledger.keys().any(|key| key.id == *id);
        for (id, not_before, not_after) in in_force.roots().filter(|(id, ..)| !is_ours(id)) {
            if let Some(left) = LifeLeft::of(not_before, not_after, now) {
                let (key, id) = (KeyPurpose::Root, format!("{id:?}"));
                let next_step = due::PARENT_ELSEWHERE.to_owned();
                warnings.push(LifeWarning { key, id, not_after, left, next_step });
            }
        }
        warnings.sort_by_key(|warning| (warning.key != KeyPurpose::Root, warning.not_after));
        warnings
    }

    /// Of the active issuer, and of the root that ends first: how long it lives, from when to when.
    pub fn lives(&self) -> Vec<(KeyPurpose, OffsetDateTime, OffsetDateTime)> {
        let in_force = self.view.in_force();
        let issuer = in_force.issuer.certificate();
        let roots = in_force.roots().map(|(_, begin, end)| (KeyPurpose::Root, begin, end));
        let root = roots.min_by_key(|(_, _, end)| *end);
        let issuer = (KeyPurpose::Issuer, issuer.not_before(), issuer.not_after());
        root.into_iter().chain([issuer]).collect()
    }
}

/// A key as it is listed; what its next step waits for takes longer to find.
fn key_record(in_force: &InForce, key: &LedgerKey) -> KeyRecord {
    let validity = in_force.validity(key);
    KeyRecord {
        id: format!("{:?}", key.id),
        purpose: key.purpose,
        state: key.state,
        log_index: key.log_index,
        since: key.since,
        public_key: Der::new(key.public_key.clone()),
        certified_by: in_force.root_of(key).map(|root| format!("{:?}", root.id)),
        not_before: validity.map(|(not_before, _)| not_before),
        not_after: validity.map(|(_, not_after)| not_after),
        next: None,
    }
}

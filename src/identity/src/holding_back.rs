//! Identities that are judged as if some revocations had not come yet: their verifier's owner wants to
//! look at them first.
//!
//! What is revoked stands in [`Revocations`] whole; [`Spared`] are exceptions. So to forget them is to
//! apply everything, and one look at one structure judges a peer.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::feed::FeedUpdate;
use crate::refusal::Refusal;
use crate::revocations::Revocations;
use crate::serial_number::SerialNumber;
use crate::spared::{Spared, Standing};
use crate::spiffe_id::SpiffeId;

impl Revocations {
    /// What an update says by itself, to see whom it would revoke. A snapshot tells again what is held
    /// back for those spared already; an item does not.
    pub fn told_by(update: FeedUpdate, spared: &Spared) -> Self {
        let mut told = Self::default();
        if matches!(update, FeedUpdate::Replace(_)) {
            told.spared = spared.clone();
        }
        update.apply(&mut told);
        told
    }

    /// Applies an update, of which `told` is what it says by itself, but not to these identities: they
    /// are judged as if it had not come, whatever of it concerns them (the identity, any certificate
    /// of theirs, an issuer), until [`spare_nobody`](Self::spare_nobody). What comes later counts for
    /// them, too.
    pub fn apply_but_for(
        &mut self,
        identities: &BTreeSet<SpiffeId>,
        told: &Self,
        update: FeedUpdate,
    ) {
        let standings: Vec<_> =
            identities.iter().map(|id| (id.clone(), self.standing(id, told))).collect();
        let held_back = |serial: &&SerialNumber| !self.counts(serial);
        let serials: Vec<_> = told.serials().filter(held_back).copied().collect();
        update.apply(self);
        self.spared.identities.extend(standings);
        Arc::make_mut(&mut self.spared.serials).extend(serials);
    }

    /// Applies all that was held back.
    pub fn spare_nobody(&mut self) {
        self.spared = Spared::default();
    }

    /// Who is spared now.
    pub fn spared(&self) -> &Spared {
        &self.spared
    }

    fn standing(&self, id: &SpiffeId, told: &Self) -> Standing {
        let until = self.revoked_before(id).max(told.revoked_before(id));
        Standing { before: self.counting_before(id), until: until.unwrap_or_default() }
    }

    /// The place in the log before which a spared identity is revoked.
    fn counting_before(&self, id: &SpiffeId) -> Option<u64> {
        match self.spared.identities.get(id) {
            Some(standing) if self.revoked_before(id) <= Some(standing.until) => standing.before,
            _ => self.revoked_before(id),
        }
    }

    /// Whether a serial number is revoked for those spared, too.
    fn counts(&self, serial_number: &SerialNumber) -> bool {
        self.is_serial_revoked(serial_number) && !self.spared.serials.contains(serial_number)
    }

    /// The verdict on a certificate of a spared identity; none where it is not spared.
    pub(crate) fn check_spared(
        &self,
        spiffe_id: &SpiffeId,
        serial_number: &SerialNumber,
        leaf_index: Option<u64>,
        issuers: &[SerialNumber],
    ) -> Option<Result<(), Refusal>> {
        let standing = self.spared.identities.get(spiffe_id)?;
        // A denial revokes what was issued before it, so its place is known.
        let is_newer = self.revoked_before(spiffe_id) > Some(standing.until);
        if is_newer && self.is_denied(spiffe_id) {
            return Some(Err(Refusal::Denied));
        }
        let before = self.counting_before(spiffe_id);
        if before.is_some_and(|before| leaf_index.is_none_or(|index| index < before)) {
            return Some(Err(Refusal::Revoked { serial_number: *serial_number }));
        }
        let mut path = std::iter::once(serial_number).chain(issuers);
        Some(match path.find(|serial_number| self.counts(serial_number)) {
            Some(&serial_number) => Err(Refusal::Revoked { serial_number }),
            None => Ok(()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::{FeedChange, FeedItem, Snapshot};

    fn id(name: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://pay.example/prod/{name}")).unwrap()
    }

    fn serial(octet: u8) -> SerialNumber {
        SerialNumber::from_octets(&[octet]).unwrap()
    }

    fn item(log_index: u64, change: FeedChange) -> FeedItem {
        FeedItem { log_index, change }
    }

    fn of_serial(log_index: u64, octet: u8) -> FeedItem {
        let change = FeedChange::RevokeSerial { serial_number: serial(octet), until: u64::MAX };
        item(log_index, change)
    }

    fn hold_back(held: &mut Revocations, whose: &str, items: Vec<FeedItem>) {
        let update = FeedUpdate::Apply(items);
        let told = Revocations::told_by(update.clone(), held.spared());
        held.apply_but_for(&[id(whose)].into(), &told, update);
    }

    /// The certificate that was logged at 9, below the issuer 100.
    fn check(held: &Revocations, name: &str, octet: u8) -> Result<(), Refusal> {
        check_at(held, name, octet, 9)
    }

    fn check_at(held: &Revocations, name: &str, octet: u8, leaf: u64) -> Result<(), Refusal> {
        let (id, serial) = (id(name), serial(octet));
        let plain = held.check(&id, &serial, Some(leaf));
        let by_issuer = held.is_serial_revoked(&self::serial(100));
        let verdict = held.check_spared(&id, &serial, Some(leaf), &[self::serial(100)]);
        verdict.unwrap_or_else(|| match by_issuer {
            true => Err(Refusal::Revoked { serial_number: self::serial(100) }),
            false => plain,
        })
    }

    #[test]
    fn a_message_counts_for_all_but_those_spared() {
        for change in [
            FeedChange::Deny(id("reports")),
            FeedChange::RevokeIdentity(id("reports")),
            FeedChange::RevokeSerial { serial_number: serial(1), until: u64::MAX },
            FeedChange::RevokeSerial { serial_number: serial(100), until: u64::MAX },
        ] {
            let mut held = Revocations::default();
            let items =
                vec![of_serial(20, 2), item(21, change), item(22, FeedChange::Deny(id("batch")))];
            hold_back(&mut held, "reports", items);
            assert_eq!(check(&held, "reports", 1), Ok(()));
            assert_eq!(check(&held, "reports", 2), Ok(()), "another certificate of the same");
            assert!(check(&held, "batch", 3).is_err());
            assert!(check(&held, "ledger", 2).is_err());
            held.spare_nobody();
            assert!(check(&held, "reports", 1).is_err());
            assert!(check(&held, "reports", 2).is_err());
        }
    }

    #[test]
    fn what_was_revoked_before_stays_so() {
        let mut held = Revocations::default();
        held.revoke_identity(id("reports"), 5);
        held.revoke_serial(serial(7));
        let items = vec![item(20, FeedChange::Deny(id("reports"))), of_serial(21, 7)];
        hold_back(&mut held, "reports", items);
        assert!(check_at(&held, "reports", 1, 4).is_err());
        assert_eq!(check_at(&held, "reports", 1, 5), Ok(()));
        assert!(check(&held, "reports", 7).is_err());
    }

    #[test]
    fn what_comes_later_counts() {
        let denied = || {
            let mut held = Revocations::default();
            hold_back(
                &mut held,
                "reports",
                vec![item(20, FeedChange::Deny(id("reports"))), of_serial(21, 1)],
            );
            assert_eq!(check(&held, "reports", 1), Ok(()));
            held
        };
        let mut held = denied();
        of_serial(30, 1).apply(&mut held);
        assert!(check(&held, "reports", 1).is_err(), "named once more");
        assert_eq!(check(&held, "reports", 2), Ok(()));
        let mut held = denied();
        item(30, FeedChange::RevokeIdentity(id("reports"))).apply(&mut held);
        assert!(check(&held, "reports", 2).is_err());
        assert_eq!(
            check_at(&held, "reports", 2, 31),
            Err(Refusal::Denied),
            "and with it the denial"
        );
        let mut held = denied();
        item(30, FeedChange::Allow(id("reports"))).apply(&mut held);
        item(31, FeedChange::Deny(id("reports"))).apply(&mut held);
        assert_eq!(check_at(&held, "reports", 2, 40), Err(Refusal::Denied));
    }

    #[test]
    fn a_second_message_held_back_keeps_what_counted_between() {
        let mut held = Revocations::default();
        hold_back(&mut held, "reports", vec![item(20, FeedChange::RevokeIdentity(id("reports")))]);
        item(30, FeedChange::RevokeIdentity(id("reports"))).apply(&mut held);
        hold_back(&mut held, "reports", vec![item(40, FeedChange::RevokeIdentity(id("reports")))]);
        assert!(check_at(&held, "reports", 1, 29).is_err());
        assert_eq!(check_at(&held, "reports", 1, 30), Ok(()));
    }

    #[test]
    fn a_snapshot_tells_again_what_is_held_back_and_changes_nothing_of_it() {
        let mut held = Revocations::default();
        let items = vec![item(20, FeedChange::Deny(id("reports"))), of_serial(21, 1)];
        hold_back(&mut held, "reports", items);
        let again = FeedUpdate::Replace(Snapshot::of(&held));
        let told = Revocations::told_by(again.clone(), held.spared());
        assert_eq!(check(&told, "reports", 1), Ok(()), "no news");
        again.apply(&mut held);
        assert_eq!(check(&held, "reports", 1), Ok(()));
        let mut newer = held.clone();
        newer.deny(id("reports"), 30);
        let newer = FeedUpdate::Replace(Snapshot::of(&newer));
        let told = Revocations::told_by(newer.clone(), held.spared());
        assert_eq!(check(&told, "reports", 1), Err(Refusal::Denied));
        newer.apply(&mut held);
        assert_eq!(check(&held, "reports", 1), Err(Refusal::Denied));
    }
}

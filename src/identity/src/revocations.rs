//! The state of revocation that a verifier holds: the fold of the log's revoking events.

use std::collections::{HashMap, HashSet};

use crate::refusal::Refusal;
use crate::serial_number::SerialNumber;
use crate::spared::Spared;
use crate::spiffe_id::SpiffeId;

/// Who is revoked or denied; look-ups are O(1).
///
/// A serial number alone is the key: ours are unique, and a foreign CA that repeats one revokes
/// only its own certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    /// And the last second, since 1970, of the certificate, or a later one.
    serials: HashMap<SerialNumber, u64>,
    identities: HashMap<SpiffeId, u64>,
    denied: HashSet<SpiffeId>,
    /// Exceptions: none, unless a verifier's owner chose so.
    pub(crate) spared: Spared,
}

impl Revocations {
    /// Revokes one certificate, for good.
    pub fn revoke_serial(&mut self, serial_number: SerialNumber) {
        self.revoke_serial_until(serial_number, u64::MAX);
    }

    /// Revokes one certificate that ends at this second since 1970, or before.
    pub fn revoke_serial_until(&mut self, serial_number: SerialNumber, until: u64) {
        let held = self.serials.entry(serial_number).or_default();
        *held = until.max(*held);
    }

    /// Forgets the certificates that ended a day before `now`, in seconds since 1970, or earlier:
    /// for whoever's clock is a day behind they are still revoked. Says how many.
    ///
    /// `now` must come from a clock that did not jump ahead: nothing brings back what is forgotten.
    pub fn forget_expired(&mut self, now: u64) -> usize {
        let before = self.serials.len();
        self.serials.retain(|_, until| !has_expired(*until, now));
        before - self.serials.len()
    }

    /// Whether [`forget_expired`](Self::forget_expired) would forget one.
    pub fn has_expired(&self, now: u64) -> bool {
        self.serials.values().any(|until| has_expired(*until, now))
    }

    pub(crate) fn reserve_serials(&mut self, additional: usize) {
        self.serials.reserve(additional);
    }

    /// Revokes every certificate of an identity whose leaf stands before `log_index`.
    pub fn revoke_identity(&mut self, spiffe_id: SpiffeId, log_index: u64) {
        let before = self.identities.entry(spiffe_id).or_default();
        *before = log_index.max(*before);
    }

    /// Denies an identity until it is allowed again. Its certificates issued before `log_index`
    /// stay revoked for good.
    pub fn deny(&mut self, spiffe_id: SpiffeId, log_index: u64) {
        self.revoke_identity(spiffe_id.clone(), log_index);
        self.denied.insert(spiffe_id);
    }

    /// Lifts a deny. What was revoked stays revoked.
    pub fn allow(&mut self, spiffe_id: &SpiffeId) {
        self.denied.remove(spiffe_id);
    }

    /// Puts these denials in place of all others. What was revoked stays revoked.
    pub(crate) fn replace_denied(&mut self, denied: HashSet<SpiffeId>) {
        self.denied = denied;
    }

    /// Whether the identity is denied now.
    pub fn is_denied(&self, spiffe_id: &SpiffeId) -> bool {
        self.denied.contains(spiffe_id)
    }

    /// The identities denied now.
    pub fn denied(&self) -> impl Iterator<Item = &SpiffeId> {
        self.denied.iter()
    }

    /// Serial numbers revoked one by one.
    pub fn serials(&self) -> impl Iterator<Item = &SerialNumber> {
        self.serials.keys()
    }

    /// The same, with the second until which each is revoked.
    pub fn serials_until(&self) -> impl Iterator<Item = (&SerialNumber, u64)> {
        self.serials.iter().map(|(serial_number, until)| (serial_number, *until))
    }

    /// Identities revoked as a whole, with the log index before which they are.
    pub fn identities(&self) -> impl Iterator<Item = (&SpiffeId, u64)> {
        self.identities.iter().map(|(id, index)| (id, *index))
    }

    /// The log index before which an identity was revoked as a whole.
    pub fn revoked_before(&self, spiffe_id: &SpiffeId) -> Option<u64> {
        self.identities.get(spiffe_id).copied()
    }

    /// Whether this certificate of a path (an issuer's, say) is revoked by its serial number.
    pub fn is_serial_revoked(&self, serial_number: &SerialNumber) -> bool {
        self.serials.contains_key(serial_number)
    }

    /// Refuses a revoked certificate or a denied identity, spared or not.
    ///
    /// `leaf_index` is the certificate's place in the log; without one (a foreign anchor), a
    /// revocation of the identity covers it whenever it was issued.
    pub fn check(
        &self,
        spiffe_id: &SpiffeId,
        serial_number: &SerialNumber,
        leaf_index: Option<u64>,
    ) -> Result<(), Refusal> {
        if self.is_denied(spiffe_id) {
            return Err(Refusal::Denied);
        }
        let by_identity = self
            .identities
            .get(spiffe_id)
            .is_some_and(|before| leaf_index.is_none_or(|index| index < *before));
        if by_identity || self.is_serial_revoked(serial_number) {
            return Err(Refusal::Revoked { serial_number: *serial_number });
        }
        Ok(())
    }
}

fn has_expired(until: u64, now: u64) -> bool {
    until.saturating_add(DAY) < now
}

/// In seconds.
const DAY: u64 = 24 * 3600;

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> SpiffeId {
        SpiffeId::parse("spiffe://pay.example/prod/reports").unwrap()
    }

    fn serial(octet: u8) -> SerialNumber {
        SerialNumber::from_octets(&[octet]).unwrap()
    }

    #[test]
    fn a_revoked_identity_gets_new_certificates_only() {
        let mut held = Revocations::default();
        held.revoke_identity(id(), 10);
        assert!(matches!(held.check(&id(), &serial(1), Some(9)), Err(Refusal::Revoked { .. })));
        assert_eq!(held.check(&id(), &serial(2), Some(11)), Ok(()));
        assert!(held.check(&id(), &serial(3), None).is_err());
    }

    #[test]
    fn allow_lifts_the_deny_and_revives_nothing() {
        let mut held = Revocations::default();
        held.deny(id(), 10);
        assert_eq!(held.check(&id(), &serial(2), Some(11)), Err(Refusal::Denied));
        held.allow(&id());
        assert_eq!(held.check(&id(), &serial(2), Some(11)), Ok(()));
        assert!(held.check(&id(), &serial(1), Some(9)).is_err());
    }

    #[test]
    fn a_serial_is_forgotten_a_day_after_its_certificate_ended_and_no_second_earlier() {
        let mut held = Revocations::default();
        held.revoke_serial_until(serial(1), 1000);
        held.revoke_serial_until(serial(2), 2000);
        held.revoke_serial_until(serial(2), 500);
        held.revoke_serial(serial(3));
        held.revoke_identity(id(), 10);
        assert!(!held.has_expired(1000 + DAY));
        assert_eq!(held.forget_expired(1000 + DAY), 0);
        assert!(held.has_expired(1001 + DAY));
        assert_eq!(held.forget_expired(1001 + DAY), 1);
        assert_eq!(held.forget_expired(2000 + DAY), 0, "the later end counts");
        assert_eq!(held.forget_expired(u64::MAX), 1);
        assert!(held.is_serial_revoked(&serial(3)), "for good");
        assert_eq!(held.identities().count(), 1);
    }

    #[test]
    fn an_older_revocation_never_shortens_a_newer_one() {
        let mut held = Revocations::default();
        held.revoke_identity(id(), 10);
        held.revoke_identity(id(), 3);
        assert!(held.check(&id(), &serial(1), Some(9)).is_err());
    }
}

//! What somebody made counts only while they could make it still.

use identity::SpiffeId;

use super::View;
use crate::attest::refused;
use crate::error::Error;
use crate::policy::ActivePolicy;
use crate::policy::{Principal, Query};
use crate::sequencer::{COMPLETION_MILLISECONDS, RevocationTarget};
use crate::store::Record;
use crate::token_kind::{ADD_AGAIN, Maker, TokenKind, WITHDRAWN};
use crate::view::known::Known;
use crate::view::recent_log::Fate;

impl View {
    /// What somebody made counts until it is used only while they could make it still: neither they
    /// nor the certificate that they made it with was revoked since, and policy lets them. That the
    /// certificate has expired takes nothing away. Nor does it count once those for whom it was made were
    /// revoked as a whole, or denied, though they be allowed again: whoever was shut out may have it.
    pub(crate) fn require_maker(
        &self,
        maker: &Maker,
        made_for: &SpiffeId,
        policy: &ActivePolicy,
    ) -> Result<(), Error> {
        let Maker { kind, spiffe_id, serial_number, made_at, token } = maker;
        let query = Query {
            principal: Principal::of(spiffe_id),
            action: kind.action(),
            resource: Some(made_for.clone()),
        };
        if *kind == TokenKind::NewOperator {
            self.require_newest_addition(made_for, *made_at)?;
        }
        let folded = self.folded();
        // The token stands in the log like a certificate: what revokes either comes after it.
        let stands = folded.revocations.check(spiffe_id, serial_number, Some(*made_at));
        let why = if stands.is_err() || !policy.decide(&query).allowed {
            "the token counts no more: whoever made it was revoked since, or may not now"
        } else if folded.is_withdrawn(token) {
            WITHDRAWN
        } else if folded.revocations.is_denied(made_for) {
            return Err(Error::Revoked(identity::Refusal::Denied));
        } else if self.were_shut_out(made_for, *made_at) {
            SHUT_OUT
        } else {
            return Ok(());
        };
        Err(refused(why, kind.another()))
    }

    /// Whether they were revoked as a whole, or denied, after this place of the log.
    pub(crate) fn were_shut_out(&self, spiffe_id: &SpiffeId, made_at: u64) -> bool {
        let ended = self.folded().revocations.revoked_before(spiffe_id);
        ended.is_some_and(|before| made_at < before)
    }

    /// Of the tokens for one name the newest counts alone.
    fn require_newest_addition(&self, id: &SpiffeId, made_at: u64) -> Result<(), Error> {
        let name = id.operator_name().unwrap_or_default();
        if self.folded().operator_since(name) == Some(made_at) {
            return Ok(());
        }
        Err(refused("the token counts no more: a newer one was made for this operator", ADD_AGAIN))
    }

    /// Refuses the token of a new operator whose place somebody has taken meanwhile.
    pub(crate) async fn require_new(&self, maker: &Maker, id: &SpiffeId) -> Result<(), Error> {
        if maker.kind == TokenKind::NewOperator && self.is_held(id).await? {
            let why = format!("the token counts no more: {id} has a certificate that is good");
            return Err(refused(why, ADD_AGAIN));
        }
        Ok(())
    }

    /// Whether a certificate of this identity is logged that has neither expired nor been revoked.
    pub(crate) async fn is_held(&self, id: &SpiffeId) -> Result<bool, Error> {
        Ok(self.held(&RevocationTarget::Identity(id.clone()), id).await?.unrevoked)
    }

    /// What there is of a target that has not expired; of an identity by the log's leaves: a row that is
    /// hidden hides nothing.
    pub(crate) async fn held(
        &self,
        target: &RevocationTarget,
        spiffe_id: &SpiffeId,
    ) -> Result<Held, Error> {
        let now = self.clock().now().unix_timestamp();
        let mut held = Held::default();
        if let RevocationTarget::Serial(serial_number) = target {
            let known = self.known(serial_number).await?;
            if let Some(record) = known.as_ref().map(Known::record)
                && record.not_after >= now
            {
                self.count(record, self.fate_of(record.leaf_index).await?, &mut held);
            }
            return Ok(held);
        }
        for record in self.live_records(spiffe_id, now - 1).await? {
            let is_kept = record.certificate.is_some();
            let fate = if is_kept { Fate::Issued } else { self.fate_of(record.leaf_index).await? };
            self.count(&record, fate, &mut held);
        }
        Ok(held)
    }

    fn count(&self, record: &Record, fate: Fate, held: &mut Held) {
        let checked = self.folded().revocations.check(
            &record.spiffe_id,
            &record.serial_number,
            Some(record.leaf_index),
        );
        // What is logged may still be signed for a minute: it counts.
        let age = self.clock().unix_milliseconds().saturating_sub(record.issued_at);
        let issued = record.certificate.is_some()
            || matches!(fate, Fate::Issued | Fate::Lost)
            || age <= COMPLETION_MILLISECONDS;
        held.any = true;
        held.unrevoked |= checked.is_ok();
        held.live += u64::from(issued && checked.is_ok());
    }
}

/// What there is that has not expired. What was logged and never signed is there, too: whoever had
/// the issuer's key may hold it.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) any: bool,
    /// Some of it is not revoked.
    pub(crate) unrevoked: bool,
    /// How many certificates a revocation would newly cover.
    pub(crate) live: u64,
}

pub(crate) const SHUT_OUT: &str =
    "the token counts no more: those for whom it was made were revoked, or denied, since";

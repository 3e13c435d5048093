//! From the commit to stored bytes.

use std::sync::Arc;

use api::IssuedCertificate;
use issuance::IssuerCertificate;
use tlog::Hash;

use super::Issuing;
use crate::attest::Purpose;
use crate::budgets::Taken;
use crate::certificate::issuer::{Issued, issuer_id};
use crate::certificate::logged::{Logged, Named};
use crate::error::Error;
use crate::one_at_a_time::Turn;
use crate::present;
use crate::proven::proven_entry;
use crate::sequencer::{
    COMPLETION_MILLISECONDS, CertificateMember, CompleteMember, Completed, Receipt, Unlogged,
};
use crate::store::{Record, StoreError};
use crate::view::in_force::InForce;
use crate::view::known_tokens::Reserved;
use crate::view::leaving::{Leaving, gone};
use crate::writer::RESTARTS;
use crate::writer::asking::AskedBefore;

/// A request for a certificate on its way into the log, with what was taken for it.
pub(crate) struct Admission {
    pub(crate) member: Arc<CertificateMember>,
    /// Why another is not to be logged: then it is only looked for the one of before.
    pub(crate) spent: Option<Error>,
    pub(crate) purpose: Purpose,
    pub(crate) taken: Option<Taken>,
    pub(crate) reserved: Option<Reserved>,
    pub(crate) turn: Option<Turn>,
}

/// What came of it.
pub(crate) enum Admitted {
    Issued(Box<IssuedCertificate>),
    Not(Unlogged),
}

impl Issuing {
    /// Commits, and completes what was logged: to its end, whatever becomes of who asked. What was
    /// taken for it is settled by what came of the commit.
    pub(crate) async fn admit(&self, admission: Admission) -> Result<Admitted, Error> {
        let Admission { member, spent, purpose, taken, reserved, turn } = admission;
        let asked = match spent {
            None => self.writer.ask(Arc::clone(&member)).await,
            Some(spent) => match self.writer.ask(AskedBefore(Arc::clone(&member))).await {
                Ok(before) => before.map(Err).ok_or(spent),
                Err(error) => Err(error),
            },
        };
        self.settle(reserved.as_ref(), &asked);
        drop(turn);
        if !matches!(asked, Ok(Ok(_))) {
            self.budgets.give_back(taken);
        }
        let receipt = match asked? {
            Ok(receipt) => receipt,
            Err(unlogged) => return Ok(Admitted::Not(unlogged)),
        };
        metrics::counter!("countersign_logged_total").increment(1);
        self.view.accounts.begin(receipt.leaf().leaf_index);
        self.view.note_own_names(&member.record);
        let serial_number = member.record.serial_number;
        let line = match purpose {
            Purpose::Renew { lineage } => lineage,
            Purpose::Issue => serial_number,
        };
        self.view.lines.learn(serial_number, line);
        let logged = Logged::committed(receipt, &member)?;
        Ok(Admitted::Issued(Box::new(self.complete(logged).await?)))
    }

    /// Countersigns, signs and stores what is logged. Whoever stores first wins; the others return
    /// the winner's bytes, where they are the leaf's certificate. One at a time: what others did of the
    /// leaf is known before it is signed.
    pub(crate) async fn complete(&self, logged: Logged) -> Result<IssuedCertificate, Error> {
        let leaf_index = logged.leaf().leaf_index;
        let _turn = self.turns_of_leaves.turn(leaf_index).await;
        if let Err(refused) = self.view.require_unstored(leaf_index).await {
            let record = self.view.known_at(leaf_index).await?.recorded()?;
            return self.given_again(&record).await?.ok_or(refused);
        }
        let (issued, mut epoch) = self.sign(logged).await?;
        let mut instead_of = None;
        for _ in 0..RESTARTS {
            self.view.require_unstored(leaf_index).await?;
            let complete = CompleteMember {
                leaf_index,
                certificate: issued.certificate.clone(),
                revocation_epoch: epoch,
                instead_of,
            };
            let stored = self.writer.ask(complete).await;
            self.view.accounts.note(&issued, &stored);
            let (named, issuer) = (issued.logged.named(), &issued.logged.leaf().issuer_key_hash);
            match stored? {
                Completed::Stored => {
                    metrics::counter!("countersign_issued_total").increment(1);
                    let leaving = self.view.accounts.leave(leaf_index, &issued.certificate);
                    let leaving = leaving.ok_or_else(|| gone(leaf_index))?;
                    return Ok(self.present(named, leaving, issuer, leaf_index));
                }
                Completed::Existing(first) => {
                    if let Some(leaving) = self.view.leaving(leaf_index, &first, issuer).await? {
                        return Ok(self.present(named, leaving, issuer, leaf_index));
                    }
                    instead_of = Some(Hash::of(&first));
                }
                Completed::Abandoned => return Err(Error::Abandoned),
                Completed::Moved => {
                    self.view.refresh().await?;
                    (epoch, _) = self.refuse_revoked(&issued.logged).await?;
                }
            }
        }
        Err(self.writer.restless())
    }

    /// Two signatures over logged bytes, unless they were revoked meanwhile. What was signed of them
    /// before, and may be stored, is what is stored.
    async fn sign(&self, logged: Logged) -> Result<(Arc<Issued>, u64), Error> {
        self.view.require_whole_log_for(&logged.named().spiffe_id)?;
        let age = self.view.clock.unix_milliseconds().saturating_sub(logged.leaf().timestamp);
        if age > COMPLETION_MILLISECONDS {
            return Err(Error::Abandoned);
        }
        let (epoch, in_force) = self.refuse_revoked(&logged).await?;
        if let Some(issued) = self.view.accounts.signed(logged.leaf().leaf_index) {
            return Ok((issued, epoch));
        }
        let key_hash = &logged.leaf().issuer_key_hash;
        let issuer = in_force.issuer_of(key_hash).ok_or(Error::Abandoned)?;
        let issuer = Arc::clone(issuer);
        let countersignature = in_force.countersigner.countersign(&logged).await?;
        let issued = issuer.issue(logged, &countersignature).await?;
        Ok((Arc::new(issued), epoch))
    }

    /// The same request again: what is logged and waits to be signed, proved to stand in the log.
    ///
    /// `prepared` is what policy and linter have just allowed for this very request. What is read
    /// back is signed only if it says the same: the database alone makes nothing that is signed.
    pub(super) async fn replay(
        &self,
        record: &Record,
        prepared: &CertificateMember,
    ) -> Result<Logged, Error> {
        let leaf_index = record.leaf_index;
        let gone = || StoreError::Inconsistent(format!("entry {leaf_index} is gone"));
        let before = leaf_index.checked_sub(1).ok_or_else(gone)?;
        let event = proven_entry(&*self.view.store, before).await?.ok_or_else(gone)?;
        let leaf = proven_entry(&*self.view.store, leaf_index).await?.ok_or_else(gone)?;
        Logged::read_back(&event, &leaf, record, prepared)
    }

    /// Returns the epoch at which it is not revoked, and what is in force at it.
    async fn refuse_revoked(&self, logged: &Logged) -> Result<(u64, Arc<InForce>), Error> {
        // The epoch is read first: what is revoked from then on moves it.
        let state = self.view.state_to_issue().await?;
        let leaf_index = Some(logged.leaf().leaf_index);
        self.view
            .folded()
            .revocations
            .check(&logged.named().spiffe_id, &logged.named().serial_number, leaf_index)
            .map_err(Error::Revoked)?;
        Ok(state)
    }

    /// What is stored of a leaf leaves again, where it is its certificate; to be asked in the leaf's turn.
    pub(crate) async fn given_again(
        &self,
        record: &Record,
    ) -> Result<Option<IssuedCertificate>, Error> {
        let Record { certificate: Some(certificate), issuer_key_hash, leaf_index, .. } = record
        else {
            return Ok(None);
        };
        let leaving = self.view.leaving(*leaf_index, certificate, issuer_key_hash).await?;
        let present =
            |leaving| self.present(&Named::from(record), leaving, issuer_key_hash, *leaf_index);
        Ok(leaving.map(present))
    }

    pub(crate) fn present(
        &self,
        named: &Named,
        certificate: Leaving<'_>,
        issuer: &Hash,
        leaf_index: u64,
    ) -> IssuedCertificate {
        let in_force = self.view.in_force();
        let sequence = in_force.trust.state().sequence;
        present::issued(named, certificate, in_force.issuer_pem(issuer), leaf_index, sequence)
    }

    /// Where the CRL of an issuer is found.
    pub(super) fn crl_url_of(&self, issuer: &IssuerCertificate) -> Option<String> {
        let url = self.crl_url.as_ref()?;
        Some(url.replace("{issuer}", &issuer_id(issuer.key_hash())))
    }

    fn settle(
        &self,
        reserved: Option<&Reserved>,
        asked: &Result<Result<Receipt, Unlogged>, Error>,
    ) {
        let Some(reserved) = reserved else { return };
        match asked {
            Ok(Ok(_) | Err(Unlogged::Replay { .. })) => self.view.known_tokens.settle(reserved),
            Ok(_)
            | Err(
                Error::Overloaded | Error::Budget { .. } | Error::Store(StoreError::Hangs { .. }),
            ) => self.view.known_tokens.give_back(reserved),
            Err(_) => self.view.known_tokens.lose(reserved),
        }
    }
}

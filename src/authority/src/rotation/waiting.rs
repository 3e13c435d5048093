//! What a step still waits for.

use api::{KeyPurpose, KeyState, KeyStep, NextStep, WaitingInstance};
use identity::SpiffeId;

use super::{LedgerKey, Wait, wait};
use crate::authority::Authority;
use crate::error::Error;
use crate::known::Known;
use crate::operations::LONGEST_VALIDITY_MILLISECONDS;
use crate::present::seconds;
use crate::recent_log::Fate;
use crate::sequencer::COMPLETION_MILLISECONDS;
use crate::store::{Outstanding, OutstandingQuery, Record, RecordQuery};

impl Authority {
    /// The next step of a key, and what it waits for; none where there is none.
    pub(crate) async fn next_step(&self, key: &LedgerKey) -> Result<Option<NextStep>, Error> {
        let Some(step) = key.next_step() else { return Ok(None) };
        let mut next =
            NextStep { step, waiting: 0, certificates: vec![], until: None, first: None };
        match wait(key.purpose, step) {
            Wait::Nothing => {}
            Wait::NoIssuer => next.first = self.issuer_below(key),
            Wait::Acknowledged => self.wait_for(key, Some(key.trust_sequence), &mut next).await?,
            // A renewed certificate may still stand behind an open connection.
            Wait::Gone => self.wait_for(key, None, &mut next).await?,
        }
        Ok(Some(next))
    }

    /// The id of an issuer that is certified by this root and still counts.
    fn issuer_below(&self, root: &LedgerKey) -> Option<String> {
        let in_force = self.in_force();
        let mut issuers = in_force.ledger.in_use(KeyPurpose::Issuer);
        let below = issuers.find(|key| in_force.root_of(key).is_some_and(|of| of.id == root.id));
        below.map(|key| format!("issuer {:?}", key.id))
    }

    /// Counts the certificates that stood in the log before the key's last step, and that neither
    /// expired nor were revoked since; where an acknowledgement counts, nor were renewed.
    async fn wait_for(
        &self,
        key: &LedgerKey,
        acknowledging: Option<u64>,
        next: &mut NextStep,
    ) -> Result<(), Error> {
        let now = self.clock().unix_milliseconds();
        let mut query = OutstandingQuery {
            before: key.log_index,
            ends_after: self.clock().now().unix_timestamp() - 1,
            issued_since: now.saturating_sub(LONGEST_VALIDITY_MILLISECONDS),
            renewed: acknowledging.is_none(),
            limit: PAGE,
        };
        let in_use = self.own_certificate().await?;
        for waiting in self.lost_outstanding(&query).await? {
            if !self.is_done(&waiting, acknowledging, in_use) {
                note(&waiting, next);
            }
        }
        loop {
            let page = self.store().outstanding(query.clone()).await?;
            for waiting in &page {
                if !self.is_done(waiting, acknowledging, in_use)
                    && !self.is_abandoned(waiting, now).await?
                {
                    note(waiting, next);
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE as usize => query.before = last.leaf_index,
                _ => return Ok(()),
            }
        }
    }

    /// What is not signed a minute after it was logged never will be; of one whose row is gone the log
    /// says that it was.
    async fn is_abandoned(&self, waiting: &Outstanding, now: u64) -> Result<bool, Error> {
        let is_late = now.saturating_sub(waiting.issued_at) > COMPLETION_MILLISECONDS;
        let is_unsigned = !waiting.is_issued && is_late;
        Ok(is_unsigned && self.fate_of(waiting.leaf_index).await? != Fate::Issued)
    }

    /// Those that the log alone knows, the oldest first: their holders are there still, and whether they
    /// have renewed is not known.
    async fn lost_outstanding(&self, query: &OutstandingQuery) -> Result<Vec<Outstanding>, Error> {
        let mut outstanding = Vec::new();
        for place in self.lost_rows.between(0, query.before).into_iter().take(PAGE as usize) {
            let Known::Logged(record) = self.known_at(place).await? else { continue };
            let is_issued = self.fate_of(place).await? != Fate::Abandoned;
            let Record { leaf_index, issued_at, serial_number, spiffe_id, not_after, .. } = record;
            if is_issued && not_after > query.ends_after {
                outstanding.push(Outstanding {
                    leaf_index,
                    issued_at,
                    serial_number,
                    spiffe_id,
                    not_after,
                    is_issued,
                });
            }
        }
        Ok(outstanding)
    }

    /// Whether the holder of a certificate no longer needs what was before.
    fn is_done(
        &self,
        waiting: &Outstanding,
        acknowledging: Option<u64>,
        own_in_use: Option<u64>,
    ) -> bool {
        let Outstanding { spiffe_id, serial_number, leaf_index, .. } = waiting;
        let checked = self.folded().revocations.check(spiffe_id, serial_number, Some(*leaf_index));
        let is_own = *spiffe_id == SpiffeId::authority(self.trust_domain());
        match acknowledging {
            _ if checked.is_err() => true,
            // The CA knows its trust state, and operators' tools ask for it each time.
            Some(_) if is_own || spiffe_id.operator_name().is_some() => true,
            Some(sequence) => self.fleet().has_acknowledged(spiffe_id, serial_number, sequence),
            None => is_own && own_in_use != Some(*leaf_index),
        }
    }

    /// The place of the CA's own newest certificate: the one in use.
    async fn own_certificate(&self) -> Result<Option<u64>, Error> {
        let own = SpiffeId::authority(self.trust_domain());
        let query = RecordQuery { spiffe_id: Some(own), limit: 10, ..RecordQuery::default() };
        let records = self.store().records(query).await?;
        let newest = records.into_iter().find(|record| record.certificate.is_some());
        Ok(newest.map(|newest| newest.leaf_index))
    }

    /// Refuses a step that is not the key's next, or that still waits.
    pub(crate) async fn require_due(&self, key: &LedgerKey, step: KeyStep) -> Result<(), Error> {
        // What was prepared and never used goes without waiting.
        if key.state == KeyState::Prepared && step == KeyStep::Retire {
            return Ok(());
        }
        match self.next_step(key).await? {
            Some(next) if next.step == step && next.is_due() => Ok(()),
            Some(next) if next.step == step => Err(Error::Waits(Box::new(next))),
            _ => Err(Error::OutOfTurn {
                why: format!("the {} key {:?} is {:?}", key.purpose, key.id, key.state)
                    .to_lowercase(),
                next_step: "countersign key list",
            }),
        }
    }
}

fn note(waiting: &Outstanding, next: &mut NextStep) {
    next.waiting += 1;
    next.until = next.until.max(Some(seconds(waiting.not_after)));
    if next.certificates.len() < EXAMPLES {
        let Outstanding { spiffe_id, serial_number, .. } = waiting.clone();
        next.certificates.push(WaitingInstance {
            spiffe_id,
            serial_number,
            held_back: None,
            state: None,
            feed_sequence: None,
            report_seconds_ago: None,
        });
    }
}

/// Certificates read at a time.
const PAGE: u32 = 1000;
/// Certificates named of those that a step waits for.
const EXAMPLES: usize = 20;

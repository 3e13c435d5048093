//! What a step still waits for: by the log's leaves and what it says of them, whatever rows say.

use std::collections::BTreeMap;

use api::{KeyPurpose, KeyState, KeyStep, NextStep, WaitingInstance};
use identity::SpiffeId;

use super::{Rotation, Wait, wait};
use crate::error::Error;
use crate::fold::ledger::LedgerKey;
use crate::present::seconds;
use crate::view::leaves::Logged;
use crate::view::recent_log::Fate;

impl Rotation {
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
        let in_force = self.view.in_force();
        let mut issuers = in_force.ledger.in_use(KeyPurpose::Issuer);
        let below = issuers.find(|key| in_force.root_of(key).is_some_and(|of| of.id == root.id));
        below.map(|key| format!("issuer {:?}", key.id))
    }

    /// Counts the certificates that stood in the log before the key's last step, and that neither
    /// expired nor were revoked since; where an acknowledgement counts, nor were renewed by one that was
    /// shown.
    async fn wait_for(
        &self,
        key: &LedgerKey,
        acknowledging: Option<u64>,
        next: &mut NextStep,
    ) -> Result<(), Error> {
        let ends_after = self.view.clock().now().unix_timestamp() - 1;
        let in_use = self.own_certificate().await?;
        let mut waiting = Waiting::default();
        self.view
            .outstanding(key.log_index, ends_after, |certificate| {
                if !self.is_done(certificate, acknowledging, in_use) {
                    waiting.note(certificate);
                }
            })
            .await?;
        waiting.tell(next);
        Ok(())
    }

    /// Whether the holder of a certificate no longer needs what was before.
    fn is_done(
        &self,
        certificate: Logged<'_>,
        acknowledging: Option<u64>,
        own_in_use: Option<u64>,
    ) -> bool {
        let Logged { spiffe_id, serial_number, leaf } = certificate;
        let checked =
            self.view.folded().revocations.check(spiffe_id, serial_number, Some(leaf.index));
        let is_own = *spiffe_id == SpiffeId::authority(self.view.trust_domain());
        match acknowledging {
            _ if checked.is_err() => true,
            // The CA knows its trust state, and operators' tools ask for it each time.
            Some(_) if is_own || spiffe_id.operator_name().is_some() => true,
            Some(sequence) => {
                self.view.renewals.is_taken_over(leaf.index)
                    || self.instances.has_acknowledged(spiffe_id, serial_number, sequence)
            }
            None => is_own && own_in_use != Some(leaf.index),
        }
    }

    /// The place of the CA's own newest certificate that was signed: the one in use.
    async fn own_certificate(&self) -> Result<Option<u64>, Error> {
        let own = SpiffeId::authority(self.view.trust_domain());
        let leaves = self.view.leaves_of(std::slice::from_ref(&own), i64::MIN).await?;
        for leaf in leaves.into_iter().flatten().rev() {
            let is_signed = match self.view.fate_of(leaf.index).await? {
                Fate::Abandoned => false,
                Fate::Issued | Fate::Lost => true,
                Fate::Untold => self.view.is_signed(leaf.index).await?,
            };
            if is_signed {
                return Ok(Some(leaf.index));
            }
        }
        Ok(None)
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

/// Who is waited for.
#[derive(Debug, Default)]
struct Waiting {
    count: u64,
    until: Option<i64>,
    /// The newest of them, by place.
    examples: BTreeMap<u64, WaitingInstance>,
}

impl Waiting {
    fn note(&mut self, Logged { spiffe_id, serial_number, leaf }: Logged<'_>) {
        self.count += 1;
        self.until = self.until.max(Some(leaf.not_after));
        let is_newer = |(oldest, _): (&u64, _)| leaf.index > *oldest;
        if self.examples.len() == EXAMPLES {
            if !self.examples.first_key_value().is_some_and(is_newer) {
                return;
            }
            self.examples.pop_first();
        }
        let instance = WaitingInstance {
            spiffe_id: spiffe_id.clone(),
            serial_number: *serial_number,
            held_back: None,
            state: None,
            feed_sequence: None,
            report_seconds_ago: None,
        };
        self.examples.insert(leaf.index, instance);
    }

    fn tell(self, next: &mut NextStep) {
        next.waiting = self.count;
        next.until = self.until.map(seconds);
        next.certificates = self.examples.into_values().rev().collect();
    }
}

/// Certificates named of those that a step waits for.
const EXAMPLES: usize = 20;

//! What others think of the certificate that the workload holds: whether it is cut off.
//!
//! A certificate that is revoked hears no feed any more, and looks to its owner like a network that
//! fails. So it is told apart, and what follows from it is not told again and again.

use api::RenewalWindow;
use metrics::gauge;
use time::OffsetDateTime;

use super::{State, Upkeep};
use crate::error::Error;
use crate::pace::retry::chance;
use crate::verification::Verification;
use crate::workload::cut_off::{CutOff, CutOffRule, Refused};
use identity::Refusal;

/// What became of being cut off.
pub(super) enum Turn {
    /// It is, or by another rule than before; with the reason why there is no other certificate.
    CutOff(CutOff, Option<String>),
    /// It is no longer.
    Taken,
}

impl Upkeep {
    /// The CA no longer takes our certificate: it is asked for another, at once.
    ///
    /// Only on a connection whose server is verified does an alert name the certificate that it is
    /// about: before that anybody on the way may say so, and then it is nothing but a lost connection.
    pub(super) fn note_refusal(&self, error: &Error) {
        let Error::Refused { alert, serial_number: Some(serial_number), .. } = error else {
            return;
        };
        let rule = CutOffRule::of_alert(*alert);
        let mut state = self.state();
        // At its end, or below keys that left the trust state, what is revoked is refused for less.
        let known = state.refused.filter(|(known, _)| known == serial_number);
        let is_known = known.is_some_and(|(_, known)| known.is_by_everybody());
        if !is_known || rule.is_by_everybody() {
            state.refused = Some((*serial_number, rule));
        }
        drop(state);
        self.publish();
    }

    /// The CA has let us in: what only it had against our certificate is over.
    pub(super) fn note_let_in(&self) {
        let mut state = self.state();
        if state.refused.take_if(|(_, rule)| !rule.is_by_everybody()).is_some() {
            drop(state);
            self.publish();
        }
    }

    /// Compares what is known of the certificate held with what was told.
    pub(super) fn look_at_own(&self, state: &mut State) -> Option<Turn> {
        let now = self.now();
        let rule = state.rule_against(&self.verification, now);
        if rule == state.cut_off.as_ref().map(|known| known.rule) {
            return None;
        }
        let Some(rule) = rule else {
            state.cut_off = None;
            return Some(Turn::Taken);
        };
        let known = state.cut_off.as_ref().filter(|known| known.rule.is_by_everybody());
        let since = known.filter(|_| rule.is_by_everybody()).map_or(now, |known| known.since);
        let cut_off = CutOff::new(rule, since, &self.refused(state));
        state.cut_off = Some(cut_off.clone());
        // At its end everybody is as late, and has waited for as long: that has its own pace.
        if rule != CutOffRule::Expired {
            let window = RenewalWindow { start: now, end: now + SPREAD };
            state.schedule.hasten(window, chance());
        }
        Some(Turn::CutOff(cut_off, state.renewal_error.clone()))
    }

    fn refused<'a>(&'a self, state: &'a State) -> Refused<'a> {
        let spiffe_id = state.identity.spiffe_id();
        Refused {
            spiffe_id,
            serial_number: state.identity.serial_number(),
            not_after: state.svid.not_after,
            url: &self.url,
            again: self.source.again(spiffe_id),
        }
    }

    pub(super) fn tell(&self, turn: Turn) {
        match turn {
            Turn::CutOff(cut_off, why) => {
                let rule = cut_off.rule.name();
                tracing::error!(rule, why, "{cut_off}");
            }
            Turn::Taken => tracing::info!("the certificate held now is taken"),
        }
    }
}

impl State {
    /// What is against the certificate held, as far as we know. What is revoked or denied stays so
    /// after its end.
    fn rule_against(&self, verification: &Verification, now: OffsetDateTime) -> Option<CutOffRule> {
        let by_feed = verification.with_revocations(|held| held.check_svid(&self.identity));
        match by_feed {
            Err(Refusal::Denied) => return Some(CutOffRule::Denied),
            Err(_) => return Some(CutOffRule::Revoked),
            Ok(()) => {}
        }
        let own = self.identity.serial_number();
        let by_alert = self.refused.filter(|(serial_number, _)| serial_number == own);
        let by_alert = by_alert.map(|(_, rule)| rule);
        if self.svid.not_after < now && !by_alert.is_some_and(CutOffRule::is_by_everybody) {
            return Some(CutOffRule::Expired);
        }
        by_alert
    }

    /// How long nothing could be heard of revocations for another reason than a feed that is gone.
    pub(super) fn unheard_for(&self, now: OffsetDateTime) -> std::time::Duration {
        let cut_off = self.cut_off.as_ref().filter(|cut_off| cut_off.rule.is_by_everybody());
        let since = cut_off.map_or(now, |cut_off| cut_off.since);
        (now - since).try_into().unwrap_or_default()
    }
}

/// Says by which rule, if by one.
pub(super) fn measure(cut_off: Option<&CutOff>) {
    for rule in CutOffRule::ALL {
        let is_it = cut_off.is_some_and(|cut_off| cut_off.rule == rule);
        gauge!(CUT_OFF, "reason" => rule.name()).set(f64::from(u8::from(is_it)));
    }
}

const CUT_OFF: &str = "countersign_cut_off";
/// Over how long those ask whom one word of the feed has cut off.
const SPREAD: time::Duration = time::Duration::seconds(3);

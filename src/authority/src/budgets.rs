//! What one line of renewals may write to the log: so many certificates and revocations an hour,
//! in bursts of as many. Otherwise one workload that renews and revokes the old makes everybody's
//! log, feed and CRLs grow without end. Operators are not limited, and a certificate may always
//! end itself.
//!
//! Kept in memory: a restart fills every budget again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use identity::{SerialNumber, VerifiedSvid};

use crate::attest::{Attested, Purpose};
use crate::caller::Caller;
use crate::error::Error;
use crate::policy::Principal;
use crate::sequencer::RevocationTarget;
use crate::view::View;

/// How much one line of renewals may do in an hour; 0 lifts a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetLimits {
    /// Certificates for another identity than the caller's own.
    pub issues_per_hour: u32,
    /// Renewals.
    pub renewals_per_hour: u32,
    /// Revocations that leave the caller's own certificate in force.
    pub revocations_per_hour: u32,
}

impl Default for BudgetLimits {
    fn default() -> Self {
        Self { issues_per_hour: 600, renewals_per_hour: 60, revocations_per_hour: 60 }
    }
}

/// What a budget is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Budget {
    Issue,
    Renew,
    Revoke,
}

impl Budget {
    fn name(self) -> &'static str {
        match self {
            Self::Issue => "issues",
            Self::Renew => "renewals",
            Self::Revoke => "revocations",
        }
    }

    fn per_hour(self, limits: &BudgetLimits) -> u32 {
        match self {
            Self::Issue => limits.issues_per_hour,
            Self::Renew => limits.renewals_per_hour,
            Self::Revoke => limits.revocations_per_hour,
        }
    }
}

/// What every line has left.
#[derive(Debug, Default)]
pub(crate) struct Budgets(Mutex<Spent>);

#[derive(Debug, Default)]
struct Spent {
    limits: BudgetLimits,
    /// When each budget is full again, in milliseconds since 1970.
    full_at: HashMap<(Budget, SerialNumber), u64>,
    /// So many are kept before those that are full are forgotten.
    tidy_from: usize,
}

/// Taken from a budget; given back where nothing came of it.
#[derive(Debug)]
pub(crate) struct Taken {
    key: (Budget, SerialNumber),
    interval: u64,
}

impl Budgets {
    fn spent(&self) -> MutexGuard<'_, Spent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, budget: Budget, line: SerialNumber, now: u64) -> Result<Option<Taken>, Error> {
        self.spent().take((budget, line), now).inspect_err(|_| {
            metrics::counter!(REFUSED, "budget" => budget.name()).increment(1);
        })
    }

    /// Nothing was logged for it.
    pub(crate) fn give_back(&self, taken: Option<Taken>) {
        if let Some(Taken { key, interval }) = taken
            && let Some(full_at) = self.spent().full_at.get_mut(&key)
        {
            *full_at = full_at.saturating_sub(interval);
        }
    }
}

impl Budgets {
    /// How much one line of renewals may do from now on.
    pub(crate) fn limit(&self, limits: BudgetLimits) {
        self.spent().limits = limits;
    }

    /// What the log has to carry for a certificate; a one-time token has its maker's word.
    pub(crate) async fn for_issue(
        &self,
        view: &View,
        caller: &Caller,
        attested: &Attested,
        by_token: bool,
    ) -> Result<Option<Taken>, Error> {
        let Some(svid) = limited(caller).filter(|_| !by_token) else {
            return Ok(None);
        };
        let now = view.clock.unix_milliseconds();
        match attested.purpose {
            Purpose::Renew { lineage } => self.take(Budget::Renew, lineage, now),
            Purpose::Issue => {
                let line = view.line_of(svid.serial_number()).await?;
                self.take(Budget::Issue, line, now)
            }
        }
    }

    /// What the log and everybody who verifies have to carry for a revocation. One that ends the
    /// caller's own certificate is never refused: it is the last that this certificate asks for.
    pub(crate) async fn for_revocation(
        &self,
        view: &View,
        caller: &Caller,
        target: &RevocationTarget,
    ) -> Result<Option<Taken>, Error> {
        let Some(svid) = limited(caller) else {
            return Ok(None);
        };
        let ends_itself = match target {
            RevocationTarget::Identity(id) => id == svid.spiffe_id(),
            RevocationTarget::Serial(serial_number) => serial_number == svid.serial_number(),
        };
        if ends_itself {
            return Ok(None);
        }
        let line = view.line_of(svid.serial_number()).await?;
        self.take(Budget::Revoke, line, view.clock.unix_milliseconds())
    }
}

impl Spent {
    fn take(&mut self, key: (Budget, SerialNumber), now: u64) -> Result<Option<Taken>, Error> {
        let per_hour = key.0.per_hour(&self.limits);
        if per_hour == 0 {
            return Ok(None);
        }
        self.tidy(now);
        let interval = (HOUR / u64::from(per_hour)).max(1);
        let whole = interval * u64::from(per_hour);
        // A clock that was ahead has spent no more than all.
        let full_at = self.full_at.get(&key).map_or(now, |at| (*at).clamp(now, now + whole));
        let wait = (full_at + interval).saturating_sub(now + whole);
        if wait > 0 {
            let seconds = wait.div_ceil(1000);
            return Err(Error::Budget { budget: key.0.name(), per_hour, seconds });
        }
        self.full_at.insert(key, full_at + interval);
        Ok(Some(Taken { key, interval }))
    }

    /// A budget that is full again is like one that was never touched.
    fn tidy(&mut self, now: u64) {
        if self.full_at.len() >= self.tidy_from.max(TIDY_FROM) {
            self.full_at.retain(|_, full_at| *full_at > now);
            self.tidy_from = self.full_at.len() * 2;
        }
    }
}

/// The caller's certificate, unless an operator or the CA itself calls.
fn limited(caller: &Caller) -> Option<&VerifiedSvid> {
    let workload = |svid: &&VerifiedSvid| {
        matches!(Principal::of(svid.spiffe_id()), Principal::Workload(_))
            && !svid.spiffe_id().is_reserved()
    };
    caller.svid.as_ref().filter(workload)
}

const REFUSED: &str = "countersign_budget_refusals_total";
/// In milliseconds.
const HOUR: u64 = 3_600_000;
const TIDY_FROM: usize = 10_000;

//! Loading the state: refused on any disagreement.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock, RwLock};

use api::RevocationExtent;
use arc_swap::ArcSwap;
use identity::{SpiffeId, TrustDomain, TrustPin};

use super::View;
use super::halts::Halts;
use super::in_force::InForce;
use super::keys_in_force::{Opening, warn_of_names};
use super::known_tokens::KnownTokens;
use super::leaving::Accounts;
use super::lines::Lines;
use super::policy_in_force::{self, PolicyInForce};
use super::recent_log::RecentLog;
use super::renewals::Renewals;
use super::telling::Telling;
use crate::clock::Clock;
use crate::error::Error;
use crate::fold::Folded;
use crate::keys::Keys;
use crate::own_names::OwnNames;
use crate::policy::{Action, ActivePolicy, Principal, Query};
use crate::store::{RecordQuery, Store, StoreError};

/// What is loaded from where.
pub(crate) struct Sources {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) own_names: OwnNames,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) keys: Keys,
    pub(crate) trust_pin: TrustPin,
}

impl View {
    /// Loads the state and refuses on any disagreement: log against tables, keys against trust state.
    pub(crate) async fn load(sources: Sources) -> Result<Self, Error> {
        let Sources { trust_domain, own_names, clock, store, keys, trust_pin } = sources;
        let folded = Folded::load(&*store, &trust_domain).await?;
        let head = store.head().await?;
        folded.require_head(&head)?;
        let ledger = folded.keys.clone();
        let in_force = InForce::open(ledger, &keys, &*store, &trust_domain, &trust_pin).await?;
        for key in &in_force.absent {
            tracing::error!(error = %key.error(), "started without an active key");
        }
        require_operators(&*store, &folded.operators()).await?;
        let operators = folded.operators();
        let policy =
            policy_in_force::load(&*store, &trust_domain, head.policy_hash, operators).await?;
        warn_of_extent(&policy);
        let now = clock.now().unix_timestamp();
        let own_names = with_certified_names(own_names, &*store, &trust_domain, now).await?;
        // Of before this was refused: no certificate bears it any more, the rest of the row counts.
        if let Err(error) = own_names.refuse_rows(policy.set().workloads()) {
            tracing::warn!(%error, "the policy set in force gives away a name of the CA's");
        }
        warn_of_names(in_force.refuse_rows(policy.set().workloads()));
        Ok(Self {
            policy: Arc::new(PolicyInForce::new(policy)),
            telling: Telling::new(folded.items.newest()),
            in_force: ArcSwap::from_pointee(in_force),
            opening: Opening::default(),
            folded: RwLock::new(folded),
            listener: OnceLock::new(),
            halts: Halts::default(),
            renewals: Renewals::default(),
            lines: Lines::default(),
            own_names: ArcSwap::from_pointee(own_names),
            known_tokens: KnownTokens::default(),
            recent_log: RecentLog::default(),
            accounts: Accounts::from(head.swept),
            trust_domain,
            clock,
            store,
            keys,
            trust_pin,
        })
    }
}

/// A set of before `Revoke` had an extent stays as it was: whoever administers decides.
fn warn_of_extent(policy: &ActivePolicy) {
    let Some(row) = policy.set().workloads().rows().next() else { return };
    let Ok(spiffe_id) = SpiffeId::new(policy.trust_domain(), &row.id) else { return };
    let principal = Principal::of(&spiffe_id);
    let action = Action::Revoke(RevocationExtent::Identity);
    if policy.decide(&Query { principal, action, resource: Some(spiffe_id) }).allowed {
        tracing::warn!(
            "the policy set in force lets one replica revoke its whole identity; the shipped \
             policies let it revoke its own certificate (workload-revokes-its-own): with the \
             new schema.cedarschema, countersign policy apply DIR"
        );
    }
}

/// The CA's names, with those of its own certificates that have not expired.
async fn with_certified_names(
    mut own_names: OwnNames,
    store: &dyn Store,
    trust_domain: &TrustDomain,
    now: i64,
) -> Result<OwnNames, StoreError> {
    let query = RecordQuery {
        spiffe_id: Some(SpiffeId::authority(trust_domain)),
        ends_after: Some(now - 1),
        limit: OWN_CERTIFICATES,
        ..RecordQuery::default()
    };
    for record in store.records(query).await? {
        own_names = own_names.with(&record.facts, record.not_after);
    }
    Ok(own_names)
}

/// The table of operators must name those whose events were folded, and nobody else.
async fn require_operators(store: &dyn Store, folded: &HashSet<String>) -> Result<(), StoreError> {
    let rows = store.operators().await?;
    if let Some((name, log_index)) = rows.iter().find(|(name, _)| !folded.contains(name)) {
        let why = format!("operator {name:?} was not made by entry {log_index}");
        return Err(StoreError::Inconsistent(why));
    }
    let is_row = |name: &&String| rows.iter().any(|(row, _)| row == *name);
    match folded.iter().find(|name| !is_row(name)) {
        Some(name) => {
            Err(StoreError::Inconsistent(format!("the row of operator {name:?} is gone")))
        }
        None => Ok(()),
    }
}

/// More than the CA makes for itself while one of them lives, were it restarted every minute.
const OWN_CERTIFICATES: u32 = 10_000;

//! Another policy set, on the host's word.

use std::collections::BTreeMap;

use identity::TrustDomain;

use super::{Ceremony, INIT};
use crate::clock::Clock;
use crate::error::Error;
use crate::event::Act;
use crate::operations::policy_change;
use crate::policy::PolicySet;
use crate::store::{Store, StoreError};

/// The files of the policy set in force, by name, whatever they say.
pub async fn policies_in_force(store: &dyn Store) -> Result<BTreeMap<String, String>, Error> {
    let hash = store.head().await?.policy_hash;
    let gone = |why: String| StoreError::Inconsistent(format!("policy set {hash:?}: {why}"));
    let (files, _) = store.policy(hash).await?.ok_or_else(|| gone("it is gone".to_owned()))?;
    Ok(serde_json::from_str(&files).map_err(|error| gone(error.to_string()))?)
}

/// Puts another policy set into force: the way back from one that lets no operator replace it.
/// Refuses one that would not let this operator, either. Logged as `policy.change`, by `init`.
/// Returns whether another was in force.
pub async fn replace_policies(
    trust_domain: &TrustDomain,
    store: &dyn Store,
    set: &PolicySet,
    operator: &str,
    clock: &dyn Clock,
) -> Result<bool, Error> {
    set.require_way_on(Some(trust_domain), Some(operator))?;
    let in_force = store.head().await?.policy_hash;
    if in_force == *set.hash() {
        return Ok(false);
    }
    let by = Act { actor: INIT, request_id: INIT };
    let (event, effect) = policy_change(set, Some(in_force), &by);
    Ceremony { trust_domain, store, clock }.log(event, effect).await?;
    Ok(true)
}

//! The policy set in force, and how it follows the log.
//!
//! Everybody's act waits for it, and so does whoever looks at the head ten times a second; a large set
//! takes seconds to parse. So it is read and parsed once, by a task of the engine, to its end, whatever
//! becomes of who noticed; the others wait for that.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use identity::TrustDomain;
use tlog::Hash;

use super::View;
use crate::error::Error;
use crate::event::POLICY_CHANGE;
use crate::policy::{ActivePolicy, PolicyError, PolicySet};
use crate::proven::made_by;
use crate::sequencer::Head;
use crate::store::{Store, StoreError};
use crate::tasks::finish;

/// What decides.
#[derive(Debug)]
pub(crate) struct PolicyInForce {
    active: ArcSwap<ActivePolicy>,
    /// Whoever has it brings the next into force. What could not be parsed is not parsed again.
    turn: Arc<tokio::sync::Mutex<Option<Unreadable>>>,
}

#[derive(Debug)]
struct Unreadable {
    hash: Hash,
    error: PolicyError,
}

impl PolicyInForce {
    pub(crate) fn new(active: ActivePolicy) -> Self {
        Self { active: ArcSwap::from_pointee(active), turn: Arc::default() }
    }

    pub(crate) fn now(&self) -> Arc<ActivePolicy> {
        self.active.load_full()
    }

    fn is(&self, hash: &Hash, operators: &HashSet<String>) -> bool {
        let active = self.active.load();
        active.set().hash() == hash && active.operators() == operators
    }

    /// Brings this set into force. One that only has other operators is parsed already.
    async fn bring(
        &self,
        store: &dyn Store,
        hash: Hash,
        operators: HashSet<String>,
        unreadable: &mut Option<Unreadable>,
    ) -> Result<(), Error> {
        if let Some(known) = unreadable.as_ref().filter(|known| known.hash == hash) {
            return Err(known.error.clone().into());
        }
        let active = self.now();
        let next =
            match *active.set().hash() == hash {
                true => active.with_operators(operators),
                false => load(store, active.trust_domain(), hash, operators).await.inspect_err(
                    |error| match error {
                        // There may be a thread the next time.
                        Error::Policy(PolicyError::Thread(_)) => {}
                        Error::Policy(error) => {
                            *unreadable = Some(Unreadable { hash, error: error.clone() });
                        }
                        _ => {}
                    },
                )?,
            };
        self.active.store(Arc::new(next));
        Ok(())
    }
}

impl View {
    /// Follows a head: the policy set that it names is in force, or a later one.
    pub(crate) async fn follow_policy(&self, head: &Head) -> Result<(), Error> {
        if self.policy.is(&head.policy_hash, &self.folded().operators()) {
            return Ok(());
        }
        let mut turn = Arc::clone(&self.policy.turn).lock_owned().await;
        // What it waited for may have been this, or something later.
        let hash = self.store.head().await?.policy_hash;
        let operators = self.folded().operators();
        if self.policy.is(&hash, &operators) {
            return Ok(());
        }
        let (policy, store) = (Arc::clone(&self.policy), Arc::clone(&self.store));
        // The turn goes with the task.
        finish(async move { policy.bring(&*store, hash, operators, &mut turn).await }).await?
    }
}

/// Loads the policy set of this hash, for the operators whose events were folded.
pub(crate) async fn load(
    store: &dyn Store,
    trust_domain: &TrustDomain,
    hash: Hash,
    operators: HashSet<String>,
) -> Result<ActivePolicy, Error> {
    let gone = || StoreError::Inconsistent(format!("policy set {hash:?} is gone"));
    let (files, log_index) = store.policy(hash).await?.ok_or_else(gone)?;
    let made = made_by(store, log_index, |event| {
        event.kind == POLICY_CHANGE && event.detail["hash"] == format!("{hash:?}")
    });
    if !made.await? {
        let why = format!("policy set {hash:?} was not put into force by entry {log_index}");
        return Err(StoreError::Inconsistent(why).into());
    }
    let files = serde_json::from_str(&files)
        .map_err(|error| StoreError::Inconsistent(format!("policy set {hash:?}: {error}")))?;
    let parse = move || PolicySet::read_back(files);
    let policy = ActivePolicy::parse_apart(parse, trust_domain.clone(), operators).await?;
    if *policy.set().hash() != hash {
        return Err(gone().into());
    }
    Ok(policy)
}

//! A policy set in force, and how it decides.

use std::collections::HashSet;
use std::sync::Arc;

use identity::TrustDomain;

use super::decisions::{Decisions, ordered};
use super::error::PolicyError;
use super::evaluation::{Ground, evaluate};
use super::own::own;
use super::query::{Decision, Query};
use super::set::PolicySet;

/// A policy set in force in one trust domain, with the operators that the log made.
#[derive(Debug)]
pub struct ActivePolicy {
    set: Arc<PolicySet>,
    trust_domain: TrustDomain,
    operators: HashSet<String>,
    ground: Arc<Ground>,
    pub(super) decisions: Decisions,
}

impl ActivePolicy {
    /// Puts a policy set into force. `operators` are the names that the log
    /// made operators: at `init`, and by others since.
    pub fn new(
        set: PolicySet,
        trust_domain: TrustDomain,
        operators: HashSet<String>,
    ) -> Result<Self, PolicyError> {
        let ground = Arc::new(Ground::of(&set, &trust_domain)?);
        let set = Arc::new(set);
        Ok(Self { set, trust_domain, operators, ground, decisions: Decisions::default() })
    }

    /// The same set with other operators.
    pub(crate) fn with_operators(&self, operators: HashSet<String>) -> Self {
        let (set, ground) = (Arc::clone(&self.set), Arc::clone(&self.ground));
        let trust_domain = self.trust_domain.clone();
        Self { set, trust_domain, operators, ground, decisions: Decisions::default() }
    }

    /// The same on a thread for nothing else: thousands of rows take a while to parse.
    pub(crate) async fn parse_apart(
        parse: impl FnOnce() -> Result<PolicySet, PolicyError> + Send + 'static,
        trust_domain: TrustDomain,
        operators: HashSet<String>,
    ) -> Result<Self, PolicyError> {
        let parsing = move || Self::new(parse()?, trust_domain, operators);
        match tokio::task::spawn_blocking(parsing).await {
            Ok(parsed) => parsed.inspect_err(PolicyError::count),
            Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
            Err(_) => Err(PolicyError::Thread("the CA is stopping".to_owned())),
        }
    }

    /// The policy set.
    pub fn set(&self) -> &PolicySet {
        &self.set
    }

    /// The trust domain in which it decides.
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The operators that the log made, by name.
    pub(crate) fn operators(&self) -> &HashSet<String> {
        &self.operators
    }

    /// Decides, from the cache where the same was asked under this policy set.
    ///
    /// What the CA asks for itself depends on no set.
    pub fn decide(&self, query: &Query) -> Decision {
        if let Some(own) = own(query) {
            return own;
        }
        let query = &*ordered(query);
        if let Some(known) = self.decisions.find(query) {
            return known;
        }
        let (set, domain) = (&self.set, &self.trust_domain);
        let decision =
            evaluate(set, domain, &self.operators, &self.ground, query).unwrap_or_else(|error| {
                Decision { allowed: false, policies: Vec::new(), errors: vec![error] }
            });
        self.decisions.keep(query, &decision);
        decision
    }
}

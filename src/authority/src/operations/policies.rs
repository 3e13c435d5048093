//! The policy set: read, replaced, explained.

use std::collections::BTreeMap;

use api::{ExplainRequest, Explanation, RevocationExtent};
use issuance::{DnsName, KeyType};
use tlog::Hash;

use super::Operations;
use crate::caller::Caller;
use crate::certificate::request::listed;
use crate::error::{Denied, Error};
use crate::event::{self, Act, EventDraft};
use crate::explanation::{claimed, explain};
use crate::facts::{Names, SVID, TOKEN};
use crate::policy::{
    Action, ActivePolicy, DEFAULT_PROFILE, IssueContext, OPERATOR_LIFE, PolicySet, Principal,
    Query, require_operator,
};
use crate::sequencer::{Conflict, Effect};
use crate::writer::RESTARTS;

impl Operations {
    /// The active policy set.
    pub fn policies(&self, caller: &Caller) -> Result<api::ActivePolicy, Error> {
        self.view.authorize(caller, Action::ReadPolicy, None)?;
        Ok(shown_policy(self.view.policy().set()))
    }

    /// Replaces the policy set if `expected` is still the hash of the one in force.
    pub async fn replace_policies(
        &self,
        caller: &Caller,
        files: &BTreeMap<String, String>,
        expected: &str,
    ) -> Result<api::ActivePolicy, Error> {
        self.replace_policies_if(caller, files, |in_force| in_force == expected).await
    }

    /// Replaces the policy set if that is so of the hash of the one in force.
    pub async fn replace_policies_if(
        &self,
        caller: &Caller,
        files: &BTreeMap<String, String>,
        is_expected: impl Fn(&str) -> bool,
    ) -> Result<api::ActivePolicy, Error> {
        self.view.refresh().await?;
        self.view.authorize(caller, Action::ChangePolicy, None)?;
        // RFC 9110 §13.2.1: before what came along is looked at.
        if !is_expected(&format!("{:?}", self.view.policy().set().hash())) {
            return Err(Error::Conflict(Conflict::PolicyMoved));
        }
        let operators = self.view.policy().operators().clone();
        let files = files.clone();
        let parse = move || PolicySet::parse_owned(files);
        let next =
            ActivePolicy::parse_apart(parse, self.view.trust_domain().clone(), operators).await?;
        self.view.own_names_now().refuse_rows(next.set().workloads())?;
        self.view.in_force().refuse_rows(next.set().workloads())?;
        let _turn = self.turns.take(caller).await;
        for _ in 0..RESTARTS {
            let allowed_under = self.view.authorize(caller, Action::ChangePolicy, None)?;
            let in_force = allowed_under.policy_hash;
            if !is_expected(&format!("{in_force:?}")) {
                return Err(Error::Conflict(Conflict::PolicyMoved));
            }
            if *next.set().hash() == in_force {
                if self.writer.holds(allowed_under).await? {
                    return Ok(shown_policy(next.set()));
                }
                continue;
            }
            self.require_administration(caller, &next)?;
            let (draft, effect) = policy_change(next.set(), Some(in_force), &caller.by());
            if self.writer.commit(allowed_under, draft, effect).await?.is_some() {
                return Ok(shown_policy(next.set()));
            }
        }
        Err(self.writer.restless())
    }

    /// Whoever replaces the policy set must be able to replace it again, and to renew until then.
    fn require_administration(&self, caller: &Caller, next: &ActivePolicy) -> Result<(), Error> {
        let operator = self.view.authenticated(caller)?.spiffe_id().clone();
        let decide = |query: &Query| Ok(next.decide(query));
        Ok(require_operator(&operator, OPERATOR_LIFE, decide)?)
    }

    /// Which policy decides, and why. A renewal or an issue is explained as `token` attestation
    /// would see it.
    pub fn explain(&self, caller: &Caller, asked: &ExplainRequest) -> Result<Explanation, Error> {
        self.view.authorize(caller, Action::ReadPolicy, None)?;
        // It changes nothing, so there is nothing to do once.
        caller.named(api::paths::EXPLAIN, asked)?;
        let (policy, own_names) = (self.view.policy(), self.view.own_names_now());
        let id = &asked.resource;
        let permits = |names: &Names| {
            let refused = self.view.in_force().refuse_names(&names.dns, &names.ip);
            refused.map_err(|found| found.denied(id, &policy))
        };
        if asked.dns.is_none() && asked.ip.is_none() && concerns_names(&asked.action) {
            return explain_silence(
                &policy,
                asked,
                &own_names.without(listed(id, &policy)),
                permits,
            );
        }
        let explained = explain_query(&policy, asked)?;
        let dns = asked.dns.iter().flatten().map(|name| DnsName::parse(name));
        let dns: Vec<DnsName> = dns.collect::<Result<_, _>>()?;
        let ip: Vec<_> = asked.ip.iter().flatten().copied().collect();
        if let Err(claim) = own_names.refuse(&dns, &ip) {
            return Ok(refused(claimed(&claim, id, &policy)));
        }
        match permits(&Names { dns, ip }) {
            Err(denied) if explained.allowed => Ok(refused(denied)),
            _ => Ok(explained),
        }
    }
}

/// Whether a certificate comes of it, which has names.
fn concerns_names(action: &str) -> bool {
    ["issue", "renew"].iter().any(|known| action.eq_ignore_ascii_case(known))
}

/// What was not said of names is taken as [`Asked::authorize`](crate::certificate::request::Asked::authorize)
/// takes it: those of the row; where policy has something against them, none, but for a renewal, by
/// which nobody is to lose some.
fn explain_silence(
    policy: &ActivePolicy,
    asked: &ExplainRequest,
    listed: &Names,
    permits: impl FnOnce(&Names) -> Result<(), Denied>,
) -> Result<Explanation, Error> {
    if listed.is_empty() {
        let assumed = Some("no names: no row lists any for it".to_owned());
        return Ok(Explanation { assumed, ..explain_query(policy, asked)? });
    }
    let Names { dns, ip } = listed;
    let dns: Vec<String> = dns.iter().map(ToString::to_string).collect();
    let all = dns.iter().cloned().chain(ip.iter().map(ToString::to_string));
    let all = all.collect::<Vec<_>>().join(", ");
    let named = ExplainRequest { dns: Some(dns), ip: Some(ip.clone()), ..asked.clone() };
    let named = explain_query(policy, &named)?;
    let assumed = Some(format!("the names of its row: {all}"));
    if named.allowed {
        let named = permits(listed).map_or_else(refused, |()| named);
        return Ok(Explanation { assumed, ..named });
    }
    if asked.action.eq_ignore_ascii_case("renew") {
        return Ok(Explanation { assumed, ..named });
    }
    let nameless = explain_query(policy, asked)?;
    if !nameless.allowed {
        return Ok(Explanation { assumed, ..named });
    }
    let assumed = Some(format!("no names: with those of its row ({all}), {}", named.reason));
    Ok(Explanation { assumed, ..nameless })
}

/// Explains a question without a server: `policy explain` offline. Names that are left out are none.
pub fn explain_query(policy: &ActivePolicy, asked: &ExplainRequest) -> Result<Explanation, Error> {
    let dns = asked.dns.iter().flatten().map(|name| DnsName::parse(name));
    let dns: Result<Vec<DnsName>, _> = dns.collect();
    let profile = asked.profile.clone().unwrap_or_else(|| DEFAULT_PROFILE.to_owned());
    let validity = policy
        .set()
        .template(&asked.resource, &profile)
        .ok_or_else(|| Error::NotFound(format!("profile {profile:?}")))?
        .effective_validity(None)?;
    let attestor = if asked.principal == asked.resource { TOKEN } else { SVID };
    let context = IssueContext {
        attestor,
        dns: dns?,
        ip: asked.ip.clone().unwrap_or_default(),
        key_type: KeyType::EcdsaP256,
        profile,
        validity_seconds: validity.as_secs(),
    };
    let extent = asked.extent.unwrap_or(RevocationExtent::Identity);
    let action = action(&asked.action, context, extent).ok_or_else(|| Error::Invalid {
        why: format!("{:?} is no action of the schema", asked.action),
        next_step: Some(
            "issue, renew, revoke, deny, allow, create-token and the others of schema.cedarschema"
                .to_owned(),
        ),
    })?;
    let resource = action.concerns_an_identity().then(|| asked.resource.clone());
    let query = Query { principal: Principal::of(&asked.principal), action, resource };
    let decision = policy.decide(&query);
    let row = policy.set().workloads().row(&asked.resource).map(|row| row.id.clone());
    if decision.allowed {
        let reason = format!("permitted by policy {}", decision.policies.join(", "));
        return Ok(Explanation {
            allowed: true,
            policies: decision.policies,
            row,
            reason,
            assumed: None,
            next_step: None,
        });
    }
    let mut denied = explain(&query, &decision, policy);
    // Where it is this very question that would tell more, it has told all.
    if denied.next_step.as_ref().is_some_and(|step| step.contains("policy explain")) {
        denied.next_step = Some(PERMIT_IT.to_owned());
    }
    Ok(refused(denied))
}

const PERMIT_IT: &str = "if it is to be allowed, write a policy that permits it into a .cedar file of \
                         the folder; then: countersign policy check DIR; countersign policy \
                         apply DIR";

fn refused(denied: Denied) -> Explanation {
    let Denied { reason, policies, row, next_step } = denied;
    Explanation { allowed: false, policies, row, reason, assumed: None, next_step }
}

/// The event and effect that put a policy set into force.
pub(crate) fn policy_change(
    set: &PolicySet,
    expected: Option<Hash>,
    by: &Act<'_>,
) -> (EventDraft, Effect) {
    let hash = *set.hash();
    let detail = serde_json::json!({
        "files": set.files().keys().collect::<Vec<_>>(),
        "hash": format!("{hash:?}"),
    });
    let event = EventDraft::new(event::POLICY_CHANGE, by, "policies", &detail);
    let files = serde_json::to_string(set.files()).expect("files are plain text");
    (event, Effect::ActivatePolicy { expected, hash, files })
}

fn shown_policy(set: &PolicySet) -> api::ActivePolicy {
    api::ActivePolicy { hash: format!("{:?}", set.hash()), files: set.files().clone() }
}

fn action(name: &str, context: IssueContext, extent: RevocationExtent) -> Option<Action> {
    let plain = |text: &str| text.replace(['-', '_'], "").to_lowercase();
    Action::each(context, extent).into_iter().find(|action| plain(action.name()) == plain(name))
}

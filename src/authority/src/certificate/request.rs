//! The way of a certificate, as types: each is made by one step only, and consumed by the next.
//!
//! `Asked` (parsed) → [`Authorized`] (policy said yes) → [`Prepared`] (profile applied, linted) →
//! [`Logged`](super::logged::Logged) (stands in the log) → `issuer::Issued` (signed). Skipping a step does not compile.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::IssueRequest;
use identity::{SerialNumber, SpiffeId, TrustDomain};
use issuance::{
    CertificateRequest, DnsName, EndEntity, IssuerCertificate, LintedTbs, Profile, RequestRule,
};
use serde::Serialize;
use time::OffsetDateTime;
use tlog::Hash;

use crate::attest::{Attested, Purpose};
use crate::error::Error;
use crate::event::{Act, EventDraft, ISSUE, RENEW};
use crate::explanation::{claimed, explain};
use crate::facts::{Facts, Names, NamesFrom};
use crate::limits;
use crate::own_names::OwnNames;
use crate::policy::{
    Action, ActivePolicy, DEFAULT_PROFILE, Decision, IssueContext, NotPermitted, Principal, Query,
};
use crate::sequencer::{AllowedUnder, CertificateMember, Consumes, IdempotencyKey, RecordDraft};

/// A request for a certificate whose possession is proved and whose names are well formed.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) request: CertificateRequest,
    pub(crate) spiffe_id: Option<SpiffeId>,
    /// None where nobody spoke of names.
    names: Option<Names>,
    profile: Option<String>,
    validity: Option<Duration>,
}

impl Asked {
    /// Parses CSR and names. Every name from request and CSR is collected here, once, in one
    /// order; policy sees them all.
    pub(crate) fn parse(body: &IssueRequest, trust_domain: &TrustDomain) -> Result<Self, Error> {
        let request = CertificateRequest::parse_pem(&body.csr).inspect_err(count_limits)?;
        let names = request.names();
        let spiffe_id = match (&body.spiffe_id, &names.spiffe_id) {
            (Some(asked), Some(in_csr)) if asked != in_csr => {
                return Err(issuance::Error::Request(RequestRule::Names(format!(
                    "it names {in_csr}, but {asked} is asked for"
                )))
                .into());
            }
            (asked, in_csr) => asked.clone().or_else(|| in_csr.clone()),
        };
        if let Some(foreign) = spiffe_id.as_ref().filter(|id| !id.is_member_of(trust_domain)) {
            return Err(Error::Invalid {
                why: format!("{foreign} is not in trust domain {trust_domain}"),
                next_step: Some(format!("ask for spiffe://{trust_domain}{}", foreign.path())),
            });
        }
        let (asked_dns, asked_ip) = (body.dns.iter().flatten(), body.ip.iter().flatten());
        let count = asked_dns.clone().count() + asked_ip.clone().count();
        let count = count + names.dns.len() + names.ip.len();
        if count > MAX_NAMES || body.profile.as_ref().is_some_and(|name| name.len() > MAX_PROFILE) {
            match count > MAX_NAMES {
                true => limits::CERTIFICATE_NAMES.reached(),
                false => limits::PROFILE_NAME.reached(),
            }
            return Err(Error::Invalid {
                why: format!(
                    "a certificate has at most {MAX_NAMES} names, a profile's name {MAX_PROFILE} bytes"
                ),
                next_step: Some("ask for fewer".to_owned()),
            });
        }
        let mut dns = names.dns.clone();
        for name in asked_dns {
            dns.push(DnsName::parse(name)?);
        }
        let ip = names.ip.iter().chain(asked_ip).copied().collect();
        let names = Names { dns: unique(dns), ip: unique(ip) };
        let is_silent = body.dns.is_none() && body.ip.is_none() && names.is_empty();
        Ok(Self {
            spiffe_id,
            names: (!is_silent).then_some(names),
            profile: body.profile.clone(),
            validity: body.ttl.map(|ttl| ttl.0),
            request,
        })
    }

    /// SHA-256 over everything asked, for `Idempotency-Key`.
    pub(crate) fn hash(&self) -> Hash {
        let Names { dns, ip } = self.names.clone().unwrap_or_default();
        let mut rest =
            format!("{:?} {dns:?} {ip:?} {:?} {:?}", self.spiffe_id, self.profile, self.validity);
        // Kept hashes know no difference between silence and this.
        if self.names.as_ref().is_some_and(Names::is_empty) {
            rest.push_str(" nameless");
        }
        Hash::of(&[self.request.hash().as_bytes(), rest.as_bytes()].concat())
    }

    /// The same with the names that a certificate made of it has, where the row chose them: it may
    /// have been changed since.
    pub(crate) fn named_as(mut self, facts: &str) -> Self {
        let facts = serde_json::from_str::<Facts>(facts).ok();
        self.names = self.names.or_else(|| facts.map(|facts| facts.names()));
        self
    }

    /// Asks policy. What a renewal leaves out is as before, but for names that the row chose.
    ///
    /// Where nobody spoke of names, they are those of the row that may be had: what would be allowed
    /// without names is not refused for those that were not asked for. But no renewal loses the names
    /// that it had: refused, it is noticed while the certificate of before is good.
    pub(crate) fn authorize(
        self,
        attested: Attested,
        policy: &Arc<ActivePolicy>,
        revocation_epoch: u64,
        own_names: &OwnNames,
    ) -> Result<Authorized, Error> {
        let earlier = attested.earlier.as_ref();
        let earlier = earlier.filter(|earlier| earlier.names_from == NamesFrom::Request);
        let chosen = self.names.clone().or_else(|| earlier.map(|earlier| earlier.names.clone()));
        if let Some(names) = chosen {
            let names = (names, NamesFrom::Request);
            return self.authorize_named(names, attested, policy, revocation_epoch, own_names);
        }
        let spiffe_id = self.spiffe_id.as_ref().unwrap_or(&attested.spiffe_id);
        let listed = own_names.without(listed(spiffe_id, policy));
        let has_names = attested.earlier.as_ref().is_some_and(|it| it.names != Names::default());
        let of_row = |names| (names, NamesFrom::Row);
        if !listed.is_empty() {
            let (asked, attested) = (self.clone(), attested.clone());
            let names = of_row(listed);
            match asked.authorize_named(names, attested, policy, revocation_epoch, own_names) {
                Err(Error::Denied(_)) if !has_names => {}
                authorized => return authorized,
            }
        }
        let none = of_row(Names::default());
        self.authorize_named(none, attested, policy, revocation_epoch, own_names)
    }

    fn authorize_named(
        self,
        (names, names_from): (Names, NamesFrom),
        attested: Attested,
        policy: &Arc<ActivePolicy>,
        revocation_epoch: u64,
        own_names: &OwnNames,
    ) -> Result<Authorized, Error> {
        let earlier = attested.earlier.as_ref();
        let Names { dns, ip } = names;
        if attested.principal != Principal::Authority {
            own_names.refuse(&dns, &ip).map_err(|claim| {
                Error::Denied(Box::new(claimed(&claim, &attested.spiffe_id, policy)))
            })?;
        }
        let profile = self
            .profile
            .or_else(|| earlier.map(|earlier| earlier.profile.clone()))
            .unwrap_or_else(|| DEFAULT_PROFILE.to_owned());
        let spiffe_id = self.spiffe_id.unwrap_or_else(|| attested.spiffe_id.clone());
        let template = find_profile(policy, &spiffe_id, &profile)?;
        let validity = match (self.validity, earlier) {
            // Nobody asked for the earlier validity: where the profile shrank, it shrinks too.
            (None, Some(earlier)) => template.nearest_validity(earlier.validity_seconds),
            (asked, _) => template.effective_validity(asked)?,
        };
        let context = IssueContext {
            attestor: attested.attestor,
            dns,
            ip,
            key_type: self.request.key_type(),
            profile,
            validity_seconds: validity.as_secs(),
        };
        let action = match attested.purpose {
            Purpose::Issue => Action::Issue(context.clone()),
            Purpose::Renew { .. } => Action::Renew(context.clone()),
        };
        let query =
            Query { principal: attested.principal.clone(), action, resource: Some(spiffe_id) };
        let decision = policy.decide(&query);
        if !decision.allowed {
            return Err(Error::Denied(Box::new(explain(&query, &decision, policy))));
        }
        Ok(Authorized {
            request: self.request,
            spiffe_id: query.resource.expect("set above"),
            context,
            names_from,
            attested,
            decision,
            policy: Arc::clone(policy),
            revocation_epoch,
        })
    }
}

/// A request that policy allowed, with the reason.
#[derive(Debug)]
pub(crate) struct Authorized {
    request: CertificateRequest,
    spiffe_id: SpiffeId,
    context: IssueContext,
    names_from: NamesFrom,
    attested: Attested,
    decision: Decision,
    policy: Arc<ActivePolicy>,
    revocation_epoch: u64,
}

impl Authorized {
    pub(crate) fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    /// Refuses names that peers would refuse; of its own, the CA says it when it is asked whether it
    /// is ready.
    pub(crate) fn require_permitted(
        &self,
        refuse: impl FnOnce(&[DnsName], &[IpAddr]) -> Result<(), NotPermitted>,
    ) -> Result<(), Error> {
        if self.attested.principal == Principal::Authority {
            return Ok(());
        }
        let refused = refuse(&self.context.dns, &self.context.ip);
        refused.map_err(|it| Error::Denied(Box::new(it.denied(&self.spiffe_id, &self.policy))))
    }

    /// Applies the profile and lints.
    pub(crate) fn prepare(
        self,
        issuer: &IssuerCertificate,
        serial_number: SerialNumber,
        now: OffsetDateTime,
        crl_url: Option<&str>,
    ) -> Result<Prepared, Error> {
        let template = find_profile(&self.policy, &self.spiffe_id, &self.context.profile)?;
        let linted = template.prepare(
            &EndEntity {
                spiffe_id: &self.spiffe_id,
                dns: &self.context.dns,
                ip: &self.context.ip,
                public_key: self.request.public_key(),
                key_type: self.request.key_type(),
                serial_number,
                validity: Some(Duration::from_secs(self.context.validity_seconds)),
                now,
                crl_url,
            },
            issuer,
        )?;
        Ok(Prepared {
            authorized: self,
            linted,
            serial_number,
            issuer_key_hash: *issuer.key_hash(),
        })
    }
}

/// Linted bytes that policy allowed.
#[derive(Debug)]
pub(crate) struct Prepared {
    authorized: Authorized,
    linted: LintedTbs,
    serial_number: SerialNumber,
    issuer_key_hash: Hash,
}

/// The `issue` or `renew` event's detail; fields are sorted.
#[derive(Serialize)]
struct IssueDetail<'a> {
    attestor: &'a str,
    /// The first certificate of the line of what a `renew` event renews.
    #[serde(skip_serializing_if = "Option::is_none")]
    lineage: Option<String>,
    names_from: NamesFrom,
    not_after: i64,
    policies: &'a [String],
    policy_set: String,
    profile: &'a str,
    /// The serial number of what a `renew` event renews.
    #[serde(skip_serializing_if = "Option::is_none")]
    renews: Option<String>,
    serial_number: String,
    tbs_sha256: String,
    /// By which the use of a bootstrap token is found again.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_sha256: Option<String>,
}

impl Prepared {
    /// Makes it ready for the log: the event that stands before the leaf, and the record.
    pub(crate) fn into_member(
        self,
        request_id: &str,
        idempotency: Option<IdempotencyKey>,
    ) -> CertificateMember {
        let Self { authorized, linted, serial_number, issuer_key_hash } = self;
        let Authorized { request, spiffe_id, context, attested, decision, policy, .. } = authorized;
        let names_from = authorized.names_from;
        let (kind, lineage) = match attested.purpose {
            Purpose::Issue => (ISSUE, serial_number),
            Purpose::Renew { lineage } => (RENEW, lineage),
        };
        let detail = IssueDetail {
            attestor: attested.attestor,
            lineage: (kind == RENEW).then(|| lineage.to_string()),
            names_from,
            not_after: linted.not_after().unix_timestamp(),
            policies: &decision.policies,
            policy_set: format!("{:?}", policy.set().hash()),
            profile: &context.profile,
            renews: match &attested.consumes {
                Consumes::Renewal { serial_number, .. } => Some(serial_number.to_string()),
                Consumes::Nothing | Consumes::Token { .. } => None,
            },
            serial_number: serial_number.to_string(),
            tbs_sha256: format!("{:?}", Hash::of(linted.der())),
            token_sha256: match &attested.consumes {
                Consumes::Token { hash, .. } => Some(format!("{hash:?}")),
                Consumes::Nothing | Consumes::Renewal { .. } => None,
            },
        };
        let by = Act { actor: attested.principal.name(), request_id };
        let event = EventDraft::new(kind, &by, spiffe_id.as_str(), &detail);
        let facts = Facts {
            attested_at: attested.attested_at,
            attestor: attested.attestor.to_owned(),
            dns: context.dns,
            ip: context.ip,
            lineage,
            names_from: Some(names_from),
            policies: decision.policies,
            principal: attested.principal.name().to_owned(),
            validity_seconds: context.validity_seconds,
        };
        CertificateMember {
            event,
            issuer_key_hash,
            record: RecordDraft {
                serial_number,
                spiffe_id,
                profile: context.profile,
                not_before: linted.not_before().unix_timestamp(),
                not_after: linted.not_after().unix_timestamp(),
                request_hash: *request.hash(),
                facts: serde_json::to_string(&facts).expect("facts are plain data"),
            },
            consumes: attested.consumes,
            idempotency,
            allowed_under: AllowedUnder {
                policy_hash: *policy.set().hash(),
                revocation_epoch: authorized.revocation_epoch,
            },
            tbs: linted.der().to_vec(),
        }
    }
}

/// The names in the row of an identity; none where a certificate cannot have so many.
pub(crate) fn listed(spiffe_id: &SpiffeId, policy: &ActivePolicy) -> Names {
    let row = policy.set().workloads().row(spiffe_id);
    let row = row.filter(|row| row.dns.len() + row.ip.len() <= MAX_NAMES);
    row.map(|row| Names { dns: unique(row.dns.clone()), ip: unique(row.ip.clone()) })
        .unwrap_or_default()
}

fn find_profile<'a>(
    policy: &'a ActivePolicy,
    spiffe_id: &SpiffeId,
    name: &str,
) -> Result<&'a Profile, Error> {
    policy.set().template(spiffe_id, name).ok_or_else(|| Error::Invalid {
        why: format!("there is no profile {name:?}"),
        next_step: Some("profiles.json of the active policy set lists them".to_owned()),
    })
}

fn count_limits(error: &issuance::Error) {
    match error {
        issuance::Error::Request(RequestRule::TooLarge) => limits::CERTIFICATE_REQUEST.reached(),
        issuance::Error::Request(RequestRule::TooManyNames) => limits::CERTIFICATE_NAMES.reached(),
        _ => {}
    }
}

const MAX_NAMES: usize = limits::CERTIFICATE_NAMES.most();
const MAX_PROFILE: usize = limits::PROFILE_NAME.most();

fn unique<T: PartialEq>(values: Vec<T>) -> Vec<T> {
    let mut kept: Vec<T> = Vec::with_capacity(values.len());
    for value in values {
        if !kept.contains(&value) {
            kept.push(value);
        }
    }
    kept
}

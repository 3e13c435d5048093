//! What operators, owners and auditors do beside issuing: each call asks the same policy.

use std::collections::BTreeMap;

use api::{
    BootstrapToken, CertificateFilter, CertificateRecord, Denial, DenyRequest, ExplainRequest,
    Explanation, IssuerStatus, NewToken, Page, RenewalWindow, Revocation, RevokeRequest, Secret,
    Status, TokenRecord, TokenRequest,
};
use aws_lc_rs::rand;
use data_encoding::HEXLOWER;
use identity::{SerialNumber, SpiffeId, VerifiedSvid};
use issuance::{DnsName, KeyType, RevocationReason};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error as ValueError;
use tlog::Hash;

use crate::attest::{SVID, refused};
use crate::authority::{Authority, Caller, issuer_id, unexpected};
use crate::clock::from_milliseconds;
use crate::error::Error;
use crate::event::{self, Act, EventDraft};
use crate::policy::{
    Action, ActivePolicy, DEFAULT_PROFILE, IssueContext, PolicySet, Principal, Query,
};
use crate::present;
use crate::request::explain;
use crate::sequencer::{
    ActMember, Conflict, Effect, Member, Outcome, RevocationTarget, TokenDraft, TokenRow,
};
use crate::store::{Record, RecordKey, RecordQuery, RevocationRow};

impl Authority {
    /// Revokes one certificate, or all of an identity issued so far. Doing it twice changes
    /// nothing.
    pub async fn revoke(
        &self,
        caller: &Caller,
        request: &RevokeRequest,
    ) -> Result<Revocation, Error> {
        self.authenticated(caller)?;
        let reason = reason(&request.reason)?;
        let (target, spiffe_id) = self.revocation_target(&request.target).await?;
        let policy_hash = match self.authorize(caller, Action::Revoke, Some(&spiffe_id)) {
            // A serial number that is not theirs does not exist for them.
            Err(Error::Denied(_)) if matches!(target, RevocationTarget::Serial(_)) => {
                return Err(Error::NotFound(format!("certificate {}", request.target)));
            }
            authorized => authorized?,
        };
        let covered = self.covered(&target, &spiffe_id).await?;
        let mut done = Revocation {
            target: request.target.clone(),
            spiffe_id: spiffe_id.clone(),
            reason: reason.clone(),
            log_index: None,
            certificates: covered,
        };
        if request.dry_run || (covered == 0 && self.is_revoked(&target)) {
            return Ok(done);
        }
        let detail = match &target {
            RevocationTarget::Identity(_) => serde_json::json!({ "reason": reason }),
            RevocationTarget::Serial(serial_number) => {
                serde_json::json!({ "reason": reason, "serial_number": serial_number.to_string() })
            }
        };
        let effect = Effect::Revoke { target, reason };
        let draft = self.draft(caller, event::REVOKE, spiffe_id.as_str(), &detail);
        done.log_index = Some(self.act(draft, effect, policy_hash).await?);
        metrics::counter!("countersign_revocations_total").increment(1);
        Ok(done)
    }

    /// Denies an identity until it is allowed again, and revokes its certificates.
    pub async fn deny(&self, caller: &Caller, request: &DenyRequest) -> Result<Denial, Error> {
        let reason = reason(&request.reason)?;
        self.require_member(&request.spiffe_id)?;
        let policy_hash = self.authorize(caller, Action::Deny, Some(&request.spiffe_id))?;
        if let Some(standing) = self.standing_denial(&request.spiffe_id).await? {
            return Ok(standing);
        }
        let detail = serde_json::json!({ "reason": reason });
        let draft = self.draft(caller, event::DENY, request.spiffe_id.as_str(), &detail);
        let effect = Effect::Deny { spiffe_id: request.spiffe_id.clone(), reason };
        self.act(draft, effect, policy_hash).await?;
        let made = self.standing_denial(&request.spiffe_id).await?;
        made.ok_or_else(|| Error::NotFound("denial: it was lifted at once".to_owned()))
    }

    /// Lifts a denial. Certificates that it revoked stay revoked.
    pub async fn allow(&self, caller: &Caller, id: &str) -> Result<(), Error> {
        self.authenticated(caller)?;
        let none = || Error::NotFound(format!("denial {id}"));
        let denial = self.denials_in_force().await?.into_iter().find(|denial| denial.id == id);
        let denial = denial.ok_or_else(none)?;
        let policy_hash = match self.authorize(caller, Action::Allow, Some(&denial.spiffe_id)) {
            Err(Error::Denied(_)) => return Err(none()),
            authorized => authorized?,
        };
        let detail = serde_json::json!({ "denied_at": id });
        let draft = self.draft(caller, event::ALLOW, denial.spiffe_id.as_str(), &detail);
        self.act(draft, Effect::Allow(denial.spiffe_id), policy_hash).await.map(drop)
    }

    /// Denied identities.
    pub async fn denials(&self, caller: &Caller) -> Result<Page<Denial>, Error> {
        self.authorize(caller, Action::ListInventory, None)?;
        Ok(Page { items: self.denials_in_force().await?, next: None })
    }

    /// Makes a one-time bootstrap token; shown once, kept as a hash.
    pub async fn create_token(
        &self,
        caller: &Caller,
        request: &TokenRequest,
    ) -> Result<NewToken, Error> {
        self.require_member(&request.spiffe_id)?;
        let policy_hash = self.authorize(caller, Action::CreateToken, Some(&request.spiffe_id))?;
        let seconds = request.ttl.map_or(TOKEN_SECONDS, |ttl| ttl.0.as_secs());
        if seconds == 0 || seconds > TOKEN_SECONDS {
            return Err(Error::Invalid {
                why: "a token lives 1 second to 15 minutes".to_owned(),
                next_step: Some("ask for ttl 15m or less".to_owned()),
            });
        }
        let mut secret = [0; 32];
        let mut id = [0; 8];
        rand::fill(&mut secret)
            .and_then(|()| rand::fill(&mut id))
            .map_err(|_| crate::signer::SignerError::Refused("no randomness".to_owned()))?;
        let hash = Hash::of(&secret);
        let expires_at = self.clock().unix_milliseconds() + seconds * 1000;
        let token = TokenDraft {
            hash,
            id: HEXLOWER.encode(&id),
            spiffe_id: request.spiffe_id.clone(),
            expires_at,
            key_hash: request.key_sha256.as_deref().map(key_hash).transpose()?,
        };
        let detail = serde_json::json!({
            "expires_at": expires_at,
            "id": token.id,
            "token_sha256": format!("{hash:?}"),
        });
        let made = NewToken {
            id: token.id.clone(),
            token: Secret::new(BootstrapToken::new(secret, self.trust().state().pin()).expose()),
            spiffe_id: token.spiffe_id.clone(),
            expires_at: from_milliseconds(expires_at),
            trust_pin: self.trust().state().pin().to_string(),
        };
        let draft = self.draft(caller, event::TOKEN_CREATE, token.spiffe_id.as_str(), &detail);
        self.act(draft, Effect::CreateToken(token), policy_hash).await?;
        Ok(made)
    }

    /// The newest bootstrap tokens.
    pub async fn tokens(&self, caller: &Caller) -> Result<Page<TokenRecord>, Error> {
        self.authorize(caller, Action::ReadTokens, None)?;
        let now = self.clock().unix_milliseconds();
        let rows = self.store().tokens(TOKENS_SHOWN).await?;
        Ok(Page { items: rows.into_iter().map(|row| token_record(row, now)).collect(), next: None })
    }

    /// Withdraws a bootstrap token.
    pub async fn revoke_token(&self, caller: &Caller, id: &str) -> Result<(), Error> {
        let policy_hash = self.authorize(caller, Action::ReadTokens, None)?;
        let rows = self.store().tokens(TOKENS_SHOWN).await?;
        let token = rows.into_iter().find(|row| row.id == id);
        let token = token.ok_or_else(|| Error::NotFound(format!("token {id}")))?;
        if token.revoked || token.used.is_some() {
            return Ok(());
        }
        let detail = serde_json::json!({ "id": id });
        let draft = self.draft(caller, event::TOKEN_REVOKE, token.spiffe_id.as_str(), &detail);
        self.act(draft, Effect::RevokeToken { id: id.to_owned() }, policy_hash).await.map(drop)
    }

    /// One certificate's record; for others than its owner and operators it does not exist.
    pub async fn certificate(
        &self,
        caller: &Caller,
        serial_number: &SerialNumber,
    ) -> Result<CertificateRecord, Error> {
        let record = self.readable(caller, serial_number).await?;
        self.show(record)
    }

    /// When a certificate is to be renewed.
    pub async fn renewal(
        &self,
        caller: &Caller,
        serial_number: &SerialNumber,
    ) -> Result<RenewalWindow, Error> {
        let record = self.readable(caller, serial_number).await?;
        let (not_before, not_after) =
            (present::seconds(record.not_before), present::seconds(record.not_after));
        Ok(present::renewal_window(not_before, not_after))
    }

    /// A page of certificates, newest first.
    pub async fn certificates(
        &self,
        caller: &Caller,
        filter: &CertificateFilter,
    ) -> Result<Page<CertificateRecord>, Error> {
        self.authorize(caller, Action::ListInventory, None)?;
        let limit = filter.limit.unwrap_or(100).clamp(1, 1000);
        let mut query = self.record_query(filter)?;
        let horizon = filter.expiring.map(|within| {
            self.clock().now().unix_timestamp().saturating_add_unsigned(within.0.as_secs())
        });
        let mut items = Vec::new();
        loop {
            let page = self.store().records(query.clone()).await?;
            let last_page = page.len() < query.limit as usize;
            for record in page {
                query.before = Some(record.leaf_index);
                let matches = filter.id.as_ref().is_none_or(|glob| {
                    matches_glob(glob.as_bytes(), record.spiffe_id.as_str().as_bytes())
                });
                if !matches || horizon.is_some_and(|horizon| record.not_after > horizon) {
                    continue;
                }
                let shown = self.show(record)?;
                let revoked = shown.state == api::CertificateState::Revoked;
                if filter.revoked && !revoked || filter.expiring.is_some() && revoked {
                    continue;
                }
                items.push(shown);
                if items.len() == limit as usize {
                    let next = query.before.map(|before| before.to_string());
                    return Ok(Page { items, next });
                }
            }
            if last_page {
                return Ok(Page { items, next: None });
            }
        }
    }

    /// The active policy set.
    pub fn policies(&self, caller: &Caller) -> Result<api::ActivePolicy, Error> {
        self.authorize(caller, Action::ReadPolicy, None)?;
        Ok(shown_policy(self.policy().set()))
    }

    /// Replaces the policy set if `expected` is still the hash of the one in force.
    pub async fn replace_policies(
        &self,
        caller: &Caller,
        files: &BTreeMap<String, String>,
        expected: &str,
    ) -> Result<api::ActivePolicy, Error> {
        let policy_hash = self.authorize(caller, Action::ChangePolicy, None)?;
        let set = PolicySet::parse(files)?;
        if expected != format!("{policy_hash:?}") {
            return Err(Error::Conflict(Conflict::PolicyMoved));
        }
        if set.hash() == &policy_hash {
            return Ok(shown_policy(&set));
        }
        let (draft, effect) = policy_change(&set, Some(policy_hash), &self.by(caller));
        self.act(draft, effect, policy_hash).await?;
        Ok(shown_policy(self.policy().set()))
    }

    /// Which policy decides, and why. A renewal or an issue is explained as `token` attestation
    /// would see it.
    pub fn explain(&self, caller: &Caller, asked: &ExplainRequest) -> Result<Explanation, Error> {
        self.authorize(caller, Action::ReadPolicy, None)?;
        explain_query(&self.policy(), asked)
    }

    /// How the CA is doing.
    pub async fn status(&self, caller: &Caller) -> Result<Status, Error> {
        self.authorize(caller, Action::ReadStatus, None)?;
        let head = self.store().head().await?;
        let checkpoint = self.store().checkpoint().await?;
        let certificate = self.issuer().certificate();
        let policy = self.policy();
        Ok(Status {
            trust_domain: self.trust_domain().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            trust_sequence: self.trust().state().sequence,
            trust_pin: self.trust().state().pin().to_string(),
            log_size: head.edge.size(),
            checkpoint_size: checkpoint.map_or(0, |checkpoint| checkpoint.size),
            policy_hash: format!("{:?}", policy.set().hash()),
            workloads: policy.set().workloads().rows().count() as u64,
            denied: self.folded().revocations.denied().count() as u64,
            issuers: vec![IssuerStatus {
                id: issuer_id(certificate.key_hash()),
                serial_number: *certificate.serial_number(),
                not_after: certificate.not_after(),
            }],
        })
    }

    /// Whether the caller may read the log.
    pub fn may_read_log(&self, caller: &Caller) -> Result<(), Error> {
        self.authorize(caller, Action::ReadLog, None).map(drop)
    }

    /// The newest checkpoint, as a signed note.
    pub async fn checkpoint(&self) -> Result<Vec<u8>, Error> {
        let checkpoint = self.store().checkpoint().await?;
        let none = || Error::NotFound("checkpoint yet".to_owned());
        Ok(checkpoint.ok_or_else(none)?.note)
    }

    /// A tile of the log.
    pub async fn tile(&self, tile: tlog::Tile) -> Result<Vec<u8>, Error> {
        let none = || Error::NotFound(format!("{} in a log of this size", tile.path()));
        self.store().tile(tile).await?.ok_or_else(none)
    }

    /// Asks policy on behalf of an authenticated caller; returns the policy set that said yes.
    pub(crate) fn authorize(
        &self,
        caller: &Caller,
        action: Action,
        resource: Option<&SpiffeId>,
    ) -> Result<Hash, Error> {
        let svid = self.authenticated(caller)?;
        self.require_live(svid)?;
        let policy = self.policy();
        let principal = Principal::of(svid.spiffe_id());
        let query = Query { principal, action, resource: resource.cloned() };
        let decision = policy.decide(&query);
        if !decision.allowed {
            return Err(Error::Denied(Box::new(explain(&query, &decision, &policy))));
        }
        Ok(*policy.set().hash())
    }

    fn authenticated<'a>(&self, caller: &'a Caller) -> Result<&'a VerifiedSvid, Error> {
        caller.svid.as_ref().ok_or_else(|| {
            refused(
                "this needs a client certificate, and this connection has none",
                "connect with an SVID of this trust domain; operators: `countersign init` made one",
            )
        })
    }

    /// Logs an act with its effect, and catches up before it answers.
    async fn act(
        &self,
        event: EventDraft,
        effect: Effect,
        policy_hash: Hash,
    ) -> Result<u64, Error> {
        let member = ActMember { event, effect, policy_hash: Some(policy_hash) };
        let outcome = self.submit(Member::Act(Box::new(member))).await?;
        self.refresh().await?;
        match outcome {
            Outcome::Done { log_index } => Ok(log_index),
            Outcome::Moved => Err(Error::Conflict(Conflict::PolicyMoved)),
            Outcome::Refused(conflict) => Err(Error::Conflict(conflict)),
            other => Err(unexpected(&other)),
        }
    }

    fn by<'a>(&self, caller: &'a Caller) -> Act<'a> {
        Act { actor: caller.name(), request_id: &caller.request_id }
    }

    fn draft(
        &self,
        caller: &Caller,
        kind: &'static str,
        subject: &str,
        detail: &serde_json::Value,
    ) -> EventDraft {
        EventDraft::new(kind, &self.by(caller), subject, detail)
    }

    async fn readable(
        &self,
        caller: &Caller,
        serial_number: &SerialNumber,
    ) -> Result<Record, Error> {
        self.authenticated(caller)?;
        let none = || Error::NotFound(format!("certificate {serial_number}"));
        let record = self.store().record(RecordKey::SerialNumber(*serial_number)).await?;
        let record = record.ok_or_else(none)?;
        match self.authorize(caller, Action::ReadInventory, Some(&record.spiffe_id)) {
            Err(Error::Denied(_)) => Err(none()),
            other => other.map(|_| record),
        }
    }

    fn show(&self, record: Record) -> Result<CertificateRecord, Error> {
        let revoked = self
            .folded()
            .revocations
            .check(&record.spiffe_id, &record.serial_number, Some(record.leaf_index))
            .is_err();
        let now = self.clock().now().unix_timestamp();
        present::record(record, revoked, now, self.issuer().certificate().der())
    }

    async fn revocation_target(&self, target: &str) -> Result<(RevocationTarget, SpiffeId), Error> {
        if target.starts_with("spiffe:") {
            let spiffe_id = SpiffeId::parse(target)
                .map_err(|error| Error::Invalid { why: error.to_string(), next_step: None })?;
            self.require_member(&spiffe_id)?;
            return Ok((RevocationTarget::Identity(spiffe_id.clone()), spiffe_id));
        }
        let serial_number: SerialNumber =
            target.parse().map_err(|error: identity::Error| Error::Invalid {
                why: error.to_string(),
                next_step: Some("give a serial number in hex, or a SPIFFE ID".to_owned()),
            })?;
        let record = self.store().record(RecordKey::SerialNumber(serial_number)).await?;
        let record =
            record.ok_or_else(|| Error::NotFound(format!("certificate {serial_number}")))?;
        Ok((RevocationTarget::Serial(serial_number), record.spiffe_id))
    }

    /// How many unexpired certificates a revocation would newly cover.
    async fn covered(&self, target: &RevocationTarget, spiffe_id: &SpiffeId) -> Result<u64, Error> {
        let now = self.clock().now().unix_timestamp();
        let live = |record: &Record| {
            let checked = self.folded().revocations.check(
                &record.spiffe_id,
                &record.serial_number,
                Some(record.leaf_index),
            );
            record.not_after >= now && record.certificate.is_some() && checked.is_ok()
        };
        if let RevocationTarget::Serial(serial_number) = target {
            let record = self.store().record(RecordKey::SerialNumber(*serial_number)).await?;
            return Ok(u64::from(record.as_ref().is_some_and(live)));
        }
        let mut query = RecordQuery {
            spiffe_id: Some(spiffe_id.clone()),
            ends_after: Some(now - 1),
            limit: PAGE,
            ..RecordQuery::default()
        };
        let mut covered = 0;
        loop {
            let page = self.store().records(query.clone()).await?;
            covered += page.iter().filter(|record| live(record)).count() as u64;
            match page.last() {
                Some(last) if page.len() == PAGE as usize => query.before = Some(last.leaf_index),
                _ => return Ok(covered),
            }
        }
    }

    fn is_revoked(&self, target: &RevocationTarget) -> bool {
        let folded = self.folded();
        match target {
            RevocationTarget::Serial(serial) => folded.revocations.is_serial_revoked(serial),
            RevocationTarget::Identity(id) => {
                folded.revocations.identities().any(|(revoked, _)| revoked == id)
            }
        }
    }

    fn require_member(&self, spiffe_id: &SpiffeId) -> Result<(), Error> {
        if spiffe_id.is_member_of(self.trust_domain()) {
            return Ok(());
        }
        Err(Error::Invalid {
            why: format!("{spiffe_id} is not in trust domain {}", self.trust_domain()),
            next_step: None,
        })
    }

    async fn standing_denial(&self, spiffe_id: &SpiffeId) -> Result<Option<Denial>, Error> {
        let denials = self.denials_in_force().await?;
        Ok(denials.into_iter().find(|denial| denial.spiffe_id == *spiffe_id))
    }

    async fn denials_in_force(&self) -> Result<Vec<Denial>, Error> {
        let mut standing: BTreeMap<SpiffeId, RevocationRow> = BTreeMap::new();
        for row in self.store().revocation_rows().await? {
            match (row.kind.as_str(), SpiffeId::parse(&row.target)) {
                (event::DENY, Ok(id)) => drop(standing.insert(id, row)),
                (event::ALLOW, Ok(id)) => drop(standing.remove(&id)),
                _ => {}
            }
        }
        let denial = |(spiffe_id, row): (SpiffeId, RevocationRow)| Denial {
            id: row.log_index.to_string(),
            spiffe_id,
            reason: row.reason,
            at: from_milliseconds(row.at),
        };
        Ok(standing.into_iter().map(denial).collect())
    }

    fn record_query(&self, filter: &CertificateFilter) -> Result<RecordQuery, Error> {
        let now = self.clock().now();
        let live_only = filter.revoked || filter.expiring.is_some();
        let before = filter.after.as_ref().map(|after| after.parse()).transpose();
        Ok(RecordQuery {
            // An ID without a wildcard has an index.
            spiffe_id: filter.id.as_deref().and_then(|id| SpiffeId::parse(id).ok()),
            before: before.map_err(|_| Error::Invalid {
                why: "`after` is not the `next` of a page".to_owned(),
                next_step: None,
            })?,
            ends_after: live_only.then(|| now.unix_timestamp() - 1),
            // Nothing issued longer ago than the longest validity can still be valid.
            issued_since: live_only.then(|| {
                self.clock().unix_milliseconds().saturating_sub(LONGEST_VALIDITY_MILLISECONDS)
            }),
            limit: PAGE,
        })
    }
}

/// Explains a question without a server: `policy explain` offline.
pub fn explain_query(policy: &ActivePolicy, asked: &ExplainRequest) -> Result<Explanation, Error> {
    let invalid = |why: String| Error::Invalid { why, next_step: None };
    let dns: Result<Vec<DnsName>, _> = asked.dns.iter().map(|name| DnsName::parse(name)).collect();
    let profile = asked.profile.clone().unwrap_or_else(|| DEFAULT_PROFILE.to_owned());
    let validity = policy
        .set()
        .profile(&profile)
        .ok_or_else(|| invalid(format!("there is no profile {profile:?}")))?
        .effective_validity(None)?;
    let attestor = if asked.principal == asked.resource { crate::attest::TOKEN } else { SVID };
    let context = IssueContext {
        attestor,
        dns: dns?,
        ip: asked.ip.clone(),
        key_type: KeyType::EcdsaP256,
        profile,
        validity_seconds: validity.as_secs(),
    };
    let action = action(&asked.action, context)
        .ok_or_else(|| invalid(format!("{:?} is no action of the schema", asked.action)))?;
    let concerns_all = matches!(
        action,
        Action::ChangePolicy
            | Action::ListInventory
            | Action::ReadLog
            | Action::ReadPolicy
            | Action::ReadStatus
            | Action::ReadTokens
    );
    let query = Query {
        principal: Principal::of(&asked.principal),
        action,
        resource: (!concerns_all).then(|| asked.resource.clone()),
    };
    let decision = policy.decide(&query);
    let row = policy.set().workloads().row(&asked.resource).map(|row| row.id.clone());
    if decision.allowed {
        let reason = format!("permitted by policy {}", decision.policies.join(", "));
        return Ok(Explanation {
            allowed: true,
            policies: decision.policies,
            row,
            reason,
            next_step: None,
        });
    }
    let denied = explain(&query, &decision, policy);
    Ok(Explanation {
        allowed: false,
        policies: denied.policies,
        row,
        reason: denied.reason,
        next_step: denied.next_step,
    })
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

fn action(name: &str, context: IssueContext) -> Option<Action> {
    let simple = [
        Action::Allow,
        Action::ChangePolicy,
        Action::CreateToken,
        Action::Deny,
        Action::Issue(context.clone()),
        Action::ListInventory,
        Action::ReadInventory,
        Action::ReadLog,
        Action::ReadPolicy,
        Action::ReadStatus,
        Action::ReadTokens,
        Action::Renew(context),
        Action::Revoke,
    ];
    let plain = |text: &str| text.replace(['-', '_'], "").to_lowercase();
    simple.into_iter().find(|action| plain(action.name()) == plain(name))
}

/// The reason, as RFC 5280 §5.3.1 spells it in kebab case.
fn reason(text: &str) -> Result<String, Error> {
    let parsed: Result<RevocationReason, ValueError> =
        RevocationReason::deserialize(text.into_deserializer());
    parsed.map(|_| text.to_owned()).map_err(|_| Error::Invalid {
        why: format!("{text:?} is no reason for a revocation"),
        next_step: Some(
            "use affiliation-changed, cessation-of-operation, key-compromise, \
             privilege-withdrawn, superseded or unspecified"
                .to_owned(),
        ),
    })
}

fn key_hash(hex: &str) -> Result<Hash, Error> {
    let octets = HEXLOWER.decode(hex.as_bytes()).ok();
    octets.and_then(|octets| Hash::try_from(&octets[..]).ok()).ok_or_else(|| Error::Invalid {
        why: "key_sha256 is not the hex of a SHA-256".to_owned(),
        next_step: Some("countersign token create --pin-key FILE computes it".to_owned()),
    })
}

fn token_record(row: TokenRow, now: u64) -> TokenRecord {
    let state = match (&row.used, row.revoked) {
        (Some(_), _) => "used",
        (None, true) => "revoked",
        _ if row.expires_at <= now => "expired",
        _ => "open",
    };
    TokenRecord {
        id: row.id,
        spiffe_id: row.spiffe_id,
        state: state.to_owned(),
        expires_at: from_milliseconds(row.expires_at),
    }
}

/// `*` stands for any run of characters. Time grows with the product of the lengths at most.
fn matches_glob(glob: &[u8], text: &[u8]) -> bool {
    let (mut g, mut t) = (0, 0);
    let mut retry = None;
    while t < text.len() {
        match glob.get(g) {
            Some(b'*') => {
                retry = Some((g, t));
                g += 1;
            }
            Some(byte) if *byte == text[t] => {
                g += 1;
                t += 1;
            }
            _ => match retry {
                Some((star, from)) => {
                    g = star + 1;
                    t = from + 1;
                    retry = Some((star, t));
                }
                None => return false,
            },
        }
    }
    glob[g..].iter().all(|byte| *byte == b'*')
}

/// A token's longest and usual life.
const TOKEN_SECONDS: u64 = 15 * 60;
const TOKENS_SHOWN: u32 = 1000;
/// Records read at a time.
const PAGE: u32 = 500;
/// No profile allows more than 7 days.
pub(crate) const LONGEST_VALIDITY_MILLISECONDS: u64 = 7 * 24 * 3600 * 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_runs_of_characters() {
        for (glob, text, expected) in [
            ("*", "", true),
            ("spiffe://a/*", "spiffe://a/b/c", true),
            ("*b*", "abc", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcd", false),
            ("", "a", false),
            ("ab", "ab", true),
        ] {
            assert_eq!(matches_glob(glob.as_bytes(), text.as_bytes()), expected, "{glob} {text}");
        }
    }

    #[test]
    fn a_hostile_glob_ends_soon() {
        let glob = "*a".repeat(40);
        assert!(!matches_glob(glob.as_bytes(), "a".repeat(39).as_bytes()));
    }
}

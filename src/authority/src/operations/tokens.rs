//! Bootstrap tokens: made, listed, withdrawn.

use std::collections::HashSet;

use api::{
    BootstrapToken, ExplainRequest, NewToken, Page, Secret, TokenFilter, TokenRecord, TokenRequest,
};
use aws_lc_rs::rand;
use data_encoding::HEXLOWER;
use identity::SpiffeId;
use serde::{Deserialize, Serialize};
use tlog::Hash;

use super::inventory::{MAX_PAGE, page_of};
use super::policies::explain_query;
use super::{Operations, place_after};
use crate::attest::refused;
use crate::caller::Caller;
use crate::clock::from_milliseconds;
use crate::error::Error;
use crate::event::{self, Event};
use crate::policy::{Action, ActivePolicy};
use crate::proven::made_by;
use crate::sequencer::{Conflict, Effect, IdempotencyKey, KeptRequest, TokenDraft, TokenRow};
use crate::signer::SignerError;
use crate::store::{StoreError, TokenQuery};
use crate::token_kind::{Maker, TokenKind};
use crate::view::known_tokens::{LIFE, LoggedToken, used_token};
use crate::view::vouching::SHUT_OUT;
use crate::writer::RESTARTS;
use crate::writer::once::read_answer;

/// A trust domain's own ID is nobody's: no row can list it.
fn require_path(spiffe_id: &SpiffeId) -> Result<(), Error> {
    match spiffe_id.path() {
        "" => Err(Error::Invalid {
            why: format!("{spiffe_id} names a trust domain, and no workload in it"),
            next_step: Some(format!(
                "name its path: countersign token create {spiffe_id}/PATH; `countersign list --id \
                 '{spiffe_id}/*'` shows those that have a certificate"
            )),
        }),
        _ => Ok(()),
    }
}

impl Operations {
    /// Makes a one-time bootstrap token; shown once, kept as a hash.
    pub async fn create_token(
        &self,
        caller: &Caller,
        request: &TokenRequest,
    ) -> Result<NewToken, Error> {
        self.view.authenticated(caller)?;
        self.view.authorize(caller, Action::CreateToken, Some(&request.spiffe_id))?;
        self.view.require_member(&request.spiffe_id)?;
        require_path(&request.spiffe_id)?;
        let named = caller.named(api::paths::TOKENS, request)?;
        self.make_token(caller, request, Made::Bootstrap, named.as_ref()).await
    }

    /// Makes what was found well formed, and allowed.
    pub(super) async fn make_token(
        &self,
        caller: &Caller,
        request: &TokenRequest,
        making: Made<'_>,
        named: Option<&IdempotencyKey>,
    ) -> Result<NewToken, Error> {
        let made_with = self.view.authenticated(caller)?.serial_number().to_string();
        let kind = making.kind();
        let seconds = request.ttl.map_or(TOKEN_SECONDS, |ttl| ttl.0.as_secs());
        if seconds == 0 || seconds > TOKEN_SECONDS {
            return Err(Error::Invalid {
                why: "a token lives 1 second to 15 minutes".to_owned(),
                next_step: Some("ask for ttl 15m or less".to_owned()),
            });
        }
        let mut id = [0; 8];
        rand::fill(&mut id).map_err(|_| no_randomness())?;
        let id = HEXLOWER.encode(&id);
        let secret = self.token_secret(named, &id)?;
        let hash = Hash::of(&secret);
        let expires_at = self.view.clock().unix_milliseconds() + seconds * 1000;
        let token = TokenDraft {
            hash,
            id,
            spiffe_id: request.spiffe_id.clone(),
            expires_at,
            key_hash: request.key_sha256.as_deref().map(key_hash).transpose()?,
        };
        let mut detail = serde_json::json!({
            "expires_at": expires_at,
            "id": token.id,
            "key_sha256": token.key_hash.map(|hash| format!("{hash:?}")),
            "made_with": made_with,
            "token_sha256": format!("{hash:?}"),
        });
        if let Made::NewOperator { name, .. } = making {
            detail["name"] = name.into();
        }
        let kept = KeptToken { expires_at, id: token.id.clone() };
        let answer = serde_json::to_string(&kept).expect("two plain values");
        let draft = caller.draft(kind.event(), token.spiffe_id.as_str(), &detail);
        let effect = making.effect(token);
        for _ in 0..RESTARTS {
            let resource = Some(&request.spiffe_id);
            let allowed_under = self.view.authorize(caller, kind.action(), resource)?;
            if let Some(kept) = self.view.kept(named).await? {
                return self.made_before(&kept, named, &request.spiffe_id).await;
            }
            if let Made::NewOperator { again, .. } = making {
                self.require_nobody(&request.spiffe_id, again).await?;
            }
            let voided = self.voided_by(making).await?;
            let (event, effect) = (draft.clone(), effect.clone());
            let committed =
                self.writer.commit_once(allowed_under, event, effect, named, answer.clone());
            if let Some(made_at) = committed.await? {
                let svid = self.view.authenticated(caller)?;
                let (spiffe_id, serial_number) = (svid.spiffe_id().clone(), *svid.serial_number());
                let token = kept.id.clone();
                let maker = Maker { kind, spiffe_id, serial_number, made_at, token };
                self.view.known_tokens.made(
                    hash,
                    made_at,
                    maker,
                    self.view.clock().unix_milliseconds(),
                );
                let mut made = self.new_token(kept, secret, &request.spiffe_id);
                made.warning = voided.or(made.warning);
                return Ok(made);
            }
        }
        Err(self.writer.restless())
    }

    /// What was made of the same request is given again only while it is good.
    async fn made_before(
        &self,
        kept: &KeptRequest,
        named: Option<&IdempotencyKey>,
        spiffe_id: &SpiffeId,
    ) -> Result<NewToken, Error> {
        let made: KeptToken = read_answer(kept)?;
        let secret = self.token_secret(named, &made.id)?;
        let no_event = || StoreError::Inconsistent(format!("no event made token {}", made.id));
        let made_at = kept.place.ok_or_else(no_event)?;
        let now = self.view.clock().unix_milliseconds();
        let since = if self.view.folded().is_withdrawn(&made.id) {
            "it was withdrawn since".to_owned()
        } else if made.expires_at <= now {
            "it has expired since".to_owned()
        } else if self.used_since(made_at, now).await?.contains(&Hash::of(&secret)) {
            "it was used since".to_owned()
        } else if self.view.were_shut_out(spiffe_id, made_at) {
            SHUT_OUT.to_owned()
        } else {
            let event = self.view.event_at(made_at).await?;
            let maker =
                event.and_then(|event| Maker::read(&event, made_at)).ok_or_else(no_event)?;
            match self.view.require_maker(&maker, spiffe_id, &self.view.policy()) {
                Err(Error::Attestation { why, .. }) => why,
                // It counts once that is lifted, as it did when it was made.
                Err(Error::Revoked(identity::Refusal::Denied)) => {
                    return Ok(self.new_token(made, secret, spiffe_id));
                }
                counts => return counts.map(|()| self.new_token(made, secret, spiffe_id)),
            }
        };
        Err(refused(
            format!("token {} was made of this request, and {since}", made.id),
            "make the same request with another Idempotency-Key",
        ))
    }

    /// Those among the tokens made from this place of the log on that were used.
    async fn used_since(&self, made_at: u64, now: u64) -> Result<HashSet<Hash>, Error> {
        self.view.known_tokens.used_since(self.view.store(), made_at, now).await
    }

    /// Random bits; where the request was named, what nobody without the key of the head's seal can
    /// tell from such, and what the same request finds again.
    fn token_secret(&self, named: Option<&IdempotencyKey>, id: &str) -> Result<[u8; 32], Error> {
        if let Some(named) = named {
            let key = self.view.key_files().require_head_key()?;
            return Ok(key.token_secret(named, id));
        }
        let mut secret = [0; 32];
        rand::fill(&mut secret).map_err(|_| no_randomness())?;
        Ok(secret)
    }

    fn new_token(&self, kept: KeptToken, secret: [u8; 32], spiffe_id: &SpiffeId) -> NewToken {
        let trust = self.view.trust();
        let pin = trust.state().pin();
        let (warning, next_step) = self.what_it_meets(spiffe_id).unzip();
        NewToken {
            id: kept.id,
            token: Secret::new(BootstrapToken::new(secret, pin).expose()),
            spiffe_id: spiffe_id.clone(),
            expires_at: from_milliseconds(kept.expires_at),
            trust_pin: pin.to_string(),
            warning,
            next_step: next_step.flatten(),
        }
    }

    /// Why nobody gets a certificate for this identity as things are, and what would change that. To
    /// make its token first and its row later is no fault: whoever made it is told, and not refused.
    fn what_it_meets(&self, spiffe_id: &SpiffeId) -> Option<(String, Option<String>)> {
        if self.view.folded().revocations.is_denied(spiffe_id) {
            let why = format!("{spiffe_id} is denied: it gets no certificate");
            return Some((why, Some(format!("countersign allow {spiffe_id}"))));
        }
        let policy = self.view.policy();
        if policy.set().workloads().row(spiffe_id).is_some() {
            return None;
        }
        let question = ExplainRequest {
            principal: spiffe_id.clone(),
            action: "Issue".to_owned(),
            resource: spiffe_id.clone(),
            dns: None,
            ip: None,
            profile: None,
            extent: None,
        };
        let explained = explain_query(&policy, &question).ok().filter(|it| !it.allowed)?;
        let why = format!("{}: no certificate would be issued for it", explained.reason);
        Some((why, explained.next_step))
    }

    /// A page of the bootstrap tokens, newest first.
    pub async fn tokens(
        &self,
        caller: &Caller,
        filter: &TokenFilter,
    ) -> Result<Page<TokenRecord>, Error> {
        self.view.authorize(caller, Action::ReadTokens, None)?;
        let now = self.view.clock().unix_milliseconds();
        let policy = self.view.policy();
        let before = place_after(filter.after.as_deref())?;
        let limit = page_of(filter.limit.unwrap_or(MAX_PAGE as u32));
        let page = self.view.store().tokens(TokenQuery { before, limit }).await?;
        let live = page.tokens.iter().filter(|(row, _)| row.expires_at > now);
        let used = match live.map(|(row, _)| row.log_index).min() {
            Some(from) => self.used_since(from, now).await?,
            None => HashSet::new(),
        };
        let mut items = Vec::new();
        for (row, entry) in page.tokens {
            let event = entry.and_then(|entry| Event::parse(&entry).ok());
            let state = self.token_state(&row, event.as_ref(), &used, &policy, now).await?;
            items.push(TokenRecord {
                id: row.id,
                spiffe_id: row.spiffe_id,
                state: state.to_owned(),
                expires_at: from_milliseconds(row.expires_at),
                made_by: event.map(|event| event.actor).unwrap_or_default(),
            });
        }
        Ok(Page { items, next: page.next.map(|next| next.to_string()) })
    }

    /// What comes of a token, by the event that its row says made it: an open one is what an issue takes.
    async fn token_state(
        &self,
        row: &TokenRow,
        event: Option<&Event>,
        used: &HashSet<Hash>,
        policy: &ActivePolicy,
        now: u64,
    ) -> Result<&'static str, Error> {
        // Of those that could be used the log says what became of them.
        let is_live = row.expires_at > now;
        let (is_used, is_withdrawn) = match is_live {
            true => (used.contains(&row.hash), self.view.folded().is_withdrawn(&row.id)),
            false => (row.used.is_some(), row.revoked),
        };
        Ok(match (is_used, is_withdrawn) {
            (true, _) => "used",
            (false, true) => "revoked",
            _ if !is_live => "expired",
            _ if !self.counts(row, event, policy).await? => "void",
            _ => OPEN,
        })
    }

    /// Whether whoever made a token still vouches for it, and nobody has the place that it makes.
    async fn counts(
        &self,
        row: &TokenRow,
        event: Option<&Event>,
        policy: &ActivePolicy,
    ) -> Result<bool, Error> {
        let maker = event.and_then(|event| Maker::read(event, row.log_index));
        let Some(maker) = maker else { return Ok(false) };
        if self.view.require_maker(&maker, &row.spiffe_id, policy).is_err() {
            return Ok(false);
        }
        match self.view.require_new(&maker, &row.spiffe_id).await {
            Err(Error::Attestation { .. }) => Ok(false),
            counts => counts.map(|()| true),
        }
    }

    /// The token that the event at this place of the log made, while an issue takes it.
    pub(super) async fn open_token(
        &self,
        made_at: u64,
        policy: &ActivePolicy,
    ) -> Result<Option<TokenRow>, Error> {
        let query = TokenQuery { before: Some(made_at + 1), limit: 1 };
        let newest = self.view.store().tokens(query).await?.tokens.into_iter().next();
        let Some((row, entry)) = newest.filter(|(row, _)| row.log_index == made_at) else {
            return Ok(None);
        };
        let now = self.view.clock().unix_milliseconds();
        let used = self.used_since(made_at, now).await?;
        let event = entry.and_then(|entry| Event::parse(&entry).ok());
        let state = self.token_state(&row, event.as_ref(), &used, policy, now).await?;
        Ok((state == OPEN).then_some(row))
    }

    /// What withdraws a token, and whose it is; refused where it was used, as the log says. What its row
    /// says of that anybody may have written who writes to the database; nor does it matter that it is
    /// gone: it may come back.
    async fn token_to_withdraw(&self, id: &str) -> Result<(Effect, String), Error> {
        let now = self.view.clock().unix_milliseconds();
        let row = self.view.store().token_by_id(id.to_owned()).await?;
        let untrue = row.as_ref().and_then(|row| row.used);
        let (from, logged) = match &row {
            // Nobody uses it any more: nothing comes of it, whatever its row says.
            Some(row) if row.expires_at.saturating_add(A_MINUTE) < now => {
                self.require_unused(&row.hash, untrue).await?;
                let effect = Effect::RevokeToken { hash: row.hash, id: id.to_owned(), untrue };
                return Ok((effect, row.spiffe_id.to_string()));
            }
            Some(row) => {
                let event = self.view.event_at(row.log_index).await?;
                (row.log_index, event.and_then(|event| LoggedToken::made_by(event, id)))
            }
            None => {
                let from = self.view.place_before(now.saturating_sub(LIFE)).await?;
                let logged = self.view.known_tokens.logged(self.view.store(), id, from).await?;
                if logged.is_some() {
                    tracing::error!(id, "the log says that a token was made, and its row is gone");
                }
                (from, logged)
            }
        };
        let LoggedToken { hash, spiffe_id } =
            logged.ok_or_else(|| Error::NotFound(format!("token {id}")))?;
        // One that is being used may have been committed, and is not known of yet.
        self.require_unused(&hash, untrue).await?;
        match self.view.known_tokens.was_used(self.view.store(), &hash, from, now).await? {
            true => Err(Error::Conflict(Conflict::TokenUsed)),
            false => Ok((Effect::RevokeToken { hash, id: id.to_owned(), untrue }, spiffe_id)),
        }
    }

    /// Refuses where a token was used as its row says: by the event before the leaf that it names.
    async fn require_unused(&self, token: &Hash, used: Option<(Hash, u64)>) -> Result<(), Error> {
        let Some((_, leaf_index)) = used else { return Ok(()) };
        let is_it = |event: &Event| used_token(event) == Some(*token);
        match made_by(self.view.store(), leaf_index.saturating_sub(1), is_it).await? {
            true => Err(Error::Conflict(Conflict::TokenUsed)),
            false => Ok(()),
        }
    }

    /// Withdraws a bootstrap token. One that was used is not withdrawn by it: that is a conflict.
    pub async fn revoke_token(&self, caller: &Caller, id: &str) -> Result<(), Error> {
        for _ in 0..RESTARTS {
            let allowed_under = self.view.authorize(caller, Action::RevokeToken, None)?;
            // Withdrawn once is withdrawn for good: by the log, whatever its row says.
            if self.view.folded().is_withdrawn(id) {
                return Ok(());
            }
            let (effect, spiffe_id) = self.token_to_withdraw(id).await?;
            let detail = serde_json::json!({ "id": id });
            let draft = caller.draft(event::TOKEN_REVOKE, &spiffe_id, &detail);
            if self.writer.commit(allowed_under, draft, effect).await?.is_some() {
                return Ok(());
            }
        }
        Err(self.writer.restless())
    }
}

/// What is made.
#[derive(Debug, Clone, Copy)]
pub(super) enum Made<'a> {
    /// A token of [`TokenKind::Bootstrap`].
    Bootstrap,
    /// An operator, and their token.
    NewOperator {
        /// The name.
        name: &'a str,
        /// They had a certificate before.
        again: bool,
    },
}

impl Made<'_> {
    fn kind(self) -> TokenKind {
        match self {
            Self::Bootstrap => TokenKind::Bootstrap,
            Self::NewOperator { .. } => TokenKind::NewOperator,
        }
    }

    fn effect(self, token: TokenDraft) -> Effect {
        match self {
            Self::Bootstrap => Effect::CreateToken(token),
            Self::NewOperator { name, .. } => Effect::AddOperator { name: name.to_owned(), token },
        }
    }
}

/// What is kept of a token with its request's name; never its secret.
#[derive(Serialize, Deserialize)]
struct KeptToken {
    /// In milliseconds since 1970.
    expires_at: u64,
    id: String,
}

fn no_randomness() -> SignerError {
    SignerError::Refused("no randomness".to_owned())
}

fn key_hash(hex: &str) -> Result<Hash, Error> {
    let octets = HEXLOWER.decode(hex.as_bytes()).ok();
    octets.and_then(|octets| Hash::try_from(&octets[..]).ok()).ok_or_else(|| Error::Invalid {
        why: "key_sha256 is not the hex of a SHA-256".to_owned(),
        next_step: Some(
            "`countersign token create SPIFFE_ID --pin-key FILE` computes it".to_owned(),
        ),
    })
}

const OPEN: &str = "open";
/// A token's longest and usual life.
const TOKEN_SECONDS: u64 = 15 * 60;
/// For which its own retry finds what it became, in milliseconds.
const A_MINUTE: u64 = 60 * 1000;

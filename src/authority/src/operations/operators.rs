//! Operators: added by another while the CA runs, and listed.
//!
//! Adding one is an event, `operator.create`, that names the adder and makes a one-time token: the key
//! is made where the new operator is. It never takes a place that somebody has. Of two tokens for one
//! name the newer counts alone, and none while anybody holds a certificate of that name: both are
//! decided from a state that the commit of the certificate compares, and each addition moves it. So an
//! adder who keeps a second token becomes nobody by it.

use api::{NewToken, OperatorRecord, OperatorRequest, OperatorState, Page, TokenRequest};
use identity::SpiffeId;

use super::Operations;
use super::tokens::Made;
use super::way_back::operators;
use crate::caller::Caller;
use crate::clock::from_milliseconds;
use crate::error::{Denied, Error};
use crate::policy::{Action, ActivePolicy, administers};
use crate::present;
use crate::sequencer::TokenRow;
use crate::store::RecordQuery;

impl Operations {
    /// Makes somebody new an operator; returns the token by which they get their first certificate.
    /// Only operators do it, whatever policies say.
    pub async fn add_operator(
        &self,
        caller: &Caller,
        request: &OperatorRequest,
    ) -> Result<NewToken, Error> {
        let adder = self.view.authenticated(caller)?.spiffe_id().clone();
        let spiffe_id = self.operator_called(&request.name)?;
        self.view.authorize(caller, Action::AddOperator, Some(&spiffe_id))?;
        if adder.operator_name().is_none() {
            let reason = format!("{adder} is no operator, and only operators add others");
            let denied = Denied { reason, policies: Vec::new(), row: None, next_step: None };
            return Err(Error::Denied(Box::new(denied)));
        }
        let named = caller.named(api::paths::OPERATORS, request)?;
        let token =
            TokenRequest { spiffe_id, ttl: request.ttl, key_sha256: request.key_sha256.clone() };
        let made = Made::NewOperator { name: &request.name, again: request.again };
        self.make_token(caller, &token, made, named.as_ref()).await
    }

    fn operator_called(&self, name: &str) -> Result<SpiffeId, Error> {
        let id =
            SpiffeId::operator(self.view.trust_domain(), name).map_err(|error| error.to_string());
        let id = id.and_then(|id| match id.operator_name() {
            Some(_) if name.len() > MAX_NAME => Err(format!("it has more than {MAX_NAME} letters")),
            Some(_) => Ok(id),
            None => Err("an operator's name is one part of a path".to_owned()),
        });
        id.map_err(|why| Error::Invalid {
            why: format!("{name:?} is no operator's name: {why}"),
            next_step: Some(
                "letters, digits and - . _ make one: countersign operator add NAME".to_owned(),
            ),
        })
    }

    /// Refuses to put anybody into the place of somebody else.
    pub(super) async fn require_nobody(&self, id: &SpiffeId, again: bool) -> Result<(), Error> {
        let name = id.operator_name().unwrap_or_default();
        let occupied = |why: String, next_step: String| {
            let why = format!("{name} was not added: {why}");
            Err(Error::Occupied { why, next_step })
        };
        if self.view.folded().revocations.is_denied(id) {
            let step =
                format!("if they are to come back: `countersign allow {id}`, then the same again");
            return occupied(format!("{id} is denied"), step);
        }
        if self.view.is_held(id).await? {
            let step = format!(
                "choose another name; or, if it is the same person with a new key, first: countersign \
                 revoke {id} --reason superseded"
            );
            return occupied(format!("{id} has a certificate that is good"), step);
        }
        if !again && self.was_issued(id).await? {
            let step = format!(
                "choose another name; or, if it is the same person with a new key: countersign \
                 operator add {name} --again"
            );
            return occupied(format!("{id} was somebody's before"), step);
        }
        Ok(())
    }

    /// Whether a certificate of this identity was ever logged: one that has ended since only its record
    /// tells.
    async fn was_issued(&self, id: &SpiffeId) -> Result<bool, Error> {
        if !self.view.live_records(id, 0).await?.is_empty() {
            return Ok(true);
        }
        let query = RecordQuery { spiffe_id: Some(id.clone()), limit: 1, ..RecordQuery::default() };
        Ok(!self.view.store().records(query).await?.is_empty())
    }

    /// Which token counts no more once this one is made.
    pub(super) async fn voided_by(&self, making: Made<'_>) -> Result<Option<String>, Error> {
        let Made::NewOperator { name, .. } = making else { return Ok(None) };
        let Some(since) = self.view.folded().operator_since(name) else { return Ok(None) };
        let open = self.open_token(since, &self.view.policy()).await?;
        Ok(open.map(|TokenRow { id, .. }| {
            format!("the token {id}, made for this operator before, counts no more")
        }))
    }

    /// Every operator, by name.
    pub async fn operators(&self, caller: &Caller) -> Result<Page<OperatorRecord>, Error> {
        self.view.authorize(caller, Action::ListInventory, None)?;
        let policy = self.view.policy();
        let mut items = Vec::new();
        for id in operators(&policy, self.view.trust_domain()) {
            items.push(self.operator_record(id, &policy).await?);
        }
        Ok(Page { items, next: None })
    }

    async fn operator_record(
        &self,
        spiffe_id: SpiffeId,
        policy: &ActivePolicy,
    ) -> Result<OperatorRecord, Error> {
        let name = spiffe_id.operator_name().unwrap_or_default().to_owned();
        let since = self.view.folded().operator_since(&name);
        let (event, invited) = match since {
            Some(since) => {
                (self.view.event_at(since).await?, self.open_token(since, policy).await?)
            }
            None => (None, None),
        };
        let certificate = self.longest_certificate(&spiffe_id).await?;
        let state = if self.view.folded().revocations.is_denied(&spiffe_id) {
            OperatorState::Denied
        } else if certificate.is_some() && administers(policy, &spiffe_id) {
            OperatorState::Able
        } else if certificate.is_some() {
            OperatorState::Restricted
        } else if invited.is_some() {
            OperatorState::Invited
        } else {
            OperatorState::Lapsed
        };
        Ok(OperatorRecord {
            name,
            spiffe_id,
            state,
            not_after: certificate.as_ref().map(|record| present::seconds(record.not_after)),
            serial_number: certificate.map(|record| record.serial_number),
            added_by: event.as_ref().map_or_else(|| TABLE.to_owned(), |event| event.actor.clone()),
            log_index: since,
            invited_until: invited.map(|token| from_milliseconds(token.expires_at)),
        })
    }
}

/// Of a new operator's name, in bytes. With a trust domain before it, it becomes a folder's where they
/// work: file systems take 255.
const MAX_NAME: usize = 64;
/// Who made those an operator that the table lists.
const TABLE: &str = "workloads.json";

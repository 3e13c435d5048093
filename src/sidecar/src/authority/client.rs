//! The CA's HTTP API, typed.

use std::sync::Arc;
use std::time::Duration;

use api::{
    ActFilter, ActOnRecord, ActivePolicy, Attestation, BootstrapToken, CertificateFilter,
    CertificateRecord, Denial, DenyRequest, ExplainRequest, Explanation, IssueRequest,
    IssuedCertificate, KeyRecord, KeyStep, KeyStepOutcome, KeyStepRequest, NewToken,
    OperatorRecord, OperatorRequest, Page, PolicyFiles, RenewalWindow, Report, Revocation,
    RevocationReach, RevokeRequest, Status, TokenFilter, TokenRecord, TokenRequest, WorkloadFilter,
    WorkloadInstance, paths,
};
use aws_lc_rs::rand;
use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use identity::{SerialNumber, Trust};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tlog::Hash;
use tokio::time::Instant;

use crate::authority::exchange::{
    Answer, EXCHANGE_TIMEOUT, ServerClient, header_value, percent_encode,
};
use crate::authority::feed_stream::FeedStream;
use crate::connect::connector::Connector;
use crate::error::{AnswerFault, ConfigurationFault, Error};
use crate::handshake::client_config;
use crate::handshake::credentials::Credentials;
use crate::handshake::resumption::Tls;
use crate::peers::welcome::{ExpectedServer, Welcome};
use crate::verification::Verification;

/// A client of the CA of one trust domain. Connections are kept and shared; an open one keeps the
/// credentials that it began with.
///
/// Nothing is sent before the server has proved to be that CA. Each method fails with
/// [`Error::Authority`] where the CA says no. Nothing is tried twice once it was sent, but for what
/// an `Idempotency-Key` makes sure is done once: an act (to revoke, to deny, to create a token, a step
/// of a key) has a name of its own. Where its answer is lost with the connection, or the CA waits for
/// its disk, it is asked for again for some seconds.
pub struct AuthorityClient {
    http: ServerClient,
    verification: Arc<Verification>,
}

impl AuthorityClient {
    /// Prepares for the CA at `url`, `https://HOST[:PORT]`; connects only when asked something.
    ///
    /// `credentials` are shown where there are any; without them the CA answers only what anybody
    /// may ask.
    pub fn new(
        url: &str,
        trust: Trust,
        credentials: Option<Arc<Credentials>>,
    ) -> Result<Self, Error> {
        Self::verified_by(url, Verification::new(trust), credentials)
    }

    /// As [`new`](Self::new), by what a workload believes already: a CA whose own certificate is
    /// revoked is sent nothing more, and the connections with it are closed.
    pub fn verified_by(
        url: &str,
        verification: Arc<Verification>,
        credentials: Option<Arc<Credentials>>,
    ) -> Result<Self, Error> {
        let trust_domain = verification.trust().state().trust_domain.clone();
        let expected = ExpectedServer::authority(&trust_domain);
        let tls = client_config(Arc::clone(&verification), expected.clone(), credentials.clone())?;
        let tls = Arc::new(Tls::Given(tls));
        let welcome = Welcome::Authority(expected);
        let connector = Connector { tls, credentials, verification: verification.clone(), welcome };
        Ok(Self { http: ServerClient::new(url, connector)?, verification })
    }

    /// Shows the CA from now on the newest checkpoint that was verified, a signed note: a CA whose
    /// database was rolled back then notices. Every client of the same [`Verification`] shows it.
    pub fn set_checkpoint(&self, note: &str) {
        self.verification.keep_checkpoint(note);
    }

    /// Hears the revocation feed: what came after the item at log index `after`, or a snapshot
    /// first; then whatever comes, without end. [`identity::feed`] says what to make of it.
    pub async fn feed(&self, after: Option<u64>) -> Result<FeedStream, Error> {
        self.feed_by([("after", after.map(|n| n.to_string())), ("snapshot", None)]).await
    }

    /// The same with a snapshot first in any case, which is of the item at this log index or later.
    pub async fn feed_with_snapshot(&self, at_least: u64) -> Result<FeedStream, Error> {
        let (after, snapshot) = (Some(at_least.to_string()), Some("true".to_owned()));
        self.feed_by([("after", after), ("snapshot", snapshot)]).await
    }

    async fn feed_by(&self, fields: [(&str, Option<String>); 2]) -> Result<FeedStream, Error> {
        let path = format!("{}{}", paths::FEED, query(fields));
        let headers = self.with_checkpoint(HeaderMap::new());
        Ok(FeedStream::new(self.http.stream(&path, headers, EVENT_STREAM).await?))
    }

    /// Reports what this workload holds and saw.
    pub async fn report(&self, report: &Report) -> Result<(), Error> {
        self.send_json(Method::PUT, paths::OWN_REPORT, HeaderMap::new(), report).await.map(drop)
    }

    /// What workloads hold and saw.
    pub async fn workloads(
        &self,
        filter: &WorkloadFilter,
    ) -> Result<Page<WorkloadInstance>, Error> {
        let WorkloadFilter { limit, after } = filter;
        let fields = [("limit", limit.map(|limit| limit.to_string())), ("after", after.clone())];
        self.get(&format!("{}{}", paths::WORKLOADS, query(fields))).await
    }

    /// How far a revocation has come, by its [`Revocation::log_index`].
    pub async fn revocation_reach(&self, log_index: u64) -> Result<RevocationReach, Error> {
        self.get(&paths::revocation(log_index)).await
    }

    /// Asks for a certificate. With the same `idempotency_key` the same request gets the same
    /// certificate again, for 24 h: choose one before the first try.
    pub async fn issue(
        &self,
        request: &IssueRequest,
        idempotency_key: Option<&str>,
    ) -> Result<IssuedCertificate, Error> {
        let mut headers = HeaderMap::new();
        if let Some(key) = idempotency_key {
            headers.insert(IDEMPOTENCY_KEY, header_value("Idempotency-Key", key)?);
        }
        if let Attestation::Token { token } = &request.attestation
            && let Ok(token) = token.expose().parse::<BootstrapToken>()
        {
            let named = format!("{:?}", Hash::of(token.secret()));
            headers.insert(paths::TOKEN_HEADER, header_value("Countersign-Token", &named)?);
        }
        self.send(Method::POST, paths::CERTIFICATES, headers, request).await
    }

    /// Lists certificates, newest first as the CA keeps them.
    pub async fn certificates(
        &self,
        filter: &CertificateFilter,
    ) -> Result<Page<CertificateRecord>, Error> {
        self.get(&format!("{}{}", paths::CERTIFICATES, filter_query(filter))).await
    }

    /// What the CA keeps of one certificate.
    pub async fn certificate(&self, serial: &SerialNumber) -> Result<CertificateRecord, Error> {
        self.get(&paths::certificate(serial)).await
    }

    /// When to renew a certificate.
    pub async fn renewal(&self, serial: &SerialNumber) -> Result<RenewalWindow, Error> {
        self.get(&paths::renewal(serial)).await
    }

    /// Revokes certificates issued so far.
    pub async fn revoke(&self, request: &RevokeRequest) -> Result<Revocation, Error> {
        self.act(paths::REVOCATIONS, request).await
    }

    /// The identities denied now.
    pub async fn denials(&self) -> Result<Page<Denial>, Error> {
        self.get(paths::DENIALS).await
    }

    /// Denies an identity until it is allowed again.
    pub async fn deny(&self, request: &DenyRequest) -> Result<Denial, Error> {
        self.act(paths::DENIALS, request).await
    }

    /// Lifts a deny, by its [`Denial::id`].
    pub async fn allow(&self, id: &str) -> Result<(), Error> {
        self.delete(&paths::denial(&percent_encode(id))).await
    }

    /// Creates a bootstrap token, shown this once.
    pub async fn create_token(&self, request: &TokenRequest) -> Result<NewToken, Error> {
        self.act(paths::TOKENS, request).await
    }

    /// A page of the bootstrap tokens, newest first, without their secrets.
    pub async fn tokens(&self, filter: &TokenFilter) -> Result<Page<TokenRecord>, Error> {
        let TokenFilter { limit, after } = filter;
        let fields = [("limit", limit.map(|limit| limit.to_string())), ("after", after.clone())];
        self.get(&format!("{}{}", paths::TOKENS, query(fields))).await
    }

    /// A page of what somebody did that stays, newest first.
    pub async fn acts(&self, filter: &ActFilter) -> Result<Page<ActOnRecord>, Error> {
        let ActFilter { by, limit, after } = filter;
        let limit = limit.map(|limit| limit.to_string());
        let fields = [("by", Some(by.to_string())), ("limit", limit), ("after", after.clone())];
        self.get(&format!("{}{}", paths::ACTS, query(fields))).await
    }

    /// Withdraws a bootstrap token, by its [`TokenRecord::id`].
    pub async fn revoke_token(&self, id: &str) -> Result<(), Error> {
        self.delete(&paths::token(&percent_encode(id))).await
    }

    /// The operators, and whether they can act.
    pub async fn operators(&self) -> Result<Page<OperatorRecord>, Error> {
        self.get(paths::OPERATORS).await
    }

    /// Makes somebody new an operator; the token by which they get their certificate is shown this
    /// once.
    pub async fn add_operator(&self, request: &OperatorRequest) -> Result<NewToken, Error> {
        self.act(paths::OPERATORS, request).await
    }

    /// The active policy set.
    pub async fn policies(&self) -> Result<ActivePolicy, Error> {
        self.get(paths::POLICIES).await
    }

    /// Replaces the policy set whose [`ActivePolicy::hash`] is `if_match`, and no other.
    pub async fn replace_policies(
        &self,
        policies: &PolicyFiles,
        if_match: &str,
    ) -> Result<ActivePolicy, Error> {
        // RFC 9110 §8.8.3: an entity tag stands in quotes.
        let tag = header_value("If-Match", &format!("\"{if_match}\""))?;
        let headers = HeaderMap::from_iter([(header::IF_MATCH, tag)]);
        self.send(Method::PUT, paths::POLICIES, headers, policies).await
    }

    /// Which policy decides on a request, and why.
    pub async fn explain(&self, request: &ExplainRequest) -> Result<Explanation, Error> {
        self.post(paths::EXPLAIN, request).await
    }

    /// How the CA is doing.
    pub async fn status(&self) -> Result<Status, Error> {
        self.get(paths::STATUS).await
    }

    /// The CA's keys, and what the next step of each waits for.
    pub async fn keys(&self) -> Result<Page<KeyRecord>, Error> {
        self.get(paths::KEYS).await
    }

    /// Takes a step of the rotation of the key with this id.
    pub async fn key_step(
        &self,
        id: &str,
        step: KeyStep,
        request: &KeyStepRequest,
    ) -> Result<KeyStepOutcome, Error> {
        self.act(&paths::key_step(&percent_encode(id), step), request).await
    }

    /// The newest trust state, a signed note. It counts only once its signatures are verified: see
    /// [`crate::follow_trust`].
    pub async fn trust_note(&self) -> Result<Vec<u8>, Error> {
        let answer = self.exchange(Method::GET, paths::TRUST, HeaderMap::new(), Bytes::new());
        Ok(answer.await?.body.into())
    }

    /// The log's newest checkpoint, a signed note. It counts only once its signature is verified, by
    /// the log key of the trust state.
    pub async fn checkpoint(&self) -> Result<Vec<u8>, Error> {
        let answer = self.exchange(Method::GET, paths::CHECKPOINT, HeaderMap::new(), Bytes::new());
        Ok(answer.await?.body.into())
    }

    /// The CRL of an issuer, DER, by the hex SHA-256 of its public key. Anybody may ask for it.
    pub async fn crl(&self, issuer: &str) -> Result<Vec<u8>, Error> {
        let path = paths::CRL.replace("{issuer}", &percent_encode(issuer));
        let answer = self.exchange(Method::GET, &path, HeaderMap::new(), Bytes::new());
        Ok(answer.await?.body.into())
    }

    /// The CRLs of all issuers that sign or will, PEM. Anybody may ask for them.
    pub async fn crls(&self) -> Result<Vec<u8>, Error> {
        let answer = self.exchange(Method::GET, paths::CRLS, HeaderMap::new(), Bytes::new());
        Ok(answer.await?.body.into())
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        read(self.exchange(Method::GET, path, HeaderMap::new(), Bytes::new()).await?)
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        self.send(Method::POST, path, HeaderMap::new(), body).await
    }

    /// Asks for what is to be done once: again, under the same name, where nobody knows whether it is.
    async fn act<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        let name = header_value("Idempotency-Key", &fresh_name()?)?;
        let headers = HeaderMap::from_iter([(IDEMPOTENCY_KEY, name)]);
        let (begun, mut pauses) = (Instant::now(), AGAIN_AFTER.iter());
        let mut unknown = None;
        loop {
            let answered = self.send(Method::POST, path, headers.clone(), body).await;
            let first = match (answered, unknown.take()) {
                (Err(error), None) if error.leaves_unknown() => error,
                // Of a CA that is away by now, or busy, the next error says less than the first.
                (Err(error), Some(first)) if error.is_temporary() => first,
                (answered, _) => return answered,
            };
            match pauses.next() {
                Some(pause) if begun.elapsed() < EXCHANGE_TIMEOUT => {
                    tokio::time::sleep(*pause).await;
                }
                _ => return Err(first),
            }
            unknown = Some(first);
        }
    }

    async fn delete(&self, path: &str) -> Result<(), Error> {
        self.exchange(Method::DELETE, path, HeaderMap::new(), Bytes::new()).await.map(drop)
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        read(self.send_json(method, path, headers, body).await?)
    }

    async fn send_json(
        &self,
        method: Method,
        path: &str,
        mut headers: HeaderMap,
        body: &impl Serialize,
    ) -> Result<Answer, Error> {
        let body = serde_json::to_vec(body).expect("requests are plain data");
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.exchange(method, path, headers, body.into()).await
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, Error> {
        self.http.exchange(method, path, self.with_checkpoint(headers), body).await
    }

    fn with_checkpoint(&self, mut headers: HeaderMap) -> HeaderMap {
        if let Some(note) = self.verification.checkpoint() {
            let header = HeaderValue::from_str(&BASE64.encode(note.as_bytes()));
            let header = header.expect("base64 can stand in a header");
            headers.insert(paths::CHECKPOINT_HEADER, header);
        }
        headers
    }
}

/// A name that nobody guesses.
fn fresh_name() -> Result<String, Error> {
    let mut random = [0; 16];
    rand::fill(&mut random).map_err(|_| Error::Configuration(ConfigurationFault::Randomness))?;
    Ok(HEXLOWER.encode(&random))
}

fn read<T: DeserializeOwned>(answer: Answer) -> Result<T, Error> {
    serde_json::from_slice(&answer.body).map_err(|_| answer.unexpected(AnswerFault::Shape))
}

fn filter_query(filter: &CertificateFilter) -> String {
    let CertificateFilter { id, expiring, revoked, limit, after } = filter;
    query([
        ("id", id.clone()),
        ("expiring", expiring.as_ref().map(ToString::to_string)),
        ("revoked", revoked.then(|| "true".to_owned())),
        ("limit", limit.map(|limit| limit.to_string())),
        ("after", after.clone()),
    ])
}

/// The fields that are set as a query, `?` included; empty if none is.
fn query<const N: usize>(fields: [(&str, Option<String>); N]) -> String {
    let set = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
    set.enumerate().fold(String::new(), |query, (position, (name, value))| {
        let separator = if position == 0 { '?' } else { '&' };
        format!("{query}{separator}{name}={}", percent_encode(&value))
    })
}

/// A CA that is started anew listens within seconds, and a disk that hung may answer.
const AGAIN_AFTER: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(5)];
/// draft-ietf-httpapi-idempotency-key-header §2.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const EVENT_STREAM: &str = "text/event-stream";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_becomes_a_query_that_no_value_can_leave() {
        assert_eq!(filter_query(&CertificateFilter::default()), "");
        let filter = CertificateFilter {
            id: Some("spiffe://a/*&revoked=x#".to_owned()),
            expiring: Some("26h".parse().unwrap()),
            revoked: true,
            ..CertificateFilter::default()
        };
        assert_eq!(
            filter_query(&filter),
            "?id=spiffe%3A%2F%2Fa%2F%2A%26revoked%3Dx%23&expiring=1d2h&revoked=true"
        );
    }
}

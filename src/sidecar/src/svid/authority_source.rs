//! SVIDs from the CA: attested once, then renewed.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::{fmt, io};

use api::{Attestation, IssueRequest, ProblemType, Secret};
use identity::SpiffeId;
use tokio::sync::Mutex;

use crate::authority::client::AuthorityClient;
use crate::error::Error;
use crate::handshake::credentials::Credentials;
use crate::input;
use crate::svid::request::KeyRequest;
use crate::svid::{Svid, SvidFuture, SvidSource};
use crate::verification::Verification;

/// How a workload without an SVID proves who it is.
#[derive(Debug, Clone)]
pub(crate) enum Evidence {
    /// A one-time bootstrap token.
    Token(Secret),
    /// A file that holds one, read whenever it is needed.
    TokenFile(PathBuf),
}

/// Names in a certificate beside the SPIFFE ID. Renewal leaves them out: the CA keeps them then. Without
/// any they are those of the row in the workload table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    pub(crate) dns: Vec<String>,
    pub(crate) ip: Vec<IpAddr>,
}

/// Asks the CA. A request whose answer was lost is asked again with the same key, so that the CA
/// answers it with the same certificate, and no token is burnt twice.
pub(crate) struct AuthoritySource {
    url: String,
    verification: Arc<Verification>,
    evidence: Evidence,
    spiffe_id: Option<SpiffeId>,
    names: Names,
    pending: Mutex<Option<KeyRequest>>,
}

impl AuthoritySource {
    pub(crate) fn new(
        url: &str,
        verification: &Arc<Verification>,
        evidence: Evidence,
        spiffe_id: Option<SpiffeId>,
        names: Names,
    ) -> Self {
        let (url, verification) = (url.to_owned(), Arc::clone(verification));
        Self { url, verification, evidence, spiffe_id, names, pending: Mutex::default() }
    }

    /// Renews; where the CA refuses that, attests again, if the evidence serves twice.
    async fn after(&self, held: &Held) -> Result<Svid, Error> {
        let credentials = Credentials::new(held.chain.clone(), held.key.clone_key())?;
        match self.ask(Attestation::Svid {}, Names::default(), Some(credentials)).await {
            Err(refused) if refused.is_refusal_of_evidence() => {
                tracing::warn!(error = %refused, "renewal is refused; attesting again");
                self.attest().await.map_err(|error| {
                    tracing::warn!(%error, "attesting again failed");
                    refused
                })
            }
            answer => answer,
        }
    }

    async fn attest(&self) -> Result<Svid, Error> {
        let token = match &self.evidence {
            Evidence::Token(token) => token.clone(),
            Evidence::TokenFile(path) => read_token(path).await?,
        };
        self.ask(Attestation::Token { token }, self.names.clone(), None).await
    }

    async fn ask(
        &self,
        attestation: Attestation,
        names: Names,
        credentials: Option<Arc<Credentials>>,
    ) -> Result<Svid, Error> {
        let verification = Arc::clone(&self.verification);
        let client = AuthorityClient::verified_by(&self.url, verification, credentials)?;
        let mut pending = self.pending.lock().await;
        let request = match &mut *pending {
            Some(request) => request,
            none => none.insert(KeyRequest::generate()?),
        };
        let asked = IssueRequest {
            csr: request.csr.clone(),
            spiffe_id: self.spiffe_id.clone(),
            dns: Some(names.dns).filter(|dns| !dns.is_empty()),
            ip: Some(names.ip).filter(|ip| !ip.is_empty()),
            profile: None,
            ttl: None,
            attestation,
        };
        let answer = client.issue(&asked, Some(&request.idempotency_key)).await;
        let issued = match answer {
            Ok(issued) => issued,
            Err(error) => {
                if is_final(&error) {
                    *pending = None;
                }
                return Err(error);
            }
        };
        let svid = Svid::issued(&issued, request.key.clone_key());
        *pending = None;
        svid
    }
}

/// What renewing needs of the SVID held.
struct Held {
    chain: Vec<rustls::pki_types::CertificateDer<'static>>,
    key: rustls::pki_types::PrivateKeyDer<'static>,
}

impl SvidSource for AuthoritySource {
    fn next(&self, after: Option<&Svid>) -> SvidFuture<'_> {
        let held = after.map(|svid| Held { chain: svid.chain.clone(), key: svid.key.clone_key() });
        Box::pin(async move {
            match held {
                Some(held) => self.after(&held).await,
                None => self.attest().await,
            }
        })
    }

    fn again(&self, spiffe_id: &SpiffeId) -> String {
        let token = format!("`countersign token create {spiffe_id}`, by an operator");
        match &self.evidence {
            Evidence::Token(_) => format!("start it again with a new token: {token}"),
            Evidence::TokenFile(path) => {
                format!(
                    "it attests again by itself once {} holds a new token: {token}",
                    path.display()
                )
            }
        }
    }
}

impl fmt::Debug for AuthoritySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthoritySource").field("url", &self.url).finish_non_exhaustive()
    }
}

async fn read_token(path: &std::path::Path) -> Result<Secret, Error> {
    let failed = |source| Error::Io { path: path.to_owned(), source };
    let bytes = input::read_soon(path).await.map_err(failed)?;
    let text = identity::utf8_text(&bytes)
        .map_err(|fault| failed(io::Error::new(io::ErrorKind::InvalidData, fault)))?;
    Ok(Secret::new(text.trim()))
}

/// Whether the CA itself has refused this very request: then it has issued nothing for it. Whatever
/// else went wrong may have gone wrong after it had, so that the same key must be asked for again.
fn is_final(error: &Error) -> bool {
    matches!(error, Error::Authority(problem) if !error.is_temporary() && problem.status < 500)
}

impl Error {
    /// Whether the CA does not believe the evidence shown: a certificate it no longer takes, say.
    fn is_refusal_of_evidence(&self) -> bool {
        match self {
            Self::Authority(problem) => problem.problem_type == ProblemType::AttestationRefused,
            Self::Refused { .. } => true,
            _ => false,
        }
    }
}

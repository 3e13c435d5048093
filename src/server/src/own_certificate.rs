//! The CA's own certificate: from its own pipeline, renewed without a restart.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use api::{Attestation, IssueRequest, IssuedCertificate, RenewalWindow};
use authority::Authority;
use authority::signer::SignerError;
use countersign::Credentials;
use identity::{SerialNumber, SpiffeId, Usage};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::config::Config;
use crate::error::ServerError;

/// The CA's certificate and when it is due.
#[derive(Debug)]
pub(crate) struct OwnCertificate {
    authority: Arc<Authority>,
    dns: Vec<String>,
    ip: Vec<std::net::IpAddr>,
    credentials: Arc<Credentials>,
    times: Mutex<Times>,
}

#[derive(Debug, Clone)]
struct Times {
    /// What peers are shown.
    chain: Arc<[CertificateDer<'static>]>,
    renewal: RenewalWindow,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    serial_number: SerialNumber,
    leaf_index: u64,
    /// Since when the keys sign that it is signed with.
    signing_since: u64,
}

impl OwnCertificate {
    /// Issues the first one. Where a key is missing that it takes, the one before goes on, even where
    /// it has expired: then nobody but the admin port says so, until the key is back. The service
    /// does not start without any.
    pub(crate) async fn issue(
        authority: Arc<Authority>,
        config: &Config,
    ) -> Result<Self, ServerError> {
        let (dns, ip) = config.sorted_names();
        let certified = match certify(&authority, &dns, &ip).await {
            Err(ServerError::Authority(authority::Error::Signer(error))) => {
                kept(&authority, error).await?
            }
            certified => certified?,
        };
        let (chain, key, times) = certified;
        let credentials = Credentials::new(chain, key)?;
        Ok(Self { authority, dns, ip, credentials, times: Mutex::new(times) })
    }

    pub(crate) fn credentials(&self) -> Arc<Credentials> {
        Arc::clone(&self.credentials)
    }

    /// Renews it when its window has begun, when another key took over (the one that signed it
    /// retires only after it), and whenever it is of no use now. A failure is tried again.
    pub(crate) async fn keep_fresh(&self) {
        let mut told: Option<(Instant, String)> = None;
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            // Looked at often, a clock that is slewed does not seem to leap.
            let is_steady = self.authority.view.clock().require_steady().is_ok();
            metrics::gauge!("countersign_clock_steady").set(f64::from(u8::from(is_steady)));
            let unusable = self.unusable();
            if unusable.is_none() && !self.is_due() {
                told = None;
                continue;
            }
            let failed = match self.renew().await {
                Ok(()) => {
                    tracing::info!(unusable, "renewed the CA's own certificate");
                    continue;
                }
                Err(error) => error.to_string(),
            };
            // What stays so for days is not told each second.
            let is_known =
                |(at, why): &(Instant, String)| *why == failed && at.elapsed() < TELL_AGAIN;
            if !told.as_ref().is_some_and(is_known) {
                tracing::error!(why = %failed, unusable, "cannot renew the CA's own certificate");
                told = Some((Instant::now(), failed));
            }
        }
    }

    /// When it begins and ends.
    pub(crate) fn validity(&self) -> (OffsetDateTime, OffsetDateTime) {
        let Times { not_before, not_after, .. } = self.times();
        (not_before, not_after)
    }

    fn is_due(&self) -> bool {
        let Times { renewal, signing_since, .. } = self.times();
        self.authority.view.clock().now() >= renewal.start
            || self.authority.view.signing_since() > signing_since
    }

    /// Why clients refuse it now, if they do.
    fn unusable(&self) -> Option<String> {
        let Times { not_before, not_after, serial_number, leaf_index, .. } = self.times();
        let now = self.authority.view.clock().now();
        if now < not_before {
            return Some(format!("the CA's own certificate begins at {not_before} only"));
        }
        if not_after < now {
            return Some("the CA's own certificate has expired".to_owned());
        }
        let refused = self.authority.view.require_own(&serial_number, leaf_index).err();
        refused.map(|refusal| format!("the CA's own certificate is refused: {refusal}"))
    }

    /// Why clients refuse what is above it, by their own rules: another one would fare no better.
    fn disbelieved(&self) -> Option<String> {
        let refused = self.authority.view.verify_as_peer(&self.times().chain, Usage::Server).err();
        refused.map(|refusal| {
            format!(
                "every client refuses the CA's own certificate: {refusal}; look at `names` in the \
                 configuration, and at the constraints of what certifies the issuer"
            )
        })
    }

    async fn renew(&self) -> Result<(), ServerError> {
        let (chain, key, times) = certify(&self.authority, &self.dns, &self.ip).await?;
        self.credentials.replace(chain, key)?;
        *self.times.lock().unwrap_or_else(PoisonError::into_inner) = times;
        Ok(())
    }

    /// Whether this service can do its work: issue certificates, that is.
    pub(crate) async fn ready(&self) -> Result<(), String> {
        self.authority
            .writer
            .require_commits()
            .map_err(|error| format!("{error}; nothing is issued"))?;
        self.authority.view.require_clock().await.map_err(|error| error.to_string())?;
        self.authority.view.require_begun_issuer().map_err(|error| error.to_string())?;
        let keys = self.authority.view.follow_keys().await.map_err(|error| error.to_string());
        if let Some(why) = self.unusable().or_else(|| self.disbelieved()) {
            // It may be why.
            return Err(match keys {
                Err(error) => format!("{why}; {error}"),
                Ok(()) => why,
            });
        }
        self.authority.view.refresh().await.map_err(|error| error.to_string())?;
        keys?;
        self.authority.view.halted().map_or(Ok(()), Err)
    }

    fn times(&self) -> Times {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The certificate that was kept, with its key.
async fn kept(authority: &Authority, error: SignerError) -> Result<Certified, ServerError> {
    let kept = authority.issuing.kept_own_certificate().await;
    // Which key is missing says more than that this one, too, does not open.
    let kept = kept.inspect_err(|error| tracing::error!(%error, "no certificate of before"));
    let Some((issued, key)) = kept.ok().flatten() else {
        return Err(match error {
            // Told when the engine was opened, with what to do.
            SignerError::Absent { purpose, .. } => ServerError::NoCertificate { purpose },
            error => authority::Error::Signer(error).into(),
        });
    };
    tracing::warn!(
        not_after = %issued.not_after,
        "the CA's own certificate is the one of before the restart"
    );
    // Renewed as soon as it can be.
    certified(&issued, &key, 0)
}

type Certified = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, Times);

/// A new key each time; policy allows the CA its own paths.
async fn certify(
    authority: &Arc<Authority>,
    dns: &[String],
    ip: &[std::net::IpAddr],
) -> Result<Certified, ServerError> {
    let unusable = |error: rcgen::Error| ServerError::OwnKey(error.to_string());
    let signing_since = authority.view.signing_since();
    let key = rcgen::KeyPair::generate().map_err(unusable)?;
    let request = rcgen::CertificateParams::default().serialize_request(&key).map_err(unusable)?;
    let body = IssueRequest {
        csr: request.pem().map_err(unusable)?,
        spiffe_id: Some(SpiffeId::authority(authority.view.trust_domain())),
        dns: Some(dns.to_vec()),
        ip: Some(ip.to_vec()),
        profile: None,
        ttl: None,
        attestation: Attestation::Svid {},
    };
    let issued = authority.issuing.issue_internal(&body, "own-certificate").await?;
    let key = Zeroizing::new(key.serialize_der());
    let kept = authority.issuing.keep_own_key(key.clone()).await;
    drop(kept.inspect_err(|error| {
        tracing::error!(%error, "a restart without the issuer's key will have no certificate");
    }));
    certified(&issued, &key, signing_since)
}

fn certified(
    issued: &IssuedCertificate,
    key: &[u8],
    signing_since: u64,
) -> Result<Certified, ServerError> {
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(issued.chain.as_bytes()).collect();
    let chain = chain.map_err(|error| ServerError::OwnKey(error.to_string()))?;
    let key = PrivatePkcs8KeyDer::from(key.to_vec()).into();
    let times = Times {
        chain: chain.clone().into(),
        renewal: issued.renewal,
        not_before: issued.not_before,
        not_after: issued.not_after,
        serial_number: issued.serial_number,
        leaf_index: issued.log_index,
        signing_since,
    };
    Ok((chain, key, times))
}

const LOOK_AGAIN: Duration = Duration::from_secs(1);
const TELL_AGAIN: Duration = Duration::from_secs(60);

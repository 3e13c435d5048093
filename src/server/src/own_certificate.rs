//! The CA's own certificate: from its own pipeline, renewed without a restart.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::{Attestation, IssueRequest, RenewalWindow};
use authority::Authority;
use countersign::Credentials;
use identity::{SerialNumber, SpiffeId};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

use crate::ServerError;
use crate::config::Config;

/// The CA's certificate and when it is due.
#[derive(Debug)]
pub(crate) struct OwnCertificate {
    authority: Arc<Authority>,
    dns: Vec<String>,
    ip: Vec<std::net::IpAddr>,
    credentials: Arc<Credentials>,
    times: Mutex<Times>,
}

#[derive(Debug, Clone, Copy)]
struct Times {
    renewal: RenewalWindow,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    serial_number: SerialNumber,
    leaf_index: u64,
    /// Since when the keys sign that it is signed with.
    signing_since: u64,
}

impl OwnCertificate {
    /// Issues the first one: the service does not start without it.
    pub(crate) async fn issue(
        authority: Arc<Authority>,
        config: &Config,
    ) -> Result<Self, ServerError> {
        let (dns, ip) = config.sorted_names();
        let (chain, key, times) = certify(&authority, &dns, &ip).await?;
        let credentials = Credentials::new(chain, key)?;
        Ok(Self { authority, dns, ip, credentials, times: Mutex::new(times) })
    }

    pub(crate) fn credentials(&self) -> Arc<Credentials> {
        Arc::clone(&self.credentials)
    }

    /// Renews it when its window has begun, when another key took over (the one that signed it
    /// retires only after it), and whenever it is of no use now. A failure is tried again.
    pub(crate) async fn keep_fresh(&self) {
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            // Looked at often, a clock that is slewed does not seem to leap.
            let is_steady = self.authority.clock().require_steady().is_ok();
            metrics::gauge!("countersign_clock_steady").set(f64::from(u8::from(is_steady)));
            let unusable = self.unusable();
            if let Some(why) = &unusable {
                tracing::error!(why, "the CA's own certificate is of no use");
            }
            if unusable.is_none() && !self.is_due() {
                continue;
            }
            match self.renew().await {
                Ok(()) => tracing::info!("renewed the CA's own certificate"),
                Err(error) => tracing::error!(%error, "cannot renew the CA's own certificate"),
            }
        }
    }

    fn is_due(&self) -> bool {
        let Times { renewal, signing_since, .. } = self.times();
        self.authority.clock().now() >= renewal.start
            || self.authority.signing_since() > signing_since
    }

    /// Why clients refuse it now, if they do.
    fn unusable(&self) -> Option<String> {
        let Times { not_before, not_after, serial_number, leaf_index, .. } = self.times();
        let now = self.authority.clock().now();
        if now < not_before {
            return Some(format!("the CA's own certificate begins at {not_before} only"));
        }
        if not_after < now {
            return Some("the CA's own certificate has expired".to_owned());
        }
        let refused = self.authority.require_own(&serial_number, leaf_index).err();
        refused.map(|refusal| format!("the CA's own certificate is refused: {refusal}"))
    }

    async fn renew(&self) -> Result<(), ServerError> {
        let (chain, key, times) = certify(&self.authority, &self.dns, &self.ip).await?;
        self.credentials.replace(chain, key)?;
        *self.times.lock().unwrap_or_else(PoisonError::into_inner) = times;
        Ok(())
    }

    /// Whether this service can do its work: issue certificates, that is.
    pub(crate) async fn ready(&self) -> Result<(), String> {
        self.authority.require_clock().await.map_err(|error| error.to_string())?;
        self.unusable().map_or(Ok(()), Err)?;
        self.authority.refresh().await.map_err(|error| error.to_string())?;
        self.authority.follow_keys().await.map_err(|error| error.to_string())?;
        self.authority.halted().map_or(Ok(()), Err)
    }

    fn times(&self) -> Times {
        *self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Certified = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, Times);

/// A new key each time; policy allows the CA its own paths.
async fn certify(
    authority: &Authority,
    dns: &[String],
    ip: &[std::net::IpAddr],
) -> Result<Certified, ServerError> {
    let unusable = |error: rcgen::Error| ServerError::OwnKey(error.to_string());
    let signing_since = authority.signing_since();
    let key = rcgen::KeyPair::generate().map_err(unusable)?;
    let request = rcgen::CertificateParams::default().serialize_request(&key).map_err(unusable)?;
    let body = IssueRequest {
        csr: request.pem().map_err(unusable)?,
        spiffe_id: Some(SpiffeId::authority(authority.trust_domain())),
        dns: dns.to_vec(),
        ip: ip.to_vec(),
        profile: None,
        ttl: None,
        attestation: Attestation::Svid {},
    };
    let issued = authority.issue_internal(&body, "own-certificate").await?;
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(issued.chain.as_bytes()).collect();
    let chain = chain.map_err(|error| ServerError::OwnKey(error.to_string()))?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let times = Times {
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

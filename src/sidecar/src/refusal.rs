//! Telling why a peer was refused: to metrics, and to whoever reads the diagnostics.

use std::error::Error;
use std::net::SocketAddr;

use identity::{Refusal, SerialNumber};
use metrics::counter;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::credentials::Credentials;
use crate::error::{refused_peer, tls_error};

/// A refusal on its way to whoever reports it, through the TLS library perhaps, with what the peer
/// *says* its serial number is.
#[derive(Debug, thiserror::Error)]
#[error("{refusal}")]
pub(crate) struct RefusedPeer {
    pub(crate) refusal: Refusal,
    pub(crate) serial_number: Option<SerialNumber>,
}

impl RefusedPeer {
    pub(crate) fn new(refusal: Refusal, shown: Option<&CertificateDer<'_>>) -> Self {
        Self { refusal, serial_number: shown.and_then(serial_number) }
    }
}

/// The serial number that stands in a certificate, whatever that is worth.
pub(crate) fn serial_number(certificate: &CertificateDer<'_>) -> Option<SerialNumber> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    SerialNumber::from_octets(certificate.raw_serial()).ok()
}

/// Reports a handshake that failed, at our end of it.
pub(crate) fn report_failure(
    error: &(dyn Error + 'static),
    remote: SocketAddr,
    own: Option<&Credentials>,
) {
    let tls = tls_error(error);
    if let Some(refused) = tls.and_then(refused_peer) {
        report_refusal(refused, remote, own);
    } else if matches!(tls, Some(rustls::Error::NoCertificatesPresented)) {
        let refused = RefusedPeer { refusal: Refusal::NoCertificate, serial_number: None };
        report_refusal(&refused, remote, own);
    } else {
        counter!(REFUSED, "reason" => "tls").increment(1);
        tracing::debug!(%remote, %error, "handshake failed");
    }
}

/// Reports a handshake that took longer than it may.
pub(crate) fn report_timeout(remote: SocketAddr) {
    counter!(REFUSED, "reason" => "timeout").increment(1);
    tracing::debug!(%remote, "handshake took too long");
}

/// Reports a peer whom we refused: the rule, both serial numbers as far as they are known, and
/// where it is.
fn report_refusal(refused: &RefusedPeer, remote: SocketAddr, own: Option<&Credentials>) {
    let RefusedPeer { refusal, serial_number } = refused;
    let rule = reason(refusal);
    counter!(REFUSED, "reason" => rule).increment(1);
    let peer_serial_number = serial_number.map(tracing::field::display);
    let own_serial_number = own.and_then(Credentials::serial_number).map(tracing::field::display);
    tracing::info!(%remote, rule, %refusal, peer_serial_number, own_serial_number, "peer refused");
}

/// The label of a refusal in metrics.
pub(crate) fn reason(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Denied => "denied",
        Refusal::Expired { .. } => "expired",
        Refusal::NoCertificate => "no-certificate",
        Refusal::NotAmongPeers { .. } => "not-among-peers",
        Refusal::NotAnSvid(_) => "not-an-svid",
        Refusal::NotCountersigned(_) => "not-countersigned",
        Refusal::NotYetValid { .. } => "not-yet-valid",
        Refusal::Revoked { .. } => "revoked",
        Refusal::StaleRevocations { .. } => "stale-revocations",
        Refusal::UnknownAuthority(_) => "unknown-authority",
        Refusal::UnknownTrustDomain(_) => "unknown-trust-domain",
        _ => "other",
    }
}

const REFUSED: &str = "countersign_handshakes_refused_total";

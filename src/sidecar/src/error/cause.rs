//! What lies behind an error: verdicts of ours that pass through the TLS library and HTTP on their way to
//! whoever asked, and how they are found again.

use std::io;
use std::sync::Arc;

use identity::{Refusal, SerialNumber, SpiffeId};
use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, CertificateError, OtherError};
use x509_parser::prelude::{FromDer, X509Certificate};

/// An error of any kind, below one of ours.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

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

/// Passes through the TLS library when the server is another than expected.
#[derive(Debug, thiserror::Error)]
#[error("{found} instead of {expected}")]
pub(crate) struct OtherServer {
    pub(crate) expected: SpiffeId,
    pub(crate) found: SpiffeId,
}

/// No address was found for a name.
#[derive(Debug, thiserror::Error)]
#[error("no address is known for {host}")]
pub(crate) struct Unresolved {
    pub(crate) host: String,
    pub(crate) source: io::Error,
}

/// Somebody refused the certificate that we showed.
#[derive(Debug, thiserror::Error)]
#[error("our certificate was refused: {alert:?}")]
pub(crate) struct RefusedUs {
    pub(crate) alert: AlertDescription,
    pub(crate) serial_number: Option<SerialNumber>,
}

/// The TLS library's error somewhere below this one.
pub(crate) fn tls_error<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a rustls::Error> {
    find(error)
}

/// An error of this type somewhere below this one. `io::Error` hides what it wraps from `source`.
pub(crate) fn find<'a, T: std::error::Error + 'static>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

/// The refusal that one of our verifiers gave to the TLS library.
pub(crate) fn refused_peer(error: &rustls::Error) -> Option<&RefusedPeer> {
    verdict(error)
}

/// Gives a verdict of ours to the TLS library.
pub(crate) fn refuse(verdict: impl std::error::Error + Send + Sync + 'static) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(verdict))).into()
}

/// A verdict of ours that passed through the TLS library.
pub(crate) fn verdict<T: std::error::Error + 'static>(error: &rustls::Error) -> Option<&T> {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => other.0.downcast_ref(),
        _ => None,
    }
}

/// RFC 8446 §6.2: the alerts by which the other end says that our certificate does not do.
pub(crate) fn refusal_by_peer(error: &rustls::Error) -> Option<AlertDescription> {
    use AlertDescription as Alert;
    let &rustls::Error::AlertReceived(alert) = error else { return None };
    let is_about_certificates = matches!(
        alert,
        Alert::AccessDenied
            | Alert::BadCertificate
            | Alert::CertificateExpired
            | Alert::CertificateRequired
            | Alert::CertificateRevoked
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::UnsupportedCertificate
    );
    is_about_certificates.then_some(alert)
}

/// The serial number that stands in a certificate, whatever that is worth.
pub(crate) fn serial_number(certificate: &CertificateDer<'_>) -> Option<SerialNumber> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    SerialNumber::from_octets(certificate.raw_serial()).ok()
}

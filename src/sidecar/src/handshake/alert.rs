//! The alert that a refused peer hears, where TLS has one for the rule.
//!
//! rustls takes the alert from the verifier's error, and an error with a verdict of ours inside is
//! `certificate_unknown`, whatever it says. So in a handshake of ours the verdict goes beside: the
//! verifier leaves it with the task, and gives rustls the error that has the alert. A configuration
//! that was given away has nobody to leave it with, and keeps the verdict in the error.

use std::cell::RefCell;

use identity::Refusal;
use rustls::CertificateError;

use crate::error::cause::refused_peer;

tokio::task_local! {
    static VERDICT: RefCell<Option<rustls::Error>>;
}

/// Runs a handshake; where a verifier of ours ended it, says with which verdict.
pub(crate) async fn with_alerts<H: Future>(handshake: H) -> (H::Output, Option<rustls::Error>) {
    VERDICT
        .scope(RefCell::default(), async {
            let ended = handshake.await;
            (ended, VERDICT.with(RefCell::take))
        })
        .await
}

/// A verdict as rustls is told.
pub(crate) fn told(verdict: rustls::Error) -> rustls::Error {
    let Some(alert) = refused_peer(&verdict).and_then(|refused| error_of(&refused.refusal)) else {
        return verdict;
    };
    match VERDICT.try_with(|kept| kept.replace(Some(verdict.clone()))) {
        Ok(_) => alert.into(),
        Err(_) => verdict,
    }
}

/// RFC 8446 §6.2: only these say more than `certificate_unknown`.
fn error_of(refusal: &Refusal) -> Option<CertificateError> {
    match refusal {
        Refusal::Denied | Refusal::NotAmongPeers { .. } => {
            Some(CertificateError::ApplicationVerificationFailure)
        }
        // RFC 8446 §6.2: `certificate_expired` is of one that is not valid *now*.
        Refusal::Expired { .. } => Some(CertificateError::Expired),
        Refusal::NotYetValid { .. } => Some(CertificateError::NotValidYet),
        Refusal::Revoked { .. } => Some(CertificateError::Revoked),
        Refusal::UnknownAuthority(_) | Refusal::UnknownTrustDomain(_) => {
            Some(CertificateError::UnknownIssuer)
        }
        _ => None,
    }
}

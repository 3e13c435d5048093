//! Telling why a peer was refused: to metrics, and to whoever reads the diagnostics.

mod told;

use std::error::Error;
use std::fmt;
use std::net::SocketAddr;

use identity::{Refusal, SerialNumber};
use metrics::counter;
use rustls::AlertDescription;

use crate::error::cause::{RefusedPeer, refusal_by_peer, refused_peer, tls_error};
use crate::refusal::told::tell;

/// Reports a client's handshake that failed.
pub(crate) fn report_failure(
    error: &(dyn Error + 'static),
    remote: SocketAddr,
    own: Option<SerialNumber>,
) {
    let tls = tls_error(error);
    if let Some(refused) = tls.and_then(refused_peer) {
        counter!(REFUSED, "reason" => refused.refusal.name()).increment(1);
        report_refusal(refused, &remote, own);
    } else if matches!(tls, Some(rustls::Error::NoCertificatesPresented)) {
        let refused = RefusedPeer { refusal: Refusal::NoCertificate, serial_number: None };
        counter!(REFUSED, "reason" => refused.refusal.name()).increment(1);
        report_refusal(&refused, &remote, own);
    } else if let Some(alert) = tls.and_then(refusal_by_peer) {
        // Anybody can say so who has shown nothing: no alarm by their leave.
        counter!(OWN_REFUSED, "by" => "client").increment(1);
        let own_serial_number = own.map(tracing::field::display);
        tell(|| tracing::info!(%remote, ?alert, own_serial_number, "our certificate was refused"));
    } else {
        counter!(REFUSED, "reason" => "tls").increment(1);
        tracing::debug!(%remote, %error, "handshake failed");
    }
}

/// Reports a server that we refused; what else may go wrong is its caller's to tell.
pub(crate) fn report_server(
    error: &(dyn Error + 'static),
    address: &dyn fmt::Display,
    own: Option<SerialNumber>,
) {
    if let Some(refused) = tls_error(error).and_then(refused_peer) {
        counter!(SERVERS_REFUSED, "reason" => refused.refusal.name()).increment(1);
        report_refusal(refused, address, own);
    }
}

/// Reports that a peer refused our certificate. Its own diagnostics name the rule: an alert does not.
pub(crate) fn report_own(
    alert: AlertDescription,
    remote: &dyn fmt::Display,
    own: Option<SerialNumber>,
) {
    counter!(OWN_REFUSED, "by" => "server").increment(1);
    let own_serial_number = own.map(tracing::field::display);
    let more = own.map(|own| format!("countersign show {own}"));
    tracing::warn!(%remote, ?alert, own_serial_number, more, "our certificate was refused");
}

/// Reports a handshake that took longer than it may.
pub(crate) fn report_timeout(remote: SocketAddr) {
    counter!(REFUSED, "reason" => "timeout").increment(1);
    tracing::debug!(%remote, "handshake took too long");
}

/// Reports a peer whom we refused: the rule, both serial numbers as far as they are known, where it
/// is, and, of a certificate that is ours, where to read more.
fn report_refusal(
    RefusedPeer { refusal, serial_number }: &RefusedPeer,
    remote: &dyn fmt::Display,
    own: Option<SerialNumber>,
) {
    let rule = refusal.name();
    // Before that, the number is whatever somebody wrote into a certificate.
    let is_ours = matches!(
        refusal,
        Refusal::Denied | Refusal::NotAmongPeers { .. } | Refusal::Revoked { .. }
    );
    let more = serial_number
        .filter(|_| is_ours)
        .map(|serial_number| format!("countersign show {serial_number}"));
    let peer_serial_number = serial_number.map(tracing::field::display);
    let own_serial_number = own.map(tracing::field::display);
    tell(|| {
        tracing::info!(
            %remote, rule, %refusal, peer_serial_number, own_serial_number, more, "peer refused"
        );
    });
}

/// Clients that a listener refused.
const REFUSED: &str = "countersign_handshakes_refused_total";
/// Servers that a client of ours refused.
const SERVERS_REFUSED: &str = "countersign_servers_refused_total";
/// How often others refused our certificate.
const OWN_REFUSED: &str = "countersign_own_certificate_refused_total";

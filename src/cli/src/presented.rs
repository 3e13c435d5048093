//! The chain that a server shows, whatever it is worth.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use countersign::{HostPort, Obstacle};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::Error;

/// What a server proved about the key of the certificate that it showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Possession {
    /// It signed the handshake with it.
    Proved,
    /// It did not.
    Unproved,
}

/// Shakes hands with a server, whoever it is, and reads its chain, end entity first. Sends nothing.
pub(crate) async fn read(
    address: &HostPort,
) -> Result<(Vec<CertificateDer<'static>>, Possession), Error> {
    let (host, port) = (address.host.as_str(), address.port);
    let address = address.to_string();
    let failed =
        |why: String, speaks_tls| Error::Server { address: address.clone(), why, speaks_tls };
    let name =
        ServerName::try_from(host.to_owned()).map_err(|error| failed(error.to_string(), true))?;
    let verifier = DangerousRecorder::new();
    let connector = TlsConnector::from(Arc::new(dangerous_config(&verifier)));
    let handshake = async {
        let stream = TcpStream::connect((host, port)).await?;
        connector.connect(name, stream).await.map(drop)
    };
    let outcome = match tokio::time::timeout(PATIENCE, handshake).await {
        Ok(outcome) => outcome.map_err(|error| match Obstacle::of(&error) {
            Some(obstacle @ Obstacle::NoTls) => (obstacle.to_string(), false),
            _ => (error.to_string(), true),
        }),
        Err(_) => Err((format!("no answer within {} s", PATIENCE.as_secs()), true)),
    };
    // Some servers hang up on a client without a certificate, after they have shown theirs.
    let seen = verifier.seen.lock().unwrap_or_else(PoisonError::into_inner);
    match (&*seen, outcome) {
        (Seen { chain, possession }, _) if !chain.is_empty() => Ok((chain.clone(), *possession)),
        (_, Err((why, speaks_tls))) => Err(failed(why, speaks_tls)),
        (_, Ok(())) => Err(failed("it showed no certificate".to_owned(), true)),
    }
}

/// Takes any certificate of a server, and records it to show it to the user: never to trust a
/// connection.
#[derive(Debug)]
struct DangerousRecorder {
    provider: Arc<CryptoProvider>,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    chain: Vec<CertificateDer<'static>>,
    possession: Possession,
}

impl DangerousRecorder {
    fn new() -> Arc<Self> {
        let seen = Mutex::new(Seen { chain: vec![], possession: Possession::Unproved });
        Arc::new(Self { provider: Arc::new(aws_lc_rs::default_provider()), seen })
    }

    fn record(&self, record: impl FnOnce(&mut Seen)) {
        record(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn dangerous_config(verifier: &Arc<DangerousRecorder>) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::clone(&verifier.provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("aws-lc-rs has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(verifier) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth()
}

impl ServerCertVerifier for DangerousRecorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = [end_entity].into_iter().chain(intermediates);
        let chain = chain.map(|der| der.clone().into_owned()).collect();
        self.record(|seen| seen.chain = chain);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        let valid = verify_tls13_signature(message, certificate, signature, algorithms)?;
        self.record(|seen| seen.possession = Possession::Proved);
        Ok(valid)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

const PATIENCE: Duration = Duration::from_secs(10);

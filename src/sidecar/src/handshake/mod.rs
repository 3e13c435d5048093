//! TLS in both directions: configurations, and the verifiers in them.
//!
//! TLS 1.3 only, by name: other crates in a build switch rustls' `tls12` on. No resumption: what is
//! made here may be given away, and rustls does not verify again when a session resumes. No early
//! data. One crypto provider, passed by hand: a process-wide one is whoever came first.

pub(crate) mod alert;
pub(crate) mod credentials;
pub(crate) mod resumption;

use std::sync::{Arc, LazyLock};

use identity::Usage;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};

use crate::error::{ConfigurationFault, Error};
use crate::handshake::alert::told;
use crate::handshake::credentials::Credentials;
use crate::peers::LivePeers;
use crate::peers::welcome::{ExpectedServer, Welcome};
use crate::verification::Verification;
use crate::verification::admission::believe;

/// A server that shows `credentials` and asks clients for theirs.
///
/// A client may show none: what it may do then is the service's question. One that it shows is
/// verified, and the handshake ends if it fails. `time` is the clock that certificates are compared
/// with; that of `verification` if none is given.
pub fn server_config(
    credentials: Arc<Credentials>,
    verification: Arc<Verification>,
    time: Option<Arc<dyn TimeProvider>>,
) -> Result<Arc<ServerConfig>, Error> {
    let time = time.unwrap_or_else(|| verification.clock());
    let verifier = ClientVerifier { verification, clients: Welcome::Anyone };
    let mut config = server_config_with(verifier, credentials, time)?;
    config.alpn_protocols = http_protocols();
    Ok(Arc::new(config))
}

/// A server that shows `credentials` and serves nobody but these peers, without an application
/// protocol.
pub(crate) fn mutual_server_config(
    credentials: Arc<Credentials>,
    verification: Arc<Verification>,
    peers: Arc<LivePeers>,
) -> Result<ServerConfig, Error> {
    let time = verification.clock();
    let verifier = ClientVerifier { verification, clients: Welcome::Among(peers) };
    server_config_with(verifier, credentials, time)
}

/// A client that talks to nobody but the expected server, and shows `credentials` if it has them.
///
/// The name that it dials is not compared: the SPIFFE ID says who answers.
pub fn client_config(
    verification: Arc<Verification>,
    expected: ExpectedServer,
    credentials: Option<Arc<Credentials>>,
) -> Result<Arc<ClientConfig>, Error> {
    let time = verification.clock();
    let verifier = ServerVerifier { verification, servers: Welcome::Authority(expected) };
    let mut config = client_config_with(Arc::new(verifier), credentials, time)?;
    config.alpn_protocols = http_protocols();
    Ok(Arc::new(config))
}

/// A client that shows `credentials` and talks to nobody but these peers, without an application
/// protocol.
pub(crate) fn mutual_client_config(
    credentials: Arc<Credentials>,
    verification: Arc<Verification>,
    peers: Arc<LivePeers>,
) -> Result<ClientConfig, Error> {
    let time = verification.clock();
    let verifier = ServerVerifier { verification, servers: Welcome::Among(peers) };
    client_config_with(Arc::new(verifier), Some(credentials), time)
}

/// A client that believes *any* server: whoever answers may be an attacker.
///
/// HTTP/1.1 for the one unauthenticated `GET /v1/trust` of a bootstrap, whose answer is a note that proves
/// itself against the pin. It shows no certificate, and nothing secret may ever be sent through it.
pub(crate) fn dangerous_unverified_config() -> Result<Arc<ClientConfig>, Error> {
    let time = Arc::new(DefaultTimeProvider);
    let mut config = client_config_with(Arc::new(DangerousAnyServer), None, time)?;
    config.alpn_protocols = vec![HTTP_1.to_vec()];
    Ok(Arc::new(config))
}

/// HTTP/2 where both ends speak it.
pub(crate) fn http_protocols() -> Vec<Vec<u8>> {
    vec![HTTP_2.to_vec(), HTTP_1.to_vec()]
}

/// The crypto of every handshake: aws-lc-rs, and a key exchange that a future quantum computer
/// does not undo first.
pub(crate) fn crypto_provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups: vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
            kx_group::SECP384R1,
        ],
        ..aws_lc_rs::default_provider()
    })
}

fn server_config_with(
    verifier: ClientVerifier,
    credentials: Arc<Credentials>,
    time: Arc<dyn TimeProvider>,
) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_details(crypto_provider(), time)
        .with_protocol_versions(VERSIONS)
        .map_err(unusable)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(credentials);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client_config_with(
    verifier: Arc<dyn ServerCertVerifier>,
    credentials: Option<Arc<Credentials>>,
    time: Arc<dyn TimeProvider>,
) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_details(crypto_provider(), time)
        .with_protocol_versions(VERSIONS)
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match credentials {
        Some(credentials) => builder.with_client_cert_resolver(credentials),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn unusable(error: rustls::Error) -> Error {
    Error::Configuration(ConfigurationFault::Tls(error))
}

/// The methods that all verifiers have in common: whoever shows a certificate proves in the
/// handshake to have its key.
macro_rules! signatures_of_tls13 {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _certificate: &CertificateDer<'_>,
            _signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(rustls::Error::General("TLS 1.2 is never negotiated here".to_owned()))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            ALGORITHMS.supported_schemes()
        }
    };
}

/// What a server believes of its clients.
#[derive(Debug)]
struct ClientVerifier {
    verification: Arc<Verification>,
    clients: Welcome,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        !matches!(self.clients, Welcome::Anyone)
    }

    /// No hints: they would be those of one trust state, and clients have one certificate anyway.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let chain = chain(end_entity, intermediates);
        believe(&chain, Usage::Client, now, &self.clients, &self.verification).map_err(told)?;
        Ok(ClientCertVerified::assertion())
    }

    signatures_of_tls13!();
}

/// What a client believes of the server.
#[derive(Debug)]
struct ServerVerifier {
    verification: Arc<Verification>,
    servers: Welcome,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = chain(end_entity, intermediates);
        believe(&chain, Usage::Server, now, &self.servers, &self.verification).map_err(told)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures_of_tls13!();
}

/// Believes any certificate: see [`dangerous_unverified_config`].
#[derive(Debug)]
struct DangerousAnyServer;

impl ServerCertVerifier for DangerousAnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    signatures_of_tls13!();
}

/// End entity and intermediates as one chain; borrows, copies no certificate.
fn chain<'a>(
    end_entity: &'a CertificateDer<'_>,
    intermediates: &'a [CertificateDer<'_>],
) -> Vec<CertificateDer<'a>> {
    std::iter::once(end_entity)
        .chain(intermediates)
        .map(|certificate| CertificateDer::from(certificate.as_ref()))
        .collect()
}

static ALGORITHMS: LazyLock<WebPkiSupportedAlgorithms> =
    LazyLock::new(|| aws_lc_rs::default_provider().signature_verification_algorithms);
const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
/// RFC 7301: names of application protocols.
pub(crate) const HTTP_2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";

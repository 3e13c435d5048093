//! Requests, made beforehand to the last byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::environment::Environment;
use api::{BootstrapToken, paths};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use tlog::Hash;

/// A pool of requests for certificates, handed out in turn.
#[derive(Debug, Clone)]
pub struct Requests {
    pool: Arc<[Box<[u8]>]>,
    turn: Arc<AtomicUsize>,
}

impl Requests {
    /// Makes requests for P-256 certificates of `/prod/reports`, each with a key of its own.
    pub fn make(count: usize, environment: &Environment) -> anyhow::Result<Self> {
        let (id, host) = (environment.id(IDENTITY), environment.address().to_string());
        let pool: anyhow::Result<_> = (0..count)
            .map(|_| Ok(certificate_request(&id, &KeyPair::generate()?, &host)?.into()))
            .collect();
        Ok(Self { pool: pool?, turn: Arc::default() })
    }

    /// The next one.
    pub fn next(&self) -> &[u8] {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        &self.pool[turn % self.pool.len()]
    }
}

/// A request for a certificate of an identity, by the caller's own certificate.
pub fn certificate_request(id: &str, key: &KeyPair, host: &str) -> anyhow::Result<Vec<u8>> {
    request_with(serde_json::json!({"type": "svid"}), id, key, host)
}

/// A request for the first certificate of an identity, by a bootstrap token.
pub fn token_request(token: &str, id: &str, key: &KeyPair, host: &str) -> anyhow::Result<Vec<u8>> {
    let request =
        request_with(serde_json::json!({"type": "token", "token": token}), id, key, host)?;
    // As our own clients do: a token has a share of requests of its own.
    let named = format!("{}: {:?}\r\n", paths::TOKEN_HEADER, token_hash(token)?);
    let end_of_line = request.windows(2).position(|two| two == b"\r\n").unwrap_or_default() + 2;
    let (line, rest) = request.split_at(end_of_line);
    Ok([line, named.as_bytes(), rest].concat())
}

fn token_hash(token: &str) -> anyhow::Result<Hash> {
    let token: BootstrapToken = token.parse().map_err(anyhow::Error::msg)?;
    Ok(Hash::of(token.secret()))
}

fn request_with(
    attestation: serde_json::Value,
    id: &str,
    key: &KeyPair,
    host: &str,
) -> anyhow::Result<Vec<u8>> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    let csr = parameters.serialize_request(key)?.pem()?;
    let body = serde_json::json!({"csr": csr, "spiffe_id": id, "attestation": attestation});
    Ok(post("/v1/certificates", &body.to_string(), host))
}

/// A `POST` of JSON over HTTP/1.1, to the last byte.
pub fn post(path: &str, body: &str, host: &str) -> Vec<u8> {
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    request.into_bytes()
}

/// Whom the certificates name: a row of the environment's workload table.
const IDENTITY: &str = "/prod/reports";

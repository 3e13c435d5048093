//! Requests, made beforehand to the last byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use system_tests::Environment;

/// A pool of requests for certificates, handed out in turn.
#[derive(Debug, Clone)]
pub(crate) struct Requests {
    pool: Arc<[Box<[u8]>]>,
    turn: Arc<AtomicUsize>,
}

impl Requests {
    /// Makes requests for P-256 certificates of [`IDENTITY`], each with a key of its own.
    pub(crate) fn make(count: usize, environment: &Environment) -> anyhow::Result<Self> {
        let (id, host) = (environment.id(IDENTITY), environment.address().to_string());
        let pool: anyhow::Result<_> = (0..count).map(|_| request(&id, &host)).collect();
        Ok(Self { pool: pool?, turn: Arc::default() })
    }

    /// The next one.
    pub(crate) fn next(&self) -> &[u8] {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        &self.pool[turn % self.pool.len()]
    }
}

fn request(id: &str, host: &str) -> anyhow::Result<Box<[u8]>> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    let csr = parameters.serialize_request(&KeyPair::generate()?)?.pem()?;
    let body = serde_json::json!({
        "csr": csr, "spiffe_id": id, "attestation": {"type": "svid"}
    })
    .to_string();
    let request = format!(
        "POST /v1/certificates HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    Ok(request.into_bytes().into())
}

/// Whom the certificates name: a row of the environment's workload table.
pub(crate) const IDENTITY: &str = "/prod/reports";

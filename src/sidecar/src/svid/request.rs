//! A new key and the PKCS#10 request that proves it (RFC 2986), without a library that makes
//! certificates: a request of ours has no names, so it is a key between constants.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::error::{ConfigurationFault, Error};

/// A key that was made here, and a request for a certificate of it.
pub(crate) struct KeyRequest {
    /// PKCS#8.
    pub(crate) key: PrivateKeyDer<'static>,
    /// PKCS#10, PEM.
    pub(crate) csr: String,
    /// The `Idempotency-Key` under which it is asked for: the same for every try.
    pub(crate) idempotency_key: String,
}

impl KeyRequest {
    /// Makes a P-256 key. Fails only without randomness.
    pub(crate) fn generate() -> Result<Self, Error> {
        make().map_err(|Unspecified| Error::Configuration(ConfigurationFault::Randomness))
    }
}

fn make() -> Result<KeyRequest, Unspecified> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
    let public_key: PublicKeyX509Der<'_> = pair.public_key().as_der()?;
    let info = certification_request_info(public_key.as_ref());
    let signature = pair.sign(&SystemRandom::new(), &info)?;
    // CertificationRequest and Certificate have the same shape: content, algorithm, signature.
    let der = tlog::join_certificate(&info, ECDSA_WITH_SHA256, signature.as_ref());
    let key = PrivatePkcs8KeyDer::from(pair.to_pkcs8v1()?.as_ref().to_vec()).into();
    let idempotency_key = format!("csr-{:?}", tlog::Hash::of(&der));
    Ok(KeyRequest { key, csr: identity::pem("CERTIFICATE REQUEST", &der), idempotency_key })
}

/// RFC 2986 §4.1: version 0, empty subject, the key, no attributes.
fn certification_request_info(public_key: &[u8]) -> Vec<u8> {
    let mut content = vec![0x02, 0x01, 0x00, 0x30, 0x00];
    content.extend(public_key);
    content.extend([0xa0, 0x00]);
    // A P-256 key has 91 octets, the whole 98: one octet says its length.
    let length = u8::try_from(content.len()).expect("a P-256 request is short");
    assert!(length < 0x80, "a P-256 request is short");
    [&[0x30, length], &content[..]].concat()
}

/// AlgorithmIdentifier of ecdsa-with-SHA256, RFC 5758 §3.2: parameters are absent.
const ECDSA_WITH_SHA256: &[u8] =
    &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_takes_the_request() {
        let request = KeyRequest::generate().unwrap();
        let parsed = issuance::CertificateRequest::parse_pem(&request.csr).unwrap();
        assert_eq!(parsed.key_type(), issuance::KeyType::EcdsaP256);
        assert!(parsed.names().spiffe_id.is_none());
        assert_ne!(KeyRequest::generate().unwrap().idempotency_key, request.idempotency_key);
    }
}

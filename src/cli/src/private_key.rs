//! What of a private key may be told: its public half.

use identity::unmarked;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroize;

/// The SubjectPublicKeyInfo, DER, of a private key in PEM: PKCS#8, or as OpenSSL wrote it before.
pub(crate) fn public_key(pem: &[u8]) -> Result<Vec<u8>, String> {
    let text = unmarked(pem).map_err(|fault| fault.to_string())?;
    let mut key = PrivateKeyDer::from_pem_slice(text)
        .map_err(|_| "it is no private key that is not encrypted".to_owned())?;
    let signing = any_supported_type(&key);
    // What signs has a copy of its own.
    key.zeroize();
    let signing = signing.map_err(|_| "its key is of a kind that TLS does not know".to_owned())?;
    let public_key =
        signing.public_key().ok_or_else(|| "its public key is not known".to_owned())?;
    Ok(public_key.to_vec())
}

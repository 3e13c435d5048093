//! The anchors in forms that other software reads.

use data_encoding::{BASE64, BASE64URL_NOPAD};
use identity::TrustState;
use serde_json::{Value, json};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::chain;
use crate::error::Error;

/// The anchors as PEM blocks.
pub(crate) fn pem(state: &TrustState) -> String {
    state.anchors.iter().map(|anchor| pem_block(anchor.certificate.as_bytes())).collect()
}

/// The anchors as a SPIFFE bundle: JWKS with `x5c`.
///
/// Source: SPIFFE Trust Domain and Bundle §4, X509-SVID §6.
pub(crate) fn jwks(state: &TrustState) -> Result<Value, Error> {
    let keys: Vec<Value> = state
        .anchors
        .iter()
        .map(|anchor| jwk(anchor.certificate.as_bytes()))
        .collect::<Result<_, _>>()?;
    Ok(json!({ "keys": keys, "spiffe_sequence": state.sequence }))
}

fn pem_block(der: &[u8]) -> String {
    let base64 = BASE64.encode(der);
    let lines: Vec<&str> =
        (0..base64.len()).step_by(64).map(|at| &base64[at..base64.len().min(at + 64)]).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

fn jwk(der: &[u8]) -> Result<Value, Error> {
    let unusable = |why| Error::Certificate { subject: "an anchor".to_owned(), why };
    let certificate = chain::read(der).map_err(unusable)?;
    let mut key = key_parameters(certificate.public_key())
        .ok_or_else(|| unusable("its key has no JWK form here (EC and RSA have)".to_owned()))?;
    key["use"] = json!("x509-svid");
    key["x5c"] = json!([BASE64.encode(der)]);
    Ok(key)
}

/// RFC 7518 §6.2 and §6.3.
fn key_parameters(spki: &SubjectPublicKeyInfo<'_>) -> Option<Value> {
    let text = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
    match spki.parsed().ok()? {
        PublicKey::EC(point) => {
            let (&4, coordinates) = point.data().split_first()? else { return None };
            let (x, y) = coordinates.split_at(coordinates.len() / 2);
            let curve = match x.len() {
                32 => "P-256",
                48 => "P-384",
                _ => return None,
            };
            Some(json!({ "kty": "EC", "crv": curve, "x": text(x), "y": text(y) }))
        }
        PublicKey::RSA(rsa) => {
            let unsigned = |bytes: &[u8]| {
                let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
                text(&bytes[zeros..])
            };
            Some(json!({ "kty": "RSA", "n": unsigned(rsa.modulus), "e": unsigned(rsa.exponent) }))
        }
        _ => None,
    }
}

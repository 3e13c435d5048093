//! A trust state's plain forms, for software that knows no trust state: SPIFFE JWKS, and PEM.

use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::error::Error;
use crate::trust_state::TrustState;

impl TrustState {
    /// The anchors as PEM blocks, in order.
    pub fn to_pem(&self) -> String {
        self.anchors.iter().map(|a| pem("CERTIFICATE", a.certificate.as_bytes())).collect()
    }

    /// The anchors as a SPIFFE bundle: a JWKS whose keys carry `use` and `x5c`.
    ///
    /// Source: SPIFFE Trust Domain and Bundle §4, X509-SVID §6.
    pub fn to_jwks(&self) -> Result<Value, Error> {
        let anchors = self.anchors.iter().enumerate();
        let keys: Result<Vec<Value>, Error> = anchors
            .map(|(position, anchor)| {
                jwk(anchor.certificate.as_bytes()).ok_or_else(|| Error::Anchor {
                    position,
                    why: "its key has no JWK form here (EC and RSA have)".to_owned(),
                })
            })
            .collect();
        Ok(json!({
            "keys": keys?,
            "spiffe_refresh_hint": REFRESH_SECONDS,
            "spiffe_sequence": self.sequence,
        }))
    }
}

/// One PEM block, lines of 64 characters (RFC 7468 §2).
pub fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let mut pem = String::with_capacity(text.len() + text.len() / 64 + 2 * label.len() + 40);
    pem.push_str("-----BEGIN ");
    pem.push_str(label);
    pem.push_str("-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = tail;
    }
    pem.push_str("-----END ");
    pem.push_str(label);
    pem.push_str("-----\n");
    pem
}

fn jwk(der: &[u8]) -> Option<Value> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let mut key = key_parameters(certificate.public_key())?;
    key["use"] = json!("x509-svid");
    key["x5c"] = json!([BASE64.encode(der)]);
    Some(key)
}

/// RFC 7518 §6.2 and §6.3.
fn key_parameters(spki: &SubjectPublicKeyInfo<'_>) -> Option<Value> {
    let text = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
    match spki.parsed().ok()? {
        PublicKey::EC(point) => {
            // SEC 1 §2.3.3: 04, then both coordinates.
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

/// How often consumers of the plain forms should look again.
const REFRESH_SECONDS: u64 = 300;

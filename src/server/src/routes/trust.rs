//! The trust state, and its plain forms for software that knows no trust state.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::Service;

/// The signed trust state.
#[utoipa::path(get, path = api::paths::TRUST,
    responses((status = 200, body = String, content_type = "text/plain"), (status = 304)))]
pub(crate) async fn trust(State(service): State<Service>, headers: HeaderMap) -> Response {
    let etag = format!("\"{}\"", service.authority.trust().state().sequence);
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| *known == *etag);
    let mut answer = HeaderMap::new();
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        answer.insert(header::ETAG, etag);
    }
    if known {
        return (StatusCode::NOT_MODIFIED, answer).into_response();
    }
    answer.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    (answer, service.authority.trust_note().to_vec()).into_response()
}

/// The trust anchors: a SPIFFE bundle (JWKS), or PEM where `Accept` asks for it.
#[utoipa::path(get, path = api::paths::BUNDLE,
    responses((status = 200, content((serde_json::Value = "application/json"), (String = "application/pem-certificate-chain")))))]
pub(crate) async fn bundle(State(service): State<Service>, headers: HeaderMap) -> Response {
    let state = service.authority.trust().state();
    let anchors: Vec<&[u8]> =
        state.anchors.iter().map(|anchor| anchor.certificate.as_bytes()).collect();
    let wants_pem = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("pem"));
    if wants_pem {
        let kind = HeaderValue::from_static(PEM);
        return ([(header::CONTENT_TYPE, kind)], pem(&anchors)).into_response();
    }
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], jwks(&anchors, state.sequence).to_string()).into_response()
}

/// SPIFFE Trust Domain and Bundle §4: each anchor as a key with `use` = `x509-svid` and `x5c`.
fn jwks(anchors: &[&[u8]], sequence: u64) -> serde_json::Value {
    let keys: Vec<serde_json::Value> = anchors.iter().filter_map(|anchor| jwk(anchor)).collect();
    serde_json::json!({
        "keys": keys,
        "spiffe_refresh_hint": 300,
        "spiffe_sequence": sequence,
    })
}

fn jwk(anchor: &[u8]) -> Option<serde_json::Value> {
    let (_, certificate) = X509Certificate::from_der(anchor).ok()?;
    let x5c = [BASE64.encode(anchor)];
    let base64 = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
    match certificate.public_key().parsed().ok()? {
        // SEC 1 §2.3.3: 04, then both coordinates.
        PublicKey::EC(point) => {
            let (_, coordinates) = point.data().split_first()?;
            let (x, y) = coordinates.split_at(coordinates.len() / 2);
            let curve = match x.len() {
                32 => "P-256",
                48 => "P-384",
                _ => return None,
            };
            Some(serde_json::json!({
                "crv": curve, "kty": "EC", "use": "x509-svid", "x": base64(x), "x5c": x5c, "y": base64(y),
            }))
        }
        PublicKey::RSA(key) => Some(serde_json::json!({
            "e": base64(trim(key.exponent)), "kty": "RSA", "n": base64(trim(key.modulus)),
            "use": "x509-svid", "x5c": x5c,
        })),
        _ => None,
    }
}

fn trim(octets: &[u8]) -> &[u8] {
    let start = octets.iter().position(|&octet| octet != 0).unwrap_or(octets.len());
    &octets[start..]
}

fn pem(anchors: &[&[u8]]) -> String {
    anchors
        .iter()
        .map(|anchor| {
            let text = BASE64.encode(anchor);
            let lines: Vec<&str> = text
                .as_bytes()
                .chunks(64)
                .filter_map(|line| std::str::from_utf8(line).ok())
                .collect();
            format!(
                "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
                lines.join("\n")
            )
        })
        .collect()
}

const PEM: &str = "application/pem-certificate-chain";

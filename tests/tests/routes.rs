//! Every route of the table, asked by somebody without a certificate.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use system_tests::{Environment, program};

#[test]
fn strangers_reach_what_is_public_and_nothing_else() {
    let environment = Environment::start();
    let bundle = environment.path(".config/countersign/pay.example/bundle.pem");
    let document = environment.curl("/v1/openapi.json", &[]).success().json();
    let mut asked = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            let method = method.to_uppercase();
            let public = matches!(
                path.as_str(),
                "/v1/trust" | "/v1/bundle" | "/crl" | "/crl/{issuer}" | "/v1/openapi.json"
            );
            let status = stranger(&environment, &bundle, &method, path);
            assert_eq!(status != "401", public, "{method} {path}: {status}");
            asked += 1;
        }
    }
    assert_eq!(asked, 31, "the description names every route");
}

/// The status that somebody without a certificate gets; bodies are empty objects.
fn stranger(
    environment: &Environment,
    bundle: &std::path::Path,
    method: &str,
    path: &str,
) -> String {
    let path = path
        .replace("{serial}", "01")
        .replace("{id}", "1")
        .replace("{log_index}", "1")
        .replace("{step}", "activate")
        .replace("{path}", "0/000")
        .replace("{issuer}", "00");
    let mut curl = std::process::Command::new("curl");
    curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "-X", method, "--cacert"]);
    curl.arg(bundle).arg(format!("{}{path}", environment.url()));
    if method == "POST" || method == "PUT" {
        curl.args(["-H", "If-Match: \"0\"", "--json", body(&path)]);
    }
    program(&mut curl).success().stdout
}

/// A body that is well formed, so that the refusal is about the caller.
fn body(path: &str) -> &'static str {
    match path {
        "/v1/keys/1/activate" => r#"{"purpose":"issuer"}"#,
        "/v1/certificates" => r#"{"csr":"","attestation":{"type":"svid"}}"#,
        "/v1/revocations" => r#"{"target":"01","reason":"unspecified"}"#,
        "/v1/denials" => r#"{"spiffe_id":"spiffe://pay.example/a","reason":"unspecified"}"#,
        "/v1/tokens" => r#"{"spiffe_id":"spiffe://pay.example/a"}"#,
        "/v1/operators" => r#"{"name":"bob"}"#,
        "/v1/policies" => r#"{"files":{}}"#,
        "/v1/reports/self" => {
            r#"{"trust_sequence":1,"feed_sequence":0,"open_connections":0,"seconds_without_authority":0}"#
        }
        _ => {
            r#"{"as":"spiffe://pay.example/a","action":"issue","resource":"spiffe://pay.example/a"}"#
        }
    }
}

//! `GET /v1/openapi.json`: the API, described from the same types and the same table that serve it.
//!
//! Handlers say what they take and what they give; what is refused, to whom and with which header, is
//! the same for all routes of a kind, and is written here.

use http::{Method, StatusCode};
use identity::TrustDomain;
use serde_json::{Value, json};
use utoipa::OpenApi;

use crate::routes::{Access, ROUTES, described};
use api::paths;

/// The whole document, of the API of a trust domain.
pub(crate) fn document(trust_domain: &TrustDomain) -> Value {
    let mut document = serde_json::to_value(described::Api::openapi()).unwrap_or_default();
    bound_integers(&mut document);
    for name in ["SpiffeId", "Target", "WorkloadId"] {
        let pattern = &mut document["components"]["schemas"][name]["pattern"];
        let ours = trust_domain.as_str().replace('.', r"\.");
        *pattern = pattern.as_str().map(|it| it.replace("[a-z0-9._-]{1,255}", &ours)).into();
    }
    for name in ["Attestation", "OfflineSignature"] {
        refuse_others(&mut document["components"]["schemas"][name]);
    }
    document["components"]["securitySchemes"] = json!({ "svid": {
        "type": "mutualTLS",
        "description": "An X.509-SVID of this CA. One that is revoked, expired or of another CA is \
                        refused in the handshake; without one, a caller is anonymous."
    }});
    document["components"]["headers"] = headers();
    for status in FAILURES {
        document["components"]["responses"][status.to_string()] = failure(*status);
    }
    // HTTP's own, before the API sees the request: it has no body.
    let too_large = json!({ "description": in_words("431") });
    document["components"]["responses"]["431"] = too_large;
    for (method, path, access) in ROUTES {
        let method_name = method.as_str().to_lowercase();
        let operation = &mut document["paths"][path.replace("{*", "{")][method_name];
        operation["security"] = security(access);
        for (status, response) in operation["responses"].as_object_mut().into_iter().flatten() {
            if response.get("description").is_none() {
                response["description"] = in_words(status).into();
            }
            response["headers"]["X-Request-Id"] = reference("headers", "X-Request-Id");
        }
        for status in refusals(method, path, access) {
            let status = status.to_string();
            operation["responses"][&status] = reference("responses", &status);
        }
        operation["responses"]["431"] = reference("responses", "431");
        describe_headers(path, &mut operation["responses"]);
    }
    document
}

fn security(access: &Access) -> Value {
    match access {
        Access::Anyone => json!([]),
        Access::Attested => json!([{}, { "svid": [] }]),
        Access::Permitted(_) | Access::Svid => json!([{ "svid": [] }]),
    }
}

/// The statuses by which a route refuses.
fn refusals(method: &Method, path: &str, access: &Access) -> Vec<u16> {
    let mut statuses = vec![400, 405, 429];
    if *access != Access::Anyone {
        statuses.extend([401, 403]);
    }
    let names_something = path.contains('{')
        || [paths::TRUST, paths::REVOCATIONS, paths::EXPLAIN, paths::DENIALS].contains(&path);
    if names_something {
        statuses.push(404);
    }
    if *method != Method::GET {
        statuses.push(409);
    }
    if [Method::POST, Method::PUT].contains(method) {
        statuses.extend([413, 415]);
    }
    if *method == Method::POST {
        statuses.push(422);
    }
    if path != paths::OPENAPI {
        statuses.push(503);
    }
    statuses
}

fn failure(status: u16) -> Value {
    let mut response = json!({
        "description": in_words(&status.to_string()),
        "headers": { "X-Request-Id": reference("headers", "X-Request-Id") },
        "content": { "application/problem+json": { "schema": reference("schemas", "Problem") } },
    });
    match status {
        405 => response["headers"]["Allow"] = reference("headers", "Allow"),
        429 | 503 => response["headers"]["Retry-After"] = reference("headers", "Retry-After"),
        _ => {}
    }
    response
}

fn in_words(status: &str) -> &'static str {
    let status: Option<StatusCode> = status.parse().ok();
    status.and_then(|status| status.canonical_reason()).unwrap_or_default()
}

fn headers() -> Value {
    let header = |description: &str, schema: Value| json!({ "description": description, "required": true, "schema": schema });
    let text = || json!({ "type": "string" });
    json!({
        "Allow": header("The methods of the path.", text()),
        "ETag": header("What If-Match and If-None-Match name.", text()),
        "Retry-After": header("Seconds until it is worth asking again.", json!({
            "type": "integer", "minimum": 0
        })),
        "Vary": header("The answer depends on it.", text()),
        "X-Request-Id": header("What the CA's diagnostics call this request.", text()),
    })
}

/// What answers of some routes say beside their body.
fn describe_headers(path: &str, responses: &mut Value) {
    let said: &[(&str, &[&str])] = match path {
        paths::TRUST | paths::POLICIES => &[("ETag", &["200", "304"])],
        paths::BUNDLE | paths::FEED => &[("Vary", &["200"])],
        paths::RENEWAL => &[("Retry-After", &["200"])],
        _ => &[],
    };
    for (name, statuses) in said {
        for status in *statuses {
            if responses.get(status).is_some() {
                responses[status]["headers"][name] = reference("headers", name);
            }
        }
    }
}

fn reference(kind: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{kind}/{name}") })
}

/// Each kind of such a thing has its own fields, and no other.
fn refuse_others(schema: &mut Value) {
    if schema["type"] == "object" {
        schema["additionalProperties"] = false.into();
    }
    let fields = schema.get_mut("properties").and_then(Value::as_object_mut);
    fields.into_iter().flatten().for_each(|(_, field)| refuse_others(field));
    let kinds = schema.get_mut("oneOf").and_then(Value::as_array_mut);
    kinds.into_iter().flatten().for_each(refuse_others);
}

/// Numbers are counted in 64 bits, or 32: what does not fit is refused.
fn bound_integers(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let largest = match fields.get("format").and_then(Value::as_str) {
                Some("int32") => Some(u64::from(u32::MAX)),
                Some("int64") => Some(u64::MAX),
                _ => None,
            };
            if let Some(largest) = largest.filter(|_| !fields.contains_key("maximum")) {
                fields.insert("maximum".to_owned(), largest.into());
            }
            fields.values_mut().for_each(bound_integers);
        }
        Value::Array(items) => items.iter_mut().for_each(bound_integers),
        _ => {}
    }
}

/// Every status of a refusal that the API knows.
const FAILURES: &[u16] = &[400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 503];

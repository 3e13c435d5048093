//! How requests and answers go together, by RFC 9110 and 9112: methods, paths, conditions, types.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use countersign::Credentials;
use server::ROUTES;
use support::Service;
use support::wire::Wire;

async fn service() -> Service {
    Service::start(time::Duration::ZERO).await
}

/// Every path of the table, with something in each place.
fn paths() -> BTreeSet<(&'static str, String)> {
    let filled = |path: &str| {
        path.replace("{serial}", "01")
            .replace("{id}", "1")
            .replace("{log_index}", "1")
            .replace("{step}", "activate")
            .replace("{*path}", "0/000")
            .replace("{issuer}", "00")
    };
    ROUTES.iter().map(|(_, path, _)| (*path, filled(path))).collect()
}

#[tokio::test]
async fn a_method_that_a_path_does_not_have_is_refused_with_those_that_it_has() {
    let service = service().await;
    let mut wire = Wire::open(&service, None).await;
    for (row, path) in paths() {
        let in_table = |method: &str| ROUTES.iter().any(|it| it.0 == method && it.1 == row);
        let mut allowed = vec!["DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"];
        allowed.retain(|method| match *method {
            "HEAD" => in_table("GET"),
            "OPTIONS" => true,
            method => in_table(method),
        });
        let allowed = allowed.join(", ");
        let options = wire.ask(&format!("OPTIONS {path}")).await;
        assert_eq!((options.status, options.field("allow")), (204, Some(&*allowed)), "{path}");
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"] {
            if in_table(method) {
                continue;
            }
            let answer = wire.exchange(&format!("{method} {path}"), "", "{}").await;
            assert_eq!(answer.status, 405, "{method} {path}");
            assert_eq!(answer.problem(), "method-not-allowed");
            assert_eq!(answer.field("allow"), Some(&*allowed), "{method} {path}");
        }
    }
    let whole = wire.ask("OPTIONS *").await;
    let all = Some("DELETE, GET, HEAD, OPTIONS, POST, PUT");
    assert_eq!((whole.status, whole.field("allow")), (204, all));
    service.running.stop().await;
}

#[tokio::test]
async fn head_is_answered_as_get_without_the_body() {
    let service = service().await;
    let (_, credentials) = service.enrol("/prod/reports").await;
    for credentials in [None, Some(&credentials)] {
        let mut wire = Wire::open(&service, credentials).await;
        for (row, path) in paths() {
            let is_get = ROUTES.iter().any(|it| it.0 == "GET" && it.1 == row);
            let head = wire.ask(&format!("HEAD {path}")).await;
            // The first message of the feed comes as a body without a length.
            if row == api::paths::FEED && credentials.is_some() {
                assert_eq!(head.status, 200);
                continue;
            }
            let get = wire.ask(&format!("GET {path}")).await;
            assert_eq!(head.status, get.status, "{path}");
            assert_eq!(head.status == 405, !is_get, "{path}");
            for field in ["content-type", "content-length", "etag", "allow", "cache-control"] {
                // Who is told what is not possible is told of which method.
                if field == "content-length" && !is_get {
                    continue;
                }
                assert_eq!(head.field(field), get.field(field), "{field} of {path}");
            }
        }
    }
    service.running.stop().await;
}

#[tokio::test]
async fn what_is_no_path_is_a_problem_whatever_it_looks_like() {
    let service = service().await;
    let mut wire = Wire::open(&service, None).await;
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v1/trust/",
        "//v1/trust",
        "/v1//trust",
        "/v1/./trust",
        "/v1/../v1/trust",
        "/v1/trust%2f",
        "/V1/trust",
        "/v1/trust;a=b",
        "/log/tile",
        "/crl/",
        "/v2/trust",
        "/livez",
        "/metrics",
    ] {
        for method in ["GET", "HEAD", "POST", "DELETE", "OPTIONS"] {
            let answer = wire.ask(&format!("{method} {path}")).await;
            assert_eq!(answer.status, 404, "{method} {path}");
            if method != "HEAD" {
                assert_eq!(answer.problem(), "not-found", "{method} {path}");
            }
        }
    }
    service.running.stop().await;
}

#[tokio::test]
async fn ids_are_decoded_once_and_what_does_not_decode_is_a_problem() {
    let service = service().await;
    let (issued, credentials) = service.enrol("/prod/reports").await;
    let serial = issued.serial_number.to_string();
    let coded: String = serial.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let mut wire = Wire::open(&service, Some(&credentials)).await;
    for path in [&serial, &coded] {
        let answer = wire.ask(&format!("GET /v1/certificates/{path}")).await;
        assert_eq!(answer.status, 200, "{path}");
    }
    for path in ["%ff", "%25", "%00", "%", "%zz", "%2f", "..%2f..", "%e2%80%ae", "01%0a"] {
        let answer = wire.ask(&format!("GET /v1/certificates/{path}")).await;
        assert_eq!((answer.status, &*answer.problem()), (400, "request-invalid"), "{path}");
        let answer = wire.ask(&format!("DELETE /v1/denials/{path}")).await;
        assert!([400, 404].contains(&answer.status), "{path}: {}", answer.status);
        answer.problem();
        let answer = wire.ask(&format!("GET /crl/{path}")).await;
        assert!([400, 404].contains(&answer.status), "{path}: {}", answer.status);
        answer.problem();
    }
    service.running.stop().await;
}

#[tokio::test]
async fn a_target_may_be_absolute_and_a_host_is_named_once() {
    let service = service().await;
    let mut wire = Wire::open(&service, None).await;
    let address = service.running.address;
    for target in [format!("https://{address}/v1/trust"), "https://ca/v1/trust?after=1".to_owned()]
    {
        assert_eq!(wire.ask(&format!("GET {target}")).await.status, 200, "{target}");
    }
    assert_eq!(wire.ask("GET https://ca/v1/nothing").await.problem(), "not-found");
    for hosts in ["", "host: a\r\nhost: b\r\n"] {
        wire.send(format!("GET /v1/trust HTTP/1.1\r\n{hosts}\r\n").as_bytes()).await;
        let answer = wire.answer_to("GET").await;
        assert_eq!((answer.status, &*answer.problem()), (400, "request-invalid"), "{hosts}");
    }
    let connect = Wire::open(&service, None).await.ask("CONNECT ca:443").await;
    assert!([404, 405].contains(&connect.status), "{}", connect.status);
    service.running.stop().await;
}

#[tokio::test]
async fn parameters_that_nobody_reads_are_refused_and_nothing_is_done() {
    let service = service().await;
    let operator = operator(&service).await;
    let mut wire = Wire::open(&service, Some(&operator)).await;
    for path in [
        "/v1/trust?x=1",
        "/v1/trust?after=1&after=2",
        "/v1/trust?after=-1",
        "/v1/trust?after=",
        "/v1/certificates?limit=0",
        "/v1/certificates?limit=1001",
        "/v1/certificates?limit=x",
        "/v1/certificates?limit=1&limit=2",
        "/v1/certificates?Limit=1",
        "/v1/certificates?revoked=yes",
        "/v1/workloads?id=a",
        "/v1/feed?since=1",
        "/v1/feed?after=%zz",
        "/v1/feed?after=18446744073709551616",
        "/v1/feed?snapshot=7",
        "/v1/revocations/zz",
        "/v1/certificates/zz",
        "/v1/keys?limit=1",
        "/v1/tokens?limit=1&limit=2",
        "/v1/tokens?by=1",
        "/v1/acts",
        "/v1/acts?by=admin",
        "/v1/acts?by=spiffe://pay.example/a&after=x",
        "/v1/operators?limit=1",
        "/v1/status?x",
        "/v1/bundle?format=pem",
        "/v1/openapi.json?a=b",
    ] {
        let answer = wire.ask(&format!("GET {path}")).await;
        assert_eq!((answer.status, &*answer.problem()), (400, "request-invalid"), "{path}");
        // Libraries have words of their own for it.
        let theirs = ["deserialize", "Cannot parse", "found in string", "target type", "`true`"];
        assert!(!theirs.iter().any(|words| answer.body.contains(words)), "{path}: {}", answer.body);
    }
    let deny = format!(r#"{{"spiffe_id":"{}","reason":"superseded"}}"#, service.id("/prod/batch"));
    let denied = wire.exchange("POST /v1/denials?dry_run=true", "", &deny).await;
    assert_eq!(denied.problem(), "request-invalid");
    assert_eq!(wire.ask("GET /v1/denials").await.body, r#"{"items":[]}"#);
    // Readers of CRLs add what no cache has seen.
    let crl = format!("GET /crl/{}?no-cache=1", service.authority.view.issuer_id());
    for path in [&*crl, "GET /log/checkpoint?1", "GET /v1/keys?", "GET /v1/certificates?"] {
        assert_eq!(wire.ask(path).await.status, 200, "{path}");
    }
    service.running.stop().await;
}

#[tokio::test]
async fn a_body_as_editors_leave_it_is_read_or_told_what_it_is() {
    let service = service().await;
    let operator = operator(&service).await;
    let mut wire = Wire::open(&service, Some(&operator)).await;
    let id = service.id("/prod/reports");
    let body = format!(r#"{{"as":"{id}","action":"issue","resource":"{id}"}}"#);
    let explain = "POST /v1/policies/explain";
    for marked in [format!("\u{feff}{body}"), format!(" \r\n{body}\n")] {
        assert_eq!(wire.exchange(explain, "", &marked).await.status, 200);
    }
    let utf16: String = body.chars().flat_map(|c| [c, '\0']).collect();
    let list = format!(r#"["{id}", "issue", "{id}"]"#);
    for (body, told) in [
        (&*utf16, "this is UTF-16"),
        ("", "the body is empty"),
        (" \r\n", "the body is empty"),
        ("\u{feff}", "the body is empty"),
        ("{", "it ends early, at line 1"),
        (&body[..body.len() - 1], "it ends early, at line 1"),
        (&list, "it is no object"),
        ("[]", "it is no object"),
    ] {
        let answer = wire.exchange(explain, "", body).await;
        assert_eq!((answer.status, &*answer.problem()), (400, "request-invalid"), "{body}");
        assert!(answer.body.contains(told), "{told}: {}", answer.body);
    }
    let answer = wire.ask("GET /v1/certificates?limit=0").await;
    assert!(answer.body.contains("limit: a page has 1 to 1,000 items"), "{}", answer.body);
    assert!(!answer.body.contains("deserialize"), "{}", answer.body);
    service.running.stop().await;
}

#[tokio::test]
async fn what_says_that_it_is_no_json_is_not_read_as_json() {
    let service = service().await;
    let operator = operator(&service).await;
    let mut wire = Wire::open(&service, Some(&operator)).await;
    let id = service.id("/prod/reports");
    let body = format!(r#"{{"as":"{id}","action":"issue","resource":"{id}"}}"#);
    for fields in [
        "",
        "content-type: application/json\r\n",
        "Content-Type: Application/JSON; charset=utf-8\r\n",
        "content-type: application/vnd.a+json\r\n",
        "content-encoding: identity\r\n",
        // What curl says where it is told nothing.
        "content-type: application/x-www-form-urlencoded\r\n",
        "content-type: application/json\r\norigin: https://page.example\r\n",
    ] {
        let answer = wire.exchange("POST /v1/policies/explain", fields, &body).await;
        assert_eq!(answer.status, 200, "{fields}");
    }
    for fields in [
        "content-type: text/plain\r\n",
        "content-type: application/x-www-form-urlencoded\r\norigin: https://page.example\r\n",
        "origin: https://page.example\r\n",
        "content-type: multipart/form-data; boundary=a\r\n",
        "content-type: \r\n",
        "content-type: application/jsonp\r\n",
        "content-type: text/plain+json\r\n",
        "content-type: application/json\r\ncontent-type: text/plain\r\n",
        "content-encoding: gzip\r\n",
        "content-encoding: identity, gzip\r\n",
    ] {
        let answer = wire.exchange("POST /v1/policies/explain", fields, &body).await;
        assert_eq!(
            (answer.status, &*answer.problem()),
            (415, "media-type-unsupported"),
            "{fields}"
        );
    }
    for (fields, coding) in [
        ("content-encoding: gzip\r\n", "(gzip)"),
        ("content-encoding: identity, br\r\n", "(br)"),
        ("content-encoding: identity\r\ncontent-encoding: zstd\r\n", "(zstd)"),
    ] {
        let json = format!("content-type: application/json\r\n{fields}");
        let answer = wire.exchange("POST /v1/policies/explain", &json, &body).await;
        assert!(answer.body.contains(coding), "{fields}: {}", answer.body);
        assert!(answer.body.contains("without Content-Encoding"), "{}", answer.body);
        assert_eq!(answer.field("accept-encoding"), Some("identity"));
    }
    for plain in ["identity", "Identity, identity", ""] {
        let fields = format!("content-encoding: {plain}\r\n");
        let answer = wire.exchange("POST /v1/policies/explain", &fields, &body).await;
        assert_ne!(answer.status, 415, "{plain}");
    }
    service.running.stop().await;
}

#[tokio::test]
async fn a_policy_set_is_replaced_where_if_match_names_it_strongly() {
    let service = service().await;
    let operator = operator(&service).await;
    let mut wire = Wire::open(&service, Some(&operator)).await;
    let shown = wire.ask("GET /v1/policies").await;
    let tag = shown.field("etag").unwrap().to_owned();
    let files: serde_json::Value = serde_json::from_str(&shown.body).unwrap();
    let body = serde_json::json!({ "files": files["files"] }).to_string();
    let put = "PUT /v1/policies";
    for (fields, status) in [
        ("".to_owned(), 400),
        ("if-match: \r\n".to_owned(), 400),
        (format!("if-match: {}\r\n", tag.trim_matches('"')), 400),
        (format!("if-match: *, {tag}\r\n"), 400),
        ("if-match: \"0\"\r\n".to_owned(), 409),
        (format!("if-match: W/{tag}\r\n"), 409),
        ("if-match: *\r\nif-none-match: *\r\n".to_owned(), 409),
        (format!("if-match: {tag}\r\nif-none-match: W/{tag}\r\n"), 409),
        (format!("if-match: {tag}\r\n"), 200),
        (format!("if-match: \"0\", W/\"1\" ,{tag}\r\n"), 200),
        (format!("if-match: \"0\"\r\nif-match: {tag}\r\n"), 200),
        ("if-match: *\r\n".to_owned(), 200),
        ("if-match: *\r\nif-none-match: \"0\"\r\n".to_owned(), 200),
    ] {
        let answer = wire.exchange(put, &fields, &body).await;
        assert_eq!(answer.status, status, "{fields} {}", answer.body);
        if status == 200 {
            assert_eq!(answer.field("etag"), Some(&*tag));
        }
    }
    for known in [&*tag, &format!("W/{tag}"), &format!("\"0\", {tag}"), "*"] {
        let fields = format!("if-none-match: {known}\r\n");
        let answer = wire.exchange("GET /v1/policies", &fields, "").await;
        assert_eq!(answer.status, 304, "{known}");
    }
    for path in ["/v1/policies", "/v1/trust"] {
        for method in ["GET", "HEAD"] {
            let asked = format!("{method} {path}");
            let answer = wire.exchange(&asked, "if-none-match: *\r\n", "").await;
            assert_eq!((answer.status, answer.field("content-length")), (304, None), "{asked}");
        }
    }
    service.running.stop().await;
}

#[tokio::test]
async fn a_crl_is_found_by_its_issuers_id_as_lists_and_certificates_have_it() {
    let service = service().await;
    let mut wire = Wire::open(&service, None).await;
    let id = service.authority.view.issuer_id();
    let whole = wire.ask(&format!("GET /crl/{id}")).await;
    assert_eq!((whole.status, whole.field("content-type")), (200, Some("application/pkix-crl")));
    for named in [&id[..16], &id[..40], &id.to_uppercase()] {
        let answer = wire.ask(&format!("GET /crl/{named}")).await;
        assert_eq!((answer.status, &answer.body), (200, &whole.body), "{named}");
    }
    let other = format!("{}{}", &id[..15], if id.as_bytes()[15] == b'0' { '1' } else { '0' });
    for none in [&id[..15], &format!("{id}0"), &other, "0", "", "%20", &id[1..17]] {
        let answer = wire.ask(&format!("GET /crl/{none}")).await;
        assert_eq!((answer.status, &*answer.problem()), (404, "not-found"), "{none}");
    }
    // Nor by the id of a key that is no issuer.
    let operator = operator(&service).await;
    let keys = Wire::open(&service, Some(&operator)).await.ask("GET /v1/keys").await;
    let keys: api::Page<api::KeyRecord> = serde_json::from_str(&keys.body).unwrap();
    for key in keys.items {
        let answer = wire.ask(&format!("GET /crl/{}", &key.id[..16])).await;
        let expected = if key.purpose == api::KeyPurpose::Issuer { 200 } else { 404 };
        assert_eq!(answer.status, expected, "{}", key.purpose);
    }
    service.running.stop().await;
}

async fn operator(service: &Service) -> Arc<Credentials> {
    let id = identity::SpiffeId::operator(service.authority.view.trust_domain(), "admin").unwrap();
    let (csr, key) = support::csr();
    let request = support::request(csr, api::Attestation::Svid {});
    let body = api::IssueRequest { spiffe_id: Some(id), ..request };
    let issued = service.authority.issuing.issue_internal(&body, "init").await.unwrap();
    support::credentials(&issued, key)
}

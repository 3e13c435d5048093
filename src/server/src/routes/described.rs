//! Every handler, for the description of the API.

use utoipa::OpenApi;

use super::{certificates, evidence, feed, fleet, keys, operators, trust};
use crate::openapi;

/// The header by which a caller names a `POST`.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it describes what `caller::Body` reads")]
pub(crate) struct IdempotencyKey {
    /// The caller's name for the request, kept 24 h once it has succeeded: the same request is done
    /// once, and answered alike; another is `idempotency-mismatch`. 1 to 255 visible ASCII
    /// characters, such as a UUID. What only reads takes it, too, and has nothing to keep.
    #[param(rename = "Idempotency-Key", max_length = 255, pattern = r#"^(?!""$)[!-~]+$"#)]
    idempotency_key: Option<String>,
}

/// The header by which whoever has a bootstrap token names it before its body is read.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it describes what `routes::token_of` reads")]
pub(crate) struct NamedToken {
    /// SHA-256 of the token's secret bits, lower-case hex. A token that lives has some requests of its
    /// own where others have taken the whole share of its address (429); without this it has none.
    #[param(rename = "Countersign-Token", pattern = "^[0-9a-f]{64}$")]
    countersign_token: Option<String>,
}

/// The header by which a caller says what it has.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it describes what `negotiation::has_already` reads")]
pub(crate) struct IfNoneMatch {
    /// The `ETag` of an answer before, a list of such, or `*`: 304 where it is as it was then.
    #[param(rename = "If-None-Match")]
    if_none_match: Option<String>,
}

/// The API as OpenAPI 3.1.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Countersign",
        description = "A private CA for service-to-service mTLS. Problems are RFC 9457; fields of a body and \
                       parameters that are not described are refused."
    ),
    paths(
        trust::trust,
        trust::bundle,
        certificates::issue,
        certificates::list,
        certificates::record,
        certificates::renewal,
        operators::revoke,
        fleet::revocation,
        feed::feed,
        fleet::report,
        fleet::workloads,
        operators::denials,
        operators::deny,
        operators::allow,
        operators::acts,
        operators::tokens,
        operators::create_token,
        operators::revoke_token,
        operators::operators,
        operators::add_operator,
        operators::policies,
        operators::replace_policies,
        operators::explain,
        keys::keys,
        keys::step,
        operators::status,
        evidence::checkpoint,
        evidence::tile,
        evidence::crls,
        evidence::crl,
        openapi::describe,
    ),
    components(schemas(
        api::Problem,
        api::schema::Duration,
        api::schema::LogIndex,
        api::schema::TrustPin
    ))
)]
pub(crate) struct Api;

#[cfg(test)]
mod tests {
    use super::super::ROUTES;
    use super::Api;
    use utoipa::OpenApi;

    #[test]
    fn every_post_takes_a_name() {
        let document = serde_json::to_value(Api::openapi()).unwrap();
        let paths = document["paths"].as_object().unwrap();
        let posts = paths.iter().filter_map(|(path, methods)| Some((path, methods.get("post")?)));
        for (path, post) in posts {
            let mut parameters = post["parameters"].as_array().unwrap().iter();
            let named = parameters.find(|parameter| parameter["name"] == "Idempotency-Key");
            let named = named.unwrap_or_else(|| panic!("{path} takes no Idempotency-Key"));
            assert_eq!((&named["in"], &named["required"]), (&"header".into(), &false.into()));
        }
    }

    #[test]
    fn every_route_of_the_table_is_described_and_no_other() {
        let document = serde_json::to_value(Api::openapi()).unwrap();
        let mut described: Vec<String> = Vec::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys() {
                described.push(format!("{} {path}", method.to_uppercase()));
            }
        }
        let mut table: Vec<String> = ROUTES
            .iter()
            .map(|(method, path, _)| format!("{method} {}", path.replace("{*", "{")))
            .collect();
        described.sort();
        table.sort();
        assert_eq!(described, table);
    }
}

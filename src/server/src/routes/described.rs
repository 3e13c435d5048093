//! Every handler, for the description of the API.

use utoipa::OpenApi;

use super::{certificates, description, evidence, feed, fleet, keys, operators, trust};

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
        description::describe,
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

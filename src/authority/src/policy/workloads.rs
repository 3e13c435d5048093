//! The workload table: which principal is which SPIFFE ID, with which names, and whom it calls.

use std::collections::BTreeMap;
use std::net::IpAddr;

use identity::{SpiffeId, TrustDomain};
use issuance::DnsName;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::error::PolicyError;

/// The table, by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workloads {
    rows: BTreeMap<String, Row>,
    operators: Vec<String>,
}

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The path of the SPIFFE ID.
    pub id: String,
    /// The IAM role that attests as it.
    #[serde(default)]
    pub role: Option<String>,
    /// DNS names that it may have.
    #[serde(default)]
    pub dns: Vec<DnsName>,
    /// IP addresses that it may have.
    #[serde(default, deserialize_with = "addresses")]
    pub ip: Vec<IpAddr>,
    /// Profiles that it may ask for.
    #[serde(default = "default_profiles")]
    pub profiles: Vec<String>,
    /// Rows that it calls.
    #[serde(default)]
    pub calls: Vec<String>,
}

impl Workloads {
    /// Parses `workloads.json`: paths valid, unique and not ours; calls only to other rows.
    pub fn parse(json: &str) -> Result<Self, PolicyError> {
        // serde would take a list of the fields in their order, too.
        if !json.trim_start().starts_with('{') {
            let why = "workloads.json: it is to be an object: {\"workloads\": [{\"id\": \"/…\"}]}";
            return Err(PolicyError::Workloads(why.to_owned()));
        }
        let file: File = serde_json::from_str(json)
            .map_err(|error| identity::without_values(&error.to_string()))
            .map_err(|why| PolicyError::Workloads(format!("workloads.json: {why}")))?;
        let refuse = |why: String| Err(PolicyError::Workloads(why));
        let mut rows = BTreeMap::new();
        for row in file.workloads {
            if !row.id.starts_with('/') {
                return refuse(
                    match row.id.strip_prefix("spiffe://").map(|id| id.split_once('/')) {
                        Some(path) => format!(
                            "row {:?}: write the path of the ID alone, without the trust domain: {:?}",
                            row.id,
                            path.map_or_else(|| "/…".to_owned(), |(_, path)| format!("/{path}"))
                        ),
                        None => format!(
                            "row {:?}: begin it with /: {:?}",
                            row.id,
                            format!("/{}", row.id)
                        ),
                    },
                );
            }
            let id = example_id(&row.id)
                .map_err(|error| PolicyError::Workloads(format!("row {:?}: {error}", row.id)))?;
            if id.is_reserved() {
                return refuse(format!("row {:?}: paths under /countersign/ are the CA's", row.id));
            }
            if let Some(twice) = rows.insert(row.id.clone(), row) {
                return refuse(format!("row {:?} stands twice", twice.id));
            }
        }
        for row in rows.values() {
            if let Some(unknown) = row.calls.iter().find(|called| !rows.contains_key(*called)) {
                return refuse(format!("row {:?} calls {unknown:?}, which has no row", row.id));
            }
        }
        for operator in &file.operators {
            let known_form = operator.starts_with("arn:")
                || example_id(operator).is_ok_and(|id| id.operator_name().is_some());
            if !known_form {
                return refuse(format!(
                    "operator {operator:?} is neither /countersign/operator/NAME nor a role's ARN"
                ));
            }
        }
        Ok(Self { rows, operators: file.operators })
    }

    /// The row of a SPIFFE ID.
    pub fn row(&self, id: &SpiffeId) -> Option<&Row> {
        self.rows.get(id.path())
    }

    /// All rows, by path.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    /// The operators that the table lists: paths, and roles' ARNs.
    pub fn operators(&self) -> impl Iterator<Item = &str> {
        self.operators.iter().map(String::as_str)
    }

    /// Whether the table lists this operator.
    pub fn lists_operator(&self, id: &SpiffeId) -> bool {
        self.operators.iter().any(|operator| operator == id.path())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "$schema", default)]
    _schema: Option<String>,
    #[serde(default)]
    operators: Vec<String>,
    workloads: Vec<Row>,
}

fn addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpAddr>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let parsed = texts.iter().map(|text| match text.contains('%') {
        true => Err("zone ids (%eth0) are not supported: no certificate has one".to_owned()),
        false => text.parse().map_err(|error: std::net::AddrParseError| error.to_string()),
    });
    parsed.collect::<Result<_, _>>().map_err(D::Error::custom)
}

/// Paths are checked as parts of an ID; which trust domain does not matter.
fn example_id(path: &str) -> Result<SpiffeId, identity::Error> {
    let any = TrustDomain::parse("example.org").expect("a constant trust domain is valid");
    // A path without its slash would run into the trust domain's name.
    let slash = if path.starts_with('/') { "" } else { "/?" };
    SpiffeId::new(&any, &format!("{slash}{path}"))
}

fn default_profiles() -> Vec<String> {
    vec!["default".to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(json: &str) -> String {
        Workloads::parse(json).unwrap_err().to_string()
    }

    #[test]
    fn each_broken_table_is_refused_by_name() {
        for (json, expected) in [
            ("", "workloads.json"),
            (r#"{"workloads":[{"id":"/a","port":1}]}"#, "port"),
            (r#"{"workloads":[{"id":"/a/../b"}]}"#, "/a/../b"),
            (r#"{"workloads":[{"id":"prod/a"}]}"#, "row \"prod/a\": begin it with /: \"/prod/a\""),
            (r#"{"workloads":[{"id":""}]}"#, "row \"\": begin it with /"),
            (
                r#"{"workloads":[{"id":"spiffe://pay.example/prod/a"}]}"#,
                "trust domain: \"/prod/a\"",
            ),
            (r#"{"workloads":[{"id":"spiffe://pay.example"}]}"#, "the path of the ID alone"),
            (r#"{"workloads":[{"id":"/countersign/authority"}]}"#, "the CA's"),
            (r#"{"workloads":[{"id":"/a"},{"id":"/a"}]}"#, "twice"),
            (r#"{"workloads":[{"id":"/a","calls":["/b"]}]}"#, "no row"),
            (r#"{"workloads":[{"id":"/a","dns":["*.x"]}]}"#, "wildcard"),
            (r#"{"workloads":[{"id":"/a","ip":["fe80::1%eth0"]}]}"#, "zone ids"),
            (r#"{"workloads":[{"id":"/a","ip":["10.0.0"]}]}"#, "invalid IP address"),
            (r#"[]"#, "it is to be an object"),
            (r#"[null, [], []]"#, "it is to be an object"),
            (r#"{"workloads":[7]}"#, "expected an object"),
            (r#"{"workloads":[],"operators":["/prod/a"]}"#, "operator"),
        ] {
            assert!(refusal(json).contains(expected), "{json}: {}", refusal(json));
        }
    }

    #[test]
    fn the_shipped_table_parses() {
        let table = Workloads::parse(include_str!("../../../../policies/workloads.json")).unwrap();
        let id = SpiffeId::parse("spiffe://dev.internal/prod/reports").unwrap();
        assert_eq!(table.row(&id).unwrap().profiles, ["default"]);
    }
}

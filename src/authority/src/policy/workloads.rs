//! The workload table: which principal is which SPIFFE ID, with which names, and whom it calls.

use std::collections::BTreeMap;
use std::net::IpAddr;

use identity::{SpiffeId, TrustDomain};
use issuance::DnsName;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::error::PolicyError;

/// The table, by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workloads {
    rows: BTreeMap<String, Row>,
    operators: Vec<String>,
}

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The path of the SPIFFE ID.
    pub id: String,
    /// The IAM role that attests as it.
    pub role: Option<String>,
    /// DNS names that it may have.
    pub dns: Vec<DnsName>,
    /// IP addresses that it may have.
    pub ip: Vec<IpAddr>,
    /// Profiles that it may ask for.
    pub profiles: Vec<String>,
    /// Rows that it calls.
    pub calls: Vec<String>,
}

impl Workloads {
    /// Parses `workloads.json`: paths valid, unique and not ours; calls only to other rows.
    pub fn parse(json: &str) -> Result<Self, PolicyError> {
        let file = File::parse(json)
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
            let row = row.read()?;
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

/// The table as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "$schema", default)]
    _schema: Option<String>,
    #[serde(default)]
    operators: Vec<String>,
    workloads: Vec<WrittenRow>,
}

impl File {
    fn parse(json: &str) -> Result<Self, String> {
        if json.trim().is_empty() {
            return Err("it is empty".to_owned());
        }
        let told = |error: serde_json::Error| {
            let why = identity::without_values(&error.to_string());
            if error.is_syntax() { format!("it is not JSON: {why}; {NOT_IN_JSON}") } else { why }
        };
        // serde would take a list of the fields in their order, too.
        if !json.trim_start().starts_with('{') {
            let () = serde_json::from_str(json).map(|_: IgnoredAny| ()).map_err(told)?;
            return Err("it is to be an object: {\"workloads\": [{\"id\": \"/…\"}]}".to_owned());
        }
        serde_json::from_str(json).map_err(told)
    }
}

/// A row as it is written: what is wrong with one of its names is told with the row's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRow {
    id: String,
    #[serde(default)]
    role: Option<String>,
    #[serde(default)]
    dns: Vec<String>,
    #[serde(default)]
    ip: Vec<String>,
    #[serde(default = "default_profiles")]
    profiles: Vec<String>,
    #[serde(default)]
    calls: Vec<String>,
}

impl WrittenRow {
    fn read(self) -> Result<Row, PolicyError> {
        let Self { id, role, dns, ip, profiles, calls } = self;
        let refuse = |why: String| PolicyError::Workloads(format!("row {id:?}: {why}"));
        let dns = dns.iter().map(|name| DnsName::parse(name)).collect::<Result<_, _>>();
        let dns = dns.map_err(|error| refuse(error.to_string()))?;
        let ip = ip.iter().map(|text| address(text)).collect::<Result<_, _>>().map_err(refuse)?;
        Ok(Row { id, role, dns, ip, profiles, calls })
    }
}

fn address(text: &str) -> Result<IpAddr, String> {
    let why = match text.contains('%') {
        true => "zone ids (%eth0) are not supported: no certificate has one".to_owned(),
        false => match text.parse() {
            Ok(address) => return Ok(address),
            Err(error) => std::net::AddrParseError::to_string(&error),
        },
    };
    let shown: String = text.chars().take(LONGEST_SHOWN).collect();
    Err(format!("{shown:?}: {why}"))
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

/// What is written in its place most often.
const NOT_IN_JSON: &str = "JSON has no comments, no comma behind the last element, and double quotes around each name and text";
/// Of what is no address: more than any has.
const LONGEST_SHOWN: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(json: &str) -> String {
        Workloads::parse(json).unwrap_err().to_string()
    }

    #[test]
    fn each_broken_table_is_refused_by_name() {
        for (json, expected) in [
            ("", "workloads.json: it is empty"),
            ("// who may be whom\n{}", "workloads.json: it is not JSON: expected value at line 1"),
            ("# who may be whom\n{}", "JSON has no comments"),
            ("workloads:\n  - id: /a\n", "double quotes around each name"),
            ("{\"workloads\": [], // none\n}", "JSON has no comments"),
            ("{\"workloads\": [", "EOF while parsing"),
            (
                r#"{"workloads":[{"id":"/b"},{"id":"/a","dns":["a_b\u001b.x"]}]}"#,
                r#"row "/a": "a_b\u{1b}.x" is not a DNS name"#,
            ),
            (r#"{"workloads":[{"id":"/a","ip":["10.0\u001b"]}]}"#, r#"row "/a": "10.0\u{1b}": "#),
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

//! Who loses what by another policy set: found before it is applied, told, and asked about.

use std::collections::BTreeMap;
use std::time::Duration;

use api::{CertificateFilter, CertificateState, Ttl};
use authority::workloads::{Row, Workloads};
use countersign::AuthorityClient;
use serde::Serialize;

use super::consent::{self, Elsewhere};
use crate::context;
use crate::error::Error;
use crate::session::Session;

/// What somebody may not have any more.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Loss {
    /// The path of the SPIFFE ID.
    id: String,
    /// What is gone.
    loses: String,
    /// Valid certificates that stay without a row; they are not renewed.
    #[serde(skip_serializing_if = "Option::is_none")]
    certificates: Option<u64>,
}

/// What all of them may not have any more.
pub(crate) async fn losses(
    client: &AuthorityClient,
    old: &BTreeMap<String, String>,
    new: &BTreeMap<String, String>,
) -> Result<Vec<Loss>, Error> {
    let table = |files: &BTreeMap<String, String>| {
        files.get(WORKLOADS).and_then(|text| Workloads::parse(text).ok())
    };
    // A table that cannot be read is the CA's to refuse.
    let (Some(old), Some(new)) = (table(old), table(new)) else { return Ok(Vec::new()) };
    let mut losses = between(&old, &new);
    if losses.iter().any(|loss| loss.loses == ROW) {
        let counts = valid_certificates(client).await?;
        for loss in losses.iter_mut().filter(|loss| loss.loses == ROW) {
            loss.certificates = Some(counts.get(&loss.id).copied().unwrap_or_default());
        }
    }
    Ok(losses)
}

/// Tells them, and asks whoever sits at a terminal: `--yes` answers for him. It takes from whomever a
/// folder leaves out, and the wrong folder leaves out many.
pub(crate) fn accepts(losses: &[Loss], session: &Session) -> Result<bool, Error> {
    if losses.is_empty() {
        return Ok(true);
    }
    for loss in losses.iter().take(SHOWN) {
        session.output.warn(loss.to_text());
    }
    if losses.len() > SHOWN {
        session.output.warn(format!("and {} more", losses.len() - SHOWN));
    }
    let left: u64 = losses.iter().filter_map(|loss| loss.certificates).sum();
    if left > 0 {
        session.output.warn(format!(
            "{left} valid certificate{} left without a row: not renewed, and good until \
             they expire or are revoked",
            if left == 1 { " is" } else { "s are" }
        ));
    }
    let own = losses.iter().any(|loss| context::is_own_path(&loss.id, session));
    let own = if own { ", you among them" } else { "" };
    let what = format!("This takes something from {}{own}.", losses.len());
    consent::is_given(&what, Elsewhere::Refused, session)
}

impl Loss {
    fn of(id: &str, loses: String) -> Self {
        Self { id: id.to_owned(), loses, certificates: None }
    }

    fn to_text(&self) -> String {
        let certificates = match self.certificates {
            None => String::new(),
            Some(1) => ", and 1 certificate is valid".to_owned(),
            Some(count) => format!(", and {count} certificates are valid"),
        };
        format!("{} loses {}{certificates}", self.id, self.loses)
    }
}

fn between(old: &Workloads, new: &Workloads) -> Vec<Loss> {
    let rows: BTreeMap<&str, &Row> = new.rows().map(|row| (row.id.as_str(), row)).collect();
    let of_rows = old.rows().filter_map(|row| match rows.get(row.id.as_str()) {
        None => Some(Loss::of(&row.id, ROW.to_owned())),
        Some(now) => {
            let lost = of_row(row, now);
            (!lost.is_empty()).then(|| Loss::of(&row.id, lost.join(", ")))
        }
    });
    let is_listed = |operator: &str| new.operators().any(|now| now == operator);
    let of_operators = old.operators().filter(|operator| !is_listed(operator));
    of_rows.chain(of_operators.map(|it| Loss::of(it, "its place as an operator".into()))).collect()
}

fn of_row(old: &Row, new: &Row) -> Vec<String> {
    fn gone<T: PartialEq + ToString>(what: &str, old: &[T], new: &[T]) -> Vec<String> {
        let lost = old.iter().filter(|it| !new.contains(it));
        lost.map(|it| format!("{what} {}", it.to_string())).collect()
    }
    let mut lost = gone("the name", &old.dns, &new.dns);
    lost.extend(gone("the address", &old.ip, &new.ip));
    lost.extend(gone("the profile", &old.profiles, &new.profiles));
    lost.extend(gone("calls to", &old.calls, &new.calls));
    let role = old.role.as_ref().filter(|role| new.role.as_ref() != Some(role));
    lost.extend(role.map(|role| format!("the role {role}")));
    lost
}

/// How many each path has.
async fn valid_certificates(client: &AuthorityClient) -> Result<BTreeMap<String, u64>, Error> {
    let expiring = Some(Ttl(EVER));
    let mut filter =
        CertificateFilter { expiring, limit: Some(1_000), ..CertificateFilter::default() };
    let mut counts = BTreeMap::new();
    loop {
        let page = client.certificates(&filter).await?;
        for record in page.items {
            if record.state == CertificateState::Valid {
                *counts.entry(record.spiffe_id.path().to_owned()).or_default() += 1;
            }
        }
        match page.next {
            Some(next) => filter.after = Some(next),
            None => return Ok(counts),
        }
    }
}

const ROW: &str = "its row";
const WORKLOADS: &str = "workloads.json";
/// Longer than any certificate lives.
const EVER: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
/// More scroll away unread; `--json` has them all.
const SHOWN: usize = 20;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]
mod tests {
    use super::*;

    #[test]
    fn each_thing_that_is_lost_is_named() {
        let table = |json: &str| Workloads::parse(json).unwrap();
        let old = table(
            r#"{"operators": ["/countersign/operator/bob"], "workloads": [
            {"id": "/a", "dns": ["a.internal", "b.internal"], "ip": ["10.0.0.1"], "role": "arn:aws:r",
             "profiles": ["default", "short-lived"], "calls": ["/b"]}, {"id": "/b"}, {"id": "/c"}]}"#,
        );
        let new = table(
            r#"{"workloads": [{"id": "/a", "dns": ["b.internal", "c.internal"]}, {"id": "/c"},
            {"id": "/d"}]}"#,
        );
        let lost: Vec<String> = between(&old, &new).iter().map(Loss::to_text).collect();
        let expected = [
            "/a loses the name a.internal, the address 10.0.0.1, the profile short-lived, calls to \
             /b, the role arn:aws:r",
            "/b loses its row",
            "/countersign/operator/bob loses its place as an operator",
        ];
        assert_eq!(lost, expected);
        assert!(between(&old, &old).is_empty());
    }
}

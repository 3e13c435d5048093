//! `show`: what the CA keeps of a certificate, and who denies an identity.

use api::{CertificateFilter, CertificateRecord, Denial, RevokedBy};
use clap::Args;
use countersign::AuthorityClient;
use identity::SpiffeId;
use serde_json::json;
use time::OffsetDateTime;

use super::list::state;
use super::review;
use crate::clock;
use crate::context::{self, OpenContext};
use crate::error::Error;
use crate::exit::Exit;
use crate::session::Session;
use crate::table;
use crate::target::Target;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Which certificate; of a SPIFFE ID, its newest
    #[arg(value_name = "SERIAL|SPIFFE_ID")]
    target: Target,
    /// List what it did that stays when it is revoked: see `revoke` and `deny`
    #[arg(long)]
    acts: bool,
}

pub(crate) async fn run(arguments: &Arguments, session: &Session) -> anyhow::Result<Exit> {
    let OpenContext { client, held, .. } = context::open(session).await?;
    let explained = |error| context::about_serial(error, &arguments.target, &held, session);
    if arguments.acts {
        let by = match &arguments.target {
            Target::Identity(id) => id.clone(),
            Target::Serial(serial) => {
                client.certificate(serial).await.map_err(explained)?.spiffe_id
            }
        };
        review::list(by, &client, session).await?;
        return Ok(Exit::Done);
    }
    let record = match &arguments.target {
        Target::Identity(id) => match newest(id, &client, session).await? {
            Some(newest) => newest,
            None => return without_certificate(id, &client, session).await,
        },
        Target::Serial(serial) => client.certificate(serial).await.map_err(explained)?,
    };
    session.output.show(&record, |record| to_text(record, clock::now()))?;
    if record.row_lost {
        session.output.warn(ROW_LOST);
    }
    if record.denial.is_some() {
        to_lift(&record.spiffe_id, session);
    }
    Ok(Exit::Done)
}

async fn newest(
    id: &SpiffeId,
    client: &AuthorityClient,
    session: &Session,
) -> Result<Option<CertificateRecord>, Error> {
    let mut filter = CertificateFilter { id: Some(id.to_string()), ..CertificateFilter::default() };
    let mut newest: Option<CertificateRecord> = None;
    let mut count = 0;
    loop {
        let page = client.certificates(&filter).await?;
        count += page.items.len();
        newest = newest.into_iter().chain(page.items).max_by_key(|record| record.log_index);
        match page.next {
            Some(next) => filter.after = Some(next),
            None => break,
        }
    }
    if count > 1 {
        session.output.note(format!("the newest of {count}: countersign list --id {id}"));
    }
    // A record of a list lacks who revoked it, and may lack its chain.
    match newest {
        Some(newest) => Ok(Some(client.certificate(&newest.serial_number).await?)),
        None => Ok(None),
    }
}

/// An identity may be denied before it ever had a certificate.
async fn without_certificate(
    id: &SpiffeId,
    client: &AuthorityClient,
    session: &Session,
) -> anyhow::Result<Exit> {
    let denials = client.denials().await.map_err(Error::from)?.items;
    let Some(denial) = denials.into_iter().find(|denial| denial.spiffe_id == *id) else {
        return Err(Error::NoCertificateOf(id.clone()).into());
    };
    session.output.show(&json!({ "spiffe_id": id, "denial": denial }), |_| {
        let mut fields = vec![("SPIFFE ID", id.to_string())];
        fields.extend(denied(&denial, clock::now()));
        table::fields(&fields)
    })?;
    session.output.note("it has no certificate");
    to_lift(id, session);
    Ok(Exit::Done)
}

fn to_lift(id: &SpiffeId, session: &Session) {
    session.output.note(format!("to lift the denial: countersign allow {id}"));
}

fn to_text(record: &CertificateRecord, now: OffsetDateTime) -> String {
    let time = |time| format!("{} ({})", table::time(time), table::distance(time, now));
    let mut fields = vec![
        ("SPIFFE ID", record.spiffe_id.to_string()),
        ("serial", record.serial_number.to_string()),
        ("state", state(record.state).to_owned()),
    ];
    fields.extend(record.revoked.iter().flat_map(|revoked| revocation(record, revoked, now)));
    fields.extend(record.denial.iter().flat_map(|denial| denied(denial, now)));
    fields.extend([
        ("issued", time(record.issued_at)),
        ("not before", table::time(record.not_before)),
        ("not after", time(record.not_after)),
        ("profile", record.profile.clone()),
        ("asked by", record.principal.clone()),
        ("attested by", record.attestor.clone()),
        ("allowed by", record.policies.join(", ")),
        ("log index", record.log_index.to_string()),
    ]);
    table::fields(&fields)
}

/// Who revoked it, when and why; and what they revoked, where that was more than this certificate.
fn revocation(
    record: &CertificateRecord,
    revoked: &RevokedBy,
    now: OffsetDateTime,
) -> Vec<(&'static str, String)> {
    let RevokedBy { kind, target, by, at, reason, log_index } = revoked;
    let what = match kind.as_str() {
        _ if *target == record.serial_number.to_string() => "this certificate",
        "deny" => "the identity was denied",
        _ => "the identity, with all that it had",
    };
    vec![
        ("revoked", format!("{} ({})", table::time(*at), table::distance(*at, now))),
        ("", format!("by {by}")),
        ("", format!("{reason}; {what}; log index {log_index}")),
    ]
}

fn denied(denial: &Denial, now: OffsetDateTime) -> Vec<(&'static str, String)> {
    let Denial { id, by, at, since, reason, .. } = denial;
    let time = |at| format!("{} ({})", table::time(at), table::distance(at, now));
    let mut fields = vec![("denied", time(since.unwrap_or(*at)))];
    fields.extend(since.map(|_| ("", format!("again {}", time(*at)))));
    fields.extend([("", format!("by {by}")), ("", format!("{reason}; log index {id}"))]);
    fields
}

const ROW_LOST: &str = "the CA's database has lost what it kept of this certificate, or a part; this \
    is what the log says; next: countersign status";

#[cfg(test)]
mod tests {
    use super::*;
    use api::CertificateState;
    use std::collections::BTreeMap;

    #[test]
    fn what_the_log_says_of_who_did_it_stays_on_its_line_and_moves_no_cursor() {
        let id = SpiffeId::parse("spiffe://pay.example/prod/reports").unwrap();
        let at = OffsetDateTime::UNIX_EPOCH;
        let hostile = "\u{1b}[2Jadmin\nstate        valid\u{202e}".to_owned();
        let revoked = RevokedBy {
            kind: hostile.clone(),
            target: hostile.clone(),
            by: hostile.clone(),
            at,
            reason: hostile.clone(),
            log_index: 7,
        };
        let denial = Denial {
            id: hostile.clone(),
            spiffe_id: id.clone(),
            reason: hostile.clone(),
            by: hostile.clone(),
            at,
            since: None,
            review: vec![],
            review_counts: BTreeMap::new(),
            review_more: 0,
            review_tokens_from: None,
        };
        let record = CertificateRecord {
            spiffe_id: id,
            serial_number: "01".parse().unwrap(),
            state: CertificateState::Revoked,
            not_before: at,
            not_after: at,
            issued_at: at,
            log_index: 1,
            profile: hostile.clone(),
            attestor: hostile.clone(),
            principal: hostile.clone(),
            policies: vec![hostile],
            chain: None,
            row_lost: false,
            revoked: Some(revoked),
            denial: Some(denial),
        };
        let shown = to_text(&record, at);
        assert!(!shown.contains(['\u{1b}', '\u{202e}']), "{shown:?}");
        assert_eq!(shown.matches("\nstate ").count(), 1, "{shown}");
        assert_eq!(shown.lines().count(), 17, "{shown}");
    }
}

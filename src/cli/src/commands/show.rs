//! `show`: what the CA keeps of a certificate.

use api::{CertificateFilter, CertificateRecord};
use clap::Args;
use countersign::AuthorityClient;
use identity::SpiffeId;
use time::OffsetDateTime;

use super::Session;
use super::list::state;
use super::target::Target;
use crate::clock;
use crate::context;
use crate::error::Error;
use crate::exit::Exit;
use crate::table;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Which certificate; of a SPIFFE ID, its newest
    #[arg(value_name = "SERIAL|SPIFFE_ID")]
    target: Target,
}

pub(crate) async fn run(arguments: &Arguments, session: &Session) -> anyhow::Result<Exit> {
    let client = context::open(session).await?.client;
    let record = match &arguments.target {
        Target::Identity(id) => newest(id, &client, session).await?,
        Target::Serial(serial) => client.certificate(serial).await?,
    };
    session.output.show(&record, |record| to_text(record, clock::now()))?;
    Ok(Exit::Done)
}

async fn newest(
    id: &SpiffeId,
    client: &AuthorityClient,
    session: &Session,
) -> Result<CertificateRecord, Error> {
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
    // A record of a list may lack its chain.
    let newest = newest.ok_or_else(|| Error::NoCertificateOf(id.clone()))?;
    Ok(client.certificate(&newest.serial_number).await?)
}

fn to_text(record: &CertificateRecord, now: OffsetDateTime) -> String {
    let time = |time| format!("{} ({})", table::time(time), table::distance(time, now));
    table::fields(&[
        ("SPIFFE ID", record.spiffe_id.to_string()),
        ("serial", record.serial_number.to_string()),
        ("state", state(record.state).to_owned()),
        ("issued", time(record.issued_at)),
        ("not before", table::time(record.not_before)),
        ("not after", time(record.not_after)),
        ("profile", record.profile.clone()),
        ("asked by", record.principal.clone()),
        ("attested by", record.attestor.clone()),
        ("allowed by", record.policies.join(", ")),
        ("log index", record.log_index.to_string()),
    ])
}

//! `list`: the CA's certificates.

use api::{CertificateFilter, CertificateRecord, CertificateState, Ttl};
use clap::Args;
use time::OffsetDateTime;

use crate::clock;
use crate::context;
use crate::exit::Exit;
use crate::output::Format;
use crate::session::Session;
use crate::shell;
use crate::table;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Only SPIFFE IDs like this; * is any run of characters
    #[arg(long, value_name = "GLOB")]
    id: Option<String>,
    /// Only valid ones that expire within this time, such as 7d
    #[arg(long, value_name = "TTL")]
    expiring: Option<Ttl>,
    /// Only revoked ones that have not expired
    #[arg(long)]
    revoked: bool,
}

pub(crate) async fn run(arguments: Arguments, session: &Session) -> anyhow::Result<Exit> {
    let client = context::open(session).await?.client;
    let Arguments { id, expiring, revoked } = arguments;
    let asked = id.clone();
    let mut filter = CertificateFilter { id, expiring, revoked, limit: Some(1_000), after: None };
    let (mut records, mut count, mut lost) = (Vec::new(), 0, 0);
    loop {
        let page = client.certificates(&filter).await?;
        count += page.items.len();
        lost += page.items.iter().filter(|record| record.row_lost).count();
        records.extend(page.items);
        // Lines can be shown at once; a table needs the widths of all.
        if session.output.format == Format::Json {
            session.output.list(&records, |_| String::new())?;
            records.clear();
        }
        match page.next {
            Some(next) => filter.after = Some(next),
            None => break,
        }
    }
    if let Some(asked) = asked.filter(|_| count == 0) {
        session.output.note(no_match(&asked));
    }
    if lost > 0 {
        let what = "have lost their rows in the CA's database; next: countersign status";
        session.output.warn(format!("{lost} of them {what}"));
    }
    if session.output.format == Format::Human {
        let now = clock::now();
        session.output.list(&records, |records| to_table(records, now))?;
    }
    Ok(Exit::Done)
}

/// A glob is compared with the whole SPIFFE ID.
fn no_match(glob: &str) -> String {
    let hint = match glob {
        "" => "; '*' is like every one".to_owned(),
        _ if glob.starts_with("spiffe://") || glob.starts_with('*') => {
            "; * is any run of characters".to_owned()
        }
        path if path.starts_with('/') => format!("; perhaps '*{path}', or '*{path}*'"),
        part => format!("; perhaps '*{part}*'"),
    };
    format!("no certificate of a SPIFFE ID like {}{hint}", shell::word(glob))
}

fn to_table(records: &[CertificateRecord], now: OffsetDateTime) -> String {
    let rows: Vec<[String; 4]> = records
        .iter()
        .map(|record| {
            [
                record.serial_number.to_string(),
                state(record.state).to_owned(),
                table::distance(record.not_after, now),
                record.spiffe_id.to_string(),
            ]
        })
        .collect();
    table::table(["SERIAL", "STATE", "EXPIRES", "SPIFFE ID"], &rows)
}

/// The state in a word.
pub(crate) fn state(state: CertificateState) -> &'static str {
    match state {
        CertificateState::Expired => "expired",
        CertificateState::NeverIssued => "never-issued",
        CertificateState::Revoked => "revoked",
        CertificateState::Valid => "valid",
    }
}

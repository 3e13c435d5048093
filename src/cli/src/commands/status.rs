//! `status`: how the CA is doing.

use api::{ConnectionsStatus, LostRow, LostRows, Status};
use authority::HALTED_NEXT_STEP;
use time::OffsetDateTime;

use super::keys;
use crate::clock;
use crate::context;
use crate::exit::Exit;
use crate::session::Session;
use crate::table;

pub(crate) async fn run(session: &Session) -> anyhow::Result<Exit> {
    let status = context::open(session).await?.client.status().await?;
    session.output.show(&status, |status| to_text(status, clock::now()))?;
    Ok(Exit::Done)
}

fn to_text(status: &Status, now: OffsetDateTime) -> String {
    let unsigned = status.log_size.saturating_sub(status.checkpoint_size);
    let mut fields = vec![
        ("trust domain", status.trust_domain.clone()),
        ("version", status.version.clone()),
        ("trust pin", status.trust_pin.clone()),
        ("trust state", status.trust_sequence.to_string()),
        ("log", format!("{} entries, {unsigned} not yet below a checkpoint", status.log_size)),
        ("policy", status.policy_hash.clone()),
        ("workloads", status.workloads.to_string()),
        ("denied", status.denied.to_string()),
    ];
    if let Some(why) = &status.halted {
        fields.push(("HALTED", why.clone()));
        // A CA of before says it not.
        let next = status.halted_next_step.as_deref().unwrap_or(HALTED_NEXT_STEP);
        fields.push(("", format!("next, on the CA's host: {next}")));
    }
    if let Some(why) = &status.not_ready {
        fields.push(("NOT READY", why.clone()));
    }
    fields.extend(status.lost_rows.iter().flat_map(lost));
    for file in &status.replaced_files {
        fields.push((
            "REPLACED",
            format!(
                "somebody removed or replaced STATE/{file}, which tells of an older database; it was \
                 written anew. Look who works in that folder, and compare the log with a checkpoint held \
                 elsewhere before the CA is started again"
            ),
        ));
    }
    if let Some(connections) = &status.connections {
        let ConnectionsStatus { open, limit, strangers, strangers_limit, open_files_limit } =
            connections;
        let text = format!(
            "{open} of {limit}, without certificate {strangers} of {strangers_limit} \
             ({open_files_limit} files)"
        );
        fields.push(("connections", text));
    }
    for key in &status.rotating {
        if let Some(next) = &key.next {
            let text = format!("{} {}: {}", next.step, key.purpose, keys::waits_for(next, now));
            fields.push(("rotation", text));
        }
    }
    for issuer in &status.issuers {
        let ends = table::distance(issuer.not_after, now);
        fields.push(("issuer", format!("{}, ends {ends}", issuer.serial_number)));
    }
    for warning in &status.warnings {
        let (ends, next) = keys::life_warning(warning, now);
        fields.extend([("WARNING", ends), ("", format!("next: {next}"))]);
    }
    table::fields(&fields)
}

/// Certificates that lists and renewals miss.
fn lost(lost: &LostRows) -> Vec<(&'static str, String)> {
    let LostRows { certificates, newest, next_step } = lost;
    let what = format!("certificates that the log holds and the database has lost: {certificates}");
    let mut fields = vec![("ROWS LOST", what)];
    let one = |row: &LostRow| ("", format!("{} of {}", row.serial_number, row.spiffe_id));
    fields.extend(newest.iter().map(one));
    if *certificates > newest.len() as u64 {
        fields.push(("", "and older ones".to_owned()));
    }
    fields.push(("", format!("next: {next_step}")));
    fields
}

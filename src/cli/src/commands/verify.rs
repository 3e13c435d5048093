//! `verify`: a chain, as a peer would verify it; each rule, passed or failed.

use std::path::PathBuf;

use api::CertificateState;
use clap::Args;
use countersign::svid_folder::SvidFolder;
use identity::TrustPin;
use serde::Serialize;

use super::list::state;
use crate::bundle_file;
use crate::chain;
use crate::clock;
use crate::context;
use crate::error::Error;
use crate::exit::Exit;
use crate::files;
use crate::folder_contents::KeyState;
use crate::session::Session;
use crate::shell;
use crate::subject::{self, Chain, Subject};
use crate::svid_folder;
use crate::table;
use crate::trust::HeldTrust;
use crate::verdict::{Finding, Outcome, Verdict};

#[derive(Debug, Args)]
#[command(after_help = "\
A file holds the certificate and its issuer's, PEM. A folder is verified by the
trust state in it, unless another is named, and its key is compared. Nobody is asked without
--online, though only the CA knows which certificates are revoked. Exits 5 if
any rule fails.")]
pub(crate) struct Arguments {
    /// A chain (- is stdin), an SVID's folder, or a server that shows a chain
    #[arg(value_name = "FILE|DIR|HOST:PORT", value_parser = subject::subject())]
    subject: Subject,
    /// Verify by this signed trust state instead of the context's
    #[arg(long, value_name = "FILE", requires = "trust_pin")]
    trust_note: Option<PathBuf>,
    /// Names the trust keys that signed it
    #[arg(long, value_name = "PIN", requires = "trust_note")]
    trust_pin: Option<TrustPin>,
    /// Also ask the context's CA whether it is revoked
    #[arg(long)]
    online: bool,
}

/// What `--json` shows.
#[derive(Debug, Serialize)]
struct Report {
    accepted: bool,
    refusal: Option<String>,
    rules: Vec<Finding>,
}

pub(crate) async fn run(arguments: &Arguments, session: &Session) -> anyhow::Result<Exit> {
    let directory = match &arguments.subject {
        Subject::Directory(path) => Some(SvidFolder::at(path)?),
        _ => None,
    };
    let shown = match &directory {
        Some(directory) => arguments.subject.chain_in(directory)?,
        None => arguments.subject.chain().await?,
    };
    let held = held_trust(arguments, directory.as_ref(), session)?;
    let mut verdict = Verdict::of(&shown, &held.trust, clock::now());
    if let Some(directory) = &directory {
        verdict.findings.push(own_key(directory));
        verdict.findings.extend(own_bundle(directory, &held));
    }
    let (finding, state) = revocation(arguments, &shown, session).await?;
    verdict.findings.push(finding);
    if state == Some(CertificateState::Revoked) {
        verdict.refusal.get_or_insert_with(|| "Revoked".to_owned());
    }
    let report = Report {
        accepted: verdict.findings.iter().all(|finding| finding.outcome != Outcome::Failed),
        refusal: verdict.refusal,
        rules: verdict.findings,
    };
    session.output.show(&report, Report::to_text)?;
    Ok(if report.accepted { Exit::Done } else { Exit::Unverified })
}

fn held_trust(
    arguments: &Arguments,
    directory: Option<&SvidFolder>,
    session: &Session,
) -> Result<HeldTrust, Error> {
    match (&arguments.trust_note, &arguments.trust_pin) {
        (Some(note), Some(pin)) => HeldTrust::from_file(&files::read(note)?, note, pin),
        _ => match directory {
            Some(directory) => trust_beside(directory, session),
            None => context::trust(session),
        },
    }
}

/// The trust state that stands beside an SVID; the context's where none does.
fn trust_beside(directory: &SvidFolder, session: &Session) -> Result<HeldTrust, Error> {
    match svid_folder::record(directory)? {
        Some(record) => HeldTrust::load(directory, &record.trust_pin, &record.url),
        None => context::trust(session),
    }
}

fn own_key(directory: &SvidFolder) -> Finding {
    let state = KeyState::read(directory);
    let outcome = match &state {
        KeyState::Elsewhere => Outcome::NotChecked,
        KeyState::Matches => Outcome::Passed,
        KeyState::Other | KeyState::Unknown(_) => Outcome::Failed,
    };
    Finding::new("svid.key", outcome, state.to_string())
}

/// What software reads that knows no trust state; nothing where no trust state is beside it.
fn own_bundle(directory: &SvidFolder, held: &HeldTrust) -> Option<Finding> {
    svid_folder::record(directory).ok().flatten()?;
    Some(match bundle_file::fault(directory, held.state()) {
        None => Finding::new("bundle.pem", Outcome::Passed, "has the anchors of the trust state"),
        Some(fault) => {
            let renew =
                format!("{fault}; next: countersign renew {}", shell::quoted(directory.path()));
            Finding::new("bundle.pem", Outcome::Failed, renew)
        }
    })
}

/// What was found, and what the CA says of the certificate where it was asked.
async fn revocation(
    arguments: &Arguments,
    shown: &Chain,
    session: &Session,
) -> Result<(Finding, Option<CertificateState>), Error> {
    let found = |outcome, detail: &str| Finding::new("not revoked", outcome, detail);
    if !arguments.online {
        return Ok((found(Outcome::NotChecked, "only the CA knows: add --online"), None));
    }
    let leaf = chain::read(&shown.certificates[0]);
    let serial = leaf.ok().and_then(|leaf| chain::serial_number(&leaf));
    let Some(serial) = serial else {
        return Ok((found(Outcome::Failed, "it has no serial number to ask about"), None));
    };
    let open = context::open(session).await?;
    if let Some(went_back) = &open.went_back {
        return Ok((found(Outcome::Failed, &went_back.what()), None));
    }
    let record = open.client.certificate(&serial).await?;
    let outcome = match record.state {
        CertificateState::Revoked | CertificateState::NeverIssued => Outcome::Failed,
        CertificateState::Expired | CertificateState::Valid => Outcome::Passed,
    };
    Ok((found(outcome, &format!("the CA says: {}", state(record.state))), Some(record.state)))
}

impl Report {
    fn to_text(&self) -> String {
        let rows: Vec<[String; 3]> = self
            .rules
            .iter()
            .map(|finding| {
                let outcome = finding.outcome.to_string();
                [outcome, finding.rule.to_owned(), finding.detail.clone()]
            })
            .collect();
        let verdict = match (self.accepted, &self.refusal) {
            (true, _) => "accepted".to_owned(),
            (false, Some(refusal)) => format!("refused: {refusal}"),
            (false, None) => "refused".to_owned(),
        };
        format!("{}{verdict}\n", table::table(["RESULT", "RULE", "DETAIL"], &rows))
    }
}

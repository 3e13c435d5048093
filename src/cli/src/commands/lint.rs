//! `lint`: the rules that the CA's linter applies, over any certificate.

use clap::Args;
use serde::Serialize;

use crate::exit::Exit;
use crate::session::Session;
use crate::subject::{self, Subject};
use crate::table;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// PEM or DER (- is stdin), an SVID's folder, or a server; of a chain, the first certificate is checked
    #[arg(value_name = "FILE|DIR|HOST:PORT", value_parser = subject::subject())]
    subject: Subject,
}

#[derive(Debug, Serialize)]
struct Finding {
    rule: &'static str,
    detail: String,
}

pub(crate) async fn run(arguments: &Arguments, session: &Session) -> anyhow::Result<Exit> {
    let shown = arguments.subject.chain().await?;
    let findings: Vec<Finding> = issuance::lint::certificate(&shown.certificates[0])
        .into_iter()
        .map(|finding| Finding { rule: finding.rule, detail: finding.detail })
        .collect();
    if findings.is_empty() {
        session.output.note("no findings");
        return Ok(Exit::Done);
    }
    session.output.list(&findings, |findings| {
        let rows: Vec<[String; 2]> = findings
            .iter()
            .map(|finding| [finding.rule.to_owned(), finding.detail.clone()])
            .collect();
        table::table(["RULE", "FINDING"], &rows)
    })?;
    Ok(Exit::Unverified)
}

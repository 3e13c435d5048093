//! `inspect`: what a certificate says, believed or not.

use clap::Args;

use crate::chain;
use crate::clock;
use crate::description::Description;
use crate::error::Error;
use crate::exit::Exit;
use crate::folder_contents::FolderContents;
use crate::presented::Possession;
use crate::session::Session;
use crate::subject::{self, Subject};

#[derive(Debug, Args)]
#[command(after_help = "\
Nothing is verified: see `verify`. With a server, shakes hands (TLS 1.3)
and sends nothing. Of a folder: the certificate, whether the key is its own,
bundle, CRLs, and the newest checkpoint that was seen. No key is shown, ever.")]
pub(crate) struct Arguments {
    /// A PEM or DER file (- is stdin), an SVID's folder, or a server
    #[arg(value_name = "FILE|DIR|HOST:PORT", value_parser = subject::subject())]
    subject: Subject,
}

pub(crate) async fn run(arguments: &Arguments, session: &Session) -> anyhow::Result<Exit> {
    let now = clock::now();
    if let Subject::Directory(path) = &arguments.subject {
        session.output.show(&FolderContents::read(path)?, |folder| folder.to_text(now))?;
        return Ok(Exit::Done);
    }
    let shown = arguments.subject.chain().await?;
    if shown.possession == Some(Possession::Unproved) {
        session.output.warn("the server did not prove that it has the certificate's key");
    }
    let descriptions: Vec<Description> = shown
        .certificates
        .iter()
        .map(|der| {
            let subject = arguments.subject.to_string();
            let certificate =
                chain::read(der).map_err(|why| Error::Certificate { subject, why })?;
            Ok(Description::new(&certificate, der))
        })
        .collect::<Result<_, Error>>()?;
    session.output.list(&descriptions, |all| {
        let texts: Vec<String> = all.iter().map(|one| one.to_text(now)).collect();
        texts.join("\n")
    })?;
    Ok(Exit::Done)
}

//! `token`: one-time bootstrap tokens.

use std::path::{Path, PathBuf};

use api::{NewToken, TokenFilter, TokenRecord, TokenRequest, Ttl};
use clap::{Args, Subcommand};
use identity::SpiffeId;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use serde_json::json;
use time::OffsetDateTime;

use crate::chain;
use crate::clock;
use crate::context;
use crate::destination::{Destination, Replaced};
use crate::error::Error;
use crate::exit::Exit;
use crate::files;
use crate::other_file::OtherFile;
use crate::output::require_stdout;
use crate::session::Session;
use crate::shell;
use crate::table;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print a new token: the only time that it is shown
    Create(Create),
    /// List the tokens, without their secrets
    List,
    /// Withdraw a token that was not used
    Revoke {
        /// As `token list` shows it
        id: String,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
The token goes to stdout alone, or into a file that only you may read: --out.")]
pub(crate) struct Create {
    /// Who its user may become
    spiffe_id: SpiffeId,
    /// How long it may be used: 15m, or less
    #[arg(long)]
    ttl: Option<Ttl>,
    /// Only for the key in this file: a request or a public key, PEM
    #[arg(long, value_name = "FILE")]
    pin_key: Option<PathBuf>,
    /// Write it here (0600), and print nothing
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<Exit> {
    match command {
        Command::Create(arguments) => create(arguments, session).await?,
        Command::List => list(session).await?,
        Command::Revoke { id } => revoke(&id, session).await?,
    }
    Ok(Exit::Done)
}

async fn create(arguments: Create, session: &Session) -> Result<(), Error> {
    let key_sha256 = arguments.pin_key.as_deref().map(key_sha256).transpose()?;
    let open = context::open(session).await?;
    let request = TokenRequest { spiffe_id: arguments.spiffe_id, ttl: arguments.ttl, key_sha256 };
    let out = arguments.out.as_deref();
    let place = TokenPlace::prepare(out, session)?;
    let token = open.client.create_token(&request).await?;
    place.fill(&token, session)?;
    if let Some(warning) = &token.warning {
        let next = token.next_step.as_ref().map(|step| format!("\n  next: {step}"));
        session.output.warn(format!("{warning}{}", next.unwrap_or_default()));
    }
    session.output.note(hint(&token, &open.url, out));
    Ok(())
}

/// Where a new token goes: the only time that it is shown.
pub(crate) struct TokenPlace<'a>(Option<Destination<'a>>);

impl<'a> TokenPlace<'a> {
    /// A place that cannot be written is found out before there is anything to lose.
    pub(crate) fn prepare(out: Option<&'a Path>, session: &Session) -> Result<Self, Error> {
        let replaced = match session.options.yes {
            true => Replaced::Anything,
            false => Replaced::Only(OtherFile::Token),
        };
        match out {
            Some(out) => Destination::prepare(out, replaced).map(|place| Self(Some(place))),
            None => require_stdout().map(|()| Self(None)),
        }
    }

    /// Hands it over; where that fails nobody has it, and it counts until it is withdrawn.
    pub(crate) fn fill(self, token: &NewToken, session: &Session) -> Result<(), Error> {
        let filled = match self.0 {
            Some(place) => place.fill(format!("{}\n", token.token.expose()).as_bytes()),
            None => session.output.show(token, |token| token.token.expose().to_owned()),
        };
        filled.map_err(|source| Error::NotHandedOver {
            made: format!("the token {} for {} was made", token.id, token.spiffe_id),
            lost: "did not get out of here: nobody has it",
            source: source.into(),
            repair: format!("countersign token revoke {}; then the same command again", token.id),
        })
    }
}

fn hint(token: &NewToken, url: &str, out: Option<&Path>) -> String {
    let file = out.map_or_else(|| "FILE".to_owned(), shell::quoted);
    format!(
        "token {} is good for one certificate, until {}; where it is needed:\n  \
         countersign issue {} --out DIR \\\n    --url {url} --token-file {file}",
        token.id,
        table::time(token.expires_at),
        token.spiffe_id,
    )
}

async fn list(session: &Session) -> Result<(), Error> {
    let client = context::open(session).await?.client;
    let mut filter = TokenFilter::default();
    let mut tokens = Vec::new();
    loop {
        let page = client.tokens(&filter).await?;
        tokens.extend(page.items);
        match page.next {
            Some(next) => filter.after = Some(next),
            None => break,
        }
    }
    let now = clock::now();
    session.output.list(&tokens, |tokens| to_table(tokens, now))
}

fn to_table(tokens: &[TokenRecord], now: OffsetDateTime) -> String {
    let rows: Vec<[String; 5]> = tokens
        .iter()
        .map(|token| {
            [
                token.id.clone(),
                token.state.clone(),
                table::distance(token.expires_at, now),
                token.spiffe_id.to_string(),
                token.made_by.clone(),
            ]
        })
        .collect();
    table::table(["ID", "STATE", "EXPIRES", "SPIFFE ID", "MADE BY"], &rows)
}

/// One that had expired, or was withdrawn before, is answered alike.
async fn revoke(id: &str, session: &Session) -> Result<(), Error> {
    context::open(session).await?.client.revoke_token(id).await?;
    let shown = json!({ "id": id, "state": "revoked" });
    session.output.show(&shown, |_| format!("token {id} is withdrawn: nobody can use it any more"))
}

/// SHA-256 of the SubjectPublicKeyInfo in a file, lower-case hex.
fn key_sha256(path: &Path) -> Result<String, Error> {
    let bytes = files::read(path)?;
    let text = identity::unmarked(&bytes)
        .map_err(|fault| Error::Malformed { path: path.to_owned(), why: fault.to_string() })?;
    let public_key = match SubjectPublicKeyInfoDer::from_pem_slice(text) {
        Ok(public_key) => public_key.to_vec(),
        Err(_) => files::request(&bytes, path)?.public_key().to_vec(),
    };
    Ok(chain::sha256_hex(&public_key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pending::PendingRequest;
    use crate::svid_record::Wish;
    use rcgen::KeyPair;

    #[test]
    fn a_request_and_its_public_key_pin_the_same_key() {
        let id = SpiffeId::parse("spiffe://pay.example/reports").unwrap();
        let pending = PendingRequest::generate(&Wish::only(id)).unwrap();
        let public_key = KeyPair::from_pem(&pending.key).unwrap().public_key_pem();
        let pin = |pem: &str| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), pem).unwrap();
            key_sha256(file.path())
        };
        let expected = chain::sha256_hex(pending.request.public_key());
        assert_eq!(pin(&pending.csr).unwrap(), expected);
        assert_eq!(pin(&public_key).unwrap(), expected);
        assert_eq!(expected.len(), 64);
        assert!(pin(&pending.key).is_err());
    }
}

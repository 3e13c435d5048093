//! An SVID that the CA takes no more. The alert names the rule; since when and why stands in the CRL,
//! which anybody may read: who is refused in the handshake cannot ask.

use api::{Problem, ProblemType};
use countersign::svid_folder::{CHAIN, SvidFolder};
use countersign::{AuthorityClient, Error as LibraryError};
use identity::{SerialNumber, SpiffeId};
use rustls::AlertDescription;
use time::OffsetDateTime;
use tlog::Hash;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use crate::chain;
use crate::error::{Error, Refused};
use crate::table;
use crate::trust::HeldTrust;

/// An SVID, and the CA that it was shown to.
pub(crate) struct ShownSvid<'a> {
    pub(crate) directory: &'a SvidFolder,
    pub(crate) held: &'a HeldTrust,
    pub(crate) url: &'a str,
}

impl ShownSvid<'_> {
    /// Says what the CA has against the SVID, if that is what an error says; else the error itself.
    pub(crate) async fn explain(&self, error: LibraryError) -> Error {
        let Some(rule) = Rule::of(&error) else { return error.into() };
        let Ok((serial_number, spiffe_id, issuer)) = self.read() else { return error.into() };
        let revoked = match rule {
            Rule::Denied | Rule::Revoked => self.revoked(&serial_number, &issuer).await,
            Rule::Expired | Rule::Unknown => None,
        };
        let why = rule.told(&serial_number, &spiffe_id, revoked.as_ref());
        let repair = self.repair(rule, &serial_number, &spiffe_id);
        let directory = self.directory.path().to_owned();
        let refused = match rule {
            Rule::Denied => Refused::Identity,
            Rule::Expired | Rule::Revoked | Rule::Unknown => Refused::Certificate,
        };
        Error::RefusedSvid { directory, refused, why, repair }
    }

    /// Says so if the CRL lists it, for whom no handshake tells.
    pub(crate) async fn listed_by_crl(&self) -> Option<Error> {
        let (serial_number, spiffe_id, issuer) = self.read().ok()?;
        let revoked = self.revoked(&serial_number, &issuer).await?;
        let why = Rule::Revoked.told(&serial_number, &spiffe_id, Some(&revoked));
        let repair = format!(
            "`countersign show {serial_number}`, by an operator of {}, tells more; for another: {}",
            spiffe_id.trust_domain(),
            again_by_request(&spiffe_id, self.directory, self.url)
        );
        let directory = self.directory.path().to_owned();
        Some(Error::RefusedSvid { directory, refused: Refused::Certificate, why, repair })
    }

    /// Serial number and identity of the certificate, and the id of its issuer.
    fn read(&self) -> Result<(SerialNumber, SpiffeId, String), Error> {
        let malformed =
            |why: &str| Error::Malformed { path: self.directory.join(CHAIN), why: why.to_owned() };
        let pem = self.directory.read(CHAIN)?.ok_or_else(|| malformed("it is not there"))?;
        let certificates = chain::parse(&pem).map_err(|why| malformed(&why))?;
        let leaf = chain::read(&certificates[0]).map_err(|why| malformed(&why))?;
        let issuer = certificates.get(1).ok_or_else(|| malformed("it has no issuer"))?;
        let issuer = chain::read(issuer).map_err(|why| malformed(&why))?;
        let issuer = format!("{:?}", Hash::of(issuer.public_key().raw));
        let serial_number = chain::serial_number(&leaf);
        let serial_number = serial_number.ok_or_else(|| malformed("it has no serial number"))?;
        let spiffe_id = chain::spiffe_id(&leaf).ok_or_else(|| malformed("it names nobody"))?;
        Ok((serial_number, spiffe_id, issuer))
    }

    /// What the CRL says of it; none where that cannot be had, or says nothing.
    async fn revoked(&self, serial_number: &SerialNumber, issuer: &str) -> Option<Revoked> {
        let stranger = AuthorityClient::new(self.url, self.held.trust.clone(), None).ok()?;
        let der = stranger.crl(issuer).await.ok()?;
        let (_, crl) = CertificateRevocationList::from_der(&der).ok()?;
        let mut entries = crl.iter_revoked_certificates();
        let entry = entries.find(|entry| entry.raw_serial() == serial_number.as_octets())?;
        let reason = entry.reason_code().map(|(_, reason)| kebab(&reason.to_string()));
        Some(Revoked { at: entry.revocation_date.to_datetime(), reason })
    }

    fn repair(&self, rule: Rule, serial_number: &SerialNumber, spiffe_id: &SpiffeId) -> String {
        let (again, asked) = match spiffe_id.operator_name() {
            Some(name) => (another(name), "another operator"),
            None => {
                let again = format!(
                    "`countersign token create {spiffe_id}` by an operator, then `{}`",
                    again_by_token(spiffe_id, self.directory, self.url)
                );
                (again, "an operator")
            }
        };
        match rule {
            // Who is denied is refused a token, too.
            Rule::Denied => format!(
                "`countersign denial list`, by {asked} of {}, says since when and why, and \
                 `countersign allow {spiffe_id}`, by {asked}, lifts it; then: {again}",
                spiffe_id.trust_domain()
            ),
            Rule::Expired => format!(
                "compare the clocks (`date -u` here, and where the CA runs) and set the wrong one \
                 right; if both are right: {again}"
            ),
            Rule::Revoked | Rule::Unknown => format!(
                "`countersign show {serial_number}`, by {asked} of {}, tells more; for another: \
                 {again}",
                spiffe_id.trust_domain()
            ),
        }
    }
}

/// How whoever has lost an SVID gets another: a workload by the command that attests again, an operator
/// as [`another_for_lost`] says.
pub(crate) fn again(spiffe_id: &SpiffeId, directory: &SvidFolder, url: &str) -> String {
    match spiffe_id.operator_name() {
        Some(name) => another_for_lost(spiffe_id.as_str(), name),
        None => again_by_token(spiffe_id, directory, url),
    }
}

/// What was certified counts until somebody revokes it, and as long as it does nobody else is added by
/// that name.
pub(crate) fn another_for_lost(spiffe_id: &str, name: &str) -> String {
    format!(
        "`countersign revoke {spiffe_id} --reason superseded`, by another operator, then {}",
        another(name)
    )
}

/// How an operator gets another SVID where theirs counts no more. A workload's token makes none.
pub(crate) fn another(name: &str) -> String {
    format!(
        "`countersign operator add {name} --again`, by another operator; without one, `countersign \
         init --recover --operator {name}` on the CA's host"
    )
}

fn again_by_token(spiffe_id: &SpiffeId, directory: &SvidFolder, url: &str) -> String {
    format!(
        "countersign issue {spiffe_id} --out {} --attest token --token-file FILE --url {url}",
        crate::shell::quoted(directory.path())
    )
}

/// The commands by which whoever has the key gets another certificate.
pub(crate) fn again_by_request(spiffe_id: &SpiffeId, directory: &SvidFolder, url: &str) -> String {
    format!(
        "make a request with a new key, `countersign token create {spiffe_id}` by an operator, then \
         `countersign issue {spiffe_id} --csr FILE --out {} --token-file FILE --url {url}`",
        crate::shell::quoted(directory.path())
    )
}

/// What the CRL says.
struct Revoked {
    at: OffsetDateTime,
    reason: Option<String>,
}

/// What the CA has against a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Denied,
    Expired,
    Revoked,
    /// It has no record of it: its database is another, or it is another CA.
    Unknown,
}

impl Rule {
    fn of(error: &LibraryError) -> Option<Self> {
        match error {
            LibraryError::Refused { alert, .. } => match *alert {
                AlertDescription::AccessDenied => Some(Self::Denied),
                AlertDescription::CertificateExpired => Some(Self::Expired),
                AlertDescription::CertificateRevoked => Some(Self::Revoked),
                _ => None,
            },
            LibraryError::Authority(problem) => Self::of_problem(problem),
            _ => None,
        }
    }

    fn of_problem(problem: &Problem) -> Option<Self> {
        (problem.problem_type == ProblemType::NotFound).then_some(Self::Unknown)
    }

    fn told(
        self,
        serial_number: &SerialNumber,
        spiffe_id: &SpiffeId,
        revoked: Option<&Revoked>,
    ) -> String {
        let since = revoked.map(|revoked| {
            let reason = revoked.reason.as_ref().map(|reason| format!(" ({reason})"));
            format!(" since {}{}", table::time(revoked.at), reason.unwrap_or_default())
        });
        let since = since.unwrap_or_default();
        match self {
            // The CRL is of certificates: since when the identity is denied, and why, is the operators'.
            Self::Denied if revoked.is_some() => {
                format!("{spiffe_id} is denied; certificate {serial_number} is revoked{since}")
            }
            Self::Denied => format!("{spiffe_id} is denied"),
            Self::Expired => {
                "by its clock it has expired or begins only later, and by this one it is \
                              valid now"
                    .to_owned()
            }
            Self::Revoked => format!("certificate {serial_number} is revoked{since}"),
            Self::Unknown => format!(
                "it has no record of certificate {serial_number}; an older database was put back, \
                 or another CA answers"
            ),
        }
    }
}

/// `Key Compromise` and `KeyCompromise` as the other commands spell it.
fn kebab(reason: &str) -> String {
    let mut spelled = String::new();
    for c in reason.chars().filter(char::is_ascii_alphabetic) {
        if c.is_ascii_uppercase() && !spelled.is_empty() {
            spelled.push('-');
        }
        spelled.push(c.to_ascii_lowercase());
    }
    spelled
}

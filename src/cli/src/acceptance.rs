//! What must hold of the CA's answer before it replaces anything.

use api::IssuedCertificate;
use identity::{Revocations, SpiffeId, Trust, Usage, verify};
use time::OffsetDateTime;

use crate::chain;
use crate::clock;
use crate::error::Error;

/// What was asked for.
pub(crate) struct Asked<'a> {
    /// The identity.
    pub(crate) spiffe_id: &'a SpiffeId,
    /// The SubjectPublicKeyInfo of the request, DER.
    pub(crate) public_key: &'a [u8],
}

/// Verifies the new chain as any peer would, in both directions, and that it is the one asked for.
pub(crate) fn accept(
    answer: &IssuedCertificate,
    asked: &Asked<'_>,
    trust: &Trust,
    now: OffsetDateTime,
) -> Result<(), Error> {
    let certificates = chain::parse(answer.chain.as_bytes())
        .map_err(|why| Error::Certificate { subject: "the CA's answer".to_owned(), why })?;
    let leaf = chain::read(&certificates[0])
        .map_err(|why| Error::Certificate { subject: "the CA's answer".to_owned(), why })?;
    if leaf.public_key().raw != asked.public_key {
        return Err(Error::Answer("its certificate is for another key"));
    }
    for usage in [Usage::Server, Usage::Client] {
        let revocations = Revocations::default();
        let svid = verify(&certificates, usage, clock::unix(now), trust, &revocations)?;
        if svid.spiffe_id() != asked.spiffe_id {
            return Err(Error::Answer("its certificate names another identity"));
        }
        if *svid.serial_number() != answer.serial_number {
            return Err(Error::Answer("its certificate has another serial number than it says"));
        }
    }
    Ok(())
}

//! The certificates by which a CA elsewhere certified our issuer, up to a root.
//!
//! Whether peers will believe what is issued below them is found out before anything is kept: by
//! [`identity::verify_issuer`], with a certificate that is made for it, signed by nobody, and dropped.
//! All CAs above the issuer become anchors. The nearest is the one that our verifiers end at; the
//! others are for software that wants a chain to end in a root.
//!
//! A name constraint says something of names alone, so that the certificate bears those of this CA:
//! who cannot believe the CA's own certificate gets no other from it.

use std::net::IpAddr;
use std::sync::Arc;

use identity::{
    Anchor, Countersignature, Der, PemError, SpiffeId, Trust, TrustDomain, TrustState, Usage,
    is_pem, is_pkcs7, pem_blocks,
};
use issuance::{DnsName, IssuerCertificate};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::clock::{Clock, fresh_serial_number};
use crate::error::Error;
use crate::facts::Names;
use crate::permitted_names::{PermittedNames, unsigned};
use crate::policy::NotPermitted;

/// A chain whose names and keys follow one another, from our issuer to a root.
#[derive(Debug)]
pub(crate) struct ParentChain {
    pub(crate) issuer: IssuerCertificate,
    /// The CA that certified it, the CA above that, and so on.
    above: Vec<Vec<u8>>,
}

impl ParentChain {
    /// Reads PEM: the issuer's certificate, for this key, then those above it in order.
    pub(crate) fn parse(text: &[u8], public_key: &[u8]) -> Result<Self, Error> {
        if is_pkcs7(text) {
            return Err(pkcs7(text));
        }
        let blocks = pem_blocks(text).map_err(|error| unread(&error))?;
        let blocks = blocks.into_iter().filter(|block| block.label.ends_with("CERTIFICATE"));
        let mut certificates: Vec<Vec<u8>> = blocks.map(|block| block.contents).collect();
        let parsed: Vec<X509Certificate<'_>> = certificates
            .iter()
            .zip(1..)
            .map(|(der, number)| match X509Certificate::from_der(der) {
                Ok(([], certificate)) => Ok(certificate),
                _ => Err(invalid(format!("certificate {number} cannot be parsed"))),
            })
            .collect::<Result<_, _>>()?;
        let (Some(first), Some(last)) = (parsed.first(), parsed.last()) else {
            let why = match text.first() {
                Some(&SEQUENCE) => {
                    "it is DER, which holds one certificate: PEM holds the whole chain"
                }
                None => "it is empty",
                _ => "it has no certificate",
            };
            return Err(invalid(why.to_owned()));
        };
        if first.public_key().raw != public_key {
            let why = "the first certificate is not for this CA's issuer key".to_owned();
            return Err(refused(
                why,
                "begin the file with the certificate that was made for this CA's own request, \
                 state/issuer.csr; then the CA's that signed it, and so on to the root",
            ));
        }
        for (number, pair) in (1..).zip(parsed.windows(2)) {
            if pair[0].issuer().as_raw() != pair[1].subject().as_raw() {
                let (issuer, next) = (pair[0].issuer(), pair[1].subject());
                return Err(invalid(format!(
                    "certificate {number} was issued by {issuer}, and certificate {} is of {next}",
                    number + 1
                )));
            }
        }
        if last.issuer().as_raw() != last.subject().as_raw() {
            let why = format!("it ends before a root: that of {} is missing", last.issuer());
            return Err(invalid(why));
        }
        if parsed.len() == 1 {
            return Err(invalid("the issuer certified itself".to_owned()));
        }
        last.verify_signature(None)
            .map_err(|_| invalid("the root's signature is not by its own key".to_owned()))?;
        let issuer = IssuerCertificate::from_der(&certificates[0])?;
        let above = certificates.split_off(1);
        Ok(Self { issuer, above })
    }

    /// The anchors that follow from it, the nearest first.
    pub(crate) fn anchors(&self) -> Vec<Anchor> {
        self.above.iter().map(|der| anchor(der)).collect()
    }

    /// Refuses what peers would refuse: every rule of theirs from a certificate of this CA, with the
    /// CA's own names, up to the root, of which a trust state with the anchors of this chain would
    /// make them believe.
    pub(crate) fn verify(
        &self,
        state: &TrustState,
        names: &[String],
        clock: &dyn Clock,
    ) -> Result<(), Error> {
        let [middle @ .., root] = &self.above[..] else {
            return Err(invalid("it ends before a root".to_owned()));
        };
        self.require_valid_root(root, clock)?;
        self.require_path_lengths()?;
        self.require_signers_ids(&state.trust_domain)?;
        // From the root alone: each certificate below it is looked at.
        let trust = Trust::new(TrustState { anchors: vec![anchor(root)], ..state.clone() })?;
        let middle = middle.iter().map(|der| CertificateDer::from(&der[..]));
        let issuers: Vec<_> =
            [CertificateDer::from(self.issuer.der())].into_iter().chain(middle).collect();
        let now = u64::try_from(clock.now().unix_timestamp()).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
        let (serial_number, nameless) = (fresh_serial_number(clock)?, Names::default());
        let domain = &state.trust_domain;
        let leaf = unsigned(&self.issuer, domain, &nameless, serial_number, clock.now())?;
        let leaf = CertificateDer::from(leaf);
        for usage in [Usage::Client, Usage::Server] {
            let believed = identity::verify_issuer(&leaf, &issuers, usage, now, &trust);
            believed.map_err(|refusal| {
                let why = format!("peers would refuse what is issued below it: {refusal}");
                refused(why, CERTIFIED_OTHERWISE)
            })?;
        }
        self.require_names(state, names)
    }

    /// Refuses where peers would refuse a certificate with these names.
    fn require_names(&self, state: &TrustState, names: &[String]) -> Result<(), Error> {
        let state = TrustState { anchors: self.anchors(), ..state.clone() };
        let issuer = Arc::new(IssuerCertificate::from_der(self.issuer.der())?);
        let Some(permitted) = PermittedNames::below(issuer, &state)? else { return Ok(()) };
        let (ip, dns): (Vec<_>, Vec<_>) =
            names.iter().partition(|name| name.parse::<IpAddr>().is_ok());
        let ip: Vec<IpAddr> = ip.into_iter().filter_map(|address| address.parse().ok()).collect();
        let dns: Vec<DnsName> =
            dns.into_iter().map(|name| DnsName::parse(name)).collect::<Result<_, _>>()?;
        permitted.refuse(&dns, &ip).map_err(|found| refused_name(&found))
    }

    /// X.509-SVID §2: the SPIFFE ID of a signing certificate has no path, and that of our issuer is
    /// the trust domain's. Our verifiers look at no SPIFFE ID but the end entity's; others may.
    fn require_signers_ids(&self, trust_domain: &TrustDomain) -> Result<(), Error> {
        let signers = [self.issuer.der()].into_iter().chain(self.above.iter().map(|der| &der[..]));
        for (number, der) in (1..).zip(signers) {
            let ids = uris(der).map_err(|why| invalid(format!("certificate {number}: {why}")))?;
            let is_ours = number == 1;
            let allowed = |uri: &String| match SpiffeId::parse(uri) {
                Ok(id) => id.path().is_empty() && (!is_ours || id.is_member_of(trust_domain)),
                Err(_) => !is_ours && !uri.to_ascii_lowercase().starts_with("spiffe:"),
            };
            if let Some(uri) = ids.iter().find(|uri| !allowed(uri)) {
                let wanted = match is_ours {
                    true => format!("{}, or none", trust_domain.id()),
                    false => "a SPIFFE ID without a path, or none".to_owned(),
                };
                let why = format!(
                    "certificate {number} has the URI name {uri}, and a signing certificate has \
                     {wanted} (X.509-SVID §2)"
                );
                return Err(refused(why, CERTIFIED_OTHERWISE));
            }
        }
        Ok(())
    }

    /// An anchor is believed whatever it says of its time; a root that is over is a mistake even so.
    fn require_valid_root(&self, root: &[u8], clock: &dyn Clock) -> Result<(), Error> {
        let parsed = X509Certificate::from_der(root);
        let (_, root) = parsed.map_err(|_| invalid("the root cannot be parsed".to_owned()))?;
        let (validity, now) = (root.validity(), clock.now());
        if now < validity.not_before.to_datetime() || now > validity.not_after.to_datetime() {
            let (from, until) = (validity.not_before, validity.not_after);
            let why = format!("the root is valid from {from} to {until} only");
            return Err(refused(why, CERTIFIED_OTHERWISE));
        }
        Ok(())
    }

    /// RFC 5280 §4.2.1.9, of an anchor, too: our verifiers do not look at what it says of itself,
    /// OpenSSL does.
    fn require_path_lengths(&self) -> Result<(), Error> {
        for (below, der) in (1_u32..).zip(&self.above) {
            let parsed = X509Certificate::from_der(der);
            let (_, ca) =
                parsed.map_err(|_| invalid("a certificate cannot be parsed".to_owned()))?;
            let constraints = ca.basic_constraints().ok().flatten().map(|it| it.value);
            let allowed = constraints.and_then(|it| it.path_len_constraint);
            if let Some(allowed) = allowed.filter(|allowed| *allowed < below) {
                let why = format!(
                    "peers would refuse what is issued below it: {} has path length {allowed}, and \
                     {below} CAs below it",
                    ca.subject()
                );
                return Err(refused(why, CERTIFIED_OTHERWISE));
            }
        }
        Ok(())
    }
}

fn anchor(der: &[u8]) -> Anchor {
    Anchor { certificate: Der::new(der), countersignature: Countersignature::Required }
}

/// The URI names of a certificate; why not, where they cannot be read.
fn uris(der: &[u8]) -> Result<Vec<String>, &'static str> {
    let (_, parsed) = X509Certificate::from_der(der).map_err(|_| "it cannot be parsed")?;
    let unread = "its subjectAltName cannot be read";
    let names = parsed.subject_alternative_name().map_err(|_| unread)?;
    let names = names.iter().flat_map(|extension| &extension.value.general_names);
    let mut uris = vec![];
    for name in names {
        match name {
            GeneralName::Invalid(..) => return Err(unread),
            GeneralName::URI(uri) => uris.push((*uri).to_owned()),
            _ => {}
        }
    }
    Ok(uris)
}

/// What keeps a file from being read, with what makes another of it.
fn unread(error: &PemError) -> Error {
    let step = match error {
        PemError::Text(fault) => format!(
            "{} FILE > chain.pem; then: countersign init --certificate chain.pem",
            fault.command()
        ),
        _ => {
            "copy it again, each block from its BEGIN to its END; then the same command".to_owned()
        }
    };
    refused(error.to_string(), step)
}

/// Windows exports a chain so, in an order of its own.
fn pkcs7(bytes: &[u8]) -> Error {
    let form = if is_pem(bytes) { "" } else { " -inform DER" };
    refused(
        "it is PKCS #7, and not PEM with a block for each certificate".to_owned(),
        format!(
            "`openssl pkcs7{form} -in FILE -print_certs -out chain.pem`; put the issuer's certificate \
             first in it, then the CA's that signed it, and so on to the root; then: countersign init \
             --certificate chain.pem"
        ),
    )
}

fn refused_name(found: &NotPermitted) -> Error {
    let NotPermitted { name, refusal, .. } = found;
    Error::Invalid {
        why: format!("peers would refuse the CA's own certificate, with the name {name}: {refusal}"),
        next_step: Some(
            "have state/issuer.csr certified with name constraints that permit each of `names` of the \
             configuration, or with none; or change `names`"
                .to_owned(),
        ),
    }
}

/// Where the file is not one chain.
fn invalid(why: String) -> Error {
    refused(
        why,
        "give one file: the issuer's certificate, then the CA's that signed it, and so on to the root",
    )
}

fn refused(why: String, next_step: impl Into<String>) -> Error {
    Error::Invalid { why, next_step: Some(next_step.into()) }
}

/// Where the file is one chain, and a certificate in it is not as peers want it.
const CERTIFIED_OTHERWISE: &str = "`countersign inspect FILE` shows the certificates; have state/issuer.csr certified as it is, as a CA (cA=true, path length 0, \
    keyCertSign and cRLSign, no extended key usage), below CAs that are valid and restrict it no further";

/// X.690 §8.9: how the DER of a certificate begins.
const SEQUENCE: u8 = 0x30;

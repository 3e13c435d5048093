//! The certificates by which a CA elsewhere certified our issuer, up to a root.
//!
//! Whether peers will believe what is issued below them is found out before anything is kept: by
//! [`identity::verify_issuer`], with a certificate that is made for it, signed by nobody, and dropped.
//! All CAs above the issuer become anchors. The nearest is the one that our verifiers end at; the
//! others are for software that wants a chain to end in a root.

use identity::{Anchor, Countersignature, Der, SpiffeId, Trust, TrustState, Usage, pem_blocks};
use issuance::{
    CommonName, EndEntity, IssuerCertificate, KeyType, Profile, ProfileConfig,
    RevocationInformation,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::clock::{Clock, fresh_serial_number};
use crate::error::Error;
use crate::signer::Signer;

/// A chain whose names and keys follow one another, from our issuer to a root.
#[derive(Debug)]
pub(crate) struct ParentChain {
    pub(crate) issuer: IssuerCertificate,
    /// The CA that certified it, the CA above that, and so on.
    above: Vec<Vec<u8>>,
}

impl ParentChain {
    /// Reads PEM: the issuer's certificate, for this key, then those above it in order.
    pub(crate) fn parse(text: &[u8], key: &dyn Signer) -> Result<Self, Error> {
        let blocks = pem_blocks(text).map_err(|error| invalid(error.to_string()))?;
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
                _ => "it has no certificate",
            };
            return Err(invalid(why.to_owned()));
        };
        if first.public_key().raw != key.public_key() {
            let why = "the first certificate is not for this CA's issuer key".to_owned();
            return Err(invalid(why));
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

    /// Refuses what peers would refuse: every rule of theirs from a certificate of this CA up to the
    /// root, of which a trust state with the anchors of this chain would make them believe.
    pub(crate) fn verify(&self, state: &TrustState, clock: &dyn Clock) -> Result<(), Error> {
        let [middle @ .., root] = &self.above[..] else {
            return Err(invalid("it ends before a root".to_owned()));
        };
        self.require_valid_root(root, clock)?;
        self.require_path_lengths()?;
        // From the root alone: each certificate below it is looked at.
        let trust = Trust::new(TrustState { anchors: vec![anchor(root)], ..state.clone() })?;
        let leaf = CertificateDer::from(self.unsigned(state, clock)?);
        let middle = middle.iter().map(|der| CertificateDer::from(&der[..]));
        let issuers: Vec<_> =
            [CertificateDer::from(self.issuer.der())].into_iter().chain(middle).collect();
        let now = u64::try_from(clock.now().unix_timestamp()).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
        for usage in [Usage::Client, Usage::Server] {
            identity::verify_issuer(&leaf, &issuers, usage, now, &trust).map_err(|refusal| {
                invalid(format!("peers would refuse what is issued below it: {refusal}"))
            })?;
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
            return Err(invalid(format!("the root is valid from {from} to {until} only")));
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
                return Err(invalid(format!(
                    "peers would refuse what is issued below it: {} has path length {allowed}, and \
                     {below} CAs below it",
                    ca.subject()
                )));
            }
        }
        Ok(())
    }

    /// A certificate as this CA would issue it, with no signature of its key.
    fn unsigned(&self, state: &TrustState, clock: &dyn Clock) -> Result<Vec<u8>, Error> {
        let profile = Profile::new(ProfileConfig {
            name: "of a parent's chain".to_owned(),
            validity: "5m".to_owned(),
            shortest: "5m".to_owned(),
            longest: "5m".to_owned(),
            key_types: vec![KeyType::EcdsaP256],
            common_name: CommonName::None,
            revocation: RevocationInformation::Crl,
        })?;
        let spiffe_id = SpiffeId::authority(&state.trust_domain);
        let prepared = profile.prepare(
            &EndEntity {
                spiffe_id: &spiffe_id,
                dns: &[],
                ip: &[],
                public_key: self.issuer.public_key(),
                key_type: KeyType::EcdsaP256,
                serial_number: fresh_serial_number(clock)?,
                validity: None,
                now: clock.now(),
                crl_url: None,
            },
            &self.issuer,
        );
        Ok(issuance::assemble(prepared?.der(), &[]))
    }
}

fn anchor(der: &[u8]) -> Anchor {
    Anchor { certificate: Der::new(der), countersignature: Countersignature::Required }
}

fn invalid(why: String) -> Error {
    Error::Invalid {
        why,
        next_step: Some(
            "give one file: the issuer's certificate, then the CA's that signed it, and so on to \
             the root"
                .to_owned(),
        ),
    }
}

/// X.690 §8.9: how the DER of a certificate begins.
const SEQUENCE: u8 = 0x30;

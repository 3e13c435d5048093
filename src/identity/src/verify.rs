//! The rules by which one workload believes another.

use std::collections::HashMap;
use std::sync::Arc;

use rustls_pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm,
    TrustAnchor, UnixTime,
};
use tlog::{CertificateLeaf, Hash, SignedCertificateTimestamp};
use webpki::aws_lc_rs as algorithms;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::error::Error;
use crate::refusal::{CountersignatureRule, Refusal, SvidRule};
use crate::revocations::Revocations;
use crate::serial_number::SerialNumber;
use crate::spiffe_id::SpiffeId;
use crate::trust_state::{Countersignature, CountersignatureKey, TrustState};

/// Verifies the chain that a peer presents (end entity first, no anchor needed) at a time.
///
/// In this order: a path to an anchor; the rules of an X.509-SVID; the trust domain; the
/// countersignature, by a key in use at its timestamp, over the leaf rebuilt with the issuer's key
/// *of the verified path*; no certificate of the path revoked. Costs three signature
/// verifications for a chain with one intermediate.
///
/// Which peers are welcome is the caller's question, asked of the [`VerifiedSvid`].
pub fn verify(
    chain: &[CertificateDer<'_>],
    usage: Usage,
    now: UnixTime,
    trust: &Trust,
    revocations: &Revocations,
) -> Result<VerifiedSvid, Refusal> {
    let (leaf, path) = path_of(chain, usage, now, trust)?;
    let certificate = parse(leaf)?;
    let serial_number = serial_number(&certificate)?;
    let spiffe_id = svid_rules(&certificate, usage)?;
    if !spiffe_id.is_member_of(&trust.state.trust_domain) {
        return Err(Refusal::UnknownTrustDomain(spiffe_id.trust_domain().to_string()));
    }
    let leaf_index = match path.countersignature {
        Countersignature::Required => {
            Some(trust.verify_countersignature(leaf, &path.issuer_spki, now)?)
        }
        // Such an anchor speaks for foreign trust domains; ours needs the second key.
        Countersignature::None => {
            let why = "its anchor has no log".to_owned();
            return Err(Refusal::NotCountersigned(CountersignatureRule::Absent(why)));
        }
    };
    let svid = VerifiedSvid {
        spiffe_id,
        serial_number,
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
        leaf_index,
        fingerprint: Hash::of(leaf),
        issuer_key_hash: Hash::of(&path.issuer_spki),
        issuers: path.serials.into(),
    };
    revocations.check_svid(&svid)?;
    Ok(svid)
}

/// Whether a path leads from a chain to an anchor: the first rule of [`verify`], alone.
///
/// For whoever tells a person which rules hold. Some of what [`Refusal::NotAnSvid`] says is found
/// before any path is looked for, some behind it; proves nothing else about the certificate.
pub fn leads_to_anchor(
    chain: &[CertificateDer<'_>],
    usage: Usage,
    now: UnixTime,
    trust: &Trust,
) -> Result<(), Refusal> {
    path_of(chain, usage, now, trust).map(drop)
}

/// The end entity of a chain, and its path to an anchor.
fn path_of<'a, 'b>(
    chain: &'a [CertificateDer<'b>],
    usage: Usage,
    now: UnixTime,
    trust: &Trust,
) -> Result<(&'a CertificateDer<'b>, Path), Refusal> {
    let (leaf, intermediates) = chain.split_first().ok_or(Refusal::NoCertificate)?;
    if intermediates.len() > MAX_INTERMEDIATES {
        let why = format!("more than {MAX_INTERMEDIATES} intermediates were sent");
        return Err(Refusal::UnknownAuthority(why));
    }
    Ok((leaf, verify_path(leaf, intermediates, usage, now, trust, ALGORITHMS)?))
}

/// Verifies the issuers above a certificate that nobody has signed yet, as [`verify`] would if its
/// signature, and its countersignature, were there.
///
/// For whoever is about to issue below them: what a certificate's own signature says is taken for
/// granted (it is put together with any, and ecdsa-with-SHA256 as its algorithm), every other rule
/// of the path to an anchor and of an X.509-SVID holds. Proves nothing about the certificate.
pub fn verify_issuer(
    unsigned: &CertificateDer<'_>,
    issuers: &[CertificateDer<'_>],
    usage: Usage,
    now: UnixTime,
    trust: &Trust,
) -> Result<(), Refusal> {
    let malformed = |_| Refusal::NotAnSvid(SvidRule::Malformed);
    let tbs = tlog::split_certificate(unsigned).map_err(malformed)?.tbs;
    let presumed = Presumed { tbs };
    let mut accepted: Vec<&dyn SignatureVerificationAlgorithm> = vec![&presumed];
    accepted.extend(ALGORITHMS);
    verify_path(unsigned, issuers, usage, now, trust, &accepted)?;
    let certificate = parse(unsigned)?;
    serial_number(&certificate)?;
    svid_rules(&certificate, usage).map(drop)
}

/// Takes one signature by a P-256 key for granted, and verifies every other.
#[derive(Debug)]
struct Presumed<'a> {
    tbs: &'a [u8],
}

impl SignatureVerificationAlgorithm for Presumed<'_> {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        match message == self.tbs {
            true => Ok(()),
            false => algorithms::ECDSA_P256_SHA256.verify_signature(public_key, message, signature),
        }
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        algorithms::ECDSA_P256_SHA256.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        algorithms::ECDSA_P256_SHA256.signature_alg_id()
    }
}

/// Which side of the handshake the peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// The peer is the client.
    Client,
    /// The peer is the server.
    Server,
}

/// What [`verify`] proves; only it makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedSvid {
    spiffe_id: SpiffeId,
    serial_number: SerialNumber,
    not_before: i64,
    not_after: i64,
    leaf_index: Option<u64>,
    fingerprint: Hash,
    issuer_key_hash: Hash,
    issuers: Arc<[SerialNumber]>,
}

impl VerifiedSvid {
    /// Who the peer is.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }
    /// The certificate's serial number.
    pub fn serial_number(&self) -> &SerialNumber {
        &self.serial_number
    }
    /// First second of validity, since 1970.
    pub fn not_before(&self) -> i64 {
        self.not_before
    }
    /// Last second of validity, since 1970.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }
    /// The certificate's place in the log; none below a foreign anchor.
    pub fn leaf_index(&self) -> Option<u64> {
        self.leaf_index
    }
    /// SHA-256 of the certificate: a cache key, never an identity (ECDSA is malleable).
    pub fn fingerprint(&self) -> &Hash {
        &self.fingerprint
    }
    /// SHA-256 of the issuer's SubjectPublicKeyInfo.
    pub fn issuer_key_hash(&self) -> &Hash {
        &self.issuer_key_hash
    }
    /// Serial numbers of the certificates between this one and its anchor, the nearest first.
    pub fn issuers(&self) -> &[SerialNumber] {
        &self.issuers
    }
}

impl Revocations {
    /// Refuses a verified peer that is revoked or denied, or below an issuer that is revoked.
    /// Costs a few look-ups: all that a new revocation can change of what was verified before. Whoever
    /// is [spared](Self::apply_but_for) is not refused for what is held back.
    pub fn check_svid(&self, svid: &VerifiedSvid) -> Result<(), Refusal> {
        let (id, serial_number, leaf_index) =
            (svid.spiffe_id(), svid.serial_number(), svid.leaf_index());
        if let Some(verdict) = self.check_spared(id, serial_number, leaf_index, svid.issuers()) {
            return verdict;
        }
        self.check(id, serial_number, leaf_index)?;
        let mut issuers = svid.issuers().iter();
        match issuers.find(|issuer| self.is_serial_revoked(issuer)) {
            Some(&serial_number) => Err(Refusal::Revoked { serial_number }),
            None => Ok(()),
        }
    }
}

/// A trust state made ready for verifying.
#[derive(Debug, Clone)]
pub struct Trust {
    state: TrustState,
    anchors: Vec<TrustAnchor<'static>>,
    anchor_spkis: Vec<Vec<u8>>,
    keys: HashMap<Hash, CountersignatureKey>,
}

impl Trust {
    /// Reads the anchors of a (verified) trust state; each must be a CA certificate.
    pub fn new(state: TrustState) -> Result<Self, Error> {
        let mut anchors = Vec::new();
        let mut anchor_spkis = Vec::new();
        for (position, anchor) in state.anchors.iter().enumerate() {
            let refuse = |why: &str| Error::Anchor { position, why: why.to_owned() };
            let der = CertificateDer::from(anchor.certificate.as_bytes());
            let certificate = parse(&der).map_err(|_| refuse("it is no certificate"))?;
            if !certificate.is_ca() {
                return Err(refuse("it is not a CA certificate"));
            }
            if !may_sign_certificates(&certificate) {
                return Err(refuse("its key usage is not to sign certificates"));
            }
            let prepared = webpki::anchor_from_trusted_cert(&der)
                .map_err(|error| refuse(&error.to_string()))?;
            anchor_spkis.push(certificate.public_key().raw.to_vec());
            anchors.push(prepared.to_owned());
        }
        let keys = state
            .countersignature_keys
            .iter()
            .map(|key| (tlog::log_id(key.key.as_bytes()), key.clone()))
            .collect();
        Ok(Self { state, anchors, anchor_spkis, keys })
    }

    /// The state it was made of.
    pub fn state(&self) -> &TrustState {
        &self.state
    }

    /// Verifies a certificate's countersignature and returns its place in the log.
    fn verify_countersignature(
        &self,
        der: &[u8],
        issuer_spki: &[u8],
        now: UnixTime,
    ) -> Result<u64, Refusal> {
        let refuse = Refusal::NotCountersigned;
        let (leaf, sct) = CertificateLeaf::from_certificate(der, issuer_spki)
            .map_err(|error| refuse(CountersignatureRule::Absent(error.to_string())))?;
        if sct.timestamp > now.as_secs().saturating_mul(1000).saturating_add(FUTURE_MILLISECONDS) {
            return Err(refuse(CountersignatureRule::Future));
        }
        let key = self.key_in_use(&sct).map_err(refuse)?;
        leaf.verify_countersignature(&sct, key.key.as_bytes())
            .map_err(|_| refuse(CountersignatureRule::Signature))?;
        Ok(leaf.leaf_index)
    }

    fn key_in_use(
        &self,
        sct: &SignedCertificateTimestamp,
    ) -> Result<&CountersignatureKey, CountersignatureRule> {
        let key = self.keys.get(&sct.log_id).ok_or(CountersignatureRule::UnknownKey)?;
        let retired = key.not_after.is_some_and(|not_after| sct.timestamp >= not_after);
        if sct.timestamp < key.not_before || retired {
            return Err(CountersignatureRule::KeyNotInUse);
        }
        Ok(key)
    }
}

/// What the rest of the verification needs of the path that webpki found.
struct Path {
    issuer_spki: Vec<u8>,
    serials: Vec<SerialNumber>,
    countersignature: Countersignature,
}

fn verify_path(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    usage: Usage,
    now: UnixTime,
    trust: &Trust,
    accepted: &[&dyn SignatureVerificationAlgorithm],
) -> Result<Path, Refusal> {
    let end_entity = webpki::EndEntityCert::try_from(leaf)
        .map_err(|_| Refusal::NotAnSvid(SvidRule::Malformed))?;
    let key_usage = match usage {
        Usage::Client => webpki::KeyUsage::client_auth(),
        Usage::Server => webpki::KeyUsage::server_auth(),
    };
    let path = end_entity
        .verify_for_usage(
            accepted,
            &trust.anchors,
            intermediates,
            now,
            key_usage,
            None,
            Some(&only_issuers),
        )
        .map_err(|error| explain(error, leaf, now, usage))?;
    let position = trust
        .anchors
        .iter()
        .position(|anchor| std::ptr::eq(anchor, path.anchor()))
        .expect("webpki ends a path in one of the anchors given");
    let mut issuer_spki = None;
    let mut serials = Vec::new();
    for intermediate in path.intermediate_certificates() {
        let der = intermediate.der();
        let certificate = parse(&der)?;
        serials.push(serial_number(&certificate)?);
        issuer_spki.get_or_insert_with(|| certificate.public_key().raw.to_vec());
    }
    Ok(Path {
        issuer_spki: issuer_spki.unwrap_or_else(|| trust.anchor_spkis[position].clone()),
        serials,
        countersignature: trust.state.anchors[position].countersignature,
    })
}

/// RFC 5280 §6.1.4 (n), which webpki leaves out; it then looks for another path.
fn only_issuers(path: &webpki::VerifiedPath<'_>) -> Result<(), webpki::Error> {
    path.intermediate_certificates().try_for_each(|intermediate| {
        let der = intermediate.der();
        let certificate = parse(&der).map_err(|_| webpki::Error::BadDer)?;
        may_sign_certificates(&certificate).then_some(()).ok_or(webpki::Error::EndEntityUsedAsCa)
    })
}

/// RFC 5280 §4.2.1.3: a CA whose certificate has a key usage has keyCertSign in it.
fn may_sign_certificates(certificate: &X509Certificate<'_>) -> bool {
    certificate.key_usage().is_ok_and(|usage| usage.is_none_or(|u| u.value.key_cert_sign()))
}

/// X509-SVID §2 to §4; returns the one SPIFFE ID.
fn svid_rules(certificate: &X509Certificate<'_>, usage: Usage) -> Result<SpiffeId, Refusal> {
    let refuse = |rule| Err(Refusal::NotAnSvid(rule));
    if certificate.is_ca() {
        return refuse(SvidRule::CertificateAuthority);
    }
    let key_usage = certificate.key_usage().ok().flatten().map(|extension| extension.value);
    if !key_usage.is_some_and(|u| u.digital_signature() && !u.key_cert_sign() && !u.crl_sign()) {
        return refuse(SvidRule::KeyUsage);
    }
    purpose(certificate, usage).map_err(Refusal::NotAnSvid)?;
    let spiffe_id = only_uri(certificate)?;
    if spiffe_id.path().is_empty() {
        return refuse(SvidRule::Path);
    }
    Ok(spiffe_id)
}

/// X509-SVID §4.4: the purpose that the peer's side needs.
fn purpose(certificate: &X509Certificate<'_>, usage: Usage) -> Result<(), SvidRule> {
    let extended = certificate.extended_key_usage().ok().flatten().map(|e| e.value);
    let present = extended.is_some_and(|extended| match usage {
        Usage::Client => extended.client_auth,
        Usage::Server => extended.server_auth,
    });
    if present { Ok(()) } else { Err(SvidRule::ExtendedKeyUsage(purpose_name(usage))) }
}

/// As RFC 5280 §4.2.1.12 names it.
fn purpose_name(usage: Usage) -> &'static str {
    match usage {
        Usage::Client => "clientAuth",
        Usage::Server => "serverAuth",
    }
}

/// X509-SVID §2: exactly one URI SAN. Raw names are counted, whatever they say.
fn only_uri(certificate: &X509Certificate<'_>) -> Result<SpiffeId, Refusal> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| Refusal::NotAnSvid(SvidRule::Malformed))?
        .map_or(&[][..], |extension| &extension.value.general_names);
    // Of a name whose bytes cannot be read, x509-parser does not say that it is a URI.
    if names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
        return Err(Refusal::NotAnSvid(SvidRule::Malformed));
    }
    let uris: Vec<&str> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    match uris[..] {
        [uri] => SpiffeId::parse(uri).map_err(|e| Refusal::NotAnSvid(SvidRule::SpiffeId(e))),
        _ => Err(Refusal::NotAnSvid(SvidRule::OneUri(uris.len()))),
    }
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Refusal> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(Refusal::NotAnSvid(SvidRule::Malformed)),
    }
}

fn serial_number(certificate: &X509Certificate<'_>) -> Result<SerialNumber, Refusal> {
    let octets = certificate.raw_serial();
    let negative = octets.first().is_none_or(|first| first & 0x80 != 0);
    SerialNumber::from_octets(octets)
        .ok()
        .filter(|_| !negative)
        .ok_or(Refusal::NotAnSvid(SvidRule::SerialNumber))
}

/// Turns webpki's error into ours: an expired *end entity* says so, whatever else is wrong.
fn explain(
    error: webpki::Error,
    leaf: &CertificateDer<'_>,
    now: UnixTime,
    usage: Usage,
) -> Refusal {
    let Ok(certificate) = parse(leaf) else {
        return Refusal::NotAnSvid(SvidRule::Malformed);
    };
    let now = now.as_secs() as i64;
    let validity = certificate.validity();
    match (&error, serial_number(&certificate)) {
        (webpki::Error::CertExpired { .. }, Ok(serial_number))
            if validity.not_after.timestamp() < now =>
        {
            Refusal::Expired { serial_number, not_after: validity.not_after.timestamp() }
        }
        (webpki::Error::CertNotValidYet { .. }, Ok(serial_number))
            if validity.not_before.timestamp() > now =>
        {
            Refusal::NotYetValid { serial_number, not_before: validity.not_before.timestamp() }
        }
        (webpki::Error::CaUsedAsEndEntity, _) => Refusal::NotAnSvid(SvidRule::CertificateAuthority),
        (webpki::Error::RequiredEkuNotFoundContext(_), _) => match purpose(&certificate, usage) {
            Err(rule) => Refusal::NotAnSvid(rule),
            Ok(()) => Refusal::UnknownAuthority(format!(
                "the extended key usage of a CA of the path has no {}",
                purpose_name(usage)
            )),
        },
        (webpki::Error::UnsupportedCriticalExtension, _) => Refusal::UnknownAuthority(
            "a certificate of the path has a critical extension that is not known here".to_owned(),
        ),
        _ => Refusal::UnknownAuthority(variant(&error)),
    }
}

/// What webpki calls it, without what it has beside the name: that is written for Rust.
fn variant(error: &webpki::Error) -> String {
    let told = error.to_string();
    let name = |c: char| !c.is_ascii_alphanumeric();
    told.split(name).next().unwrap_or_default().to_owned()
}

/// Ours is one; a stranger's maze of many costs path building some 100 ms, five of them 0.2 ms.
const MAX_INTERMEDIATES: usize = 5;
/// RFC 6962 §5.2: a timestamp in the future is refused; clocks differ by as much as certificates are
/// backdated.
const FUTURE_MILLISECONDS: u64 = 60_000;

const ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::ED25519,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
];

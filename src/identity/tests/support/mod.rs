//! A CA in memory, root → issuer → leaf, whose every rule a test can break.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

pub(crate) mod der;
pub(crate) mod feed;

use std::time::Duration;

use identity::{
    Anchor, Countersignature, CountersignatureKey, Der, LogKey, Refusal, Revocations, SerialNumber,
    SpiffeId, Trust, TrustDomain, TrustState, Usage, VerifiedSvid, verify,
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SigningKey,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;
use time::macros::datetime;
use tlog::{CertificateLeaf, Hash, SignedCertificateTimestamp};

use der::Tbs;

pub(crate) const NOW: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);
pub(crate) const NOW_MS: u64 = NOW.unix_timestamp() as u64 * 1000;
pub(crate) const NOT_BEFORE: OffsetDateTime = datetime!(2026-11-21 11:59 UTC);
pub(crate) const NOT_AFTER: OffsetDateTime = datetime!(2026-11-22 12:00 UTC);
pub(crate) const ID: &str = "spiffe://pay.example/prod/reports";
pub(crate) const LEAF_SERIAL: [u8; 4] = [0x4d, 1, 2, 3];
pub(crate) const ISSUER_SERIAL: [u8; 2] = [0x15, 1];
pub(crate) const LEAF_INDEX: u64 = 7;

/// A trust domain: root, issuer, log, and the trust state that names them.
pub(crate) struct Environment {
    pub(crate) root: Ca,
    pub(crate) issuer: Ca,
    pub(crate) log: KeyPair,
    pub(crate) leaf_key: KeyPair,
    pub(crate) state: TrustState,
    pub(crate) revocations: Revocations,
}

impl Environment {
    pub(crate) fn new() -> Self {
        let root = Ca::root("root");
        let issuer = root.certify("issuer", |_| {});
        let log = KeyPair::generate().unwrap();
        let leaf_key = KeyPair::generate().unwrap();
        let anchors = vec![root.anchor(Countersignature::Required)];
        let state = trust_state(anchors, &log.subject_public_key_info());
        Self { root, issuer, log, leaf_key, state, revocations: Revocations::default() }
    }

    /// A TBSCertificate of the issuer, flawless but for the edit, without countersignature.
    pub(crate) fn bare(&self, edit: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = leaf_params();
        edit(&mut params);
        self.issuer.tbs(&params, &self.leaf_key)
    }

    /// The log's countersignature over a bare TBSCertificate of the issuer.
    pub(crate) fn sct(&self, bare: &[u8]) -> SignedCertificateTimestamp {
        countersign(&self.log, &leaf_of(bare, &self.issuer))
    }

    /// A countersigned leaf, flawless but for the edit.
    pub(crate) fn issue(
        &self,
        edit: impl FnOnce(&mut CertificateParams),
    ) -> CertificateDer<'static> {
        self.finish(&self.bare(edit))
    }

    /// A countersigned leaf, flawless but for the edit of its bytes.
    pub(crate) fn issue_edited(&self, edit: impl FnOnce(&mut Tbs)) -> CertificateDer<'static> {
        let mut tbs = Tbs::parse(&self.bare(|_| {}));
        edit(&mut tbs);
        self.finish(&tbs.encode())
    }

    /// A flawless TBSCertificate with this countersignature, signed by the issuer.
    pub(crate) fn issue_with(&self, sct: &SignedCertificateTimestamp) -> CertificateDer<'static> {
        self.issuer.sign(&tlog::splice_in(&self.bare(|_| {}), sct).unwrap())
    }

    /// Countersigns a bare TBSCertificate and signs it.
    pub(crate) fn finish(&self, bare: &[u8]) -> CertificateDer<'static> {
        self.issuer.sign(&tlog::splice_in(bare, &self.sct(bare)).unwrap())
    }

    /// Verifies a leaf with the issuer's certificate behind it, as a client's, now.
    pub(crate) fn verify(&self, leaf: &CertificateDer<'_>) -> Result<VerifiedSvid, Refusal> {
        self.verify_chain(&[leaf.clone(), self.issuer.der.clone()])
    }

    pub(crate) fn verify_chain(
        &self,
        chain: &[CertificateDer<'_>],
    ) -> Result<VerifiedSvid, Refusal> {
        self.verify_as(Usage::Client, NOW, chain)
    }

    pub(crate) fn verify_at(
        &self,
        now: OffsetDateTime,
        leaf: &CertificateDer<'_>,
    ) -> Result<VerifiedSvid, Refusal> {
        self.verify_as(Usage::Client, now, &[leaf.clone(), self.issuer.der.clone()])
    }

    pub(crate) fn verify_as(
        &self,
        usage: Usage,
        now: OffsetDateTime,
        chain: &[CertificateDer<'_>],
    ) -> Result<VerifiedSvid, Refusal> {
        let now = Duration::from_secs(now.unix_timestamp() as u64);
        let now = UnixTime::since_unix_epoch(now);
        verify(chain, usage, now, &self.trust(), &self.revocations)
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::new(self.state.clone()).unwrap()
    }
}

/// A CA key with its certificate.
pub(crate) struct Ca {
    pub(crate) key: KeyPair,
    pub(crate) der: CertificateDer<'static>,
    params: CertificateParams,
}

impl Ca {
    pub(crate) fn root(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = ca_params(name);
        let der = params.self_signed(&key).unwrap().der().clone();
        Self { key, der, params }
    }

    /// A CA below this one, flawless but for the edit.
    pub(crate) fn certify(&self, name: &str, edit: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = ca_params(name);
        edit(&mut params);
        let der = self.sign(&self.tbs(&params, &key));
        Self { key, der, params }
    }

    /// What this CA would sign.
    pub(crate) fn tbs(&self, params: &CertificateParams, subject: &KeyPair) -> Vec<u8> {
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(subject, &issuer).unwrap();
        tlog::split_certificate(certificate.der()).unwrap().tbs.to_vec()
    }

    /// Signs a TBSCertificate, whatever it says.
    pub(crate) fn sign(&self, tbs: &[u8]) -> CertificateDer<'static> {
        let signature = self.key.sign(tbs).unwrap();
        tlog::join_certificate(tbs, ECDSA_WITH_SHA256, &signature).into()
    }

    pub(crate) fn spki(&self) -> Vec<u8> {
        self.key.subject_public_key_info()
    }

    pub(crate) fn anchor(&self, countersignature: Countersignature) -> Anchor {
        Anchor { certificate: Der::new(self.der.to_vec()), countersignature }
    }
}

/// The leaf that a bare TBSCertificate below `issuer` becomes in the log.
pub(crate) fn leaf_of(bare: &[u8], issuer: &Ca) -> CertificateLeaf {
    CertificateLeaf {
        timestamp: NOW_MS,
        issuer_key_hash: Hash::of(&issuer.spki()),
        tbs_certificate: bare.to_vec(),
        leaf_index: LEAF_INDEX,
    }
}

pub(crate) fn countersign(log: &KeyPair, leaf: &CertificateLeaf) -> SignedCertificateTimestamp {
    SignedCertificateTimestamp {
        log_id: tlog::log_id(&log.subject_public_key_info()),
        timestamp: leaf.timestamp,
        leaf_index: leaf.leaf_index,
        signature: log.sign(&leaf.encode().unwrap()).unwrap(),
    }
}

/// A trust state of `pay.example`, as if verified.
pub(crate) fn trust_state(anchors: Vec<Anchor>, log_spki: &[u8]) -> TrustState {
    TrustState {
        v: 1,
        trust_domain: TrustDomain::parse("pay.example").unwrap(),
        sequence: 1,
        anchors,
        countersignature_keys: vec![CountersignatureKey {
            key: Der::new(log_spki),
            not_before: 0,
            not_after: None,
        }],
        log: LogKey { origin: "pay.example/log".to_owned(), key: String::new() },
        feed_keys: vec![],
        trust_keys: vec![],
        threshold: 1,
    }
}

/// What a flawless leaf says.
pub(crate) fn leaf_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.serial_number = Some(LEAF_SERIAL.to_vec().into());
    (params.not_before, params.not_after) = (NOT_BEFORE, NOT_AFTER);
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(ID)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.serial_number = Some(ISSUER_SERIAL.to_vec().into());
    params.not_before = NOW - time::Duration::days(30);
    params.not_after = NOW + time::Duration::days(30);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![uri("spiffe://pay.example")];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub(crate) fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

pub(crate) fn id() -> SpiffeId {
    SpiffeId::parse(ID).unwrap()
}

pub(crate) fn serial(octets: &[u8]) -> SerialNumber {
    SerialNumber::from_octets(octets).unwrap()
}

const ECDSA_WITH_SHA256: &[u8] =
    &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

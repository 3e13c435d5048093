//! A CA for tests: root, issuer, log key and trust key, all in memory.

use std::sync::{Arc, OnceLock};

use api::{IssuedCertificate, RenewalWindow};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::{SystemRandom, fill};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use countersign::Credentials;
use identity::feed::{Content, Envelope, Message, Position, Snapshot, SnapshotHead, signed_text};
use identity::{
    Anchor, Countersignature, CountersignatureKey, Der, LogKey, SerialNumber, SpiffeId, Trust,
    TrustDomain, TrustPin, TrustState,
};
use issuance::{
    CaCertificate, CertificateRequest, CommonName, EndEntity, IssuerCertificate, KeyType, Profile,
    ProfileConfig, RevocationInformation, assemble, prepare_issuer, prepare_root, serial_number,
};
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use time::{Duration, OffsetDateTime};
use tlog::{
    CertificateLeaf, Checkpoint, Hash, SignedCertificateTimestamp, SignedNote, VerifierKey,
};

/// Everything that signs in one trust domain.
pub(crate) struct TestAuthority {
    trust_domain: TrustDomain,
    root: EcdsaKeyPair,
    root_certificate: IssuerCertificate,
    issuer: EcdsaKeyPair,
    issuer_certificate: IssuerCertificate,
    log: EcdsaKeyPair,
    trust: EcdsaKeyPair,
    feed: Ed25519KeyPair,
    /// Signed once: heartbeats name it by its hash.
    trust_note: OnceLock<Vec<u8>>,
}

/// A chain and its key.
pub(crate) struct TestSvid {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) serial_number: SerialNumber,
}

#[derive(Clone, Copy)]
pub(crate) enum Log {
    Asked,
    NotAsked,
}

impl TestAuthority {
    pub(crate) fn new() -> Self {
        let trust_domain = TrustDomain::parse("pay.example").unwrap();
        let (root, issuer, log, trust) = (key(), key(), key(), key());
        let root_certificate = {
            let public_key = spki(&root);
            let tbs = prepare_root(&ca(&trust_domain, &public_key, Duration::days(300))).unwrap();
            certificate(&root, &tbs)
        };
        let root_certificate = IssuerCertificate::from_der(&root_certificate).unwrap();
        let until = Duration::days(90);
        let issuer_certificate =
            issuer_certificate(&trust_domain, &issuer, until, &root, &root_certificate);
        let feed = Ed25519KeyPair::generate().unwrap();
        Self {
            trust_domain,
            root,
            root_certificate,
            issuer,
            issuer_certificate,
            log,
            trust,
            feed,
            trust_note: OnceLock::new(),
        }
    }

    pub(crate) fn id(&self, path: &str) -> SpiffeId {
        SpiffeId::new(&self.trust_domain, path).unwrap()
    }

    /// A good SVID, valid for 24 h.
    pub(crate) fn svid(&self, path: &str) -> TestSvid {
        self.svid_at(path, now(), Log::Asked)
    }

    /// The SVID of the CA itself.
    pub(crate) fn own_svid(&self) -> TestSvid {
        self.svid("/countersign/authority")
    }

    /// An SVID issued at a time, with or without the log.
    pub(crate) fn svid_at(&self, path: &str, at: OffsetDateTime, log: Log) -> TestSvid {
        let subject = key();
        let (chain, serial_number) = self.chain_at(path, &spki(&subject), at, log);
        let pkcs8 = subject.to_pkcs8v1().unwrap().as_ref().to_vec();
        TestSvid { chain, key: PrivatePkcs8KeyDer::from(pkcs8).into(), serial_number }
    }

    /// A good certificate for the key of a request, and what the CA says of it.
    pub(crate) fn issue(&self, csr: &str, path: &str, at: OffsetDateTime) -> IssuedCertificate {
        let request = CertificateRequest::parse_pem(csr).unwrap();
        let (chain, serial_number) = self.chain_at(path, request.public_key(), at, Log::Asked);
        let (not_before, not_after) = (at - Duration::minutes(1), at + Duration::hours(24));
        let due = at + Duration::hours(1);
        IssuedCertificate {
            spiffe_id: self.id(path),
            serial_number,
            chain: chain.iter().map(|der| identity::pem("CERTIFICATE", der)).collect(),
            not_before,
            not_after,
            renewal: RenewalWindow { start: due, end: due },
            log_index: 7,
            trust_sequence: 1,
        }
    }

    fn chain_at(
        &self,
        path: &str,
        public_key: &[u8],
        at: OffsetDateTime,
        log: Log,
    ) -> (Vec<CertificateDer<'static>>, SerialNumber) {
        let serial_number = random_serial_number();
        let prepared = profile().prepare(
            &EndEntity {
                spiffe_id: &self.id(path),
                dns: &[],
                ip: &[],
                public_key,
                key_type: KeyType::EcdsaP256,
                serial_number,
                validity: None,
                now: at,
                crl_url: None,
            },
            &self.issuer_certificate,
        );
        let prepared = prepared.unwrap();
        let tbs = match log {
            Log::Asked => tlog::splice_in(prepared.der(), &self.countersign(prepared.der(), at)),
            Log::NotAsked => Ok(prepared.der().to_vec()),
        };
        let end_entity = certificate(&self.issuer, &tbs.unwrap());
        let chain = vec![end_entity.into(), self.issuer_certificate.der().to_vec().into()];
        (chain, serial_number)
    }

    /// An SVID that is flawless but for an edit, made past all lints, as by a thief of the CA key;
    /// `sct` countersigns the bytes that it is given, or others.
    pub(crate) fn flawed_svid(
        &self,
        path: &str,
        edit: impl FnOnce(&mut CertificateParams),
        sct: impl FnOnce(&Self, &[u8]) -> Option<SignedCertificateTimestamp>,
    ) -> TestSvid {
        let pkcs8 = |key: &EcdsaKeyPair| key.to_pkcs8v1().unwrap().as_ref().to_vec();
        let rcgen_key = |pkcs8: &[u8]| KeyPair::try_from(pkcs8).unwrap();
        let subject = pkcs8(&key());
        let serial_number = random_serial_number();
        let mut params = CertificateParams::default();
        params.serial_number = Some(serial_number.as_octets().to_vec().into());
        params.not_before = now() - Duration::minutes(1);
        params.not_after = now() + Duration::hours(24);
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri(self.id(path).as_str())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        edit(&mut params);
        let issuer = self.issuer_certificate.der().to_vec().into();
        let issuer = Issuer::from_ca_cert_der(&issuer, rcgen_key(&pkcs8(&self.issuer))).unwrap();
        let draft = params.signed_by(&rcgen_key(&subject), &issuer).unwrap();
        let bare = tlog::split_certificate(draft.der()).unwrap().tbs.to_vec();
        let tbs = match sct(self, &bare) {
            Some(sct) => tlog::splice_in(&bare, &sct).unwrap(),
            None => bare,
        };
        TestSvid {
            chain: vec![
                certificate(&self.issuer, &tbs).into(),
                self.issuer_certificate.der().to_vec().into(),
            ],
            key: PrivatePkcs8KeyDer::from(subject).into(),
            serial_number,
        }
    }

    /// The log's honest answer to these bytes.
    pub(crate) fn sct(&self, bare: &[u8]) -> Option<SignedCertificateTimestamp> {
        Some(self.countersign(bare, now()))
    }

    /// Another certificate of the same issuer key, that ends sooner.
    pub(crate) fn short_issuer(&self, until: Duration) -> CertificateDer<'static> {
        let (root, above) = (&self.root, &self.root_certificate);
        let short = issuer_certificate(&self.trust_domain, &self.issuer, until, root, above);
        short.der().to_vec().into()
    }

    pub(crate) fn issuer_serial_number(&self) -> SerialNumber {
        *self.issuer_certificate.serial_number()
    }

    pub(crate) fn trust(&self) -> Trust {
        self.trust_with(|_| {})
    }

    /// The trust but for an edit.
    pub(crate) fn trust_with(&self, edit: impl FnOnce(&mut TrustState)) -> Trust {
        let mut state = self.trust_state();
        edit(&mut state);
        Trust::new(state).unwrap()
    }

    pub(crate) fn pin(&self) -> TrustPin {
        self.trust_state().pin()
    }

    pub(crate) fn trust_note(&self) -> Vec<u8> {
        self.trust_note.get_or_init(|| self.trust_note_with(|_| {})).clone()
    }

    /// The signed trust state but for an edit.
    pub(crate) fn trust_note_with(&self, edit: impl FnOnce(&mut TrustState)) -> Vec<u8> {
        let mut state = self.trust_state();
        edit(&mut state);
        let text = state.text();
        let name = TrustState::signer_name(&self.trust_domain);
        let id = tlog::ecdsa_key_id(&spki(&self.trust));
        let note = SignedNote::unsigned(&text).unwrap();
        note.with_signature(&name, id, &sign(&self.trust, text.as_bytes())).unwrap().encode()
    }

    /// A line of the feed, at a position, signed now.
    pub(crate) fn feed_line(&self, position: Position, content: Content) -> Vec<u8> {
        self.feed_line_at(UnixTime::now(), position, content)
    }

    /// A snapshot's head and its chunks, each a line of its own event.
    pub(crate) fn snapshot(&self, position: Position, snapshot: Snapshot) -> Vec<u8> {
        self.snapshot_at(UnixTime::now(), position, snapshot)
    }

    /// The same, signed at another time.
    pub(crate) fn snapshot_at(
        &self,
        at: UnixTime,
        position: Position,
        snapshot: Snapshot,
    ) -> Vec<u8> {
        let chunks = snapshot.chunks();
        let head = Content::Snapshot(SnapshotHead::of(&chunks));
        let mut lines = vec![self.feed_line_at(at, position, head)];
        lines.extend(chunks);
        lines.join(&b"\n\ndata: "[..])
    }

    /// A message, signed at another time.
    pub(crate) fn feed_line_at(
        &self,
        at: UnixTime,
        position: Position,
        content: Content,
    ) -> Vec<u8> {
        let Position { sequence, hash } = position;
        let (v, trust_domain) = (Message::VERSION, self.trust_domain.clone());
        let at = at.as_secs() * 1000;
        let body = Message { v, trust_domain, at, sequence, hash, content }.body();
        let signature = self.feed.sign(signed_text(&self.trust_domain, &body).as_bytes());
        Envelope::new(&self.feed_key(), signature.as_ref(), body).encode()
    }

    /// A checkpoint, signed by the log's key: here it is the feed's.
    pub(crate) fn checkpoint(&self, size: u64) -> String {
        let key = self.checkpoint_key();
        let (origin, root) = (key.name().to_owned(), Hash::new([7; 32]));
        let text = Checkpoint { origin, size, root }.text();
        let signature = self.feed.sign(text.as_bytes());
        let note = SignedNote::unsigned(text).unwrap();
        let note = note.with_signature(key.name(), key.key_id(), signature.as_ref()).unwrap();
        String::from_utf8(note.encode()).unwrap()
    }

    fn checkpoint_key(&self) -> VerifierKey {
        let key = self.feed.public_key().as_ref().try_into().unwrap();
        VerifierKey::ed25519(format!("{}/log", self.trust_domain), &key).unwrap()
    }

    fn feed_key(&self) -> Vec<u8> {
        let der: PublicKeyX509Der<'_> = self.feed.public_key().as_der().unwrap();
        der.as_ref().to_vec()
    }

    fn trust_state(&self) -> TrustState {
        let checkpoint_key = self.checkpoint_key();
        TrustState {
            v: 1,
            trust_domain: self.trust_domain.clone(),
            sequence: 1,
            anchors: vec![Anchor {
                certificate: Der::new(self.root_certificate.der()),
                countersignature: Countersignature::Required,
            }],
            countersignature_keys: vec![CountersignatureKey {
                key: Der::new(spki(&self.log)),
                not_before: 0,
                not_after: None,
            }],
            log: LogKey {
                origin: checkpoint_key.name().to_owned(),
                key: checkpoint_key.to_string(),
            },
            feed_keys: vec![Der::new(self.feed_key())],
            trust_keys: vec![Der::new(spki(&self.trust))],
            threshold: 1,
        }
    }

    fn countersign(&self, tbs: &[u8], at: OffsetDateTime) -> SignedCertificateTimestamp {
        let leaf = CertificateLeaf {
            timestamp: (at.unix_timestamp() * 1000) as u64,
            issuer_key_hash: Hash::of(self.issuer_certificate.public_key()),
            tbs_certificate: tbs.to_vec(),
            leaf_index: 7,
        };
        SignedCertificateTimestamp {
            log_id: tlog::log_id(&spki(&self.log)),
            timestamp: leaf.timestamp,
            leaf_index: leaf.leaf_index,
            signature: sign(&self.log, &leaf.encode().unwrap()),
        }
    }
}

impl TestSvid {
    /// The same chain and key once more.
    pub(crate) fn again(&self) -> Self {
        let (chain, key) = (self.chain.clone(), self.key.clone_key());
        Self { chain, key, serial_number: self.serial_number }
    }

    pub(crate) fn credentials(self) -> Arc<Credentials> {
        Credentials::new(self.chain, self.key).unwrap()
    }
}

pub(crate) fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(UnixTime::now().as_secs() as i64).unwrap()
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn issuer_certificate(
    trust_domain: &TrustDomain,
    issuer: &EcdsaKeyPair,
    until: Duration,
    root: &EcdsaKeyPair,
    root_certificate: &IssuerCertificate,
) -> IssuerCertificate {
    let public_key = spki(issuer);
    let tbs = prepare_issuer(&ca(trust_domain, &public_key, until), root_certificate).unwrap();
    IssuerCertificate::from_der(&certificate(root, &tbs)).unwrap()
}

fn ca<'a>(
    trust_domain: &'a TrustDomain,
    public_key: &'a [u8],
    until: Duration,
) -> CaCertificate<'a> {
    CaCertificate {
        trust_domain,
        common_name: "test",
        public_key,
        serial_number: random_serial_number(),
        not_before: now() - Duration::days(30),
        not_after: now() + until,
    }
}

fn profile() -> Profile {
    let config = ProfileConfig {
        name: "default".into(),
        validity: "24h".into(),
        shortest: "5m".into(),
        longest: "7d".into(),
        key_types: vec![KeyType::EcdsaP256],
        common_name: CommonName::None,
        revocation: RevocationInformation::Crl,
    };
    Profile::new(config).unwrap()
}

fn certificate(key: &EcdsaKeyPair, tbs: &[u8]) -> Vec<u8> {
    assemble(tbs, &sign(key, tbs))
}

fn sign(key: &EcdsaKeyPair, message: &[u8]) -> Vec<u8> {
    key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
}

fn key() -> EcdsaKeyPair {
    EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap()
}

fn spki(key: &EcdsaKeyPair) -> Vec<u8> {
    let der: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
    der.as_ref().to_vec()
}

fn random_serial_number() -> SerialNumber {
    let mut random = [0; 14];
    fill(&mut random).unwrap();
    serial_number(UnixTime::now().as_secs() * 1000, random)
}

//! A CA for tests: all keys in memory, and faults on demand.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration as StdDuration;

use api::{
    Attestation, CertificateRecord, CertificateState, IssueRequest, IssuedCertificate, Page,
    Problem, ProblemType, RenewalWindow,
};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use countersign::Peer;
use data_encoding::BASE64;
use identity::{
    Anchor, Countersignature, CountersignatureKey, Der, LogKey, SerialNumber, SpiffeId, Trust,
    TrustDomain, TrustPin, TrustState,
};
use issuance::{
    CaCertificate, CertificateRequest, CommonName, DnsName, EndEntity, IssuerCertificate, KeyType,
    Profile, ProfileConfig, RevocationInformation, RevocationList, assemble, prepare_crl,
    prepare_issuer, prepare_root, serial_number,
};
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use rustls_pki_types::UnixTime;
use time::{Duration, OffsetDateTime};
use tlog::{
    CertificateLeaf, Checkpoint, Hash, SignedCertificateTimestamp, SignedNote, VerifierKey,
};

/// What goes wrong with the next request for a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails and nothing is persisted.
    Unavailable,
    /// It is issued and persisted, but the answer is lost.
    AnswerLost,
    /// The CA's node is in the wrong hands: it asks no log.
    NotCountersigned,
    /// Policy says no.
    Denied,
}

/// What the log has to do with a certificate.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Log {
    /// It countersigned it.
    Asked,
    /// It countersigned another one.
    AskedForAnother,
    /// Nothing.
    NotAsked,
}

/// Everything that signs, and what was signed.
pub(crate) struct TestAuthority {
    trust_domain: TrustDomain,
    issuer: KeyPair,
    issuer_certificate: IssuerCertificate,
    root_certificate: Vec<u8>,
    log: KeyPair,
    checkpoints: KeyPair,
    trust: KeyPair,
    state: Mutex<Issued>,
}

#[derive(Default)]
struct Issued {
    fault: Option<Fault>,
    by_request: HashMap<Hash, IssuedCertificate>,
    pull_forward: bool,
    sequence: u64,
    forged_trust: bool,
    log_size: u64,
    shown: Option<String>,
    log_key_retired_at: Option<OffsetDateTime>,
}

impl TestAuthority {
    pub(crate) fn new() -> Arc<Self> {
        let trust_domain = TrustDomain::parse("pay.example").unwrap();
        let [root, issuer, log, trust] = std::array::from_fn(|_| KeyPair::generate().unwrap());
        let root_certificate =
            certificate(&root, &prepare_root(&ca(&trust_domain, &spki(&root), 300)).unwrap());
        let above = IssuerCertificate::from_der(&root_certificate).unwrap();
        let tbs = prepare_issuer(&ca(&trust_domain, &spki(&issuer), 90), &above).unwrap();
        let issuer_certificate = IssuerCertificate::from_der(&certificate(&root, &tbs)).unwrap();
        let checkpoints = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let state = Mutex::new(Issued { sequence: 1, log_size: 100, ..Issued::default() });
        Arc::new(Self {
            trust_domain,
            issuer,
            issuer_certificate,
            root_certificate,
            log,
            checkpoints,
            trust,
            state,
        })
    }

    /// The next request for a certificate meets this.
    pub(crate) fn fail_next(&self, fault: Fault) {
        self.state.lock().unwrap().fault = Some(fault);
    }

    /// Renewal windows are over.
    pub(crate) fn pull_windows_forward(&self) {
        self.state.lock().unwrap().pull_forward = true;
    }

    /// Renewal windows are those of issue again.
    pub(crate) fn leave_windows(&self) {
        self.state.lock().unwrap().pull_forward = false;
    }

    /// Signs a newer trust state.
    pub(crate) fn advance_trust(&self) {
        self.state.lock().unwrap().sequence += 1;
    }

    /// The log key countersigned nothing that counts since some hours ago.
    pub(crate) fn retire_log_key(&self, hours_ago: i64) {
        self.state.lock().unwrap().log_key_retired_at = Some(now() - Duration::hours(hours_ago));
    }

    /// From now on, whoever asks for the trust state gets one that a thief of the URL made up.
    pub(crate) fn forge_trust(&self) {
        self.state.lock().unwrap().forged_trust = true;
    }

    /// From now on the log has so many entries.
    #[allow(dead_code, reason = "each test file uses its own part")]
    pub(crate) fn set_log_size(&self, entries: u64) {
        self.state.lock().unwrap().log_size = entries;
    }

    /// The checkpoint that came with the last question for one, a signed note.
    #[allow(dead_code, reason = "each test file uses its own part")]
    pub(crate) fn shown(&self) -> Option<String> {
        self.state.lock().unwrap().shown.clone()
    }

    /// The newest checkpoint, a signed note.
    pub(crate) fn checkpoint(&self) -> Vec<u8> {
        let size = self.state.lock().unwrap().log_size;
        let origin = format!("{}/log", self.trust_domain);
        let checkpoint =
            Checkpoint { origin: origin.clone(), size, root: Hash::of(&size.to_be_bytes()) };
        let text = checkpoint.text();
        let id = tlog::ed25519_key_id(&origin, &self.checkpoint_key());
        let signature = self.checkpoints.sign(text.as_bytes()).unwrap();
        let note = SignedNote::unsigned(&text).unwrap();
        note.with_signature(&origin, id, &signature).unwrap().encode()
    }

    fn checkpoint_key(&self) -> [u8; 32] {
        self.checkpoints.public_key_raw().try_into().unwrap()
    }

    /// How many different requests were answered with a certificate.
    pub(crate) fn issued(&self) -> usize {
        self.state.lock().unwrap().by_request.len()
    }

    /// Chain and key of an SVID issued some hours ago, valid for 48 h, both PEM.
    pub(crate) fn svid(&self, path: &str, hours_ago: i64) -> (String, String) {
        self.svid_by(path, hours_ago, Log::Asked)
    }

    /// The same, countersigned or not.
    pub(crate) fn svid_by(&self, path: &str, hours_ago: i64, log: Log) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let id = SpiffeId::new(&self.trust_domain, path).unwrap();
        let at = now() - Duration::hours(hours_ago);
        let (_, chain) = self.sign_chain(&id, &[], &spki(&key), at, VALIDITY, log);
        (chain, key.serialize_pem())
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::new(self.trust_state()).unwrap()
    }

    pub(crate) fn pin(&self) -> TrustPin {
        self.trust_state().pin()
    }

    pub(crate) fn trust_note(&self) -> Vec<u8> {
        self.signed_trust(&self.trust_state(), &self.trust)
    }

    /// What the CA answers: its trust state, or the next one by a key that is not its own.
    fn served_trust_note(&self) -> Vec<u8> {
        let forged = self.state.lock().unwrap().forged_trust;
        if !forged {
            return self.trust_note();
        }
        let state = self.trust_state();
        let next = TrustState { sequence: state.sequence + 1, ..state };
        self.signed_trust(&next, &KeyPair::generate().unwrap())
    }

    fn signed_trust(&self, state: &TrustState, key: &KeyPair) -> Vec<u8> {
        let text = state.text();
        let name = TrustState::signer_name(&self.trust_domain);
        let id = tlog::ecdsa_key_id(&spki(key));
        let signature = key.sign(text.as_bytes()).unwrap();
        let note = SignedNote::unsigned(&text).unwrap();
        note.with_signature(&name, id, &signature).unwrap().encode()
    }

    fn trust_state(&self) -> TrustState {
        let origin = format!("{}/log", self.trust_domain);
        let key = VerifierKey::ed25519(&origin, &self.checkpoint_key()).unwrap().to_string();
        let (sequence, retired_at) = {
            let state = self.state.lock().unwrap();
            (state.sequence, state.log_key_retired_at)
        };
        TrustState {
            v: 1,
            trust_domain: self.trust_domain.clone(),
            sequence,
            anchors: vec![Anchor {
                certificate: Der::new(self.root_certificate.clone()),
                countersignature: Countersignature::Required,
            }],
            countersignature_keys: vec![CountersignatureKey {
                key: Der::new(spki(&self.log)),
                not_before: 0,
                not_after: retired_at.map(milliseconds),
            }],
            log: LogKey { origin, key },
            feed_keys: vec![],
            trust_keys: vec![Der::new(spki(&self.trust))],
            threshold: 1,
        }
    }

    fn issue(&self, request: &IssueRequest, log: Log) -> IssuedCertificate {
        let csr = CertificateRequest::parse_pem(&request.csr).unwrap();
        if let Some(issued) = self.state.lock().unwrap().by_request.get(csr.hash()) {
            return issued.clone();
        }
        let spiffe_id = request.spiffe_id.clone().unwrap();
        let dns = &csr.names().dns;
        let validity = request.ttl.map_or(StdDuration::from_secs(24 * 3600), |ttl| ttl.0);
        let (serial_number, chain) =
            self.sign_chain(&spiffe_id, dns, csr.public_key(), now(), validity, log);
        let mut state = self.state.lock().unwrap();
        let issued = IssuedCertificate {
            spiffe_id,
            serial_number,
            chain,
            not_before: now() - Duration::minutes(1),
            not_after: now() + validity,
            renewal: RenewalWindow {
                start: now() + Duration::hours(12),
                end: now() + Duration::hours(16),
            },
            log_index: 7,
            trust_sequence: state.sequence,
        };
        state.by_request.insert(*csr.hash(), issued.clone());
        issued
    }

    fn sign_chain(
        &self,
        spiffe_id: &SpiffeId,
        dns: &[DnsName],
        public_key: &[u8],
        at: OffsetDateTime,
        validity: StdDuration,
        log: Log,
    ) -> (SerialNumber, String) {
        let end_entity = EndEntity {
            spiffe_id,
            dns,
            ip: &[],
            public_key,
            key_type: KeyType::EcdsaP256,
            serial_number: random_serial_number(),
            validity: Some(validity),
            now: at,
            crl_url: None,
        };
        let prepared = profile().prepare(&end_entity, &self.issuer_certificate).unwrap();
        let tbs = match log {
            Log::Asked => {
                tlog::splice_in(prepared.der(), &self.countersign(prepared.der(), at)).unwrap()
            }
            Log::AskedForAnother => {
                let another = EndEntity { serial_number: random_serial_number(), ..end_entity };
                let another = profile().prepare(&another, &self.issuer_certificate).unwrap();
                tlog::splice_in(prepared.der(), &self.countersign(another.der(), at)).unwrap()
            }
            Log::NotAsked => prepared.der().to_vec(),
        };
        let chain = [certificate(&self.issuer, &tbs), self.issuer_certificate.der().to_vec()];
        let pem = chain.map(|der| {
            format!(
                "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
                BASE64.encode(&der)
            )
        });
        (end_entity.serial_number, pem.concat())
    }

    /// A CRL that ends in so many hours, PEM.
    #[allow(dead_code, reason = "each test file uses its own part")]
    pub(crate) fn crl(&self, ends_in_hours: i64) -> String {
        let list = RevocationList {
            crl_number: 1,
            this_update: now() - Duration::hours(48),
            next_update: now() + Duration::hours(ends_in_hours),
            revoked: &[],
        };
        let tbs = prepare_crl(&list, &self.issuer_certificate).unwrap();
        identity::pem("X509 CRL", &certificate(&self.issuer, &tbs))
    }

    fn countersign(&self, tbs: &[u8], at: OffsetDateTime) -> SignedCertificateTimestamp {
        let leaf = CertificateLeaf {
            timestamp: milliseconds(at),
            issuer_key_hash: Hash::of(self.issuer_certificate.public_key()),
            tbs_certificate: tbs.to_vec(),
            leaf_index: 7,
        };
        SignedCertificateTimestamp {
            log_id: tlog::log_id(&spki(&self.log)),
            timestamp: leaf.timestamp,
            leaf_index: leaf.leaf_index,
            signature: self.log.sign(&leaf.encode().unwrap()).unwrap(),
        }
    }
}

type Shared = State<Arc<TestAuthority>>;

/// The routes that the journeys meet.
pub(crate) fn router(authority: Arc<TestAuthority>) -> Router {
    Router::new()
        .route("/v1/trust", get(|State(ca): Shared| async move { ca.served_trust_note() }))
        .route("/v1/certificates", post(issue).get(list))
        .route("/v1/certificates/{serial}/renewal", get(renewal))
        .route("/log/checkpoint", get(checkpoint))
        .with_state(authority)
}

async fn issue(
    State(ca): Shared,
    peer: Option<Extension<Peer>>,
    Json(request): Json<IssueRequest>,
) -> Response {
    let attested = match &request.attestation {
        Attestation::Svid {} => peer.is_some(),
        Attestation::Token { token } => token.expose().starts_with("ct1."),
    };
    if !attested {
        return problem(ProblemType::AttestationRefused);
    }
    let fault = ca.state.lock().unwrap().fault.take();
    match fault {
        Some(Fault::Denied) => problem(ProblemType::PolicyDenied),
        Some(Fault::Unavailable) => problem(ProblemType::StoreUnavailable),
        Some(Fault::AnswerLost) => {
            ca.issue(&request, Log::Asked);
            problem(ProblemType::StoreUnavailable)
        }
        Some(Fault::NotCountersigned) => Json(ca.issue(&request, Log::NotAsked)).into_response(),
        None => Json(ca.issue(&request, Log::Asked)).into_response(),
    }
}

/// Three pages of one certificate each.
async fn list(State(ca): Shared, uri: Uri) -> Json<Page<CertificateRecord>> {
    let query = uri.query().unwrap_or_default();
    let page = ["after=1", "after=2"].iter().position(|after| query.contains(after));
    let next = match page {
        None => Some("1".to_owned()),
        Some(0) => Some("2".to_owned()),
        Some(_) => None,
    };
    let record = CertificateRecord {
        spiffe_id: SpiffeId::new(&ca.trust_domain, "/reports").unwrap(),
        serial_number: random_serial_number(),
        state: CertificateState::Valid,
        not_before: now(),
        not_after: now() + Duration::hours(24),
        issued_at: now(),
        log_index: 7,
        profile: "default".into(),
        attestor: "token".into(),
        principal: "token:1".into(),
        policies: vec![],
        chain: None,
        row_lost: false,
        revoked: None,
        denial: None,
    };
    Json(Page { items: vec![record], next })
}

async fn checkpoint(State(ca): Shared, headers: HeaderMap) -> Vec<u8> {
    let shown = headers.get(api::paths::CHECKPOINT_HEADER);
    let shown = shown.map(|shown| BASE64.decode(shown.as_bytes()).unwrap());
    ca.state.lock().unwrap().shown = shown.map(|shown| String::from_utf8(shown).unwrap());
    ca.checkpoint()
}

async fn renewal(State(ca): Shared, Path(serial): Path<String>) -> Json<RenewalWindow> {
    let state = ca.state.lock().unwrap();
    let issued =
        state.by_request.values().find(|issued| issued.serial_number.to_string() == serial);
    let window = issued.expect("only known certificates are asked about").renewal;
    Json(match state.pull_forward {
        true => RenewalWindow { start: now() - Duration::HOUR, end: now() - Duration::HOUR },
        false => window,
    })
}

fn problem(problem_type: ProblemType) -> Response {
    let problem = Problem {
        problem_type,
        title: problem_type.name().to_owned(),
        status: problem_type.status(),
        detail: "the test wants it so".into(),
        request_id: "r-1".into(),
        next_step: None,
        policies: vec![],
        rule: None,
    };
    let status = StatusCode::from_u16(problem.status).unwrap();
    let headers = [(header::CONTENT_TYPE, "application/problem+json")];
    (status, headers, serde_json::to_vec(&problem).unwrap()).into_response()
}

fn ca<'a>(trust_domain: &'a TrustDomain, public_key: &'a [u8], days: i64) -> CaCertificate<'a> {
    CaCertificate {
        trust_domain,
        common_name: "test",
        public_key,
        serial_number: random_serial_number(),
        not_before: now() - Duration::days(30),
        not_after: now() + Duration::days(days),
    }
}

fn profile() -> Profile {
    Profile::new(ProfileConfig {
        name: "default".into(),
        validity: "24h".into(),
        shortest: "5m".into(),
        longest: "7d".into(),
        key_types: vec![KeyType::EcdsaP256],
        common_name: CommonName::None,
        revocation: RevocationInformation::Crl,
    })
    .unwrap()
}

fn certificate(key: &KeyPair, tbs: &[u8]) -> Vec<u8> {
    assemble(tbs, &key.sign(tbs).unwrap())
}

fn spki(key: &KeyPair) -> Vec<u8> {
    key.subject_public_key_info()
}

fn random_serial_number() -> SerialNumber {
    let random = Hash::of(&spki(&KeyPair::generate().unwrap()));
    let since_1970: StdDuration = StdDuration::from_secs(UnixTime::now().as_secs());
    serial_number(since_1970.as_millis() as u64, random.as_bytes()[..14].try_into().unwrap())
}

fn milliseconds(at: OffsetDateTime) -> u64 {
    (at.unix_timestamp() * 1000) as u64
}

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(UnixTime::now().as_secs() as i64).unwrap()
}

/// What [`TestAuthority::svid`] is valid for.
const VALIDITY: StdDuration = StdDuration::from_secs(48 * 3600);

//! A CA in a temporary folder, with a clock that the test holds.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

pub(crate) mod before;
pub(crate) mod older;
pub(crate) mod rotation;
pub(crate) mod told;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use api::{Attestation, IssueRequest, IssuedCertificate, Secret, TokenRequest};
use authority::clock::{Clock, ManualClock};
use authority::policy::PolicySet;
use authority::sequencer::{ActMember, Acted, Effect, Member, Outcome, RevocationTarget};
use authority::setup::{self, NewAuthority, Outcomes, Parent};
use authority::signer::Signer;
use authority::store::{Store, StoreError};
use authority::{Act, Authority, Caller, Error, EventDraft, Keys, OwnNames, Parts};
use identity::{SpiffeId, Trust, TrustDomain, TrustPin, Usage, VerifiedSvid, verify};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;
use time::macros::datetime;
use tlog::{Checkpoint, Hash, SignedNote};

pub(crate) const NOW: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);

pub(crate) struct Environment {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) keys: Keys,
    pub(crate) pin: TrustPin,
    pub(crate) authority: Arc<Authority>,
}

impl Environment {
    pub(crate) async fn start() -> Self {
        Self::start_with(|keys, _| keys, |store| store).await
    }

    /// Starts with keys and store wrapped.
    pub(crate) async fn start_with(
        wrap_keys: impl FnOnce(Keys, &Path) -> Keys,
        wrap_store: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(NOW));
        let policy = PolicySet::parse(&policy_files()).unwrap();
        let created = setup::create(
            &NewAuthority {
                trust_domain: trust_domain(),
                state: folder.path(),
                passphrase: &Secret::new("online"),
                offline_passphrase: &Secret::new("offline"),
                policy: &policy,
                operator: "admin",
                parent: Parent::Local,
            },
            &*clock,
        )
        .await
        .unwrap();
        let Outcomes::Ready(pin) = created.outcome else { panic!("a local parent is ready") };
        let keys = wrap_keys(created.keys, folder.path());
        let store = wrap_store(created.store);
        let authority = open(folder.path(), &store, &keys, &clock, pin).await.unwrap();
        Self { folder, clock, store, keys, pin, authority }
    }

    /// Opens its state as another process would that shares its store.
    pub(crate) async fn open(&self) -> Result<Arc<Authority>, Error> {
        open(self.folder.path(), &self.store, &self.keys, &self.clock, self.pin).await
    }

    /// Opens the same state again, as a restart would.
    pub(crate) async fn restart(&mut self) {
        // Another process knows nothing of what this one has read.
        self.store.forget_heads();
        self.authority = self.open().await.unwrap();
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::clone(&self.authority.view.trust())
    }

    /// What `init --recover --lift-halt` does, while nobody serves.
    pub(crate) async fn lift_halt(&self) -> Result<setup::Lifted, Error> {
        let (domain, state) = (trust_domain(), self.folder.path());
        setup::lift_halt(&domain, state, &*self.store, &self.keys, &*self.clock).await
    }

    /// What the peers' verifier says of a certificate, revocations aside.
    pub(crate) fn verified(&self, issued: &IssuedCertificate) -> VerifiedSvid {
        self.verify(&issued.chain).unwrap()
    }

    pub(crate) fn verify(&self, chain: &str) -> Result<VerifiedSvid, identity::Refusal> {
        self.verify_by(&self.trust(), chain)
    }

    /// What a verifier says that holds this trust state.
    pub(crate) fn verify_by(
        &self,
        trust: &Trust,
        chain: &str,
    ) -> Result<VerifiedSvid, identity::Refusal> {
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(chain.as_bytes()).map(Result::unwrap).collect();
        let seconds = self.clock.now().unix_timestamp() as u64;
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        verify(&chain, Usage::Client, now, trust, &identity::Revocations::default())
    }

    /// The first operator, with the certificate that `init` would give.
    pub(crate) async fn operator(&self) -> Caller {
        self.enrol("admin").await
    }

    /// An operator with a certificate made on the CA's host.
    pub(crate) async fn enrol(&self, name: &str) -> Caller {
        self.enrol_anyway(name).await.unwrap()
    }

    /// The same; none where the CA issues nothing.
    pub(crate) async fn enrol_anyway(&self, name: &str) -> Option<Caller> {
        let body = IssueRequest {
            spiffe_id: Some(SpiffeId::operator(&trust_domain(), name).unwrap()),
            ..request(&csr())
        };
        let issued = self.authority.issuing.issue_internal(&body, "init").await.ok()?;
        Some(self.caller(&issued))
    }

    pub(crate) fn caller(&self, issued: &IssuedCertificate) -> Caller {
        Caller {
            svid: Some(self.verified(issued)),
            request_id: "test".to_owned(),
            idempotency_key: None,
        }
    }

    /// A bootstrap token for an identity, made by the operator.
    pub(crate) async fn token(&self, operator: &Caller, path: &str) -> Secret {
        let asked = TokenRequest { spiffe_id: id(path), ttl: None, key_sha256: None };
        self.authority.operations.create_token(operator, &asked).await.unwrap().token
    }

    /// A first certificate by token.
    pub(crate) async fn issue(&self, operator: &Caller, path: &str) -> IssuedCertificate {
        let token = self.token(operator, path).await;
        self.issue_with(&token, &csr()).await.unwrap()
    }

    pub(crate) async fn issue_with(
        &self,
        token: &Secret,
        csr: &str,
    ) -> Result<IssuedCertificate, Error> {
        let attestation = Attestation::Token { token: token.clone() };
        let body = IssueRequest { attestation, ..request(csr) };
        self.authority.issuing.issue(&anonymous(), &body, None).await
    }

    /// Renews with the certificate that the caller has.
    pub(crate) async fn renew(
        &self,
        caller: &Caller,
        csr: &str,
    ) -> Result<IssuedCertificate, Error> {
        self.authority.issuing.issue(caller, &request(csr), None).await
    }
}

pub(crate) async fn open(
    state: &Path,
    store: &Arc<dyn Store>,
    keys: &Keys,
    clock: &Arc<ManualClock>,
    pin: TrustPin,
) -> Result<Arc<Authority>, Error> {
    let parts = Parts {
        trust_domain: trust_domain(),
        state: state.to_owned(),
        crl_url: None,
        own_names: OwnNames::configured(&["ca.internal".to_owned(), "10.9.9.9".to_owned()]),
        clock: Arc::clone(clock) as Arc<dyn Clock>,
        store: Arc::clone(store),
        keys: keys.clone(),
        trust_pin: pin,
    };
    Authority::open(parts).await.map(Arc::new)
}

impl Environment {
    /// Revokes a certificate as an operator, or an identity that nobody has, as an earlier CA did.
    pub(crate) async fn revoke(&self, operator: &Caller, target: &str) -> u64 {
        let reason = "key-compromise".to_owned();
        let Ok(id) = SpiffeId::parse(target) else {
            let target = target.to_owned();
            let asked = api::RevokeRequest { target, reason, dry_run: false, named_override: None };
            let done = self.authority.operations.revoke(operator, &asked).await.unwrap();
            return done.log_index.unwrap();
        };
        let by = Act { actor: "test", request_id: "test" };
        let detail = serde_json::json!({ "reason": reason });
        let event = EventDraft::new("revoke", &by, target, &detail);
        let effect = Effect::Revoke { target: RevocationTarget::Identity(id), reason };
        let act = ActMember { event, effect, allowed_under: None };
        let group = vec![Member::Act(Box::new(act))];
        let now = self.clock.unix_milliseconds();
        let outcomes = self.store.commit(group, now).await.unwrap();
        let Outcome::Act(Acted::Done { log_index }) = outcomes[0] else { panic!("{outcomes:?}") };
        self.authority.view.refresh().await.unwrap();
        log_index
    }
}

/// A checkpoint of our origin, signed by any key, whatever it says.
pub(crate) async fn signed_by(signer: &dyn Signer, size: u64, root: Hash) -> Vec<u8> {
    signed_under("pay.example/log", signer, size, root).await
}

/// The same, of another origin.
pub(crate) async fn signed_under(
    origin: &str,
    signer: &dyn Signer,
    size: u64,
    root: Hash,
) -> Vec<u8> {
    // An Ed25519 SubjectPublicKeyInfo ends with the key itself.
    let key = signer.public_key().last_chunk().unwrap();
    let key = tlog::VerifierKey::ed25519(origin.to_owned(), key).unwrap();
    let text = Checkpoint { origin: key.name().to_owned(), size, root }.text();
    let signature = signer.sign(text.as_bytes()).await.unwrap();
    let note = SignedNote::unsigned(text).unwrap();
    note.with_signature(key.name(), key.key_id(), &signature).unwrap().encode()
}

/// The writing thread lets go of the folder a moment after the last handle is dropped.
pub(crate) async fn reopen(folder: &Path, keys: &Keys) -> Result<Arc<dyn Store>, Error> {
    let begun = std::time::Instant::now();
    while begun.elapsed() < std::time::Duration::from_secs(60) {
        match setup::open_store(folder, &trust_domain(), keys) {
            Err(Error::Store(StoreError::InUse(_))) => tokio::task::yield_now().await,
            other => return other.map(|(store, _)| Arc::new(store) as _),
        }
    }
    panic!("the folder stays locked")
}

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::parse("pay.example").unwrap()
}

pub(crate) fn id(path: &str) -> SpiffeId {
    SpiffeId::new(&trust_domain(), path).unwrap()
}

pub(crate) fn anonymous() -> Caller {
    Caller { svid: None, request_id: "test".to_owned(), idempotency_key: None }
}

/// A request for whatever identity the evidence names, by the caller's certificate.
pub(crate) fn request(csr: &str) -> IssueRequest {
    IssueRequest {
        csr: csr.to_owned(),
        spiffe_id: None,
        dns: None,
        ip: None,
        profile: None,
        ttl: None,
        attestation: Attestation::Svid {},
    }
}

/// A certificate request with a new P-256 key.
pub(crate) fn csr() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.serialize_request(&key).unwrap().pem().unwrap()
}

pub(crate) fn policy_files() -> BTreeMap<String, String> {
    let workloads = r#"{
        "operators": ["/countersign/operator/second"],
        "workloads": [
            {"id": "/prod/reports", "dns": ["reports.internal"], "ip": ["10.0.0.1"]},
            {"id": "/prod/monolith"},
            {"id": "/prod/quick", "profiles": ["default", "short-lived"]}
        ]}"#;
    BTreeMap::from([("workloads.json".to_owned(), workloads.to_owned())])
}

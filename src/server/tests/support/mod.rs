//! A real service on free ports, with a clock that the test holds.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use api::{Attestation, IssueRequest, IssuedCertificate, Secret, TokenRequest};
use authority::clock::{Clock, ManualClock};
use authority::policy::PolicySet;
use authority::sequencer::{ActMember, Effect, Member, RevocationTarget};
use authority::setup::{self, NewAuthority, Outcomes, Parent};
use authority::store::Store;
use authority::{Act, Authority, EventDraft, Keys, OwnNames, Parts};
use countersign::{AuthorityClient, Credentials};
use identity::SpiffeId;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use server::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) mod wire;

pub(crate) struct Service {
    pub(crate) state: tempfile::TempDir,
    config: Config,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) keys: Keys,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) running: server::Running,
}

impl Service {
    /// Starts it as if it were so much earlier.
    pub(crate) async fn start(behind: time::Duration) -> Self {
        Self::start_with(behind, 0).await
    }

    /// The same with a limit of requests.
    pub(crate) async fn start_with(behind: time::Duration, requests_per_second: u32) -> Self {
        Self::start_wrapped(behind, requests_per_second, |keys| keys).await
    }

    /// The same with keys that are watched.
    pub(crate) async fn start_wrapped(
        behind: time::Duration,
        requests_per_second: u32,
        wrap_keys: impl FnOnce(Keys) -> Keys,
    ) -> Self {
        Self::start_on(behind, requests_per_second, wrap_keys, |store| store).await
    }

    /// The same on a store that is watched.
    pub(crate) async fn start_on(
        behind: time::Duration,
        requests_per_second: u32,
        wrap_keys: impl FnOnce(Keys) -> Keys,
        wrap_store: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>,
    ) -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut config = Config::parse(&format!(
            "trust_domain = \"pay.example\"\nlisten = \"127.0.0.1:0\"\n\
             admin_listen = \"127.0.0.1:0\"\nnames = [\"127.0.0.1\"]\nrequests_per_second = {requests_per_second}",
        ))
        .unwrap();
        config.state = state.path().to_owned();
        let clock = Arc::new(ManualClock::new(real_now() - behind));
        let created = setup::create(
            &NewAuthority {
                trust_domain: config.trust_domain.clone(),
                state: &config.state,
                passphrase: &Secret::new("online passphrase"),
                offline_passphrase: &Secret::new("offline passphrase"),
                policy: &policy(),
                operator: "admin",
                parent: Parent::Local,
            },
            &*clock,
        )
        .await
        .unwrap();
        let Outcomes::Ready(trust_pin) = created.outcome else { panic!("a local parent is ready") };
        let keys = wrap_keys(created.keys);
        let store = wrap_store(created.store);
        let parts = Parts {
            trust_domain: config.trust_domain.clone(),
            state: state.path().to_owned(),
            crl_url: None,
            own_names: OwnNames::configured(&config.names),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            store: Arc::clone(&store),
            keys: keys.clone(),
            trust_pin,
        };
        let authority = Arc::new(Authority::open(parts).await.unwrap());
        let running = server::start(Arc::clone(&authority), &config, str::to_owned).await.unwrap();
        Self { state, config, clock, keys, store, authority, running }
    }

    /// Ends it and starts it again on the same state, with whatever keys are there then.
    pub(crate) async fn restart(self, meanwhile: impl FnOnce(&Path)) -> Self {
        let Self { state, config, clock, store, authority, running, .. } = self;
        running.stop().await;
        meanwhile(state.path());
        let keys = Keys::open(state.path(), &Secret::new("online passphrase")).unwrap();
        let parts = Parts {
            trust_domain: config.trust_domain.clone(),
            state: state.path().to_owned(),
            crl_url: None,
            own_names: OwnNames::configured(&config.names),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            store: Arc::clone(&store),
            keys: keys.clone(),
            trust_pin: authority.view.trust().state().pin(),
        };
        let authority = Arc::new(Authority::open(parts).await.unwrap());
        let running = server::start(Arc::clone(&authority), &config, str::to_owned).await.unwrap();
        Self { state, config, clock, keys, store, authority, running }
    }

    /// What `/readyz` answers.
    pub(crate) async fn readiness(&self) -> String {
        let stream = TcpStream::connect(self.running.admin_address).await;
        let mut stream = stream.unwrap();
        let request = "GET /readyz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Revokes an identity whom no operator can revoke.
    pub(crate) async fn revoke_in_the_store(&self, id: &SpiffeId) {
        let by = Act { actor: "test", request_id: "test" };
        let reason = "key-compromise".to_owned();
        let detail = serde_json::json!({ "reason": reason });
        let act = ActMember {
            event: EventDraft::new("revoke", &by, id.as_str(), &detail),
            effect: Effect::Revoke { target: RevocationTarget::Identity(id.clone()), reason },
            allowed_under: None,
        };
        let group = vec![Member::Act(Box::new(act))];
        self.store.commit(group, self.clock.unix_milliseconds()).await.unwrap();
    }

    /// A client of the service, with or without a certificate.
    pub(crate) fn client(&self, credentials: Option<Arc<Credentials>>) -> AuthorityClient {
        let url = format!("https://{}", self.running.address);
        AuthorityClient::new(
            &url,
            identity::Trust::clone(&self.authority.view.trust()),
            credentials,
        )
        .unwrap()
    }

    /// The first operator's client.
    pub(crate) async fn operator(&self) -> AuthorityClient {
        let id = SpiffeId::operator(self.authority.view.trust_domain(), "admin").unwrap();
        let (csr, key) = csr();
        let body = IssueRequest { spiffe_id: Some(id), ..request(csr, Attestation::Svid {}) };
        let issued = self.authority.issuing.issue_internal(&body, "init").await.unwrap();
        self.client(Some(credentials(&issued, key)))
    }

    /// A workload's certificate, by token, and its client.
    pub(crate) async fn workload(&self, path: &str) -> (IssuedCertificate, AuthorityClient) {
        let (issued, credentials) = self.enrol(path).await;
        (issued, self.client(Some(credentials)))
    }

    /// A workload's certificate, by token.
    pub(crate) async fn enrol(&self, path: &str) -> (IssuedCertificate, Arc<Credentials>) {
        let spiffe_id = self.id(path);
        let asked = TokenRequest { spiffe_id, ttl: None, key_sha256: None };
        let token = self.operator().await.create_token(&asked).await.unwrap().token;
        let (csr, key) = csr();
        let body = request(csr, Attestation::Token { token });
        let issued = self.client(None).issue(&body, None).await.unwrap();
        let credentials = credentials(&issued, key);
        (issued, credentials)
    }

    pub(crate) fn id(&self, path: &str) -> SpiffeId {
        SpiffeId::new(self.authority.view.trust_domain(), path).unwrap()
    }
}

pub(crate) fn request(csr: String, attestation: Attestation) -> IssueRequest {
    IssueRequest {
        csr,
        spiffe_id: None,
        dns: None,
        ip: None,
        profile: None,
        ttl: None,
        attestation,
    }
}

/// A request with a new key.
pub(crate) fn csr() -> (String, rcgen::KeyPair) {
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    (request.pem().unwrap(), key)
}

pub(crate) fn credentials(issued: &IssuedCertificate, key: rcgen::KeyPair) -> Arc<Credentials> {
    let chain = CertificateDer::pem_slice_iter(issued.chain.as_bytes());
    let chain = chain.collect::<Result<_, _>>().unwrap();
    Credentials::new(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into()).unwrap()
}

fn policy() -> PolicySet {
    let workloads = r#"{"operators": ["/countersign/operator/second"], "workloads": [
        {"id": "/prod/reports"}, {"id": "/prod/monolith"}, {"id": "/prod/batch"},
        {"id": "/prod/legacy"}]}"#;
    let files = BTreeMap::from([("workloads.json".to_owned(), workloads.to_owned())]);
    PolicySet::parse(&files).unwrap()
}

/// The machine's clock, by which rustls verifies.
#[expect(clippy::disallowed_methods, reason = "rustls looks at the machine's clock")]
pub(crate) fn real_now() -> time::OffsetDateTime {
    time::OffsetDateTime::now_utc()
}

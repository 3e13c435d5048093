//! The engine: a CA of one trust domain, as its rooms. It keeps nothing itself.

use std::path::PathBuf;
use std::sync::Arc;

use api::{IssuerStatus, Status};
use identity::{TrustDomain, TrustPin};
use issuance::IssuerCertificate;

use crate::budgets::BudgetLimits;
use crate::caller::Caller;
use crate::certificate::issuer::issuer_id;
use crate::clock::Clock;
use crate::crls::Crls;
use crate::error::Error;
use crate::evidence::halt::HALTED_NEXT_STEP;
use crate::feed::Feed;
use crate::fleet::{Fleet, Instances};
use crate::issuing::Issuing;
use crate::keys::Keys;
use crate::operations::Operations;
use crate::own_names::OwnNames;
use crate::policy::Action;
use crate::rotation::Rotation;
use crate::store::{Store, newest_head};
use crate::view::View;
use crate::view::loading::Sources;
use crate::writer::Writer;

/// The CA of one trust domain.
#[derive(Debug)]
pub struct Authority {
    /// What this node has read of the log.
    pub view: Arc<View>,
    /// The way to write to it.
    pub writer: Arc<Writer>,
    /// Certificates.
    pub issuing: Arc<Issuing>,
    /// What operators, owners and auditors do.
    pub operations: Arc<Operations>,
    /// Keys.
    pub rotation: Rotation,
    /// Revocation lists.
    pub crls: Arc<Crls>,
    /// What workloads report.
    pub fleet: Fleet,
    /// Who listens.
    pub feed: Arc<Feed>,
}

/// What an engine is made of.
#[derive(Debug)]
pub struct Parts {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The state folder: a halt is kept there, and what the log was.
    pub state: PathBuf,
    /// Where issuers' CRLs are found; `{issuer}` stands for the issuer's id.
    pub crl_url: Option<String>,
    /// The names by which clients reach the CA: nobody else gets one.
    pub own_names: OwnNames,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The store.
    pub store: Arc<dyn Store>,
    /// The keys that the engine signs with: those that the log's events name.
    pub keys: Keys,
    /// The pin that names the trust keys of one of the stored trust states; the later ones follow.
    pub trust_pin: TrustPin,
}

impl Authority {
    /// Loads the state and refuses on any disagreement: log against tables, log against
    /// checkpoint, keys against trust state; halts where the log was known to be another.
    pub async fn open(parts: Parts) -> Result<Self, Error> {
        let Parts { trust_domain, state, crl_url, own_names, clock, store, keys, trust_pin } =
            parts;
        let sources = Sources { trust_domain, own_names, clock, store, keys, trust_pin };
        let view = Arc::new(View::load(sources).await?);
        let writer = Arc::new(Writer::start(Arc::clone(&view)).await?);
        writer.keep_halts(&state).await?;
        let instances = Arc::<Instances>::default();
        let issuing = Issuing::new(Arc::clone(&view), Arc::clone(&writer), crl_url);
        let operations = Operations::new(Arc::clone(&view), Arc::clone(&writer));
        let rotation =
            Rotation::new(Arc::clone(&view), Arc::clone(&writer), Arc::clone(&instances));
        let crls = Crls::new(Arc::clone(&view), Arc::clone(&writer));
        let fleet = Fleet::new(Arc::clone(&view), Arc::clone(&writer), Arc::clone(&instances));
        let feed = Feed::new(Arc::clone(&view), Arc::clone(&writer), instances);
        Ok(Self {
            issuing: Arc::new(issuing),
            operations: Arc::new(operations),
            rotation,
            crls: Arc::new(crls),
            fleet,
            feed: Arc::new(feed),
            view,
            writer,
        })
    }

    /// How much one line of renewals may do from now on.
    pub fn limit_budgets(&self, limits: BudgetLimits) {
        self.issuing.budgets.limit(limits);
        self.operations.budgets.limit(limits);
    }

    /// How the CA is doing.
    pub async fn status(&self, caller: &Caller) -> Result<Status, Error> {
        self.view.authorize(caller, Action::ReadStatus, None)?;
        // Whoever asks what is the matter is answered while no head is kept, too.
        let head = newest_head(self.view.store()).await?;
        let in_force = self.view.in_force();
        let trust = in_force.trust.state();
        let policy = self.view.policy();
        let keys = self.rotation.key_records().await?;
        let lost_rows = self.operations.lost_rows().await?;
        let replaced_files = self.view.replaced_files();
        Ok(Status {
            trust_domain: self.view.trust_domain().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            trust_sequence: trust.sequence,
            trust_pin: trust.pin().to_string(),
            log_size: head.edge.size(),
            checkpoint_size: self.writer.checkpoints().newest_size(),
            policy_hash: format!("{:?}", policy.set().hash()),
            workloads: policy.set().workloads().rows().count() as u64,
            denied: self.view.folded().revocations.denied().count() as u64,
            halted: self.view.halted(),
            halted_next_step: self.view.halted().map(|_| HALTED_NEXT_STEP.to_owned()),
            // The service knows: its own certificate is part of it, and who is connected.
            not_ready: None,
            lost_rows,
            replaced_files,
            connections: None,
            issuers: in_force.issuers().map(issuer_status).collect(),
            warnings: self.rotation.life_warnings(),
            rotating: keys.into_iter().filter(|key| key.next.is_some()).collect(),
        })
    }
}

fn issuer_status(certificate: &IssuerCertificate) -> IssuerStatus {
    IssuerStatus {
        id: issuer_id(certificate.key_hash()),
        serial_number: *certificate.serial_number(),
        not_after: certificate.not_after(),
    }
}

//! The tour: each line is printed from what happened just before, with its measured figure.

use std::time::{Duration, Instant};

use api::{RenewalWindow, RevokeRequest};
use countersign::{Credentials, Endpoint, Error, Peers, Verification};
use identity::{SerialNumber, SpiffeId};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tlog::{EntryKind, TILE_WIDTH, Tile, TileKind, TreeEdge};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::forger::forge;
use super::refusals::Refused;
use super::roles::{Call, Tally};
use super::services::Services;
use super::{DOMAIN, Dev, milliseconds};
use crate::clock;
use crate::context::OpenContext;
use crate::session::Session;

impl Dev {
    /// Shows one thing after another.
    pub(super) async fn tour(
        &self,
        services: &mut Services,
        context: &OpenContext,
        session: &Session,
    ) -> anyhow::Result<()> {
        self.show_call(services, session).await?;
        self.show_intruder(services, session).await?;
        self.show_forgery(services, context, session).await?;
        let hastened = self.hasten_renewal(services).await?;
        self.show_revocation(services, context, session).await?;
        self.show_renewal(&hastened, services, session).await?;
        self.show_cut_off(services, session).await?;
        self.show_log(session).await
    }

    async fn show_call(&self, services: &mut Services, session: &Session) -> anyhow::Result<()> {
        let call = services.answered.recv().await;
        let call = call.ok_or_else(|| anyhow::anyhow!("reports has ended"))?;
        let countersigned =
            call.log_index.map(|index| format!("countersigned #{index}")).unwrap_or_default();
        let (status, took) = (call.status.as_u16(), milliseconds(call.took));
        let text = format!("reports → monolith    {status}   {took}   {countersigned}");
        self.line(session, "call", &text)
    }

    /// A certificate of ours, but of nobody whom the monolith expects.
    async fn show_intruder(&self, services: &Services, session: &Session) -> anyhow::Result<()> {
        let refused = self.refusal_of(services.intruder.endpoint(), services).await?;
        let why = refused.or_what_else("not-among-peers", "valid certificate, not among peers");
        self.line(session, "denied", &format!("intruder → monolith   {why}"))?;
        let accepted = services.monolith_peers();
        self.detail(session, &format!("why: monolith accepts {accepted}"))
    }

    /// A thief of the CA key alone: the certificate is made outside the engine, with the key file.
    async fn show_forgery(
        &self,
        services: &Services,
        context: &OpenContext,
        session: &Session,
    ) -> anyhow::Result<()> {
        let authority = self.running.authority();
        let victim = self.id("/reports")?;
        let keys = self.folder.join("state");
        let (forged, key) = forge(&keys, &self.passphrase, authority, &victim).await?;
        let issuer = CertificateDer::from(authority.view.issuer_certificate());
        let chain = vec![CertificateDer::from(forged), issuer];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
        let verification = Verification::new(context.held.trust.clone());
        let forger = Endpoint::new(Credentials::new(chain, key)?, verification);
        let refused = self.refusal_of(&forger, services).await?;
        // Of one that no key of the CA signed it would be said that no anchor is known.
        let claim = "signed by the CA key, no countersignature";
        let why = refused.or_what_else("not-countersigned", claim);
        self.line(session, "denied", &format!("forger → monolith     {why}"))
    }

    /// The CA wishes another certificate for reports, now.
    async fn hasten_renewal(&self, services: &Services) -> anyhow::Result<Hastened> {
        let now = clock::now();
        let window = RenewalWindow { start: now, end: now };
        let serial_number = services.reports.status().serial_number;
        let tally = services.calls.tally();
        self.running.authority().operations.hasten_renewal(&self.id("/reports")?, window).await?;
        Ok(Hastened { serial_number, tally })
    }

    /// Until the monolith has seen the new certificate: each call of reports shakes hands anew.
    async fn show_renewal(
        &self,
        before: &Hastened,
        services: &mut Services,
        session: &Session,
    ) -> anyhow::Result<()> {
        let mut changes = services.reports.changes();
        let renewed = changes.wait_for(|status| status.serial_number != before.serial_number);
        let renewed = tokio::time::timeout(PATIENCE, renewed).await??.serial_number;
        let seen = call_seen_with(&renewed, &mut services.answered);
        tokio::time::timeout(PATIENCE, seen).await??;
        let Tally { made, failed } = services.calls.tally().since(before.tally);
        let (old, new) = (short(&before.serial_number), short(&renewed));
        let text = format!("reports   …{old} → …{new}   window pulled forward");
        self.line(session, "renew", &text)?;
        let text =
            format!("{failed} of {made} calls failed; monolith saw …{new} in a new handshake");
        self.detail(session, &text)
    }

    /// From the operator's command to the end that batch saw of its open stream.
    async fn show_revocation(
        &self,
        services: &mut Services,
        context: &OpenContext,
        session: &Session,
    ) -> anyhow::Result<()> {
        let batch = self.id("/batch")?;
        let closed_before = services.closed_for_revocation();
        let begun = Instant::now();
        let request = RevokeRequest {
            target: batch.to_string(),
            reason: "key-compromise".to_owned(),
            dry_run: false,
            named_override: None,
        };
        context.client.revoke(&request).await?;
        let ended = services.stream.wait_for(Option::is_some);
        let ended = tokio::time::timeout(PATIENCE, ended).await??.unwrap_or(begun);
        let took = milliseconds(ended.saturating_duration_since(begun));
        let refused = self.refusal_of(services.batch.endpoint(), services).await?;
        let closed = services.closed_for_revocation() > closed_before;
        let how = if closed { "closed" } else { "ended, but not by the monolith," };
        self.line(session, "revoke", &format!("batch   stream {how} after {took}"))?;
        self.detail(session, &format!("next handshake refused ({})", refused.rule))
    }

    /// Whoever is revoked hears no feed any more, and knows why.
    async fn show_cut_off(&self, services: &Services, session: &Session) -> anyhow::Result<()> {
        let mut changes = services.batch.changes();
        let cut_off = changes.wait_for(|status| status.cut_off.is_some());
        let cut_off = tokio::time::timeout(PATIENCE, cut_off).await??.cut_off.clone();
        let rule = cut_off.map(|cut_off| cut_off.rule.name()).unwrap_or_default();
        let text = format!("batch   says that it is {rule}; a new token brings it back");
        self.line(session, "cut off", &text)
    }

    /// What an auditor does: the root from entries alone, against the signed checkpoint.
    async fn show_log(&self, session: &Session) -> anyhow::Result<()> {
        let authority = self.running.authority();
        let checkpoint = self.signed_checkpoint().await?;
        let size = checkpoint.size;
        let (mut edge, mut certificates) = (TreeEdge::new(), 0);
        for index in 0..size.div_ceil(TILE_WIDTH) {
            let tile = Tile::in_tree(TileKind::Entries, index, size)?;
            let bytes = authority.view.tile(tile).await?;
            for entry in tlog::parse_bundle(&bytes)? {
                certificates += usize::from(tlog::entry_kind(entry) == Some(EntryKind::Leaf));
                edge.push(tlog::leaf_hash(entry));
            }
        }
        anyhow::ensure!(edge.root() == checkpoint.root, "the log is not what its checkpoint says");
        let text =
            format!("{size} entries, {certificates} certificates, root recomputed from tiles: ok");
        self.line(session, "verify", &text)
    }

    /// Calls the monolith as somebody whom it is to refuse; returns why it says that it did.
    async fn refusal_of(&self, caller: &Endpoint, services: &Services) -> anyhow::Result<Refused> {
        let heard = self.refusals.listen();
        match call_as(caller, services).await {
            Err(Error::Refused { .. }) => {}
            Err(error) => return Err(error.into()),
            Ok(()) => anyhow::bail!("the monolith let in whom it must not"),
        }
        let shown = caller.credentials().serial_number();
        let shown = shown.ok_or_else(|| anyhow::anyhow!("the caller has no certificate"))?;
        heard.report(&services.monolith.status().serial_number, &shown).await
    }

    fn id(&self, path: &str) -> anyhow::Result<SpiffeId> {
        Ok(SpiffeId::parse(&format!("spiffe://{DOMAIN}{path}"))?)
    }
}

/// How things stood when the CA wished another certificate for reports.
struct Hastened {
    serial_number: SerialNumber,
    tally: Tally,
}

/// Waits for a call in which the monolith saw this certificate.
async fn call_seen_with(
    certificate: &SerialNumber,
    answered: &mut mpsc::Receiver<Call>,
) -> anyhow::Result<()> {
    while let Some(call) = answered.recv().await {
        if call.seen == *certificate {
            return Ok(());
        }
    }
    anyhow::bail!("reports has ended")
}

/// Asks the monolith for data. TLS 1.3 tells a client only on reading that it was refused.
async fn call_as(endpoint: &Endpoint, services: &Services) -> Result<(), Error> {
    let monolith = Peers::one_of([format!("spiffe://{DOMAIN}/monolith")])?;
    let mut stream = endpoint.connect(&services.monolith_address.to_string(), monolith).await?;
    match stream.read(&mut [0]).await {
        Ok(_) => Ok(()),
        Err(error) => Err(stream.explain(error)),
    }
}

/// Its last digits: the first ones tell the time.
fn short(serial_number: &SerialNumber) -> String {
    let text = serial_number.to_string();
    text[text.len().saturating_sub(6)..].to_owned()
}

const PATIENCE: Duration = Duration::from_secs(30);

//! The names that the CAs above the issuer permit: a certificate that bears another is of no use,
//! since every peer refuses it.
//!
//! Found out as peers do it, by [`identity::verify_issuer`], over a certificate that is made for it,
//! signed by nobody, and dropped: once for each name, for as long as the issuer is active. From the roots, so that each CA between counts: our own verifiers
//! stop at the nearest, those of others do not. What constrains names does so for as long as there is
//! the issuer, whatever the clock says and whichever CA above has expired since: it is asked at a time
//! at which all were valid.
//!
//! Of the CA's own certificate, `/readyz` says it: without that one nobody could be told anything.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use identity::{Refusal, SerialNumber, SpiffeId, Trust, TrustDomain, TrustState, Usage};
use issuance::{
    CommonName, DnsName, EndEntity, IssuerCertificate, KeyType, Profile, ProfileConfig,
    RevocationInformation,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;
use x509_parser::oid_registry::OID_X509_EXT_NAME_CONSTRAINTS;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::error::{Denied, Error};
use crate::facts::Names;
use crate::policy::workloads::{Row, Workloads};
use crate::policy::{ActivePolicy, NotPermitted, PolicyError};

/// What an issuer below constrained CAs may certify.
#[derive(Debug)]
pub(crate) struct PermittedNames {
    issuer: Arc<IssuerCertificate>,
    trust_domain: TrustDomain,
    /// The issuer's certificate, and those of the CAs above it that are no roots.
    issuers: Vec<CertificateDer<'static>>,
    roots: Trust,
    /// A time at which all of them were valid.
    at: OffsetDateTime,
    /// The subjects of those that constrain names.
    constraining: String,
    /// In how many subtrees they do.
    subtrees: usize,
    known: Mutex<Known>,
    /// How often the CAs above were verified for some names.
    verified: AtomicUsize,
}

/// Names that are permitted: nothing changes that while the issuer stays.
#[derive(Debug, Default)]
struct Known {
    dns: HashSet<DnsName>,
    ip: HashSet<IpAddr>,
}

impl PermittedNames {
    /// None where no certificate above constrains names.
    pub(crate) fn below(
        issuer: Arc<IssuerCertificate>,
        state: &TrustState,
    ) -> Result<Option<Self>, Error> {
        let anchors = state.anchors.iter().map(|anchor| anchor.certificate.as_bytes());
        let above: Vec<(&[u8], X509Certificate<'_>)> = std::iter::once(issuer.der())
            .chain(anchors)
            .filter_map(|der| Some((der, X509Certificate::from_der(der).ok()?.1)))
            .collect();
        let constraining: Vec<String> = above
            .iter()
            .filter(|(_, certificate)| constrains_names(certificate))
            .map(|(_, certificate)| format!("\"{}\"", certificate.subject()))
            .collect();
        if constraining.is_empty() {
            return Ok(None);
        }
        let subtrees = above.iter().map(|(_, certificate)| subtrees(certificate));
        let subtrees = subtrees.fold(0_usize, usize::saturating_add);
        let began = above.iter().map(|(_, it)| it.validity().not_before.to_datetime()).max();
        let is_root =
            |der: &[u8]| above.iter().any(|(it, root)| *it == der && is_self_signed(root));
        let mut roots = state.clone();
        roots.anchors.retain(|anchor| is_root(anchor.certificate.as_bytes()));
        let between = above.iter().filter(|(_, certificate)| !is_self_signed(certificate));
        Ok(Some(Self {
            at: began.unwrap_or_else(|| issuer.not_before()),
            issuers: between.map(|(der, _)| CertificateDer::from(der.to_vec())).collect(),
            roots: Trust::new(roots)?,
            trust_domain: state.trust_domain.clone(),
            constraining: constraining.join(" or "),
            subtrees,
            known: Mutex::default(),
            verified: AtomicUsize::new(0),
            issuer,
        }))
    }

    /// Refuses names of which a certificate would be refused by peers.
    pub(crate) fn refuse(&self, dns: &[DnsName], ip: &[IpAddr]) -> Result<(), NotPermitted> {
        if self.knows(dns, ip) {
            return Ok(());
        }
        let names = Names { dns: dns.to_vec(), ip: ip.to_vec() };
        let Err(unbelieved) = self.believed(&names) else {
            self.learn(names);
            return Ok(());
        };
        // What is wrong without names is not wrong with them; whoever issues finds it out.
        if self.believed(&Names::default()).is_err() {
            return Ok(());
        }
        let one_dns = |name: &DnsName| Names { dns: vec![name.clone()], ip: vec![] };
        let one_ip = |address: &IpAddr| Names { dns: vec![], ip: vec![*address] };
        let each = dns.iter().map(|name| (name.to_string(), one_dns(name)));
        let mut each = each.chain(ip.iter().map(|it| (it.to_string(), one_ip(it))));
        let alone = each.find_map(|(name, names)| match self.believed(&names) {
            Err(Unbelieved::Refused(refusal)) => Some((name, refusal)),
            _ => None,
        });
        let (name, refusal) = match (alone, unbelieved) {
            (Some(alone), _) => alone,
            // There are so many that no verifier compares them all.
            (None, Unbelieved::Refused(refusal)) => {
                (format!("one of {} names", dns.len() + ip.len()), refusal)
            }
            (None, Unbelieved::Unmade) => return Ok(()),
        };
        let (constraining, refusal) = (self.constraining.clone(), refusal.to_string());
        Err(NotPermitted { name, constraining, refusal })
    }

    /// Refuses a workload table of which a row lists such a name.
    pub(crate) fn refuse_rows(&self, workloads: &Workloads) -> Result<(), PolicyError> {
        let named = |row: &&Row| !row.dns.is_empty() || !row.ip.is_empty();
        let rows: Vec<&Row> = workloads.rows().filter(named).collect();
        // Nearly always all is well: it costs signatures to find out, so that many are asked at once.
        for rows in rows.chunks(TOGETHER) {
            let dns = rows.iter().flat_map(|row| row.dns.iter().cloned()).collect();
            let ip = rows.iter().flat_map(|row| row.ip.iter().copied()).collect();
            let names = Names { dns, ip };
            if self.believed(&names).is_ok() {
                self.learn(names);
                continue;
            }
            for row in rows {
                let refused = self.refuse(&row.dns, &row.ip);
                refused
                    .map_err(|found| PolicyError::NotPermitted { row: row.id.clone(), found })?;
            }
        }
        Ok(())
    }

    #[cfg(any(test, feature = "test-seams"))]
    pub(crate) fn verified(&self) -> usize {
        self.verified.load(Ordering::Relaxed)
    }

    /// Whether each of them was found to be permitted, and they are not so many that no verifier
    /// compares them all.
    fn knows(&self, dns: &[DnsName], ip: &[IpAddr]) -> bool {
        if self.subtrees.saturating_mul(dns.len() + ip.len()) > COMPARED {
            return false;
        }
        let known = self.known();
        dns.iter().all(|name| known.dns.contains(name)) && ip.iter().all(|it| known.ip.contains(it))
    }

    /// Remembers what was found to be permitted together, and so is each of them.
    fn learn(&self, Names { dns, ip }: Names) {
        let mut known = self.known();
        if known.dns.len() + known.ip.len() + dns.len() + ip.len() > KNOWN {
            *known = Known::default();
        }
        known.dns.extend(dns);
        known.ip.extend(ip);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether peers would believe a certificate with these names.
    fn believed(&self, names: &Names) -> Result<(), Unbelieved> {
        self.verified.fetch_add(1, Ordering::Relaxed);
        let serial_number = SerialNumber::from_octets(&[1]).map_err(|_| Unbelieved::Unmade)?;
        let leaf = unsigned(&self.issuer, &self.trust_domain, names, serial_number, self.at)
            .map_err(|_| Unbelieved::Unmade)?;
        let at = u64::try_from(self.at.unix_timestamp()).unwrap_or_default();
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at));
        let leaf = CertificateDer::from(leaf);
        // Names are constrained alike on both sides of a handshake.
        identity::verify_issuer(&leaf, &self.issuers, Usage::Server, at, &self.roots)
            .map_err(Unbelieved::Refused)
    }
}

/// Why a certificate with some names is not believed.
enum Unbelieved {
    Refused(Refusal),
    /// It cannot even be made.
    Unmade,
}

impl NotPermitted {
    /// As an answer to who asked, and for whose row it is.
    pub(crate) fn denied(&self, spiffe_id: &SpiffeId, policy: &ActivePolicy) -> Denied {
        let row = policy.set().workloads().row(spiffe_id).map(|row| row.id.clone());
        let name = &self.name;
        let without = match &row {
            Some(row) => format!(
                "take {name} out of the request, and out of row {row} of workloads.json where it \
                 stands there"
            ),
            None => format!("ask without {name}"),
        };
        let next_step = Some(format!("{without}; or {PERMIT_IT}"));
        Denied { reason: self.to_string(), policies: Vec::new(), row, next_step }
    }

    /// What to do about a row that lists it.
    pub fn next_step(&self, row: &str) -> String {
        format!("take it out of row {row}; or {PERMIT_IT}")
    }
}

/// A certificate as this issuer would make it, with these names and no signature.
pub(crate) fn unsigned(
    issuer: &IssuerCertificate,
    trust_domain: &TrustDomain,
    names: &Names,
    serial_number: SerialNumber,
    now: OffsetDateTime,
) -> Result<Vec<u8>, issuance::Error> {
    let profile = Profile::new(ProfileConfig {
        name: "of nobody's".to_owned(),
        validity: "5m".to_owned(),
        shortest: "5m".to_owned(),
        longest: "5m".to_owned(),
        key_types: vec![KeyType::EcdsaP256],
        common_name: CommonName::None,
        revocation: RevocationInformation::Crl,
    })?;
    let spiffe_id = SpiffeId::authority(trust_domain);
    let prepared = profile.prepare(
        &EndEntity {
            spiffe_id: &spiffe_id,
            dns: &names.dns,
            ip: &names.ip,
            public_key: issuer.public_key(),
            key_type: KeyType::EcdsaP256,
            serial_number,
            validity: None,
            now,
            crl_url: None,
        },
        issuer,
    );
    Ok(issuance::assemble(prepared?.der(), &[]))
}

/// RFC 5280 §4.2.1.10; also where what it says cannot be read.
fn constrains_names(certificate: &X509Certificate<'_>) -> bool {
    certificate.extensions().iter().any(|it| it.oid == OID_X509_EXT_NAME_CONSTRAINTS)
}

/// In how many subtrees a certificate constrains names; more than anybody compares where they cannot be
/// read.
fn subtrees(certificate: &X509Certificate<'_>) -> usize {
    match certificate.name_constraints() {
        Ok(None) => 0,
        Ok(Some(constraints)) => {
            let lists =
                [&constraints.value.permitted_subtrees, &constraints.value.excluded_subtrees];
            lists.into_iter().flatten().map(Vec::len).sum()
        }
        Err(_) => usize::MAX,
    }
}

fn is_self_signed(certificate: &X509Certificate<'_>) -> bool {
    let is_self_issued = certificate.issuer().as_raw() == certificate.subject().as_raw();
    is_self_issued && certificate.verify_signature(None).is_ok()
}

const PERMIT_IT: &str = "have state/issuer.csr certified again, with name constraints that permit it, \
                         or with none: `countersign init --certificate FILE`, on the CA's host";
/// Names that are remembered: those of a large table, in a few megabytes. Beyond them it begins anew.
const KNOWN: usize = 50_000;
/// Verifiers give up at 250,000 comparisons, of whatever kind: far below that they have made all.
const COMPARED: usize = 50_000;
/// Rows looked at together: not so many that a verifier's limit of comparisons is met.
const TOGETHER: usize = 100;

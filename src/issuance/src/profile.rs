//! Profiles: what a "yes" of policy can mean.

use std::time::Duration;

use rcgen::{
    CertificateParams, CrlDistributionPoint, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::dns_name::DnsName;
use crate::end_entity::EndEntity;
use crate::error::{Error, ProfileRule};
use crate::expected::Expected;
use crate::issuer::IssuerCertificate;
use crate::lint::NO_REV_AVAIL;
use crate::request::KeyType;
use crate::tbs::{LintedTbs, encoding};

/// A profile as configuration writes it; [`Profile::new`] enforces its limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileConfig {
    /// How requests name it.
    pub name: String,
    /// Validity when none is asked for: `24h`.
    pub validity: String,
    /// The shortest validity that may be asked for, at least `5m`.
    pub shortest: String,
    /// The longest, at most `7d`.
    pub longest: String,
    /// Key types that may be certified.
    pub key_types: Vec<KeyType>,
    /// What stands in the subject.
    #[serde(default)]
    pub common_name: CommonName,
    /// What a certificate says about revocation.
    #[serde(default)]
    pub revocation: RevocationInformation,
}

/// What stands in the subject's common name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommonName {
    /// The first DNS name: Spring's and nginx's extractors, Kafka and PostgreSQL read it.
    FirstDns,
    /// The subject is empty, and the subjectAltName critical.
    #[default]
    None,
}

/// What a certificate says about revocation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RevocationInformation {
    /// A CRL distribution point, where the CA has a `crl_url`.
    #[default]
    Crl,
    /// `noRevAvail` (RFC 9608): for validities of at most one hour.
    NoneAvailable,
}

/// A template of end-entity certificates whose limits hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    config: ProfileConfig,
    validity: Duration,
    shortest: Duration,
    longest: Duration,
}

impl Profile {
    /// Enforces the limits: 5 min ≤ shortest ≤ validity ≤ longest ≤ 7 d.
    pub fn new(config: ProfileConfig) -> Result<Self, Error> {
        let refuse = |why: String| Error::ProfileConfig { profile: config.name.clone(), why };
        let span = |text: &str| {
            humantime::parse_duration(text)
                .map_err(|error| refuse(format!("{text:?} is no duration such as 24h: {error}")))
        };
        let (validity, shortest, longest) =
            (span(&config.validity)?, span(&config.shortest)?, span(&config.longest)?);
        let ordered = SHORTEST <= shortest && shortest <= validity && validity <= longest;
        if !ordered || longest > LONGEST {
            return Err(refuse("5m ≤ shortest ≤ validity ≤ longest ≤ 7d does not hold".into()));
        }
        if config.key_types.is_empty() || config.name.is_empty() {
            return Err(refuse("it needs a name and at least one key type".into()));
        }
        let none = config.revocation == RevocationInformation::NoneAvailable;
        if none && longest > Duration::from_secs(3600) {
            return Err(refuse("revocation = none-available needs longest ≤ 1h (RFC 9608)".into()));
        }
        Ok(Self { config, validity, shortest, longest })
    }

    /// How requests name it.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// The configuration that it was made of.
    pub fn config(&self) -> &ProfileConfig {
        &self.config
    }

    /// The validity that a request gets: the one asked for, within bounds, or the profile's own.
    pub fn effective_validity(&self, asked: Option<Duration>) -> Result<Duration, Error> {
        match asked {
            None => Ok(self.validity),
            Some(asked) if (self.shortest..=self.longest).contains(&asked) => Ok(asked),
            Some(asked) => Err(self.refuse(ProfileRule::Validity {
                asked: asked.as_secs(),
                shortest: self.shortest.as_secs(),
                longest: self.longest.as_secs(),
            })),
        }
    }

    /// The validity nearest to this one, in seconds, that the profile has.
    pub fn nearest_validity(&self, seconds: u64) -> Duration {
        Duration::from_secs(seconds).clamp(self.shortest, self.longest)
    }

    /// Builds the certificate's bytes to sign and lints them, bare and with a countersignature of
    /// the largest size.
    ///
    /// `not_before` is 60 s before now, `not_after` the validity after it; neither leaves the
    /// issuer's own validity.
    pub fn prepare(
        &self,
        end_entity: &EndEntity<'_>,
        issuer: &IssuerCertificate,
    ) -> Result<LintedTbs, Error> {
        if !self.config.key_types.contains(&end_entity.key_type) {
            return Err(self.refuse(ProfileRule::KeyType(end_entity.key_type.to_string())));
        }
        let validity = self.effective_validity(end_entity.validity)?;
        let (not_before, not_after) = self.period(validity, end_entity.now, issuer)?;
        let common_name = self.common_name(end_entity)?;
        let mut params = CertificateParams::default();
        params.serial_number = Some(end_entity.serial_number.as_octets().to_vec().into());
        params.not_before = not_before;
        params.not_after = not_after;
        params.distinguished_name = DistinguishedName::new();
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name.as_str());
        }
        params.subject_alt_names = names(end_entity)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        if end_entity.crl_url.is_some_and(|url| !url.is_ascii()) {
            // RFC 5280 §4.2.1.6: a URI is an IA5String; the builder panics at another.
            return Err(Error::Encoding("the CRL's URL is not ASCII".to_owned()));
        }
        self.add_revocation_information(&mut params, end_entity.crl_url);

        let tbs = issuer.certificate_to_sign(&params, end_entity.public_key)?;
        let expected = Expected { end_entity, issuer, not_before, not_after, common_name };
        expected.lint(&tbs)?;
        Ok(LintedTbs::new(tbs, not_before, not_after))
    }

    fn period(
        &self,
        validity: Duration,
        now: OffsetDateTime,
        issuer: &IssuerCertificate,
    ) -> Result<(OffsetDateTime, OffsetDateTime), Error> {
        let now = now.replace_nanosecond(0).unwrap_or(now);
        issuer.require_begun(now)?;
        let not_before = (now - BACKDATE).max(issuer.not_before());
        let end = (now + validity).min(issuer.not_after());
        let not_after = end.replace_nanosecond(0).unwrap_or(end);
        if not_after - now < self.shortest {
            return Err(self.refuse(ProfileRule::IssuerEnds));
        }
        Ok((not_before, not_after))
    }

    fn common_name<'a>(&self, end_entity: &EndEntity<'a>) -> Result<Option<&'a DnsName>, Error> {
        match (self.config.common_name, end_entity.dns.first()) {
            (CommonName::None, _) => Ok(None),
            // RFC 5280, Appendix A.1: ub-common-name is 64.
            (CommonName::FirstDns, Some(name)) if name.as_str().len() <= 64 => Ok(Some(name)),
            (CommonName::FirstDns, _) => Err(self.refuse(ProfileRule::CommonName)),
        }
    }

    fn add_revocation_information(&self, params: &mut CertificateParams, crl_url: Option<&str>) {
        match (self.config.revocation, crl_url) {
            (RevocationInformation::NoneAvailable, _) => {
                let null = vec![0x05, 0x00];
                params
                    .custom_extensions
                    .push(CustomExtension::from_oid_content(NO_REV_AVAIL, null));
            }
            (RevocationInformation::Crl, Some(url)) => {
                let uris = vec![url.to_owned()];
                params.crl_distribution_points.push(CrlDistributionPoint { uris });
            }
            (RevocationInformation::Crl, None) => {}
        }
    }

    fn refuse(&self, rule: ProfileRule) -> Error {
        Error::Profile { profile: self.config.name.clone(), rule }
    }
}

fn names(end_entity: &EndEntity<'_>) -> Result<Vec<SanType>, Error> {
    let mut names = vec![SanType::URI(end_entity.spiffe_id.as_str().try_into().map_err(encoding)?)];
    for name in end_entity.dns {
        names.push(SanType::DnsName(name.as_str().try_into().map_err(encoding)?));
    }
    names.extend(end_entity.ip.iter().copied().map(SanType::IpAddress));
    Ok(names)
}

/// Clocks differ; a verifier up to a minute behind takes the certificate at once.
const BACKDATE: time::Duration = time::Duration::seconds(60);
const SHORTEST: Duration = Duration::from_secs(5 * 60);
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

//! Certificates say what was asked, allowed and profiled: nothing less, nothing more.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::Duration;

use identity::{Anchor, Countersignature, CountersignatureKey, Der, LogKey, Trust, TrustState};
use identity::{SerialNumber, SpiffeId, Usage};
use issuance::{CommonName, DnsName, EndEntity, KeyType, Profile, RevocationInformation, lint};
use proptest::prelude::*;
use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::{CertificateDer, UnixTime};
use support::said::{CLIENT_AUTH, NO_REV_AVAIL, SERVER_AUTH, Said, key_id};
use support::{Ca, profile, trust_domain};
use time::OffsetDateTime;

/// One arbitrary issue: what was asked, when, and how long the issuer lasts.
#[derive(Debug, Clone)]
struct Issue {
    spiffe_id: SpiffeId,
    dns: Vec<DnsName>,
    ip: Vec<IpAddr>,
    key_type: KeyType,
    serial_number: SerialNumber,
    validity: Option<Duration>,
    now: OffsetDateTime,
    issuer_not_before: OffsetDateTime,
    issuer_not_after: OffsetDateTime,
    common_name: CommonName,
    revocation: RevocationInformation,
    crl_url: Option<&'static str>,
}

proptest! {
    #[test]
    fn a_certificate_says_exactly_what_was_asked(issue in issue()) {
        let ca = Ca::valid(issue.issuer_not_before, issue.issuer_not_after);
        let public_key = &PUBLIC_KEYS[issue.key_type as usize];
        let prepared = issue.profile().prepare(&issue.end_entity(public_key), &ca.issuer).unwrap();
        let certificate = ca.issue(&prepared);

        let expected = issue.expected(&ca, public_key);
        prop_assert_eq!(&Said::by_x509_parser(&certificate), &expected);
        prop_assert_eq!(&Said::by_x509_cert(&certificate), &expected);
        let period = [prepared.not_before(), prepared.not_after()];
        prop_assert_eq!(period.map(OffsetDateTime::unix_timestamp), expected.validity);
        prop_assert_eq!(lint::certificate(&certificate), vec![]);
        prop_assert_eq!(issuance::equals_prepared(&certificate, prepared.der()), Ok(()));
        let svid = believed(&ca, &certificate, issue.now);
        prop_assert_eq!(svid.spiffe_id(), &issue.spiffe_id);
        prop_assert_eq!(svid.serial_number(), &issue.serial_number);
    }
}

impl Issue {
    fn profile(&self) -> Profile {
        profile(|config| {
            config.common_name = self.common_name;
            config.revocation = self.revocation;
            if self.revocation == RevocationInformation::NoneAvailable {
                config.longest = "1h".to_owned();
            }
        })
    }

    fn end_entity<'a>(&'a self, public_key: &'a [u8]) -> EndEntity<'a> {
        EndEntity {
            spiffe_id: &self.spiffe_id,
            dns: &self.dns,
            ip: &self.ip,
            public_key,
            key_type: self.key_type,
            serial_number: self.serial_number,
            validity: self.validity,
            now: self.now,
            crl_url: self.crl_url,
        }
    }

    /// Written from the rule, not from the code.
    fn expected(&self, ca: &Ca, public_key: &[u8]) -> Said {
        let now = self.now.unix_timestamp();
        let validity = self.validity.map_or(3600, |asked| asked.as_secs() as i64);
        let issuer = Said::subject_of(ca.issuer.der());
        let subject = match self.common_name {
            CommonName::FirstDns => vec![self.dns[0].to_string()],
            CommonName::None => vec![],
        };
        let crl_urls = match self.revocation {
            RevocationInformation::Crl => self.crl_url.map(str::to_owned).into_iter().collect(),
            RevocationInformation::NoneAvailable => vec![],
        };
        Said {
            version: 2,
            serial: integer(self.serial_number.as_octets()),
            issuer,
            validity: [
                (now - 60).max(self.issuer_not_before.unix_timestamp()),
                (now + validity).min(self.issuer_not_after.unix_timestamp()),
            ],
            extensions: self.expected_extensions(subject.is_empty(), !crl_urls.is_empty()),
            subject,
            public_key: public_key.to_vec(),
            uris: vec![self.spiffe_id.to_string()],
            dns: self.dns.iter().map(ToString::to_string).collect(),
            ips: self.ip.clone(),
            key_usage: 1,
            purposes: vec![SERVER_AUTH.to_owned(), CLIENT_AUTH.to_owned()],
            is_ca: false,
            subject_key_id: key_id(public_key),
            authority_key_id: key_id(ca.issuer.public_key()),
            crl_urls,
            signature_algorithms: [
                "1.2.840.10045.4.3.2".to_owned(),
                "1.2.840.10045.4.3.2".to_owned(),
            ],
        }
    }

    /// OID and criticality; the countersignature is the last.
    fn expected_extensions(&self, no_subject: bool, crl: bool) -> Vec<(String, bool)> {
        let none_available = self.revocation == RevocationInformation::NoneAvailable;
        [
            ("2.5.29.35", false, true),
            ("2.5.29.17", no_subject, true),
            ("2.5.29.15", true, true),
            ("2.5.29.37", false, true),
            ("2.5.29.31", false, crl),
            ("2.5.29.14", false, true),
            ("2.5.29.19", true, true),
            (NO_REV_AVAIL, false, none_available),
            ("1.3.6.1.4.1.11129.2.4.2", false, true),
        ]
        .into_iter()
        .filter(|(_, _, stands)| *stands)
        .map(|(oid, critical, _)| (oid.to_owned(), critical))
        .collect()
    }
}

fn issue() -> impl Strategy<Value = Issue> {
    let names = (spiffe_id(), dns(), prop::collection::vec(ip(), 0..4));
    let key = (key_type(), serial_number());
    let choices = (any::<bool>(), any::<bool>(), any::<bool>());
    (names, key, time(), choices).prop_map(|(names, key, time, choices)| {
        let (spiffe_id, dns, ip) = names;
        let (validity, now, before, after) = time;
        let none_available = choices.1 && validity.is_none_or(|asked| asked <= 3600);
        Issue {
            spiffe_id,
            ip,
            key_type: key.0,
            serial_number: key.1,
            validity: validity.map(Duration::from_secs),
            now,
            issuer_not_before: whole_second(now) - time::Duration::seconds(before),
            issuer_not_after: whole_second(now) + time::Duration::seconds(after),
            common_name: match dns.first() {
                Some(name) if choices.0 && name.as_str().len() <= 64 => CommonName::FirstDns,
                _ => CommonName::None,
            },
            revocation: match none_available {
                true => RevocationInformation::NoneAvailable,
                false => RevocationInformation::Crl,
            },
            crl_url: choices.2.then_some("http://pki.pay.example/crl/issuer.crl"),
            dns,
        }
    })
}

fn spiffe_id() -> impl Strategy<Value = SpiffeId> {
    let path = prop_oneof![
        "(/[a-z0-9][a-zA-Z0-9._-]{0,12}){1,6}",
        (1..2000_usize).prop_map(|length| format!("/{}", "x".repeat(length))),
    ];
    path.prop_map(|path| SpiffeId::new(&trust_domain(), &path).unwrap())
}

fn dns() -> impl Strategy<Value = Vec<DnsName>> {
    let name = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\\.[a-z][a-z0-9]{0,8}){0,4}"
        .prop_filter_map("no DNS name", |name| DnsName::parse(&name).ok());
    prop_oneof![
        8 => prop::collection::vec(name.clone(), 0..6),
        1 => prop::collection::vec(name, 100),
    ]
}

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from),]
}

fn key_type() -> impl Strategy<Value = KeyType> {
    prop::sample::select(vec![
        KeyType::EcdsaP256,
        KeyType::EcdsaP384,
        KeyType::Ed25519,
        KeyType::Rsa,
    ])
}

fn serial_number() -> impl Strategy<Value = SerialNumber> {
    let ours = (any::<u64>(), any::<[u8; 14]>())
        .prop_map(|(milliseconds, random)| issuance::serial_number(milliseconds, random));
    let short = prop::collection::vec(any::<u8>(), 1..20)
        .prop_filter_map("zero", |octets| SerialNumber::from_octets(&octets).ok());
    prop_oneof![ours, short]
}

/// Validity asked for, now, and the seconds from the issuer's beginning and to its end.
fn time() -> impl Strategy<Value = (Option<u64>, OffsetDateTime, i64, i64)> {
    let day = 24 * 3600_i64;
    // 2025 to 2064: the form of time changes in 2050.
    let seconds = prop_oneof![1_735_689_600..2_998_000_000_i64, 2_524_600_000..2_524_620_000_i64];
    let now = (seconds, 0..1_000_000_000_i64).prop_map(|(seconds, nanoseconds)| {
        OffsetDateTime::from_unix_timestamp(seconds).unwrap()
            + time::Duration::nanoseconds(nanoseconds)
    });
    let before = prop_oneof![0..120_i64, 0..400_i64 * day];
    let after = prop_oneof![300..7200_i64, 300..400 * day];
    (prop::option::of(300..=7 * 24 * 3600_u64), now, before, after)
}

fn whole_second(time: OffsetDateTime) -> OffsetDateTime {
    time.replace_nanosecond(0).unwrap()
}

/// The content of a DER INTEGER: a zero keeps the sign.
fn integer(octets: &[u8]) -> Vec<u8> {
    if octets[0] & 0x80 == 0 { octets.to_vec() } else { [&[0], octets].concat() }
}

/// What the peers' verifier says of it.
fn believed(ca: &Ca, certificate: &[u8], now: OffsetDateTime) -> identity::VerifiedSvid {
    let state = TrustState {
        v: 1,
        trust_domain: trust_domain(),
        sequence: 1,
        anchors: vec![Anchor {
            certificate: Der::new(&*ca.root),
            countersignature: Countersignature::Required,
        }],
        countersignature_keys: vec![CountersignatureKey {
            key: Der::new(ca.log.subject_public_key_info()),
            not_before: 0,
            not_after: None,
        }],
        log: LogKey { origin: "pay.example/log".to_owned(), key: String::new() },
        feed_keys: vec![],
        trust_keys: vec![],
        threshold: 1,
    };
    let chain = [certificate, ca.issuer.der()].map(CertificateDer::from);
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now.unix_timestamp() as u64));
    let trust = Trust::new(state).unwrap();
    identity::verify(&chain, Usage::Client, now, &trust, &Default::default()).unwrap()
}

/// One of each kind, in the order of [`KeyType`]; the private halves sign nothing here.
static PUBLIC_KEYS: LazyLock<[Vec<u8>; 4]> = LazyLock::new(|| {
    [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ]
    .map(|algorithm| KeyPair::generate_for(algorithm).unwrap().subject_public_key_info())
});

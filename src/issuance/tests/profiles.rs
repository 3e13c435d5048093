//! The limits of a profile, and what it refuses to prepare.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::time::Duration;

use issuance::{
    CommonName, DnsName, Error, KeyType, Profile, ProfileConfig, ProfileRule, RevocationInformation,
};
use rcgen::{KeyPair, PublicKeyData};
use support::said::Said;
use support::{Ca, NOW, OpenSsl, pem, profile, profile_config};

#[test]
fn the_limits_of_a_profile_hold() {
    let table: &[(&str, &str, &str, bool)] = &[
        ("5m", "5m", "5m", true),
        ("24h", "5m", "7d", true),
        ("7d", "7d", "7d", true),
        ("5m", "4m 59s", "7d", false),
        ("24h", "5m", "7d 1s", false),
        ("4m", "5m", "7d", false),
        ("8d", "5m", "7d", false),
        ("2h", "5m", "1h", false),
        ("2h", "3h", "4h", false),
        ("1h", "2h", "30m", false),
        ("0s", "0s", "0s", false),
        ("24", "5m", "7d", false),
        ("", "5m", "7d", false),
        ("-1h", "5m", "7d", false),
        ("24h", "5 minutes or so", "7d", false),
        ("99999999999999999999h", "5m", "7d", false),
    ];
    for (validity, shortest, longest, usable) in table {
        let config = profile_config(|config| {
            config.validity = (*validity).to_owned();
            config.shortest = (*shortest).to_owned();
            config.longest = (*longest).to_owned();
        });
        expect(config, *usable, &format!("{shortest} ≤ {validity} ≤ {longest}"));
    }
}

#[test]
fn a_profile_has_a_name_and_a_key_type() {
    expect(profile_config(|config| config.name = String::new()), false, "no name");
    expect(profile_config(|config| config.key_types = vec![]), false, "no key types");
    expect(profile_config(|config| config.key_types = vec![KeyType::Rsa]), true, "RSA");
}

/// RFC 9608: no revocation information is for certificates that end soon.
#[test]
fn none_available_is_for_an_hour_at_most() {
    for (longest, usable) in [("1h", true), ("1h 1s", false), ("7d", false)] {
        let config = profile_config(|config| {
            config.revocation = RevocationInformation::NoneAvailable;
            config.longest = longest.to_owned();
        });
        expect(config, usable, longest);
    }
}

#[test]
fn a_validity_is_asked_for_within_bounds() {
    let profile = profile(|config| {
        config.shortest = "10m".to_owned();
        config.longest = "2h".to_owned();
    });
    for (asked, expected) in [
        (None, Some(3600)),
        (Some(600), Some(600)),
        (Some(7200), Some(7200)),
        (Some(0), None),
        (Some(599), None),
        (Some(7201), None),
        (Some(8 * 24 * 3600), None),
        (Some(u64::MAX), None),
    ] {
        let effective = profile.effective_validity(asked.map(Duration::from_secs));
        let expected = expected.map(Duration::from_secs).ok_or_else(|| Error::Profile {
            profile: "default".to_owned(),
            rule: ProfileRule::Validity { asked: asked.unwrap(), shortest: 600, longest: 7200 },
        });
        assert_eq!(effective, expected, "{asked:?}");
    }
}

#[test]
fn a_key_type_that_is_not_listed_is_refused() {
    let (ca, key) = (Ca::new(), public_key());
    let profile = profile(|config| config.key_types = vec![KeyType::EcdsaP384, KeyType::Rsa]);
    let refused = ca.prepare(&profile, &key, |_| {});
    assert_eq!(refused, rule(ProfileRule::KeyType("ecdsa-p256".to_owned())));
}

#[test]
fn a_common_name_comes_from_the_first_dns_name_of_at_most_64_bytes() {
    let (ca, key) = (Ca::new(), public_key());
    let profile = profile(|config| config.common_name = CommonName::FirstDns);
    let name = |length: usize| {
        let text = format!("{}.{}", "a".repeat(60), "b".repeat(length - 61));
        DnsName::parse(&text).unwrap()
    };
    let other = DnsName::parse("reports").unwrap();
    for (dns, subject) in [
        (vec![], None),
        (vec![name(64)], Some(name(64))),
        (vec![name(65)], None),
        (vec![name(65), other.clone()], None),
        (vec![other.clone(), name(65)], Some(other)),
    ] {
        let prepared = ca.prepare(&profile, &key, |end_entity| end_entity.dns = leak(dns));
        match subject {
            None => assert_eq!(prepared, rule(ProfileRule::CommonName)),
            Some(name) => {
                let said = Said::by_x509_cert(&ca.issue(&prepared.unwrap()));
                assert_eq!(said.subject, [name.as_str()]);
            }
        }
    }
}

#[test]
fn an_issuer_that_ends_too_soon_issues_nothing() {
    let key = public_key();
    for (left, possible) in [(300, true), (299, false), (0, false), (-1, false)] {
        let end = NOW + time::Duration::seconds(left);
        let ca = Ca::valid(NOW - time::Duration::days(1), end);
        let prepared = ca.prepare(&profile(|_| {}), &key, |_| {});
        match possible {
            true => assert_eq!(prepared.unwrap().not_after(), end),
            false => assert_eq!(prepared, rule(ProfileRule::IssuerEnds)),
        }
    }
}

#[test]
fn a_certificate_begins_a_minute_ago_and_never_before_its_issuer() {
    let key = public_key();
    for (age, expected) in [(3600, 60), (60, 60), (59, 59), (0, 0)] {
        let begins = NOW - time::Duration::seconds(age);
        let ca = Ca::valid(begins, NOW + time::Duration::days(1));
        let prepared = ca.prepare(&profile(|_| {}), &key, |_| {}).unwrap();
        assert_eq!(prepared.not_before(), NOW - time::Duration::seconds(expected));
    }
}

#[test]
fn an_issuer_from_the_future_issues_nothing_and_says_when_it_begins() {
    for later in [time::Duration::SECOND, time::Duration::hours(2), time::Duration::days(2)] {
        let not_before = NOW + later;
        let ca = Ca::valid(not_before, not_before + time::Duration::days(365));
        let refused = ca.prepare(&profile(|_| {}), &public_key(), |_| {});
        assert_eq!(refused, Err(Error::IssuerBegins { not_before, now: NOW }));
    }
}

#[test]
fn fractions_of_a_second_stand_in_no_certificate_and_in_no_record() {
    let ca = Ca::new();
    let prepared = ca.prepare(&profile(|_| {}), &public_key(), |end_entity| {
        end_entity.now += time::Duration::milliseconds(999);
        end_entity.validity = Some(Duration::from_millis(600_500));
    });
    let prepared = prepared.unwrap();
    let said = Said::by_x509_cert(&ca.issue(&prepared));
    let period = [prepared.not_before(), prepared.not_after()];
    let whole = said.validity.map(|s| time::OffsetDateTime::from_unix_timestamp(s).unwrap());
    assert_eq!(period, whole);
}

#[test]
fn a_public_key_that_cannot_be_read_is_refused() {
    let (ca, key) = (Ca::new(), public_key());
    for broken in [&[][..], &key[1..], &key[..90], &[&key[..], &[0]].concat(), b"hello"] {
        let refused = ca.prepare(&profile(|_| {}), broken, |_| {});
        assert!(matches!(refused, Err(Error::Encoding(_))), "{refused:?}");
    }
}

/// RFC 5280 §4.1.2.2: 20 octets are the sign's too.
#[test]
fn a_serial_number_that_needs_a_21st_octet_is_linted_away() {
    let (ca, key) = (Ca::new(), public_key());
    for (first, possible) in [(0x7f, true), (0x80, false)] {
        let octets = [&[first][..], &[0xff; 19]].concat();
        let prepared = ca.prepare(&profile(|_| {}), &key, |end_entity| {
            end_entity.serial_number = identity::SerialNumber::from_octets(&octets).unwrap();
        });
        match prepared {
            Ok(_) => assert!(possible),
            Err(Error::Lint(_)) => assert!(!possible),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_crl_url_that_is_not_ascii_is_refused() {
    let (ca, key) = (Ca::new(), public_key());
    let url = "http://pki.päy.example/issuer.crl";
    let prepared = ca.prepare(&profile(|_| {}), &key, |end_entity| end_entity.crl_url = Some(url));
    assert!(matches!(prepared, Err(Error::Encoding(_))), "{prepared:?}");
}

#[test]
fn a_certificate_that_differs_from_what_was_prepared_is_noticed() {
    let (ca, key) = (Ca::new(), public_key());
    let prepared = ca.prepare(&profile(|_| {}), &key, |_| {}).unwrap();
    let other = ca.prepare(&profile(|_| {}), &key, |end_entity| {
        end_entity.serial_number = issuance::serial_number(1, [1; 14]);
    });
    let certificate = ca.issue(&prepared);
    let other = ca.issue(&other.unwrap());
    let without_sct = ca.sign(prepared.der());
    let trailing = [&certificate[..], &[0]].concat();
    let parts = tlog::split_certificate(&certificate).unwrap();
    let sha512 = &[0x30, 0x0a, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4];
    let algorithm = tlog::join_certificate(parts.tbs, sha512, parts.signature);
    assert_eq!(issuance::equals_prepared(&certificate, prepared.der()), Ok(()));
    for differs in [&other[..], &without_sct, &trailing, &algorithm, prepared.der(), &[]] {
        let noticed = issuance::equals_prepared(differs, prepared.der());
        assert_eq!(noticed, Err(Error::Signed));
    }
}

/// Each kind of key, the subject empty or not, with a CRL or none.
#[test]
fn openssl_verifies_each_kind_of_certificate_strictly() {
    let (ca, openssl) = (Ca::new(), OpenSsl::new());
    openssl.write("root.pem", pem("CERTIFICATE", &ca.root));
    openssl.write("issuer.pem", pem("CERTIFICATE", ca.issuer.der()));
    let dns = leak(vec![DnsName::parse("reports.pay.internal").unwrap()]);
    for (algorithm, key_type) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, KeyType::EcdsaP256),
        (&rcgen::PKCS_ECDSA_P384_SHA384, KeyType::EcdsaP384),
        (&rcgen::PKCS_ED25519, KeyType::Ed25519),
        (&rcgen::PKCS_RSA_SHA256, KeyType::Rsa),
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap().subject_public_key_info();
        for common_name in [CommonName::None, CommonName::FirstDns] {
            let profile = profile(|config| config.common_name = common_name);
            let prepared = ca.prepare(&profile, &key, |end_entity| {
                end_entity.key_type = key_type;
                end_entity.dns = dns;
                end_entity.crl_url = Some("http://pki.pay.example/issuer.crl");
            });
            let certificate = ca.issue(&prepared.unwrap());
            openssl.write("leaf.pem", pem("CERTIFICATE", &certificate));
            for purpose in ["sslserver", "sslclient"] {
                openssl.run(&format!(
                    "verify -x509_strict -purpose {purpose} -attime {} -CAfile root.pem \
                     -untrusted issuer.pem leaf.pem",
                    NOW.unix_timestamp()
                ));
            }
            assert!(
                openssl.run("x509 -in leaf.pem -noout -text").contains("CT Precertificate SCTs")
            );
        }
    }
}

fn expect(config: ProfileConfig, usable: bool, why: &str) {
    match Profile::new(config.clone()) {
        Ok(profile) => {
            assert!(usable, "taken: {why}");
            assert_eq!((profile.name(), profile.config()), (&*config.name, &config));
        }
        Err(Error::ProfileConfig { profile, .. }) => {
            assert!(!usable, "refused: {why}");
            assert_eq!(profile, config.name);
        }
        Err(other) => panic!("{why}: {other}"),
    }
}

fn rule<T>(rule: ProfileRule) -> Result<T, Error> {
    Err(Error::Profile { profile: "default".to_owned(), rule })
}

fn public_key() -> Vec<u8> {
    KeyPair::generate().unwrap().subject_public_key_info()
}

fn leak(names: Vec<DnsName>) -> &'static [DnsName] {
    names.leak()
}

//! Roots and issuers: what we prepare, and whose certificate we issue under.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use identity::SerialNumber;
use issuance::{
    CaCertificate, Error, IssuerCertificate, assemble, prepare_issuer, prepare_issuer_request,
    prepare_root,
};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue,
    GeneralSubtree, IsCa, KeyPair, KeyUsagePurpose, NameConstraints, PublicKeyData, SanType,
    SignatureAlgorithm, SigningKey,
};
use support::der::{Tbs, element};
use support::said::key_id;
use support::{Ca, NOW, OpenSsl, pem, profile, trust_domain};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

#[test]
fn openssl_verifies_the_chain_strictly() {
    let (ca, openssl) = (Ca::new(), OpenSsl::new());
    openssl.write("root.pem", pem("CERTIFICATE", &ca.root));
    openssl.write("issuer.pem", pem("CERTIFICATE", ca.issuer.der()));
    openssl.write("leaf.pem", pem("CERTIFICATE", &ca.certificate()));
    let at = NOW.unix_timestamp();
    openssl.run(&format!("verify -x509_strict -attime {at} -CAfile root.pem root.pem issuer.pem"));
    openssl.run(&format!(
        "verify -x509_strict -attime {at} -CAfile root.pem -untrusted issuer.pem leaf.pem"
    ));
}

#[test]
fn root_and_issuer_say_what_they_are() {
    let ca = Ca::new();
    let root_key = ca.root_key.subject_public_key_info();
    let key = ca.key.subject_public_key_info();
    for (der, name, serial, path_length, key, parent_key) in [
        (&ca.root[..], "Pay root", [1], 1, &root_key, &root_key),
        (ca.issuer.der(), "Pay issuer", [2], 0, &key, &root_key),
    ] {
        let (_, certificate) = X509Certificate::from_der(der).unwrap();
        assert_eq!(certificate.subject().to_string(), format!("O=pay.example, CN={name}"));
        assert_eq!(certificate.issuer().to_string(), "O=pay.example, CN=Pay root");
        assert_eq!(certificate.raw_serial(), serial);
        assert_eq!(certificate.public_key().raw, key);
        let constraints = certificate.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(path_length));
        let usage = certificate.key_usage().unwrap().unwrap();
        assert_eq!((usage.critical, usage.value.flags), (true, 1 << 5 | 1 << 6));
        let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(names[..], [GeneralName::URI("spiffe://pay.example")]);
        assert!(certificate.extended_key_usage().unwrap().is_none());
        assert!(certificate.name_constraints().unwrap().is_none());
        let [subject_key_id, authority_key_id] = [key, parent_key].map(|spki| key_id(spki));
        let openssl = OpenSsl::new();
        openssl.write("ca.der", der);
        let text = openssl.run("x509 -in ca.der -inform DER -noout -text");
        let hex = |id: &[u8]| id.iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(":");
        assert_eq!(
            text.matches(&hex(&subject_key_id)).count(),
            if parent_key == key { 2 } else { 1 }
        );
        assert_eq!(
            text.matches(&hex(&authority_key_id)).count(),
            if parent_key == key { 2 } else { 1 }
        );
    }
}

#[test]
fn an_issuer_never_outlives_its_parent() {
    let ca = Ca::new();
    let parent = IssuerCertificate::from_der(&ca.root).unwrap();
    let key = ca.key.subject_public_key_info();
    let issuer = CaCertificate {
        not_before: parent.not_before() - time::Duration::days(1),
        not_after: parent.not_after() + time::Duration::days(1),
        ..describe(&key)
    };
    let tbs = prepare_issuer(&issuer, &parent).unwrap();
    let issuer = IssuerCertificate::from_der(&assemble(&tbs, &ca.root_key.sign(&tbs).unwrap()));
    let issuer = issuer.unwrap();
    assert_eq!(issuer.not_before(), parent.not_before());
    assert_eq!(issuer.not_after(), parent.not_after());
}

#[test]
fn a_validity_that_ends_before_it_begins_is_linted_away() {
    let key = KeyPair::generate().unwrap().subject_public_key_info();
    let backwards = CaCertificate { not_after: NOW - time::Duration::days(2), ..describe(&key) };
    let refused = prepare_root(&backwards);
    assert!(matches!(refused, Err(Error::Lint(_))), "{refused:?}");
}

#[test]
fn a_long_trust_domain_fits_the_organization() {
    let domain = identity::TrustDomain::parse(&format!("{}.example", "a".repeat(100))).unwrap();
    let key = KeyPair::generate().unwrap();
    let spki = key.subject_public_key_info();
    let tbs = prepare_root(&CaCertificate { trust_domain: &domain, ..describe(&spki) }).unwrap();
    let der = assemble(&tbs, &key.sign(&tbs).unwrap());
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    let organization = certificate.subject().iter_organization().next().unwrap();
    assert_eq!(organization.as_str().unwrap(), "a".repeat(64));
    assert!(IssuerCertificate::from_der(&der).is_ok());
}

#[test]
fn a_foreign_parent_certifies_our_request() {
    let (openssl, key) = (OpenSsl::new(), KeyPair::generate().unwrap());
    let spki = key.subject_public_key_info();
    let request = prepare_issuer_request(&trust_domain(), "Pay issuer", &spki).unwrap();
    let request = assemble(&request, &key.sign(&request).unwrap());
    openssl.write("issuer.csr", pem("CERTIFICATE REQUEST", &request));
    let text = openssl.run("req -in issuer.csr -verify -noout -text");
    for said in ["CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign", "URI:spiffe://pay.example"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    openssl.write("corporate.cnf", "[req]\nprompt=no\ndistinguished_name=n\n[n]\nCN=Corporate\n");
    openssl.run(
        "req -x509 -config corporate.cnf -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes \
         -keyout root.key -out root.pem -days 3650 -addext basicConstraints=critical,CA:TRUE \
         -addext keyUsage=critical,keyCertSign,cRLSign -addext subjectKeyIdentifier=hash",
    );
    openssl.write("issuer.cnf", "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n");
    openssl.run(
        "x509 -req -in issuer.csr -CA root.pem -CAkey root.key -set_serial 4711 -days 3650 \
         -copy_extensions copyall -extfile issuer.cnf -out issuer.pem -sha384",
    );
    let issuer = IssuerCertificate::from_der(&support::unpem(&openssl.read("issuer.pem"))).unwrap();
    assert_eq!(issuer.serial_number().as_octets(), [0x12, 0x67]);
    assert_eq!(issuer.public_key(), spki);

    let ca = Ca { issuer, key, ..Ca::new() };
    let now = ca.issuer.not_before() + time::Duration::hours(1);
    let leaf = KeyPair::generate().unwrap().subject_public_key_info();
    let prepared = ca.prepare(&profile(|_| {}), &leaf, |end_entity| end_entity.now = now).unwrap();
    openssl.write("leaf.pem", pem("CERTIFICATE", &ca.issue(&prepared)));
    openssl.run(&format!(
        "verify -x509_strict -attime {} -CAfile root.pem -untrusted issuer.pem leaf.pem",
        now.unix_timestamp()
    ));
}

#[test]
fn a_flawless_foreign_issuer_is_taken() {
    foreign(|_| {}).unwrap();
    let dns_only = NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("pay.internal".to_owned())],
        excluded_subtrees: vec![],
    };
    foreign(|params| params.name_constraints = Some(dns_only)).unwrap();
    foreign(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))).unwrap();
    let names = [(DnType::OrganizationName, "Päy"), (DnType::CountryName, "DE")];
    foreign(|params| {
        for (attribute, value) in names {
            params.distinguished_name.push(attribute, value);
        }
    })
    .unwrap();
}

#[test]
fn an_issuer_with_a_uri_name_constraint_is_refused() {
    for (tag, name) in [(0xa0, "pay.example"), (0xa0, ".pay.example"), (0xa1, "evil.example")] {
        let subtree = element(0x30, &[&element(0x86, &[name.as_bytes()])]);
        let content = element(0x30, &[&element(tag, &[&subtree])]);
        let mut constraint = CustomExtension::from_oid_content(&[2, 5, 29, 30], content);
        constraint.set_criticality(true);
        expect_lint(foreign(|params| params.custom_extensions.push(constraint)), "URI name");
    }
}

#[test]
fn a_certificate_that_may_not_issue_is_refused() {
    expect_lint(foreign(|params| params.is_ca = IsCa::ExplicitNoCa), "cA=true");
    let usages = |usages| move |params: &mut CertificateParams| params.key_usages = usages;
    use KeyUsagePurpose::{CrlSign, DigitalSignature, KeyCertSign};
    for lacking in [vec![], vec![KeyCertSign], vec![CrlSign], vec![DigitalSignature]] {
        expect_lint(foreign(usages(lacking)), "keyCertSign and cRLSign");
    }
}

#[test]
fn an_issuer_without_subject_key_identifier_is_refused() {
    let der = edited(|tbs| {
        tbs.extensions.retain(|extension| !extension[2..].starts_with(&[6, 3, 0x55, 0x1d, 14]));
    });
    expect_lint(IssuerCertificate::from_der(&der), "subject key identifier");
}

#[test]
fn an_issuer_whose_key_is_not_p256_is_refused() {
    for algorithm in [&rcgen::PKCS_RSA_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519]
    {
        let refused = foreign_with(algorithm, |_| {});
        let refused = refused.map(|issuer| issuer.public_key().len());
        let text = refused.expect_err("our signatures are ECDSA on P-256").to_string();
        assert!(text.contains("P-256"), "{text}");
    }
}

/// Each would come out of the builder as another name, and no chain would hold.
#[test]
fn an_issuer_whose_name_would_change_is_refused() {
    let attribute = |oid: u8, tag: u8, text: &[u8]| {
        element(0x30, &[&element(0x06, &[&[0x55, 4, oid]]), &element(tag, &[text])])
    };
    let set = |attributes: &[&[u8]]| element(0x31, attributes);
    let (cn, ou) = (attribute(3, 0x0c, b"Pay issuer"), attribute(11, 0x0c, b"a"));
    let other_ou = attribute(11, 0x0c, b"b");
    for (subject, why) in [
        (vec![set(&[&ou]), set(&[&other_ou]), set(&[&cn])], "an attribute twice"),
        (vec![set(&[&ou]), set(&[&cn]), set(&[&ou])], "an attribute twice, the same"),
        (vec![set(&[&ou, &cn])], "two attributes in one RDN"),
        (vec![set(&[&attribute(3, 0x13, b"Pay issuer")])], "a PrintableString"),
    ] {
        let der = edited(|tbs| tbs.fields[5] = element(0x30, &[&subject.concat()]));
        let refused = IssuerCertificate::from_der(&der).map(|issuer| *issuer.serial_number());
        let text = refused.expect_err(why).to_string();
        assert!(text.contains("cannot be copied exactly"), "{why}: {text}");
    }
}

#[test]
fn an_issuer_whose_name_is_no_text_is_refused() {
    for (tag, text) in [(0x1e, &[0, 0x50][..]), (0x0c, &[0xff, 0xfe]), (0x04, b"Pay")] {
        let attribute = element(0x30, &[&[6, 3, 0x55, 4, 3], &element(tag, &[text])]);
        let subject = element(0x30, &[&element(0x31, &[&attribute])]);
        let refused = IssuerCertificate::from_der(&edited(|tbs| tbs.fields[5] = subject));
        assert!(matches!(refused, Err(Error::Encoding(_))), "{refused:?}");
    }
}

/// RFC 5280 §4.1.2.6: the subject of a CA certificate is not empty.
#[test]
fn an_issuer_without_a_name_is_refused() {
    let der = edited(|tbs| tbs.fields[5] = element(0x30, &[]));
    let refused = IssuerCertificate::from_der(&der).map(|issuer| *issuer.serial_number());
    assert!(refused.is_err(), "taken, and every certificate below it fails the linter");
}

#[test]
fn bytes_that_are_no_certificate_are_refused() {
    let root = Ca::new().root;
    let trailing = [&root[..], &[0]].concat();
    for bytes in [&[][..], b"hello", &root[..100], &trailing, pem("CERTIFICATE", &root).as_bytes()]
    {
        assert!(matches!(IssuerCertificate::from_der(bytes), Err(Error::Encoding(_))));
    }
}

fn describe(public_key: &[u8]) -> CaCertificate<'_> {
    static DOMAIN: std::sync::LazyLock<identity::TrustDomain> =
        std::sync::LazyLock::new(trust_domain);
    CaCertificate {
        trust_domain: &DOMAIN,
        common_name: "Pay",
        public_key,
        serial_number: SerialNumber::from_octets(&[3]).unwrap(),
        not_before: NOW - time::Duration::days(1),
        not_after: NOW + time::Duration::days(1),
    }
}

/// A CA certificate made by others, flawless but for the edit.
fn foreign(edit: impl FnOnce(&mut CertificateParams)) -> Result<IssuerCertificate, Error> {
    foreign_with(&rcgen::PKCS_ECDSA_P256_SHA256, edit)
}

fn foreign_with(
    algorithm: &'static SignatureAlgorithm,
    edit: impl FnOnce(&mut CertificateParams),
) -> Result<IssuerCertificate, Error> {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let name = DnValue::Utf8String("Pay issuer".to_owned());
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![SanType::URI("spiffe://pay.example".try_into().unwrap())];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = NOW;
    params.not_after = NOW + time::Duration::days(1);
    edit(&mut params);
    IssuerCertificate::from_der(params.self_signed(&key).unwrap().der())
}

/// Our issuer's certificate with its bytes edited.
fn edited(edit: impl FnOnce(&mut Tbs)) -> Vec<u8> {
    let ca = Ca::new();
    let mut tbs = Tbs::parse(tlog::split_certificate(ca.issuer.der()).unwrap().tbs);
    edit(&mut tbs);
    ca.sign(&tbs.encode())
}

fn expect_lint(refused: Result<IssuerCertificate, Error>, detail: &str) {
    match refused {
        Err(Error::Lint(findings)) => {
            let [finding] = &findings[..] else { panic!("{findings:?}") };
            assert!(finding.detail.contains(detail), "{finding}");
        }
        other => panic!("{detail}: {:?}", other.map(|issuer| *issuer.serial_number())),
    }
}

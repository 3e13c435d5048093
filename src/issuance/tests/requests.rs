//! Certificate requests, made by OpenSSL: what is taken of them, and what is not.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use issuance::{CertificateRequest, Error, KeyType, RequestRule};
use support::{OpenSsl, id, pem, unpem};

#[test]
fn each_kind_of_key_is_taken_with_exactly_its_public_key() {
    for (new_key, sign, key_type) in [
        (P256, "-sha256", KeyType::EcdsaP256),
        (P256, "-sha384", KeyType::EcdsaP256),
        (P384, "-sha256", KeyType::EcdsaP384),
        (P384, "-sha384", KeyType::EcdsaP384),
        (ED25519, "", KeyType::Ed25519),
        (RSA_2048, "-sha256", KeyType::Rsa),
        (RSA_2048, "-sha384", KeyType::Rsa),
        (RSA_2048, "-sha512", KeyType::Rsa),
        ("-newkey rsa:3072", "-sha256", KeyType::Rsa),
        ("-newkey rsa:4096", "-sha256", KeyType::Rsa),
    ] {
        let openssl = OpenSsl::new();
        let request = parse(&openssl, new_key, sign).unwrap();
        openssl.run("req -in csr.pem -pubkey -noout -out public.pem");
        assert_eq!(request.public_key(), unpem(&openssl.read("public.pem")), "{new_key}");
        assert_eq!(request.key_type(), key_type, "{new_key}");
        assert_eq!(*request.hash(), tlog::Hash::of(&unpem(&openssl.read("csr.pem"))));
    }
}

#[test]
fn names_are_taken_in_order_and_the_subject_is_not() {
    let openssl = OpenSsl::new();
    let names = "URI:spiffe://pay.example/prod/reports,DNS:b.pay.internal,IP:10.0.0.1,\
                 DNS:a.pay.internal,IP:fd00::1";
    let request = parse(&openssl, P256, &extension("subjectAltName", names)).unwrap();
    assert_eq!(request.names().spiffe_id, Some(id()));
    let dns: Vec<_> = request.names().dns.iter().map(ToString::to_string).collect();
    assert_eq!(dns, ["b.pay.internal", "a.pay.internal"]);
    assert_eq!(
        request.names().ip,
        ["10.0.0.1", "fd00::1"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap())
    );
    let request = parse(&OpenSsl::new(), P256, "-sha256").unwrap();
    assert_eq!(*request.names(), Default::default());
}

#[test]
fn extensions_and_attributes_that_say_nothing_to_us_are_no_reason_to_refuse() {
    for (name, value, unheeded) in [
        ("subjectKeyIdentifier", "hash", &[][..]),
        ("basicConstraints", "critical,CA:FALSE", &[]),
        ("keyUsage", "critical,digitalSignature", &[]),
        ("extendedKeyUsage", "serverAuth,clientAuth", &[]),
        ("keyUsage", "digitalSignature,keyEncipherment", &["keyUsage keyEncipherment"]),
        ("1.3.6.1.4.1.99999.1", "ASN1:UTF8String:appliance", &["1.3.6.1.4.1.99999.1"]),
        ("nsComment", "made_by_an_appliance", &["2.16.840.1.113730.1.13"]),
        ("certificatePolicies", "1.2.3.4", &["certificatePolicies"]),
    ] {
        let request = parse(&OpenSsl::new(), P256, &extension(name, value)).unwrap();
        assert_eq!(*request.names(), Default::default(), "{name}");
        assert_eq!(request.unheeded(), unheeded, "{name}: told to whoever asked");
    }
    for attribute in ["challengePassword = secret", "unstructuredName = Some appliance"] {
        let openssl = OpenSsl::new();
        openssl.write("attributes.cnf", format!("{CONFIG}[attributes]\n{attribute}\n"));
        let edited = openssl.path("attributes.cnf");
        let request = parse(&openssl, P256, &format!("-config {}", edited.display()));
        assert!(openssl.run("req -in csr.pem -noout -text").contains(&attribute[..9]));
        assert!(request.is_ok(), "{attribute}: {request:?}");
    }
}

#[test]
fn a_wish_that_changes_what_a_certificate_is_for_is_refused_by_its_name() {
    for (name, value, found) in [
        ("extendedKeyUsage", "codeSigning", "codeSigning"),
        ("extendedKeyUsage", "serverAuth,emailProtection", "emailProtection"),
        ("extendedKeyUsage", "clientAuth,1.3.6.1.4.1.311.20.2.2", "1.3.6.1.4.1.311.20.2.2"),
        ("1.3.6.1.4.1.99999.2", "critical,DER:0500", "1.3.6.1.4.1.99999.2, which is marked"),
        ("tlsfeature", "status_request", "tlsFeature"),
        ("nameConstraints", "permitted;DNS:pay.internal", "nameConstraints"),
    ] {
        match refusal(&OpenSsl::new(), P256, &extension(name, value)) {
            RequestRule::Extension(what) => assert!(what.contains(found), "{name}: {what}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    for usage in ["critical,keyCertSign", "digitalSignature,cRLSign"] {
        let refused = refusal(&OpenSsl::new(), P256, &extension("keyUsage", usage));
        assert_eq!(refused, RequestRule::CertificateAuthority, "{usage}");
    }
}

#[test]
fn text_around_the_block_and_the_older_label_are_taken() {
    let openssl = OpenSsl::new();
    let plain = parse(&openssl, P256, "-sha256").unwrap();
    let printed = openssl.run("req -in csr.pem -text");
    assert_eq!(CertificateRequest::parse_pem(&printed), Ok(plain.clone()));
    let older = openssl.run("req -in csr.pem -newhdr");
    assert!(older.contains("NEW CERTIFICATE REQUEST"));
    assert_eq!(CertificateRequest::parse_pem(&older), Ok(plain.clone()));
    let crlf = openssl.read("csr.pem").replace('\n', "\r\n");
    assert_eq!(CertificateRequest::parse_pem(&crlf), Ok(plain));
}

#[test]
fn keys_that_we_do_not_certify_are_refused_by_what_they_are() {
    for (new_key, found) in [
        (&*ec("P-521"), "elliptic curve 1.3.132.0.35"),
        (&*ec("secp256k1"), "elliptic curve 1.3.132.0.10"),
        (&*ec("P-224"), "elliptic curve 1.3.132.0.33"),
        (&*ec("brainpoolP256r1"), "elliptic curve 1.3.36.3.3.2.8.1.1.7"),
        ("-newkey rsa:1024", "RSA of 1024 bits"),
        ("-newkey rsa:4104", "RSA of 4104 bits"),
        ("-newkey rsa-pss", "algorithm 1.2.840.113549.1.1.10"),
        ("-newkey ed448", "algorithm 1.3.101.113"),
    ] {
        match refusal(&OpenSsl::new(), new_key, "") {
            RequestRule::Key(what) => assert!(what.contains(found), "{new_key}: {what}"),
            other => panic!("{new_key}: {other:?}"),
        }
    }
}

#[test]
fn a_curve_without_a_name_is_refused_in_few_words() {
    let explicit = format!("{P256} -pkeyopt ec_param_enc:explicit");
    let refused = refusal(&OpenSsl::new(), &explicit, "-sha256");
    assert_eq!(refused, RequestRule::Key("on an elliptic curve without a name".to_owned()));
}

#[test]
fn the_bits_of_an_rsa_key_are_counted_exactly() {
    for bits in [2047, 4098] {
        let refused = refusal(&OpenSsl::new(), &format!("-newkey rsa:{bits}"), "-sha256");
        assert_eq!(refused, RequestRule::Key(format!("RSA of {bits} bits")));
    }
}

#[test]
fn a_compressed_point_is_refused() {
    let openssl = OpenSsl::new();
    openssl.run("ecparam -name prime256v1 -genkey -noout -conv_form compressed -out key.pem");
    openssl.run("ec -in key.pem -conv_form compressed -out compressed.pem");
    let refused = refusal(&openssl, "-key compressed.pem", "-sha256");
    assert_eq!(refused, RequestRule::Key("an EC point in compressed form".to_owned()));
}

#[test]
fn weak_and_unusual_signature_algorithms_are_refused_by_name() {
    for (new_key, sign, name) in [
        (P256, "-sha1", "SHA-1"),
        (RSA_2048, "-sha1", "SHA-1"),
        (RSA_2048, "-md5", "MD5"),
        (P256, "-sha512", "SHA-512"),
        (P384, "-sha512", "SHA-512"),
        (P256, "-sha224", "algorithm 1.2.840.10045.4.3.1"),
        (RSA_2048, "-sha256 -sigopt rsa_padding_mode:pss", "RSA-PSS"),
        (RSA_2048, "-sha3-256", "algorithm 2.16.840.1.101.3.4.3.14"),
    ] {
        let refused = refusal(&OpenSsl::new(), new_key, sign);
        assert_eq!(refused, RequestRule::SignatureAlgorithm(name.to_owned()));
    }
}

#[test]
fn a_request_for_a_ca_certificate_is_refused() {
    for value in ["CA:TRUE", "critical,CA:TRUE", "critical,CA:TRUE,pathlen:0"] {
        let refused = refusal(&OpenSsl::new(), P256, &extension("basicConstraints", value));
        assert_eq!(refused, RequestRule::CertificateAuthority);
    }
}

#[test]
fn names_that_no_policy_could_allow_are_refused() {
    let many = |count: usize| {
        let names: Vec<_> = (0..count).map(|n| format!("DNS:n{n}.pay.internal")).collect();
        names.join(",")
    };
    for (names, found) in [
        ("URI:spiffe://pay.example/a,URI:spiffe://pay.example/b", "more than one URI"),
        ("URI:spiffe://pay.example/a,URI:https://pay.example/", "more than one URI"),
        ("URI:https://pay.example/", "does not start with spiffe://"),
        ("URI:spiffe://pay.example/a/../b", "\"..\""),
        ("DNS:*.pay.internal", "wildcards"),
        ("DNS:Reports.pay.internal", "lower case"),
        ("DNS:10.0.0.1", "looks like an IP address"),
        ("DNS:reports.pay.internal.", "labels"),
        ("DNS:b\u{fc}cher.pay.internal", "in ASCII"),
        ("email:reports@pay.example", "neither URI, DNS nor IP"),
        ("otherName:1.2.3.4;UTF8:reports", "neither URI, DNS nor IP"),
        ("RID:1.2.3.4", "neither URI, DNS nor IP"),
    ] {
        match refusal(&OpenSsl::new(), P256, &extension("subjectAltName", names)) {
            RequestRule::Names(why) => assert!(why.contains(found), "{names}: {why}"),
            other => panic!("{names}: {other:?}"),
        }
    }
    let refused = refusal(&OpenSsl::new(), P256, &extension("subjectAltName", &many(101)));
    assert_eq!((&refused, refused.name()), (&RequestRule::TooManyNames, "names"));
    assert!(refused.to_string().contains("more than 100 names"), "{refused}");
    let most = parse(&OpenSsl::new(), P256, &extension("subjectAltName", &many(100))).unwrap();
    assert_eq!(most.names().dns.len(), 100);
}

/// Else a wish would be lost: `DNS:a` and behind it, outside of the names, `DNS:b`. Nor are the
/// names in anything but a SEQUENCE.
#[test]
fn names_behind_the_names_are_refused() {
    for names in ["30038201613003820162", "3003820161ff", "b003820161", "1003820161"] {
        let names = extension("subjectAltName", &format!("DER:{names}"));
        let refused = refusal(&OpenSsl::new(), P256, &names);
        let is_it = matches!(&refused, RequestRule::Broken { part: "subjectAltName", .. });
        assert!(is_it, "{refused:?}");
    }
    let names = extension("subjectAltName", "DER:3003820161");
    assert_eq!(parse(&OpenSsl::new(), P256, &names).unwrap().names().dns.len(), 1);
}

#[test]
fn what_is_no_request_at_all_is_refused_as_such() {
    let openssl = OpenSsl::new();
    openssl.run(&format!("req -x509 {P256} -nodes -keyout key.pem -subj /CN=x -out cert.pem"));
    let certificate = openssl.read("cert.pem");
    let key = openssl.read("key.pem");
    parse(&openssl, P256, "").unwrap();
    let csr = openssl.read("csr.pem");
    let relabelled = pem("CERTIFICATE REQUEST", &unpem(&certificate));
    for (text, rule) in [
        (String::new(), RequestRule::Empty),
        (" \r\n\t ".to_owned(), RequestRule::Empty),
        (pem("CERTIFICATE REQUEST", &[]), RequestRule::Empty),
        (relabelled, RequestRule::Malformed),
        (pem("CERTIFICATE REQUEST", b"hello"), RequestRule::Malformed),
    ] {
        let refused = CertificateRequest::parse_pem(&text);
        assert_eq!(refused, Err(Error::Request(rule)), "{}", text.get(..60).unwrap_or(&text));
    }
    let expected_one = "expected one CERTIFICATE REQUEST";
    for (text, found) in [
        ("hello".to_owned(), expected_one),
        (certificate.clone(), "has a block CERTIFICATE (line 1)"),
        (key, "has a block PRIVATE KEY (line 1)"),
        (format!("{csr}{csr}"), "has 2 requests"),
        (format!("{csr}{certificate}"), expected_one),
        (format!("{certificate}{csr}"), expected_one),
        (csr[..csr.len() - 30].to_owned(), "cut off"),
        (csr.replacen('M', "!", 1), "block 1, line 2"),
    ] {
        match CertificateRequest::parse_pem(&text) {
            Err(Error::Request(RequestRule::Pem(why))) => assert!(why.contains(found), "{why}"),
            other => panic!("{}: {other:?}", text.get(..60).unwrap_or(&text)),
        }
    }
}

/// RFC 7468 §7 knows this label and NEW CERTIFICATE REQUEST.
#[test]
fn a_block_of_another_label_is_refused() {
    let openssl = OpenSsl::new();
    parse(&openssl, P256, "-sha256").unwrap();
    let csr = openssl.read("csr.pem");
    let other = csr.replace("CERTIFICATE REQUEST", "ATTRIBUTE CERTIFICATE REQUEST");
    let refused = CertificateRequest::parse_pem(&other).map(|request| request.key_type());
    assert!(matches!(refused, Err(Error::Request(RequestRule::Pem(_)))), "{refused:?}");
}

/// Makes a request with `openssl req`, and parses it.
fn parse(openssl: &OpenSsl, key: &str, options: &str) -> Result<CertificateRequest, Error> {
    openssl.write("req.cnf", CONFIG);
    let config = if options.contains("-config") { "" } else { "-config req.cnf" };
    openssl.run(&format!("req -new {key} -nodes -keyout key.pem -out csr.pem {config} {options}"));
    CertificateRequest::parse_pem(&openssl.read("csr.pem"))
}

fn refusal(openssl: &OpenSsl, key: &str, options: &str) -> RequestRule {
    match parse(openssl, key, options) {
        Err(Error::Request(rule)) => rule,
        other => panic!("{key} {options}: {:?}", other.map(|request| request.key_type())),
    }
}

fn extension(name: &str, value: &str) -> String {
    format!("-addext {name}={value}")
}

fn ec(curve: &str) -> String {
    format!("-newkey ec -pkeyopt ec_paramgen_curve:{curve}")
}

const P256: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256";
const P384: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-384";
const ED25519: &str = "-newkey ed25519";
const RSA_2048: &str = "-newkey rsa:2048";
const CONFIG: &str = "[req]\nprompt = no\ndistinguished_name = name\nattributes = attributes\n\
                      [name]\nO = Pay\nCN = reports\n[attributes]\n";

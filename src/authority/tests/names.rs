//! Names that nobody spoke of: those of the row, as far as they may be had.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use api::{Attestation, ExplainRequest, IssueRequest, IssuedCertificate, Secret};
use authority::sequencer::{Conflict, Member};
use authority::store::faulty::{Fault, FaultyStore};
use authority::{Caller, Error, Event};
use identity::SpiffeId;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use support::{Environment, anonymous, csr, id, policy_files, request, trust_domain};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

const REPORTS: &str = "/prod/reports";

/// DNS names and IP addresses of a certificate, in its order.
fn names(issued: &IssuedCertificate) -> Vec<String> {
    let der = CertificateDer::from_pem_slice(issued.chain.as_bytes()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(dns) => Some((*dns).to_owned()),
        GeneralName::IPAddress(ip) => Some(<[u8; 4]>::try_from(*ip).map_or_else(
            |_| format!("{ip:?}"),
            |octets| std::net::Ipv4Addr::from(octets).to_string(),
        )),
        _ => None,
    };
    names.iter().filter_map(name).collect()
}

/// Puts a table with one row into force; a policy beside the shipped ones is put to the test.
async fn apply(environment: &Environment, operator: &Caller, dns: &[&str], ip: &[&str]) {
    apply_with(environment, operator, dns, ip, None).await;
}

async fn apply_with(
    environment: &Environment,
    operator: &Caller,
    dns: &[&str],
    ip: &[&str],
    forbid: Option<&str>,
) {
    let mut files = policy_files();
    let table = serde_json::json!({ "workloads": [{ "id": REPORTS, "dns": dns, "ip": ip }] });
    files.insert("workloads.json".to_owned(), table.to_string());
    if let Some(forbid) = forbid {
        let shipped = include_str!("../../../policies/countersign.cedar");
        files.insert("all.cedar".to_owned(), format!("{shipped}\n{forbid}"));
    }
    let authority = &environment.authority;
    let active = authority.operations.policies(operator).unwrap().hash;
    let files: BTreeMap<String, String> = files;
    authority.operations.replace_policies(operator, &files, &active).await.unwrap();
}

/// Asks by a new token for these names, and says nothing of names where there are none of both.
async fn ask(
    environment: &Environment,
    operator: &Caller,
    dns: Option<&[&str]>,
    ip: Option<&[&str]>,
) -> Result<IssuedCertificate, Error> {
    let token = environment.token(operator, REPORTS).await;
    environment.authority.issuing.issue(&anonymous(), &by_token(&token, dns, ip), None).await
}

fn by_token(token: &Secret, dns: Option<&[&str]>, ip: Option<&[&str]>) -> IssueRequest {
    IssueRequest {
        dns: dns.map(|dns| dns.iter().map(ToString::to_string).collect()),
        ip: ip.map(|ip| ip.iter().map(|address| address.parse().unwrap()).collect()),
        attestation: Attestation::Token { token: token.clone() },
        ..request(&csr())
    }
}

async fn renewed(environment: &Environment, issued: &IssuedCertificate) -> IssuedCertificate {
    environment.renew(&environment.caller(issued), &csr()).await.unwrap()
}

/// The event before a certificate's leaf.
async fn event(environment: &Environment, issued: &IssuedCertificate) -> Event {
    let entries = environment.store.entries(issued.log_index - 1, 1).await.unwrap();
    Event::parse(&entries[0]).unwrap()
}

#[tokio::test]
async fn whoever_speaks_of_no_names_has_those_of_the_row() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let by_token = ask(&environment, &operator, None, None).await.unwrap();
    let by_operator = IssueRequest { spiffe_id: Some(id(REPORTS)), ..request(&csr()) };
    let by_operator =
        environment.authority.issuing.issue(&operator, &by_operator, None).await.unwrap();
    for issued in [by_token, by_operator] {
        assert_eq!(names(&issued), ["reports.internal", "10.0.0.1"]);
        assert_eq!(event(&environment, &issued).await.detail["names_from"], "row");
    }
    let bare = environment.issue(&operator, "/prod/monolith").await;
    assert_eq!(names(&bare), [""; 0]);
}

#[tokio::test]
async fn whoever_names_one_has_that_one_and_an_empty_list_is_none() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    for (dns, ip, expected) in [
        (Some(&["reports.internal"][..]), None, &["reports.internal"][..]),
        (None, Some(&["10.0.0.1"][..]), &["10.0.0.1"]),
        (Some(&[]), None, &[]),
        (None, Some(&[]), &[]),
        (Some(&[]), Some(&["10.0.0.1"]), &["10.0.0.1"]),
    ] {
        let issued = ask(&environment, &operator, dns, ip).await.unwrap();
        assert_eq!(names(&issued), expected, "{dns:?} {ip:?}");
        assert_eq!(event(&environment, &issued).await.detail["names_from"], "request");
        assert_eq!(names(&renewed(&environment, &issued).await), expected, "{dns:?} {ip:?}");
    }
    let beyond = ask(&environment, &operator, Some(&["monolith.internal"]), None).await;
    assert!(matches!(beyond, Err(Error::Denied(_))), "{beyond:?}");
}

#[tokio::test]
async fn a_renewal_has_the_names_of_the_row_as_it_is_then() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let first = ask(&environment, &operator, None, None).await.unwrap();
    let asked = ask(&environment, &operator, Some(&["reports.internal"]), None).await.unwrap();
    apply(&environment, &operator, &["a.internal", "reports.internal"], &[]).await;
    let second = renewed(&environment, &first).await;
    assert_eq!(names(&second), ["a.internal", "reports.internal"]);
    let asked = renewed(&environment, &asked).await;
    assert_eq!(names(&asked), ["reports.internal"]);

    apply(&environment, &operator, &["a.internal"], &[]).await;
    let third = renewed(&environment, &second).await;
    assert_eq!(names(&third), ["a.internal"]);
    // What somebody asked for is not quietly taken away.
    let refused = environment.renew(&environment.caller(&asked), &csr()).await;
    assert!(matches!(refused, Err(Error::Denied(_))), "{refused:?}");

    apply(&environment, &operator, &[], &[]).await;
    assert_eq!(names(&renewed(&environment, &third).await), [""; 0]);
}

#[tokio::test]
async fn what_policy_allows_without_names_is_not_refused_for_those_of_the_row() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let forbid = r#"@id("no-names") forbid (principal, action, resource)
        when { context has dns && context.dns.contains("secret.internal") };"#;
    apply_with(&environment, &operator, &["secret.internal"], &[], Some(forbid)).await;
    let issued = ask(&environment, &operator, None, None).await.unwrap();
    assert_eq!(names(&issued), [""; 0]);
    assert_eq!(names(&renewed(&environment, &issued).await), [""; 0]);
    let refused = ask(&environment, &operator, Some(&["secret.internal"]), None).await;
    assert!(matches!(refused, Err(Error::Denied(_))), "{refused:?}");
}

#[tokio::test]
async fn no_renewal_loses_the_names_that_policy_takes_away_and_is_refused_instead() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let rows = ["reports.internal", "secret.internal"];
    apply(&environment, &operator, &rows, &[]).await;
    let issued = ask(&environment, &operator, None, None).await.unwrap();
    assert_eq!(names(&issued), rows);
    let forbid = r#"@id("no-names") forbid (principal, action, resource)
        when { context has dns && context.dns.contains("secret.internal") };"#;
    apply_with(&environment, &operator, &rows, &[], Some(forbid)).await;
    let refused = environment.renew(&environment.caller(&issued), &csr()).await;
    assert!(matches!(refused, Err(Error::Denied(_))), "{refused:?}");
}

#[tokio::test]
async fn the_cas_own_names_and_more_than_a_certificate_has_are_in_no_default() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    apply(&environment, &operator, &["late.internal", "reports.internal"], &["10.0.0.1"]).await;
    let own = IssueRequest {
        spiffe_id: Some(SpiffeId::authority(&trust_domain())),
        dns: Some(vec!["late.internal".to_owned()]),
        ..request(&csr())
    };
    environment.authority.issuing.issue_internal(&own, "own").await.unwrap();
    let issued = ask(&environment, &operator, None, None).await.unwrap();
    assert_eq!(names(&issued), ["reports.internal", "10.0.0.1"]);

    for (listed, expected) in [(100, 100), (101, 0)] {
        let many: Vec<String> = (0..listed).map(|n| format!("n{n}.internal")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        apply(&environment, &operator, &many, &[]).await;
        let issued = ask(&environment, &operator, None, None).await.unwrap();
        assert_eq!(names(&issued).len(), expected);
    }
}

#[tokio::test]
async fn silence_and_none_are_two_requests_and_each_is_answered_alike_for_ever() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let silent = IssueRequest { spiffe_id: Some(id(REPORTS)), ..request(&csr()) };
    let none = IssueRequest { dns: Some(vec![]), ..silent.clone() };
    let ask = |body: IssueRequest| {
        let (authority, operator) = (&environment.authority, &operator);
        async move { authority.issuing.issue(operator, &body, Some("key")).await }
    };
    let issued = ask(silent.clone()).await.unwrap();
    let mismatch = ask(none).await;
    let is_mismatch = matches!(mismatch, Err(Error::Conflict(Conflict::IdempotencyMismatch)));
    assert!(is_mismatch, "{mismatch:?}");
    apply(&environment, &operator, &["other.internal"], &[]).await;
    assert_eq!(ask(silent).await.unwrap(), issued);
}

/// What was logged and not signed is signed as it was logged, if its names may still be had.
#[tokio::test]
async fn a_row_that_changed_between_log_and_signature_changes_no_certificate() {
    let (armed, fails) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let plan: Arc<AtomicBool> = Arc::clone(&fails);
    let environment = Environment::start_with(
        |keys, _| keys,
        |store| {
            let armed = Arc::clone(&armed);
            Arc::new(FaultyStore::new(store, move |group| {
                let completes = group.iter().any(|it| matches!(it, Member::Complete(_)));
                let fails = completes && armed.swap(false, Ordering::SeqCst);
                plan.fetch_or(fails, Ordering::SeqCst);
                fails.then_some(Fault::NotPersisted)
            }))
        },
    )
    .await;
    let operator = environment.operator().await;
    let begun = async |dns: &'static [&'static str]| {
        let token = environment.token(&operator, REPORTS).await;
        let body = by_token(&token, None, None);
        armed.store(true, Ordering::SeqCst);
        let lost = environment.authority.issuing.issue(&anonymous(), &body, None).await;
        assert!(matches!(lost, Err(Error::Store(_))), "{lost:?}");
        apply(&environment, &operator, dns, &["10.0.0.1"]).await;
        environment.authority.issuing.issue(&anonymous(), &body, None).await
    };
    let issued = begun(&["more.internal", "reports.internal"]).await.unwrap();
    assert_eq!(names(&issued), ["reports.internal", "10.0.0.1"]);
    let taken_away = begun(&["reports.internal"]).await;
    assert!(matches!(taken_away, Err(Error::Denied(_))), "{taken_away:?}");
    assert!(fails.load(Ordering::SeqCst));
}

/// What `policy explain` says is what happens to who asks so.
#[tokio::test]
async fn a_question_that_speaks_of_no_names_is_explained_with_those_of_the_row() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let explain = |action: &str, dns: Option<&[&str]>| {
        let asked = ExplainRequest {
            principal: id(REPORTS),
            action: action.to_owned(),
            resource: id(REPORTS),
            dns: dns.map(|dns| dns.iter().map(ToString::to_string).collect()),
            ip: None,
            profile: None,
            extent: None,
        };
        environment.authority.operations.explain(&operator, &asked).unwrap()
    };
    let silent = explain("issue", None);
    let assumed = "the names of its row: reports.internal, 10.0.0.1";
    assert_eq!((silent.allowed, silent.assumed.as_deref()), (true, Some(assumed)));
    assert_eq!(explain("issue", Some(&[])).assumed, None);
    assert_eq!(explain("revoke", None).assumed, None);
    assert!(!explain("issue", Some(&["other.internal"])).allowed);

    let forbid = r#"@id("no-names") forbid(principal, action, resource)
        when { context has dns && context.dns.contains("a.internal") };"#;
    apply_with(&environment, &operator, &["a.internal"], &[], Some(forbid)).await;
    let silent = explain("Issue", None);
    assert!(silent.allowed, "as it is issued: {silent:?}");
    let assumed = silent.assumed.unwrap();
    assert!(assumed.starts_with("no names: with those of its row (a.internal), "), "{assumed}");
    assert!(assumed.contains("no-names"), "{assumed}");
    assert_eq!(names(&ask(&environment, &operator, None, None).await.unwrap()), [""; 0]);
    let renewal = explain("renew", None);
    assert!(!renewal.allowed && renewal.policies == ["no-names"], "{renewal:?}");

    apply_with(&environment, &operator, &[], &[], None).await;
    let silent = explain("issue", None);
    assert_eq!(silent.assumed.as_deref(), Some("no names: no row lists any for it"));
}

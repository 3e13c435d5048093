//! Names that the CAs above the issuer do not permit: nobody gets a certificate with one, since every
//! peer would refuse it. The CAs above are made by OpenSSL.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use api::{Attestation, ExplainRequest, IssueRequest, IssuedCertificate, Secret};
use authority::clock::ManualClock;
use authority::policy::{PolicyError, PolicySet};
use authority::setup::{self, EarlierEnd, NewAuthority, Outcomes, Parent, ParentAnswer};
use authority::store::Store;
use authority::{Authority, Caller, Error};
use support::{Environment, anonymous, csr, id, request, trust_domain};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

const PERMITTED: &str = "permitted;DNS:internal,permitted;IP:10.0.0.0/255.255.255.0";
const ROWS: &str = r#"{"workloads": [{
    "id": "/prod/reports",
    "dns": ["reports.internal", "reports.example"],
    "ip": ["10.0.0.1", "10.0.1.1", "::1"]
}]}"#;

/// A CA below `root`, below `above`, each with these name constraints, if any.
async fn start([root, above, issuer]: [&str; 3]) -> Environment {
    let folder = tempfile::tempdir().unwrap();
    let parents = tempfile::tempdir().unwrap();
    certify(parents.path(), "root", "root", None, root);
    certify(parents.path(), "above", "root", None, above);
    let begins = begins(&parents.path().join("above.pem"));
    let clock = Arc::new(ManualClock::new(begins + time::Duration::minutes(5)));
    let policy = PolicySet::parse(&files(ROWS)).unwrap();
    let (passphrase, offline) = (Secret::new("online"), Secret::new("offline"));
    let created = setup::create(
        &NewAuthority {
            trust_domain: trust_domain(),
            state: folder.path(),
            passphrase: &passphrase,
            offline_passphrase: &offline,
            policy: &policy,
            operator: "admin",
            parent: Parent::Elsewhere,
        },
        &*clock,
    )
    .await
    .unwrap();
    let Outcomes::AwaitsCertificate(request) = &created.outcome else { panic!("it has a parent") };
    certify(parents.path(), "issuer", "above", Some(request), issuer);
    drop(created);
    let read = |name: &str| std::fs::read(parents.path().join(format!("{name}.pem"))).unwrap();
    let chain = ["issuer", "above", "root"].map(read).concat();
    let certified = loop {
        let answer =
            ParentAnswer { certificates: &chain, names: &[], earlier_end: EarlierEnd::Refused };
        let (domain, state) = (trust_domain(), folder.path());
        match setup::finish(&domain, state, &passphrase, &offline, answer, &*clock).await {
            Err(Error::Store(authority::store::StoreError::InUse(_))) => {
                tokio::task::yield_now().await;
            }
            finished => break finished.unwrap(),
        }
    };
    let (pin, keys, store) = (certified.pin, certified.keys, certified.store as Arc<dyn Store>);
    let authority = support::open(folder.path(), &store, &keys, &clock, pin).await.unwrap();
    Environment { folder, clock, store, keys, pin, authority }
}

/// A CA certificate by a parent (itself, where the names are one), over a request or a new key.
fn certify(folder: &Path, name: &str, parent: &str, request: Option<&Path>, constraints: &str) {
    let mut extensions = "basicConstraints=critical,CA:TRUE\nsubjectKeyIdentifier=hash\n\
                          keyUsage=critical,keyCertSign,cRLSign\nauthorityKeyIdentifier=keyid\n"
        .to_owned();
    if !constraints.is_empty() {
        extensions.push_str(&format!("nameConstraints=critical,{constraints}\n"));
    }
    std::fs::write(folder.join("extensions"), extensions).unwrap();
    if request.is_none() {
        openssl(
            folder,
            &format!(
                "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
                                  -keyout {name}.key -out {name}.csr -subj /CN={name}"
            ),
        );
    }
    let days = if request.is_some() { 30 } else { 2 };
    let request = request.map_or_else(|| format!("{name}.csr"), |it| it.display().to_string());
    let signer = match name == parent {
        true => format!("-key {name}.key"),
        false => format!("-CA {parent}.pem -CAkey {parent}.key"),
    };
    openssl(
        folder,
        &format!(
            "x509 -req -in {request} -days {days} -extfile extensions {signer} \
                              -out {name}.pem"
        ),
    );
}

fn openssl(folder: &Path, line: &str) {
    let mut command = Command::new("openssl");
    let output = command.current_dir(folder).args(line.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn begins(certificate: &Path) -> OffsetDateTime {
    let blocks = identity::pem_blocks(&std::fs::read(certificate).unwrap()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&blocks[0].contents).unwrap();
    certificate.validity().not_before.to_datetime()
}

/// A request by this token, with these names; with none given, it says nothing of names.
async fn ask(
    environment: &Environment,
    token: &Secret,
    (dns, ip): (&[&str], &[&str]),
) -> Result<IssuedCertificate, Error> {
    let attestation = Attestation::Token { token: token.clone() };
    let mut body = IssueRequest { attestation, ..request(&csr()) };
    if !dns.is_empty() || !ip.is_empty() {
        body.dns = Some(dns.iter().map(|name| (*name).to_owned()).collect());
        body.ip = Some(ip.iter().map(|address| address.parse().unwrap()).collect());
    }
    environment.authority.issuing.issue(&anonymous(), &body, None).await
}

/// Replaces the policy set by one of many rows, of which one lists this name.
async fn apply(authority: &Authority, operator: &Caller, name: &str) -> Result<(), Error> {
    let active = authority.operations.policies(operator)?.hash;
    let rows = (0..250).map(|row| {
        let name = if row == 173 { name } else { "same.internal" };
        serde_json::json!({ "id": format!("/row/{row}"), "dns": [name], "ip": ["10.0.0.7"] })
    });
    let table = serde_json::json!({ "workloads": rows.collect::<Vec<_>>() });
    authority
        .operations
        .replace_policies(operator, &files(&table.to_string()), &active)
        .await
        .map(drop)
}

fn files(workloads: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("workloads.json".to_owned(), workloads.to_owned())])
}

/// How many certificates stand in the log.
async fn leaves(environment: &Environment) -> usize {
    let size = environment.store.head().await.unwrap().edge.size();
    let entries = environment.store.entries(0, size).await.unwrap();
    entries.iter().filter(|entry| entry.first() == Some(&0)).count()
}

#[tokio::test]
async fn what_a_ca_above_does_not_permit_is_refused_before_the_token_is_spent() {
    for constrained in [["", "", PERMITTED], ["", PERMITTED, ""], [PERMITTED, "", ""]] {
        let environment = start(constrained).await;
        let operator = environment.operator().await;
        let token = environment.token(&operator, "/prod/reports").await;
        let before = leaves(&environment).await;
        for (names, outside) in [
            ((&["reports.internal", "reports.example"][..], &["10.0.0.1"][..]), "reports.example"),
            ((&["reports.internal"], &["10.0.1.1"]), "10.0.1.1"),
            ((&[], &["::1"]), "::1"),
            // Silence means the names of the row.
            ((&[], &[]), "reports.example"),
        ] {
            let Err(Error::Denied(denied)) = ask(&environment, &token, names).await else {
                panic!("{constrained:?}: {outside} is permitted")
            };
            let said = format!("{outside} lies outside the name constraints of \"");
            assert!(denied.reason.starts_with(&said), "{}", denied.reason);
            assert_eq!(denied.row.as_deref(), Some("/prod/reports"));
            assert!(denied.next_step.unwrap().contains(outside));
        }
        assert_eq!(leaves(&environment).await, before);
        let issued = ask(&environment, &token, (&["reports.internal"], &["10.0.0.1"])).await;
        let holder = environment.caller(&issued.unwrap());
        environment.renew(&holder, &csr()).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_known_to_be_permitted_costs_no_signature() {
    let mut environment = start(["", PERMITTED, ""]).await;
    let operator = environment.operator().await;
    let names = r#""dns": ["a.internal", "b.internal"], "ip": ["10.0.0.1"]"#;
    let rows = files(&format!(r#"{{"workloads": [{{"id": "/prod/reports", {names}}}]}}"#));
    let active = environment.authority.operations.policies(&operator).unwrap().hash;
    environment.authority.operations.replace_policies(&operator, &rows, &active).await.unwrap();
    for _ in 0..2 {
        // Found out when the rows were applied, or at the start.
        let before = environment.authority.view.names_verified();
        assert!(before > 0);
        let issued = environment.issue(&operator, "/prod/reports").await;
        environment.renew(&environment.caller(&issued), &csr()).await.unwrap();
        let token = environment.token(&operator, "/prod/reports").await;
        ask(&environment, &token, (&["b.internal"], &[])).await.unwrap();
        assert_eq!(environment.authority.view.names_verified(), before);
        environment.restart().await;
    }
}

#[tokio::test]
async fn names_that_are_permitted_one_by_one_are_refused_where_nobody_compares_them_all() {
    let mut permitted: Vec<String> =
        (0..4_000).map(|number| format!("permitted;DNS:n{number}")).collect();
    permitted.push("permitted;DNS:internal".to_owned());
    let environment = start(["", &permitted.join(","), ""]).await;
    let operator = environment.operator().await;
    let names: Vec<String> = (0..100).map(|number| format!("n{number}.internal")).collect();
    let apply = async |rows: Vec<serde_json::Value>| {
        let active = environment.authority.operations.policies(&operator).unwrap().hash;
        let rows = files(&serde_json::json!({ "workloads": rows }).to_string());
        environment.authority.operations.replace_policies(&operator, &rows, &active).await
    };
    let row = |(number, name)| serde_json::json!({ "id": format!("/row/{number}"), "dns": [name] });
    apply(names.iter().enumerate().map(row).collect()).await.unwrap();
    let applied = apply(vec![serde_json::json!({ "id": "/prod/reports", "dns": names })]).await;
    let Err(Error::Policy(error @ PolicyError::NotPermitted { .. })) = applied else {
        panic!("{applied:?}")
    };
    assert!(error.to_string().contains("one of 100 names"), "{error}");
}

#[tokio::test]
async fn what_no_ca_above_constrains_is_had_as_ever() {
    // Constraints of names that certificates of ours have none of.
    for constraint in ["", "permitted;email:internal", "excluded;DNS:internal.example"] {
        let environment = start(["", "", constraint]).await;
        let operator = environment.operator().await;
        let token = environment.token(&operator, "/prod/reports").await;
        let issued = ask(&environment, &token, (&["reports.example"], &["::1"])).await.unwrap();
        environment.verified(&issued);
    }
}

#[tokio::test]
async fn constraints_hold_however_late_it_is() {
    let environment = start([PERMITTED, "", ""]).await;
    // Root and parent have ended: those verifiers that go up to the root believe nothing any more.
    environment.clock.advance(time::Duration::hours(49));
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/reports").await;
    let refused = ask(&environment, &token, (&["reports.example"], &[])).await;
    assert!(matches!(&refused, Err(Error::Denied(_))), "{refused:?}");
}

#[tokio::test]
async fn a_row_that_lists_what_no_certificate_can_bear_is_told_when_it_is_applied() {
    let environment = start(["", PERMITTED, ""]).await;
    let operator = environment.operator().await;
    let applied = apply(&environment.authority, &operator, "row.example").await;
    let Err(Error::Policy(error @ PolicyError::NotPermitted { .. })) = applied else {
        panic!("{applied:?}")
    };
    let said = "row \"/row/173\": row.example lies outside the name constraints of \"CN=above\"";
    assert!(error.to_string().contains(said), "{error}");
    apply(&environment.authority, &operator, "row.internal").await.unwrap();
    // One that was applied before the issuer was certified, which is told at the start.
    let environment = start(["", PERMITTED, ""]).await;
    let error = environment.authority.view.require_permitted_rows().unwrap_err();
    assert!(error.to_string().contains("row \"/prod/reports\": reports.example"), "{error}");
}

#[tokio::test]
async fn what_is_not_permitted_is_explained() {
    let environment = start(["", "", PERMITTED]).await;
    let operator = environment.operator().await;
    let asked = |dns: Option<&str>| ExplainRequest {
        principal: id("/prod/reports"),
        action: "issue".to_owned(),
        resource: id("/prod/reports"),
        dns: dns.map(|name| vec![name.to_owned()]),
        ip: None,
        profile: None,
        extent: None,
    };
    for dns in [Some("reports.example"), None] {
        let explained = environment.authority.operations.explain(&operator, &asked(dns)).unwrap();
        assert!(!explained.allowed && explained.reason.contains("name constraints"), "{dns:?}");
    }
    let explained =
        environment.authority.operations.explain(&operator, &asked(Some("reports.internal")));
    assert!(explained.unwrap().allowed);
}

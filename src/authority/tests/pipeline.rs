//! How a certificate comes to be, and how it is refused.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use api::{Attestation, ExplainRequest, IssueRequest, KeyPurpose, RevokeRequest, TokenFilter};
use authority::signer::spy::SpySigner;
use authority::signer::{Signer, SignerError};
use authority::store::RecordKey;
use authority::store::sqlite::SqliteStore;
use authority::{Error, Event, Keys};
use futures_util::future::BoxFuture;
use support::{Environment, anonymous, csr, id, request};
use tlog::{CertificateLeaf, Hash};

#[tokio::test]
async fn a_token_becomes_a_certificate_that_peers_take() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    let svid = environment.verified(&issued);
    assert_eq!(svid.spiffe_id(), &id("/prod/reports"));
    assert_eq!(svid.leaf_index(), Some(issued.log_index));
    let half = issued.not_before + (issued.not_after - issued.not_before) / 2;
    assert_eq!(issued.renewal.start, half);
}

/// P1. Each signature of a CA key is looked up in the log over a second connection, before it is
/// made: certificates by their rebuilt leaf, everything else by its hash in an event.
#[tokio::test]
async fn no_ca_key_signs_what_the_log_does_not_hold() {
    let looked_up = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&looked_up);
    let environment = Environment::start_with(
        |keys, folder| {
            let database = folder.join("countersign.db");
            keys.wrap(KeyPurpose::Issuer, |issuer| {
                let spki = issuer.public_key().to_vec();
                Arc::new(SpySigner::new(issuer, move |message| {
                    let second = rusqlite::Connection::open(&database).unwrap();
                    seen.lock().unwrap().push(find_in_log(&second, message, &spki));
                    Ok(())
                }))
            })
        },
        |store| store,
    )
    .await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    let caller = environment.caller(&issued);
    environment.renew(&caller, &csr()).await.unwrap();
    let issuer = environment.authority.status(&operator).await.unwrap().issuers[0].id.clone();
    environment.authority.crls.crl(&issuer).await.unwrap();
    let looked_up = looked_up.lock().unwrap();
    assert_eq!(*looked_up, ["leaf", "leaf", "leaf", "event"]);
}

/// Whatever a key service answers: what is stored first is stored for good.
#[tokio::test]
async fn a_signature_that_is_none_is_not_stored_and_the_same_request_is_signed_then() {
    let is_broken = Arc::new(AtomicBool::new(false));
    let broken = Arc::clone(&is_broken);
    let wrap = |keys: Keys, _: &Path| {
        keys.wrap(KeyPurpose::Issuer, |inner| Arc::new(BrokenSigner { inner, broken }))
    };
    let environment = Environment::start_with(wrap, |store| store).await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/reports").await;
    let (csr, size) = (csr(), environment.authority.view.log_size().await.unwrap());
    is_broken.store(true, Ordering::SeqCst);
    let refused = environment.issue_with(&token, &csr).await.unwrap_err();
    assert!(matches!(refused, Error::Signer(SignerError::Refused(_))), "{refused}");
    let leaf = RecordKey::LeafIndex(size + 1);
    let record = environment.store.records_of(vec![leaf]).await.unwrap().pop().flatten().unwrap();
    assert_eq!(record.certificate, None);
    is_broken.store(false, Ordering::SeqCst);
    let issued = environment.issue_with(&token, &csr).await.unwrap();
    assert_eq!(issued.log_index, size + 1);
    environment.verified(&issued);
}

/// Signs something else.
#[derive(Debug)]
struct BrokenSigner {
    inner: Arc<dyn Signer>,
    broken: Arc<AtomicBool>,
}

impl Signer for BrokenSigner {
    fn public_key(&self) -> &[u8] {
        self.inner.public_key()
    }

    fn sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, SignerError>> {
        match self.broken.load(Ordering::SeqCst) {
            true => self.inner.sign(b"something else"),
            false => self.inner.sign(message),
        }
    }
}

/// Panics where the log does not hold it.
fn find_in_log(connection: &rusqlite::Connection, tbs: &[u8], issuer_spki: &[u8]) -> &'static str {
    let entry = |index: u64| -> Vec<u8> {
        connection
            .query_row(
                "SELECT bytes FROM entries WHERE place & ((1 << 40) - 1) = ?1",
                [index as i64],
                |row| row.get(0),
            )
            .unwrap()
    };
    if let Ok((bare, sct)) = tlog::splice_out(tbs) {
        let leaf = CertificateLeaf {
            timestamp: sct.timestamp,
            issuer_key_hash: Hash::of(issuer_spki),
            tbs_certificate: bare,
            leaf_index: sct.leaf_index,
        };
        assert_eq!(entry(sct.leaf_index), leaf.encode().unwrap());
        let event = Event::parse(&entry(sct.leaf_index - 1)).unwrap();
        assert_eq!(
            event.detail["tbs_sha256"],
            format!("{:?}", Hash::of(&leaf.tbs_certificate)).as_str()
        );
        return "leaf";
    }
    let hash = format!("{:?}", Hash::of(tbs));
    let mut entries = connection.prepare("SELECT bytes FROM entries").unwrap();
    let found = entries
        .query_map([], |row| row.get::<_, Vec<u8>>(0))
        .unwrap()
        .any(|entry| String::from_utf8_lossy(&entry.unwrap()).contains(&hash));
    assert!(found, "a key was asked to sign what the log does not hold");
    "event"
}

#[tokio::test]
async fn a_renewal_keeps_names_and_facts_and_is_judged_again() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/reports").await;
    let body = IssueRequest {
        dns: Some(vec!["reports.internal".into()]),
        ttl: Some("2h".parse().unwrap()),
        attestation: Attestation::Token { token },
        ..request(&csr())
    };
    let first = environment.authority.issuing.issue(&anonymous(), &body, None).await.unwrap();
    let caller = environment.caller(&first);
    let renewed = environment.renew(&caller, &csr()).await.unwrap();
    let text = names(&renewed.chain);
    assert!(text.contains("reports.internal"), "{text}");
    assert_eq!(renewed.not_after - renewed.not_before, first.not_after - first.not_before);

    let files = [("workloads.json".to_owned(), r#"{"workloads":[{"id":"/prod/x"}]}"#.to_owned())];
    let hash = environment.authority.operations.policies(&operator).unwrap().hash;
    environment
        .authority
        .operations
        .replace_policies(&operator, &files.into_iter().collect(), &hash)
        .await
        .unwrap();
    let caller = environment.caller(&renewed);
    let refused = environment.renew(&caller, &csr()).await.unwrap_err();
    assert!(matches!(refused, Error::Denied(_)), "{refused}");
    assert!(refused.to_string().contains("no row"), "{refused}");
}

fn names(chain: &str) -> String {
    let (_, block) = x509_parser::pem::parse_x509_pem(chain.as_bytes()).unwrap();
    let certificate = block.parse_x509().unwrap();
    format!("{:?}", certificate.subject_alternative_name().unwrap().unwrap().value)
}

#[tokio::test]
async fn the_same_request_again_returns_the_same_certificate() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/reports").await;
    let csr = csr();
    let first = environment.issue_with(&token, &csr).await.unwrap();
    assert_eq!(environment.issue_with(&token, &csr).await.unwrap(), first);

    let body = IssueRequest { spiffe_id: Some(id("/prod/monolith")), ..request(&csr) };
    let authority = &environment.authority;
    let named = authority.issuing.issue(&operator, &body, Some("key")).await.unwrap();
    assert_eq!(authority.issuing.issue(&operator, &body, Some("key")).await.unwrap(), named);
    let other = IssueRequest { ttl: Some("1h".parse().unwrap()), ..body.clone() };
    let mismatch = authority.issuing.issue(&operator, &other, Some("key")).await.unwrap_err();
    assert!(mismatch.to_string().contains("Idempotency-Key"), "{mismatch}");
    assert_ne!(authority.issuing.issue(&operator, &body, None).await.unwrap(), named);
}

#[tokio::test]
async fn sixty_four_callers_with_one_token_get_one_certificate() {
    let environment = Arc::new(Environment::start().await);
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/reports").await;
    let csr = csr();
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let (environment, token, csr) = (Arc::clone(&environment), token.clone(), csr.clone());
            tokio::spawn(async move { environment.issue_with(&token, &csr).await.unwrap() })
        })
        .collect();
    let mut chains = std::collections::HashSet::new();
    for task in tasks {
        chains.insert(task.await.unwrap().chain);
    }
    assert_eq!(chains.len(), 1);
}

#[tokio::test]
async fn a_token_is_used_once_by_sixty_four_keys() {
    let environment = Arc::new(Environment::start().await);
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/reports").await;
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let (environment, token) = (Arc::clone(&environment), token.clone());
            tokio::spawn(async move { environment.issue_with(&token, &csr()).await })
        })
        .collect();
    let mut issued = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => issued += 1,
            Err(error) => assert!(error.to_string().contains("used"), "{error}"),
        }
    }
    assert_eq!(issued, 1);
}

#[tokio::test]
async fn each_misuse_of_a_token_is_refused_by_name() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let refused = |error: Error| match error {
        Error::Attestation { why, .. } => why,
        other => panic!("{other}"),
    };

    let token = environment.token(&operator, "/prod/reports").await;
    let body = IssueRequest {
        spiffe_id: Some(id("/prod/monolith")),
        attestation: Attestation::Token { token: token.clone() },
        ..request(&csr())
    };
    let error = environment.authority.issuing.issue(&anonymous(), &body, None).await.unwrap_err();
    assert!(refused(error).contains("is for spiffe://pay.example/prod/reports"));

    environment.clock.advance(time::Duration::minutes(16));
    let error = environment.issue_with(&token, &csr()).await.unwrap_err();
    assert!(refused(error).contains("expired"));

    let token = environment.token(&operator, "/prod/reports").await;
    environment.issue_with(&token, &csr()).await.unwrap();
    let error = environment.issue_with(&token, &csr()).await.unwrap_err();
    assert!(refused(error).contains("used"));

    let page =
        environment.authority.operations.tokens(&operator, &TokenFilter::default()).await.unwrap();
    assert_eq!(page.items[0].state, "used");
    let token = environment.token(&operator, "/prod/reports").await;
    let open = environment
        .authority
        .operations
        .tokens(&operator, &TokenFilter::default())
        .await
        .unwrap()
        .items[0]
        .id
        .clone();
    environment.authority.operations.revoke_token(&operator, &open).await.unwrap();
    let error = environment.issue_with(&token, &csr()).await.unwrap_err();
    assert!(refused(error).contains("revoked"));

    let unknown = api::BootstrapToken::new([9; 32], environment.pin).expose();
    let error = environment.issue_with(&api::Secret::new(unknown), &csr()).await.unwrap_err();
    assert!(refused(error).contains("unknown"));
}

#[tokio::test]
async fn a_second_renewal_with_another_key_breaks_the_line() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let first = environment.issue(&operator, "/prod/reports").await;
    let caller = environment.caller(&first);
    let request = csr();
    let second = environment.renew(&caller, &request).await.unwrap();
    assert_eq!(environment.renew(&caller, &request).await.unwrap(), second, "a lost answer");

    // While the new one was never seen, one replacement is allowed.
    let third = environment.renew(&caller, &csr()).await.unwrap();
    assert_ne!(third, second);

    // But not a second; and then neither line renews.
    let error = environment.renew(&caller, &csr()).await.unwrap_err();
    assert!(error.to_string().contains("renewed already"), "{error}");
    for line in [&second, &third] {
        let caller = environment.caller(line);
        let error = environment.renew(&caller, &csr()).await.unwrap_err();
        assert!(matches!(error, Error::Attestation { .. }), "{error}");
    }
    environment.issue(&operator, "/prod/reports").await;
}

#[tokio::test]
async fn a_seen_certificate_is_not_replaced() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let first = environment.issue(&operator, "/prod/reports").await;
    let caller = environment.caller(&first);
    let second = environment.renew(&caller, &csr()).await.unwrap();
    environment.renew(&environment.caller(&second), &csr()).await.unwrap();
    let error = environment.renew(&caller, &csr()).await.unwrap_err();
    assert!(error.to_string().contains("renewed already"), "{error}");
}

#[tokio::test]
async fn policy_names_the_row_and_the_command() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let denied = |error: Error| match error {
        Error::Denied(denied) => *denied,
        other => panic!("{other}"),
    };
    let ask = |spiffe_id, dns: &[&str]| IssueRequest {
        spiffe_id: Some(spiffe_id),
        dns: Some(dns.iter().map(ToString::to_string).collect()),
        ..request(&csr())
    };
    let authority = &environment.authority;

    let body = ask(id("/prod/unknown"), &[]);
    let refusal = denied(authority.issuing.issue(&operator, &body, None).await.unwrap_err());
    assert!(refusal.reason.contains("no row"), "{refusal:?}");
    assert!(refusal.next_step.unwrap().contains("policy apply"));

    let body = ask(id("/prod/reports"), &["monolith.internal"]);
    let refusal = denied(authority.issuing.issue(&operator, &body, None).await.unwrap_err());
    assert_eq!(refusal.row.as_deref(), Some("/prod/reports"));
    assert!(refusal.reason.contains("monolith.internal"), "{refusal:?}");

    let body = ask(id("/countersign/operator/eve"), &[]);
    denied(authority.issuing.issue(&operator, &body, None).await.unwrap_err());
    let body = ask(id("/countersign/authority"), &[]);
    denied(authority.issuing.issue(&operator, &body, None).await.unwrap_err());

    let workload = environment.issue(&operator, "/prod/reports").await;
    let workload = environment.caller(&workload);
    let body = ask(id("/prod/monolith"), &[]);
    denied(authority.issuing.issue(&workload, &body, None).await.unwrap_err());
    denied(authority.status(&workload).await.unwrap_err());
    let revoke = RevokeRequest {
        target: id("/prod/monolith").to_string(),
        reason: "unspecified".into(),
        dry_run: false,
        named_override: None,
    };
    denied(authority.operations.revoke(&workload, &revoke).await.unwrap_err());
}

#[tokio::test]
async fn a_second_operator_comes_from_the_table() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let second = environment.enrol("second").await;
    let asked = api::TokenRequest {
        spiffe_id: id("/countersign/operator/second"),
        ttl: None,
        key_sha256: None,
    };
    let refused =
        environment.authority.operations.create_token(&operator, &asked).await.unwrap_err();
    assert!(refused.to_string().contains("operators-are-themselves"), "{refused}");
    environment.authority.status(&second).await.unwrap();
    let asked = ExplainRequest {
        principal: id("/countersign/operator/third"),
        action: "issue".into(),
        resource: id("/prod/reports"),
        dns: None,
        ip: None,
        profile: None,
        extent: None,
    };
    assert!(!environment.authority.operations.explain(&second, &asked).unwrap().allowed);
}

#[tokio::test]
async fn foreign_and_contradicting_names_are_refused() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let foreign = identity::SpiffeId::parse("spiffe://other.example/prod/reports").unwrap();
    let body = IssueRequest { spiffe_id: Some(foreign), ..request(&csr()) };
    let error = environment.authority.issuing.issue(&operator, &body, None).await.unwrap_err();
    assert!(error.to_string().contains("trust domain"), "{error}");
}

#[tokio::test]
async fn another_tenants_certificate_does_not_exist() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let reports = environment.issue(&operator, "/prod/reports").await;
    let monolith = environment.issue(&operator, "/prod/monolith").await;
    let caller = environment.caller(&reports);
    let authority = &environment.authority;
    assert!(authority.operations.certificate(&caller, &reports.serial_number).await.is_ok());
    let hidden =
        authority.operations.certificate(&caller, &monolith.serial_number).await.unwrap_err();
    assert!(matches!(hidden, Error::NotFound(_)), "{hidden}");
}

#[tokio::test]
async fn every_leaf_is_accounted_for() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    while environment.authority.issuing.account().await.unwrap() {}
    let head = environment.store.head().await.unwrap();
    assert_eq!(head.swept, issued.log_index + 1);
    let newest = environment.store.entries(head.edge.size() - 1, 1).await.unwrap();
    let event = Event::parse(&newest[0]).unwrap();
    assert_eq!(event.kind, "issued");
    let record = environment
        .store
        .records_of(vec![RecordKey::SerialNumber(issued.serial_number)])
        .await
        .unwrap()
        .remove(0)
        .unwrap();
    let hash = format!("{:?}", Hash::of(&record.certificate.unwrap()));
    assert!(String::from_utf8_lossy(&newest[0]).contains(&hash));
}

#[tokio::test]
async fn a_clock_behind_the_log_issues_nothing() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/reports").await;
    environment.clock.advance(time::Duration::seconds(-6));
    let error = environment.issue_with(&token, &csr()).await.unwrap_err();
    assert!(error.to_string().contains("behind"), "{error}");
    environment.clock.advance(time::Duration::seconds(2));
    environment.issue_with(&token, &csr()).await.unwrap();
}

#[tokio::test]
async fn the_state_survives_a_restart_and_serves_one_process() {
    let mut environment = Environment::start().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    environment.restart().await;
    let shown = environment
        .authority
        .operations
        .certificate(&operator, &issued.serial_number)
        .await
        .unwrap();
    assert_eq!(shown.chain.as_deref(), Some(issued.chain.as_str()));
    let second = SqliteStore::open(
        environment.folder.path(),
        &support::trust_domain(),
        &environment.keys.head_key().unwrap().unwrap(),
    );
    assert!(second.unwrap_err().to_string().contains("another process"));
}

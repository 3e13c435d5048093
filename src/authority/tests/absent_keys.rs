//! A CA that is started without an active key does what needs no signature of it, says what it
//! cannot do, and takes the file as soon as it is back.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use api::{DenyRequest, KeyPurpose, KeyStep, Secret};
use authority::signer::SignerError;
use authority::signer::file::{FileSigner, KeyKind, Passphrase};
use authority::{Caller, Error, Keys};
use identity::feed::Envelope;
use support::rotation::take;
use support::{Environment, csr, id};

use KeyPurpose::{Countersignature, Feed, Issuer, Log};

const SERVES: [KeyPurpose; 4] = [Countersignature, Feed, Issuer, Log];

/// What was there before the restart.
struct Before {
    environment: Environment,
    operator: Caller,
    token: Secret,
    crl: bytes::Bytes,
}

impl Before {
    async fn new() -> Self {
        let environment = Environment::start().await;
        let operator = environment.operator().await;
        let token = environment.token(&operator, "/prod/reports").await;
        let crl =
            environment.authority.crls.crl(&environment.authority.view.issuer_id()).await.unwrap();
        environment.authority.writer.sign_checkpoint().await.unwrap();
        Self { environment, operator, token, crl }
    }

    fn file(&self, purpose: KeyPurpose) -> PathBuf {
        self.environment.folder.path().join(format!("keys/{purpose}.key"))
    }

    fn lost(&self) -> PathBuf {
        self.environment.folder.path().join("lost")
    }

    async fn restart(&mut self) {
        let folder = self.environment.folder.path();
        self.environment.keys = Keys::open(folder, &Secret::new("online")).unwrap();
        self.environment.restart().await;
    }

    async fn restart_without(purpose: KeyPurpose) -> Self {
        let mut before = Self::new().await;
        fs::rename(before.file(purpose), before.lost()).unwrap();
        before.restart().await;
        before
    }

    async fn deny(&self) {
        let deny = DenyRequest {
            spiffe_id: id("/prod/quick"),
            reason: "unspecified".to_owned(),
            named_override: None,
        };
        self.environment.authority.operations.deny(&self.operator, &deny).await.unwrap();
    }
}

/// The purpose of the key that is absent.
fn absent<T: std::fmt::Debug>(refused: Result<T, Error>) -> &'static str {
    match refused {
        Err(Error::Signer(SignerError::Absent { purpose, .. })) => purpose,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn revocations_are_taken_and_told_and_trust_is_served_whatever_key_is_absent() {
    for purpose in SERVES {
        let before = Before::restart_without(purpose).await;
        let authority = &before.environment.authority;
        assert_eq!(authority.view.trust_state(&Default::default()).unwrap().sequence, 1);
        before.deny().await;
        if purpose == Feed {
            assert_eq!(absent(authority.feed.heartbeat().await), "feed");
            assert_eq!(absent(authority.feed.subscribe(&before.operator, None).await), "feed");
            continue;
        }
        let mut subscription = authority.feed.subscribe(&before.operator, Some(0)).await.unwrap();
        authority.feed.heartbeat().await.unwrap();
        for _ in 0..2 {
            let told = subscription.next().await.unwrap();
            Envelope::parse(told.line()).unwrap().verify(authority.view.trust().state()).unwrap();
        }
    }
}

#[tokio::test]
async fn nothing_is_issued_or_logged_without_a_key_that_makes_or_proves_a_certificate() {
    for purpose in [Countersignature, Issuer, Log] {
        let before = Before::restart_without(purpose).await;
        let Before { environment, token, .. } = &before;
        let size = environment.store.head().await.unwrap().edge.size();
        let refused = environment.issue_with(token, &csr()).await;
        assert_eq!(absent(refused), purpose.name());
        assert_eq!(environment.store.head().await.unwrap().edge.size(), size, "it was logged");
        let told = environment.authority.view.follow_keys().await.unwrap_err().to_string();
        assert!(told.contains(&format!("without the {purpose} key no ")), "{told}");

        fs::rename(before.lost(), before.file(purpose)).unwrap();
        environment.clock.advance(time::Duration::seconds(5));
        environment.verified(&environment.issue_with(token, &csr()).await.unwrap());
        environment.authority.view.follow_keys().await.unwrap();
        environment.authority.writer.sign_checkpoint().await.unwrap();
    }
    let before = Before::restart_without(Feed).await;
    before.environment.issue_with(&before.token, &csr()).await.unwrap();
    fs::rename(before.lost(), before.file(Feed)).unwrap();
    before.environment.clock.advance(time::Duration::seconds(5));
    before.environment.authority.view.follow_keys().await.unwrap();
    before.environment.authority.feed.heartbeat().await.unwrap();
}

#[tokio::test]
async fn without_the_issuer_its_last_list_is_served_until_it_expires() {
    let before = Before::restart_without(Issuer).await;
    let authority = &before.environment.authority;
    let issuer = authority.view.issuer_id();
    before.deny().await;
    let size = before.environment.store.head().await.unwrap().edge.size();
    assert_eq!(authority.crls.crl(&issuer).await.unwrap(), before.crl);
    before.environment.clock.advance(time::Duration::hours(25));
    assert_eq!(absent(authority.crls.crl(&issuer).await), "issuer");
    assert_eq!(before.environment.store.head().await.unwrap().edge.size(), size, "it was logged");

    let before = Before::restart_without(Countersignature).await;
    let authority = &before.environment.authority;
    before.deny().await;
    assert_ne!(authority.crls.crl(&authority.view.issuer_id()).await.unwrap(), before.crl);
}

#[tokio::test]
async fn without_the_logs_key_the_last_checkpoint_stays() {
    let before = Before::restart_without(Log).await;
    let authority = &before.environment.authority;
    let newest = authority.writer.checkpoint().unwrap();
    before.deny().await;
    assert_eq!(absent(authority.writer.sign_checkpoint().await), "log");
    assert_eq!(authority.writer.checkpoint().unwrap(), newest);
}

#[tokio::test]
async fn a_file_that_others_may_read_or_that_has_another_passphrase_is_absent_too() {
    let mut before = Before::new().await;
    let readable = before.file(Issuer);
    fs::set_permissions(&readable, fs::Permissions::from_mode(0o644)).unwrap();
    let foreign = before.file(Countersignature);
    fs::rename(&foreign, before.lost()).unwrap();
    FileSigner::generate(KeyKind::EcdsaP256, &foreign, &Passphrase::new(&Secret::new("another")))
        .unwrap();
    before.restart().await;
    let Before { environment, token, .. } = &before;
    assert_eq!(absent(environment.issue_with(token, &csr()).await), "issuer");
    let told = environment.authority.view.follow_keys().await.unwrap_err().to_string();
    assert!(told.contains("chmod 600"), "{told}");

    fs::set_permissions(&readable, fs::Permissions::from_mode(0o600)).unwrap();
    environment.clock.advance(time::Duration::seconds(5));
    let told = environment.authority.view.follow_keys().await.unwrap_err().to_string();
    assert!(told.contains("countersignature") && told.contains("passphrase"), "{told}");
    fs::rename(before.lost(), &foreign).unwrap();
    environment.clock.advance(time::Duration::seconds(5));
    environment.issue_with(token, &csr()).await.unwrap();
}

#[tokio::test]
async fn a_key_that_is_lost_for_good_is_replaced_by_a_rotation() {
    for purpose in [Countersignature, Feed, Issuer] {
        let before = Before::restart_without(purpose).await;
        let Before { environment, operator, token, .. } = &before;
        let offline = environment.offline_keys();
        for step in [KeyStep::Prepare, KeyStep::Activate] {
            take(environment, &offline, operator, purpose, step).await.unwrap();
        }
        environment.issue_with(token, &csr()).await.unwrap();
        environment.authority.feed.heartbeat().await.unwrap();
        environment.authority.view.follow_keys().await.unwrap();
    }
}

#[tokio::test]
async fn the_cas_own_key_is_kept_sealed_and_its_certificate_found_again() {
    let environment = Environment::start().await;
    assert!(environment.authority.issuing.kept_own_certificate().await.unwrap().is_none());
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    let own = identity::SpiffeId::authority(&support::trust_domain());
    let body =
        api::IssueRequest { spiffe_id: Some(own), ..support::request(&request.pem().unwrap()) };
    let issued = environment.authority.issuing.issue_internal(&body, "own").await.unwrap();
    let pkcs8 = zeroize::Zeroizing::new(key.serialize_der());
    environment.authority.issuing.keep_own_key(pkcs8.clone()).await.unwrap();
    // Another of its certificates, whose key was not kept.
    let other = api::IssueRequest { csr: csr(), ..body };
    environment.authority.issuing.issue_internal(&other, "own").await.unwrap();

    let path = environment.folder.path().join("keys/own-certificate.sealed");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(&path).unwrap().starts_with("-----BEGIN ENCRYPTED PRIVATE KEY"));
    let (kept, kept_key) =
        environment.authority.issuing.kept_own_certificate().await.unwrap().unwrap();
    assert_eq!((kept.serial_number, kept.chain), (issued.serial_number, issued.chain));
    assert_eq!(kept_key, pkcs8);
    // Of the same key, and by nobody: what clients would refuse is not shown to them.
    let last = "substr(der, 1, length(der) - 1) || x'00'";
    let change = format!(
        "UPDATE certificates SET der = CAST({last} AS BLOB) WHERE leaf_index = {}",
        issued.log_index
    );
    support::older::database(environment.folder.path()).execute_batch(&change).unwrap();
    assert!(environment.authority.issuing.kept_own_certificate().await.unwrap().is_none());
}

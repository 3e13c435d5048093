//! x509-limbo's cases (C2SP/x509-limbo) before our verifier.
//!
//! The data is not ours to ship, so the test is ignored unless `tests/run` finds it, and fails when
//! it is asked for without data.
//!
//! Limbo's certificates are those of web servers: none has a SPIFFE ID or a countersignature. But
//! [`verify`] looks at names only after path, time, usage, key usage and serial number: a
//! certificate that is refused for having no URI name has passed everything that limbo asks about,
//! and counts as believed here. Where that differs from what limbo expects, the case stands in
//! `limbo-exceptions.toml` with the reason, and fails when it differs no more.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::BTreeMap;
use std::time::Duration;

use identity::{
    Anchor, Countersignature, Der, Error, LogKey, Refusal, Revocations, SvidRule, Trust,
    TrustDomain, TrustState, Usage, verify,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::datetime;

#[test]
#[ignore = "needs the data of x509-limbo: LIMBO_JSON=limbo.json cargo test -p identity --test limbo -- --ignored"]
fn limbo_and_our_verifier_differ_only_where_a_reason_stands() {
    let cases = read_cases();
    let mut exceptions = read_exceptions();
    let mut wrong = Vec::new();
    for case in &cases {
        let verdict = judge(case);
        let said = verdict.as_ref().map_or_else(|refusal| &**refusal, |()| BELIEVED);
        let agrees = verdict.is_ok() == (case.expected_result == Expected::Success);
        let (excepted_as, ours) = exceptions.remove(&case.id).unwrap_or_default();
        let as_expected = agrees == (excepted_as != ExceptedAs::Difference);
        if !as_expected || !said.contains(&ours) {
            wrong.push(format!("{}: {said:?}, {excepted_as:?} {ours:?}", case.id));
        }
    }
    wrong.extend(exceptions.into_keys().map(|id| format!("{id}: an exception without a case")));
    assert_eq!(cases.len(), CASES, "limbo has changed: look at what is new, or gone");
    assert!(wrong.is_empty(), "{} of {}\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// Refuses for everything but names and what comes after them.
fn judge(case: &Case) -> Result<(), String> {
    let trust = trust(&case.trusted_certs).map_err(|error| error.to_string())?;
    let chain: Vec<CertificateDer<'_>> = [&case.peer_certificate]
        .into_iter()
        .chain(&case.untrusted_intermediates)
        .map(|pem| certificate(pem))
        .collect();
    let usage = match case.validation_kind {
        Kind::Client => Usage::Client,
        Kind::Server => Usage::Server,
    };
    let time = case.validation_time.as_deref();
    let now = time.map_or(NOW, |time| OffsetDateTime::parse(time, &Rfc3339).unwrap());
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now.unix_timestamp() as u64));
    match verify(&chain, usage, now, &trust, &Revocations::default()) {
        Err(Refusal::NotAnSvid(SvidRule::OneUri(_) | SvidRule::SpiffeId(_))) => Ok(()),
        Err(refusal) => Err(refusal.to_string()),
        Ok(_) => panic!("{}: no certificate of limbo is one of ours", case.id),
    }
}

fn trust(anchors: &[String]) -> Result<Trust, Error> {
    let anchor = |pem: &String| Anchor {
        certificate: Der::new(certificate(pem).to_vec()),
        countersignature: Countersignature::None,
    };
    Trust::new(TrustState {
        v: 1,
        trust_domain: TrustDomain::parse("limbo.example").unwrap(),
        sequence: 1,
        anchors: anchors.iter().map(anchor).collect(),
        countersignature_keys: vec![],
        log: LogKey { origin: String::new(), key: String::new() },
        feed_keys: vec![],
        trust_keys: vec![],
        threshold: 1,
    })
}

fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn read_cases() -> Vec<Case> {
    #[allow(clippy::disallowed_methods, reason = "only a test's owner knows where the data is")]
    let path = std::env::var("LIMBO_JSON").expect("LIMBO_JSON says where limbo.json is");
    let json = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_slice::<Limbo>(&json).unwrap().testcases
}

/// Each excepted case, with what our verifier says.
fn read_exceptions() -> BTreeMap<String, (ExceptedAs, String)> {
    let file: Exceptions = toml::from_str(include_str!("limbo-exceptions.toml")).unwrap();
    let differences = file.difference.into_iter().map(|e| (ExceptedAs::Difference, e));
    let coincidences = file.coincidence.into_iter().map(|e| (ExceptedAs::Coincidence, e));
    let mut cases = BTreeMap::new();
    for (excepted_as, exception) in differences.chain(coincidences) {
        assert!(!exception.reason.is_empty(), "{}: no reason", exception.ours);
        for id in exception.cases {
            let twice = cases.insert(id, (excepted_as, exception.ours.clone()));
            assert_eq!(twice, None, "an exception stands twice");
        }
    }
    cases
}

#[derive(Deserialize)]
struct Limbo {
    testcases: Vec<Case>,
}

/// A `Testcase` of limbo's schema, as far as it is read here.
#[derive(Deserialize)]
struct Case {
    id: String,
    expected_result: Expected,
    validation_kind: Kind,
    validation_time: Option<String>,
    trusted_certs: Vec<String>,
    untrusted_intermediates: Vec<String>,
    peer_certificate: String,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "UPPERCASE")]
enum Expected {
    Failure,
    Success,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Kind {
    Client,
    Server,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exceptions {
    coincidence: Vec<Exception>,
    difference: Vec<Exception>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum ExceptedAs {
    /// Limbo expects the same, for another reason.
    Coincidence,
    /// Limbo expects otherwise.
    Difference,
    #[default]
    Nothing,
}

/// Cases in which our verifier says the same, for the same reason.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    ours: String,
    reason: String,
    cases: Vec<String>,
}

const BELIEVED: &str = "believed";
/// As many as limbo has; a file that lost some of them would prove less, and say nothing.
const CASES: usize = 208;
/// The time of cases that name none; limbo means the time of the run.
const NOW: OffsetDateTime = datetime!(2026-07-01 00:00 UTC);

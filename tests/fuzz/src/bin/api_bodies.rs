//! Bodies of the HTTP API, in both directions.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|data: &[u8]| {
    settles::<api::IssueRequest>(data);
    settles::<api::RevokeRequest>(data);
    settles::<api::DenyRequest>(data);
    settles::<api::TokenRequest>(data);
    settles::<api::PolicyFiles>(data);
    settles::<api::ExplainRequest>(data);
    settles::<api::Report>(data);
    settles::<api::KeyStepRequest>(data);

    settles::<api::IssuedCertificate>(data);
    settles::<api::Page<api::CertificateRecord>>(data);
    settles::<api::RenewalWindow>(data);
    settles::<api::Revocation>(data);
    settles::<api::Denial>(data);
    settles::<api::NewToken>(data);
    settles::<api::Page<api::TokenRecord>>(data);
    settles::<api::ActivePolicy>(data);
    settles::<api::Explanation>(data);
    settles::<api::Status>(data);
    settles::<api::Page<api::WorkloadInstance>>(data);
    settles::<api::RevocationReach>(data);
    settles::<api::Page<api::KeyRecord>>(data);
    settles::<api::KeyStepOutcome>(data);
    settles::<api::Problem>(data);
});

/// What is read and written once stays as it is.
fn settles<T: Serialize + DeserializeOwned>(json: &[u8]) {
    let Ok(body) = serde_json::from_slice::<T>(json) else { return };
    let written = serde_json::to_string(&body).expect("a body can be written");
    let again: T = serde_json::from_str(&written).expect("what was written can be read");
    assert_eq!(serde_json::to_string(&again).expect("a body can be written"), written);
}

//! The files of a policy set, parsed and validated.

use std::collections::BTreeMap;
use std::str::FromStr;

use cedar_policy::{PolicyId, Schema, ValidationMode, Validator};
use issuance::{Profile, ProfileConfig};
use tlog::Hash;

use super::{DEFAULT_PROFILE, PROFILES, PolicyError, SCHEMA, WORKLOADS};
use crate::workloads::Workloads;

/// All `*.cedar` files as one set; a policy's id is its `@id`, or file and position.
pub(super) fn parse_policies(
    files: &BTreeMap<String, String>,
) -> Result<cedar_policy::PolicySet, PolicyError> {
    let mut all = cedar_policy::PolicySet::new();
    for (name, text) in files.iter().filter(|(name, _)| name.ends_with(".cedar")) {
        let parsed = cedar_policy::PolicySet::from_str(text)
            .map_err(|error| PolicyError::Cedar(format!("{name}: {}", readable(&error))))?;
        if parsed.templates().next().is_some() {
            return Err(PolicyError::Cedar(format!("{name}: templates are not supported")));
        }
        for policy in parsed.policies() {
            let id = policy
                .annotation("id")
                .map_or_else(|| format!("{name}:{}", policy.id()), ToOwned::to_owned);
            refuse_like(policy, &id)?;
            all.add(policy.new_id(PolicyId::new(&id)))
                .map_err(|_| PolicyError::Cedar(format!("{name}: the id {id:?} stands twice")))?;
        }
    }
    Ok(all)
}

pub(super) fn validate(
    schema: &Schema,
    policies: &cedar_policy::PolicySet,
) -> Result<(), PolicyError> {
    let result = Validator::new(schema.clone()).validate(policies, ValidationMode::Strict);
    if result.validation_passed() {
        return Ok(());
    }
    let errors: Vec<String> = result.validation_errors().map(ToString::to_string).collect();
    Err(PolicyError::Cedar(errors.join("; ")))
}

/// Walks the policy's JSON form: `like` is allowed only on context attributes whose values are
/// short words of ours.
fn refuse_like(policy: &cedar_policy::Policy, id: &str) -> Result<(), PolicyError> {
    let json = policy.to_json().map_err(|error| PolicyError::Cedar(readable(&error)))?;
    if uses_forbidden_like(&json) {
        return Err(PolicyError::Like(id.to_owned()));
    }
    Ok(())
}

fn uses_forbidden_like(json: &serde_json::Value) -> bool {
    match json {
        serde_json::Value::Array(items) => items.iter().any(uses_forbidden_like),
        serde_json::Value::Object(fields) => fields.iter().any(|(key, value)| {
            let forbidden = key == "like" && !is_harmless(&value["left"]);
            forbidden || uses_forbidden_like(value)
        }),
        _ => false,
    }
}

fn is_harmless(left: &serde_json::Value) -> bool {
    let access = &left["."];
    let attribute = access["attr"].as_str().unwrap_or_default();
    access["left"]["Var"] == "context" && LIKE_ALLOWED.contains(&attribute)
}

pub(super) fn parse_profiles(json: &str) -> Result<BTreeMap<String, Profile>, PolicyError> {
    let configs: Vec<ProfileConfig> =
        serde_json::from_str(json).map_err(|error| PolicyError::Profiles(error.to_string()))?;
    let mut profiles = BTreeMap::new();
    for config in configs {
        let profile =
            Profile::new(config).map_err(|error| PolicyError::Profiles(error.to_string()))?;
        if let Some(twice) = profiles.insert(profile.name().to_owned(), profile) {
            return Err(PolicyError::Profiles(format!("{:?} stands twice", twice.name())));
        }
    }
    if !profiles.contains_key(DEFAULT_PROFILE) {
        return Err(PolicyError::Profiles("there is no profile named \"default\"".to_owned()));
    }
    Ok(profiles)
}

pub(super) fn require_profiles(
    workloads: &Workloads,
    profiles: &BTreeMap<String, Profile>,
) -> Result<(), PolicyError> {
    for row in workloads.rows() {
        if let Some(unknown) = row.profiles.iter().find(|name| !profiles.contains_key(*name)) {
            return Err(PolicyError::Workloads(format!(
                "row {:?} names profile {unknown:?}, which profiles.json lacks",
                row.id
            )));
        }
    }
    Ok(())
}

pub(super) fn hash(files: &BTreeMap<String, String>) -> Hash {
    let mut input = Vec::new();
    for (name, content) in files {
        for part in [name, content] {
            input.extend((part.len() as u64).to_be_bytes());
            input.extend(part.as_bytes());
        }
    }
    Hash::of(&input)
}

pub(super) fn is_policy_file(name: &str) -> bool {
    matches!(name, SCHEMA | WORKLOADS | PROFILES)
        || (name.ends_with(".cedar") && !name.contains(['/', '\\']))
}

/// Cedar's errors carry their causes separately.
pub(super) fn readable(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

/// Context attributes whose values are words of ours, so that `like` cannot cross a path.
const LIKE_ALLOWED: &[&str] = &["attestor", "key_type", "profile"];

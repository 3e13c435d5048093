//! The files of a policy set, parsed and validated.

use std::collections::BTreeMap;
use std::str::FromStr;

use cedar_policy::{PolicyId, Schema, ValidationMode, Validator};
use issuance::{Profile, ProfileConfig};

use super::bounds::{MAX_DEPTH, MAX_EXPANDED, MAX_NAMES_BYTES, MAX_SCHEMA_DEPTH, MAX_TYPES};
use super::error::PolicyError;
use super::files::{DEFAULT_PROFILE, SCHEMA};
use super::nesting::{count_word, expanded, too_deep};
use crate::policy::workloads::Workloads;

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
    if !json.trim_start().starts_with('[') {
        let why =
            "it is to be a list: [{\"name\": \"default\", …}]; left out, the one that ships counts";
        return Err(PolicyError::Profiles(why.to_owned()));
    }
    let configs: Vec<ProfileConfig> = serde_json::from_str(json)
        .map_err(|error| PolicyError::Profiles(identity::without_values(&error.to_string())))?;
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

/// Measures what a client sends that leaves nothing out: the one rule of size, for whoever asks a CA
/// and whoever asks none.
pub(super) fn require_size(files: &BTreeMap<String, String>) -> Result<(), PolicyError> {
    let names: usize = files.keys().map(|name| json_bytes(name)).sum();
    if names > MAX_NAMES_BYTES {
        return Err(PolicyError::FileNames { bytes: names });
    }
    let contents: usize = files.values().map(|text| json_bytes(text)).sum();
    // Each name has a colon and, but for the last, a comma.
    let bytes = r#"{"files":{}}"#.len() + names + contents + 2 * files.len() - 1;
    if bytes > api::MAX_POLICY_BYTES {
        return Err(PolicyError::TooLarge { bytes: bytes as u64 });
    }
    Ok(())
}

/// Refuses texts in which anything that Cedar builds of them could be too deep for its stack.
pub(super) fn require_depth(files: &BTreeMap<String, String>) -> Result<(), PolicyError> {
    let texts = files.iter().filter(|(name, _)| *name == SCHEMA || name.ends_with(".cedar"));
    for (name, text) in texts {
        let limit = if name == SCHEMA { MAX_SCHEMA_DEPTH } else { MAX_DEPTH };
        if let Some(line) = too_deep(text, limit) {
            return Err(PolicyError::Depth { file: name.clone(), line, limit });
        }
    }
    let types = files.get(SCHEMA).map_or(0, |schema| count_word(schema, b"type"));
    if types > MAX_TYPES {
        return Err(PolicyError::Types { types });
    }
    if files.get(SCHEMA).is_some_and(|schema| expanded(schema) > MAX_EXPANDED) {
        return Err(PolicyError::Expanded);
    }
    Ok(())
}

/// The bytes of a text in JSON, quotes and escapes included.
fn json_bytes(text: &str) -> usize {
    let mut counted = Counted(0);
    serde_json::to_writer(&mut counted, text).expect("a text is plain data");
    counted.0
}

struct Counted(usize);

impl std::io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
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

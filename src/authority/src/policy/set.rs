//! A policy set, parsed and validated.

use std::collections::BTreeMap;

use cedar_policy::Schema;
use identity::SpiffeId;
use issuance::Profile;
use tlog::Hash;

use super::bounds::MAX_NESTED_PATHS;
use super::error::PolicyError;
use super::files::{
    DEFAULT_PROFILE, PROFILES, SCHEMA, SHIPPED_POLICIES, SHIPPED_PROFILES, SHIPPED_SCHEMA,
    WORKLOADS, is_policy_file,
};
use super::named_paths::nested_paths;
use super::parsing::{
    parse_policies, parse_profiles, readable, require_depth, require_profiles, require_size,
    validate,
};
use crate::policy::workloads::Workloads;

/// A parsed and validated policy set.
#[derive(Debug)]
pub struct PolicySet {
    files: BTreeMap<String, String>,
    hash: Hash,
    pub(super) schema: Schema,
    pub(super) policies: cedar_policy::PolicySet,
    pub(super) workloads: Workloads,
    profiles: BTreeMap<String, Profile>,
    own_profile: Profile,
}

impl PolicySet {
    /// Parses the files of a policies folder, by name. What is left out is as shipped, but for
    /// `workloads.json`. This is all that a CA checks, and so does whoever asks no CA.
    pub fn parse(files: &BTreeMap<String, String>) -> Result<Self, PolicyError> {
        Self::parse_owned(files.clone())
    }

    pub(crate) fn parse_owned(files: BTreeMap<String, String>) -> Result<Self, PolicyError> {
        let files = completed(files)?;
        require_size(&files)?;
        require_depth(&files)?;
        let set = Self::of(files)?;
        let paths = nested_paths(&set.policies);
        if paths > MAX_NESTED_PATHS {
            return Err(PolicyError::NestedPaths { paths });
        }
        Ok(set)
    }

    /// Parses what was in force before, whatever its size and depth: it was parsed once.
    pub(crate) fn read_back(files: BTreeMap<String, String>) -> Result<Self, PolicyError> {
        Self::of(completed(files)?)
    }

    /// On a stack that what nests as deep as it may does not use up, whoever asks.
    fn of(files: BTreeMap<String, String>) -> Result<Self, PolicyError> {
        std::thread::scope(|scope| {
            let parsing = std::thread::Builder::new().name("policy".to_owned()).stack_size(STACK);
            let parsing = parsing.spawn_scoped(scope, || Self::parsed(files));
            let parsing = parsing.map_err(|error| PolicyError::Thread(error.to_string()))?;
            parsing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn parsed(files: BTreeMap<String, String>) -> Result<Self, PolicyError> {
        let workloads = files
            .get(WORKLOADS)
            .ok_or_else(|| PolicyError::Workloads("workloads.json is missing".to_owned()))?;
        let workloads = Workloads::parse(workloads)?;
        let (schema, _) = Schema::from_cedarschema_str(&files[SCHEMA])
            .map_err(|error| PolicyError::Schema(readable(&error)))?;
        let policies = parse_policies(&files)?;
        validate(&schema, &policies)?;
        let profiles = parse_profiles(&files[PROFILES])?;
        require_profiles(&workloads, &profiles)?;
        let own_profile = parse_profiles(SHIPPED_PROFILES)?.remove(DEFAULT_PROFILE);
        let own_profile = own_profile.expect("parsed profiles have a default");
        let hash = hash(&files);
        Ok(Self { files, hash, schema, policies, workloads, profiles, own_profile })
    }

    /// The policy set that ships with Countersign, over this workload table.
    pub fn shipped(workloads: &str) -> Result<Self, PolicyError> {
        Self::parse(&BTreeMap::from([(WORKLOADS.to_owned(), workloads.to_owned())]))
    }

    /// The files, by name.
    pub fn files(&self) -> &BTreeMap<String, String> {
        &self.files
    }

    /// SHA-256 over names and contents of the files.
    pub fn hash(&self) -> &Hash {
        &self.hash
    }

    /// The workload table.
    pub fn workloads(&self) -> &Workloads {
        &self.workloads
    }

    /// A profile by name.
    pub fn profile(&self, name: &str) -> Option<&Profile> {
        self.profiles.get(name)
    }

    /// The profile of a certificate for this identity. The default of the CA's own paths is the one
    /// that ships, whatever a set makes of it for workloads: the CA and its operators depend on it.
    pub fn template(&self, spiffe_id: &SpiffeId, name: &str) -> Option<&Profile> {
        match spiffe_id.is_reserved() && name == DEFAULT_PROFILE {
            true => Some(&self.own_profile),
            false => self.profile(name),
        }
    }

    /// The ids of all policies.
    pub fn policy_ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.policies.policies().map(|p| p.id().to_string()).collect();
        ids.sort();
        ids
    }
}

/// The files with what ships in place of those that are left out.
fn completed(mut files: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, PolicyError> {
    if let Some(unknown) = files.keys().find(|name| !is_policy_file(name)) {
        return Err(PolicyError::File(unknown.clone()));
    }
    if !files.keys().any(|name| name.ends_with(".cedar")) {
        files.insert("countersign.cedar".to_owned(), SHIPPED_POLICIES.to_owned());
    }
    for (name, shipped) in [(SCHEMA, SHIPPED_SCHEMA), (PROFILES, SHIPPED_PROFILES)] {
        files.entry(name.to_owned()).or_insert_with(|| shipped.to_owned());
    }
    Ok(files)
}

fn hash(files: &BTreeMap<String, String>) -> Hash {
    let mut input = Vec::new();
    for (name, content) in files {
        for part in [name, content] {
            input.extend((part.len() as u64).to_be_bytes());
            input.extend(part.as_bytes());
        }
    }
    Hash::of(&input)
}

/// A bracket takes Cedar's parser some 14 KiB of it, and several times that where nothing is
/// optimised; the system gives only what is used.
const STACK: usize = 64 * 1024 * 1024;

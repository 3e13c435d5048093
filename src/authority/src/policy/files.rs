//! The files of a policy set, and those that ship.

pub(super) fn is_policy_file(name: &str) -> bool {
    matches!(name, SCHEMA | WORKLOADS | PROFILES)
        || (name.ends_with(".cedar") && !name.contains(['/', '\\']))
}

/// The profile of a request that names none.
pub const DEFAULT_PROFILE: &str = "default";
pub(super) const SCHEMA: &str = "schema.cedarschema";
pub(super) const WORKLOADS: &str = "workloads.json";
pub(super) const PROFILES: &str = "profiles.json";
pub(super) const SHIPPED_SCHEMA: &str = include_str!("../../../../policies/schema.cedarschema");
/// The policies that ship: those of a set that has none of its own.
pub const SHIPPED_POLICIES: &str = include_str!("../../../../policies/countersign.cedar");
pub(super) const SHIPPED_PROFILES: &str = include_str!("../../../../policies/profiles.json");
/// The example table that `dev`, and `init` without a policies folder, start from.
pub const SHIPPED_WORKLOADS: &str = include_str!("../../../../policies/workloads.json");

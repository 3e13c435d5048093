//! How much a policy set may have.

use crate::limits;

pub(crate) const MAX_NAMES_BYTES: usize = limits::POLICY_FILE_NAMES.most();
pub(crate) const MAX_DEPTH: usize = limits::POLICY_DEPTH.most();
pub(crate) const MAX_SCHEMA_DEPTH: usize = limits::SCHEMA_DEPTH.most();
pub(crate) const MAX_TYPES: usize = limits::SCHEMA_TYPES.most();
pub(crate) const MAX_EXPANDED: usize = limits::SCHEMA_WORDS.most();
pub(crate) const MAX_NESTED_PATHS: usize = limits::POLICY_NESTED_PATHS.most();

//! The paths that policies name: the only ones that are entities.

use std::collections::HashSet;
use std::str::FromStr;

use cedar_policy::{Entity, EntityId, EntityTypeName, EntityUid};

pub(super) fn literals(policies: &cedar_policy::PolicySet) -> HashSet<EntityUid> {
    policies.policies().flat_map(cedar_policy::Policy::entity_literals).collect()
}

/// How many paths that policies name lie in each other at most.
pub(super) fn nested_paths(policies: &cedar_policy::PolicySet) -> usize {
    let named = NamedPaths::of(&literals(policies));
    let within = |path: &String| {
        let ends = path.match_indices('/').map(|(at, _)| at);
        1 + ends.filter(|end| named.paths.contains(&path[..*end])).count()
    };
    named.paths.iter().map(within).max().unwrap_or_default()
}

/// The paths that policies name. No other is made an entity: whoever asks chooses how many segments
/// an identity has, and Cedar closes a chain of entities in the cube of its length.
#[derive(Debug, Default)]
pub(super) struct NamedPaths {
    paths: HashSet<String>,
    longest: usize,
}

impl NamedPaths {
    pub(super) fn of(literals: &HashSet<EntityUid>) -> Self {
        let paths = literals.iter().filter(|literal| literal.type_name().basename() == PATH);
        let paths: HashSet<String> = paths
            .map(|path| path.id().unescaped().to_owned())
            .filter(|it| !it.is_empty())
            .collect();
        let longest = paths.iter().map(String::len).max().unwrap_or_default();
        Self { paths, longest }
    }

    /// The longest that this path lies in, or is.
    pub(super) fn nearest(&self, path: &str) -> Option<EntityUid> {
        // "/a/b" lies in "/a": whole segments, and never in the empty one before the first slash.
        let ends = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]);
        let within = ends.take_while(|end| *end <= self.longest).map(|end| &path[..end]);
        within.filter(|prefix| self.paths.contains(*prefix)).last().map(|it| uid(PATH, it))
    }

    /// Each that lies in another, which lies in its own.
    pub(super) fn entities(&self) -> impl Iterator<Item = Entity> {
        self.paths.iter().filter_map(|path| {
            let parent = self.nearest(&path[..path.rfind('/')?])?;
            Some(Entity::new_no_attrs(uid(PATH, path), HashSet::from([parent])))
        })
    }
}

pub(super) fn uid(entity_type: &str, id: &str) -> EntityUid {
    let name = EntityTypeName::from_str(entity_type).expect("constant type names are valid");
    EntityUid::from_type_name_and_id(name, EntityId::new(id))
}

const PATH: &str = "Path";

//! The house's arrows: who may depend on whom, and what must stay out of whom.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use system_tests::program;

/// Crate → those it may name, everything reachable along the arrows included.
fn allowed() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let arrows: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("countersign-cli", &["server", "countersign"][..]),
        ("server", &["authority", "countersign"]),
        ("authority", &["issuance", "api"]),
        ("countersign", &["api", "identity"]),
        ("issuance", &["identity"]),
        ("api", &["identity"]),
        ("identity", &["tlog"]),
        ("tlog", &[]),
    ]);
    let mut reachable = BTreeMap::new();
    for name in arrows.keys() {
        let mut seen = BTreeSet::new();
        let mut next = vec![*name];
        while let Some(current) = next.pop() {
            for target in arrows[current] {
                if seen.insert(*target) {
                    next.push(target);
                }
            }
        }
        reachable.insert(*name, seen);
    }
    reachable
}

#[test]
fn crates_depend_along_the_arrows_only() {
    let metadata = program(cargo().args(["metadata", "--no-deps", "--format-version", "1"]));
    let metadata = metadata.success().json();
    let packages = metadata["packages"].as_array().unwrap();
    let ours: BTreeSet<&str> =
        packages.iter().map(|package| package["name"].as_str().unwrap()).collect();
    let allowed = allowed();
    for package in packages {
        let name = package["name"].as_str().unwrap();
        if name == "system-tests" {
            continue;
        }
        let may = allowed.get(name).unwrap_or_else(|| panic!("{name} is not in the house"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let target = dependency["name"].as_str().unwrap();
            let normal = dependency["kind"].is_null();
            assert!(
                !normal || !ours.contains(target) || may.contains(target),
                "{name} must not depend on {target}"
            );
        }
    }
}

#[test]
fn heavy_dependencies_stay_where_they_are_needed() {
    let io = ["tokio", "mio", "hyper", "axum", "rusqlite", "socket2"];
    let heavy = ["rusqlite", "cedar-policy", "rcgen", "axum", "utoipa"];
    for (package, kept_out) in [
        ("tlog", &io[..]),
        ("identity", &io),
        ("issuance", &io),
        ("api", &io),
        ("countersign", &heavy),
        ("authority", &["hyper", "axum", "rustls"]),
    ] {
        let tree = dependencies(package);
        for name in kept_out {
            assert!(!tree.contains(*name), "{package} must not bring {name}");
        }
    }
}

/// A second provider beside aws-lc-rs makes rustls panic at start.
#[test]
fn there_is_one_crypto_provider_and_one_rustls() {
    let tree = dependencies("countersign-cli");
    assert!(!tree.contains("ring"));
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock"));
    assert_eq!(lock.unwrap().matches("name = \"rustls\"\n").count(), 1);
}

/// Names of everything that a package links.
fn dependencies(package: &str) -> BTreeSet<String> {
    let arguments = ["tree", "--edges", "normal", "--prefix", "none", "--package", package];
    let listed = program(cargo().args(arguments)).success().stdout;
    listed.lines().filter_map(|line| line.split(' ').next()).map(ToOwned::to_owned).collect()
}

fn cargo() -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).arg("--offline");
    cargo
}

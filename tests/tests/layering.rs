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
    for (package, kept_out) in [
        ("tlog", &io[..]),
        ("identity", &io),
        ("issuance", &io),
        ("api", &io),
        ("countersign", NOT_FOR_SERVICES),
        ("authority", &["hyper", "axum", "rustls"]),
    ] {
        assert_eq!(found(&dependencies(package), kept_out), [""; 0], "{package} must not bring it");
    }
}

#[test]
fn what_must_stay_out_is_found_by_its_name_or_its_beginning() {
    let brought = ["aws-sdk-kms", "aws-smithy-http", "cedar-policy-core", "rusqlite", "sqlx"];
    let welcome = ["aws-lc-rs", "axum-core", "rustls", "tokio"];
    let tree = brought.iter().chain(&welcome).map(ToString::to_string).collect();
    assert_eq!(found(&tree, NOT_FOR_SERVICES), brought);
}

/// A second provider beside aws-lc-rs makes rustls panic at start.
#[test]
fn there_is_one_crypto_provider_and_one_rustls() {
    let tree = dependencies("countersign-cli");
    assert!(!tree.contains("ring"));
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock"));
    assert_eq!(lock.unwrap().matches("name = \"rustls\"\n").count(), 1);
}

/// What must stay out, and is there: a name, or with a star at the end what names begin with.
fn found<'a>(tree: &'a BTreeSet<String>, kept_out: &[&str]) -> Vec<&'a str> {
    let is_kept_out = |name: &str| {
        kept_out.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == *pattern,
        })
    };
    tree.iter().map(String::as_str).filter(|name| is_kept_out(name)).collect()
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

/// The library is linked by services: no SQL, no AWS SDK, no policy engine, no maker of certificates.
const NOT_FOR_SERVICES: &[&str] = &[
    "aws-config",
    "aws-sdk-*",
    "aws-smithy-*",
    "axum",
    "cedar-policy*",
    "libsqlite3-sys",
    "rcgen",
    "rusqlite",
    "sqlx*",
    "tokio-postgres",
    "utoipa*",
];

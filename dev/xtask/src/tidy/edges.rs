//! Who may use whom: the floors of the house, read from the manifests.
//!
//! The table is `docs/ARCHITECTURE.md`'s. A floor uses only those named with it; for its tests it
//! may also use the testkit and what lies below its own floors. Source: cargo itself, by
//! `cargo metadata --no-deps`, so that every way to write a dependency is seen.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use super::Finding;
use crate::run;

/// A crate of ours and the crates of ours that it may use.
const FLOORS: &[(&str, &[&str])] = &[
    ("virtdisk-format", &[]),
    ("virtdisk-disk", &["virtdisk-format"]),
    ("virtdisk-device", &["virtdisk-disk"]),
    ("virtdisk-parent", &[]),
    ("virtdisk", &["virtdisk-parent"]),
    (
        "virtdiskd",
        &["virtdisk-device", "virtdisk-disk", "virtdisk"],
    ),
    ("vdisk", &["virtdisk", "virtdisk-disk", "virtdisk-parent"]),
    ("virtdisk-c", &["virtdisk"]),
    ("virtdisk-testkit", &["virtdisk-format", "virtdisk-disk"]),
    ("xtask", &[]),
];

/// What a crate's tests may use beside what lies below it: the chain's tests find real parents.
const FOR_TESTS: &[(&str, &str)] = &[("virtdisk-disk", "virtdisk-parent")];

/// Only for tests.
const TESTKIT: &str = "virtdisk-testkit";

/// Checks every manifest of the workspace at `root`.
pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let words = [
        "metadata",
        "--no-deps",
        "--format-version",
        "1",
        "--offline",
    ];
    let text = run::output(&mut run::cargo(&words))?;
    let metadata: Value = serde_json::from_str(&text).context("read cargo's metadata")?;
    Ok(findings(root, &metadata))
}

fn findings(root: &Path, metadata: &Value) -> Vec<Finding> {
    let packages = metadata["packages"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let ours: BTreeSet<&str> = packages
        .iter()
        .filter_map(|package| package["name"].as_str())
        .collect();
    let mut findings = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
        let file = manifest
            .strip_prefix(root)
            .unwrap_or(manifest)
            .to_path_buf();
        let Some((_, allowed)) = FLOORS.iter().find(|(floor, _)| *floor == name) else {
            findings.push(finding(
                &file,
                format!("crate {name} stands on no floor of the table"),
            ));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let used = dependency["name"].as_str().unwrap_or_default();
            let for_tests = dependency["kind"].as_str() == Some("dev");
            if ours.contains(used) && !may_use(name, allowed, used, for_tests) {
                let how = if for_tests {
                    "its tests may not"
                } else {
                    "may not"
                };
                findings.push(finding(&file, format!("{name} uses {used}: {how}")));
            }
        }
    }
    findings
}

fn finding(file: &Path, what: String) -> Finding {
    Finding {
        file: PathBuf::from(file),
        line: 0,
        what,
    }
}

fn may_use(user: &str, allowed: &[&str], used: &str, for_tests: bool) -> bool {
    if !for_tests {
        return allowed.contains(&used);
    }
    used == TESTKIT
        || used == user
        || below(allowed).contains(used)
        || FOR_TESTS.contains(&(user, used))
}

/// `allowed` and everything that those may use, all the way down.
fn below<'a>(allowed: &[&'a str]) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&str> = allowed.to_vec();
    while let Some(name) = open.pop() {
        if reached.insert(name) {
            let next = FLOORS.iter().find(|(floor, _)| *floor == name);
            open.extend(next.map(|(_, allowed)| *allowed).unwrap_or_default());
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(name: &str, used: &str, kind: Option<&str>) -> Vec<String> {
        let crates = FLOORS
            .iter()
            .map(|(floor, _)| json!({"name": floor, "dependencies": []}));
        let mut packages: Vec<Value> = crates.filter(|package| package["name"] != name).collect();
        packages.push(json!({
            "name": name,
            "manifest_path": "/w/crates/x/Cargo.toml",
            "dependencies": [{"name": used, "kind": kind}],
        }));
        let metadata = json!({"packages": packages});
        findings(Path::new("/w"), &metadata)
            .into_iter()
            .map(|finding| finding.what)
            .collect()
    }

    #[test]
    fn an_arrow_upward_is_found() {
        assert_eq!(
            found("virtdisk-format", "virtdisk-disk", None),
            ["virtdisk-format uses virtdisk-disk: may not"]
        );
        assert_eq!(found("vdisk", "virtdiskd", None).len(), 1);
        assert_eq!(found("virtdiskd", "virtdisk-format", None).len(), 1);
    }

    #[test]
    fn an_arrow_downward_is_fine() {
        assert!(found("virtdisk-disk", "virtdisk-format", None).is_empty());
        assert!(found("virtdisk-disk", "serde", None).is_empty());
    }

    #[test]
    fn the_testkit_is_for_tests_only() {
        assert!(found("virtdisk-format", TESTKIT, Some("dev")).is_empty());
        assert_eq!(found("virtdisk-format", TESTKIT, None).len(), 1);
        assert!(found("virtdiskd", "virtdisk-format", Some("dev")).is_empty());
        assert_eq!(found("virtdisk-format", "virtdiskd", Some("dev")).len(), 1);
    }

    #[test]
    fn paths_are_no_business_of_the_disk_but_of_its_tests() {
        assert_eq!(found("virtdisk-disk", "virtdisk-parent", None).len(), 1);
        assert!(found("virtdisk-disk", "virtdisk-parent", Some("dev")).is_empty());
        assert!(found("virtdisk", "virtdisk-parent", None).is_empty());
        assert_eq!(found("virtdisk-parent", "virtdisk-format", None).len(), 1);
    }

    #[test]
    fn a_crate_without_a_floor_is_found() {
        assert_eq!(found("virtdisk-new", "serde", None).len(), 1);
    }

    #[test]
    fn our_own_manifests_are_read() {
        let root = crate::place::workspace();
        assert!(check(&root).is_ok());
    }
}
